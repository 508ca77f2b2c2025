// SPDX-License-Identifier: Apache-2.0
// One process that has a store on a simulated disk open: its view of the disk, its clock, its
// random numbers. Destroying it without close() is kill -9.
//
// Threads: one. Lifetime: the disk, the clock and the random source outlive it.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "kessai/database.hpp"

namespace kessai::testing {

/// An Env of a process on `disk`, with its directory.
struct SimulatedEnv {
  SimulatedEnv(io::SimDisk& disk, io::Clock& clock, io::Random& random) : directory(disk.attach()) {
    env.directory = directory.get();
    env.clock = &clock;
    env.random = &random;
    env.background = false;
  }
  std::unique_ptr<io::Directory> directory;
  io::Env env;
};

class Process {
 public:
  Process(io::SimDisk& disk, io::Clock& clock, std::uint64_t seed)
      : disk_(&disk), random_(seed), env_(disk, clock, random_) {}
  ~Process() {
    if (db_) disk_->kill_processes();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  [[nodiscard]] Result<void> open(Options options) {
    options.env = &env_.env;
    auto db = Database::open("", options);
    if (!db) return std::unexpected(db.error());
    db_.emplace(std::move(*db));
    return {};
  }
  [[nodiscard]] Result<void> close() {
    auto done = db_->close();
    db_.reset();
    return done;
  }
  [[nodiscard]] Database& db() { return *db_; }

 private:
  io::SimDisk* disk_;
  io::SeededRandom random_;
  SimulatedEnv env_;
  std::optional<Database> db_;  // last: goes first
};

}  // namespace kessai::testing
