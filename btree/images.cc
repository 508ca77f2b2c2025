// SPDX-License-Identifier: Apache-2.0
// Page images: reading and verifying them, and the way from a dirty page to an entry in the map.
#include <algorithm>
#include <cstring>

#include "btree/page_header.hpp"
#include "btree/page_store.hpp"
#include "btree/race.hpp"
#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::btree {
namespace {
constexpr unsigned kBatch = 64;
constexpr unsigned kMaxShadows = 512;  // 2 MiB
}  // namespace

// ---- reading ---------------------------------------------------------------------------------

Error PageStore::damage(Slot slot, PageId page, std::string what) const {
  ErrorDetail d;
  d.what = std::move(what);
  d.path = file_->path();
  d.offset = slot_offset(slot);
  d.page = raw(page);
  return Error(Code::damaged, std::move(d));
}

Result<void> PageStore::verify_image(PageId p, const MapEntry& e, const std::byte* page) const {
  if (hash_page(page) != e.hash && !KESSAI_MUTANT(page_hash_ignored)) {
    Error wrong =
        damage(e.slot, p, "the page is not the one that was written here (hash mismatch)");
    // A failed flush can take back what was written: recovery has it, nothing is damaged yet.
    if (poisoned_.load(std::memory_order_acquire)) wrong = Error(Code::poisoned, wrong.detail());
    return std::unexpected(std::move(wrong));
  }
  const PageHeader h = read_header(page);
  if (h.page != raw(p) || h.store != id_.lo) {
    return std::unexpected(
        damage(e.slot, p, "the page header names page " + std::to_string(h.page)));
  }
  if (h.type == PageType::leaf || h.type == PageType::inner) {
    std::string what;
    if (!NodeView(page).verify(id_.lo, p, what)) return std::unexpected(damage(e.slot, p, what));
  }
  return {};
}

Result<std::unique_ptr<io::Queue>> PageStore::take_queue() {
  {
    io::MutexLock lock(queue_mutex_);
    if (!queues_.empty()) {
      auto q = std::move(queues_.back());
      queues_.pop_back();
      return q;
    }
  }
  return env_->directory->make_queue(kBatch);
}

void PageStore::return_queue(std::unique_ptr<io::Queue> q) {
  io::MutexLock lock(queue_mutex_);
  queues_.push_back(std::move(q));
}

void PageStore::read_pages(std::span<Read> reads) {
  KESSAI_CHECK(reads.size() <= kBatch);
  MapEntry entries[kBatch];
  {
    io::MutexLock lock(map_mutex_);
    for (std::size_t i = 0; i < reads.size(); ++i) entries[i] = map_.live(reads[i].page);
  }
  std::size_t wanted = 0;
  for (std::size_t i = 0; i < reads.size(); ++i) {
    if (entries[i].slot == 0) {
      reads[i].result = fail(Code::not_found);
    } else {
      ++wanted;
    }
  }
  if (wanted == 1) {
    for (std::size_t i = 0; i < reads.size(); ++i) {
      if (entries[i].slot != 0) {
        reads[i].result = file_->read(slot_offset(entries[i].slot), {reads[i].into, kPageSize});
      }
    }
  } else if (wanted > 1) {
    auto q = take_queue();
    std::vector<io::Queue::Completion> done;
    for (std::size_t i = 0; i < reads.size(); ++i) {
      if (entries[i].slot == 0) continue;
      if (!q) {
        reads[i].result = std::unexpected(q.error());
      } else {
        (*q)->read(*file_, slot_offset(entries[i].slot), {reads[i].into, kPageSize}, i);
      }
    }
    if (q) {
      while ((*q)->in_flight() > 0) (*q)->reap(done, 1);
      for (auto& c : done) reads[c.tag].result = std::move(c.result);
      return_queue(std::move(*q));
    }
  }
  for (std::size_t i = 0; i < reads.size(); ++i) {
    if (entries[i].slot != 0 && reads[i].result) {
      reads[i].result = verify_image(reads[i].page, entries[i], reads[i].into);
    }
  }
}

// ---- dirtying --------------------------------------------------------------------------------

bool PageStore::enough(const Shadows& shadows, std::size_t n) const noexcept {
  return building_.load(std::memory_order_seq_cst) == 0 || shadows.size() >= n;
}

