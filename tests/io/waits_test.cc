// SPDX-License-Identifier: Apache-2.0
// Goal: waits are counted under their name, in the right bucket, with their time, from any number
// of threads, and not at all where nobody counts. Method: a virtual clock; exact numbers.
#include "io/waits.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "io/sync.hpp"

namespace kessai::io {
namespace {

/// Counts how often it is asked.
class AskedClock final : public Clock {
 public:
  std::uint64_t now_ns() override { return ++asked * 1000; }
  std::uint64_t unix_micros() override { return 0; }
  std::uint64_t asked = 0;
};

TEST(Waits, EveryEventHasANameOfItsOwn) {
  std::set<std::string_view> names;
  for (std::size_t w = 0; w < kWaits; ++w) names.insert(wait_name(static_cast<Wait>(w)));
  EXPECT_EQ(names.size(), kWaits);
  EXPECT_FALSE(names.contains(""));
  EXPECT_EQ(wait_name(Wait::leaf_split), "leaf_split");
  EXPECT_EQ(wait_name(Wait::undo_space), "undo_space");
  EXPECT_EQ(wait_name(static_cast<Wait>(kWaits)), "?");
}

TEST(Waits, BucketsArePowersOfTwoOfAMicrosecond) {
  const auto bucket_of = [](std::uint64_t ns) {
    Waits waits;
    waits.add(Wait::lock_row, ns);
    const Waits::Total t = waits.total(Wait::lock_row);
    EXPECT_EQ(t.count, 1u);
    EXPECT_EQ(t.ns, ns);
    for (std::size_t b = 0; b < Waits::kBuckets; ++b) {
      if (t.histogram[b] == 1) return b;
    }
    return Waits::kBuckets;
  };
  EXPECT_EQ(bucket_of(0), 0u);
  EXPECT_EQ(bucket_of(1999), 0u);
  for (std::size_t b = 1; b < Waits::kBuckets; ++b) {
    const std::uint64_t low = (std::uint64_t{1} << b) * 1000;
    EXPECT_EQ(bucket_of(low - 1), b - 1);
    EXPECT_EQ(bucket_of(low), b);
  }
  EXPECT_EQ(bucket_of(~std::uint64_t{0}), Waits::kBuckets - 1);
}

TEST(Waits, ATimerCountsItsScopeUnderItsName) {
  Waits waits;
  VirtualClock clock;
  {
    const Waits::Timer timer(&waits, clock, Wait::wal_flush);
    clock.advance(5000);
  }
  const auto totals = waits.totals();
  for (std::size_t w = 0; w < kWaits; ++w)
    EXPECT_EQ(totals[w].count, w == static_cast<std::size_t>(Wait::wal_flush) ? 1u : 0u) << w;
  const auto& flush = totals[static_cast<std::size_t>(Wait::wal_flush)];
  EXPECT_EQ(flush.ns, 5000u);
  EXPECT_EQ(flush.histogram[2], 1u);
}

TEST(Waits, ALateTimerCountsFromTheFirstStartAsOneWait) {
  Waits waits;
  VirtualClock clock;
  Env env;
  env.clock = &clock;
  env.waits = &waits;
  {
    const Waits::LateTimer never(&env);
  }
  EXPECT_EQ(waits.total(Wait::page_latch).count, 0u);
  {
    Waits::LateTimer timer(&env);
    clock.advance(1000);
    timer.start(Wait::page_latch);
    clock.advance(1000);
    timer.start(Wait::buffer_miss);
    clock.advance(1000);
  }
  EXPECT_EQ(waits.total(Wait::page_latch).count, 1u);
  EXPECT_EQ(waits.total(Wait::page_latch).ns, 2000u);
  EXPECT_EQ(waits.total(Wait::buffer_miss).count, 0u);
}

TEST(Waits, WhereNobodyCountsTheClockIsNotRead) {
  AskedClock clock;
  Env env;
  env.clock = &clock;
  {
    const Waits::Timer timer(env, Wait::undo_read);
  }
  {
    Waits::LateTimer timer(&env), nothing(nullptr);
    timer.start(Wait::undo_read);
    nothing.start(Wait::undo_read);
  }
  EXPECT_EQ(clock.asked, 0u);
  Waits waits;
  env.waits = &waits;
  {
    const Waits::LateTimer timer(&env);
  }
  EXPECT_EQ(clock.asked, 0u);  // nor where nobody waits
  {
    const Waits::Timer timer(env, Wait::undo_read);
  }
  EXPECT_EQ(clock.asked, 2u);
}

TEST(Waits, SumsOfManyThreadsAreExactOnceTheyAreQuiet) {
  // More threads than slots, so that some share one.
  constexpr unsigned kThreads = 40, kEach = 2000;
  Waits waits;
  std::atomic<unsigned> running{kThreads};
  {
    std::vector<Thread> threads;
    for (unsigned t = 0; t < kThreads; ++t) {
      threads.emplace_back("waiter", [&] {
        for (unsigned i = 0; i < kEach; ++i) {
          waits.add(Wait::lock_row, 1000);
          waits.add(Wait::leaf_split, 3000);
        }
        running.fetch_sub(1);
      });
    }
    std::uint64_t last = 0;  // never goes back
    while (running.load() != 0) {
      const std::uint64_t now = waits.total(Wait::lock_row).count;
      ASSERT_GE(now, last);
      last = now;
      yield_thread();
    }
  }
  const Waits::Total row = waits.total(Wait::lock_row), split = waits.total(Wait::leaf_split);
  EXPECT_EQ(row.count, std::uint64_t{kThreads} * kEach);
  EXPECT_EQ(row.ns, row.count * 1000);
  EXPECT_EQ(row.histogram[0], row.count);
  EXPECT_EQ(split.ns, split.count * 3000);
  EXPECT_EQ(split.histogram[1], row.count);
}

}  // namespace
}  // namespace kessai::io
