// SPDX-License-Identifier: Apache-2.0
#include "engine/scan.hpp"

#include <algorithm>

#include "io/mutant.hpp"

namespace kessai::engine {

CursorState::CursorState(std::shared_ptr<Store> store, std::shared_ptr<TreeState> tree,
                         const Range& range, TransactionState* txn)
    : reverse_(range.reverse) {
  if (txn != nullptr) {
    const TransactionState::Call call(*txn, "scan", tree.get(), true);
    status_ = call.ok;
    if (!status_) return;
    txn_ = txn->self();
    for (const Write& w : txn->writes().all()) {
      if (w.tree != tree || w.key < range.from || (range.to && w.key >= *range.to)) continue;
      own_.push_back({w.key, w.value, w.remove});
    }
    std::sort(own_.begin(), own_.end(),
              [this](const Own& a, const Own& b) { return before(a.key, b.key); });
    rows_.emplace(std::move(store), std::move(tree), range, txn);
  } else {
    rows_.emplace(std::move(store), std::move(tree), range, nullptr);
  }
}

bool CursorState::next() {
  if (!status_) return false;
  if (txn_ != nullptr && (*txn_ == nullptr || !(*txn_)->active())) {
    status_ = *txn_ == nullptr
                  ? fail(Code::closed_handle, "the transaction of this cursor has ended")
                  : Result<void>(std::unexpected((*txn_)->wait_ended()));
    return false;
  }
  for (;;) {
    if (!stored_valid_ && !stored_done_) {
      stored_valid_ = rows_->next(status_);
      if (!status_ && KESSAI_MUTANT(scan_ends_at_damage)) status_ = {};
      if (!status_) return false;
      stored_done_ = !stored_valid_;
    }
    if (own_at_ < own_.size() && (!stored_valid_ || !before(rows_->key(), own_[own_at_].key))) {
      const Own& o = own_[own_at_++];
      if (stored_valid_ && rows_->key() == o.key) stored_valid_ = false;  // replaced
      if (o.remove) continue;
      key_ = o.key;
      value_ = o.value;
      lsn_ = 0;
      return true;
    }
    if (!stored_valid_) return false;
    stored_valid_ = false;
    key_ = rows_->key();
    value_ = rows_->value();
    lsn_ = rows_->lsn();
    return true;
  }
}

}  // namespace kessai::engine
