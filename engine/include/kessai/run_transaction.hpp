// SPDX-License-Identifier: Apache-2.0
/// @file
/// Runs a function as a transaction, again and again while its errors say `retryable()`.
///
///     auto done = kessai::run_transaction(db, {}, [&](Transaction& txn) -> Result<int> {
///       KESSAI_ASSIGN(...)...
///       return 7;                      // commits, waits until durable, answers 7
///     });
///
/// Promises: whatever `fn` does (error, early return, exception) no transaction stays open. `fn`
/// must not commit or roll back: both answer `invalid_argument` in here. It runs several times, so
/// effects outside the store belong into Transaction::on_commit or an outbox row. Between attempts
/// it pauses with full jitter (Brooker, "Exponential Backoff and Jitter"), after the locks are
/// released. What `fn` throws becomes `callback_failed`, after the rollback.
///
/// Called with a transaction instead of a database it joins that: one commit, by the outermost; an
/// error rolls back to a savepoint taken at the start, and is retried only by the outermost.
///
/// What it answers: what `fn` answers, after the commit; else the last attempt's error, of `fn` or
/// of the commit. When even the wait that a rollback owes (see Transaction::rollback) fails, that
/// error. A `fn` that hides an error which ended the transaction (a deadlock, say) and answers
/// success is treated as if it had answered that error.
#pragma once

#include <chrono>
#include <expected>
#include <functional>
#include <memory>
#include <type_traits>

#include "kessai/database.hpp"

namespace kessai {

struct RetryPolicy {
  BeginOptions begin{};
  unsigned attempts = 20;                      ///< at least 1
  std::chrono::microseconds first_pause{100};  ///< longest first pause; doubles each time
  std::chrono::milliseconds longest_pause{100};
};

namespace engine {

/// One attempt of run_transaction. Its transaction refuses commit and rollback until the attempt
/// ends it; it ends with the attempt, wherever `fn` may have moved it.
class Attempt {
 public:
  [[nodiscard]] static Result<Attempt> begin(Database& db, const BeginOptions& options);
  Attempt(Attempt&&) noexcept = default;
  Attempt& operator=(Attempt&&) = delete;
  ~Attempt();
  [[nodiscard]] Transaction& transaction() noexcept { return transaction_; }
  [[nodiscard]] Result<void> commit();
  /// Answers `why`, after the rollback. `last`: it will be the caller's answer, so what it is based
  /// on becomes durable first.
  [[nodiscard]] Error give_up(const Error& why, bool last);
  /// Waits before the next attempt.
  void pause(const RetryPolicy& policy, unsigned attempt) const;

 private:
  explicit Attempt(Transaction transaction);
  void let_go() noexcept;

  Transaction transaction_;
  std::shared_ptr<Store> store_;
  std::shared_ptr<TransactionState*> state_;  ///< points to null once the transaction is gone
};

/// A nested run_transaction: a savepoint, and no commit or rollback until it ends.
class Joined {
 public:
  explicit Joined(Transaction& outer);
  ~Joined();
  Joined(const Joined&) = delete;
  Joined& operator=(const Joined&) = delete;
  [[nodiscard]] const Result<void>& status() const noexcept { return status_; }
  /// Undoes what was done since; answers `why`, or why that cannot be undone.
  [[nodiscard]] Error give_up(const Error& why);

 private:
  Transaction& outer_;
  Result<void> status_;
  Savepoint start_;
  std::shared_ptr<TransactionState*> state_;
  bool was_managed_ = false;
};

/// Within a catch block: what was thrown, as `callback_failed`.
[[nodiscard]] Error thrown();

template <class T>
inline constexpr bool kIsResult = false;
template <class T>
inline constexpr bool kIsResult<std::expected<T, Error>> = true;

template <class Fn>
using AnswerOf = std::invoke_result_t<Fn&, Transaction&>;

template <class Fn>
AnswerOf<Fn> call(Fn& fn, Transaction& transaction) {
  static_assert(kIsResult<AnswerOf<Fn>>, "fn takes a Transaction& and answers a kessai::Result");
  try {
    return std::invoke(fn, transaction);
  } catch (...) {
    return std::unexpected(thrown());
  }
}

}  // namespace engine

template <class Fn>
[[nodiscard]] engine::AnswerOf<Fn> run_transaction(Database& db, const RetryPolicy& policy,
                                                   Fn&& fn) {
  for (unsigned attempt = 1;; ++attempt) {
    auto one = engine::Attempt::begin(db, policy.begin);
    if (!one) return std::unexpected(one.error());
    const bool last = attempt >= policy.attempts;
    auto answer = engine::call(fn, one->transaction());
    if (answer) {
      const auto committed = one->commit();
      if (committed) return answer;
      answer = std::unexpected(one->give_up(committed.error(), last));
    } else {
      answer = std::unexpected(one->give_up(answer.error(), last));
    }
    if (last || !answer.error().retryable()) return answer;
    one->pause(policy, attempt);
  }
}

template <class Fn>
[[nodiscard]] engine::AnswerOf<Fn> run_transaction(Transaction& outer, Fn&& fn) {
  engine::Joined joined(outer);
  if (!joined.status()) return std::unexpected(joined.status().error());
  auto answer = engine::call(fn, outer);
  if (!answer) answer = std::unexpected(joined.give_up(answer.error()));
  return answer;
}

}  // namespace kessai
