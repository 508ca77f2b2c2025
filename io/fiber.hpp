// SPDX-License-Identifier: Apache-2.0
// What the seams (sync.hpp, atomic.hpp, the simulated disk) ask of the scheduler in scheduler.hpp.
// Only in the torture copies of the engine (KESSAI_TORTURE=1).
//
// A *point* is a place where a thread could lose the processor and another one's steps would
// matter: each operation on an io::Atomic, each lock, wait, wake-up and disk operation, each access
// to page bytes that an optimistic reader may share. Passing one costs a decrement and a branch;
// the scheduler decides beforehand how many points the running fiber passes before it is switched
// away.
#pragma once

#include <cstdint>
#include <source_location>

namespace kessai::io {
/// Where a point is in the source: for the printed schedule.
using Site = std::source_location;
}  // namespace kessai::io

namespace kessai::io::fiber {

inline constexpr std::int64_t kNever = INT64_MAX;
// Of this OS thread: points that the running fiber passes before it is switched away, and whether
// page accesses count as points. Constant-initialised, so that a point needs no TLS guard.
extern constinit thread_local std::int64_t t_points_left;
extern constinit thread_local bool t_page_points;

void preempt(const Site& at) noexcept;

inline void point(const Site& at) noexcept {
  if (--t_points_left < 0) [[unlikely]]
    preempt(at);
}
inline void page_point(const Site& at = Site::current()) noexcept {
  if (t_page_points && --t_points_left < 0) [[unlikely]]
    preempt(at);
}

/// Whether the caller is a fiber that may be switched away from: a Scheduler runs, and no Quiet.
[[nodiscard]] bool scheduled() noexcept;

/// What a fiber waits for. An idle schedule that waits for a timer although a watched fiber waits
/// for an event has lost a wake-up (scheduler.hpp).
enum class WaitFor : std::uint8_t { event, timer, device };

/// Blocks the running fiber until wake(key) or until `timeout_ns` of virtual time have passed.
/// True: woken.
bool block(const void* key, std::uint64_t timeout_ns, WaitFor what, const Site& at) noexcept;
/// Makes at most `count` fibers that wait for `key` runnable.
void wake(const void* key, int count) noexcept;
/// The running fiber cannot go on until another one has done something.
void yield(const Site& at) noexcept;
/// A disk operation takes its time.
void device(const Site& at = Site::current()) noexcept;
/// A mutex that is nothing but a flag: one OS thread runs all fibers.
void acquire(bool& held, const Site& at) noexcept;
[[nodiscard]] bool try_acquire(bool& held, const Site& at) noexcept;
void release(bool& held) noexcept;

/// Of the running fiber: dense and reused; unique in a run and no thread's.
[[nodiscard]] unsigned index() noexcept;
[[nodiscard]] unsigned serial() noexcept;

}  // namespace kessai::io::fiber
