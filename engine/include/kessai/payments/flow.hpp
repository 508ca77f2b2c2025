// SPDX-License-Identifier: Apache-2.0
/// @file
/// PaymentFlow: an authorisation that happens exactly once, whatever crashes, is sent again, or
/// times out. docs/payments-flow.md has the steps, the state table and the invariants.
///
///     auto flow = PaymentFlow::open(db, executor, "shop.txlog", acquirer);
///     (*flow)->pay({.id = "order-7", .amount = 42'500}, [](const Answer& a) { ... });
///
/// A payment is: admission, look-up of a finished result, insert of the request (the arbiter) and
/// the transaction, a record in the transaction log, the call outside, insert of the result.
///
/// Promises
///   * `success` was answered: exactly one authorisation is held, and the result row says so.
///   * `declined` or `failed` was answered: nothing was sent, or a cancel is durably registered (in
///     the store, or in the spool when the store cannot take it) and is delivered until it
///     succeeds, or becomes a dead letter with an alert.
///   * An equal request again answers the stored bytes once they are durable, without a call
///     outside; the same id with other contents answers `key_reused_mismatch`; one that is not
///     finished `unique_violation`.
///   * `busy` and `refused` leave no row.
///   * No store transaction, lock or snapshot is open, and no thread waits, while a call is
///   outside.
///   * The transaction log lives outside the store: a store that lost rows (a restored backup) is
///     vetoed by it before anything is accepted.
///
/// Threads: all methods from any thread. Replies come on the executor's thread (`busy` and
/// `refused` on the caller's); they must be short and must not call the waiting forms. Lifetime:
/// database, executor and acquirer must outlive the flow; destroying it forgets what is in flight,
/// as a crash would: the next open closes it. One flow per store, unless the leases are longer than
/// any deadline.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/database.hpp"
#include "kessai/executor.hpp"
#include "kessai/journal.hpp"
#include "kessai/payments/acquirer.hpp"
#include "kessai/payments/dates.hpp"
#include "kessai/payments/money.hpp"

