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

// ---- dropping ----------------------------------------------------------------------------------

namespace {

/// What of a day is not finished.
struct Open {
  std::uint64_t count = 0;
  std::string first;  ///< in key order

  void add(const std::string& id) {
    if (count++ == 0) first = id;
  }
  [[nodiscard]] Result<void> refuse(std::string_view table, Day day, const char* what) const {
    if (count == 0) return {};
    ErrorDetail detail;
    detail.what = std::to_string(count) + " rows of " + format_day(day) + " " + what;
    detail.tree = table;
    detail.key = first;
    return fail(Code::unfinished, std::move(detail));
  }
};

// A result's key is its request's: both partitions are walked once, side by side.
Result<Open> open_requests(Transaction& txn, const PaymentTables& t, Day day) {
  Open open;
  auto requests = t.request.scan(txn, Window::day(day));
  auto results = t.result.scan(txn, Window::day(day));
  bool more = results.next();
  while (requests.next()) {
    while (more && results.key() < requests.key()) more = results.next();
    if (!more || results.key() != requests.key()) open.add(requests.row().id);
  }
  PAYMENTS_TRY(requests.status());
  PAYMENTS_TRY(results.status());
  return open;
}

Result<Open> open_cancels(Transaction& txn, const PaymentTables& t, Day day) {
  Open open;
  auto c = t.cancel.scan(txn, Window::day(day));
  while (c.next()) {
    PAYMENTS_ASSIGN(state, t.state_of(txn, c.row()));
    if (!state.closed) open.add(c.row().transaction);
  }
  PAYMENTS_TRY(c.status());
  return open;
}

}  // namespace

Result<PaymentTables::CancelState> PaymentTables::state_of(Transaction& txn,
                                                           const CancelRow& row) const {
  CancelState out;
  PAYMENTS_ASSIGN(dead, dead_letter.get(txn, {.transaction = row.transaction}));
  out.closed = dead.has_value();
  auto a = cancel_attempt.group(txn, row.transaction, {}, false, nullptr, day_of(row.create_date));
  while (a.next()) {
    out.tries = a.row().attempt;
    out.failures += a.row().detail == "nothing_there" ? 0 : 1;
    out.closed = out.closed || a.row().outcome == CancelOutcome::delivered;
  }
  PAYMENTS_TRY(a.status());
  return out;
}

Result<void> PaymentTables::drop_payments(Database& db, Day day, Unfinished unfinished) const {
  if (unfinished == Unfinished::refuse) {
    PAYMENTS_ASSIGN(txn, db.read_only());
    PAYMENTS_ASSIGN(open, open_requests(txn, *this, day));
    PAYMENTS_TRY(txn.rollback());
    PAYMENTS_TRY(open.refuse(RequestRow::kTable.name, day,
                             "have no result: sweep first, or drop them with Unfinished::drop"));
  }
  return drop_day(db, day, std::array{request.raw(), transaction.raw(), result.raw()});
}

Result<void> PaymentTables::drop_cancels(Database& db, Day day, Unfinished unfinished) const {
  if (unfinished == Unfinished::refuse) {
    PAYMENTS_ASSIGN(txn, db.read_only());
    PAYMENTS_ASSIGN(open, open_cancels(txn, *this, day));
    PAYMENTS_TRY(txn.rollback());
    PAYMENTS_TRY(open.refuse(
        CancelRow::kTable.name, day,
        "are neither delivered nor given up: drain first, or drop them with Unfinished::drop"));
  }
  return drop_day(db, day, std::array{cancel.raw(), cancel_attempt.raw(), dead_letter.raw()});
}

}  // namespace kessai::payments
