// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>
#include <vector>

#include "io/env.hpp"
#include "io/memory.hpp"
#include "io/sync.hpp"

namespace kessai::io {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

// Goal: per-thread slots stay few. Method: indexes of living threads differ, those of ended ones
// come back.
TEST(Sync, ThreadIndexIsDenseAndReused) {
  EXPECT_EQ(thread_index(), thread_index());
  std::set<unsigned> first_round;
  for (int round = 0; round < 3; ++round) {
    constexpr unsigned kThreads = 8;
    std::array<unsigned, kThreads> index{};
    std::atomic<unsigned> arrived{0};
    {
      std::vector<Thread> threads;
      for (unsigned i = 0; i < kThreads; ++i) {
        threads.emplace_back("index", [&, i] {
          index[i] = thread_index();
          ++arrived;
          while (arrived < kThreads) yield_thread();  // all alive at once
        });
      }
    }
    const std::set<unsigned> distinct(index.begin(), index.end());
    EXPECT_EQ(distinct.size(), kThreads);
    EXPECT_FALSE(distinct.contains(thread_index()));
    EXPECT_LE(*distinct.rbegin(), kThreads + 1);
    if (round == 0) first_round = distinct;
    EXPECT_EQ(distinct, first_round);
  }
}

// Goal: mutual exclusion, on two cores with descheduled holders. Method: a plain counter.
TEST(Sync, SpinMutexExcludes) {
  SpinMutex mutex;
  std::uint64_t counter = 0;
  constexpr int kRounds = 20000;
  {
    std::vector<Thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back("spin", [&] {
        for (int i = 0; i < kRounds; ++i) {
          const SpinLock lock(mutex);
          ++counter;
        }
      });
    }
  }
  EXPECT_EQ(counter, 4U * kRounds);
  const SpinLock held(mutex);
  Thread("try", [&] {
    const bool got = mutex.try_lock();
    EXPECT_FALSE(got);
    if (got) mutex.unlock();
  }).join();
}

TEST(Sync, CondVarTimesOutAndWakesUp) {
  Mutex mutex;
  CondVar changed;
  bool ready = false;
  mutex.lock();
  EXPECT_FALSE(changed.wait_for(mutex, 1000));
  mutex.unlock();
  Thread waker("waker", [&] {
    const MutexLock lock(mutex);
    ready = true;
    changed.notify_all();
  });
  mutex.lock();
  while (!ready) changed.wait_for(mutex, kSecond);
  mutex.unlock();
}

TEST(Sync, FutexWakesItsWaiter) {
  std::atomic<std::uint32_t> word{0};
  futex_wait(word, 1, 60 * kSecond);  // returns at once: the value differs
  futex_wait(word, 0, 1000);          // returns after the time-out
  Thread waker("waker", [&] {
    word.store(1);
    futex_wake(word, 1);
  });
  while (word.load() == 0) futex_wait(word, 0, 60 * kSecond);
}

TEST(Sync, ThreadAssignmentJoinsTheOldThread) {
  std::atomic<bool> first_ended{false};
  Thread t("first", [&] { first_ended = true; });
  t = Thread("second", [] {});
  EXPECT_TRUE(first_ended);
  t.join();
  EXPECT_FALSE(t.joinable());
}

// Goal: seeds replay for ever. Method: the reference values of xoshiro256** after SplitMix64(0..).
TEST(Random, SeededSequencesAreFixed) {
  SeededRandom a(42);
  SeededRandom b(42);
  SeededRandom c(43);
  const std::uint64_t first = a.next();
  EXPECT_EQ(first, b.next());
  EXPECT_NE(first, c.next());
  EXPECT_EQ(first, 1546998764402558742ULL);
  std::array<std::uint64_t, 7> seen{};
  for (int i = 0; i < 70000; ++i) ++seen[a.below(7)];
  for (const auto n : seen) EXPECT_NEAR(static_cast<double>(n), 10000, 500);
  EXPECT_EQ(a.below(1), 0U);
}

TEST(Random, SystemRandomFillsEveryByte) {
  std::array<std::byte, 64> x{};
  std::array<std::byte, 64> y{};
  system_random().fill(x);
  system_random().fill(y);
  EXPECT_NE(x, y);
}

TEST(Clock, VirtualClockMovesOnlyWhenTold) {
  VirtualClock clock;
  const auto ns = clock.now_ns();
  const auto us = clock.unix_micros();
  EXPECT_EQ(clock.now_ns(), ns);
  clock.advance(5'000'000);
  EXPECT_EQ(clock.now_ns(), ns + 5'000'000);
  EXPECT_EQ(clock.unix_micros(), us + 5000);
  clock.set_unix_micros(1000);  // the wall clock may jump back, the monotonic one does not
  EXPECT_EQ(clock.unix_micros(), 1000U);
  EXPECT_EQ(clock.now_ns(), ns + 5'000'000);
  const auto earlier = system_clock().now_ns();
  EXPECT_LE(earlier, system_clock().now_ns());
}

TEST(Memory, AlignedBuffersAreAlignedZeroAndMovable) {
  AlignedBuffer b(10000);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b.data()) % 4096, 0U);
  EXPECT_TRUE(std::ranges::all_of(b.span(), [](std::byte x) { return x == std::byte{0}; }));
  std::byte* const data = b.data();
  AlignedBuffer c(std::move(b));
  EXPECT_EQ(c.data(), data);
  EXPECT_EQ(c.size(), 10000U);
}

TEST(Memory, RegionsAreZeroAlignedAndLazy) {
  auto r = Region::map(std::size_t{1} << 40, true);  // far more than the machine has
  ASSERT_TRUE(r) << r.error().message();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(r->data()) % (2U << 20), 0U);
  r->data()[(std::size_t{1} << 39) + 5] = std::byte{1};
  EXPECT_EQ(r->data()[(std::size_t{1} << 39) + 6], std::byte{0});
  EXPECT_EQ(Region::map(SIZE_MAX, false).error(), Code::invalid_argument);
  EXPECT_EQ(Region::map(std::size_t{1} << 62, false).error(), Code::out_of_memory);
}

}  // namespace
}  // namespace kessai::io
