// SPDX-License-Identifier: Apache-2.0
// Ids shared by all layers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kessai {

/// Log sequence number: a position in the stream of record bytes (no padding, no frame headers).
/// A record's LSN is the position just past its last byte, so `durable >= lsn` means "this record
/// is durable" and `applied >= lsn` means "its effects are in the tree". 0 is before everything.
/// At most 56 bits are ever used (they share a word with the record flags).
using Lsn = std::uint64_t;
inline constexpr Lsn kMaxLsn = (Lsn{1} << 56) - 1;

enum class PageId : std::uint64_t {};
inline constexpr PageId kNoPage{0};  ///< page 0 never exists
constexpr std::uint64_t raw(PageId p) noexcept { return static_cast<std::uint64_t>(p); }

enum class TreeId : std::uint32_t {};
constexpr std::uint32_t raw(TreeId t) noexcept { return static_cast<std::uint32_t>(t); }

inline constexpr std::size_t kPageSize = 4096;  ///< compile-time constant, recorded in the store

}  // namespace kessai
