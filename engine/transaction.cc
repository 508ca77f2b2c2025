// SPDX-License-Identifier: Apache-2.0
#include "engine/transaction.hpp"

#include <algorithm>

#include "io/check.hpp"

namespace kessai::engine {
namespace {

Error conflict(const TreeState& t, std::string_view key, Lsn lsn) {
  ErrorDetail d;
  d.what = "the row changed after this transaction began; run the transaction again";
  d.tree = t.name;
  d.key = key;
  d.lsn = lsn;
  return Error(Code::write_conflict, std::move(d));
}

std::uint64_t timeout_ns(const Store& s) {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(0, s.options().lock_timeout.count())) *
         1'000'000;
}

Result<void> lock_record(Store& s, mvcc::LockSet& locks, const TreeState& t, std::string_view key) {
  auto taken = s.locks().acquire(locks, t.tree.id(), key, mvcc::LockMode::exclusive, timeout_ns(s));
  if (taken) return {};
  ErrorDetail d = taken.error().detail();
  d.tree = t.name;  // the lock table knows ids only
  return std::unexpected(Error(taken.error().code(), std::move(d)));
}

}  // namespace

TransactionState::TransactionState(std::shared_ptr<Store> store, const BeginOptions& options)
    : store_(std::move(store)),
      options_(options),
      live_(store_->begin_snapshot(options.read_only)),
      locks_(store_->next_owner()) {
  seen_ = live_.snapshot().w;
  store_->counters.active.fetch_add(1, std::memory_order_relaxed);
}

TransactionState::~TransactionState() {
  if (self_) *self_ = nullptr;
  if (active_) end();
}

void TransactionState::end() noexcept {
  active_ = false;
  writes_.clear();
  store_->locks().release_all(locks_);
  live_.end();
  store_->counters.active.fetch_sub(1, std::memory_order_relaxed);
}

Result<void> TransactionState::usable(const TreeState* t) const {
  if (!active_) return fail(Code::closed_handle, "the transaction has ended");
  if (failed_)
    return fail(Code::closed_handle, "an earlier call of this transaction failed; roll it back");
  return store_->owns(t);
}

std::unexpected<Error> TransactionState::failed(Error e) {
  switch (e.code()) {
    case Code::not_found:
    case Code::key_exists:
    case Code::lock_timeout:
    case Code::tree_not_found:
      break;
    default:
      failed_ = true;
  }
  return std::unexpected(std::move(e));
}

Result<Lsn> TransactionState::get(const std::shared_ptr<TreeState>& t, std::string_view key,
                                  std::string& value) {
  KESSAI_TRY(usable(t.get()));
  KESSAI_TRY(check_key(key));
  Store::Use use(*store_);
  if (!use) return fail(Code::closed_handle, "the store is closed");
  if (const Write* w = writes_.find(t.get(), key)) {
    if (w->remove) return fail(Code::not_found);
    value = w->value;
    return Lsn{0};
  }
  auto r = store_->read_at(*t, key, live_.snapshot(), &value);
  if (killed())  // before any error: what the snapshot needed may be gone
    return failed(
        Error(Code::snapshot_too_old,
              "the snapshot was given up to keep undo_memory; run the transaction again"));
  if (!r) return failed(r.error());
  answered_ = true;
  if (!r->found) return fail(Code::not_found);
  return r->lsn;
}

Result<TransactionState::Current> TransactionState::lock_and_read(
    const std::shared_ptr<TreeState>& t, std::string_view key, bool want_value,
    bool conflict_on_newer) {
  KESSAI_TRY(lock_record(*store_, locks_, *t, key));
  Current c;
  std::string value;
  auto r = t->tree.get(key, want_value ? &value : nullptr, &c.hint);
  if (killed())
    return fail(Code::snapshot_too_old,
                "the snapshot was given up to keep undo_memory; run the transaction again");
  // The pages of a dropped tree stay while this snapshot is older than the drop.
  if (t->gone_at(judge_current_ ? kMaxLsn : live_.snapshot().w))
    return std::unexpected(dropped_tree(*t));
  if (!r) return std::unexpected(r.error());
  c.page_lsn = r->page_lsn;
  c.tag = r->tag;
  c.live = r->present && !btree::is_ghost(r->tag);
  if (r->present && conflict_on_newer && !judge_current_ &&
      !live_.snapshot().sees(btree::tag_lsn(r->tag))) {
    store_->counters.conflicts.fetch_add(1, std::memory_order_relaxed);
    return std::unexpected(conflict(*t, key, btree::tag_lsn(r->tag)));
  }
  // A long value that will be replaced is its own before-image: read it while it is locked.
  if (c.live && btree::is_overflow(r->tag) && !want_value) {
    auto again = t->tree.get(key, &value);
    if (!again) return std::unexpected(again.error());
  }
  c.value = std::move(value);
  return c;
}

