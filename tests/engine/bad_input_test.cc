// SPDX-License-Identifier: Apache-2.0
// Goal: whatever is wrong with files, directory, arguments or handles is a typed error that names
// what is concerned; what can still be read stays readable; nothing acknowledged is lost. Method:
// one scenario per kind of bad input, on copies of one simulated store, a few on a real directory.
// Disks that fail while the store runs: bad_input_disk_test.cc.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "btree/page_store.hpp"
#include "tests/engine/fault_world.hpp"
#include "tests/io/temp_dir.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace kessai::test {
namespace {

constexpr std::uint64_t kBlock = 4096;

std::vector<std::byte> bytes_of(std::string_view text, std::size_t size) {
  std::vector<std::byte> out(size);
  for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<std::byte>(text[i % text.size()]);
  return out;
}

Error open_error(io::SimDisk& disk, bool create = false) {
  Process p(disk, 21);
  p.options.create = create;
  const auto r = p.open();
  return r ? Error(Code::not_supported, "it opened") : r.error();
}

/// Changes 32-bit fields of all superblocks and makes their hashes right again.
void forge_superblocks(io::SimDisk& disk, std::size_t at, std::uint32_t value) {
  auto bytes = disk.file_bytes(btree::kDataFile);
  for (unsigned i = 0; i < btree::kSuperblocks; ++i) {
    std::byte* page = bytes.data() + i * btree::kSuperblockStride;
    std::memcpy(page + at, &value, sizeof value);
    std::memset(page + 144, 0, 16);
    const XXH128_hash_t h = XXH3_128bits(page, kPageSize);
    std::memcpy(page + 144, &h.low64, 8);
    std::memcpy(page + 152, &h.high64, 8);
  }
  disk.set_file_bytes(btree::kDataFile, bytes);
}

TEST(BadInput, ForeignFilesAreNotAStoreAndStayUntouched) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{4096}, std::size_t{3} << 20}) {
    io::SimDisk disk;
    disk.set_file_bytes(btree::kDataFile, bytes_of("Dear diary, ", size));
    const auto before = disk.file_bytes(btree::kDataFile);
    for (const bool create : {false, true}) {
      const Error e = open_error(disk, create);
      EXPECT_TRUE(e == Code::not_a_store || (size == 4096 && e == Code::superblock_damaged))
          << size << " " << e.message();
      EXPECT_NE(e.detail().path.find(btree::kDataFile), std::string::npos);
    }
    EXPECT_EQ(disk.file_bytes(btree::kDataFile), before);
  }
  io::SimDisk empty;
  EXPECT_EQ(open_error(empty), Code::store_missing);
}

TEST(BadInput, NewerFormatsAndOtherPageSizesAreNamed) {
  SmallStore s(true);
  io::SimDisk newer = s.disk;
  forge_superblocks(newer, 8, btree::kFormatVersion + 1);
  Error e = open_error(newer);
  EXPECT_EQ(e, Code::newer_format);
  EXPECT_NE(e.message().find(std::to_string(btree::kFormatVersion + 1)), std::string::npos)
      << e.message();
  io::SimDisk wide = s.disk;
  forge_superblocks(wide, 12, 16384);
  e = open_error(wide);
  EXPECT_EQ(e, Code::page_size_mismatch);
  EXPECT_NE(e.message().find("16384"), std::string::npos) << e.message();
}

// Each file cut at each block, removed, and emptied; with and without a log that is needed.
TEST(BadInput, TruncatedAndMissingFilesAreTypedErrorsOrNotNeeded) {
  for (const bool clean : {true, false}) {
    SmallStore s(clean);
    unsigned refused = 0, fine = 0;
    for (const auto& file : s.disk.files()) {
      const auto bytes = s.disk.file_bytes(file);
      const std::uint64_t blocks = bytes.size() / kBlock;
      for (std::uint64_t keep = 0; keep <= blocks; ++keep) {
        if (file == btree::kDataFile && keep > 8 && keep < 250 && keep % 32 != 0)
          continue;  // between superblocks
        io::SimDisk copy = s.disk;
        if (keep == blocks) {
          copy.remove_file(file);
        } else {
          copy.set_file_bytes(file, std::span(bytes).first(keep * kBlock));
        }
        const Findings f = inspect(copy, s.tables);
        ASSERT_FALSE(f.wrong) << file << " cut to " << keep << " blocks: " << *f.wrong;
        if (!f.refused) {
          ++fine;
          continue;
        }
        ++refused;
        const Error& e = *f.refused;
        const bool typed = e == Code::damaged || e == Code::log_damaged ||
                           e == Code::superblock_damaged || e == Code::not_a_store ||
                           e == Code::store_missing;
        ASSERT_TRUE(typed) << file << " cut to " << keep << " blocks: " << e.message();
        if (e != Code::store_missing) {
          ASSERT_FALSE(e.detail().path.empty()) << e.message();
        }
      }
    }
    EXPECT_GT(refused, 20u) << clean;
    EXPECT_GT(fine, 0u) << clean;
  }
}

