// SPDX-License-Identifier: Apache-2.0
/// @file
/// The tables of a payment service and their rows.
///
///   payment_request      daily          one row per request: who asked for what
///   payment_transaction  with request   what was sent to the acquirer (TRANSACTION_ID)
///   payment_result       with request   how it ended, at most one per request, for ever
///   cancel_topic         daily          cancels to deliver, at most one per TRANSACTION_ID
///   cancel_attempt       with cancel    one row per try to deliver it
///   dead_letter          with cancel    given up: at most one per TRANSACTION_ID
///   alert                daily          what a person must look at
///
/// A payment is three inserts of rows and one of its id (payment_request.ids). The rows of one
/// payment live in the partition of the day its request row was created, also when the result comes
/// after midnight; so uniqueness of the result needs no index of its own.
///
/// REQUEST_ID (as people see it: 16 hex digits) is the hash in front of ORIGINAL_REQUEST_ID in the
/// key. Times are UTC microseconds; CREATE_DATE is when the row was written (replay: when the
/// invoice says), and every table has UPDATE_DATE = CREATE_DATE (see table.hpp).
///
/// Card numbers never come here: CARD_TOKEN is the token of a vault.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "kessai/payments/dates.hpp"
#include "kessai/payments/money.hpp"
#include "kessai/payments/request.hpp"
#include "kessai/payments/table.hpp"

namespace kessai::payments {

constexpr Kind last_of(Kind) noexcept { return Kind::adjustment; }

/// PAYMENT_STATUS. `captured` is the SUCCESS of a payment; `refunded` and `adjusted` are what
/// imported cancellations and adjustments end as. The others mean: no money moves (once the cancel
/// is delivered, where one was requested).
enum class Status : std::uint8_t {
  captured = 0,
  refunded = 1,
  adjusted = 2,
  declined = 3,
  failed_not_sent = 4,
  failed_cancel_requested = 5,
};
constexpr Status last_of(Status) noexcept { return Status::failed_cancel_requested; }
[[nodiscard]] std::string_view status_name(Status s) noexcept;
[[nodiscard]] constexpr bool moves_money(Status s) noexcept { return s <= Status::adjusted; }

struct RequestRow {
  static constexpr TableSpec kTable{.name = "payment_request", .partition = Partition::daily};
  std::string id = {};  ///< ORIGINAL_REQUEST_ID, 1 to 255 bytes
  Kind kind = Kind::payment;
  Currency currency = kGbp;
  Milli amount = 0;
  Micros request_date = 0;
  Day payment_date = 0;  ///< business day given by the order system
  Micros create_date = 0;
  std::uint32_t lines = 0;  ///< of the invoice; 0 when it came otherwise
  Fingerprint fingerprint{};
  std::string account = {};
  std::string method = {}, merchant = {}, card_token = {};
  Micros deadline = 0;  ///< when the caller gives up; 0: never

  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("ORIGINAL_REQUEST_ID", ColumnType::text, r.id);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
    f("KIND", ColumnType::name, r.kind);
    f("CURRENCY", ColumnType::currency, r.currency);
    f("AMOUNT", ColumnType::amount, r.amount);
    f("REQUEST_DATE", ColumnType::time, r.request_date);
    f("PAYMENT_DATE", ColumnType::day, r.payment_date);
    f("LINES", ColumnType::number, r.lines);
    f("FINGERPRINT", ColumnType::bytes, r.fingerprint);
    f("ACCOUNT", ColumnType::text, r.account);
    f("METHOD", ColumnType::text, r.method);
    f("MERCHANT", ColumnType::text, r.merchant);
    f("CARD_TOKEN", ColumnType::text, r.card_token);
    f("DEADLINE", ColumnType::time, r.deadline);
  }
};

struct TransactionRow {
  static constexpr TableSpec kTable{.name = "payment_transaction",
                                    .partition = Partition::with_parent,
                                    .parent = RequestRow::kTable.name};
  std::string id = {};       ///< TRANSACTION_ID, see transaction_id_of()
  std::string request = {};  ///< ORIGINAL_REQUEST_ID
  Currency currency = kGbp;
  Milli amount = 0;
  Micros transaction_date = 0;
  Micros create_date = 0;
  std::string acquirer = {}, acquirer_key = {};

