// SPDX-License-Identifier: Apache-2.0
// B+tree nodes: one slotted page with prefix truncation, 4-byte key heads, hints and fence keys
// (after Leis et al., "B-Trees Are Back", SIGMOD'25, and LeanStore).
//
//   NodeView   reads a page that may change under it: every offset is range-checked, every loop is
//              bounded, and the result is nonsense at worst (I10). The caller re-validates its
//              version before it believes anything. Works on private copies just as well.
//   Node       additionally changes the page. The holder of the exclusive latch, or the owner of a
//              private buffer, on a page whose content is valid (verify() after every disk read).
//
// Byte layout, little-endian; bytes 0..63 are common to all pages:
//     0 u64 store id | 8 u64 page id | 16 u64 page LSN | 24 u8 type | 25 u8 level | 26 u16 flags |
//    28 u32 tree id | 32..63 reserved (zero)
//    64 u64 max_ts: no record here is newer | 72 u16 count, heap_begin, garbage bytes, prefix_len |
//    80 u16 low_off, low_len, high_off, high_len (0xffff: +infinity) | 88 u32 first_child | u32 0 |
//    96 hints, 16 x u32 | 160 slot arrays growing up ... free ... heap growing down to 4096
//   leaf arrays   u32 heads[count], {u16 off, u16 klen}[count]
//   inner arrays  u32 heads[count], u32 children[count], {u16 off, u16 klen}[count]
//   leaf record   at off: u64 tag | u16 klen | u16 vlen | key | value
//   inner record  at off: the separator's bytes after the fourth; none when klen <= 4
//   fence record  at low_off / high_off: the full key
// Every heap record starts and ends on 8 bytes (padding included), so bulk copies are whole words;
// bytes 4.. of every key are 8-aligned as well, so keys compare by words.
//
// Keys: 0..1024 bytes of anything, ordered by memcmp, shorter first. Keys of a node lie in
// [low, high). The common prefix of low and high (none while high is infinite) is stored once;
// `klen` and the bytes above are what remains of a key. A head is its first four bytes, big-endian,
// zero padded. Child i covers [separator i-1, separator i): a key equal to a separator goes right.
//
// Threads: no state of its own. Locks: the page's latch, held by the caller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "btree/race.hpp"
#include "io/types.hpp"