bool PageStore::touch(Pool::Exclusive& x, Shadows& shadows) {
  Pool::Frame& f = x.frame();
  for (;;) {
    // epoch_ before building_: see the member comment. A page in epoch c+1 implies building_ == c
    // (or that checkpoint is complete), so an old-epoch page is never missed.
    const std::uint64_t epoch = epoch_.load(std::memory_order_seq_cst);
    const std::uint64_t building = building_.load(std::memory_order_seq_cst);
    const std::uint64_t dirty = f.dirty_epoch.load(std::memory_order_relaxed);
    const std::uint64_t now = std::max(epoch, building + 1);
    if (dirty == now) return true;
    if (dirty != 0 && dirty <= building && !KESSAI_MUTANT(modify_without_capture)) {
      if (shadows.held_.empty()) return false;
      capture(x, dirty, shadows);
    } else if (dirty == 0) {
      owed_.fetch_add(1, std::memory_order_relaxed);
    }
    // A cut may have come between the look at epoch_ and this store; its sweep may have passed this
    // frame while it still looked clean. Both sides store, then look (seq_cst): either the sweep
    // sees the mark and waits for our latch, or we see the new epoch and go round again.
    f.dirty_epoch.store(now, std::memory_order_seq_cst);
    if (epoch_.load(std::memory_order_seq_cst) == epoch) return true;
  }
}

void PageStore::capture(Pool::Exclusive& x, std::uint64_t epoch, Shadows& shadows) {
  Image image;
  image.page = x.page();
  image.epoch = epoch;
  image.frame = x.frame_id();
  image.shadow = std::move(shadows.held_.back());
  shadows.held_.pop_back();
  std::memcpy(image.shadow.data(), x.data(), kPageSize);
  x.frame().writing.fetch_add(1, std::memory_order_relaxed);
  owed_.fetch_add(1, std::memory_order_relaxed);  // the page itself stays owed
  io::MutexLock lock(queue_mutex_);
  captures_.push_back(std::move(image));
}

Result<PageId> PageStore::allocate() {
  io::MutexLock lock(map_mutex_);
  PageId p{};
  if (!free_pages_.empty()) {
    p = free_pages_.back();
    free_pages_.pop_back();
  } else {
    const std::uint64_t next = map_.next_page();
    KESSAI_TRY(pool_->cover(next + 1));
    map_.set_next_page(next + 1);
    p = PageId{next};
  }
  ++used_pages_;
  return p;
}

void PageStore::unallocate(PageId p) {
  io::MutexLock lock(map_mutex_);
  free_pages_.push_back(p);
  --used_pages_;
}

void PageStore::free(Pool::Exclusive&& x, Shadows& shadows) {
  const PageId page = x.page();
  const FrameId frame = x.frame_id();
  Pool::Frame& f = x.frame();
  const std::uint64_t dirty = f.dirty_epoch.load(std::memory_order_relaxed);
  const std::uint64_t building = building_.load(std::memory_order_seq_cst);
  // A page of the cut that is not written yet is captured; any other dirty one is just forgotten.
  const bool of_cut = dirty != 0 && dirty <= building && !KESSAI_MUTANT(free_drops_dirty);
  if (of_cut) KESSAI_CHECK(touch(x, shadows));
  if (dirty != 0) owed_.fetch_sub(1, std::memory_order_relaxed);
  const std::uint64_t now = epoch_.load(std::memory_order_relaxed);  // the gate keeps it
  {
    io::MutexLock lock(queue_mutex_);
    for (Image& i : captures_) {
      if (i.page == page && i.frame == frame) {
        i.frame = kNoFrame;
        i.freed = now;
      }
    }
  }
  {
    io::MutexLock lock(map_mutex_);
    if (const auto it = in_flight_.find(raw(page)); it != in_flight_.end()) {
      it->second.frame = kNoFrame;
      // An earlier incarnation's image, freed before, keeps its own date.
      if (it->second.freed == 0) it->second.freed = now;
    }
    if (const Slot old = map_.live(page).slot; old != 0) space_->drop(old, now);
    map_.set_live(page, {});
    free_pages_.push_back(page);
    --used_pages_;
  }
  f.writing.store(0, std::memory_order_relaxed);
  pool_->discard(std::move(x));
}

// ---- space -----------------------------------------------------------------------------------

