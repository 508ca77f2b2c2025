// SPDX-License-Identifier: Apache-2.0
// Goal: a damaged, truncated, misread or full disk gives an error that names it, or exactly the
// data; never something else, never an abort, and what was only transient does no harm later.
// Method: a store with log, trees and long values (checkpoint_engine.hpp), every commit durable;
// one fault at each place in turn, then recovery, full comparison and audits.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "tests/crash/checkpoint_engine.hpp"

namespace kessai::btree::test {
namespace {

bool names_damage(Code c) {
  return c == Code::damaged || c == Code::superblock_damaged || c == Code::log_damaged ||
         c == Code::not_a_store;
}

/// A disk with a store and the client's memory of it.
struct Session {
  io::SimDisk disk{4711};
  io::SeededRandom random{4711};
  Tables model{{2, {}}, {3, {}}};

  Result<void> commit(Engine& e, std::vector<Op> ops, bool urgent = false) {
    std::string record;
    wal::start_record(wal::RecordKind::commit, record);
    std::uint64_t claim = 0;
    for (const Op& op : ops) {
      claim += Engine::claim_for(op);
      wal::encode_op(
          {TreeId{op.tree}, op.remove ? wal::OpKind::remove : wal::OpKind::put, op.key, op.value},
          record);
    }
    wal::finish_record(record);
    KESSAI_TRY(e.store->claim(claim, urgent));
    std::vector<OverflowPages> pages(ops.size());
    Result<void> ready;
    for (std::size_t i = 0; i < ops.size() && ready; ++i) ready = e.prepare(ops[i], pages[i]);
    auto r = ready ? e.log->reserve(record.size()) : std::unexpected(ready.error());
    if (!r) {
      for (std::size_t i = 0; i < ops.size(); ++i) {
        if (!pages[i].empty()) e.trees.at(ops[i].tree)->discard_overflow(pages[i]);
      }
      e.store->unclaim(claim);
      return std::unexpected(r.error());
    }
    e.log->fill(*r, std::as_bytes(std::span(record)));
    Shadows shadows(*e.store);
    for (std::size_t i = 0; i < ops.size(); ++i)
      KESSAI_TRY(e.apply(ops[i], r->lsn, pages[i], shadows));
    e.log->applied(*r);
    e.store->unclaim(claim);
    KESSAI_TRY(e.log->wait_durable(r->lsn));
    for (const Op& op : ops) apply_to(model, op);
    return {};
  }
  Op some_put() {
    return {static_cast<std::uint32_t>(2 + random.below(2)), false,
            "k" + std::to_string(random.below(700)),
            std::string(random.below(20) == 0 ? 5000 : random.below(500),
                        static_cast<char>('a' + random.below(26)))};
  }
  Result<void> work(Engine& e, int commits) {
    for (int i = 0; i < commits; ++i) KESSAI_TRY(commit(e, {some_put()}));
    return {};
  }
  /// A store with five checkpoints (all superblock slots written) and commits after the last.
  void build(std::uint64_t wal_limit = 512 * 1024) {
    Engine e(disk, 1);
    e.log_options().wal_limit = wal_limit;
    constexpr std::uint32_t ids[] = {2, 3};
    ASSERT_TRUE(e.create(ids).has_value());
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE(work(e, 150).has_value());
      ASSERT_TRUE(e.store->checkpoint().has_value());
    }
    ASSERT_TRUE(work(e, 15).has_value());
  }
  /// Recovery: nothing = exactly the model; else the error, or what is wrong.
  struct Verdict {
    bool exact = false;
    Code code{};
    std::string wrong;  ///< a violation
  };
  Verdict recover(io::SimDisk& d) const {
    Engine e(d, 2);
    if (auto r = e.recover(); !r) return {false, r.error().code(), {}};
    if (auto bad = e.verify(model)) {
      // verify() answers text; an honest error starts with the name of its code.
      const bool honest = bad->find("damaged: ") != std::string::npos ||
                          bad->find("io_error: ") != std::string::npos;
      return {false, Code::damaged, honest ? "" : *bad};
    }
    return {true, {}, {}};
  }
};

std::vector<std::pair<std::uint64_t, std::uint64_t>> superblocks(const io::SimDisk& disk) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> out;  // number, offset
  const auto bytes = disk.file_bytes(kDataFile);
  for (unsigned i = 0; i < kSuperblocks; ++i) {
    auto sb = decode_superblock(
        std::span<const std::byte, kPageSize>(bytes.data() + i * kSuperblockStride, kPageSize));
    if (sb) out.emplace_back(sb->number, i * kSuperblockStride);
  }
  std::sort(out.rbegin(), out.rend());
  return out;
}

