// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "io/env.hpp"
#include "io/memory.hpp"
#include "io/os_private.hpp"

namespace kessai::io {
namespace {

/// Files that this process holds locked, by device and inode. flock alone would refuse a second
/// open file description too, but only after the time-out, and not where the file system has no
/// flock.
class LockRegistry {
 public:
  using Id = std::pair<dev_t, ino_t>;
  bool add(Id id) KESSAI_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    return held_.insert(id).second;
  }
  void drop(Id id) KESSAI_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    held_.erase(id);
  }

 private:
  Mutex mutex_;
  std::set<Id> held_ KESSAI_GUARDED_BY(mutex_);
};

LockRegistry& lock_registry() {
  static auto* registry = new LockRegistry;
  return *registry;
}

void sleep_ns(std::uint64_t ns) {
  const timespec t{.tv_sec = static_cast<time_t>(ns / 1'000'000'000),
                   .tv_nsec = static_cast<long>(ns % 1'000'000'000)};
  ::nanosleep(&t, nullptr);
}

const char* verb(Transfer kind) {
  switch (kind) {
    case Transfer::read:
      return "cannot read";
    case Transfer::write:
      return "cannot write";
    case Transfer::write_dsync:
      return "cannot write durably";
  }
  return "";
}

}  // namespace

Error os_error(int error, std::string what, const std::string& path, std::uint64_t offset) {
  Code code = Code::io_error;
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      code = Code::disk_full;
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      code = Code::permission_denied;
      break;
    case ENOENT:
      code = Code::store_missing;
      break;
    case EEXIST:
      code = Code::store_exists;
      break;
    default:
      break;
  }
  what += ": ";
  what += ::strerrordesc_np(error) != nullptr ? ::strerrordesc_np(error) : "unknown error";
  return {code, ErrorDetail{.what = std::move(what), .path = path, .offset = offset}, error};
}

std::size_t usable_progress(std::size_t moved, std::size_t wanted) noexcept {
  static constexpr std::size_t kSector = 512;
  return moved >= wanted ? wanted : moved / kSector * kSector;
}

OsFile::OsFile(int fd, std::string path, bool writable)
    : fd_(fd), path_(std::move(path)), writable_(writable) {}

OsFile::~OsFile() {
  const MutexLock lock(flush_mutex_);
  if (locked_) {
    struct stat st{};
    if (::fstat(fd_, &st) == 0) lock_registry().drop({st.st_dev, st.st_ino});
  }
  // No LOCK_UN: the kernel gives the flock back with the last reference, so I/O that is still under
  // way keeps a successor out.
  ::close(fd_);
}

Error OsFile::transfer_error(int error, Transfer kind, std::uint64_t offset) const {
  return os_error(error, verb(kind), path_, offset);
}

Error OsFile::flush_error(int error) const {
  return os_error(error, "a flush of this file failed, its writes may be lost", path_);
}

Error OsFile::not_writable() const {
  return {Code::read_only,
          ErrorDetail{.what = "write to a file opened for reading", .path = path_}};
}

Error OsFile::no_progress(Transfer kind, std::uint64_t offset) {
  const auto bytes = size();
  if (!bytes) return bytes.error();
  if (kind == Transfer::read && offset + 511 >= *bytes) {
    return {Code::damaged, ErrorDetail{.what = "file ends at byte " + std::to_string(*bytes) +
                                               ", read past it at offset " +
                                               std::to_string(offset) + ": truncated",
                                       .path = path_,
                                       .offset = offset}};
  }
  return os_error(EIO, std::string(verb(kind)) + ", the system makes no progress", path_, offset);
}

Result<std::uint64_t> OsFile::size() {
  struct stat st{};
  if (::fstat(fd_, &st) != 0) return fail(os_error(errno, "cannot stat", path_));
  return static_cast<std::uint64_t>(st.st_size);
}

Result<void> OsFile::transfer(Transfer kind, std::uint64_t offset, std::byte* data,
                              std::size_t size) {
  const std::uint64_t first = offset;
  for (int retries = 0; size > 0;) {
    const iovec v{.iov_base = data, .iov_len = size};
    const auto at = static_cast<off_t>(offset);
    const ssize_t n = kind == Transfer::read
                          ? ::preadv2(fd_, &v, 1, at, 0)
                          : ::pwritev2(fd_, &v, 1, at, kind == Transfer::write ? 0 : RWF_DSYNC);
    if (n < 0) {
      if ((errno != EINTR && errno != EAGAIN) || ++retries > kMaxRetries) {
        return fail(transfer_error(errno, kind, offset));
      }
      yield_thread();
      continue;
    }
    const std::size_t moved = usable_progress(static_cast<std::size_t>(n), size);
    // Only a part of a sector: the end of the file for a read (looked up at once, because a direct
    // read there returns 0 for ever), a full disk for a write, whose next attempt gets the errno.
    if (moved == 0 && (kind == Transfer::read || ++retries > kMaxRetries)) {
      return fail(no_progress(kind, std::max(offset + static_cast<std::size_t>(n), first)));
    }
    if (moved != 0) retries = 0;
    offset += moved;
    data += moved;
    size -= moved;
  }
  return {};
}

Result<void> OsFile::read(std::uint64_t offset, std::span<std::byte> into) {
  return transfer(Transfer::read, offset, into.data(), into.size());
}

Result<void> OsFile::write(std::uint64_t offset, std::span<const std::byte> from) {
  if (!writable_) return fail(not_writable());
  return transfer(Transfer::write, offset, const_cast<std::byte*>(from.data()), from.size());
}

void OsFile::flush_failed(int error) noexcept {
  int none = 0;
  failed_flush_.compare_exchange_strong(none, error == 0 ? EIO : error, std::memory_order_acq_rel);
}

Result<void> OsFile::flush_and_drop_cache() {
  KESSAI_TRY(flush());
  // Advice: a file system that knows no such cache does nothing, and needs nothing.
  (void)::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
  return {};
}

Result<void> OsFile::flush() {
  const MutexLock lock(flush_mutex_);
  if (const int e = failed_flush(); e != 0) return fail(flush_error(e));
  if (::fdatasync(fd_) != 0) flush_failed(errno);
  if (const int e = failed_flush(); e != 0) return fail(flush_error(e));
  return {};
}

Result<void> OsFile::write_durable(std::uint64_t offset, std::span<const std::byte> from,
                                   DurableMode mode) {
  if (!writable_) return fail(not_writable());
  if (const int e = failed_flush(); e != 0) return fail(flush_error(e));
  const auto kind = mode == DurableMode::dsync ? Transfer::write_dsync : Transfer::write;
  auto written = transfer(kind, offset, const_cast<std::byte*>(from.data()), from.size());
  if (!written && written.error().os_error() == EOPNOTSUPP && kind == Transfer::write_dsync) {
    return write_durable(offset, from, DurableMode::write_then_flush);
  }
  if (!written) {
    flush_failed(written.error().os_error());
    return written;
  }
  if (kind == Transfer::write) return flush();
  if (const int e = failed_flush(); e != 0) return fail(flush_error(e));
  return {};
}

Result<void> OsFile::fill_with_zeros(std::uint64_t from, std::uint64_t to) {
  static constexpr std::size_t kChunk = 1 << 20;
  static constexpr std::uint64_t kBlock = 4096;
  // Direct I/O wants whole blocks: the block that holds the old end is completed by truncation.
  if (::ftruncate(fd_, static_cast<off_t>(std::min(to, (from + kBlock - 1) / kBlock * kBlock))) !=
      0) {
    return fail(os_error(errno, "cannot grow", path_, from));
  }
  const AlignedBuffer zeros(kChunk);
  for (std::uint64_t at = (from + kBlock - 1) / kBlock * kBlock; at < to;) {
    const std::uint64_t rest = (to - at + kBlock - 1) / kBlock * kBlock;
    const std::size_t n = static_cast<std::size_t>(std::min<std::uint64_t>(kChunk, rest));
    KESSAI_TRY(transfer(Transfer::write, at, zeros.data(), n));
    at += n;
  }
  if (to % kBlock != 0 && ::ftruncate(fd_, static_cast<off_t>(to)) != 0) {
    return fail(os_error(errno, "cannot grow", path_, to));
  }
  return {};
}

Result<void> OsFile::resize(std::uint64_t bytes) {
  if (!writable_) return fail(not_writable());
  KESSAI_ASSIGN(old_size, size());
  if (bytes <= old_size) {
    if (bytes < old_size && ::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) {
      return fail(os_error(errno, "cannot truncate", path_, bytes));
    }
    return {};
  }
  int rc = 0;
  for (int retries = 0; retries <= kMaxRetries; ++retries) {
    rc =
        ::fallocate(fd_, 0, static_cast<off_t>(old_size), static_cast<off_t>(bytes - old_size)) == 0
            ? 0
            : errno;
    if (rc != EINTR) break;
  }
  if (rc == 0) return {};
  Result<void> grown =
      fail(os_error(rc, "cannot grow to " + std::to_string(bytes) + " bytes", path_, old_size));
  // Not posix_fallocate: where the system call is missing, glibc writes single bytes, which direct
  // I/O refuses.
  if (rc == EOPNOTSUPP || rc == ENOSYS) grown = fill_with_zeros(old_size, bytes);
  if (!grown && ::ftruncate(fd_, static_cast<off_t>(old_size)) != 0) {
    return fail(os_error(errno, "cannot take back a failed growth", path_, old_size));
  }
  return grown;
}

Result<void> OsFile::lock(std::uint64_t timeout_ns) {
  static constexpr std::uint64_t kFirstPause = 1'000'000;
  static constexpr std::uint64_t kLongestPause = 20'000'000;
  const MutexLock guard(flush_mutex_);
  if (locked_) return {};
  struct stat st{};
  if (::fstat(fd_, &st) != 0) return fail(os_error(errno, "cannot stat", path_));
  const LockRegistry::Id id{st.st_dev, st.st_ino};
  if (!lock_registry().add(id)) {
    return fail(Code::locked,
                ErrorDetail{.what = "this process already has the file open", .path = path_});
  }
  const std::uint64_t start = system_clock().now_ns();
  for (std::uint64_t pause = kFirstPause; ::flock(fd_, LOCK_EX | LOCK_NB) != 0;) {
    const int error = errno;
    const std::uint64_t waited = system_clock().now_ns() - start;
    if (error != EWOULDBLOCK && error != EINTR) {
      lock_registry().drop(id);
      return fail(os_error(error, "cannot lock", path_));
    }
    if (error == EWOULDBLOCK && waited >= timeout_ns) {
      lock_registry().drop(id);
      return fail(
          Code::locked,
          ErrorDetail{
              .what = "another process has the file open, or its last writes are still under way",
              .path = path_},
          error);
    }
    if (error == EWOULDBLOCK) sleep_ns(std::min(pause, timeout_ns - waited));
    pause = std::min(pause * 2, kLongestPause);
  }
  locked_ = true;
  return {};
}

}  // namespace kessai::io
