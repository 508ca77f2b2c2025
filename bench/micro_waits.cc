// SPDX-License-Identifier: Apache-2.0
// What counting waits costs where it could hurt: the same calls on two stores, one of which counts
// and one of which does not. Compare the medians of `counted:0` and `counted:1`; the target is at
// most 2 % (a difference below the noise of the machine says nothing):
//
//     micro_waits --benchmark_repetitions=9 --benchmark_enable_random_interleaving=true
//
// The stores' files live in directories of their own under the current one.
#include <benchmark/benchmark.h>
#include <stdlib.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "bench/data.hpp"
#include "io/env.hpp"
#include "kessai/kessai.hpp"

namespace kessai::bench {
namespace {

constexpr std::uint64_t kRecords = 200'000;
constexpr std::size_t kValueBytes = 100;

template <class T>
T must(Result<T> r) {
  if (!r) {
    std::fprintf(stderr, "micro_waits: %s\n", r.error().message().c_str());
    std::exit(5);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

class World {
 public:
  explicit World(bool counted) {
    char path[] = "micro-waits-XXXXXX";
    if (::mkdtemp(path) == nullptr) std::exit(5);
    path_ = path;
    directory_ = must(io::open_directory(path_, {}));
    env_.directory = directory_.get();
    env_.count_waits = counted;
    Options o;
    o.create = true;
    o.env = &env_;
    db.emplace(must(Database::open(path_, o)));
    tree = must(db->tree("main"));
    Value value(kValueBytes, 1);
    for (std::uint64_t i = 0; i < kRecords; ++i) {
      must(db->put(tree, Key(i, KeyOrder::random).view(), value.stamped(i), Durability::relaxed));
    }
    must(db->wait_durable(db->stats().applied_lsn));
  }
  ~World() {
    db.reset();
    directory_.reset();
    std::filesystem::remove_all(path_);
  }
  std::optional<Database> db;
  Tree tree;
  std::atomic<std::uint64_t> next{kRecords};  ///< keys for inserts

 private:
  std::string path_;
  std::unique_ptr<io::Directory> directory_;
  io::Env env_;
};

std::unique_ptr<World> g_worlds[2];

/// Not in the threads of a benchmark: both are made before the first one.
World& world(const benchmark::State& state) { return *g_worlds[state.range(0) != 0 ? 1 : 0]; }

std::uint64_t seed_of(const benchmark::State& state) {
  return static_cast<std::uint64_t>(state.thread_index()) + 1;
}

void waits_get(benchmark::State& state) {
  World& w = world(state);
  Rng rng(seed_of(state));
  std::string value;
  for (auto _ : state) {
    const std::uint64_t i = rng.below(kRecords);
    if (!w.db->get(w.tree, Key(i, KeyOrder::random).view(), value))
      state.SkipWithError("a key is missing");
  }
}

void waits_put_relaxed(benchmark::State& state) {
  World& w = world(state);
  Rng rng(seed_of(state));
  Value value(kValueBytes, seed_of(state));
  for (auto _ : state) {
    const std::uint64_t i = rng.below(kRecords);
    if (!w.db->put(w.tree, Key(i, KeyOrder::random).view(), value.stamped(i), Durability::relaxed))
      state.SkipWithError("a put failed");
  }
}

/// Appending threads meet in the same leaves: the most latch waits that there can be.
void waits_append_relaxed(benchmark::State& state) {
  World& w = world(state);
  Value value(kValueBytes, seed_of(state));
  for (auto _ : state) {
    const std::uint64_t i = w.next.fetch_add(1, std::memory_order_relaxed);
    if (!w.db->put(w.tree, Key(i, KeyOrder::ascending).view(), value.stamped(i),
                   Durability::relaxed))
      state.SkipWithError("a put failed");
  }
}

/// Each read goes through the before-images.
void waits_get_old_version(benchmark::State& state) {
  constexpr std::uint64_t kOld = 1000;
  World& w = world(state);
  auto old = must(w.db->begin());
  Value value(kValueBytes, 7);
  for (std::uint64_t i = 0; i < kOld; ++i) {
    must(w.db->put(w.tree, Key(i, KeyOrder::random).view(), value.stamped(i), Durability::relaxed));
  }
  Rng rng(1);
  std::string found;
  for (auto _ : state) {
    if (!old.get(w.tree, Key(rng.below(kOld), KeyOrder::random).view(), found))
      state.SkipWithError("a version is missing");
  }
  must(old.rollback());
}

BENCHMARK(waits_get)->ArgName("counted")->Arg(0)->Arg(1);
BENCHMARK(waits_get)->ArgName("counted")->Arg(0)->Arg(1)->Threads(2)->UseRealTime();
BENCHMARK(waits_put_relaxed)->ArgName("counted")->Arg(0)->Arg(1);
BENCHMARK(waits_put_relaxed)->ArgName("counted")->Arg(0)->Arg(1)->Threads(2)->UseRealTime();
BENCHMARK(waits_append_relaxed)
    ->ArgName("counted")
    ->Arg(0)
    ->Arg(1)
    ->Threads(2)
    ->UseRealTime()
    ->Iterations(100'000);
BENCHMARK(waits_get_old_version)->ArgName("counted")->Arg(0)->Arg(1);

}  // namespace
}  // namespace kessai::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  for (const bool counted : {false, true})
    kessai::bench::g_worlds[counted ? 1 : 0] = std::make_unique<kessai::bench::World>(counted);
  benchmark::RunSpecifiedBenchmarks();
  for (auto& w : kessai::bench::g_worlds) w.reset();
  return 0;
}
