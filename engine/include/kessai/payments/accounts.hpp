// SPDX-License-Identifier: Apache-2.0
/// @file
/// Balances from history: there is no balance row, a balance is the sum of an account's events.
///
///   account_event  (account, BOOKING_DATE, event id) -> what it changes: LEDGER and HELD
///   balance_mark   (account, UPTO) -> the sums of all its events up to then; derivable
///   account_deal   deal id -> what was asked for, so that asking again changes nothing
///
/// Ledger balance = sum of LEDGER. Available balance = ledger - sum of HELD. A hold (authorisation)
/// holds an amount; a capture (clearing) of it books the real amount and lets go of what was held;
/// captures without a hold, partial, late or larger ones are all legal.
///
/// Keys start with a hash of the account: accounts scatter over the leaves, though they are often
/// numbered in sequence, and the events of one account stand together in booking order, so that a
/// sum visits that account's rows and no others.
///
/// Marks close the books: an event whose date is not after its account's newest mark is booked
/// right behind the mark, with its own date in EVENT_DATE. So a mark is true for ever, and balance
/// = newest mark + the events behind it. Without marks everything is summed; the answers are the
/// same.
///
/// Promises
///   * Everything is a row in the caller's transaction: nothing changes or is removed.
///   * insert_if_sum_at_most and the limits of transfer and hold judge the sum under a named lock
///   of
///     the account that lasts to the end of the transaction: of any number of threads none can
///     overdraw.
///   * transfer, hold, capture and release are idempotent by deal id; the two lines of a transfer
///     are in one commit and sum to zero, so that money is conserved at every snapshot.
///   * Sums are checked. An account has one currency, that of its first event: anything that would
///     book another one answers `invalid_argument`, after a look at one row.
/// Transactions must be read_committed or serializable (both builds: see BeginOptions): with the
/// snapshot level the sum would be one of the past, and the call answers `invalid_argument`. Run
/// them with run_transaction: conflicts and deadlocks are retryable.
/// Threads: any number. Uses the engine's public API only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kessai/payments/table.hpp"
#include "kessai/payments/tables.hpp"

namespace kessai::payments {

enum class EventKind : std::uint8_t {
  payment = 0,
  refund = 1,
  adjustment = 2,
  transfer = 3,
  hold = 4,
  capture = 5,
  release = 6,
  entry = 7,  ///< anything else of the application's
};
constexpr EventKind last_of(EventKind) noexcept { return EventKind::entry; }
[[nodiscard]] std::string_view event_kind_name(EventKind k) noexcept;

struct AccountEventRow {
  static constexpr TableSpec kTable{.name = "account_event"};
  std::string account = {};
  Micros booking_date = 0;  ///< set by post(): EVENT_DATE, or right behind the newest mark
  std::string id = {};
  EventKind kind = EventKind::entry;
  Currency currency = kGbp;
  Milli ledger = 0;       ///< change of the ledger balance
  Milli held = 0;         ///< change of what is held
  Micros event_date = 0;  ///< when it happened
  Micros create_date = 0;
  std::string hold = {};  ///< capture and release: the deal id of the hold

  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("ACCOUNT", ColumnType::text, r.account);
    f("BOOKING_DATE", ColumnType::time, r.booking_date);
    f("EVENT_ID", ColumnType::text, r.id);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
    f("KIND", ColumnType::name, r.kind);
    f("CURRENCY", ColumnType::currency, r.currency);
    f("LEDGER", ColumnType::amount, r.ledger);
    f("HELD", ColumnType::amount, r.held);
    f("EVENT_DATE", ColumnType::time, r.event_date);
    f("HOLD_ID", ColumnType::text, r.hold);
  }
};

struct BalanceMarkRow {
  static constexpr TableSpec kTable{.name = "balance_mark"};
  std::string account = {};
  Micros upto = 0;  ///< events booked up to then are in the sums
  Currency currency = kGbp;
  Milli ledger = 0, held = 0;
  std::uint64_t rows = 0;
  Micros create_date = 0;

  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("ACCOUNT", ColumnType::text, r.account);
    f("UPTO", ColumnType::time, r.upto);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
    f("CURRENCY", ColumnType::currency, r.currency);
    f("LEDGER", ColumnType::amount, r.ledger);
    f("HELD", ColumnType::amount, r.held);
    f("ROWS", ColumnType::number, r.rows);
  }
};

struct DealRow {
  static constexpr TableSpec kTable{.name = "account_deal"};
  std::string id = {};
  EventKind kind = EventKind::transfer;
  std::string account = {};
  std::string other = {};  ///< transfer: who gets it; capture, release: deal id of the hold
  Currency currency = kGbp;
  Milli amount = 0;
  std::uint8_t last = 1;  ///< capture: nothing more will be captured
  Micros create_date = 0;

  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("DEAL_ID", ColumnType::text, r.id);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
    f("KIND", ColumnType::name, r.kind);
    f("ACCOUNT", ColumnType::text, r.account);
    f("OTHER", ColumnType::text, r.other);
    f("CURRENCY", ColumnType::currency, r.currency);
    f("AMOUNT", ColumnType::amount, r.amount);
    f("LAST", ColumnType::number, r.last);
  }
};

