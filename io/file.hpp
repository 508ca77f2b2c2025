// SPDX-License-Identifier: Apache-2.0
// The file interface: everything kessai asks of a disk. Three back ends implement it: io_uring,
// posix (same semantics, worker threads for queues), and the simulated disk of the crash tests.
//
// Promises (all back ends)
//   * `read` and `write` move every byte or fail: short transfers are re-driven, EINTR and EAGAIN
//     are retried with a bound. Reading past the end of the file is `Code::damaged` naming file and
//     offset (a truncated file is damage, not EOF handling).
//   * Nothing written is durable before a `flush()` that started after the write completed has
//     returned, or before a `durable` queue write has completed.
//   * A failed flush (or durable write) is never retried here and is sticky for the file: every
//     later flush of that File fails too (the kernel may have dropped the dirty pages).
//   * Creates, renames and removals are durable only after `Directory::flush()`.
//   * Offsets, lengths and buffers are multiples of `Directory::block_size()` (the files are opened
//     O_DIRECT where the file system honours it). Use AlignedBuffer.
//   * Errors carry path, offset and errno: ENOSPC/EDQUOT/EFBIG are `disk_full`, EACCES/EPERM/EROFS
//     `permission_denied`, everything else `io_error`.
//
// Threads: File's and Directory's methods may be called from any thread at once. A Queue belongs to
// one thread at a time (callers serialise).
// Lifetime: Files and Queues must be destroyed before their Directory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/error.hpp"

namespace kessai::io {

enum class OpenMode : std::uint8_t {
  create_new,  ///< O_CREAT|O_EXCL, 0600; `store_exists` when there
  read_write,  ///< must exist (`store_missing` when not)
  read_only,
};

class File {
 public:
  virtual ~File() = default;
  [[nodiscard]] virtual const std::string& path() const noexcept = 0;
  [[nodiscard]] virtual Result<std::uint64_t> size() = 0;
  [[nodiscard]] virtual Result<void> read(std::uint64_t offset, std::span<std::byte> into) = 0;
  [[nodiscard]] virtual Result<void> write(std::uint64_t offset,
                                           std::span<const std::byte> from) = 0;
  /// fdatasync: completed writes and the size become durable.
  [[nodiscard]] virtual Result<void> flush() = 0;
  /// flush(), then reads see what the device holds (direct I/O: always; else as far as the kernel
  /// drops its cache when advised to: pages that others map or lock stay). For a file that another
  /// process may have left: after a failed flush the kernel's cache can hold bytes that were never
  /// written, are never going to be, and read back as if they were (ATC'20, "Can applications
  /// recover from fsync failures?").
  [[nodiscard]] virtual Result<void> flush_and_drop_cache() = 0;
  /// Grows with really reserved space that reads as zero (so ENOSPC happens here, not later), or
  /// truncates. Not durable before flush().
  [[nodiscard]] virtual Result<void> resize(std::uint64_t bytes) = 0;
  /// flock(LOCK_EX|LOCK_NB) on this very open file description (invariant I13), waiting up to
  /// `timeout_ns` while another holder's in-flight I/O drains; `Code::locked` after that.
  [[nodiscard]] virtual Result<void> lock(std::uint64_t timeout_ns) = 0;
};

/// Ordered-by-completion batch I/O. At most `depth` operations are in flight.
class Queue {
 public:
  struct Completion {
    std::uint64_t tag = 0;
    Result<void> result;
  };
  virtual ~Queue() = default;  ///< drains: no buffer is touched after destruction
  [[nodiscard]] virtual unsigned depth() const noexcept = 0;
  [[nodiscard]] virtual unsigned in_flight()
      const noexcept = 0;  ///< prepared or submitted, not reaped
  /// Prepares an operation; REQUIRES in_flight() < depth(). Buffers stay untouched by the caller
  /// until the completion with `tag` was reaped.
  virtual void read(File& file, std::uint64_t offset, std::span<std::byte> into,
                    std::uint64_t tag) = 0;
  virtual void write(File& file, std::uint64_t offset, std::span<const std::byte> from,
                     std::uint64_t tag) = 0;
  /// As write, and durable when it completes (RWF_DSYNC, or write then fdatasync, whichever the
  /// calibration at open found faster).
  virtual void write_durable(File& file, std::uint64_t offset, std::span<const std::byte> from,
                             std::uint64_t tag) = 0;
  /// Hands prepared operations to the kernel. Never blocks on their completion.
  virtual void submit() = 0;
  /// Appends completions to `out`, waiting until at least `wait_for` (<= in flight) are there.
  /// Returns how many were appended. Operations not yet submitted are submitted first.
  virtual std::size_t reap(std::vector<Completion>& out, unsigned wait_for) = 0;
};

enum class Backend : std::uint8_t { automatic, uring, posix, simulated };

/// One store directory: every name is relative to it and contains no '/'.
class Directory {
 public:
  virtual ~Directory() = default;
  [[nodiscard]] virtual const std::string& path() const noexcept = 0;
  [[nodiscard]] virtual Backend backend() const noexcept = 0;
  [[nodiscard]] virtual std::uint32_t block_size() const noexcept = 0;  ///< 512..4096 typical
  [[nodiscard]] virtual Result<std::unique_ptr<File>> open(std::string_view name,
                                                           OpenMode mode) = 0;
  [[nodiscard]] virtual Result<void> rename(std::string_view from, std::string_view to) = 0;
  [[nodiscard]] virtual Result<void> remove(std::string_view name) = 0;
  [[nodiscard]] virtual Result<std::vector<std::string>> list() = 0;  ///< sorted
  [[nodiscard]] virtual Result<void> flush() = 0;                     ///< fsync of the directory
  [[nodiscard]] virtual Result<std::unique_ptr<Queue>> make_queue(unsigned depth) = 0;
};

/// One line about something an operator should know, e.g. why io_uring was refused.
using LogSink = std::function<void(std::string_view line)>;

struct DirectoryOptions {
  Backend backend = Backend::automatic;  ///< automatic: io_uring, else posix with one log line
  bool create = false;                   ///< mkdir 0700 when missing (and fsync of the parent)
  LogSink log;
};

/// Opens a real directory. `store_missing` when absent and !create; `not_supported` when
/// Backend::uring was demanded and the ring is refused (the message says why).
[[nodiscard]] Result<std::unique_ptr<Directory>> open_directory(const std::string& path,
                                                                const DirectoryOptions& options);

/// Runs the write+flush calibration of the durable write on a scratch file of `dir` (a few ms) and
/// remembers the winner for its queues. Without it, RWF_DSYNC is used. No-op on simulated disks.
[[nodiscard]] Result<void> calibrate_durable_write(Directory& dir);

}  // namespace kessai::io