Result<void> PageStore::claim(std::uint64_t pages, bool urgent) {
  io::MutexLock lock(map_mutex_);
  if (options_.read_only) {  // recovery in memory: nothing will be written
    claims_ += pages;
    return {};
  }
  // The margin lets deletes, drops, the checkpoint and a later recovery proceed on a full disk.
  const std::uint64_t margin = 64 + map_.next_page() / 64;
  const std::uint64_t needed =
      owed_.load(std::memory_order_relaxed) + claims_ + pages + map_.chunk_bound();
  if (auto ok = space_->ensure_free(needed + margin); !ok) {
    if (!urgent || !space_->ensure_free(needed)) return ok;
  }
  claims_ += pages;
  return {};
}

void PageStore::unclaim(std::uint64_t pages) noexcept {
  io::MutexLock lock(map_mutex_);
  claims_ -= pages;
}

// ---- writing ---------------------------------------------------------------------------------

bool PageStore::copy_image(Pool::Exclusive& x, std::byte* into, Image& out) {
  Pool::Frame& f = x.frame();
  const std::uint64_t dirty = f.dirty_epoch.load(std::memory_order_relaxed);
  if (dirty == 0 || f.writing.load(std::memory_order_relaxed) != 0) return false;
  {
    io::MutexLock lock(map_mutex_);
    // An image of an earlier incarnation of this page id may still be on its way.
    if (!in_flight_.try_emplace(raw(x.page()), InFlight{x.frame_id(), dirty, 0}).second)
      return false;
  }
  std::memcpy(into, x.data(), kPageSize);
  f.writing.store(1, std::memory_order_relaxed);
  f.dirty_epoch.store(0, std::memory_order_release);
  out.page = x.page();
  out.epoch = dirty;
  out.frame = x.frame_id();
  return true;
}

Result<void> PageStore::write_slots(std::span<const Slot> slots, const std::byte* bytes) {
  KESSAI_ASSIGN(q, take_queue());
  std::vector<io::Queue::Completion> done;
  for (std::size_t i = 0; i < slots.size();) {
    std::size_t n = 1;
    while (i + n < slots.size() && slots[i + n] == slots[i] + n) ++n;
    if (q->in_flight() == q->depth()) q->reap(done, 1);
    q->write(*file_, slot_offset(slots[i]), {bytes + i * kPageSize, n * kPageSize}, i);
    i += n;
  }
  while (q->in_flight() > 0) q->reap(done, 1);
  return_queue(std::move(q));
  for (auto& c : done) {
    if (!c.result) return c.result;
  }
  return {};
}

Result<void> PageStore::write_images(std::span<Image> images, std::byte* bytes) {
  if (images.empty()) return {};
  std::uint64_t birth = ~std::uint64_t{0};
  for (std::size_t i = 0; i < images.size(); ++i) {
    Image& image = images[i];
    const std::byte* page = bytes + i * kPageSize;
    const PageHeader h = read_header(page);
    if (h.page != raw(image.page) || h.store != id_.lo) {
      return std::unexpected(
          damage(0, image.page, "a page in memory lost its identity before it was written"));
    }
    image.hash = hash_page(page);
    birth = std::min(birth, image.epoch);
  }
  std::vector<Slot> slots;
  {
    io::MutexLock lock(map_mutex_);
    // Claims made this safe for everything but the images themselves, which owed_ counts.
    KESSAI_TRY(space_->ensure_free(images.size()));
    space_->take(images.size(), birth, slots);
    owed_.fetch_sub(images.size(), std::memory_order_relaxed);
  }
  KESSAI_TRY(write_slots(slots, bytes));
  images_written_.fetch_add(images.size(), std::memory_order_relaxed);
  for (std::size_t i = 0; i < images.size(); ++i) {
    images[i].slot = slots[i];
    finish_image(images[i]);
  }
  return {};
}

void PageStore::finish_image(const Image& image) {
  io::MutexLock lock(map_mutex_);
  const auto it = in_flight_.find(raw(image.page));
  KESSAI_CHECK(it != in_flight_.end());
  const InFlight state = it->second;
  in_flight_.erase(it);
  const MapEntry entry{image.slot, image.hash};
  const std::uint64_t building = building_.load(std::memory_order_relaxed);
  const std::uint64_t now = epoch_.load(std::memory_order_relaxed);
  const Slot old = map_.live(image.page).slot;
  // A page freed before the cut is not part of it, even if its image was still under way then.
  const bool of_cut = map_.frozen() && !cut_complete_ && image.epoch <= building &&
                      (state.freed == 0 || state.freed > building) &&
                      !KESSAI_MUTANT(evict_missed_by_cut);
  const bool freed = state.freed != 0 && !KESSAI_MUTANT(freed_page_comes_back);
  if (of_cut && freed) {
    map_.capture(image.page, entry, false);
    space_->drop(image.slot, now);
  } else if (of_cut) {
    if (old != 0) space_->drop(old, building);
    map_.capture(image.page, entry, true);
    checkpoint_pages_.fetch_add(1, std::memory_order_relaxed);
  } else if (freed) {
    space_->give_back(image.slot);
  } else {
    if (old != 0) space_->drop(old, now);
    map_.set_live(image.page, entry);
  }
  if (state.frame != kNoFrame)
    pool_->frame(state.frame).writing.fetch_sub(1, std::memory_order_release);
}

