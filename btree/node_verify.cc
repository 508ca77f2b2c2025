// SPDX-License-Identifier: Apache-2.0
// Structural check of a node that comes from disk: after it, Node may change the page without any
// further check. Linear in the page; trusts nothing but the page's size.
#include <array>
#include <bitset>

#include "btree/node.hpp"
#include "btree/node_private.hpp"

namespace kessai::btree {

namespace {
/// The 8-byte words of a page that belong to somebody.
class Owned {
 public:
  /// False when the range leaves the page, is misaligned, or overlaps an earlier one.
  [[nodiscard]] bool take(std::size_t off, std::size_t bytes) noexcept {
    if (off % 8 != 0 || bytes % 8 != 0 || off > kPageSize || bytes > kPageSize - off) return false;
    for (std::size_t i = off / 8; i < (off + bytes) / 8; ++i) {
      if (words_[i]) return false;
      words_[i] = true;
    }
    return true;
  }

 private:
  std::bitset<kPageSize / 8> words_;
};
}  // namespace

bool NodeView::verify(std::uint64_t want_store, PageId want_page, std::string& what) const {
  const auto bad = [&what](const char* reason) {
    what = reason;
    return false;
  };
  if (store_id() != want_store) return bad("page belongs to another store");
  if (page_id() != want_page) return bad("page carries another page id");
  if (type() != PageType::leaf && type() != PageType::inner) return bad("not a tree node");
  const bool leaf = is_leaf();
  if (leaf != (level() == 0) || level() > kMaxLevel) return bad("level does not match the type");
  if (max_ts() > kMaxLsn || page_lsn() > kMaxLsn) return bad("impossible LSN");

  const unsigned n = u16(72);
  if (n != counted(leaf)) return bad("more entries than a page holds");
  const std::size_t arrays_end = kNodeHeader + n * (leaf ? kLeafSlot : kInnerSlot);
  const std::size_t heap = u16(74), garbage = u16(76);
  if (heap > kPageSize || heap % 8 != 0 || heap < arrays_end)
    return bad("heap begins inside the slots");

  // Fences: low at the end of the page, high below it.
  const std::size_t low_len = u16(82), high_len = has_high_fence() ? u16(86) : 0;
  if (low_len > kMaxKey || high_len > kMaxKey) return bad("fence too long");
  const std::size_t low_off = kPageSize - pad8(low_len), high_off = low_off - pad8(high_len);
  if (u16(80) != low_off || u16(84) != high_off || high_off < heap) return bad("fences misplaced");
  std::string low_key, high_key;
  low_fence(low_key);
  const bool bounded = high_fence(high_key);
  if (bounded && low_key >= high_key) return bad("fences out of order");
  if (u16(78) != (bounded ? common_prefix(low_key, high_key) : 0))
    return bad("prefix is not that of the fences");

  Owned owned;
  std::size_t live = kPageSize - high_off;
  std::string previous = low_key, key;
  key.reserve(kMaxKey);
  const std::size_t prefix = u16(78);
  if (!leaf && u32(88) == 0) return bad("no first child");
  for (unsigned i = 0; i < n; ++i) {
    const unsigned at = slot_at(leaf, n, i);
    const std::size_t off = u16(at), klen = u16(at + 2);
    if (prefix + klen > kMaxKey) return bad("key too long");
    std::size_t bytes = inner_bytes(klen);
    if (leaf) {
      if (off % 8 != 0 || off < heap || off + kRecordHeader > high_off)
        return bad("record outside the heap");
      const std::size_t vlen = u16(off + 10);
      bytes = leaf_bytes(klen, vlen);
      if (u16(off + 8) != klen) return bad("key lengths differ");
      if (!fits_inline(prefix + klen, vlen)) return bad("record too long");
      const std::uint64_t tag = u64(off);
      if (tag_lsn(tag) > max_ts()) return bad("record newer than max_ts");
      if (is_overflow(tag) && vlen != sizeof(OverflowRef))
        return bad("overflow reference of a wrong size");
    } else if (u32(child_at(n, i)) == 0) {
      return bad("no child");
    }
    if (bytes != 0) {
      if (off < heap || off + bytes > high_off || !owned.take(off, bytes))
        return bad("records overlap or leave the heap");
      live += bytes;
    }
    key.resize(kMaxKey);
    key.resize(copy_key(leaf, i, key.data()));
    if (u32(head_at(i)) != key_head(std::string_view(key).substr(prefix)))
      return bad("head is not that of the key");
    const bool ordered = i == 0 && leaf ? previous <= key : previous < key;
    if (!ordered) return bad("keys out of order");
    std::swap(previous, key);
  }
  if (bounded && n != 0 && previous >= high_key) return bad("key at or above the high fence");
  if (live + garbage != kPageSize - heap) return bad("heap accounting is off");
  if (n > kHintedAbove) {
    const unsigned distance = n / (kHints + 1);
    for (unsigned i = 0; i < kHints; ++i) {
      if (u32(96 + 4 * i) != u32(head_at(distance * (i + 1))))
        return bad("hint is not that of its head");
    }
  }
  return true;
}

}  // namespace kessai::btree
