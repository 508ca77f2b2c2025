// SPDX-License-Identifier: Apache-2.0
// The engine's crash harness: some 200 transactions through the public API, over three openings of
// one small store (64 page frames, 64 KiB log segments, a checkpoint each 16 KiB of log), with all
// upkeep stepped by the commits themselves. At every disk operation the power may fail with each
// outcome of the simulated disk; the real Database::open recovers; the power fails again inside
// that recovery. With `faults` one disk error happens in each opening; the process then dies, with
// or without the power, and the next opening goes on.
//
// Oracle. The states after each commit, in commit order, and how many commits the client may take
// for granted: told by a durable commit, a ticket, wait_durable, a read of one-call form (I7), or
// by an earlier recovery. What recovery finds must equal one of the states from there on, as a
// whole, trees included; check() must be clean; a second recovery must find the same; new commits
// must get higher LSNs, work, and survive a clean close. Crash states with equal images and
// equal client knowledge are recovered once.
//
// One state in eight has its newest superblock damaged on top: the one before must do, as long as
// the log reaches (I12).
//
// A commit that failed with any other error than unknown_outcome must be absent; one of unknown
// outcome may be there or not, and then stays so.
//
// The workload draws from one sequence, each crash from one of its own: a run that looks at one
// operation only (`only_op`) is the same run. Same plan, same trace_hash.
//
// Reads, opens and locks change nothing: a crash before one of them leaves what a crash before the
// next operation leaves. They are counted as crash points, not recovered again.
#pragma once

#include <algorithm>
#include <array>
#include <cstdio>
#include <deque>
#include <functional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "io/mutant.hpp"
#include "tools/torture/sim_store.hpp"

namespace kessai::crash {

/// What became of the faults of one kind; docs/torture-faults.md says what is promised.
struct FaultCount {
  std::uint64_t injected = 0;
  std::uint64_t detected = 0;  ///< refused, or answered as an error, or named by check()
  std::uint64_t harmless = 0;  ///< every answer stayed right, check() was clean
  std::uint64_t unproven = 0;  ///< log frames after the last hint: cut like a torn tail
};

struct CrashRun {
  std::uint64_t points = 0;    ///< I/O indices at which the power may have failed
  std::uint64_t outcomes = 0;  ///< crash states looked at
  std::uint64_t distinct = 0;  ///< of those, recovered (others had an equal image)
  std::uint64_t nested = 0;    ///< crashes inside a recovery
  std::uint64_t commits = 0, relaxed = 0, rollbacks = 0, created = 0, dropped = 0, long_values = 0,
                large = 0;
  std::uint64_t checkpoints = 0, evicted = 0, splits = 0, merges = 0, purged = 0;
  std::uint64_t log_frame_bytes = 0, log_file_bytes = 0;
  std::map<std::string, std::uint64_t> faults;  ///< what was done to the disk, how often
  std::map<std::string, FaultCount> media;      ///< media_run.hpp
  std::uint64_t small_histories = 0;            ///< small_run.hpp
  std::uint64_t trace_hash = 0;                 ///< of every disk operation of the workload
  std::uint64_t schedules = 0, switches = 0, preemptions = 0;  ///< schedule_run.hpp
  bool complete = false;                 ///< an exhaustive search has come to its end
  std::optional<std::string> violation;  ///< the first one found
  std::uint64_t violated_at = 0;         ///< the operation at which it was
};

struct CrashPlan {
  std::uint64_t seed = 1;
  int transactions = 200;
  std::uint64_t every = 1;    ///< crash at every n-th operation only (sanitizer builds)
  bool every_nested = false;  ///< crash at every operation of each recovery, not at a random one
                              ///< that writes
  bool faults = false;        ///< a disk error in each opening
  bool trees = true;          ///< trees come and go
  bool large = true;          ///< commits of several parts
  bool long_values = true;    ///< values of several pages
  std::uint64_t interrupt_odds = 0;  ///< checkpoint steps inside commits, one in so many; 0: never
  bool reader = true;                ///< a snapshot stays open
  std::uint64_t only_op = kEveryOp;  ///< look at the crashes of this operation alone
  std::function<bool()> go_on = {};  ///< asked at each operation; false: no more crashes

  static constexpr std::uint64_t kEveryOp = ~std::uint64_t{0};
};

class CrashHarness {
 public:
  explicit CrashHarness(const CrashPlan& plan)
      : plan_(plan),
        random_(plan.seed),
        crash_random_(plan.seed),
        interrupt_random_(plan.seed + 1),
        disk_(plan.seed) {}

