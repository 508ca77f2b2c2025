// SPDX-License-Identifier: Apache-2.0
// Goal: one owner per record, FIFO hand-off, bounded waits, exact counters. Method: threads brought
// into known states by polling the counters; time is a clock that the test moves.
#include "mvcc/lock_table.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>
#include <vector>

#include "io/env.hpp"

namespace kessai::mvcc {
namespace {

constexpr TreeId kTree{7};
constexpr std::uint64_t kSecond = 1'000'000'000;

class ManualClock final : public io::Clock {
 public:
  std::uint64_t now_ns() override { return now_.load(); }
  std::uint64_t unix_micros() override { return now_.load() / 1000; }
  void advance(std::uint64_t ns) { now_.fetch_add(ns); }

 private:
  std::atomic<std::uint64_t> now_{1};
};

class LockTableTest : public testing::Test {
 protected:
  Result<bool> lock(LockSet& set, std::string_view key, std::uint64_t timeout = 0) {
    return table_.acquire(set, kTree, key, timeout);
  }
  void await_waiting(std::uint64_t n) {
    while (table_.counters().waiting != n) io::yield_thread();
  }
  /// A lock held by another thread's transaction.
  void lock_elsewhere(LockSet& set, std::string_view key) {
    io::Thread("elsewhere", [&] { EXPECT_TRUE(lock(set, key).value()); }).join();
  }

  // Thread indexes are reused after a thread's exit: this one keeps the first, the test's own.
  const unsigned my_index_ = io::thread_index();
  ManualClock clock_;
  LockTable table_{clock_};
};

TEST_F(LockTableTest, TakesOnceAndReleasesAll) {
  LockSet a(OwnerId{1});
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(lock(a, std::to_string(i)).value());
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(lock(a, std::to_string(i)).value());
  EXPECT_TRUE(table_.acquire(a, TreeId{8}, "1", 0).value());
  EXPECT_EQ(a.size(), 1001u);
  EXPECT_EQ(table_.counters().held, 1001u);
  EXPECT_TRUE(table_.holds(a, kTree, "999"));
  EXPECT_FALSE(table_.holds(a, kTree, "1000"));
  table_.release_all(a);
  EXPECT_EQ(a.size(), 0u);
  EXPECT_EQ(table_.counters().held, 0u);
  EXPECT_FALSE(table_.holds(a, kTree, "999"));
}

TEST_F(LockTableTest, NowaitNamesTheRecord) {
  LockSet other(OwnerId{1}), mine(OwnerId{2});
  lock_elsewhere(other, "row");
  const auto r = lock(mine, "row");
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error(), Code::lock_timeout);
  EXPECT_TRUE(r.error().retryable());
  EXPECT_EQ(r.error().detail().tree, "7");
  EXPECT_EQ(r.error().detail().key, "row");
  EXPECT_EQ(table_.counters().waits, 0u);
  table_.release_all(other);
  EXPECT_TRUE(lock(mine, "row").value());
  table_.release_all(mine);
}

TEST_F(LockTableTest, AnotherTransactionOfTheSameThreadIsReportedAtOnce) {
  LockSet a(OwnerId{1}), b(OwnerId{2});
  ASSERT_TRUE(lock(a, "row").value());
  const auto r = lock(b, "row", 3600 * kSecond);
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error(), Code::self_deadlock);
  EXPECT_FALSE(r.error().retryable());
  EXPECT_EQ(r.error().detail().key, "row");
  EXPECT_EQ(table_.counters().self_deadlocks, 1u);
  table_.release_all(a);
  EXPECT_TRUE(lock(b, "row").value());
  table_.release_all(b);
}

// The first waiter's time runs out; the second, behind it, gets the lock.
TEST_F(LockTableTest, TimeoutLeavesTheQueue) {
  LockSet mine(OwnerId{1});
  ASSERT_TRUE(lock(mine, "row").value());
  io::Thread first("first", [&] {
    LockSet set(OwnerId{2});
    const auto r = lock(set, "row", kSecond);
    ASSERT_FALSE(r.has_value());
    EXPECT_EQ(r.error(), Code::lock_timeout);
    EXPECT_EQ(r.error().detail().key, "row");
    EXPECT_EQ(set.size(), 0u);
  });
  await_waiting(1);
  io::Thread second("second", [&] {
    LockSet set(OwnerId{3});
    EXPECT_TRUE(lock(set, "row", 10 * kSecond).value());
    table_.release_all(set);
  });
  await_waiting(2);
  clock_.advance(2 * kSecond);
  first.join();
  EXPECT_EQ(table_.counters().waiting, 1u);
  table_.release_all(mine);
  second.join();
  const LockTable::Counters c = table_.counters();
  EXPECT_EQ(c.held, 0u);
  EXPECT_EQ(c.waits, 2u);
  EXPECT_EQ(c.timeouts, 1u);
}

