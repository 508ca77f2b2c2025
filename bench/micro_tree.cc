// SPDX-License-Identifier: Apache-2.0
// The B+tree alone, everything resident, no log and no transactions: what gets, changes and scans
// cost before the engine adds its part. A million records of 16+100 bytes, made once; the store's
// files live in a directory of their own under the current one.
#include <benchmark/benchmark.h>
#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "bench/data.hpp"
#include "btree/tree.hpp"
#include "io/env.hpp"

namespace kessai::bench {
namespace {

using namespace btree;

constexpr std::uint64_t kRecords = 1'000'000;
constexpr std::size_t kValueBytes = 100;

[[noreturn]] void die(const Error& e) {
  std::fprintf(stderr, "micro_tree: %s\n", e.message().c_str());
  std::exit(5);
}
template <class T>
T must(Result<T> r) {
  if (!r) die(r.error());
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

/// A store with empty trees on demand.
class World {
 public:
  World() {
    char path[] = "micro-tree-XXXXXX";
    if (::mkdtemp(path) == nullptr) std::exit(5);
    path_ = path;
    directory_ = must(io::open_directory(path_, {}));
    env_.directory = directory_.get();
    env_.background = false;
    store_ = must(PageStore::create(env_, {1, 2}, {.memory = std::uint64_t{1} << 30}));
    roots_ = std::make_unique<Roots>(*store_);
    context_.store = store_.get();
    context_.roots = roots_.get();
    shadows_ = std::make_unique<Shadows>(*store_);
    must(roots_->create(*shadows_));
  }
  ~World() {
    shadows_.reset();
    roots_.reset();
    store_.reset();
    directory_.reset();
    std::filesystem::remove_all(path_);
  }

  std::unique_ptr<Tree> make_tree() {
    const TreeId id{next_tree_++};
    const PageId root = must(store_->allocate());
    Pool::Exclusive x = store_->pool().adopt(root, must(store_->pool().take_frame()));
    if (!store_->touch(x, *shadows_)) std::abort();
    Tree::format_root(x, store_->id().lo, id);
    return std::make_unique<Tree>(context_, id, root);
  }
  void put(Tree& tree, std::string_view key, std::string_view value) {
    must(store_->claim(Tree::kClaimPerChange));
    must(tree.apply({.key = key, .value = value, .lsn = ++lsn_}, {}, *shadows_, nullptr));
    store_->unclaim(Tree::kClaimPerChange);
  }

 private:
  std::string path_;
  std::unique_ptr<io::Directory> directory_;
  io::Env env_;
  std::unique_ptr<PageStore> store_;
  std::unique_ptr<Roots> roots_;
  TreeContext context_;
  std::unique_ptr<Shadows> shadows_;
  std::uint32_t next_tree_ = 2;
  Lsn lsn_ = 0;
};

std::unique_ptr<World> g_world;

World& world() {
  if (g_world == nullptr) g_world = std::make_unique<World>();
  return *g_world;
}

Tree& loaded() {
  static const std::unique_ptr<Tree> tree = [] {
    auto t = world().make_tree();
    Value value(kValueBytes, 1);
    for (std::uint64_t i = 0; i < kRecords; ++i) {
      world().put(*t, Key(i, KeyOrder::random).view(), value.stamped(i));
    }
    return t;
  }();
  return *tree;
}

void tree_get(benchmark::State& state) {
  Tree& tree = loaded();
  Rng rng(1);
  std::string value;
  for (auto _ : state) {
    const std::uint64_t i = rng.below(kRecords);
    const auto record = tree.get(Key(i, KeyOrder::random).view(), &value);
    if (!record || !record->present || stamp_of(value) != i) state.SkipWithError("wrong value");
  }
}
BENCHMARK(tree_get);

/// Time per call; items are keys.
void tree_multi_get(benchmark::State& state) {
  Tree& tree = loaded();
  const auto batch = static_cast<std::size_t>(state.range(0));
  std::vector<Key> keys(batch);
  std::vector<std::string> values(batch);
  std::vector<Tree::Lookup> lookups(batch);
  Rng rng(1);
  for (auto _ : state) {
    for (std::size_t k = 0; k < batch; ++k) {
      keys[k] = Key(rng.below(kRecords), KeyOrder::random);
      lookups[k] = {.key = keys[k].view(), .value = &values[k]};
    }
    tree.multi_get(lookups);
    for (const auto& l : lookups) {
      if (!l.status || !l.record.present) state.SkipWithError("a key is missing");
    }
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(tree_multi_get)->Arg(16);

/// Time per full scan; items are records.
void tree_scan(benchmark::State& state) {
  Tree& tree = loaded();
  for (auto _ : state) {
    TreeCursor cursor(tree, "", std::nullopt, false);
    TreeCursor::Row row;
    std::uint64_t seen = 0;
    while (must(cursor.next(row))) seen += row.value.size() == kValueBytes ? 1 : 0;
    if (seen != kRecords) state.SkipWithError("records are missing");
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(kRecords));
}
BENCHMARK(tree_scan)->Unit(benchmark::kMillisecond);

void tree_update(benchmark::State& state) {
  Tree& tree = loaded();
  Value value(kValueBytes, 1);
  Rng rng(1);
  for (auto _ : state) {
    const std::uint64_t i = rng.below(kRecords);
    world().put(tree, Key(i, KeyOrder::random).view(), value.stamped(i));
  }
}
BENCHMARK(tree_update);

/// Into a tree that starts empty; bounded so that it stays in memory.
void tree_insert(benchmark::State& state) {
  const KeyOrder order = state.range(0) != 0 ? KeyOrder::ascending : KeyOrder::random;
  const auto tree = world().make_tree();
  Value value(kValueBytes, 1);
  std::uint64_t i = 0;
  for (auto _ : state) {
    world().put(*tree, Key(i, order).view(), value.stamped(i));
    ++i;
  }
}
BENCHMARK(tree_insert)->ArgName("ascending")->Arg(0)->Arg(1)->Iterations(500'000);

}  // namespace
}  // namespace kessai::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  kessai::bench::g_world.reset();
  return 0;
}
