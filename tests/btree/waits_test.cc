// SPDX-License-Identifier: Apache-2.0
// Goal: waiting for the gate, for a latch and for another thread's read is counted once a wait,
// under the right name, and what need not wait is not counted. Method: the clock is the probe: a
// thread reads it when it starts to wait, and only then the test lets it go on.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <functional>

#include "btree/gate.hpp"
#include "btree/pool.hpp"
#include "io/waits.hpp"

namespace kessai::btree {
namespace {

using io::Wait;

/// Counts the looks at it; each takes a microsecond.
class Probe final : public io::Clock {
 public:
  std::uint64_t now_ns() override { return asked.fetch_add(1) * 1000; }
  std::uint64_t unix_micros() override { return 0; }
  void await(std::uint64_t looks) const {
    while (asked.load() < looks) io::yield_thread();
  }
  std::atomic<std::uint64_t> asked{0};
};

class EmptyPages final : public PageSource {
 public:
  void read_pages(std::span<Read> reads) override {
    if (before_read) before_read();
    for (Read& r : reads) std::memset(r.into, 0, kPageSize);
  }
  Result<void> write_out(std::span<const FrameId> /*frames*/) override { return {}; }
  std::function<void()> before_read;
};

class BtreeWaits : public testing::Test {
 protected:
  BtreeWaits() {
    env.clock = &clock;
    env.waits = &waits;
    pool = Pool::create(64 * kPageSize, pages, &env).value();
    EXPECT_TRUE(pool->cover(1000).has_value());
  }
  [[nodiscard]] std::uint64_t count(Wait w) const { return waits.total(w).count; }

  Probe clock;
  io::Waits waits;
  io::Env env;
  EmptyPages pages;
  std::unique_ptr<Pool> pool;
};

TEST_F(BtreeWaits, AClosedGateIsWaitedFor) {
  Gate gate(env);
  {
    const Gate::Pass pass(gate);
  }
  EXPECT_EQ(clock.asked.load(), 0u);
  gate.close();
  io::Thread visitor("visitor", [&] { const Gate::Pass pass(gate); });
  clock.await(1);
  gate.open();
  visitor.join();
  EXPECT_EQ(count(Wait::checkpoint), 1u);
}

TEST_F(BtreeWaits, AMissIsOneWaitAndAHitIsNone) {
  ASSERT_TRUE(pool->read(PageId{7}).has_value());
  EXPECT_EQ(count(Wait::buffer_miss), 1u);
  EXPECT_EQ(waits.total(Wait::buffer_miss).ns, 1000u);
  const std::uint64_t asked = clock.asked.load();
  ASSERT_TRUE(pool->read(PageId{7}).has_value());
  Pool::Exclusive x;
  ASSERT_TRUE(pool->latch(PageId{7}, x));
  const PageId batch[] = {PageId{8}, PageId{9}, PageId{7}};
  EXPECT_EQ(clock.asked.load(), asked);
  pool->load_batch(batch);
  EXPECT_EQ(count(Wait::buffer_miss), 2u);
  pool->load_batch(batch);
  EXPECT_EQ(count(Wait::buffer_miss), 2u);
  EXPECT_EQ(count(Wait::page_latch), 0u);
}

TEST_F(BtreeWaits, ALatchedPageIsWaitedForByReadersAndWriters) {
  ASSERT_TRUE(pool->read(PageId{7}).has_value());
  for (const bool reader : {true, false}) {
    const std::uint64_t asked = clock.asked.load(), before = count(Wait::page_latch);
    Pool::Exclusive held;
    ASSERT_TRUE(pool->latch(PageId{7}, held));
    io::Thread other("other", [&] {
      Pool::Exclusive x;
      EXPECT_TRUE(reader ? pool->read(PageId{7}).has_value() : pool->latch(PageId{7}, x));
    });
    clock.await(asked + 1);
    held.release();
    other.join();
    EXPECT_EQ(count(Wait::page_latch), before + 1);
  }
  EXPECT_EQ(count(Wait::buffer_miss), 1u);
}

TEST_F(BtreeWaits, APageThatAnotherThreadReadsIsAMissOfBoth) {
  pages.before_read = [&] { clock.await(2); };  // ours and the other's
  io::Thread other("other", [&] { EXPECT_TRUE(pool->read(PageId{7}).has_value()); });
  EXPECT_TRUE(pool->read(PageId{7}).has_value());
  other.join();
  EXPECT_EQ(count(Wait::buffer_miss), 2u);
  EXPECT_EQ(count(Wait::page_latch), 0u);
  EXPECT_EQ(pool->counters().misses.load(), 1u);
}

}  // namespace
}  // namespace kessai::btree
