// SPDX-License-Identifier: Apache-2.0
#include "io/waits.hpp"

#include <algorithm>
#include <bit>

#include "io/sync.hpp"

namespace kessai::io {

struct alignas(64) Waits::Slot {
  struct Wait {
    std::atomic<std::uint64_t> ns{0};
    std::array<std::atomic<std::uint64_t>, kBuckets> histogram{};
  };
  std::array<Wait, kWaits> waits;
};

std::string_view wait_name(Wait w) noexcept {
  static constexpr std::array<std::string_view, kWaits> kNames{
      "leaf_split", "page_latch",  "lock_row",   "lock_range", "lock_named", "wal_flush",
      "wal_space",  "buffer_miss", "checkpoint", "undo_read",  "undo_space"};
  static_assert(!kNames.back().empty());
  const auto i = static_cast<std::size_t>(w);
  return i < kNames.size() ? kNames[i] : "?";
}

Waits::Waits() : slots_(new Slot[kSlots]) {}

void Waits::add(Wait w, std::uint64_t ns) noexcept {
  const std::size_t bucket = std::min<std::size_t>(std::bit_width(ns / 2000), kBuckets - 1);
  auto& wait = slots_[thread_index() % kSlots].waits[static_cast<std::size_t>(w)];
  wait.ns.fetch_add(ns, std::memory_order_relaxed);
  wait.histogram[bucket].fetch_add(1, std::memory_order_relaxed);
}

Waits::Total Waits::total(Wait w) const noexcept {
  Total sum;
  for (std::size_t i = 0; i < kSlots; ++i) {
    const auto& wait = slots_[i].waits[static_cast<std::size_t>(w)];
    sum.ns += wait.ns.load(std::memory_order_relaxed);
    for (std::size_t b = 0; b < kBuckets; ++b) {
      const std::uint64_t n = wait.histogram[b].load(std::memory_order_relaxed);
      sum.histogram[b] += n;
      sum.count += n;
    }
  }
  return sum;
}

std::array<Waits::Total, kWaits> Waits::totals() const noexcept {
  std::array<Total, kWaits> all;
  for (std::size_t w = 0; w < kWaits; ++w) all[w] = total(static_cast<Wait>(w));
  return all;
}

void Waits::LateTimer::stop() noexcept { env_->waits->add(wait_, env_->clock->now_ns() - start_); }

}  // namespace kessai::io
