// SPDX-License-Identifier: Apache-2.0
// The real threads, locks and waits behind sync.hpp, which is what code includes.
//
// Mutexes are annotated for clang's -Wthread-safety. CondVar waits are always bounded.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "io/annotations.hpp"
#include "io/atomic.hpp"

namespace kessai::io::real {

class KESSAI_CAPABILITY("mutex") Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;
  void lock() KESSAI_ACQUIRE() { mutex_.lock(); }
  bool try_lock() KESSAI_TRY_ACQUIRE(true) { return mutex_.try_lock(); }
  void unlock() KESSAI_RELEASE() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class KESSAI_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& m) KESSAI_ACQUIRE(m) : mutex_(m) { mutex_.lock(); }
  ~MutexLock() KESSAI_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

/// A lock of one word for sections of a few instructions (no I/O, no allocation inside). Spins on
/// a plain load, and yields the core after about a hundred pauses: the holder may be descheduled.
class KESSAI_CAPABILITY("mutex") SpinMutex {
 public:
  SpinMutex() = default;
  SpinMutex(const SpinMutex&) = delete;
  SpinMutex& operator=(const SpinMutex&) = delete;
  void lock() KESSAI_ACQUIRE() {
    if (held_.exchange(1, std::memory_order_acquire) != 0) lock_slow();
  }
  bool try_lock() KESSAI_TRY_ACQUIRE(true) {
    return held_.load(std::memory_order_relaxed) == 0 &&
           held_.exchange(1, std::memory_order_acquire) == 0;
  }
  // Release pairs with the acquire exchange of the next holder.
  void unlock() KESSAI_RELEASE() { held_.store(0, std::memory_order_release); }

 private:
  void lock_slow() noexcept;
  std::atomic<std::uint32_t> held_{0};
};

class KESSAI_SCOPED_CAPABILITY SpinLock {
 public:
  explicit SpinLock(SpinMutex& m) KESSAI_ACQUIRE(m) : mutex_(m) { mutex_.lock(); }
  ~SpinLock() KESSAI_RELEASE() { mutex_.unlock(); }
  SpinLock(const SpinLock&) = delete;
  SpinLock& operator=(const SpinLock&) = delete;

 private:
  SpinMutex& mutex_;
};

class CondVar {
 public:
  /// Waits until notified or `timeout_ns` passed (spurious returns allowed). True when notified.
  bool wait_for(Mutex& m, std::uint64_t timeout_ns) KESSAI_REQUIRES(m);
  void notify_one() noexcept { cv_.notify_one(); }
  void notify_all() noexcept { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

/// A joinable thread; the destructor joins.
class Thread {
 public:
  Thread() = default;
  /// `name`: at most 15 bytes. The thread blocks the embedder's asynchronous signals. KESSAI_CHECKs
  /// that the system gave a thread.
  Thread(const char* name, std::function<void()> body);
  ~Thread();
  Thread(Thread&&) noexcept = default;
  Thread& operator=(Thread&& o) noexcept;
  void join();
  [[nodiscard]] bool joinable() const noexcept { return thread_.joinable(); }

 private:
  std::thread thread_;
};

/// Futex on a 32-bit word: blocks while `word == expected`, at most `timeout_ns`. Spurious returns
/// are allowed.
void futex_wait(const Atomic<std::uint32_t>& word, std::uint32_t expected,
                std::uint64_t timeout_ns);
void futex_wake(const Atomic<std::uint32_t>& word, int count);
/// Gives the processor up for so long; nothing wakes it.
void pause_for(std::uint64_t ns);

/// Spin-wait hint; after enough of them the caller should yield or sleep.
inline void cpu_relax() noexcept { __builtin_ia32_pause(); }
void yield_thread() noexcept;

/// A small dense index of the calling thread, for per-thread slots (reused after thread exit).
[[nodiscard]] unsigned thread_index() noexcept;
/// A number of the calling thread that no other thread of the process ever has, from 1.
[[nodiscard]] unsigned thread_serial() noexcept;

}  // namespace kessai::io::real