// The power fails at each operation of creation. Without `create` the answer is an honest one, and
// with it there is a working store.
TEST(BadInput, ACreationThatWasInterruptedStartsOver) {
  io::SimDisk disk(31);
  unsigned states = 0, absent = 0, incomplete = 0, whole = 0;
  std::optional<std::string> bad;
  disk.set_observer([&](std::uint64_t op, std::string_view kind, std::string_view) {
    for (std::size_t o = 0; o < io::kCrashOutcomes.size() && !bad; ++o) {
      io::SimDisk after = disk.survivor(io::kCrashOutcomes[o], op * 16 + o);
      ++states;
      const Error e = open_error(after);
      absent += e == Code::store_missing;
      incomplete += e == Code::incomplete_store;
      whole += e == Code::not_supported;
      if (e != Code::store_missing && e != Code::incomplete_store && e != Code::not_supported)
        bad = "open says " + e.message();
      Process p(after, 33);
      p.options.create = true;
      if (auto r = p.open(); !r) {
        bad = "creating again says " + r.error().message();
      } else if (!p.db->put(p.db->tree("main").value(), "a", "1") || p.db->check()->ok == false) {
        bad = "the store does not work";
      } else if (!p.close()) {
        bad = "the store does not close";
      } else {
        Process again(after, 34);
        if (!again.open() || again.db->get(again.db->tree("main").value(), "a").value_or("") != "1")
          bad = "the row is gone";
      }
      if (bad)
        bad = std::string(io::outcome_name(io::kCrashOutcomes[o])) + " before " +
              std::string(kind) + " " + std::to_string(op) + ": " + *bad;
    }
  });
  {
    Process p(disk, 32);
    p.options.create = true;
    ASSERT_TRUE(p.open().has_value());
    disk.set_observer({});
  }
  EXPECT_FALSE(bad) << *bad;
  std::printf("%u states: %u without a store, %u incomplete, %u whole\n", states, absent,
              incomplete, whole);
  EXPECT_GT(absent, 0u);
  EXPECT_GT(incomplete, 0u);
}

// Damaged superblocks, newest first: with one the one before answers, with more it is damage or a
// right answer, with all it is superblock_damaged (I12).
TEST(BadInput, DamagedSuperblocksNeverLoseWhatWasAcknowledged) {
  for (const bool clean : {true, false}) {
    SmallStore s(clean);
    std::map<std::uint64_t, std::uint64_t, std::greater<>> newest;  // number -> offset
    const auto bytes = s.disk.file_bytes(btree::kDataFile);
    for (unsigned i = 0; i < btree::kSuperblocks; ++i) {
      const std::uint64_t at = i * btree::kSuperblockStride;
      if (auto sb = btree::decode_superblock(
              std::span<const std::byte, kPageSize>(bytes.data() + at, kPageSize)))
        newest[sb->number] = at;
    }
    ASSERT_EQ(newest.size(), 4u);
    io::SimDisk disk = s.disk;
    unsigned damaged = 0;
    for (const auto& [number, at] : newest) {
      disk.flip(btree::kDataFile, (at + 40) * 8);
      ++damaged;
      io::SimDisk copy = disk;
      const Findings f = inspect(copy, s.tables);
      ASSERT_FALSE(f.wrong) << damaged << ": " << *f.wrong;
      ASSERT_TRUE(f.noticed()) << damaged;
      EXPECT_FALSE(damaged == 1 && (f.refused || f.unreadable))
          << (f.refused ? f.refused : f.unreadable)->message();
      if (damaged == 4) {
        ASSERT_TRUE(f.refused);
        EXPECT_EQ(*f.refused, Code::superblock_damaged);
        EXPECT_NE(f.refused->detail().path.find(btree::kDataFile), std::string::npos);
      }
      // What the damage leaves is also writable, or refused.
      Process p(copy, 41);
      const bool opens = p.open().has_value();
      EXPECT_TRUE(!opens || p.db->put(p.db->tree("main").value(), "new", "1"));
    }
  }
}

