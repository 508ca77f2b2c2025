// SPDX-License-Identifier: Apache-2.0
// The outside world as one bundle: a store directory, time and randomness. Tests pass a simulated
// disk, a virtual clock and a seeded generator through the same door.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "io/file.hpp"

namespace kessai::io {

class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual std::uint64_t now_ns() = 0;       ///< monotonic
  [[nodiscard]] virtual std::uint64_t unix_micros() = 0;  ///< wall clock, UTC
};

class Random {
 public:
  virtual ~Random() = default;
  virtual void fill(std::span<std::byte> out) = 0;  ///< cryptographic in production (salts, ids)
};

[[nodiscard]] Clock& system_clock();
[[nodiscard]] Random& system_random();

/// A deterministic generator (xoshiro-class) for tests and for jitter; never for salts on disk.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed) noexcept;
  std::uint64_t next() noexcept;
  std::uint64_t below(std::uint64_t bound) noexcept;  ///< uniform in [0, bound), bound > 0
  void fill(std::span<std::byte> out) override;

 private:
  std::uint64_t s_[4];
};

/// A clock that moves only when told. Thread-safe. The wall clock follows the monotonic one, unless
/// a test makes it jump.
class VirtualClock final : public Clock {
 public:
  static constexpr std::uint64_t kStartUnixMicros =
      1'700'000'000'000'000;  // 2023-11-14, a fixed day

  [[nodiscard]] std::uint64_t now_ns() override { return now_.load(); }
  [[nodiscard]] std::uint64_t unix_micros() override {
    return wall_base_.load() + now_.load() / 1000;
  }
  void advance(std::uint64_t ns) { now_.fetch_add(ns); }
  void set(std::uint64_t ns) { now_.store(ns); }  ///< monotonic time; never move it backwards
  void set_unix_micros(std::uint64_t us) { wall_base_.store(us - now_.load() / 1000); }

 private:
  std::atomic<std::uint64_t> now_{1'000'000'000};
  std::atomic<std::uint64_t> wall_base_{kStartUnixMicros};
};

class Waits;

struct Env {
  Directory* directory = nullptr;  ///< not owned
  Clock* clock = &system_clock();
  Random* random = &system_random();
  bool background = true;  ///< false: no engine threads; maintenance is stepped by the caller
  /// Bytes of log that recovery gathers before it applies them; 0, and at most: a quarter of the
  /// cache.
  std::uint64_t recovery_window = 0;
  LogSink log;
  /// Where the layers count their waits (not owned; null: nowhere). A store that is opened with an
  /// Env puts in its own, unless `count_waits` is false: to measure what counting costs.
  Waits* waits = nullptr;
  bool count_waits = true;
};

}  // namespace kessai::io
