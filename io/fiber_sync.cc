// SPDX-License-Identifier: Apache-2.0
// Empty in normal builds: see fiber_sync.hpp.
#include "io/sync.hpp"

#if defined(KESSAI_TORTURE)
#include "io/scheduler.hpp"

namespace kessai::io {

bool CondVar::wait_for(Mutex& m, std::uint64_t timeout_ns, const Site& at) {
  if (!fiber::scheduled()) return real_.wait_for(m.real_, timeout_ns);
  fiber::point(at);
  fiber::release(m.held_);  // and no point until it is blocked
  const bool woken = fiber::block(this, timeout_ns, fiber::WaitFor::event, at);
  fiber::acquire(m.held_, at);
  return woken;
}

void CondVar::notify_one() noexcept {
  if (fiber::scheduled()) return fiber::wake(this, 1);
  real_.notify_one();
}

void CondVar::notify_all() noexcept {
  if (fiber::scheduled()) return fiber::wake(this, INT32_MAX);
  real_.notify_all();
}

Thread::Thread(const char* name, std::function<void()> body) {
  if (fiber::scheduled())
    fiber_ = fiber::start(name, std::move(body));
  else
    real_ = real::Thread(name, std::move(body));
}

Thread& Thread::operator=(Thread&& o) noexcept {
  if (this != &o) {
    join();
    real_ = std::move(o.real_);
    fiber_ = std::exchange(o.fiber_, 0);
  }
  return *this;
}

void Thread::join(const Site& at) {
  if (fiber_ != 0) fiber::join(std::exchange(fiber_, 0), at);
  real_.join();
}

void futex_wait(const Atomic<std::uint32_t>& word, std::uint32_t expected, std::uint64_t timeout_ns,
                const Site& at) {
  if (!fiber::scheduled()) return real::futex_wait(word, expected, timeout_ns);
  if (word.load(std::memory_order_seq_cst, at) == expected)
    (void)fiber::block(&word, timeout_ns, fiber::WaitFor::event, at);
}

void futex_wake(const Atomic<std::uint32_t>& word, int count) {
  if (fiber::scheduled()) return fiber::wake(&word, count);
  real::futex_wake(word, count);
}

void pause_for(std::uint64_t ns, const Site& at) {
  if (!fiber::scheduled()) return real::pause_for(ns);
  (void)fiber::block(nullptr, ns, fiber::WaitFor::timer, at);
}

void cpu_relax(const Site& at) noexcept {
  if (!fiber::scheduled()) return real::cpu_relax();
  fiber::yield(at);
}

void yield_thread(const Site& at) noexcept {
  if (!fiber::scheduled()) return real::yield_thread();
  fiber::yield(at);
}

unsigned thread_index() noexcept {
  return fiber::scheduled() ? fiber::index() : real::thread_index();
}

unsigned thread_serial() noexcept {
  return fiber::scheduled() ? fiber::serial() : real::thread_serial();
}

}  // namespace kessai::io
#endif
