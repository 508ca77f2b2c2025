// SPDX-License-Identifier: Apache-2.0
// Histories of damaged media: what the device returns is not what was written (bits, sectors, lost
// and misdirected writes, misdirected reads), or it fails while a store recovers. The real engine,
// one thread, the simulated disk.
//
// A history builds small stores (two trees, long values, several log generations; closed, killed,
// or without power) and makes *trials* on copies of them, each with one fault of the kinds and
// sizes that the history has drawn:
//
//   strike      bytes of the closed files change: one bit, or 8 B to 64 KiB of zeros or garbage
//   write       a write is answered and lost, or lands elsewhere, also in another file, while a
//               client works; then close or kill, and the next open
//   read        a read answers other bytes of the file, while a client works or a store recovers
//   disk error  an operation of a recovery, by index, fails: EIO (a failed flush with three kinds
//               of cache), ENOSPC, EDQUOT, EFBIG, EROFS, once or from there on, or a short write
//
// Oracle: the table of docs/torture-faults.md. In short: a wrong answer never; an error, a refused
// open and check() name file and offset; what the disk took is noticed or was not needed: each live
// page whose stored bytes are not what was written is named by check(). The one exception is in
// the table, and counted (`unproven`). The disk knows what it should hold (SimDisk::keep_intended).
// After errors that pass, the next open finds everything that was promised.
#pragma once

#include "tools/torture/crash_run.hpp"

namespace kessai::crash {

struct MediaPlan {
  std::uint64_t seed = 1;
  std::uint64_t trials = 0;          ///< how many; 0: this plan is none
  std::uint64_t only = kAll;         ///< this one alone
  std::function<bool()> go_on = {};  ///< asked before each trial

  static constexpr std::uint64_t kAll = ~std::uint64_t{0};
};

/// `violated_at` is the number of the trial.
[[nodiscard]] CrashRun media_run(const MediaPlan& plan);

}  // namespace kessai::crash