Result<void> TransactionState::write(const std::shared_ptr<TreeState>& t, std::string_view key,
                                     Current&& current, bool remove, std::string_view value) {
  Write* w = writes_.find(t.get(), key);
  if (w == nullptr) {
    w = &writes_.add(t, key);
    w->had_row = current.live;
    w->hint = current.hint;
    if (current.live && btree::is_overflow(current.tag))
      w->before_overflow = std::move(current.value);
  }
  w->remove = remove;
  w->noop = remove && !w->had_row;
  writes_.set_value(*w, remove ? std::string_view{} : value);
  return {};
}

Result<void> TransactionState::put(const std::shared_ptr<TreeState>& t, std::string_view key,
                                   std::string_view value) {
  KESSAI_TRY(usable(t.get()));
  KESSAI_TRY(check_key(key));
  KESSAI_TRY(check_value(value));
  if (options_.read_only)
    return fail(Code::read_only, "the transaction was begun for reading only");
  Store::Use use(*store_);
  if (!use) return fail(Code::closed_handle, "the store is closed");
  KESSAI_TRY(store_->writable());
  if (writes_.find(t.get(), key) != nullptr) return write(t, key, {}, false, value);
  auto c = lock_and_read(t, key, false, true);
  if (!c) return failed(c.error());
  return write(t, key, std::move(*c), false, value);
}

Result<void> TransactionState::insert(const std::shared_ptr<TreeState>& t, std::string_view key,
                                      std::string_view value, std::string* existing) {
  KESSAI_TRY(usable(t.get()));
  KESSAI_TRY(check_key(key));
  KESSAI_TRY(check_value(value));
  if (options_.read_only)
    return fail(Code::read_only, "the transaction was begun for reading only");
  Store::Use use(*store_);
  if (!use) return fail(Code::closed_handle, "the store is closed");
  KESSAI_TRY(store_->writable());
  const auto exists = [&](Lsn lsn) {
    ErrorDetail d;
    d.what = "a row with this key exists";
    d.tree = t->name;
    d.key = key;
    d.lsn = lsn;
    return std::unexpected(Error(Code::key_exists, std::move(d)));
  };
  if (const Write* w = writes_.find(t.get(), key)) {
    if (w->remove) return write(t, key, {}, false, value);
    if (existing != nullptr) *existing = w->value;
    return exists(0);
  }
  // Uniqueness is judged on current data, not on the snapshot.
  auto c = lock_and_read(t, key, true, false);
  if (!c) return failed(c.error());
  if (c->live) {
    // I7: an error that carries a row waits until what it saw is durable.
    answered_ = true;
    seen_ = std::max(seen_, c->page_lsn);
    if (auto ok = store_->wait_seen(c->page_lsn); !ok) return failed(ok.error());
    if (existing != nullptr) *existing = std::move(c->value);
    return exists(btree::tag_lsn(c->tag));
  }
  if (c->tag != 0 && !judge_current_ && !live_.snapshot().sees(btree::tag_lsn(c->tag))) {
    store_->counters.conflicts.fetch_add(1, std::memory_order_relaxed);
    return failed(conflict(*t, key, btree::tag_lsn(c->tag)));
  }
  return write(t, key, std::move(*c), false, value);
}