Result<void> PageStore::write_out(std::span<const FrameId> frames) {
  if (options_.read_only) {
    return fail(Code::out_of_memory,
                "recovering this store for reading needs more memory; raise Options::memory or "
                "open it for writing");
  }
  if (poisoned()) return std::unexpected(poison_error());
  io::MutexLock lock(evict_mutex_);
  if (evict_buffer_.size() == 0) evict_buffer_ = io::AlignedBuffer(kBatch * kPageSize);
  std::vector<Image> images;
  for (const FrameId f : frames.first(std::min<std::size_t>(frames.size(), kBatch))) {
    Pool::Exclusive x;
    Image image;
    if (pool_->try_latch_frame(f, x) &&
        copy_image(x, evict_buffer_.data() + images.size() * kPageSize, image)) {
      images.push_back(std::move(image));
    }
  }
  auto ok = write_images(images, evict_buffer_.data());
  if (!ok) poison(ok.error());
  return ok;
}

Result<void> PageStore::drain_captures() {
  io::MutexLock drain(drain_mutex_);
  if (drain_buffer_.size() == 0) drain_buffer_ = io::AlignedBuffer(kBatch * kPageSize);
  for (;;) {
    std::vector<Image> images;
    {
      // map_mutex_ first: free() may run between the two look-ups and must find the image in one
      // of the two places.
      io::MutexLock map_lock(map_mutex_);
      io::MutexLock lock(queue_mutex_);
      for (auto it = captures_.begin(); it != captures_.end() && images.size() < kBatch;) {
        // An earlier image of the page is still on its way: this one comes after it.
        if (!in_flight_.try_emplace(raw(it->page), InFlight{it->frame, it->epoch, it->freed})
                 .second) {
          ++it;
          continue;
        }
        std::memcpy(drain_buffer_.data() + images.size() * kPageSize, it->shadow.data(), kPageSize);
        shadow_pool_.push_back(std::move(it->shadow));
        images.push_back(std::move(*it));
        it = captures_.erase(it);
      }
      if (images.empty()) return {};
    }
    if (auto ok = write_images(images, drain_buffer_.data()); !ok) {
      poison(ok.error());
      return ok;
    }
  }
}

bool PageStore::complete_cut(std::uint64_t epoch) {
  io::MutexLock map_lock(map_mutex_);
  io::MutexLock lock(queue_mutex_);
  const bool awaited =
      !captures_.empty() || std::any_of(in_flight_.begin(), in_flight_.end(),
                                        [&](const auto& i) { return i.second.epoch <= epoch; });
  cut_complete_ = !awaited;
  return cut_complete_;
}

// ---- shadows ---------------------------------------------------------------------------------

Shadows::~Shadows() {
  if (held_.empty()) return;
  io::MutexLock lock(store_->queue_mutex_);
  for (auto& b : held_) store_->shadow_pool_.push_back(std::move(b));
}

Result<void> Shadows::top_up(unsigned n) {
  io::Waits::LateTimer wait(store_->env_);
  while (held_.size() < n && store_->building_.load(std::memory_order_seq_cst) != 0) {
    {
      io::MutexLock lock(store_->queue_mutex_);
      if (!store_->shadow_pool_.empty()) {
        held_.push_back(std::move(store_->shadow_pool_.back()));
        store_->shadow_pool_.pop_back();
        continue;
      }
      if (store_->shadows_made_ < kMaxShadows) {
        ++store_->shadows_made_;
        held_.emplace_back(kPageSize);
        continue;
      }
    }
    wait.start(io::Wait::checkpoint);
    KESSAI_TRY(store_->drain_captures());
    io::yield_thread();
  }
  return {};
}

}  // namespace kessai::btree
