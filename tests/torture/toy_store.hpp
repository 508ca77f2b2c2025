// SPDX-License-Identifier: Apache-2.0
// A multi-version store of a page of code that runs transactions interleaved at random and writes
// their history, correctly or with one rule broken: histories whose verdict is known.
#pragma once

#include <map>
#include <set>

#include "io/env.hpp"
#include "tools/torture/recorder.hpp"

namespace kessai::torture {

/// The rule that a toy store breaks.
enum class Broken {
  nothing,
  dirty_read,          ///< reads see what is not committed
  intermediate_read,   ///< a first write becomes visible before the second
  fractured_snapshot,  ///< each read of a snapshot sees the newest state
  first_updater,       ///< no write conflicts
  validation,          ///< serializable without validation
  ranges,              ///< validation forgets what range reads did not find
  stale_snapshot,      ///< begin takes an old snapshot
  half_applied,        ///< one row of a commit becomes visible late
  lost_commit,         ///< one row of a commit never shows up
  rolled_back_stays,   ///< writes undone by a savepoint are committed
  stale_read,          ///< a read of read_committed lags behind
  forgotten_own,       ///< a read misses the transaction's own write
};

struct ToyPlan {
  std::uint64_t seed = 1;
  Broken broken = Broken::nothing;
  bool s2pl = false;
  std::optional<Isolation> level;  ///< nothing: a mix
  unsigned transactions = 400;
  unsigned lanes = 6;
  Key keys = 9;
};

class ToyStore {
 public:
  explicit ToyStore(const ToyPlan& plan) : plan_(plan), random_(plan.seed) {
    const std::size_t n = plan.transactions + 16;
    for (unsigned i = 0; i <= plan.lanes; ++i) lanes_.push_back(std::make_unique<Room>(n, i));
  }

  History run() {
    std::vector<Session> sessions(plan_.lanes);
    for (unsigned i = 0; i < plan_.lanes; ++i) sessions[i].recorder.emplace(lanes_[i]->lane);
    unsigned begun = 0;
    for (std::size_t busy = 1; busy != 0;) {
      Session& s = sessions[random_.below(sessions.size())];
      ++now_;
      if (s.open) {
        step(s);
      } else if (begun < plan_.transactions) {
        ++begun;
        begin(s);
      }
      busy = begun < plan_.transactions ? 1 : 0;
      for (const Session& each : sessions) busy += each.open ? 1 : 0;
    }
    return finish();
  }

 private:
  struct Room {  // a lane and its memory
    Room(std::size_t n, unsigned number)
        : transactions(n),
          ops(n * 16 + 1024),
          rows(n * 64 + 16384),
          elements(n * 1024 + (2u << 19)) {
      lane.number = static_cast<std::uint8_t>(number);
      const auto size = [](const auto& v) { return static_cast<std::uint32_t>(v.size()); };
      lane.transactions.place(transactions.data(), size(transactions));
      lane.ops.place(ops.data(), size(ops));
      lane.rows.place(rows.data(), size(rows));
      lane.elements.place(elements.data(), size(elements));
    }
    Lane lane;
    std::vector<Transaction> transactions;
    std::vector<Op> ops;
    std::vector<Row> rows;
    std::vector<Element> elements;
  };
  using Value = std::optional<std::vector<Element>>;
  struct Stored {
    Lsn lsn;
    Value value;
  };
  struct Session {
    std::optional<Recorder> recorder;
    bool open = false;
    Transaction* txn = nullptr;
    unsigned steps = 0;
    std::vector<std::pair<Key, Value>> writes;
    std::vector<Key> read;  // for validation; with absent keys of ranges
    std::set<Key> locked;
    std::optional<std::pair<std::uint32_t, std::size_t>> savepoint;
  };

  Isolation level(const Transaction& t) const {
    return plan_.s2pl ? Isolation::serializable : t.level;
  }
  bool breaks(Broken b, unsigned one_in = 4) {
    return plan_.broken == b && random_.below(one_in) == 0;
  }

  void begin(Session& s) {
    Transaction t;
    t.level = plan_.level.value_or(Isolation{static_cast<std::uint8_t>(random_.below(3))});
    t.read_only = random_.below(5) == 0;
    t.relaxed = random_.below(2) == 0;
    t.begin_ns = now_;
    const Lsn visible = t.read_only && !plan_.s2pl ? durable_ : lsn_;
    t.floor = visible;
    t.snapshot = visible;
    if (breaks(Broken::stale_snapshot) && visible > 3) t.snapshot = visible - 1 - random_.below(3);
    if (plan_.s2pl) t.snapshot = 0;
    s.open = true;
    s.txn = &s.recorder->begin(t);
    s.steps = 1 + static_cast<unsigned>(random_.below(6));
    s.writes.clear();
    s.read.clear();
    s.locked.clear();
    s.savepoint.reset();
  }

