// SPDX-License-Identifier: Apache-2.0
#include "btree/page_map.hpp"

#include <cstring>

#include "btree/page_header.hpp"
#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::btree {
namespace {
constexpr std::uint64_t chunks_for(std::uint64_t n) { return (n + kMapFanout - 1) / kMapFanout; }
}  // namespace

MapEntry PageMap::live(PageId p) const noexcept {
  if (raw(p) >= next_page_) return {};
  return (*chunks_[raw(p) / kMapFanout].live)[raw(p) % kMapFanout];
}

MapEntry PageMap::cut(PageId p) const noexcept {
  if (raw(p) >= cut_next_page_) return {};
  const Chunk& c = chunks_[raw(p) / kMapFanout];
  return (c.cut ? *c.cut : *c.live)[raw(p) % kMapFanout];
}

void PageMap::set_next_page(std::uint64_t n) {
  next_page_ = n;
  while (chunks_.size() < chunks_for(n)) {
    chunks_.push_back({std::make_unique<Entries>(), nullptr, true, false});
  }
}

void PageMap::set_live(PageId p, MapEntry e) {
  KESSAI_CHECK(raw(p) < next_page_);
  Chunk& c = chunk_of(p);
  if (frozen_ && !c.cut && !KESSAI_MUTANT(live_map_written))
    c.cut = std::make_unique<Entries>(*c.live);
  (*c.live)[raw(p) % kMapFanout] = e;
  c.dirty_live = true;
}

void PageMap::capture(PageId p, MapEntry e, bool also_live) {
  KESSAI_CHECK(frozen_ && raw(p) < cut_next_page_);
  Chunk& c = chunk_of(p);
  if (!also_live && !c.cut) c.cut = std::make_unique<Entries>(*c.live);
  if (c.cut) (*c.cut)[raw(p) % kMapFanout] = e;
  if (also_live) (*c.live)[raw(p) % kMapFanout] = e;
  c.dirty_cut = true;
}

void PageMap::freeze() {
  KESSAI_CHECK(!frozen_);
  frozen_ = true;
  cut_next_page_ = next_page_;
  for (Chunk& c : chunks_) {
    c.dirty_cut = c.dirty_live;
    c.dirty_live = false;
  }
  size_levels(chunks_.size());
}

void PageMap::thaw() {
  frozen_ = false;
  for (Chunk& c : chunks_) c.cut.reset();
}

unsigned PageMap::depth_for(std::uint64_t next_page) noexcept {
  unsigned depth = 1;
  for (std::uint64_t n = chunks_for(next_page); n > 1; n = chunks_for(n)) ++depth;
  return depth;
}

void PageMap::size_levels(std::uint64_t chunks) {
  std::uint64_t n = chunks;
  for (unsigned level = 0;; ++level, n = chunks_for(n)) {
    if (levels_.size() <= level) {
      levels_.emplace_back();
      upper_dirty_.emplace_back();
    }
    levels_[level].resize(n);
    // A chunk that never was on disk must be written even if no child changed.
    upper_dirty_[level].assign(n, false);
    if (level > 0) {
      for (std::uint64_t i = 0; i < n; ++i) upper_dirty_[level][i] = levels_[level][i].slot == 0;
    }
    if (n <= 1) return;
  }
}

unsigned PageMap::cut_depth() const noexcept { return depth_for(cut_next_page_); }

std::vector<std::uint64_t> PageMap::dirty_chunks(unsigned level) const {
  std::vector<std::uint64_t> out;
  const std::uint64_t n = levels_[level].size();
  for (std::uint64_t i = 0; i < n; ++i) {
    if (level == 0 ? chunks_[i].dirty_cut : static_cast<bool>(upper_dirty_[level][i]))
      out.push_back(i);
  }
  return out;
}

void PageMap::image(unsigned level, std::uint64_t index, wal::StoreId store,
                    std::span<std::byte, kPageSize> out) const {
  std::memset(out.data(), 0, kPageSize);
  PageHeader h;
  h.store = store.lo;
  h.page = index;
  h.type = PageType::map;
  h.level = static_cast<std::uint8_t>(level);
  write_header(out.data(), h);
  std::byte* at = out.data() + kPageHeaderBytes;
  if (level == 0) {
    const Chunk& c = chunks_[index];
    const Entries& e = c.cut ? *c.cut : *c.live;
    std::memcpy(at, e.data(), sizeof e);
  } else {
    const auto& below = levels_[level - 1];
    const std::size_t from = index * kMapFanout;
    const std::size_t n = std::min(kMapFanout, below.size() - from);
    std::memcpy(at, below.data() + from, n * sizeof(MapEntry));
  }
}

Slot PageMap::wrote(unsigned level, std::uint64_t index, MapEntry e) {
  const Slot old = levels_[level][index].slot;
  levels_[level][index] = e;
  if (level == 0) {
    chunks_[index].dirty_cut = false;
  } else {
    upper_dirty_[level][index] = false;
  }
  if (level + 1 < cut_depth()) upper_dirty_[level + 1][index / kMapFanout] = true;
  return old;
}

MapEntry PageMap::root() const noexcept { return levels_[cut_depth() - 1][0]; }

std::uint64_t PageMap::chunk_bound() const noexcept {
  std::uint64_t bound = 2;
  for (std::uint64_t n = chunks_.size(); n > 1; n = chunks_for(n)) bound += n;
  return bound;
}

void PageMap::each_slot(const std::function<void(Slot)>& fn) const {
  for (const auto& level : levels_) {
    for (const MapEntry& e : level) {
      if (e.slot != 0) fn(e.slot);
    }
  }
  for (std::uint64_t p = 1; p < next_page_; ++p) {
    if (const Slot s = live(PageId{p}).slot; s != 0) fn(s);
  }
}

void PageMap::begin_load(std::uint64_t next_page, unsigned depth, MapEntry root) {
  chunks_.clear();
  levels_.clear();
  upper_dirty_.clear();
  next_page_ = cut_next_page_ = next_page;
  for (std::uint64_t i = 0; i < chunks_for(next_page); ++i) {
    chunks_.push_back({std::make_unique<Entries>(), nullptr, false, false});
  }
  size_levels(chunks_.size());
  levels_[depth - 1][0] = root;
}

std::span<const MapEntry> PageMap::chunk_entries(unsigned level) const { return levels_[level]; }

void PageMap::load_chunk(unsigned level, std::uint64_t index, const std::byte* image) {
  const std::byte* at = image + kPageHeaderBytes;
  if (level == 0) {
    std::memcpy(chunks_[index].live->data(), at, sizeof(Entries));
  } else {
    auto& below = levels_[level - 1];
    const std::size_t from = index * kMapFanout;
    std::memcpy(below.data() + from, at,
                std::min(kMapFanout, below.size() - from) * sizeof(MapEntry));
  }
}

}  // namespace kessai::btree