  [[nodiscard]] std::string_view parent_id() const noexcept { return request; }
  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("TRANSACTION_ID", ColumnType::text, r.id);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
    f("ORIGINAL_REQUEST_ID", ColumnType::text, r.request);
    f("CURRENCY", ColumnType::currency, r.currency);
    f("AMOUNT", ColumnType::amount, r.amount);
    f("TRANSACTION_DATE", ColumnType::time, r.transaction_date);
    f("ACQUIRER", ColumnType::text, r.acquirer);
    f("ACQUIRER_KEY", ColumnType::text, r.acquirer_key);
  }
};

struct ResultRow {
  static constexpr TableSpec kTable{.name = "payment_result",
                                    .partition = Partition::with_parent,
                                    .parent = RequestRow::kTable.name};
  std::string request = {};  ///< ORIGINAL_REQUEST_ID
  Kind kind = Kind::payment;
  Status status = Status::captured;
  Currency currency = kGbp;
  Milli amount = 0;
  Day payment_date = 0;
  Micros create_date = 0;
  std::string transaction = {};  ///< TRANSACTION_ID; empty when none was made
  std::string auth_code = {};
  std::string answer = {};         ///< what the caller was told, byte for byte
  std::uint64_t log_position = 0;  ///< of its record in the transaction log; 0: none

  [[nodiscard]] std::string_view parent_id() const noexcept { return request; }
  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("ORIGINAL_REQUEST_ID", ColumnType::text, r.request);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
    f("KIND", ColumnType::name, r.kind);
    f("PAYMENT_STATUS", ColumnType::name, r.status);
    f("CURRENCY", ColumnType::currency, r.currency);
    f("AMOUNT", ColumnType::amount, r.amount);
    f("PAYMENT_DATE", ColumnType::day, r.payment_date);
    f("TRANSACTION_ID", ColumnType::text, r.transaction);
    f("AUTH_CODE", ColumnType::text, r.auth_code);
    f("ANSWER", ColumnType::bytes, r.answer);
    f("LOG_POSITION", ColumnType::number, r.log_position);
  }
};

/// What a row of the cancel topic asks for: `cancel` is to be delivered to the acquirer; `review`
/// is a difference that reconciliation found where cancelling would be a guess: the consumer turns
/// it into an alert and never calls out for it.
enum class CancelAction : std::uint8_t { cancel = 0, review = 1 };
constexpr CancelAction last_of(CancelAction) noexcept { return CancelAction::review; }

struct CancelRow {
  static constexpr TableSpec kTable{.name = "cancel_topic", .partition = Partition::daily};
  std::string transaction = {};  ///< TRANSACTION_ID (review: a name of the difference)
  CancelAction action = CancelAction::cancel;
  std::string request = {};  ///< ORIGINAL_REQUEST_ID
  std::string reason = {};   ///< "unknown_outcome", "declined", "spool", "recon_missing_there", ...
  std::string acquirer = {}, acquirer_key = {};
  Currency currency = kGbp;
  Milli amount = 0;
  Micros create_date = 0;

  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("TRANSACTION_ID", ColumnType::text, r.transaction);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
    f("ACTION", ColumnType::name, r.action);
    f("ORIGINAL_REQUEST_ID", ColumnType::text, r.request);
    f("REASON", ColumnType::text, r.reason);
    f("ACQUIRER", ColumnType::text, r.acquirer);
    f("ACQUIRER_KEY", ColumnType::text, r.acquirer_key);
    f("CURRENCY", ColumnType::currency, r.currency);
    f("AMOUNT", ColumnType::amount, r.amount);
  }
};

/// `delivered`: nothing is authorised outside any more.
enum class CancelOutcome : std::uint8_t { delivered = 0, failed = 1, unknown = 2 };
constexpr CancelOutcome last_of(CancelOutcome) noexcept { return CancelOutcome::unknown; }
[[nodiscard]] std::string_view cancel_outcome_name(CancelOutcome o) noexcept;

