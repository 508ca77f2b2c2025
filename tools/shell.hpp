// SPDX-License-Identifier: Apache-2.0
// kvsh without its terminal: one table of commands shared by execution, help, completion and the
// text sessions of the tests.
//
// Promises
//   * Every command is its own transaction unless `begin` was typed; whatever is still open at the
//     end is rolled back. Nothing is written without `writable`.
//   * Output goes to the sinks only, every byte of it safe for a terminal.
// Threads: one at a time.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/database.hpp"
#include "tools/output.hpp"
#include "tools/script.hpp"

namespace kessai::tools {

class Shell;

/// The words after the command name, options taken out.
struct Arguments {
  std::vector<Word> positional;
  std::map<std::string, std::string, std::less<>> options;  ///< values as typed; flags map to ""

  [[nodiscard]] bool has(std::string_view option) const { return options.contains(option); }
  [[nodiscard]] std::optional<std::string_view> raw(std::string_view option) const;
  /// Positional `i` / option value as bytes.
  [[nodiscard]] Result<std::string> bytes(std::size_t i) const {
    return to_bytes(positional[i].text);
  }
  [[nodiscard]] Result<std::string> bytes(std::string_view option) const;
  [[nodiscard]] Result<std::uint64_t> number(std::string_view option,
                                             std::uint64_t otherwise) const;

 private:
  static Result<std::string> to_bytes(std::string_view text);
};

struct CommandSpec {
  std::string_view name;
  std::string_view aliases;  ///< blank-separated
  std::string_view usage;    ///< after the name
  std::string_view help;
  std::size_t min_arguments = 0, max_arguments = 0;
  std::string_view flags;   ///< blank-separated options without a value
  std::string_view values;  ///< blank-separated options with a value
  /// Runs it; the result is the exit code. Null: known, but not in this version.
  Result<int> (Shell::*run)(const Arguments&) = nullptr;
};

[[nodiscard]] std::span<const CommandSpec> command_table();
/// By name or alias; null when there is none.
[[nodiscard]] const CommandSpec* find_command(std::string_view name);
/// Sorts words into positional arguments and options by the command's spec.
[[nodiscard]] Result<Arguments> parse_arguments(const CommandSpec& spec,
                                                std::span<const Word> words);

struct ShellConfig {
  bool json = false;
  bool writable = false;
  bool progress = false;  ///< bars for long commands
  std::string default_tree = "main";
  Palette palette{};  ///< of the output
  Sink out = stdout_sink();
  Sink err = stderr_sink();
};

class Shell {
 public:
  Shell(Database database, ShellConfig config)
      : db_(std::move(database)), config_(std::move(config)) {}

  /// Runs all commands; stops at the first that ends with another exit code than expected.
  int run_script(std::string_view text);
  /// Runs one command, prints its error if it has one.
  int run(const Command& command);
  /// Rolls back what is open and closes the store.
  int close();

  [[nodiscard]] bool done() const { return done_; }
  [[nodiscard]] bool in_transaction() const { return txn_.has_value(); }
  /// What the last word of `line` can be completed to: commands first, then trees and options.
  [[nodiscard]] std::vector<std::string> completions(std::string_view line);

  // Commands; the table in shell.cc says what each does.
  Result<int> get(const Arguments& a);
  Result<int> put(const Arguments& a);
  Result<int> insert(const Arguments& a);
  Result<int> del(const Arguments& a);
  Result<int> scan(const Arguments& a);
  Result<int> keys(const Arguments& a);
  Result<int> count(const Arguments& a);
  Result<int> begin(const Arguments& a);
  Result<int> commit(const Arguments& a);
  Result<int> rollback(const Arguments& a);
  Result<int> trees(const Arguments& a);
  Result<int> create(const Arguments& a);
  Result<int> drop(const Arguments& a);
  Result<int> dump(const Arguments& a);
  Result<int> load(const Arguments& a);
  Result<int> info(const Arguments& a);
  Result<int> stats(const Arguments& a);
  Result<int> check(const Arguments& a);
  Result<int> tree(const Arguments& a);
  Result<int> page(const Arguments& a);
  Result<int> wal(const Arguments& a);
  Result<int> help(const Arguments& a);
  Result<int> quit(const Arguments& a);

 private:
  /// The tree that `-t` names, or the default. `main` exists always: a store that does not hold it
  /// yet answers nullopt when read-only, and gets it otherwise.
  [[nodiscard]] Result<std::optional<Tree>> target(const Arguments& a);
  [[nodiscard]] std::string target_name(const Arguments& a, Result<void>& status) const;
  [[nodiscard]] Cursor open_cursor(const Tree& tree, Range range);
  [[nodiscard]] Result<Range> range_of(const Arguments& a) const;
  [[nodiscard]] Result<void> require_writable() const;
  [[nodiscard]] Result<void> require_no_transaction() const;
  Result<int> written(const Arguments& a, std::size_t key_index, Result<Lsn> lsn);
  void print(std::string_view text) { config_.out(text); }
  void report(const Error& error, std::string_view context) {
    config_.err(render_error(error, config_.json, context));
  }
  void row(const Json& object) { config_.out(json_line(object)); }
  void draw_nodes(const std::vector<TreeNode>& nodes);
  void draw_dot(std::string_view name, const std::vector<TreeNode>& nodes);

  Database db_;
  ShellConfig config_;
  std::optional<Transaction> txn_;
  bool done_ = false;
};

}  // namespace kessai::tools