namespace kessai::btree {

class Node;
class LeafSplit;

enum class PageType : std::uint8_t {
  free = 0,
  leaf = 1,
  inner = 2,
  overflow = 3,
  roots = 4,
  map = 5
};

// ---- record tags ---------------------------------------------------------------------------

inline constexpr std::uint8_t kGhost = 1;     ///< deleted; kept until the horizon passes it
inline constexpr std::uint8_t kOverflow = 2;  ///< the inline value is an OverflowRef

constexpr std::uint64_t make_tag(Lsn lsn, std::uint8_t flags) noexcept { return lsn << 8 | flags; }
constexpr Lsn tag_lsn(std::uint64_t tag) noexcept { return tag >> 8; }
constexpr bool is_ghost(std::uint64_t tag) noexcept { return (tag & kGhost) != 0; }
constexpr bool is_overflow(std::uint64_t tag) noexcept { return (tag & kOverflow) != 0; }

/// The inline value of a record whose value lives in overflow pages.
struct OverflowRef {
  std::uint32_t length = 0;
  std::uint32_t first_page = 0;
};
static_assert(sizeof(OverflowRef) == 8);

// ---- sizes ---------------------------------------------------------------------------------

inline constexpr std::size_t kMaxKey = 1024;
inline constexpr std::size_t kNodeHeader = 160;
inline constexpr std::size_t kNodeUsable = kPageSize - kNodeHeader;
inline constexpr unsigned kHints = 16;
inline constexpr std::size_t kLeafSlot = 8;    ///< head, off, klen
inline constexpr std::size_t kInnerSlot = 12;  ///< head, child, off, klen
inline constexpr std::size_t kRecordHeader = 12;
inline constexpr std::size_t kMaxLeafCount = kNodeUsable / (kLeafSlot + 16);  // smallest record: 16
inline constexpr std::size_t kMaxInnerCount = kNodeUsable / kInnerSlot;
inline constexpr std::size_t kMaxLevel = 16;

constexpr std::size_t pad8(std::size_t n) noexcept { return (n + 7) & ~std::size_t{7}; }

/// Room for the longest key beside a 16-byte reference; the same bound serves inline values.
inline constexpr std::size_t kMaxInlineRecord = pad8(kRecordHeader + kMaxKey + 16);

/// False: the value goes to overflow pages and the record carries an OverflowRef.
constexpr bool fits_inline(std::size_t klen, std::size_t vlen) noexcept {
  return kRecordHeader + klen + vlen <= kMaxInlineRecord;
}
static_assert(fits_inline(kMaxKey, sizeof(OverflowRef)));

// A page holds the largest record, or the longest separator, beside the longest fences.
static_assert(2 * kMaxKey + kMaxInlineRecord + kLeafSlot <= kNodeUsable);
static_assert(2 * kMaxKey + pad8(kMaxKey - 4) + kInnerSlot <= kNodeUsable);

// ---- splits --------------------------------------------------------------------------------

/// Where to cut a node. The left half is [low, separator), the right half [separator, high).
///
/// With 1 KiB keys that share long prefixes no single cut may do: the new fence costs up to 1 KiB
/// on both sides. Then `fits` is false, the cut is good for what the node holds now and puts as
/// little as possible beside the newcomer; cutting that half once more always suffices. So:
///     while (!room) split;        // at most kMaxSplits rounds per node and change
/// Proof: an insert has no fitting cut only if the node uses more than 2 U - 2 K - 2 R bytes
/// (U usable, K longest key = fence, R largest record with its slot), by adding the inequalities of
/// the last cut whose left half fits and the next one; and the fallback leaves at most
/// (U + 3 K) / 2 bytes, fences included, in the newcomer's half (the static_assert below).
struct SplitPoint {
  unsigned left_count = 0;  ///< existing records (leaf) or separators (inner) that stay left
  std::string separator;    ///< inner: separator `left_count`, which moves up to the parent
  bool fits = true;         ///< the newcomer fits in its half (left iff key < separator)
};
inline constexpr unsigned kMaxSplits = 2;
static_assert((kNodeUsable + 3 * kMaxKey) / 2 <
              2 * kNodeUsable - 2 * kMaxKey - 2 * (kMaxInlineRecord + kLeafSlot));

/// What a leaf split makes room for.
enum class LeafChange : std::uint8_t {
  insert,   ///< a new record before `slot`
  append,   ///< the same, at the end of the rightmost leaf: keep the left half full
  replace,  ///< a longer value for the record in `slot` (update_leaf said false)
};

// ---- reading -------------------------------------------------------------------------------

/// A leaf record as found by leaf_at: where its value is, not the value.
struct LeafHit {
  std::uint64_t tag = 0;
  std::uint16_t vlen = 0;
  std::uint16_t voff = 0;
  std::uint16_t klen = 0;  ///< truncated key; its bytes end at voff
};

class NodeView {
 public:
  explicit NodeView(const std::byte* page) noexcept : p_(page) {}
  [[nodiscard]] const std::byte* bytes() const noexcept { return p_; }

  // The common header.
  [[nodiscard]] std::uint64_t store_id() const noexcept { return u64(0); }
  [[nodiscard]] PageId page_id() const noexcept { return PageId{u64(8)}; }
  [[nodiscard]] Lsn page_lsn() const noexcept { return u64(16); }
  [[nodiscard]] PageType type() const noexcept {
    return PageType{race::load<std::uint8_t>(p_ + 24)};
  }
  [[nodiscard]] unsigned level() const noexcept { return race::load<std::uint8_t>(p_ + 25); }
  [[nodiscard]] TreeId tree_id() const noexcept {
    return TreeId{race::load<std::uint32_t>(p_ + 28)};
  }

  [[nodiscard]] bool is_leaf() const noexcept { return type() == PageType::leaf; }
  [[nodiscard]] Lsn max_ts() const noexcept { return u64(64); }
  /// Records of a leaf, separators of an inner node (it has one child more). Never more than a
  /// page of that type can hold.
  [[nodiscard]] unsigned count() const noexcept { return counted(is_leaf()); }

  /// Leaf: the first slot whose key is >= `key`; `exact` when equal. The key must be covered.
  [[nodiscard]] unsigned lower_bound(std::string_view key, bool& exact) const noexcept;
  /// Inner: the child (0..count) whose range holds `key`. The key must be covered.
  [[nodiscard]] unsigned child_index(std::string_view key) const noexcept;
  /// Child `i` of an inner node, i in 0..count; kNoPage when out of range.
  [[nodiscard]] PageId child(unsigned i) const noexcept;
  /// Inner: full separator `i`, which is the low fence of child i+1.
  void copy_separator(unsigned i, std::string& out) const;

  /// The record in `slot`; false when there is none (or the page is changing).
  [[nodiscard]] bool leaf_at(unsigned slot, LeafHit& hit) const noexcept;
  void copy_value(const LeafHit& hit, std::string& out) const;
  void copy_value(const LeafHit& hit, char* dst) const noexcept;  ///< dst holds hit.vlen bytes
  /// The full key of `slot`.
  void copy_key(unsigned slot, std::string& out) const;

