// SPDX-License-Identifier: Apache-2.0
// What the device itself can do, measured beside each engine run; and the kernel's page cache.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <thread>

namespace kessai::bench {

/// Mean microseconds of one 4 KiB O_DIRECT write + fdatasync, queue depth 1, going round a
/// pre-written file in `dir`: the cost of a log flush without an engine.
double probe_flush_us(const std::string& dir, double seconds);

/// Random 4 KiB O_DIRECT reads per second with `depth` of them always in flight (io_uring), over
/// the allocated parts of the largest file under `dir`. nullopt when the ring or O_DIRECT is
/// refused.
std::optional<double> probe_random_reads(const std::string& dir, unsigned depth, double seconds);

/// Bytes on disk (allocated blocks) of all files under `dir`.
std::uint64_t allocated_bytes(const std::string& dir);

/// Writes back and forgets everything the kernel caches of the files under `dir`, including what
/// this process has mapped of them. Needs no privilege.
void drop_page_cache(const std::string& dir);

/// While alive: whenever the process has read `limit` bytes from the device, drops the page cache
/// of `dir`, so that the kernel's file cache stays about that small without a memory cgroup.
class PageCacheLimit {
 public:
  PageCacheLimit(std::string dir, std::uint64_t limit);
  PageCacheLimit(const PageCacheLimit&) = delete;
  PageCacheLimit& operator=(const PageCacheLimit&) = delete;
  ~PageCacheLimit() = default;

 private:
  std::jthread thread_;
};

}  // namespace kessai::bench
