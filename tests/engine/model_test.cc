// SPDX-License-Identifier: Apache-2.0
// Goal: whatever is called in whatever order, each answer is the one of a multi-version map keyed
// by commit LSN: reads at the transaction's snapshot merged with its own writes, write_conflict
// exactly when a newer version exists, locks exactly until the end, commits all or nothing over
// reopening and power loss (acknowledged ones always, relaxed ones as a prefix). Method: one thread
// drives random calls on the simulated disk, several transactions open at once, and asks the model
// what each call must answer. The same calls under other memory, log and undo options must leave
// the same trail.
//
// S2PL build: reads answer the current version, and the model keeps who has locked which keys and
// ranges (model_locks.hpp). Since all transactions are of one thread, a call answers self_deadlock
// exactly when the model says that another transaction is in its way; nothing else changes then.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "kessai/kessai.hpp"
#include "tests/engine/mode.hpp"
#include "tests/engine/model_locks.hpp"
#include "tests/engine/model_seed.hpp"

namespace kessai {
namespace {

using Rows = std::map<std::string, std::pair<std::string, Lsn>>;

/// One tree, all versions.
struct Versions {
  std::map<std::string, std::map<Lsn, std::optional<std::string>>> keys;

  /// The newest version at `w`: {0, nothing} when the key has none.
  [[nodiscard]] std::pair<Lsn, std::optional<std::string>> at(const std::string& key, Lsn w) const {
    const auto it = keys.find(key);
    if (it == keys.end()) return {0, std::nullopt};
    auto v = it->second.upper_bound(w);
    if (v == it->second.begin()) return {0, std::nullopt};
    --v;
    return {v->first, v->second};
  }
  [[nodiscard]] Rows rows(Lsn w) const {
    Rows out;
    for (const auto& [key, versions] : keys) {
      const auto [lsn, value] = at(key, w);
      if (value) out[key] = {*value, lsn};
    }
    return out;
  }
  void cut(Lsn last) {
    for (auto& [key, versions] : keys) versions.erase(versions.upper_bound(last), versions.end());
  }
};

constexpr unsigned kTrees = 2;
constexpr Lsn kNow = ~Lsn{0};

struct OpenTransaction {
  explicit OpenTransaction(Transaction t) : txn(std::move(t)) {}
  Transaction txn;
  Lsn w = kNow;       ///< what it sees; S2PL: the current state
  bool used = false;  ///< it read or wrote: what it sees is fixed
  bool read_only = false, relaxed = false, failed = false;
  struct Own {
    std::optional<std::string> value;
    bool had_row = false;
  };
  std::array<std::map<std::string, Own>, kTrees> own;
  std::array<engine_test::ModelLocks, kTrees> locks;
  /// It was rolled back at once; what is left is to say so.
  void fail() {
    failed = true;
    locks = {};
  }
  Lsn seen = 0;  ///< S2PL: what its answers showed; durable once it ended in order
};

struct Shape {
  std::uint64_t memory = 4_MiB, wal_limit = 8_MiB, undo_memory = 64_MiB;
  std::uint32_t block = 4096;
  bool relaxed = true;  ///< also relaxed commits, tickets and every crash outcome
};

class Walk {
 public:
  Walk(std::uint64_t seed, const Shape& shape)
      : shape_(shape), disk_(seed, shape.block), random_(seed) {
    for (unsigned i = 0; i < 60; ++i)
      universe_.push_back("k" + std::to_string(random_.below(1000)));
    for (unsigned i = 0; i < 30; ++i)
      universe_.push_back("prefix/" + std::string(random_.below(4), 'x') + std::to_string(i));
    for (const char* odd : {"", "p", "prefix", "prefix/", "\xff", "\xff\xff"})
      universe_.emplace_back(odd);
    universe_.emplace_back("a\0b", 3);
    universe_.emplace_back("a\0", 2);
    for (unsigned i = 0; i < 8; ++i)
      universe_.push_back(std::string(900 + 15 * i, static_cast<char>('a' + i)));
    universe_.push_back(std::string(kMaxKeyBytes, '\xfe'));
    options_.create = true;
    options_.memory = shape.memory;
    options_.wal_limit = shape.wal_limit;
    options_.undo_memory = shape.undo_memory;
    open();
  }