Superblock newest_superblock(const io::SimDisk& disk) {
  const auto bytes = disk.file_bytes(kDataFile);
  const auto at = superblocks(disk).front().second;
  return *decode_superblock(std::span<const std::byte, kPageSize>(bytes.data() + at, kPageSize));
}

TEST(CheckpointDamage, TruncationAtEveryPageIsAnErrorOrHarmless) {
  Session s;
  ASSERT_NO_FATAL_FAILURE(s.build());
  const auto bytes = s.disk.file_bytes(kDataFile);
  unsigned errors = 0;
  for (std::size_t size = 0; size <= bytes.size(); size += kPageSize) {
    // Between the superblocks nothing changes: look at their edges only.
    if (size % kSuperblockStride > 2 * kPageSize && size < kFirstSlotOffset - kPageSize) continue;
    io::SimDisk d = s.disk;
    d.set_file_bytes(kDataFile, std::span(bytes).first(size));
    const auto v = s.recover(d);
    ASSERT_TRUE(v.wrong.empty()) << size << ": " << v.wrong;
    ASSERT_TRUE(v.exact || names_damage(v.code)) << size << ": " << code_name(v.code);
    if (size < kFirstSlotOffset) {
      ASSERT_FALSE(v.exact) << size;
    }
    errors += v.exact ? 0 : 1;
  }
  EXPECT_GT(errors, 50u);
  io::SimDisk d = s.disk;
  EXPECT_TRUE(s.recover(d).exact);
}

TEST(CheckpointDamage, OneDamagedSuperblockLosesNothingTwoAreNoticed) {
  Session s;
  ASSERT_NO_FATAL_FAILURE(s.build());
  const auto sbs = superblocks(s.disk);
  ASSERT_EQ(sbs.size(), 4u);
  for (const auto& a : sbs) {
    io::SimDisk one = s.disk;
    one.flip(kDataFile, (a.second + 100) * 8 + 3);
    const auto v = s.recover(one);
    EXPECT_TRUE(v.exact) << a.first << " " << code_name(v.code) << v.wrong;
    for (const auto& b : sbs) {
      if (b.first >= a.first) continue;
      io::SimDisk two = s.disk;
      two.flip(kDataFile, (a.second + 50) * 8);
      two.flip(kDataFile, (b.second + 4000) * 8);
      const auto w = s.recover(two);
      EXPECT_TRUE(w.wrong.empty()) << w.wrong;
      const bool newest_two = a.first == sbs[0].first && b.first == sbs[1].first;
      EXPECT_TRUE(w.exact || newest_two) << a.first << "," << b.first << " " << code_name(w.code);
      EXPECT_TRUE(w.exact || names_damage(w.code)) << code_name(w.code);
    }
  }
  io::SimDisk all = s.disk;
  for (const auto& a : sbs) all.flip(kDataFile, (a.second + 3) * 8);
  EXPECT_EQ(s.recover(all).code, Code::not_a_store);  // no magic is left
}

