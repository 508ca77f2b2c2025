// SPDX-License-Identifier: Apache-2.0
#include "engine/policy.hpp"
#if !KESSAI_S2PL

#include "engine/rows_mvcc.hpp"
#include "io/mutant.hpp"

namespace kessai::engine {

Rows::Rows(std::shared_ptr<Store> store, std::shared_ptr<TreeState> tree, const Range& range,
           TransactionState* txn)
    : store_(std::move(store)),
      tree_(std::move(tree)),
      txn_(txn),
      range_(range),
      cursor_(tree_->tree, range.from, range.to, range.reverse) {
  // A read_committed cursor keeps what it saw when it began.
  if (txn == nullptr || txn->isolation() == Isolation::read_committed) {
    const bool read_only = txn == nullptr || txn->options().read_only;
    live_ = store_->begin_snapshot(read_only, txn == nullptr ? 0 : txn->options().at_least);
    snapshot_ = live_.snapshot();
  } else {
    snapshot_ = txn->snapshot();
    reads_ = txn->read_set();
  }
  if (txn != nullptr) txn->answered(snapshot_.w);
  if (KESSAI_MUTANT(range_read_not_recorded)) reads_ = nullptr;
  if (reads_ == nullptr) return;
  // Nothing read yet: an empty range at the side where the walk starts.
  std::string start = range.from;
  if (range.reverse) start = range.to.value_or(std::string(kMaxKeyBytes + 1, '\xff'));
  read_ = reads_->add({.tree = tree_->tree.id(),
                       .from = start,
                       .to = start,
                       .to_end = range.reverse && !range.to,
                       .to_inclusive = false});
}

void Rows::passed(std::string_view key) {
  mvcc::ReadSet::Range& r = reads_->range(read_);
  if (range_.reverse) {
    r.from = key;
  } else {
    r.to = key;
    r.to_inclusive = true;
  }
}

void Rows::passed_all() {
  mvcc::ReadSet::Range& r = reads_->range(read_);
  r.from = range_.from;
  if (range_.reverse) return;
  r.to = range_.to.value_or("");
  r.to_end = !range_.to;
  r.to_inclusive = false;
}

bool Rows::resolve(const btree::TreeCursor::Row& row, Result<void>& status) {
  key_ = row.key;
  value_ = row.value;
  lsn_ = btree::tag_lsn(row.tag);
  if (btree::is_ghost(row.tag)) return false;
  if (!btree::is_overflow(row.tag)) return true;
  auto whole = cursor_.overflow_value(row, long_value_);
  if (whole && *whole) {
    value_ = long_value_;
    return true;
  }
  if (!whole) {
    status = std::unexpected(whole.error());
    return false;
  }
  // The row changed after the leaf was copied: ask for the version by key.
  auto r = store_->read_at(*tree_, row.key, snapshot_, &long_value_);
  if (!r) status = std::unexpected(r.error());
  value_ = long_value_;
  lsn_ = r ? r->lsn : 0;
  return r && r->found;
}

/// Takes `row`, whose version is an older one, and the next few of the leaf copy, and looks for
/// the older versions among them.
void Rows::look_ahead(const btree::TreeCursor::Row& row) {
  if (ahead_ == nullptr) ahead_ = std::make_unique<Ahead>();
  std::size_t n = 0, asked = 0;
  btree::TreeCursor::Row r = row;
  do {
    ahead_->keys[n] = r.key;
    r.key = ahead_->keys[n];
    ahead_->rows[n] = r;
    if (!snapshot_.sees(btree::tag_lsn(r.tag))) ahead_->asks[asked++].key = r.key;
  } while (++n < next_ahead_ && cursor_.next_in_page(r));
  next_ahead_ = std::min(2 * next_ahead_, kMostAhead);
  store_->undo().find_many(tree_->tree.id(), std::span(ahead_->asks).first(asked), snapshot_);
  ahead_->asked = 0;
  ahead_at_ = 0;
  ahead_end_ = n;
}

/// The next of the rows that look_ahead took. What was found then is private memory, like the leaf
/// copy. `resolve`: `row` is one whose value is not in the leaf.
Rows::Taken Rows::take_ahead(btree::TreeCursor::Row& row) {
  while (ahead_at_ < ahead_end_) {
    row = ahead_->rows[ahead_at_++];
    key_ = row.key;
    lsn_ = btree::tag_lsn(row.tag);
    if (!snapshot_.sees(lsn_)) {
      const mvcc::Undo::Ask& ask = ahead_->asks[ahead_->asked++];
      if (!ask.found || !ask.version.present) continue;
      value_ = ask.version.value;
      lsn_ = ask.version.begin;
    } else {
      if (btree::is_overflow(row.tag)) return Taken::resolve;
      if (btree::is_ghost(row.tag)) continue;
      value_ = row.value;
    }
    if (reads_ != nullptr) passed(key_);
    return Taken::visible;
  }
  return Taken::none;
}

bool Rows::killed(Result<void>& status) {
  if (!live_.killed() && (txn_ == nullptr || !txn_->killed())) return false;
  status = std::unexpected(snapshot_given_up());
  return true;
}

bool Rows::next_resolved(btree::TreeCursor::Row& row, bool have_row, Result<void>& status) {
  std::optional<TransactionState::Call> call;
  std::optional<Store::Use> use;
  if (txn_ != nullptr) {
    call.emplace(*txn_, "scan", tree_.get(), true);
    status = call->ok;
  } else if (use.emplace(*store_); !*use) {
    status = fail(Code::closed_handle, "the store is closed");
  }
  for (; status; have_row = false) {
    Result<bool> more = true;
    if (!have_row) {
      const Taken taken = take_ahead(row);
      if (taken == Taken::visible) return true;
      if (taken == Taken::none) more = cursor_.next(row);
    }
    // First of all: what a killed snapshot needed may be gone, ends and errors included.
    if (killed(status)) break;
    if (tree_->gone_at(snapshot_.w)) {
      status = std::unexpected(dropped_tree(*tree_));
      break;
    }
    if (!more) {
      status = std::unexpected(more.error());
      break;
    }
    if (!*more) {
      if (reads_ != nullptr) passed_all();
      return false;
    }
    if (!snapshot_.sees(btree::tag_lsn(row.tag))) {
      look_ahead(row);
      if (killed(status)) break;
      continue;
    }
    const bool visible = resolve(row, status);
    if (!status || killed(status)) break;
    if (reads_ != nullptr) passed(row.key);
    if (visible) return true;
  }
  if (call && call->ok) status = txn_->failed(status.error());
  return false;
}

}  // namespace kessai::engine

#endif
