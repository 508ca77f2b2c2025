// SPDX-License-Identifier: Apache-2.0
// Searching and reading nodes. Everything here may run while the page changes (see node.hpp).
#include "btree/node.hpp"

#include <algorithm>

#include "btree/node_private.hpp"

namespace kessai::btree {

namespace {

/// Fewer than eight private bytes as the low end of a word.
std::uint64_t load_partial(const char* p, std::size_t n) noexcept {
  if (n >= 4) {
    std::uint32_t a, b;
    std::memcpy(&a, p, 4);
    std::memcpy(&b, p + n - 4, 4);
    return a | static_cast<std::uint64_t>(b) << (8 * (n - 4));
  }
  std::uint64_t w = 0;
  for (std::size_t i = 0; i < n; ++i) {
    w |= static_cast<std::uint64_t>(static_cast<unsigned char>(p[i])) << (8 * i);
  }
  return w;
}

int compare_words(std::uint64_t a, std::uint64_t b) noexcept {
  const std::uint64_t x = __builtin_bswap64(a), y = __builtin_bswap64(b);
  return x < y ? -1 : 1;
}

/// Order of `len` shared bytes at an aligned address against a private key.
int compare_shared(const std::byte* p, std::size_t len, std::string_view key) noexcept {
  const std::size_t n = std::min(len, key.size());
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    std::uint64_t b;
    std::memcpy(&b, key.data() + i, 8);
    if (const auto a = race::load<std::uint64_t>(p + i); a != b) return compare_words(a, b);
  }
  if (i < n) {
    const std::uint64_t mask = ~std::uint64_t{0} >> (64 - 8 * (n - i));
    const std::uint64_t a = race::load<std::uint64_t>(p + i) & mask;
    if (const auto b = load_partial(key.data() + i, n - i); a != b) return compare_words(a, b);
  }
  return len == key.size() ? 0 : len < key.size() ? -1 : 1;
}

}  // namespace

// ---- search ----------------------------------------------------------------------------------

// The first index in [lo, hi) whose head is >= `head`, or hi. No branch depends on the data.
unsigned NodeView::search_heads(unsigned lo, unsigned hi, std::uint32_t head) const noexcept {
  if (lo >= hi) return lo;
  unsigned n = hi - lo;
  while (n > 1) {
    const unsigned half = n / 2;
    lo += u32(head_at(lo + half - 1)) < head ? half : 0;
    n -= half;
  }
  return lo + (u32(head_at(lo)) < head ? 1 : 0);
}

// hint[i] is the head at (i+1) * distance, so the hints below `head` bracket the answer. For small
// nodes the plain search touches as few cache lines as the hints would.
unsigned NodeView::search_hinted(unsigned count, std::uint32_t head) const noexcept {
  if (count <= kHintedAbove) return search_heads(0, count, head);
  const unsigned distance = count / (kHints + 1);
  unsigned below = 0;
  for (unsigned i = 0; i < kHints; ++i) below += u32(96 + 4 * i) < head ? 1 : 0;
  const unsigned lo = below == 0 ? 0 : below * distance + 1;
  const unsigned hi = below == kHints ? count : (below + 1) * distance;
  return search_heads(lo, hi, head);
}

// Order of slot i's key against `key` (both truncated), given that their heads are equal. Where
// one has no more than its head, zero padding made them equal and the lengths decide.
template <bool kLeaf>
int NodeView::compare_slot(unsigned count, unsigned i, std::string_view key) const noexcept {
  const Slot s = slot(kLeaf, count, i);
  if (s.klen <= 4 || key.size() <= 4) {
    return s.klen == key.size() ? 0 : s.klen < key.size() ? -1 : 1;
  }
  const unsigned off = s.off + (kLeaf ? 16 : 0);
  if (kLeaf) {  // the value is wanted next: its lines come together with the key's
    __builtin_prefetch(p_ + s.off + 64);
    __builtin_prefetch(p_ + s.off + 128);
  }
  if (off + s.klen - 4 > kPageSize) return 1;
  return compare_shared(p_ + off, s.klen - 4, key.substr(4));
}

template <bool kLeaf>
unsigned NodeView::search(std::string_view key, bool& exact) const noexcept {
  const std::uint64_t counters = u64(72);
  const unsigned count =
      std::min<unsigned>(counters & 0xffff, kLeaf ? kMaxLeafCount : kMaxInnerCount);
  const std::size_t prefix = counters >> 48;
  key = prefix <= key.size() ? key.substr(prefix) : std::string_view{};
  const std::uint32_t head = key_head(key);
  exact = false;
  unsigned lo = search_hinted(count, head);
  if (lo >= count || u32(head_at(lo)) != head) return lo;
  unsigned hi = lo + 1;  // [lo, hi) have this head: one, as a rule
  if (hi < count && u32(head_at(hi)) == head) {
    hi = head == ~std::uint32_t{0} ? count : search_heads(hi, count, head + 1);
  }
  while (lo < hi) {
    const unsigned mid = (lo + hi) / 2;
    const int order = compare_slot<kLeaf>(count, mid, key);
    if (order == 0) {
      exact = true;
      return mid;
    }
    if (order < 0) {
      lo = mid + 1;
    } else {
      hi = mid;
    }
  }
  return lo;
}

unsigned NodeView::lower_bound(std::string_view key, bool& exact) const noexcept {
  return search<true>(key, exact);
}

unsigned NodeView::child_index(std::string_view key) const noexcept {
  bool exact;
  const unsigned i = search<false>(key, exact);
  return exact ? i + 1 : i;
}