  void low_fence(std::string& out) const;
  [[nodiscard]] bool has_high_fence() const noexcept { return u16(86) != kInfinite; }
  /// False (and `out` empty) when the node has no upper end.
  bool high_fence(std::string& out) const;
  /// low <= key < high.
  [[nodiscard]] bool covers(std::string_view key) const noexcept;

  /// Where the record heap starts, within the page.
  [[nodiscard]] unsigned heap_begin() const noexcept { return u16(74) & (kPageSize - 1); }
  /// Copies what a leaf uses (header, slots, heap) into a private page buffer.
  void copy_leaf(std::byte* out) const noexcept;
  /// Bytes truncated from every key of this node; the first of low_fence().
  [[nodiscard]] std::size_t prefix_length() const noexcept { return u16(78); }

  /// Interleaved descents: fetch what a search reads first (header, hints, first heads) ...
  void prefetch() const noexcept;
  /// ... and, once that has arrived, the record that a search for `key` will compare.
  void prefetch_match(std::string_view key) const noexcept;

  /// Whether a record or separator of a full key length fits, compacting if need be.
  [[nodiscard]] bool room_for_leaf(std::size_t klen, std::size_t vlen) const noexcept;
  [[nodiscard]] bool room_for_separator(std::size_t klen) const noexcept;
  /// Bytes in use after the header, fences included; of usable_bytes().
  [[nodiscard]] std::size_t live_bytes() const noexcept;
  [[nodiscard]] static constexpr std::size_t usable_bytes() noexcept { return kNodeUsable; }

  // The rest reads a page that does not change: exclusive or shared latch, or a private copy.

  /// `vlen` is the inline length. `slot` as lower_bound said.
  [[nodiscard]] SplitPoint plan_leaf_split(std::string_view key, std::size_t vlen, unsigned slot,
                                           LeafChange change) const;
  /// A rightmost node that grows at its end keeps its left half full.
  [[nodiscard]] SplitPoint plan_inner_split(std::string_view new_separator) const;
  /// Writes both halves into private page buffers (8-byte aligned). They inherit store, tree,
  /// level, page LSN and max_ts. Split in place: `left_id` = page_id(), then race::copy_in.
  void split_to(std::byte* left, PageId left_id, std::byte* right, PageId right_id,
                const SplitPoint& at) const;

  /// live_bytes() of `left` and its right neighbour in one node (may exceed usable_bytes()).
  [[nodiscard]] static std::size_t merged_bytes(NodeView left, NodeView right);
  /// Writes the union into a private page buffer, as page `id`; max of page LSN and max_ts.
  static void merge_to(std::byte* out, PageId id, NodeView left, NodeView right);

  /// Structural check of an untrusted page that does not change, in time linear in its content:
  /// identity, type, counts, offsets, overlap, order of keys, fences, heads, hints, heap
  /// accounting, tags against max_ts. On false `what` says what is wrong.
  [[nodiscard]] bool verify(std::uint64_t store_id, PageId page_id, std::string& what) const;

 protected:
  friend class Node;
  friend class LeafSplit;
  static constexpr std::uint16_t kInfinite = 0xffff;

  struct Range {  // a byte range inside the page, whatever the page says
    unsigned off = 0, len = 0;
  };
  struct Slot {
    unsigned off = 0, klen = 0;
  };

  [[nodiscard]] std::uint16_t u16(unsigned at) const noexcept {
    return race::load<std::uint16_t>(p_ + at);
  }
  [[nodiscard]] std::uint32_t u32(unsigned at) const noexcept {
    return race::load<std::uint32_t>(p_ + at);
  }
  [[nodiscard]] std::uint64_t u64(unsigned at) const noexcept {
    return race::load<std::uint64_t>(p_ + at);
  }