  CrashRun run() {
    constexpr int kOpenings = 3;
    set_interrupts(true);
    for (int opening = 0; opening < kOpenings && good(); ++opening) {
      {
        Process p(disk_, random_.next());
        p.options.create = opening == 0;
        if (opening == 0) {
          start(p);
          watch();
        } else {
          reopen(p);
        }
        fired_before_ = disk_.faults_fired();
        if (plan_.faults && going()) plan_fault();
        for (int i = 0; i < plan_.transactions / kOpenings + 1 && going(); ++i) step(p);
        reader_.reset();
        if (going()) count(p);
        // The first opening ends in order, the second in the middle of something, the third in
        // order.
        if (going() && opening != 1 && must(p.close(), "close")) told(states_.size() - 1);
      }
      end_of_fault();
      const bool broke = std::exchange(broken_, false);
      if (opening == 1 || (broke && random_.below(2) == 0)) lose_power();
    }
    disk_.set_observer({});
    if (good()) look_at_last();
    set_interrupts(false);
    return std::move(run_);
  }

 private:
  [[nodiscard]] bool good() const { return !run_.violation; }
  /// Whether this opening goes on: nothing found, and no disk error that ended it.
  [[nodiscard]] bool going() const { return good() && !broken_; }
  void violate(const std::string& what) {
    if (!good()) return;
    run_.violated_at = op_;
    run_.violation = "seed " + std::to_string(plan_.seed) + " operation " + std::to_string(op_) +
                     ": " + what + (fault_.empty() ? "" : "\nlast disk error planned: " + fault_) +
                     "\nlast operations:" + trace();
  }
  template <class T>
  bool must(const Result<T>& r, const char* what) {
    if (r) return true;
    if (disk_failed(r.error()))
      broken_ = true;
    else
      violate(std::string(what) + ": " + r.error().message());
    return false;
  }
  /// For what was to make the newest state: a commit that failed by any other error than
  /// unknown_outcome did not happen.
  template <class T>
  bool must_commit(const Result<T>& r, const char* what) {
    if (must(r, what)) return true;
    if (r.error() != Code::unknown_outcome) forget_from(states_.size() - 1);
    return false;
  }
  /// Whether an error is what the disk error of this opening explains.
  [[nodiscard]] bool disk_failed(const Error& e) const {
    return excusing_ && disk_.faults_fired() > fired_before_ &&
           (e == Code::io_error || e == Code::disk_full || e == Code::poisoned ||
            e == Code::unknown_outcome);
  }
  /// Some operation of this opening fails.
  void plan_fault() {
    using What = io::Fault::What;
    using After = io::Fault::AfterFlush;
    static constexpr std::array<std::string_view, 7> kKinds{
        "write", "write_durable", "flush", "read", "create", "resize", "dir_flush"};
    io::Fault fault;
    const auto dice = random_.below(10);
    fault.what = dice < 6 ? What::io_error : dice < 9 ? What::disk_full : What::short_transfer;
    fault.kind = kKinds[random_.below(kKinds.size())];
    if (fault.what == What::disk_full && fault.kind != "create" && fault.kind != "resize")
      fault.kind = "write";
    if (fault.what == What::short_transfer) fault.kind = "write";
    fault.skip = random_.below(random_.below(3) == 0 ? 6 : 60);
    fault.count = fault.what == What::disk_full && random_.below(2) == 0 ? 1000 : 1;
    fault.after_flush = std::array{After::kept, After::reverted, After::late}[random_.below(3)];
    disk_.add_fault(fault);
    static constexpr std::array<const char*, 3> kNames{"io_error", "disk_full", "short_transfer"};
    const std::string name =
        std::string(kNames[static_cast<std::size_t>(fault.what)]) + "_" + fault.kind;
    planned_ = name;
    excusing_ = fault.what != What::short_transfer;  // nobody is told of that one
    fault_ = name + " after " + std::to_string(fault.skip) + ", " + std::to_string(fault.count) +
             " times, the cache afterwards " + std::to_string(static_cast<int>(fault.after_flush));
  }

