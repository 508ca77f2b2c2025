// SPDX-License-Identifier: Apache-2.0
// `kvtorture isolation`: runs histories, each in processes of their own, and checks them.
//
// A history is run by a child process on a store that all histories share; about every fifth is
// continued across kill -9. The parent only watches, and checks what the shared board
// (workload.hpp) says afterwards: a child that hangs or dies by itself is a violation like any
// other.
#pragma once

#include <functional>
#include <string>

#include "tools/torture/workload.hpp"

namespace kessai::torture {

struct IsolationPlan {
  std::string directory;  ///< for the store; made and removed
  bool s2pl = false;
  std::optional<Isolation> level;  ///< nothing: a mix
  double seconds = 10;
  std::uint32_t most_histories = 0;  ///< 0: as many as fit into the time
  std::uint32_t first_history = 1;
  std::uint64_t seed = 1;
  std::string mutant;                                             ///< planted bug
  double hang_seconds = 30;                                       ///< without progress
  std::function<bool(const struct IsolationResult&)> go_on = {};  ///< asked after each history
};

struct IsolationResult {
  std::uint64_t transactions = 0;  ///< attempts, all checked
  std::uint64_t committed = 0;
  std::uint64_t aborted = 0;
  std::uint64_t lost = 0;  ///< taken back by a kill, as allowed
  std::uint64_t operations = 0;
  std::uint32_t histories = 0;
  std::uint32_t kills = 0;
  double seconds = 0;
  double checker_seconds = 0;         ///< of one core
  std::vector<Violation> violations;  ///< of one history: the first that has any
  std::uint32_t bad_history = 0;
  [[nodiscard]] std::uint64_t checked_per_s() const {
    return checker_seconds > 0
               ? static_cast<std::uint64_t>(static_cast<double>(transactions) / checker_seconds)
               : 0;
  }
};

[[nodiscard]] IsolationResult run_isolation(const IsolationPlan& plan);

}  // namespace kessai::torture
