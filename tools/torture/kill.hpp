// SPDX-License-Identifier: Apache-2.0
// `kvtorture kill`: kills processes at random moments and looks whether the store kept what it
// promised them.
//
// A few small stores on real files (several, because a life mostly waits for the device), each life
// after life. A life is a process that recovers the store, compares it with the journal of the life
// before (kill_board.hpp) and commits until its end. Ends are drawn from the seed: kill -9 at work,
// during recovery, while closing, or while stopped by SIGSTOP with a second opener at the door;
// files that may not grow, before or in the middle; an ordinary close. The parent only watches, so
// an engine that aborts or hangs is a violation and not the end of the tool.
//
// Threads: one of the parent for each store; each forks and reaps its own children.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tools/torture/history.hpp"

namespace kessai::torture {

struct KillPlan {
  /// A folder of the run's own is made in it, and kept when there is a violation. Else both go,
  /// this one if it was not there before.
  std::string directory;
  bool s2pl = false;
  double seconds = 10;
  unsigned stores = 3;  ///< at once
  std::uint64_t seed = 1;
  std::string mutant;
  double hang_seconds = 30;                        ///< without progress
  std::function<void(double seconds)> watch = {};  ///< called on the calling thread
};

struct KillResult {
  std::uint64_t kills = 0;
  std::uint64_t cycles = 0;        ///< lives that ended
  std::uint64_t commits = 0;       ///< answered
  std::uint64_t acked = 0;         ///< answered as durable
  std::uint64_t lost = 0;          ///< of these, missing afterwards
  std::uint64_t half_applied = 0;  ///< transactions of which a part was there
  std::uint64_t stopped = 0;       ///< killed while stopped, a second opener refused before
  std::uint64_t file_limit_hits = 0;
  std::uint64_t zombie_opens = 0;  ///< opened while the killed process was still going away
  double seconds = 0;
  std::vector<Violation> violations;
  [[nodiscard]] double cycles_per_s() const {
    return seconds > 0 ? static_cast<double>(cycles) / seconds : 0;
  }
};

/// "" is a planted bug too: none.
[[nodiscard]] bool is_kill_mutant(std::string_view name);
[[nodiscard]] KillResult run_kill(const KillPlan& plan);

}  // namespace kessai::torture