Result<void> TransactionState::remove(const std::shared_ptr<TreeState>& t, std::string_view key) {
  KESSAI_TRY(usable(t.get()));
  KESSAI_TRY(check_key(key));
  if (options_.read_only)
    return fail(Code::read_only, "the transaction was begun for reading only");
  Store::Use use(*store_);
  if (!use) return fail(Code::closed_handle, "the store is closed");
  KESSAI_TRY(store_->writable());
  if (const Write* w = writes_.find(t.get(), key)) {
    if (w->remove) return fail(Code::not_found);
    return write(t, key, {}, true, {});
  }
  auto c = lock_and_read(t, key, false, true);
  if (!c) return failed(c.error());
  answered_ = true;
  if (!c->live) {
    seen_ = std::max(seen_, c->page_lsn);
    return fail(Code::not_found);
  }
  return write(t, key, std::move(*c), true, {});
}

Result<std::string> TransactionState::get_for_update(const std::shared_ptr<TreeState>& t,
                                                     std::string_view key) {
  KESSAI_TRY(usable(t.get()));
  KESSAI_TRY(check_key(key));
  if (options_.read_only)
    return fail(Code::read_only, "the transaction was begun for reading only");
  Store::Use use(*store_);
  if (!use) return fail(Code::closed_handle, "the store is closed");
  KESSAI_TRY(store_->writable());
  if (const Write* w = writes_.find(t.get(), key)) {
    if (w->remove) return fail(Code::not_found);
    return w->value;
  }
  auto c = lock_and_read(t, key, true, true);
  if (!c) return failed(c.error());
  answered_ = true;
  seen_ = std::max(seen_, c->page_lsn);
  if (!c->live) return fail(Code::not_found);
  return std::move(c->value);
}

Result<std::pair<Lsn, Lsn>> TransactionState::commit() {
  if (!active_ || store_->in_forked_child())
    return fail(Code::closed_handle, "the transaction has ended, or is the parent process's");
  if (failed_) {
    end();
    return fail(Code::closed_handle,
                "an earlier call of this transaction failed; it was rolled back");
  }
  Store::Use use(*store_);
  if (const bool too_old = killed(); !use || too_old) {
    end();
    return !use ? fail(Code::closed_handle, "the store is closed")
                : fail(Code::snapshot_too_old,
                       "the snapshot was given up to keep undo_memory; run the transaction again");
  }
  const bool writes = std::any_of(writes_.all().begin(), writes_.all().end(),
                                  [](const Write& w) { return !w.noop; });
  if (!writes) {
    const Lsn wait = answered_ && !options_.read_only ? seen_ : 0;
    end();
    return std::pair{Lsn{0}, wait};
  }
  live_.end();  // the writes are locked; nothing is read at the snapshot any more
  auto lsn = store_->commit(writes_, locks_);
  end();
  if (!lsn) return std::unexpected(lsn.error());
  return std::pair{*lsn, *lsn};
}

Result<void> TransactionState::rollback() {
  if (!active_ || store_->in_forked_child())
    return fail(Code::closed_handle, "the transaction has ended, or is the parent process's");
  const Lsn wait = answered_ && !options_.read_only ? seen_ : 0;
  end();
  store_->counters.rollbacks.fetch_add(1, std::memory_order_relaxed);
  Store::Use use(*store_);
  if (!use) return fail(Code::closed_handle, "the store is closed");
  return store_->wait_seen(wait);
}

Result<Lsn> autocommit(const std::shared_ptr<Store>& store, const std::shared_ptr<TreeState>& t,
                       std::string_view key, std::string_view value, char kind,
                       Durability durability) {
  BeginOptions o;
  o.durability = durability;
  TransactionState txn(store, o);
  txn.judge_current();  // nothing was read before: a change that came in between simply comes first
  auto done = kind == 'p'   ? txn.put(t, key, value)
              : kind == 'i' ? txn.insert(t, key, value, nullptr)
                            : txn.remove(t, key);
  if (!done) {
    if (auto waited = txn.rollback(); !waited) return std::unexpected(waited.error());
    return std::unexpected(done.error());
  }
  KESSAI_ASSIGN(lsns, txn.commit());
  if (durability == Durability::durable) KESSAI_TRY(store->wait_durable(lsns.second));
  return lsns.first;
}

}  // namespace kessai::engine
