// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/worker.hpp"

#include <algorithm>

#include "io/sync.hpp"
#include "tools/torture/rows.hpp"

namespace kessai::torture {
namespace {

std::uint64_t now_ns() { return io::system_clock().now_ns(); }

void raise(std::atomic<Lsn>& newest, Lsn lsn) {
  Lsn was = newest.load();
  while (was < lsn && !newest.compare_exchange_weak(was, lsn)) {
  }
}

}  // namespace

Worker::Worker(Database& db, const Tree& tree, const Tree& markers, const Plan& plan, Board& board,
               unsigned incarnation, unsigned thread)
    : db_(db),
      tree_(tree),
      markers_(markers),
      plan_(plan),
      board_(board),
      incarnation_(incarnation),
      thread_(thread),
      recorder_(board.lane(incarnation, thread)),
      programs_(plan.seed * 1'000'003 + plan.history * 1009 + incarnation * 31 + thread),
      pauses_(programs_.next()) {}

void Worker::run(unsigned from, unsigned to) {
  for (unsigned epoch = from; epoch < to; ++epoch) {
    wait_for_others(epoch);
    for (unsigned i = 0; i < plan_.per_epoch && recorder_.room(); ++i) run_program(epoch);
    board_.epochs_done[thread_].store(epoch + 1);
  }
}

// Not more than an epoch ahead of the slowest.
void Worker::wait_for_others(unsigned epoch) const {
  for (unsigned turns = 0;; ++turns) {
    unsigned least = epoch;
    for (unsigned t = 0; t < plan_.threads; ++t)
      least = std::min(least, board_.epochs_done[t].load());
    if (least + 1 >= epoch) return;
    turns < 50 ? io::yield_thread() : nap(50'000);
  }
}

void Worker::run_program(unsigned epoch) {
  const std::uint64_t program = programs_.next();
  constexpr int kMostAttempts = 3;
  for (int i = 0; i < kMostAttempts && recorder_.room() && attempt(program, epoch); ++i) {
  }
}

void Worker::dawdle() {
  if (pauses_.below(16) >= plan_.yields_of_16) return;
  if (pauses_.below(64) == 0) {
    nap(pauses_.below(300'000));
    return;
  }
  for (auto n = 1 + pauses_.below(3); n != 0; --n) io::yield_thread();
}

Lsn Worker::floor() const {
  return (options_.read_only && !plan_.s2pl ? board_.durable : board_.answered).load();
}

Transaction Worker::begun(const BeginOptions& o) {
  options_ = o;
  wrote_ = retryable_ = false;
  savepoint_.reset();
  Transaction t;
  t.level = o.isolation;
  t.read_only = o.read_only;
  t.relaxed = o.durability == Durability::relaxed;
  t.floor = floor();
  t.begin_ns = now_ns();
  return t;
}

void Worker::begin(const BeginOptions& o) {
  Transaction t = begun(o);
  auto txn = db_.begin(o);
  if (!txn) {
    board_.complain("error", "begin: " + txn.error().message());
    txn_.reset();
    return;
  }
  txn_.emplace(std::move(*txn));
  recorder_.begin(t);
  recorder_.sees(txn_->snapshot());
}

bool Worker::attempt(std::uint64_t program, unsigned epoch) {
  io::SeededRandom r(program);
  if (r.below(12) == 0) {
    one_call(r, epoch);
    return false;
  }
  BeginOptions o;
  o.isolation = plan_.level.value_or(Isolation{static_cast<std::uint8_t>(r.below(3))});
  const auto dice = r.below(24);
  flavor_ = dice == 0 ? Flavor::long_read : dice < 5 ? Flavor::read : Flavor::update;
  o.read_only = flavor_ != Flavor::update && r.below(3) != 0;
  o.durability = r.below(16) < plan_.relaxed_of_16 ? Durability::relaxed : Durability::durable;
  o.locking = r.below(5) == 0 ? Locking::at_commit : Locking::at_call;
  begin(o);
  if (!txn_) return false;
  for (auto steps = 1 + r.below(flavor_ == Flavor::long_read ? 60 : 6); steps != 0; --steps) {
    dawdle();
    // A long reader is long in time, too: versions must be kept for it.
    if (flavor_ == Flavor::long_read && pauses_.below(8) == 0) nap(pauses_.below(2'000'000));
    if (!recorder_.room_in_transaction()) break;
    if (!step(r, epoch)) return retryable_;
    recorder_.sees(txn_->snapshot());
  }
  dawdle();
  finish(r);
  board_.progress.fetch_add(1, std::memory_order_relaxed);
  return retryable_;
}

// Half of the time one of the first keys of the epoch: they are hot.
Key Worker::draw_key(io::SeededRandom& r, unsigned epoch) const {
  const Key slots = plan_.slots;
  const Key few = r.below(2) == 0 ? slots : std::min(slots, 4u);
  return slots * epoch + static_cast<Key>(r.below(few));
}

bool Worker::step(io::SeededRandom& r, unsigned epoch) {
  if (flavor_ == Flavor::long_read && epoch != 0 && r.below(2) == 0) --epoch;
  const Key key = draw_key(r, epoch);
  const auto dice = r.below(32);
  if (dice < 2) {
    const Key base = plan_.slots * epoch;
    const Key from = static_cast<Key>(r.below(plan_.slots));
    const Key to = from + 1 + static_cast<Key>(r.below(plan_.slots - from));
    return range(base + from, base + to, r.below(2) == 0, r.below(3) == 0 ? 1 + r.below(4) : 1000);
  }
  if (flavor_ != Flavor::update || dice < 10) return read(key);
  if (dice < 12) return use_savepoint(r);
  if (dice == 12) return lock_some(r, epoch);
  return is_list(key) ? change_list(r, key) : change_register(r, key);
}

bool Worker::lock_some(io::SeededRandom& r, unsigned epoch) {
  Key keys[3];
  std::string names[3];
  std::string_view views[3];
  for (int i = 0; i < 3; ++i) {
    keys[i] = draw_key(r, epoch);
    names[i] = name_of(keys[i]);
    views[i] = names[i];
  }
  auto locked = txn_->lock_many(tree_, views);
  if (!locked) return over(locked.error());
  for (const Key key : keys) {
    dawdle();
    bool found = false;
    if (!lock_and_read(key, found)) return false;
  }
  return true;
}

// A list must not lose an update, so at read_committed it is locked before it is read.
bool Worker::change_list(io::SeededRandom& r, Key key) {
  const bool plain = options_.isolation != Isolation::read_committed || plan_.s2pl;
  switch (r.below(plain ? 4 : 2)) {
    case 0:
      return update(key);
    case 1: {
      bool found = false;
      if (!lock_and_read(key, found)) return false;
      dawdle();
      return found || r.below(2) == 0 ? put(key) : insert(key);
    }
    default:
      if (!read(key)) return false;
      dawdle();
      return seen_.empty() && r.below(2) == 0 ? insert(key) : put(key);
  }
}

bool Worker::change_register(io::SeededRandom& r, Key key) {
  bool found = false;
  switch (r.below(6)) {
    case 0:
      return put(key);
    case 1:
      return insert(key);
    case 2:
      return remove(key);
    case 3:
      return lock_and_read(key, found) && put(key);
    case 4:
      return update(key);
    default:
      if (!read(key)) return false;
      dawdle();
      return put(key);
  }
}

bool Worker::use_savepoint(io::SeededRandom& r) {
  if (!savepoint_) {
    auto s = txn_->savepoint();
    if (!s) return over(s.error());
    savepoint_ = {*s, recorder_.savepoint()};
  } else if (r.below(3) != 0) {
    auto done = txn_->rollback_to(savepoint_->first);
    if (!done) return over(done.error());
    recorder_.rollback_to(savepoint_->second);
  }
  return true;
}

// ---- calls -------------------------------------------------------------------------------------

std::string Worker::name_of(Key key) const { return row_key(plan_.history, key); }

Answer Worker::decode(bool found, Key key, std::string_view row, Lsn lsn) {
  seen_.clear();
  const bool good = !found || decode_row(plan_.history, key, row, seen_);
  return {found, !good, seen_, lsn};
}

bool Worker::read(Key key) {
  const Lsn least = floor();
  auto r = txn_->get(tree_, name_of(key), value_);
  if (!r && r.error() != Code::not_found) return over(r.error());
  recorder_.read(Kind::read, key, decode(r.has_value(), key, value_, r.value_or(0)),
                 txn_->snapshot(), least);
  return true;
}

bool Worker::lock_and_read(Key key, bool& found) {
  const Lsn least = floor();
  auto r = txn_->get_for_update(tree_, name_of(key));
  if (!r && r.error() != Code::not_found) return over(r.error());
  found = r.has_value();
  recorder_.sees(txn_->snapshot());
  recorder_.read(Kind::locked_read, key, decode(found, key, found ? *r : "", 0), txn_->snapshot(),
                 least);
  return true;
}

bool Worker::walk(Cursor& c, Key from, Key to, std::size_t limit) {
  seen_.clear();
  rows_.clear();
  bool more = true;
  while (rows_.size() < limit && (more = c.next())) {
    Row row;
    row.row = c.lsn();
    row.first = static_cast<std::uint32_t>(seen_.size());
    const bool named = c.key().size() == 8 && get_big_endian(c.key(), 0) == plan_.history;
    row.key = named ? get_big_endian(c.key(), 4) : from;
    row.garbled = !named || row.key < from || row.key >= to ||
                  !decode_row(plan_.history, row.key, c.value(), seen_);
    row.count = static_cast<std::uint32_t>(seen_.size()) - row.first;
    rows_.push_back(row);
    if (pauses_.below(8) == 0) dawdle();
  }
  const bool reverse = rows_.size() > 1 && rows_[0].key > rows_[1].key;
  if (reverse) std::ranges::reverse(rows_);
  if (std::ranges::adjacent_find(rows_, std::greater_equal<>{}, &Row::key) != rows_.end())
    board_.complain("range-order", "a range read answered keys out of order");
  return !more;
}

bool Worker::range(Key from, Key to, bool reverse, std::size_t limit) {
  const Lsn least = floor();
  Cursor c = txn_->scan(tree_, {name_of(from), name_of(to), reverse});
  const Lsn at = txn_->snapshot();
  const bool more = !walk(c, from, to, limit);
  if (!c.status()) return over(c.status().error());
  if (more) (reverse ? from : to) = reverse ? rows_.front().key : rows_.back().key + 1;
  recorder_.range(from, to, rows_, seen_, at, txn_->snapshot(), least);
  return true;
}

// After a read or locked read of a list; a register takes any value.
void Worker::make_row(Key key) {
  next_.clear();
  if (is_list(key)) next_ = seen_;
  next_.push_back(recorder_.next_element());
  const std::uint32_t padding =
      plan_.long_rows && key % 7 == 0 ? 500 * (number_of(next_.back()) % 8) : 0;
  encode_row(plan_.history, key, next_, padding, row_);
}

bool Worker::put(Key key) {
  make_row(key);
  auto done = txn_->put(tree_, name_of(key), row_);
  if (!done) return over(done.error());
  recorder_.write(key, next_);
  wrote_ = true;
  return true;
}

// Of a list: only when it was seen to be absent.
bool Worker::insert(Key key) {
  const Lsn least = floor();
  if (is_list(key)) seen_.clear();
  make_row(key);
  value_.clear();
  auto done = txn_->insert(tree_, name_of(key), row_, &value_);
  if (!done && done.error() != Code::key_exists) return over(done.error());
  recorder_.sees(txn_->snapshot());
  if (!done) {
    recorder_.read(at_commit() ? Kind::read : Kind::exists, key, decode(true, key, value_, 0),
                   txn_->snapshot(), least);
    return true;
  }
  recorder_.read(at_commit() ? Kind::read : Kind::locked_read, key, {}, txn_->snapshot(), least);
  recorder_.write(key, next_);
  wrote_ = true;
  return true;
}

bool Worker::update(Key key) {
  const Lsn least = floor();
  auto done = txn_->update_if(tree_, name_of(key), [&](std::string_view current) {
    value_ = current;
    (void)decode(true, key, value_, 0);
    make_row(key);
    return std::optional<std::string>(row_);
  });
  if (!done && done.error() != Code::not_found) return over(done.error());
  recorder_.sees(txn_->snapshot());
  recorder_.read(Kind::locked_read, key, decode(done.has_value(), key, value_, 0), txn_->snapshot(),
                 least);
  if (!done) return insert(key);
  recorder_.write(key, next_);
  wrote_ = true;
  return true;
}

bool Worker::remove(Key key) {
  const Lsn least = floor();
  auto done = txn_->remove(tree_, name_of(key));
  if (!done && done.error() != Code::not_found) return over(done.error());
  recorder_.sees(txn_->snapshot());
  if (!done) {
    recorder_.read(at_commit() ? Kind::read : Kind::locked_read, key, {}, txn_->snapshot(), least);
    return true;
  }
  recorder_.remove(key, !at_commit());
  wrote_ = true;
  return true;
}

// ---- without a transaction ---------------------------------------------------------------------

void Worker::one_call(io::SeededRandom& r, unsigned epoch) {
  BeginOptions o;
  o.isolation = Isolation::read_committed;
  o.durability = r.below(16) < plan_.relaxed_of_16 ? Durability::relaxed : Durability::durable;
  const Key key = draw_key(r, epoch);
  // A commit of a history that is killed leaves a marker, which takes a transaction.
  o.read_only = plan_.markers || r.below(2) == 0;
  recorder_.begin(begun(o));
  o.read_only ? read_in_one_call(r, key) : write_in_one_call(r, key);
  board_.progress.fetch_add(1, std::memory_order_relaxed);
}

// Which moment it saw is not told: any from the newest durable commit on.
void Worker::read_in_one_call(io::SeededRandom& r, Key key) {
  constexpr Lsn kAnyTime = ~Lsn{0};
  const Lsn least = floor();
  const auto record = [&](Key of, bool found, std::string_view row, Lsn lsn) {
    const Answer a = decode(found, of, row, lsn);
    rows_.clear();
    if (found)
      rows_.push_back({.key = of,
                       .count = static_cast<std::uint32_t>(seen_.size()),
                       .garbled = a.garbled,
                       .row = lsn});
    recorder_.range(of, of + 1, rows_, seen_, least, kAnyTime, least);
  };
  std::optional<Error> failed;
  const auto dice = r.below(3);
  if (dice == 0) {
    auto lsn = db_.get(tree_, name_of(key), value_);
    if (lsn || lsn.error() == Code::not_found)
      record(key, lsn.has_value(), value_, lsn.value_or(0));
    else
      failed = lsn.error();
  } else if (dice == 1) {
    Cursor c = db_.scan(tree_, {name_of(key), name_of(key + 4), r.below(2) == 0});
    (void)walk(c, key, key + 4, 1000);
    if (c.status())
      recorder_.range(key, std::min(key + 4, plan_.keys()), rows_, seen_, least, kAnyTime, least);
    else
      failed = c.status().error();
  } else {
    const std::string names[2] = {name_of(key), name_of(key + 1)};
    const std::string_view views[2] = {names[0], names[1]};
    Lookup found[2];
    if (auto done = db_.multi_get(tree_, views, found); !done) failed = done.error();
    for (Key i = 0; i < 2 && !failed && key + i < plan_.keys(); ++i) {
      if (!found[i].found && found[i].code != Code::not_found) failed = found[i].code;
      record(key + i, found[i].found, found[i].value, found[i].lsn);
    }
  }
  if (failed) complain_about(*failed);
  recorder_.end(failed ? Fate::aborted : Fate::committed, !failed, now_ns());
}

void Worker::write_in_one_call(io::SeededRandom& r, Key key) {
  const Lsn least = floor();
  Transaction& t = recorder_.open();
  seen_.clear();
  make_row(key);
  Result<Lsn> done = 0;
  const auto dice = is_list(key) ? 0 : r.below(3);
  if (dice == 0) {
    t.fate(Fate::committing);
    done = db_.insert(tree_, name_of(key), row_, options_.durability);
    if (done) recorder_.read(Kind::locked_read, key, {}, 0, least);
    if (done) recorder_.write(key, next_);
  } else if (dice == 1) {
    done = db_.put(tree_, name_of(key), row_, options_.durability);
    if (done) recorder_.write(key, next_);
  } else {
    done = db_.remove(tree_, name_of(key), options_.durability);
    if (done) recorder_.remove(key);
    if (!done && done.error() == Code::not_found)
      recorder_.read(Kind::locked_read, key, {}, 0, least);
  }
  const bool answered = done || done.error() == Code::key_exists || done.error() == Code::not_found;
  if (!answered) complain_about(done.error());
  t.commit = done.value_or(0);
  raise(board_.answered, t.commit);
  if (options_.durability == Durability::durable) raise(board_.durable, t.commit);
  recorder_.end(done ? Fate::committed : Fate::aborted, answered, now_ns());
}

// ---- ends --------------------------------------------------------------------------------------

void Worker::finish(io::SeededRandom& r) {
  if (r.below(12) == 0) return roll_back();
  if (wrote_ && plan_.markers) {
    const Transaction& t = recorder_.open();
    auto done = txn_->put(markers_, marker_key(plan_.history, t.lane, t.number), "");
    if (!done) {
      over(done.error());
      return;
    }
  }
  commit(r);
}

void Worker::commit(io::SeededRandom& r) {
  Transaction& t = recorder_.open();
  t.fate(Fate::committing);
  Result<Lsn> lsn = 0;
  if (r.below(2) == 0) {
    lsn = txn_->commit();
  } else if (auto ticket = txn_->commit_async(); !ticket) {
    lsn = std::unexpected(ticket.error());
  } else {
    lsn = t.commit = ticket->lsn();
    if (t.commit != 0) {
      raise(board_.answered, t.commit);
      t.fate(Fate::visible);
    }
    // Without writes the ticket stands for what was read (a relaxed begin does not change that).
    if (options_.durability == Durability::durable || t.commit == 0) {
      if (auto durable = ticket->wait(); !durable) lsn = std::unexpected(durable.error());
    }
  }
  if (!lsn) {
    over(lsn.error());
    return;
  }
  t.commit = *lsn;
  raise(board_.answered, t.commit);
  if (options_.durability == Durability::durable) raise(board_.durable, t.commit);
  recorder_.end(Fate::committed, true, now_ns());
  txn_.reset();
}

void Worker::roll_back() {
  auto done = txn_->rollback();
  if (!done) board_.complain("error", "rollback: " + done.error().message());
  recorder_.end(Fate::aborted, done.has_value(), now_ns());
  txn_.reset();
}

void Worker::complain_about(const Error& e) {
  switch (e.code()) {
    case Code::write_conflict:
    case Code::deadlock:
    case Code::snapshot_too_old:
    case Code::key_exists:  // from commit, under Locking::at_commit
      break;
    case Code::lock_timeout: {
      std::string text = "a lock did not come within the time limit: " + e.message();
      for (const LockInfo& lock : db_.locks()) {
        if (lock.waiters.empty()) continue;
        text += "\n  now: " + std::to_string(lock.holders.size()) + " hold and " +
                std::to_string(lock.waiters.size()) + " wait for one";
      }
      board_.complain("stall", text);
      break;
    }
    default:
      board_.complain("error", e.message());
      break;
  }
}

bool Worker::over(const Error& e) {
  retryable_ = e.retryable();
  complain_about(e);
  // What was answered before the error must be durable too before the history may believe it.
  auto waited = txn_->rollback();
  recorder_.end(Fate::aborted, waited.has_value(), now_ns());
  txn_.reset();
  board_.progress.fetch_add(1, std::memory_order_relaxed);
  return false;
}

void Worker::read_everything(Key keys) {
  BeginOptions o;
  o.isolation = plan_.level.value_or(Isolation::serializable);
  begin(o);
  if (!txn_) return;
  for (Key from = 0; from < keys; from += plan_.slots)
    if (!range(from, from + plan_.slots, false, 1000)) return;
  io::SeededRandom r(1);
  commit(r);
}

}  // namespace kessai::torture