  /// Counts the planned error if it happened, and plans no more.
  void end_of_fault() {
    if (!planned_.empty() && disk_.faults_fired() > fired_before_) ++run_.faults[planned_];
    planned_.clear();
    excusing_ = false;
    disk_.clear_faults();
  }
  /// What the last opening left, however it ended.
  void look_at_last() {
    Process p(disk_, random_.next());
    reopen(p);
    if (!good()) return;
    if (auto bad = first_damage(*p.db)) violate("in the end: " + *bad);
  }
  /// Checkpoint steps between the changes of commits. Those of crashes draw from their own
  /// sequence.
  void set_interrupts([[maybe_unused]] bool on) {
#if defined(KESSAI_TORTURE)
    if (plan_.interrupt_odds == 0) return;
    io::set_interrupter({});
    if (!on) return;
    io::set_interrupter([this](std::string_view) {
      return (crashing_ ? crash_random_ : interrupt_random_).below(plan_.interrupt_odds) == 0;
    });
#endif
  }

  // ---- the client's knowledge ------------------------------------------------------------------

  [[nodiscard]] const Tables& now() const { return states_.back(); }
  /// These states are no more what a crash may leave.
  void forget_from(std::size_t state) {
    if (state < states_.size()) ++revision_;
    states_.resize(state);
  }
  void told(std::size_t state) { told_ = std::max(told_, state); }
  void told_lsn(Lsn durable) {
    for (auto it = lsns_.upper_bound(durable); it != lsns_.begin();) {
      --it;
      return told(it->second);
    }
  }
  void committed(Lsn lsn, bool durable) {
    if (lsn <= last_lsn_) violate("LSNs do not grow");
    last_lsn_ = lsn;
    lsns_[lsn] = states_.size() - 1;
    if (durable) told(states_.size() - 1);
    ++run_.commits;
  }

  // ---- the workload ----------------------------------------------------------------------------

  static constexpr std::uint64_t kKeys = 1200;

  static std::string key_of(std::uint64_t n) {
    char s[16];
    std::snprintf(s, sizeof s, "k%05u", static_cast<unsigned>(n));
    std::string k = s;
    if (n % 17 == 0) k += std::string(n % 200, 'x');
    return k;
  }
  std::string some_key() { return key_of(random_.below(kKeys)); }
  std::string some_value() {
    const auto kind = random_.below(100);
    const bool is_long = plan_.long_values && kind >= 97;
    run_.long_values += is_long;
    return std::string(is_long     ? 1500 + random_.below(6000)
                       : kind < 50 ? random_.below(120)
                                   : random_.below(800),
                       static_cast<char>('a' + random_.below(26)));
  }
  std::string some_tree() {
    auto it = now().begin();
    std::advance(it, random_.below(now().size()));
    return it->first;
  }

  void start(Process& p) {
    if (!must(p.open(), "create")) return;
    Tables tables{{"main", std::make_shared<Rows>()}};
    if (!must(p.db->tree("side", {.create = true}), "tree")) return;
    tables["side"] = std::make_shared<Rows>();
    states_ = {tables};
    for (int i = 0; i < 60 && good(); ++i) {
      auto txn = p.db->begin({.durability = Durability::relaxed});
      if (!must(txn, "begin")) return;
      Rows main = *now().at("main"), side = *now().at("side");
      for (int n = 0; n < 10; ++n) {
        const bool to_main = random_.below(3) != 0;
        const std::string k = some_key(), v = some_value();
        if (!must(txn->put(p.db->tree(to_main ? "main" : "side").value(), k, v), "put")) return;
        (to_main ? main : side)[k] = v;
      }
      const auto lsn = txn->commit();
      if (!must(lsn, "commit")) return;
      states_ = {Tables{{"main", std::make_shared<Rows>(std::move(main))},
                        {"side", std::make_shared<Rows>(std::move(side))}}};
      last_lsn_ = *lsn;
    }
    if (must(p.db->checkpoint(), "checkpoint")) must(p.db->wait_durable(last_lsn_), "wait");
  }

  void reopen(Process& p) {
    if (!must(p.open(), "reopening")) return;
    const auto found = which_state(*p.db, told_, states_.size() - 1);
    if (!found) return;
    // What was not durable is gone for good, and what is there is durable.
    forget_from(*found + 1);
    told_ = *found;
    lsns_.clear();
    tickets_.clear();
  }