  /// Clips to the page; offsets become aligned. A no-op on valid pages.
  [[nodiscard]] static Range clip(unsigned off, unsigned len) noexcept {
    off &= kPageSize - 8;
    return {off, len <= kPageSize - off ? len : static_cast<unsigned>(kPageSize - off)};
  }
  [[nodiscard]] Range low() const noexcept { return clip(u16(80), u16(82)); }
  [[nodiscard]] Range high() const noexcept { return clip(u16(84), u16(86)); }
  [[nodiscard]] std::string_view truncated(std::string_view key) const noexcept {
    const std::size_t p = u16(78);
    return p <= key.size() ? key.substr(p) : std::string_view{};
  }
  /// count() for a page taken to be a leaf or an inner node.
  [[nodiscard]] unsigned counted(bool leaf) const noexcept {
    const unsigned n = u16(72);
    const unsigned most = leaf ? kMaxLeafCount : kMaxInnerCount;
    return n < most ? n : most;
  }
  [[nodiscard]] static unsigned head_at(unsigned i) noexcept { return kNodeHeader + 4 * i; }
  [[nodiscard]] static unsigned child_at(unsigned count, unsigned i) noexcept {
    return kNodeHeader + 4 * count + 4 * i;
  }
  /// Offset of {off, klen} of slot i, given the (clamped) count.
  [[nodiscard]] static unsigned slot_at(bool leaf, unsigned count, unsigned i) noexcept {
    return static_cast<unsigned>(kNodeHeader) + (leaf ? 4 : 8) * count + 4 * i;
  }
  [[nodiscard]] Slot slot(bool leaf, unsigned count, unsigned i) const noexcept {
    const std::uint32_t w = u32(slot_at(leaf, count, i));
    return {w & static_cast<unsigned>(kPageSize - 8), w >> 16};
  }
  [[nodiscard]] std::size_t free_bytes() const noexcept;
  [[nodiscard]] std::size_t suffix_length(std::size_t klen) const noexcept;
  /// Heap bytes of slot i on a valid page.
  [[nodiscard]] std::size_t record_bytes(bool leaf, unsigned count, unsigned i) const noexcept;
  /// Into `out`, which holds kMaxKey bytes; returns the length.
  std::size_t copy_key(bool leaf, unsigned i, char* out) const noexcept;

  [[nodiscard]] unsigned search_heads(unsigned lo, unsigned hi, std::uint32_t head) const noexcept;
  [[nodiscard]] unsigned search_hinted(unsigned count, std::uint32_t head) const noexcept;
  template <bool kLeaf>
  [[nodiscard]] int compare_slot(unsigned count, unsigned i, std::string_view key) const noexcept;
  template <bool kLeaf>
  [[nodiscard]] unsigned search(std::string_view key, bool& exact) const noexcept;

  const std::byte* p_;
};

// ---- changing ------------------------------------------------------------------------------

struct NodeFormat {
  std::uint64_t store_id = 0;
  PageId page{};
  TreeId tree{};
  PageType type = PageType::leaf;
  unsigned level = 0;
  std::string_view low;  ///< fences must not point into the page
  std::optional<std::string_view> high;
  PageId first_child = kNoPage;
};

class Node : public NodeView {
 public:
  explicit Node(std::byte* page) noexcept : NodeView(page) {}

  /// An empty node; page LSN and max_ts 0.
  void format(const NodeFormat& f) noexcept;
  void set_page_lsn(Lsn lsn) noexcept { put<std::uint64_t>(16, lsn); }
  void raise_max_ts(Lsn lsn) noexcept {
    if (lsn > max_ts()) put<std::uint64_t>(64, lsn);
  }

  /// Precondition: room_for_leaf. Compacts if need be. Does not touch max_ts.
  void insert_leaf(unsigned slot, std::string_view key, std::uint64_t tag, std::string_view value);
  /// False, with nothing changed, when the new value does not fit even after compaction.
  [[nodiscard]] bool update_leaf(unsigned slot, std::uint64_t tag, std::string_view value);
  void set_tag(unsigned slot, std::uint64_t tag) noexcept;
  void erase_leaf(unsigned slot) noexcept;

  /// Precondition: room_for_separator, and the separator is not in the node yet.
  void insert_separator(std::string_view key, PageId right_child);
  /// Removes separator `i` and the child to its right (child i+1).
  void erase_separator(unsigned i) noexcept;
  void set_child(unsigned i, PageId child) noexcept;
  /// After a root split: this page keeps its id and fences and becomes the parent of two halves.
  void make_root(PageId left, PageId right, std::string_view separator);

  void compact();

 private:
  [[nodiscard]] std::byte* w() noexcept {
    return const_cast<std::byte*>(p_);
  }  // built from non-const
  template <class T>
  void put(unsigned at, T v) noexcept {
    race::store<T>(w() + at, v);
  }

  friend class NodeView;
  [[nodiscard]] std::size_t contiguous() const noexcept;
  unsigned allocate(std::size_t bytes) noexcept;
  void release(unsigned off, std::size_t bytes) noexcept;
  void compact_without(unsigned dropped);
  void open_slot(bool leaf, unsigned i) noexcept;
  void close_slot(bool leaf, unsigned i) noexcept;
  void set_slot(bool leaf, unsigned i, std::string_view suffix, unsigned off) noexcept;
  void update_hints(unsigned old_count, unsigned from) noexcept;
  void write_record(unsigned off, std::string_view suffix, std::uint64_t tag,
                    std::string_view value) noexcept;
  void write_value(unsigned off, std::size_t klen, std::uint64_t tag,
                   std::string_view value) noexcept;
  void append_from(NodeView source, unsigned begin, unsigned end);
};

}  // namespace kessai::btree
