// SPDX-License-Identifier: Apache-2.0
// `kvtorture power`: cuts the power under a real kernel and looks whether the store kept what it
// promised.
//
// The disk is a FUSE file (fuse_disk.hpp) under a loop device under ext4, so every write and flush
// that the kernel sends to it is recorded, in order, with the moments at which a process that
// commits on that file system was promised something (kill_board.hpp). Many cuts are made of one
// recording: the medium as of a flush, and a random subset of the writes after it. Each is mounted
// again by the kernel, which replays its journal; the store is opened by the real open and compared
// with the journal up to that moment. One of the cuts is the disk of the next recording, so
// histories go through several power failures, in recovery too.
//
// Everything lies in memory, and mounts belong to this process alone (volume.hpp). Needs root.
//
// Threads: one of the parent for each store, which forks and reaps its own children: a FUSE server
// for each recording, one life at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kessai/error.hpp"
#include "tools/torture/history.hpp"

namespace kessai::torture {

struct PowerPlan {
  std::string fs = "ext4";
  /// Mount points are made in a folder of the run's own in it; the image of a bad cut is kept here.
  std::string directory;
  bool s2pl = false;
  double seconds = 10;
  unsigned stores = 4;  ///< at once
  std::uint64_t seed = 1;
  std::string mutant;
  double hang_seconds = 30;                        ///< without progress
  std::function<void(double seconds)> watch = {};  ///< after each cut
};

struct PowerResult {
  std::uint64_t cuts = 0;
  std::uint64_t recordings = 0;
  std::uint64_t commits = 0;              ///< answered while recording
  std::uint64_t acked = 0;                ///< of these, answered as durable
  std::uint64_t lost = 0;                 ///< of these, missing after a cut
  std::uint64_t half_applied = 0;         ///< transactions of which a part was there
  std::uint64_t writes = 0, flushes = 0;  ///< of the disk
  std::uint64_t torn = 0;                 ///< cuts with writes after the last flush
  double seconds = 0;
  std::vector<Violation> violations;
  [[nodiscard]] double cuts_per_s() const {
    return seconds > 0 ? static_cast<double>(cuts) / seconds : 0;
  }
};

/// `not_supported` where root, FUSE, loop devices or the program that makes the file system are
/// missing.
[[nodiscard]] Result<PowerResult> run_power(const PowerPlan& plan);

}  // namespace kessai::torture
