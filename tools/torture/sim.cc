// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/sim.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <list>

#include "io/mutant.hpp"
#include "tools/interrupt.hpp"
#include "tools/torture/mutants.hpp"

namespace kessai::torture {
namespace {

using crash::CrashHarness;
using crash::CrashPlan;
using crash::CrashRun;
using tools::Json;

// Version of what a replay file means: a change of the workload makes old files meaningless.
constexpr int kReplayVersion = 3;
constexpr double kShrinkSeconds = 30;
constexpr std::uint64_t kSchedules = 100;  // of a history
constexpr std::uint64_t kTrials = 256;     // of a history of damaged media
constexpr std::string_view kMode = KESSAI_S2PL != 0 ? "s2pl" : "mvcc";

double now_s() { return static_cast<double>(io::system_clock().now_ns()) / 1e9; }

// ---- a child ------------------------------------------------------------------------------------

Json to_json(const CrashRun& r) {
  Json media = Json::object();
  for (const auto& [what, n] : r.media)
    media[what] = {n.injected, n.detected, n.harmless, n.unproven};
  return {{"points", r.points},           {"outcomes", r.outcomes},
          {"distinct", r.distinct},       {"nested", r.nested},
          {"commits", r.commits},         {"faults", r.faults},
          {"media", std::move(media)},    {"small_histories", r.small_histories},
          {"schedules", r.schedules},     {"switches", r.switches},
          {"preemptions", r.preemptions}, {"complete", r.complete},
          {"trace_hash", r.trace_hash},   {"violation", r.violation.value_or("")},
          {"violated_at", r.violated_at}};
}

void add(CrashRun& sum, const Json& r) {
  sum.points += r.at("points").get<std::uint64_t>();
  sum.outcomes += r.at("outcomes").get<std::uint64_t>();
  sum.distinct += r.at("distinct").get<std::uint64_t>();
  sum.nested += r.at("nested").get<std::uint64_t>();
  sum.commits += r.at("commits").get<std::uint64_t>();
  sum.schedules += r.at("schedules").get<std::uint64_t>();
  sum.switches += r.at("switches").get<std::uint64_t>();
  sum.preemptions += r.at("preemptions").get<std::uint64_t>();
  sum.small_histories += r.at("small_histories").get<std::uint64_t>();
  sum.complete = sum.complete || r.at("complete").get<bool>();
  sum.trace_hash ^= r.at("trace_hash").get<std::uint64_t>();
  for (const auto& [what, n] : r.at("faults").items()) sum.faults[what] += n.get<std::uint64_t>();
  for (const auto& [what, n] : r.at("media").items()) {
    crash::FaultCount& c = sum.media[what];
    c.injected += n.at(0).get<std::uint64_t>();
    c.detected += n.at(1).get<std::uint64_t>();
    c.harmless += n.at(2).get<std::uint64_t>();
    c.unproven += n.at(3).get<std::uint64_t>();
  }
  if (const std::string v = r.at("violation"); !v.empty() && !sum.violation) {
    sum.violation = v;
    sum.violated_at = r.at("violated_at").get<std::uint64_t>();
  }
}

CrashRun run_here(const SimCase& c, const std::function<bool()>& go_on) {
  if (c.exhaustive) {
    return crash::exhaustive_run(
        {.preemptions = *c.exhaustive, .seed = c.plan.seed, .go_on = go_on});
  }
  if (c.schedule.schedules != 0) {
    crash::SchedulePlan plan = c.schedule;
    plan.go_on = go_on;
    return crash::schedule_run(plan);
  }
  if (c.small.steps != 0) {
    crash::SmallPlan plan = c.small;
    plan.go_on = go_on;
    return crash::small_run(plan);
  }
  if (c.media.trials != 0) {
    crash::MediaPlan plan = c.media;
    plan.go_on = go_on;
    return crash::media_run(plan);
  }
  CrashPlan plan = c.plan;
  plan.go_on = go_on;
  return CrashHarness(plan).run();
}

int child(const SimCase& c, double deadline, int pipe) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
#if defined(KESSAI_TORTURE)
  io::set_mutant(c.mutant);
#endif
  std::function<bool()> go_on;
  if (deadline != 0) go_on = [deadline] { return now_s() < deadline; };
  const std::string text = to_json(run_here(c, go_on)).dump();
  const char* at = text.data();
  for (std::size_t left = text.size(); left != 0;) {
    const ssize_t n = write(pipe, at, left);
    if (n <= 0) return 1;
    at += n;
    left -= static_cast<std::size_t>(n);
  }
  return 0;
}

class Child {
 public:
  Child(SimCase c, double deadline, double hang_seconds)
      : case_(std::move(c)), hangs_at_(now_s() + hang_seconds) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return;
    pid_ = fork();
    if (pid_ == 0) _exit(child(case_, deadline, ends[1]));
    close(ends[1]);
    pipe_ = ends[0];
  }
  ~Child() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    if (pipe_ >= 0) close(pipe_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  [[nodiscard]] int fd() const { return pipe_; }
  [[nodiscard]] const SimCase& what() const { return case_; }
  [[nodiscard]] bool hangs() const { return now_s() > hangs_at_; }

  /// Takes what there is to read. True: it has ended, and `sum` has its result.
  bool take(CrashRun& sum) {
    char buffer[4096];
    const ssize_t n = pipe_ >= 0 ? read(pipe_, buffer, sizeof buffer) : 0;
    if (n > 0) text_.append(buffer, static_cast<std::size_t>(n));
    if (n > 0 || (n < 0 && errno == EINTR)) return false;
    int status = 0;
    const bool waited = pid_ > 0 && waitpid(std::exchange(pid_, -1), &status, 0) > 0;
    const Json row = Json::parse(text_, nullptr, false);
    if (waited && WIFEXITED(status) && WEXITSTATUS(status) == 0 && row.is_object())
      add(sum, row);
    else
      fail(sum, !waited               ? std::string("it could not be started")
                : WIFSIGNALED(status) ? std::string("it died of ") + strsignal(WTERMSIG(status))
                                      : "it ended with " + std::to_string(WEXITSTATUS(status)));
    return true;
  }
  void fail(CrashRun& sum, const std::string& what) const {
    if (!sum.violation)
      sum.violation = "seed " + std::to_string(case_.plan.seed) + ": the process: " + what;
  }

 private:
  SimCase case_;
  pid_t pid_ = -1;
  int pipe_ = -1;
  double hangs_at_;
  std::string text_;
};

// ---- making a history small ---------------------------------------------------------------------

using Still = std::function<bool(const SimCase&)>;

/// The one schedule that fails, with fewer threads, transactions and preemptions, without crashes.
SimCase shrunk_schedule(SimCase bad, const Still& still) {
  using crash::SchedulePlan;
  if (bad.schedule.only == SchedulePlan::kAll) {
    // How many schedules it takes until one fails: also where the process died and could not tell.
    std::uint64_t passes = 0, fails = bad.schedule.schedules;
    while (fails - passes > 1) {
      SimCase fewer = bad;
      fewer.schedule.schedules = passes + (fails - passes) / 2;
      (still(fewer) ? fails : passes) = fewer.schedule.schedules;
    }
    SimCase alone = bad;
    alone.schedule.schedules = fails;
    alone.schedule.only = fails - 1;
    if (!still(alone)) return bad;
    bad = alone;
  }
  for (bool SchedulePlan::* part : {&SchedulePlan::crashes, &SchedulePlan::page_points}) {
    SimCase plainer = bad;
    plainer.schedule.*part = false;
    if (still(plainer)) bad = plainer;
  }
  for (unsigned SchedulePlan::* count :
       {&SchedulePlan::most_clients, &SchedulePlan::most_transactions}) {
    for (unsigned n = 1; n < bad.schedule.*count; ++n) {
      SimCase smaller = bad;
      smaller.schedule.*count = n;
      if (!still(smaller)) continue;
      bad = smaller;
      break;
    }
  }
  for (std::uint64_t n = 0; n <= 64 && n < bad.schedule.most_preemptions;
       n = n < 4 ? n + 1 : 2 * n) {
    SimCase calmer = bad;
    calmer.schedule.most_preemptions = n;
    if (!still(calmer)) continue;
    bad = calmer;
    break;
  }
  return bad;
}

/// Tries shorter and plainer histories, and the crash alone, while the time lasts.
SimCase shrunk(SimCase bad, double hang_seconds) {
  const double until = now_s() + kShrinkSeconds;
  const Still still = [&](const SimCase& c) {
    return now_s() < until && !tools::interrupted() &&
           run_case(c, std::min(hang_seconds, until - now_s())).sum.violation.has_value();
  };
  if (bad.exhaustive) return bad;  // the shortest there is
  if (bad.small.steps != 0) {      // so is the first of these
    SimCase alone = bad;
    alone.small.from = run_case(bad, hang_seconds).sum.violated_at;
    alone.small.count = 1;
    return still(alone) ? alone : bad;
  }
  if (bad.media.trials != 0) {
    SimCase alone = bad;
    alone.media.only = run_case(bad, hang_seconds).sum.violated_at;
    return still(alone) ? alone : bad;
  }
  if (bad.schedule.schedules != 0) return shrunk_schedule(std::move(bad), still);
  for (int n = bad.plan.transactions / 2; n >= 3; n /= 2) {
    SimCase smaller = bad;
    smaller.plan.transactions = n;
    if (!still(smaller)) break;
    bad = smaller;
  }
  for (bool CrashPlan::* part : {&CrashPlan::faults, &CrashPlan::trees, &CrashPlan::large,
                                 &CrashPlan::long_values, &CrashPlan::reader}) {
    if (!(bad.plan.*part)) continue;
    SimCase plainer = bad;
    plainer.plan.*part = false;
    if (still(plainer)) bad = plainer;
  }
  if (now_s() >= until) return bad;
  SimCase alone = bad;
  alone.plan.only_op = run_case(bad, std::min(hang_seconds, until - now_s())).sum.violated_at;
  return still(alone) ? alone : bad;
}

}  // namespace

