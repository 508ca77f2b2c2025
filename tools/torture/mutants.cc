// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/mutants.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <vector>

#include "tools/exit_codes.hpp"
#include "tools/interrupt.hpp"
#include "tools/output.hpp"

namespace kessai::torture {
namespace {

using tools::Json;

// What the tool prints on standard output; its exit code in `code`, -1 when it could not be run.
std::string output_of(const std::string& command, int& code) {
  std::string out;
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) {
    code = -1;
    return out;
  }
  char buffer[4096];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) != 0;) out.append(buffer, n);
  const int status = pclose(pipe);
  code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return out;
}

std::string quoted(const std::string& word) {
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

int run_mutants(const MutantPlan& plan) {
  bool all = true;
  tools::Table table({{"mutant"},
                      {"found"},
                      {"seconds", tools::Table::Align::right},
                      {"states", tools::Table::Align::right},
                      {"as"}});
  for (const Mutant& m : kMutants) {
    if (tools::interrupted()) return tools::kExitInterrupted;
    int code = 0;
    const std::string out = output_of(
        fmt::format(
            "{} {} --json --mode {} --seconds {} --seed {} --mutant {} --dir {} {}{} 2>/dev/null",
            quoted(plan.self), m.finder, m.s2pl ? "s2pl" : "mvcc", plan.budget, plan.seed, m.name,
            quoted(plan.directory), m.finder == "sim" ? "--no-shrink --kind " : "",
            m.finder != "sim" ? ""
            : m.schedule      ? "schedules"
                              : "crashes"),
        code);
    const Json row = Json::parse(out, nullptr, false);
    const bool ran = row.is_object() && row.contains("violations");
    const bool found = code == tools::kExitNo && ran && !row["violations"].empty();
    all = all && found;
    const double seconds = ran ? row.value("seconds", 0.0) : 0.0;
    const std::uint64_t states =
        ran ? row.value(m.finder == "sim" ? "distinct" : "transactions", std::uint64_t{0}) : 0;
    const std::string kind = found ? row["violations"][0].value("kind", std::string(m.finder))
                             : ran ? ""
                                   : "the tool did not run";
    if (plan.json) {
      tools::stdout_sink()(tools::json_line({{"mutant", m.name},
                                             {"found", found},
                                             {"seconds", seconds},
                                             {"states", states},
                                             {"by", m.finder},
                                             {"by_schedule", m.schedule},
                                             {"as", kind}}));
      std::fflush(stdout);
    }
    table.add({std::string(m.name), found ? "yes" : "NO", fmt::format("{:.1f}", seconds),
               tools::grouped(states), kind});
  }
  if (!plan.json) tools::stdout_sink()(table.render(tools::Palette::for_fd(STDOUT_FILENO)));
  return all ? tools::kExitOk : tools::kExitNo;
}

}  // namespace kessai::torture
