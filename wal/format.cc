// SPDX-License-Identifier: Apache-2.0
#include "wal/format.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::wal {
namespace {

static_assert(std::endian::native == std::endian::little, "the formats are written little-endian");

constexpr std::uint64_t kSegmentMagic = 0x31474f4c4953534b;   // "KSSILOG1"
constexpr std::uint64_t kFooterMagic = 0x31444e454953534b;    // "KSSIEND1"
constexpr std::uint64_t kMaxNumber = std::uint64_t{1} << 48;  // of segments and generations
constexpr std::uint32_t kFrameMagic = 0x4d52464b;             // "KFRM"

// On disk. No padding: every byte of a block is a field or a checked zero.
struct HeaderDisk {
  std::uint64_t magic;                  //   0
  std::uint32_t format, block;          //   8
  std::uint64_t store_hi, store_lo;     //  16
  std::uint64_t segment, bytes;         //  32
  std::uint64_t generation;             //  48
  std::uint64_t generation_first;       //  56
  Salt::Bytes salt;                     //  64
  std::uint64_t generation_segment;     //  80
  std::uint64_t previous_generation;    //  88
  std::uint64_t previous_end;           //  96
  std::uint64_t first;                  // 104
  std::uint64_t previous_segment;       // 112
  std::uint64_t chain;                  // 120
  std::byte reserved[368];              // 128
  std::uint64_t check_low, check_high;  // 496: XXH3-128 of the block with this field zero
};
static_assert(sizeof(HeaderDisk) == 512 && offsetof(HeaderDisk, check_low) == 496);

struct FooterDisk {
  std::uint64_t magic;                  //  0
  std::uint64_t segment;                //  8
  std::uint64_t end;                    // 16
  std::uint64_t chain;                  // 24
  std::uint64_t next_segment;           // 32
  std::uint64_t reserved;               // 40
  std::uint64_t check_low, check_high;  // 48: salted, of the block with this field zero
};
static_assert(sizeof(FooterDisk) == 64);

struct FrameDisk {
  std::uint32_t magic, header_bytes;    //  0
  std::uint64_t generation;             //  8
  std::uint64_t first;                  // 16
  std::uint32_t payload, records;       // 24
  std::uint64_t hint;                   // 32
  std::uint64_t previous;               // 40
  std::uint64_t check_low, check_high;  // 48
  std::uint64_t segment;                // 64
  std::byte reserved[56];               // 72
};
static_assert(sizeof(FrameDisk) == kFrameHeader && offsetof(FrameDisk, segment) == 64);
constexpr std::size_t kFrameCheck = offsetof(FrameDisk, check_low);

template <class T>
T load(std::span<const std::byte> bytes) noexcept {
  T disk;
  std::memcpy(&disk, bytes.data(), sizeof disk);
  return disk;
}

bool zeros(std::span<const std::byte> bytes) noexcept {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

/// The hash of a small block with its checksum field zero, and the block's own idea of it.
template <class Disk, class HashFn>
bool block_verifies(std::span<const std::byte> block, const HashFn& hash) {
  std::byte copy[kMinBlock];
  std::memcpy(copy, block.data(), kMinBlock);
  const auto disk = load<Disk>(block);
  std::memset(copy + offsetof(Disk, check_low), 0, 16);
  return hash(std::span<const std::byte>(copy)) == Hash128{disk.check_low, disk.check_high};
}

}  // namespace

void encode_header(const SegmentHeader& h, std::span<std::byte> block) {
  KESSAI_CHECK(block.size() == kMinBlock);
  HeaderDisk d{};
  d.magic = kSegmentMagic;
  d.format = kFormat;
  d.block = h.block;
  d.store_hi = h.store.hi;
  d.store_lo = h.store.lo;
  d.segment = h.segment;
  d.bytes = h.bytes;
  d.generation = h.generation;
  d.generation_first = h.generation_first;
  d.salt = h.salt;
  d.generation_segment = h.generation_segment;
  d.previous_generation = h.previous_generation;
  d.previous_end = h.previous_end;
  d.first = h.first;
  d.previous_segment = h.previous_segment;
  d.chain = h.chain;
  std::memset(block.data(), 0, block.size());
  std::memcpy(block.data(), &d, sizeof d);
  const Hash128 check = hash128(block);
  d.check_low = check.low;
  d.check_high = check.high;
  std::memcpy(block.data(), &d, sizeof d);
}

std::optional<SegmentHeader> decode_header(std::span<const std::byte> block) {
  const auto d = load<HeaderDisk>(block);
  if (d.magic != kSegmentMagic || d.format != kFormat) return std::nullopt;
  if (!block_verifies<HeaderDisk>(block, hash128)) return std::nullopt;
  SegmentHeader h{.block = d.block,
                  .store = {d.store_hi, d.store_lo},
                  .segment = d.segment,
                  .bytes = d.bytes,
                  .generation = d.generation,
                  .salt = d.salt,
                  .generation_first = d.generation_first,
                  .generation_segment = d.generation_segment,
                  .previous_generation = d.previous_generation,
                  .previous_end = d.previous_end,
                  .first = d.first,
                  .previous_segment = d.previous_segment,
                  .chain = d.chain};
  const bool plausible =
      std::has_single_bit(h.block) && h.block >= kMinBlock && h.block <= (1u << 20) &&
      h.bytes % h.block == 0 && h.bytes >= std::uint64_t{kMinSegmentBlocks} * h.block &&
      h.bytes <= kMaxSegmentBytes && h.segment < kMaxNumber && h.generation < kMaxNumber &&
      h.segment > h.previous_segment && h.generation > 0 && h.generation_segment > 0 &&
      h.generation_segment <= h.segment && h.generation > h.previous_generation &&
      h.first <= kMaxLsn && h.first >= h.generation_first &&
      (h.first == h.generation_first || !h.opens_generation()) &&
      h.generation_first >= h.previous_end && zeros(block.subspan(128, 368));
  return plausible ? std::optional(h) : std::nullopt;
}

bool newer_header(std::span<const std::byte> block) {
  const auto d = load<HeaderDisk>(block);
  return d.magic == kSegmentMagic && d.format > kFormat &&
         block_verifies<HeaderDisk>(block, hash128);
}

void encode_footer(const SegmentFooter& f, const Salt& salt, std::span<std::byte> block) {
  FooterDisk d{.magic = kFooterMagic,
               .segment = f.segment,
               .end = f.end,
               .chain = f.chain,
               .next_segment = f.next_segment,
               .reserved = 0,
               .check_low = 0,
               .check_high = 0};
  std::memset(block.data(), 0, block.size());
  std::memcpy(block.data(), &d, sizeof d);
  const Hash128 check = salt.hash(block.first(kMinBlock));
  d.check_low = check.low;
  d.check_high = check.high;
  std::memcpy(block.data(), &d, sizeof d);
}

std::optional<SegmentFooter> decode_footer(std::span<const std::byte> block, const Salt& salt) {
  const auto d = load<FooterDisk>(block);
  if (d.magic != kFooterMagic ||
      !block_verifies<FooterDisk>(block, [&](auto bytes) { return salt.hash(bytes); }))
    return std::nullopt;
  return SegmentFooter{d.segment, d.end, d.chain, d.next_segment};
}

void seal_frame(FrameHeader& h, const Salt& salt, std::span<std::byte> frame) {
  FrameDisk d{};
  d.magic = kFrameMagic;
  d.header_bytes = kFrameHeader;
  d.generation = h.generation;
  d.first = h.first;
  d.payload = h.payload;
  d.records = h.records;
  d.hint = h.hint;
  d.previous = h.previous;
  d.segment = h.segment;
  std::memcpy(frame.data(), &d, sizeof d);
  h.checksum = salt.hash(frame);
  std::memcpy(frame.data() + kFrameCheck, &h.checksum, sizeof h.checksum);
}

std::optional<FrameHeader> peek_frame(std::span<const std::byte> bytes) {
  if (bytes.size() < kFrameHeader) return std::nullopt;
  const auto d = load<FrameDisk>(bytes);
  if (d.magic != kFrameMagic || d.header_bytes != kFrameHeader ||
      d.payload > kMaxFrameBytes - kFrameHeader || d.first > kMaxLsn || d.hint > d.first)
    return std::nullopt;
  return FrameHeader{.generation = d.generation,
                     .first = d.first,
                     .payload = d.payload,
                     .records = d.records,
                     .hint = d.hint,
                     .previous = d.previous,
                     .segment = d.segment,
                     .checksum = {d.check_low, d.check_high}};
}

bool frame_verifies(const FrameHeader& h, const Salt& salt, std::span<std::byte> frame) {
  std::memset(frame.data() + kFrameCheck, 0, sizeof h.checksum);
  const bool ok = KESSAI_MUTANT(frame_hash_ignored) || salt.hash(frame) == h.checksum;
  std::memcpy(frame.data() + kFrameCheck, &h.checksum, sizeof h.checksum);
  return ok;
}

}  // namespace kessai::wal
