// SPDX-License-Identifier: Apache-2.0
// A journal's bytes on disk. Everything decoded here is untrusted.
//
//   segment := header (block 0) | the same again (block 1) | frames ... | zeros
//   frame   := FrameHeader | (length:4 | bytes) for each record | zeros to the end of the block
//
// One frame is one flush, and only one is ever under way: a torn frame is the last one, and a whole
// frame behind a broken one is damage. Frame checksums are salted with the journal's random id, so
// that no record can imitate a frame. Integers are little-endian.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

#include "wal/hash.hpp"

namespace kessai::journal {

inline constexpr std::uint32_t kBlock = 4096;
inline constexpr std::uint32_t kHeaderBlocks = 2;
inline constexpr std::uint32_t kFormat = 1;
inline constexpr std::uint64_t kSegmentMagic = 0x314c4e524a53454b;  // "KESJRNL1"
inline constexpr std::uint64_t kFrameMagic = 0x3145524646534a4b;    // "KJSFFRE1"
inline constexpr std::size_t kMaxFrameBytes = 1u << 20;

struct SegmentHeader {
  wal::Hash128 checksum;  ///< of the rest of the block
  std::uint64_t magic = kSegmentMagic;
  std::uint32_t format = kFormat;
  std::uint32_t block = kBlock;
  std::array<std::byte, 16> id{};  ///< of the journal
  std::uint64_t segment = 1;       ///< number, as in the file's name
  std::uint64_t first = 1;         ///< position of its first record
  std::uint64_t bytes = 0;         ///< of the file
  std::uint64_t chain = 0;         ///< low checksum word of the frame before its first
};
static_assert(sizeof(SegmentHeader) == 80 && std::is_trivially_copyable_v<SegmentHeader>);

struct FrameHeader {
  wal::Hash128 checksum;  ///< of what follows it in the header, and of the payload; salted
  std::uint64_t magic = kFrameMagic;
  std::uint64_t segment = 0;
  std::uint64_t first = 0;  ///< position of its first record
  std::uint64_t chain = 0;  ///< low checksum word of the frame before
  std::uint32_t records = 0;
  std::uint32_t payload = 0;  ///< bytes
  std::uint64_t reserved = 0;
};
static_assert(sizeof(FrameHeader) == 64 && std::is_trivially_copyable_v<FrameHeader>);

[[nodiscard]] constexpr std::uint64_t padded(std::uint64_t bytes) noexcept {
  return (bytes + kBlock - 1) / kBlock * kBlock;
}

/// Writes the header's block, with its checksum.
inline void encode(const SegmentHeader& header, std::span<std::byte, kBlock> block) {
  std::memset(block.data(), 0, block.size());
  std::memcpy(block.data(), &header, sizeof header);
  const wal::Hash128 sum = wal::hash128(block.subspan(sizeof sum));
  std::memcpy(block.data(), &sum, sizeof sum);
}

[[nodiscard]] inline std::optional<SegmentHeader> decode_segment(
    std::span<const std::byte, kBlock> block) {
  SegmentHeader h;
  std::memcpy(&h, block.data(), sizeof h);
  if (h.magic != kSegmentMagic || h.checksum != wal::hash128(block.subspan(sizeof h.checksum)))
    return std::nullopt;
  return h;
}

/// The frame at the start of `bytes`, when it is whole.
[[nodiscard]] inline std::optional<FrameHeader> decode_frame(std::span<const std::byte> bytes,
                                                             const wal::Salt& salt) {
  FrameHeader h;
  if (bytes.size() < sizeof h) return std::nullopt;
  std::memcpy(&h, bytes.data(), sizeof h);
  if (h.magic != kFrameMagic || h.payload > bytes.size() - sizeof h) return std::nullopt;
  const auto covered = bytes.subspan(sizeof h.checksum, sizeof h - sizeof h.checksum + h.payload);
  if (h.checksum != salt.hash(covered)) return std::nullopt;
  return h;
}

}  // namespace kessai::journal
