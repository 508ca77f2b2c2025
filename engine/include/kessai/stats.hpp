// SPDX-License-Identifier: Apache-2.0
/// @file
/// Counters of a running store. All are totals since open unless said otherwise.
#pragma once

#include <cstdint>

namespace kessai {

struct Stats {
  // commits
  std::uint64_t commits = 0;
  std::uint64_t rollbacks = 0;
  std::uint64_t write_conflicts = 0;
  std::uint64_t lock_waits = 0;
  std::uint64_t lock_timeouts = 0;
  std::uint64_t active_transactions = 0;  ///< now
  std::uint64_t locks_held = 0;           ///< now
  // log
  std::uint64_t log_bytes = 0;  ///< record bytes appended
  std::uint64_t log_flushes = 0;
  std::uint64_t log_frame_bytes = 0;  ///< bytes written to the device
  std::uint64_t durable_lsn = 0;      ///< now
  std::uint64_t applied_lsn = 0;      ///< now
  // pages
  std::uint64_t page_hits = 0;  ///< 0 when not counted on the hot path
  std::uint64_t page_misses = 0;
  std::uint64_t pages_evicted = 0;
  std::uint64_t pages_written = 0;
  std::uint64_t leaf_splits = 0;
  std::uint64_t inner_splits = 0;
  std::uint64_t merges = 0;
  std::uint64_t restarts = 0;     ///< optimistic descents that started over
  std::uint64_t frames = 0;       ///< page cache size in pages
  std::uint64_t frames_used = 0;  ///< now
  std::uint64_t dirty_pages = 0;  ///< now
  // checkpoints and space
  std::uint64_t checkpoints = 0;
  std::uint64_t checkpoint_pages = 0;
  std::uint64_t data_file_bytes = 0;  ///< now
  std::uint64_t free_slots = 0;       ///< now
  // versions
  std::uint64_t undo_bytes = 0;    ///< now
  std::uint64_t undo_entries = 0;  ///< now
  std::uint64_t ghosts_purged = 0;
  std::uint64_t oldest_snapshot = 0;  ///< now; LSN
  // waits
  std::uint64_t leaf_split_waits = 0;
  std::uint64_t page_latch_waits = 0;
  std::uint64_t wal_flush_waits = 0;
  bool poisoned = false;
};

}  // namespace kessai
