// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "io/env.hpp"
#include "io/memory.hpp"
#include "io/os_private.hpp"

namespace kessai::io {
namespace {

constexpr std::uint32_t kDefaultBlock = 4096;

int open_retrying(int dir, const char* name, int flags, mode_t mode = 0) {
  for (int retries = 0;; ++retries) {
    const int fd = ::openat(dir, name, flags | O_CLOEXEC, mode);
    if (fd >= 0 || errno != EINTR || retries >= kMaxRetries) return fd;
  }
}

/// The block below which the device reads, modifies and writes; the default where sysfs is silent.
std::uint32_t physical_block_size(int fd) {
  struct stat st{};
  if (::fstat(fd, &st) != 0) return kDefaultBlock;
  const std::string dev =
      "/sys/dev/block/" + std::to_string(major(st.st_dev)) + ":" + std::to_string(minor(st.st_dev));
  for (const char* where : {"/queue/physical_block_size", "/../queue/physical_block_size"}) {
    const int f = open_retrying(AT_FDCWD, (dev + where).c_str(), O_RDONLY);
    if (f < 0) continue;
    char text[32] = {};
    const ssize_t n = ::read(f, text, sizeof text - 1);
    ::close(f);
    const unsigned long value = n > 0 ? std::strtoul(text, nullptr, 10) : 0;
    if (value >= 512 && value <= 65536 && (value & (value - 1)) == 0)
      return static_cast<std::uint32_t>(value);
  }
  return kDefaultBlock;
}

Result<void> check_name(std::string_view name, const std::string& dir) {
  if (name.empty() || name == "." || name == ".." || name.size() > NAME_MAX ||
      name.find('/') != std::string_view::npos || name.find('\0') != std::string_view::npos) {
    return fail(
        Code::invalid_argument,
        ErrorDetail{.what = "not a plain file name: \"" + std::string(name) + "\"", .path = dir});
  }
  return {};
}

/// fsync, never retried.
Result<void> flush_directory(int fd, const std::string& path) {
  if (::fsync(fd) != 0) return fail(os_error(errno, "cannot flush the directory", path));
  return {};
}

std::string parent_of(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

/// Also when the directory was there already: its creator may have died before this flush.
Result<void> create_directory(const std::string& path) {
  const bool made = ::mkdir(path.c_str(), 0700) == 0;
  if (!made && errno != EEXIST) return fail(os_error(errno, "cannot create the directory", path));
  const std::string parent = parent_of(path);
  const int fd = open_retrying(AT_FDCWD, parent.c_str(), O_RDONLY | O_DIRECTORY);
  if (fd < 0) {
    if (!made && errno == EACCES) return {};  // not ours to flush
    return fail(os_error(errno, "cannot open the parent directory", parent));
  }
  auto flushed = flush_directory(fd, parent);
  ::close(fd);
  return flushed;
}

/// Checks what was opened and switches to direct I/O. Not O_DIRECT at open: a file system that
/// refuses it may have created the file first, and O_NONBLOCK only keeps a FIFO from hanging us.
Result<void> adopt(int fd, const std::string& path) {
  struct stat st{};
  if (::fstat(fd, &st) != 0) return fail(os_error(errno, "cannot stat", path));
  if (!S_ISREG(st.st_mode)) {
    return fail(Code::permission_denied,
                ErrorDetail{.what = "not a regular file, refused", .path = path});
  }
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return fail(os_error(errno, "cannot read the flags of", path));
  if (::fcntl(fd, F_SETFL, (flags & ~O_NONBLOCK) | O_DIRECT) != 0 &&
      ::fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != 0) {
    return fail(os_error(errno, "cannot set the flags of", path));
  }
  return {};
}

}  // namespace

OsDirectory::OsDirectory(int fd, std::string path, Backend backend, bool may_fall_back, LogSink log)
    : fd_(fd),
      path_(std::move(path)),
      backend_(backend),
      may_fall_back_(may_fall_back),
      log_(std::move(log)),
      block_size_(physical_block_size(fd)) {}

OsDirectory::~OsDirectory() { ::close(fd_); }

std::string OsDirectory::file_path(std::string_view name) const {
  return path_ + "/" + std::string(name);
}

Result<std::unique_ptr<File>> OsDirectory::open(std::string_view name, OpenMode mode) {
  KESSAI_TRY(check_name(name, path_));
  const std::string path = file_path(name);
  int flags =
      O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | (mode == OpenMode::read_only ? O_RDONLY : O_RDWR);
  if (mode == OpenMode::create_new) flags |= O_CREAT | O_EXCL;
  const int fd = open_retrying(fd_, std::string(name).c_str(), flags, 0600);
  if (fd < 0) {
    if (errno == ELOOP) {
      return fail(Code::permission_denied,
                  ErrorDetail{.what = "a symbolic link, refused", .path = path}, ELOOP);
    }
    if (errno == EISDIR || errno == ENXIO || errno == ENODEV) {
      return fail(Code::permission_denied,
                  ErrorDetail{.what = "not a regular file, refused", .path = path}, errno);
    }
    return fail(
        os_error(errno, mode == OpenMode::create_new ? "cannot create" : "cannot open", path));
  }
  auto file = std::make_unique<OsFile>(fd, path, mode != OpenMode::read_only);
  KESSAI_TRY(adopt(fd, path));
  return file;
}

Result<void> OsDirectory::rename(std::string_view from, std::string_view to) {
  KESSAI_TRY(check_name(from, path_));
  KESSAI_TRY(check_name(to, path_));
  if (::renameat(fd_, std::string(from).c_str(), fd_, std::string(to).c_str()) != 0) {
    return fail(os_error(errno, "cannot rename to \"" + std::string(to) + "\"", file_path(from)));
  }
  return {};
}

Result<void> OsDirectory::remove(std::string_view name) {
  KESSAI_TRY(check_name(name, path_));
  if (::unlinkat(fd_, std::string(name).c_str(), 0) != 0) {
    return fail(os_error(errno, "cannot remove", file_path(name)));
  }
  return {};
}

Result<std::vector<std::string>> OsDirectory::list() {
  const int fd = open_retrying(fd_, ".", O_RDONLY | O_DIRECTORY);
  if (fd < 0) return fail(os_error(errno, "cannot open the directory", path_));
  DIR* stream = ::fdopendir(fd);
  if (stream == nullptr) {
    const int error = errno;
    ::close(fd);
    return fail(os_error(error, "cannot list", path_));
  }
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(stream)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  const int error = errno;
  ::closedir(stream);
  if (error != 0) return fail(os_error(error, "cannot list", path_));
  std::ranges::sort(names);
  return names;
}

Result<void> OsDirectory::flush() {
  if (const int e = failed_flush_.load(); e != 0) {
    return fail(os_error(e, "a flush of this directory failed, its entries may be lost", path_));
  }
  auto flushed = flush_directory(fd_, path_);
  if (!flushed) failed_flush_.store(flushed.error().os_error());
  return flushed;
}

Result<std::unique_ptr<Queue>> OsDirectory::make_queue(unsigned depth) {
  if (depth == 0 || depth > 4096)
    return fail(Code::invalid_argument, "a queue has a depth of 1 to 4096");
  if (backend_ == Backend::uring) {
    auto ring = make_uring_queue(*this, depth);
    if (ring || !may_fall_back_) return ring;
    if (log_) log_(ring.error().message() + "; this queue uses the posix back end");
  }
  return make_posix_queue(*this, depth);
}

Result<void> OsDirectory::time_durable_writes(OsFile& scratch) {
  static constexpr std::size_t kBlocks = 16;
  static constexpr std::size_t kRounds = 20;
  static constexpr std::uint64_t kBudgetNs = 8'000'000;
  const std::uint64_t begin = system_clock().now_ns();
  // Into written blocks, as the recycled log segments are: unwritten extents cost a metadata
  // commit.
  AlignedBuffer block(std::size_t{kDefaultBlock} * kBlocks);
  block.data()[0] = std::byte{1};
  KESSAI_TRY(scratch.write(0, block.span()));
  KESSAI_TRY(scratch.flush());
  std::vector<std::uint64_t> times[2];
  std::uint64_t start = system_clock().now_ns();
  std::uint64_t round = start - begin;  // the last one, to foresee the next
  for (std::size_t i = 0; i < kRounds && start - begin + round < kBudgetNs; ++i) {
    const std::uint64_t round_start = start;
    for (const DurableMode mode : {DurableMode::dsync, DurableMode::write_then_flush}) {
      KESSAI_TRY(scratch.write_durable(i % kBlocks * kDefaultBlock,
                                       block.span().first(kDefaultBlock), mode));
      const std::uint64_t end = system_clock().now_ns();
      times[static_cast<std::size_t>(mode)].push_back(end - start);
      start = end;
    }
    round = start - round_start;
  }
  if (times[0].size() < 3) return {};  // a slow disk: its flush dominates either way
  std::uint64_t median[2];
  for (int m = 0; m < 2; ++m) {
    const auto middle = times[m].begin() + static_cast<std::ptrdiff_t>(times[m].size() / 2);
    std::nth_element(times[m].begin(), middle, times[m].end());
    median[m] = *middle;
  }
  mode_.store(median[0] <= median[1] ? DurableMode::dsync : DurableMode::write_then_flush,
              std::memory_order_relaxed);
  return {};
}

Result<void> OsDirectory::calibrate() {
  std::uint64_t tag = 0;
  system_random().fill(std::as_writable_bytes(std::span(&tag, 1)));
  const std::string name = "calibrate-" + std::to_string(tag) + ".tmp";
  KESSAI_ASSIGN(scratch, open(name, OpenMode::create_new));
  KESSAI_TRY(remove(name));  // at once: a process that is killed meanwhile leaves no file behind
  return time_durable_writes(static_cast<OsFile&>(*scratch));
}

Result<std::unique_ptr<Directory>> open_directory(const std::string& path,
                                                  const DirectoryOptions& options) {
  if (options.backend == Backend::simulated) {
    return fail(Code::invalid_argument, "a simulated directory comes from SimDisk::attach");
  }
  Backend backend = options.backend;
  if (backend != Backend::posix) {
    auto ring = probe_uring();
    if (!ring && backend == Backend::uring) return std::unexpected(ring.error());
    if (!ring && options.log) options.log(ring.error().message() + "; using the posix back end");
    backend = ring ? Backend::uring : Backend::posix;
  }
  if (options.create) KESSAI_TRY(create_directory(path));
  const int fd = open_retrying(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY);
  if (fd < 0) return fail(os_error(errno, "cannot open the directory", path));
  return std::make_unique<OsDirectory>(fd, path, backend, options.backend == Backend::automatic,
                                       options.log);
}

Result<void> calibrate_durable_write(Directory& dir) {
  auto* os = dynamic_cast<OsDirectory*>(&dir);
  return os != nullptr ? os->calibrate() : Result<void>{};
}

}  // namespace kessai::io
