// SPDX-License-Identifier: Apache-2.0
// The first 64 bytes of every page (little-endian):
//   0 u64 store id (low word) | 8 u64 page id | 16 u64 page LSN | 24 u8 type | 25 u8 level |
//   26 u16 flags | 28 u32 tree id | 32..63 reserved, zero (a later nonce and tag)
// For private buffers; shared page bytes go through btree/race.hpp.
#pragma once

#include <cstdint>
#include <cstring>

#include "btree/node.hpp"
#include "io/types.hpp"

namespace kessai::btree {

inline constexpr std::size_t kPageHeaderBytes = 64;

struct PageHeader {
  std::uint64_t store = 0;
  std::uint64_t page = 0;
  Lsn lsn = 0;
  PageType type{};
  std::uint8_t level = 0;
  std::uint16_t flags = 0;
  std::uint32_t tree = 0;
};
static_assert(sizeof(PageHeader) == 32);

inline void write_header(std::byte* page, const PageHeader& h) noexcept {
  std::memcpy(page, &h, sizeof h);
}
[[nodiscard]] inline PageHeader read_header(const std::byte* page) noexcept {
  PageHeader h;
  std::memcpy(&h, page, sizeof h);
  return h;
}

}  // namespace kessai::btree
