// SPDX-License-Identifier: Apache-2.0
/// @file
/// A disk in memory that keeps what was flushed, and of the rest as much as a power failure may
/// leave: for tests of programs that use kessai. Part of the library kessai::testing.
///
///     kessai::testing::SimulatedDisk disk;
///     auto db = disk.open({.create = true});
///     ...
///     disk.lose_power();              // db's calls fail from here on
///     db = disk.open();               // recovers
///
/// Promises
///   * Deterministic for its seed as long as one thread uses it: the clock stands still unless it
///     is told to move, and the engine starts no threads of its own (upkeep runs inside commits).
///   * Nothing touches the real file system.
/// Threads: one at a time. Lifetime: the disk outlives what open() returns.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "kessai/database.hpp"

namespace kessai::testing {

/// What a power failure leaves of writes that were not flushed yet.
enum class Survivors : std::uint8_t {
  none,    ///< nothing
  all,     ///< everything: what a killed process leaves
  random,  ///< any subset, in sectors, whole writes or file names; a torn write among it
};

class SimulatedDisk {
 public:
  explicit SimulatedDisk(std::uint64_t seed = 1);
  ~SimulatedDisk();
  SimulatedDisk(SimulatedDisk&&) noexcept;
  SimulatedDisk& operator=(SimulatedDisk&&) noexcept;

  /// Opens the store on this disk; as Database::open, with `options.env` set. Who holds a Database
  /// of it already gets `locked`.
  [[nodiscard]] Result<Database> open(Options options = {});
  /// The power fails: Databases that are open fail with `io_error` or `poisoned` from now on, and
  /// the next open() finds what survived.
  void lose_power(Survivors survivors = Survivors::random);
  /// kill -9 of the process that has the store open: the same, and everything written survives.
  void kill_process();
  /// The clock of lock timeouts, idle limits and the flush interval.
  void advance_clock(std::chrono::nanoseconds by);
  /// From now on, each write that makes a file grow beyond `bytes` altogether fails with
  /// `disk_full`.
  void set_capacity(std::uint64_t bytes);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kessai::testing
