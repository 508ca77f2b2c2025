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
#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <type_traits>
#include <utility>

#include "kessai/database.hpp"

namespace kessai {

struct RetryPolicy {
  BeginOptions begin{};
  unsigned attempts = 20;                       ///< at least 1
  std::chrono::microseconds first_pause{100};   ///< longest first pause; doubles each time
  std::chrono::milliseconds longest_pause{100};
};

}  // namespace kessai
