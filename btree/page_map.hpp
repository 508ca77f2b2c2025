// SPDX-License-Identifier: Apache-2.0
// The page map: page id -> {slot, XXH3-128 of the image}, a hash tree (I6).
//
// On disk: chunks of one page: 64-byte page header (type map; "page id" = chunk index) and
// 168 entries {u64 slot, u64 hash lo, u64 hash hi}. Level-0 chunks describe pages, level-k chunks
// describe the chunks of level k-1; the single top chunk is named and hashed by the superblock. So
// a misdirected or lost write of any page or chunk shows as a hash mismatch.
//
// In memory: level 0 is resident, with a live side and, while a checkpoint is being built, a cut
// side: freeze() makes the live map the cut map, copy on write per chunk (I5b b). Captures enter
// both sides, later images the live side only (I5b c).
//
// Threads: not thread-safe; PageStore guards it with its map mutex (chunk writing works on copies).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "btree/space.hpp"
#include "btree/superblock.hpp"
#include "io/types.hpp"

namespace kessai::btree {

struct MapEntry {
  Slot slot = 0;
  Hash128 hash;
};
inline constexpr std::size_t kMapFanout = (kPageSize - 64) / sizeof(MapEntry);
static_assert(sizeof(MapEntry) == 24 && kMapFanout == 168);

class PageMap {
 public:
  [[nodiscard]] MapEntry live(PageId p) const noexcept;
  /// As the checkpoint being built sees it; the live entry when none is.
  [[nodiscard]] MapEntry cut(PageId p) const noexcept;
  /// A later image, an allocation or a free: live side only.
  void set_live(PageId p, MapEntry e);
  /// A capture: cut side, and the live side too unless a newer image is there (`also_live`).
  void capture(PageId p, MapEntry e, bool also_live);

  /// Page ids below this exist in chunks (the next page id of the live side).
  [[nodiscard]] std::uint64_t next_page() const noexcept { return next_page_; }
  void set_next_page(std::uint64_t n);

  void freeze();
  void thaw();
  [[nodiscard]] bool frozen() const noexcept { return frozen_; }
  [[nodiscard]] std::uint64_t cut_next_page() const noexcept { return cut_next_page_; }

  // Writing the cut side, bottom up: for each level, dirty_chunks(), then image(), then wrote().
  [[nodiscard]] unsigned cut_depth() const noexcept;
  [[nodiscard]] std::vector<std::uint64_t> dirty_chunks(unsigned level) const;
  /// Serialises chunk `index` of `level` into `out`.
  void image(unsigned level, std::uint64_t index, wal::StoreId store,
             std::span<std::byte, kPageSize> out) const;
  /// The chunk's image is on disk at `e`; returns its old slot (0 = none).
  Slot wrote(unsigned level, std::uint64_t index, MapEntry e);
  [[nodiscard]] MapEntry root() const noexcept;
  /// How many chunk writes a checkpoint taken now may need.
  [[nodiscard]] std::uint64_t chunk_bound() const noexcept;

  /// Every slot that the live side refers to: pages and map chunks.
  void each_slot(const std::function<void(Slot)>& fn) const;

  // Loading: start with the superblock's root, then feed chunk images top down.
  void begin_load(std::uint64_t next_page, unsigned depth, MapEntry root);
  /// Entries of the chunks at `level` (valid once level + 1 was loaded, or for the top level).
  [[nodiscard]] std::span<const MapEntry> chunk_entries(unsigned level) const;
  /// Takes the content of a verified chunk image.
  void load_chunk(unsigned level, std::uint64_t index, const std::byte* image);

  /// The number of levels a map of `next_page` ids has.
  [[nodiscard]] static unsigned depth_for(std::uint64_t next_page) noexcept;

 private:
  using Entries = std::array<MapEntry, kMapFanout>;
  struct Chunk {
    std::unique_ptr<Entries> live;
    std::unique_ptr<Entries> cut;  ///< null: same as live
    bool dirty_live = false;       ///< differs from what the next checkpoint would find on disk
    bool dirty_cut = false;        ///< the checkpoint being built must write it
  };
  Chunk& chunk_of(PageId p) { return chunks_[raw(p) / kMapFanout]; }
  void size_levels(std::uint64_t chunks);

  std::vector<Chunk> chunks_;
  std::vector<std::vector<MapEntry>> levels_;   ///< [k][i] = where chunk i of level k is on disk
  std::vector<std::vector<bool>> upper_dirty_;  ///< [k][i]: chunk i of level k >= 1 must be written
  std::uint64_t next_page_ = 1;
  std::uint64_t cut_next_page_ = 1;
  bool frozen_ = false;
};

}  // namespace kessai::btree
