// SPDX-License-Identifier: Apache-2.0
// The inside of PaymentFlow: one state machine per payment, one per cancel, run by one executor.
//
// Everything here runs on the executor's thread ("the strand"), except where a method says so, so
// that nothing needs a lock. Callbacks of the store, the journals and the acquirer come from any
// thread and only post through the Gate, which the flow's destructor closes.
//
// Stages of a payment, and what a crash leaves (R request, T transaction, L log record, S result):
//
//   admitted    -                insert R (+T)      look_up, insert_request
//   requested   R, R T           gather, insert T   gather_and_insert
//   logging     R T              append             append_to_log
//   calling     R T L            the call outside   call_outside, on_reply
//   closing     R T L, R T L S   insert the result  write_result, lost_race, register_in_spool
//   answered    R T L S          -                  finish
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "engine/payments/outside_records.hpp"
#include "engine/payments/result.hpp"
#include "kessai/payments/flow.hpp"
#include "kessai/payments/tables.hpp"

namespace kessai::payments {

/// The way of callbacks onto the strand. Once closed nothing comes through, and close() returns
/// only when nobody is inside.
class Gate {
 public:
  explicit Gate(Executor& executor) : executor_(&executor) {}
  void post(Executor::Task task) {
    inside_.fetch_add(1);  // before the look at open_; close() stores, then looks here
    if (open_.load()) executor_->post(std::move(task));
    inside_.fetch_sub(1);
  }
  [[nodiscard]] bool open() const { return open_.load(); }
  void close() {
    open_.store(false);
    while (inside_.load() != 0) {
    }
  }

 private:
  Executor* executor_;
  std::atomic<bool> open_{true};
  std::atomic<int> inside_{0};
};

/// One payment on its way. Alive as long as a callback or a table of the core holds it.
struct Flight {
  Order order;
  RequestRow request;
  TransactionRow transaction;
  Reply reply;
  std::uint64_t began_ns = 0, call_until_ns = 0;  ///< monotonic
  std::uint64_t called_ns = 0;
  Journal::Position position = 0;  ///< of its log record; 0: none
  bool requested = false;          ///< the request row may be in the store
  bool gathered = false, called = false, replied = false;
  std::chrono::microseconds outside{};
};
using FlightPtr = std::shared_ptr<Flight>;

/// One cancel that is to be delivered.
struct PendingCancel {
  CancelRow row;
  bool stored = true;          ///< false: only in the spool, attempts cannot be recorded
  std::uint64_t since_ns = 0;  ///< known to this process; monotonic
  std::uint32_t tries = 0;     ///< number of the last attempt row
  unsigned failures = 0;       ///< in a row of tries; `nothing_there` is none
  unsigned absences = 0;       ///< `nothing_there`, in this process
  std::uint64_t call = 0;      ///< number of the call under way; 0: none
};

class FlowCore : public std::enable_shared_from_this<FlowCore> {
 public:
  FlowCore(Database& db, Executor& executor, Acquirer& acquirer, FlowOptions options,
           PaymentTables tables, Table<MarkRow> marks, Journal txlog, Journal spool);

  // flow.cc
  void pay(Order order, Reply reply);                                          ///< any thread
  [[nodiscard]] std::optional<std::string> refusal(const Order& order) const;  ///< any thread
  void start_upkeep();
  void upkeep();
  void close(std::function<void(Result<void>)> done);
  [[nodiscard]] FlowStats stats();

  // recovery.cc; on the opening thread, before anything else runs
  [[nodiscard]] Result<void> recover();
  // sweep.cc; any thread
  [[nodiscard]] Result<std::vector<std::string>> find_orphans(
      const std::function<bool(std::uint64_t)>& step);
  // sweep.cc
  void sweep(const std::vector<std::string>& ids, std::function<void(Result<std::uint64_t>)> done);
  // cancels.cc
  void when_drained(Executor::Task done);

  [[nodiscard]] Executor& executor() noexcept { return executor_; }
  [[nodiscard]] Gate& gate() noexcept { return *gate_; }
  [[nodiscard]] const Recovery& recovery() const noexcept { return recovery_; }
  /// Progress of store and journals without threads.
  bool poll();
  [[nodiscard]] std::vector<WaitInfo> waits() const;  ///< any thread