PageId NodeView::child(unsigned i) const noexcept {
  const unsigned n = counted(false);
  if (i > n) return kNoPage;
  return PageId{i == 0 ? u32(88) : u32(child_at(n, i - 1))};
}

bool NodeView::covers(std::string_view key) const noexcept {
  const Range l = low();
  if (compare_shared(p_ + l.off, l.len, key) > 0) return false;
  if (!has_high_fence()) return true;
  const Range h = high();
  return compare_shared(p_ + h.off, h.len, key) > 0;
}

void NodeView::copy_leaf(std::byte* out) const noexcept {
  const std::size_t slots = kNodeHeader + counted(true) * kLeafSlot;
  const std::size_t heap = std::clamp<std::size_t>(u16(74) & ~std::size_t{7}, slots, kPageSize);
  race::copy_out(out, p_, slots);
  race::copy_out(out + heap, p_ + heap, kPageSize - heap);
}

void NodeView::prefetch() const noexcept {
  // A leaf of 29 records ends its slots at 392: one memory latency instead of three in a row.
  for (unsigned at = 0; at < 448; at += 64) __builtin_prefetch(p_ + at);
}

void NodeView::prefetch_match(std::string_view key) const noexcept {
  const unsigned count = counted(true);
  const unsigned i = search_hinted(count, key_head(truncated(key)));
  if (i >= count) return;
  const std::byte* const record = p_ + slot(true, count, i).off;
  __builtin_prefetch(record);
  __builtin_prefetch(record + 64);
}

// ---- reading ---------------------------------------------------------------------------------

bool NodeView::leaf_at(unsigned i, LeafHit& hit) const noexcept {
  const unsigned count = counted(true);
  if (i >= count) return false;
  const unsigned off = slot(true, count, i).off;
  if (off + kRecordHeader > kPageSize) return false;
  const std::uint32_t lengths = u32(off + 8);
  const std::size_t voff = off + kRecordHeader + (lengths & 0xffff);
  hit.tag = u64(off);
  hit.vlen = static_cast<std::uint16_t>(lengths >> 16);
  hit.klen = static_cast<std::uint16_t>(lengths & 0xffff);
  hit.voff = static_cast<std::uint16_t>(voff);
  return voff + hit.vlen <= kPageSize;
}

void NodeView::copy_value(const LeafHit& hit, char* dst) const noexcept {
  race::copy_out(dst, p_ + hit.voff, hit.vlen);
}

void NodeView::copy_value(const LeafHit& hit, std::string& out) const {
  out.resize(hit.vlen);
  copy_value(hit, out.data());
}

std::size_t NodeView::copy_key(bool leaf, unsigned i, char* out) const noexcept {
  const unsigned count = counted(leaf);
  if (i >= count) return 0;
  const Range l = low();
  const Slot s = slot(leaf, count, i);
  const std::size_t prefix = std::min<std::size_t>({u16(78), l.len, kMaxKey});
  const std::size_t rest = std::min<std::size_t>(s.klen, kMaxKey - prefix);
  race::copy_out(out, p_ + l.off, prefix);
  out += prefix;
  if (leaf) {
    const std::size_t off = s.off + kRecordHeader;
    if (off + rest > kPageSize) return prefix;
    race::copy_out(out, p_ + off, rest);
  } else {
    const std::uint32_t head = __builtin_bswap32(u32(head_at(i)));
    std::memcpy(out, &head, std::min<std::size_t>(rest, 4));
    if (rest <= 4) return prefix + rest;
    if (s.off + rest - 4 > kPageSize) return prefix;
    race::copy_out(out + 4, p_ + s.off, rest - 4);
  }
  return prefix + rest;
}

void NodeView::copy_key(unsigned i, std::string& out) const {
  char key[kMaxKey];
  out.assign(key, copy_key(true, i, key));
}

void NodeView::copy_separator(unsigned i, std::string& out) const {
  char key[kMaxKey];
  out.assign(key, copy_key(false, i, key));
}

void NodeView::low_fence(std::string& out) const {
  const Range l = low();
  out.resize(l.len);
  race::copy_out(out.data(), p_ + l.off, l.len);
}

bool NodeView::high_fence(std::string& out) const {
  out.clear();
  if (!has_high_fence()) return false;
  const Range h = high();
  out.resize(h.len);
  race::copy_out(out.data(), p_ + h.off, h.len);
  return true;
}

// ---- space -----------------------------------------------------------------------------------

std::size_t NodeView::free_bytes() const noexcept {
  const bool leaf = is_leaf();
  const std::size_t end = kNodeHeader + counted(leaf) * (leaf ? kLeafSlot : kInnerSlot);
  const std::size_t heap = u16(74), garbage = u16(76);
  return std::min((heap > end ? heap - end : 0) + garbage, kNodeUsable);
}

std::size_t NodeView::live_bytes() const noexcept { return kNodeUsable - free_bytes(); }

std::size_t NodeView::suffix_length(std::size_t klen) const noexcept {
  const std::size_t prefix = u16(78);
  return klen > prefix ? klen - prefix : 0;
}

bool NodeView::room_for_leaf(std::size_t klen, std::size_t vlen) const noexcept {
  return leaf_bytes(suffix_length(klen), vlen) + kLeafSlot <= free_bytes();
}

bool NodeView::room_for_separator(std::size_t klen) const noexcept {
  return inner_bytes(suffix_length(klen)) + kInnerSlot <= free_bytes();
}

template unsigned NodeView::search<true>(std::string_view, bool&) const noexcept;
template unsigned NodeView::search<false>(std::string_view, bool&) const noexcept;

}  // namespace kessai::btree
