// SPDX-License-Identifier: Apache-2.0
/// @file
/// Crashes a program's own schema at every disk operation and looks whether its rules still hold.
/// Part of the library kessai::testing.
///
/// The program says what it does as steps, each of which commits at most one transaction, and what
/// must always be true. The test runs the steps on a simulated disk; at its disk operations the
/// power fails in eleven ways (nothing that was not flushed survives, all of it, a part, torn, file
/// names lost ...), the real Database::open recovers, and what it finds
///   * is exactly the state after one of the steps, and not of one before the newest that the
///     program was told is durable (the prefix oracle);
///   * passes `invariant`, also after `start_up` has run;
///   * is undamaged (Database::check), and the same after a second power failure in the recovery.
/// Between openings of the store the program's own run goes through a clean close, a kill -9 and a
/// power failure as well.
///
/// Threads: one. The steps must be deterministic (draw from nothing but their number); this is
/// checked. Method: exhaustive crash points over a recorded run, after Pillai et al., "All File
/// Systems Are Not Created Equal" (OSDI'14) and Mohan et al., "Finding Crash-Consistency Bugs with
/// Bounded Black-Box Crash Testing" (OSDI'18).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "kessai/database.hpp"

namespace kessai::testing {

struct CrashTest {
  /// Makes trees and first rows; no crash happens in it. May be empty.
  std::function<Result<void>(Database&)> prepare;
  /// Step `n` of `steps`, from 0 on. Commits at most one transaction, durable or relaxed, or
  /// creates or drops one tree. Handles must not be kept from one step to the next.
  std::function<Result<void>(Database&, std::uint64_t n)> step;
  /// What the program does when it starts after a crash (resumes, repairs). May be empty; not
  /// called in the run itself.
  std::function<Result<void>(Database&)> start_up;
  /// Nothing, or what is wrong. For every state that a crash leaves. May be empty.
  std::function<std::optional<std::string>(Database&)> invariant;

  std::uint64_t steps = 60;
  std::uint64_t seed = 1;   ///< of what survives
  std::uint64_t every = 1;  ///< power failures at every n-th disk operation only
  Options options = {};     ///< of the store; small caches and logs see more
};

struct CrashReport {
  std::uint64_t crash_points = 0;  ///< disk operations before which the power failed
  std::uint64_t tried = 0;         ///< crash states
  std::uint64_t distinct = 0;      ///< of these, recovered; the others were equal
  std::uint64_t nested = 0;        ///< power failures inside a recovery
  /// The first finding: what is wrong, in which step and at which disk operation.
  std::optional<std::string> violation;
  std::uint64_t violated_step = 0;
};

/// Runs until the first finding or the end. REQUIRES `step`.
/// @return `invalid_argument` when the steps are not deterministic or commit more than once; any
///   error of prepare or of a step that no crash explains.
[[nodiscard]] Result<CrashReport> run_crash_test(const CrashTest& test);

/// Options for run_crash_test: the smallest cache and log, so that few steps reach checkpoints.
[[nodiscard]] Options small_options();

}  // namespace kessai::testing
