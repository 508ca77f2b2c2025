// SPDX-License-Identifier: Apache-2.0
// The end of the log: torn tails are cut and reported, damage to what was durable is refused (I9).
#include "tests/wal/log_damage.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace kessai::wal::test {
namespace {

TEST(WalDamage, BelowAHintIsReportedWithFileAndOffset) {
  const auto bad = damage_below_a_hint_is_reported();
  EXPECT_FALSE(bad) << *bad;
}
TEST(WalDamage, ReadErrorsAreNeverTheEndOfTheLog) {
  const auto bad = read_errors_never_end_the_log();
  EXPECT_FALSE(bad) << *bad;
}
TEST(WalDamage, FramesInsideValuesMeanNothing) {
  const auto bad = frames_inside_values_mean_nothing();
  EXPECT_FALSE(bad) << *bad;
}

// Goal: whatever sectors of the last frames are missing, recovery keeps the frames before the first
// bad one or, when a later whole frame proves durability, refuses; it never invents. Method:
// the last two frames of three blocks each, every subset of their 6 blocks zeroed.
TEST(WalDamage, EveryBlockSubsetOfTheLastFramesIsJudged) {
  io::SimDisk disk(21);
  const auto commits = write_frames(disk, 3, false, small_options(), 10'000);
  const auto image = disk.file_bytes(kFirstFile);
  for (unsigned lost = 0; lost < 64; ++lost) {
    io::SimDisk copy = disk;
    auto bytes = image;
    for (unsigned b = 0; b < 6; ++b)
      if (lost >> b & 1) std::memset(bytes.data() + (5 + b) * 4096, 0, 4096);
    copy.set_file_bytes(kFirstFile, bytes);
    Machine machine(copy, 2);
    auto r = recover(machine);
    const bool second = (lost & 7) == 0, third = (lost & 56) == 0;
    if (!second && third) {
      ASSERT_FALSE(r) << lost;
      ASSERT_EQ(r.error(), Code::log_damaged);
      continue;
    }
    ASSERT_TRUE(r) << lost << " " << r.error().message();
    const std::size_t kept = second && third ? 3 : second ? 2 : 1;
    ASSERT_EQ(r->commits.size(), kept) << lost;
    ASSERT_EQ(r->end.lsn, commits[kept - 1].lsn);
  }
}

// Goal: every prefix of the last frame's bytes is judged the same: cut, and `torn` says so.
TEST(WalDamage, EveryCutOfTheLastFrameIsCutOff) {
  io::SimDisk disk(22);
  const auto commits = write_frames(disk, 2, false, small_options(), 5000);
  const auto image = disk.file_bytes(kFirstFile);
  const std::size_t frame = 4 * 4096;  // the second frame
  for (std::size_t cut = 0; cut < kFrameHeader + kRecordHeader + 5000; cut += 13) {
    io::SimDisk copy = disk;
    auto bytes = image;
    std::memset(bytes.data() + frame + cut, 0, 8192 - cut);
    copy.set_file_bytes(kFirstFile, bytes);
    Machine machine(copy, 2);
    auto r = recover(machine);
    ASSERT_TRUE(r) << cut;
    ASSERT_EQ(r->end.lsn, commits[0].lsn) << cut;
    if (cut >= kFrameHeader) {
      ASSERT_TRUE(r->end.torn) << cut;
    }
  }
}

// Goal: no single bit of a segment goes unchecked: flipped anywhere in headers, frames,
// padding or the rest, recovery gives all commits, or the commits before the flipped frame, or
// refuses.
TEST(WalDamage, NoSingleBitChangesWhatIsRead) {
  io::SimDisk disk(23);
  const auto commits = write_frames(disk, 4, true);
  const auto image = disk.file_bytes(kFirstFile);
  io::SeededRandom random(seed_from_environment(23));
  for (int i = 0; i < 4000; ++i) {
    // The first 200 bytes of each block hold most of what matters.
    const std::uint64_t block = random.below(9);
    const std::uint64_t byte = random.below(2) == 0 ? random.below(200) : random.below(4096);
    const std::uint64_t bit = (block * 4096 + byte) * 8 + random.below(8);
    io::SimDisk copy = disk;
    copy.flip(kFirstFile, bit);
    Machine machine(copy, 2);
    auto r = recover(machine);
    const bool frames = block >= 2 && block < 6;
    ASSERT_EQ(r.has_value(), !frames) << "bit " << bit << (r ? "" : r.error().message());
    if (r) {
      ASSERT_EQ(r->commits, commits) << "bit " << bit;
    }
  }
}

// Goal: a sealed segment (footer) in the middle must be whole. Method: truncate, delete, or
// damage each file of a log of several segments.
TEST(WalDamage, SealedSegmentsMustBeWhole) {
  io::SimDisk disk(24);
  const auto commits = write_frames(disk, 150, true);
  const auto files = disk.files();
  ASSERT_GE(files.size(), 4u);
  for (const auto& name : files) {
    const auto image = disk.file_bytes(name);
    Machine probe(disk, 1);
    {
      auto all = recover(probe);
      ASSERT_TRUE(all);
      ASSERT_EQ(all->commits, commits);
    }
    const bool used = !std::ranges::all_of(image, [](std::byte b) { return b == std::byte{0}; });
    for (int how = 0; how < 3; ++how) {
      io::SimDisk copy = disk;
      if (how == 0) copy.set_file_bytes(name, std::span(image).first(image.size() / 2));
      if (how == 1) copy.remove_file(name);
      if (how == 2) copy.set_file_bytes(name, {});
      Machine machine(copy, 2);
      auto r = recover(machine);
      if (used) {
        ASSERT_FALSE(r) << name << " " << how;
        ASSERT_EQ(r.error(), Code::log_damaged) << r.error().message();
      } else {
        ASSERT_TRUE(r) << name << " " << how << " " << r.error().message();
      }
    }
  }
}

// Goal: both headers of a segment gone: frames in it prove that it was there.
TEST(WalDamage, AGenerationWithBothHeadersGoneIsMissed) {
  io::SimDisk disk(25);
  (void)write_frames(disk, 3, true);
  {
    Machine machine(disk, 4);
    auto r = recover(machine);
    ASSERT_TRUE(r);
    auto log = restart(machine, *r, small_options());
    ASSERT_TRUE(log);
    auto a = append(**log, "second generation");
    ASSERT_TRUE(a && (*log)->wait_durable(a->lsn));
    // One bad header block is repaired by its copy.
    for (const auto& name : disk.files()) {
      for (std::uint64_t block = 0; block < 2; ++block) {
        io::SimDisk copy = disk;
        copy.flip(name, block * 4096 * 8 + 999);
        Machine other(copy, 5);
        auto again = recover(other, kFirstLsn, a->lsn);
        ASSERT_TRUE(again) << name << " " << again.error().message();
        ASSERT_EQ(again->commits.size(), 4u);
      }
      io::SimDisk copy = disk;
      copy.flip(name, 999);
      copy.flip(name, 4096 * 8 + 999);
      Machine other(copy, 5);
      auto again = recover(other, kFirstLsn, a->lsn);
      const auto image = disk.file_bytes(name);
      const bool used = image[0] != std::byte{0};
      ASSERT_EQ(again.has_value(), !used) << name;
    }
  }
}

/// Two commits of a second generation, made while `arm` may break the disk.
std::vector<Commit> second_generation(io::SimDisk& disk, std::vector<Commit> commits) {
  Machine machine(disk, 4);
  auto r = recover(machine);
  auto log = r ? restart(machine, *r, small_options()) : std::unexpected(r.error());
  for (const char* ops : {"one", "two"}) {
    auto a = log ? append(**log, ops) : std::unexpected(log.error());
    if (a && (*log)->wait_durable(a->lsn)) commits.push_back({a->lsn, ops});
  }
  return commits;
}

// Symptom: the device lost the write of a generation's first header; the next recovery knew nothing
// of the generation and cut everything that was acknowledged in it, without a word. Method: each
// write of a restart is lost in turn.
TEST(WalDamage, AHeaderThatTheDeviceLostIsMissed) {
  io::SimDisk built(29);
  const auto before = write_frames(built, 3, true);
  unsigned refused = 0;
  for (std::uint64_t skip = 0;; ++skip) {
    io::SimDisk disk = built;
    disk.add_fault({.what = io::Fault::What::lost, .kind = "write", .file = {}, .skip = skip});
    const auto commits = second_generation(disk, before);
    if (disk.faults_fired() == 0) break;
    ASSERT_EQ(commits.size(), 5u);
    Machine machine(disk, 5);
    const auto r = recover(machine);
    if (r) {
      EXPECT_EQ(r->commits, commits) << skip;
      continue;
    }
    ++refused;
    EXPECT_EQ(r.error(), Code::log_damaged) << r.error().message();
    EXPECT_FALSE(r.error().detail().path.empty());
  }
  EXPECT_GT(refused, 0u);
}

// Symptom: the same after the headers of the newest generation had been overwritten: nobody knew
// the salt, so the frames meant nothing. Method: zeros or garbage over the first blocks of each
// file, less than its frames.
TEST(WalDamage, AGenerationWithoutItsHeadersIsMissed) {
  io::SimDisk disk(30);
  const auto commits = second_generation(disk, write_frames(disk, 3, true));
  ASSERT_EQ(commits.size(), 5u);
  std::vector<std::byte> garbage(12 * 1024);
  io::SeededRandom random(30);
  random.fill(garbage);
  for (const auto& name : disk.files()) {
    const bool used = disk.file_bytes(name)[0] != std::byte{0};
    for (const std::size_t bytes : {8192UL, 12288UL}) {
      for (const bool zeros : {false, true}) {
        if (bytes > 8192 && zeros) continue;  // like a new file: docs/format-log.md
        io::SimDisk copy = disk;
        copy.overwrite(name, 0,
                       zeros ? std::vector<std::byte>(bytes)
                             : std::vector(garbage.begin(),
                                           garbage.begin() + static_cast<std::ptrdiff_t>(bytes)));
        Machine machine(copy, 5);
        const auto r = recover(machine);
        EXPECT_EQ(r.has_value(), !used) << name << " " << bytes << " " << zeros;
        if (!r) {
          EXPECT_EQ(r.error(), Code::log_damaged);
        }
      }
    }
  }
}

// Symptom: a read of a header that answered zeros made its file a new one. Method: each read of a
// recovery in turn answers what lies further on; refused, or right, and right the next time.
TEST(WalDamage, MisreadBlocksAreReadAgainOrRefused) {
  io::SimDisk built(31);
  const auto commits = second_generation(built, write_frames(built, 3, true));
  ASSERT_EQ(commits.size(), 5u);
  for (const std::int64_t distance : {4096, 8192, 12288, 32768}) {
    for (std::uint64_t skip = 0;; ++skip) {
      io::SimDisk disk = built;
      disk.add_fault({.what = io::Fault::What::misdirected,
                      .kind = "read",
                      .file = {},
                      .skip = skip,
                      .distance = distance});
      {
        Machine machine(disk, 5);
        auto r = recover(machine);
        if (disk.faults_fired() == 0) break;
        if (r) {
          ASSERT_EQ(r->commits, commits) << distance << " " << skip;
          ASSERT_TRUE(restart(machine, *r, small_options()));
        } else {
          ASSERT_EQ(r.error(), Code::log_damaged) << r.error().message();
        }
      }
      Machine again(disk, 6);
      const auto r = recover(again);
      ASSERT_TRUE(r) << distance << " " << skip << " " << r.error().message();
      ASSERT_EQ(r->commits, commits) << distance << " " << skip;
    }
  }
}

// Goal: files that are not ours: empty, short and garbage ones are taken as unused space, those of
// another store are refused, other names are ignored.
TEST(WalDamage, StrangeFilesAreHandled) {
  io::SimDisk disk(26);
  const auto commits = write_frames(disk, 3, true);
  const std::vector<std::byte> garbage(64 * 1024, std::byte{0xa5});
  io::SimDisk copy = disk;
  copy.set_file_bytes("wal-07.kessai", {});
  copy.set_file_bytes("wal-08.kessai", std::span(garbage).first(4096));
  copy.set_file_bytes("wal-09.kessai", garbage);
  copy.set_file_bytes("wal-9.kessai", garbage);
  copy.set_file_bytes("wal-xx.kessai", garbage);
  copy.set_file_bytes("data.kessai", garbage);
  for (int i = 0; i < 3; ++i) {
    Machine machine(copy, 40 + static_cast<std::uint64_t>(i));
    auto r = recover(machine);
    ASSERT_TRUE(r) << r.error().message();
    ASSERT_EQ(std::vector(r->commits.begin(), r->commits.begin() + 3), commits);
    auto log = restart(machine, *r, small_options());
    ASSERT_TRUE(log) << log.error().message();
    for (int n = 0; n < 40; ++n) {
      auto a = append(**log, std::string(3000, 'z'));
      ASSERT_TRUE(a && (*log)->wait_durable(a->lsn));
    }
  }
  EXPECT_EQ(copy.file_bytes("wal-9.kessai"), garbage);
  io::SimDisk foreign(27);
  {
    Machine machine(foreign);
    ASSERT_TRUE(Log::create(machine.env, StoreId{9, 9}, small_options()));
  }
  copy = disk;
  copy.set_file_bytes("wal-05.kessai", foreign.file_bytes(kFirstFile));
  Machine machine(copy, 2);
  auto r = recover(machine);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error(), Code::log_damaged);
  copy = disk;
  copy.set_file_bytes("wal-05.kessai", disk.file_bytes(kFirstFile));  // a copy of our own segment
  Machine twice(copy, 2);
  EXPECT_FALSE(recover(twice));
}

// Goal: the superblock's F and `low` must be reached.
TEST(WalDamage, MustReachWhatTheSuperblockNames) {
  io::SimDisk disk(28);
  const auto commits = write_frames(disk, 3, false);
  Machine machine(disk, 2);
  EXPECT_TRUE(recover(machine, kFirstLsn, commits.back().lsn));
  Machine other(disk, 3);
  auto r = recover(other, kFirstLsn, commits.back().lsn + 1);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error(), Code::log_damaged);
}

