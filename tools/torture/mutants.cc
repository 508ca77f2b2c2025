// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/mutants.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
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

struct Found {
  bool found = false;
  double seconds = 0;
  std::uint64_t states = 0;
  std::string as;
};

Found look_for(const MutantPlan& plan, const Mutant& m, std::string_view mode) {
  const std::string_view kind = m.schedule ? "schedules" : m.media ? "media" : "crashes";
  const std::string only = m.finder == "sim" ? fmt::format("--no-shrink --kind {}", kind) : "";
  int code = 0;
  const std::string out = output_of(
      fmt::format(
          "{} {} --json --mode {} --seconds {} --seed {} --mutant {} --dir {} {} 2>/dev/null",
          quoted(plan.self), m.finder, mode, plan.budget, plan.seed, m.name, quoted(plan.directory),
          only),
      code);
  const Json row = Json::parse(out, nullptr, false);
  if (!row.is_object() || !row.contains("violations")) return {.as = "the tool did not run"};
  Found f;
  f.found = code == tools::kExitNo && !row["violations"].empty();
  f.seconds = row.value("seconds", 0.0);
  f.states = row.value(m.finder == "sim" ? "distinct" : "transactions", std::uint64_t{0});
  if (f.found) f.as = row["violations"][0].value("kind", std::string(m.finder));
  return f;
}

/// The bugs of the lock table are s2pl's, those of reads and of validation mvcc's; what sim finds
/// is in what both share.
std::vector<std::string> modes_of(const MutantPlan& plan, const Mutant& m) {
  if (plan.both && m.finder == "sim" && !m.s2pl && !m.mvcc) return {"mvcc", "s2pl"};
  return {m.s2pl ? "s2pl" : "mvcc"};
}

/// The page in docs/: a row a mutant, a column a mode.
class Page {
 public:
  void add(const Mutant& m, const std::string& mode, const Found& f) {
    if (rows_.empty() || rows_.back().name != m.name) {
      const std::string_view by = m.finder != "sim" ? m.finder
                                  : m.schedule      ? "schedules"
                                  : m.media         ? "media"
                                                    : "crashes";
      rows_.push_back({std::string(m.name), std::string(by)});
    }
    rows_.back().cells[mode == "s2pl"] = f.found ? fmt::format("{:.1f} s", f.seconds) : "not found";
    if (f.found) seconds_.push_back(f.seconds);
    ++tried_;
  }
  [[nodiscard]] std::string text(double budget) {
    std::ranges::sort(seconds_);
    std::string out = fmt::format(
        "# Planted bugs and how long it takes to find them\n\n"
        "Written by `kvtorture mutants --both --markdown --budget {:.0f}`. Each bug is planted in "
        "the "
        "copy of the engine that\nkvtorture carries (`KESSAI_MUTANT`), and the harness named is "
        "started with a budget of {:.0f} s on {} processors. A dash: the\nmode does not have that "
        "code.\n\nFound: {} of {}. Median {:.1f} s, worst {:.1f} s.\n\n"
        "| planted bug | found by | mvcc | s2pl |\n| --- | --- | ---: | ---: |\n",
        budget, budget, sysconf(_SC_NPROCESSORS_ONLN), seconds_.size(), tried_,
        seconds_.empty() ? 0 : seconds_[seconds_.size() / 2],
        seconds_.empty() ? 0 : seconds_.back());
    for (const Row& r : rows_)
      out += fmt::format("| `{}` | {} | {} | {} |\n", r.name, r.by, r.cells[0], r.cells[1]);
    return out;
  }

 private:
  struct Row {
    std::string name, by;
    std::array<std::string, 2> cells{"-", "-"};
  };
  std::vector<Row> rows_;
  std::vector<double> seconds_;
  std::size_t tried_ = 0;
};

}  // namespace

int run_mutants(const MutantPlan& plan) {
  bool all = true;
  Page page;
  tools::Table table({{"mutant"},
                      {"mode"},
                      {"found"},
                      {"seconds", tools::Table::Align::right},
                      {"states", tools::Table::Align::right},
                      {"as"}});
  for (const Mutant& m : kMutants) {
    if (!plan.finder.empty() && m.finder != plan.finder) continue;
    for (const std::string& mode : modes_of(plan, m)) {
      if (tools::interrupted()) return tools::kExitInterrupted;
      const Found f = look_for(plan, m, mode);
      all = all && f.found;
      page.add(m, mode, f);
      if (plan.json && !plan.markdown) {
        tools::stdout_sink()(tools::json_line({{"mutant", m.name},
                                               {"mode", mode},
                                               {"found", f.found},
                                               {"seconds", f.seconds},
                                               {"states", f.states},
                                               {"by", m.finder},
                                               {"by_schedule", m.schedule},
                                               {"by_media", m.media},
                                               {"as", f.as}}));
        std::fflush(stdout);
      }
      table.add({std::string(m.name), mode, f.found ? "yes" : "NO",
                 fmt::format("{:.1f}", f.seconds), tools::grouped(f.states), f.as});
    }
  }
  if (plan.markdown)
    tools::stdout_sink()(page.text(plan.budget));
  else if (!plan.json)
    tools::stdout_sink()(table.render(tools::Palette::for_fd(STDOUT_FILENO)));
  return all ? tools::kExitOk : tools::kExitNo;
}

}  // namespace kessai::torture
