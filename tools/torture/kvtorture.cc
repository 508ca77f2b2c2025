// SPDX-License-Identifier: Apache-2.0
// kvtorture: breaks kessai on purpose and looks whether it keeps its promises.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <climits>
#include <cstdlib>

#include "io/env.hpp"
#include "kessai/database.hpp"
#include "tools/cli.hpp"
#include "tools/interrupt.hpp"
#include "tools/progress.hpp"
#include "tools/torture/isolation.hpp"
#include "tools/torture/kill.hpp"
#include "tools/torture/mutants.hpp"

namespace kessai::torture {
namespace {

using tools::Json;

constexpr bool kS2pl = KESSAI_S2PL != 0;

struct Arguments {
  bool json = false;
  std::string mode = kS2pl ? "s2pl" : "mvcc";
  std::string level;
  std::string mutant;
  std::string directory;
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
  if (!is_isolation_mutant(a.mutant)) return refuse(a, "no planted bug is called " + a.mutant);
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

int mutants(const Arguments& a) {
  MutantPlan plan;
  plan.self = self_path();
  plan.directory = scratch_folder(a);
  plan.budget = a.budget;
  plan.seed = a.seed;
  plan.json = a.json || !tools::is_terminal(STDOUT_FILENO);
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

  auto* run_kill_command =
      app.add_subcommand("kill", "kills processes at random moments and looks what the store kept");
  run_kill_command->add_option("--mode", a.mode, "mvcc or s2pl")->check(modes);
  run_kill_command->add_option("--seconds", a.seconds)->check(CLI::NonNegativeNumber);
  run_kill_command->add_option("--mutant", a.mutant, "a planted bug, which it has to find");

  auto* run_mutants_command =
      app.add_subcommand("mutants", "whether each planted bug is found within a budget");
  run_mutants_command->add_option("--budget", a.budget, "seconds for each")
      ->check(CLI::PositiveNumber);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return tools::usage_exit(app, e, argc, argv);
  }
  if (!run_mutants_command->parsed() && (a.mode == "s2pl") != kS2pl)
    return run_other_mode(a.mode, argv);
  tools::install_interrupt_handler();
  if (run_kill_command->parsed()) return kill_lives(a);
  return run_isolation->parsed() ? isolation(a) : mutants(a);
}

}  // namespace
}  // namespace kessai::torture

int main(int argc, char** argv) { return kessai::torture::run(argc, argv); }