  void step(Process& p) {
    p.clock.advance(1'000'000);
    const auto dice = random_.below(100);
    if (plan_.trees && dice < 4 && now().size() < 4) {
      create_tree(p);
    } else if (plan_.trees && dice < 8 && now().size() > 2) {
      drop_tree(p);
    } else if (plan_.large && dice < 11) {
      large_commit(p);
    } else {
      transaction(p, dice);
    }
    if (going()) look(p);
    if (going() && random_.below(20) == 0 && must(p.db->wait_durable(last_lsn_), "wait"))
      told_lsn(last_lsn_);
  }

  void create_tree(Process& p) {
    const std::string name = "t" + std::to_string(random_.below(3));
    if (now().contains(name)) return;
    Tables next = now();
    next[name] = std::make_shared<Rows>();
    states_.push_back(std::move(next));
    const auto before = last_lsn_;
    if (!must_commit(p.db->tree(name, {.create = true}), "create tree")) return;
    told(states_.size() - 1);
    last_lsn_ = std::max(before, p.db->stats().applied_lsn);
    ++run_.created;
    fill_tree(p, name);
  }

  /// A tree of several pages, so that dropping it takes several steps.
  void fill_tree(Process& p, const std::string& name) {
    auto txn = p.db->begin({.durability = Durability::relaxed});
    if (!must(txn, "begin")) return;
    Tables next = now();
    auto rows = std::make_shared<Rows>();
    for (int i = 0; i < 30; ++i) {
      const std::string k = some_key(), v(random_.below(500), 't');
      if (!must(txn->put(p.db->tree(name).value(), k, v), "put")) return;
      (*rows)[k] = v;
    }
    next[name] = std::move(rows);
    states_.push_back(std::move(next));
    const auto lsn = txn->commit();
    if (must_commit(lsn, "commit")) committed(*lsn, false);
  }

  /// A commit of two parts and a closing record (I2): more than 24 KiB.
  void large_commit(Process& p) {
    auto txn = p.db->begin({.durability = Durability::relaxed});
    if (!must(txn, "begin")) return;
    Tables next = now();
    auto rows = std::make_shared<Rows>(*now().at("main"));
    for (int i = 0; i < 28; ++i) {
      const std::string k = some_key(), v(1000, static_cast<char>('A' + i % 26));
      if (!must(txn->put(p.db->tree("main").value(), k, v), "put")) return;
      (*rows)[k] = v;
    }
    next["main"] = std::move(rows);
    states_.push_back(std::move(next));
    const auto lsn = txn->commit();
    if (!must_commit(lsn, "large commit")) return;
    committed(*lsn, false);
    ++run_.large;
  }

  void drop_tree(Process& p) {
    auto victim = std::prev(now().end());
    Tables next = now();
    const std::string name = victim->first;
    if (name == "side") return;
    next.erase(name);
    states_.push_back(std::move(next));
    if (reader_ && reader_->tree == name) reader_.reset();
    if (!must_commit(p.db->drop_tree(name), "drop")) return;
    told(states_.size() - 1);
    last_lsn_ = std::max(last_lsn_, p.db->stats().applied_lsn);
    ++run_.dropped;
  }

  void transaction(Process& p, std::uint64_t dice) {
    const bool relaxed = random_.below(100) < 45;
    auto txn = p.db->begin({.durability = relaxed ? Durability::relaxed : Durability::durable});
    if (!must(txn, "begin")) return;
    std::map<std::string, std::shared_ptr<Rows>> changed;
    const auto rows = [&](const std::string& tree) -> Rows& {
      auto& r = changed[tree];
      if (!r) r = std::make_shared<Rows>(*now().at(tree));
      return *r;
    };
    const bool removing = random_.below(100) < 30;
    const auto focus = key_of(random_.below(kKeys));
    const auto writes = removing ? 3 + random_.below(8) : 1 + random_.below(6);
    for (std::uint64_t n = 0; n < writes && going(); ++n) {
      const std::string tree = some_tree();
      const Tree t = p.db->tree(tree).value();
      Rows& r = rows(tree);
      if (removing) {  // neighbours go together, so that leaves run empty and merge
        const auto victim = r.lower_bound(focus);
        if (victim == r.end()) continue;
        if (!must(txn->remove(t, std::string(victim->first)), "remove")) return;
        r.erase(victim);
        continue;
      }
      const std::string k = some_key(), v = some_value();
      if (random_.below(4) == 0) {
        const auto inserted = txn->insert(t, k, v);
        if (!inserted && inserted.error() != Code::key_exists) {
          must(inserted, "insert");
          return;
        }
        if (inserted.has_value() == r.contains(k))
          return violate("insert misjudges " + tree + "/" + k);
        if (!inserted) told_lsn(inserted.error().detail().lsn);  // I7
        r.emplace(k, v);
      } else {
        if (!must(txn->put(t, k, v), "put")) return;
        r[k] = v;
      }
    }
    if (dice >= 92) {
      ++run_.rollbacks;
      must(txn->rollback(), "rollback");
      return;
    }
    Tables next = now();
    bool empty = true;
    for (auto& [tree, r] : changed) {
      empty = empty && *r == *now().at(tree);
      next[tree] = std::move(r);
    }
    states_.push_back(std::move(next));
    run_.relaxed += relaxed;
    if (random_.below(4) == 0) {
      auto ticket = txn->commit_async();
      if (!must_commit(ticket, "commit_async")) return;
      if (ticket->lsn() != 0) committed(ticket->lsn(), false);
      if (!empty) tickets_.push_back(*ticket);
    } else {
      const auto lsn = txn->commit();
      if (!must_commit(lsn, "commit")) return;
      if (*lsn != 0) committed(*lsn, !relaxed);
    }
  }