// Goal: ENOSPC at every place where the log grows: reserve answers disk_full, nothing is poisoned,
// what was acknowledged stays, and it works again, and opens, when space returns.
TEST(WalFaults, DiskFullIsAnsweredAndEndsWhenSpaceReturns) {
  for (std::uint64_t capacity = 140 * 1024; capacity < 900 * 1024; capacity += 37 * 1024) {
    io::SimDisk disk(30);
    disk.set_capacity(capacity);
    std::vector<Commit> commits;
    {
      Machine machine(disk);
      auto log = Log::create(machine.env, kStore, small_options());
      ASSERT_TRUE(log);
      Result<Log::Reservation> r = Log::Reservation{};
      for (int i = 0; i < 500 && r; ++i) {
        r = append(**log, std::string(3000, 'x'));
        if (!r) break;
        ASSERT_TRUE((*log)->wait_durable(r->lsn));
        commits.push_back({r->lsn, std::string(3000, 'x')});
      }
      ASSERT_FALSE(r);
      ASSERT_EQ(r.error(), Code::disk_full);
      ASSERT_FALSE((*log)->poisoned());
    }
    // The full store opens, again and again, and takes commits after space has returned.
    for (int i = 0; i < 3; ++i) {
      Machine machine(disk, 50 + static_cast<std::uint64_t>(i));
      auto r = recover(machine);
      ASSERT_TRUE(r) << r.error().message();
      ASSERT_EQ(r->commits, commits);
      auto log = restart(machine, *r, small_options());
      ASSERT_TRUE(log) << "opening number " << i << " with " << capacity << ": "
                       << log.error().message();
      if (i < 2) continue;
      auto full = append(**log, "no");
      disk.set_capacity(~std::uint64_t{0});
      auto a = append(**log, "yes");
      ASSERT_TRUE(a) << a.error().message();
      ASSERT_TRUE((*log)->wait_durable(a->lsn));
    }
  }
}

