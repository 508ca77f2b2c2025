// SPDX-License-Identifier: Apache-2.0
// kvsh without its terminal: runs commands in sessions and prints in an order that repeats.
//
// Promises
//   * A command without @n runs on the calling thread; each @n is a thread of its own. A command of
//     @n returns when it has ended or is queued on a lock ("@2 waits for @1 on a").
//   * Before the next command runs, every session that the last one woke has ended its command or
//     is queued again, and what they answered is printed, in the order in which they had queued.
//   * A command for a session that is queued is kept, and run when the session is free again.
//   * What is still open at the end is rolled back.
// How: a session is queued when Database::locks() shows it among the waiters, by transaction or
// thread, twice in the same picture. Nothing sleeps for a fixed time; timeouts of lock waits are
// the engine's. Threads: one at a time may call. Locks: `mutex_` guards the mailboxes of all
// sessions; nobody holds it while a command runs.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/sync.hpp"
#include "tools/session.hpp"

namespace kessai::tools {

/// A command that ended.
struct Ended {
  Command command;
  int code = 0;
  bool late = false;   ///< it had been queued
  std::string output;  ///< of a numbered session
};

class Shell {
 public:
  Shell(Database database, ShellConfig config);
  ~Shell();
  Shell(const Shell&) = delete;
  Shell& operator=(const Shell&) = delete;

  /// Runs all commands; stops at the first that ends with another exit code than expected.
  int run_script(std::string_view text);
  /// As above without the wait for what is still queued at the end: for a person who will go on.
  int run_lines(std::string_view text);
  /// Runs one command. Answers what ended by it, printed already: the command itself unless it is
  /// queued, and others that were queued.
  std::vector<Ended> step(const Command& command);
  /// Waits for what is queued: until it gets its locks or its time is over.
  std::vector<Ended> finish();
  /// Ends what is queued, rolls back what is open and closes the store.
  int close();

  [[nodiscard]] bool done() const;
  /// "mvcc", and level and age of every open transaction: "mvcc snapshot 12s @1 serializable 3s".
  [[nodiscard]] std::string prompt() const;
  /// What the last word of `line` can be completed to: commands first, then trees and options.
  [[nodiscard]] std::vector<std::string> completions(std::string_view line);

 private:
  struct Lane;
  struct Wait;
  using Picture = std::map<unsigned, Wait>;

  Lane& lane(unsigned number);
  void serve(Lane& lane);
  void start(Lane& lane, Command command);
  /// Waits until every command at work has ended or is queued, prints, and starts what sessions
  /// were told while they were queued. `first`: whose command was just started; printed first.
  std::vector<Ended> settle(Lane* first);
  [[nodiscard]] Picture wait_until_still();
  /// The same again and again until `done` says so or an interrupt comes.
  std::vector<Ended> settle_until(const std::function<bool()>& done);
  [[nodiscard]] std::vector<Lane*> working_lanes();
  [[nodiscard]] Picture picture(const std::vector<Lane*>& busy, bool accept_unexplained);
  [[nodiscard]] static bool has_cycle(const Picture& waits);
  std::vector<Ended> tell(Lane* first, const Picture& waits);
  Ended collect(Lane& lane);
  void print_backlog(const Lane& lane);
  void print_wait(Lane& lane, const Wait& wait);
  void wait_for_news(std::uint64_t nanoseconds);
  [[nodiscard]] std::optional<unsigned> session_of(std::uint64_t transaction, unsigned thread);
  [[nodiscard]] std::string session_name(std::uint64_t transaction, unsigned thread);
  int verdict(const std::vector<Ended>& ended);

  Database db_;
  const ShellConfig config_;
  Session main_;
  unsigned main_thread_;
  std::uint64_t queue_numbers_ = 0;
  std::map<unsigned, std::unique_ptr<Lane>> lanes_;  ///< changed by the runner, between commands
  io::Mutex mutex_;
  io::CondVar mail_;  ///< a command for a session
  io::CondVar news_;  ///< a command ended
};

}  // namespace kessai::tools