  Value* own(Session& s, Key k) {
    for (auto w = s.writes.rbegin(); w != s.writes.rend(); ++w)
      if (w->first == k) return &w->second;
    return nullptr;
  }
  Stored at(Key k, Lsn lsn) {
    Stored out{0, {}};
    for (const Stored& v : store_[k])
      if (v.lsn <= lsn) out = v;
    return out;
  }

  // The answer to a read of one key; `lsn` 0 for own writes.
  Stored look(Session& s, Key k, Lsn lsn, bool own_too = true) {
    if (own_too && own(s, k) != nullptr && !breaks(Broken::forgotten_own, 16))
      return {0, *own(s, k)};
    if (plan_.broken == Broken::dirty_read && random_.below(8) == 0) {
      if (const auto d = dirty_.find(k); d != dirty_.end()) return {0, d->second};
    }
    if (breaks(Broken::fractured_snapshot)) lsn = lsn_;
    return at(k, lsn);
  }
  Lsn view(Session& s) {
    if (level(*s.txn) == Isolation::read_committed) {
      Lsn w = s.txn->read_only && !plan_.s2pl ? durable_ : lsn_;
      if (breaks(Broken::stale_read) && w > 3) w -= 2;
      return w;
    }
    return plan_.s2pl ? lsn_ : s.txn->snapshot;
  }
  Lsn floor(Session& s) { return s.txn->read_only && !plan_.s2pl ? durable_ : lsn_; }

  // Locks for an update, or ends the transaction.
  bool lock(Session& s, Key k) {
    for (const auto& [key, owner] : locks_)
      if (key == k && owner != &s) return abort(s), false;
    locks_[k] = &s;
    s.locked.insert(k);
    const auto& versions = store_[k];
    const bool newer = !versions.empty() && versions.back().lsn > s.txn->snapshot;
    if (newer && !plan_.s2pl && s.txn->level != Isolation::read_committed &&
        !breaks(Broken::first_updater, 1))
      return abort(s), false;
    if (plan_.s2pl && readers_of(k, s) && plan_.broken != Broken::validation)
      return abort(s), false;
    return true;
  }
  bool readers_of(Key k, Session& me) {
    for (const auto& [session, keys] : shared_)
      if (session != &me && keys.contains(k)) return true;
    return false;
  }
  // Shared lock of the S2PL build on a key.
  bool share(Session& s, Key k) {
    if (!plan_.s2pl) return true;
    const auto owner = locks_.find(k);
    if (owner != locks_.end() && owner->second != &s) return abort(s), false;
    shared_[&s].insert(k);
    return true;
  }

  void step(Session& s) {
    if (s.steps-- == 0) return end(s);
    const Key k = static_cast<Key>(random_.below(plan_.keys));
    const auto dice = random_.below(10);
    if (s.txn->read_only || dice < 3) return dice < 2 ? range(s) : read(s, k);
    if (dice == 3 && !s.savepoint) {
      s.savepoint = {s.recorder->savepoint(), s.writes.size()};
    } else if (dice == 4 && s.savepoint) {
      s.recorder->rollback_to(s.savepoint->first);
      if (!breaks(Broken::rolled_back_stays, 2)) s.writes.resize(s.savepoint->second);
    } else if (!is_list(k) && dice < 7) {
      blind(s, k);
    } else {
      append(s, k);
    }
  }

