// SPDX-License-Identifier: Apache-2.0
/// @file
/// Records payments that happened elsewhere (imported invoices): the rows of tables.hpp and the
/// event on the customer's account (accounts.hpp), in one commit.
///
/// Promises
///   * A request is recorded by one durable commit; all of its rows or none survive a crash. The
///     unique insert of the request's id is the arbiter: of any number of attempts with one id, on
///     whatever days, exactly one is accepted.
///   * The same id with the same fingerprint answers already_done once that row is durable; with
///     another fingerprint key_reused_mismatch. An id whose day was dropped is already_done.
///   * CREATE_DATE is REQUEST_DATE here, so that a replay of the same files writes the same bytes.
/// Threads: any number. Uses the public API of the engine only.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/database.hpp"
#include "kessai/payments/accounts.hpp"
#include "kessai/payments/request.hpp"
#include "kessai/payments/tables.hpp"

namespace kessai::payments {

struct Totals {
  std::uint64_t requests = 0;
  std::uint64_t payments = 0, cancellations = 0, adjustments = 0;
  Milli sum_payments = 0, sum_cancellations = 0, sum_adjustments = 0, total = 0;
};

/// Everything the store knows about one request.
struct Pieces {
  std::optional<RequestRow> request;
  std::optional<TransactionRow> transaction;
  std::optional<ResultRow> result;
  std::optional<CancelRow> cancel;
  std::vector<CancelAttemptRow> attempts;  ///< to deliver the cancel, in order
  std::optional<DeadLetterRow> dead_letter;
};

class Ledger {
 public:
  /// Opens the tables, creating them when asked; `tree_not_found` when the store has none.
  [[nodiscard]] static Result<Ledger> open(Database& db, bool create);

  enum class Answer : std::uint8_t { accepted, already_done, key_reused_mismatch };
  struct Recorded {
    Answer answer = Answer::accepted;
    CommitTicket ticket;  ///< accepted: durable once it says so; otherwise nothing to wait for
  };
  /// Records one request; retries conflicts with other threads by itself.
  [[nodiscard]] Result<Recorded> record(const Request& request);

  /// Sums over one durable snapshot: of all days, or of one PAYMENT_DATE, of which the rows created
  /// on that day and the next are read. `step` is called now and then with the rows read; false
  /// stops with `interrupted`.
  [[nodiscard]] Result<Totals> totals(std::optional<Day> day,
                                      const std::function<bool(std::uint64_t rows)>& step = {},
                                      ReadPlan* plan = nullptr);
  [[nodiscard]] Result<Pieces> find(std::string_view original_id);
  [[nodiscard]] Result<Balance> balance(std::string_view account, ReadPlan* plan = nullptr);

  [[nodiscard]] const PaymentTables& tables() const noexcept { return tables_; }
  [[nodiscard]] const Accounts& accounts() const noexcept { return accounts_; }

 private:
  Ledger(Database& db, PaymentTables tables, Accounts accounts)
      : db_(&db), tables_(std::move(tables)), accounts_(std::move(accounts)) {}
  [[nodiscard]] Result<Recorded> try_record(const Request& request);
  [[nodiscard]] Result<void> find_cancel(Transaction& txn, const std::string& transaction,
                                         Pieces& out);

  Database* db_;
  PaymentTables tables_;
  Accounts accounts_;
};

/// The days whose partitions hold the rows of a PAYMENT_DATE: created on that day or the next.
[[nodiscard]] inline Window window_of(Day payment_date) noexcept {
  return {payment_date, payment_date < kLastDay ? payment_date + 1 : payment_date};
}

}  // namespace kessai::payments
