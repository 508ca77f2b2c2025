// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/tables.hpp"

#include <array>

#include "engine/payments/result.hpp"

namespace kessai::payments {

std::string_view status_name(Status s) noexcept {
  switch (s) {
    case Status::captured:
      return "captured";
    case Status::refunded:
      return "refunded";
    case Status::adjusted:
      return "adjusted";
    case Status::declined:
      return "declined";
    case Status::failed_not_sent:
      return "failed_not_sent";
    case Status::failed_cancel_requested:
      return "failed_cancel_requested";
  }
  return "?";
}

std::string_view cancel_outcome_name(CancelOutcome o) noexcept {
  switch (o) {
    case CancelOutcome::delivered:
      return "delivered";
    case CancelOutcome::failed:
      return "failed";
    case CancelOutcome::unknown:
      return "unknown";
  }
  return "?";
}

std::string transaction_id_of(std::string_view original_id, unsigned attempt) {
  return std::string(original_id) + "/" + std::to_string(attempt);
}

Result<PaymentTables> PaymentTables::open(Database& db, bool create) {
  if (!create) PAYMENTS_TRY(db.tree(std::string(RequestRow::kTable.name) + ".ids"));
  PAYMENTS_ASSIGN(request, Table<RequestRow>::open(db, create));
  PAYMENTS_ASSIGN(transaction, Table<TransactionRow>::open(db, create, request));
  PAYMENTS_ASSIGN(result, Table<ResultRow>::open(db, create, request));
  PAYMENTS_ASSIGN(cancel, Table<CancelRow>::open(db, create));
  PAYMENTS_ASSIGN(attempt, Table<CancelAttemptRow>::open(db, create, cancel));
  PAYMENTS_ASSIGN(dead, Table<DeadLetterRow>::open(db, create, cancel));
  PAYMENTS_ASSIGN(alert, Table<AlertRow>::open(db, create));
  PaymentTables t{std::move(request), std::move(transaction), std::move(result), std::move(cancel),
                  std::move(attempt), std::move(dead),        std::move(alert)};
  if (create) {
    PAYMENTS_TRY(
        finish_drops(db, std::array{t.request.raw(), t.transaction.raw(), t.result.raw()}));
    PAYMENTS_TRY(
        finish_drops(db, std::array{t.cancel.raw(), t.cancel_attempt.raw(), t.dead_letter.raw()}));
  }
  return t;
}

Result<void> PaymentTables::prepare(Day day) const {
  PAYMENTS_TRY(request.prepare(day));
  PAYMENTS_TRY(transaction.prepare(day));
  return result.prepare(day);
}

Result<void> PaymentTables::drop_payments(Database& db, Day day) const {
  return drop_day(db, day, std::array{request.raw(), transaction.raw(), result.raw()});
}

Result<void> PaymentTables::drop_cancels(Database& db, Day day) const {
  return drop_day(db, day, std::array{cancel.raw(), cancel_attempt.raw(), dead_letter.raw()});
}

}  // namespace kessai::payments
