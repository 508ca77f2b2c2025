// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/schedule_run.hpp"

#include "io/check.hpp"
#include "io/sync.hpp"
#include "tools/torture/ledger.hpp"

namespace kessai::crash {
namespace {

using Strategy = io::Scheduler::Strategy;
constexpr bool kS2pl = KESSAI_S2PL != 0;

/// The rows of "main". Long or damaged: the error.
Result<FoundRows> rows_of(Database& db) {
  const auto tree = db.tree("main");
  if (!tree) return std::unexpected(tree.error());
  FoundRows rows;
  auto c = db.scan(*tree, {});
  while (c.next())
    rows.insert_or_assign(std::string(c.key()), Version{std::string(c.value()), c.lsn()});
  if (!c.status()) return std::unexpected(c.status().error());
  return rows;
}

std::string key_of(std::uint64_t n) {
  char s[16];
  std::snprintf(s, sizeof s, "k%04u", static_cast<unsigned>(n));
  return s;
}

/// A store to start from, and what is in it.
struct Start {
  io::SimDisk disk;
  FoundRows rows;
  std::uint64_t keys = 0;
};

Result<Start> make_start(std::uint64_t seed, std::uint64_t keys, std::size_t value_bytes,
                         bool clean) {
  Start s{io::SimDisk(seed), {}, keys};
  io::SeededRandom random(seed);
  {
    Process p(s.disk, random.next());
    p.options.create = true;
    KESSAI_TRY(p.open());
    const Tree main = p.db->tree("main").value();
    for (std::uint64_t n = 0; n < keys; n += 8) {
      auto txn = p.db->begin({.durability = Durability::relaxed});
      if (!txn) return std::unexpected(txn.error());
      for (std::uint64_t k = n; k < std::min(n + 8, keys); ++k) {
        if (random.below(4) == 0) continue;
        KESSAI_TRY(
            txn->put(main, key_of(k), "base:" + std::string(random.below(value_bytes), 'b')));
      }
      KESSAI_TRY(txn->commit());
    }
    KESSAI_TRY(p.db->wait_durable(p.db->stats().applied_lsn));
    KESSAI_ASSIGN(rows, rows_of(*p.db));
    s.rows = std::move(rows);
    if (clean) KESSAI_TRY(p.close());
  }  // else killed
  return s;
}

/// What a schedule is drawn to be.
struct Shape {
  io::Scheduler::Options scheduler;
  unsigned clients = 2, transactions = 6;
  std::uint64_t crash_odds = 0;  ///< one in so many operations; 0: never
  bool close_early = false;
  std::uint64_t hot = 8;  ///< keys that most writes go to
  std::size_t value_bytes = 100;
  bool serializable = false;  ///< all of them
  bool big = false;           ///< commits of 16 KiB: two or three fill a segment of the log
  bool log_life = false;      ///< exhaustive_run()'s threads instead of clients

