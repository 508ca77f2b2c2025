// SPDX-License-Identifier: Apache-2.0
#include "engine/replay_window.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "btree/node.hpp"
#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::engine {
namespace {

struct Header {
  Lsn lsn = 0;
  std::uint32_t value_bytes = 0;  ///< long values: index into long_values_
  std::uint16_t key_bytes = 0;
  bool remove = false, is_long = false;
};
static_assert(sizeof(Header) == 16);
static_assert(sizeof(Header) + btree::kMaxInlineRecord <= kPageSize);

constexpr std::size_t kUnit = 8;  // operations start at multiples of it
constexpr std::size_t kUnits = kPageSize / kUnit;

std::uint64_t word_at(std::string_view key, std::size_t depth) {
  std::uint64_t w = 0;
  if (key.size() > depth)
    std::memcpy(&w, key.data() + depth, std::min<std::size_t>(sizeof w, key.size() - depth));
  static_assert(std::endian::native == std::endian::little);
  return __builtin_bswap64(w);
}

}  // namespace

ReplayWindow::~ReplayWindow() {
  for (const auto f : frames_) pool_->return_frame(f);
}

void ReplayWindow::clear() noexcept {
  next_frame_ = room_ = 0;
  bytes_ = long_bytes_ = 0;
  sorted_ = false;
  entries_.clear();
  long_values_.clear();
  trees_.clear();
  index_.clear();
}

std::byte* ReplayWindow::place(std::uint32_t at) const noexcept {
  return pool_->frame_data(frames_[at / kUnits]) + at % kUnits * kUnit;
}

Result<std::byte*> ReplayWindow::allocate(std::size_t bytes, std::uint32_t& at) {
  if (bytes > room_) {
    if (next_frame_ == frames_.size()) {
      KESSAI_ASSIGN(f, pool_->take_frame());
      frames_.push_back(f);
    }
    ++next_frame_;
    room_ = kPageSize;
  }
  const std::uint64_t unit = next_frame_ * kUnits - room_ / kUnit;
  KESSAI_CHECK(unit <= std::numeric_limits<std::uint32_t>::max());
  at = static_cast<std::uint32_t>(unit);
  room_ -= bytes;
  return place(at);
}

std::uint16_t ReplayWindow::index_of(TreeId tree) {
  if (!entries_.empty() && trees_[entries_.back().tree] == tree) return entries_.back().tree;
  const auto [it, fresh] = index_.try_emplace(raw(tree), static_cast<std::uint16_t>(trees_.size()));
  if (fresh) trees_.push_back(tree);
  return it->second;
}

Result<bool> ReplayWindow::add(const wal::Op& op, Lsn lsn) {
  if (op.key.size() > btree::kMaxKey)
    return fail(Code::log_damaged, "a log record holds a key longer than keys can be");
  Header h{.lsn = lsn,
           .value_bytes = static_cast<std::uint32_t>(op.value.size()),
           .key_bytes = static_cast<std::uint16_t>(op.key.size()),
           .remove = op.kind == wal::OpKind::remove,
           .is_long = !btree::fits_inline(op.key.size(), op.value.size())};
  const std::size_t in_line = h.is_long ? 0 : op.value.size();
  const std::size_t bytes = (sizeof h + op.key.size() + in_line + kUnit - 1) / kUnit * kUnit;
  if (!empty() && (bytes_ + bytes > limit_ || entries_.size() == kMostOps ||
                   trees_.size() == std::numeric_limits<std::uint16_t>::max() ||
                   (h.is_long && long_bytes_ + op.value.size() > std::min(limit_, kMostLong))))
    return false;
  // Address space only, until it is used; growing would copy and leave holes.
  if (entries_.capacity() == 0) entries_.reserve(std::min<std::size_t>(kMostOps, limit_ / 32));
  Entry e{.tree = index_of(op.tree), .key_bytes = h.key_bytes};
  auto into = allocate(bytes, e.at);
  if (!into && !empty()) return false;
  if (!into) return std::unexpected(into.error());
  if (h.is_long) {
    h.value_bytes = static_cast<std::uint32_t>(long_values_.size());
    long_values_.emplace_back(op.value);
    long_bytes_ += op.value.size();
  }
  std::memcpy(*into, &h, sizeof h);
  std::memcpy(*into + sizeof h, op.key.data(), op.key.size());
  if (in_line > 0) std::memcpy(*into + sizeof h + op.key.size(), op.value.data(), in_line);
  bytes_ += bytes;
  entries_.push_back(e);
  return true;
}

std::string_view ReplayWindow::key(const Entry& e) const noexcept {
  return {reinterpret_cast<const char*>(place(e.at)) + sizeof(Header), e.key_bytes};
}

ReplayWindow::Change ReplayWindow::change(const Entry& e) const noexcept {
  Header h;
  std::memcpy(&h, place(e.at), sizeof h);
  Change c{.key = key(e), .value = {}, .lsn = h.lsn, .remove = h.remove};
  c.value = h.is_long ? std::string_view(long_values_[h.value_bytes])
                      : std::string_view(c.key.data() + c.key.size(), h.value_bytes);
  return c;
}

/// Sorts entries of one tree whose keys agree in their first `depth` bytes. Eight bytes of each key
/// at a time, so that most comparisons stay within the entries.
void ReplayWindow::sort_from(std::span<Entry> entries, std::size_t depth) {
  for (Entry& e : entries) e.word = word_at(key(e), depth);
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return a.word != b.word ? a.word < b.word : a.at < b.at;
  });
  const std::size_t next = depth + sizeof(std::uint64_t);
  for (auto from = entries.begin(); from != entries.end();) {
    const auto to =
        std::find_if(from, entries.end(), [&](const Entry& e) { return e.word != from->word; });
    const bool same_length =
        std::all_of(from, to, [&](const Entry& e) { return e.key_bytes == from->key_bytes; });
    if (!same_length || from->key_bytes > next) {
      // Keys that end here come first, the shorter before the longer (zeros pad their words).
      const auto part = [&](const Entry& e) {
        return std::pair(std::min<std::size_t>(e.key_bytes, next + 1), e.at);
      };
      if (!same_length) std::ranges::sort(from, to, {}, part);
      const auto rest = std::find_if(from, to, [&](const Entry& e) { return e.key_bytes > next; });
      if (to - rest > 1) sort_from({rest, to}, next);
    }
    from = to;
  }
}

std::span<ReplayWindow::Entry> ReplayWindow::sorted() {
  if (std::exchange(sorted_, true)) return entries_;
  if (trees_.size() > 1)
    std::ranges::sort(entries_, {}, [](const Entry& e) { return std::pair(e.tree, e.at); });
  for (auto from = entries_.begin(); from != entries_.end();) {
    const auto to =
        std::find_if(from, entries_.end(), [&](const Entry& e) { return e.tree != from->tree; });
    sort_from({from, to}, 0);
    from = to;
  }
  std::size_t kept = 0;
  for (const Entry& e : entries_) {
    const bool again = kept > 0 && entries_[kept - 1].tree == e.tree &&
                       entries_[kept - 1].word == e.word && key(entries_[kept - 1]) == key(e);
    if (again && KESSAI_MUTANT(window_keeps_first)) continue;
    entries_[again ? kept - 1 : kept++] = e;
  }
  entries_.resize(kept);
  return entries_;
}

}  // namespace kessai::engine
