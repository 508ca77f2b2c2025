// SPDX-License-Identifier: Apache-2.0
// One page at a time: searching and filling nodes, in cache and out of it.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "bench/data.hpp"
#include "btree/node.hpp"
#include "io/memory.hpp"

namespace kessai::bench {
namespace {

using btree::Node;
using btree::NodeView;

constexpr std::size_t kValueBytes = 100;

/// Leaves full of hashed 16-byte keys, and the keys that went in.
struct Leaves {
  explicit Leaves(std::size_t pages)
      : memory(io::Region::map(pages * kPageSize, true).value()), count(pages) {
    const std::string value(kValueBytes, 'v');
    std::uint64_t next = 0;
    for (std::size_t p = 0; p < pages; ++p) {
      Node node(page(p));
      node.format({.page = PageId{p + 1}, .tree = TreeId{1}, .low = {}, .high = {}});
      for (;;) {
        const Key key(next, KeyOrder::random);
        if (!node.room_for_leaf(key.view().size(), value.size())) break;
        bool exact = false;
        node.insert_leaf(node.lower_bound(key.view(), exact), key.view(), btree::make_tag(1, 0),
                         value);
        keys.push_back(key);
        ++next;
      }
      if (p == 0) per_page = keys.size();
    }
  }
  std::byte* page(std::size_t i) const { return memory.data() + i * kPageSize; }

  io::Region memory;
  std::size_t count;
  std::size_t per_page = 0;
  std::vector<Key> keys;  // keys[p * per_page + i] are in page p: all records are of one size
};

/// Argument: number of leaves. 16 stay in the first-level caches, 65536 (256 MiB) in none.
void leaf_lower_bound(benchmark::State& state) {
  const Leaves leaves(static_cast<std::size_t>(state.range(0)));
  Rng rng(1);
  for (auto _ : state) {
    const std::size_t p = rng.below(leaves.count);
    const Key& key = leaves.keys[p * leaves.per_page + rng.below(leaves.per_page)];
    bool exact = false;
    const NodeView node(leaves.page(p));
    benchmark::DoNotOptimize(node.lower_bound(key.view(), exact));
    if (!exact) state.SkipWithError("a key is missing");
  }
}
BENCHMARK(leaf_lower_bound)->Arg(16)->Arg(65536);

void leaf_get_copies_value(benchmark::State& state) {
  const Leaves leaves(16);
  Rng rng(1);
  char value[kValueBytes];
  for (auto _ : state) {
    const std::size_t p = rng.below(leaves.count);
    const Key& key = leaves.keys[p * leaves.per_page + rng.below(leaves.per_page)];
    bool exact = false;
    btree::LeafHit hit;
    const NodeView node(leaves.page(p));
    if (!node.leaf_at(node.lower_bound(key.view(), exact), hit))
      state.SkipWithError("a key is missing");
    node.copy_value(hit, value);
    benchmark::DoNotOptimize(value);
  }
}
BENCHMARK(leaf_get_copies_value);

void inner_child_index(benchmark::State& state) {
  alignas(64) std::byte page[kPageSize];
  Node node(page);
  node.format({.page = PageId{1},
               .tree = TreeId{1},
               .type = btree::PageType::inner,
               .level = 1,
               .low = {},
               .high = {},
               .first_child = PageId{2}});
  std::vector<Key> keys;
  // Separators as splits make them: the shortest that tell two leaves apart, here 4 bytes.
  for (std::uint64_t i = 0; node.room_for_separator(4); ++i) {
    const Key key(i, KeyOrder::random);
    node.insert_separator(key.view().substr(0, 4), PageId{i + 3});
    keys.push_back(key);
  }
  Rng rng(1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(node.child_index(keys[rng.below(keys.size())].view()));
  }
  state.counters["children"] = static_cast<double>(keys.size() + 1);
}
BENCHMARK(inner_child_index);

/// Fills an empty leaf; time per record.
void leaf_insert(benchmark::State& state) {
  const bool ascending = state.range(0) != 0;
  alignas(64) std::byte page[kPageSize];
  const std::string value(kValueBytes, 'v');
  std::uint64_t next = 0, inserted = 0;
  Node node(page);
  const auto clear = [&] {
    node.format({.page = PageId{1}, .tree = TreeId{1}, .low = {}, .high = {}});
  };
  clear();
  for (auto _ : state) {
    const Key key(next++, ascending ? KeyOrder::ascending : KeyOrder::random);
    if (!node.room_for_leaf(Key::kBytes, kValueBytes)) clear();
    bool exact = false;
    const unsigned slot = node.lower_bound(key.view(), exact);
    node.insert_leaf(slot, key.view(), btree::make_tag(++inserted, 0), value);
  }
}
BENCHMARK(leaf_insert)->ArgName("ascending")->Arg(0)->Arg(1);

}  // namespace
}  // namespace kessai::bench

BENCHMARK_MAIN();
