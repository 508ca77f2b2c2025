// SPDX-License-Identifier: Apache-2.0
#include "io/sync.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <new>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "io/check.hpp"

namespace kessai::io {
namespace real {
namespace {

/// Hands out the smallest free number. Never destroyed: threads may outlive static destruction.
class IndexPool {
 public:
  unsigned take() KESSAI_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    if (free_.empty()) return next_++;
    const unsigned index = *free_.begin();
    free_.erase(free_.begin());
    return index;
  }
  void give_back(unsigned index) KESSAI_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    free_.insert(index);
  }

 private:
  Mutex mutex_;
  unsigned next_ KESSAI_GUARDED_BY(mutex_) = 0;
  std::set<unsigned> free_ KESSAI_GUARDED_BY(mutex_);
};

IndexPool& index_pool() {
  static auto* pool = new IndexPool;
  return *pool;
}

constexpr unsigned kNoIndex = UINT_MAX;
constinit thread_local unsigned t_index = kNoIndex;

struct IndexHolder {
  IndexHolder() { t_index = index_pool().take(); }
  // A thread_local destructor that runs later and asks again gets a fresh index, which is leaked:
  // sharing a number with a living thread would be worse.
  ~IndexHolder() { index_pool().give_back(std::exchange(t_index, kNoIndex)); }
};

/// Everything but the signals that a crash handler, sanitizer or profiler needs on this thread.
sigset_t asynchronous_signals() {
  sigset_t set;
  sigfillset(&set);
  for (const int s : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGPROF})
    sigdelset(&set, s);
  return set;
}

}  // namespace

void SpinMutex::lock_slow() noexcept {
  static constexpr int kSpins = 100;
  for (int spins = 0;;) {
    if (held_.load(std::memory_order_relaxed) == 0 &&
        held_.exchange(1, std::memory_order_acquire) == 0)
      return;
    if (++spins < kSpins) {
      cpu_relax();
    } else {
      spins = 0;
      yield_thread();
    }
  }
}

bool CondVar::wait_for(Mutex& m, std::uint64_t timeout_ns) {
  static constexpr std::uint64_t kLongest = 3'600'000'000'000;  // deadline arithmetic must not wrap
  std::unique_lock<std::mutex> held(m.mutex_, std::adopt_lock);
  const auto status =
      cv_.wait_for(held, std::chrono::nanoseconds(timeout_ns < kLongest ? timeout_ns : kLongest));
  held.release();
  return status == std::cv_status::no_timeout;
}

Thread::Thread(const char* name, std::function<void()> body) {
  sigset_t old;
  const sigset_t blocked = asynchronous_signals();
  pthread_sigmask(SIG_BLOCK, &blocked, &old);
  try {
    thread_ = std::thread([label = std::string(name), run = std::move(body)] {
      pthread_setname_np(pthread_self(), label.c_str());
      run();
    });
  } catch (const std::system_error&) {
    thread_ = std::thread();  // reported by the check below
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  KESSAI_CHECK(thread_.joinable());
}

Thread::~Thread() { join(); }

Thread& Thread::operator=(Thread&& o) noexcept {
  if (this != &o) {
    join();
    thread_ = std::move(o.thread_);
  }
  return *this;
}

void Thread::join() {
  if (thread_.joinable()) thread_.join();
}

void futex_wait(const Atomic<std::uint32_t>& word, std::uint32_t expected,
                std::uint64_t timeout_ns) {
  static_assert(sizeof(word) == sizeof(std::uint32_t));
  const timespec timeout{.tv_sec = static_cast<time_t>(timeout_ns / 1'000'000'000),
                         .tv_nsec = static_cast<long>(timeout_ns % 1'000'000'000)};
  ::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, &timeout, nullptr, 0);
}

void futex_wake(const Atomic<std::uint32_t>& word, int count) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

void pause_for(std::uint64_t ns) {
  static const Atomic<std::uint32_t> kNobodyWakes{0};
  real::futex_wait(kNobodyWakes, 0, ns);  // not by argument-dependent lookup the fibers'
}

void yield_thread() noexcept { ::sched_yield(); }

unsigned thread_serial() noexcept {
  static std::atomic<unsigned> next{1};
  static thread_local const unsigned kMine = next.fetch_add(1, std::memory_order_relaxed);
  return kMine;
}

unsigned thread_index() noexcept {
  if (t_index == kNoIndex) {
    static thread_local IndexHolder holder;
    if (t_index == kNoIndex)
      t_index = index_pool().take();  // the holder is gone: see its destructor
  }
  return t_index;
}

}  // namespace real

int process_id() noexcept {
  // getpid is a system call, and every operation asks. The kernel empties this page in a child.
  static std::atomic<int>* const kKnown = []() -> std::atomic<int>* {
    void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || ::madvise(page, 4096, MADV_WIPEONFORK) != 0) return nullptr;
    return new (page) std::atomic<int>(0);
  }();
  if (kKnown == nullptr) return ::getpid();
  if (const int id = kKnown->load(std::memory_order_relaxed); id != 0) return id;
  kKnown->store(::getpid(), std::memory_order_relaxed);
  return ::getpid();
}

}  // namespace kessai::io
