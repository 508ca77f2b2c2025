// SPDX-License-Identifier: Apache-2.0
// Splits and merges: nothing is lost, everything stays between its fences, the newcomer fits.
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <map>

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

using Model = std::map<std::string, std::pair<std::uint64_t, std::string>>;

/// The leaf level of a tree, without a tree: a list of leaves that covers all keys.
class Leaves {
 public:
  Leaves() {
    pages_.emplace_back();
    format_leaf(pages_.back().node());
  }

  void put(const std::string& key, std::uint64_t tag, const std::string& value) {
    for (unsigned rounds = 0;; ++rounds) {
      ASSERT_LE(rounds, kMaxSplits);
      most_rounds_ = std::max(most_rounds_, rounds);
      const auto page = find(key);
      Node node = page->node();
      bool exact;
      const unsigned slot = node.lower_bound(key, exact);
      if (exact && node.update_leaf(slot, tag, value)) return;
      if (!exact && node.room_for_leaf(key.size(), value.size())) {
        node.insert_leaf(slot, key, tag, value);
        return;
      }
      const bool append = slot == node.count() && !node.has_high_fence();
      const LeafChange change = exact    ? LeafChange::replace
                                : append ? LeafChange::append
                                         : LeafChange::insert;
      ASSERT_NO_FATAL_FAILURE(split(page, key, value.size(), slot, change));
    }
  }

  bool erase(const std::string& key) {
    const auto page = find(key);
    Node node = page->node();
    bool exact;
    const unsigned slot = node.lower_bound(key, exact);
    if (exact) node.erase_leaf(slot);
    return exact;
  }

  void merge_underfull(std::size_t below) {
    for (auto page = pages_.begin(); std::next(page) != pages_.end();) {
      const auto right = std::next(page);
      const std::size_t bytes = NodeView::merged_bytes(page->view(), right->view());
      if (bytes > below) {
        ++page;
        continue;
      }
      Page merged;
      NodeView::merge_to(merged.data(), page->view().page_id(), page->view(), right->view());
      EXPECT_EQ(merged.view().live_bytes(), bytes);
      expect_valid(merged.view());
      *page = std::move(merged);
      pages_.erase(right);
      ++merges_;
    }
  }

  void expect_equal(const Model& model) {
    auto it = model.begin();
    std::string low, high, previous_high, value;
    for (const Page& page : pages_) {
      const NodeView node = page.view();
      expect_valid(node);
      node.low_fence(low);
      ASSERT_EQ(low, previous_high);
      for (unsigned slot = 0; slot < node.count(); ++slot, ++it) {
        ASSERT_NE(it, model.end());
        LeafHit hit;
        ASSERT_TRUE(node.leaf_at(slot, hit));
        node.copy_value(hit, value);
        ASSERT_EQ(key_of(node, slot), it->first);
        ASSERT_EQ(hit.tag, it->second.first);
        ASSERT_EQ(value, it->second.second);
      }
      node.high_fence(previous_high);
    }
    EXPECT_FALSE(pages_.back().view().has_high_fence());
    EXPECT_EQ(it, model.end());
  }

  [[nodiscard]] double fill(bool without_last) const {
    std::size_t live = 0, n = 0;
    for (const Page& page : pages_) {
      if (without_last && &page == &pages_.back()) continue;
      live += page.view().live_bytes(), ++n;
    }
    return static_cast<double>(live) / static_cast<double>(n * kNodeUsable);
  }
  [[nodiscard]] std::size_t pages() const { return pages_.size(); }
  [[nodiscard]] std::size_t merges() const { return merges_; }
  [[nodiscard]] unsigned most_rounds() const { return most_rounds_; }

 private:
  using Place = std::list<Page>::iterator;

  // Pages are ordered, so the last visited one is mostly near; start there.
  Place find(const std::string& key) {
    for (auto it = pages_.begin(); it != pages_.end(); ++it) {
      if (it->view().covers(key)) return it;
    }
    ADD_FAILURE() << "no page covers the key";
    std::abort();
  }

