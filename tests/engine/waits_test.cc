// SPDX-License-Identifier: Apache-2.0
// Goal: each wait of the engine is counted under its name and nothing else is; before-images are
// kept, shown, and given up in the promised order (collect, collect between snapshots, slow writers
// down, give up the oldest snapshot).
// Method: each event is provoked on the simulated disk, without engine threads where that can be,
// and its counter read before and after; what only a race can provoke is tried in rounds until it
// was counted.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/policy.hpp"
#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "io/sync.hpp"
#include "io/waits.hpp"
#include "kessai/kessai.hpp"

namespace kessai {
namespace {

using io::Wait;

struct World {
  io::SimDisk disk{5};
  std::unique_ptr<io::Directory> directory = disk.attach();
  io::Env env;
  Options options;
  std::optional<Database> db;
  Tree main;

  explicit World(bool background = false) {
    options.create = true;
    options.memory = 16_MiB;
    options.wal_limit = 16_MiB;
    options.flush_interval = std::chrono::hours(1);
    env.directory = directory.get();
    env.background = background;
    options.env = &env;
  }
  World& open() {
    auto opened = Database::open("sim", options);
    if (!opened) ADD_FAILURE() << opened.error().message();
    db.emplace(std::move(opened).value());
    main = db->tree("main").value();
    return *this;
  }
  [[nodiscard]] WaitInfo wait(Wait w) const { return db->waits().at(static_cast<std::size_t>(w)); }
  [[nodiscard]] std::uint64_t count(Wait w) const { return wait(w).count; }
  Lsn put(std::string_view k, std::string_view v, Durability d = Durability::relaxed) {
    const auto lsn = db->put(main, k, v, d);
    if (!lsn) ADD_FAILURE() << lsn.error().message();
    return lsn.value_or(0);
  }
  Lsn remove(std::string_view k) { return db->remove(main, k, Durability::relaxed).value(); }
  void make_durable() { ASSERT_TRUE(db->wait_durable(db->stats().applied_lsn).has_value()); }
};

std::string key(unsigned i) {
  std::string digits = std::to_string(i);
  return "k" + std::string(6 - digits.size(), '0') + digits;
}

const std::string kRow(1000, 'r');  // with its entry header just over the granularity of budgets

/// One row a key, in one transaction.
void put_rows(World& w, unsigned from, unsigned to, std::string_view value) {
  auto txn = w.db->begin({.durability = Durability::relaxed}).value();
  for (unsigned i = from; i < to; ++i) ASSERT_TRUE(txn.put(w.main, key(i), value).has_value()) << i;
  const auto done = txn.commit();
  ASSERT_TRUE(done.has_value()) << done.error().message();
}

TEST(EngineWaits, EveryEventIsListedAndWorkWithoutWaitsCountsNone) {
  World w;
  w.open();
  const auto before = w.db->waits();
  ASSERT_EQ(before.size(), io::kWaits);
  for (std::size_t i = 0; i < io::kWaits; ++i)
    EXPECT_EQ(before[i].name, io::wait_name(static_cast<Wait>(i)));
  put_rows(w, 0, 1000, kRow);
  for (unsigned i = 0; i < 100; ++i) w.remove(key(i));
  for (auto c = w.db->begin()->scan(w.main, {}); c.next();) {
  }
  EXPECT_GT(w.db->stats().leaf_splits, 0u);
  for (std::size_t i = 0; i < io::kWaits; ++i)
    EXPECT_EQ(w.db->waits()[i].count, before[i].count) << before[i].name;
}

TEST(EngineWaits, AFlushIsWaitedForByDurableCommitsOnly) {
  World w;
  w.open();
  const WaitInfo before = w.wait(Wait::wal_flush);
  w.put("k", "v");
  EXPECT_EQ(w.count(Wait::wal_flush), before.count);
  w.put("k", "v", Durability::durable);
  EXPECT_EQ(w.count(Wait::wal_flush), before.count + 1);
  EXPECT_GT(w.wait(Wait::wal_flush).total, before.total);
  EXPECT_EQ(w.db->stats().wal_flush_waits, before.count + 1);
  ASSERT_TRUE(w.db->wait_durable(w.db->stats().durable_lsn).has_value());  // no wait
  EXPECT_EQ(w.count(Wait::wal_flush), before.count + 1);
}

TEST(EngineWaits, RoomInTheLogIsWaitedFor) {
  World w;
  w.options.wal_limit = 512_KiB;
  w.open();
  for (unsigned i = 0; i < 1000 && w.count(Wait::wal_space) == 0; ++i) w.put(key(i % 10), kRow);
  EXPECT_GT(w.count(Wait::wal_space), 0u);
}

TEST(EngineWaits, PagesThatAreNotInMemoryAreWaitedFor) {
  World w;
  w.options.memory = 1_MiB;
  w.open();
  for (unsigned i = 0; i < 3000; ++i) w.put(key(i), kRow);
  w.make_durable();
  const std::uint64_t before = w.count(Wait::buffer_miss), misses = w.db->stats().page_misses;
  for (unsigned i = 0; i < 3000; ++i) ASSERT_EQ(w.db->get(w.main, key(i * 7 % 3000)).value(), kRow);
  const std::uint64_t read = w.db->stats().page_misses - misses;
  EXPECT_GT(read, 500u);
  EXPECT_EQ(w.count(Wait::buffer_miss) - before, read);  // page by page, nobody else
  EXPECT_EQ(w.count(Wait::page_latch), 0u);
}

TEST(EngineWaits, ACheckpointThatMustKeepUpWithAWriterIsWaitedFor) {
  // The first commit makes a checkpoint begin. The second changes more pages of its cut than
  // copies may be kept of: it has to write them out itself.
  World w;
  w.open();
  put_rows(w, 0, 3000, kRow);
  ASSERT_EQ(w.count(Wait::checkpoint), 0u);
  put_rows(w, 0, 3000, kRow);
  EXPECT_GT(w.count(Wait::checkpoint), 0u);
  EXPECT_TRUE(w.db->check().value().ok);
}

TEST(EngineWaits, LocksOfOtherTransactionsAreWaitedFor) {
  constexpr std::chrono::milliseconds kShort{1};
  World w;
  w.open();
  auto holder = w.db->begin().value();
  ASSERT_TRUE(holder.put(w.main, "k", "v").has_value());
  ASSERT_TRUE(holder.lock_named("job").has_value());
  io::Thread other("other", [&] {
    auto txn = w.db->begin().value();
    EXPECT_EQ(txn.put(w.main, "k", "v", kNoWait).error(), Code::lock_timeout);
    EXPECT_EQ(w.count(Wait::lock_row), 0u);  // a refusal is no wait
    EXPECT_EQ(txn.put(w.main, "k", "v", kShort).error(), Code::lock_timeout);
    EXPECT_EQ(txn.lock_named("job", LockMode::exclusive, kShort).error(), Code::lock_timeout);
  });
  other.join();
  EXPECT_EQ(w.count(Wait::lock_row), 1u);
  EXPECT_EQ(w.count(Wait::lock_named), 1u);
  EXPECT_GE(w.wait(Wait::lock_row).total, kShort);
}

// Threads append to the same leaves, which split all the time.
TEST(EngineWaits, ThreadsInEachOthersWayAreCounted) {
  constexpr unsigned kThreads = 4, kEach = 500, kRounds = 400;
  World w(true);
  w.options.memory = 64_MiB;
  w.options.wal_limit = 64_MiB;
  w.open();
  w.main = w.db->tree("t", {.create = true}).value();
  std::atomic<unsigned> next{0};
  unsigned rounds = 0;
  for (; rounds < kRounds && !HasFailure(); ++rounds) {
    if (w.count(Wait::leaf_split) > 0 && w.count(Wait::page_latch) > 0) break;
    {
      std::vector<io::Thread> threads;
      for (unsigned t = 0; t < kThreads; ++t) {
        threads.emplace_back("append", [&] {
          for (unsigned i = 0; i < kEach; ++i) w.put(key(next.fetch_add(1) % 900'000), kRow);
        });
      }
    }
    if (next.load() > 8000) {  // again in an empty tree
      next.store(0);
      ASSERT_TRUE(w.db->drop_tree("t").has_value());
      w.main = w.db->tree("t", {.create = true}).value();
    }
  }
  RecordProperty("rounds", static_cast<int>(rounds));
  EXPECT_GT(w.count(Wait::leaf_split), 0u);
  EXPECT_GT(w.count(Wait::page_latch), 0u);
  EXPECT_EQ(w.db->stats().leaf_split_waits, w.count(Wait::leaf_split));
  EXPECT_EQ(w.db->stats().page_latch_waits, w.count(Wait::page_latch));
}

TEST(EngineWaits, TwoDatabasesDoNotMeetAndCountingCanBeSwitchedOff) {
  World busy, quiet, off;
  off.env.count_waits = false;
  busy.open();
  quiet.open();
  off.open();
  const auto before = quiet.count(Wait::wal_flush);
  for (unsigned i = 0; i < 10; ++i) {
    busy.put("k", "v", Durability::durable);
    off.put("k", "v", Durability::durable);
  }
  EXPECT_GE(busy.count(Wait::wal_flush), 10u);
  EXPECT_EQ(quiet.count(Wait::wal_flush), before);
  for (const WaitInfo& i : off.db->waits()) EXPECT_EQ(i.count, 0u) << i.name;
  EXPECT_EQ(busy.env.waits, nullptr);  // the caller's Env is not touched
  Database closed = std::move(*busy.db);
  ASSERT_TRUE(closed.close().has_value());
  EXPECT_TRUE(closed.waits().empty());
  EXPECT_EQ(closed.undo().limit, 0u);
}

// ---- before-images and their budget ----------------------------------------------------------

class EngineUndo : public testing::Test {
 protected:
  void SetUp() override {
    if (engine::kS2pl) GTEST_SKIP() << "no snapshots in the S2PL build";
  }
};

TEST_F(EngineUndo, OldVersionsAreLookedForWhereThereAreSome) {
  World w;
  w.open();
  w.put("k", "old");
  const auto before = w.count(Wait::undo_read);
  auto old = w.db->begin().value();
  ASSERT_EQ(old.get(w.main, "k").value(), "old");
  w.put("k", "new");
  EXPECT_EQ(w.count(Wait::undo_read), before);
  ASSERT_EQ(old.get(w.main, "k").value(), "old");
  EXPECT_EQ(w.count(Wait::undo_read), before + 1);
  ASSERT_EQ(w.db->begin()->get(w.main, "k").value(), "new");  // in the leaf
  EXPECT_EQ(w.count(Wait::undo_read), before + 1);
}

TEST_F(EngineUndo, WritersAreSlowedDownBeforeASnapshotIsGivenUp) {
  World w;
  w.options.undo_memory = 1_MiB;
  w.open();
  put_rows(w, 0, 2000, kRow);
  w.make_durable();
  w.put("x", "collects what the load left");
  auto reader = w.db->begin().value();
  ASSERT_EQ(reader.get(w.main, key(0)).value(), kRow);
  const UndoInfo start = w.db->undo();
  EXPECT_EQ(start.limit, 1_MiB);
  EXPECT_EQ(start.oldest_snapshot, reader.snapshot());
  EXPECT_EQ(start.oldest_transaction, reader.id());
  unsigned i = 0;
  const auto update_until = [&](auto&& reached) {
    for (; i < 2000 && !reached(w.db->undo()); ++i) {
      w.put(key(i), "new");
      if (i % 16 == 0) w.make_durable();
    }
    return w.db->undo();
  };
  const UndoInfo slow = update_until([](const UndoInfo& u) { return u.throttled > 0; });
  EXPECT_GT(slow.bytes, slow.limit / 8 * 7);
  EXPECT_LE(slow.bytes, slow.limit);
  EXPECT_EQ(slow.snapshots_killed, 0u);
  EXPECT_EQ(w.count(Wait::undo_space), slow.throttled);
  const auto late = w.db->begin().value();
  const auto open = w.db->transactions();
  ASSERT_EQ(open.size(), 2u);
  EXPECT_GT(open[0].undo_bytes, slow.limit / 2);
  EXPECT_LE(open[0].undo_bytes, slow.bytes);
  EXPECT_EQ(open[1].undo_bytes, open[0].undo_bytes);  // nothing is kept for it alone
  ASSERT_EQ(reader.get(w.main, key(0)).value(), kRow);
  const UndoInfo killed = update_until([](const UndoInfo& u) { return u.snapshots_killed > 0; });
  EXPECT_EQ(killed.snapshots_killed, 1u);
  EXPECT_TRUE(late.active());
  EXPECT_GT(killed.throttled, slow.throttled + 50);  // an eighth of a mebibyte in such rows
  EXPECT_LT(killed.bytes, killed.limit / 2);         // what the late one needs
  EXPECT_EQ(reader.get(w.main, key(0)).error(), Code::snapshot_too_old);
}

// What stands first in the undo's shards is an image of a hot row that the second snapshot needs:
// it hides what only the first one needed. Giving up the first is enough all the same.
TEST_F(EngineUndo, AYoungerSnapshotOutlivesTheOldestWhoseVersionsItHides) {
  constexpr unsigned kHot = 600, kCold = 1400, kLarge = 4300;
  const std::string row(100, 'r');
  World w;
  w.options.undo_memory = 1_MiB;
  w.open();
  put_rows(w, 0, kHot + kCold + kLarge, row);
  w.make_durable();
  const auto heat = [&] {
    for (unsigned i = 0; i < kHot; ++i) w.put(key(i), row);
    w.make_durable();
  };
  auto first = w.db->begin().value();
  ASSERT_EQ(first.get(w.main, key(0)).value(), row);
  heat();
  heat();
  for (unsigned i = kHot; i < kHot + kCold; ++i) w.put(key(i), row);
  w.make_durable();
  auto second = w.db->begin().value();
  ASSERT_EQ(second.get(w.main, key(0)).value(), row);
  heat();  // where the images were that nobody needed
  ASSERT_EQ(w.db->undo().snapshots_killed, 0u);
  put_rows(w, kHot + kCold, kHot + kCold + kLarge, std::string(100, 'l'));
  ASSERT_GT(w.db->undo().bytes, w.db->undo().limit);
  w.put(key(0), "makes room");
  EXPECT_EQ(w.db->undo().snapshots_killed, 1u);
  EXPECT_EQ(first.get(w.main, key(1)).error(), Code::snapshot_too_old);
  EXPECT_EQ(second.get(w.main, key(kHot + kCold)).value(), row);
}

TEST_F(EngineUndo, WritersBesideALongSnapshotOfHotRowsAreNotSlowedDown) {
  constexpr unsigned kHot = 100, kUpdates = 10'000;
  World w;
  w.options.undo_memory = 1_MiB;
  w.open();
  put_rows(w, 0, kHot, kRow);
  w.make_durable();
  auto reader = w.db->begin().value();
  for (unsigned i = 0; i < kUpdates; ++i) {
    w.put(key(i % kHot), kRow + std::to_string(i));
    if (i % 64 == 0) w.make_durable();
  }
  const UndoInfo u = w.db->undo();
  EXPECT_GT(u.pushed, std::uint64_t{kUpdates} - kHot);
  EXPECT_GE(u.entries, kHot);
  EXPECT_LE(u.bytes, u.limit);
  EXPECT_EQ(u.throttled, 0u);
  EXPECT_EQ(u.snapshots_killed, 0u);
  for (unsigned i = 0; i < kHot; ++i) ASSERT_EQ(reader.get(w.main, key(i)).value(), kRow) << i;
}

TEST_F(EngineUndo, AShortReaderFinishesWhileWritersAreSlowedDown) {
  constexpr unsigned kRows = 10'000;
  World w(true);
  w.options.undo_memory = 4_MiB;
  w.options.memory = 64_MiB;
  w.options.wal_limit = 64_MiB;
  w.options.flush_interval = std::chrono::milliseconds(1);
  w.open();
  for (unsigned i = 0; i < kRows; i += 1000) put_rows(w, i, i + 1000, kRow);
  w.make_durable();
  std::optional<Transaction> reader(w.db->begin().value());
  std::atomic<bool> stop{false};
  std::atomic<unsigned> written{0};
  io::Thread writer("writer", [&] {
    for (unsigned i = 0; i < kRows && !stop.load() && !HasFailure(); ++i) {
      w.put(key(i), "new");
      written.store(i + 1);
    }
  });
  while (w.count(Wait::undo_space) == 0 && written.load() < kRows) io::yield_thread();
  EXPECT_EQ(reader->get(w.main, key(0)).value_or("too old"), kRow);
  reader.reset();
  // Nothing is kept any more: the writer goes on at once.
  const unsigned then = written.load();
  while (written.load() < std::min(kRows, then + 1000)) io::yield_thread();
  stop.store(true);
  writer.join();
  EXPECT_GT(w.db->undo().throttled, 0u);
  EXPECT_EQ(w.db->undo().snapshots_killed, 0u);
}

TEST_F(EngineUndo, TheVersionsOfARowAreShownNewestFirst) {
  World w;
  w.open();
  EXPECT_TRUE(w.db->versions(w.main, "k").value().empty());
  const Lsn first = w.put("k", "first");
  auto s1 = w.db->begin().value();
  const Lsn second = w.put("k", std::string(5000, 's'));
  auto s2 = w.db->begin().value();
  const Lsn removed = w.remove("k");
  auto s3 = w.db->begin().value();
  const Lsn again = w.put("k", "again");
  const auto v = w.db->versions(w.main, "k").value();
  ASSERT_EQ(v.size(), 4u);
  const auto is = [](const VersionInfo& i, Lsn lsn, Lsn end, bool present, bool in_page,
                     std::string_view value) {
    EXPECT_EQ(i.lsn, lsn);
    EXPECT_EQ(i.end, end);
    EXPECT_EQ(i.present, present);
    EXPECT_EQ(i.in_page, in_page);
    EXPECT_EQ(i.value, value);
  };
  is(v[0], again, 0, true, true, "again");
  is(v[1], removed, again, false, false, "");
  is(v[2], second, removed, true, false, std::string(5000, 's'));
  is(v[3], first, second, true, false, "first");
  EXPECT_EQ(s1.get(w.main, "k").value(), v[3].value);
  EXPECT_EQ(s2.get(w.main, "k").value(), v[2].value);
  EXPECT_EQ(s3.get(w.main, "k").error(), Code::not_found);

  // A ghost is the current version as long as somebody may look past it.
  const Lsn gone = w.remove("k");
  const auto ghost = w.db->versions(w.main, "k").value();
  ASSERT_EQ(ghost.size(), 5u);
  is(ghost[0], gone, 0, false, true, "");
  is(ghost[1], again, gone, true, false, "again");
  for (auto* s : {&s1, &s2, &s3}) ASSERT_TRUE(s->rollback().has_value());
  w.make_durable();
  for (unsigned i = 0; i < 20; ++i) w.put(key(i), "steps the upkeep", Durability::durable);
  EXPECT_TRUE(w.db->versions(w.main, "k").value().empty());

  World other;
  other.open();
  EXPECT_EQ(other.db->versions(w.main, "k").error(), Code::wrong_database);
  EXPECT_EQ(w.db->versions({}, "k").error(), Code::invalid_argument);
  EXPECT_EQ(w.db->versions(w.main, std::string(kMaxKeyBytes + 1, 'k')).error(), Code::key_too_long);
}

}  // namespace
}  // namespace kessai