SimCase SimCase::drawn(std::uint64_t seed, Kind kind) {
  io::SeededRandom random(seed * 0x2545f4914f6cdd1d + 1);
  SimCase c;
  c.schedule.seed = seed;
  const bool threads = random.below(2) == 0;
  if (kind == Kind::schedules || (kind == Kind::mixed && threads))
    c.schedule.schedules = kSchedules;
  c.plan.seed = seed;
  c.plan.transactions = 20 + static_cast<int>(random.below(180));
  c.plan.faults = random.below(2) == 0;
  c.plan.trees = random.below(4) != 0;
  c.plan.large = random.below(4) != 0;
  c.plan.long_values = random.below(4) != 0;
  c.plan.reader = random.below(3) != 0;
  c.plan.every_nested = random.below(16) == 0;
  // Every operation of a few histories, some operations of many.
  static constexpr std::array<std::uint64_t, 4> kEvery{1, 4, 16, 64};
  c.plan.every = kEvery[random.below(c.plan.every_nested ? 2 : 4) + (c.plan.every_nested ? 2 : 0)];
  c.plan.interrupt_odds = random.below(2) == 0 ? 0 : 4 + random.below(20);
  c.media.seed = seed;
  if (kind == Kind::media || (kind == Kind::mixed && !threads && random.below(2) == 0))
    c.media.trials = kTrials;
  return c;
}

