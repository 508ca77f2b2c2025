// SPDX-License-Identifier: Apache-2.0
// Goal: a locked range stops exactly the writers of its keys, and the other way round; what an
// owner has is never in its own way; failures give back exactly what was new. Method: owners on
// threads of their own, brought into known states by polling the counters.
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "io/check.hpp"
#include "tests/mvcc/lock_fixture.hpp"

namespace kessai::mvcc {
namespace {

class LockRanges : public LockFixture {
 protected:
  LockRanges() : LockFixture(true) {}
};

// Rows 10, 20, 30 exist; somebody scans [11, 15]: the interval is locked, not the gap (10, 20).
TEST_F(LockRanges, ARangeBlocksItsKeysAndNotTheRestOfTheGap) {
  Actor &scan = actor(1), &writer = actor(2);
  ASSERT_TRUE(granted(scan(range("11", std::string("15\0", 3), 0))));
  for (const char* key : {"11", "12", "15"}) {
    const auto r = writer(record(key, kX, 0));
    EXPECT_TRUE(refused(r, Code::lock_timeout)) << key;
    EXPECT_EQ(r.error().detail().key, key);
  }
  EXPECT_EQ(writer.set().size(), 0u);
  for (const char* key : {"10", "150", "17", "20"})
    EXPECT_TRUE(granted(writer(record(key, kX, 0)))) << key;
  EXPECT_TRUE(granted(writer(record("12", kS, 0))));  // readers meet
  EXPECT_TRUE(granted(writer([&](LockSet& set) {      // another tree
    return table_.acquire(set, TreeId{8}, "12", kX, 0);
  })));
}

TEST_F(LockRanges, AWriterWaitsForTheRangeAndARangeForTheWriter) {
  Actor &scan = actor(1), &writer = actor(2), &late = actor(3);
  ASSERT_TRUE(granted(scan(range("b", "d"))));
  wait(writer, record("c", kX));
  scan.release();
  EXPECT_TRUE(granted(writer.finish()));
  EXPECT_TRUE(refused(late(range("a", "z", 0)), Code::lock_timeout));
  EXPECT_TRUE(granted(late(range("a", "c", 0))));  // exclusive end
  wait(late, range("a", std::nullopt));
  writer.release();
  EXPECT_TRUE(granted(late.finish()));
  EXPECT_EQ(late.set().size(), 1u);
}

TEST_F(LockRanges, NobodyOvertakesAWaitingRangeOrWriter) {
  Actor &w1 = actor(1), &scan = actor(2), &w2 = actor(3), &scan2 = actor(4);
  ASSERT_TRUE(granted(w1(record("c", kX))));
  wait(scan, range("a", "m"));
  EXPECT_TRUE(refused(w2(record("d", kX, 0)), Code::lock_timeout));  // behind the scan
  EXPECT_TRUE(granted(w2(record("x", kX, 0))));
  wait(w2, record("d", kX));
  EXPECT_TRUE(refused(scan2(range("d", "e", 0)), Code::lock_timeout));  // behind w2
  EXPECT_TRUE(granted(scan2(range("e", "f", 0))));
  wait(scan2, range("a", "e"));
  w1.release();
  EXPECT_TRUE(granted(scan.finish()));
  EXPECT_EQ(table_.counters().waiting, 2u);
  scan.release();
  EXPECT_TRUE(granted(w2.finish()));
  w2.release();
  EXPECT_TRUE(granted(scan2.finish()));
}

TEST_F(LockRanges, OneReleaseGrantsAllThatCanGo) {
  Actor& w = actor(1);
  ASSERT_TRUE(granted(w(record("m", kX))));
  std::vector<Actor*> scans;
  for (std::uint64_t i = 0; i < 5; ++i) {
    scans.push_back(&actor(10 + i));
    wait(*scans.back(), range("a", "z"));
  }
  w.release();
  for (Actor* scan : scans) EXPECT_TRUE(granted(scan->finish()));
  std::vector<Actor*> writers;
  for (std::uint64_t i = 0; i < 5; ++i) {
    writers.push_back(&actor(20 + i));
    wait(*writers.back(), record(std::string(1, static_cast<char>('b' + i)), kX));
  }
  for (Actor* scan : scans) scan->release();
  for (Actor* writer : writers) EXPECT_TRUE(granted(writer->finish()));
}

TEST_F(LockRanges, AWaiterThatTimesOutLetsThoseBehindItMoveUp) {
  Actor &r = actor(1), &w = actor(2), &r2 = actor(3);
  ASSERT_TRUE(granted(r(range("a", "m"))));
  wait(w, record("c", kX, kSecond));
  wait(r2, range("b", "d"));
  clock_.advance(2 * kSecond);
  EXPECT_TRUE(refused(w.finish(), Code::lock_timeout));
  EXPECT_TRUE(granted(r2.finish()));
  EXPECT_EQ(w.set().size(), 0u);
  EXPECT_TRUE(granted(w(record("c", kS, 0))));  // the record lock went back
}

TEST_F(LockRanges, IntervalsOfOneOwnerThatTouchBecomeOne) {
  Actor& a = actor(1);
  EXPECT_TRUE(granted(a(range("b", "d", 0))));
  EXPECT_FALSE(a(range("b", "d", 0)).value());
  EXPECT_FALSE(a(range("c", "cc", 0)).value());
  EXPECT_FALSE(a(range("x", "x", 0)).value());  // no keys
  EXPECT_TRUE(granted(a(range("d", "f", 0))));  // touches
  EXPECT_EQ(a.set().size(), 1u);
  EXPECT_TRUE(granted(a(range("m", "p", 0))));  // apart
  EXPECT_EQ(a.set().size(), 2u);
  EXPECT_TRUE(granted(a(range("a", "c", 0))));  // overlaps in front
  EXPECT_TRUE(granted(a(range("o", "q", 0))));  // overlaps behind
  EXPECT_EQ(a.set().size(), 2u);
  EXPECT_EQ(table_.counters().held, 2u);
  EXPECT_TRUE(granted(a(range("e", "n", 0))));  // bridges
  EXPECT_EQ(a.set().size(), 1u);
  const LockTable::View v = view_of("a", LockKind::range);
  EXPECT_EQ(v.name.to, "q");
  EXPECT_EQ(v.hash, 0u);
  EXPECT_TRUE(granted(a(range("p", std::nullopt, 0))));
  EXPECT_EQ(view_of("a", LockKind::range).name.to, std::nullopt);
  EXPECT_FALSE(a(range("zz", std::nullopt, 0)).value());
  EXPECT_FALSE(a(range("zz", "zzz", 0)).value());
  a.release();
  EXPECT_EQ(table_.counters().held, 0u);
}

TEST_F(LockRanges, IntervalsOfTwoOwnersStayApart) {
  Actor &a = actor(1), &b = actor(2), &w = actor(3);
  EXPECT_TRUE(granted(a(range("b", "d", 0))));
  EXPECT_TRUE(granted(b(range("c", "e", 0))));
  wait(w, record("c", kX));
  a.release();
  EXPECT_FALSE(w.idle());
  b.release();
  EXPECT_TRUE(granted(w.finish()));
}

TEST_F(LockRanges, AnOwnersKeysAndRangesAreNotInItsOwnWay) {
  Actor &a = actor(1), &b = actor(2);
  ASSERT_TRUE(granted(a(record("c", kX, 0))));
  EXPECT_TRUE(granted(a(range("a", "m", 0))));
  EXPECT_TRUE(granted(a(record("d", kX, 0))));
  // A writer that waits for our interval is not in the way of its extension, only of the new part.
  wait(b, record("e", kX));
  EXPECT_TRUE(granted(a(range("b", "z", 0))));
  a.release();
  EXPECT_TRUE(granted(b.finish()));
}

TEST_F(LockRanges, AFailedWriterHoldsWhatItHeldBefore) {
  Actor &scan = actor(1), &w = actor(2), &reader = actor(3), &waiting = actor(4);
  ASSERT_TRUE(granted(scan(range("a", "m"))));
  ASSERT_TRUE(granted(w(record("c", kS))));
  // The record lock upgrades, the range refuses: shared again, and other readers come in.
  EXPECT_TRUE(refused(w(record("c", kX, 0)), Code::lock_timeout));
  EXPECT_TRUE(table_.holds(w.set(), kTree, "c", kS));
  EXPECT_FALSE(table_.holds(w.set(), kTree, "c", kX));
  EXPECT_TRUE(granted(reader(record("c", kS, 0))));
  reader.release();
  wait(w, record("c", kX, kSecond));
  wait(waiting, record("c", kS));
  clock_.advance(2 * kSecond);
  EXPECT_TRUE(refused(w.finish(), Code::lock_timeout));
  EXPECT_TRUE(granted(waiting.finish()));
  EXPECT_EQ(w.set().size(), 1u);
  // Newly taken ones go back whole, in and beyond the inline part of the set.
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(refused(w(record("d", kX, 0)), Code::lock_timeout));
    EXPECT_FALSE(table_.holds(w.set(), kTree, "d", kS));
    EXPECT_TRUE(granted(w(record("z" + std::to_string(i), kX, 0))));
  }
  EXPECT_EQ(w.set().size(), 21u);
}

TEST_F(LockRanges, BothHalvesOfAWaitShareOneTimeout) {
  Actor &scan = actor(1), &other = actor(2), &w = actor(3);
  ASSERT_TRUE(granted(scan(range("a", "m"))));
  ASSERT_TRUE(granted(other(record("c", kS))));
  wait(w, record("c", kX, 10 * kSecond));
  clock_.advance(8 * kSecond);
  other.release();
  // Now it waits for the range; the queue for the record is empty.
  while (table_.counters().waits != 2) io::yield_thread();
  clock_.advance(3 * kSecond);
  EXPECT_TRUE(refused(w.finish(), Code::lock_timeout));
  EXPECT_EQ(w.set().size(), 0u);
}

TEST_F(LockRanges, ARangeOfTheSameThreadIsReportedAtOnce) {
  LockSet a(OwnerId{1}), b(OwnerId{2});
  ASSERT_TRUE(table_.acquire_range(a, kTree, "a", "m", 0).value());
  ASSERT_TRUE(table_.acquire(a, kTree, "x", kX, 0).value());
  const auto w = table_.acquire(b, kTree, "c", kX, kLong);
  ASSERT_FALSE(w.has_value());
  EXPECT_EQ(w.error(), Code::self_deadlock);
  const auto r = table_.acquire_range(b, kTree, "n", std::nullopt, kLong);
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error(), Code::self_deadlock);
  EXPECT_EQ(b.size(), 0u);
  EXPECT_EQ(table_.counters().self_deadlocks, 2u);
  table_.release_all(a);
}

