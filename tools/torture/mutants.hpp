// SPDX-License-Identifier: Apache-2.0
// The planted bugs that the isolation torture must find, and `kvtorture mutants`.
#pragma once

#include <array>
#include <string>
#include <string_view>

namespace kessai::torture {

struct IsolationMutant {
  std::string_view name;
  bool s2pl = false;      ///< lives in the S2PL build only
  bool schedule = false;  ///< only the interleaving of threads shows it
};

inline constexpr std::array kIsolationMutants{
    IsolationMutant{"skip_validation", false, false},
    IsolationMutant{"range_read_not_recorded", false, false},
    IsolationMutant{"read_set_forgets_absent", false, false},
    IsolationMutant{"first_updater_ignored", false, false},
    IsolationMutant{"chain_cut_early", false, false},
    IsolationMutant{"half_applied_visible", false, true},
    IsolationMutant{"locks_released_before_append", false, true},
    IsolationMutant{"lost_wake_up", true, true},
    IsolationMutant{"gap_lock_missing", true, false},
    IsolationMutant{"shared_lock_ignored", true, false},
};

/// "": none is a planted bug too.
[[nodiscard]] constexpr bool is_isolation_mutant(std::string_view name) {
  for (const auto& m : kIsolationMutants)
    if (m.name == name) return true;
  return name.empty();
}

struct MutantPlan {
  std::string self;       ///< this executable
  std::string directory;  ///< for stores
  double budget = 60;     ///< seconds for each
  std::uint64_t seed = 1;
  bool json = false;
};

/// Runs `kvtorture isolation --mutant` for each of them and prints a row each; the exit code.
[[nodiscard]] int run_mutants(const MutantPlan& plan);

}  // namespace kessai::torture
