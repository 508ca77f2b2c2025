// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/reconcile.hpp"

#include <algorithm>
#include <tuple>

#include "engine/payments/csv.hpp"
#include "engine/payments/result.hpp"
#include "kessai/payments/ledger.hpp"
#include "kessai/run_transaction.hpp"

namespace kessai::payments {
namespace {

constexpr std::string_view kHeader = "request_id,amount_milli,status";
constexpr std::string_view kTotal = "#total,";
constexpr std::size_t kMaxStatementLine = 4096;
constexpr std::size_t kBatch = 256;  // differences in one commit

bool expected_there(const ResultRow& r) {
  return r.status == Status::captured || r.status == Status::refunded;
}

std::unexpected<Error> overflow() {
  return fail(Code::invalid_argument, "a sum of amounts does not fit into 64 bits of thousandths");
}

}  // namespace

std::string_view difference_name(DifferenceClass c) noexcept {
  switch (c) {
    case DifferenceClass::missing_here:
      return "missing_here";
    case DifferenceClass::missing_there:
      return "missing_there";
    case DifferenceClass::duplicates:
      return "duplicates";
    case DifferenceClass::amount:
      return "amount";
    case DifferenceClass::status:
      return "status";
    case DifferenceClass::outside_window:
      return "outside_window";
  }
  return "?";
}

// ---- the statement -----------------------------------------------------------------------------

std::unexpected<Error> StatementReader::refuse(const std::string& what) const {
  return fail(Code::invalid_argument,
              "statement refused, line " + std::to_string(line_) + ": " + what);
}

Result<void> StatementReader::feed(std::string_view bytes) {
  buffer_ += bytes;
  std::size_t at = 0;
  for (std::size_t end; (end = buffer_.find('\n', at)) != buffer_.npos; at = end + 1) {
    std::string_view line = std::string_view(buffer_).substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    PAYMENTS_TRY(take_line(line));
  }
  buffer_.erase(0, at);
  if (buffer_.size() <= kMaxStatementLine) return {};
  ++line_;
  return refuse("the line is too long");
}

Result<Statement> StatementReader::finish() {
  if (!buffer_.empty()) PAYMENTS_TRY(take_line(buffer_));  // a last line without a line feed
  if (line_ == 0) return refuse("the file is empty");
  if (!complete_)
    return refuse("the last line is not #total,<rows>,<sum_milli>: the file is not complete");
  Statement& s = statement_;
  std::sort(s.rows.begin(), s.rows.end(), [&](const StatementRow& a, const StatementRow& b) {
    return a.hash != b.hash ? a.hash < b.hash
                            : std::pair(s.id(a), a.id_at) < std::pair(s.id(b), b.id_at);
  });
  return std::move(statement_);
}

Result<void> StatementReader::take_line(std::string_view line) {
  ++line_;
  if (line.size() > kMaxStatementLine) return refuse("the line is too long");
  if (complete_) return refuse("something follows the #total line");
  if (line_ > 1) return line.starts_with(kTotal) ? take_total(line) : take_row(line);
  if (line.starts_with("\xef\xbb\xbf")) line.remove_prefix(3);
  if (line == kHeader) return {};
  return refuse("the first line is not " + std::string(kHeader));
}

Result<void> StatementReader::take_row(std::string_view line) {
  const CsvRecord record = parse_csv_record(std::string(line) + '\n');
  if (record.status != CsvStatus::ok || record.fields.size() != 3)
    return refuse("not three fields: " + std::string(kHeader));
  const std::string& id = record.fields[0];
  StatementRow row;
  if (id.empty() || id.size() > kMaxRequestIdBytes) return refuse("an id has 1 to 255 bytes");
  if (parse_whole(record.fields[1], row.amount) != MoneyError::none)
    return refuse("amount_milli is not a whole number of 64 bits");
  if (record.fields[2] == status_name(Status::refunded)) {
    row.status = Status::refunded;
  } else if (record.fields[2] != status_name(Status::captured)) {
    return refuse("the status is neither captured nor refunded");
  }
  if (statement_.ids.size() + id.size() > UINT32_MAX) return refuse("the ids take more than 4 GiB");
  row.hash = request_id(id);
  row.id_at = static_cast<std::uint32_t>(statement_.ids.size());
  row.id_size = static_cast<std::uint16_t>(id.size());
  const auto sum = add(statement_.sum, row.amount);
  if (!sum) return refuse("the sum does not fit into 64 bits");
  statement_.sum = *sum;
  statement_.ids += id;
  statement_.rows.push_back(row);
  return {};
}

Result<void> StatementReader::take_total(std::string_view line) {
  line.remove_prefix(kTotal.size());
  const std::size_t comma = line.find(',');
  std::int64_t rows = 0, sum = 0;
  if (comma == line.npos || parse_whole(line.substr(0, comma), rows) != MoneyError::none ||
      parse_whole(line.substr(comma + 1), sum) != MoneyError::none) {
    return refuse("not #total,<rows>,<sum_milli>");
  }
  if (rows < 0 || static_cast<std::uint64_t>(rows) != statement_.rows.size())
    return refuse("the #total line counts " + std::to_string(rows) + " rows, the file has " +
                  std::to_string(statement_.rows.size()));
  if (sum != statement_.sum)
    return refuse("the #total line sums to " + std::to_string(sum) + ", the rows to " +
                  std::to_string(statement_.sum));
  complete_ = true;
  return {};
}

// ---- the comparison ----------------------------------------------------------------------------

namespace {

// The rows of two partitions, merged into key order.
class TwoDays {
 public:
  TwoDays(const Table<ResultRow>& table, Transaction& txn, Day day, ReadPlan& plan)
      : days_(window_of(day)),
        cursors_{table.scan(txn, Window::day(days_.from)), table.scan(txn, Window::day(days_.to))},
        plan_(plan) {
    for (std::size_t i = 0; i < cursors_.size(); ++i) more_[i] = cursors_[i].next();
    if (days_.to == days_.from) more_[1] = false;
  }
  [[nodiscard]] bool next() {
    if (at_) more_[*at_] = cursors_[*at_].next();
    if (!more_[0] && !more_[1]) return false;
    at_ = !more_[0] || (more_[1] && cursors_[1].key() < cursors_[0].key()) ? 1 : 0;
    ++plan_.visited;
    return true;
  }
  [[nodiscard]] const ResultRow& row() const { return cursors_[*at_].row(); }
  [[nodiscard]] std::uint64_t leaves() const { return cursors_[0].leaves() + cursors_[1].leaves(); }
  [[nodiscard]] Day partition() const { return *at_ == 0 ? days_.from : days_.to; }
  [[nodiscard]] Result<void> status() const {
    PAYMENTS_TRY(cursors_[0].status());
    return cursors_[1].status();
  }

