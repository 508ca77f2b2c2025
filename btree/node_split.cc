// SPDX-License-Identifier: Apache-2.0
// Splitting and merging: choosing a cut, and writing the resulting nodes into private buffers.
// The source pages do not change meanwhile, so plain reads of them are fine.
#include <algorithm>
#include <array>
#include <cstdlib>

#include "btree/node.hpp"
#include "btree/node_private.hpp"
#include "io/check.hpp"

namespace kessai::btree {

namespace {

std::string_view text(const std::byte* p, std::size_t n) noexcept {
  return {reinterpret_cast<const char*>(p), n};
}

/// Chooses among cuts: the shortest separator among those that balance well enough.
class Choice {
 public:
  explicit Choice(std::size_t total) noexcept : slack_(total / 6) {}

  void offer(unsigned cut, std::size_t imbalance, std::size_t separator) noexcept {
    // All that balance within the slack count as equal, further out balance decides.
    imbalance = std::max(imbalance, slack_);
    if (found_ && std::pair(imbalance_, separator_) <= std::pair(imbalance, separator)) return;
    found_ = true;
    cut_ = cut, imbalance_ = imbalance, separator_ = separator;
  }
  [[nodiscard]] bool found() const noexcept { return found_; }
  [[nodiscard]] unsigned cut() const noexcept { return cut_; }

 private:
  std::size_t slack_;
  bool found_ = false;
  unsigned cut_ = 0;
  std::size_t imbalance_ = 0, separator_ = 0;
};

std::size_t distance(std::size_t a, std::size_t b) noexcept { return a < b ? b - a : a - b; }

}  // namespace

// ---- leaf splits -----------------------------------------------------------------------------

// The sequence of records as it will be: items 0..items_-1, one of which is the newcomer. Cut j
// lies before item j. Sizes count today's prefix; the halves' can only be longer.
class LeafSplit {
 public:
  LeafSplit(NodeView node, std::string_view key, std::size_t vlen, unsigned slot, LeafChange change)
      : node_(node),
        key_(key),
        vlen_(vlen),
        slot_(slot),
        replace_(change == LeafChange::replace),
        n_(node.counted(true)),
        items_(replace_ ? n_ : n_ + 1) {
    KESSAI_CHECK(items_ >= 2);  // fewer never lack room
    low_ = pad8(node_.low().len);
    high_ = node_.has_high_fence() ? pad8(node_.high().len) : 0;
    for (unsigned j = 0; j < items_; ++j) {
      const bool mine = j == slot_;
      const std::size_t bytes = mine ? leaf_bytes(node_.suffix_length(key_.size()), vlen_)
                                     : node_.record_bytes(true, n_, old(j));
      before_[j + 1] = before_[j] + bytes + kLeafSlot;
    }
  }

  SplitPoint balanced() {
    const std::size_t total = before_[items_];
    Choice best(total);
    for (unsigned j = 1; j < items_; ++j) {
      const std::size_t length = separator(j).size();
      if (fits(j, length)) best.offer(j, distance(2 * before_[j], total), length);
    }
    return best.found() ? cut(best.cut(), true) : fallback();
  }

  // The new record is the last: as much as possible stays left. Where separators are full keys
  // anyway, even the newcomer stays if the left half, whose prefix is now known, has room.
  SplitPoint append() {
    if (slot_ != n_ || node_.has_high_fence()) return balanced();
    const std::string_view last_cut = separator(n_);
    if (key_.size() < kMaxKey && last_cut.size() + 2 >= key_.size() + 1) {
      std::string after(key_);
      after.push_back('\0');  // no key lies between
      if (left_bytes(items_, after) <= kNodeUsable) return {n_, std::move(after), true};
    }
    for (unsigned j = n_; j >= 1; --j) {
      const std::string_view s = separator(j);
      if (left_bytes(j, s) <= kNodeUsable && right_fits(j, s.size())) return cut(j, true);
    }
    return balanced();
  }

 private:
  [[nodiscard]] unsigned old(unsigned j) const noexcept {
    return replace_ || j < slot_ ? j : j - 1;
  }
  [[nodiscard]] unsigned left_count(unsigned j) const noexcept {
    return replace_ || j <= slot_ ? j : j - 1;
  }
  [[nodiscard]] bool fits(unsigned j, std::size_t separator) const noexcept {
    return low_ + pad8(separator) + before_[j] <= kNodeUsable && right_fits(j, separator);
  }
  [[nodiscard]] bool right_fits(unsigned j, std::size_t separator) const noexcept {
    return pad8(separator) + high_ + before_[items_] - before_[j] <= kNodeUsable;
  }

  std::string_view key_of(unsigned j, std::array<char, kMaxKey>& buffer) const {
    if (j == slot_ && !replace_) return key_;
    return {buffer.data(), node_.copy_key(true, old(j), buffer.data())};
  }
  /// Of cut j; valid until the next call.
  std::string_view separator(unsigned j) {
    return shortest_separator(key_of(j - 1, left_key_), key_of(j, right_key_));
  }
  SplitPoint cut(unsigned j, bool fits) { return {left_count(j), std::string(separator(j)), fits}; }

