// SPDX-License-Identifier: Apache-2.0
// Sizes and heads of node records; shared by the node_*.cc files only.
#pragma once

#include <string_view>

#include "btree/node.hpp"

namespace kessai::btree {

/// Below this many slots the hints are neither kept nor used.
inline constexpr unsigned kHintedAbove = 2 * kHints;

/// First four bytes of a truncated key, big-endian, zero padded.
inline std::uint32_t key_head(std::string_view key) noexcept {
  std::uint32_t w = 0;
  if (key.size() >= 4) {
    std::memcpy(&w, key.data(), 4);
    return __builtin_bswap32(w);
  }
  for (std::size_t i = 0; i < 4; ++i) {
    w = w << 8 | (i < key.size() ? static_cast<unsigned char>(key[i]) : 0u);
  }
  return w;
}

/// Heap bytes of a leaf record and of a separator, by truncated key length.
constexpr std::size_t leaf_bytes(std::size_t klen, std::size_t vlen) noexcept {
  return pad8(kRecordHeader + klen + vlen);
}
constexpr std::size_t inner_bytes(std::size_t klen) noexcept {
  return klen <= 4 ? 0 : pad8(klen - 4);
}

inline std::size_t common_prefix(std::string_view a, std::string_view b) noexcept {
  const std::size_t n = a.size() < b.size() ? a.size() : b.size();
  std::size_t i = 0;
  while (i < n && a[i] == b[i]) ++i;
  return i;
}

/// The shortest key in (left, right], for left < right.
inline std::string_view shortest_separator(std::string_view left, std::string_view right) noexcept {
  return right.substr(0, common_prefix(left, right) + 1);
}

}  // namespace kessai::btree
