// SPDX-License-Identifier: Apache-2.0
#include "engine/scan.hpp"

#include <algorithm>

namespace kessai::engine {

CursorState::CursorState(std::shared_ptr<Store> store, std::shared_ptr<TreeState> tree, Range range,
                         TransactionState* txn)
    : store_(std::move(store)), tree_(std::move(tree)), reverse_(range.reverse) {
  if (txn != nullptr) {
    txn_ = txn->self();
    snapshot_ = txn->snapshot();
    for (const Write& w : txn->writes().all()) {
      if (w.tree != tree_ || w.key < range.from || (range.to && w.key >= *range.to)) continue;
      own_.push_back({w.key, w.value, w.remove});
    }
    std::sort(own_.begin(), own_.end(),
              [this](const Own& a, const Own& b) { return before(a.key, b.key); });
    txn->answered();
  } else {
    live_ = store_->begin_snapshot(true);
    snapshot_ = live_.snapshot();
  }
  cursor_.emplace(tree_->tree, std::move(range.from), std::move(range.to), reverse_);
}

bool CursorState::resolve(const btree::TreeCursor::Row& row) {
  stored_key_ = row.key;
  stored_value_ = row.value;
  stored_lsn_ = btree::tag_lsn(row.tag);
  if (snapshot_.sees(stored_lsn_)) {
    if (btree::is_ghost(row.tag)) return false;
    if (!btree::is_overflow(row.tag)) return true;
    auto whole = cursor_->overflow_value(row, long_value_);
    if (whole && *whole) {
      stored_value_ = long_value_;
      return true;
    }
    if (!whole) {
      status_ = std::unexpected(whole.error());
      return false;
    }
    // The row changed after the leaf was copied: ask for the version by key.
    auto r = store_->read_at(*tree_, row.key, snapshot_, &long_value_);
    if (!r) status_ = std::unexpected(r.error());
    stored_value_ = long_value_;
    stored_lsn_ = r ? r->lsn : 0;
    return r && r->found;
  }
  if (!store_->undo().find(tree_->tree.id(), row.key, snapshot_, version_) || !version_.present)
    return false;
  stored_value_ = version_.value;
  stored_lsn_ = version_.begin;
  return true;
}

bool CursorState::next_stored() {
  btree::TreeCursor::Row row;
  // The leaf copy at hand is private memory: rows that the snapshot sees need nothing else.
  while (cursor_->next_in_page(row)) {
    const Lsn lsn = btree::tag_lsn(row.tag);
    if (!snapshot_.sees(lsn) || btree::is_overflow(row.tag)) return next_resolved(row, true);
    if (btree::is_ghost(row.tag)) continue;
    stored_key_ = row.key;
    stored_value_ = row.value;
    stored_lsn_ = lsn;
    return true;
  }
  return next_resolved(row, false);
}

bool CursorState::killed() {
  if (!live_.killed() && (txn_ == nullptr || !(*txn_)->killed())) return false;
  status_ =
      fail(Code::snapshot_too_old, "the snapshot was given up to keep undo_memory; scan again");
  return true;
}

bool CursorState::next_resolved(btree::TreeCursor::Row& row, bool have_row) {
  Store::Use use(*store_);
  if (!use) {
    status_ = fail(Code::closed_handle, "the store is closed");
    return false;
  }
  for (;; have_row = false) {
    auto more = have_row ? Result<bool>(true) : cursor_->next(row);
    // First of all: what a killed snapshot needed may be gone, ends and errors included.
    if (killed()) return false;
    if (tree_->gone_at(snapshot_.w)) {
      status_ = std::unexpected(dropped_tree(*tree_));
      return false;
    }
    if (!more) {
      status_ = std::unexpected(more.error());
      return false;
    }
    if (!*more) return false;
    const bool visible = resolve(row);
    if (!status_) return false;
    if (killed()) return false;
    if (visible) return true;
  }
}

bool CursorState::next() {
  if (!status_) return false;
  if (txn_ != nullptr && (*txn_ == nullptr || !(*txn_)->active())) {
    status_ = fail(Code::closed_handle, "the transaction of this cursor has ended");
    return false;
  }
  for (;;) {
    if (!stored_valid_ && !stored_done_) {
      stored_valid_ = next_stored();
      if (!status_) {
        if (txn_ != nullptr) (*txn_)->scan_failed(status_.error());
        return false;
      }
      stored_done_ = !stored_valid_;
    }
    const bool have_own = own_at_ < own_.size();
    if (have_own && (!stored_valid_ || !before(stored_key_, own_[own_at_].key))) {
      const Own& o = own_[own_at_++];
      if (stored_valid_ && stored_key_ == o.key) stored_valid_ = false;  // replaced
      if (o.remove) continue;
      key_ = o.key;
      value_ = o.value;
      lsn_ = 0;
      return true;
    }
    if (!stored_valid_) return false;
    stored_valid_ = false;
    key_ = stored_key_;
    value_ = stored_value_;
    lsn_ = stored_lsn_;
    return true;
  }
}

}  // namespace kessai::engine
