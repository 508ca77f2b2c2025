// SPDX-License-Identifier: Apache-2.0
// The structure gate (I5b b, I6): every change of more than one page, or of the allocator, happens
// inside it; a checkpoint's cut closes it for a few microseconds of pure CPU. Nobody inside waits
// for I/O, frames, slots, log space or transaction locks (I11).
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "io/sync.hpp"
#include "io/waits.hpp"

namespace kessai::btree {

class Gate {
 public:
  /// `env` counts the waits.
  explicit Gate(const io::Env& env) noexcept : env_(&env) {}

  class Pass {
   public:
    explicit Pass(Gate& g) noexcept : gate_(&g) { g.enter(); }
    ~Pass() { leave(); }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    void leave() noexcept {
      if (gate_ != nullptr) gate_->inside_.fetch_sub(1, std::memory_order_seq_cst);
      gate_ = nullptr;
    }

   private:
    Gate* gate_;
  };

  /// Shuts the gate and waits until nobody is inside. One closer at a time.
  void close() noexcept {
    closed_.store(true, std::memory_order_seq_cst);
    while (inside_.load(std::memory_order_seq_cst) != 0) io::yield_thread();
  }
  void open() noexcept { closed_.store(false, std::memory_order_seq_cst); }

  /// Names a moment at which nobody is inside; nothing while somebody is. The same moment again
  /// later: the structure has not changed in between.
  [[nodiscard]] std::optional<std::uint64_t> moment() const noexcept {
    const std::uint64_t entered = entered_.load(std::memory_order_seq_cst);
    if (inside_.load(std::memory_order_seq_cst) != 0) return std::nullopt;
    return entered;
  }

 private:
  void enter() noexcept {
    for (;;) {
      // Announce, then look: the closer sets its flag, then counts (both seq_cst).
      inside_.fetch_add(1, std::memory_order_seq_cst);
      if (!closed_.load(std::memory_order_seq_cst)) {
        entered_.fetch_add(1, std::memory_order_seq_cst);  // after inside_: see moment()
        return;
      }
      inside_.fetch_sub(1, std::memory_order_seq_cst);
      const io::Waits::Timer wait(*env_, io::Wait::checkpoint);
      while (closed_.load(std::memory_order_acquire)) io::yield_thread();
    }
  }

  const io::Env* env_;
  io::Atomic<std::uint32_t> inside_{0};
  io::Atomic<std::uint64_t> entered_{0};
  io::Atomic<bool> closed_{false};
};

}  // namespace kessai::btree