Json SimCase::to_json() const {
  return {{"kvtorture_replay", kReplayVersion},
          {"command", "sim"},
          {"mode", kMode},
          {"seed", plan.seed},
          {"transactions", plan.transactions},
          {"every", plan.every},
          {"every_nested", plan.every_nested},
          {"faults", plan.faults},
          {"trees", plan.trees},
          {"large", plan.large},
          {"long_values", plan.long_values},
          {"reader", plan.reader},
          {"only_op", plan.only_op},
          {"interrupt_odds", plan.interrupt_odds},
          {"schedules", schedule.schedules},
          {"only_schedule", schedule.only},
          {"most_clients", schedule.most_clients},
          {"most_transactions", schedule.most_transactions},
          {"crashes", schedule.crashes},
          {"page_points", schedule.page_points},
          {"most_preemptions", schedule.most_preemptions},
          {"trials", media.trials},
          {"only_trial", media.only},
          {"steps", small.steps},
          {"from_small", small.from},
          {"count_small", small.count},
          {"exhaustive", exhaustive ? Json(*exhaustive) : Json()},
          {"mutant", mutant}};
}

Result<SimCase> SimCase::from_file(const std::string& path) {
  const auto wrong = [&](Code code, std::string what) {
    return std::unexpected(Error(code, ErrorDetail{.what = std::move(what), .path = path}));
  };
  std::ifstream in(path);
  if (!in) return wrong(Code::invalid_argument, "the replay file cannot be read");
  const Json j = Json::parse(in, nullptr, false);
  if (!j.is_object() || !j.contains("kvtorture_replay"))
    return wrong(Code::invalid_argument, "this is no replay file of kvtorture");
  if (j["kvtorture_replay"] != kReplayVersion)
    return wrong(Code::newer_format,
                 "the replay file is of version " + j["kvtorture_replay"].dump() +
                     ", this kvtorture replays version " + std::to_string(kReplayVersion));
  try {
    if (const std::string mode = j.at("mode"); mode != kMode)
      return wrong(Code::wrong_mode, "the replay file is of mode " + mode);
    SimCase c;
    j.at("seed").get_to(c.plan.seed);
    j.at("transactions").get_to(c.plan.transactions);
    j.at("every").get_to(c.plan.every);
    j.at("every_nested").get_to(c.plan.every_nested);
    j.at("faults").get_to(c.plan.faults);
    j.at("trees").get_to(c.plan.trees);
    j.at("large").get_to(c.plan.large);
    j.at("long_values").get_to(c.plan.long_values);
    j.at("reader").get_to(c.plan.reader);
    j.at("only_op").get_to(c.plan.only_op);
    j.at("interrupt_odds").get_to(c.plan.interrupt_odds);
    c.schedule.seed = c.plan.seed;
    j.at("schedules").get_to(c.schedule.schedules);
    j.at("only_schedule").get_to(c.schedule.only);
    j.at("most_clients").get_to(c.schedule.most_clients);
    j.at("most_transactions").get_to(c.schedule.most_transactions);
    j.at("crashes").get_to(c.schedule.crashes);
    j.at("page_points").get_to(c.schedule.page_points);
    j.at("most_preemptions").get_to(c.schedule.most_preemptions);
    c.media.seed = c.plan.seed;
    j.at("trials").get_to(c.media.trials);
    j.at("only_trial").get_to(c.media.only);
    j.at("steps").get_to(c.small.steps);
    j.at("from_small").get_to(c.small.from);
    j.at("count_small").get_to(c.small.count);
    if (const Json& e = j.at("exhaustive"); !e.is_null()) c.exhaustive = e.get<unsigned>();
    j.at("mutant").get_to(c.mutant);
    if (!is_mutant_of("sim", c.mutant))
      return wrong(Code::invalid_argument, "no planted bug is called " + c.mutant);
    if (c.plan.every == 0) return wrong(Code::invalid_argument, "\"every\" must be 1 or more");
    return c;
  } catch (const Json::exception& e) {
    return wrong(Code::invalid_argument, e.what());
  }
}