namespace kessai::payments {

/// What the order system asks for.
struct Order {
  std::string id;    ///< ORIGINAL_REQUEST_ID: 1 to 255 bytes, any
  Milli amount = 0;  ///< positive
  std::string currency = "GBP";
  std::string account = {};
  std::string method = "card", merchant = {};
  std::string card_token = {};           ///< never a card number: those are refused
  std::optional<Day> payment_date = {};  ///< the order system's business day; today otherwise
  /// How long the caller waits; 0: FlowOptions::caller_patience.
  std::chrono::milliseconds patience{0};
};

enum class AnswerKind : std::uint8_t {
  success,
  declined,             ///< final: the acquirer said no
  failed,               ///< no money moves; a new id may try again
  unique_violation,     ///< accepted earlier and not finished: ask again later
  busy,                 ///< not accepted: try again
  key_reused_mismatch,  ///< the id was used for another request
  refused,              ///< the order itself is wrong
  /// Nothing could be registered anywhere, or the store could not be asked whether the id was paid
  /// earlier: ask again with the same id, after a restart or repair.
  unknown,
};
[[nodiscard]] std::string_view answer_name(AnswerKind k) noexcept;

struct Answer {
  AnswerKind kind = AnswerKind::failed;
  bool idempotent = false;  ///< found, not done now
  std::string bytes = {};   ///< what is stored of success, declined and failed; equal for ever
  std::string reason = {};  ///< for people, and "card_busy" of the stub
  std::chrono::microseconds age{};      ///< unique_violation: since it was accepted
  std::chrono::microseconds outside{};  ///< time spent in the acquirer's call
};
using Reply = std::function<void(const Answer&)>;

/// A person should look. Stored as a row of `alert` first, when the store takes it.
struct Alert {
  std::string subject, what, detail;
};

struct FlowOptions {
  std::size_t max_in_flight = 4096;                   ///< more are `busy`
  std::chrono::milliseconds caller_patience{10'000};  ///< when the caller gives up
  /// Kept back from it for the flushes after the call: the call must end before.
  std::chrono::milliseconds answer_margin{1'000};
  std::chrono::milliseconds least_call{500};  ///< with less time left no call is begun
  /// Open requests that nobody works on are closed after this; longer than caller_patience.
  std::chrono::milliseconds lease{60'000};
  std::chrono::milliseconds upkeep_interval{1'000};  ///< sweeping, spool, next day's partitions
  bool cancel_declined = false;                      ///< also cancel what was declined
  std::chrono::milliseconds cancel_timeout{10'000};
  std::chrono::milliseconds first_backoff{200}, longest_backoff{60'000};
  unsigned cancel_attempts = 20;  ///< failed ones; then a dead letter and an alert
  unsigned cancels_at_once = 64;
  /// How long an authorisation may be delayed on its way: until then `nothing_there` is not the
  /// end.
  std::chrono::milliseconds acquirer_window{60'000};
  std::uint64_t mark_every = 10'000;  ///< log records between marks, which bound recovery
  std::uint64_t log_segment_bytes = 8_MiB;
  /// Log and spool are kept so long: what a restored backup that is no older is told by them.
  std::chrono::hours keep_log{24 * 30};
  bool create_log = true;  ///< false: log and spool must be there (`store_missing`)
  bool deliver = true;     ///< false: cancels are registered and not delivered
  std::string acquirer_name = "acquirer";
  /// Step 4, when something must be gathered between request and transaction; called on the
  /// executor's thread, calls `done` later from any thread, in time for the call. Without it both
  /// rows are one commit.
  std::function<void(const Order&, std::function<void(Result<void>)> done)> gather = {};
  /// On the executor's thread, once the row is durable, or cannot become so.
  std::function<void(const Alert&)> on_alert = {};
  io::Env* journal_env = nullptr;  ///< tests: the disk of log and spool
};

/// What the start found and did (3.3 of the state table).
struct Recovery {
  std::uint64_t log_records = 0;       ///< walked, from the last mark
  std::uint64_t cancel_requested = 0;  ///< may have been sent: closed with a cancel
  std::uint64_t not_sent = 0;          ///< surely not sent: closed
  std::uint64_t vetoed = 0;            ///< logged, but the store lost the request
  std::uint64_t from_spool = 0;        ///< cancels taken over from the spool
  std::uint64_t log_lost = 0;          ///< successes without their log record
  std::uint64_t cancels_open = 0;      ///< to be delivered
};

struct FlowStats {
  std::uint64_t in_flight = 0, cancels_open = 0, orphans = 0;  ///< now
  std::uint64_t success = 0, declined = 0, failed = 0, unknown = 0, busy = 0, refused = 0;
  std::uint64_t idempotent = 0, unique_violation = 0, key_reused_mismatch = 0;
  std::uint64_t calls = 0, timeouts = 0, late_replies = 0;
  std::uint64_t spooled = 0, swept = 0, cancels_delivered = 0, cancel_tries = 0, dead_letters = 0;
  std::uint64_t row_inserts = 0, commits = 0;  ///< of payments
};

class FlowCore;

class PaymentFlow {
 public:
  /// Opens (or creates) the tables in `db` and the journals `txlog` and `spool` in the directory
  /// `outside`, recovers, and only then accepts. Errors: those of the store and of the journals;
  /// `damaged` when the store is older than the log reaches back.
  [[nodiscard]] static Result<std::unique_ptr<PaymentFlow>> open(Database& db, Executor& executor,
                                                                 std::string_view outside,
                                                                 Acquirer& acquirer,
                                                                 FlowOptions options = {});
  ~PaymentFlow();
  PaymentFlow(const PaymentFlow&) = delete;
  PaymentFlow& operator=(const PaymentFlow&) = delete;

  /// `reply` is called exactly once, unless the flow is destroyed first.
  void pay(Order order, Reply reply);
  /// The same, waiting.
  [[nodiscard]] Answer pay(Order order);

  [[nodiscard]] const Recovery& recovery() const noexcept;
  /// Closes requests older than the lease that nobody finished; scans the store for them, in short
  /// transactions of a few hundred rows. Answers how many. Several at once do no harm. `step` is
  /// called between the transactions, on the caller's thread, with the rows read so far; false
  /// stops with `interrupted`, before anything is closed.
  [[nodiscard]] Result<std::uint64_t> sweep(const std::function<bool(std::uint64_t)>& step = {});
  /// Waits until no cancel is open (dead letters are not), at most `limit`. Answers how many are.
  [[nodiscard]] std::uint64_t drain(std::chrono::milliseconds limit);
  /// Accepts nothing more, waits for what is in flight, writes a mark.
  [[nodiscard]] Result<void> close();
  [[nodiscard]] FlowStats stats();
  /// Database::waits(), and `txlog_flush`: flushes of the transaction log.
  [[nodiscard]] std::vector<WaitInfo> waits() const;

 private:
  explicit PaymentFlow(std::shared_ptr<FlowCore> core);
  std::shared_ptr<FlowCore> core_;
};

}  // namespace kessai::payments
