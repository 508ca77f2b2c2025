// SPDX-License-Identifier: Apache-2.0
// Start-up recovery: the store was replayed by its own open; here what lies outside is compared
// with it, before anything is accepted. May be interrupted anywhere and run again.
#include <algorithm>

#include "engine/payments/flow_core.hpp"

namespace kessai::payments {
namespace {

constexpr unsigned kCommitsAtOnce = 256;  // between waits for the device

std::unexpected<Error> too_old(const std::string& what, Journal::Position from,
                               Journal::Position first) {
  return fail(Code::damaged, "the store is older than the " + what + " reaches back (record " +
                                 std::to_string(from) + ", it begins at " + std::to_string(first) +
                                 "): restore a newer backup, or bring back the older " + what);
}

}  // namespace

Result<void> FlowCore::recover() {
  PAYMENTS_TRY(load_mark());
  PAYMENTS_TRY(check_reach());
  PAYMENTS_TRY(cover(now()));  // rows of this start are dated now
  PAYMENTS_TRY(recover_log());
  PAYMENTS_TRY(absorb_spool());
  PAYMENTS_TRY(recover_requests());
  PAYMENTS_TRY(settle());
  PAYMENTS_TRY(load_cancels());
  recovery_.cancels_open = cancels_.size();
  walked_.clear();
  marked_ns_ = executor_.now_ns();
  seen_next_ = txlog_.next();
  PAYMENTS_ASSIGN(ticket, write_mark());
  PAYMENTS_TRY(ticket.wait());
  old_marks_.push_back({mark_->create_date, mark_->position, mark_->spooled});
  return forget_old();
}

Result<void> FlowCore::settle() { return std::exchange(last_ticket_, CommitTicket()).wait(); }

// What a restored backup would have to be told must still be there, or nothing is accepted.
Result<void> FlowCore::check_reach() const {
  const Journal::Position logged = mark_ ? mark_->position : 1;
  if (txlog_.first() > logged) return too_old("transaction log", logged, txlog_.first());
  if (mark_ && spool_.first() > mark_->spooled)
    return too_old("spool", mark_->spooled, spool_.first());
  return {};
}

Result<void> FlowCore::recover_log() {
  const Journal::Position from = mark_ ? mark_->position : 1;
  if (log_replaced_) {
    log_doubtful_ = true;
    raise({"txlog", "log_replaced", "the store knows another transaction log than this one"});
  } else if (txlog_.next() < from) {
    log_doubtful_ = true;
    raise({txlog_.id(), "log_truncated",
           "the transaction log ends before the store's mark " + std::to_string(from)});
  }
  Result<void> ok;
  unsigned since_wait = 0;
  PAYMENTS_TRY(txlog_.read(from, [&](Journal::Position p, std::string_view bytes) {
    ++recovery_.log_records;
    auto record = decode_sent(bytes);
    ok = record ? recover_sent(p, *record) : Result<void>(std::unexpected(record.error()));
    if (ok && ++since_wait % kCommitsAtOnce == 0) ok = settle();
    return ok.has_value();
  }));
  return ok;
}

// One record of the log against the store (rows 4 to 6 of the state table).
Result<void> FlowCore::recover_sent(Journal::Position, const SentRecord& record) {
  const std::string& id = record.request.id;
  walked_.insert(record.transaction.id);
  bool vetoed = false, closed = false;
  const auto ticket = transact([&](Transaction& txn) -> Result<void> {
    vetoed = closed = false;
    PAYMENTS_ASSIGN(request, tables_.request.get(txn, {.id = id}));
    SentRecord rows = record;
    if (!request) {
      PAYMENTS_ASSIGN(lost, put_back(txn, rows));
      if (!lost) return {};  // long settled: its day was dropped
      vetoed = true;
    }
    PAYMENTS_ASSIGN(result, tables_.result.get(txn, {.request = id}));
    if (result && (result->status == Status::captured || result->status == Status::declined))
      return {};
    if (!result) {
      const ResultRow row = result_row(rows.request, Status::failed_cancel_requested,
                                       rows.transaction.id, {}, vetoed ? "vetoed" : "recovered");
      PAYMENTS_TRY(tables_.result.insert(txn, row));
    }
    // Closed as not sent, yet logged: somebody knew less than the log.
    PAYMENTS_ASSIGN(cancel, tables_.cancel.get(txn, {.transaction = rows.transaction.id}));
    if (!cancel) {
      closed = true;
      PAYMENTS_TRY(tables_.cancel.insert(
          txn, cancel_row(rows.transaction, vetoed ? "vetoed" : "recovered")));
    }
    if (vetoed)
      PAYMENTS_TRY(tables_.alert.insert(
          txn, alert_row({id, "log_without_request",
                          "the store lost a request that was sent; it is cancelled"})));
    return {};
  });
  if (!ticket) return std::unexpected(ticket.error());
  if (ticket->lsn() != 0) last_ticket_ = *ticket;
  recovery_.vetoed += vetoed ? 1 : 0;
  recovery_.cancel_requested += closed ? 1 : 0;
  return {};
}

// Rows that the store has lost, from the log. A day that was dropped takes no rows: today does.
// False: the store knows the id, and dropped its day.
Result<bool> FlowCore::put_back(Transaction& txn, SentRecord& record) {
  auto done = tables_.request.insert(txn, record.request);
  if (!done && done.error() == Code::tree_not_found) {
    record.request.create_date = now();
    done = tables_.request.insert(txn, record.request);
  }
  if (!done) return std::unexpected(done.error());
  if (!done->inserted) return false;
  PAYMENTS_TRY(tables_.transaction.insert(txn, record.transaction));
  return true;
}

// Requests without result and without a log record: surely not sent (rows 2 and 3). Successes
// whose log record is gone (row 7) are told.
Result<void> FlowCore::recover_requests() {
  std::vector<RequestRow> open;
  std::vector<std::string> lost;
  const Window window{.from = mark_ ? mark_->scan_from : INT32_MIN};
  PAYMENTS_TRY(visit_requests(window, [&](Transaction& txn, const RequestRow& row) -> Result<void> {
    PAYMENTS_ASSIGN(result, tables_.result.get(txn, {.request = row.id}));
    if (!result) {
      open.push_back(row);
    } else if (result->log_position != 0 && !log_replaced_ &&
               result->log_position >= (mark_ ? mark_->position : 1) &&
               !walked_.contains(result->transaction)) {
      lost.push_back(result->transaction);
    }
    return {};
  }));
  for (const std::string& transaction : lost)
    raise({transaction, "log_lost", "a success whose log record is gone"});
  recovery_.log_lost = lost.size();
  for (std::size_t i = 0; i < open.size(); ++i) {
    if (walked_.contains(transaction_id_of(open[i].id))) continue;  // closed; seen before durable
    const auto ticket = transact([&](Transaction& txn) -> Result<void> {
      const std::string id = transaction_id_of(open[i].id);
      PAYMENTS_ASSIGN(sent, tables_.transaction.get(txn, {.id = id, .request = open[i].id}));
      // Without the right log nobody knows what was sent.
      const bool doubtful = log_doubtful_ && sent;
      PAYMENTS_TRY(tables_.result.insert(
          txn,
          result_row(open[i], doubtful ? Status::failed_cancel_requested : Status::failed_not_sent,
                     sent ? id : std::string(), {}, "recovered")));
      if (doubtful) PAYMENTS_TRY(tables_.cancel.insert(txn, cancel_row(*sent, "log_lost")));
      return {};
    });
    if (!ticket) return std::unexpected(ticket.error());
    last_ticket_ = *ticket;
    ++recovery_.not_sent;
    if (i % kCommitsAtOnce == kCommitsAtOnce - 1) PAYMENTS_TRY(settle());
  }
  return {};
}

// What could not be written into the store when it failed.
Result<void> FlowCore::absorb_spool() {
  Journal::Position from = started_ ? absorbed_ : mark_ ? mark_->spooled : 1;
  if (from > spool_.next()) from = spool_.first();  // another spool than the mark's
  std::vector<CancelRow> rows;
  Result<void> ok;
  Journal::Position end = from;
  PAYMENTS_TRY(spool_.read(from, [&](Journal::Position p, std::string_view bytes) {
    end = p + 1;
    auto row = decode_spooled(bytes);
    if (row) {
      rows.push_back(std::move(*row));
    } else {
      ok = std::unexpected(row.error());
    }
    return ok.has_value();
  }));
  PAYMENTS_TRY(ok);
  PAYMENTS_TRY(cover(now()));
  for (CancelRow& row : rows) {
    PAYMENTS_TRY(cover(row.create_date));
    bool inserted = false;
    const auto ticket = transact([&](Transaction& txn) -> Result<void> {
      auto done = tables_.cancel.insert(txn, row);
      if (!done && done.error() == Code::tree_not_found) {  // that day was dropped
        row.create_date = now();
        done = tables_.cancel.insert(txn, row);
      }
      if (!done) return std::unexpected(done.error());
      inserted = done->inserted;
      return {};
    });
    if (!ticket) return std::unexpected(ticket.error());
    if (ticket->lsn() != 0) last_ticket_ = *ticket;
    recovery_.from_spool += inserted ? 1 : 0;
  }
  PAYMENTS_TRY(settle());
  for (const CancelRow& row : rows) {
    spooled_.erase(row.transaction);
    if (started_) add_cancel(row, true);
  }
  absorbed_ = end;
  return {};
}

Result<void> FlowCore::load_cancels() {
  PAYMENTS_ASSIGN(txn, db_.read_only());
  const Window window{.from = mark_ ? mark_->cancels_from : INT32_MIN};
  auto c = tables_.cancel.scan(txn, window);
  while (c.next()) {
    const CancelRow& row = c.row();
    PAYMENTS_ASSIGN(state, tables_.state_of(txn, row));
    if (!state.closed) add_cancel(row, true, state.tries, state.failures);
  }
  PAYMENTS_TRY(c.status());
  return txn.rollback();
}

}  // namespace kessai::payments
