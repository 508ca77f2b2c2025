// SPDX-License-Identifier: Apache-2.0
#include "bench/measure.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <latch>
#include <mutex>
#include <thread>

namespace kessai::bench {
namespace {

std::string read_proc(const char* path) {
  std::string text(8192, '\0');
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  const ssize_t n = fd < 0 ? -1 : ::read(fd, text.data(), text.size());
  if (fd >= 0) ::close(fd);
  text.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
  return text;
}

std::uint64_t proc_number(const char* path, const char* name) {
  const std::string text = read_proc(path);
  const std::size_t at = text.find(name);
  return at == std::string::npos
             ? 0
             : std::strtoull(text.c_str() + at + std::strlen(name), nullptr, 10);
}

/// Forgets the peak reached so far, so that VmHWM is the peak of what follows.
void reset_peak_rss() {
  const int fd = ::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (::write(fd, "5", 1) != 1) fail("cannot reset the peak of resident memory");
  ::close(fd);
}

}  // namespace

double Latencies::middle_ns(int bucket) {
  if (bucket < (1 << kSubBits)) return bucket;
  const int shift = (bucket >> kSubBits) - 1;
  const double sub = (bucket & ((1 << kSubBits) - 1)) + (1 << kSubBits) + 0.5;
  return std::ldexp(sub, shift);
}

double Latencies::quantile_us(double q) const {
  std::uint64_t total = 0, seen = 0;
  for (const auto& cell : boost::histogram::indexed(counts_)) total += *cell;
  if (total == 0) return 0;
  const auto rank = static_cast<std::uint64_t>(q * static_cast<double>(total - 1));
  for (const auto& cell : boost::histogram::indexed(counts_)) {
    seen += *cell;
    if (seen > rank) return middle_ns(cell.index(0)) / 1000.0;
  }
  return 0;
}

double process_cpu_us() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto us = [](const timeval& t) {
    return 1e6 * static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec);
  };
  return us(usage.ru_utime) + us(usage.ru_stime);
}

double thread_cpu_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return 1e9 * static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec);
}

double peak_rss_mib() {
  return static_cast<double>(proc_number("/proc/self/status", "VmHWM:")) / 1024.0;
}

std::uint64_t process_read_bytes() { return proc_number("/proc/self/io", "\nread_bytes: "); }

Measured run_section(Engine& engine, const SectionPlan& plan) {
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable finished;
  unsigned running = plan.threads;
  std::latch warm(plan.threads + 1), go(1);
  std::vector<Worker> workers(plan.threads);
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < plan.threads; ++t) {
    threads.emplace_back([&, t] {
      const std::unique_ptr<Session> session = engine.session();
      Worker& w = workers[t];
      w.index = t;
      w.session = session.get();
      w.stop = &stop;
      if (plan.warm) plan.warm(w);
      warm.count_down();
      go.wait();
      plan.body(w);
      const std::scoped_lock lock(mutex);
      if (--running == 0) finished.notify_one();
    });
  }
  warm.arrive_and_wait();
  reset_peak_rss();
  Measured m;
  const std::uint64_t read_before = process_read_bytes();
  const double cpu_before = process_cpu_us();
  const std::uint64_t start = now_ns();
  go.count_down();
  {
    std::unique_lock lock(mutex);
    finished.wait_for(lock, std::chrono::duration<double>(plan.seconds),
                      [&] { return running == 0; });
  }
  stop.store(true);
  {
    std::unique_lock lock(mutex);
    finished.wait(lock, [&] { return running == 0; });
  }
  m.seconds = static_cast<double>(now_ns() - start) * 1e-9;
  m.cpu_us = process_cpu_us() - cpu_before;
  m.read_bytes = process_read_bytes() - read_before;
  m.rss_mib = peak_rss_mib();
  for (std::thread& t : threads) t.join();
  for (const Worker& w : workers) {
    m.ops += w.ops;
    m.latencies.merge(w.latencies);
  }
  return m;
}

}  // namespace kessai::bench