  /// Reads, so that pages are evicted; each must agree with the model.
  void look(Process& p) {
    std::string value;
    for (int n = 0; n < 12; ++n) {
      const std::string tree = some_tree(), k = some_key();
      auto txn = p.db->begin();
      if (!must(txn, "begin")) return;
      const auto lsn = txn->get(p.db->tree(tree).value(), k, value);
      if (!lsn && disk_failed(lsn.error())) continue;
      const auto it = now().at(tree)->find(k);
      if (lsn ? it == now().at(tree)->end() || it->second != value
              : it != now().at(tree)->end() || lsn.error() != Code::not_found)
        return violate("a read of " + tree + "/" + k +
                       " answers something else: " + (lsn ? "wrong value" : lsn.error().message()));
      const auto row = p.db->get(p.db->tree(tree).value(), k, value);
      if (row) told_lsn(*row);  // answers never outrun durability
    }
    std::erase_if(tickets_, [&](const CommitTicket& t) {
      if (!t.ready()) return false;
      if (must(t.wait(), "ticket")) told_lsn(t.lsn());
      return true;
    });
    if (plan_.reader && going()) old_reader(p);
  }

  /// A snapshot that stays open over many commits: keeps before-images, ghosts and dropped pages.
  /// The S2PL build has no snapshots: its reader finds the rows of the moment it locks them.
  struct Reader {
    Transaction txn;
    std::string tree;
    std::shared_ptr<const Rows> rows;
    int left;
  };
  void old_reader(Process& p) {
    if (!reader_) {
      auto txn = p.db->begin();
      if (!must(txn, "begin")) return;
      const std::string tree = some_tree();
      reader_.emplace(
          Reader{std::move(*txn), tree, now().at(tree), static_cast<int>(random_.below(20))});
    } else if (--reader_->left < 0) {
      auto found = std::make_shared<Rows>();
      auto c = reader_->txn.scan(p.db->tree(reader_->tree).value(), {});
      while (c.next()) found->emplace(c.key(), c.value());
      must(c.status(), "old snapshot");
      const bool s2pl = p.db->info().mode == "s2pl";
      const Rows& expected = s2pl ? *now().at(reader_->tree) : *reader_->rows;
      if (going() && *found != expected) violate("an old snapshot moved");
      reader_.reset();
    }
  }

  void count(Process& p) {
    const Stats s = p.db->stats();
    run_.checkpoints += s.checkpoints;
    run_.evicted += s.pages_evicted;
    run_.splits += s.leaf_splits;
    run_.merges += s.merges;
    run_.purged += s.ghosts_purged;
    run_.log_frame_bytes += s.log_frame_bytes;
    run_.log_file_bytes = p.db->info().wal_bytes;
    if (s.active_transactions != 0 || s.locks_held != 0)
      violate("locks or transactions are left over");
  }

  // ---- crashes ---------------------------------------------------------------------------------

  void watch() {
    disk_.set_observer([this](std::uint64_t op, std::string_view kind, std::string_view file) {
      power_may_fail(op, kind, file);
    });
  }