  void split(Place page, const std::string& key, std::size_t vlen, unsigned slot,
             LeafChange change) {
    const SplitPoint at = page->view().plan_leaf_split(key, vlen, slot, change);
    Page left, right;
    page->view().split_to(left.data(), PageId{7}, right.data(), PageId{7}, at);
    expect_valid(left.view());
    expect_valid(right.view());
    ASSERT_EQ(left.view().count(), at.left_count);
    ASSERT_EQ(left.view().count() + right.view().count(), page->view().count());
    ASSERT_TRUE(left.view().count() != 0 || key < at.separator) << "an empty half for nothing";
    if (change != LeafChange::append) {
      ASSERT_TRUE(right.view().count() != 0 || key >= at.separator) << "an empty half for nothing";
    }
    const NodeView half = key < at.separator ? left.view() : right.view();
    ASSERT_TRUE(half.covers(key));
    if (at.fits && change != LeafChange::replace) {
      ASSERT_TRUE(half.room_for_leaf(key.size(), vlen));
    }
    if (at.fits && change == LeafChange::replace) {
      bool exact;
      const unsigned i = half.lower_bound(key, exact);
      Page copy;
      race::copy_in(copy.data(), half.bytes(), kPageSize);
      ASSERT_TRUE(exact && copy.node().update_leaf(i, 1, std::string(vlen, 'x')));
    }
    *page = std::move(left);
    pages_.insert(std::next(page), std::move(right));
  }

  std::list<Page> pages_;
  std::size_t merges_ = 0;
  unsigned most_rounds_ = 0;
};

// Goal: a leaf level stays equal to a map through splits and merges, and no change needs more than
// kMaxSplits. Method: random puts, removes and merges per key family.
TEST(NodeSplit, LeavesStayEqualToAMap) {
  for (unsigned family = 0; family < Random::kFamilies; ++family) {
    for (unsigned round = 0; round < 6; ++round) {
      Random random(100 * family + round);
      Leaves leaves;
      Model model;
      for (unsigned step = 0; step < 800; ++step) {
        const std::string key = random.key(static_cast<Random::Family>(family));
        if (random.one_in(4)) {
          ASSERT_EQ(leaves.erase(key), model.erase(key) == 1);
        } else {
          const std::string value = random.value(key.size());
          model[key] = {random.tag(), value};
          ASSERT_NO_FATAL_FAILURE(leaves.put(key, model[key].first, value));
        }
        if (step % 300 == 299) leaves.merge_underfull(kNodeUsable * (5 + random.below(6)) / 10);
      }
      ASSERT_NO_FATAL_FAILURE(leaves.expect_equal(model));
      for (auto it = model.begin(); it != model.end();) {
        if (random.one_in(5)) {
          ++it;
          continue;
        }
        ASSERT_TRUE(leaves.erase(it->first));
        it = model.erase(it);
      }
      leaves.merge_underfull(kNodeUsable);
      ASSERT_NO_FATAL_FAILURE(leaves.expect_equal(model));
    }
  }
}

// Goal: even where no single cut makes room, two do. Method: a leaf in which every separator that
// would balance it is about 1 KiB long: each half would have to hold that fence on top.
TEST(NodeSplit, TwoCutsMakeRoomWhereOneCannot) {
  const auto key = [](char last) { return std::string(kMaxKey - 1, 'p') + last; };
  const std::string newcomer = key('2');
  const std::map<std::string, std::size_t> records = {
      {"oz", 818}, {std::string(999, 'p'), 0}, {key('4'), 0}, {"z", 811}};
  Leaves leaves;
  Model model;
  const auto put = [&](const std::string& k, std::size_t vlen) {
    model[k] = {make_tag(1, 0), std::string(vlen, 'v')};
    leaves.put(k, make_tag(1, 0), std::string(vlen, 'v'));
  };
  for (const auto& [k, vlen] : records) put(k, vlen);
  ASSERT_EQ(leaves.pages(), 1u);
  put(newcomer, 20);
  EXPECT_EQ(leaves.most_rounds(), 2u) << "the case that needs two cuts no longer occurs";
  EXPECT_EQ(leaves.pages(), 3u);
  ASSERT_NO_FATAL_FAILURE(leaves.expect_equal(model));
}

