// SPDX-License-Identifier: Apache-2.0
// A disk under a real kernel whose every write and flush is seen: a FUSE file system with one file,
// `disk`, for a loop device to stand on. Speaks the kernel's protocol on /dev/fuse itself
// (linux/fuse.h, 7.31 and later), as it needs a handful of its messages.
//
// Requests are read in batches, as many as the kernel has sent before it waits for an answer. The
// flushes of a batch come first: a write that has not been answered when a flush arrives is not
// covered by it, as the block layer promises nothing else. Then the writes, in random order.
//
// The server is a process of its own that touches no file of the mount, so it can always be
// killed; then the kernel fails what is under way and later.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kessai/error.hpp"
#include "tools/torture/disk_recording.hpp"

namespace kessai::torture {

inline constexpr const char* kFuseDiskName = "disk";

struct FuseDisk {
  int fd = -1;                 ///< /dev/fuse, of a mount
  std::span<std::byte> image;  ///< shared with the parent
  DiskRecording* recording = nullptr;
  /// Raised to the recording's count() before the answer to what was recorded; beyond all when the
  /// recording is full: what was promised later counts in no cut.
  std::atomic<std::uint64_t>* moment = nullptr;
  std::uint64_t seed = 1;
};

/// Opens /dev/fuse (non-blocking) and mounts it on `folder`.
[[nodiscard]] Result<int> mount_fuse(const std::string& folder);

/// Serves until the file system is unmounted or the connection fails. 0 in order.
[[nodiscard]] int serve(const FuseDisk& disk);

}  // namespace kessai::torture
