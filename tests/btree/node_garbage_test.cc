// SPDX-License-Identifier: Apache-2.0
// Pages that are not what they should be: optimistic reads of arbitrary bytes, hostile pages.
#include <gtest/gtest.h>

#include "tests/btree/node_support.hpp"

namespace kessai::btree {
namespace {

using testing::format_inner;
using testing::format_leaf;
using testing::Page;
using testing::Random;

/// Every function that an optimistic reader may call. ASan and UBSan watch; results are nonsense.
void read_everything(NodeView node, Random& random, bool more_keys) {
  std::string out;
  bool exact;
  for (unsigned i = 0; i < (more_keys ? 6 : 1); ++i) {
    const std::string key = random.key(Random::kMixed);
    (void)node.lower_bound(key, exact);
    (void)node.child_index(key);
    (void)node.covers(key);
    (void)node.room_for_leaf(key.size(), 10);
    (void)node.room_for_separator(key.size());
    node.prefetch_match(key);
  }
  node.prefetch();
  const unsigned count = node.count();
  EXPECT_LE(count, kMaxInnerCount);
  for (unsigned slot = 0; slot <= count; slot += more_keys ? 1 : 7) {
    LeafHit hit;
    if (node.leaf_at(slot, hit)) {
      node.copy_value(hit, out);
      char buffer[kPageSize];
      node.copy_value(hit, buffer);
    }
    node.copy_key(slot, out);
    EXPECT_LE(out.size(), kMaxKey);
    node.copy_separator(slot, out);
    EXPECT_LE(out.size(), kMaxKey);
    (void)node.child(slot);
  }
  (void)node.child(~0u);
  node.low_fence(out);
  (void)node.high_fence(out);
  (void)node.has_high_fence();
  (void)node.live_bytes();
  (void)node.page_lsn();
  (void)node.type();
}

/// What a page that passed verify() must survive.
void use_everything(const Page& page, Random& random) {
  NodeView node = page.view();
  Node changed = page.node();
  std::string low;
  node.low_fence(low);
  for (unsigned i = 0; i < 6; ++i) {
    const std::string key = i == 0 ? low : random.key(Random::kMixed);
    if (!node.covers(key)) continue;
    Page left, right;
    if (!node.is_leaf()) {
      if (node.child(node.child_index(key)) == kNoPage) ADD_FAILURE() << "no child";
      if (node.count() > 1 && node.room_for_separator(key.size()) == false) {
        node.split_to(left.data(), PageId{1}, right.data(), PageId{2}, node.plan_inner_split(key));
      }
      if (node.count() != 0) changed.erase_separator(0);
      continue;
    }
    bool exact;
    const unsigned slot = node.lower_bound(key, exact);
    const std::string value = random.value(key.size());
    if (exact) {
      if (!changed.update_leaf(slot, 0, value)) changed.erase_leaf(slot);
    } else if (node.room_for_leaf(key.size(), value.size())) {
      changed.insert_leaf(slot, key, 0, value);
    } else {
      node.split_to(left.data(), PageId{1}, right.data(), PageId{2},
                    node.plan_leaf_split(key, value.size(), slot, LeafChange::insert));
    }
  }
  changed.compact();
  testing::expect_valid(node);
}

void fill(const Page& page, Random& random, bool leaf) {
  const auto family = static_cast<Random::Family>(random.below(Random::kFamilies));
  std::string low = random.key(family), high = random.key(family);
  if (high < low) std::swap(low, high);
  const auto end =
      low == high || random.one_in(2) ? std::nullopt : std::optional<std::string_view>(high);
  if (leaf) {
    format_leaf(page.node(), low, end);
  } else {
    format_inner(page.node(), low, end);
  }
  Node node = page.node();
  for (unsigned i = 0; i < (leaf ? 60 : 500); ++i) {
    const std::string key = random.key(family);
    if (!node.covers(key)) continue;
    const std::string value = random.value(key.size());
    bool exact;
    if (leaf) {
      const unsigned slot = node.lower_bound(key, exact);
      if (exact || !node.room_for_leaf(key.size(), value.size())) continue;
      node.insert_leaf(slot, key, random.tag(), value);
    } else if (node.room_for_separator(key.size())) {
      std::string separator;
      const unsigned child = node.child_index(key);
      if (child != 0) node.copy_separator(child - 1, separator);
      if (key == low || (child != 0 && separator == key)) continue;
      node.insert_separator(key, PageId{i + 1});
    }
  }
}

// Goal: arbitrary bytes never lead a reader out of the page, and verify() refuses them. Method:
// random pages, half of them with a plausible header.
TEST(NodeGarbage, RandomBytesAreReadSafelyAndRefused) {
  Random random(1);
  for (unsigned round = 0; round < 1500; ++round) {
    Page page;
    for (std::size_t at = 0; at < kPageSize; at += 8) {
      race::store(page.data() + at,
                  random.one_in(3) ? random.word() : random.word() & 0x0fff0fff0fff0fff);
    }
    if (round % 2 == 0) {
      race::store<std::uint64_t>(page.data(), testing::kStore);
      race::store<std::uint64_t>(page.data() + 8, 7);
      race::store<std::uint8_t>(page.data() + 24, static_cast<std::uint8_t>(1 + round / 2 % 2));
      race::store<std::uint8_t>(page.data() + 25, static_cast<std::uint8_t>(round / 2 % 2));
      race::store<std::uint64_t>(page.data() + 64, kMaxLsn);
    }
    read_everything(page.view(), random, false);
    std::string what;
    EXPECT_FALSE(page.view().verify(testing::kStore, PageId{7}, what));
    EXPECT_FALSE(what.empty());
  }
}

// Goal: a valid page with flipped bits or swapped words is read safely; if verify() still accepts
// it, every change works on it. Method: random damage, mostly in the structural bytes.
TEST(NodeGarbage, DamagedPagesAreReadSafelyAndChangedOnlyIfValid) {
  Random random(2);
  unsigned accepted = 0, refused = 0;
  Page page;
  for (unsigned round = 0; round < 6000; ++round) {
    const bool leaf = round % 16 < 8;
    if (round % 8 == 0) fill(page, random, leaf);
    Page damaged;
    race::copy_in(damaged.data(), page.data(), kPageSize);
    for (std::size_t n = 1 + random.below(3); n != 0; --n) {
      const std::size_t reach = random.one_in(2) ? 160 : random.one_in(2) ? 800 : kPageSize;
      const std::size_t at = random.below(reach);
      auto byte = race::load<std::uint8_t>(damaged.data() + at);
      byte = random.one_in(3) ? static_cast<std::uint8_t>(random.word())
                              : static_cast<std::uint8_t>(byte ^ 1u << random.below(8));
      race::store(damaged.data() + at, byte);
    }
    read_everything(damaged.view(), random, true);
    std::string what;
    if (damaged.view().verify(testing::kStore, leaf ? PageId{7} : PageId{8}, what)) {
      ++accepted;
      use_everything(damaged, random);
    } else {
      ++refused;
      EXPECT_FALSE(what.empty());
    }
  }
  EXPECT_GT(accepted, 100u);
  EXPECT_GT(refused, 1000u);
}

// Goal: each structural lie is refused by name. Method: one lie per case on a small valid leaf.
TEST(NodeGarbage, VerifyNamesEachLie) {
  struct Lie {
    std::size_t at;
    std::uint16_t value;
    const char* what;
  };
  // Two records "b" and "c" with values of one byte; records at 4064 and 4048, fences "a" and "d".
  const Lie lies[] = {
      {0, 1, "page belongs to another store"},
      {8, 1, "page carries another page id"},
      {24, 3, "not a tree node"},
      {24, 2, "level does not match the type"},
      {70, 0x7fff, "impossible LSN"},
      {72, 999, "more entries than a page holds"},
      {74, 4, "heap begins inside the slots"},
      {76, 8, "heap accounting is off"},
      {78, 1, "prefix is not that of the fences"},
      {80, 4000, "fences misplaced"},
      {82, 1025, "fence too long"},
      {64, 4, "record newer than max_ts"},
      {162, 0x6300, "head is not that of the key"},
      {168, 4000, "record outside the heap"},
      {170, 2, "key lengths differ"},
      {172, 4064, "records overlap or leave the heap"},
      {4080, 0x41, "fences out of order"},
  };
  for (const Lie& lie : lies) {
    Page page;
    Node node = page.node();
    node.format({.store_id = testing::kStore,
                 .page = PageId{7},
                 .tree = TreeId{3},
                 .low = "a",
                 .high = "d"});
    node.insert_leaf(0, "b", make_tag(5, 0), "1");
    node.insert_leaf(1, "c", make_tag(6, 0), "2");
    node.raise_max_ts(6);
    std::string what;
    ASSERT_TRUE(node.verify(testing::kStore, PageId{7}, what)) << what;
    race::store(page.data() + lie.at, lie.value);
    EXPECT_FALSE(node.verify(testing::kStore, PageId{7}, what)) << "at " << lie.at;
    EXPECT_EQ(what, lie.what) << "at " << lie.at;
  }
  Page page;
  format_leaf(page.node(), "a", "d");
  page.node().insert_leaf(0, "c", 0, "");
  page.node().insert_leaf(1, "b", 0, "");
  std::string what;
  EXPECT_FALSE(page.view().verify(testing::kStore, PageId{7}, what));
  EXPECT_EQ(what, "keys out of order");
}

}  // namespace
}  // namespace kessai::btree