// Goal: the bound of two splits holds for any sizes. Method: random leaves of few huge records with
// long shared prefixes and random fences, filled to the last byte.
TEST(NodeSplit, NeverNeedsMoreThanTwoCuts) {
  Random random(77);
  unsigned most = 0;
  for (unsigned round = 0; round < 1500; ++round) {
    Leaves leaves;
    std::string again;
    for (unsigned step = 0; step < 14; ++step) {
      std::string key(random.one_in(3) ? random.below(kMaxKey) + 1 : kMaxKey - random.below(60),
                      random.one_in(5) ? 'a' : 'b');
      key.back() = static_cast<char>(random.word());
      if (random.one_in(5))
        key[key.size() - 1 - random.below(std::min<std::size_t>(key.size(), 80))] = 'c';
      if (random.one_in(4)) key = again;  // a longer value, maybe
      if (random.one_in(3)) again = key;
      const std::size_t vmax = kMaxInlineRecord - kRecordHeader - key.size();
      const std::size_t vlen = random.one_in(2) ? vmax : random.below(vmax + 1);
      ASSERT_NO_FATAL_FAILURE(leaves.put(key, make_tag(1, 0), std::string(vlen, 'v')));
    }
    most = std::max(most, leaves.most_rounds());
  }
  EXPECT_LE(most, kMaxSplits);
}

// Goal: ascending loads leave full leaves behind. Method: counters of 8 and 16 bytes, values of
// several sizes, fill of all leaves but the last.
TEST(NodeSplit, AscendingAppendsFillLeaves) {
  for (const std::size_t klen : {8, 16}) {
    for (const std::size_t vlen : {100, 200, 400}) {
      Leaves leaves;
      const unsigned n = static_cast<unsigned>(kNodeUsable / (klen + vlen + 20) * 12);
      for (std::uint64_t i = 0; i < n; ++i) {
        const std::uint64_t be = __builtin_bswap64(1'000'000 + i);
        const std::string key =
            std::string(klen - 8, 'k') + std::string(reinterpret_cast<const char*>(&be), 8);
        ASSERT_NO_FATAL_FAILURE(leaves.put(key, make_tag(i, 0), std::string(vlen, 'v')));
      }
      ASSERT_GE(leaves.pages(), 8u);
      EXPECT_GE(leaves.fill(true), vlen == 400 ? 0.90 : 0.95)
          << "keys of " << klen << ", values of " << vlen;
      RecordProperty("fill_" + std::to_string(klen) + "_" + std::to_string(vlen),
                     std::to_string(leaves.fill(true)));
    }
  }
}

// Goal: a random load splits near the middle and merges shrink it again. Method: random 16-byte
// keys; a split tree is at least 60 % full, and erasing nine tenths merges to a fraction.
TEST(NodeSplit, RandomLoadsSplitEvenlyAndMerge) {
  Random random(5);
  Leaves leaves;
  Model model;
  for (unsigned i = 0; i < 3000; ++i) {
    const std::string key = random.bytes(16);
    model[key] = {make_tag(i, 0), std::string(100, 'v')};
    ASSERT_NO_FATAL_FAILURE(leaves.put(key, model[key].first, model[key].second));
  }
  EXPECT_GE(leaves.fill(false), 0.60);
  const std::size_t before = leaves.pages();
  for (auto it = model.begin(); it != model.end();) {
    if (random.one_in(10)) {
      ++it;
      continue;
    }
    ASSERT_TRUE(leaves.erase(it->first));
    it = model.erase(it);
  }
  leaves.merge_underfull(kNodeUsable * 8 / 10);
  EXPECT_LT(leaves.pages(), before / 4);
  EXPECT_GT(leaves.merges(), 0u);
  ASSERT_NO_FATAL_FAILURE(leaves.expect_equal(model));
}