struct Balance {
  Milli ledger = 0;
  Milli held = 0;
  Milli available = 0;                    ///< ledger - held
  std::uint64_t rows = 0;                 ///< events of the account
  std::optional<Currency> currency = {};  ///< nothing for an account without events
};

/// `already_done`: this deal was done before, with the same content. `refused`: the limit.
enum class Applied : std::uint8_t { done, already_done, refused };

/// What a deal is about. `time`: when it happened, and CREATE_DATE of its rows.
struct Deal {
  std::string id = {};
  Milli amount = 0;  ///< positive
  Micros time = 0;
  Currency currency = kGbp;
};

class Accounts {
 public:
  [[nodiscard]] static Result<Accounts> open(Database& db, bool create);

  /// Inserts an event. The id must be new to the account at that BOOKING_DATE (`key_exists`): let a
  /// row that is unique by id, such as a payment's, be inserted by the same transaction.
  [[nodiscard]] Result<void> post(Transaction& txn, AccountEventRow event) const;
  /// Inserts the event if the account's ledger sum with it is at most `limit`; true: inserted.
  [[nodiscard]] Result<bool> insert_if_sum_at_most(Transaction& txn, AccountEventRow event,
                                                   Milli limit) const;

  /// Moves an amount. `least`: refused when less than that would stay available to `from`.
  /// `key_exists`: the deal id is known with other content (so for all four).
  [[nodiscard]] Result<Applied> transfer(Transaction& txn, const Deal& deal, std::string_view from,
                                         std::string_view to,
                                         std::optional<Milli> least = {}) const;
  [[nodiscard]] Result<Applied> hold(Transaction& txn, const Deal& deal, std::string_view account,
                                     std::optional<Milli> least = {}) const;
  /// Books `deal.amount` out of the account and lets go of as much of the hold, or, `last`, of all
  /// that is left of it. A hold that is unknown, used up or released holds nothing: the amount is
  /// booked all the same.
  [[nodiscard]] Result<Applied> capture(Transaction& txn, const Deal& deal,
                                        std::string_view account, std::string_view hold_id,
                                        bool last = true) const;
  /// Lets go of what is left of a hold; the deal's amount must be 0.
  [[nodiscard]] Result<Applied> release(Transaction& txn, const Deal& deal,
                                        std::string_view account, std::string_view hold_id) const;

  /// The sums as `txn` sees them, of any level.
  [[nodiscard]] Result<Balance> balance(Transaction& txn, std::string_view account,
                                        ReadPlan* plan = nullptr) const;
  /// The sums over all accounts, from the events alone: what must equal what came in.
  [[nodiscard]] Result<Balance> all(Transaction& txn, ReadPlan* plan = nullptr) const;

  /// Closes the books of an account up to its last event. `not_found` without an event since the
  /// newest mark.
  [[nodiscard]] Result<BalanceMarkRow> mark(Transaction& txn, std::string_view account,
                                            Micros now) const;
  /// Forgets all marks; open the accounts again afterwards.
  [[nodiscard]] static Result<void> drop_marks(Database& db);

  [[nodiscard]] const Table<AccountEventRow>& events() const noexcept { return events_; }

 private:
  Accounts(Table<AccountEventRow> events, Table<BalanceMarkRow> marks, Table<DealRow> deals)
      : events_(std::move(events)), marks_(std::move(marks)), deals_(std::move(deals)) {}
  [[nodiscard]] Result<std::optional<BalanceMarkRow>> last_mark(Transaction& txn,
                                                                std::string_view account,
                                                                ReadPlan* plan = nullptr) const;
  [[nodiscard]] Result<void> check_currency(Transaction& txn, const AccountEventRow& event,
                                            const std::optional<BalanceMarkRow>& mark) const;
  [[nodiscard]] Result<void> insert_event(Transaction& txn, AccountEventRow event) const;
  [[nodiscard]] Result<Milli> left_of(Transaction& txn, std::string_view account,
                                      std::string_view hold_id, Currency currency) const;
  [[nodiscard]] Result<Applied> known(Transaction& txn, const DealRow& deal) const;
  [[nodiscard]] Result<Applied> record(Transaction& txn, const DealRow& deal) const;
  [[nodiscard]] Result<Applied> settle_hold(Transaction& txn, const DealRow& deal) const;

  Table<AccountEventRow> events_;
  Table<BalanceMarkRow> marks_;
  Table<DealRow> deals_;
};

}  // namespace kessai::payments