TEST(CheckpointDamage, NewerFormatAndOtherPageSizeAreRefused) {
  Session s;
  ASSERT_NO_FATAL_FAILURE(s.build());
  const auto newest = superblocks(s.disk).front();
  const auto patched = [&](std::size_t at, std::uint32_t value) {
    io::SimDisk d = s.disk;
    auto bytes = d.file_bytes(kDataFile);
    std::byte* page = bytes.data() + newest.second;
    std::memcpy(page + at, &value, sizeof value);
    std::memset(page + 144, 0, 16);
    const Hash128 h = hash_page(page);
    std::memcpy(page + 144, &h, 16);
    d.set_file_bytes(kDataFile, bytes);
    return s.recover(d);
  };
  EXPECT_EQ(patched(8, kFormatVersion + 1).code, Code::newer_format);
  EXPECT_EQ(patched(12, 8192).code, Code::page_size_mismatch);
  // Well-formed nonsense, as a hostile file may hold: the superblock before it does.
  EXPECT_TRUE(patched(72, 0).exact);    // no page ids
  EXPECT_TRUE(patched(75, ~0U).exact);  // more page ids than the file has bytes
  EXPECT_TRUE(patched(104, 77).exact);  // map depth
  EXPECT_TRUE(patched(80, ~0U).exact);  // map outside the file
}

// A flipped bit in any used slot of the image is noticed or does not matter (the slot is free).
TEST(CheckpointDamage, FlippedBitsAreNoticed) {
  Session s;
  ASSERT_NO_FATAL_FAILURE(s.build());
  const auto size = s.disk.file_bytes(kDataFile).size();
  unsigned noticed = 0;
  for (std::uint64_t at = kFirstSlotOffset; at < size; at += kPageSize) {
    io::SimDisk d = s.disk;
    d.flip(kDataFile, (at + s.random.below(kPageSize)) * 8 + s.random.below(8));
    const auto v = s.recover(d);
    ASSERT_TRUE(v.wrong.empty()) << at << ": " << v.wrong;
    ASSERT_TRUE(v.exact || v.code == Code::damaged) << at << " " << code_name(v.code);
    noticed += v.exact ? 0 : 1;
  }
  EXPECT_GT(noticed, 50u);
}

// Each write of the data file in turn is lost or lands elsewhere, over two checkpoints.
TEST(CheckpointDamage, LostAndMisdirectedWritesAreNoticed) {
  for (const auto what : {io::Fault::What::lost, io::Fault::What::misdirected}) {
    unsigned errors = 0, fired = 0;
    for (std::uint64_t skip = 0;; ++skip) {
      Session s;
      ASSERT_NO_FATAL_FAILURE(s.build());
      bool hit = false;
      {
        Engine e(s.disk, 3);
        ASSERT_TRUE(e.recover().has_value());
        io::Fault f;
        f.what = what;
        f.kind = "write";
        f.file = kDataFile;
        f.skip = skip;
        f.distance = (1 + skip % 7) * kPageSize;
        s.disk.add_fault(f);
        for (int i = 0; i < 2; ++i) {
          // Reading a page that was lost may fail here already.
          if (!s.work(e, 20) || !e.store->checkpoint()) break;
        }
        hit = s.disk.faults_fired() > 0;
        s.disk.clear_faults();
      }
      if (!hit) break;
      ++fired;
      const auto v = s.recover(s.disk);
      ASSERT_TRUE(v.wrong.empty()) << skip << ": " << v.wrong;
      ASSERT_TRUE(v.exact || names_damage(v.code)) << skip << " " << code_name(v.code);
      errors += v.exact ? 0 : 1;
    }
    EXPECT_GT(fired, 3u);
    EXPECT_GT(errors, 0u);
  }
}

// Symptom: a read of the newest superblock that answered the zeros beside it was taken for a
// superblock never written; open went on from the one before, and reused the slots of the newest.
TEST(CheckpointDamage, AMisreadSuperblockIsReadAgain) {
  Session s;
  ASSERT_NO_FATAL_FAILURE(s.build());
  const auto newest = superblocks(s.disk).front().first;
  for (const std::int64_t distance : {4096, 256 * 1024, 1 << 20}) {
    for (std::uint64_t skip = 0; skip < kSuperblocks; ++skip) {
      io::SimDisk d = s.disk;
      d.add_fault({.what = io::Fault::What::misdirected,
                   .kind = "read",
                   .file = kDataFile,
                   .skip = skip,
                   .distance = distance});
      Engine e(d, 3);
      ASSERT_TRUE(e.recover().has_value());
      EXPECT_EQ(d.faults_fired(), 1u);
      EXPECT_EQ(e.store->newest().number, newest) << distance << " " << skip;
    }
  }
}

