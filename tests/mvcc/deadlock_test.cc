// SPDX-License-Identifier: Apache-2.0
// Goal: every deadlock is found when its last wait begins, costs the member with the least to lose,
// and is kept with all that is needed to understand it. Method: owners on threads of their own,
// brought into known states by polling the counters; time never moves, so no timeout can help.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/mvcc/lock_fixture.hpp"

namespace kessai::mvcc {
namespace {

class Deadlocks : public LockFixture {
 protected:
  Deadlocks() : LockFixture(true) {}
};

TEST_F(Deadlocks, TheYoungestOfEqualsIsGivenUpAndTheErrorNamesBothSides) {
  Actor &a = actor(1), &b = actor(2);
  ASSERT_TRUE(granted(a(record("left", kX))));
  ASSERT_TRUE(granted(b(record("right\n", kX))));
  wait(a, record("right\n", kX));
  const auto r = b(record("left", kX));
  ASSERT_TRUE(refused(r, Code::deadlock));
  EXPECT_TRUE(r.error().retryable());
  EXPECT_EQ(r.error().detail().tree, "7");
  EXPECT_EQ(r.error().detail().key, "left");
  for (const char* part : {"transaction 1", "transaction 2", "\"left\"", "\"right\\x0a\""})
    EXPECT_NE(r.error().message().find(part), std::string::npos) << r.error().message();
  EXPECT_TRUE(table_.holds(b.set(), kTree, "right\n"));
  EXPECT_FALSE(a.idle());
  b.release();
  EXPECT_TRUE(granted(a.finish()));
  EXPECT_EQ(table_.counters().deadlocks, 1u);
  EXPECT_EQ(table_.counters().timeouts, 0u);
}

TEST_F(Deadlocks, TheLeastWorkIsGivenUpEvenWhenItWaitsAlready) {
  Actor &a = actor(1), &b = actor(2);
  ASSERT_TRUE(granted(a(record("left", kX))));
  ASSERT_TRUE(granted(b(record("right", kX))));
  b.set().add_work(5);
  wait(a, record("right", kX));
  clock_.advance(kSecond);
  b.start(record("left", kX));
  EXPECT_TRUE(refused(a.finish(), Code::deadlock));
  EXPECT_FALSE(b.idle());
  const auto kept = table_.deadlocks();
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(kept[0].victim, OwnerId{1});
  EXPECT_EQ(kept[0].at_ns, clock_.now_ns());
  ASSERT_EQ(kept[0].cycle.size(), 2u);
  const auto &newest = kept[0].cycle[0], &other = kept[0].cycle[1];
  EXPECT_EQ(newest.owner, OwnerId{2});
  EXPECT_EQ(newest.name.key, "left");
  EXPECT_EQ(newest.work, 6u);
  EXPECT_EQ(newest.waited_ns, 0u);
  EXPECT_EQ(other.owner, OwnerId{1});
  EXPECT_EQ(other.name.key, "right");
  EXPECT_EQ(other.name.tree, kTree);
  EXPECT_EQ(other.wants, kX);
  EXPECT_EQ(other.work, 1u);
  EXPECT_EQ(other.waited_ns, kSecond);
  EXPECT_NE(newest.thread, other.thread);
  a.release();
  EXPECT_TRUE(granted(b.finish()));
}

TEST_F(Deadlocks, TwoUpgradesOfOneRecordAreFoundAtOnce) {
  Actor &a = actor(1), &b = actor(2), &c = actor(3);
  for (Actor* x : {&a, &b, &c}) ASSERT_TRUE(granted((*x)(record("row", kS))));
  wait(a, record("row", kX));
  EXPECT_TRUE(refused(b(record("row", kX)), Code::deadlock));
  EXPECT_TRUE(table_.holds(b.set(), kTree, "row", kS));
  b.release();
  EXPECT_FALSE(a.idle());
  c.release();
  EXPECT_TRUE(granted(a.finish()));
}

TEST_F(Deadlocks, ARingOfManyIsFound) {
  constexpr std::uint64_t kMembers = 12;
  for (std::uint64_t i = 0; i < kMembers; ++i)
    ASSERT_TRUE(granted(actor(i + 1)(record(std::to_string(i), kX))));
  actors_[5]->set();  // 6 is neither first nor last
  for (std::uint64_t i = 0; i < kMembers; ++i)
    if (i != 5) actors_[i]->set().add_work(1);
  for (std::uint64_t i = 0; i + 1 < kMembers; ++i)
    wait(*actors_[i], record(std::to_string(i + 1), kX));
  actors_[kMembers - 1]->start(record("0", kX));
  EXPECT_TRUE(refused(actors_[5]->finish(), Code::deadlock));
  EXPECT_EQ(table_.deadlocks().at(0).cycle.size(), kMembers);
  EXPECT_EQ(table_.counters().waiting, kMembers - 1);
  for (std::uint64_t i = 0, at = 5; i < kMembers; ++i, at = (at + kMembers - 1) % kMembers) {
    if (i > 0) {
      EXPECT_TRUE(granted(actors_[at]->finish()));
    }
    actors_[at]->release();
  }
}

// C waits behind B's request; B's owner waits for C elsewhere would be no cycle through holders.
TEST_F(Deadlocks, AnEarlierWaiterInTheQueueCounts) {
  Actor &reader = actor(1), &writer = actor(2), &c = actor(3);
  ASSERT_TRUE(granted(reader(record("row", kS))));
  ASSERT_TRUE(granted(c(record("other", kX))));
  wait(writer, record("row", kX));  // behind the reader
  wait(c, record("row", kS));       // behind the writer only
  // The reader now waits for c: reader -> c -> writer -> reader.
  reader.set().add_work(10);
  c.set().add_work(10);
  reader.start(record("other", kX));
  EXPECT_TRUE(refused(writer.finish(), Code::deadlock));
  EXPECT_TRUE(granted(c.finish()));  // moved up
  EXPECT_FALSE(reader.idle());
  c.release();
  EXPECT_TRUE(granted(reader.finish()));
  ASSERT_EQ(table_.deadlocks().size(), 1u);
  EXPECT_EQ(owners(table_.deadlocks()[0].cycle), (Ids{1, 3, 2}));
}

TEST_F(Deadlocks, WaitersThatAreNotInTheCycleLive) {
  Actor &a = actor(1), &b = actor(2), &idle1 = actor(10), &idle2 = actor(11), &idle3 = actor(12);
  ASSERT_TRUE(granted(a(record("left", kX))));
  ASSERT_TRUE(granted(b(record("right", kX))));
  wait(idle1, record("left", kX));  // in front of b, younger and with less work
  wait(idle2, record("right", kS));
  wait(a, record("right", kX));
  EXPECT_TRUE(refused(b(record("left", kX)), Code::deadlock));
  wait(idle3, record("left", kS));
  EXPECT_EQ(table_.counters().deadlocks, 1u);
  EXPECT_EQ(table_.counters().waiting, 4u);
  b.release();
  EXPECT_TRUE(granted(idle2.finish()));
  idle2.release();
  EXPECT_TRUE(granted(a.finish()));
  a.release();
  EXPECT_TRUE(granted(idle1.finish()));
  idle1.release();
  EXPECT_TRUE(granted(idle3.finish()));
}

// One wait closes two cycles at once; both are broken, each at its cheapest member.
TEST_F(Deadlocks, AllCyclesThroughAWaitAreBroken) {
  Actor &r1 = actor(1), &r2 = actor(2), &w = actor(3);
  ASSERT_TRUE(granted(r1(record("row", kS))));
  ASSERT_TRUE(granted(r2(record("row", kS))));
  ASSERT_TRUE(granted(w(record("x", kX))));
  w.set().add_work(10);
  wait(r1, record("x", kS));
  wait(r2, record("x", kS));
  w.start(record("row", kX));
  EXPECT_TRUE(refused(r1.finish(), Code::deadlock));
  EXPECT_TRUE(refused(r2.finish(), Code::deadlock));
  EXPECT_EQ(table_.counters().deadlocks, 2u);
  r1.release();
  EXPECT_FALSE(w.idle());
  r2.release();
  EXPECT_TRUE(granted(w.finish()));
}

TEST_F(Deadlocks, NamesRecordsAndRangesMeetInOneGraph) {
  Actor &a = actor(1), &b = actor(2), &c = actor(3);
  ASSERT_TRUE(granted(a(named("job", kX))));
  ASSERT_TRUE(granted(b(record("row", kX))));
  ASSERT_TRUE(granted(c(range("p", "q"))));
  wait(a, record("row", kS));
  wait(b, record("pp", kX));  // the record lock is had, the range is in the way
  const auto r = c(named("job", kS));
  ASSERT_TRUE(refused(r, Code::deadlock));
  EXPECT_NE(r.error().message().find("name \"job\""), std::string::npos) << r.error().message();
  EXPECT_EQ(r.error().detail().tree, "");
  const auto kept = table_.deadlocks();
  ASSERT_EQ(kept.size(), 1u);
  ASSERT_EQ(kept[0].cycle.size(), 3u);
  EXPECT_EQ(kept[0].cycle[0].name.kind, LockKind::named);
  EXPECT_EQ(kept[0].cycle[2].name.key, "pp");
  c.release();
  EXPECT_TRUE(granted(b.finish()));
  b.release();
  EXPECT_TRUE(granted(a.finish()));
}

TEST_F(Deadlocks, TheLastOnesAreKeptOldestFirst) {
  Actor &a = actor(1), &b = actor(2);
  constexpr std::size_t kRounds = LockTable::kDeadlocksKept + 3;
  for (std::size_t i = 0; i < kRounds; ++i) {
    const std::string left = "l" + std::to_string(i), right = "r" + std::to_string(i);
    ASSERT_TRUE(granted(a(record(left, kX))));
    ASSERT_TRUE(granted(b(record(right, kX))));
    wait(a, record(right, kX));
    b.set().add_work(0);
    ASSERT_FALSE(b(record(left, kX)).has_value());
    b.release();
    ASSERT_TRUE(granted(a.finish()));
    a.release();
    a.set().reset(OwnerId{10 + 2 * i});
    b.set().reset(OwnerId{11 + 2 * i});
  }
  EXPECT_EQ(table_.counters().deadlocks, kRounds);
  const auto kept = table_.deadlocks();
  ASSERT_EQ(kept.size(), LockTable::kDeadlocksKept);
  EXPECT_EQ(kept.front().cycle[0].name.key, "l3");
  EXPECT_EQ(kept.back().cycle[0].name.key, "l" + std::to_string(kRounds - 1));
}

// Pairs of keys in both orders, upgrades and ranges, by threads that wait for ever: every knot is
// cut by the search, since nothing else could.
TEST(DeadlockStress, BothOrdersOfTwoKeysAlwaysResolve) {
  const std::uint64_t seed = seed_or(815);
  SCOPED_TRACE("KESSAI_SEED=" + std::to_string(seed));
  constexpr unsigned kThreads = 6, kRounds = 1500;
  LockTable table(io::system_clock(), LockTable::Options{.ranges = true, .waits = nullptr});
  std::atomic<std::uint64_t> next{1}, victims{0}, done{0};
  std::array<std::uint64_t, 2> plain{};  // guarded by the record locks
  std::vector<io::Thread> threads;
  for (unsigned t = 0; t < kThreads; ++t)
    threads.emplace_back("locker", [&, t] {
      io::SeededRandom random(seed + t);
      LockSet set(OwnerId{1});
      for (unsigned round = 0; round < kRounds; ++round) {
        set.reset(OwnerId{next.fetch_add(1)});
        const std::size_t first = random.below(2);
        const auto step = [&](std::size_t key, bool may_read) -> Result<void> {
          const std::string name(1, static_cast<char>('1' + key));
          if (may_read && random.below(4) == 0) {
            const auto r = table.acquire(set, kTree, name, kS, kLong);
            if (!r) return std::unexpected(r.error());
          }
          if (may_read && random.below(8) == 0) {
            const auto r = table.acquire_range(set, kTree, "0", "9", kLong);
            if (!r) return std::unexpected(r.error());
          }
          const auto r = table.acquire(set, kTree, name, kX, kLong);
          if (!r) return std::unexpected(r.error());
          return {};
        };
        auto r = step(first, true);
        if (random.below(2) == 0) io::yield_thread();
        if (r) r = step(1 - first, true);
        if (r) {
          ++plain[0];
          ++plain[1];
          done.fetch_add(1);
        } else {
          EXPECT_EQ(r.error(), Code::deadlock);
          victims.fetch_add(1);
        }
        table.release_all(set);
      }
    });
  for (io::Thread& t : threads) t.join();
  EXPECT_EQ(done + victims, std::uint64_t{kThreads} * kRounds);
  EXPECT_EQ(plain[0], done.load());
  EXPECT_EQ(plain[1], done.load());
  const LockTable::Counters c = table.counters();
  EXPECT_EQ(c.deadlocks, victims.load());
  EXPECT_GT(c.deadlocks, 0u);
  EXPECT_EQ(c.timeouts, 0u);
  EXPECT_EQ(c.held, 0u);
  EXPECT_EQ(c.waiting, 0u);
}

}  // namespace
}  // namespace kessai::mvcc