TEST_F(LockRanges, ViewsShowWhoWaitsForWhom) {
  Actor &scan = actor(1), &w = actor(2), &scan2 = actor(3), &w2 = actor(4);
  ASSERT_TRUE(granted(scan(range("b", "d"))));
  ASSERT_TRUE(granted(w(record("x", kX))));
  wait(w, record("c", kX));               // for scan
  wait(scan2, range("c", std::nullopt));  // for w's x, and behind its c
  wait(w2, record("y", kX));              // behind scan2
  const LockTable::View held = view_of("b", LockKind::range);
  EXPECT_EQ(owners(held.holders), (Ids{1}));
  EXPECT_EQ(owners(held.waiters), (Ids{2}));
  EXPECT_EQ(held.waiters[0].mode, kX);
  EXPECT_EQ(owners(view_of("x").waiters), (Ids{3}));
  EXPECT_EQ(owners(view_of("c").waiters), (Ids{3}));
  EXPECT_EQ(owners(view_of("c").holders), (Ids{2}));
  const LockTable::View wish = view_of("c", LockKind::range);
  EXPECT_TRUE(wish.holders.empty());
  EXPECT_EQ(owners(wish.waiters), (Ids{3, 4}));
  scan.release();
  EXPECT_TRUE(granted(w.finish()));
  w.release();
  EXPECT_TRUE(granted(scan2.finish()));
  scan2.release();
  EXPECT_TRUE(granted(w2.finish()));
}

