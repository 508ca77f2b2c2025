// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/kill_life.hpp"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <deque>

#include "io/env.hpp"
#include "io/mutant.hpp"
#include "io/sync.hpp"
#include "kessai/database.hpp"

namespace kessai::torture {
namespace {

constexpr const char* kGroupTree = "groups";
constexpr std::uint64_t kNeverCommitted = std::uint64_t{1} << 40;

void raise(Lsn& newest, Lsn lsn) { newest = std::max(newest, lsn); }

// Whether a life with a size limit on its files may be told this.
bool of_file_limit(const Error& e) {
  return e == Code::disk_full || e == Code::io_error || e == Code::poisoned ||
         e == Code::unknown_outcome;
}

std::string text_of(unsigned group, GroupState s) {
  return "group " + std::to_string(group) + " number " + std::to_string(s.number) + " of life " +
         std::to_string(s.life);
}

// ---- what a life finds -------------------------------------------------------------------------

class Comparison {
 public:
  Comparison(const Life& life, KillBoard& board) : life_(life), board_(board) {}

  // False when something is wrong: then there is a complaint, or the file limit explains it.
  bool run(Database& db, const Tree& tree) {
    if (!read(db, tree)) return false;
    for (unsigned g = 0; g < kGroups; ++g) compare_rows(g);
    for (unsigned g = 0; g < kGroups; ++g) compare_with_base(g);
    compare_with_steps();
    return board_.complaints == 0;
  }

  // The journal of this life begins where the last one's ended.
  Bank& begin_journal() {
    const std::uint32_t other = 1 - board_.current.load();
    Bank& bank = board_.banks[other];
    bank.life = life_.number;
    bank.begun_at = board_.moment;
    std::ranges::copy(found_, bank.base);
    for (auto& lane : bank.lanes) lane.used = 0;
    board_.current.store(other);
    return bank;
  }

 private:
  bool read(Database& db, const Tree& tree) {
    auto txn = db.read_only();
    if (!txn) return cannot_read(txn.error());
    Cursor c = txn->scan(tree, {});
    while (c.next()) {
      raise(newest_, c.lsn());
      if (!keep(c)) return complain("stray-row", std::string(c.key()));
    }
    return c.status() ? true : cannot_read(c.status().error());
  }

  bool cannot_read(const Error& e) {
    if (board_.limited == life_.number && of_file_limit(e)) return false;
    return complain("error", "read: " + e.message());
  }

  bool keep(const Cursor& c) {
    for (unsigned g = 0; g < kGroups; ++g)
      for (unsigned row = 0; row < kRowsOfGroup; ++row)
        if (c.key() == group_row_key(g, row))
          return rows_[g].emplace(row, std::string(c.value())).second;
    return false;
  }

  void compare_rows(unsigned g) {
    if (rows_[g].empty()) return;
    const auto state = state_in(rows_[g].begin()->second);
    if (state) found_[g] = *state;
    if (state && rows_[g] == rows_of(g, *state)) return;
    ++board_.half_applied;
    std::string text = "the rows of group " + std::to_string(g) + " do not belong together:";
    for (const auto& [row, value] : rows_[g]) {
      const GroupState s = state_in(value).value_or(GroupState{});
      text += " row " + std::to_string(row) + " of " + std::to_string(value.size()) +
              " bytes has number " + std::to_string(s.number) + " of life " +
              std::to_string(s.life) + ",";
    }
    complain("half-applied", text);
  }

  void compare_with_base(unsigned g) {
    const Bank& before = board_.bank();
    const GroupState base = before.base[g];
    const GroupState now = found_[g];
    std::uint64_t intended = base.number;
    for (const auto& lane : before.lanes)
      for (const Step& s : steps(lane))
        for (unsigned i = 0; i < s.groups; ++i)
          if (s.group[i] == g) intended = std::max(intended, s.number[i]);
    const std::string text = text_of(g, now) + ", after it was " + text_of(g, base);
    if (now.number < base.number) {
      ++board_.lost;
      complain("lost", text + " in an earlier life");
    } else if (now.number > intended) {
      complain("from-the-future",
               text + "; nothing beyond " + std::to_string(intended) + " was ever to be committed");
    } else if (now.number == base.number ? now != base : now.life != before.life) {
      complain("resurrected", text + " and life " + std::to_string(before.life) + " wrote");
    }
  }

