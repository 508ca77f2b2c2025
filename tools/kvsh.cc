// SPDX-License-Identifier: Apache-2.0
// kvsh: look into a store, and change it when told so.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <clocale>
#include <cstdio>
#include <cstdlib>

#include "tools/bytes.hpp"
#include "tools/cli.hpp"
#include "tools/exit_codes.hpp"
#include "tools/interrupt.hpp"
#include "tools/line_editor.hpp"
#include "tools/progress.hpp"
#include "tools/shell.hpp"

namespace kessai::tools {
namespace {

struct Invocation {
  std::string store, script, commands, tree = "main";
  bool writable = false, create = false, json = false;
  unsigned memory_mib = 256;
  Isolation level = Isolation::snapshot;
  double idle_limit_s = 30;
  std::optional<unsigned> lock_timeout_ms;
};

std::optional<std::string> read_all(std::FILE* file) {
  std::string text;
  char block[1 << 14];
  while (const std::size_t n = std::fread(block, 1, sizeof block, file)) text.append(block, n);
  if (std::ferror(file) != 0) return std::nullopt;
  return text;
}

// A history file keeps what reads; what writes holds values that nobody wants to find there.
bool only_reads(std::string_view line) {
  const auto commands = parse_script(line);
  if (!commands) return false;
  for (const Command& c : *commands) {
    const CommandSpec* spec = find_command(c.words[0].text);
    if (spec == nullptr || spec->name == "put" || spec->name == "insert") return false;
  }
  return true;
}

int interactive(Shell& shell, const std::string& name) {
  fmt::print("kvsh {}; help lists the commands, exit leaves\n", version());
  LineEditor editor({.prompt = [&] { return fmt::format("{} {}> ", name, shell.prompt()); },
                     .complete = [&](std::string_view line) { return shell.completions(line); },
                     .remember = only_reads},
                    default_history_file());
  while (!shell.done()) {
    const auto line = editor.next();
    if (!line) {
      std::fputc('\n', stdout);
      break;
    }
    shell.run_lines(*line);
    clear_interrupt();
    std::fflush(stdout);
  }
  return kExitOk;
}

int run(const Invocation& a, bool has_commands) {
  std::optional<std::string> script;
  if (has_commands) {
    script = a.commands;
  } else if (!a.script.empty()) {
    std::FILE* file = std::fopen(a.script.c_str(), "rb");
    if (file != nullptr) script = read_all(file);
    if (!script) {
      ErrorDetail detail;
      detail.what = "cannot read the script";
      detail.path = a.script;
      stderr_sink()(render_error(Error(Code::invalid_argument, std::move(detail), errno), a.json));
      return kExitUsage;
    }
    std::fclose(file);
  } else if (isatty(STDIN_FILENO) == 0) {
    script = read_all(stdin);
  }

  Options options;
  options.create = a.create;
  options.read_only = !a.writable;
  options.memory = std::uint64_t{a.memory_mib} << 20;
  options.open_timeout = std::chrono::seconds(3);  // a person waits
  options.idle_limit = std::chrono::milliseconds(static_cast<std::int64_t>(a.idle_limit_s * 1000));
  // Whoever types the commands of both sessions needs longer than a program.
  options.lock_timeout =
      std::chrono::milliseconds(a.lock_timeout_ms.value_or(script ? 1000 : 60'000));
  ProgressBar bar(!a.json);
  options.progress = [&](const Progress& p) { bar.update(p.phase, p.done, p.total); };
  auto db = Database::open(a.store, options);
  bar.finish();
  if (!db) {
    stderr_sink()(render_error(db.error(), a.json, a.store));
    return exit_code(db.error(), true);
  }
  if (a.create) {
    if (const auto made = db->tree("main", {.create = true}); !made) {
      stderr_sink()(render_error(made.error(), a.json, a.store));
      return exit_code(made.error().code());
    }
  }
  Shell shell(std::move(*db), {.json = a.json,
                               .writable = a.writable,
                               .progress = !a.json,
                               .isolation = a.level,
                               .default_tree = a.tree,
                               .palette = Palette::for_fd(STDOUT_FILENO)});
  const int code = script ? shell.run_script(*script) : interactive(shell, printable(a.store));
  const int closed = shell.close();
  if (std::fflush(stdout) != 0 && code == kExitOk) return kExitIo;
  return code != kExitOk ? code : closed;
}

}  // namespace
}  // namespace kessai::tools

int main(int argc, char** argv) {
  using namespace kessai::tools;
  std::setlocale(LC_CTYPE, "");
  if (MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");  // keys are typed as UTF-8 everywhere
  install_interrupt_handler();
  Invocation a;
  CLI::App app(
      "kvsh: look into a kessai store. Read-only unless --rw. `help` inside lists the commands.");
  app.set_version_flag("--version", std::string(kessai::version()));
  app.add_option("STORE", a.store, "directory of the store")->required();
  app.add_option("SCRIPT", a.script, "file of commands; stops at the first that fails");
  const auto* commands = app.add_option("-c,--command", a.commands, "commands, separated by ;");
  auto* writable = app.add_flag("--rw", a.writable, "open for writing");
  app.add_flag("--create", a.create, "make a store where there is none")->needs(writable);
  app.add_flag("--json", a.json, "one JSON object per line");
  app.add_option("-t,--tree", a.tree, "tree that commands without -t mean")->capture_default_str();
  std::string level = "snapshot";
  app.add_option("--level", level, "isolation of a begin that names none")
      ->check(CLI::IsMember({"read_committed", "snapshot", "serializable"}))
      ->capture_default_str();
  app.add_option("--idle-limit", a.idle_limit_s,
                 "seconds after which a transaction without calls is rolled back; 0: never")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--lock-timeout", a.lock_timeout_ms,
                 "longest lock wait in ms; default 1000, for a person 60000");
  app.add_option("--memory", a.memory_mib, "page cache in MiB")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return usage_exit(app, e, argc, argv);
  }
  if (commands->count() != 0 && !a.script.empty()) {
    stderr_sink()(render_error(
        kessai::Error(kessai::Code::invalid_argument, "either -c or a script"), a.json));
    return kExitUsage;
  }
  a.level = *parse_level(level);
  return run(a, commands->count() != 0);
}