 private:
  // flow.cc: small things that all parts use
  void later(std::uint64_t due_ns, std::function<void(FlowCore&)> fn);
  /// `fn` on the strand, from any thread, unless the flow is gone by then.
  template <class A, class Fn>
  auto on_strand(Fn fn) {
    return [gate = gate_, weak = weak_from_this(), fn = std::move(fn)](A a) {
      gate->post([weak, fn, a = std::move(a)] {
        if (const auto self = weak.lock()) fn(a);
      });
    };
  }
  [[nodiscard]] Micros now() const;
  [[nodiscard]] std::uint64_t deadline_after(std::chrono::nanoseconds t) const;
  /// Runs `body` in a transaction and commits it, trying again what is retryable.
  [[nodiscard]] Result<CommitTicket> transact(
      const std::function<Result<void>(Transaction&)>& body);
  void when_durable(const CommitTicket& ticket, std::function<void(Result<void>)> next);
  void raise(const Alert& alert);
  /// An append to log or spool failed: told once of each kind, until one goes well again.
  void journal_failed(const Journal& journal, const Error& why);
  [[nodiscard]] AlertRow alert_row(const Alert& alert) const;

  // steps.cc
  void admit(const FlightPtr& f);
  [[nodiscard]] Result<std::optional<Answer>> look_up(const RequestRow& request);
  void without_time(const FlightPtr& f);
  void insert_request(const FlightPtr& f);
  void met_earlier(const FlightPtr& f, const std::optional<RequestRow>& earlier);
  void gather_and_insert(const FlightPtr& f);
  [[nodiscard]] bool time_left(const Flight& f) const;  ///< for a call
  void append_to_log(const FlightPtr& f);
  void call_outside(const FlightPtr& f);
  void on_reply(const FlightPtr& f, const AuthReply& reply);
  void write_result(const FlightPtr& f, Status status, const std::string& auth_code,
                    const std::string& reason, bool cancel);
  void lost_race(const FlightPtr& f, const ResultRow& earlier);
  void register_in_spool(const FlightPtr& f, Status attempted, const Error& why);
  void not_sent(const FlightPtr& f, const Error& why);
  void finish(const FlightPtr& f, Answer answer);
  [[nodiscard]] ResultRow result_row(const RequestRow& request, Status status,
                                     const std::string& transaction, const std::string& auth_code,
                                     const std::string& reason) const;
  [[nodiscard]] CancelRow cancel_row(const TransactionRow& t, std::string reason) const;
  /// The answer that a stored result stands for; `cancelled`: a cancel was registered since.
  [[nodiscard]] static Answer answer_of(const ResultRow& row, bool cancelled);

  // marks.cc
  [[nodiscard]] Result<void> load_mark();
  [[nodiscard]] Result<CommitTicket> write_mark();
  void maybe_mark(bool now);
  /// A clock that jumped back may put rows before what the mark says: tell the mark first, durably.
  /// Without a mark (before the first one) everything is read anyway.
  [[nodiscard]] Result<void> cover(Micros create_date);
  /// Of log and spool, what is older than FlowOptions::keep_log.
  [[nodiscard]] Result<void> forget_old();

  // recovery.cc
  [[nodiscard]] Result<void> check_reach() const;
  [[nodiscard]] Result<void> recover_log();
  [[nodiscard]] Result<void> recover_sent(Journal::Position position, const SentRecord& record);
  [[nodiscard]] Result<bool> put_back(Transaction& txn, SentRecord& record);
  [[nodiscard]] Result<void> recover_requests();
  [[nodiscard]] Result<void> absorb_spool();
  [[nodiscard]] Result<void> load_cancels();
  [[nodiscard]] Result<void> settle();

  // sweep.cc
  using VisitRequest = std::function<Result<void>(Transaction&, const RequestRow&)>;
  /// Each request of the window once. `step`: between the transactions, with the rows so far.
  [[nodiscard]] Result<void> visit_requests(const Window& window, const VisitRequest& visit,
                                            const std::function<bool(std::uint64_t)>& step = {});
  [[nodiscard]] Result<bool> visit_some(Day day, const VisitRequest& visit, std::string& after,
                                        std::uint64_t& rows);
  [[nodiscard]] Result<bool> close_orphan(const std::string& id);
  void sweep_orphans();

