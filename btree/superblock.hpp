// SPDX-License-Identifier: Apache-2.0
// The superblock: which checkpoint is the newest, and where its page map hangs (I12).
//
// Four slots of one page each, kSuperblockStride apart at the start of the data file, written in
// turn (number % 4), so never the newest valid one. Byte layout, little-endian:
//   0 "KESSAIDB"  8 u32 format  12 u32 page size  16 u64 x2 store id  32 u64 number
//   40 u64 cut epoch  48 u64 low (replay starts here)  56 u64 F (the log must reach this)
//   64 u64 log generation at the time  72 u64 page ids handed out (next page id)
//   80 u64 map root slot  88 u128 map root hash  104 u32 map depth  108 u32 flags (1 = clean close)
//   112..143 reserved (a later key id)  144 u128 XXH3-128 over the whole page, this field zero
// All other bytes are zero and covered by the hash.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "io/types.hpp"
#include "kessai/error.hpp"
#include "wal/log.hpp"

namespace kessai::btree {

struct Hash128 {
  std::uint64_t lo = 0, hi = 0;
  friend bool operator==(const Hash128&, const Hash128&) = default;
};
[[nodiscard]] Hash128 hash_page(const std::byte* page) noexcept;

inline constexpr unsigned kSuperblocks = 4;
inline constexpr std::uint64_t kSuperblockStride = 256 * 1024;
inline constexpr std::uint64_t kFirstSlotOffset = kSuperblocks * kSuperblockStride;
inline constexpr std::uint32_t kFormatVersion = 1;

struct Superblock {
  wal::StoreId store;
  std::uint64_t number = 0;
  std::uint64_t epoch = 0;
  Lsn low = 0;
  Lsn fence = 0;
  std::uint64_t generation = 0;
  std::uint64_t next_page = 1;
  std::uint64_t map_slot = 0;
  Hash128 map_hash;
  std::uint32_t map_depth = 0;
  bool clean = false;
};

void encode(const Superblock& sb, std::span<std::byte, kPageSize> out) noexcept;

/// `damaged` for a bad hash, `not_a_store` for a bad magic, `newer_format`, `page_size_mismatch`.
/// The identity fields are judged before the hash only where the magic and hash agree.
[[nodiscard]] Result<Superblock> decode_superblock(std::span<const std::byte, kPageSize> in);

}  // namespace kessai::btree
