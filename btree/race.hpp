// SPDX-License-Identifier: Apache-2.0
// The only place that touches page bytes which optimistic readers may be reading (I10).
//
// The protocol is a seqlock without fences, race-free by the C++ memory model and visible to TSan
// (which does not model stand-alone fences):
//   writer  holds the exclusive latch, has made the version (a word outside the page) odd, and
//           stores every byte with release order;
//   reader  loads every byte with acquire order into private memory and then re-reads the version.
//           A reader that saw any byte of a change therefore also sees the odd or later version.
// On x86-64 acquire loads and release stores are plain moves; only vectorisation is lost.
//
// Pages are 4096-byte aligned, so an aligned word never leaves its page: bulk copies round their
// range outward to whole 8-byte words. Reading outward is harmless; writing outward rewrites the
// neighbour bytes with what they already hold, which only the holder of the exclusive latch does.
// Nothing here makes an unaligned or split access. Plain reads are fine for the latch holder too
// (nobody else writes), and private buffers may go through the same functions.
//
// Threads: no state. Locks: the caller's latch, as above.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "io/atomic.hpp"

namespace kessai::race {

static_assert(std::endian::native == std::endian::little, "page layout is little-endian");

namespace detail {
// Page memory has no declared type: the same bytes are read as bytes, halves and words.
using U8 = std::uint8_t;
using U16 [[gnu::may_alias]] = std::uint16_t;
using U32 [[gnu::may_alias]] = std::uint32_t;
using U64 [[gnu::may_alias]] = std::uint64_t;

inline std::size_t misalignment(const void* p) noexcept {
  return reinterpret_cast<std::uintptr_t>(p) & 7;
}
}  // namespace detail

template <class T>
concept Word = std::unsigned_integral<T> &&
               (sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);

/// Acquire load of an aligned integer; pairs with `store` of the latch holder.
template <Word T>
[[nodiscard]] inline T load(const void* p) noexcept {
  KESSAI_PAGE_POINT();
  if constexpr (sizeof(T) == 1)
    return __atomic_load_n(static_cast<const detail::U8*>(p), __ATOMIC_ACQUIRE);
  if constexpr (sizeof(T) == 2)
    return __atomic_load_n(static_cast<const detail::U16*>(p), __ATOMIC_ACQUIRE);
  if constexpr (sizeof(T) == 4)
    return __atomic_load_n(static_cast<const detail::U32*>(p), __ATOMIC_ACQUIRE);
  if constexpr (sizeof(T) == 8)
    return __atomic_load_n(static_cast<const detail::U64*>(p), __ATOMIC_ACQUIRE);
}

/// Release store of an aligned integer; pairs with `load` of optimistic readers.
template <Word T>
inline void store(void* p, T v) noexcept {
  KESSAI_PAGE_POINT();
  if constexpr (sizeof(T) == 1) __atomic_store_n(static_cast<detail::U8*>(p), v, __ATOMIC_RELEASE);
  if constexpr (sizeof(T) == 2) __atomic_store_n(static_cast<detail::U16*>(p), v, __ATOMIC_RELEASE);
  if constexpr (sizeof(T) == 4) __atomic_store_n(static_cast<detail::U32*>(p), v, __ATOMIC_RELEASE);
  if constexpr (sizeof(T) == 8) __atomic_store_n(static_cast<detail::U64*>(p), v, __ATOMIC_RELEASE);
}

/// Copies `n` shared bytes to private memory.
inline void copy_out(void* dst, const void* src, std::size_t n) noexcept {
  auto* to = static_cast<char*>(dst);
  const auto* from = static_cast<const char*>(src);
  if (const std::size_t skip = detail::misalignment(from); skip != 0 && n != 0) {
    const std::uint64_t w = load<std::uint64_t>(from - skip) >> (8 * skip);
    const std::size_t part = n < 8 - skip ? n : 8 - skip;
    std::memcpy(to, &w, part);
    to += part, from += part, n -= part;
  }
  for (; n >= 8; to += 8, from += 8, n -= 8) {
    const auto w = load<std::uint64_t>(from);
    std::memcpy(to, &w, 8);
  }
  if (n != 0) {
    const auto w = load<std::uint64_t>(from);
    std::memcpy(to, &w, n);
  }
}

/// Copies `n` private bytes into a page. Exclusive latch.
inline void copy_in(void* dst, const void* src, std::size_t n) noexcept {
  auto* to = static_cast<char*>(dst);
  const auto* from = static_cast<const char*>(src);
  if (const std::size_t skip = detail::misalignment(to); skip != 0 && n != 0) {
    auto w = load<std::uint64_t>(to - skip);
    const std::size_t part = n < 8 - skip ? n : 8 - skip;
    std::memcpy(reinterpret_cast<char*>(&w) + skip, from, part);
    store(to - skip, w);
    to += part, from += part, n -= part;
  }
  for (; n >= 8; to += 8, from += 8, n -= 8) {
    std::uint64_t w;
    std::memcpy(&w, from, 8);
    store(to, w);
  }
  if (n != 0) {
    auto w = load<std::uint64_t>(to);
    std::memcpy(&w, from, n);
    store(to, w);
  }
}

namespace detail {
template <class T>
inline void move_units(char* to, const char* from, std::size_t n) noexcept {
  if (to < from) {
    for (std::size_t i = 0; i < n; i += sizeof(T)) store(to + i, load<T>(from + i));
  } else {
    for (std::size_t i = n; i != 0; i -= sizeof(T)) {
      store(to + i - sizeof(T), load<T>(from + i - sizeof(T)));
    }
  }
}
}  // namespace detail

/// Moves `n` bytes within one page, in the widest unit that the offsets allow; the ranges may
/// overlap. Exclusive latch.
inline void move_within(void* page, std::size_t dst_off, std::size_t src_off,
                        std::size_t n) noexcept {
  char* const base = static_cast<char*>(page);
  const std::size_t all = dst_off | src_off | n;
  if (dst_off == src_off || n == 0) return;
  if (all % 8 == 0) return detail::move_units<std::uint64_t>(base + dst_off, base + src_off, n);
  if (all % 4 == 0) return detail::move_units<std::uint32_t>(base + dst_off, base + src_off, n);
  detail::move_units<std::uint8_t>(base + dst_off, base + src_off, n);
}

/// Zeroes `n` bytes of a page (both ends 8-byte aligned). Exclusive latch.
inline void zero(void* dst, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; i += 8) store(static_cast<char*>(dst) + i, std::uint64_t{0});
}

}  // namespace kessai::race