// Symptom: check() of an open store said nothing when the write of a superblock had been lost: it
// found the valid one of four checkpoints ago. One in another's place is named, and used.
TEST(CheckpointDamage, ASuperblockThatIsNotInItsPlaceIsNamedAndNothingIsLost) {
  Session built;
  ASSERT_NO_FATAL_FAILURE(built.build());
  for (const auto what : {io::Fault::What::lost, io::Fault::What::misdirected}) {
    unsigned missing = 0;
    for (std::uint64_t skip = 0;; ++skip) {
      Session s = built;
      Engine e(s.disk, 3);
      ASSERT_TRUE(e.recover().has_value());
      ASSERT_TRUE(s.work(e, 20).has_value());
      s.disk.add_fault({.what = what,
                        .kind = "write",
                        .file = kDataFile,
                        .skip = skip,
                        .distance = what == io::Fault::What::lost ? 0 : -256 * 1024});
      const auto made = e.store->checkpoint();
      if (s.disk.faults_fired() == 0) break;
      if (!made) continue;
      const std::uint64_t number = e.store->newest().number;
      const std::uint64_t place = number % kSuperblocks * kSuperblockStride;
      bool there = false;
      for (const auto& [n, offset] : superblocks(s.disk)) there |= n == number && offset == place;
      if (there) continue;
      ++missing;
      const auto named = e.store->verify_superblocks();
      ASSERT_FALSE(named.empty()) << skip;
      EXPECT_EQ(named.front().detail().offset, place);
      io::SimDisk killed = s.disk;
      const auto v = s.recover(killed);
      EXPECT_TRUE(v.exact) << code_name(v.code) << " " << v.wrong;
    }
    EXPECT_EQ(missing, 1u);
  }
}

// EIO on each read of recovery in turn: an error, or the exact data; and the transient error does
// no harm to what comes after: more work with evictions, a kill without a checkpoint, another
// recovery.
TEST(CheckpointDamage, TransientReadErrorsWhileOpeningDoNoHarm) {
  Session built;
  ASSERT_NO_FATAL_FAILURE(built.build(16 << 20));
  unsigned errors = 0, opened = 0;
  for (std::uint64_t skip = 0;; ++skip) {
    Session s = built;
    io::Fault f;
    f.kind = "read";
    f.skip = skip;
    s.disk.add_fault(f);
    {
      Engine e(s.disk, 5);
      e.log_options().wal_limit = 16 << 20;  // no checkpoint comes to help
      const auto r = e.recover();
      const bool hit = s.disk.faults_fired() > 0;
      s.disk.clear_faults();
      if (!hit) break;
      if (!r) {
        ++errors;
        ASSERT_TRUE(r.error() == Code::io_error || names_damage(r.error().code()))
            << r.error().message();
      } else {
        ++opened;
        const auto bad = e.verify(s.model);
        ASSERT_FALSE(bad.has_value()) << skip << ": " << *bad;
        // A superblock passed over is gone from the disk: it must not come back once its slots are
        // reused.
        ASSERT_EQ(newest_superblock(s.disk).epoch, e.store->newest().epoch) << skip;
        // Killed at several moments: slots of the checkpoint passed over are reused one by one.
        for (int moment = 0; moment < 6; ++moment) {
          const auto more = s.work(e, 60);
          ASSERT_TRUE(more.has_value()) << skip << ": " << more.error().message();
          io::SimDisk killed = s.disk;
          const auto v = s.recover(killed);
          ASSERT_TRUE(v.exact) << "read " << skip << ": " << code_name(v.code) << " " << v.wrong;
        }
      }
    }
    const auto v = s.recover(s.disk);
    ASSERT_TRUE(v.exact) << "read " << skip << ": " << code_name(v.code) << " " << v.wrong;
  }
  std::printf("%u errors, %u opened\n", errors, opened);
  EXPECT_GT(errors, 3u);
  EXPECT_GT(opened, 0u);  // a superblock that cannot be read is passed over
}

