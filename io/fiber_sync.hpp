// SPDX-License-Identifier: Apache-2.0
// The primitives of sync.hpp for the torture copies (KESSAI_TORTURE=1): on a fiber of a Scheduler
// they are its points and waits, elsewhere the real ones. Included by sync.hpp only.
//
// A Mutex is used on fibers or on threads, never both while it is held: what runs under a
// Scheduler::Quiet has locks of its own.
#pragma once

#include "io/fiber.hpp"
#include "io/real_sync.hpp"

namespace kessai::io {

class KESSAI_CAPABILITY("mutex") Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;
  void lock(const Site& at = Site::current()) KESSAI_ACQUIRE() KESSAI_NOT_ANALYSED {
    if (fiber::scheduled()) return fiber::acquire(held_, at);
    real_.lock();
  }
  bool try_lock(const Site& at = Site::current()) KESSAI_TRY_ACQUIRE(true) KESSAI_NOT_ANALYSED {
    if (fiber::scheduled()) return fiber::try_acquire(held_, at);
    return real_.try_lock();
  }
  void unlock() KESSAI_RELEASE() KESSAI_NOT_ANALYSED {
    if (held_) return fiber::release(held_);
    real_.unlock();
  }

 private:
  friend class CondVar;
  real::Mutex real_;
  bool held_ = false;  ///< by a fiber
};

class KESSAI_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& m, const Site& at = Site::current()) KESSAI_ACQUIRE(m) : mutex_(m) {
    mutex_.lock(at);
  }
  ~MutexLock() KESSAI_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

/// Its sections are short and never wait: on a fiber it blocks like a Mutex instead of spinning.
class KESSAI_CAPABILITY("mutex") SpinMutex {
 public:
  SpinMutex() = default;
  SpinMutex(const SpinMutex&) = delete;
  SpinMutex& operator=(const SpinMutex&) = delete;
  void lock(const Site& at = Site::current()) KESSAI_ACQUIRE() KESSAI_NOT_ANALYSED {
    if (fiber::scheduled()) return fiber::acquire(held_, at);
    real_.lock();
  }
  bool try_lock(const Site& at = Site::current()) KESSAI_TRY_ACQUIRE(true) KESSAI_NOT_ANALYSED {
    if (fiber::scheduled()) return fiber::try_acquire(held_, at);
    return real_.try_lock();
  }
  void unlock() KESSAI_RELEASE() KESSAI_NOT_ANALYSED {
    if (held_) return fiber::release(held_);
    real_.unlock();
  }

 private:
  real::SpinMutex real_;
  bool held_ = false;
};

class KESSAI_SCOPED_CAPABILITY SpinLock {
 public:
  explicit SpinLock(SpinMutex& m, const Site& at = Site::current()) KESSAI_ACQUIRE(m) : mutex_(m) {
    mutex_.lock(at);
  }
  ~SpinLock() KESSAI_RELEASE() { mutex_.unlock(); }
  SpinLock(const SpinLock&) = delete;
  SpinLock& operator=(const SpinLock&) = delete;

 private:
  SpinMutex& mutex_;
};

class CondVar {
 public:
  bool wait_for(Mutex& m, std::uint64_t timeout_ns, const Site& at = Site::current())
      KESSAI_REQUIRES(m) KESSAI_NOT_ANALYSED;
  void notify_one() noexcept;
  void notify_all() noexcept;

 private:
  real::CondVar real_;
};

class Thread {
 public:
  Thread() = default;
  Thread(const char* name, std::function<void()> body);
  ~Thread() { join(); }
  Thread(Thread&& o) noexcept : real_(std::move(o.real_)), fiber_(std::exchange(o.fiber_, 0)) {}
  Thread& operator=(Thread&& o) noexcept;
  void join(const Site& at = Site::current());
  [[nodiscard]] bool joinable() const noexcept { return fiber_ != 0 || real_.joinable(); }

 private:
  real::Thread real_;
  unsigned fiber_ = 0;  ///< its number; 0: is none
};

void futex_wait(const Atomic<std::uint32_t>& word, std::uint32_t expected, std::uint64_t timeout_ns,
                const Site& at = Site::current());
void futex_wake(const Atomic<std::uint32_t>& word, int count);
void pause_for(std::uint64_t ns, const Site& at = Site::current());
void cpu_relax(const Site& at = Site::current()) noexcept;
void yield_thread(const Site& at = Site::current()) noexcept;
[[nodiscard]] unsigned thread_index() noexcept;
[[nodiscard]] unsigned thread_serial() noexcept;

}  // namespace kessai::io