  static Shape drawn(const SchedulePlan& plan, std::uint64_t number, std::uint64_t keys) {
    io::SeededRandom random(plan.seed * 0x9e3779b97f4a7c15 + number * 0xd1342543de82ef95 + 1);
    Shape s;
    auto& o = s.scheduler;
    o.seed = random.next();
    o.strategy = std::array{Strategy::pct, Strategy::random_walk, Strategy::sites,
                            Strategy::sites}[random.below(4)];
    o.mean_gap =
        o.strategy == Strategy::sites ? 1 + random.below(8) : std::uint64_t{4} << random.below(9);
    o.uneven = random.below(3) == 0;
    o.preemptions = 2 + static_cast<unsigned>(random.below(3));
    o.expected_points = std::uint64_t{512} << random.below(9);
    o.tick_odds = std::uint64_t{16} << random.below(5);
    o.page_points = random.below(3) == 0;
    o.suspend_odds = std::array<std::uint64_t, 4>{0, 1, 2, 16}[random.below(4)];
    s.clients = 2 + static_cast<unsigned>(random.below(3));
    s.transactions = std::array{1U, 2U, 3U, 5U, 8U, 12U}[random.below(6)];
    s.crash_odds = random.below(3) == 0 ? 0 : std::uint64_t{4} << random.below(4);
    s.close_early = random.below(8) == 0;
    s.hot = random.below(3) == 0 ? keys : 2 + random.below(10);
    s.value_bytes = std::size_t{20} << random.below(6);
    s.serializable = random.below(4) == 0;
    s.big = random.below(4) == 0;
    if (s.big && s.crash_odds != 0) s.crash_odds = 4;
    if (s.big) o.uneven = true;  // checkpoints that last while the log goes round
    if (s.big) s.transactions = 8 + static_cast<unsigned>(random.below(9));
    // The cuts come last: they change no draw.
    o.page_points = o.page_points && plan.page_points;
    o.most_preemptions = plan.most_preemptions;
    s.clients = std::min(s.clients, plan.most_clients);
    s.transactions = std::min(s.transactions, plan.most_transactions);
    if (!plan.crashes) s.crash_odds = 0;
    return s;
  }
};

/// One schedule: the store, its clients, and the crashes on the way.
class Life {
 public:
  Life(const Start& start, const Shape& shape, CrashRun& run)
      : start_(start),
        shape_(shape),
        run_(run),
        random_(shape.scheduler.seed),
        crash_random_(shape.scheduler.seed + 1),
        disk_(start.disk),
        ledger_(start.rows, std::max(shape.clients, 2u)),
        process_(std::make_unique<Process>(disk_, random_.next())) {}

  std::optional<std::string> go() {
    process_->set_background(!shape_.log_life);
    io::Scheduler::Options o = shape_.scheduler;
    o.clock = &process_->clock;
    o.armed = false;
    disk_.set_observer([this](std::uint64_t, std::string_view kind, std::string_view file) {
      const io::Scheduler::Quiet quiet;
      operation(kind, file);
    });
    const auto outcome = io::Scheduler::run(o, [this] { main(); });
    disk_.set_observer({});
    run_.preemptions += outcome.preemptions;
    run_.switches += outcome.switches;
    run_.trace_hash = run_.trace_hash * 0x100000001b3 ^ outcome.hash;
    if (outcome.violation) {
      static_cast<void>(process_.release());  // its fibers' stacks are gone, and so is its order
      return violation_ ? violation_ : outcome.violation;
    }
    if (!violation_) end();
    run_.commits += ledger_.commits();
    return violation_;
  }

 private:
  [[nodiscard]] bool good() const { return !violation_; }
  void violate(const std::string& what) {
    if (!good()) return;
    violation_ = what + "\nlast switches:" + io::Scheduler::schedule_so_far();
  }
  /// For calls of which nothing excuses a failure but an early close.
  template <class T>
  bool must(const Result<T>& r, const char* what) {
    if (r) return true;
    if (!(shape_.close_early && r.error() == Code::closed_handle))
      violate(std::string(what) + ": " + r.error().message());
    return false;
  }

  // ---- the threads
  // -------------------------------------------------------------------------------

  void main() {
    if (!must(process_->open(), "open")) return;
    tree_ = process_->db->tree("main").value();
    if (shape_.log_life) {
      log_life();
    } else {
      io::Scheduler::arm();
      std::vector<io::Thread> clients;
      for (unsigned c = 0; c < shape_.clients; ++c)
        clients.emplace_back("client", [this, c] { client(c); });
      if (shape_.close_early) {
        io::pause_for(random_.below(3'000'000));
        must(process_->close_store(), "close");
      }
    }
    if (good() && !shape_.close_early) at_rest();
    if (!shape_.close_early) {
      if (good() && !shape_.log_life && random_.below(2) == 0) {
        // Left to itself for a while: the idle log, the last purges.
        io::pause_for(random_.below(40'000'000));
      }
      const auto closed = process_->close_store();
      if (good()) must(closed, "close");
    }
    process_->db.reset();
  }