  // cancels.cc
  void add_cancel(const CancelRow& row, bool stored, std::uint32_t tries = 0,
                  unsigned failures = 0);
  void try_cancel(const std::string& transaction);
  void on_cancel_reply(const std::string& transaction, std::uint64_t call, CancelReply reply);
  void record_attempt(const std::string& transaction, CancelOutcome outcome, bool dead,
                      std::string detail);
  void cancel_done(const std::string& transaction);
  void start_waiting_cancels();
  [[nodiscard]] std::chrono::nanoseconds backoff(unsigned tries) const;
  [[nodiscard]] std::chrono::nanoseconds pause_of(const PendingCancel& p) const;

  Database& db_;
  Executor& executor_;
  Acquirer& acquirer_;
  const FlowOptions options_;
  PaymentTables tables_;
  Table<MarkRow> marks_;
  Journal txlog_, spool_;
  std::shared_ptr<Gate> gate_;
  std::atomic<bool> accepting_{false};
  std::atomic<std::uint64_t> in_flight_{0};  ///< admitted, not answered
  std::atomic<std::uint64_t> busy_{0}, refused_{0};
  Recovery recovery_;

  // of the strand
  std::unordered_map<std::string, FlightPtr> flights_;  ///< by id
  /// Requests whose flow ended without a durable result; the sweeper's. Value: what it knows.
  struct Orphan {
    Micros create_date = 0;
    std::uint64_t since_ns = 0;
    bool ours = false;  ///< worked on by this flow: what it did not log was not sent
  };
  std::map<std::string, Orphan> orphans_;
  /// Log records without a durable result: position -> id, and back. The mark stops at the first.
  std::map<Journal::Position, std::string> unsettled_;
  std::unordered_map<std::string, Journal::Position> logged_;
  std::unordered_map<std::string, PendingCancel> cancels_;  ///< by TRANSACTION_ID
  std::deque<std::string> cancels_waiting_;                 ///< due, no slot free
  unsigned cancels_calling_ = 0;
  std::uint64_t call_serial_ = 0;
  Journal::Position absorbed_ = 1;  ///< spool records before it have a cancel row
  std::uint64_t marked_ns_ = 0;
  Journal::Position seen_next_ = 1;  ///< behind the last record that the strand knows of
  std::vector<Executor::Task> drain_waiters_, close_waiters_;
  std::unordered_set<std::string> walked_;  ///< TRANSACTION_IDs met by recovery in the log
  std::optional<MarkRow> mark_;             ///< the newest of this log in the store
  bool log_replaced_ = false, log_doubtful_ = false;
  bool started_ = false;  ///< the strand runs cancels and upkeep
  std::uint64_t appended_since_mark_ = 0;
  bool mark_under_way_ = false;
  Day floor_ = INT32_MAX;  ///< marks cover this day, whatever is open
  std::uint64_t mark_sequence_ = 0;
  struct OldMark {
    Micros date = 0;
    Journal::Position position = 1, spooled = 1;
  };
  std::deque<OldMark> old_marks_;      ///< oldest first; for keep_log
  std::string log_told_, spool_told_;  ///< the alert that was raised last; empty: it takes records
  std::unordered_map<std::string, CancelRow> spooled_;  ///< in the spool, not in the store
  CommitTicket last_ticket_;
  FlowStats stats_;
  /// Waits for commits, one after another, so that each flush begins at once and the strand goes
  /// on.
  std::optional<Executor> flusher_;
};

/// What the caller is told, byte for byte.
[[nodiscard]] std::string answer_bytes(Status status, Milli amount, const Currency& currency,
                                       std::string_view auth_code, std::string_view reason);
/// XXH3-128 of what must be equal when an order comes again.
[[nodiscard]] Fingerprint fingerprint_of(const Order& order);
/// 12 to 19 digits (blanks and dashes aside) that begin as card numbers do and pass Luhn's check.
[[nodiscard]] bool looks_like_card_number(std::string_view text) noexcept;

}  // namespace kessai::payments
