// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/flow.hpp"

#include <algorithm>

#include "engine/payments/flow_core.hpp"

namespace kessai::payments {
namespace {

constexpr unsigned kMostAttempts = 16;
constexpr std::size_t kLongestText = 255;

}  // namespace

std::string_view answer_name(AnswerKind k) noexcept {
  switch (k) {
    case AnswerKind::success:
      return "success";
    case AnswerKind::declined:
      return "declined";
    case AnswerKind::failed:
      return "failed";
    case AnswerKind::unique_violation:
      return "unique_violation";
    case AnswerKind::busy:
      return "busy";
    case AnswerKind::key_reused_mismatch:
      return "key_reused_mismatch";
    case AnswerKind::refused:
      return "refused";
    case AnswerKind::unknown:
      return "unknown";
  }
  return "?";
}

bool looks_like_card_number(std::string_view text) noexcept {
  unsigned digits = 0, sum = 0;
  char first = 0;
  for (std::size_t i = text.size(); i-- > 0;) {
    const char c = text[i];
    if (c == ' ' || c == '-') continue;
    if (c < '0' || c > '9') return false;
    unsigned d = static_cast<unsigned>(c - '0');
    if (digits % 2 == 1) d = d > 4 ? 2 * d - 9 : 2 * d;
    sum += d;
    ++digits;
    first = c;
  }
  return digits >= 12 && digits <= 19 && sum % 10 == 0 && first >= '2' && first <= '6';
}

// ---- core: what all parts use ------------------------------------------------------------------

FlowCore::FlowCore(Database& db, Executor& executor, Acquirer& acquirer, FlowOptions options,
                   PaymentTables tables, Table<MarkRow> marks, Journal txlog, Journal spool)
    : db_(db),
      executor_(executor),
      acquirer_(acquirer),
      options_(std::move(options)),
      tables_(std::move(tables)),
      marks_(std::move(marks)),
      txlog_(std::move(txlog)),
      spool_(std::move(spool)),
      gate_(std::make_shared<Gate>(executor)) {
  if (executor.threaded()) flusher_.emplace();
}

Micros FlowCore::now() const { return executor_.unix_micros(); }

std::uint64_t FlowCore::deadline_after(std::chrono::nanoseconds t) const {
  return executor_.now_ns() + static_cast<std::uint64_t>(std::max(t.count(), std::int64_t{0}));
}

void FlowCore::later(std::uint64_t due_ns, std::function<void(FlowCore&)> fn) {
  executor_.post_at(due_ns, [weak = weak_from_this(), fn = std::move(fn)] {
    const auto self = weak.lock();
    if (self && self->gate_->open()) fn(*self);  // the destructor waits for what saw it open
  });
}

Result<CommitTicket> FlowCore::transact(const std::function<Result<void>(Transaction&)>& body) {
  for (unsigned attempt = 1;; ++attempt) {
    auto txn = db_.begin(
        {.isolation = Isolation::read_committed, .lock_timeout = std::chrono::milliseconds(200)});
    if (!txn) return std::unexpected(txn.error());
    Result<CommitTicket> done;
    if (auto ok = body(*txn); !ok) {
      done = std::unexpected(ok.error());
      if (txn->active()) static_cast<void>(txn->rollback());
    } else {
      done = txn->commit_async();
    }
    if (done) {
      ++stats_.commits;
      return done;
    }
    if (!done.error().retryable() || attempt == kMostAttempts) return done;
  }
}

void FlowCore::when_durable(const CommitTicket& ticket, std::function<void(Result<void>)> next) {
  last_ticket_ = ticket;
  auto then = on_strand<Result<void>>(std::move(next));
  if (flusher_) return flusher_->post([ticket, then = std::move(then)] { then(ticket.wait()); });
  ticket.on_durable(std::move(then));
}

std::vector<WaitInfo> FlowCore::waits() const {
  std::vector<WaitInfo> all = db_.waits();
  WaitInfo log;
  log.name = "txlog_flush";
  log.count = txlog_.flushes();
  log.total = txlog_.flush_time();
  all.push_back(log);
  return all;
}

bool FlowCore::poll() {
  const bool log = txlog_.poll(), spool = spool_.poll();
  if (log || spool) return true;
  if (last_ticket_.lsn() == 0) return false;
  const CommitTicket ticket = std::exchange(last_ticket_, CommitTicket());
  static_cast<void>(ticket.wait());  // without threads nobody else flushes
  return true;
}

AlertRow FlowCore::alert_row(const Alert& alert) const {
  return {.id = alert.what + "/" + alert.subject,
          .subject = alert.subject,
          .what = alert.what,
          .detail = alert.detail,
          .create_date = now()};
}

// An alert about something that has no row of its own to be committed with.
void FlowCore::raise(const Alert& alert) {
  const auto ticket = transact([&](Transaction& txn) -> Result<void> {
    PAYMENTS_TRY(tables_.alert.insert(txn, alert_row(alert)));
    return {};
  });
  if (!options_.on_alert) return;
  if (!ticket) return options_.on_alert(alert);  // the store is gone: better told twice than never
  when_durable(*ticket, [this, alert](const Result<void>&) { options_.on_alert(alert); });
}

// The alert names the position, so that another failure later is another row.
void FlowCore::journal_failed(const Journal& journal, const Error& why) {
  if (why == Code::closed_handle) return;
  const bool log = &journal == &txlog_;
  const std::string what =
      std::string(log ? "log" : "spool").append(why == Code::disk_full ? "_full" : "_failed");
  std::string& told = log ? log_told_ : spool_told_;
  if (told == what) return;
  told = what;
  raise({journal.id() + "/" + std::to_string(journal.next()), what,
         std::string(log ? "the transaction log takes no records, so nothing is sent: "
                         : "the spool takes no cancels of results that the store did not take: ") +
             why.message()});
}

// ---- admission and end -------------------------------------------------------------------------

std::optional<std::string> FlowCore::refusal(const Order& order) const {
  if (order.id.empty() || order.id.size() > kMaxRequestIdBytes) return "an id has 1 to 255 bytes";
  if (order.amount <= 0) return "an amount is positive";
  if (!parse_currency(order.currency)) return "unknown currency \"" + order.currency + "\"";
  for (const auto* text : {&order.account, &order.method, &order.merchant, &order.card_token}) {
    if (text->size() > kLongestText) return "account, method, merchant, token: at most 255 bytes";
  }
  if (looks_like_card_number(order.card_token))
    return "the token looks like a card number: send that of a vault";
  return std::nullopt;
}

void FlowCore::pay(Order order, Reply reply) {
  if (auto why = refusal(order)) {
    refused_.fetch_add(1, std::memory_order_relaxed);
    return reply({.kind = AnswerKind::refused, .reason = std::move(*why)});
  }
  // Counted, then looked; close() shuts the door, then counts.
  const bool room = in_flight_.fetch_add(1) < options_.max_in_flight;
  if (!room || !accepting_.load()) {
    in_flight_.fetch_sub(1);
    busy_.fetch_add(1, std::memory_order_relaxed);
    return reply({.kind = AnswerKind::busy, .reason = "too many payments in flight"});
  }
  auto f = std::make_shared<Flight>();
  f->order = std::move(order);
  f->reply = std::move(reply);
  f->began_ns = executor_.now_ns();
  gate_->post([weak = weak_from_this(), f] {
    if (const auto self = weak.lock()) self->admit(f);
  });
}

void FlowCore::start_upkeep() {
  started_ = true;
  accepting_.store(true);
  for (const auto& cancel : cancels_) {
    if (options_.deliver)
      later(executor_.now_ns(), [id = cancel.first](FlowCore& core) { core.try_cancel(id); });
  }
  upkeep();
}

void FlowCore::upkeep() {
  sweep_orphans();
  constexpr std::uint64_t kMarkNs = 60'000'000'000;
  if (executor_.now_ns() - marked_ns_ >= kMarkNs) maybe_mark(true);
  if (in_flight_.load() == 0) {
    for (auto& done : std::exchange(close_waiters_, {})) done();
  }
  constexpr Micros kDay = 86'400'000'000;
  static_cast<void>(tables_.prepare(day_of(now())));
  static_cast<void>(tables_.prepare(day_of(now() + kDay)));
  later(deadline_after(options_.upkeep_interval), [](FlowCore& core) { core.upkeep(); });
}

void FlowCore::close(std::function<void(Result<void>)> done) {
  accepting_.store(false);
  const auto finish = [this, done = std::move(done)] {
    auto ticket = write_mark();
    if (!ticket) return done(std::unexpected(ticket.error()));
    when_durable(*ticket, done);
  };
  if (flights_.empty() && in_flight_.load() == 0) return finish();
  close_waiters_.emplace_back(finish);
}

FlowStats FlowCore::stats() {
  FlowStats out = stats_;
  out.in_flight = in_flight_.load();
  out.cancels_open = cancels_.size();
  out.orphans = orphans_.size();
  out.busy = busy_.load();
  out.refused = refused_.load();
  return out;
}

// ---- the public face ---------------------------------------------------------------------------

PaymentFlow::PaymentFlow(std::shared_ptr<FlowCore> core) : core_(std::move(core)) {}

Result<std::unique_ptr<PaymentFlow>> PaymentFlow::open(Database& db, Executor& executor,
                                                       std::string_view outside, Acquirer& acquirer,
                                                       FlowOptions options) {
  JournalOptions j;
  j.env = options.journal_env;
  j.create = options.create_log;
  j.segment_bytes = options.log_segment_bytes;
  PAYMENTS_ASSIGN(txlog, Journal::open(outside, kTxlogName, j));
  j.segment_bytes = std::min<std::uint64_t>(j.segment_bytes, 1_MiB);  // seldom used
  PAYMENTS_ASSIGN(spool, Journal::open(outside, kSpoolName, j));
  PAYMENTS_ASSIGN(tables, PaymentTables::open(db, true));
  PAYMENTS_ASSIGN(marks, Table<MarkRow>::open(db, true));
  const auto core =
      std::make_shared<FlowCore>(db, executor, acquirer, std::move(options), std::move(tables),
                                 std::move(marks), std::move(txlog), std::move(spool));
  PAYMENTS_TRY(core->recover());
  executor.add_poller([weak = std::weak_ptr(core)] {
    const auto self = weak.lock();
    return self && self->poll();
  });
  core->gate().post([weak = std::weak_ptr(core)] {
    if (const auto self = weak.lock()) self->start_upkeep();
  });
  std::unique_ptr<PaymentFlow> flow(new PaymentFlow(core));
  // Accepting from here on: the caller's first payment must not find the door shut.
  executor.await([&](Executor::Task done) { core->gate().post(std::move(done)); });
  return flow;
}

PaymentFlow::~PaymentFlow() {
  core_->gate().close();
  // A task that was running may still use the database: let it end.
  Executor& executor = core_->executor();
  if (executor.threaded())
    executor.await([&](Executor::Task done) { executor.post(std::move(done)); });
}

void PaymentFlow::pay(Order order, Reply reply) { core_->pay(std::move(order), std::move(reply)); }

Answer PaymentFlow::pay(Order order) {
  const auto answer = std::make_shared<Answer>();
  answer->kind = AnswerKind::unknown;
  answer->reason = "the flow was stopped";
  core_->executor().await([&](const Executor::Task& done) {
    core_->pay(std::move(order), [answer, done](const Answer& a) {
      *answer = a;
      done();
    });
  });
  return *answer;
}

const Recovery& PaymentFlow::recovery() const noexcept { return core_->recovery(); }

Result<std::uint64_t> PaymentFlow::sweep(const std::function<bool(std::uint64_t)>& step) {
  PAYMENTS_ASSIGN(ids, core_->find_orphans(step));
  const auto closed = std::make_shared<Result<std::uint64_t>>(0);
  const bool ran = core_->executor().await([&](const Executor::Task& done) {
    core_->gate().post([core = core_, ids, closed, done] {
      core->sweep(ids, [closed, done](const Result<std::uint64_t>& n) {
        *closed = n;
        done();
      });
    });
  });
  if (!ran) return fail(Code::interrupted, "the executor was stopped");
  return *closed;
}

std::uint64_t PaymentFlow::drain(std::chrono::milliseconds limit) {
  const auto told = std::make_shared<bool>(false);
  core_->executor().await([&](const Executor::Task& done) {
    const auto once = [told, done] {
      if (!std::exchange(*told, true)) done();
    };
    core_->gate().post([core = core_, once, limit] {
      core->when_drained(once);
      core->executor().post_at(
          core->executor().now_ns() +
              static_cast<std::uint64_t>(std::chrono::nanoseconds(limit).count()),
          once);
    });
  });
  return stats().cancels_open;
}

std::vector<WaitInfo> PaymentFlow::waits() const { return core_->waits(); }

Result<void> PaymentFlow::close() {
  const auto answer = std::make_shared<Result<void>>();
  const bool ran = core_->executor().await([&](const Executor::Task& done) {
    core_->gate().post([core = core_, answer, done] {
      core->close([answer, done](const Result<void>& r) {
        *answer = r;
        done();
      });
    });
  });
  if (!ran) return fail(Code::interrupted, "the executor was stopped");
  return *answer;
}

FlowStats PaymentFlow::stats() {
  const auto out = std::make_shared<FlowStats>();
  core_->executor().await([&](const Executor::Task& done) {
    core_->gate().post([core = core_, out, done] {
      *out = core->stats();
      done();
    });
  });
  return *out;
}

}  // namespace kessai::payments
