// SPDX-License-Identifier: Apache-2.0
#include "bench/probe.hpp"

#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <vector>

#include "bench/data.hpp"
#include "bench/engine.hpp"
#include "bench/measure.hpp"

namespace kessai::bench {
namespace {

constexpr std::size_t kBlock = 4096;

struct Fd {
  explicit Fd(int number) : n(number) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (n >= 0) ::close(n);
  }
  int n;
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<char, Free>;
Buffer aligned(std::size_t bytes) {
  auto* p = static_cast<char*>(std::aligned_alloc(kBlock, bytes));
  if (p == nullptr) fail("out of memory");
  std::memset(p, 0x5a, bytes);
  return Buffer(p);
}

template <class Fn>
void each_file(const std::string& dir, Fn&& fn) {
  std::error_code ec;  // files come and go under a running engine
  for (auto it = std::filesystem::recursive_directory_iterator(dir, ec);
       !ec && it != std::filesystem::recursive_directory_iterator(); it.increment(ec)) {
    std::error_code gone;
    if (it->is_regular_file(gone)) fn(it->path().string());
  }
}

/// Offsets of the blocks of `fd` that hold data. Holes and unwritten extents are answered by the
/// file system without the device and would flatter the probe.
std::vector<std::uint64_t> data_blocks(int fd) {
  std::vector<std::uint64_t> blocks;
  for (off_t at = 0;;) {
    const off_t data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0) return blocks;
    const off_t end = ::lseek(fd, data, SEEK_HOLE);
    for (off_t b = data; b + static_cast<off_t>(kBlock) <= end; b += kBlock) {
      blocks.push_back(static_cast<std::uint64_t>(b));
    }
    at = end;
  }
}

}  // namespace

double probe_flush_us(const std::string& dir, double seconds) {
  constexpr std::size_t kFile = std::size_t{4} << 20;
  const std::string path = dir + "/flush-probe";
  const Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
  if (fd.n < 0) fail("cannot create " + path + ": " + std::strerror(errno));
  const Buffer buffer = aligned(std::size_t{1} << 20);
  struct stat st{};
  ::fstat(fd.n, &st);
  for (off_t at = st.st_size; at < static_cast<off_t>(kFile); at += 1 << 20) {
    if (::pwrite(fd.n, buffer.get(), 1 << 20, at) != 1 << 20) fail("cannot write " + path);
  }
  if (::fsync(fd.n) != 0) fail("cannot flush " + path);
  std::uint64_t count = 0;
  const std::uint64_t start = now_ns(), end = start + static_cast<std::uint64_t>(seconds * 1e9);
  std::uint64_t now = start;
  for (; now < end; now = now_ns(), ++count) {
    const auto at = static_cast<off_t>((count * kBlock) % kFile);
    if (::pwrite(fd.n, buffer.get(), kBlock, at) != static_cast<ssize_t>(kBlock) ||
        ::fdatasync(fd.n) != 0) {
      fail("flush probe: " + std::string(std::strerror(errno)));
    }
  }
  return static_cast<double>(now - start) / 1000.0 /
         static_cast<double>(std::max<std::uint64_t>(count, 1));
}

std::optional<double> probe_random_reads(const std::string& dir, unsigned depth, double seconds) {
  std::string largest;
  std::uintmax_t largest_bytes = 0;
  each_file(dir, [&](const std::string& path) {
    struct stat st{};
    if (::stat(path.c_str(), &st) != 0) return;
    const auto bytes = static_cast<std::uintmax_t>(st.st_blocks) * 512;
    if (bytes > largest_bytes) {
      largest_bytes = bytes;
      largest = path;
    }
  });
  const Fd fd(::open(largest.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
  io_uring ring;
  if (fd.n < 0 || ::io_uring_queue_init(depth, &ring, 0) != 0) return {};
  const std::vector<std::uint64_t> blocks = data_blocks(fd.n);
  std::optional<double> rate;
  if (!blocks.empty()) {
    const Buffer buffers = aligned(depth * kBlock);
    Rng rng(now_ns());
    std::uint64_t done = 0;
    const auto prepare = [&](std::uint64_t slot) {
      io_uring_sqe* sqe = ::io_uring_get_sqe(&ring);
      ::io_uring_prep_read(sqe, fd.n, buffers.get() + slot * kBlock, kBlock,
                           blocks[rng.below(blocks.size())]);
      sqe->user_data = slot;
    };
    for (unsigned s = 0; s < depth; ++s) prepare(s);
    const std::uint64_t start = now_ns(), end = start + static_cast<std::uint64_t>(seconds * 1e9);
    std::uint64_t now = start;
    bool good = true;
    for (; good && now < end; now = now_ns()) {
      good = ::io_uring_submit_and_wait(&ring, 1) >= 0;
      io_uring_cqe* cqe = nullptr;
      while (good && ::io_uring_peek_cqe(&ring, &cqe) == 0) {
        good = cqe->res == static_cast<int>(kBlock);
        const std::uint64_t slot = cqe->user_data;
        ::io_uring_cqe_seen(&ring, cqe);
        ++done;
        prepare(slot);
      }
    }
    if (good) rate = static_cast<double>(done) * 1e9 / static_cast<double>(now - start);
    // Prepared but unsubmitted reads die with the ring; those in flight own the buffers until
    // reaped.
    io_uring_cqe* cqe = nullptr;
    __kernel_timespec second{1, 0};
    const unsigned unsubmitted = ::io_uring_sq_ready(&ring);
    for (unsigned left = depth - std::min(depth, unsubmitted);
         left > 0 && ::io_uring_wait_cqe_timeout(&ring, &cqe, &second) == 0; --left) {
      ::io_uring_cqe_seen(&ring, cqe);
    }
  }
  ::io_uring_queue_exit(&ring);
  return rate;
}

std::uint64_t allocated_bytes(const std::string& dir) {
  std::uint64_t bytes = 0;
  each_file(dir, [&](const std::string& path) {
    struct stat st{};
    if (::stat(path.c_str(), &st) == 0) bytes += static_cast<std::uint64_t>(st.st_blocks) * 512;
  });
  return bytes;
}

void drop_page_cache(const std::string& dir) {
  // Mapped pages are not invalidated; a clean shared mapping may be unmapped and faults again.
  // Without MADV_RANDOM a fault would read a whole read-ahead window for one record.
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(dir) == std::string::npos) continue;
    char* end = nullptr;
    const std::uintptr_t from = std::strtoull(line.c_str(), &end, 16);
    const std::uintptr_t to = std::strtoull(end + 1, &end, 16);
    ::madvise(reinterpret_cast<void*>(from), to - from, MADV_RANDOM);
    ::madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
  }
  each_file(dir, [](const std::string& path) {
    const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd.n >= 0) ::posix_fadvise(fd.n, 0, 0, POSIX_FADV_DONTNEED);
  });
}

PageCacheLimit::PageCacheLimit(std::string dir, std::uint64_t limit)
    : thread_([dir = std::move(dir), limit](const std::stop_token& stop) {
        for (std::uint64_t last = process_read_bytes(); !stop.stop_requested();) {
          std::this_thread::sleep_for(std::chrono::milliseconds(4));
          const std::uint64_t now = process_read_bytes();
          if (now - last < limit) continue;
          drop_page_cache(dir);
          last = now;
        }
      }) {}

}  // namespace kessai::bench