  // Promised commits are there, and others vanish from the end of the log only.
  void compare_with_steps() {
    const Bank& before = board_.bank();
    Lsn promised = 0;
    for (const auto& lane : before.lanes)
      for (const Step& s : steps(lane))
        if (s.promised) raise(promised, s.lsn);
    for (const auto& lane : before.lanes)
      for (const Step& s : steps(lane)) compare_with_step(s, promised);
  }

  void compare_with_step(const Step& s, Lsn promised) {
    unsigned there = 0;
    for (unsigned i = 0; i < s.groups; ++i)
      there += found_[s.group[i]].number >= s.number[i] ? 1 : 0;
    if (there == s.groups) return;
    std::string text = "commit " + std::to_string(s.lsn);
    for (unsigned i = 0; i < s.groups; ++i)
      text += ", " + text_of(s.group[i], {s.number[i], board_.bank().life}) + " (found " +
              std::to_string(found_[s.group[i]].number) + ")";
    if (there != 0) {
      ++board_.half_applied;
      complain("half-applied", text);
    }
    if (s.promised) {
      ++board_.lost;
      complain("lost", text + " was promised to be durable");
    } else if (s.lsn != 0 && s.lsn <= std::max(promised, newest_)) {
      complain("hole", text + " is gone, but not the later ones: promised were those up to " +
                           std::to_string(promised) + ", the newest row is of " +
                           std::to_string(newest_));
    }
  }

  static std::span<const Step> steps(const Bank::Lane& lane) {
    return {lane.steps, lane.used.load(std::memory_order_acquire)};
  }

  bool complain(std::string_view kind, const std::string& text) {
    board_.complain(kind, text + ", seen by life " + std::to_string(life_.number));
    return false;
  }

  const Life& life_;
  KillBoard& board_;
  Lsn newest_ = 0;
  std::map<unsigned, std::string> rows_[kGroups];
  GroupState found_[kGroups] = {};
};

// ---- what it does ------------------------------------------------------------------------------

class Committer {
 public:
  Committer(Database& db, const Tree& tree, const Life& life, KillBoard& board, Bank& bank,
            unsigned thread, unsigned threads)
      : db_(db),
        tree_(tree),
        life_(life),
        board_(board),
        lane_(bank.lanes[thread]),
        random_(life.seed * 31 + thread) {
    for (unsigned g = thread; g < kGroups; g += threads) own_.push_back(g);
    std::ranges::copy(bank.base, now_);
    first_ = thread == 0;
  }

