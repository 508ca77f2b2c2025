// SPDX-License-Identifier: Apache-2.0
// One life of `kvtorture kill`: a process that opens the store, compares what it finds with the
// journal of the last one, and commits with several threads until it is killed or told to stop.
//
// For a process of its own: it takes over signals and limits, and whatever happens in it the
// parent reads from the board and from how the process ended.
#pragma once

#include <string>

#include "kessai/options.hpp"
#include "tools/torture/kill_board.hpp"

namespace kessai::torture {

struct Life {
  std::string store;
  std::uint32_t number = 1;  ///< from 1 on
  std::uint64_t seed = 1;    ///< what it does; its schedule is its own
  bool s2pl = false;
  bool zombie = false;           ///< the life before was killed a moment ago and may not be gone
  bool check = false;            ///< also Database::check()
  bool last = false;             ///< only looks
  std::uint64_t file_limit = 0;  ///< largest file in bytes, from before it opens; 0: none
  std::string mutant;
};

/// The exit code: 0, or 1 after a complaint.
[[nodiscard]] int live(const Life& life, KillBoard& board);

/// A second opener beside a stopped life: it must be told that the store is locked.
[[nodiscard]] int open_beside(const Life& life, KillBoard& board, bool read_only);

}  // namespace kessai::torture
