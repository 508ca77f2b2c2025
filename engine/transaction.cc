// SPDX-License-Identifier: Apache-2.0
// Begin, calls, reads, savepoints, commit, rollback, expiry. Writes and locks: writes.cc.
#include "engine/transaction.hpp"

#include <algorithm>
#include <utility>

#include "io/check.hpp"

namespace kessai::engine {

TransactionState::TransactionState(std::shared_ptr<Store> store, const BeginOptions& options)
    : store_(std::move(store)),
      options_(options),
      isolation_(kS2pl ? Isolation::serializable : options.isolation),
      id_(std::to_underlying(store_->next_owner())),
      locks_(mvcc::OwnerId{id_}) {
  begin_view();
  begun_ns_ = now();
  last_ns_.store(begun_ns_, std::memory_order_relaxed);
  thread_.store(io::thread_serial(), std::memory_order_relaxed);
  store_->counters.active.fetch_add(1, std::memory_order_relaxed);
  link_.state = this;
  store_->registry().add(link_);
}

TransactionState::~TransactionState() {
  if (self_) *self_ = nullptr;
  std::uint32_t idle = kIdle;
  if (phase_.compare_exchange_strong(idle, kBusy, std::memory_order_acquire)) {
    end(Code::closed_handle);
    return;
  }
  while (phase_.load(std::memory_order_acquire) != kEnded) io::yield_thread();
}

std::uint64_t TransactionState::now() const { return store_->coarse_now(); }

void TransactionState::end(Code why) noexcept {
  store_->registry().remove(link_);
  writes_.clear();
  store_->locks().release_all(locks_);
  live_.end();
  savepoints_.clear();
  ended_by_ = why;
  store_->counters.active.fetch_sub(1, std::memory_order_relaxed);
  // Release: who finds it ended sees why.
  phase_.store(kEnded, std::memory_order_release);
}

TransactionState::Call::Call(TransactionState& txn, const char* name, const TreeState* t,
                             bool with_tree) {
  if (txn.store_->in_forked_child()) {
    ok = fail(Code::closed_handle, "this store was opened by the parent process");
    return;
  }
  for (;;) {
    std::uint32_t was = kIdle;
    if (txn.phase_.compare_exchange_strong(was, kBusy, std::memory_order_seq_cst)) break;
    if (was == kExpiring) {
      io::yield_thread();
      continue;
    }
    ok = was == kEnded ? Result<void>(std::unexpected(txn.ended_error()))
                       : fail(Code::invalid_argument,
                              "a call of this transaction is under way: on another thread, or in "
                              "the function it was given");
    return;
  }
  txn_ = &txn;
  txn.last_call_.store(name, std::memory_order_relaxed);
  txn.thread_.store(io::thread_serial(), std::memory_order_relaxed);
  if (txn.store_->closing()) {
    ok = fail(Code::closed_handle, "the store is closed");
  } else if (with_tree) {
    ok = txn.store_->owns(t);
  }
  if (!ok) return;
  if (txn.over_limits(txn.now())) {
    txn.end(Code::transaction_expired);
    ok = std::unexpected(txn.ended_error());
    return;
  }
  txn.refresh_view();
}

TransactionState::Call::~Call() {
  if (txn_ == nullptr) return;
  txn_->last_ns_.store(txn_->now(), std::memory_order_relaxed);
  if constexpr (!kS2pl) {
    // Between calls read_committed holds no versions.
    if (txn_->isolation_ == Isolation::read_committed) txn_->live_.end();
  }
  std::uint32_t busy = kBusy;  // unless it ended meanwhile
  txn_->phase_.compare_exchange_strong(busy, kIdle, std::memory_order_release,
                                       std::memory_order_relaxed);
}

Error TransactionState::ended_error() const {
  switch (ended_by_) {
    case Code::closed_handle:
      return Error(Code::closed_handle, "the transaction has ended");
    case Code::transaction_expired:
      return Error(Code::transaction_expired,
                   "the transaction idled or grew older than Options::idle_limit or age_limit "
                   "allow and was rolled back; run it again");
    default:
      return Error(Code::closed_handle, "an earlier call of this transaction failed (" +
                                            std::string(code_name(ended_by_)) +
                                            "); it was rolled back");
  }
}

Error TransactionState::wait_ended() const {
  while (phase_.load(std::memory_order_acquire) != kEnded) io::yield_thread();
  return ended_error();
}

std::unexpected<Error> TransactionState::failed(Error e) {
  switch (e.code()) {
    case Code::not_found:
    case Code::key_exists:
    case Code::lock_timeout:
    case Code::self_deadlock:
    case Code::tree_not_found:
    case Code::callback_failed:
    case Code::value_too_long:
      break;
    default:
      if (active()) end(e.code());
  }
  return std::unexpected(std::move(e));
}

Result<Lsn> TransactionState::get(const TreePtr& t, std::string_view key, std::string& value) {
  const Call call(*this, "get", t.get(), true);
  KESSAI_TRY(call.ok);
  KESSAI_TRY(check_key(key));
  if (const Write* w = writes_.find(t.get(), key)) {
    if (w->remove) return fail(Code::not_found);
    value = w->value;
    return Lsn{0};
  }
  auto r = read_row(*t, key, &value);
  if (!r) return failed(r.error());
  answered_ = true;
  if (!r->found) return fail(Code::not_found);
  return r->lsn;
}

// ---- savepoints, hooks -------------------------------------------------------------------------

Result<Savepoint> TransactionState::savepoint() {
  const Call call(*this, "savepoint", nullptr, false);
  KESSAI_TRY(call.ok);
  savepoints_.push_back({writes_.mark(), hooks_.size(), next_serial_++});
  Savepoint s;
  s.transaction_ = id_;
  s.depth_ = savepoints_.back().serial;
  return s;
}

Result<void> TransactionState::rollback_to(const Savepoint& s) {
  const Call call(*this, "rollback_to", nullptr, false);
  KESSAI_TRY(call.ok);
  const auto mark = std::find_if(savepoints_.begin(), savepoints_.end(),
                                 [&](const Mark& m) { return m.serial == s.depth_; });
  if (s.transaction_ != id_ || mark == savepoints_.end()) {
    return fail(Code::invalid_argument,
                "not a savepoint of this transaction, or an older one was rolled back to");
  }
  writes_.undo_to(mark->writes);
  hooks_.resize(mark->hooks);
  savepoints_.erase(mark + 1, savepoints_.end());
  note_writes();
  return {};
}

Result<void> TransactionState::on_commit(std::function<void(Lsn)> fn) {
  const Call call(*this, "on_commit", nullptr, false);
  KESSAI_TRY(call.ok);
  hooks_.push_back(std::move(fn));
  return {};
}

// ---- the end -----------------------------------------------------------------------------------

Result<std::pair<Lsn, Lsn>> TransactionState::commit() {
  const Call call(*this, "commit", nullptr, false);
  KESSAI_TRY(call.ok);
  if (managed_) return fail(Code::invalid_argument, "run_transaction commits this transaction");
  if (killed()) return failed(snapshot_given_up());
  if (auto ok = settle_all(); !ok) {
    end(ok.error().code());
    return std::unexpected(ok.error());
  }
  const bool writes = std::any_of(writes_.all().begin(), writes_.all().end(),
                                  [](const Write& w) { return !w.noop; });
  if (!writes) {
    const bool waits = answered_ && (kS2pl || !options_.read_only);
    end(Code::closed_handle);
    return std::pair{Lsn{0}, waits ? seen_ : 0};
  }
  Store::Validate validate;
  if (certify_) validate = {&certify_->reads, certify_->start, live_.snapshot().w};
  // The writes are locked; nothing is read at the snapshot any more.
  live_.end();
  auto lsn = store_->commit(writes_, locks_, certify_ ? &validate : nullptr);
  end(lsn ? Code::closed_handle : lsn.error().code());
  if (!lsn) return std::unexpected(lsn.error());
  return std::pair{*lsn, *lsn};
}

Result<void> TransactionState::rollback() {
  bool ended_for_us = false;
  {
    const Call call(*this, "rollback", nullptr, false);
    if (managed_ && call.ok)
      return fail(Code::invalid_argument, "run_transaction rolls this transaction back");
    if (!call.ok) {
      // The engine has rolled it back already; saying so again is not an error.
      ended_for_us =
          phase_.load(std::memory_order_acquire) == kEnded && ended_by_ != Code::closed_handle;
      if (!ended_for_us) return call.ok;
    }
    if (call.ok) end(Code::closed_handle);
    ended_by_ = Code::closed_handle;
  }
  hooks_.clear();
  store_->counters.rollbacks.fetch_add(1, std::memory_order_relaxed);
  const Store::Use use(*store_);
  if (!use) return fail(Code::closed_handle, "the store is closed");
  return store_->wait_seen(answered_ && (kS2pl || !options_.read_only) ? seen_ : 0);
}

// ---- the registry's side -----------------------------------------------------------------------

bool TransactionState::over_limits(std::uint64_t now_ns) const noexcept {
  const auto over = [now_ns](std::uint64_t since, std::uint64_t limit) {
    return limit != 0 && now_ns > since && now_ns - since > limit;
  };
  return over(last_ns_.load(std::memory_order_relaxed), store_->idle_limit_ns()) ||
         over(begun_ns_, store_->age_limit_ns());
}

bool TransactionState::claim_if_expired(std::uint64_t now_ns) {
  return over_limits(now_ns) && claim();
}

bool TransactionState::claim() {
  std::uint32_t idle = kIdle;
  return phase_.compare_exchange_strong(idle, kExpiring, std::memory_order_seq_cst);
}

void TransactionState::expire(Code why) { end(why); }

TransactionInfo TransactionState::info(std::uint64_t now_ns) const {
  const auto since = [now_ns](std::uint64_t then) {
    return std::chrono::nanoseconds(now_ns > then ? now_ns - then : 0);
  };
  TransactionInfo i;
  i.id = id_;
  i.isolation = isolation_;
  i.read_only = options_.read_only;
  i.thread = thread_.load(std::memory_order_relaxed);
  i.snapshot_lsn = snapshot_lsn();
  i.age = since(begun_ns_);
  i.in_call = phase_.load(std::memory_order_relaxed) == kBusy;
  if (!i.in_call) i.idle = since(last_ns_.load(std::memory_order_relaxed));
  i.writes = write_count_.load(std::memory_order_relaxed);
  i.write_bytes = write_bytes_.load(std::memory_order_relaxed);
  i.last_call = last_call_.load(std::memory_order_relaxed);
  return i;
}

Result<Lsn> autocommit(const std::shared_ptr<Store>& store, const std::shared_ptr<TreeState>& t,
                       std::string_view key, std::string_view value, char kind,
                       Durability durability) {
  BeginOptions o;
  o.durability = durability;
  TransactionState txn(store, o);
  txn.judge_current();  // nothing was read before: a change that came in between simply comes first
  auto done = kind == 'p'   ? txn.put(t, key, value, {})
              : kind == 'i' ? txn.insert(t, key, value, nullptr, {})
                            : txn.remove(t, key, {});
  if (!done) {
    if (auto waited = txn.rollback(); !waited) return std::unexpected(waited.error());
    return std::unexpected(done.error());
  }
  KESSAI_ASSIGN(lsns, txn.commit());
  if (durability == Durability::durable) KESSAI_TRY(store->wait_durable(lsns.second));
  return lsns.first;
}

}  // namespace kessai::engine
