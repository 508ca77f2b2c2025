// SPDX-License-Identifier: Apache-2.0
// Goal: guards tell the truth, pins hold, errors leave nothing behind, the working set survives a
// scan, and no update is lost when pages come and go under many threads.
// Method: a pool over a disk that is an array in memory and can fail, count and be looked into.
#include "btree/pool.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <deque>
#include <set>
#include <string>

#include "btree/race.hpp"

namespace kessai::btree {
namespace {

constexpr std::uint32_t kFrames = 64;  // the smallest pool

/// Pages live in memory; word 0 of a fresh page is its id.
class FakeDisk final : public PageSource {
 public:
  void read_pages(std::span<Read> reads) override {
    const io::MutexLock lock(mutex_);
    largest_batch = std::max(largest_batch, reads.size());
    for (Read& r : reads) {
      if (failing.contains(raw(r.page))) {
        r.result = fail(Code::io_error);
        continue;
      }
      const auto& image = page(r.page);
      std::memcpy(r.into, image.data(), kPageSize);
    }
  }
  Result<void> write_out(std::span<const FrameId> frames) override {
    for (const FrameId f : frames) {
      Pool::Exclusive x;
      if (!pool->try_latch_frame(f, x)) continue;
      const io::MutexLock lock(mutex_);
      std::memcpy(page(x.page()).data(), x.data(), kPageSize);
      x.frame().dirty_epoch.store(0);
      ++written;
    }
    return {};
  }

  Pool* pool = nullptr;
  std::set<std::uint64_t> failing;
  std::size_t largest_batch = 0, written = 0;

 private:
  std::array<std::byte, kPageSize>& page(PageId p) {
    while (pages_.size() <= raw(p)) {
      const std::uint64_t id = pages_.size();
      std::memcpy(pages_.emplace_back().data(), &id, sizeof id);
    }
    return pages_[raw(p)];
  }
  io::Mutex mutex_;
  std::deque<std::array<std::byte, kPageSize>> pages_;
};

class PoolTest : public ::testing::Test {
 protected:
  PoolTest() {
    pool = Pool::create(kFrames * kPageSize, disk).value();
    disk.pool = pool.get();
    EXPECT_TRUE(pool->cover(100000).has_value());
  }
  static std::uint64_t word(const Pool::Optimistic& g) {
    return race::load<std::uint64_t>(g.data());
  }
  void fill(std::uint64_t from, std::uint64_t to) {
    for (auto p = from; p < to; ++p) ASSERT_TRUE(pool->read(PageId{p}).has_value());
  }
  bool resident(std::uint64_t p) {
    Pool::Optimistic g;
    return pool->peek(PageId{p}, g) == Pool::Peek::ok;
  }