  void run(unsigned steps) {
    for (unsigned i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      SCOPED_TRACE("step " + std::to_string(i));
      step();
    }
    while (!open_.empty() && !testing::Test::HasFailure()) finish(0);
    reopen();
  }
  [[nodiscard]] const std::string& trail() const { return trail_; }
  [[nodiscard]] unsigned count(const std::string& what) { return counts_[what]; }

 private:
  // ---- the store and its life
  // --------------------------------------------------------------------

  void open() {
    directory_ = disk_.attach();
    env_ = {};
    env_.directory = directory_.get();
    env_.clock = &clock_;
    env_.background = false;
    options_.env = &env_;
    auto opened = Database::open("sim", options_);
    ASSERT_TRUE(opened.has_value()) << opened.error().message();
    db_.emplace(std::move(*opened));
    s2pl_ = engine_test::s2pl(*db_);
    trees_[0] = db_->tree("main").value();
    trees_[1] = db_->tree("second", {.create = true}).value();
  }

  void reopen() {
    ++counts_["reopen"];
    ASSERT_TRUE(db_->close().has_value());
    if (!open_.empty()) {
      EXPECT_EQ(open_[0].txn.get(trees_[0], "x").error(), Code::closed_handle);
      EXPECT_EQ(open_[0].txn.commit().error(), Code::closed_handle);
    }
    forget_handles();
    open();
    EXPECT_TRUE(db_->info().clean);
    acknowledged_ = last_commit_;  // closing makes everything durable
    compare_all();
  }

  void lose_power() {
    const auto outcome = shape_.relaxed
                             ? io::kCrashOutcomes[random_.below(io::kCrashOutcomes.size())]
                             : io::CrashOutcome::none;
    SCOPED_TRACE(std::string(io::outcome_name(outcome)));
    ++counts_["power loss"];
    io::SimDisk after = disk_.survivor(outcome, random_.next());
    disk_.crash();
    forget_handles();
    disk_ = after;
    open();
    if (testing::Test::HasFatalFailure()) return;
    // What is there now is the model at some commit not older than the last acknowledged one.
    const std::array<Rows, kTrees> found{stored(0).value(), stored(1).value()};
    const auto matches = [&](Lsn w) {
      return model_[0].rows(w) == found[0] && model_[1].rows(w) == found[1];
    };
    auto at = commits_.rbegin();
    while (at != commits_.rend() && *at >= acknowledged_ && !matches(*at)) ++at;
    const Lsn survived = at == commits_.rend() ? 0 : *at;
    ASSERT_TRUE(survived >= acknowledged_ && matches(survived))
        << "acknowledged up to " << acknowledged_ << ", committed up to " << last_commit_
        << difference(0, found[0], acknowledged_) << difference(1, found[1], acknowledged_);
    counts_["lost"] += static_cast<unsigned>(
        commits_.end() - std::upper_bound(commits_.begin(), commits_.end(), survived));
    for (auto& m : model_) m.cut(survived);
    commits_.erase(std::upper_bound(commits_.begin(), commits_.end(), survived), commits_.end());
    last_commit_ = acknowledged_ = survived;
    compare_all();
  }

  std::string difference(unsigned t, const Rows& found, Lsn w) {
    std::string out;
    const Rows expected = model_[t].rows(w);
    const auto tell = [&](const char* what, const Rows::value_type& row) {
      out += std::string("\ntree ") + std::to_string(t) + what + row.first.substr(0, 20) + " lsn " +
             std::to_string(row.second.second) + " " + row.second.first.substr(0, 12);
    };
    for (const auto& row : expected)
      if (const auto f = found.find(row.first); f == found.end() || f->second != row.second)
        tell(" expected ", row);
    for (const auto& row : found)
      if (const auto e = expected.find(row.first); e == expected.end() || e->second != row.second)
        tell(" found ", row);
    return out;
  }

  void forget_handles() {
    open_.clear();
    tickets_.clear();
    db_.reset();
    directory_.reset();
  }