// One damaged leaf: every way to read its rows answers `damaged` naming file, offset and page
// rows elsewhere stay readable; a cursor that met it stays in error; a transaction
// that met it cannot commit.
TEST(BadInput, ADamagedPageIsAnErrorOfEveryReadAndOthersStayReadable) {
  SmallStore s(true);
  std::uint64_t leaf = 0, slot = 0;
  std::string inside;
  {
    Process p(s.disk, 51);
    ASSERT_TRUE(p.open().has_value());
    const Tree t = p.db->tree("main").value();
    const auto nodes = p.db->tree_nodes(t).value();
    for (const auto& n : nodes) {
      if (n.level != 0 || n.entries < 5) continue;
      leaf = n.page;
      const auto dump = p.db->page(leaf).value();
      slot = dump.slot;
      inside = dump.entries[2].key;
      if (!dump.entries[2].ghost && !dump.low_fence.empty() && dump.has_high_fence) break;
    }
    ASSERT_TRUE(p.close().has_value());
  }
  const std::uint64_t offset = btree::kFirstSlotOffset + (slot - 1) * kPageSize;
  s.disk.flip(btree::kDataFile, (offset + 2000) * 8);
  Process p(s.disk, 52);
  ASSERT_TRUE(p.open().has_value());
  Database& db = *p.db;
  const Tree t = db.tree("main").value(), side = db.tree("side").value();
  const auto damaged = [&](const auto& result, const char* what) {
    ASSERT_FALSE(result.has_value()) << what;
    EXPECT_EQ(result.error(), Code::damaged) << what;
    EXPECT_EQ(result.error().detail().page, leaf) << what;
    EXPECT_EQ(result.error().detail().offset, offset) << what;
    EXPECT_NE(result.error().detail().path.find(btree::kDataFile), std::string::npos) << what;
  };
  damaged(db.get(t, inside), "get");
  damaged(db.begin().value().get(t, inside), "Transaction::get");
  damaged(db.begin().value().get_for_update(t, inside), "get_for_update");
  damaged(db.put(t, inside, "x"), "put");
  damaged(db.insert(t, inside, "x"), "insert");
  damaged(db.remove(t, inside), "remove");
  damaged(db.tree_info(t), "tree_info");
  damaged(db.page(leaf), "page");
  for (const bool reverse : {false, true}) {
    auto c = db.scan(t, {.from = {}, .to = {}, .reverse = reverse});
    std::size_t rows = 0;
    while (c.next()) ++rows;
    damaged(c.status(), "scan");
    EXPECT_LT(rows, s.tables.at("main")->size());
    EXPECT_FALSE(c.next());
    damaged(c.status(), "scan again");
  }
  auto txn = db.begin().value();
  ASSERT_TRUE(txn.put(t, "zzz", "1").has_value());
  damaged(txn.get(t, inside), "get after a write");
  EXPECT_FALSE(txn.commit().has_value());
  EXPECT_EQ(db.get(t, "zzz").error(), Code::not_found);

  std::vector<std::string_view> keys;
  std::vector<std::string> names;
  for (const auto& [k, v] : *s.tables.at("main")) names.push_back(k);
  for (const auto& k : names) keys.push_back(k);
  std::vector<Lookup> answers(keys.size());
  ASSERT_TRUE(db.multi_get(t, keys, answers).has_value());
  std::size_t lost = 0, found = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const auto one = db.get(t, keys[i]);
    ASSERT_EQ(one.has_value(), answers[i].found) << keys[i];
    if (answers[i].found) {
      ++found;
      EXPECT_EQ(answers[i].value, s.tables.at("main")->at(std::string(keys[i])));
      EXPECT_EQ(*one, answers[i].value);
    } else {
      ++lost;
      EXPECT_EQ(answers[i].code, Code::damaged) << keys[i];
    }
  }
  EXPECT_GT(lost, 2u);
  EXPECT_GT(found, lost);
  for (const auto& [k, v] : *s.tables.at("side")) EXPECT_EQ(db.get(side, k).value(), v);
  ASSERT_TRUE(db.put(side, "still", "writable").has_value());
  const auto report = db.check();
  ASSERT_TRUE(report.has_value());
  ASSERT_FALSE(report->ok);
  EXPECT_EQ(report->damage.size(), 1u);
  EXPECT_EQ(report->damage.front().page, leaf);
  EXPECT_EQ(report->damage.front().offset, offset);
}

