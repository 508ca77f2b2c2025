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

// A row of a table that a key points at; absent is an answer, not an error.
template <class Row>
Result<std::optional<Row>> find_row(Transaction& txn, const Tree& tree, std::string_view id,
                                    Result<Row> (*decode)(std::string_view)) {
  const auto bytes = txn.get(tree, row_key(id));
  if (!bytes && bytes.error() == Code::not_found) return std::nullopt;
  if (!bytes) return std::unexpected(bytes.error());
  auto row = decode(*bytes);
  if (!row) return std::unexpected(row.error());
  return std::optional(std::move(*row));
}

}  // namespace

std::string_view status_name(Status s) noexcept {
  switch (s) {
    case Status::captured:
      return "captured";
    case Status::refunded:
      return "refunded";
    case Status::adjusted:
      return "adjusted";
  }
  return "?";
}

std::string transaction_id_of(std::string_view original_id) {
  return std::string(original_id) + "/1";
}

Result<Ledger> Ledger::open(Database& db, bool create) {
  PAYMENTS_ASSIGN(request, db.tree(kRequestTree, {.create = create}));
  PAYMENTS_ASSIGN(transaction, db.tree(kTransactionTree, {.create = create}));
  PAYMENTS_ASSIGN(result, db.tree(kResultTree, {.create = create}));
  return Ledger(db, std::move(request), std::move(transaction), std::move(result));
}

Result<Ledger::Recorded> Ledger::record(const Request& request) {
  auto recorded = try_record(request);
  for (int attempt = 1; !recorded && recorded.error().retryable() && attempt < kMostAttempts;
       ++attempt) {
    recorded = try_record(request);
  }
  return recorded;
}

Result<Ledger::Recorded> Ledger::try_record(const Request& r) {
  PAYMENTS_ASSIGN(txn, db_->begin());
  const std::string key = row_key(r.original_id);
  const RequestRow row{.kind = r.kind,
                       .amount = r.amount,
                       .request_date = r.time,
                       .payment_date = day_of(r.time),
                       .create_date = r.time,
                       .update_date = r.time,
                       .lines = r.lines,
                       .fingerprint = r.fingerprint,
                       .account = r.account};
  std::string existing;
  const auto inserted = txn.insert(request_, key, encode(row), &existing);
  if (!inserted && inserted.error() == Code::key_exists) {
    PAYMENTS_TRY(txn.rollback());
    PAYMENTS_ASSIGN(known, decode_request(existing));
    return Recorded{
        known.fingerprint == r.fingerprint ? Answer::already_done : Answer::key_reused_mismatch,
        {}};
  }
  if (!inserted) return std::unexpected(inserted.error());
  const std::string transaction_id = transaction_id_of(r.original_id);
  PAYMENTS_TRY(txn.insert(transaction_, row_key(transaction_id),
                          encode(TransactionRow{.amount = r.amount,
                                                .transaction_date = r.time,
                                                .create_date = r.time,
                                                .update_date = r.time,
                                                .request = r.original_id})));
  const Status status = r.kind == Kind::payment        ? Status::captured
                        : r.kind == Kind::cancellation ? Status::refunded
                                                       : Status::adjusted;
  PAYMENTS_TRY(txn.insert(result_, key,
                          encode(ResultRow{.kind = r.kind,
                                           .status = status,
                                           .amount = r.amount,
                                           .payment_date = day_of(r.time),
                                           .create_date = r.time,
                                           .update_date = r.time,
                                           .transaction = transaction_id})));
  PAYMENTS_ASSIGN(ticket, txn.commit_async());
  return Recorded{Answer::accepted, std::move(ticket)};
}

Result<Totals> Ledger::totals(std::optional<Day> day,
                              const std::function<bool(std::uint64_t)>& step) {
  PAYMENTS_ASSIGN(txn, db_->read_only());
  Totals out;
  std::uint64_t rows = 0;
  const auto go_on = [&] {
    ++rows;
    return rows % 1024 != 0 || !step || step(rows);
  };
  Cursor requests = txn.scan(request_, {});
  while (requests.next()) {
    if (!go_on()) return fail(Code::interrupted);
    PAYMENTS_ASSIGN(row, decode_request(requests.value()));
    out.requests += !day || row.payment_date == *day ? 1 : 0;
  }
  PAYMENTS_TRY(requests.status());
  Cursor results = txn.scan(result_, {});
  while (results.next()) {
    if (!go_on()) return fail(Code::interrupted);
    PAYMENTS_ASSIGN(row, decode_result(results.value()));
    if (day && row.payment_date != *day) continue;
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
  Pieces out;
  PAYMENTS_ASSIGN(request, find_row(txn, request_, original_id, decode_request));
  PAYMENTS_ASSIGN(transaction,
                  find_row(txn, transaction_, transaction_id_of(original_id), decode_transaction));
  PAYMENTS_ASSIGN(result, find_row(txn, result_, original_id, decode_result));
  out.request = std::move(request);
  out.transaction = std::move(transaction);
  out.result = std::move(result);
  PAYMENTS_TRY(txn.rollback());
  return out;
}

}  // namespace kessai::payments