  /// Nothing: S2PL, and a transaction has changed rows of the tree.
  std::optional<Rows> stored(unsigned t) {
    Rows out;
    auto c = db_->begin().value().scan(trees_[t], {});
    EXPECT_FALSE(c.next());  // its transaction was a temporary
    EXPECT_EQ(c.status().error(), Code::closed_handle);
    auto txn = db_->begin().value();
    auto all = txn.scan(trees_[t], {});
    while (all.next()) out[std::string(all.key())] = {std::string(all.value()), all.lsn()};
    const bool in_the_way = scan_blocked(nullptr, t, {});
    EXPECT_TRUE(in_the_way ? !all.status() && all.status().error() == Code::self_deadlock
                           : all.status().has_value());
    EXPECT_TRUE(txn.rollback().has_value());
    return in_the_way ? std::nullopt : std::optional(std::move(out));
  }

  void compare_all() {
    bool all = true;
    for (unsigned t = 0; t < kTrees; ++t) {
      const Rows expected = model_[t].rows(kNow);
      const auto found = stored(t);
      all = all && found;
      if (found) {
        EXPECT_EQ(difference(t, *found, kNow), "");
      }
      EXPECT_EQ(db_->tree_info(trees_[t]).value().records, expected.size());
      for (const auto& [key, row] : expected) note(key + "=" + row.first);
    }
    // The rollback of a transaction that read waits for what it saw.
    if (all) acknowledge(last_commit_);
    const auto report = db_->check();
    ASSERT_TRUE(report.has_value()) << report.error().message();
    for (const auto& d : report->damage) ADD_FAILURE() << d.page << " " << d.what;
    const Stats s = db_->stats();
    EXPECT_EQ(s.active_transactions,
              std::count_if(open_.begin(), open_.end(), [](const auto& o) { return !o.failed; }));
    std::size_t locks = 0;
    for (unsigned t = 0; t < kTrees; ++t) {
      std::set<std::string> records;  // shared ones count once
      for (const auto& o : open_) locks += o.locks[t].count(records);
      locks += records.size();
    }
    EXPECT_EQ(s.locks_held, locks);
  }

  // ---- the model's view
  // --------------------------------------------------------------------------

  void note(std::string_view text) {
    trail_ += text;
    trail_ += '\n';
  }
  /// Compares codes; `what` names the call in the trail.
  template <class T>
  bool answers(const char* what, const Result<T>& got, Code expected, bool ok) {
    note(std::string(what) + (ok ? " ok" : std::string(code_name(expected))));
    ++counts_[ok ? what : std::string(code_name(expected))];
    if (ok) {
      EXPECT_TRUE(got.has_value()) << what << ": " << got.error().message();
      return got.has_value();
    }
    EXPECT_FALSE(got.has_value()) << what << " must fail with " << code_name(expected);
    EXPECT_TRUE(got || got.error() == expected) << what << ": " << got.error().message();
    return false;
  }
  void acknowledge(Lsn lsn) { acknowledged_ = std::max(acknowledged_, lsn); }
  /// What a one-call read sees.
  [[nodiscard]] Lsn one_call_snapshot() const {
    if (s2pl_) return kNow;
    const Stats stats = db_->stats();
    return std::min(stats.applied_lsn, stats.durable_lsn);
  }
  /// Whether a transaction other than `me` keeps `me` (null: a one-call form) from writing.
  [[nodiscard]] bool write_blocked(const OpenTransaction* me, unsigned t,
                                   const std::string& key) const {
    return std::any_of(open_.begin(), open_.end(), [&](const OpenTransaction& o) {
      return &o != me && o.locks[t].blocks_write(key);
    });
  }
  [[nodiscard]] bool read_blocked(const OpenTransaction* me, unsigned t,
                                  const std::string& key) const {
    return s2pl_ && std::any_of(open_.begin(), open_.end(), [&](const OpenTransaction& o) {
             return &o != me && o.locks[t].blocks_read(key);
           });
  }
  [[nodiscard]] bool scan_blocked(const OpenTransaction* me, unsigned t, const Range& r) const {
    return s2pl_ && std::any_of(open_.begin(), open_.end(), [&](const OpenTransaction& o) {
             return &o != me && o.locks[t].blocks_scan(r);
           });
  }
  void commit_in_model(Lsn lsn, unsigned t, const std::string& key,
                       std::optional<std::string> value) {
    model_[t].keys[key][lsn] = std::move(value);
  }
  void committed(Lsn lsn) {
    EXPECT_GT(lsn, highest_lsn_);
    highest_lsn_ = last_commit_ = lsn;
    commits_.push_back(lsn);
  }