// The log of a store that was not closed: a damaged frame in the middle is refused by name, a torn
// last frame is cut and reported, a missing segment is noticed.
TEST(BadInput, DamageInTheMiddleOfTheLogIsRefusedAndATornTailIsCut) {
  SmallStore s(false);
  std::uint64_t low = 0;
  {
    io::SimDisk copy = s.disk;
    Process p(copy, 61);
    p.options.read_only = true;
    ASSERT_TRUE(p.open().has_value());
    ASSERT_FALSE(p.db->info().clean);
    ASSERT_FALSE(p.db->info().tail_cut_at);
    low = p.db->info().redo_bytes;
    ASSERT_GT(low, 1000u);
  }
  unsigned refused = 0, cut = 0, fine = 0;
  for (const auto& file : s.disk.files()) {
    if (!file.starts_with("wal-")) continue;
    const auto bytes = s.disk.file_bytes(file);
    for (std::uint64_t b = 2; b * kBlock < bytes.size(); ++b) {
      io::SimDisk copy = s.disk;
      copy.flip(file, (b * kBlock + 100) * 8 + 3);
      Process p(copy, 62);
      const auto r = p.open();
      if (!r) {
        ++refused;
        EXPECT_EQ(r.error(), Code::log_damaged);
        EXPECT_NE(r.error().detail().path.find(file), std::string::npos) << r.error().message();
        EXPECT_EQ(r.error().detail().offset, b * kBlock) << r.error().message();
        EXPECT_NE(r.error().detail().lsn, 0u);
        continue;
      }
      // The very last frame is what no later hint knows of: it is cut, and said to be.
      const auto found = read_all(*p.db);
      ASSERT_TRUE(found.has_value());
      if (same(*found, s.tables)) {
        ++fine;
      } else {
        ++cut;
        EXPECT_TRUE(p.db->info().tail_cut_at.has_value());
      }
    }
    io::SimDisk copy = s.disk;
    copy.remove_file(file);
    const Findings f = inspect(copy, s.tables);
    EXPECT_FALSE(f.wrong) << file << " removed: " << *f.wrong;
  }
  std::printf("%u refused, %u cut, %u not needed\n", refused, cut, fine);
  EXPECT_GT(refused, 10u);
  EXPECT_EQ(cut, 1u);
}

TEST(BadInput, ASecondOpenerIsLockedOut) {
  SmallStore s(true);
  {
    Process first(s.disk, 71);
    ASSERT_TRUE(first.open().has_value());
    EXPECT_EQ(open_error(s.disk), Code::locked);
    EXPECT_EQ(open_error(s.disk, true), Code::locked);
    EXPECT_TRUE(first.db->put(first.db->tree("main").value(), "a", "1").has_value());
  }
  Process next(s.disk, 72);
  EXPECT_TRUE(next.open().has_value());

  const io::test::TempDir dir;
  Options o;
  o.create = true;
  o.memory = 1_MiB;
  o.open_timeout = std::chrono::milliseconds(50);
  auto db = Database::open(dir.path(), o);
  ASSERT_TRUE(db.has_value()) << db.error().message();
  const auto second = Database::open(dir.path(), o);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error(), Code::locked);
  EXPECT_FALSE(second.error().detail().path.empty());
  const int child = io::test::in_child([&] {
    const auto inherited = db->get(db->tree("main").value_or(Tree{}), "a");
    if (inherited || inherited.error() != Code::closed_handle) return 2;
    const auto third = Database::open(dir.path(), o);
    return third ? 3 : third.error() == Code::locked ? 0 : 4;
  });
  EXPECT_EQ(child, 0);
  ASSERT_TRUE(db->put(db->tree("main").value(), "a", "1").has_value());
  ASSERT_TRUE(db->close().has_value());
  EXPECT_TRUE(Database::open(dir.path(), o).has_value());
}

