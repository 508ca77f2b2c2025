// SPDX-License-Identifier: Apache-2.0
// Marks: how far the log and the spool are settled. They bound recovery and what must be kept.
#include <algorithm>

#include "engine/payments/flow_core.hpp"

namespace kessai::payments {

Result<void> FlowCore::load_mark() {
  const std::string id = txlog_.id();
  PAYMENTS_ASSIGN(txn, db_.read_only());
  auto c = marks_.scan(txn);
  bool others = false;
  while (c.next()) {
    if (c.row().journal != id) {
      others = true;
      continue;
    }
    old_marks_.push_back({c.row().create_date, c.row().position, c.row().spooled});
    if (!mark_ || c.row().sequence >= mark_->sequence) mark_ = c.row();
  }
  PAYMENTS_TRY(c.status());
  if (mark_) mark_sequence_ = mark_->sequence;
  log_replaced_ = others && !mark_;
  return txn.rollback();
}

Result<CommitTicket> FlowCore::write_mark() {
  const Day today = day_of(now());
  MarkRow m{.journal = txlog_.id(),
            .sequence = ++mark_sequence_,
            .create_date = now(),
            .position = unsettled_.empty() ? seen_next_ : unsettled_.begin()->first,
            .spooled = absorbed_,
            .scan_from = std::min(today, floor_),
            .cancels_from = std::min(today, floor_)};
  for (const auto& [id, f] : flights_) {
    m.scan_from = std::min(m.scan_from, day_of(f->request.create_date));
    m.cancels_from = std::min(m.cancels_from, m.scan_from);
  }
  for (const auto& [id, orphan] : orphans_)
    m.scan_from = std::min(m.scan_from, day_of(orphan.create_date));
  for (const auto& [id, cancel] : cancels_)
    m.cancels_from = std::min(m.cancels_from, day_of(cancel.row.create_date));
  auto ticket = transact([&](Transaction& txn) -> Result<void> {
    PAYMENTS_TRY(marks_.insert(txn, m));
    return {};
  });
  if (!ticket) return ticket;
  mark_ = m;
  appended_since_mark_ = 0;
  marked_ns_ = executor_.now_ns();
  return ticket;
}

void FlowCore::maybe_mark(bool now) {
  if (mark_under_way_ || appended_since_mark_ < (now ? 1 : options_.mark_every)) return;
  const auto ticket = write_mark();
  if (!ticket) return;  // the next payment tries again
  mark_under_way_ = true;
  when_durable(*ticket, [this, m = *mark_](const Result<void>& ok) {
    mark_under_way_ = false;
    if (!ok) return;
    old_marks_.push_back({m.create_date, m.position, m.spooled});
    static_cast<void>(forget_old());
  });
}

Result<void> FlowCore::cover(Micros create_date) {
  const Day day = day_of(create_date);
  if (!mark_ || (day >= mark_->scan_from && day >= mark_->cancels_from)) return {};
  if (started_) floor_ = std::min(floor_, day);  // recovery's own last mark knows what is open
  MarkRow m = *mark_;
  m.sequence = ++mark_sequence_;
  m.create_date = now();
  m.scan_from = std::min(m.scan_from, day);
  m.cancels_from = std::min(m.cancels_from, day);
  PAYMENTS_ASSIGN(ticket, transact([&](Transaction& txn) -> Result<void> {
                    PAYMENTS_TRY(marks_.insert(txn, m));
                    return {};
                  }));
  PAYMENTS_TRY(ticket.wait());
  mark_ = m;
  return {};
}

// Both are kept from the newest mark that is old enough on: what a restored backup has to be told.
Result<void> FlowCore::forget_old() {
  const Micros old = now() - std::chrono::microseconds(options_.keep_log).count();
  while (old_marks_.size() > 1 && old_marks_[1].date < old) old_marks_.pop_front();
  if (old_marks_.empty()) return {};
  // Never what the store has not taken over: a mark may speak of another spool.
  PAYMENTS_TRY(spool_.forget_before(std::min(old_marks_.front().spooled, absorbed_)));
  return txlog_.forget_before(old_marks_.front().position);
}

}  // namespace kessai::payments
