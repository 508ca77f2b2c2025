// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/fuse_disk.hpp"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "io/env.hpp"

namespace kessai::torture {
namespace {

constexpr std::uint32_t kMostWrite = 1 << 20;
constexpr std::size_t kMostRequest = kMostWrite + 4096;
constexpr std::size_t kMostBatch = 16;
constexpr std::uint64_t kFolder = FUSE_ROOT_ID, kFile = 2;
constexpr std::uint64_t kAttributesLastS = 3600;
constexpr std::uint32_t kUnmounted = FUSE_DESTROY;

struct Request {
  std::vector<std::byte> bytes = std::vector<std::byte>(kMostRequest);
  std::size_t size = 0;

  [[nodiscard]] fuse_in_header head() const { return at<fuse_in_header>(0); }
  template <class T>
  [[nodiscard]] T body() const {
    return at<T>(sizeof(fuse_in_header));
  }
  [[nodiscard]] std::span<const std::byte> after(std::size_t body_bytes) const {
    return std::span(bytes).subspan(sizeof(fuse_in_header) + body_bytes,
                                    size - sizeof(fuse_in_header) - body_bytes);
  }

 private:
  template <class T>
  [[nodiscard]] T at(std::size_t offset) const {
    T out{};
    std::memcpy(&out, bytes.data() + offset, std::min(sizeof out, size - offset));
    return out;
  }
};

class Server {
 public:
  explicit Server(const FuseDisk& disk) : disk_(disk), random_(disk.seed), batch_(kMostBatch) {}

  int run() {
    for (;;) {
      pollfd p{disk_.fd, POLLIN, 0};
      if (poll(&p, 1, -1) < 0 && errno != EINTR) return 1;
      if (!read_batch()) return errno == ENODEV ? 0 : 1;  // ENODEV: unmounted
      // Flushes first, then the writes in any order, then the rest.
      for (std::size_t i = 0; i < count_; ++i) answer_if(batch_[i], FUSE_FSYNC);
      for (std::size_t i = count_; i > 1; --i) std::swap(batch_[i - 1], batch_[random_.below(i)]);
      for (std::size_t i = 0; i < count_; ++i) answer_if(batch_[i], FUSE_WRITE);
      for (std::size_t i = 0; i < count_; ++i) {
        const std::uint32_t what = batch_[i].head().opcode;
        if (what != FUSE_FSYNC && what != FUSE_WRITE) answer(batch_[i]);
        if (what == kUnmounted) return 0;
      }
    }
  }

 private:
  bool read_batch() {
    for (count_ = 0; count_ < kMostBatch;) {
      Request& r = batch_[count_];
      const ssize_t n = read(disk_.fd, r.bytes.data(), r.bytes.size());
      if (n < 0 && (errno == EINTR || errno == ENOENT)) continue;  // ENOENT: it was interrupted
      if (n < 0 && errno == EAGAIN) return true;
      if (n < static_cast<ssize_t>(sizeof(fuse_in_header))) return count_ != 0;
      r.size = static_cast<std::size_t>(n);
      ++count_;
    }
    return true;
  }

  void answer_if(const Request& r, std::uint32_t what) {
    if (r.head().opcode == what) answer(r);
  }

  void answer(const Request& r) {
    const fuse_in_header head = r.head();
    switch (head.opcode) {
      case FUSE_INIT:
        return init(r);
      case FUSE_LOOKUP:
        return lookup(r);
      case FUSE_GETATTR:
        return reply(r, fuse_attr_out{.attr_valid = kAttributesLastS,
                                      .attr_valid_nsec = 0,
                                      .dummy = 0,
                                      .attr = attributes(head.nodeid)});
      case FUSE_OPEN:
      case FUSE_OPENDIR: {
        fuse_open_out out{};
        out.open_flags = FOPEN_DIRECT_IO;
        return reply(r, out);
      }
      case FUSE_READ:
        return read_disk(r);
      case FUSE_WRITE:
        return write_disk(r);
      case FUSE_FSYNC:
        disk_.recording->flush();
        recorded();
        return reply_error(r, 0);
      case FUSE_STATFS:
        return reply(r, fuse_statfs_out{});
      case FUSE_FLUSH:
      case FUSE_RELEASE:
      case FUSE_RELEASEDIR:
      case FUSE_ACCESS:
      case kUnmounted:
        return reply_error(r, 0);
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
      case FUSE_INTERRUPT:
        return;  // none is expected
      default:
        return reply_error(r, ENOSYS);
    }
  }