 private:
  Window days_;
  std::array<TableCursor<ResultRow>, 2> cursors_;
  std::array<bool, 2> more_{};
  std::optional<std::size_t> at_;
  ReadPlan& plan_;
};

class Comparison {
 public:
  Comparison(const PaymentTables& tables, Transaction& txn, Day day, const Statement& statement)
      : tables_(tables), txn_(txn), day_(day), there_(statement) {
    out_.rows = out_.count_there = statement.rows.size();
    out_.sum_there = statement.sum;
  }

  Result<Reconciliation> run(const std::function<bool(std::uint64_t)>& step) {
    PAYMENTS_TRY(tables_.result.raw().days(window_of(day_), &out_.plan.pruned));
    TwoDays here(tables_.result, txn_, day_, out_.plan);
    while (here.next()) {
      if (step && out_.plan.visited % 1024 == 0 && !step(out_.plan.visited))
        return fail(Code::interrupted);
      const ResultRow& row = here.row();
      if (row.payment_date != day_) {
        stranger(row, here.partition());
        continue;
      }
      ++out_.plan.returned;
      PAYMENTS_TRY(take_here(row));
    }
    PAYMENTS_TRY(here.status());
    out_.plan.leaves = here.leaves();
    while (at_ < there_.rows.size()) unmatched_.push_back(at_++);
    PAYMENTS_TRY(look_up_unmatched(step));
    return finish();
  }