  // ---- steps
  // -------------------------------------------------------------------------------------

  unsigned pick_tree() { return static_cast<unsigned>(random_.below(8) == 0 ? 1 : 0); }
  const std::string& pick_key() { return universe_[random_.below(universe_.size())]; }
  std::string pick_value() {
    static constexpr std::array<std::size_t, 8> kSizes{0, 20, 60, 200, 500, 1100, 3000, 40000};
    const std::size_t most =
        random_.below(12) == 0 ? kSizes[random_.below(8)] : kSizes[random_.below(5)];
    std::string v(most == 0 ? 0 : random_.below(most) + 1,
                  static_cast<char>('a' + random_.below(26)));
    return v.replace(0, std::min<std::size_t>(v.size(), 8),
                     std::to_string(random_.below(100'000'000)).substr(0, v.size()));
  }
  Range pick_range() {
    Range r = random_.below(4) == 0
                  ? Range::prefix(std::string(pick_key()).substr(0, 1 + random_.below(7)))
                  : Range{};
    if (r.from.empty()) {
      if (random_.below(2) == 0) r.from = pick_key();
      if (random_.below(2) == 0) r.to = pick_key();
    }
    r.reverse = random_.below(2) == 0;
    return r;
  }

  void step() {
    const auto dice = random_.below(1000);
    if (dice < 3) return reopen();
    if (dice < 7) return lose_power();
    if (dice < 12) return (void)answers("checkpoint", db_->checkpoint(), {}, true);
    if (dice < 14) return compare_all();
    if (dice < 16) return drop_second();
    if (dice < 250) return one_call();
    if (open_.empty() || (open_.size() < 5 && dice < 340)) return begin();
    const std::size_t which = random_.below(open_.size());
    if (dice < 430) return finish(which);
    if (dice < 450) return bulk(open_[which]);
    if (dice < 700) return write(open_[which]);
    if (dice < 900) return read(open_[which]);
    scan(&open_[which]);
  }

  void begin() {
    BeginOptions b;
    b.read_only = random_.below(5) == 0;
    b.durability =
        shape_.relaxed && random_.below(2) == 0 ? Durability::relaxed : Durability::durable;
    auto txn = db_->begin(b);
    ASSERT_TRUE(answers("begin", txn, {}, true));
    OpenTransaction o(std::move(*txn));
    o.read_only = b.read_only;
    o.relaxed = b.durability == Durability::relaxed;
    if (!s2pl_) o.w = o.txn.snapshot();
    if (s2pl_) {
      EXPECT_EQ(o.txn.snapshot(), 0u);
    } else if (o.read_only) {
      EXPECT_EQ(o.w, one_call_snapshot());
      EXPECT_GE(o.w, acknowledged_);
    } else {
      EXPECT_GE(o.w, last_commit_);
    }
    open_.push_back(std::move(o));
  }

  /// Rows that `o` (or a one-call read) sees in a range, in scan order; own writes have LSN 0.
  std::vector<std::pair<std::string, std::pair<std::string, Lsn>>> visible(const OpenTransaction* o,
                                                                           unsigned t,
                                                                           const Range& r) {
    Rows rows = model_[t].rows(o != nullptr ? o->w : one_call_snapshot());
    if (o != nullptr) {
      for (const auto& [key, own] : o->own[t]) {
        rows.erase(key);
        if (own.value) rows[key] = {*own.value, 0};
      }
    }
    std::vector<std::pair<std::string, std::pair<std::string, Lsn>>> out;
    for (auto& row : rows)
      if (row.first >= r.from && (!r.to || row.first < *r.to)) out.emplace_back(row);
    if (r.reverse) std::reverse(out.begin(), out.end());
    return out;
  }

