// SPDX-License-Identifier: Apache-2.0
// Writes and locks of a transaction. A write is private; its record's exclusive lock is taken at
// the call, or at commit (Locking::at_commit), and judged against the current version under it.
#include <algorithm>

#include "engine/transaction.hpp"
#include "io/check.hpp"
#include "mvcc/record_hash.hpp"

namespace kessai::engine {
namespace {

mvcc::LockMode mode_of(LockMode m) {
  return m == LockMode::shared ? mvcc::LockMode::shared : mvcc::LockMode::exclusive;
}

std::unexpected<Error> exists(const TreeState& t, std::string_view key, Lsn lsn) {
  return std::unexpected(row_error(Code::key_exists, "a row with this key exists", t, key, lsn));
}

// Before anything is read or locked: an insert-only tree refuses changes whatever the row is.
Result<void> may_change(const TreeState& t, std::string_view key) {
  if (!t.insert_only) return {};
  return std::unexpected(row_error(Code::insert_only_violation,
                                   "rows of this tree are inserted and never changed or removed", t,
                                   key, 0));
}

}  // namespace

std::uint64_t TransactionState::lock_timeout_ns(LockWait wait) const noexcept {
  return to_ns(wait.value_or(options_.lock_timeout.value_or(store_->options().lock_timeout)));
}

Result<void> TransactionState::writable_call() const {
  if (options_.read_only)
    return fail(Code::read_only, "the transaction was begun for reading only");
  return store_->writable();
}

std::unexpected<Error> TransactionState::conflict(const TreeState& t, std::string_view key,
                                                  Lsn lsn) {
  store_->counters.conflicts.fetch_add(1, std::memory_order_relaxed);
  return std::unexpected(row_error(
      Code::write_conflict,
      "the row changed after this transaction began; run the transaction again", t, key, lsn));
}

Result<void> TransactionState::lock_record(const TreeState& t, std::string_view key,
                                           LockWait wait) {
  auto taken = store_->locks().acquire(locks_, t.tree.id(), key, mvcc::LockMode::exclusive,
                                       lock_timeout_ns(wait));
  if (!taken) return lock_error(t, taken.error());
  return {};
}

Result<TransactionState::Current> TransactionState::lock_and_read(const TreePtr& t,
                                                                  std::string_view key,
                                                                  bool want_value,
                                                                  bool conflict_on_newer,
                                                                  LockWait wait) {
  // The commit will push a before-image.
  const bool far = !kS2pl && store_->undo().old_below() != 0;
  const std::uint64_t hash = far ? mvcc::record_hash(t->tree.id(), key) : 0;
  if (far) store_->undo().prefetch_chain(hash);
  KESSAI_TRY(lock_record(*t, key, wait));
  if (!judge_current_) renew_view();
  Current c;
  std::string value;
  auto r = t->tree.get(key, want_value ? &value : nullptr, &c.hint);
  if (far) store_->undo().prefetch_newest(hash);
  if (killed() && isolation_ != Isolation::read_committed)
    return std::unexpected(snapshot_given_up());
  // The pages of a dropped tree stay while this snapshot is older than the drop.
  if (t->gone_at(tree_view())) return std::unexpected(dropped_tree(*t));
  if (!r) return std::unexpected(r.error());
  c.page_lsn = r->page_lsn;
  c.tag = r->tag;
  c.live = r->present && !btree::is_ghost(r->tag);
  if (r->present && conflict_on_newer && conflicts(r->tag))
    return conflict(*t, key, btree::tag_lsn(r->tag));
  // A long value that will be replaced is its own before-image: read it while it is locked.
  if (!kS2pl && c.live && btree::is_overflow(r->tag) && !want_value) {
    auto again = t->tree.get(key, &value);
    if (t->gone_at(tree_view())) return std::unexpected(dropped_tree(*t));
    if (!again) return std::unexpected(again.error());
  }
  c.value = std::move(value);
  return c;
}

void TransactionState::note_writes() noexcept {
  write_count_.store(writes_.size(), std::memory_order_relaxed);
  write_bytes_.store(writes_.bytes(), std::memory_order_relaxed);
}

void TransactionState::write(const TreePtr& t, std::string_view key, Current&& current, bool remove,
                             std::string_view value) {
  Write* w = writes_.find(t.get(), key);
  if (w == nullptr) {
    w = &writes_.add(t, key);
    w->had_row = current.live;
    w->hint = current.hint;
    if (current.live && btree::is_overflow(current.tag))
      w->before_overflow = std::move(current.value);
  }
  writes_.set(*w, remove, remove ? std::string_view{} : value);
  locks_.add_work(1);
  note_writes();
}

void TransactionState::defer(const TreePtr& t, std::string_view key, bool remove, bool insert,
                             std::string_view value) {
  Write& w = writes_.add(t, key);
  w.deferred = true;
  w.insert = insert;
  w.had_row = true;  // until it is known: a later remove must not be taken for nothing to do
  writes_.set(w, remove, value);
  note_writes();
}

Result<void> TransactionState::settle(Write& w, LockWait wait) {
  if (!w.deferred) return {};
  KESSAI_ASSIGN(c, lock_and_read(w.tree, w.key, false, true, wait));
  if (w.insert && c.live) {
    answered(c.page_lsn);
    if (isolation_ == Isolation::read_committed) {
      KESSAI_TRY(store_->wait_seen(btree::tag_lsn(c.tag)));
      return exists(*w.tree, w.key, btree::tag_lsn(c.tag));
    }
    return conflict(*w.tree, w.key, btree::tag_lsn(c.tag));
  }
  w.deferred = false;
  w.had_row = c.live;
  w.noop = w.remove && !c.live;
  w.hint = c.hint;
  if (c.live && btree::is_overflow(c.tag)) w.before_overflow = std::move(c.value);
  return {};
}

Result<void> TransactionState::settle_all() {
  if (!defers()) return {};
  for (Write& w : writes_.sorted()) KESSAI_TRY(settle(w, {}));
  return {};
}

Result<void> TransactionState::put(const TreePtr& t, std::string_view key, std::string_view value,
                                   LockWait wait) {
  const Call call(*this, "put", t.get(), true);
  KESSAI_TRY(call.ok);
  KESSAI_TRY(check_key(key));
  KESSAI_TRY(check_value(value));
  KESSAI_TRY(writable_call());
  KESSAI_TRY(may_change(*t, key));
  if (writes_.find(t.get(), key) != nullptr) {
    write(t, key, {}, false, value);
  } else if (defers()) {
    defer(t, key, false, false, value);
  } else {
    auto c = lock_and_read(t, key, false, true, wait);
    if (!c) return failed(c.error());
    write(t, key, std::move(*c), false, value);
  }
  return {};
}

Result<void> TransactionState::insert(const TreePtr& t, std::string_view key,
                                      std::string_view value, std::string* existing,
                                      LockWait wait) {
  const Call call(*this, "insert", t.get(), true);
  KESSAI_TRY(call.ok);
  KESSAI_TRY(check_key(key));
  KESSAI_TRY(check_value(value));
  KESSAI_TRY(writable_call());
  if (const Write* w = writes_.find(t.get(), key)) {
    if (!w->remove) {
      if (existing != nullptr) *existing = w->value;
      return exists(*t, key, 0);
    }
    write(t, key, {}, false, value);
    return {};
  }
  if (defers()) {
    std::string found;
    auto r = read_row(*t, key, &found);
    if (!r) return failed(r.error());
    answered_ = true;
    if (r->found) {
      if (auto ok = store_->wait_seen(r->lsn); !ok) return failed(ok.error());
      if (existing != nullptr) *existing = std::move(found);
      return exists(*t, key, r->lsn);
    }
    defer(t, key, false, true, value);
    return {};
  }
  // Uniqueness is judged on current data. A serializable transaction must not look past its
  // snapshot: for it a newer row is a conflict.
  auto c = lock_and_read(t, key, true, isolation_ == Isolation::serializable, wait);
  if (!c) return failed(c.error());
  answered(c->page_lsn);  // that it is there, or not, is an answer (I7)
  if (!c->live) {
    // Deleted behind the snapshot's back: it would see the old row beside its own.
    if (conflicts(c->tag)) return failed(conflict(*t, key, btree::tag_lsn(c->tag)).error());
    write(t, key, std::move(*c), false, value);
    return {};
  }
  // An error that carries a row waits until what it saw is durable.
  if (auto ok = store_->wait_seen(btree::tag_lsn(c->tag)); !ok) return failed(ok.error());
  if (existing != nullptr) *existing = std::move(c->value);
  return exists(*t, key, btree::tag_lsn(c->tag));
}

Result<void> TransactionState::remove(const TreePtr& t, std::string_view key, LockWait wait) {
  const Call call(*this, "remove", t.get(), true);
  KESSAI_TRY(call.ok);
  KESSAI_TRY(check_key(key));
  KESSAI_TRY(writable_call());
  KESSAI_TRY(may_change(*t, key));
  if (const Write* w = writes_.find(t.get(), key)) {
    if (w->remove) return fail(Code::not_found);
    write(t, key, {}, true, {});
    return {};
  }
  if (defers()) {
    auto r = read_row(*t, key, nullptr);
    if (!r) return failed(r.error());
    answered_ = true;
    if (!r->found) return fail(Code::not_found);
    defer(t, key, true, false, {});
    return {};
  }
  auto c = lock_and_read(t, key, false, true, wait);
  if (!c) return failed(c.error());
  answered(c->page_lsn);
  if (!c->live) return fail(Code::not_found);
  write(t, key, std::move(*c), true, {});
  return {};
}

Result<std::string> TransactionState::get_for_update(const TreePtr& t, std::string_view key,
                                                     LockWait wait) {
  const Call call(*this, "get_for_update", t.get(), true);
  KESSAI_TRY(call.ok);
  KESSAI_TRY(check_key(key));
  KESSAI_TRY(writable_call());
  if (Write* w = writes_.find(t.get(), key)) {
    if (auto ok = settle(*w, wait); !ok) return failed(ok.error());
    if (w->remove) return fail(Code::not_found);
    return w->value;
  }
  auto c = lock_and_read(t, key, true, true, wait);
  if (!c) return failed(c.error());
  answered(c->page_lsn);
  if (!c->live) return fail(Code::not_found);
  return std::move(c->value);
}

Result<bool> TransactionState::update_if(const TreePtr& t, std::string_view key,
                                         const Transaction::Update& update, LockWait wait) {
  const Call call(*this, "update_if", t.get(), true);
  KESSAI_TRY(call.ok);
  KESSAI_TRY(check_key(key));
  KESSAI_TRY(writable_call());
  KESSAI_TRY(may_change(*t, key));
  Current c;
  const Write* own = writes_.find(t.get(), key);
  if (own != nullptr) {
    if (auto ok = settle(*writes_.find(t.get(), key), wait); !ok) return failed(ok.error());
    if (own->remove) return fail(Code::not_found);
    c.value = own->value;
  } else {
    auto now = lock_and_read(t, key, true, true, wait);
    if (!now) return failed(now.error());
    c = std::move(*now);
    answered(c.page_lsn);
    if (!c.live) return fail(Code::not_found);
  }
  std::optional<std::string> next;
  KESSAI_TRY(store_->call_out([&] { next = update(c.value); }));
  if (!next) return false;
  KESSAI_TRY(check_value(*next));
  write(t, key, std::move(c), false, *next);
  return true;
}

Result<void> TransactionState::lock_many(const TreePtr& t, std::span<const std::string_view> keys,
                                         LockWait wait) {
  const Call call(*this, "lock_many", t.get(), true);
  KESSAI_TRY(call.ok);
  for (const auto key : keys) KESSAI_TRY(check_key(key));
  KESSAI_TRY(writable_call());
  std::vector<std::string_view> sorted(keys.begin(), keys.end());
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  for (const auto key : sorted) {
    if (Write* w = writes_.find(t.get(), key)) {
      if (auto ok = settle(*w, wait); !ok) return failed(ok.error());
      continue;
    }
    auto c = lock_and_read(t, key, false, true, wait);
    if (!c) return failed(c.error());
  }
  return {};
}

Result<void> TransactionState::lock_named(std::string_view name, LockMode mode, LockWait wait) {
  const Call call(*this, "lock_named", nullptr, false);
  KESSAI_TRY(call.ok);
  KESSAI_TRY(check_key(name));
  auto taken = store_->locks().acquire_named(locks_, name, mode_of(mode), lock_timeout_ns(wait));
  if (!taken) return failed(taken.error());
  renew_view();  // sees what was committed under the name before
  return {};
}

}  // namespace kessai::engine
