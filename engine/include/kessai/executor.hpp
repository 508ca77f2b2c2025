// SPDX-License-Identifier: Apache-2.0
/// @file
/// Executor: one thread that runs small tasks in order, with a clock and timers. For layers above
/// the engine that keep thousands of things in flight without a thread for each.
///
/// Promises
///  * Tasks run one at a time, in the order in which they became due: what only tasks touch needs
///    no lock. Timers follow the monotonic clock; a wall clock that jumps moves none.
///  * Without threads (Env::background false) nothing runs by itself: run_ready() runs what is due
///    on the caller's thread, so that a test with a virtual clock repeats exactly.
///
/// A task should be short and must not throw. It may wait for the store (a flush, a lock): all
/// other tasks wait with it.
///
/// Threads: all methods from any thread, except that stop() and await() must not be called by a
/// task. Lifetime: stop() (and the destructor) waits for the running task and drops the others.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "kessai/options.hpp"

namespace kessai {

class Executor {
 public:
  using Task = std::function<void()>;

  /// `env`: as Options::env, for clock, random and background; null: the real ones, with a thread.
  explicit Executor(io::Env* env = nullptr);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  void post(Task task);
  /// Runs `task` once now_ns() >= `due_ns`.
  void post_at(std::uint64_t due_ns, Task task);
  /// Blocks until `start`'s argument was called (from any thread). `start` runs on the caller's
  /// thread. False when the executor was stopped first.
  bool await(const std::function<void(Task done)>& start);
  void stop();

  [[nodiscard]] std::uint64_t now_ns() const;       ///< monotonic
  [[nodiscard]] std::int64_t unix_micros() const;   ///< wall clock, UTC
  [[nodiscard]] std::uint64_t random_bits() const;  ///< 64 random bits, for jitter and ids
  [[nodiscard]] bool threaded() const noexcept;

  // Without threads.
  /// Asked when no task is due, until all answer false: has something become ready (I/O)?
  void add_poller(std::function<bool()> poller);
  /// Runs tasks and pollers until nothing is due any more. True when anything ran.
  bool run_ready();
  /// When the next timer is due.
  [[nodiscard]] std::optional<std::uint64_t> next_due() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kessai