  void scan(OpenTransaction* o) {
    const unsigned t = pick_tree();
    const Range r = pick_range();
    const auto expected = visible(o, t, r);
    if (o != nullptr) o->used = true;
    engine_test::ModelScan<Rows::mapped_type> walk(s2pl_ ? model_[t].rows(kNow) : Rows(), r);
    auto c = o != nullptr ? o->txn.scan(trees_[t], r) : db_->scan(trees_[t], r);
    if (o != nullptr && o->failed) {
      EXPECT_FALSE(c.next());
      EXPECT_EQ(c.status().error(), Code::closed_handle);
      return;
    }
    std::size_t n = 0;
    const std::size_t stop = random_.below(3) == 0 ? random_.below(20) : ~std::size_t{0};
    engine_test::ModelLocks one_call;
    bool blocked = false;
    const auto locks = [&] {  // what the next row, or the end, makes an S2PL scan lock
      const bool ended = n == expected.size();
      const auto wants = [&](const Range& stretch) {
        if (scan_blocked(o, t, stretch)) return false;
        (o != nullptr ? o->locks[t] : one_call).add_range(stretch);
        return true;
      };
      blocked = s2pl_ && !walk.reach(ended ? nullptr : &expected[n].first, wants);
      return !blocked;
    };
    for (; n < stop && locks() && c.next(); ++n) {
      ASSERT_LT(n, expected.size()) << "one row too many: " << c.key().substr(0, 40);
      ASSERT_EQ(c.key(), expected[n].first) << n;
      ASSERT_TRUE(c.value() == expected[n].second.first) << c.key().substr(0, 40);
      ASSERT_EQ(c.lsn(), expected[n].second.second) << c.key().substr(0, 40);
      if (o != nullptr) o->seen = std::max(o->seen, c.lsn());
      if (o == nullptr && s2pl_) acknowledge(c.lsn());
    }
    if (blocked) {
      ASSERT_FALSE(c.next());
      ASSERT_FALSE(c.status().has_value());
      ASSERT_EQ(c.status().error(), Code::self_deadlock) << c.status().error().message();
      note("scan blocked " + std::to_string(n));
      ++counts_["scan blocked"];
      return;
    }
    if (!c.status() && forgiven(o, c.status().error())) return;
    ASSERT_TRUE(c.status().has_value()) << c.status().error().message();
    ASSERT_TRUE(stop != ~std::size_t{0} || n == expected.size());
    note("scan " + std::to_string(n));
    ++counts_[r.reverse ? "scan reverse" : "scan"];
  }

  /// With little undo memory a snapshot may be given up: then it never answers again.
  bool forgiven(OpenTransaction* o, const Error& e) {
    if (o == nullptr || shape_.undo_memory >= 64_MiB || e != Code::snapshot_too_old) return false;
    o->fail();
    ++counts_["snapshot_too_old"];
    return true;
  }

  void read(OpenTransaction& o) {
    const unsigned t = pick_tree();
    const std::string key = pick_key();
    std::string value = "untouched";
    const auto got = o.txn.get(trees_[t], key, value);
    if (!got && !o.failed && forgiven(&o, got.error())) return;
    if (o.failed) return (void)answers("get", got, Code::closed_handle, false);
    o.used = true;
    Lsn lsn = 0;
    std::optional<std::string> expected;
    if (const auto own = o.own[t].find(key); own != o.own[t].end()) {
      expected = own->second.value;
    } else {
      if (read_blocked(&o, t, key)) return (void)answers("get", got, Code::self_deadlock, false);
      if (s2pl_) o.locks[t].share(key);
      std::tie(lsn, expected) = model_[t].at(key, o.w);
      o.seen = std::max(o.seen, lsn);
    }
    if (!answers("get", got, Code::not_found, expected.has_value())) return;
    EXPECT_TRUE(value == *expected) << key.substr(0, 40);
    EXPECT_EQ(*got, lsn);
    note(value);
  }

  /// A lock moves the snapshot of a transaction that has not looked at anything to now.
  void follow(OpenTransaction& o) {
    if (s2pl_ || !o.txn.active() || o.txn.snapshot() == o.w) return;
    EXPECT_FALSE(o.used);
    o.w = o.txn.snapshot();
    EXPECT_EQ(o.w, db_->stats().applied_lsn);
  }