// Goal: a failed durable write poisons: waiters get unknown_outcome, nothing is retried, no later
// commit is acknowledged, and reopening gives a prefix with everything acknowledged before (I4).
TEST(WalFaults, AFailedWritePoisonsAndReopeningRecovers) {
  for (std::uint64_t skip = 0; skip < 30; ++skip) {
    for (const auto after : {io::Fault::AfterFlush::kept, io::Fault::AfterFlush::reverted,
                             io::Fault::AfterFlush::late}) {
      io::SimDisk disk(31 + skip);
      std::vector<Commit> commits;
      std::size_t acknowledged = 0;
      {
        Machine machine(disk);
        auto log = Log::create(machine.env, kStore, small_options());
        ASSERT_TRUE(log);
        disk.add_fault({.what = io::Fault::What::io_error,
                        .kind = "write_durable",
                        .file = {},
                        .skip = skip,
                        .after_flush = after});
        int calls = 0;
        for (int i = 0; i < 40; ++i) {
          auto r = append(**log, std::string(2000, 'p'));
          if (!r) {
            ASSERT_EQ(r.error(), Code::poisoned);
            continue;
          }
          commits.push_back({r->lsn, std::string(2000, 'p')});
          (*log)->on_durable(r->lsn, [&](Result<void> done) {
            ++calls;
            ASSERT_TRUE(done || done.error() == Code::unknown_outcome);
          });
          auto waited = (*log)->wait_durable(r->lsn);
          if (waited) {
            acknowledged = commits.size();
          } else {
            ASSERT_EQ(waited.error(), Code::unknown_outcome);
          }
        }
        ASSERT_TRUE((*log)->poisoned());
        ASSERT_EQ(static_cast<std::size_t>(calls), commits.size());
        ASSERT_LE(commits.size(), acknowledged + 1);
        ASSERT_FALSE((*log)->seal());
      }
      Machine machine(disk, 77);
      auto r = recover(machine);
      ASSERT_TRUE(r) << r.error().message();
      ASSERT_GE(r->commits.size(), acknowledged);
      ASSERT_LE(r->commits.size(), commits.size());
      for (std::size_t i = 0; i < r->commits.size(); ++i) ASSERT_EQ(r->commits[i], commits[i]);
    }
  }
}

