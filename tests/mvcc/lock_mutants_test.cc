// SPDX-License-Identifier: Apache-2.0
// Goal: each planted bug of the lock table does what its name says, so that the harnesses that must
// find it look for something that is there. Method: the torture copy, one small scene per bug, the
// same scene right without it.
#include <gtest/gtest.h>

#include <string>

#include "io/mutant.hpp"
#include "tests/mvcc/lock_fixture.hpp"

namespace kessai::mvcc {
namespace {

class LockMutants : public LockFixture {
 protected:
  LockMutants() : LockFixture(true) {}
  ~LockMutants() override { io::set_mutant(""); }
};

TEST_F(LockMutants, GapLockMissing) {
  for (const bool planted : {false, true}) {
    io::set_mutant(planted ? "gap_lock_missing" : "");
    Actor &scan = actor(1), &w = actor(2);
    ASSERT_TRUE(scan(range("a", "m", 0)).has_value());
    EXPECT_EQ(w(record("c", kX, 0)).has_value(), planted);
    w.release();
    ASSERT_TRUE(w(record("x", kX, 0)).has_value());
    EXPECT_EQ(scan(range("a", "z", 0)).has_value(), planted);
    actors_.clear();
  }
}

TEST_F(LockMutants, LostWakeUp) {
  for (const bool planted : {false, true}) {
    io::set_mutant(planted ? "lost_wake_up" : "");
    Actor &w = actor(1), &r1 = actor(2), &r2 = actor(3);
    ASSERT_TRUE(granted(w(record("row", kX))));
    wait(r1, record("row", kS, kSecond));
    wait(r2, record("row", kS, kSecond));
    w.release();
    EXPECT_TRUE(granted(r1.finish()));
    EXPECT_EQ(table_.counters().waiting, planted ? 1u : 0u);
    clock_.advance(2 * kSecond);
    EXPECT_EQ(granted(r2.finish()), !planted);
    actors_.clear();
  }
}

TEST_F(LockMutants, SharedLockIgnored) {
  for (const bool planted : {false, true}) {
    io::set_mutant(planted ? "shared_lock_ignored" : "");
    Actor &r1 = actor(1), &r2 = actor(2), &w = actor(3);
    ASSERT_TRUE(granted(r1(record("row", kS))));
    ASSERT_TRUE(granted(r2(record("row", kS))));
    EXPECT_EQ(granted(w(record("row", kX, 0))), planted);
    EXPECT_FALSE(granted(r1(record("row", kX, 0))));
    w.release();
    ASSERT_EQ(granted(r1(record("row2", kS))), true);
    ASSERT_EQ(granted(r2(record("row2", kS))), true);
    EXPECT_EQ(granted(r2(record("row2", kX, 0))), planted);  // an upgrade
    actors_.clear();
    EXPECT_EQ(table_.counters().held, 0u);
  }
}

TEST_F(LockMutants, NoDeadlockCheck) {
  for (const bool planted : {false, true}) {
    io::set_mutant(planted ? "no_deadlock_check" : "");
    Actor &a = actor(1), &b = actor(2);
    ASSERT_TRUE(granted(a(record("left", kX))));
    ASSERT_TRUE(granted(b(record("right", kX))));
    wait(a, record("right", kX));
    const std::uint64_t before = table_.counters().waits;
    b.start(record("left", kX, kSecond));
    while (table_.counters().waits == before) io::yield_thread();
    if (planted) {
      await_waiting(2);
      clock_.advance(2 * kSecond);
    }
    EXPECT_TRUE(refused(b.finish(), planted ? Code::lock_timeout : Code::deadlock));
    b.release();
    EXPECT_TRUE(granted(a.finish()));
    actors_.clear();
  }
}

}  // namespace
}  // namespace kessai::mvcc
