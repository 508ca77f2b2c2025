// SPDX-License-Identifier: Apache-2.0
#include "btree/superblock.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "io/mutant.hpp"

namespace kessai::btree {
namespace {

constexpr char kMagic[8] = {'K', 'E', 'S', 'S', 'A', 'I', 'D', 'B'};
constexpr std::size_t kHashAt = 144;
constexpr std::uint32_t kClean = 1;

template <class T>
void put(std::byte* page, std::size_t at, T v) noexcept {
  std::memcpy(page + at, &v, sizeof v);
}
template <class T>
T get(const std::byte* page, std::size_t at) noexcept {
  T v;
  std::memcpy(&v, page + at, sizeof v);
  return v;
}

}  // namespace

Hash128 hash_page(const std::byte* page) noexcept {
  const XXH128_hash_t h = XXH3_128bits(page, kPageSize);
  return {h.low64, h.high64};
}

void encode(const Superblock& sb, std::span<std::byte, kPageSize> out) noexcept {
  std::byte* p = out.data();
  std::memset(p, 0, kPageSize);
  std::memcpy(p, kMagic, sizeof kMagic);
  put(p, 8, kFormatVersion);
  put(p, 12, static_cast<std::uint32_t>(kPageSize));
  put(p, 16, sb.store.hi);
  put(p, 24, sb.store.lo);
  put(p, 32, sb.number);
  put(p, 40, sb.epoch);
  put(p, 48, sb.low);
  put(p, 56, sb.fence);
  put(p, 64, sb.generation);
  put(p, 72, sb.next_page);
  put(p, 80, sb.map_slot);
  put(p, 88, sb.map_hash.lo);
  put(p, 96, sb.map_hash.hi);
  put(p, 104, sb.map_depth);
  put(p, 108, sb.clean ? kClean : 0U);
  const Hash128 h = hash_page(p);
  put(p, kHashAt, h.lo);
  put(p, kHashAt + 8, h.hi);
}

Result<Superblock> decode_superblock(std::span<const std::byte, kPageSize> in) {
  std::byte page[kPageSize];
  std::memcpy(page, in.data(), kPageSize);
  if (std::memcmp(page, kMagic, sizeof kMagic) != 0) return fail(Code::not_a_store);
  const Hash128 stored{get<std::uint64_t>(page, kHashAt), get<std::uint64_t>(page, kHashAt + 8)};
  put<std::uint64_t>(page, kHashAt, 0);
  put<std::uint64_t>(page, kHashAt + 8, 0);
  if (hash_page(page) != stored && !KESSAI_MUTANT(superblock_hash_ignored))
    return fail(Code::superblock_damaged);
  if (const auto format = get<std::uint32_t>(page, 8); format != kFormatVersion) {
    return fail(Code::newer_format, "the store has format " + std::to_string(format) +
                                        ", this library reads format " +
                                        std::to_string(kFormatVersion));
  }
  if (const auto size = get<std::uint32_t>(page, 12); size != kPageSize) {
    return fail(Code::page_size_mismatch, "the store has pages of " + std::to_string(size) +
                                              " bytes, this library was built for " +
                                              std::to_string(kPageSize));
  }
  Superblock sb;
  sb.store = {get<std::uint64_t>(page, 16), get<std::uint64_t>(page, 24)};
  sb.number = get<std::uint64_t>(page, 32);
  sb.epoch = get<std::uint64_t>(page, 40);
  sb.low = get<std::uint64_t>(page, 48);
  sb.fence = get<std::uint64_t>(page, 56);
  sb.generation = get<std::uint64_t>(page, 64);
  sb.next_page = get<std::uint64_t>(page, 72);
  sb.map_slot = get<std::uint64_t>(page, 80);
  sb.map_hash = {get<std::uint64_t>(page, 88), get<std::uint64_t>(page, 96)};
  sb.map_depth = get<std::uint32_t>(page, 104);
  sb.clean = (get<std::uint32_t>(page, 108) & kClean) != 0;
  return sb;
}

}  // namespace kessai::btree
