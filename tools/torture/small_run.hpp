// SPDX-License-Identifier: Apache-2.0
// All small histories: a few steps on a store of three rows, each step a durable transaction
// that puts or deletes any of the three keys (26 of them), a checkpoint, or a clean close and open.
// Left out: histories that delete a row that is not there (they are shorter ones), and of those
// that differ in the names of the keys only, all but one.
//
// The power fails before each disk operation of the last step (those of the steps before are the
// last step of a shorter history) and after the last one, with each outcome of the simulated disk;
// the real open recovers; the power fails again before each operation of that recovery, with each
// outcome. Oracle: as in crash_run.hpp; what the second recovery finds is what the first one did.
// Crash states with equal images and equal promises are recovered once.
#pragma once

#include "tools/torture/crash_run.hpp"

namespace kessai::crash {

struct SmallPlan {
  unsigned steps = 0;        ///< at most so many in a history; 0: this plan is none
  std::uint64_t from = 0;    ///< the first history, in the order of small_histories()
  std::uint64_t count = 64;  ///< how many
  std::function<bool()> go_on = {};

  static constexpr unsigned kMostSteps = 4;
};

/// How many histories there are of up to so many steps.
[[nodiscard]] std::uint64_t small_histories(unsigned steps);

/// `small_histories` of the result: how many were gone through to their end. `violated_at`: the
/// number of the history.
[[nodiscard]] CrashRun small_run(const SmallPlan& plan);

}  // namespace kessai::crash
