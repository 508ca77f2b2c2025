// SPDX-License-Identifier: Apache-2.0
// What run_transaction does that needs no template.
#include "kessai/run_transaction.hpp"

#include <algorithm>
#include <exception>

#include "engine/transaction.hpp"
#include "io/check.hpp"

namespace kessai::engine {

Error thrown() {
  const auto failed = Store::call_out([] { std::rethrow_exception(std::current_exception()); });
  return failed ? Error(Code::callback_failed) : failed.error();
}

// ---- Attempt -----------------------------------------------------------------------------------

Result<Attempt> Attempt::begin(Database& db, const BeginOptions& options) {
  KESSAI_ASSIGN(transaction, db.begin(options));
  return Attempt(std::move(transaction));
}

Attempt::Attempt(Transaction transaction) : transaction_(std::move(transaction)) {
  TransactionState& s = *TransactionAccess::state(transaction_);
  store_ = s.store();
  state_ = s.self();
  s.set_managed(true);
}

Attempt::~Attempt() {
  if (state_ != nullptr) let_go();
}

/// The transaction may end now. One that was moved away is rolled back: nobody else will.
void Attempt::let_go() noexcept {
  if (*state_ == nullptr) return;
  TransactionState& s = **state_;
  s.set_managed(false);
  if (TransactionAccess::state(transaction_) != &s && s.active()) static_cast<void>(s.rollback());
}

Result<void> Attempt::commit() {
  let_go();
  const TransactionState* s = TransactionAccess::state(transaction_);
  if (s == nullptr) return fail(Code::invalid_argument, "fn moved its transaction away");
  const auto lsn = transaction_.commit();
  if (lsn) return {};
  const Error hidden(s->ended_by(), "a call of the transaction failed and fn hid it; run it again");
  return std::unexpected(lsn.error() == Code::closed_handle && hidden.retryable() ? hidden
                                                                                  : lsn.error());
}

Error Attempt::give_up(const Error& why, bool last) {
  let_go();
  if (TransactionAccess::state(transaction_) == nullptr) return why;
  // An error that is only the reason to try again tells nobody anything: no need to wait.
  if (why.retryable() && !last) {
    const Transaction dropped(std::move(transaction_));
    return why;
  }
  if (why == Code::unknown_outcome) return why;  // nothing to roll back, and nothing says more
  const auto undone = transaction_.rollback();
  return undone || undone.error() == Code::closed_handle ? why : undone.error();
}

void Attempt::pause(const RetryPolicy& policy, unsigned attempt) const {
  using std::chrono::nanoseconds;
  const auto longest = std::max<std::int64_t>(nanoseconds(policy.longest_pause).count(), 0);
  auto bound = std::clamp<std::int64_t>(nanoseconds(policy.first_pause).count(), 0, longest);
  for (unsigned i = 1; i < attempt && bound > 0 && bound < longest; ++i)
    bound = std::min(bound > longest / 2 ? longest : bound * 2, longest);
  store_->pause_below(static_cast<std::uint64_t>(bound));
}

void Store::pause_below(std::uint64_t ns) {
  // splitmix64: whoever pauses together gets different lengths.
  std::uint64_t x =
      pauses_.fetch_add(0x9E3779B97F4A7C15ull, std::memory_order_relaxed) + env_->clock->now_ns();
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ x >> 27) * 0x94D049BB133111EBull;
  x ^= x >> 31;
  if (ns > 0) ns = x % ns;
  if (!env_->background || ns == 0) return io::yield_thread();
  io::pause_for(ns);
}

// ---- Joined ------------------------------------------------------------------------------------

Joined::Joined(Transaction& outer) : outer_(outer) {
  const auto start = outer.savepoint();
  if (!start) {
    status_ = std::unexpected(start.error());
    return;
  }
  start_ = *start;
  TransactionState& s = *TransactionAccess::state(outer);
  state_ = s.self();
  was_managed_ = s.set_managed(true);
}

Joined::~Joined() {
  if (state_ != nullptr && *state_ != nullptr) (*state_)->set_managed(was_managed_);
}

Error Joined::give_up(const Error& why) {
  const auto undone = outer_.rollback_to(start_);
  return undone || !outer_.active() ? why : undone.error();
}

}  // namespace kessai::engine
