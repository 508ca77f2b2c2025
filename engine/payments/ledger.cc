// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/ledger.hpp"

#include "engine/payments/result.hpp"

namespace kessai::payments {
namespace {

// Conflicts come from other threads recording the same id: each attempt meets a newer state, so a
// few are enough; the bound keeps a defect from becoming an endless loop.
constexpr int kMostAttempts = 64;

std::unexpected<Error> overflow() {
  return fail(Code::invalid_argument, "a sum of amounts does not fit into 64 bits of thousandths");
}

std::unexpected<Error> without_request(std::string_view id) {
  ErrorDetail detail;
  detail.what = "the store holds pieces of this payment, but not its request";
  detail.key = id;
  return fail(Code::damaged, std::move(detail));
}

RequestRow request_row(const Request& r) {
  RequestRow row;
  row.id = r.original_id;
  row.kind = r.kind;
  row.amount = r.amount;
  row.request_date = r.time;
  row.payment_date = day_of(r.time);
  row.create_date = r.time;
  row.lines = r.lines;
  row.fingerprint = r.fingerprint;
  row.account = r.account;
  return row;
}

TransactionRow transaction_row(const Request& r) {
  TransactionRow row;
  row.id = transaction_id_of(r.original_id);
  row.request = r.original_id;
  row.amount = r.amount;
  row.transaction_date = r.time;
  row.create_date = r.time;
  return row;
}

ResultRow result_row(const Request& r) {
  ResultRow row;
  row.request = r.original_id;
  row.kind = r.kind;
  row.status = r.kind == Kind::payment        ? Status::captured
               : r.kind == Kind::cancellation ? Status::refunded
                                              : Status::adjusted;
  row.amount = r.amount;
  row.payment_date = day_of(r.time);
  row.create_date = r.time;
  row.transaction = transaction_id_of(r.original_id);
  return row;
}

AccountEventRow event_row(const Request& r) {
  AccountEventRow row;
  row.account = r.account;
  row.id = r.original_id;
  row.kind = r.kind == Kind::payment        ? EventKind::payment
             : r.kind == Kind::cancellation ? EventKind::refund
                                            : EventKind::adjustment;
  row.ledger = r.amount;
  row.event_date = r.time;
  row.create_date = r.time;
  return row;
}

// `step` every 1024 rows.
class Steps {
 public:
  explicit Steps(const std::function<bool(std::uint64_t)>& step) : step_(step) {}
  [[nodiscard]] bool go_on() {
    ++rows_;
    return rows_ % 1024 != 0 || !step_ || step_(rows_);
  }

