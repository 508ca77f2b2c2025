// SPDX-License-Identifier: Apache-2.0
// Live snapshots, and the horizon below which no snapshot, present or future, can look (I14).
//
// A snapshot is one load of a watermark W; it sees the commits with LSN <= W. Watermarks (applied,
// durable) only grow. `begin` works in three steps, `horizon` in two:
//
//   begin:    B1 publish a lower bound in a slot   B2 load W          B3 raise the slot to W
//   horizon:  H1 load R, what a read-only snapshot would get now      H2 read all slots
//
// Promise: horizon() <= W of every snapshot that is live or begins later. Why: B1, B2, H1 and H2
// are seq_cst. Take a snapshot and a horizon scan. Either H2 reads what B1 or B3 wrote, and both
// are <= W. Or H2 reads an older value of that slot; then H2 comes before B1 in the single total
// order, so H1 before B2, so R <= W because watermarks only grow. Or H2 reads a newer value; then
// the snapshot has ended. A slot's past and future users do not matter, so there is no ABA case.
// The bound of B1 is the R of an earlier scan, which is <= W for the same reason.
//
// in_use() answers more finely: which intervals of versions nobody can look into.
//
// Killing (I14): the killer sets the flag in the slot, then takes a horizon, which skips killed
// slots, then frees. A reader tests killed() after each look-up. What it missed because it had been
// freed, it missed through a mutex or an acquire load that follows the killer's free, hence follows
// the flag: it sees the flag and drops the answer. A slot between B1 and B3 cannot be killed.
//
// Threads: everything may be called from any thread; one Live belongs to one thread at a time.
// Waits: none. A full table grows by another block of slots (under a mutex), so begin never fails.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "io/mutant.hpp"
#include "io/sync.hpp"
#include "io/types.hpp"

namespace kessai::mvcc {

/// What a reader may see. A struct, because commits that W passed before they were applied (bulk
/// commits) will be listed here.
struct Snapshot {
  Lsn w = 0;
  [[nodiscard]] bool sees(Lsn commit) const noexcept { return commit <= w; }
  /// Everything at or below is seen: a leaf with max_ts <= low() needs no look at its tags.
  [[nodiscard]] Lsn low() const noexcept { return w; }
};

/// Where snapshots can look: at `points`, and anywhere at or above `bound`.
struct InUse {
  std::vector<Lsn> points;  ///< sorted; W of live snapshots below `bound`
  Lsn bound = 0;
  /// True when no snapshot, present or future, is in [begin, end).
  [[nodiscard]] bool misses(Lsn begin, Lsn end) const noexcept {
    if (end > bound) return false;
    const auto next = std::lower_bound(points.begin(), points.end(), begin);
    return next == points.end() || *next >= end;
  }
};

class Snapshots {
  struct Slot;

 public:
  /// A registered snapshot; the destructor ends it. Move-only.
  class Live {
   public:
    Live() = default;
    ~Live() { end(); }
    Live(Live&& o) noexcept : slot_(std::exchange(o.slot_, nullptr)), snapshot_(o.snapshot_) {}
    Live& operator=(Live&& o) noexcept {
      if (this != &o) {
        end();
        slot_ = std::exchange(o.slot_, nullptr);
        snapshot_ = o.snapshot_;
      }
      return *this;
    }
    [[nodiscard]] const Snapshot& snapshot() const noexcept { return snapshot_; }
    [[nodiscard]] bool active() const noexcept { return slot_ != nullptr; }
    /// True when what the snapshot needs may have been freed. Test after each look-up.
    [[nodiscard]] bool killed() const noexcept {
      return slot_ != nullptr && (slot_->word.load(std::memory_order_relaxed) & kKilled) != 0;
    }
    void end() noexcept {
      // Release: the reads of this snapshot come before a horizon that no longer waits for it.
      if (slot_ != nullptr) slot_->word.store(kFree, std::memory_order_release);
      slot_ = nullptr;
    }

   private:
    friend class Snapshots;
    Slot* slot_ = nullptr;
    Snapshot snapshot_;
  };

  Snapshots() = default;
  ~Snapshots();  ///< no snapshot is live
  Snapshots(const Snapshots&) = delete;
  Snapshots& operator=(const Snapshots&) = delete;

  /// `load()` returns the watermark to read at, by seq_cst loads (B2): the applied watermark, or
  /// min(applied, durable), or a larger LSN that has been waited for.
  template <class Load>
  [[nodiscard]] Live begin(Load&& load) {
    const Lsn bound = KESSAI_MUTANT(snapshot_published_late)
                          ? kMaxLsn
                          : last_bound_.load(std::memory_order_acquire);
    Live live;
    live.slot_ = claim(pack(bound) | kRaising);
    live.snapshot_.w = load();
    live.slot_->word.store(pack(live.snapshot_.w), std::memory_order_release);
    return live;
  }

  /// `read_only_bound`: the W of a read-only snapshot begun now, loaded seq_cst before the call.
  /// Killed snapshots do not count. Never falls.
  [[nodiscard]] Lsn horizon(Lsn read_only_bound) noexcept;
  /// The horizon in detail, for interval collection; the same rule for the argument.
  [[nodiscard]] InUse in_use(Lsn read_only_bound);

  /// W of the oldest live snapshot that is not killed.
  [[nodiscard]] std::optional<Lsn> oldest() const noexcept;
  [[nodiscard]] std::size_t count() const noexcept;
  /// Flags the oldest live snapshot and returns its W; nothing when there is none to kill. The
  /// caller then asks for a new horizon and frees.
  std::optional<Lsn> kill_oldest() noexcept;

 private:
  // A slot's word: kFree, or LSN << 2 | kRaising | kKilled.
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};
  static constexpr std::uint64_t kKilled = 1;
  static constexpr std::uint64_t kRaising = 2;
  static constexpr std::uint64_t pack(Lsn lsn) noexcept { return lsn << 2; }
  static constexpr Lsn lsn_of(std::uint64_t word) noexcept { return word >> 2; }

  struct alignas(64) Slot {
    io::Atomic<std::uint64_t> word{kFree};
  };
  struct Block {
    static constexpr unsigned kSlots = 1024;
    Slot slots[kSlots];
    io::Atomic<unsigned> used{0};  // slots at or above were never claimed; only grows
    io::Atomic<Block*> next{nullptr};
  };

  Slot* claim(std::uint64_t word);
  Block* grow(Block& last);
  template <class Fn>
  void for_each(Fn&& fn) const;

  Block first_;
  io::Atomic<Lsn> last_horizon_{0};  // only grows; <= every live and future snapshot
  io::Atomic<Lsn> last_bound_{0};    // only grows; <= every future snapshot
  io::Mutex grow_mutex_;
};

}  // namespace kessai::mvcc