TEST_F(LockRanges, EveryWaitIsCountedUnderItsName) {
  io::Waits waits;
  LockTable table(clock_, LockTable::Options{.ranges = true, .waits = &waits});
  Actor holder(table, 1), waiter(table, 2);
  ASSERT_TRUE(granted(holder([&](LockSet& set) -> Result<bool> {
    KESSAI_TRY(table.acquire(set, kTree, "row", kX, 0));
    KESSAI_TRY(table.acquire_named(set, "job", kX, 0));
    return table.acquire_range(set, kTree, "a", "b", 0);
  })));
  const std::vector<std::pair<io::Wait, Actor::Call>> calls = {
      {io::Wait::lock_row,
       [&](LockSet& set) { return table.acquire(set, kTree, "row", kS, kSecond); }},
      {io::Wait::lock_named,
       [&](LockSet& set) { return table.acquire_named(set, "job", kS, kSecond); }},
      {io::Wait::lock_range,
       [&](LockSet& set) { return table.acquire(set, kTree, "aa", kX, kSecond); }},
      {io::Wait::lock_range,
       [&](LockSet& set) { return table.acquire_range(set, kTree, "c", std::nullopt, kSecond); }}};
  std::array<std::uint64_t, io::kWaits> expected{};
  for (const auto& [wait, call] : calls) {
    waiter.start(call);
    while (table.counters().waiting != 1) io::yield_thread();
    clock_.advance(kSecond);
    EXPECT_TRUE(refused(waiter.finish(), Code::lock_timeout));
    ++expected[static_cast<std::size_t>(wait)];
    for (std::size_t w = 0; w < io::kWaits; ++w) {
      EXPECT_EQ(waits.totals()[w].count, expected[w]) << io::wait_name(static_cast<io::Wait>(w));
      EXPECT_EQ(waits.totals()[w].ns, expected[w] * kSecond);
    }
  }
}

