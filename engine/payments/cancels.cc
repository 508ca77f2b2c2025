// SPDX-License-Identifier: Apache-2.0
// The cancel consumer: each row of the cancel topic (and of the spool) is delivered until the
// acquirer says that nothing is held, or its failures are used up: a dead letter and an alert.
#include <algorithm>

#include "engine/payments/flow_core.hpp"

namespace kessai::payments {
namespace {

std::string_view detail_of(CancelReply reply) noexcept {
  switch (reply) {
    case CancelReply::cancelled:
      return "cancelled";
    case CancelReply::nothing_there:
      return "nothing_there";
    case CancelReply::failed:
      return "failed";
    case CancelReply::unknown:
      return "unknown";
  }
  return "?";
}

}  // namespace

void FlowCore::add_cancel(const CancelRow& row, bool stored, std::uint32_t tries,
                          unsigned failures) {
  auto [it, fresh] = cancels_.try_emplace(row.transaction);
  PendingCancel& p = it->second;
  if (!fresh) {  // known from the spool, and in the store now
    p.stored = p.stored || stored;
    return;
  }
  p.row = row;
  p.stored = stored;
  p.since_ns = executor_.now_ns();
  p.tries = tries;
  p.failures = failures;
  if (!options_.deliver || !started_) return;
  later(p.since_ns, [id = row.transaction](FlowCore& core) { core.try_cancel(id); });
}

// What tries so far ask for, half of it drawn, so that many cancels do not come in one moment.
std::chrono::nanoseconds FlowCore::backoff(unsigned tries) const {
  constexpr unsigned kMostDoublings = 30;
  const std::chrono::nanoseconds longest = options_.longest_backoff;
  std::chrono::nanoseconds t = options_.first_backoff;
  for (unsigned i = 1; i < std::min(tries, kMostDoublings) && t < longest; ++i) t *= 2;
  t = std::min(t, longest);
  const auto half = static_cast<std::uint64_t>(t.count() / 2);
  return std::chrono::nanoseconds(half + executor_.random_bits() % (half + 1));
}

// Until the next try. One is made when the window ends: it settles what is not there.
std::chrono::nanoseconds FlowCore::pause_of(const PendingCancel& p) const {
  const auto pause = backoff(p.failures + p.absences + 1);
  const auto known = std::chrono::nanoseconds(executor_.now_ns() - p.since_ns);
  return known < options_.acquirer_window ? std::min(pause, options_.acquirer_window - known)
                                          : pause;
}

void FlowCore::try_cancel(const std::string& transaction) {
  const auto it = cancels_.find(transaction);
  if (it == cancels_.end() || it->second.call != 0) return;
  PendingCancel& p = it->second;
  if (p.row.action == CancelAction::review)  // a person decides
    return record_attempt(transaction, CancelOutcome::failed, true, "review");
  if (cancels_calling_ >= options_.cancels_at_once) {
    cancels_waiting_.push_back(transaction);
    return;
  }
  ++cancels_calling_;
  ++stats_.cancel_tries;
  p.call = ++call_serial_;
  later(deadline_after(options_.cancel_timeout), [transaction, call = p.call](FlowCore& core) {
    core.on_cancel_reply(transaction, call, CancelReply::unknown);
  });
  acquirer_.cancel({.key = p.row.acquirer_key,
                    .amount = p.row.amount,
                    .currency = p.row.currency,
                    .attempt = p.tries + 1,
                    .timeout = options_.cancel_timeout},
                   on_strand<CancelReply>([this, transaction, call = p.call](CancelReply reply) {
                     on_cancel_reply(transaction, call, reply);
                   }));
}

void FlowCore::on_cancel_reply(const std::string& transaction, std::uint64_t call,
                               CancelReply reply) {
  const auto it = cancels_.find(transaction);
  if (it == cancels_.end() || it->second.call != call) return;  // after its time
  PendingCancel& p = it->second;
  p.call = 0;
  --cancels_calling_;
  const auto known = std::chrono::nanoseconds(executor_.now_ns() - p.since_ns);
  // A delayed authorisation may still arrive: the window counts from when we first knew.
  const bool delivered = reply == CancelReply::cancelled ||
                         (reply == CancelReply::nothing_there && known >= options_.acquirer_window);
  if (!delivered) ++(reply == CancelReply::nothing_there ? p.absences : p.failures);
  const bool dead = p.failures >= options_.cancel_attempts;
  const CancelOutcome outcome = delivered                      ? CancelOutcome::delivered
                                : reply == CancelReply::failed ? CancelOutcome::failed
                                                               : CancelOutcome::unknown;
  record_attempt(transaction, outcome, dead && !delivered, std::string(detail_of(reply)));
  start_waiting_cancels();
}

void FlowCore::record_attempt(const std::string& transaction, CancelOutcome outcome, bool dead,
                              std::string detail) {
  PendingCancel& p = cancels_.at(transaction);
  const bool delivered = outcome == CancelOutcome::delivered;
  const auto pause = pause_of(p);
  const auto again = [transaction](std::chrono::nanoseconds after) {
    return [transaction, after](FlowCore& core) {
      core.later(core.deadline_after(after),
                 [transaction](FlowCore& c) { c.try_cancel(transaction); });
    };
  };
  if (!p.stored) {
    // Only the spool knows it: delivered as far as this process goes; once the store takes rows
    // again it is cancelled once more, for the record.
    if (delivered) {
      ++stats_.cancels_delivered;
      return cancel_done(transaction);
    }
    return again(pause)(*this);
  }
  const CancelAttemptRow row{.transaction = transaction,
                             .attempt = p.tries + 1,
                             .outcome = outcome,
                             .next_date = delivered || dead ? 0 : now() + pause.count() / 1000,
                             .detail = std::move(detail),
                             .create_date = now()};
  const Alert alert{
      transaction, "dead_letter",
      "a cancel was given up after " + std::to_string(p.failures) + " failures: " + row.detail};
  bool taken = false;
  const auto ticket = transact([&](Transaction& txn) -> Result<void> {
    PAYMENTS_ASSIGN(done, tables_.cancel_attempt.insert(txn, row));
    taken = !done.inserted;
    if (taken || !dead) return {};
    PAYMENTS_TRY(tables_.dead_letter.insert(txn, {.transaction = transaction,
                                                  .attempts = row.attempt,
                                                  .reason = row.detail,
                                                  .create_date = row.create_date}));
    PAYMENTS_TRY(tables_.alert.insert(txn, alert_row(alert)));
    return {};
  });
  ++p.tries;
  if (!ticket || taken) return again(pause)(*this);  // not recorded: as if not tried
  when_durable(*ticket,
               [this, transaction, delivered, dead, alert, pause, again](const Result<void>& ok) {
                 if (!ok || (!delivered && !dead)) return again(pause)(*this);
                 ++(dead ? stats_.dead_letters : stats_.cancels_delivered);
                 if (dead) {
                   if (options_.on_alert) options_.on_alert(alert);
                 }
                 cancel_done(transaction);
               });
}

void FlowCore::cancel_done(const std::string& transaction) {
  cancels_.erase(transaction);
  if (!cancels_.empty() || !spooled_.empty()) return;
  for (auto& done : std::exchange(drain_waiters_, {})) done();
}

void FlowCore::start_waiting_cancels() {
  while (!cancels_waiting_.empty() && cancels_calling_ < options_.cancels_at_once) {
    const std::string next = std::move(cancels_waiting_.front());
    cancels_waiting_.pop_front();
    try_cancel(next);
  }
}

void FlowCore::when_drained(Executor::Task done) {
  if (cancels_.empty() && spooled_.empty()) return done();
  drain_waiters_.push_back(std::move(done));
}

}  // namespace kessai::payments