  /// Exact size of a left half of items [0, j), its own prefix included.
  [[nodiscard]] std::size_t left_bytes(unsigned j, std::string_view separator) const {
    const std::size_t prefix =
        common_prefix(text(node_.bytes() + node_.low().off, node_.low().len), separator);
    const std::size_t cut_off = prefix - node_.u16(78);
    std::size_t sum = low_ + pad8(separator.size()) + j * kLeafSlot;
    for (unsigned i = 0; i < j; ++i) {
      if (i == slot_) {
        sum += leaf_bytes(key_.size() - prefix, vlen_);
        continue;
      }
      const auto s = node_.slot(true, n_, old(i));
      sum += leaf_bytes(s.klen - cut_off, node_.u16(s.off + 10));
    }
    return sum;
  }

  // No cut makes room at once (see SplitPoint): the one that leaves least beside the newcomer.
  // (A record about to be replaced fits wherever the cut falls, as its neighbours are all present.)
  SplitPoint fallback() {
    const std::size_t mine = before_[slot_ + 1] - before_[slot_];
    std::size_t least = ~std::size_t{0};
    unsigned best = 0;
    for (unsigned j = 1; j < items_; ++j) {
      const std::size_t fence = pad8(separator(j).size());
      std::size_t left = low_ + fence + before_[j];
      std::size_t right = fence + high_ + before_[items_] - before_[j];
      std::size_t& half = slot_ < j ? left : right;
      half -= mine;
      if (left > kNodeUsable || right > kNodeUsable || half >= least) continue;
      least = half;
      best = j;
    }
    KESSAI_CHECK(best != 0);
    return cut(best, false);
  }