TEST(BadInput, AReadOnlyDirectoryIsPermissionDenied) {
  const io::test::TempDir dir;
  ASSERT_EQ(::chmod(dir.path().c_str(), 0777), 0);
  const std::string path = dir.path() + "/store";
  const int child = io::test::in_child([&] {
    if (::geteuid() == 0 && (::setegid(65534) != 0 || ::seteuid(65534) != 0)) return 10;
    Options o;
    o.create = true;
    o.memory = 1_MiB;
    {
      auto db = Database::open(path, o);
      if (!db) return 11;
      if (!db->put(db->tree("main").value(), "a", "1") || !db->close()) return 12;
    }
    // Nothing can be written: files and directory.
    for (const auto& entry : std::filesystem::directory_iterator(path))
      ::chmod(entry.path().c_str(), 0400);
    ::chmod(path.c_str(), 0500);
    const auto writing = Database::open(path, o);
    if (writing || writing.error() != Code::permission_denied ||
        writing.error().detail().path.empty())
      return 13;
    o.create = false;
    o.read_only = true;
    auto reading = Database::open(path, o);
    if (!reading) return 14;
    const auto row = reading->get(reading->tree("main").value(), "a");
    if (!row || *row != "1") return 15;
    if (reading->put(reading->tree("main").value(), "b", "2").error() != Code::read_only) return 16;
    o.read_only = false;
    o.create = true;
    const auto inside = Database::open(path + "/deeper", o);
    ::chmod(path.c_str(), 0700);
    return inside || inside.error() != Code::permission_denied ? 17 : 0;
  });
  EXPECT_EQ(child, 0);
}

TEST(BadInput, LimitsAreCheckedAtTheCallAndNamed) {
  SmallStore s(true);
  Process p(s.disk, 81);
  p.options.wal_limit = 256_MiB;  // the largest value needs a quarter of it, and of the cache
  p.options.memory = 80_MiB;
  ASSERT_TRUE(p.open().has_value());
  Database& db = *p.db;
  const Tree t = db.tree("main").value();
  const std::string key(kMaxKeyBytes + 1, 'k'), value(kMaxValueBytes + 1, 'v');
  const auto says = [](const Error& e, Code code, std::size_t limit) {
    EXPECT_EQ(e, code);
    EXPECT_NE(e.message().find(std::to_string(limit)), std::string::npos) << e.message();
  };
  auto txn = db.begin().value();
  for (const Error& e :
       {db.put(t, key, "").error(), db.insert(t, key, "").error(), db.remove(t, key).error(),
        db.get(t, key).error(), txn.put(t, key, "").error(), txn.insert(t, key, "").error(),
        txn.remove(t, key).error(), txn.get(t, key).error(), txn.get_for_update(t, key).error()})
    says(e, Code::key_too_long, kMaxKeyBytes);
  for (const Error& e : {db.put(t, "k", value).error(), db.insert(t, "k", value).error(),
                         txn.put(t, "k", value).error()})
    says(e, Code::value_too_long, kMaxValueBytes);
  // An argument error does not end the transaction.
  EXPECT_TRUE(txn.put(t, "fine", "1").has_value());
  EXPECT_TRUE(txn.commit().has_value());
  EXPECT_EQ(db.get(t, "fine").value(), "1");
  for (const std::string& name : {std::string(), std::string(kMaxTreeNameBytes + 1, 'n')}) {
    EXPECT_EQ(db.tree(name).error(), Code::bad_tree_name);
    EXPECT_EQ(db.tree(name, {.create = true}).error(), Code::bad_tree_name);
    EXPECT_EQ(db.drop_tree(name).error(), Code::bad_tree_name);
  }
  // What is just allowed survives a reopening.
  const std::string longest(kMaxTreeNameBytes, '\xff'), zeros(3, '\0');
  for (const std::string& name : {longest, zeros, std::string(" ")}) {
    ASSERT_TRUE(db.tree(name, {.create = true}).has_value());
    const auto put = db.put(db.tree(name).value(), std::string(kMaxKeyBytes, '\0'),
                            std::string(kMaxValueBytes, 'V'));
    ASSERT_TRUE(put.has_value()) << put.error().message();
    ASSERT_TRUE(db.put(db.tree(name).value(), "", "").has_value());
  }
  ASSERT_TRUE(p.close().has_value());
  ASSERT_TRUE(p.open().has_value());
  for (const std::string& name : {longest, zeros, std::string(" ")}) {
    const auto tree = p.db->tree(name);
    ASSERT_TRUE(tree.has_value());
    EXPECT_EQ(p.db->get(*tree, std::string(kMaxKeyBytes, '\0')).value().size(), kMaxValueBytes);
    EXPECT_EQ(p.db->get(*tree, "").value(), "");
  }
}

