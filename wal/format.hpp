// SPDX-License-Identifier: Apache-2.0
// The log's blocks on disk: segment header, frame, segment footer. Pure encoding and checking; the
// byte tables are in docs/format-log.md. Everything decoded here is untrusted.
//
//   segment := header (block 0) | copy of the header (block 1) | frames ... | footer (last block)
//
// The header is there twice so that one bad sector cannot hide a generation whose frames were
// answered. Both are written at once, except when the newest segment itself is replaced (it held no
// frame): then the copy first, durably, so that one of the two is valid at every moment.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "io/types.hpp"
#include "wal/hash.hpp"
#include "wal/log.hpp"

namespace kessai::wal {

inline constexpr std::uint32_t kFormat = 1;
inline constexpr std::uint32_t kMinBlock = 4096;
inline constexpr std::uint32_t kHeaderBlocks = 2;
inline constexpr std::uint32_t kFooterBlocks = 1;
inline constexpr std::uint32_t kMinSegmentBlocks = 8;
inline constexpr std::uint64_t kMaxSegmentBytes = std::uint64_t{1} << 30;
inline constexpr std::size_t kFrameHeader = 128;
inline constexpr std::uint32_t kMaxFrameBytes = 4u << 20;  ///< padded

struct SegmentHeader {
  std::uint32_t block = kMinBlock;
  StoreId store;
  std::uint64_t segment = 0;  ///< number; 1 is the store's first, never repeated
  std::uint64_t bytes = 0;    ///< of the file
  std::uint64_t generation = 0;
  Salt::Bytes salt{};
  Lsn generation_first = 0;               ///< first LSN of the generation
  std::uint64_t generation_segment = 0;   ///< number of the generation's first segment
  std::uint64_t previous_generation = 0;  ///< the last one that left frames; 0: none
  Lsn previous_end = 0;                   ///< where its records end
  Lsn first = 0;                          ///< first LSN of this segment
  std::uint64_t previous_segment = 0;     ///< the segment read before this one; 0: none
  std::uint64_t chain = 0;  ///< low checksum word of the frame before this segment's first

  [[nodiscard]] bool opens_generation() const noexcept { return segment == generation_segment; }
};

/// Writes one header block (kMinBlock bytes).
void encode_header(const SegmentHeader& header, std::span<std::byte> block);
[[nodiscard]] std::optional<SegmentHeader> decode_header(std::span<const std::byte> block);
/// True when the bytes are a valid header of a format we do not know.
[[nodiscard]] bool newer_header(std::span<const std::byte> block);

struct SegmentFooter {
  std::uint64_t segment = 0;
  Lsn end = 0;
  std::uint64_t chain = 0;  ///< low checksum word of the segment's last frame
  std::uint64_t next_segment = 0;
};
void encode_footer(const SegmentFooter& footer, const Salt& salt, std::span<std::byte> block);
[[nodiscard]] std::optional<SegmentFooter> decode_footer(std::span<const std::byte> block,
                                                         const Salt& salt);

struct FrameHeader {
  std::uint64_t generation = 0;
  Lsn first = 0;
  std::uint32_t payload = 0;
  std::uint32_t records = 0;
  Lsn hint = 0;                ///< everything below was durable when this frame was written
  std::uint64_t previous = 0;  ///< low checksum word of the frame before
  std::uint64_t segment = 0;
  Hash128 checksum;

  [[nodiscard]] Lsn end() const noexcept { return first + payload; }
};

[[nodiscard]] constexpr std::uint64_t round_up(std::uint64_t n, std::uint64_t unit) noexcept {
  return (n + unit - 1) / unit * unit;
}
[[nodiscard]] constexpr std::uint64_t frame_bytes(std::uint64_t payload,
                                                  std::uint32_t block) noexcept {
  return round_up(kFrameHeader + payload, block);
}

/// Writes the header in front of a payload already in place (padding zeroed) and sets `checksum`.
void seal_frame(FrameHeader& header, const Salt& salt, std::span<std::byte> frame);
/// A frame header that is plausible: magic, sizes, reserved zeros; not yet its checksum.
[[nodiscard]] std::optional<FrameHeader> peek_frame(std::span<const std::byte> bytes);
/// Checks the checksum over the whole padded frame (zeroes the field meanwhile).
[[nodiscard]] bool frame_verifies(const FrameHeader& header, const Salt& salt,
                                  std::span<std::byte> frame);

}  // namespace kessai::wal