  NodeView node_;
  std::string_view key_;
  std::size_t vlen_;
  unsigned slot_;
  bool replace_;
  unsigned n_, items_;
  std::size_t low_ = 0, high_ = 0;  // fence bytes
  std::array<std::size_t, kMaxLeafCount + 2> before_{};
  std::array<char, kMaxKey> left_key_, right_key_;
};

SplitPoint NodeView::plan_leaf_split(std::string_view key, std::size_t vlen, unsigned slot,
                                     LeafChange change) const {
  LeafSplit split(*this, key, vlen, slot, change);
  return change == LeafChange::append ? split.append() : split.balanced();
}

// ---- inner splits ----------------------------------------------------------------------------

// Separator m moves up: its own bytes and slot leave the node, and it becomes a fence of both
// halves. The newcomer never moves up itself.
SplitPoint NodeView::plan_inner_split(std::string_view new_separator) const {
  const unsigned n = counted(false);
  KESSAI_CHECK(n >= 1);
  bool exact;
  const unsigned position = search<false>(new_separator, exact);
  const bool rightmost = position == n && !has_high_fence();
  const std::size_t mine = inner_bytes(suffix_length(new_separator.size())) + kInnerSlot;
  const std::size_t prefix = u16(78);
  const std::size_t low_bytes = pad8(low().len),
                    high_bytes = has_high_fence() ? pad8(high().len) : 0;
  std::size_t total = 0;
  for (unsigned m = 0; m < n; ++m) total += record_bytes(false, n, m) + kInnerSlot;

  Choice best(total);
  std::size_t left = 0, least = ~std::size_t{0};
  unsigned fallback = 0, last_fit = n;
  for (unsigned m = 0; m < n; ++m) {
    const std::size_t length = prefix + slot(false, n, m).klen;
    const std::size_t entry = record_bytes(false, n, m) + kInnerSlot;
    const std::size_t left_all = low_bytes + pad8(length) + left;
    const std::size_t right_all = pad8(length) + high_bytes + total - left - entry;
    const bool goes_left = position <= m;
    const std::size_t beside = goes_left ? left_all : right_all;
    if (beside < least) least = beside, fallback = m;
    if (beside + mine <= kNodeUsable) {
      const std::size_t l = left + (goes_left ? mine : 0),
                        r = total - left - entry + (goes_left ? 0 : mine);
      best.offer(m, distance(l, r), length);
      last_fit = m;
    }
    left += entry;
  }
  SplitPoint at;
  at.fits = best.found();
  at.left_count = !best.found() ? fallback : rightmost ? last_fit : best.cut();
  copy_separator(at.left_count, at.separator);
  return at;
}

// ---- writing the halves ----------------------------------------------------------------------

void NodeView::split_to(std::byte* left, PageId left_id, std::byte* right, PageId right_id,
                        const SplitPoint& at) const {
  const bool leaf = is_leaf();
  const unsigned n = counted(leaf);
  NodeFormat f{.store_id = store_id(),
               .page = left_id,
               .tree = tree_id(),
               .type = type(),
               .level = level(),
               .low = text(p_ + low().off, low().len),
               .high = at.separator,
               .first_child = leaf ? kNoPage : child(0)};
  Node l(left), r(right);
  l.format(f);
  l.append_from(*this, 0, at.left_count);

  f.page = right_id;
  f.low = at.separator;
  f.high.reset();
  if (has_high_fence()) f.high = text(p_ + high().off, high().len);
  f.first_child = leaf ? kNoPage : child(at.left_count + 1);
  r.format(f);
  r.append_from(*this, leaf ? at.left_count : at.left_count + 1, n);
  for (Node* half : {&l, &r}) {
    half->set_page_lsn(page_lsn());
    half->raise_max_ts(max_ts());
  }
}

// Appends source entries [begin, end), whose keys all follow the ones here. Private buffer only.
void Node::append_from(NodeView source, unsigned begin, unsigned end) {
  const bool leaf = is_leaf();
  const unsigned old = counted(leaf), n = old + (end - begin), from = source.counted(leaf);
  KESSAI_CHECK(n <= (leaf ? kMaxLeafCount : kMaxInnerCount));
  race::move_within(w(), slot_at(leaf, n, 0), slot_at(leaf, old, 0), 4 * std::size_t{old});
  if (!leaf) race::move_within(w(), child_at(n, 0), child_at(old, 0), 4 * std::size_t{old});
  put<std::uint16_t>(72, static_cast<std::uint16_t>(n));

  const bool same_prefix = u16(78) == source.u16(78);
  std::array<char, kMaxKey> buffer;
  for (unsigned i = begin, to = old; i < end; ++i, ++to) {
    const Slot s = source.slot(leaf, from, i);
    if (!leaf) put(child_at(n, to), source.u32(child_at(from, i)));
    if (same_prefix) {
      const std::size_t bytes = source.record_bytes(leaf, from, i);
      const unsigned off = bytes == 0 ? 0 : allocate(bytes);
      race::copy_in(w() + off, source.p_ + s.off, bytes);
      put(head_at(to), source.u32(head_at(i)));
      put(slot_at(leaf, n, to), off | s.klen << 16);
      continue;
    }
    const std::string_view key(buffer.data(), source.copy_key(leaf, i, buffer.data()));
    const std::string_view suffix = truncated(key);
    unsigned off = 0;
    if (leaf) {
      LeafHit hit;
      KESSAI_CHECK(source.leaf_at(i, hit));
      off = allocate(leaf_bytes(suffix.size(), hit.vlen));
      write_record(off, suffix, hit.tag, text(source.p_ + hit.voff, hit.vlen));
    } else if (const std::size_t bytes = inner_bytes(suffix.size()); bytes != 0) {
      off = allocate(bytes);
      race::copy_in(w() + off, suffix.data() + 4, suffix.size() - 4);
    }
    set_slot(leaf, to, suffix, off);
  }
  update_hints(0, 0);
}

// ---- merges ----------------------------------------------------------------------------------

std::size_t NodeView::merged_bytes(NodeView left, NodeView right) {
  const bool leaf = left.is_leaf();
  const Range low = left.low(), high = right.high(), middle = right.low();
  const bool bounded = right.has_high_fence();
  const std::size_t prefix =
      bounded ? common_prefix(text(left.p_ + low.off, low.len), text(right.p_ + high.off, high.len))
              : 0;
  std::size_t sum = pad8(low.len) + (bounded ? pad8(high.len) : 0);
  for (const NodeView node : {left, right}) {
    const unsigned n = node.counted(leaf);
    const std::size_t more = node.u16(78) - prefix;  // a wider range has the shorter prefix
    for (unsigned i = 0; i < n; ++i) {
      const Slot s = node.slot(leaf, n, i);
      sum += leaf ? leaf_bytes(s.klen + more, node.u16(s.off + 10)) + kLeafSlot
                  : inner_bytes(s.klen + more) + kInnerSlot;
    }
  }
  return leaf ? sum : sum + inner_bytes(middle.len - prefix) + kInnerSlot;
}

void NodeView::merge_to(std::byte* out, PageId id, NodeView left, NodeView right) {
  const bool leaf = left.is_leaf();
  const Range low = left.low(), high = right.high(), middle = right.low();
  NodeFormat f{.store_id = left.store_id(),
               .page = id,
               .tree = left.tree_id(),
               .type = left.type(),
               .level = left.level(),
               .low = text(left.p_ + low.off, low.len),
               .high = {},
               .first_child = leaf ? kNoPage : left.child(0)};
  if (right.has_high_fence()) f.high = text(right.p_ + high.off, high.len);
  Node node(out);
  node.format(f);
  node.append_from(left, 0, left.counted(leaf));
  if (!leaf) node.insert_separator(text(right.p_ + middle.off, middle.len), right.child(0));
  node.append_from(right, 0, right.counted(leaf));
  node.set_page_lsn(std::max(left.page_lsn(), right.page_lsn()));
  node.raise_max_ts(std::max(left.max_ts(), right.max_ts()));
}

}  // namespace kessai::btree