TEST(BadInput, ClosedHandlesAnswerClosedHandle) {
  SmallStore s(true);
  Process p(s.disk, 91);
  ASSERT_TRUE(p.open().has_value());
  Database& db = *p.db;
  const Tree t = db.tree("main").value();
  auto ended = db.begin().value();
  ASSERT_TRUE(ended.put(t, "a", "1").has_value());
  auto cursor_of_ended = ended.scan(t, {});
  auto ticket = ended.commit_async().value();
  EXPECT_FALSE(ended.active());
  for (const Error& e :
       {ended.put(t, "a", "1").error(), ended.get(t, "a").error(), ended.remove(t, "a").error(),
        ended.insert(t, "a", "1").error(), ended.get_for_update(t, "a").error(),
        ended.commit().error(), ended.commit_async().error(), ended.rollback().error(),
        ended.scan(t, {}).status().error()})
    EXPECT_EQ(e, Code::closed_handle);
  EXPECT_FALSE(cursor_of_ended.next());
  EXPECT_EQ(cursor_of_ended.status().error(), Code::closed_handle);

  auto open = db.begin().value();
  ASSERT_TRUE(open.put(t, "never", "1").has_value());
  auto cursor = db.scan(t, {});
  ASSERT_TRUE(cursor.next());
  ASSERT_TRUE(db.close().has_value());
  while (cursor.next()) {
  }
  EXPECT_EQ(cursor.status().error(), Code::closed_handle);
  EXPECT_TRUE(ticket.wait().has_value());  // closing made it durable
  EXPECT_EQ(open.commit().error(), Code::closed_handle);
  Lookup out;
  const std::string_view key = "a";
  for (const Error& e :
       {db.tree("main").error(), db.drop_tree("side").error(), db.tree_names().error(),
        db.tree_info(t).error(), db.begin().error(), db.read_only().error(), db.get(t, "a").error(),
        db.put(t, "a", "1").error(), db.insert(t, "a", "1").error(), db.remove(t, "a").error(),
        db.wait_durable(1).error(), db.checkpoint().error(), db.check().error(), db.page(1).error(),
        db.tree_nodes(t).error(), db.scan(t, {}).status().error(),
        db.multi_get(t, {&key, 1}, {&out, 1}).error(),
        db.wal_records([](const WalRecord&) { return true; }).error()})
    EXPECT_EQ(e, Code::closed_handle);
  EXPECT_EQ(db.stats().commits, 0u);
  EXPECT_EQ(db.info().pages, 0u);
  EXPECT_TRUE(db.close().has_value() || db.close().error() == Code::closed_handle);
  p.db.reset();
  ASSERT_TRUE(p.open().has_value());
  EXPECT_EQ(p.db->get(p.db->tree("main").value(), "never").error(), Code::not_found);
  EXPECT_EQ(p.db->get(p.db->tree("main").value(), "a").value(), "1");
  // Handles of another database, of a moved-from one, of nothing.
  EXPECT_EQ(p.db->get(t, "a").error(), Code::wrong_database);
  Database moved = std::move(*p.db);
  EXPECT_EQ(p.db->tree("main").error(),
            Code::closed_handle);  // NOLINT(bugprone-use-after-move): meant
  EXPECT_EQ(moved.get(Tree{}, "a").error(), Code::invalid_argument);
  EXPECT_EQ(CommitTicket{}.wait().has_value(), true);
}

}  // namespace
}  // namespace kessai::test
