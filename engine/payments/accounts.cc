// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/accounts.hpp"

#include <algorithm>

#include "engine/payments/result.hpp"

namespace kessai::payments {
namespace {

std::unexpected<Error> refused(const char* what) { return fail(Code::invalid_argument, what); }

// The sum of now, not of a snapshot from before the lock was granted.
Result<void> sees_current(const Transaction& txn) {
  if (txn.isolation() != Isolation::snapshot) return {};
  return refused("accounts need a transaction that is read_committed or serializable");
}

// Shared: the sum may be added to. Exclusive: it stands still.
Result<void> lock_account(Transaction& txn, std::string_view account, LockMode mode) {
  PAYMENTS_TRY(sees_current(txn));
  return txn.lock_named(std::string("kessai.account/").append(account), mode);
}

Result<void> lock_two(Transaction& txn, std::string_view from, LockMode from_mode,
                      std::string_view to) {
  // In one order, so that transfers between the same two accounts do not deadlock.
  if (from < to) PAYMENTS_TRY(lock_account(txn, from, from_mode));
  PAYMENTS_TRY(lock_account(txn, to, LockMode::shared));
  return from < to ? Result<void>{} : lock_account(txn, from, from_mode);
}

Result<Milli> checked(std::optional<Milli> sum) {
  if (sum) return *sum;
  return refused("a sum of amounts does not fit into 64 bits of thousandths");
}

Result<Milli> minus(Milli a, Milli b) {
  Milli out = 0;
  return checked(__builtin_sub_overflow(a, b, &out) ? std::nullopt : std::optional(out));
}

std::unexpected<Error> other_currency(const Currency& has, const Currency& asked) {
  return fail(Code::invalid_argument, std::string("the account has events in another currency: ")
                                          .append(currency_code(has))
                                          .append(", and this one is in ")
                                          .append(currency_code(asked))
                                          .append("; book it on another account"));
}

Result<void> take(Balance& sums, const Currency& currency, Milli ledger, Milli held,
                  std::uint64_t rows) {
  if (sums.currency && *sums.currency != currency) return other_currency(*sums.currency, currency);
  sums.currency = currency;
  PAYMENTS_ASSIGN(l, checked(add(sums.ledger, ledger)));
  PAYMENTS_ASSIGN(h, checked(add(sums.held, held)));
  PAYMENTS_ASSIGN(available, minus(l, h));
  sums.ledger = l;
  sums.held = h;
  sums.available = available;
  sums.rows += rows;
  return {};
}

std::string encoded(Micros time) {
  Encoder e;
  e.put(time);
  return e.take();
}

DealRow row_of(const Deal& deal, EventKind kind, std::string_view account, std::string_view other) {
  return {.id = deal.id,
          .kind = kind,
          .account = std::string(account),
          .other = std::string(other),
          .currency = deal.currency,
          .amount = deal.amount,
          .last = 1,
          .create_date = deal.time};
}

AccountEventRow event_of(const DealRow& deal, std::string_view account, Milli ledger, Milli held) {
  return {.account = std::string(account),
          .booking_date = 0,
          .id = deal.id,
          .kind = deal.kind,
          .currency = deal.currency,
          .ledger = ledger,
          .held = held,
          .event_date = deal.create_date,
          .create_date = deal.create_date,
          .hold = {}};
}

}  // namespace

std::string_view event_kind_name(EventKind k) noexcept {
  switch (k) {
    case EventKind::payment:
      return "payment";
    case EventKind::refund:
      return "refund";
    case EventKind::adjustment:
      return "adjustment";
    case EventKind::transfer:
      return "transfer";
    case EventKind::hold:
      return "hold";
    case EventKind::capture:
      return "capture";
    case EventKind::release:
      return "release";
    case EventKind::entry:
      return "entry";
  }
  return "?";
}

Result<Accounts> Accounts::open(Database& db, bool create) {
  PAYMENTS_ASSIGN(events, Table<AccountEventRow>::open(db, create));
  PAYMENTS_ASSIGN(marks, Table<BalanceMarkRow>::open(db, create));
  PAYMENTS_ASSIGN(deals, Table<DealRow>::open(db, create));
  return Accounts(std::move(events), std::move(marks), std::move(deals));
}

// ---- sums --------------------------------------------------------------------------------------

Result<std::optional<BalanceMarkRow>> Accounts::last_mark(Transaction& txn,
                                                          std::string_view account,
                                                          ReadPlan* plan) const {
  auto c = marks_.group(txn, account, {}, true, plan);
  if (c.next()) return c.row();
  PAYMENTS_TRY(c.status());
  return std::nullopt;
}

Result<Balance> Accounts::balance(Transaction& txn, std::string_view account,
                                  ReadPlan* plan) const {
  Balance sums;
  PAYMENTS_ASSIGN(mark, last_mark(txn, account, plan));
  std::string from;
  if (mark) {
    PAYMENTS_TRY(take(sums, mark->currency, mark->ledger, mark->held, mark->rows));
    from = encoded(mark->upto + 1);
  }
  auto c = events_.group(txn, account, from, false, plan);
  while (c.next()) {
    const AccountEventRow& e = c.row();
    PAYMENTS_TRY(take(sums, e.currency, e.ledger, e.held, 1));
  }
  PAYMENTS_TRY(c.status());
  return sums;
}

Result<Balance> Accounts::all(Transaction& txn, ReadPlan* plan) const {
  Balance sums;
  auto c = events_.scan(txn, {}, plan);
  while (c.next()) {
    const AccountEventRow& e = c.row();
    PAYMENTS_TRY(take(sums, e.currency, e.ledger, e.held, 1));
  }
  PAYMENTS_TRY(c.status());
  return sums;
}

Result<BalanceMarkRow> Accounts::mark(Transaction& txn, std::string_view account,
                                      Micros now) const {
  PAYMENTS_TRY(lock_account(txn, account, LockMode::exclusive));
  PAYMENTS_ASSIGN(sums, balance(txn, account));
  auto last = events_.group(txn, account, {}, true);
  if (!last.next()) {
    PAYMENTS_TRY(last.status());
    return fail(Code::not_found, "the account has no events");
  }
  BalanceMarkRow row{.account = std::string(account),
                     .upto = last.row().booking_date,
                     .currency = sums.currency.value_or(kGbp),
                     .ledger = sums.ledger,
                     .held = sums.held,
                     .rows = sums.rows,
                     .create_date = now};
  PAYMENTS_ASSIGN(done, marks_.insert(txn, row));
  if (!done.inserted) return fail(Code::not_found, "no event since the newest mark");
  return row;
}

Result<void> Accounts::drop_marks(Database& db) {
  auto dropped = db.drop_tree(BalanceMarkRow::kTable.name);
  if (!dropped && dropped.error() == Code::tree_not_found) return {};
  return dropped;
}

// ---- events ------------------------------------------------------------------------------------

// An account's currency is that of its first event: one row, whatever the history. Where there is
// none yet, posters (who share the account's lock) meet at a lock of their own, and look again.
Result<void> Accounts::check_currency(Transaction& txn, const AccountEventRow& event,
                                      const std::optional<BalanceMarkRow>& mark) const {
  const auto first = [&]() -> Result<std::optional<Currency>> {
    auto c = events_.group(txn, event.account);
    if (c.next()) return c.row().currency;
    PAYMENTS_TRY(c.status());
    return std::nullopt;
  };
  std::optional<Currency> has;
  if (mark) has = mark->currency;
  for (const bool again : {false, true}) {
    if (has) break;
    if (again)
      PAYMENTS_TRY(txn.lock_named(std::string("kessai.account.first/").append(event.account)));
    PAYMENTS_ASSIGN(found, first());
    has = found;
  }
  if (has && *has != event.currency) return other_currency(*has, event.currency);
  return {};
}

// The caller holds the account's lock.
Result<void> Accounts::insert_event(Transaction& txn, AccountEventRow event) const {
  if (!storable(event.event_date)) return refused("EVENT_DATE is outside the years 1970 to 9999");
  PAYMENTS_ASSIGN(mark, last_mark(txn, event.account));
  PAYMENTS_TRY(check_currency(txn, event, mark));
  event.booking_date = event.event_date;
  if (mark) event.booking_date = std::max(event.booking_date, mark->upto + 1);
  PAYMENTS_ASSIGN(done, events_.insert(txn, event));
  if (!done.inserted)
    return fail(Code::key_exists, "the account has an event with this id at this time");
  return {};
}

Result<void> Accounts::post(Transaction& txn, AccountEventRow event) const {
  PAYMENTS_TRY(lock_account(txn, event.account, LockMode::shared));
  return insert_event(txn, std::move(event));
}

Result<bool> Accounts::insert_if_sum_at_most(Transaction& txn, AccountEventRow event,
                                             Milli limit) const {
  PAYMENTS_TRY(lock_account(txn, event.account, LockMode::exclusive));
  PAYMENTS_ASSIGN(sums, balance(txn, event.account));
  PAYMENTS_TRY(take(sums, event.currency, event.ledger, event.held, 1));
  if (sums.ledger > limit) return false;
  PAYMENTS_TRY(insert_event(txn, std::move(event)));
  return true;
}

namespace {

/// Runs `fn`; after an error that leaves the transaction open, nothing of it stays.
template <class Fn>
Result<Applied> all_or_nothing(Transaction& txn, Fn&& fn) {
  PAYMENTS_ASSIGN(before, txn.savepoint());
  auto done = fn();
  if (!done && txn.active()) PAYMENTS_TRY(txn.rollback_to(before));
  return done;
}

}  // namespace

// ---- deals -------------------------------------------------------------------------------------

// `done`: nobody did it yet. The accounts' locks are held: the answer stays true.
Result<Applied> Accounts::known(Transaction& txn, const DealRow& deal) const {
  PAYMENTS_ASSIGN(earlier, deals_.get(txn, deal));
  if (!earlier) return Applied::done;
  if (earlier->kind == deal.kind && earlier->account == deal.account &&
      earlier->other == deal.other && earlier->currency == deal.currency &&
      earlier->amount == deal.amount && earlier->last == deal.last) {
    return Applied::already_done;
  }
  return fail(Code::key_exists, "this deal id was used for another deal");
}

Result<Applied> Accounts::record(Transaction& txn, const DealRow& deal) const {
  PAYMENTS_ASSIGN(done, deals_.insert(txn, deal));
  // Only a deal of other accounts can have come between: those of these accounts are locked out.
  if (!done.inserted) return fail(Code::key_exists, "this deal id was used for another deal");
  return Applied::done;
}

Result<Applied> Accounts::transfer(Transaction& txn, const Deal& deal, std::string_view from,
                                   std::string_view to, std::optional<Milli> least) const {
  if (deal.amount <= 0) return refused("a transfer moves a positive amount");
  if (from == to) return refused("a transfer needs two accounts");
  // Exclusive also without a limit: two calls with one deal id meet here.
  PAYMENTS_TRY(lock_two(txn, from, LockMode::exclusive, to));
  const DealRow row = row_of(deal, EventKind::transfer, from, to);
  PAYMENTS_ASSIGN(state, known(txn, row));
  if (state != Applied::done) return state;
  if (least) {
    PAYMENTS_ASSIGN(sums, balance(txn, from));
    PAYMENTS_TRY(take(sums, deal.currency, 0, 0, 0));
    PAYMENTS_ASSIGN(left, minus(sums.available, deal.amount));
    if (left < *least) return Applied::refused;
  }
  return all_or_nothing(txn, [&]() -> Result<Applied> {
    PAYMENTS_TRY(record(txn, row));
    PAYMENTS_TRY(insert_event(txn, event_of(row, from, -deal.amount, 0)));
    PAYMENTS_TRY(insert_event(txn, event_of(row, to, deal.amount, 0)));
    return Applied::done;
  });
}

Result<Applied> Accounts::hold(Transaction& txn, const Deal& deal, std::string_view account,
                               std::optional<Milli> least) const {
  if (deal.amount <= 0) return refused("a hold is on a positive amount");
  PAYMENTS_TRY(lock_account(txn, account, LockMode::exclusive));
  const DealRow row = row_of(deal, EventKind::hold, account, {});
  PAYMENTS_ASSIGN(state, known(txn, row));
  if (state != Applied::done) return state;
  if (least) {
    PAYMENTS_ASSIGN(sums, balance(txn, account));
    PAYMENTS_TRY(take(sums, deal.currency, 0, 0, 0));
    PAYMENTS_ASSIGN(left, minus(sums.available, deal.amount));
    if (left < *least) return Applied::refused;
  }
  return all_or_nothing(txn, [&]() -> Result<Applied> {
    PAYMENTS_TRY(record(txn, row));
    PAYMENTS_TRY(insert_event(txn, event_of(row, account, 0, deal.amount)));
    return Applied::done;
  });
}

// What is still held by a hold: its events stand behind it on the account.
Result<Milli> Accounts::left_of(Transaction& txn, std::string_view account,
                                std::string_view hold_id, Currency currency) const {
  DealRow like;
  like.id = hold_id;
  PAYMENTS_ASSIGN(hold, deals_.get(txn, like));
  if (!hold || hold->kind != EventKind::hold) return Milli{0};
  if (hold->account != account) return refused("the hold is on another account");
  if (hold->currency != currency) return refused("the hold is in another currency");
  Milli left = hold->amount;
  // All of the account: a clock that jumped back may have dated a capture before its hold.
  auto c = events_.group(txn, account);
  while (c.next()) {
    const AccountEventRow& e = c.row();
    if (e.hold != hold_id) continue;
    PAYMENTS_ASSIGN(now, checked(add(left, e.held)));
    left = now;
  }
  PAYMENTS_TRY(c.status());
  return left;
}

Result<Applied> Accounts::settle_hold(Transaction& txn, const DealRow& deal) const {
  PAYMENTS_TRY(lock_account(txn, deal.account, LockMode::exclusive));
  PAYMENTS_ASSIGN(state, known(txn, deal));
  if (state != Applied::done) return state;
  PAYMENTS_ASSIGN(left, left_of(txn, deal.account, deal.other, deal.currency));
  const Milli freed = deal.last != 0 ? left : std::min(left, deal.amount);
  AccountEventRow event = event_of(deal, deal.account, -deal.amount, -freed);
  event.hold = deal.other;
  return all_or_nothing(txn, [&]() -> Result<Applied> {
    PAYMENTS_TRY(record(txn, deal));
    PAYMENTS_TRY(insert_event(txn, std::move(event)));
    return Applied::done;
  });
}

Result<Applied> Accounts::capture(Transaction& txn, const Deal& deal, std::string_view account,
                                  std::string_view hold_id, bool last) const {
  if (deal.amount <= 0) return refused("a capture books a positive amount");
  DealRow row = row_of(deal, EventKind::capture, account, hold_id);
  row.last = last ? 1 : 0;
  return settle_hold(txn, row);
}

Result<Applied> Accounts::release(Transaction& txn, const Deal& deal, std::string_view account,
                                  std::string_view hold_id) const {
  if (deal.amount != 0) return refused("a release books no amount");
  return settle_hold(txn, row_of(deal, EventKind::release, account, hold_id));
}

}  // namespace kessai::payments