  void init(const Request& r) {
    const auto in = r.body<fuse_init_in>();
    fuse_init_out out{};
    out.major = FUSE_KERNEL_VERSION;
    out.minor = FUSE_KERNEL_MINOR_VERSION;
    out.max_readahead = in.max_readahead;
    out.flags = in.flags & (FUSE_BIG_WRITES | FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_MAX_PAGES);
    out.max_background = 64;
    out.congestion_threshold = 48;
    out.max_write = kMostWrite;
    out.max_pages = kMostWrite / 4096;
    out.time_gran = 1;
    reply(r, out);
  }

  void lookup(const Request& r) {
    const auto name = r.after(0);
    if (std::string_view(reinterpret_cast<const char*>(name.data()), name.size()) !=
        std::string_view(kFuseDiskName, std::strlen(kFuseDiskName) + 1))
      return reply_error(r, ENOENT);
    fuse_entry_out out{};
    out.nodeid = kFile;
    out.entry_valid = out.attr_valid = kAttributesLastS;
    out.attr = attributes(kFile);
    reply(r, out);
  }

  [[nodiscard]] fuse_attr attributes(std::uint64_t node) const {
    fuse_attr out{};
    out.ino = node;
    out.mode = node == kFolder ? S_IFDIR | 0700 : S_IFREG | 0600;
    out.nlink = 1;
    out.size = node == kFolder ? 0 : disk_.image.size();
    out.blocks = out.size / 512;
    out.blksize = 4096;
    return out;
  }

  void read_disk(const Request& r) {
    const auto in = r.body<fuse_read_in>();
    const std::uint64_t size = disk_.image.size();
    const std::uint64_t from = std::min(in.offset, size);
    reply_bytes(r, disk_.image.subspan(from, std::min<std::uint64_t>(in.size, size - from)));
  }

  void write_disk(const Request& r) {
    const auto in = r.body<fuse_write_in>();
    const auto bytes = r.after(sizeof in);
    if (bytes.size() != in.size || in.offset > disk_.image.size() ||
        in.size > disk_.image.size() - in.offset)
      return reply_error(r, EIO);
    std::memcpy(disk_.image.data() + in.offset, bytes.data(), bytes.size());
    disk_.recording->write(in.offset, bytes);
    recorded();
    fuse_write_out out{};
    out.size = in.size;
    reply(r, out);
  }

  // Before the answer: who sees the answer sees this moment, or a later one.
  void recorded() {
    disk_.moment->store(disk_.recording->full() ? std::numeric_limits<std::uint64_t>::max()
                                                : disk_.recording->count());
  }

  template <class T>
  void reply(const Request& r, const T& body) {
    reply_bytes(r, std::as_bytes(std::span(&body, 1)));
  }
  void reply_bytes(const Request& r, std::span<const std::byte> body) {
    fuse_out_header head{};
    head.len = static_cast<std::uint32_t>(sizeof head + body.size());
    head.unique = r.head().unique;
    const iovec parts[2] = {{&head, sizeof head},
                            {const_cast<std::byte*>(body.data()), body.size()}};
    // Fails only when nobody waits for it any more.
    (void)!writev(disk_.fd, parts, body.empty() ? 1 : 2);
  }
  void reply_error(const Request& r, int error) {
    fuse_out_header head{};
    head.len = sizeof head;
    head.error = -error;
    head.unique = r.head().unique;
    (void)!write(disk_.fd, &head, sizeof head);
  }

  const FuseDisk& disk_;
  io::SeededRandom random_;
  std::vector<Request> batch_;
  std::size_t count_ = 0;
};

}  // namespace

Result<int> mount_fuse(const std::string& folder) {
  const auto failed = [&](const char* call) {
    return std::unexpected(Error(
        Code::io_error, ErrorDetail{.what = std::string(call) + " failed", .path = folder}, errno));
  };
  const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return failed("opening /dev/fuse");
  const std::string options = "fd=" + std::to_string(fd) + ",rootmode=40000,user_id=0,group_id=0";
  if (mount("kvtorture", folder.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) == 0)
    return fd;
  auto error = failed("mounting a FUSE file system");
  close(fd);
  return error;
}

int serve(const FuseDisk& disk) { return Server(disk).run(); }

}  // namespace kessai::torture
