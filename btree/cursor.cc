// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "btree/race.hpp"
#include "btree/tree.hpp"
#include "io/check.hpp"

namespace kessai::btree {

TreeCursor::TreeCursor(Tree& tree, std::string from, std::optional<std::string> to, bool reverse)
    : tree_(&tree), from_(std::move(from)), to_(std::move(to)), reverse_(reverse) {
  if (to_ && *to_ <= from_) done_ = true;
  if (reverse_) {
    unbounded_ = !to_;
    bound_ = to_.value_or("");
  } else {
    bound_ = from_;
  }
}

Result<void> TreeCursor::fetch() {
  for (;;) {
    auto g = reverse_ ? tree_->find_leaf_before(bound_, unbounded_) : tree_->find_leaf(bound_);
    if (!g) return std::unexpected(g.error());
    race::copy_out(page_, g->data(), kPageSize);
    if (g->valid()) break;
  }
  const NodeView leaf(page_);
  max_ts_ = leaf.max_ts();
  page_lsn_ = leaf.page_lsn();
  bool exact = false;
  if (reverse_) {
    slot_ = unbounded_ || !leaf.covers(bound_) ? leaf.count() : leaf.lower_bound(bound_, exact);
    end_ = leaf.covers(from_) ? leaf.lower_bound(from_, exact) : 0;
    leaf.low_fence(next_bound_);
    next_unbounded_ = next_bound_.empty() || next_bound_ <= from_;  // nothing further down
  } else {
    slot_ = leaf.lower_bound(bound_, exact);
    end_ = to_ && leaf.covers(*to_) ? leaf.lower_bound(*to_, exact) : leaf.count();
    next_unbounded_ = !leaf.high_fence(next_bound_) || (to_ && *to_ <= next_bound_);
  }
  loaded_ = true;
  return {};
}

Result<bool> TreeCursor::next(Row& row) {
  while (!done_) {
    if (!loaded_) KESSAI_TRY(fetch());
    if (reverse_ ? slot_ > end_ : slot_ < end_) {
      const NodeView leaf(page_);
      const unsigned slot = reverse_ ? --slot_ : slot_++;
      LeafHit hit;
      if (!leaf.leaf_at(slot, hit)) continue;  // cannot happen in a validated copy
      leaf.copy_key(slot, key_);
      row.key = key_;
      row.tag = hit.tag;
      row.value = {reinterpret_cast<const char*>(page_) + hit.voff, hit.vlen};
      return true;
    }
    if (next_unbounded_) {
      done_ = true;
      break;
    }
    bound_.swap(next_bound_);
    unbounded_ = false;
    loaded_ = false;
  }
  return false;
}

Result<bool> TreeCursor::overflow_value(const Row& row, std::string& out) {
  OverflowRef ref;
  std::copy_n(row.value.data(), sizeof ref, reinterpret_cast<char*>(&ref));
  KESSAI_ASSIGN(whole, tree_->read_overflow(ref, out));
  // Believe the pages only if the record still refers to them.
  KESSAI_ASSIGN(now, tree_->get(row.key, nullptr));
  return whole && now.present && now.tag == row.tag;
}

}  // namespace kessai::btree
