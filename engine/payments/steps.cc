// SPDX-License-Identifier: Apache-2.0
// The steps of one payment (flow_core.hpp has the drawing), in their order. Each ends by handing
// the flight to a callback or to finish().
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

#include "engine/payments/flow_core.hpp"

namespace kessai::payments {
namespace {

constexpr Micros kMicrosPerMs = 1000;

std::uint64_t nanoseconds(std::chrono::nanoseconds t) {
  return static_cast<std::uint64_t>(std::max(t.count(), std::int64_t{0}));
}

AnswerKind kind_of(Status status) noexcept {
  switch (status) {
    case Status::captured:
    case Status::refunded:
    case Status::adjusted:
      return AnswerKind::success;
    case Status::declined:
      return AnswerKind::declined;
    case Status::failed_not_sent:
    case Status::failed_cancel_requested:
      return AnswerKind::failed;
  }
  return AnswerKind::failed;
}

}  // namespace

std::string answer_bytes(Status status, Milli amount, const Currency& currency,
                         std::string_view auth_code, std::string_view reason) {
  std::string out(status_name(status));
  out += " " + format_milli(amount) + " ";
  out += currency_code(currency);
  if (!auth_code.empty()) out.append(" auth=").append(auth_code);
  if (!reason.empty()) out.append(" reason=").append(reason);
  return out;
}

Fingerprint fingerprint_of(const Order& order) {
  Encoder e;
  e.put(order.amount);
  for (const auto* text :
       {&order.currency, &order.account, &order.method, &order.merchant, &order.card_token})
    e.text(*text);
  const std::string bytes = e.take();
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  Fingerprint out;
  std::copy_n(canonical.digest, out.size(), out.begin());
  return out;
}

ResultRow FlowCore::result_row(const RequestRow& request, Status status,
                               const std::string& transaction, const std::string& auth_code,
                               const std::string& reason) const {
  return {.request = request.id,
          .kind = request.kind,
          .status = status,
          .currency = request.currency,
          .amount = request.amount,
          .payment_date = request.payment_date,
          .create_date = now(),
          .transaction = transaction,
          .auth_code = auth_code,
          .answer = answer_bytes(status, request.amount, request.currency, auth_code, reason)};
}

CancelRow FlowCore::cancel_row(const TransactionRow& t, std::string reason) const {
  return {.transaction = t.id,
          .action = CancelAction::cancel,
          .request = t.request,
          .reason = std::move(reason),
          .acquirer = t.acquirer,
          .acquirer_key = t.acquirer_key,
          .currency = t.currency,
          .amount = t.amount,
          .create_date = now()};
}

Answer FlowCore::answer_of(const ResultRow& row, bool cancelled) {
  Answer a{.kind = kind_of(row.status), .idempotent = true, .bytes = row.answer};
  if (a.kind == AnswerKind::success && cancelled) {
    a.kind = AnswerKind::failed;
    a.bytes = "cancelled " + row.answer;
  }
  if (const auto at = row.answer.find(" reason="); at != row.answer.npos)
    a.reason = row.answer.substr(at + 8);
  return a;
}

// Steps 0 and 1: what this process already works on, and the rows to write.
void FlowCore::admit(const FlightPtr& f) {
  Order& o = f->order;
  RequestRow& r = f->request;
  r.id = o.id;
  r.currency = *parse_currency(o.currency);
  r.amount = o.amount;
  r.request_date = r.create_date = now();
  r.payment_date = o.payment_date.value_or(day_of(r.create_date));
  r.fingerprint = fingerprint_of(o);
  r.account = o.account;
  r.method = o.method;
  r.merchant = o.merchant;
  r.card_token = o.card_token;
  constexpr std::chrono::milliseconds kLongest = std::chrono::hours(24);
  const auto patience =
      std::min(o.patience.count() > 0 ? o.patience : options_.caller_patience, kLongest);
  r.deadline = r.create_date + patience.count() * kMicrosPerMs;
  const auto for_the_call = patience - options_.answer_margin;
  f->call_until_ns = f->began_ns + nanoseconds(for_the_call);
  f->transaction = {.id = transaction_id_of(o.id),
                    .request = o.id,
                    .currency = r.currency,
                    .amount = r.amount,
                    .transaction_date = r.create_date,
                    .create_date = r.create_date,
                    .acquirer = options_.acquirer_name,
                    .acquirer_key = transaction_id_of(o.id)};
  if (const auto same = flights_.find(o.id); same != flights_.end()) {
    const RequestRow& earlier = same->second->request;
    if (earlier.fingerprint != r.fingerprint)
      return finish(f, {.kind = AnswerKind::key_reused_mismatch});
    return finish(f, {.kind = AnswerKind::unique_violation,
                      .age = std::chrono::microseconds(
                          std::max<Micros>(r.create_date - earlier.create_date, 0))});
  }
  auto known = look_up(r);
  if (!known) return finish(f, {.kind = AnswerKind::unknown, .reason = known.error().message()});
  if (*known) return finish(f, std::move(**known));
  if (!time_left(*f)) return without_time(f);
  flights_.emplace(o.id, f);
  insert_request(f);
}

// No call could end before the caller leaves: nothing is written. An id that was accepted earlier
// is answered as such.
void FlowCore::without_time(const FlightPtr& f) {
  const auto earlier = [&]() -> Result<std::optional<RequestRow>> {
    PAYMENTS_ASSIGN(txn, db_.read_only());
    PAYMENTS_ASSIGN(row, tables_.request.get(txn, {.id = f->request.id}));
    PAYMENTS_TRY(txn.rollback());
    return row;
  }();
  if (!earlier)
    return finish(f, {.kind = AnswerKind::unknown, .reason = earlier.error().message()});
  if (*earlier) return met_earlier(f, *earlier);
  const std::chrono::microseconds patience(f->request.deadline - f->request.create_date);
  if (patience < options_.answer_margin + options_.least_call)
    return finish(f, {.kind = AnswerKind::refused,
                      .reason = "the caller's patience leaves no time for a call"});
  finish(f, {.kind = AnswerKind::busy, .reason = "no time is left for a call"});
}

// Step 2. A finished request is in both tables: this look comes before the insert. What it reads
// is durable (I7).
Result<std::optional<Answer>> FlowCore::look_up(const RequestRow& request) {
  for (unsigned attempt = 1;; ++attempt) {
    const auto once = [&]() -> Result<std::optional<Answer>> {
      PAYMENTS_ASSIGN(txn, db_.read_only());
      PAYMENTS_ASSIGN(result, tables_.result.get(txn, {.request = request.id}));
      if (!result) return std::nullopt;
      PAYMENTS_ASSIGN(earlier, tables_.request.get(txn, {.id = request.id}));
      if (!earlier)
        return fail(Code::damaged, "a result without its request: " + result->transaction);
      if (earlier->fingerprint != request.fingerprint)
        return Answer{.kind = AnswerKind::key_reused_mismatch};
      bool cancelled = spooled_.contains(result->transaction);
      if (!cancelled && result->status == Status::captured) {
        PAYMENTS_ASSIGN(cancel, tables_.cancel.get(txn, {.transaction = result->transaction}));
        cancelled = cancel && cancel->action == CancelAction::cancel;
      }
      PAYMENTS_TRY(txn.rollback());  // answers once what it saw is durable
      return answer_of(*result, cancelled);
    };
    auto answer = once();
    constexpr unsigned kMost = 8;
    if (answer || !answer.error().retryable() || attempt == kMost) return answer;
  }
}

// Step 3: the insert is the arbiter. Without anything to gather step 5 shares its commit. An error
// before it decided is `unknown`: somebody may have accepted the id earlier.
void FlowCore::insert_request(const FlightPtr& f) {
  if (auto ok = cover(f->request.create_date); !ok)
    return finish(f, {.kind = AnswerKind::unknown, .reason = ok.error().message()});
  bool taken = false, decided = false;
  std::optional<RequestRow> earlier;
  const auto ticket = transact([&](Transaction& txn) -> Result<void> {
    decided = false;
    PAYMENTS_ASSIGN(done, tables_.request.insert(txn, f->request));
    decided = true;
    taken = !done.inserted;
    earlier = std::move(done.earlier);
    if (taken) return fail(Code::key_exists);
    if (options_.gather) return {};
    PAYMENTS_ASSIGN(sent, tables_.transaction.insert(txn, f->transaction));
    if (!sent.inserted) return fail(Code::damaged, "a transaction without its request");
    return {};
  });
  if (taken) return met_earlier(f, earlier);
  if (!ticket) {
    // Nothing was sent. Only a commit whose outcome is unknown can have left the row.
    f->requested = ticket.error() == Code::unknown_outcome;
    return finish(f, {.kind = decided ? AnswerKind::failed : AnswerKind::unknown,
                      .reason = ticket.error().message()});
  }
  f->requested = true;
  stats_.row_inserts += options_.gather ? 1 : 2;
  when_durable(*ticket, [this, f](const Result<void>& ok) {
    if (!ok) return finish(f, {.kind = AnswerKind::failed, .reason = ok.error().message()});
    options_.gather ? gather_and_insert(f) : append_to_log(f);
  });
}

void FlowCore::met_earlier(const FlightPtr& f, const std::optional<RequestRow>& earlier) {
  if (!earlier)
    return finish(f, {.kind = AnswerKind::refused,
                      .reason = "the id was used on a day that is no longer kept"});
  if (earlier->fingerprint != f->request.fingerprint)
    return finish(f, {.kind = AnswerKind::key_reused_mismatch});
  auto known = look_up(f->request);  // it may have been finished meanwhile
  if (!known) return finish(f, {.kind = AnswerKind::unknown, .reason = known.error().message()});
  if (*known) return finish(f, std::move(**known));
  // Not this process's: the lease decides when a sweeper closes it.
  orphans_.try_emplace(f->request.id, Orphan{earlier->create_date, executor_.now_ns(), false});
  finish(f, {.kind = AnswerKind::unique_violation,
             .age = std::chrono::microseconds(
                 std::max<Micros>(f->request.create_date - earlier->create_date, 0))});
}

// Steps 4 and 5, without an open transaction in between. Who gathers until no time is left for the
// call has gathered nothing.
void FlowCore::gather_and_insert(const FlightPtr& f) {
  const std::uint64_t least = nanoseconds(options_.least_call);
  later(f->call_until_ns > least ? f->call_until_ns - least : 0,
        [weak = std::weak_ptr(f)](FlowCore& core) {
          const auto flight = weak.lock();
          if (!flight || std::exchange(flight->gathered, true)) return;
          core.not_sent(flight, Error(Code::interrupted, "gathering took too long"));
        });
  options_.gather(f->order, on_strand<Result<void>>([this, f](const Result<void>& ok) {
                    if (std::exchange(f->gathered, true)) return;  // told twice, or too late
                    if (!ok) return not_sent(f, ok.error());
                    f->transaction.create_date = now();
                    const auto ticket = transact([&](Transaction& txn) -> Result<void> {
                      PAYMENTS_ASSIGN(sent, tables_.transaction.insert(txn, f->transaction));
                      if (!sent.inserted)
                        return fail(Code::key_exists, "the transaction is there already");
                      return {};
                    });
                    if (!ticket) return not_sent(f, ticket.error());
                    ++stats_.row_inserts;
                    when_durable(*ticket, [this, f](const Result<void>& durable) {
                      durable ? append_to_log(f) : not_sent(f, durable.error());
                    });
                  }));
}

bool FlowCore::time_left(const Flight& f) const {
  return executor_.now_ns() + nanoseconds(options_.least_call) <= f.call_until_ns;
}

// Step 6. Time is looked at before: a crash after the record is there costs a cancel.
void FlowCore::append_to_log(const FlightPtr& f) {
  if (!time_left(*f)) return not_sent(f, Error(Code::interrupted, "no time left for the call"));
  txlog_.append(encode(SentRecord{f->request, f->transaction}),
                on_strand<Result<Journal::Position>>([this, f](const Result<Journal::Position>& p) {
                  if (!p) {
                    journal_failed(txlog_, p.error());
                    return not_sent(f, p.error());
                  }
                  log_told_.clear();
                  f->position = *p;
                  unsettled_.emplace(*p, f->request.id);
                  logged_[f->request.id] = *p;
                  seen_next_ = *p + 1;
                  ++appended_since_mark_;
                  call_outside(f);
                }));
}

// Step 7. Nothing of the store is held from here until the reply. The log's flush may have stalled.
void FlowCore::call_outside(const FlightPtr& f) {
  if (!time_left(*f)) return not_sent(f, Error(Code::interrupted, "the log took the call's time"));
  f->called = true;
  f->called_ns = executor_.now_ns();
  ++stats_.calls;
  // Here: to whom a reply after the deadline has nothing to tell.
  later(f->call_until_ns, [weak = std::weak_ptr(f)](FlowCore& core) {
    const auto flight = weak.lock();
    if (!flight || flight->replied) return;
    ++core.stats_.timeouts;
    core.on_reply(flight, {.outcome = AuthOutcome::unknown, .reason = "timeout"});
  });
  const std::uint64_t left = f->call_until_ns - f->called_ns;
  acquirer_.authorise({.key = f->transaction.acquirer_key,
                       .amount = f->transaction.amount,
                       .currency = f->transaction.currency,
                       .card_token = f->request.card_token,
                       .merchant = f->request.merchant,
                       .timeout = std::chrono::nanoseconds(left)},
                      on_strand<AuthReply>([this, f](const AuthReply& reply) {
                        if (f->replied) {
                          ++stats_.late_replies;
                        } else {
                          on_reply(f, reply);
                        }
                      }));
}

void FlowCore::on_reply(const FlightPtr& f, const AuthReply& reply) {
  f->replied = true;
  f->outside = std::chrono::microseconds((executor_.now_ns() - f->called_ns) / 1000);
  switch (reply.outcome) {
    case AuthOutcome::ok:
      return write_result(f, Status::captured, reply.auth_code, {}, false);
    case AuthOutcome::declined:
      return write_result(f, Status::declined, {}, reply.reason, options_.cancel_declined);
    case AuthOutcome::unknown:
      return write_result(f, Status::failed_cancel_requested, {}, reply.reason, true);
  }
}

// Steps 8 and 9: the result, and the cancel with it in one transaction.
void FlowCore::write_result(const FlightPtr& f, Status status, const std::string& auth_code,
                            const std::string& reason, bool cancel) {
  ResultRow result = result_row(f->request, status, f->transaction.id, auth_code, reason);
  result.log_position = f->position;
  const CancelRow row = cancel_row(f->transaction, reason.empty() ? "declined" : reason);
  if (auto ok = cancel ? cover(row.create_date) : Result<void>{}; !ok)
    return register_in_spool(f, status, ok.error());
  std::optional<ResultRow> earlier;
  const auto ticket = transact([&](Transaction& txn) -> Result<void> {
    PAYMENTS_ASSIGN(done, tables_.result.insert(txn, result));
    if (!done.inserted) {
      earlier = std::move(done.earlier);
      return fail(Code::key_exists, "the result is there already");
    }
    if (cancel) PAYMENTS_TRY(tables_.cancel.insert(txn, row));
    return {};
  });
  if (!ticket && earlier) return lost_race(f, *earlier);
  if (!ticket) {
    if (status != Status::failed_not_sent) return register_in_spool(f, status, ticket.error());
    return finish(f, {.kind = AnswerKind::failed, .reason = ticket.error().message()});
  }
  ++stats_.row_inserts;
  when_durable(*ticket, [this, f, result, row, cancel](const Result<void>& ok) {
    if (!ok) {
      if (result.status != Status::failed_not_sent)
        return register_in_spool(f, result.status, ok.error());
      return finish(f, {.kind = AnswerKind::failed, .reason = ok.error().message()});
    }
    if (cancel) add_cancel(row, true);
    f->requested = false;  // settled
    Answer a = answer_of(result, false);
    a.idempotent = false;
    finish(f, std::move(a));
  });
}

// Somebody (a sweeper, another flow) closed the request first. What may be held outside is
// cancelled; what is stored is answered.
void FlowCore::lost_race(const FlightPtr& f, const ResultRow& earlier) {
  if (earlier.status == Status::failed_not_sent && f->called) {
    const CancelRow row = cancel_row(f->transaction, "lost_race");
    const auto ticket = transact([&](Transaction& txn) -> Result<void> {
      PAYMENTS_TRY(tables_.cancel.insert(txn, row));
      return {};
    });
    if (!ticket) return register_in_spool(f, Status::failed_not_sent, ticket.error());
    return when_durable(*ticket, [this, f, row, earlier](const Result<void>& ok) {
      if (!ok) return register_in_spool(f, Status::failed_not_sent, ok.error());
      add_cancel(row, true);
      f->requested = false;
      finish(f, answer_of(earlier, false));
    });
  }
  f->requested = false;
  finish(f, answer_of(earlier, false));
}

// Step 10: the store that failed cannot hold the message.
void FlowCore::register_in_spool(const FlightPtr& f, Status attempted, const Error& why) {
  const CancelRow row = cancel_row(f->transaction, "result_not_written");
  spool_.append(encode_spooled(row),
                on_strand<Result<Journal::Position>>(
                    [this, f, row, attempted, why](const Result<Journal::Position>& p) {
                      Answer a{.kind = AnswerKind::failed, .reason = why.message()};
                      if (p) {
                        spool_told_.clear();
                        ++stats_.spooled;
                        if (*p >= absorbed_) {  // else upkeep read it before this was told
                          spooled_.emplace(row.transaction, row);
                          add_cancel(row, false);
                        }
                      } else {
                        journal_failed(spool_, p.error());
                        // The success may survive in the store, and nothing says to cancel it.
                        if (attempted == Status::captured) a.kind = AnswerKind::unknown;
                      }
                      finish(f, std::move(a));
                    }));
}

// Nothing was sent: closed as such. Without a result the sweeper and recovery do it.
void FlowCore::not_sent(const FlightPtr& f, const Error& why) {
  write_result(f, Status::failed_not_sent, {}, std::string(code_name(why.code())), false);
}

void FlowCore::finish(const FlightPtr& f, Answer answer) {
  if (const auto it = flights_.find(f->request.id); it != flights_.end() && it->second == f) {
    flights_.erase(it);
    if (f->requested) {
      orphans_.try_emplace(f->request.id, Orphan{f->request.create_date, executor_.now_ns(), true});
    } else if (f->position != 0) {
      unsettled_.erase(f->position);
      logged_.erase(f->request.id);
    }
  }
  switch (answer.kind) {
    case AnswerKind::success:
      ++(answer.idempotent ? stats_.idempotent : stats_.success);
      break;
    case AnswerKind::declined:
      ++(answer.idempotent ? stats_.idempotent : stats_.declined);
      break;
    case AnswerKind::failed:
      ++(answer.idempotent ? stats_.idempotent : stats_.failed);
      break;
    case AnswerKind::unknown:
      ++stats_.unknown;
      break;
    case AnswerKind::unique_violation:
      ++stats_.unique_violation;
      break;
    case AnswerKind::key_reused_mismatch:
      ++stats_.key_reused_mismatch;
      break;
    case AnswerKind::busy:
      busy_.fetch_add(1, std::memory_order_relaxed);
      break;
    case AnswerKind::refused:
      refused_.fetch_add(1, std::memory_order_relaxed);
      break;
  }
  answer.outside = f->outside;
  in_flight_.fetch_sub(1);
  const Reply reply = std::move(f->reply);
  reply(answer);
  if (in_flight_.load() == 0) {
    for (auto& done : std::exchange(close_waiters_, {})) done();
  }
  maybe_mark(false);
}

}  // namespace kessai::payments