  void power_may_fail(std::uint64_t op, std::string_view kind, std::string_view file) {
    if (!good()) return;
    ++run_.points;
    op_ = op;
    remember(kind, file);
    if (kind == "read" || kind == "open" || kind == "lock" || op % plan_.every != 0) return;
    if (plan_.only_op != CrashPlan::kEveryOp && op != plan_.only_op) return;
    if (plan_.go_on && !plan_.go_on()) return;
    crash_random_ = io::SeededRandom(plan_.seed * 0x9e3779b97f4a7c15 + op);
    crashing_ = true;
    crashes_here(kind, file);
    crashing_ = false;
  }

  void crashes_here(std::string_view kind, std::string_view file) {
    for (const io::CrashOutcome outcome : io::kCrashOutcomes) {
      ++run_.outcomes;
      ++run_.faults["power_" + std::string(io::outcome_name(outcome))];
      io::SimDisk survivor = disk_.survivor(outcome, crash_random_.next());
      const bool damaged = crash_random_.below(8) == 0;
      if (damaged) damage_newest_superblock(survivor);
      run_.faults["superblock_damaged"] += damaged;
      if (seen_.insert(survivor.image_hash() * 0x9e3779b97f4a7c15 + told_ + (revision_ << 32))
              .second) {
        if (auto bad = crash_and_recover(std::move(survivor)))
          return violate(std::string(io::outcome_name(outcome)) +
                         (damaged ? " + damaged superblock" : "") + " before " + std::string(kind) +
                         " of " + std::string(file) + ": " + *bad);
      }
      if (disk_.volatile_items() == 0) break;
    }
  }

  static constexpr std::size_t kTraceLines = 40;
  void remember(std::string_view kind, std::string_view file) {
    const std::string line = std::string(kind) + " " + std::string(file);
    run_.trace_hash = run_.trace_hash * 0x100000001b3 ^ std::hash<std::string>{}(line);
    last_operations_.push_back(std::move(line));
    if (last_operations_.size() > kTraceLines) last_operations_.pop_front();
  }
  [[nodiscard]] std::string trace() const {
    std::string out;
    for (std::size_t i = 0; i < last_operations_.size(); ++i)
      out += "\n  " + std::to_string(op_ + 1 + i - last_operations_.size()) + " " +
             last_operations_[i];
    return out;
  }

  /// Recoveries replay the log as a whole, in some windows, and operation by operation.
  static std::uint64_t window_of(std::uint64_t how) {
    static constexpr std::uint64_t kWindows[] = {0, 4000, 600, 1};
    return kWindows[how % std::size(kWindows)];
  }

  std::optional<std::string> crash_and_recover(io::SimDisk survivor) {
    ++run_.distinct;
    const io::SimDisk before = survivor;
    const std::uint64_t how = crash_random_.next();
    std::size_t state = 0;
    std::uint64_t ops = 0;
    std::vector<std::uint64_t> changing;  // operations of the recovery that write
    {
      Process p(survivor, how);
      p.set_recovery_window(window_of(how));
      survivor.set_observer([&](std::uint64_t op, std::string_view kind, std::string_view) {
        if (kind != "read" && kind != "open" && kind != "lock") changing.push_back(op);
      });
      auto opened = p.open();
      survivor.set_observer({});
      if (!opened) return "recovery: " + opened.error().message();
      ops = survivor.ops();
      const auto found = which_state(*p.db, told_, states_.size() - 1);
      if (!found) return std::exchange(run_.violation, std::nullopt);
      state = *found;
      if (auto bad = first_damage(*p.db)) return bad;
      if (crash_random_.below(4) == 0) {
        if (auto bad = goes_on(p, survivor, states_[state])) return "after the crash: " + *bad;
      }
    }
    std::uint64_t at = changing[crash_random_.below(changing.size())], last = at;
    if (plan_.every_nested) {
      at = 0;
      last = ops - 1;
    }
    return crash_inside(before, how, at, last, state);
  }

  /// The power fails at operations `at` to `last` of a recovery.
  std::optional<std::string> crash_inside(const io::SimDisk& before, std::uint64_t how,
                                          std::uint64_t at, std::uint64_t last, std::size_t state) {
    std::optional<std::string> bad;
    io::SimDisk again = before;
    again.set_observer([&](std::uint64_t op, std::string_view kind, std::string_view) {
      if (op < at || op > last || bad) return;
      ++run_.nested;
      const auto outcome = io::kCrashOutcomes[crash_random_.below(io::kCrashOutcomes.size())];
      bad = recovers_to(again.survivor(outcome, crash_random_.next()), state);
      if (bad)
        bad = "crash inside recovery at its operation " + std::to_string(op) + " (" +
              std::string(kind) + "): " + *bad;
    });
    Process p(again, how);
    p.set_recovery_window(window_of(how));
    static_cast<void>(p.open());
    again.set_observer({});
    return bad;
  }