  /// The log in short: commits that need the next segment, two checkpoints that make the ones
  /// before reusable, a reader.
  void log_life() {
    for (int n = 0; n < 2 && good(); ++n) big_commit();
    io::Scheduler::arm();
    std::vector<io::Thread> threads;
    threads.emplace_back("commit", [this] {
      const io::Scheduler::Watched watched;
      for (int n = 0; n < 8 && good(); ++n) big_commit();
    });
    for (int n = 0; n < 2; ++n)
      threads.emplace_back("checkpoint", [this] {
        const io::Scheduler::Watched watched;
        must(process_->db->checkpoint(), "checkpoint");
      });
    threads.emplace_back("reader", [this] {
      const io::Scheduler::Watched watched;
      io::SeededRandom random(1);
      look(1, random);
    });
  }

  void big_commit() {
    Attempt& a = ledger_.begin(0);
    auto txn = process_->db->begin();
    if (!txn) return void(gives_up(a, txn.error(), "begin"));
    if (!put_private_rows(a, *txn, 0) || !put_marker(a, *txn, 0)) return;
    const auto lsn = txn->commit();
    if (!lsn) return void(gives_up(a, lsn.error(), "commit"));
    committed(a, *lsn);
    ledger_.told(*lsn);
  }

  /// All clients are done, the background is not.
  void at_rest() {
    Database& db = *process_->db;
    if (const Lsn lsn = ledger_.answered(); lsn != 0)
      if (!must(db.wait_durable(lsn), "wait_durable")) return;
    auto found = rows_of(db);
    if (!must(found, "reading")) return;
    if (auto bad = ledger_.judge_end(&*found)) return violate(*bad);
    const Stats s = db.stats();
    if (s.active_transactions != 0 || s.locks_held != 0)
      violate("locks or transactions are left over");
    if (auto bad = first_damage(db)) violate(*bad);
  }

  /// After the run: what reopening finds.
  void end() {
    process_.reset();
    if (shape_.close_early) {
      if (auto bad = ledger_.judge_end(nullptr)) return violate(*bad);
    }
    if (auto bad = recover(disk_, false)) violate("after the close: " + *bad);
  }

  void client(unsigned c) {
    const io::Scheduler::Watched watched;
    io::SeededRandom random(shape_.scheduler.seed * 64 + c);
    for (unsigned n = 0; n < shape_.transactions && good(); ++n) {
      const auto dice = random.below(100);
      if (dice < (shape_.close_early ? 30U : 62U))
        update(c, random);
      else if (dice < 62)
        one_call(c, random);
      else if (dice < 80)
        look(c, random);
      else if (dice < 88 && !shape_.big)
        one_call(c, random);
      else if (dice < 94 || (shape_.big && dice >= 80))
        must(process_->db->checkpoint(), "checkpoint");
      else if (const Lsn lsn = ledger_.answered(); lsn != 0)
        if (must(process_->db->wait_durable(lsn), "wait_durable")) ledger_.told(lsn);
    }
  }

  std::string some_key(io::SeededRandom& random) const {
    return key_of(random.below(random.below(4) == 0 ? start_.keys : shape_.hot));
  }

  /// Errors that end an attempt and are nobody's fault.
  bool gives_up(Attempt& a, const Error& e, const char* what) {
    if (e == Code::unknown_outcome && shape_.close_early) {
      a.fate = Attempt::Fate::unknown;
      return true;
    }
    a.fate = Attempt::Fate::failed;
    switch (e.code()) {
      case Code::write_conflict:
      case Code::deadlock:
      case Code::lock_timeout:
      case Code::snapshot_too_old:
      case Code::key_exists:  // an insert with Locking::at_commit
        return true;
      case Code::closed_handle:
        if (shape_.close_early) return true;
        [[fallthrough]];
      default:
        violate(std::string(what) + ": " + e.message());
        return true;
    }
  }

  BeginOptions options_for(io::SeededRandom& random) const {
    BeginOptions o;
    const auto level = random.below(8);
    o.isolation = shape_.serializable || level < 2 ? Isolation::serializable
                  : level < 3                      ? Isolation::read_committed
                                                   : Isolation::snapshot;
    o.durability = random.below(3) == 0 ? Durability::relaxed : Durability::durable;
    o.locking = random.below(4) == 0 ? Locking::at_commit : Locking::at_call;
    return o;
  }