// Every position of a queue of four times out once: last, middle, first, only one.
TEST_F(LockTableTest, AnyWaiterCanLeaveTheQueue) {
  LockSet mine(OwnerId{100});
  ASSERT_TRUE(lock(mine, "row").value());
  const std::uint64_t patience[] = {3, 2, 4, 1};
  std::vector<io::Thread> threads;
  for (std::uint64_t i = 0; i < 4; ++i) {
    threads.emplace_back("waiter", [&, i] {
      LockSet set(OwnerId{i + 1});
      EXPECT_FALSE(lock(set, "row", patience[i] * kSecond).has_value());
    });
    await_waiting(i + 1);
  }
  const std::vector<std::vector<OwnerId>> queues = {
      {OwnerId{1}, OwnerId{2}, OwnerId{3}, OwnerId{4}},
      {OwnerId{1}, OwnerId{2}, OwnerId{3}},
      {OwnerId{1}, OwnerId{3}},
      {OwnerId{3}}};
  for (const auto& queue : queues) {
    await_waiting(queue.size());
    int locks = 0;
    table_.iterate([&](const LockTable::View& v) {
      ++locks;
      EXPECT_EQ(v.owner, OwnerId{100});
      EXPECT_EQ(v.waiters, queue);
      EXPECT_EQ(v.key, "row");
      EXPECT_EQ(v.tree, kTree);
    });
    EXPECT_EQ(locks, 1);
    clock_.advance(kSecond);
  }
  for (io::Thread& t : threads) t.join();
  EXPECT_EQ(table_.counters().waiting, 0u);
  table_.release_all(mine);
  EXPECT_EQ(table_.counters().held, 0u);
}

TEST_F(LockTableTest, HandsOverInTheOrderOfArrival) {
  LockSet mine(OwnerId{100});
  ASSERT_TRUE(lock(mine, "row").value());
  std::vector<std::uint64_t> order;  // guarded by the record lock itself
  std::vector<io::Thread> threads;
  for (std::uint64_t i = 0; i < 8; ++i) {
    threads.emplace_back("waiter", [&, i] {
      LockSet set(OwnerId{i + 1});
      ASSERT_TRUE(lock(set, "row", kSecond).value());
      order.push_back(i);
      table_.release_all(set);
    });
    await_waiting(i + 1);
  }
  table_.release_all(mine);
  // The lock went to the first waiter at the release: a latecomer cannot have overtaken.
  for (io::Thread& t : threads) t.join();
  EXPECT_EQ(order, (std::vector<std::uint64_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(table_.counters().held, 0u);
}

TEST_F(LockTableTest, ReleaseWithWaitersLeavesNoGapToBargeIn) {
  LockSet mine(OwnerId{1}), late(OwnerId{3});
  ASSERT_TRUE(lock(mine, "row").value());
  std::atomic<bool> may_release{false};
  io::Thread waiter("waiter", [&] {
    LockSet set(OwnerId{2});
    ASSERT_TRUE(lock(set, "row", kSecond).value());
    while (!may_release.load()) io::yield_thread();
    table_.release_all(set);
  });
  await_waiting(1);
  table_.release_all(mine);
  const auto r = lock(late, "row");
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error(), Code::lock_timeout);
  may_release = true;
  waiter.join();
}

// 64 threads lock one to four random keys of few and count under them; some do not wait, some are
// impatient. No update is lost and nothing stays behind.
TEST_F(LockTableTest, ManyThreadsLeaveTheCountersAtZero) {
  const char* given = std::getenv("KESSAI_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : 4711;
  SCOPED_TRACE("KESSAI_SEED=" + std::to_string(seed));
  constexpr unsigned kThreads = 64, kRounds = 150, kKeys = 24;
  LockTable table(io::system_clock());
  std::vector<std::uint64_t> plain(kKeys);  // each guarded by its record lock
  std::atomic<std::uint64_t> taken{0};
  std::vector<io::Thread> threads;
  for (unsigned t = 0; t < kThreads; ++t)
    threads.emplace_back("locker", [&, t] {
      io::SeededRandom random(seed + t);
      LockSet set(OwnerId{0});
      for (unsigned round = 0; round < kRounds; ++round) {
        set.reset(OwnerId{std::uint64_t{t} * kRounds + round + 1});
        std::vector<std::uint64_t> keys;
        for (auto n = 1 + random.below(4); n > 0; --n) keys.push_back(random.below(kKeys));
        // Sorted, so that patient waiters cannot deadlock.
        std::sort(keys.begin(), keys.end());
        const std::uint64_t timeout =
            std::array<std::uint64_t, 3>{0, 100'000, 60 * kSecond}[random.below(3)];
        for (const std::uint64_t key : keys) {
          const auto r = table.acquire(set, kTree, std::to_string(key), timeout);
          if (!r) {
            EXPECT_EQ(r.error(), Code::lock_timeout);
            break;
          }
          if (!*r) continue;
          ++plain[key];
          taken.fetch_add(1);
          if (random.below(8) == 0) io::yield_thread();
        }
        table.release_all(set);
      }
    });
  for (io::Thread& t : threads) t.join();
  std::uint64_t sum = 0;
  for (const std::uint64_t n : plain) sum += n;
  EXPECT_EQ(sum, taken.load());
  const LockTable::Counters c = table.counters();
  EXPECT_EQ(c.held, 0u);
  EXPECT_EQ(c.waiting, 0u);
  EXPECT_GT(c.waits, 0u);
  EXPECT_EQ(c.self_deadlocks, 0u);
}

}  // namespace
}  // namespace kessai::mvcc
