// SPDX-License-Identifier: Apache-2.0
// Histories of several threads on the simulated disk, under the deterministic scheduler
// (io/scheduler.hpp): the engine with its background threads, two to four clients that commit to a
// few hot rows, read, scan and take checkpoints. The power may fail at any disk operation.
//
// A history is a small store, made once, and many *schedules*, each on a copy of it: a workload and
// a strategy of its own, drawn from the seed of the history and the number of the schedule. So one
// of them can be run alone (`only`), and runs the same.
//
// Oracle: ledger.hpp, plus check(), what the scheduler finds by itself (deadlock, lost wake-up,
// livelock), and a clean end: no locks or transactions left, reopening finds the same rows.
//
// exhaustive_run() goes through all schedules, with at most so many preemptions, of one short life
// of the log: commits that cross a segment, two checkpoints that make segments reusable, a reader.
#pragma once

#include "io/scheduler.hpp"
#include "tools/torture/crash_run.hpp"

namespace kessai::crash {

struct SchedulePlan {
  std::uint64_t seed = 1;
  std::uint64_t schedules = 0;  ///< how many; 0: this plan is none
  std::uint64_t only = kAll;    ///< this one alone
  // What the drawn shape of a schedule is cut down to, to make a failure small.
  unsigned most_clients = 4;
  unsigned most_transactions = 16;  ///< of a client
  bool crashes = true;
  bool page_points = true;  ///< accesses to page bytes may be points
  std::uint64_t most_preemptions = io::Scheduler::kUnlimited;
  std::function<bool()> go_on = {};  ///< asked before each schedule

  static constexpr std::uint64_t kAll = ~std::uint64_t{0};
};

/// `violated_at` is the number of the schedule.
[[nodiscard]] CrashRun schedule_run(const SchedulePlan& plan);

struct ExhaustivePlan {
  unsigned preemptions = 1;
  std::uint64_t seed = 1;
  std::function<bool()> go_on = {};
};
/// `complete`: every schedule was run.
[[nodiscard]] CrashRun exhaustive_run(const ExhaustivePlan& plan);

}  // namespace kessai::crash