SimResult run_case(const SimCase& c, double hang_seconds) {
  SimResult result;
  const double begin = now_s();
  Child one(c, 0, hang_seconds);
  for (;;) {
    pollfd p{one.fd(), POLLIN, 0};
    (void)poll(&p, 1, 100);
    if ((one.fd() < 0 || p.revents != 0) && one.take(result.sum)) break;
    if (!one.hangs() && !tools::interrupted()) continue;
    if (!tools::interrupted()) one.fail(result.sum, "it takes too long");
    break;
  }
  result.histories = 1;
  result.seconds = now_s() - begin;
  return result;
}

SimResult run_sim(const SimPlan& plan) {
  SimResult result;
  const bool timed = plan.most_histories == 0;
  const double begin = now_s(), deadline = timed ? begin + plan.seconds : 0;
  std::list<Child> children;
  std::uint64_t next = plan.seed;
  const bool small = plan.kind == SimCase::Kind::small;
  const std::uint64_t all_small = small ? crash::small_histories(plan.steps) : 0;
  const std::uint64_t some_small = std::max<std::uint64_t>(16, all_small / 100);
  while (!result.sum.violation && !tools::interrupted()) {
    const auto more = [&] {
      if (plan.exhaustive && next != plan.seed) return false;  // one search
      if (small && (next - plan.seed) * some_small >= all_small) return false;
      return timed ? now_s() < deadline : next - plan.seed < plan.most_histories;
    };
    while (children.size() < plan.jobs && more()) {
      SimCase c = SimCase::drawn(next++, plan.kind);
      if (small) {
        c.small.steps = plan.steps;
        c.small.from = (next - 1 - plan.seed) * some_small;
        c.small.count = some_small;
      }
      c.exhaustive = plan.exhaustive;
      c.mutant = plan.mutant;
      if (plan.every != 0) c.plan.every = plan.every;
      children.emplace_back(std::move(c), deadline, plan.hang_seconds);
    }
    if (children.empty()) break;
    std::vector<pollfd> fds;
    for (const Child& c : children) fds.push_back({c.fd(), POLLIN, 0});
    (void)poll(fds.data(), fds.size(), 100);
    auto fd = fds.begin();
    for (auto c = children.begin(); c != children.end(); ++fd) {
      const bool ended = (c->fd() < 0 || fd->revents != 0) && c->take(result.sum);
      const bool hangs = !ended && c->hangs();
      if (hangs) c->fail(result.sum, "it takes too long");
      if (result.sum.violation && !result.bad) result.bad = c->what();
      result.histories += ended;
      c = ended || hangs ? children.erase(c) : std::next(c);
    }
    result.seconds = now_s() - begin;
    if (plan.show) plan.show(result);
  }
  children.clear();
  if (small) result.sum.complete = result.sum.small_histories == all_small;
  if (result.bad && plan.shrink) result.bad = shrunk(*result.bad, plan.hang_seconds);
  return result;
}

}  // namespace kessai::torture
