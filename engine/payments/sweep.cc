// SPDX-License-Identifier: Apache-2.0
// The sweeper: requests that were accepted and that nobody finished are closed, so that their
// callers stop getting unique_violation for ever. The result's insert decides between sweepers.
#include "engine/payments/flow_core.hpp"

namespace kessai::payments {

// Any thread; reads only, in short transactions: in the S2PL build each of them shuts out who
// writes to what it reads, in the MVCC build each keeps old versions alive.
Result<void> FlowCore::visit_requests(const Window& window, const VisitRequest& visit,
                                      const std::function<bool(std::uint64_t)>& step) {
  constexpr unsigned kMostRefusals = 16;  // in a row
  PAYMENTS_ASSIGN(days, tables_.request.raw().days(window));
  std::uint64_t rows = 0;
  for (const Day day : days) {
    std::string after;
    unsigned refusals = 0;
    for (bool more = true; more;) {
      const std::uint64_t before = rows;
      const auto read = visit_some(day, visit, after, rows);
      refusals = rows != before ? 0 : refusals + 1;
      if (read) {
        more = *read;
      } else if (read.error() == Code::tree_not_found) {
        break;  // the day was dropped
      } else if (!read.error().retryable() || refusals > kMostRefusals) {
        return std::unexpected(read.error());
      }
      if (step && !step(rows)) return fail(Code::interrupted);
    }
  }
  return {};
}

// The next rows of a day; `after` and `rows` move with each that was visited. False: that was all.
Result<bool> FlowCore::visit_some(Day day, const VisitRequest& visit, std::string& after,
                                  std::uint64_t& rows) {
  constexpr unsigned kRowsAtOnce = 256;
  PAYMENTS_ASSIGN(txn, db_.read_only());
  auto c = tables_.request.scan(txn, Window::day(day), nullptr, after);
  unsigned n = 0;
  for (; n < kRowsAtOnce && c.next(); ++n) {
    PAYMENTS_TRY(visit(txn, c.row()));
    after = c.key();
    ++rows;
  }
  PAYMENTS_TRY(c.status());
  PAYMENTS_TRY(txn.rollback());
  return n == kRowsAtOnce;
}

Result<std::vector<std::string>> FlowCore::find_orphans(
    const std::function<bool(std::uint64_t)>& step) {
  std::vector<std::string> ids;
  const Micros old = now() - std::chrono::microseconds(options_.lease).count();
  PAYMENTS_TRY(visit_requests(
      {.to = day_of(old)},
      [&](Transaction& txn, const RequestRow& row) -> Result<void> {
        if (row.create_date > old) return {};
        PAYMENTS_ASSIGN(result, tables_.result.get(txn, {.request = row.id}));
        if (!result) ids.push_back(row.id);
        return {};
      },
      step));
  return ids;
}

void FlowCore::sweep(const std::vector<std::string>& ids,
                     std::function<void(Result<std::uint64_t>)> done) {
  std::uint64_t closed = 0;
  for (const std::string& id : ids) {
    if (flights_.contains(id)) continue;
    const auto ours = close_orphan(id);
    if (!ours) return done(std::unexpected(ours.error()));
    closed += *ours ? 1 : 0;
  }
  if (closed == 0) return done(0);
  when_durable(last_ticket_, [done = std::move(done), closed](const Result<void>& ok) {
    done(ok ? Result<std::uint64_t>(closed) : std::unexpected(ok.error()));
  });
}

// True: closed by this call. With a log record, or a transaction that another flow may have logged,
// it counts as sent.
Result<bool> FlowCore::close_orphan(const std::string& id) {
  bool closed = false;
  std::optional<CancelRow> cancel;
  PAYMENTS_TRY(cover(now()));
  const auto ticket = transact([&](Transaction& txn) -> Result<void> {
    closed = false;
    cancel.reset();
    PAYMENTS_ASSIGN(request, tables_.request.get(txn, {.id = id}));
    if (!request) return {};
    PAYMENTS_ASSIGN(transaction,
                    tables_.transaction.get(txn, {.id = transaction_id_of(id), .request = id}));
    const auto known = orphans_.find(id);
    const bool ours = known != orphans_.end() && known->second.ours;
    const bool sent = logged_.contains(id) || (transaction && !ours);
    const Status status = sent ? Status::failed_cancel_requested : Status::failed_not_sent;
    PAYMENTS_ASSIGN(
        done, tables_.result.insert(
                  txn, result_row(*request, status, transaction ? transaction->id : std::string(),
                                  {}, "swept")));
    if (!done.inserted) return {};
    closed = true;
    if (sent && transaction) {
      cancel = cancel_row(*transaction, "swept");
      PAYMENTS_TRY(tables_.cancel.insert(txn, *cancel));
    }
    return {};
  });
  if (!ticket) return std::unexpected(ticket.error());
  if (closed) ++stats_.swept;
  when_durable(*ticket, [this, id, cancel](const Result<void>& ok) {
    if (!ok) return;
    if (cancel) add_cancel(*cancel, true);
    orphans_.erase(id);
    if (const auto at = logged_.find(id); at != logged_.end()) {
      unsettled_.erase(at->second);
      logged_.erase(at);
    }
  });
  return closed;
}

void FlowCore::sweep_orphans() {
  if (!spooled_.empty() && !absorb_spool()) return;  // the store still cannot be written
  const auto lease = static_cast<std::uint64_t>(std::chrono::nanoseconds(options_.lease).count());
  std::vector<std::string> due;
  for (const auto& [id, orphan] : orphans_) {
    if (executor_.now_ns() - orphan.since_ns >= lease && !flights_.contains(id)) due.push_back(id);
  }
  for (const std::string& id : due) {
    if (!close_orphan(id)) return;
  }
}

}  // namespace kessai::payments