  std::optional<std::string> recovers_to(io::SimDisk disk, std::size_t state) {
    Process p(disk, crash_random_.next());
    if (auto r = p.open(); !r) return "recovery: " + r.error().message();
    if (!which_state(*p.db, state, state)) return std::exchange(run_.violation, std::nullopt);
    return first_damage(*p.db);
  }

  /// A few commits, a clean close and a reopening.
  std::optional<std::string> goes_on(Process& p, io::SimDisk& disk, Tables tables) {
    const Tree main = p.db->tree("main").value();
    Rows rows = *tables.at("main");
    for (int i = 0; i < 4; ++i) {
      const std::string k = key_of(crash_random_.below(kKeys)), v(crash_random_.below(900), 'n');
      const auto lsn =
          p.db->put(main, k, v, i % 2 == 0 ? Durability::durable : Durability::relaxed);
      if (!lsn) return "put: " + lsn.error().message();
      if (*lsn <= last_lsn_) return "LSNs repeat";
      rows[k] = v;
    }
    tables["main"] = std::make_shared<Rows>(std::move(rows));
    if (auto r = p.close(); !r) return "close: " + r.error().message();
    Process again(disk, crash_random_.next());
    if (auto r = again.open(); !r) return "reopening: " + r.error().message();
    if (!again.db->info().clean) return "a clean close was taken for a crash";
    auto found = read_all(*again.db);
    if (!found) return "reading: " + found.error().message();
    if (auto bad = difference(*found, tables)) return bad;
    return first_damage(*again.db);
  }

  /// The state in [from, to] that the store is in; a violation when it is in none.
  std::optional<std::size_t> which_state(Database& db, std::size_t from, std::size_t to) {
    const auto found = read_all(db);
    if (!found) {
      violate("reading: " + found.error().message());
      return std::nullopt;
    }
    for (std::size_t s = to + 1; s-- > from;) {
      if (same(*found, states_[s])) return s;
    }
    std::string what =
        "the contents are no state from " + std::to_string(from) + " to " + std::to_string(to);
    for (std::size_t s = 0; s < from; ++s) {
      if (same(*found, states_[s]))
        what = "acknowledged commits are lost: state " + std::to_string(s) + " of " +
               std::to_string(from);
    }
    violate(what + "; against the newest: " + difference(*found, states_[to]).value_or("none") +
            "; against the oldest: " + difference(*found, states_[from]).value_or("none"));
    return std::nullopt;
  }

  /// The run itself goes on from a crash state.
  void lose_power() {
    io::SimDisk next = disk_.survivor(io::kCrashOutcomes[random_.below(io::kCrashOutcomes.size())],
                                      random_.next());
    disk_.set_observer({});
    disk_ = std::move(next);
    watch();
  }

  const CrashPlan plan_;
  io::SeededRandom random_;        ///< of the workload
  io::SeededRandom crash_random_;  ///< of the crashes at one operation
  io::SeededRandom interrupt_random_;
  bool crashing_ = false;
  io::SimDisk disk_;
  std::vector<Tables> states_;  ///< [0] = after loading; one more per commit
  std::size_t told_ = 0;        ///< this state and what led to it can be taken for granted
  std::map<Lsn, std::size_t> lsns_;
  Lsn last_lsn_ = 0;
  std::vector<CommitTicket> tickets_;
  std::optional<Reader> reader_;
  std::unordered_set<std::uint64_t> seen_;
  std::uint64_t op_ = 0;
  bool broken_ = false;             ///< a disk error ended this opening
  std::uint64_t fired_before_ = 0;  ///< disk errors of earlier openings
  std::string planned_;             ///< disk error of this opening
  bool excusing_ = false;           ///< errors that calls answer can come from it
  std::uint64_t revision_ = 0;      ///< of what a crash may leave, beside told_
  std::string fault_;               ///< planned last
  std::deque<std::string> last_operations_;
  CrashRun run_;
};

}  // namespace kessai::crash