// Goal: an inner level routes as before through splits, merges and root splits. Method: a list of
// inner nodes under random separators, compared with a map from separator to child.
TEST(NodeSplit, InnerLevelStaysEqualToAMap) {
  for (unsigned family = 0; family < Random::kFamilies; ++family) {
    Random random(family + 400);
    std::list<Page> pages(1);
    format_inner(pages.back().node());
    std::map<std::string, PageId> model{{"", PageId{1000}}};
    const auto covering = [&](const std::string& key) {
      return std::find_if(pages.begin(), pages.end(),
                          [&](const Page& p) { return p.view().covers(key); });
    };
    for (unsigned step = 0; step < 2500; ++step) {
      const std::string key = random.key(static_cast<Random::Family>(family));
      if (model.contains(key)) continue;
      unsigned rounds = 0;
      auto page = covering(key);
      for (; !page->view().room_for_separator(key.size()); page = covering(key)) {
        ASSERT_LT(rounds++, kMaxSplits);
        const SplitPoint at = page->view().plan_inner_split(key);
        Page left, right;
        page->view().split_to(left.data(), PageId{8}, right.data(), PageId{8}, at);
        expect_valid(left.view());
        expect_valid(right.view());
        ASSERT_EQ(left.view().count() + right.view().count() + 1, page->view().count());
        const NodeView half = key < at.separator ? left.view() : right.view();
        if (at.fits) {
          ASSERT_TRUE(half.room_for_separator(key.size()));
        }
        if (random.one_in(4)) {  // as a root would, into a page of its own
          Page root;
          race::copy_in(root.data(), page->data(), kPageSize);
          root.node().make_root(PageId{91}, PageId{92}, at.separator);
          expect_valid(root.view());
          EXPECT_EQ(root.view().level(), 2u);
          EXPECT_EQ(root.view().child(root.view().child_index(key)),
                    PageId{key < at.separator ? 91u : 92u});
        }
        *page = std::move(left);
        pages.insert(std::next(page), std::move(right));
      }
      page->node().insert_separator(key, PageId{2000 + step});
      model[key] = PageId{2000 + step};
      if (step % 700 == 699) {
        for (page = pages.begin(); std::next(page) != pages.end();) {
          const auto right = std::next(page);
          const std::size_t bytes = NodeView::merged_bytes(page->view(), right->view());
          if (bytes > kNodeUsable) {
            ++page;
            continue;
          }
          Page merged;
          NodeView::merge_to(merged.data(), PageId{8}, page->view(), right->view());
          EXPECT_EQ(merged.view().live_bytes(), bytes);
          expect_valid(merged.view());
          *page = std::move(merged);
          pages.erase(right);
        }
      }
    }
    for (unsigned i = 0; i < 3000; ++i) {
      const std::string key = random.key(static_cast<Random::Family>(family));
      const NodeView node = covering(key)->view();
      ASSERT_EQ(node.child(node.child_index(key)), std::prev(model.upper_bound(key))->second);
    }
  }
}

// Goal: halves and unions inherit what I7 and the leaf shortcut need. Method: page LSN and max_ts
// through split, root split and merge.
TEST(NodeSplit, HalvesInheritLsnAndMaxTs) {
  Page page, left, right, merged;
  Node node = page.node();
  node.format({.store_id = 1, .page = PageId{7}, .tree = TreeId{2}, .low = "", .high = {}});
  node.insert_leaf(0, "a", make_tag(40, 0), "1");
  node.insert_leaf(1, "b", make_tag(41, 0), "2");
  node.raise_max_ts(41);
  node.set_page_lsn(50);
  node.split_to(left.data(), PageId{7}, right.data(), PageId{9}, {1, "b", true});
  for (const Page* half : {&left, &right}) {
    EXPECT_EQ(half->view().max_ts(), 41u);
    EXPECT_EQ(half->view().page_lsn(), 50u);
    EXPECT_EQ(half->view().tree_id(), TreeId{2});
  }
  EXPECT_EQ(right.view().page_id(), PageId{9});
  left.node().set_page_lsn(60);
  right.node().raise_max_ts(70);
  NodeView::merge_to(merged.data(), PageId{7}, left.view(), right.view());
  EXPECT_EQ(merged.view().page_lsn(), 60u);
  EXPECT_EQ(merged.view().max_ts(), 70u);
  node.make_root(PageId{10}, PageId{11}, "b");
  EXPECT_EQ(node.page_id(), PageId{7});
  EXPECT_EQ(node.level(), 1u);
  EXPECT_EQ(node.page_lsn(), 50u);
  expect_valid(node);
}

}  // namespace
}  // namespace kessai::btree