  void write(OpenTransaction& o) { write(o, pick_tree(), pick_key(), random_.below(10)); }

  void write(OpenTransaction& o, unsigned t, const std::string& key, std::uint64_t kind) {
    const std::string value = pick_value();
    const Tree& tree = trees_[t];
    std::string existing;
    Result<void> got;
    Result<std::string> row = fail(Code::not_found);
    if (kind < 5)
      got = o.txn.put(tree, key, value);
    else if (kind < 7)
      got = o.txn.insert(tree, key, value, &existing);
    else if (kind < 9)
      got = o.txn.remove(tree, key);
    else
      row = o.txn.get_for_update(tree, key);
    const char* what = kind < 5   ? "put"
                       : kind < 7 ? "insert"
                       : kind < 9 ? "remove"
                                  : "get_for_update";
    if (kind >= 9 && !row) got = std::unexpected(row.error());
    if (!got && !o.failed && forgiven(&o, got.error())) return;
    if (o.failed) return (void)answers(what, got, Code::closed_handle, false);
    if (o.read_only) return (void)answers(what, got, Code::read_only, false);

    auto own = o.own[t].find(key);
    const auto [lsn, newest] = model_[t].at(key, kNow);
    std::optional<std::string> current = newest;
    if (own != o.own[t].end()) {
      current = own->second.value;
    } else {
      if (write_blocked(&o, t, key))  // and that is all: the transaction goes on
        return (void)answers(what, got, Code::self_deadlock, false);
      o.locks[t].own(key);
      follow(o);
      const bool inserts = kind >= 5 && kind < 7;
      if (lsn > o.w && !(inserts && newest)) {
        EXPECT_TRUE(o.used) << what << " of a transaction that has not looked at anything yet";
        o.fail();
        return (void)answers(what, got, Code::write_conflict, false);
      }
      o.used = true;
      if (inserts && newest) acknowledge(lsn);  // an error that carries a row is durable
      if (kind >= 9 || (kind >= 7 && !newest)) o.seen = std::max(o.seen, lsn);
    }
    const bool wants_absent = kind >= 5 && kind < 7, wants_present = kind >= 7;
    if (wants_absent && current) {
      answers(what, got, Code::key_exists, false);
      EXPECT_TRUE(existing == *current);
      return;
    }
    if (!answers(what, got, Code::not_found, !wants_present || current)) return;
    if (kind >= 9) {
      EXPECT_TRUE(*row == *current);
      return note(*row);
    }
    if (own == o.own[t].end())
      own = o.own[t].emplace(key, OpenTransaction::Own{{}, newest.has_value()}).first;
    own->second.value = kind < 7 ? std::optional(value) : std::nullopt;
  }

  /// Enough writes for a commit of several log records.
  void bulk(OpenTransaction& o) {
    for (const auto& key : universe_)
      if (!o.failed && random_.below(2) == 0) write(o, 0, key, random_.below(10) == 0 ? 7 : 0);
  }

  void finish(std::size_t which) {
    OpenTransaction o = std::move(open_[which]);
    open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(which));
    const auto how = random_.below(10);
    if (how == 0) return;  // destroyed: rolled back
    if (how < 3) {
      if (answers("rollback", o.txn.rollback(), {}, true) && s2pl_) acknowledge(o.seen);
      return;
    }
    bool writes = false;
    for (auto& own : o.own) {
      std::erase_if(own, [](const auto& w) { return !w.second.value && !w.second.had_row; });
      writes |= !own.empty();
    }
    Lsn lsn = 0;
    if (how < 6 && shape_.relaxed) {
      auto ticket = o.txn.commit_async();
      if (!ticket && !o.failed && forgiven(&o, ticket.error())) return;
      if (!answers("commit_async", ticket, Code::closed_handle, !o.failed)) return;
      lsn = ticket->lsn();
      if (how == 3) {
        while (!ticket->ready()) {
        }
        EXPECT_TRUE(ticket->wait().has_value());
        acknowledge(lsn == 0 && s2pl_ ? o.seen : lsn);
      }
      tickets_.push_back(*ticket);
    } else {
      const auto done = o.txn.commit();
      if (!done && !o.failed && forgiven(&o, done.error())) return;
      if (!answers("commit", done, Code::closed_handle, !o.failed)) return;
      lsn = *done;
      if (lsn == 0 && s2pl_) acknowledge(o.seen);
      if (!o.relaxed) acknowledge(lsn);
    }
    EXPECT_FALSE(o.txn.active());
    EXPECT_EQ(o.txn.get(trees_[0], "x").error(), Code::closed_handle);
    EXPECT_EQ(lsn != 0, writes);
    if (!writes) return;
    committed(lsn);
    for (unsigned t = 0; t < kTrees; ++t)
      for (auto& [key, own] : o.own[t]) commit_in_model(lsn, t, key, std::move(own.value));
    EXPECT_GE(db_->stats().applied_lsn, lsn);
  }