 private:
  // Where a row of the store stands among the statement's.
  [[nodiscard]] bool before(const StatementRow& r, std::uint64_t hash, std::string_view id) const {
    return r.hash != hash ? r.hash < hash : there_.id(r) < id;
  }

  Result<void> take_here(const ResultRow& row) {
    const bool expected = expected_there(row);
    if (expected) {
      const auto sum = add(out_.sum_here, row.amount);
      if (!sum) return overflow();
      out_.sum_here = *sum;
      ++out_.count_here;
    }
    const std::uint64_t hash = request_id(row.request);
    while (at_ < there_.rows.size() && before(there_.rows[at_], hash, row.request))
      unmatched_.push_back(at_++);
    if (at_ == there_.rows.size() || there_.id(there_.rows[at_]) != row.request) {
      if (expected) {
        const bool cancel = row.status == Status::captured;
        difference(DifferenceClass::missing_there, row.request, row.amount,
                   cancel ? row.transaction : std::string());
      }
      return {};
    }
    compare(there_.rows[at_++], row);
    while (at_ < there_.rows.size() && there_.id(there_.rows[at_]) == row.request)
      duplicate(there_.rows[at_++]);
    return {};
  }

  void compare(const StatementRow& there, const ResultRow& here) {
    belongs_ = true;
    const bool amount = there.amount == here.amount, status = there.status == here.status;
    if (!amount) difference(DifferenceClass::amount, here.request, there.amount);
    if (!status) difference(DifferenceClass::status, here.request, there.amount);
    out_.matched += amount && status ? 1 : 0;
  }

  // Not among the day's rows: known otherwise?
  Result<void> look_up_unmatched(const std::function<bool(std::uint64_t)>& step) {
    std::string_view previous;
    for (std::size_t n = 0; n < unmatched_.size(); ++n) {
      if (step && n % 1024 == 1023 && !step(out_.plan.visited)) return fail(Code::interrupted);
      const StatementRow& row = there_.rows[unmatched_[n]];
      const std::string_view id = there_.id(row);
      if (n != 0 && id == previous) {
        duplicate(row);
        continue;
      }
      previous = id;
      PAYMENTS_ASSIGN(what, look_up(id, row));
      difference(what, id, row.amount);
    }
    return {};
  }

  Result<DifferenceClass> look_up(std::string_view id, const StatementRow& there) {
    RequestRow like;
    like.id = id;
    PAYMENTS_ASSIGN(request, tables_.request.get(txn_, like));
    if (!request) return DifferenceClass::missing_here;
    ++out_.plan.visited;
    if (request->payment_date != day_) {
      other_day_ = request->payment_date;
      return DifferenceClass::missing_here;
    }
    belongs_ = true;
    ResultRow result;
    result.request = id;
    PAYMENTS_ASSIGN(known, tables_.result.get(txn_, result));
    if (!known) return DifferenceClass::status;  // still open here
    ++out_.plan.visited;
    if (known->status != there.status) return DifferenceClass::status;
    if (known->amount != there.amount) difference(DifferenceClass::amount, id, there.amount);
    return DifferenceClass::outside_window;
  }

  // Of another day, and created on this one: does the report of that day read it? Each of those
  // that none does is in one report, that of the day of its rows.
  void stranger(const ResultRow& row, Day created) {
    if (created != day_ || !expected_there(row)) return;
    const Window read = window_of(row.payment_date);
    if (created < read.from || created > read.to)
      difference(DifferenceClass::outside_window, row.request, row.amount);
  }

  void duplicate(const StatementRow& r) {
    difference(DifferenceClass::duplicates, there_.id(r), r.amount);
  }
  void difference(DifferenceClass what, std::string_view id, Milli amount,
                  std::string transaction = {}) {
    ++out_.counts[static_cast<std::size_t>(what)];
    out_.differences.push_back({what, std::string(id), std::move(transaction), amount});
  }