  void read(Session& s, Key k) {
    if (!share(s, k)) return;
    const Lsn w = view(s);
    record(s, Kind::read, k, look(s, k, w), w);
    s.read.push_back(k);
  }
  void record(Session& s, Kind kind, Key k, const Stored& saw, Lsn w) {
    s.recorder->read(kind, k,
                     {saw.value.has_value(), false,
                      saw.value ? std::span<const Element>(*saw.value) : std::span<const Element>{},
                      saw.value ? saw.lsn : 0},
                     plan_.s2pl ? 0 : w, floor(s));
  }
  void range(Session& s) {
    const Key from = static_cast<Key>(random_.below(plan_.keys));
    const Key to = from + 1 + static_cast<Key>(random_.below(plan_.keys - from));
    for (Key k = from; k < to; ++k)
      if (!share(s, k)) return;
    const Lsn w = view(s);
    std::vector<Row> rows;
    std::vector<Element> elements;
    for (Key k = from; k < to; ++k) {
      const Stored v = look(s, k, w);
      if (v.value) {
        rows.push_back({.key = k,
                        .first = static_cast<std::uint32_t>(elements.size()),
                        .count = static_cast<std::uint32_t>(v.value->size()),
                        .row = v.lsn});
        elements.insert(elements.end(), v.value->begin(), v.value->end());
      }
      if (v.value || plan_.broken != Broken::ranges) s.read.push_back(k);
    }
    s.recorder->range(from, to, rows, elements, plan_.s2pl ? 0 : w, plan_.s2pl ? 0 : w, floor(s));
  }
  void append(Session& s, Key k) {
    if (!lock(s, k)) return;
    // Locked: the current row, which a snapshot sees too or lock() had refused.
    const Stored now = look(s, k, lsn_);
    record(s, Kind::locked_read, k, now, lsn_);
    std::vector<Element> row = now.value && is_list(k) ? *now.value : std::vector<Element>{};
    row.push_back(s.recorder->next_element());
    s.recorder->write(k, row);
    s.read.push_back(k);
    s.writes.emplace_back(k, row);
    dirty_[k] = row;
    if (breaks(Broken::intermediate_read, 8)) apply(k, ++lsn_, row);
  }
  void blind(Session& s, Key k) {
    if (random_.below(4) == 0) return insert(s, k);
    if (!lock(s, k)) return;
    if (random_.below(3) == 0) {
      if (!look(s, k, lsn_).value) return;
      s.recorder->remove(k);
      s.writes.emplace_back(k, Value{});
      return;
    }
    const std::vector<Element> row{s.recorder->next_element()};
    s.recorder->write(k, row);
    s.writes.emplace_back(k, row);
    dirty_[k] = row;
  }
  // A row that is there is shown as it is now, whatever the snapshot (but for serializable).
  void insert(Session& s, Key k) {
    for (const auto& [key, owner] : locks_)
      if (key == k && owner != &s) return abort(s);
    const Stored now = look(s, k, lsn_);
    if (!now.value) {
      if (!lock(s, k)) return;
      record(s, Kind::locked_read, k, now, lsn_);
      const std::vector<Element> row{s.recorder->next_element()};
      s.recorder->write(k, row);
      s.read.push_back(k);
      s.writes.emplace_back(k, row);
      return;
    }
    if (level(*s.txn) == Isolation::serializable || s.txn->read_only) {
      if (!lock(s, k)) return;
    } else {
      locks_[k] = &s;
      s.locked.insert(k);
    }
    record(s, Kind::exists, k, now, lsn_);
    s.read.push_back(k);
  }
  void apply(Key k, Lsn lsn, const Value& value) { store_[k].push_back({lsn, value}); }

  void end(Session& s) {
    if (random_.below(10) == 0) return abort(s);
    if (level(*s.txn) == Isolation::serializable && !plan_.s2pl && !s.writes.empty() &&
        plan_.broken != Broken::validation) {
      for (const Key k : s.read)
        if (!store_[k].empty() && store_[k].back().lsn > s.txn->snapshot) return abort(s);
    }
    std::map<Key, Value> last;
    for (const auto& [k, value] : s.writes) last[k] = value;
    std::erase_if(last, [&](const auto& e) { return !e.second && !at(e.first, lsn_).value; });
    if (!last.empty()) {
      const Lsn lsn = lsn_ + 1;
      bool first = true;
      for (const auto& [k, value] : last) {
        if (!first && breaks(Broken::lost_commit, 2)) continue;
        if (!first && breaks(Broken::half_applied, 2)) {
          late_.push_back({k, {lsn, value}});
        } else {
          apply(k, lsn, value);
        }
        first = false;
      }
      lsn_ = lsn;
      s.txn->commit = lsn;
    }
    if (random_.below(3) == 0) apply_late();
    if (!s.txn->relaxed || last.empty()) durable_ = lsn_;
    release(s, Fate::committed);
  }
  void apply_late() {
    for (const auto& [k, v] : late_) {
      auto& all = store_[k];
      all.insert(std::ranges::find_if(all, [&](const Stored& o) { return o.lsn > v.lsn; }), v);
    }
    late_.clear();
  }
  void abort(Session& s) { release(s, Fate::aborted); }
  void release(Session& s, Fate fate) {
    for (const Key k : s.locked) {
      locks_.erase(k);
      dirty_.erase(k);
    }
    shared_.erase(&s);
    s.recorder->end(fate, true, ++now_);
    s.open = false;
  }

  History finish() {
    apply_late();
    Session last;
    last.recorder.emplace(lanes_.back()->lane);
    Transaction t;
    t.level = Isolation::serializable;
    t.begin_ns = ++now_;
    t.floor = lsn_;
    t.snapshot = plan_.s2pl ? 0 : lsn_;
    last.txn = &last.recorder->begin(t);
    const auto broken = std::exchange(plan_.broken, Broken::nothing);
    for (Key k = 0; k < plan_.keys; ++k) read(last, k);
    plan_.broken = broken;
    last.recorder->end(Fate::committed, true, ++now_);
    History h;
    h.s2pl = plan_.s2pl;
    h.keys = plan_.keys;
    for (const auto& room : lanes_) h.add(room->lane);
    return h;
  }

  ToyPlan plan_;
  io::SeededRandom random_;
  std::vector<std::unique_ptr<Room>> lanes_;
  std::map<Key, std::vector<Stored>> store_;
  std::map<Key, Value> dirty_;
  std::map<Key, Session*> locks_;
  std::map<Session*, std::set<Key>> shared_;
  std::vector<std::pair<Key, Stored>> late_;
  Lsn lsn_ = 0, durable_ = 0;
  std::uint64_t now_ = 1;
};

}  // namespace kessai::torture