struct CancelAttemptRow {
  static constexpr TableSpec kTable{.name = "cancel_attempt",
                                    .partition = Partition::with_parent,
                                    .parent = CancelRow::kTable.name};
  std::string transaction = {};  ///< TRANSACTION_ID
  std::uint32_t attempt = 0;     ///< from 1
  CancelOutcome outcome = CancelOutcome::delivered;
  Micros next_date = 0;  ///< not delivered: when to try again
  std::string detail = {};
  Micros create_date = 0;

  [[nodiscard]] std::string_view parent_id() const noexcept { return transaction; }
  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("TRANSACTION_ID", ColumnType::text, r.transaction);
    f("ATTEMPT", ColumnType::number, r.attempt);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
    f("OUTCOME", ColumnType::name, r.outcome);
    f("NEXT_DATE", ColumnType::time, r.next_date);
    f("DETAIL", ColumnType::text, r.detail);
  }
};

struct DeadLetterRow {
  static constexpr TableSpec kTable{
      .name = "dead_letter", .partition = Partition::with_parent, .parent = CancelRow::kTable.name};
  std::string transaction = {};  ///< TRANSACTION_ID
  std::uint32_t attempts = 0;
  std::string reason = {};
  Micros create_date = 0;

  [[nodiscard]] std::string_view parent_id() const noexcept { return transaction; }
  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("TRANSACTION_ID", ColumnType::text, r.transaction);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
    f("ATTEMPTS", ColumnType::number, r.attempts);
    f("REASON", ColumnType::text, r.reason);
  }
};

struct AlertRow {
  static constexpr TableSpec kTable{.name = "alert", .partition = Partition::daily};
  std::string id = {};       ///< made of what it is about, so that raising it again changes nothing
  std::string subject = {};  ///< ORIGINAL_REQUEST_ID or TRANSACTION_ID
  std::string what = {};     ///< "dead_letter", "log_without_request", ...
  std::string detail = {};
  Micros create_date = 0;

  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("ALERT_ID", ColumnType::text, r.id);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
    f("SUBJECT", ColumnType::text, r.subject);
    f("WHAT", ColumnType::text, r.what);
    f("DETAIL", ColumnType::text, r.detail);
  }
};

/// "original id/attempt". Attempts count from 1.
[[nodiscard]] std::string transaction_id_of(std::string_view original_id, unsigned attempt = 1);

/// What to do with a day that holds something unfinished.
enum class Unfinished : std::uint8_t { refuse, drop };

/// All of them. Cheap to copy; any number of threads.
struct PaymentTables {
  Table<RequestRow> request;
  Table<TransactionRow> transaction;
  Table<ResultRow> result;
  Table<CancelRow> cancel;
  Table<CancelAttemptRow> cancel_attempt;
  Table<DeadLetterRow> dead_letter;
  Table<AlertRow> alert;

  /// Creating: also finishes drops of days that a crash interrupted. `tree_not_found` when not
  /// creating and the store holds no payments.
  [[nodiscard]] static Result<PaymentTables> open(Database& db, bool create);
  /// Creates the partitions of `day`, so that the first payment after midnight does not have to.
  [[nodiscard]] Result<void> prepare(Day day) const;
  /// Drops a day of payments, or of cancels, with all that lives with it. Refuses (`unfinished`
  /// names how many and the first) while a request of the day has no result, or a cancel is neither
  /// delivered nor a dead letter. Looking costs a read of the day's rows, the drop itself nothing
  /// that grows with them; `Unfinished::drop` does not look. For days that are over: a row that is
  /// inserted between the look and the drop is not seen.
  [[nodiscard]] Result<void> drop_payments(Database& db, Day day,
                                           Unfinished unfinished = Unfinished::refuse) const;
  [[nodiscard]] Result<void> drop_cancels(Database& db, Day day,
                                          Unfinished unfinished = Unfinished::refuse) const;

  /// How a cancel stands.
  struct CancelState {
    bool closed = false;  ///< delivered, or a dead letter
    std::uint32_t tries = 0;
    unsigned failures = 0;
  };
  [[nodiscard]] Result<CancelState> state_of(Transaction& txn, const CancelRow& cancel) const;
};

}  // namespace kessai::payments