  FakeDisk disk;
  std::unique_ptr<Pool> pool;
};

TEST_F(PoolTest, GuardsNoticeEveryChange) {
  auto g = pool->read(PageId{7}).value();
  EXPECT_EQ(word(g), 7u);
  EXPECT_TRUE(g.valid());
  {
    Pool::Exclusive x;
    ASSERT_TRUE(pool->upgrade(g, x));
    EXPECT_FALSE(g.valid());
    Pool::Exclusive second;
    EXPECT_FALSE(pool->try_latch(PageId{7}, second));
    Pool::Optimistic busy;
    EXPECT_EQ(pool->peek(PageId{7}, busy), Pool::Peek::busy);
  }
  EXPECT_FALSE(g.valid());
  Pool::Exclusive x;
  EXPECT_FALSE(pool->upgrade(g, x)) << "an old guard";
  g = pool->read(PageId{7}).value();
  fill(100, 100 + 4 * kFrames);
  EXPECT_FALSE(resident(7));
  EXPECT_FALSE(g.valid()) << "evicted";
  fill(7, 8);
  EXPECT_FALSE(g.valid()) << "evicted and loaded again";
  EXPECT_FALSE(Pool::Optimistic{}.valid());
}

TEST_F(PoolTest, DiscardedAndAdoptedPagesAreNewToOldGuards) {
  auto g = pool->read(PageId{9}).value();
  Pool::Exclusive x;
  ASSERT_TRUE(pool->upgrade(g, x));
  pool->discard(std::move(x));
  EXPECT_FALSE(resident(9));
  EXPECT_EQ(pool->frames_used(), 0u);
  {
    Pool::Exclusive fresh = pool->adopt(PageId{9}, pool->take_frame().value());
    std::memset(fresh.data(), 0, kPageSize);
  }
  EXPECT_FALSE(g.valid());
  EXPECT_TRUE(resident(9));
}

TEST_F(PoolTest, PinnedPagesStay) {
  Pool::Pin pin;
  ASSERT_TRUE(pool->pin(pool->read(PageId{3}).value(), pin));
  fill(100, 100 + 10 * kFrames);
  ASSERT_TRUE(resident(3));
  Pool::Exclusive x;
  ASSERT_TRUE(pool->latch(PageId{3}, x)) << "a pin is no latch";
  x.release();
  pin.release();
  fill(1000, 1000 + 4 * kFrames);
  EXPECT_FALSE(resident(3));
}

TEST_F(PoolTest, AllPinnedIsOutOfMemoryUntilOneGoes) {
  std::vector<Pool::Pin> pins(kFrames);
  for (std::uint32_t i = 0; i < kFrames; ++i) {
    ASSERT_TRUE(pool->pin(pool->read(PageId{i + 1}).value(), pins[i]));
  }
  EXPECT_EQ(pool->read(PageId{500}).error().code(), Code::out_of_memory);
  EXPECT_EQ(pool->take_frame().error().code(), Code::out_of_memory);
  Pool::Optimistic g;
  EXPECT_EQ(pool->peek(PageId{500}, g), Pool::Peek::miss);
  pins[5].release();
  ASSERT_TRUE(pool->read(PageId{500}).has_value());
  EXPECT_FALSE(resident(6));
}

TEST_F(PoolTest, ReadErrorsLeaveThePageUnloaded) {
  disk.failing = {20, 22};
  EXPECT_EQ(pool->read(PageId{20}).error().code(), Code::io_error);
  Pool::Optimistic g;
  EXPECT_EQ(pool->peek(PageId{20}, g), Pool::Peek::miss);
  EXPECT_EQ(pool->frames_used(), 0u);
  const PageId batch[] = {PageId{20}, PageId{21}, PageId{22}, PageId{23}};
  pool->load_batch(batch);
  EXPECT_EQ(pool->frames_used(), 2u);
  EXPECT_TRUE(resident(21) && resident(23));
  EXPECT_EQ(pool->read(PageId{22}).error().code(), Code::io_error);
  disk.failing.clear();
  EXPECT_EQ(word(pool->read(PageId{20}).value()), 20u);
}

TEST_F(PoolTest, BatchesLoadOnceAndSkipWhatIsThere) {
  fill(31, 32);
  const PageId batch[] = {PageId{30}, kNoPage, PageId{31}, PageId{30}, PageId{32}, PageId{999999}};
  pool->load_batch(batch);
  EXPECT_TRUE(resident(30) && resident(31) && resident(32));
  EXPECT_EQ(pool->counters().misses.load(), 3u);
  EXPECT_EQ(disk.largest_batch, 2u);
}

// A batch that runs out of frames finishes the reads it began: nothing stays "loading".
TEST_F(PoolTest, BatchWithoutEnoughFramesLeavesNothingHalfLoaded) {
  std::vector<Pool::Pin> pins(kFrames - 3);
  for (std::uint32_t i = 0; i < pins.size(); ++i) {
    ASSERT_TRUE(pool->pin(pool->read(PageId{i + 1}).value(), pins[i]));
  }
  std::vector<PageId> batch;
  for (std::uint64_t p = 200; p < 210; ++p) batch.push_back(PageId{p});
  pool->load_batch(batch);
  unsigned there = 0;
  for (const PageId p : batch) {
    Pool::Optimistic g;
    const auto peek = pool->peek(p, g);
    ASSERT_NE(peek, Pool::Peek::busy) << raw(p);
    there += peek == Pool::Peek::ok ? 1 : 0;
  }
  EXPECT_EQ(there, 3u);
}

TEST_F(PoolTest, DirtyPagesAreWrittenBeforeTheyGo) {
  for (std::uint64_t p = 1; p <= 40; ++p) {
    ASSERT_TRUE(pool->load(PageId{p}).has_value());
    Pool::Exclusive x;
    ASSERT_TRUE(pool->latch(PageId{p}, x));
    race::store<std::uint64_t>(x.data() + 8, p * p);
    x.frame().dirty_epoch.store(1);
  }
  fill(100, 100 + 4 * kFrames);
  EXPECT_EQ(disk.written, 40u);
  for (std::uint64_t p = 1; p <= 40; ++p) {
    const auto g = pool->read(PageId{p}).value();
    EXPECT_EQ(race::load<std::uint64_t>(g.data() + 8), p * p);
  }
}

// A page whose image is under way can neither be evicted nor lost.
TEST_F(PoolTest, PagesBeingWrittenStay) {
  fill(1, 2);
  Pool::Exclusive x;
  ASSERT_TRUE(pool->latch(PageId{1}, x));
  auto& frame = x.frame();
  frame.writing.store(1);
  x.release();
  fill(100, 100 + 4 * kFrames);
  EXPECT_TRUE(resident(1));
  frame.writing.store(0);
  fill(1000, 1000 + 4 * kFrames);
  EXPECT_FALSE(resident(1));
}

// All frames under way to the disk is no lack of memory: the one who needs a frame waits.
TEST_F(PoolTest, BusyFramesAreWaitedFor) {
  fill(1, 1 + kFrames);
  for (FrameId f = 0; f < kFrames; ++f) pool->frame(f).writing.store(1);
  std::atomic<int> answer{0};
  io::Thread reader("reader", [&] { answer.store(pool->read(PageId{500}).has_value() ? 1 : 2); });
  // Long enough for it to start waiting as a rule; never near the bound of that wait.
  for (int i = 0; i < 50 && answer.load() == 0; ++i) io::yield_thread();
  for (FrameId f = 0; f < kFrames; ++f) pool->frame(f).writing.store(0);
  reader.join();
  EXPECT_EQ(answer.load(), 1);
}

// One look at many cold pages does not push out the pages that are used again and again.
TEST_F(PoolTest, AScanLeavesTheWorkingSet) {
  constexpr std::uint64_t kHot = kFrames / 2;
  fill(1000, 1000 + 4 * kFrames);  // full: reference bits count from here on
  fill(1, 1 + kHot);
  fill(1, 1 + kHot);
  const auto before = pool->counters().misses.load();
  std::uint64_t cold = 2000;
  for (int round = 0; round < 200; ++round) {
    fill(cold, cold + 8);
    cold += 8;
    fill(1, 1 + kHot);
  }
  const auto hot_misses = pool->counters().misses.load() - before - 200 * 8;
  EXPECT_LT(hot_misses, 200 * kHot / 50) << "of " << 200 * kHot;
}

// Threads add to counters in more pages than there are frames; pages are evicted dirty and loaded
// again all the time; readers see both halves of a page change together or not at all.
TEST_F(PoolTest, NoUpdateIsLostUnderThreads) {
  constexpr unsigned kThreads = 4;
  constexpr std::uint64_t kPages = 150;
#if defined(KESSAI_DEBUG_CHECKS)
  constexpr int kSteps = 4000;
#else
  constexpr int kSteps = 20000;
#endif
  std::atomic<std::uint64_t> added{0}, torn{0}, errors{0};
  {
    std::vector<io::Thread> threads;
    for (unsigned t = 0; t < kThreads; ++t) {
      threads.emplace_back("pool", [&, t] {
        io::SeededRandom random(t + 1);
        for (int i = 0; i < kSteps; ++i) {
          const PageId p{1 + random.below(kPages)};
          auto g = pool->read(p);
          if (!g) {
            errors.fetch_add(1);
            continue;
          }
          if (random.below(3) == 0) {
            Pool::Exclusive x;
            if (!pool->upgrade(*g, x)) continue;
            for (const std::size_t at : {64u, 4000u})
              race::store(x.data() + at, race::load<std::uint64_t>(x.data() + at) + 1);
            x.frame().dirty_epoch.store(1);
            added.fetch_add(1);
          } else if (random.below(8) == 0) {
            Pool::Pin pin;
            if (!pool->pin(*g, pin)) continue;
            Pool::Optimistic again;
            if (pool->peek(p, again) == Pool::Peek::miss) errors.fetch_add(1);
          } else {
            const auto a = race::load<std::uint64_t>(g->data() + 64),
                       b = race::load<std::uint64_t>(g->data() + 4000);
            const auto id = word(*g);
            if (g->valid() && (a != b || id != raw(p))) torn.fetch_add(1);
          }
        }
      });
    }
  }
  std::uint64_t sum = 0;
  for (std::uint64_t p = 1; p <= kPages; ++p) {
    const auto g = pool->read(PageId{p}).value();
    sum += race::load<std::uint64_t>(g.data() + 64);
  }
  EXPECT_EQ(sum, added.load());
  EXPECT_EQ(torn.load(), 0u);
  EXPECT_EQ(errors.load(), 0u);
  EXPECT_GT(pool->counters().evicted.load(), 100u);
}

}  // namespace
}  // namespace kessai::btree