TEST_F(LockRanges, TwoScansThatBothInsertAreADeadlock) {
  Actor &a = actor(1), &b = actor(2);
  ASSERT_TRUE(granted(a(range("a", "m"))));
  ASSERT_TRUE(granted(b(range("a", "m"))));
  wait(a, record("c", kX));
  EXPECT_TRUE(refused(b(record("d", kX)), Code::deadlock));  // same work, younger
  EXPECT_EQ(b.set().size(), 1u);
  b.release();
  EXPECT_TRUE(granted(a.finish()));
}

TEST_F(LockRanges, ARecordAndARangeCanBeADeadlock) {
  Actor &a = actor(1), &b = actor(2);
  ASSERT_TRUE(granted(a(range("a", "m"))));
  ASSERT_TRUE(granted(b(record("x", kX))));
  a.set().add_work(10);
  wait(b, record("c", kX));
  // b is the victim, and this range is granted as soon as b gives up its locks.
  a.start(range("n", std::nullopt));
  EXPECT_TRUE(refused(b.finish(), Code::deadlock));
  EXPECT_FALSE(a.idle());
  const auto cycles = table_.deadlocks();
  ASSERT_EQ(cycles.size(), 1u);
  ASSERT_EQ(cycles[0].cycle.size(), 2u);
  EXPECT_EQ(cycles[0].cycle[0].name.kind, LockKind::range);
  EXPECT_EQ(cycles[0].cycle[0].name.key, "n");
  EXPECT_EQ(cycles[0].cycle[0].name.to, std::nullopt);
  EXPECT_EQ(cycles[0].cycle[1].name.key, "c");
  b.release();
  EXPECT_TRUE(granted(a.finish()));
}

TEST_F(LockRanges, ReleaseEmptiesTheTreesOfManyTables) {
  Actor& a = actor(1);
  for (std::uint32_t t = 1; t <= 300; ++t) {
    EXPECT_TRUE(granted(a(
        [&](LockSet& set) { return table_.acquire_range(set, TreeId{t}, "a", std::nullopt, 0); })));
    EXPECT_TRUE(
        granted(a([&](LockSet& set) { return table_.acquire(set, TreeId{t}, "b", kX, 0); })));
  }
  EXPECT_EQ(a.set().size(), 600u);
  EXPECT_EQ(table_.counters().held, 600u);
  a.release();
  EXPECT_EQ(table_.counters().held, 0u);
  EXPECT_EQ(a.set().size(), 0u);
}

}  // namespace
}  // namespace kessai::mvcc
