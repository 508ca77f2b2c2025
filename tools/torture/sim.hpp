// SPDX-License-Identifier: Apache-2.0
// `kvtorture sim`: crash histories of one thread (crash_run.hpp), of several under a deterministic
// scheduler (schedule_run.hpp), and of damaged media (media_run.hpp), with drawn shapes, each in a
// process of its own. Or all small histories (small_run.hpp), some of them in each process.
//
// The parent starts as many children as it may, one history each, and adds up what they report over
// a pipe. A child that dies by a signal or takes too long is a violation like any other.
// The first violation ends the run: its history is made as small as it goes and written to a file
// that `kvtorture replay` runs again.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tools/output.hpp"
#include "tools/torture/crash_run.hpp"
#include "tools/torture/media_run.hpp"
#include "tools/torture/schedule_run.hpp"
#include "tools/torture/small_run.hpp"

namespace kessai::torture {

/// One history: what the crash harness is to do, with which planted bug.
struct SimCase {
  enum class Kind : std::uint8_t { mixed, crashes, schedules, media, small };

  crash::CrashPlan plan;                    ///< of one thread
  crash::SchedulePlan schedule;             ///< of several, when it has schedules
  crash::MediaPlan media;                   ///< of damaged media, when it has trials
  crash::SmallPlan small;                   ///< of small histories, when it has steps
  std::optional<unsigned> exhaustive = {};  ///< all schedules with so many preemptions instead
  std::string mutant;                       ///< planted bug

  /// Draws the shape of a history: its length, what happens in it, whether the disk fails.
  [[nodiscard]] static SimCase drawn(std::uint64_t seed, Kind kind);
  [[nodiscard]] tools::Json to_json() const;
  /// Of a replay file. The error names the file and what is wrong with it.
  [[nodiscard]] static Result<SimCase> from_file(const std::string& path);
};

struct SimPlan {
  double seconds = 10;
  std::uint64_t most_histories =
      0;                    ///< so many, whatever time it takes; 0: as many as there is time
  std::uint64_t seed = 1;   ///< of the first history; the next ones count on
  unsigned jobs = 1;        ///< children at a time
  std::uint64_t every = 0;  ///< crash at every n-th operation; 0: drawn
  SimCase::Kind kind = SimCase::Kind::mixed;
  unsigned steps = 3;  ///< of small histories
  std::optional<unsigned> exhaustive = {};
  std::string mutant;
  bool shrink = true;                                      ///< make what was found small
  double hang_seconds = 120;                               ///< of one history
  std::function<void(const struct SimResult&)> show = {};  ///< progress
};

struct SimResult {
  crash::CrashRun sum;  ///< `violation` is the first one
  std::uint64_t histories = 0;
  double seconds = 0;
  std::optional<SimCase> bad;  ///< the smallest history that shows it
};

[[nodiscard]] SimResult run_sim(const SimPlan& plan);

/// Runs one history, in a child as well.
[[nodiscard]] SimResult run_case(const SimCase& c, double hang_seconds);

}  // namespace kessai::torture
