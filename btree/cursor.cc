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

/// The leaf beside the last one under the same parent, without a descent. False: descend.
bool TreeCursor::fetch_neighbour() {
  if (!turn_.parent.valid()) return false;
  const NodeView parent(turn_.parent.data());
  if (reverse_ ? turn_.index == 0 : turn_.index >= parent.count()) return false;
  const unsigned index = reverse_ ? turn_.index - 1 : turn_.index + 1;
  Pool& pool = tree_->store_->pool();
  Pool::Optimistic g;
  const PageId child = parent.child(index);
  if (pool.peek(child, g) != Pool::Peek::ok) {
    // A cold scan reads ahead along the parent, in one batch.
    constexpr unsigned kReadAhead = 32;
    PageId ahead[kReadAhead];
    unsigned n = 0;
    for (unsigned i = index; n < kReadAhead && i <= parent.count(); reverse_ ? --i : ++i) {
      ahead[n++] = parent.child(i);
      if (reverse_ && i == 0) break;
    }
    if (!turn_.parent.valid()) return false;
    pool.load_batch({ahead, n});
    if (pool.peek(child, g) != Pool::Peek::ok) return false;
  }
  const NodeView leaf(g.data());
  leaf.copy_leaf(page_);
  if (!leaf.is_leaf() || !g.valid() || !turn_.parent.valid()) return false;
  // It must continue where the last leaf ended.
  std::string fence;
  const NodeView copy(page_);
  if (reverse_) {
    if (!copy.high_fence(fence)) return false;
  } else {
    copy.low_fence(fence);
  }
  if (fence != bound_) return false;
  turn_.index = index;
  return true;
}

void TreeCursor::look_ahead() noexcept {
  ahead_ = nullptr;
  if (!turn_.parent.valid()) return;
  const NodeView parent(turn_.parent.data());
  if (reverse_ ? turn_.index == 0 : turn_.index >= parent.count()) return;
  Pool::Optimistic g;
  if (tree_->store_->pool().peek(parent.child(reverse_ ? turn_.index - 1 : turn_.index + 1), g) !=
      Pool::Peek::ok)
    return;
  NodeView(g.data()).prefetch();
  ahead_ = g.data();
  // Where its heap starts is guessed from this leaf: rows are read without the store's protection,
  // so nothing of the neighbour may be.
  const unsigned heap = NodeView(page_).heap_begin();
  ahead_at_ = std::max(448U, (heap > 256 ? heap - 256 : 0) & ~63U);
}

Result<void> TreeCursor::fetch() {
  if (fetch_neighbour()) return {};
  io::Waits::LateTimer again(&tree_->store_->env());
  for (;;) {
    auto g = reverse_ ? tree_->find_leaf_before(bound_, unbounded_, &turn_)
                      : tree_->find_leaf(bound_, &turn_);
    if (!g) return std::unexpected(g.error());
    NodeView(g->data()).copy_leaf(page_);
    if (g->valid()) return check_place();
    again.start(io::Wait::page_latch);
  }
}

/// A leaf that is not where its parent says would lead back to where the cursor was.
Result<void> TreeCursor::check_place() const {
  const NodeView leaf(page_);
  std::string low, high;
  leaf.low_fence(low);
  const bool bounded = leaf.high_fence(high);
  const bool right = !reverse_    ? low <= bound_ && (!bounded || bound_ < high)
                     : unbounded_ ? !bounded
                                  : low < bound_ && (!bounded || bound_ <= high);
  if (right) return {};
  ErrorDetail d;
  d.path = tree_->store_->path();
  d.page = raw(leaf.page_id());
  d.what = "a leaf does not hold the keys that its parent says it holds";
  return std::unexpected(Error(Code::damaged, std::move(d)));
}

void TreeCursor::enter_page() {
  const NodeView leaf(page_);
  ++leaves_;
  max_ts_ = leaf.max_ts();
  seen_ = std::max(seen_, leaf.page_lsn());
  bool exact = false;
  std::string low;
  leaf.low_fence(low);
  if (reverse_) {
    slot_ = unbounded_ || !leaf.covers(bound_) ? leaf.count() : leaf.lower_bound(bound_, exact);
    end_ = leaf.covers(from_) ? leaf.lower_bound(from_, exact) : 0;
    next_bound_ = low;
    next_unbounded_ = low.empty() || low <= from_;  // nothing further down
  } else {
    slot_ = bound_ == low ? 0 : leaf.lower_bound(bound_, exact);
    end_ = to_ && leaf.covers(*to_) ? leaf.lower_bound(*to_, exact) : leaf.count();
    next_unbounded_ = !leaf.high_fence(next_bound_) || (to_ && *to_ <= next_bound_);
  }
  prefix_ = std::min(leaf.prefix_length(), low.size());
  std::memcpy(key_, low.data(), prefix_);
  loaded_ = true;
  look_ahead();
}

Result<bool> TreeCursor::next_page(Row& row) {
  while (!done_) {
    if (!loaded_) {
      KESSAI_TRY(fetch());
      enter_page();
    }
    if (next_in_page(row)) return true;
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
