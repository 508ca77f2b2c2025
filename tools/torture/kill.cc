// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/kill.hpp"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <span>
#include <utility>

#include "io/env.hpp"
#include "io/sync.hpp"
#include "tools/interrupt.hpp"
#include "tools/torture/ended.hpp"
#include "tools/torture/kill_life.hpp"

namespace kessai::torture {
namespace {

constexpr std::array<std::string_view, 13> kKillMutants{
    "ack_before_write",    "ack_before_completion",  "void_parts_applied",
    "stale_salt_accepted", "cut_commit_forgotten",   "window_lost",
    "window_keeps_first",  "modify_without_capture", "reuse_ignores_building",
    "live_map_written",    "low_after_cut",          "evict_missed_by_cut",
    "footer_before_header"};
constexpr std::uint32_t kLivesOfStore = 200;  // then a fresh one
constexpr std::uint32_t kCheckEvery = 8;      // lives
constexpr std::uint32_t kMostStores = 8;
constexpr double kLookS = 0.1;              // between two looks at whether all is over
constexpr std::uint64_t kStepNs = 200'000;  // between two looks at the stage

double now_s() { return static_cast<double>(io::system_clock().now_ns()) / 1e9; }

// How a life ends; what is drawn for it.
enum class Method : std::uint8_t {
  kill,           // at work
  kill_opening,   // some time after its start, mostly before it works
  kill_stopped,   // stopped at work, a second opener beside it
  limit,          // its files can grow no more, then killed
  limit_opening,  // the same from the start
  close,          // told to stop; perhaps killed before it has
};

struct End {
  Method method = Method::kill;
  double after_s = 0;  // since it works; kill_opening: since its start
  double then_s = 0;   // limit, close: how much later it is killed
  bool killed = true;  // close: whether it is
  std::uint64_t file_limit = 0;
  bool read_only_opener = false;
  bool leave_zombie = false;  // the next life does not wait until it is gone
};

End drawn_end(io::SeededRandom& random, bool first) {
  constexpr Method kMethods[16] = {
      Method::kill,         Method::kill,         Method::kill,         Method::kill,
      Method::kill,         Method::kill,         Method::kill,         Method::kill,
      Method::kill_opening, Method::kill_opening, Method::kill_opening, Method::kill_stopped,
      Method::limit,        Method::limit,        Method::close,        Method::limit_opening};
  // Mostly soon, sometimes late.
  const auto some_ms = [&](double most) {
    return static_cast<double>(random.below(1000) * random.below(1000)) * 1e-9 * most;
  };
  End e;
  e.method = kMethods[random.below(first ? 11 : std::size(kMethods))];
  e.after_s = e.method == Method::kill_opening ? static_cast<double>(random.below(50'000)) * 1e-6
                                               : some_ms(30);
  e.then_s = some_ms(20);
  e.killed = e.method != Method::close || random.below(2) == 0;
  e.file_limit = std::uint64_t{1} << (random.below(3) == 0 ? 12 : 16 + random.below(7));
  e.read_only_opener = random.below(2) == 0;
  e.leave_zombie = random.below(2) == 0;
  return e;
}

// One store and its lives, one after the other. For one thread; `all_over` is shared.
class Runner {
 public:
  Runner(const KillPlan& plan, unsigned store, std::atomic<bool>& all_over)
      : plan_(plan),
        store_path_(plan.directory + "/store-" + std::to_string(store)),
        seed_(plan.seed * kMostStores + store),
        all_over_(all_over) {}

  KillResult run() {
    const double begin = now_s();
    for (std::uint32_t life = 1; !over(); ++life) {
      if (life % kLivesOfStore == 1) {
        if (life != 1) last_life(life);  // somebody has to look at what the one before left
        if (over()) break;               // the store is the evidence
        fresh_store();
      }
      cycle(life, life % kLivesOfStore == 1);
      result_.seconds = now_s() - begin;
      if (result_.seconds >= plan_.seconds) {
        if (!over()) last_life(life + 1);
        break;
      }
      if (plan_.watch) plan_.watch(result_.seconds);
    }
    bury();
    collect();
    return std::move(result_);
  }

 private:
  // One violation is enough for all.
  [[nodiscard]] bool over() {
    if (!result_.violations.empty() || board_->complaints != 0) all_over_ = true;
    return all_over_ || tools::interrupted();
  }

  void fresh_store() {
    bury();
    std::error_code ignored;
    std::filesystem::remove_all(store_path_, ignored);
    board_->forget();
  }

  [[nodiscard]] Life drawn_life(std::uint32_t number) const {
    Life life;
    life.store = store_path_;
    life.number = number;
    life.seed = io::SeededRandom(seed_ * 7919 + number).next() >> 8;
    life.s2pl = plan_.s2pl;
    life.zombie = zombie_ != 0;
    life.check = number % kCheckEvery == 0;
    life.mutant = plan_.mutant;
    return life;
  }

  // ---- one life --------------------------------------------------------------------------------

  void cycle(std::uint32_t number, bool first) {
    io::SeededRandom random(seed_ * 1'000'003 + number);
    const End end = drawn_end(random, first);
    Life life = drawn_life(number);
    if (end.method == Method::limit_opening) {
      life.file_limit = end.file_limit;
      board_->limited = number;
    }
    if (!start(life)) return;
    bury();
    ++result_.cycles;
    const Ended ended(pid_);
    if (!until_due(life, end, ended)) return;
    if (end.method == Method::kill_stopped && !stop(life, end)) return;
    if (end.method == Method::limit) limit_files(life, end);
    if (end.method == Method::close) board_->stop = number;
    if (end.then_s > 0 && (end.method == Method::limit || end.method == Method::close) &&
        !wait(ended, end.then_s))
      return;
    if (!end.killed) return await_end(ended, "close");
    kill_it(end.leave_zombie);
  }

  bool start(const Life& life) {
    pid_ = fork();
    if (pid_ == 0) _exit(live(life, *board_));
    if (pid_ > 0) return true;
    violation("error", std::string("fork: ") + std::strerror(errno));
    return false;
  }

  // False: it ended before its time, or there is something wrong.
  bool until_due(const Life& life, const End& end, const Ended& ended) {
    if (end.method == Method::kill_opening) return wait(ended, end.after_s);
    const double began = now_s();
    while (board_->stage != at_stage(life.number, Stage::working)) {
      if (board_->stage == at_stage(life.number, Stage::closing)) break;
      if (now_s() - began > plan_.hang_seconds) return hangs("an open");
      if (!wait(ended, static_cast<double>(kStepNs) / 1e9)) return false;
    }
    return wait(ended, end.after_s);
  }

  // False: it ended, or was ended, meanwhile.
  bool wait(const Ended& ended, double seconds) {
    const double until = now_s() + seconds;
    do {
      int status = 0;
      if (waitpid(pid_, &status, WNOHANG) == pid_) return judge(status), false;
      if (over()) return kill_it(false), false;
      const double left = until - now_s();
      if (left > 0) ended.wait(static_cast<std::uint64_t>(std::min(left, kLookS) * 1e9));
    } while (now_s() < until);
    return true;
  }

  void await_end(const Ended& ended, const char* call) {
    std::uint64_t seen = board_->progress;
    while (wait(ended, plan_.hang_seconds)) {
      if (const std::uint64_t now = board_->progress; now == seen) {
        (void)hangs(call);
        return;
      } else {
        seen = now;
      }
    }
  }

  bool hangs(const std::string& what) {
    violation("hang", what + " did not end");
    kill_it(false);
    return false;
  }

  // Stopped, a second process must be refused: what holds the lock is alive.
  bool stop(const Life& life, const End& end) {
    kill(pid_, SIGSTOP);
    int status = 0;
    if (waitpid(pid_, &status, WUNTRACED) != pid_ || !WIFSTOPPED(status))
      return judge(status), false;
    if (board_->stage != at_stage(life.number, Stage::working)) return true;  // perhaps closed
    const pid_t other = fork();
    if (other == 0) _exit(open_beside(life, *board_, end.read_only_opener));
    if (other < 0) return true;
    const Ended ended(other);
    const double until = now_s() + plan_.hang_seconds;
    while (waitpid(other, &status, WNOHANG) != other) {
      ended.wait(static_cast<std::uint64_t>(kLookS * 1e9));
      if (now_s() < until && !over()) continue;
      if (!over()) violation("hang", "a second open was not refused in its time");
      kill(other, SIGKILL);
      waitpid(other, &status, 0);
      return true;
    }
    ++result_.stopped;
    if (!WIFEXITED(status)) violation("crash", "a second open died");
    return true;
  }

  void limit_files(const Life& life, const End& end) {
    board_->limited = life.number;
    const rlimit limit{end.file_limit, RLIM_INFINITY};
    prlimit(pid_, RLIMIT_FSIZE, &limit, nullptr);
  }

  void kill_it(bool leave_zombie) {
    kill(pid_, SIGKILL);
    ++result_.kills;
    zombie_ = std::exchange(pid_, 0);
    if (!leave_zombie) bury();
  }

  // The killed process that may still be going away. One that came to its own end first is judged.
  void bury() {
    if (zombie_ == 0) return;
    int status = 0;
    while (waitpid(zombie_, &status, 0) < 0 && errno == EINTR) {
    }
    zombie_ = 0;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return;
    --result_.kills;
    judge(status);
  }

  void judge(int status) {
    if (WIFEXITED(status) && WEXITSTATUS(status) <= 1) return;  // 1: there is a complaint
    violation("crash", WIFEXITED(status)
                           ? "a life gave up with exit code " + std::to_string(WEXITSTATUS(status))
                           : "a life died of signal " + std::to_string(WTERMSIG(status)));
  }

  // Looks at the end of the last cycle, and at everything else.
  void last_life(std::uint32_t number) {
    Life life = drawn_life(number);
    life.last = true;
    life.check = true;
    if (!start(life)) return;
    bury();
    const Ended ended(pid_);
    await_end(ended, "the last look");
  }

  void collect() {
    result_.commits = board_->commits;
    result_.acked = board_->acked;
    result_.lost = board_->lost;
    result_.half_applied = board_->half_applied;
    result_.file_limit_hits = board_->limit_hits;
    result_.zombie_opens = board_->zombie_opens;
    for (const Complaint& c : board_->complaint)
      if (c.kind[0] != '\0') violation(c.kind, c.text);
  }

  void violation(const std::string& kind, const std::string& text) {
    result_.violations.push_back({kind, text});
  }

  const KillPlan& plan_;
  const std::string store_path_;
  const std::uint64_t seed_;
  std::atomic<bool>& all_over_;
  SharedKillBoard board_;
  KillResult result_;
  pid_t pid_ = 0;
  pid_t zombie_ = 0;
};

KillResult sum_of(std::span<const KillResult> results) {
  KillResult sum;
  for (const KillResult& r : results) {
    for (const auto field :
         {&KillResult::kills, &KillResult::cycles, &KillResult::commits, &KillResult::acked,
          &KillResult::lost, &KillResult::half_applied, &KillResult::stopped,
          &KillResult::file_limit_hits, &KillResult::zombie_opens})
      sum.*field += r.*field;
    sum.seconds = std::max(sum.seconds, r.seconds);
    sum.violations.insert(sum.violations.end(), r.violations.begin(), r.violations.end());
  }
  return sum;
}

}  // namespace

bool is_kill_mutant(std::string_view name) {
  return name.empty() || std::ranges::find(kKillMutants, name) != kKillMutants.end();
}

KillResult run_kill(const KillPlan& given) {
  // A folder of this run's own: what else lies there is somebody's.
  KillPlan plan = given;
  plan.directory += "/kill-" + std::to_string(getpid());
  std::error_code error;
  const bool made = std::filesystem::create_directories(given.directory, error);
  if (!error) std::filesystem::create_directory(plan.directory, error);
  if (error) {
    KillResult none;
    none.violations.push_back({"error", plan.directory + ": " + error.message()});
    return none;
  }
  std::atomic<bool> all_over{false};
  std::vector<KillResult> results(std::clamp(plan.stores, 1u, kMostStores));
  KillPlan quiet = plan;
  quiet.watch = {};
  {
    std::vector<io::Thread> others;
    for (unsigned i = 1; i < results.size(); ++i)
      others.emplace_back("kill", [&, i] { results[i] = Runner(quiet, i, all_over).run(); });
    results[0] = Runner(plan, 0, all_over).run();
  }
  KillResult sum = sum_of(results);
  if (!sum.violations.empty()) {
    sum.violations.back().text += "\nthe stores are kept in " + plan.directory;
    return sum;
  }
  std::filesystem::remove_all(plan.directory, error);
  if (made) std::filesystem::remove(given.directory, error);
  return sum;
}

}  // namespace kessai::torture
