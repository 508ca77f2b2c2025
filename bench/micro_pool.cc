// SPDX-License-Identifier: Apache-2.0
// The page pool: translating a page id when it hits, and replacing a page when it does not.
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>

#include "bench/data.hpp"
#include "btree/pool.hpp"

namespace kessai::bench {
namespace {

using btree::Pool;

/// Pages come from nowhere at memory speed, so that only the pool's own work is timed.
class BlankPages final : public btree::PageSource {
 public:
  void read_pages(std::span<Read> reads) override {
    for (Read& r : reads) {
      const std::uint64_t id = raw(r.page);
      std::memcpy(r.into, &id, sizeof id);
    }
  }
  Result<void> write_out(std::span<const btree::FrameId> /*frames*/) override { return {}; }
};

struct Fixture {
  Fixture(std::uint64_t frames, std::uint64_t page_count) : pages(page_count) {
    pool = std::move(Pool::create(frames * kPageSize, source).value());
    if (!pool->cover(pages + 1)) std::abort();
    for (std::uint64_t p = 1; p <= pages; ++p) {
      if (!pool->load(PageId{p})) std::abort();
    }
  }
  BlankPages source;
  std::unique_ptr<Pool> pool;
  std::uint64_t pages;
};

/// Argument: resident pages. Includes the load of one word of the page, as a descent would.
void peek_resident(benchmark::State& state) {
  const auto pages = static_cast<std::uint64_t>(state.range(0));
  Fixture f(pages + 1024, pages);
  Rng rng(1);
  std::uint64_t misses = 0;
  for (auto _ : state) {
    Pool::Optimistic page;
    if (f.pool->peek(PageId{1 + rng.below(f.pages)}, page) != Pool::Peek::ok) {
      ++misses;
      continue;
    }
    benchmark::DoNotOptimize(*reinterpret_cast<const volatile std::uint64_t*>(page.data()));
    benchmark::DoNotOptimize(page.valid());
  }
  if (misses != 0) state.SkipWithError("a resident page was missed");
}
BENCHMARK(peek_resident)->Arg(256)->Arg(65536);

void latch_and_release(benchmark::State& state) {
  Fixture f(1024, 256);
  Rng rng(1);
  for (auto _ : state) {
    Pool::Exclusive x;
    if (!f.pool->latch(PageId{1 + rng.below(f.pages)}, x)) state.SkipWithError("not resident");
    benchmark::DoNotOptimize(x.data());
  }
}
BENCHMARK(latch_and_release);

/// Four times as many pages as frames, uniform: three reads in four evict a clean page.
void read_with_eviction(benchmark::State& state) {
  Fixture f(4096, 4 * 4096);
  Rng rng(1);
  const std::uint64_t before = f.pool->counters().evicted.load();
  for (auto _ : state) {
    const auto page = f.pool->read(PageId{1 + rng.below(f.pages)});
    if (!page) state.SkipWithError("read failed");
  }
  state.counters["evicted/op"] =
      benchmark::Counter(static_cast<double>(f.pool->counters().evicted.load() - before),
                         benchmark::Counter::kAvgIterations);
}
BENCHMARK(read_with_eviction);

}  // namespace
}  // namespace kessai::bench

BENCHMARK_MAIN();