// Goal: whichever operation fails, with EIO or ENOSPC, in creation, running, reopening: an error or
// none, never a lost acknowledged commit, and once the fault is gone the store opens.
// Method: fail the 1st, 2nd, 3rd... operation until a run passes untouched.
TEST(WalFaults, AnyOperationMayFail) {
  for (const auto what : {io::Fault::What::io_error, io::Fault::What::disk_full}) {
    bool fired = true;
    for (std::uint64_t op = 0; fired; ++op) {
      io::SimDisk disk(60 + op);
      disk.add_fault({.what = what, .op = op, .kind = {}, .file = {}});
      std::vector<Commit> made;
      std::size_t acknowledged = 0;
      bool created = false;
      const auto work = [&](Log& log) {
        for (int i = 0; i < 50; ++i) {
          auto r = append(log, std::string(3000, static_cast<char>('a' + i % 26)));
          if (!r) continue;
          made.push_back({r->lsn, std::string(3000, static_cast<char>('a' + i % 26))});
          if (log.wait_durable(r->lsn)) acknowledged = made.size();
        }
      };
      {
        Machine machine(disk);
        auto log = Log::create(machine.env, kStore, small_options());
        created = log.has_value();
        if (log) work(**log);
      }
      for (int i = 0; i < 2 && created; ++i) {
        Machine machine(disk, 70);
        auto r = recover(machine);
        if (!r) continue;  // the fault hit the opening
        ASSERT_GE(r->commits.size(), acknowledged) << "operation " << op;
        ASSERT_LE(r->commits.size(), made.size());
        made.resize(r->commits.size());
        ASSERT_EQ(r->commits, made) << "operation " << op;
        acknowledged = made.size();
        if (auto log = restart(machine, *r, small_options())) work(**log);
      }
      fired = disk.faults_fired() > 0;
      disk.clear_faults();
      if (!created) continue;
      Machine machine(disk, 80);
      auto r = recover(machine);
      ASSERT_TRUE(r) << "operation " << op << ": " << r.error().message();
      ASSERT_GE(r->commits.size(), acknowledged);
      ASSERT_LE(r->commits.size(), made.size());
      made.resize(r->commits.size());
      ASSERT_EQ(r->commits, made);
      ASSERT_TRUE(restart(machine, *r, small_options()));
    }
  }
}

// Goal: a second opener is refused while the first has the log (I13).
TEST(WalFaults, LocksOutASecondOpener) {
  io::SimDisk disk(32);
  Machine machine(disk);
  auto log = Log::create(machine.env, kStore, small_options());
  ASSERT_TRUE(log);
  Machine other(disk, 5);
  auto reader = LogReader::open(other.env, kStore, true, 0);
  ASSERT_FALSE(reader);
  EXPECT_EQ(reader.error(), Code::locked);
}

}  // namespace
}  // namespace kessai::wal::test