  void update(unsigned c, io::SeededRandom& random) {
    const BeginOptions o = options_for(random);
    Attempt& a = ledger_.begin(c);
    auto txn = process_->db->begin(o);
    if (!txn) return void(gives_up(a, txn.error(), "begin"));
    a.serializable = !kS2pl && o.isolation == Isolation::serializable;
    a.reads_current = kS2pl;
    const bool fixed = !kS2pl && o.isolation != Isolation::read_committed;
    if (fixed) a.snapshot = txn->snapshot();
    const auto steps = 1 + random.below(4);
    for (std::uint64_t n = 0; n < steps; ++n) {
      if (!change(a, *txn, random)) return;
      // A lock before anything was looked at moves it; from then on it stays.
      if (fixed && n > 0 && a.snapshot != txn->snapshot()) return violate("a snapshot has moved");
      if (fixed) a.snapshot = txn->snapshot();
    }
    if (shape_.big && random.below(2) == 0 && !put_private_rows(a, *txn, c)) return;
    if (!put_marker(a, *txn, c)) return;
    if (random.below(12) == 0) {
      a.fate = Attempt::Fate::failed;
      must(txn->rollback(), "rollback");
      return;
    }
    finish(a, *txn, o.durability == Durability::durable, random);
  }

  bool put_marker(Attempt& a, Transaction& txn, unsigned c) {
    const std::string number = std::to_string(ledger_.number_of_last(c));
    a.writes[Ledger::marker(c)] = number;
    const auto ok = txn.put(tree_, Ledger::marker(c), number);
    return ok || !gives_up(a, ok.error(), "put");
  }
  /// Rows that no other client touches, to fill the log.
  bool put_private_rows(Attempt& a, Transaction& txn, unsigned c) {
    for (int n = 0; n < 20; ++n) {
      const std::string key = "p" + std::to_string(c) + "." + std::to_string(n);
      const std::string value = "c" + std::to_string(++values_) + ":" + std::string(760, 'p');
      a.writes[key] = value;
      if (const auto ok = txn.put(tree_, key, value); !ok) return !gives_up(a, ok.error(), "put");
    }
    return true;
  }

  /// A read or a write. False: the attempt is over.
  bool change(Attempt& a, Transaction& txn, io::SeededRandom& random) {
    const std::string key = some_key(random);
    if (a.writes.contains(key)) return true;
    const auto dice = random.below(10);
    if (dice < 5) {
      std::string value;
      const auto lsn = txn.get(tree_, key, value);
      if (!lsn && lsn.error() != Code::not_found) return !gives_up(a, lsn.error(), "get");
      a.reads.push_back({key, lsn ? Version{value, *lsn} : Version{}});
      if (dice < 2) return true;
    }
    if (dice == 9) {
      auto removed = txn.remove(tree_, key);
      if (removed)
        a.writes[key] = std::nullopt;
      else if (removed.error() != Code::not_found)
        return !gives_up(a, removed.error(), "remove");
      return true;
    }
    std::string value = "c" + std::to_string(++values_) + ":";
    value += std::string(random.below(shape_.value_bytes), 'v');
    const auto written = dice == 8 ? txn.insert(tree_, key, value) : txn.put(tree_, key, value);
    if (written)
      a.writes[key] = value;
    else if (written.error() != Code::key_exists)
      return !gives_up(a, written.error(), "write");
    return true;
  }

  void finish(Attempt& a, Transaction& txn, bool durable, io::SeededRandom& random) {
    const auto how = random.below(4);
    if (how != 0) {
      const auto lsn = txn.commit();
      if (!lsn) return void(gives_up(a, lsn.error(), "commit"));
      committed(a, *lsn);
      if (durable) ledger_.told(*lsn);
      return;
    }
    auto ticket = txn.commit_async();
    if (!ticket) return void(gives_up(a, ticket.error(), "commit_async"));
    committed(a, ticket->lsn());
    if (random.below(2) == 0) {
      const auto ok = ticket->wait();
      if (ok) return ledger_.told(ticket->lsn());
      if (!shape_.close_early) violate("ticket: " + ok.error().message());
      return;
    }
    await_callback(*ticket);
  }