  void run() {
    while (board_.stop != life_.number && lane_.used < kMostSteps && board_.complaints == 0) {
      if (!transaction()) break;
      ++board_.progress;
      if (random_.below(16) == 0) nap(random_.below(200'000));
      if (first_ && random_.below(200) == 0 && !ok("checkpoint", db_.checkpoint())) break;
    }
    while (!tickets_.empty() && settle_oldest()) {
    }
  }

 private:
  enum class Manner : std::uint8_t { durable, relaxed, relaxed_then_wait, ticket, callback };

  // False: this life cannot go on.
  bool transaction() {
    const auto manner = static_cast<Manner>(random_.below(5));
    BeginOptions o;
    o.isolation = static_cast<Isolation>(random_.below(3));
    o.locking = random_.below(4) == 0 ? Locking::at_commit : Locking::at_call;
    if (manner == Manner::relaxed || manner == Manner::relaxed_then_wait)
      o.durability = Durability::relaxed;
    auto txn = db_.begin(o);
    if (!ok("begin", txn)) return false;
    const bool give_up = random_.below(16) == 0;
    draw_groups();
    for (unsigned i = 0; i < count_; ++i) {
      auto written = write(*txn, group_[i], give_up);
      if (!written) return go_on_after("write", written.error());
    }
    if (give_up) return ok("rollback", txn->rollback());
    return commit(*txn, manner);
  }

  void draw_groups() {
    count_ =
        1 + static_cast<unsigned>(random_.below(std::min<std::size_t>(kMostInStep, own_.size())));
    const std::size_t from = random_.below(own_.size());
    for (unsigned i = 0; i < count_; ++i)
      group_[i] = static_cast<std::uint8_t>(own_[(from + i) % own_.size()]);
  }

  [[nodiscard]] GroupState next(unsigned g) const { return {now_[g].number + 1, life_.number}; }

  Result<void> write(kessai::Transaction& txn, unsigned g, bool give_up) {
    GroupState to = next(g);
    if (give_up) to.number += kNeverCommitted;
    const auto before = rows_of(g, now_[g]);
    const auto after = rows_of(g, to);
    for (unsigned row = 0; row < kRowsOfGroup; ++row) {
      const auto value = after.find(row);
      const std::string key = group_row_key(g, row);
      Result<void> r;
      if (value == after.end()) {
        if (before.contains(row)) r = txn.remove(tree_, key);
      } else if (!before.contains(row)) {
        r = txn.insert(tree_, key, value->second);
      } else {
        r = txn.put(tree_, key, value->second);
      }
      if (!r) return r;
    }
    return {};
  }

  // The intent, the commit, what it was told.
  bool commit(kessai::Transaction& txn, Manner manner) {
    Step& step = intend();
    if (manner == Manner::ticket || manner == Manner::callback) {
      auto ticket = txn.commit_async();
      if (!ticket) return refused("commit_async", ticket.error());
      answered(step, ticket->lsn());
      return later(step, std::move(*ticket), manner == Manner::callback);
    }
    auto lsn = txn.commit();
    if (!lsn) return refused("commit", lsn.error());
    answered(step, *lsn);
    if (manner == Manner::relaxed) return true;
    if (manner == Manner::relaxed_then_wait && !ok("wait_durable", db_.wait_durable(*lsn)))
      return false;
    promised(step);
    return true;
  }

  Step& intend() {
    const std::uint32_t at = lane_.used.load(std::memory_order_relaxed);
    Step& step = lane_.steps[at];
    step.intended_at = board_.moment;
    step.lsn = 0;
    step.promised = false;
    step.groups = static_cast<std::uint8_t>(count_);
    for (unsigned i = 0; i < count_; ++i) {
      step.group[i] = group_[i];
      step.number[i] = next(group_[i]).number;
    }
    lane_.used.store(at + 1, std::memory_order_release);
    return step;
  }

  // Rolled back for certain, and tried again in other company: the intent is void.
  bool refused(const char* call, const Error& e) {
    if (e.retryable()) lane_.used.store(lane_.used - 1);
    return go_on_after(call, e);
  }

  void answered(Step& step, Lsn lsn) {
    step.answered_at = board_.moment;
    step.lsn = lsn;
    for (unsigned i = 0; i < count_; ++i) now_[group_[i]] = next(group_[i]);
    ++board_.commits;
  }

  void promised(Step& step) {
    step.promised_at = board_.moment;
    step.promised = true;
    ++board_.acked;
  }

  bool later(Step& step, CommitTicket ticket, bool callback) {
    if (callback) {
      ticket.on_durable([this, &step](const Result<void>& r) {
        if (r) promised(step);
      });
      return true;
    }
    tickets_.push_back({std::move(ticket), &step});
    const std::size_t most = random_.below(8);
    while (tickets_.size() > most || (!tickets_.empty() && tickets_.front().ticket.ready()))
      if (!settle_oldest()) return false;
    return true;
  }

  bool settle_oldest() {
    const Pending oldest = std::move(tickets_.front());
    tickets_.pop_front();
    if (!ok("ticket", oldest.ticket.wait())) return false;
    promised(*oldest.step);
    return true;
  }

  template <class R>
  bool ok(const char* call, const R& r) {
    return r || go_on_after(call, r.error());
  }

  bool go_on_after(const char* call, const Error& e) {
    if (e.retryable()) return true;
    if (board_.limited == life_.number && of_file_limit(e)) {
      ++board_.limit_hits;
    } else {
      board_.complain("error", std::string(call) + " in life " + std::to_string(life_.number) +
                                   ": " + e.message());
    }
    return false;
  }

  struct Pending {
    CommitTicket ticket;
    Step* step;
  };

  Database& db_;
  const Tree& tree_;
  const Life& life_;
  KillBoard& board_;
  Bank::Lane& lane_;
  io::SeededRandom random_;
  bool first_ = false;
  std::vector<unsigned> own_;
  GroupState now_[kGroups] = {};
  std::uint8_t group_[kMostInStep] = {};
  unsigned count_ = 0;
  std::deque<Pending> tickets_;
};

// ---- the process -------------------------------------------------------------------------------

void settle_in(const Life& life) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (const int sig : {SIGXFSZ, SIGINT, SIGTERM}) std::signal(sig, SIG_IGN);
  if (life.file_limit != 0) {
    const rlimit limit{life.file_limit, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
#if defined(KESSAI_TORTURE)
  io::set_mutant(life.mutant);
  // The engine's seams are places where another thread may come in, in every other life.
  if (life.number % 2 == 0) {
    io::set_interrupter([seed = life.seed](std::string_view) {
      thread_local io::SeededRandom random(seed * 64 + io::thread_index());
      if (random.below(8) == 0) io::yield_thread();
      return false;
    });
  }
#endif
}

Options options_of(const Life& life) {
  io::SeededRandom random(life.seed + 7);
  Options o;
  o.create = true;
  o.memory = (3 + random.below(3)) * 1_MiB;
  o.undo_memory = 1_MiB;
  o.wal_limit = (4 + random.below(4)) * 1_MiB;
  o.flush_interval = std::chrono::milliseconds(2 + random.below(9));
  o.io = life.number % 2 == 0 ? IoBackend::automatic : IoBackend::posix;
  return o;
}

int give_up(const Life& life, KillBoard& board, const char* call, const Error& e) {
  if (board.limited == life.number && of_file_limit(e)) {
    ++board.limit_hits;
    return 0;
  }
  board.complain(
      "error", std::string(call) + " in life " + std::to_string(life.number) + ": " + e.message());
  return 1;
}

void work(Database& db, const Tree& tree, const Life& life, KillBoard& board, Bank& bank) {
  const unsigned threads = 2 + static_cast<unsigned>(life.seed % (kMostKillThreads - 1));
  std::deque<Committer> committers;
  for (unsigned t = 0; t < threads; ++t)
    committers.emplace_back(db, tree, life, board, bank, t, threads);
  board.stage = at_stage(life.number, Stage::working);
  std::vector<io::Thread> running;
  running.reserve(threads);
  for (Committer& c : committers) running.emplace_back("torture", [&c] { c.run(); });
  running.clear();
  // Callbacks that are still due hold on to the committers.
  board.stage = at_stage(life.number, Stage::closing);
  if (auto closed = db.close(); !closed) (void)give_up(life, board, "close", closed.error());
}

}  // namespace

int live(const Life& life, KillBoard& board) {
  settle_in(life);
  auto db = Database::open(life.store, options_of(life));
  if (!db) return give_up(life, board, "open", db.error());
  if ((db->info().mode == "s2pl") != life.s2pl)
    return give_up(life, board, "open", Error(Code::wrong_mode, "the build is " + db->info().mode));
  ++board.progress;
  if (life.zombie) ++board.zombie_opens;
  auto tree = db->tree(kGroupTree, {.create = true});
  if (!tree) return give_up(life, board, "tree", tree.error());
  Comparison comparison(life, board);
  if (!comparison.run(*db, *tree)) return board.complaints == 0 ? 0 : 1;
  ++board.progress;
  if (life.check) {
    auto report = db->check();
    if (!report) return give_up(life, board, "check", report.error());
    if (!report->ok)
      return give_up(life, board, "check", Error(Code::damaged, report->damage.front().what));
  }
  if (!life.last) {
    work(*db, *tree, life, board, comparison.begin_journal());
  } else if (auto closed = db->close(); !closed) {
    return give_up(life, board, "close", closed.error());
  }
  return board.complaints == 0 ? 0 : 1;
}

int open_beside(const Life& life, KillBoard& board, bool read_only) {
  settle_in(life);
  Options o;
  o.read_only = read_only;
  o.open_timeout = std::chrono::milliseconds(5);
  auto db = Database::open(life.store, o);
  if (!db && db.error() == Code::locked) return 0;
  board.complain("not-locked", "beside life " + std::to_string(life.number) +
                                   ", which is stopped, another process " +
                                   (db ? "opened the store" : "was told " + db.error().message()));
  return 1;
}

}  // namespace kessai::torture
