// SPDX-License-Identifier: Apache-2.0
// Slots of the data file: which 4 KiB slots are free, and which dead ones a checkpoint still needs.
//
// I5a: a slot has a birth epoch b and, once the live map dropped it, a death epoch d; checkpoint c
// references it iff b <= c < d. It is reusable when no c among {N-1, N, the one being built} does.
// Allocator state is not stored: open rebuilds it from the maps of both valid superblocks.
//
// I15: `claim(n)` before an append guarantees that the pages it dirties can be written later:
//   free slots >= dirty pages + claims + map chunks + margin, or the file grows, or disk_full.
//
// Slots are handed out in runs of up to 64 (one bitmap word = one 256 KiB extent), emptiest extents
// first, so that checkpoint output is large sequential writes.
//
// Threads: not thread-safe; PageStore guards it with its map mutex.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "io/file.hpp"
#include "kessai/error.hpp"

namespace kessai::btree {

using Slot = std::uint64_t;  ///< 0 = none; slot s lives at kFirstSlotOffset + (s-1) * kPageSize

[[nodiscard]] std::uint64_t slot_offset(Slot s) noexcept;

class Space {
 public:
  explicit Space(io::File& file) : file_(&file) {}

  /// Describes the file as it is: `slots` slots, all free.
  void reset(std::uint64_t slots);
  /// Open: marks a slot as living in the newest image (false when out of range or already taken:
  /// the map refers to a slot twice), or as dead but needed by the older checkpoint.
  [[nodiscard]] bool adopt(Slot s);
  void adopt_dead(Slot s, std::uint64_t death);
  [[nodiscard]] bool is_adopted(Slot s) const;

  /// Hands out `n` slots born in `epoch`, in as few runs as it can. REQUIRES free_slots() >= n.
  void take(std::size_t n, std::uint64_t epoch, std::vector<Slot>& out);
  /// The live map dropped `s` in epoch `death`: reusable at once when no checkpoint references it.
  void drop(Slot s, std::uint64_t death);
  /// Returns a slot that no map ever referenced.
  void give_back(Slot s);

  /// The checkpoints whose slots must stay (cut epochs; building 0 = none). Frees what they no
  /// longer reference.
  void keep(std::uint64_t older, std::uint64_t newest, std::uint64_t building);

  /// Makes sure that at least `needed` slots are free, growing the file (really reserved space,
  /// flushed by the next checkpoint). `disk_full` when it cannot.
  [[nodiscard]] Result<void> ensure_free(std::uint64_t needed);

  /// every slot is exactly one of live (as `each_live` enumerates), dead but needed, free, or
  /// one of `in_flight` images and map chunks. `damaged` naming the first slot that is not.
  [[nodiscard]] Result<void> audit(
      const std::function<void(const std::function<void(Slot)>&)>& each_live,
      std::uint64_t in_flight) const;

  [[nodiscard]] std::uint64_t free_slots() const noexcept { return free_; }
  [[nodiscard]] std::uint64_t slots() const noexcept { return slots_; }

 private:
  struct Dead {
    Slot slot;
    std::uint64_t birth, death;
  };
  [[nodiscard]] bool referenced(std::uint64_t birth, std::uint64_t death) const noexcept;
  void set_free(Slot s);
  void take_from(std::size_t word, std::size_t& n, std::uint64_t epoch, std::vector<Slot>& out);

  io::File* file_;
  std::uint64_t slots_ = 0, free_ = 0;
  std::vector<std::uint64_t> bitmap_;  ///< 1 = free
  std::vector<std::uint32_t> birth_;   ///< epoch of birth, saturating (older = 0 is always safe)
  std::vector<Dead> dead_;
  std::uint64_t older_ = 0, newest_ = 0, building_ = 0;
  std::size_t cursor_ = 0;
};

}  // namespace kessai::btree