 private:
  const std::function<bool(std::uint64_t)>& step_;
  std::uint64_t rows_ = 0;
};

}  // namespace

Result<Ledger> Ledger::open(Database& db, bool create) {
  PAYMENTS_ASSIGN(tables, PaymentTables::open(db, create));
  PAYMENTS_ASSIGN(accounts, Accounts::open(db, create));
  return Ledger(db, std::move(tables), std::move(accounts));
}

Result<Ledger::Recorded> Ledger::record(const Request& request) {
  for (int attempt = 1;; ++attempt) {
    auto recorded = try_record(request);
    if (recorded || !recorded.error().retryable() || attempt == kMostAttempts) return recorded;
  }
}

Result<Ledger::Recorded> Ledger::try_record(const Request& r) {
  PAYMENTS_ASSIGN(txn, db_->begin({.isolation = Isolation::read_committed}));
  const RequestRow row = request_row(r);
  PAYMENTS_ASSIGN(request, tables_.request.insert(txn, row));
  if (!request.inserted) {
    PAYMENTS_TRY(txn.rollback());
    const bool same = !request.earlier || request.earlier->fingerprint == r.fingerprint;
    return Recorded{same ? Answer::already_done : Answer::key_reused_mismatch, {}};
  }
  PAYMENTS_ASSIGN(transaction, tables_.transaction.insert(txn, transaction_row(r)));
  PAYMENTS_ASSIGN(result, tables_.result.insert(txn, result_row(r)));
  if (!transaction.inserted || !result.inserted) return without_request(r.original_id);
  PAYMENTS_TRY(accounts_.post(txn, event_row(r)));
  PAYMENTS_ASSIGN(ticket, txn.commit_async());
  return Recorded{Answer::accepted, std::move(ticket)};
}

Result<Totals> Ledger::totals(std::optional<Day> day,
                              const std::function<bool(std::uint64_t)>& step, ReadPlan* plan) {
  PAYMENTS_ASSIGN(txn, db_->read_only());
  const Window window = day ? window_of(*day) : Window{};
  Totals out;
  Steps steps(step);
  std::optional<Currency> currency;
  auto requests = tables_.request.scan(txn, window, plan);
  while (requests.next()) {
    if (!steps.go_on()) return fail(Code::interrupted);
    out.requests += !day || requests.row().payment_date == *day ? 1 : 0;
  }
  PAYMENTS_TRY(requests.status());
  auto results = tables_.result.scan(txn, window, plan);
  while (results.next()) {
    if (!steps.go_on()) return fail(Code::interrupted);
    const ResultRow& row = results.row();
    if (day && row.payment_date != *day) continue;
    if (!moves_money(row.status)) continue;
    if (currency.value_or(row.currency) != row.currency)
      return fail(Code::invalid_argument, "the payments are in several currencies: no one total");
    currency = row.currency;
    const auto [count, sum] =
        row.kind == Kind::payment        ? std::pair(&out.payments, &out.sum_payments)
        : row.kind == Kind::cancellation ? std::pair(&out.cancellations, &out.sum_cancellations)
                                         : std::pair(&out.adjustments, &out.sum_adjustments);
    const auto more = add(*sum, row.amount), total = add(out.total, row.amount);
    if (!more || !total) return overflow();
    ++*count;
    *sum = *more;
    out.total = *total;
  }
  PAYMENTS_TRY(results.status());
  PAYMENTS_TRY(txn.rollback());
  return out;
}

Result<Pieces> Ledger::find(std::string_view original_id) {
  PAYMENTS_ASSIGN(txn, db_->read_only());
  RequestRow request;
  request.id = original_id;
  TransactionRow transaction;
  transaction.id = transaction_id_of(original_id);
  transaction.request = original_id;
  ResultRow result;
  result.request = original_id;
  Pieces out;
  PAYMENTS_ASSIGN(found_request, tables_.request.get(txn, request));
  PAYMENTS_ASSIGN(found_transaction, tables_.transaction.get(txn, transaction));
  PAYMENTS_ASSIGN(found_result, tables_.result.get(txn, result));
  out.request = std::move(found_request);
  out.transaction = std::move(found_transaction);
  out.result = std::move(found_result);
  PAYMENTS_TRY(find_cancel(txn, transaction.id, out));
  PAYMENTS_TRY(txn.rollback());
  return out;
}

Result<void> Ledger::find_cancel(Transaction& txn, const std::string& transaction, Pieces& out) {
  CancelRow cancel;
  cancel.transaction = transaction;
  PAYMENTS_ASSIGN(day, tables_.cancel.locate(txn, cancel));
  if (!day) return {};
  PAYMENTS_ASSIGN(found, tables_.cancel.get(txn, cancel));
  out.cancel = std::move(found);
  auto attempts = tables_.cancel_attempt.group(txn, transaction, {}, false, nullptr, *day);
  while (attempts.next()) out.attempts.push_back(attempts.row());
  PAYMENTS_TRY(attempts.status());
  DeadLetterRow dead;
  dead.transaction = transaction;
  PAYMENTS_ASSIGN(letter, tables_.dead_letter.get(txn, dead));
  out.dead_letter = std::move(letter);
  return {};
}

Result<Balance> Ledger::balance(std::string_view account, ReadPlan* plan) {
  PAYMENTS_ASSIGN(txn, db_->read_only());
  PAYMENTS_ASSIGN(sums, accounts_.balance(txn, account, plan));
  PAYMENTS_TRY(txn.rollback());
  return sums;
}

}  // namespace kessai::payments
