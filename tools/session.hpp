// SPDX-License-Identifier: Apache-2.0
// One session of kvsh: the commands, with the transaction they run in.
//
// Promises
//   * Every command is its own transaction unless `begin` was typed. Nothing is written without
//     `writable`.
//   * An error that asks to run the transaction again rolls it back at once (its locks are free);
//     the session refuses what would belong to it until commit or rollback is typed.
//   * Output goes to the sinks only, every byte of it safe for a terminal. What a numbered session
//     says carries its number: "@2 " before each line, "session":2 in each JSON object.
// Threads: one at a time; sessions of one store may run at the same time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kessai/database.hpp"
#include "tools/output.hpp"
#include "tools/script.hpp"

namespace kessai::tools {

class Session;

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
  /// --nowait and --wait MS; nothing = the default of the store or transaction.
  [[nodiscard]] Result<LockWait> wait() const;

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
  /// Runs it; the result is the exit code.
  Result<int> (Session::*run)(const Arguments&) = nullptr;
  bool in_transaction = false;  ///< belongs to the open transaction
};

[[nodiscard]] std::span<const CommandSpec> command_table();
/// By name or alias; null when there is none.
[[nodiscard]] const CommandSpec* find_command(std::string_view name);
/// Sorts words into positional arguments and options by the command's spec.
[[nodiscard]] Result<Arguments> parse_arguments(const CommandSpec& spec,
                                                std::span<const Word> words);

/// "read_committed" and so on; nothing for any other word.
[[nodiscard]] std::optional<Isolation> parse_level(std::string_view word);
[[nodiscard]] std::string_view level_name(Isolation level);
/// What a lock is on, for people: "a", "a in TREE", "[11, 15)", "lock NAME".
[[nodiscard]] std::string target_text(const LockTarget& target, std::string_view default_tree);

struct ShellConfig {
  bool json = false;
  bool writable = false;
  bool progress = false;                      ///< bars for long commands
  Isolation isolation = Isolation::snapshot;  ///< of a begin that names none
  std::string default_tree = "main";
  /// What people call a transaction, from its id and thread: "@1".
  std::function<std::string(std::uint64_t transaction, unsigned thread)> name_of{};
  Palette palette{};  ///< of the output
  Sink out = stdout_sink();
  Sink err = stderr_sink();
};

class Session {
 public:
  /// `database` must outlive it. Number 0: the session of commands without @n.
  Session(unsigned number, Database& database, ShellConfig config)
      : number_(number), db_(database), config_(std::move(config)) {}

  /// Runs one command, prints its error if it has one; the result is the exit code.
  int run(const Command& command);
  /// Rolls back what is open, and says so.
  void close();

  [[nodiscard]] unsigned number() const { return number_; }
  [[nodiscard]] bool done() const { return done_; }
  [[nodiscard]] const std::optional<Transaction>& transaction() const { return txn_; }

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
  Result<int> savepoint(const Arguments& a);
  Result<int> lock(const Arguments& a);
  Result<int> lock_many(const Arguments& a);
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
  Result<int> txns(const Arguments& a);
  Result<int> locks(const Arguments& a);
  Result<int> undo(const Arguments& a);
  Result<int> waits(const Arguments& a);
  Result<int> deadlocks(const Arguments& a);
  Result<int> versions(const Arguments& a);
  Result<int> help(const Arguments& a);
  Result<int> quit(const Arguments& a);

 private:
  /// The tree that `-t` names, or the default. `main` exists always: a store that does not hold it
  /// yet answers nullopt when read-only, and gets it otherwise.
  [[nodiscard]] Result<std::optional<Tree>> target(const Arguments& a);
  /// The same for a write: a tree that does not exist is an error.
  [[nodiscard]] Result<Tree> write_target(const Arguments& a);
  [[nodiscard]] std::string target_name(const Arguments& a, Result<void>& status) const;
  [[nodiscard]] Cursor open_cursor(const Tree& tree, Range range);
  [[nodiscard]] Result<Range> range_of(const Arguments& a) const;
  [[nodiscard]] Result<void> require_writable() const;
  [[nodiscard]] Result<void> require_transaction() const;
  [[nodiscard]] Result<void> require_no_transaction() const;
  [[nodiscard]] bool own_transaction(const Arguments& a) const;
  [[nodiscard]] Result<Lsn> read_locked(const Tree& tree, const std::string& key,
                                        const Arguments& a, std::string& value);
  /// A write in the open transaction, or in one of its own.
  template <class Write>
  Result<int> write(const Arguments& a, Write&& fn);
  Result<int> written(const Arguments& a, Result<Lsn> lsn);
  Result<int> rollback_to(const Arguments& a);
  Result<int> run_checked(const CommandSpec& spec, const Arguments& a);
  [[nodiscard]] std::string who(std::uint64_t transaction, unsigned thread) const;
  void print(std::string_view text);
  void report(const Error& error, std::string_view context);
  void row(Json object);
  /// "ok" for people, `object` for programs.
  void done_row(Json object);
  void draw_nodes(const std::vector<TreeNode>& nodes);
  void draw_dot(std::string_view name, const std::vector<TreeNode>& nodes);

  unsigned number_;
  Database& db_;
  ShellConfig config_;
  std::optional<Transaction> txn_;
  std::vector<std::pair<std::string, Savepoint>> savepoints_;  ///< of txn_, oldest first
  std::optional<Error> failed_;  ///< why txn_ is rolled back already; commands of it answer so
  bool done_ = false;
};

}  // namespace kessai::tools