  void one_call() {
    const unsigned t = pick_tree();
    const std::string key = pick_key();
    const auto kind = random_.below(10);
    if (kind == 9) return scan(nullptr);
    if (kind >= 7) return look_up_many(t);
    if (kind >= 5) {
      std::string value;
      const auto [lsn, expected] = model_[t].at(key, one_call_snapshot());
      const auto got = db_->get(trees_[t], key, value);
      if (read_blocked(nullptr, t, key))
        return (void)answers("db.get", got, Code::self_deadlock, false);
      if (s2pl_) acknowledge(lsn);
      if (!answers("db.get", got, Code::not_found, expected.has_value())) return;
      EXPECT_TRUE(value == *expected);
      EXPECT_EQ(*got, lsn);
      return note(value);
    }
    const auto how =
        shape_.relaxed && random_.below(2) == 0 ? Durability::relaxed : Durability::durable;
    const std::string value = pick_value();
    const auto got = kind < 3    ? db_->put(trees_[t], key, value, how)
                     : kind == 3 ? db_->insert(trees_[t], key, value, how)
                                 : db_->remove(trees_[t], key, how);
    const char* what = kind < 3 ? "db.put" : kind == 3 ? "db.insert" : "db.remove";
    if (write_blocked(nullptr, t, key)) return (void)answers(what, got, Code::self_deadlock, false);
    const auto [lsn, newest] = model_[t].at(key, kNow);
    if (kind == 3 && newest) acknowledge(lsn);
    const bool ok = kind < 3 || (kind == 3) == !newest;
    if (!answers(what, got, kind == 3 ? Code::key_exists : Code::not_found, ok)) return;
    committed(*got);
    commit_in_model(*got, t, key, kind == 4 ? std::nullopt : std::optional(value));
    if (how == Durability::durable) acknowledge(*got);
  }

  void look_up_many(unsigned t) {
    std::vector<std::string> keys(random_.below(100));
    for (auto& k : keys)
      k = random_.below(10) == 0 ? "absent" + std::to_string(random_.below(100)) : pick_key();
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    std::vector<Lookup> out(keys.size() + random_.below(2));
    const Lsn w = one_call_snapshot();
    const bool blocked = std::any_of(keys.begin(), keys.end(),
                                     [&](const auto& k) { return read_blocked(nullptr, t, k); });
    const auto got = db_->multi_get(trees_[t], views, out);
    if (!answers("multi_get", got, Code::self_deadlock, !blocked)) return;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto [lsn, expected] = model_[t].at(keys[i], w);
      ASSERT_EQ(out[i].found, expected.has_value()) << keys[i].substr(0, 40);
      ASSERT_TRUE(out[i].value == expected.value_or("")) << keys[i].substr(0, 40);
      ASSERT_EQ(expected ? Code::not_found : out[i].code, Code::not_found);
      ASSERT_TRUE(!expected || out[i].lsn == lsn);
      if (s2pl_) acknowledge(lsn);
    }
  }

  void drop_second() {
    if (!open_.empty()) return;
    const auto id = trees_[1].id();
    if (!answers("drop_tree", db_->drop_tree("second"), {}, true)) return;
    EXPECT_EQ(db_->get(trees_[1], "k").error(), Code::tree_not_found);
    EXPECT_EQ(db_->put(trees_[1], "k", "v").error(), Code::tree_not_found);
    const auto again = db_->tree("second", {.create = true});
    ASSERT_TRUE(again.has_value());
    EXPECT_GT(again->id(), id);
    trees_[1] = *again;
    model_[1].keys.clear();
    acknowledge(last_commit_);  // both answers were durable
    // Nothing older than the drop can come back.
    commits_.assign(last_commit_ == 0 ? 0 : 1, last_commit_);
  }