// A full disk refuses commits before they are appended, loses nothing, lets deletes and checkpoints
// go on, and works again once space returns (I15).
TEST(CheckpointDamage, FullDiskRefusesAndRecovers) {
  for (const std::uint64_t room : {0, 64, 300, 700}) {
    Session s;
    ASSERT_NO_FATAL_FAILURE(s.build());
    std::uint64_t bytes = 0;
    for (const auto& f : s.disk.files()) bytes += s.disk.file_bytes(f).size();
    s.disk.set_capacity(bytes + room * kPageSize);
    {
      Engine e(s.disk, 6);
      const auto open = e.recover();
      ASSERT_TRUE(open.has_value()) << open.error().message();
      bool full = false;
      for (int i = 0; i < 3000 && !full; ++i) {
        Op op = s.some_put();
        op.key += "-" + std::to_string(i);
        op.value.resize(op.value.size() + 500);
        const auto r = s.commit(e, {op});
        if (!r) {
          ASSERT_EQ(r.error().code(), Code::disk_full) << r.error().message();
          full = true;
        }
      }
      ASSERT_TRUE(full);
      ASSERT_FALSE(e.store->poisoned()) << e.store->poison_error().message();
      // Deletes and checkpoints go on until space is there again.
      int removed = 0;
      for (int round = 0; round < 8; ++round) {
        for (int i = 0; i < 20; ++i) {
          auto& rows = s.model[2 + static_cast<std::uint32_t>(i % 2)];
          if (rows.empty()) continue;
          const std::string victim = rows.begin()->first;
          const std::uint32_t tree = 2 + static_cast<std::uint32_t>(i % 2);
          const auto r = s.commit(e, {{tree, true, victim, {}}}, true);
          if (!r) {
            ASSERT_EQ(r.error().code(), Code::disk_full) << r.error().message();
            break;
          }
          ++removed;
          Shadows shadows(*e.store);
          const auto p = e.trees.at(tree)->purge_ghost(victim, e.log->tail(), shadows);
          ASSERT_TRUE(p.has_value() || p.error() == Code::disk_full) << p.error().message();
        }
        const auto reclaimed = e.reclaim();
        ASSERT_TRUE(reclaimed.has_value() || reclaimed.error() == Code::disk_full)
            << reclaimed.error().message();
        const auto c = e.store->checkpoint();
        ASSERT_TRUE(c.has_value())
            << "room " << room << " round " << round << ": " << c.error().message();
      }
      EXPECT_GT(removed, 100) << room;
      const auto again = s.commit(e, {s.some_put()});
      EXPECT_TRUE(again.has_value()) << "room " << room << ": " << again.error().message();
      s.disk.set_capacity(~std::uint64_t{0});
      const auto later = s.work(e, 100);
      ASSERT_TRUE(later.has_value()) << later.error().message();
    }
    const auto v = s.recover(s.disk);
    EXPECT_TRUE(v.exact) << code_name(v.code) << " " << v.wrong;
  }
}

// A log at its cap, with no checkpoint to free it, still opens again after a crash.
TEST(CheckpointDamage, FullLogOpensAgain) {
  Session s;
  ASSERT_NO_FATAL_FAILURE(s.build());
  {
    Engine e(s.disk, 7);
    ASSERT_TRUE(e.recover().has_value());
    e.checkpoint_when_log_is_full = false;
    Result<void> r;
    for (int i = 0; i < 20000 && r; ++i) r = s.commit(e, {s.some_put()});
    ASSERT_FALSE(r.has_value());
    ASSERT_EQ(r.error().code(), Code::disk_full);
  }
  for (int i = 0; i < 5; ++i) {  // each opening starts a generation
    const auto v = s.recover(s.disk);
    ASSERT_TRUE(v.exact) << "opening " << i << ": " << code_name(v.code) << " " << v.wrong;
  }
}

}  // namespace
}  // namespace kessai::btree::test
