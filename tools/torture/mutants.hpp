// SPDX-License-Identifier: Apache-2.0
// The planted bugs that the torture must find, and `kvtorture mutants`.
#pragma once

#include <array>
#include <string>
#include <string_view>

namespace kessai::torture {

struct Mutant {
  std::string_view name;
  std::string_view finder;  ///< the subcommand that has to find it
  bool s2pl = false;        ///< lives in the S2PL build only
  bool schedule = false;    ///< only the interleaving of threads shows it
  bool media = false;       ///< only a device that returns something else shows it
  bool mvcc = false;        ///< does harm to snapshots only, which S2PL has not
};

inline constexpr std::array kMutants{
    Mutant{"skip_validation", "isolation"},
    Mutant{"range_read_not_recorded", "isolation"},
    Mutant{"read_set_forgets_absent", "isolation"},
    Mutant{"first_updater_ignored", "isolation"},
    Mutant{"prune_forgets_snapshots", "isolation"},
    Mutant{"snapshot_moves_after_reads", "isolation"},
    Mutant{"chain_cut_early", "isolation"},
    Mutant{"half_applied_visible", "isolation", false, true},
    Mutant{"locks_released_before_append", "isolation", false, true},
    Mutant{"lost_wake_up", "isolation", true, true},
    Mutant{"gap_lock_missing", "isolation", true},
    Mutant{"shared_lock_ignored", "isolation", true},
    Mutant{"low_after_cut", "sim"},
    Mutant{"live_map_written", "sim"},
    Mutant{"evict_missed_by_cut", "sim"},
    Mutant{"modify_without_capture", "sim"},
    Mutant{"free_drops_dirty", "sim"},
    Mutant{"reuse_after_one_checkpoint", "sim"},
    Mutant{"reuse_ignores_building", "sim"},
    Mutant{"map_chunk_not_flushed", "sim"},
    Mutant{"data_not_flushed", "sim"},
    Mutant{"superblock_before_fence", "sim"},
    Mutant{"superblock_not_flushed", "sim"},
    Mutant{"overwrite_newest_superblock", "sim"},
    Mutant{"freed_page_comes_back", "sim"},
    Mutant{"older_slots_forgotten", "sim"},
    Mutant{"skip_wal_flush", "sim"},
    Mutant{"ack_before_completion", "sim"},
    Mutant{"stale_salt_accepted", "sim"},
    Mutant{"header_not_flushed", "sim"},
    Mutant{"segment_name_not_flushed", "sim"},
    Mutant{"footer_before_header", "sim"},
    Mutant{"void_parts_applied", "sim"},
    Mutant{"lsn_reuse", "sim"},
    Mutant{"window_keeps_first", "sim"},
    Mutant{"window_lost", "sim"},
    Mutant{"cut_commit_forgotten", "sim"},
    Mutant{"lead_not_rechecked", "sim", false, true},
    Mutant{"unfilled_record_flushed", "sim", false, true},
    Mutant{"applied_out_of_order", "sim", false, true},
    Mutant{"wal_reset_race", "sim", false, true},
    Mutant{"version_not_bumped", "sim", false, true},
    Mutant{"latch_released_early", "sim", false, true},
    Mutant{"gate_not_closed", "sim", false, true},
    Mutant{"load_waiter_not_woken", "sim", false, true},
    Mutant{"evicted_while_written", "sim", false, true},
    Mutant{"waiters_forgotten", "sim", false, true},
    Mutant{"locks_go_before_visible", "sim", false, true, false, true},
    Mutant{"page_hash_ignored", "sim", false, false, true},
    Mutant{"preload_not_verified", "sim", false, false, true},
    Mutant{"map_chunk_not_verified", "sim", false, false, true},
    Mutant{"superblock_hash_ignored", "sim", false, false, true},
    Mutant{"check_reads_nothing", "sim", false, false, true},
    Mutant{"scan_ends_at_damage", "sim", false, false, true},
    Mutant{"frame_hash_ignored", "sim", false, false, true},
    Mutant{"hint_ignored", "sim", false, false, true},
    Mutant{"lost_header_accepted", "sim", false, false, true},
    Mutant{"eio_is_end", "sim", false, false, true},
};

/// "": none is a planted bug too.
[[nodiscard]] constexpr bool is_mutant_of(std::string_view finder, std::string_view name) {
  for (const auto& m : kMutants)
    if (m.name == name && m.finder == finder) return true;
  return name.empty();
}

struct MutantPlan {
  std::string self;       ///< this executable
  std::string directory;  ///< for stores
  std::string finder;     ///< only what this subcommand has to find; empty: all
  double budget = 60;     ///< seconds for each
  std::uint64_t seed = 1;
  bool json = false;
  bool both = false;      ///< in each mode that has the bug, not in one
  bool markdown = false;  ///< the page docs/torture-mutants.md instead of rows
};

/// Runs `kvtorture FINDER --mutant` for each of them and prints a row each; the exit code.
[[nodiscard]] int run_mutants(const MutantPlan& plan);

}  // namespace kessai::torture
