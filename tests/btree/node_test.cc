// SPDX-License-Identifier: Apache-2.0
// One node against a std::map, worst-case sizes, fan-out.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "btree/node_private.hpp"
#include "tests/btree/node_support.hpp"

namespace kessai::btree {
namespace {

using testing::expect_valid;
using testing::format_inner;
using testing::format_leaf;
using testing::key_of;
using testing::Page;
using testing::Random;

struct Record {
  std::uint64_t tag;
  std::string value;
};
using Model = std::map<std::string, Record>;

void expect_equal(NodeView node, const Model& model) {
  ASSERT_EQ(node.count(), model.size());
  unsigned slot = 0;
  std::size_t bytes = 0;
  std::string low, high, value;
  node.low_fence(low);
  const bool bounded = node.high_fence(high);
  const std::size_t prefix = bounded ? common_prefix(low, high) : 0;
  for (const auto& [key, record] : model) {
    LeafHit hit;
    ASSERT_TRUE(node.leaf_at(slot, hit));
    ASSERT_EQ(key_of(node, slot), key);
    ASSERT_EQ(hit.tag, record.tag);
    node.copy_value(hit, value);
    ASSERT_EQ(value, record.value);
    bytes += leaf_bytes(key.size() - prefix, record.value.size()) + kLeafSlot;
    ++slot;
  }
  EXPECT_EQ(node.live_bytes(), bytes + pad8(low.size()) + (bounded ? pad8(high.size()) : 0));
}

void expect_lower_bound(NodeView node, const Model& model, const std::string& key) {
  bool exact;
  const unsigned slot = node.lower_bound(key, exact);
  const auto it = model.lower_bound(key);
  ASSERT_EQ(slot, std::distance(model.begin(), it));
  ASSERT_EQ(exact, it != model.end() && it->first == key);
}

// Goal: a leaf behaves as a sorted map under every change. Method: random operations of each key
// family between random fences, compared with std::map; verify and exact accounting on the way.
TEST(Node, LeafBehavesAsASortedMap) {
  for (unsigned round = 0; round < 150; ++round) {
    Random random(round);
    const auto family = static_cast<Random::Family>(round % Random::kFamilies);
    std::string low = random.one_in(3) ? "" : random.key(family), high = random.key(family);
    if (high < low) std::swap(low, high);
    const bool bounded = low != high && !random.one_in(3);
    Page page;
    Node node = page.node();
    format_leaf(node, low, bounded ? std::optional<std::string_view>(high) : std::nullopt);
    Model model;
    for (unsigned step = 0; step < 400; ++step) {
      const std::string key = random.key(family);
      ASSERT_EQ(node.covers(key), key >= low && (!bounded || key < high));
      if (!node.covers(key)) continue;
      ASSERT_NO_FATAL_FAILURE(expect_lower_bound(node, model, key));
      bool exact;
      const unsigned slot = node.lower_bound(key, exact);
      const std::string value = random.value(key.size());
      const std::uint64_t tag = random.tag();
      const std::size_t free = kNodeUsable - node.live_bytes();
      if (!exact) {
        const std::size_t need =
            leaf_bytes(key.size() - (bounded ? common_prefix(low, high) : 0), value.size());
        ASSERT_EQ(node.room_for_leaf(key.size(), value.size()), need + kLeafSlot <= free);
        if (!node.room_for_leaf(key.size(), value.size())) continue;
        node.insert_leaf(slot, key, tag, value);
        model[key] = {tag, value};
      } else if (random.one_in(3)) {
        node.erase_leaf(slot);
        model.erase(key);
      } else if (random.one_in(4)) {
        node.set_tag(slot, tag);
        model[key].tag = tag;
      } else if (node.update_leaf(slot, tag, value)) {
        model[key] = {tag, value};
      } else {
        ASSERT_GT(value.size(), model[key].value.size());
        ASSERT_GT(pad8(value.size()) - pad8(model[key].value.size()) + 8, free);
      }
      if (random.one_in(40)) node.compact();
      if (step % 16 == 0) expect_valid(node);
    }
    expect_valid(node);
    ASSERT_NO_FATAL_FAILURE(expect_equal(node, model)) << "round " << round;
  }
}

// Goal: an inner node routes every key to the child whose range holds it. Method: as above, with
// separators and their right children.
TEST(Node, InnerRoutesEveryKeyToItsChild) {
  for (unsigned round = 0; round < 100; ++round) {
    Random random(round + 1000);
    const auto family = static_cast<Random::Family>(round % Random::kFamilies);
    std::string low = random.one_in(3) ? "" : random.key(family), high = random.key(family);
    if (high < low) std::swap(low, high);
    const bool bounded = low != high && !random.one_in(3);
    Page page;
    Node node = page.node();
    format_inner(node, low, bounded ? std::optional<std::string_view>(high) : std::nullopt);
    std::map<std::string, PageId> model{{low, PageId{1000}}};
    for (unsigned step = 0; step < 800; ++step) {
      const std::string key = random.key(family);
      if (!node.covers(key)) continue;
      const auto it = std::prev(model.upper_bound(key));
      const auto index = static_cast<unsigned>(std::distance(model.begin(), it));
      ASSERT_EQ(node.child_index(key), index);
      ASSERT_EQ(node.child(index), it->second);
      if (it->first != key && node.room_for_separator(key.size())) {
        model[key] = PageId{2000 + step};
        node.insert_separator(key, PageId{2000 + step});
      } else if (it->first == key && key != low && random.one_in(2)) {
        node.erase_separator(index - 1);
        model.erase(key);
      } else if (it->first == key) {
        it->second = PageId{9000 + step};
        node.set_child(index, it->second);
      }
      if (step % 16 == 0) expect_valid(node);
    }
    expect_valid(node);
    ASSERT_EQ(node.count() + 1, model.size());
    std::string separator;
    unsigned i = 0;
    for (const auto& [key, child] : model) {
      ASSERT_EQ(node.child(i), child);
      if (i != 0) {
        node.copy_separator(i - 1, separator);
        ASSERT_EQ(separator, key);
      }
      ++i;
    }
    EXPECT_EQ(node.child(i), kNoPage);
  }
}

// Goal: heads tie, hints and duplicates of heads give the right answer at every count. Method:
// grow a node of short values and look up every key and its neighbours, with hints in use.
TEST(Node, FindsKeysWhoseHeadsAreEqual) {
  for (const std::size_t shared : {0, 3, 4, 5, 11, 12}) {
    Page page;
    Node node = page.node();
    format_leaf(node);
    Model model;
    for (unsigned i = 0; node.room_for_leaf(shared + 2, 0); ++i) {
      std::string key(shared, 'x');
      key.push_back(static_cast<char>(i * 37));
      if (i % 3 == 0) key.push_back('\0');
      bool exact;
      const unsigned slot = node.lower_bound(key, exact);
      if (exact) break;
      node.insert_leaf(slot, key, make_tag(i, 0), "");
      model[key] = {make_tag(i, 0), ""};
      for (const auto& [k, r] : model) {
        ASSERT_NO_FATAL_FAILURE(expect_lower_bound(node, model, k));
        ASSERT_NO_FATAL_FAILURE(expect_lower_bound(node, model, k + '\0'));
        ASSERT_NO_FATAL_FAILURE(expect_lower_bound(node, model, k.substr(0, k.size() - 1)));
      }
    }
    EXPECT_GT(model.size(), 64u);
    expect_valid(node);
  }
}

// Goal: the promised worst case fits. Method: two 1024-byte fences without a common prefix, one
// record of the longest key with a 16-byte value, one of the longest inline value.
TEST(Node, HoldsTheLargestRecordBesideTheLongestFences) {
  const std::string low(kMaxKey, 'a'), high(kMaxKey, 'b');
  Page page;
  Node node = page.node();
  format_leaf(node, low, high);
  const std::string key = low.substr(0, kMaxKey - 1) + "b", value(16, 'v');
  ASSERT_TRUE(fits_inline(key.size(), value.size()));
  ASSERT_TRUE(node.room_for_leaf(key.size(), value.size()));
  node.insert_leaf(0, key, make_tag(1, 0), value);
  expect_valid(node);
  node.erase_leaf(0);
  const std::string big(kMaxInlineRecord - kRecordHeader - 2, 'v');
  ASSERT_TRUE(fits_inline(2, big.size()));
  EXPECT_FALSE(fits_inline(2, big.size() + 1));
  ASSERT_TRUE(node.room_for_leaf(2, big.size()));
  node.insert_leaf(0, "az", make_tag(1, 0), big);
  expect_valid(node);

  format_inner(node, low, high);
  ASSERT_TRUE(node.room_for_separator(kMaxKey));
  node.insert_separator(key, PageId{5});
  expect_valid(node);
  EXPECT_EQ(node.child_index(key), 1u);
  EXPECT_EQ(node.child_index(low), 0u);
}

// Goal: >= 250 children on short keys. Method: separators as leaf splits of 24 random 16-byte keys
// would produce them, put into one inner node until it is full, for 10 thousand to 10 million keys.
TEST(Node, FanOutOnShortKeysIsAtLeast250) {
  for (const std::size_t keys : {10'000u, 300'000u, 10'000'000u}) {
    Random random(keys);
    // A window of the sorted key space with the density of `keys` uniform keys.
    const std::size_t window = 24 * 400;
    std::set<std::string> sorted;
    const std::uint64_t span = static_cast<std::uint64_t>(static_cast<double>(window) /
                                                          static_cast<double>(keys) * 1.8e19);
    const std::uint64_t base = keys == 10'000u ? 0 : random.word() / 2;
    while (sorted.size() < window) {
      const std::uint64_t prefix = __builtin_bswap64(base + random.word() % span);
      sorted.insert(std::string(reinterpret_cast<const char*>(&prefix), 8) + random.bytes(8));
    }
    std::vector<std::string> separators;
    const std::string* previous = nullptr;
    std::size_t i = 0;
    for (const std::string& key : sorted) {
      if (i++ % 24 == 0 && previous != nullptr)
        separators.emplace_back(shortest_separator(*previous, key));
      previous = &key;
    }
    Page page;
    Node node = page.node();
    format_inner(node, *sorted.begin(), *sorted.rbegin());
    unsigned n = 0;
    while (n < separators.size() && node.room_for_separator(separators[n].size())) {
      node.insert_separator(separators[n], PageId{n + 1});
      ++n;
    }
    expect_valid(node);
    EXPECT_GE(node.count() + 1, 250u) << keys << " keys";
    for (unsigned s = 0; s < n; ++s) ASSERT_EQ(node.child_index(separators[s]), s + 1);
    RecordProperty("fan_out_" + std::to_string(keys), static_cast<int>(node.count() + 1));
  }
}

// Goal: the header accessors return what was put in, and LSNs of max_ts only rise.
TEST(Node, HeaderKeepsWhatFormatWasGiven) {
  Page page;
  Node node = page.node();
  node.format({.store_id = 11,
               .page = PageId{12},
               .tree = TreeId{13},
               .type = PageType::inner,
               .level = 2,
               .low = "a",
               .high = "b",
               .first_child = PageId{14}});
  node.set_page_lsn(15);
  node.raise_max_ts(16);
  node.raise_max_ts(9);
  EXPECT_EQ(node.store_id(), 11u);
  EXPECT_EQ(node.page_id(), PageId{12});
  EXPECT_EQ(node.tree_id(), TreeId{13});
  EXPECT_EQ(node.type(), PageType::inner);
  EXPECT_EQ(node.level(), 2u);
  EXPECT_EQ(node.child(0), PageId{14});
  EXPECT_EQ(node.page_lsn(), 15u);
  EXPECT_EQ(node.max_ts(), 16u);
  std::string what;
  EXPECT_FALSE(node.verify(10, PageId{12}, what));
  EXPECT_FALSE(node.verify(11, PageId{1}, what));
  EXPECT_TRUE(node.verify(11, PageId{12}, what)) << what;
}

}  // namespace
}  // namespace kessai::btree
