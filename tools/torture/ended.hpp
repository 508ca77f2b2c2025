// SPDX-License-Identifier: Apache-2.0
// The end of a child process, to be waited for without missing it and without being woken by other
// things: a pidfd. For the one thread of a parent.
#pragma once

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <ctime>

namespace kessai::torture {

class Ended {
 public:
  explicit Ended(pid_t pid) : fd_(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))) {}
  ~Ended() { close(fd_); }
  Ended(const Ended&) = delete;
  Ended& operator=(const Ended&) = delete;
  /// Returns at the end of the process, after `most_ns`, or at a signal.
  void wait(std::uint64_t most_ns) const {
    pollfd p{fd_, POLLIN, 0};
    const timespec most{static_cast<time_t>(most_ns / 1'000'000'000),
                        static_cast<long>(most_ns % 1'000'000'000)};
    (void)ppoll(&p, 1, &most, nullptr);
  }

 private:
  int fd_;
};

}  // namespace kessai::torture
