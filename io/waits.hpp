// SPDX-License-Identifier: Apache-2.0
// Wait events: where threads of one store wait, how often and how long (the idea of Oracle's wait
// interface: time is in few, named places).
//
// Every wait of the engine goes through one of these names. Counting costs nothing until somebody
// waits: the clock is read on the waiting path only. Histograms are powers of two of a microsecond.
// A wait inside another one (a miss on a descent that started over, say) counts in both.
//
// Who waits takes the Waits from its io::Env. Each open store has its own.
//
// Threads: any. Counters are spread over thread slots; sums are exact once the waiting threads are
// quiet, and never go back.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

#include "io/env.hpp"

namespace kessai::io {

enum class Wait : std::uint8_t {
  leaf_split,   ///< for a page split to make room
  page_latch,   ///< for a page latch held by another thread, or starting over because of one
  lock_row,     ///< for a record lock
  lock_range,   ///< for a range lock, or for a scanned range with a write
  lock_named,   ///< for a named lock
  wal_flush,    ///< for the log to become durable
  wal_space,    ///< for room in the log
  buffer_miss,  ///< for a page to be read, or for room in the page cache
  checkpoint,   ///< for the structure gate, or for space that a checkpoint frees
  undo_read,    ///< looking for an older version
  undo_space,   ///< throttled because open snapshots hold too many versions
};
inline constexpr std::size_t kWaits = static_cast<std::size_t>(Wait::undo_space) + 1;
[[nodiscard]] std::string_view wait_name(Wait w) noexcept;

class Waits {
 public:
  /// Bucket b counts waits of [2^b, 2^(b+1)) microseconds; the first holds shorter ones too, the
  /// last longer ones.
  static constexpr std::size_t kBuckets = 24;
  struct Total {
    std::uint64_t count = 0;
    std::uint64_t ns = 0;
    std::array<std::uint64_t, kBuckets> histogram{};
  };

  Waits();
  void add(Wait w, std::uint64_t ns) noexcept;
  [[nodiscard]] Total total(Wait w) const noexcept;
  [[nodiscard]] std::array<Total, kWaits> totals() const noexcept;

  /// Times a section that waits. `waits` null: does nothing, not even read the clock.
  class Timer {
   public:
    Timer(const Env& env, Wait w) noexcept : Timer(env.waits, *env.clock, w) {}
    Timer(Waits* waits, Clock& clock, Wait w) noexcept
        : waits_(waits), clock_(clock), wait_(w), start_(waits != nullptr ? clock.now_ns() : 0) {}
    ~Timer() {
      if (waits_ != nullptr) waits_->add(wait_, clock_.now_ns() - start_);
    }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

   private:
    Waits* waits_;
    Clock& clock_;
    Wait wait_;
    std::uint64_t start_;
  };

  /// For loops that seldom wait: times from the first start() to the end of the scope, as one wait
  /// of the kind named first. Costs a flag until then. `env` null: nobody counts.
  class LateTimer {
   public:
    explicit LateTimer(const Env* env) noexcept : env_(env) {}
    ~LateTimer() {
      if (started_) stop();
    }
    LateTimer(const LateTimer&) = delete;
    LateTimer& operator=(const LateTimer&) = delete;
    void start(Wait w) noexcept {
      if (started_ || env_ == nullptr || env_->waits == nullptr) return;
      started_ = true;
      wait_ = w;
      start_ = env_->clock->now_ns();
    }

   private:
    void stop() noexcept;
    const Env* env_;
    bool started_ = false;
    Wait wait_{};
    std::uint64_t start_ = 0;
  };

 private:
  static constexpr std::size_t kSlots = 32;  // by thread_index()
  struct Slot;
  std::shared_ptr<Slot[]> slots_;
};

}  // namespace kessai::io
