// SPDX-License-Identifier: Apache-2.0
// Changing nodes under the exclusive latch (or in a private buffer).
#include <algorithm>
#include <array>

#include "btree/node.hpp"
#include "btree/node_private.hpp"
#include "io/check.hpp"

namespace kessai::btree {

namespace {
constexpr unsigned kNone = ~0u;
}

void Node::format(const NodeFormat& f) noexcept {
  race::zero(w(), kPageSize);  // no stale bytes reach the disk
  put<std::uint64_t>(0, f.store_id);
  put<std::uint64_t>(8, raw(f.page));
  put<std::uint8_t>(24, static_cast<std::uint8_t>(f.type));
  put<std::uint8_t>(25, static_cast<std::uint8_t>(f.level));
  put<std::uint32_t>(28, raw(f.tree));
  put<std::uint32_t>(88, static_cast<std::uint32_t>(raw(f.first_child)));

  const auto low_off = static_cast<unsigned>(kPageSize - pad8(f.low.size()));
  race::copy_in(w() + low_off, f.low.data(), f.low.size());
  put<std::uint16_t>(80, static_cast<std::uint16_t>(low_off));
  put<std::uint16_t>(82, static_cast<std::uint16_t>(f.low.size()));
  unsigned heap = low_off;
  if (f.high) {
    heap -= static_cast<unsigned>(pad8(f.high->size()));
    race::copy_in(w() + heap, f.high->data(), f.high->size());
    put<std::uint16_t>(78, static_cast<std::uint16_t>(common_prefix(f.low, *f.high)));
  }
  put<std::uint16_t>(84, static_cast<std::uint16_t>(heap));
  put<std::uint16_t>(86, f.high ? static_cast<std::uint16_t>(f.high->size()) : kInfinite);
  put<std::uint16_t>(74, static_cast<std::uint16_t>(heap));
}

// ---- heap ------------------------------------------------------------------------------------

std::size_t Node::contiguous() const noexcept {
  const bool leaf = is_leaf();
  return u16(74) - kNodeHeader - counted(leaf) * (leaf ? kLeafSlot : kInnerSlot);
}

unsigned Node::allocate(std::size_t bytes) noexcept {
  KESSAI_CHECK(contiguous() >= bytes);
  const auto off = static_cast<std::uint16_t>(u16(74) - bytes);
  put<std::uint16_t>(74, off);
  return off;
}

void Node::release(unsigned off, std::size_t bytes) noexcept {
  if (bytes == 0) return;
  const bool lowest = off == u16(74);
  const unsigned at = lowest ? 74 : 76;
  put<std::uint16_t>(at, static_cast<std::uint16_t>(u16(at) + bytes));
}

std::size_t NodeView::record_bytes(bool leaf, unsigned count, unsigned i) const noexcept {
  const Slot s = slot(leaf, count, i);
  return leaf ? leaf_bytes(s.klen, u16(s.off + 10)) : inner_bytes(s.klen);
}

void Node::compact() { compact_without(kNone); }

// Rewrites the heap without its holes; slot `dropped`, if any, loses its record.
void Node::compact_without(unsigned dropped) {
  alignas(8) std::array<std::byte, kPageSize> old;
  const unsigned heap = u16(74);
  race::copy_out(old.data() + heap, p_ + heap, kPageSize - heap);
  const bool leaf = is_leaf();
  const unsigned count = counted(leaf);
  unsigned top = u16(84);  // the fences stay where format put them
  for (unsigned i = 0; i < count; ++i) {
    const Slot s = slot(leaf, count, i);
    const std::size_t bytes = i == dropped ? 0
                              : leaf ? leaf_bytes(s.klen, NodeView(old.data()).u16(s.off + 10))
                                     : inner_bytes(s.klen);
    if (bytes == 0) continue;
    top -= static_cast<unsigned>(bytes);
    race::copy_in(w() + top, old.data() + s.off, bytes);
    put<std::uint16_t>(slot_at(leaf, count, i), static_cast<std::uint16_t>(top));
  }
  put<std::uint16_t>(74, static_cast<std::uint16_t>(top));
  put<std::uint16_t>(76, std::uint16_t{0});
}

// ---- slots -----------------------------------------------------------------------------------

// Shifts the arrays behind the heads so that slot i is free; from the back, each move into space
// that is already free.
void Node::open_slot(bool leaf, unsigned i) noexcept {
  const unsigned n = counted(leaf);
  const auto move = [&](unsigned from, unsigned by, unsigned slots) {
    race::move_within(w(), from + by, from, 4 * std::size_t{slots});
  };
  const unsigned slots = slot_at(leaf, n, 0), heads = head_at(0);
  const unsigned arrays = leaf ? 1 : 2;  // before this one
  move(slots + 4 * i, 4 * arrays + 4, n - i);
  move(slots, 4 * arrays, i);
  if (!leaf) {
    move(child_at(n, i), 8, n - i);
    move(child_at(n, 0), 4, i);
  }
  move(heads + 4 * i, 4, n - i);
  put<std::uint16_t>(72, static_cast<std::uint16_t>(n + 1));
}

void Node::close_slot(bool leaf, unsigned i) noexcept {
  const unsigned n = counted(leaf);
  const auto move = [&](unsigned from, unsigned by, unsigned slots) {
    race::move_within(w(), from - by, from, 4 * std::size_t{slots});
  };
  const unsigned slots = slot_at(leaf, n, 0), heads = head_at(0);
  const unsigned arrays = leaf ? 1 : 2;
  move(heads + 4 * (i + 1), 4, n - i - 1);
  if (!leaf) {
    move(child_at(n, 0), 4, i);
    move(child_at(n, i + 1), 8, n - i - 1);
  }
  move(slots, 4 * arrays, i);
  move(slots + 4 * (i + 1), 4 * arrays + 4, n - i - 1);
  put<std::uint16_t>(72, static_cast<std::uint16_t>(n - 1));
  update_hints(n, i);
}

// After heads from `from` on moved and the count was `old_count`: hints before stay as they are
// while the distance between them stays.
void Node::update_hints(unsigned old_count, unsigned from) noexcept {
  const unsigned n = counted(is_leaf());
  if (n <= kHintedAbove) return;
  const unsigned distance = n / (kHints + 1);
  const bool same = old_count > kHintedAbove && old_count / (kHints + 1) == distance;
  const unsigned first = same && from >= distance ? from / distance - 1 : 0;
  for (unsigned i = first; i < kHints; ++i) put(96 + 4 * i, u32(head_at(distance * (i + 1))));
}

void Node::set_slot(bool leaf, unsigned i, std::string_view suffix, unsigned off) noexcept {
  const unsigned n = counted(leaf);
  put(head_at(i), key_head(suffix));
  put(slot_at(leaf, n, i), off | static_cast<std::uint32_t>(suffix.size()) << 16);
}

// ---- leaf ------------------------------------------------------------------------------------

void Node::insert_leaf(unsigned i, std::string_view key, std::uint64_t tag,
                       std::string_view value) {
  KESSAI_CHECK(room_for_leaf(key.size(), value.size()));
  KESSAI_DCHECK(is_leaf() && i <= count() && covers(key));
  const std::string_view suffix = truncated(key);
  const std::size_t bytes = leaf_bytes(suffix.size(), value.size());
  if (contiguous() < bytes + kLeafSlot) compact();
  const unsigned off = allocate(bytes);
  write_record(off, suffix, tag, value);
  const unsigned n = counted(true);
  open_slot(true, i);
  set_slot(true, i, suffix, off);
  update_hints(n, i);
}

void Node::write_record(unsigned off, std::string_view suffix, std::uint64_t tag,
                        std::string_view value) noexcept {
  race::copy_in(w() + off + kRecordHeader, suffix.data(), suffix.size());
  write_value(off, suffix.size(), tag, value);
}

void Node::write_value(unsigned off, std::size_t klen, std::uint64_t tag,
                       std::string_view value) noexcept {
  put(off, tag);
  put(off + 8, static_cast<std::uint32_t>(klen | value.size() << 16));
  race::copy_in(w() + off + kRecordHeader + klen, value.data(), value.size());
}

bool Node::update_leaf(unsigned i, std::uint64_t tag, std::string_view value) {
  KESSAI_DCHECK(is_leaf() && i < count());
  const unsigned n = counted(true);
  const Slot s = slot(true, n, i);
  const std::size_t old_bytes = record_bytes(true, n, i);
  const std::size_t bytes = leaf_bytes(s.klen, value.size());
  if (bytes <= old_bytes) {
    write_value(s.off, s.klen, tag, value);
    release(kNone, old_bytes - bytes);  // the tail of the record: never the lowest of the heap
    return true;
  }
  if (free_bytes() + old_bytes < bytes) return false;
  std::array<char, kMaxKey> suffix;
  race::copy_out(suffix.data(), p_ + s.off + kRecordHeader, s.klen);
  if (contiguous() >= bytes) {
    release(s.off, old_bytes);
  } else {
    compact_without(i);
  }
  const unsigned off = allocate(bytes);
  write_record(off, {suffix.data(), s.klen}, tag, value);
  put(slot_at(true, n, i), static_cast<std::uint16_t>(off));
  return true;
}

void Node::set_tag(unsigned i, std::uint64_t tag) noexcept {
  KESSAI_DCHECK(is_leaf() && i < count());
  put(slot(true, counted(true), i).off, tag);
}

void Node::erase_leaf(unsigned i) noexcept {
  KESSAI_DCHECK(is_leaf() && i < count());
  const unsigned n = counted(true);
  release(slot(true, n, i).off, record_bytes(true, n, i));
  close_slot(true, i);
}

// ---- inner -----------------------------------------------------------------------------------

void Node::insert_separator(std::string_view key, PageId right_child) {
  KESSAI_CHECK(room_for_separator(key.size()));
  KESSAI_DCHECK(!is_leaf() && covers(key));
  bool exact;
  const unsigned i = search<false>(key, exact);
  KESSAI_CHECK(!exact);
  const std::string_view suffix = truncated(key);
  const std::size_t bytes = inner_bytes(suffix.size());
  if (contiguous() < bytes + kInnerSlot) compact();
  unsigned off = 0;
  if (bytes != 0) {
    off = allocate(bytes);
    race::copy_in(w() + off, suffix.data() + 4, suffix.size() - 4);
  }
  const unsigned n = counted(false);
  open_slot(false, i);
  set_slot(false, i, suffix, off);
  put(child_at(n + 1, i), static_cast<std::uint32_t>(raw(right_child)));
  update_hints(n, i);
}

void Node::erase_separator(unsigned i) noexcept {
  KESSAI_DCHECK(!is_leaf() && i < count());
  const unsigned n = counted(false);
  release(slot(false, n, i).off, record_bytes(false, n, i));
  close_slot(false, i);
}

void Node::set_child(unsigned i, PageId child) noexcept {
  KESSAI_DCHECK(!is_leaf() && i <= count());
  put(i == 0 ? 88 : child_at(counted(false), i - 1), static_cast<std::uint32_t>(raw(child)));
}

void Node::make_root(PageId left, PageId right, std::string_view separator) {
  alignas(8) std::array<std::byte, kPageSize> buffer;
  std::string low, high;
  low_fence(low);
  const bool bounded = high_fence(high);
  Node root(buffer.data());
  root.format({.store_id = store_id(),
               .page = page_id(),
               .tree = tree_id(),
               .type = PageType::inner,
               .level = level() + 1,
               .low = low,
               .high = bounded ? std::optional<std::string_view>(high) : std::nullopt,
               .first_child = left});
  root.set_page_lsn(page_lsn());
  root.raise_max_ts(max_ts());
  root.insert_separator(separator, right);
  race::copy_in(w(), buffer.data(), kPageSize);
}

}  // namespace kessai::btree
