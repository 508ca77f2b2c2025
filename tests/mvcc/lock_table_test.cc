// SPDX-License-Identifier: Apache-2.0
// Goal: record and named locks: who is granted what and when, bounded waits, exact counters and
// views. Method: owners on threads of their own, brought into known states by polling the counters.
#include "mvcc/lock_table.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "tests/mvcc/lock_fixture.hpp"

namespace kessai::mvcc {
namespace {

class LockTableTest : public LockFixture {};

TEST_F(LockTableTest, TakesOnceAndReleasesAll) {
  LockSet a(OwnerId{1});
  const auto lock = [&](std::string_view key) {
    return table_.acquire(a, kTree, key, kX, 0).value();
  };
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(lock(std::to_string(i)));
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(lock(std::to_string(i)));
  EXPECT_TRUE(table_.acquire(a, TreeId{8}, "1", kX, 0).value());
  EXPECT_EQ(a.size(), 1001u);
  EXPECT_EQ(a.work(), 1001u);
  EXPECT_EQ(table_.counters().held, 1001u);
  EXPECT_TRUE(table_.holds(a, kTree, "999"));
  EXPECT_FALSE(table_.holds(a, kTree, "1000"));
  table_.release_all(a);
  EXPECT_EQ(a.size(), 0u);
  EXPECT_EQ(table_.counters().held, 0u);
  EXPECT_FALSE(table_.holds(a, kTree, "999"));
}

TEST_F(LockTableTest, NowaitNamesTheRecord) {
  Actor &other = actor(1), &mine = actor(2);
  ASSERT_TRUE(granted(other(record("row", kX))));
  const auto r = mine(record("row", kX, 0));
  ASSERT_TRUE(refused(r, Code::lock_timeout));
  EXPECT_TRUE(r.error().retryable());
  EXPECT_EQ(r.error().detail().tree, "7");
  EXPECT_EQ(r.error().detail().key, "row");
  EXPECT_EQ(table_.counters().waits, 0u);
  EXPECT_EQ(table_.counters().timeouts, 0u);
  other.release();
  EXPECT_TRUE(granted(mine(record("row", kX, 0))));
}

TEST_F(LockTableTest, ReadersShareAndAWriterWaitsForAllOfThem) {
  Actor &a = actor(1), &b = actor(2), &w = actor(3);
  EXPECT_TRUE(granted(a(record("row", kS, 0))));
  EXPECT_TRUE(granted(b(record("row", kS, 0))));
  EXPECT_FALSE(a(record("row", kS, 0)).value());  // held already
  EXPECT_EQ(table_.counters().held, 1u);
  EXPECT_TRUE(table_.holds(b.set(), kTree, "row", kS));
  EXPECT_FALSE(table_.holds(b.set(), kTree, "row", kX));
  wait(w, record("row", kX));
  a.release();
  EXPECT_FALSE(w.idle());
  EXPECT_EQ(owners(view_of("row").holders), (Ids{2}));
  b.release();
  EXPECT_TRUE(granted(w.finish()));
  EXPECT_FALSE(w(record("row", kS, 0)).value());  // exclusive is stronger
  EXPECT_TRUE(refused(a(record("row", kS, 0)), Code::lock_timeout));
}

// The holder that leaves first is not the one that the lock's cache line names.
TEST_F(LockTableTest, SharersLeaveInAnyOrder) {
  for (const std::vector<int>& order :
       {std::vector{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}) {
    std::vector<std::unique_ptr<LockSet>> sets;
    for (std::uint64_t i = 0; i < 3; ++i) {
      sets.push_back(std::make_unique<LockSet>(OwnerId{i + 1}));
      ASSERT_TRUE(table_.acquire(*sets.back(), kTree, "row", kS, 0).value());
    }
    for (std::size_t left = 3; left > 0; --left) {
      EXPECT_EQ(view_of("row").holders.size(), left);
      LockSet& set = *sets[static_cast<std::size_t>(order[3 - left])];
      EXPECT_TRUE(table_.holds(set, kTree, "row", kS));
      table_.release_all(set);
      EXPECT_FALSE(table_.holds(set, kTree, "row", kS));
    }
    EXPECT_EQ(table_.counters().held, 0u);
  }
}

TEST_F(LockTableTest, AReaderDoesNotOvertakeAWaitingWriter) {
  Actor &r1 = actor(1), &w = actor(2), &r2 = actor(3);
  ASSERT_TRUE(granted(r1(record("row", kS))));
  wait(w, record("row", kX));
  EXPECT_TRUE(refused(r2(record("row", kS, 0)), Code::lock_timeout));
  wait(r2, record("row", kS));
  r1.release();
  EXPECT_TRUE(granted(w.finish()));
  EXPECT_FALSE(r2.idle());
  w.release();
  EXPECT_TRUE(granted(r2.finish()));
}

TEST_F(LockTableTest, OneReleaseGrantsAllReadersInFrontAndNobodyBehindAWriter) {
  Actor& holder = actor(1);
  ASSERT_TRUE(granted(holder(record("row", kX))));
  std::vector<Actor*> readers;
  for (std::uint64_t i = 0; i < 20; ++i) {
    readers.push_back(&actor(10 + i));
    wait(*readers.back(), record("row", kS));
  }
  Actor &w = actor(2), &late = actor(3);
  wait(w, record("row", kX));
  wait(late, record("row", kS));
  holder.release();
  for (Actor* r : readers) EXPECT_TRUE(granted(r->finish()));
  EXPECT_EQ(table_.counters().waiting, 2u);
  for (Actor* r : readers) r->release();
  EXPECT_TRUE(granted(w.finish()));
  EXPECT_FALSE(late.idle());
  w.release();
  EXPECT_TRUE(granted(late.finish()));
}

TEST_F(LockTableTest, AWaiterThatTimesOutLetsThoseBehindItMoveUp) {
  Actor &r1 = actor(1), &w = actor(2), &r2 = actor(3), &r3 = actor(4);
  ASSERT_TRUE(granted(r1(record("row", kS))));
  wait(w, record("row", kX, kSecond));
  wait(r2, record("row", kS));
  wait(r3, record("row", kS));
  clock_.advance(2 * kSecond);
  EXPECT_TRUE(refused(w.finish(), Code::lock_timeout));
  EXPECT_TRUE(granted(r2.finish()));
  EXPECT_TRUE(granted(r3.finish()));
  EXPECT_EQ(w.set().size(), 0u);
  const LockTable::Counters c = table_.counters();
  EXPECT_EQ(c.waiting, 0u);
  EXPECT_EQ(c.waits, 3u);
  EXPECT_EQ(c.timeouts, 1u);
}

// Every position of a queue of four times out once: last, middle, first, only one.
TEST_F(LockTableTest, AnyWaiterCanLeaveTheQueue) {
  Actor& holder = actor(100);
  ASSERT_TRUE(granted(holder(record("row", kX))));
  const std::uint64_t patience[] = {3, 2, 4, 1};
  for (std::uint64_t i = 0; i < 4; ++i)
    wait(actor(i + 1), record("row", kX, patience[i] * kSecond));
  const std::vector<Ids> queues = {{1, 2, 3, 4}, {1, 2, 3}, {1, 3}, {3}};
  std::uint64_t waited = 0;
  for (const Ids& queue : queues) {
    await_waiting(queue.size());
    const LockTable::View v = view_of("row");
    EXPECT_EQ(owners(v.holders), (Ids{100}));
    EXPECT_EQ(owners(v.waiters), queue);
    EXPECT_EQ(v.name.tree, kTree);
    for (const auto& w : v.waiters) EXPECT_EQ(w.waited_ns, waited);
    clock_.advance(kSecond);
    waited += kSecond;
  }
  await_waiting(0);
  EXPECT_EQ(table_.counters().timeouts, 4u);
}

TEST_F(LockTableTest, HandsOverInTheOrderOfArrival) {
  Actor& holder = actor(100);
  ASSERT_TRUE(granted(holder(record("row", kX))));
  std::vector<std::uint64_t> order;  // guarded by the record lock itself
  for (std::uint64_t i = 1; i <= 8; ++i)
    wait(actor(i), [&, i](LockSet& set) {
      auto r = table_.acquire(set, kTree, "row", kX, kLong);
      order.push_back(i);
      table_.release_all(set);
      return r;
    });
  holder.release();
  for (auto& a : actors_) (void)a->finish();
  EXPECT_EQ(order, (Ids{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(table_.counters().held, 0u);
}

TEST_F(LockTableTest, ReleaseWithWaitersLeavesNoGapToBargeIn) {
  Actor &holder = actor(1), &waiter = actor(2), &late = actor(3);
  ASSERT_TRUE(granted(holder(record("row", kX))));
  wait(waiter, record("row", kX));
  holder.release();
  EXPECT_TRUE(refused(late(record("row", kX, 0)), Code::lock_timeout));
  EXPECT_TRUE(granted(waiter.finish()));
}

TEST_F(LockTableTest, TheOnlyHolderUpgradesAtOnceWhoeverWaits) {
  Actor &a = actor(1), &w = actor(2);
  ASSERT_TRUE(granted(a(record("row", kS))));
  wait(w, record("row", kX));
  EXPECT_TRUE(granted(a(record("row", kX, 0))));
  EXPECT_TRUE(table_.holds(a.set(), kTree, "row", kX));
  EXPECT_EQ(a.set().size(), 1u);
  EXPECT_FALSE(w.idle());
  a.release();
  EXPECT_TRUE(granted(w.finish()));
}

TEST_F(LockTableTest, AnUpgradeGoesAheadOfTheQueue) {
  Actor &a = actor(1), &b = actor(2), &w = actor(3), &r = actor(4);
  ASSERT_TRUE(granted(a(record("row", kS))));
  ASSERT_TRUE(granted(b(record("row", kS))));
  wait(w, record("row", kX));
  wait(r, record("row", kS));
  wait(a, record("row", kX));
  EXPECT_EQ(owners(view_of("row").waiters), (Ids{1, 3, 4}));
  b.release();
  EXPECT_TRUE(granted(a.finish()));
  EXPECT_EQ(a.set().size(), 1u);
  EXPECT_EQ(table_.counters().waiting, 2u);
  a.release();
  EXPECT_TRUE(granted(w.finish()));
  w.release();
  EXPECT_TRUE(granted(r.finish()));
}

TEST_F(LockTableTest, AFailedUpgradeLeavesTheSharedLockAndTheQueueMovesUp) {
  Actor &a = actor(1), &b = actor(2), &r = actor(3);
  ASSERT_TRUE(granted(a(record("row", kS))));
  ASSERT_TRUE(granted(b(record("row", kS))));
  EXPECT_TRUE(refused(a(record("row", kX, 0)), Code::lock_timeout));
  wait(a, record("row", kX, kSecond));
  wait(r, record("row", kS));  // behind the upgrade
  clock_.advance(2 * kSecond);
  EXPECT_TRUE(refused(a.finish(), Code::lock_timeout));
  EXPECT_TRUE(granted(r.finish()));
  EXPECT_TRUE(table_.holds(a.set(), kTree, "row", kS));
  EXPECT_FALSE(table_.holds(a.set(), kTree, "row", kX));
  EXPECT_EQ(view_of("row").holders.size(), 3u);
}

TEST_F(LockTableTest, NamesAreApartFromRecords) {
  Actor &a = actor(1), &b = actor(2);
  ASSERT_TRUE(granted(a([&](LockSet& set) { return table_.acquire(set, TreeId{}, "x", kX, 0); })));
  EXPECT_TRUE(granted(b(named("x", kX, 0))));
  EXPECT_FALSE(b(named("x", kS, 0)).value());
  const auto r = a(named("x", kS, 0));
  ASSERT_TRUE(refused(r, Code::lock_timeout));
  EXPECT_EQ(r.error().detail().tree, "");
  EXPECT_EQ(r.error().detail().key, "x");
  EXPECT_EQ(owners(view_of("x", LockKind::named).holders), (Ids{2}));
  EXPECT_EQ(owners(view_of("x", LockKind::record).holders), (Ids{1}));
  wait(a, named("x", kS));
  b.release();
  EXPECT_TRUE(granted(a.finish()));
}

TEST_F(LockTableTest, AnotherTransactionOfTheSameThreadIsReportedAtOnce) {
  LockSet a(OwnerId{1}), b(OwnerId{2});
  ASSERT_TRUE(table_.acquire(a, kTree, "row", kX, 0).value());
  ASSERT_TRUE(table_.acquire(a, kTree, "read", kS, 0).value());
  ASSERT_TRUE(table_.acquire(b, kTree, "read", kS, 0).value());
  for (const auto& [key, mode] : {std::pair{"row", kX}, {"row", kS}, {"read", kX}}) {
    const auto r = table_.acquire(b, kTree, key, mode, kLong);
    ASSERT_FALSE(r.has_value()) << key;
    EXPECT_EQ(r.error(), Code::self_deadlock);
    EXPECT_FALSE(r.error().retryable());
    EXPECT_EQ(r.error().detail().key, key);
  }
  EXPECT_EQ(table_.counters().self_deadlocks, 3u);
  EXPECT_EQ(table_.counters().waits, 0u);
  table_.release_all(a);
  EXPECT_TRUE(table_.acquire(b, kTree, "row", kX, 0).value());
  table_.release_all(b);
}

// The lock in the way is not of this thread, but its owner waits for one that is.
TEST_F(LockTableTest, WaitingForAThreadThatWaitsForThisOneIsReportedAtOnce) {
  LockSet a(OwnerId{1}), b(OwnerId{2});
  Actor& other = actor(3);
  ASSERT_TRUE(table_.acquire(a, kTree, "row", kX, 0).value());
  ASSERT_TRUE(granted(other(record("other", kX))));
  wait(other, record("row", kX));
  const auto r = table_.acquire(b, kTree, "other", kX, kLong);
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error(), Code::self_deadlock);
  EXPECT_EQ(table_.counters().self_deadlocks, 1u);
  table_.release_all(a);
  EXPECT_TRUE(granted(other.finish()));
}

TEST_F(LockTableTest, ViewsNameModesThreadsAndTheFirstBytesOfKeys) {
  Actor &a = actor(1), &b = actor(2);
  const std::string longer(LockTable::kNameKept + 1, 'k');
  const std::string exact(LockTable::kNameKept, 'e');
  ASSERT_TRUE(granted(a(record(longer, kX))));
  ASSERT_TRUE(granted(a(record(exact, kS))));
  ASSERT_TRUE(granted(b(record(exact, kS))));
  const LockTable::View cut = view_of(longer.substr(0, LockTable::kNameKept));
  EXPECT_TRUE(cut.name_is_cut);
  ASSERT_EQ(cut.holders.size(), 1u);
  EXPECT_EQ(cut.holders[0].mode, kX);
  const LockTable::View whole = view_of(exact);
  EXPECT_FALSE(whole.name_is_cut);
  ASSERT_EQ(whole.holders.size(), 2u);
  EXPECT_EQ(whole.holders[0].mode, kS);
  EXPECT_NE(whole.holders[0].thread, whole.holders[1].thread);
  wait(b, record(longer, kS));
  const LockTable::View waited = view_of(longer);
  EXPECT_FALSE(waited.name_is_cut);
  ASSERT_EQ(waited.waiters.size(), 1u);
  EXPECT_EQ(waited.waiters[0].mode, kS);
  a.release();
  EXPECT_TRUE(granted(b.finish()));
}

TEST_F(LockTableTest, AnotherThreadMayReleaseForAnOwner) {
  Actor &a = actor(1), &b = actor(2);
  for (int i = 0; i < 20; ++i)
    ASSERT_TRUE(granted(a(record(std::to_string(i), i % 2 == 0 ? kX : kS))));
  wait(b, record("4", kX));
  a.release();  // by this thread
  EXPECT_TRUE(granted(b.finish()));
  EXPECT_EQ(table_.counters().held, 1u);
}

// Readers and writers of few keys in any order, some impatient: writers are alone, readers see no
// writer, no wake-up or deadlock is missed (else somebody would wait for an hour) and nothing stays
// behind.
TEST(LockTableStress, ManyThreadsLeaveTheCountersAtZero) {
  const std::uint64_t seed = seed_or(4711);
  SCOPED_TRACE("KESSAI_SEED=" + std::to_string(seed));
  constexpr unsigned kThreads = 32, kRounds = 200, kKeys = 12;
  LockTable table(io::system_clock(), LockTable::Options{});
  struct Row {
    std::atomic<int> readers{0};
    std::uint64_t plain = 0;  // guarded by the record lock
  };
  std::vector<Row> rows(kKeys);
  std::atomic<std::uint64_t> written{0};
  std::vector<io::Thread> threads;
  for (unsigned t = 0; t < kThreads; ++t)
    threads.emplace_back("locker", [&, t] {
      io::SeededRandom random(seed + t);
      LockSet set(OwnerId{1});
      for (unsigned round = 0; round < kRounds; ++round) {
        set.reset(OwnerId{std::uint64_t{t} * kRounds + round + 1});
        std::vector<std::uint64_t> keys, reading;
        for (auto n = 1 + random.below(4); n > 0; --n) keys.push_back(random.below(kKeys));
        if (random.below(2) == 0) std::sort(keys.begin(), keys.end());
        keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
        const std::uint64_t timeout =
            std::array<std::uint64_t, 3>{0, 100'000, kLong}[random.below(3)];
        for (const std::uint64_t key : keys) {
          const LockMode mode = random.below(3) == 0 ? kX : kS;
          const auto r = table.acquire(set, kTree, std::to_string(key), mode, timeout);
          if (!r) {
            EXPECT_TRUE(r.error() == Code::lock_timeout || r.error() == Code::deadlock);
            break;
          }
          if (!*r) continue;
          Row& row = rows[key];
          if (mode == kX) {
            EXPECT_EQ(row.readers.load(),
                      std::count(reading.begin(), reading.end(), key));  // our own at most
            ++row.plain;
            written.fetch_add(1);
          } else {
            row.readers.fetch_add(1);
            reading.push_back(key);
          }
          if (random.below(4) == 0) io::yield_thread();
        }
        for (const std::uint64_t key : reading) rows[key].readers.fetch_sub(1);
        table.release_all(set);
      }
    });
  for (io::Thread& t : threads) t.join();
  std::uint64_t sum = 0;
  for (const Row& row : rows) sum += row.plain;
  EXPECT_EQ(sum, written.load());
  const LockTable::Counters c = table.counters();
  EXPECT_EQ(c.held, 0u);
  EXPECT_EQ(c.waiting, 0u);
  EXPECT_GT(c.waits, 0u);
  EXPECT_EQ(c.self_deadlocks, 0u);
}

}  // namespace
}  // namespace kessai::mvcc
