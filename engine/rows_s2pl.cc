// SPDX-License-Identifier: Apache-2.0
#include "engine/policy.hpp"
#if KESSAI_S2PL

#include <algorithm>

#include "engine/rows_s2pl.hpp"
#include "io/check.hpp"

namespace kessai::engine {
namespace {
constexpr std::size_t kLongestStretch = 256;  // rows
}

Rows::Rows(std::shared_ptr<Store> store, std::shared_ptr<TreeState> tree, const Range& range,
           TransactionState* txn)
    : store_(std::move(store)), tree_(std::move(tree)), txn_(txn), left_(range) {
  done_ = range.to && *range.to <= range.from;
  if (txn_ != nullptr) return;
  BeginOptions o;
  o.read_only = true;
  own_ = std::make_unique<TransactionState>(store_, o);
  txn_ = own_.get();
}

Rows::~Rows() {
  // Ending it takes mutexes that a thread of the parent may have held when this child was forked.
  if (own_ && store_->in_forked_child()) static_cast<void>(own_.release());
}

Result<Range> Rows::next_stretch() {
  Range stretch = left_;
  btree::TreeCursor ahead(tree_->tree, left_.from, left_.to, left_.reverse);
  btree::TreeCursor::Row row;
  for (std::size_t rows = 0; rows < stretch_;) {
    KESSAI_ASSIGN(more, ahead.next(row));
    if (!more) return stretch;  // all that is left
    if (btree::is_ghost(row.tag)) continue;
    if (++rows < stretch_) continue;
    if (left_.reverse) {
      stretch.from = row.key;
    } else {
      stretch.to = std::string(row.key) + '\0';  // the smallest key above it
    }
  }
  return stretch;
}

Result<void> Rows::read(const Range& stretch) {
  btree::TreeCursor cursor(tree_->tree, stretch.from, stretch.to, stretch.reverse);
  btree::TreeCursor::Row row;
  for (;;) {
    KESSAI_ASSIGN(more, cursor.next(row));
    if (!more) break;
    if (btree::is_ghost(row.tag)) continue;
    Row& out = batch_.emplace_back();
    out.key = row.key;
    out.lsn = btree::tag_lsn(row.tag);
    if (!btree::is_overflow(row.tag)) {
      out.value = row.value;
      continue;
    }
    // The lock keeps the row, so it cannot change under this.
    KESSAI_ASSIGN(record, tree_->tree.get(out.key, &out.value));
    out.lsn = btree::tag_lsn(record.tag);
  }
  txn_->answered(cursor.seen());
  leaves_ += cursor.leaves();
  return {};
}

Result<void> Rows::fill() {
  auto ok = fill_locked();
  // Last of all: the pages of a dropped tree may have been freed under any of it.
  if (tree_->gone_at(kMaxLsn)) return std::unexpected(dropped_tree(*tree_));
  return ok;
}

Result<void> Rows::fill_locked() {
  batch_.clear();
  at_ = 0;
  while (batch_.empty() && !done_) {
    KESSAI_ASSIGN(stretch, next_stretch());
    std::optional<std::string_view> to;
    if (stretch.to) to = *stretch.to;
    auto taken = store_->locks().acquire_range(txn_->locks(), tree_->tree.id(), stretch.from, to,
                                               txn_->lock_timeout_ns({}));
    if (!taken) return lock_error(*tree_, taken.error());
    KESSAI_TRY(read(stretch));
    // Outside a transaction each batch is an answer of its own (I7).
    if (own_) KESSAI_TRY(store_->wait_seen(own_->seen()));
    if (left_.reverse) {
      done_ = stretch.from == left_.from;
      left_.to = std::move(stretch.from);
    } else {
      done_ = stretch.to == left_.to;
      left_.from = stretch.to.value_or("");
    }
    stretch_ = std::min(2 * stretch_, kLongestStretch);
  }
  return {};
}

bool Rows::next(Result<void>& status) {
  if (at_ < batch_.size()) {
    ++at_;
    return true;
  }
  const TransactionState::Call call(*txn_, "scan", tree_.get(), true);
  status = call.ok;
  if (!status) return false;
  if (auto ok = fill(); !ok) {
    status = txn_->failed(ok.error());
    return false;
  }
  if (batch_.empty()) return false;
  ++at_;
  return true;
}

}  // namespace kessai::engine

#endif