  Result<Reconciliation> finish() {
    if (!belongs_ && other_day_) {
      return fail(Code::invalid_argument, "statement refused: none of its payments is of " +
                                              format_day(day_) + ", but some are of " +
                                              format_day(*other_day_));
    }
    std::sort(out_.differences.begin(), out_.differences.end(),
              [](const Difference& a, const Difference& b) {
                return std::tie(a.what, a.id, a.amount) < std::tie(b.what, b.id, b.amount);
              });
    // A statement without one payment of the day may be another shop's: people look, nothing is
    // cancelled by it.
    if (!belongs_)
      for (Difference& d : out_.differences) d.transaction.clear();
    out_.ok = out_.differences.empty() && out_.count_here == out_.count_there &&
              out_.sum_here == out_.sum_there;
    for (const Day day : {day_, window_of(day_).to}) {
      PAYMENTS_ASSIGN(tree, tables_.result.raw().tree_of(day));
      if (tree) out_.plan.opened.push_back(tree->name());
    }
    return std::move(out_);
  }

  const PaymentTables& tables_;
  Transaction& txn_;
  const Day day_;
  const Statement& there_;
  std::size_t at_ = 0;
  std::vector<std::size_t> unmatched_;
  bool belongs_ = false;  // some row of the statement is of the day
  std::optional<Day> other_day_;
  Reconciliation out_;
};

}  // namespace

Result<Reconciliation> reconcile(Database& db, const PaymentTables& tables, Day day,
                                 const Statement& statement,
                                 const std::function<bool(std::uint64_t)>& step) {
  if (!storable(day)) return fail(Code::invalid_argument, "the day is out of range");
  PAYMENTS_ASSIGN(txn, db.read_only());
  auto out = Comparison(tables, txn, day, statement).run(step);
  PAYMENTS_TRY(txn.rollback());
  return out;
}

// ---- the cancel topic --------------------------------------------------------------------------

namespace {

Result<CancelRow> cancel_row(const PaymentTables& tables, Transaction& txn, Day day,
                             const Difference& d, Micros now) {
  CancelRow row;
  row.request = d.id;
  row.reason = std::string("recon_").append(difference_name(d.what));
  row.amount = d.amount;
  row.create_date = now;
  if (d.transaction.empty()) {
    row.action = CancelAction::review;
    row.transaction =
        row.reason + "/" + format_day(day) + "/" + d.id + "/review";  // no TRANSACTION_ID
    return row;
  }
  row.transaction = d.transaction;
  TransactionRow like;
  like.id = d.transaction;
  like.request = d.id;
  PAYMENTS_ASSIGN(sent, tables.transaction.get(txn, like));
  if (sent) {
    row.acquirer = sent->acquirer;
    row.acquirer_key = sent->acquirer_key;
    row.currency = sent->currency;
  }
  return row;
}

}  // namespace

Result<std::uint64_t> send_differences(Database& db, const PaymentTables& tables, Day day,
                                       const Reconciliation& r, Micros now) {
  std::uint64_t sent = 0;
  const RetryPolicy policy{.begin = {.isolation = Isolation::read_committed}};
  for (std::size_t from = 0; from < r.differences.size(); from += kBatch) {
    const std::size_t to = std::min(from + kBatch, r.differences.size());
    auto added = run_transaction(db, policy, [&](Transaction& txn) -> Result<std::uint64_t> {
      std::uint64_t n = 0;
      for (std::size_t i = from; i < to; ++i) {
        PAYMENTS_ASSIGN(row, cancel_row(tables, txn, day, r.differences[i], now));
        PAYMENTS_ASSIGN(done, tables.cancel.insert(txn, row));
        n += done.inserted ? 1 : 0;
      }
      return n;
    });
    if (!added) return std::unexpected(added.error());
    sent += *added;
  }
  return sent;
}

}  // namespace kessai::payments