  const Shape shape_;
  bool s2pl_ = false;
  io::SimDisk disk_;
  io::SeededRandom random_;
  std::unique_ptr<io::Directory> directory_;
  io::VirtualClock clock_;
  io::Env env_;
  Options options_;
  std::optional<Database> db_;
  std::array<Tree, kTrees> trees_;
  std::vector<std::string> universe_;

  std::array<Versions, kTrees> model_;
  std::vector<OpenTransaction> open_;
  std::vector<CommitTicket> tickets_;
  std::vector<Lsn> commits_;
  Lsn last_commit_ = 0, highest_lsn_ = 0, acknowledged_ = 0;
  std::string trail_;
  std::map<std::string, unsigned> counts_;
};

/// `n` seeds in a row, or KESSAI_SEED alone.
std::vector<std::uint64_t> seeds(std::uint64_t from, unsigned n) {
  std::vector<std::uint64_t> out;
  if (std::getenv("KESSAI_SEED") != nullptr) return {engine_test::seed()};
  for (unsigned i = 0; i < n; ++i) out.push_back(from + i);
  return out;
}

void drive(std::uint64_t from, unsigned n, const Shape& shape) {
  std::map<std::string, unsigned> sum;
  const char* must[] = {engine_test::kS2plBuild ? "scan blocked" : "write_conflict",
                        "self_deadlock",
                        "key_exists",
                        "not_found",
                        "scan",
                        "scan reverse",
                        "multi_get",
                        "reopen",
                        "power loss",
                        "commit",
                        "rollback",
                        "get_for_update"};
  for (const auto seed : seeds(from, n)) {
    SCOPED_TRACE("KESSAI_SEED=" + std::to_string(seed));
    Walk walk(seed, shape);
    walk.run(2500);
    if (testing::Test::HasFailure()) return;
    for (const char* what : must) sum[what] += walk.count(what);
    sum["lost"] += walk.count("lost");
  }
  // The walk went everywhere it was meant to go.
  if (std::getenv("KESSAI_SEED") != nullptr) return;
  for (const char* what : must) EXPECT_GT(sum[what], 0u) << what;
  EXPECT_TRUE(!shape.relaxed || sum["lost"] > 0);
}

TEST(EngineModel, AnswersAreThoseOfTheModel) { drive(1000, 6, {}); }

TEST(EngineModel, TinyPoolAndLog) { drive(2000, 4, {.memory = 1_MiB, .wal_limit = 512_KiB}); }

TEST(EngineModel, LittleUndoMemoryGivesUpSnapshotsButNeverLies) {
  if (engine_test::kS2plBuild) GTEST_SKIP() << "s2pl: keeps no before-images";
  drive(3000, 4, {.memory = 2_MiB, .undo_memory = 1});
}

TEST(EngineModel, SmallDeviceBlocks) { drive(4000, 2, {.block = 512}); }

// Memory, log size and block size decide how, never what.
TEST(EngineModel, OptionsDoNotChangeAnswers) {
  for (const auto seed : seeds(5000, 2)) {
    SCOPED_TRACE("KESSAI_SEED=" + std::to_string(seed));
    std::string first;
    for (const Shape& shape :
         {Shape{.relaxed = false}, Shape{.memory = 1_MiB, .relaxed = false},
          Shape{.wal_limit = 512_KiB, .relaxed = false},
          Shape{.memory = 32_MiB, .wal_limit = 256_MiB, .block = 512, .relaxed = false}}) {
      Walk walk(seed, shape);
      walk.run(1500);
      if (testing::Test::HasFailure()) return;
      if (first.empty()) first = walk.trail();
      EXPECT_TRUE(walk.trail() == first)
          << "memory " << shape.memory << " wal_limit " << shape.wal_limit;
    }
  }
}

}  // namespace
}  // namespace kessai
