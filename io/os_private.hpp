// SPDX-License-Identifier: Apache-2.0
// The real files behind both kernel back ends; stays inside io/.
//
// OsFile is one open file description: it holds the flock and does all I/O of that file (I13), also
// the I/O of the queues, which use its descriptor. Descriptors are deliberately not registered with
// the rings: a registration keeps the description, and with it the flock, alive after close.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "io/check.hpp"
#include "io/file.hpp"
#include "io/sync.hpp"

namespace kessai::io {

/// The error for a failed call on `path`; the one place that maps errno to codes.
[[nodiscard]] Error os_error(int error, std::string what, const std::string& path,
                             std::uint64_t offset = 0);

/// How a durable write is done; calibrate_durable_write picks.
enum class DurableMode : std::uint8_t { dsync, write_then_flush };

enum class Transfer : std::uint8_t { read, write, write_dsync };

class OsFile final : public File {
 public:
  /// Takes the descriptor over.
  OsFile(int fd, std::string path, bool writable);
  ~OsFile() override;
  OsFile(const OsFile&) = delete;
  OsFile& operator=(const OsFile&) = delete;

  const std::string& path() const noexcept override { return path_; }
  Result<std::uint64_t> size() override;
  Result<void> read(std::uint64_t offset, std::span<std::byte> into) override;
  Result<void> write(std::uint64_t offset, std::span<const std::byte> from) override;
  Result<void> flush() override;
  Result<void> flush_and_drop_cache() override;
  Result<void> resize(std::uint64_t bytes) override;
  Result<void> lock(std::uint64_t timeout_ns) override;

  /// A write that is durable on return. A failure is sticky, like that of a flush.
  Result<void> write_durable(std::uint64_t offset, std::span<const std::byte> from,
                             DurableMode mode);

  [[nodiscard]] int fd() const noexcept { return fd_; }
  [[nodiscard]] bool writable() const noexcept { return writable_; }
  /// errno of the flush that failed first, or 0.
  [[nodiscard]] int failed_flush() const noexcept {
    return failed_flush_.load(std::memory_order_acquire);
  }
  void flush_failed(int error) noexcept;
  /// The errors of this file, shared by the direct calls and the queues.
  [[nodiscard]] Error transfer_error(int error, Transfer kind, std::uint64_t offset) const;
  [[nodiscard]] Error flush_error(int error) const;
  [[nodiscard]] Error not_writable() const;
  /// What a transfer means that moved nothing at `offset`: past the end, or a device that is stuck.
  [[nodiscard]] Error no_progress(Transfer kind, std::uint64_t offset);

 private:
  Result<void> transfer(Transfer kind, std::uint64_t offset, std::byte* data, std::size_t size);
  Result<void> fill_with_zeros(std::uint64_t from, std::uint64_t to);

  const int fd_;
  const std::string path_;
  const bool writable_;
  std::atomic<int> failed_flush_{0};
  // One fdatasync at a time: the kernel reports a lost page to one caller only, and a concurrent
  // caller must see that the other one failed.
  Mutex flush_mutex_;
  bool locked_ KESSAI_GUARDED_BY(flush_mutex_) = false;
};

/// After a short transfer of `moved` bytes: how many count. Direct I/O restarts at a block
/// boundary.
[[nodiscard]] std::size_t usable_progress(std::size_t moved, std::size_t wanted) noexcept;
/// Consecutive attempts without progress before a transfer is given up.
inline constexpr int kMaxRetries = 1000;

class OsDirectory final : public Directory {
 public:
  OsDirectory(int fd, std::string path, Backend backend, bool may_fall_back, LogSink log);
  ~OsDirectory() override;
  OsDirectory(const OsDirectory&) = delete;
  OsDirectory& operator=(const OsDirectory&) = delete;

  const std::string& path() const noexcept override { return path_; }
  Backend backend() const noexcept override { return backend_; }
  std::uint32_t block_size() const noexcept override { return block_size_; }
  Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) override;
  Result<void> rename(std::string_view from, std::string_view to) override;
  Result<void> remove(std::string_view name) override;
  Result<std::vector<std::string>> list() override;
  Result<void> flush() override;
  Result<std::unique_ptr<Queue>> make_queue(unsigned depth) override;

  /// Times both durable writes on a scratch file and keeps the faster one.
  Result<void> calibrate();
  [[nodiscard]] DurableMode durable_mode() const noexcept {
    return mode_.load(std::memory_order_relaxed);
  }

 private:
  Result<void> time_durable_writes(OsFile& scratch);
  [[nodiscard]] std::string file_path(std::string_view name) const;

  const int fd_;
  const std::string path_;
  const Backend backend_;
  const bool may_fall_back_;
  const LogSink log_;
  const std::uint32_t block_size_;
  std::atomic<DurableMode> mode_{DurableMode::dsync};
  std::atomic<int> failed_flush_{0};
};

/// Both take their durable mode from `dir` at each write.
[[nodiscard]] std::unique_ptr<Queue> make_posix_queue(const OsDirectory& dir, unsigned depth);
[[nodiscard]] Result<std::unique_ptr<Queue>> make_uring_queue(const OsDirectory& dir,
                                                              unsigned depth);
/// Sets up and uses a small ring; `not_supported` with errno and likely cause when refused.
[[nodiscard]] Result<void> probe_uring();

}  // namespace kessai::io
