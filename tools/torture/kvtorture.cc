// SPDX-License-Identifier: Apache-2.0
// kvtorture: breaks kessai on purpose and looks whether it keeps its promises.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "io/env.hpp"
#include "kessai/database.hpp"
#include "tools/cli.hpp"
#include "tools/interrupt.hpp"
#include "tools/progress.hpp"
#include "tools/torture/isolation.hpp"
#include "tools/torture/kill.hpp"
#include "tools/torture/mutants.hpp"
#include "tools/torture/power.hpp"
#include "tools/torture/sim.hpp"

namespace kessai::torture {
namespace {

using tools::Json;

constexpr bool kS2pl = KESSAI_S2PL != 0;

struct Arguments {
  bool json = false;
  std::string mode = kS2pl ? "s2pl" : "mvcc";
  std::string level;
  std::string mutant;
  std::string finder;
  std::string directory;
  std::string fs = "ext4";
  std::string replay_file;
  bool no_shrink = false;
  bool both = false;
  bool markdown = false;
  unsigned jobs = 0;
  std::uint64_t every = 0;
  std::string kind = "mixed";
  unsigned steps = 3;
  int exhaustive = -1;
  double seconds = 10;
  double budget = 60;
  std::uint64_t seed = 0;
  std::uint32_t histories = 0;
  std::uint32_t from_history = 1;
};

std::string self_path() {
  char path[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  return n > 0 ? std::string(path, static_cast<std::size_t>(n)) : std::string();
}

// The concurrency mode is compiled in: the other one is the executable beside this one, kvtorture
// with the mode in its name, or without it when this one has it.
int run_other_mode(const std::string& mode, char** argv) {
  const std::string self = self_path();
  const std::string own = kS2pl ? "-s2pl" : "-mvcc";
  const std::string other =
      self.ends_with(own) ? self.substr(0, self.size() - own.size()) : self + "-" + mode;
  execv(other.c_str(), argv);
  tools::stderr_sink()(tools::render_error(
      Error(Code::not_supported, "there is no " + other + " for --mode " + mode), false, other));
  return tools::kExitUsage;
}

int refuse(const Arguments& a, const std::string& what) {
  tools::stderr_sink()(
      tools::render_error(Error(Code::invalid_argument, what), a.json, "arguments"));
  return tools::kExitUsage;
}

std::string scratch_folder(const Arguments& a) {
  if (!a.directory.empty()) return a.directory;
  const char* base = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe): one thread yet
  return std::string(base == nullptr || *base == '\0' ? "/var/tmp" : base) + "/kvtorture-" +
         std::to_string(getpid());
}

Json json_of(const std::vector<Violation>& violations) {
  Json out = Json::array();
  for (const Violation& v : violations) out.push_back({{"kind", v.kind}, {"text", v.text}});
  return out;
}

void print_result(const Arguments& a, const IsolationResult& r) {
  if (a.json || !tools::is_terminal(STDOUT_FILENO)) {
    tools::stdout_sink()(tools::json_line({{"transactions", r.transactions},
                                           {"checked_per_s", r.checked_per_s()},
                                           {"violations", json_of(r.violations)},
                                           {"mode", kS2pl ? "s2pl" : "mvcc"},
                                           {"level", a.level.empty() ? "mixed" : a.level},
                                           {"seed", a.seed},
                                           {"histories", r.histories},
                                           {"committed", r.committed},
                                           {"aborted", r.aborted},
                                           {"lost", r.lost},
                                           {"operations", r.operations},
                                           {"kills", r.kills},
                                           {"seconds", r.seconds}}));
    return;
  }
  using tools::grouped;
  tools::stdout_sink()(tools::render_fields(
      {{"transactions",
        fmt::format("{} ({} committed, {} aborted), {} operations", grouped(r.transactions),
                    grouped(r.committed), grouped(r.aborted), grouped(r.operations))},
       {"histories", grouped(r.histories)},
       {"kill -9", fmt::format("{}, {} unanswered or relaxed transactions taken back", r.kills,
                               grouped(r.lost))},
       {"checker", grouped(r.checked_per_s()) + " transactions/s"},
       {"violations", std::to_string(r.violations.size())}}));
}

int isolation(Arguments& a) {
  IsolationPlan plan;
  plan.s2pl = kS2pl;
  plan.directory = scratch_folder(a);
  plan.seconds = a.seconds;
  plan.seed = a.seed;
  plan.mutant = a.mutant;
  plan.most_histories = a.histories;
  plan.first_history = a.from_history;
  for (const auto level :
       {Isolation::read_committed, Isolation::snapshot, Isolation::serializable}) {
    if (a.level == level_name(level)) plan.level = level;
  }
  if (!a.level.empty() && a.level != "mixed" && !plan.level)
    return refuse(a, "--level takes read_committed, snapshot, serializable or mixed");
  if (!is_mutant_of("isolation", a.mutant))
    return refuse(a, "no planted bug is called " + a.mutant);
  tools::ProgressBar bar(!a.json);
  plan.go_on = [&](const IsolationResult& r) {
    const auto done = static_cast<std::uint64_t>(r.seconds * 1000);
    const auto total = static_cast<std::uint64_t>(a.seconds * 1000);
    bar.update("isolation", a.histories != 0 ? r.histories : done,
               a.histories != 0 ? a.histories : total,
               tools::grouped(r.transactions) + " transactions");
    return true;
  };
  const IsolationResult r = run_isolation(plan);
  bar.finish();
  for (const Violation& v : r.violations) tools::stderr_sink()(v.kind + ": " + v.text + "\n");
  if (!r.violations.empty()) {
    tools::stderr_sink()(fmt::format(
        "again: kvtorture isolation --mode {} --level {} --seed {} --from-history {}{}\n",
        kS2pl ? "s2pl" : "mvcc", a.level.empty() ? "mixed" : a.level, a.seed, r.bad_history,
        a.mutant.empty() ? "" : " --mutant " + a.mutant));
  }
  print_result(a, r);
  if (!r.violations.empty()) return tools::kExitNo;
  return tools::interrupted() ? tools::kExitInterrupted : tools::kExitOk;
}

int report(const Arguments& a, const SimResult& r) {
  const crash::CrashRun& sum = r.sum;
  const bool bad = sum.violation.has_value();
  if (bad) tools::stderr_sink()("violation: " + *sum.violation + "\n");
  if (a.json || !tools::is_terminal(STDOUT_FILENO)) {
    Json media = Json::object();
    for (const auto& [what, n] : sum.media)
      media[what] = {{"injected", n.injected},
                     {"detected", n.detected},
                     {"harmless", n.harmless},
                     {"unproven", n.unproven}};
    Json violations = Json::array();
    if (bad) violations.push_back({{"kind", "sim"}, {"text", *sum.violation}});
    tools::stdout_sink()(
        tools::json_line({{"seed", a.seed},
                          {"tried", sum.outcomes},
                          {"distinct", sum.distinct},
                          {"crash_points", sum.points},
                          {"nested", sum.nested},
                          {"preemptions", sum.preemptions},
                          {"faults", sum.faults},
                          {"media", std::move(media)},
                          {"violations", std::move(violations)},
                          {"seconds", r.seconds},
                          {"mode", kS2pl ? "s2pl" : "mvcc"},
                          {"histories", r.histories},
                          {"commits", sum.commits},
                          {"schedules", sum.schedules},
                          {"switches", sum.switches},
                          {"small_histories", sum.small_histories},
                          {"complete", sum.complete},
                          {"trace_hash", fmt::format("{:016x}", sum.trace_hash)}}));
  } else {
    using tools::grouped;
    crash::FaultCount media;
    for (const auto& [what, n] : sum.media) {
      media.injected += n.injected;
      media.detected += n.detected;
      media.harmless += n.harmless;
      media.unproven += n.unproven;
    }
    tools::stdout_sink()(tools::render_fields(
        {{"seed", std::to_string(a.seed)},
         {"histories", fmt::format("{}, {} commits", grouped(r.histories), grouped(sum.commits))},
         {"crash points", grouped(sum.points)},
         {"crash states",
          fmt::format(
              "{} tried, {} distinct and recovered, {} crashes inside "
              "recovery, {} states/s",
              grouped(sum.outcomes), grouped(sum.distinct), grouped(sum.nested),
              grouped(static_cast<std::uint64_t>(static_cast<double>(sum.distinct + sum.nested) /
                                                 std::max(r.seconds, 0.001))))},
         {"schedules", fmt::format("{}, {} switches, {} preemptions", grouped(sum.schedules),
                                   grouped(sum.switches), grouped(sum.preemptions))},
         {"faults of media", fmt::format("{}: {} detected, {} harmless, {} cut like a torn tail",
                                         grouped(media.injected), grouped(media.detected),
                                         grouped(media.harmless), grouped(media.unproven))},
         {"violations", bad ? "1" : "0"}}));
  }
  if (bad) return tools::kExitNo;
  return tools::interrupted() ? tools::kExitInterrupted : tools::kExitOk;
}

int sim(const Arguments& a) {
  if (!is_mutant_of("sim", a.mutant)) return refuse(a, "no planted bug is called " + a.mutant);
  SimPlan plan;
  plan.seconds = a.seconds;
  plan.seed = a.seed;
  plan.mutant = a.mutant;
  plan.shrink = !a.no_shrink;
  plan.every = a.every;
  plan.kind = a.kind == "crashes"     ? SimCase::Kind::crashes
              : a.kind == "schedules" ? SimCase::Kind::schedules
              : a.kind == "media"     ? SimCase::Kind::media
              : a.kind == "small"     ? SimCase::Kind::small
                                      : SimCase::Kind::mixed;
  plan.steps = a.steps;
  if (plan.kind == SimCase::Kind::small) plan.hang_seconds = 3600;
  if (a.exhaustive >= 0) {
    plan.exhaustive = static_cast<unsigned>(a.exhaustive);
    plan.hang_seconds = a.seconds + 60;
  }
  plan.most_histories = a.histories;
  plan.jobs =
      a.jobs != 0 ? a.jobs : static_cast<unsigned>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  tools::ProgressBar bar(!a.json);
  plan.show = [&](const SimResult& r) {
    bar.update("sim", static_cast<std::uint64_t>(r.seconds * 1000),
               static_cast<std::uint64_t>(a.seconds * 1000),
               tools::grouped(r.sum.distinct) + " crash states");
  };
  const SimResult r = run_sim(plan);
  bar.finish();
  if (r.bad && plan.shrink) {
    std::error_code ignored;
    if (!a.directory.empty()) std::filesystem::create_directories(a.directory, ignored);
    const std::string file =
        (a.directory.empty() ? "" : a.directory + "/") +
        fmt::format("kvtorture-{}-{}.replay", kS2pl ? "s2pl" : "mvcc", r.bad->plan.seed);
    const bool written = (std::ofstream(file) << r.bad->to_json().dump(1) << "\n").flush().good();
    tools::stderr_sink()(written
                             ? "again: kvtorture replay " + file + (kS2pl ? " --mode s2pl\n" : "\n")
                             : "the replay file " + file + " cannot be written; it says " +
                                   r.bad->to_json().dump() + "\n");
  }
  return report(a, r);
}

int replay(Arguments& a) {
  const auto c = SimCase::from_file(a.replay_file);
  if (!c) {
    tools::stderr_sink()(tools::render_error(c.error(), a.json, a.replay_file));
    return tools::kExitUsage;
  }
  a.seed = c->plan.seed;
  return report(a, run_case(*c, SimPlan().hang_seconds));
}

void print_result(const Arguments& a, const KillResult& r) {
  if (a.json || !tools::is_terminal(STDOUT_FILENO)) {
    tools::stdout_sink()(tools::json_line({{"kills", r.kills},
                                           {"acked", r.acked},
                                           {"lost", r.lost},
                                           {"half_applied", r.half_applied},
                                           {"seed", a.seed},
                                           {"mode", kS2pl ? "s2pl" : "mvcc"},
                                           {"seconds", r.seconds},
                                           {"cycles", r.cycles},
                                           {"cycles_per_s", r.cycles_per_s()},
                                           {"commits", r.commits},
                                           {"stopped", r.stopped},
                                           {"file_limit_hits", r.file_limit_hits},
                                           {"zombie_opens", r.zombie_opens},
                                           {"violations", json_of(r.violations)}}));
    return;
  }
  using tools::grouped;
  tools::stdout_sink()(tools::render_fields(
      {{"kill -9", fmt::format("{} in {} lives, {:.1f} lives/s", grouped(r.kills),
                               grouped(r.cycles), r.cycles_per_s())},
       {"acked", fmt::format("{} durable of {} commits", grouped(r.acked), grouped(r.commits))},
       {"lost", grouped(r.lost)},
       {"half applied", grouped(r.half_applied)},
       {"other ends",
        fmt::format("{} stopped, {} errors of limited files, {} opens beside a "
                    "process that was going away",
                    grouped(r.stopped), grouped(r.file_limit_hits), grouped(r.zombie_opens))},
       {"violations", std::to_string(r.violations.size())}}));
}

int kill_lives(const Arguments& a) {
  if (!is_kill_mutant(a.mutant)) return refuse(a, "no planted bug is called " + a.mutant);
  KillPlan plan;
  plan.s2pl = kS2pl;
  plan.directory = scratch_folder(a);
  plan.seconds = a.seconds;
  plan.seed = a.seed;
  plan.mutant = a.mutant;
  tools::ProgressBar bar(!a.json);
  plan.watch = [&](double seconds) {
    bar.update("kill", static_cast<std::uint64_t>(seconds * 1000),
               static_cast<std::uint64_t>(a.seconds * 1000));
  };
  const KillResult r = run_kill(plan);
  bar.finish();
  for (const Violation& v : r.violations) tools::stderr_sink()(v.kind + ": " + v.text + "\n");
  const bool good = r.violations.empty() && r.lost == 0 && r.half_applied == 0;
  if (!good) {
    tools::stderr_sink()(fmt::format("again: kvtorture kill --mode {} --seconds {} --seed {}{}\n",
                                     kS2pl ? "s2pl" : "mvcc", a.seconds, a.seed,
                                     a.mutant.empty() ? "" : " --mutant " + a.mutant));
  }
  print_result(a, r);
  if (!good) return tools::kExitNo;
  return tools::interrupted() ? tools::kExitInterrupted : tools::kExitOk;
}

void print_result(const Arguments& a, const PowerResult& r) {
  if (a.json || !tools::is_terminal(STDOUT_FILENO)) {
    tools::stdout_sink()(tools::json_line({{"cuts", r.cuts},
                                           {"acked", r.acked},
                                           {"lost", r.lost},
                                           {"half_applied", r.half_applied},
                                           {"seed", a.seed},
                                           {"mode", kS2pl ? "s2pl" : "mvcc"},
                                           {"fs", a.fs},
                                           {"seconds", r.seconds},
                                           {"cuts_per_s", r.cuts_per_s()},
                                           {"torn", r.torn},
                                           {"recordings", r.recordings},
                                           {"commits", r.commits},
                                           {"writes", r.writes},
                                           {"flushes", r.flushes},
                                           {"violations", json_of(r.violations)}}));
    return;
  }
  using tools::grouped;
  tools::stdout_sink()(tools::render_fields(
      {{"power cuts",
        fmt::format("{} of {} recordings, {} with writes after the last flush, "
                    "{:.1f} cuts/s",
                    grouped(r.cuts), grouped(r.recordings), grouped(r.torn), r.cuts_per_s())},
       {"disk",
        fmt::format("{}, {} writes, {} flushes", a.fs, grouped(r.writes), grouped(r.flushes))},
       {"acked", fmt::format("{} durable of {} commits", grouped(r.acked), grouped(r.commits))},
       {"lost", grouped(r.lost)},
       {"half applied", grouped(r.half_applied)},
       {"violations", std::to_string(r.violations.size())}}));
}

int power(const Arguments& a) {
  if (!is_kill_mutant(a.mutant) && !is_mutant_of("sim", a.mutant))
    return refuse(a, "no planted bug is called " + a.mutant);
  PowerPlan plan;
  plan.fs = a.fs;
  plan.s2pl = kS2pl;
  plan.directory = scratch_folder(a);
  plan.seconds = a.seconds;
  plan.seed = a.seed;
  plan.mutant = a.mutant;
  tools::ProgressBar bar(!a.json);
  plan.watch = [&](double seconds) {
    bar.update("power", static_cast<std::uint64_t>(seconds * 1000),
               static_cast<std::uint64_t>(a.seconds * 1000));
  };
  const auto r = run_power(plan);
  bar.finish();
  if (!r) {
    tools::stderr_sink()(tools::render_error(r.error(), a.json, "power"));
    return tools::exit_code(r.error().code());
  }
  for (const Violation& v : r->violations) tools::stderr_sink()(v.kind + ": " + v.text + "\n");
  const bool good = r->violations.empty() && r->lost == 0 && r->half_applied == 0;
  if (!good) {
    tools::stderr_sink()(
        fmt::format("again: kvtorture power --mode {} --fs {} --seconds {} --seed {}{}\n",
                    kS2pl ? "s2pl" : "mvcc", a.fs, a.seconds, a.seed,
                    a.mutant.empty() ? "" : " --mutant " + a.mutant));
  }
  print_result(a, *r);
  if (!good) return tools::kExitNo;
  return tools::interrupted() ? tools::kExitInterrupted : tools::kExitOk;
}

int mutants(const Arguments& a) {
  MutantPlan plan;
  plan.self = self_path();
  plan.directory = scratch_folder(a);
  plan.budget = a.budget;
  plan.seed = a.seed;
  plan.json = a.json || !tools::is_terminal(STDOUT_FILENO);
  plan.both = a.both;
  plan.finder = a.finder;
  plan.markdown = a.markdown;
  return run_mutants(plan);
}

int run(int argc, char** argv) {
  Arguments a;
  std::uint64_t drawn = 0;
  io::system_random().fill(std::as_writable_bytes(std::span(&drawn, 1)));
  a.seed = drawn >> 24;
  CLI::App app("Crash and isolation torture for kessai.", "kvtorture");
  app.set_version_flag("--version", std::string(version()));
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag("--json", a.json, "one JSON object a line");
  app.add_option("--seed", a.seed, "what it tries; drawn and printed when not given");
  app.add_option("--dir", a.directory, "where its stores live ($TMPDIR or /var/tmp)");
  const auto modes = CLI::IsMember({"mvcc", "s2pl"});

  auto* run_isolation = app.add_subcommand(
      "isolation", "random transactions, their histories checked from LSNs and as a graph");
  run_isolation->add_option("--mode", a.mode, "mvcc or s2pl")->check(modes);
  run_isolation->add_option("--level", a.level,
                            "read_committed, snapshot, serializable; a mix when not given");
  run_isolation->add_option("--seconds", a.seconds)->check(CLI::NonNegativeNumber);
  run_isolation->add_option("--histories", a.histories, "so many, whatever time it takes");
  run_isolation->add_option("--from-history", a.from_history, "the first to run");
  run_isolation->add_option("--mutant", a.mutant, "a planted bug, which it has to find");

  auto* run_sim = app.add_subcommand(
      "sim", "crashes at every operation of a simulated disk, and recovers each of them");
  run_sim->add_option("--mode", a.mode, "mvcc or s2pl")->check(modes);
  run_sim->add_option("--seconds", a.seconds)->check(CLI::NonNegativeNumber);
  run_sim->add_option("--histories", a.histories, "so many, whatever time it takes");
  run_sim->add_option("--every", a.every,
                      "crash at each n-th operation only; drawn when not given");
  run_sim
      ->add_option("--kind", a.kind,
                   "crashes of one thread, schedules of several threads, damaged media, mixed; "
                   "small: all small histories")
      ->check(CLI::IsMember({"mixed", "crashes", "schedules", "media", "small"}));
  run_sim->add_option("--steps", a.steps, "of a small history, at most")
      ->check(CLI::Range(1U, crash::SmallPlan::kMostSteps));
  run_sim
      ->add_option("--exhaustive", a.exhaustive,
                   "all schedules with so many preemptions of a short life of the log")
      ->check(CLI::Range(0, 8));
  run_sim->add_option("--jobs", a.jobs, "histories at a time; one a processor when not given");
  run_sim->add_option("--mutant", a.mutant, "a planted bug, which it has to find");
  run_sim->add_flag("--no-shrink", a.no_shrink, "no search for a smaller history, no replay file");

  auto* run_replay =
      app.add_subcommand("replay", "runs again what sim found, from the file that it wrote");
  run_replay->add_option("file", a.replay_file)->required();
  run_replay->add_option("--mode", a.mode, "mvcc or s2pl, as the file says")->check(modes);

  auto* run_kill_command =
      app.add_subcommand("kill", "kills processes at random moments and looks what the store kept");
  run_kill_command->add_option("--mode", a.mode, "mvcc or s2pl")->check(modes);
  run_kill_command->add_option("--seconds", a.seconds)->check(CLI::NonNegativeNumber);
  run_kill_command->add_option("--mutant", a.mutant, "a planted bug, which it has to find");

  auto* run_power_command = app.add_subcommand(
      "power",
      "cuts the power of a disk under a real kernel and its file system (root, FUSE, loop)");
  run_power_command->add_option("--mode", a.mode, "mvcc or s2pl")->check(modes);
  run_power_command->add_option("--fs", a.fs, "ext4");
  run_power_command->add_option("--seconds", a.seconds)->check(CLI::NonNegativeNumber);
  run_power_command->add_option("--mutant", a.mutant, "a planted bug, which it has to find");

  auto* run_mutants_command =
      app.add_subcommand("mutants", "whether each planted bug is found within a budget");
  run_mutants_command->add_option("--budget", a.budget, "seconds for each")
      ->check(CLI::PositiveNumber);
  run_mutants_command->add_option("--finder", a.finder, "only what this command has to find")
      ->check(CLI::IsMember({"isolation", "sim"}));
  run_mutants_command->add_flag("--both", a.both, "in each mode that has the bug");
  run_mutants_command->add_flag("--markdown", a.markdown, "as the page docs/torture-mutants.md");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return tools::usage_exit(app, e, argc, argv);
  }
  if (!run_mutants_command->parsed() && (a.mode == "s2pl") != kS2pl)
    return run_other_mode(a.mode, argv);
  tools::install_interrupt_handler();
  if (run_isolation->parsed()) return isolation(a);
  if (run_sim->parsed()) return sim(a);
  if (run_kill_command->parsed()) return kill_lives(a);
  if (run_power_command->parsed()) return power(a);
  return run_replay->parsed() ? replay(a) : mutants(a);
}

}  // namespace
}  // namespace kessai::torture

int main(int argc, char** argv) { return kessai::torture::run(argc, argv); }
