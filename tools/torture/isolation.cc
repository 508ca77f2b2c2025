// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/isolation.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <ctime>
#include <filesystem>

#include "io/env.hpp"
#include "io/mutant.hpp"
#include "kessai/database.hpp"
#include "tools/interrupt.hpp"
#include "tools/torture/black_box.hpp"
#include "tools/torture/ended.hpp"
#include "tools/torture/resolve.hpp"
#include "tools/torture/white_box.hpp"

namespace kessai::torture {
namespace {

// Of this process: the children's time is not the checker's.
double cpu_s() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }
double now_s() { return static_cast<double>(io::system_clock().now_ns()) / 1e9; }

class Runner {
 public:
  explicit Runner(const IsolationPlan& plan) : plan_(plan) {}

  IsolationResult run() {
    const double begin = now_s();
    std::error_code unmade;  // the open says what is wrong
    std::filesystem::create_directories(plan_.directory, unmade);
    for (std::uint32_t history = plan_.first_history;; ++history) {
      run_history(history);
      result_.seconds = now_s() - begin;
      if (!result_.violations.empty()) {
        result_.bad_history = history;
        break;
      }
      if (plan_.most_histories != 0 && result_.histories >= plan_.most_histories) break;
      if (plan_.most_histories == 0 && result_.seconds >= plan_.seconds) break;
      if (tools::interrupted() || (plan_.go_on && !plan_.go_on(result_))) break;
    }
    std::error_code ignored;
    std::filesystem::remove_all(store_path(), ignored);
    return std::move(result_);
  }

 private:
  [[nodiscard]] std::string store_path() const { return plan_.directory + "/store"; }

  void run_history(std::uint32_t history) {
    Plan p = Plan::drawn(plan_.seed, history);
    p.level = plan_.level;
    p.s2pl = plan_.s2pl;
    io::SeededRandom random(plan_.seed * 31 + history);
    unsigned last = 0;  // incarnation
    if (history % 5 == 0) {
      p.markers = true;
      p.epochs = 150;
      last = 1 + static_cast<unsigned>(random.below(kMostIncarnations - 1));
    }
    board_.clear();
    bool whole = true;
    for (unsigned incarnation = 0; incarnation <= last && whole; ++incarnation)
      whole = run_child(p, incarnation, incarnation == last, random);
    for (const Complaint& c : board_->complaints.all()) violation(c.kind, c.text, p);
    if (!whole) return;
    check(p, last);
    ++result_.histories;
  }

  // False: it did not end as it should.
  bool run_child(const Plan& p, unsigned incarnation, bool last, io::SeededRandom& random) {
    board_->working = 0;
    const pid_t pid = fork();
    if (pid == 0) _exit(child(p, incarnation, last));
    if (pid < 0) {
      violation("error", std::string("fork: ") + std::strerror(errno), p);
      return false;
    }
    const Ended ended(pid);
    double kill_at = 0;  // set once it works
    const double delay = static_cast<double>(random.below(1000) * random.below(1000)) * 3e-7;
    std::uint64_t seen = 0;
    double seen_at = now_s();
    for (int status = 0;; ended.wait(1'000'000)) {
      if (waitpid(pid, &status, WNOHANG) == pid) return well_ended(p, status, last);
      const double now = now_s();
      if (const auto progress = board_->progress.load(); progress != seen) {
        seen = progress;
        seen_at = now;
      }
      if (!last && kill_at == 0 && board_->working != 0) kill_at = now + delay;
      const bool hangs = now - seen_at > plan_.hang_seconds;
      const bool wrong = board_->complaints.size() != 0;
      if (!hangs && !wrong && (kill_at == 0 || now < kill_at) && !tools::interrupted()) continue;
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      ++result_.kills;
      if (hangs) violation("hang", "no transaction ended for a long time", p);
      return !hangs && !wrong && !tools::interrupted();
    }
  }

  bool well_ended(const Plan& p, int status, bool last) {
    (void)last;  // an incarnation that should have been killed may have come to its end
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
    violation("crash",
              WIFEXITED(status)
                  ? "the process gave up with exit code " + std::to_string(WEXITSTATUS(status))
                  : "the process died of signal " + std::to_string(WTERMSIG(status)),
              p);
    return false;
  }

  int child(const Plan& p, unsigned incarnation, bool last) {
#if defined(KESSAI_TORTURE)
    io::set_mutant(plan_.mutant);
#endif
    Options o;
    o.create = true;
    o.memory = p.memory;
    o.undo_memory = p.undo_memory;
    o.wal_limit = p.wal_limit;
    o.flush_interval = std::chrono::milliseconds(2);
    o.lock_timeout = std::chrono::milliseconds(5000);
    auto db = Database::open(store_path(), o);
    if (!db) return complain("open", db.error());
    if ((db->info().mode == "s2pl") != p.s2pl)
      return complain("open", Error(Code::wrong_mode, "the build is " + db->info().mode));
    if (incarnation != 0) check_outcomes(*db, p, *board_, incarnation);
    run_workload(*db, p, *board_, incarnation, last);
    if (last && p.markers) collect_markers(*db, p, *board_);
    if (p.history % 4 == 0) {
      auto report = db->check();
      if (!report) return complain("check", report.error());
      if (!report->ok) return complain("check", Error(Code::damaged, report->damage.front().what));
    }
    if (auto closed = db->close(); !closed) return complain("close", closed.error());
    return 0;
  }
  int complain(const char* kind, const Error& e) {
    board_->complain(kind, e.message());
    return 1;
  }

  void check(const Plan& p, unsigned last) {
    const double begin = cpu_s();
    History h;
    h.s2pl = p.s2pl;
    h.keys = p.keys();
    for (const Lane& lane : board_->lanes)
      if (lane.transactions.size() != 0) h.add(lane);
    if (p.markers) {
      for (Violation& v : resolve(h, board_->markers.all(), last)) violation(v.kind, v.text, p);
    }
    const Index index(h);
    for (Violation& v : check_white_box(h, index)) violation("white-box " + v.kind, v.text, p);
    for (Violation& v : check_black_box(h, index)) violation("black-box " + v.kind, v.text, p);
    result_.checker_seconds += cpu_s() - begin;
    result_.transactions += h.transactions.size();
    result_.operations += h.ops.size();
    for (const Transaction& t : h.transactions) {
      result_.committed += t.fate() == Fate::committed ? 1 : 0;
      result_.aborted += t.fate() == Fate::aborted ? 1 : 0;
      result_.lost += t.fate() == Fate::lost ? 1 : 0;
    }
  }

  void violation(const std::string& kind, const std::string& text, const Plan& p) {
    result_.violations.push_back({kind, text + (text.ends_with('\n') ? "" : "\n") + "in history " +
                                            std::to_string(p.history) + " of seed " +
                                            std::to_string(p.seed) + ": " + p.text()});
  }

  const IsolationPlan& plan_;
  SharedBoard board_;
  IsolationResult result_;
};

}  // namespace

IsolationResult run_isolation(const IsolationPlan& plan) { return Runner(plan).run(); }

}  // namespace kessai::torture
