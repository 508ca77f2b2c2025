// SPDX-License-Identifier: Apache-2.0
// Atomics whose order decides something. Shared state that threads agree through (watermarks,
// latches, flags, counters of holders) is an io::Atomic: std::atomic itself in every normal build,
// and in the torture copies (KESSAI_TORTURE=1) the same with a point of the scheduler (fiber.hpp)
// before each operation. Statistics stay std::atomic: no schedule changes what they mean.
#pragma once

#include <atomic>

#if defined(KESSAI_TORTURE)
#include "io/fiber.hpp"

namespace kessai::io {

template <class T>
class Atomic {
 public:
  constexpr Atomic() noexcept = default;
  constexpr explicit Atomic(T v) noexcept : value_(v) {}
  Atomic(const Atomic&) = delete;
  Atomic& operator=(const Atomic&) = delete;

  [[nodiscard]] T load(std::memory_order o = std::memory_order_seq_cst,
                       const Site& at = Site::current()) const noexcept {
    fiber::point(at);
    return value_.load(o);
  }
  void store(T v, std::memory_order o = std::memory_order_seq_cst,
             const Site& at = Site::current()) noexcept {
    fiber::point(at);
    value_.store(v, o);
  }
  T exchange(T v, std::memory_order o = std::memory_order_seq_cst,
             const Site& at = Site::current()) noexcept {
    fiber::point(at);
    return value_.exchange(v, o);
  }
  bool compare_exchange_weak(T& expected, T v, std::memory_order o = std::memory_order_seq_cst,
                             const Site& at = Site::current()) noexcept {
    fiber::point(at);
    return value_.compare_exchange_weak(expected, v, o);
  }
  bool compare_exchange_weak(T& expected, T v, std::memory_order yes, std::memory_order no,
                             const Site& at = Site::current()) noexcept {
    fiber::point(at);
    return value_.compare_exchange_weak(expected, v, yes, no);
  }
  bool compare_exchange_strong(T& expected, T v, std::memory_order o = std::memory_order_seq_cst,
                               const Site& at = Site::current()) noexcept {
    fiber::point(at);
    return value_.compare_exchange_strong(expected, v, o);
  }
  bool compare_exchange_strong(T& expected, T v, std::memory_order yes, std::memory_order no,
                               const Site& at = Site::current()) noexcept {
    fiber::point(at);
    return value_.compare_exchange_strong(expected, v, yes, no);
  }
  T fetch_add(T v, std::memory_order o = std::memory_order_seq_cst,
              const Site& at = Site::current()) noexcept {
    fiber::point(at);
    return value_.fetch_add(v, o);
  }
  T fetch_sub(T v, std::memory_order o = std::memory_order_seq_cst,
              const Site& at = Site::current()) noexcept {
    fiber::point(at);
    return value_.fetch_sub(v, o);
  }
  T fetch_or(T v, std::memory_order o = std::memory_order_seq_cst,
             const Site& at = Site::current()) noexcept {
    fiber::point(at);
    return value_.fetch_or(v, o);
  }
  T fetch_and(T v, std::memory_order o = std::memory_order_seq_cst,
              const Site& at = Site::current()) noexcept {
    fiber::point(at);
    return value_.fetch_and(v, o);
  }

 private:
  std::atomic<T> value_{};
};

}  // namespace kessai::io
/// Before an access to page bytes that an optimistic reader may share.
#define KESSAI_PAGE_POINT() (::kessai::io::fiber::page_point())

#else

namespace kessai::io {
template <class T>
using Atomic = std::atomic<T>;
}  // namespace kessai::io
#define KESSAI_PAGE_POINT() static_cast<void>(0)

#endif