  /// on_durable() promises a call once the commit is durable: no timer may be needed from then on.
  void await_callback(const CommitTicket& ticket) {
    struct Called {
      io::Mutex mutex;
      io::CondVar changed;
      bool done = false, durable = false;
    };
    auto called = std::make_shared<Called>();
    ticket.on_durable([called](const Result<void>& r) {
      const io::MutexLock lock(called->mutex);
      called->done = true;
      called->durable = r.has_value();
      called->changed.notify_all();
    });
    static_cast<void>(ticket.wait());
    {
      const io::MutexLock lock(called->mutex);
      while (!called->done && good()) called->changed.wait_for(called->mutex, 10'000'000'000);
    }
    if (called->durable)
      ledger_.told(ticket.lsn());
    else if (!shape_.close_early && good())
      violate("on_durable: the commit did not become durable");
  }

  void committed(Attempt& a, Lsn lsn) {
    a.lsn = lsn;
    a.fate = Attempt::Fate::committed;
    ledger_.answered(lsn);
  }

  /// A transaction that only reads: some keys, or all of them.
  void look(unsigned c, io::SeededRandom& random) {
    Attempt& a = ledger_.begin(c);
    // A read-only snapshot has to contain what is durable, not what is only visible.
    a.floor = ledger_.told();
    auto txn = process_->db->read_only();
    if (!txn) return void(gives_up(a, txn.error(), "begin"));
    if (!kS2pl) a.snapshot = txn->snapshot();
    if (random.below(2) == 0) {
      if (!scan(a, *txn)) return;
    } else {
      for (auto n = 1 + random.below(6); n > 0; --n) {
        const std::string key = some_key(random);
        std::string value;
        const auto lsn = txn->get(tree_, key, value);
        if (!lsn && lsn.error() != Code::not_found) return void(gives_up(a, lsn.error(), "get"));
        a.reads.push_back({key, lsn ? Version{value, *lsn} : Version{}});
      }
    }
    const auto done = txn->commit();
    if (!done) return void(gives_up(a, done.error(), "commit"));
    a.fate = Attempt::Fate::committed;
    ledger_.told(a.snapshot);
    if (kS2pl)
      for (const auto& r : a.reads) ledger_.told(r.seen.lsn);
  }

  bool scan(Attempt& a, Transaction& txn) {
    FoundRows rows;
    auto cursor = txn.scan(tree_, {});
    while (cursor.next())
      rows.insert_or_assign(std::string(cursor.key()),
                            Version{std::string(cursor.value()), cursor.lsn()});
    if (!cursor.status()) return !gives_up(a, cursor.status().error(), "scan");
    for (const auto& [key, row] : rows) a.reads.push_back({key, row});
    // What is absent was read as well.
    for (std::uint64_t k = 0; k < start_.keys; ++k)
      if (const std::string key = key_of(k); !rows.contains(key)) a.reads.push_back({key, {}});
    return true;
  }

  void one_call(unsigned c, io::SeededRandom& random) {
    const std::string key = some_key(random);
    if (random.below(2) == 0) {
      Attempt& a = ledger_.begin(c);
      a.floor = ledger_.told();
      std::string value;
      const auto lsn = process_->db->get(tree_, key, value);
      if (!lsn && lsn.error() != Code::not_found) return void(gives_up(a, lsn.error(), "get"));
      a.fate = Attempt::Fate::committed;
      a.reads.push_back({key, lsn ? Version{value, *lsn} : Version{}});
      if (lsn) ledger_.told(*lsn);  // answers never outrun durability
      return;
    }
    // A commit of one call: its marker is all that it changes.
    Attempt& a = ledger_.begin(c);
    const std::string number = std::to_string(ledger_.number_of_last(c));
    a.writes[Ledger::marker(c)] = number;
    const auto lsn = process_->db->put(tree_, Ledger::marker(c), number);
    if (!lsn) return void(gives_up(a, lsn.error(), "put"));
    committed(a, *lsn);
    ledger_.told(*lsn);
  }

  // ---- the disk
  // ----------------------------------------------------------------------------------

  void operation(std::string_view kind, std::string_view file) {
    if (!good()) return;
    ++run_.points;
    const std::string line = std::string(kind) + " " + std::string(file);
    run_.trace_hash = run_.trace_hash * 0x100000001b3 ^ std::hash<std::string>{}(line);
    if (shape_.crash_odds == 0 || crash_random_.below(shape_.crash_odds) != 0) return;
    if (kind == "read" || kind == "open" || kind == "lock") return;
    ++run_.outcomes;
    const auto outcome = io::kCrashOutcomes[crash_random_.below(io::kCrashOutcomes.size())];
    ++run_.faults["power_" + std::string(io::outcome_name(outcome))];
    io::SimDisk survivor = disk_.survivor(outcome, crash_random_.next());
    if (auto bad = recover(survivor, true))
      violate(std::string(io::outcome_name(outcome)) + " before " + line + ": " + *bad);
  }

  /// Opens what is left and compares; after a clean close with everything.
  std::optional<std::string> recover(io::SimDisk& disk, bool crashed) {
    ++run_.distinct;
    Process p(disk, crash_random_.next());
    if (auto r = p.open(); !r) return "recovery: " + r.error().message();
    const auto found = rows_of(*p.db);
    if (!found) return "reading: " + found.error().message();
    if (auto bad = ledger_.judge(*found)) return bad;
    if (!crashed && !shape_.close_early)
      if (auto bad = ledger_.judge_end(&*found)) return bad;
    return first_damage(*p.db);
  }

  const Start& start_;
  const Shape& shape_;
  CrashRun& run_;
  io::SeededRandom random_, crash_random_;
  io::SimDisk disk_;
  Ledger ledger_;
  std::unique_ptr<Process> process_;
  Tree tree_;
  std::uint64_t values_ = 0;
  std::optional<std::string> violation_;
};

}  // namespace

CrashRun schedule_run(const SchedulePlan& plan) {
  CrashRun run;
  io::SeededRandom random(plan.seed);
  // Most stores fit into the cache of 64 pages; some do not, and pages come and go.
  const bool wide = random.below(4) == 0;
  const auto start =
      make_start(random.next(), wide ? 420 : 12 + random.below(60),
                 wide ? 1400 : std::size_t{40} << random.below(5), random.below(2) == 0);
  if (!start) {
    run.violation = "making the store: " + start.error().message();
    return run;
  }
  for (std::uint64_t n = 0; n < plan.schedules && !run.violation; ++n) {
    if (plan.only != SchedulePlan::kAll && n != plan.only) continue;
    if (plan.go_on && !plan.go_on()) break;
    ++run.schedules;
    const Shape shape = Shape::drawn(plan, n, start->keys);
    if (auto bad = Life(*start, shape, run).go()) {
      run.violated_at = n;
      run.violation =
          "seed " + std::to_string(plan.seed) + " schedule " + std::to_string(n) + ": " + *bad;
    }
  }
  return run;
}

CrashRun exhaustive_run(const ExhaustivePlan& plan) {
  CrashRun run;
  const auto start = make_start(plan.seed, 6, 20, true);
  if (!start) {
    run.violation = "making the store: " + start.error().message();
    return run;
  }
  io::Choices choices;
  Shape shape;
  shape.log_life = true;
  shape.crash_odds = 24;
  auto& o = shape.scheduler;
  o.strategy = Strategy::exhaustive;
  o.preemptions = plan.preemptions;
  o.choices = &choices;
  o.only_in = {"wal/", "btree/checkpoint.cc", "btree/gate.hpp"};
  do {
    if (plan.go_on && !plan.go_on()) return run;
    o.seed = plan.seed + run.schedules++;  // crashes elsewhere each time
    if (auto bad = Life(*start, shape, run).go()) {
      run.violated_at = run.schedules - 1;
      run.violation =
          "schedule " + std::to_string(run.violated_at) + " of the exhaustive search: " + *bad;
      return run;
    }
  } while (choices.advance());
  run.complete = true;
  return run;
}

}  // namespace kessai::crash
