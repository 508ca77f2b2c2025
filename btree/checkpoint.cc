// SPDX-License-Identifier: Apache-2.0
// Checkpoints: the cut, its images, its map, and the superblock that makes it the newest (I5b).
#include <algorithm>

#include "btree/page_store.hpp"
#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::btree {
namespace {
constexpr unsigned kBatch = 64;
}

Result<void> PageStore::checkpoint(bool clean) {
  begin_checkpoint(clean);
  while (checkpoint_running()) KESSAI_TRY(checkpoint_step());
  return {};
}

void PageStore::begin_checkpoint(bool clean) {
  KESSAI_CHECK(phase_ == Phase::idle);
  building_sb_ = newest_;
  building_sb_.number = newest_.number + 1;
  building_sb_.clean = clean;
  // (a) low before (b) the cut: whatever is not fully applied now is replayed.
  building_sb_.low = log_ != nullptr ? log_->low() : newest_.low;
  building_sb_.generation = log_ != nullptr ? log_->generation() : newest_.generation;
  if (!KESSAI_MUTANT(gate_not_closed)) gate_.close();
  {
    io::MutexLock lock(map_mutex_);
    const std::uint64_t cut = epoch_.load(std::memory_order_relaxed);
    building_sb_.epoch = cut;
    building_.store(cut, std::memory_order_seq_cst);
    epoch_.store(cut + 1, std::memory_order_seq_cst);
    map_.freeze();
    cut_complete_ = false;
    building_sb_.next_page = map_.cut_next_page();
    space_->keep(older_.epoch, newest_.epoch, cut);
  }
  gate_.open();
  phase_ = Phase::capture;
  sweep_ = 0;
  sweep_clean_ = true;
}

Result<void> PageStore::checkpoint_step() {
  KESSAI_CHECK(phase_ != Phase::idle);
  if (poisoned()) return std::unexpected(poison_error());
  if (staging_.size() == 0) staging_ = io::AlignedBuffer(kBatch * kPageSize);
  Result<void> ok;
  switch (phase_) {
    case Phase::capture:
      ok = step_capture();
      break;
    case Phase::map:
      ok = step_map();
      break;
    case Phase::publish:
      ok = step_publish();
      break;
    case Phase::idle:
      break;
  }
  if (!ok) poison(ok.error());
  return ok;
}

Result<void> PageStore::step_capture() {
  KESSAI_TRY(drain_captures());
  const std::uint64_t cut = building_sb_.epoch;
  std::vector<Image> images;
  for (; sweep_ < pool_->frames() && images.size() < options_.checkpoint_batch; ++sweep_) {
    Pool::Frame& f = pool_->frame(sweep_);
    const auto old_and_dirty = [&] {
      const std::uint64_t d = f.dirty_epoch.load(std::memory_order_seq_cst);  // see touch()
      return d != 0 && d <= cut;
    };
    if (!old_and_dirty()) continue;
    Pool::Exclusive x;
    Image image;
    if (!pool_->try_latch_frame(sweep_, x)) {
      sweep_clean_ = false;  // busy: the next round looks again
      continue;
    }
    if (!old_and_dirty()) continue;
    if (copy_image(x, staging_.data() + images.size() * kPageSize, image)) {
      images.push_back(std::move(image));
    } else {
      sweep_clean_ = false;
    }
  }
  KESSAI_TRY(write_images(images, staging_.data()));
  if (!images.empty()) sweep_clean_ = false;
  if (sweep_ < pool_->frames()) return {};
  if (sweep_clean_ && complete_cut(cut)) {
    phase_ = Phase::map;
    map_level_ = 0;
    return {};
  }
  sweep_ = 0;
  sweep_clean_ = true;
  io::yield_thread();
  return {};
}

Result<void> PageStore::step_map() {
  std::vector<std::uint64_t> chunks;
  std::vector<Slot> slots;
  std::vector<Hash128> hashes;
  const std::uint64_t cut = building_sb_.epoch;
  {
    io::MutexLock lock(map_mutex_);
    chunks = map_.dirty_chunks(map_level_);
    chunks.resize(std::min<std::size_t>(chunks.size(), options_.checkpoint_batch));
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      auto* at = staging_.data() + i * kPageSize;
      map_.image(map_level_, chunks[i], id_, std::span<std::byte, kPageSize>(at, kPageSize));
      hashes.push_back(hash_page(at));
    }
    KESSAI_TRY(space_->ensure_free(chunks.size()));
    space_->take(chunks.size(), cut, slots);
    chunks_in_flight_ = chunks.size();
  }
  const bool skip = KESSAI_MUTANT(map_chunk_not_flushed) && !chunks.empty();
  if (skip) {
    KESSAI_TRY(write_slots(std::span(slots).first(slots.size() - 1), staging_.data()));
  } else {
    KESSAI_TRY(write_slots(slots, staging_.data()));
  }
  io::MutexLock lock(map_mutex_);
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (const Slot old = map_.wrote(map_level_, chunks[i], {slots[i], hashes[i]}); old != 0) {
      space_->drop(old, cut);
    }
  }
  chunks_in_flight_ = 0;
  if (!map_.dirty_chunks(map_level_).empty()) return {};
  ++map_level_;
  if (map_level_ == map_.cut_depth()) phase_ = Phase::publish;
  return {};
}

Result<void> PageStore::step_publish() {
  {
    io::MutexLock lock(map_mutex_);
    building_sb_.map_slot = map_.root().slot;
    building_sb_.map_hash = map_.root().hash;
    building_sb_.map_depth = map_.cut_depth();
  }
  if (KESSAI_MUTANT(low_after_cut) && log_ != nullptr) building_sb_.low = log_->low();
  // F after the last capture: no effect in the image is newer.
  building_sb_.fence = log_ != nullptr ? log_->tail() : newest_.fence;
  building_sb_.store = id_;
  if (!KESSAI_MUTANT(data_not_flushed)) KESSAI_TRY(file_->flush());
  if (log_ != nullptr && !KESSAI_MUTANT(superblock_before_fence))
    KESSAI_TRY(log_->wait_durable(building_sb_.fence));
  KESSAI_TRY(write_superblock(building_sb_));
  {
    io::MutexLock lock(map_mutex_);
    older_ = newest_;
    newest_ = building_sb_;
    map_.thaw();
    building_.store(0, std::memory_order_seq_cst);
    space_->keep(older_.epoch, newest_.epoch, 0);
    ++checkpoints_;
  }
  phase_ = Phase::idle;
  if (log_ != nullptr)
    log_->recycle_below(KESSAI_MUTANT(recycle_to_newest) ? newest_.low : older_.low);
  return {};
}

Result<void> PageStore::write_superblock(const Superblock& sb) {
  if (staging_.size() == 0) staging_ = io::AlignedBuffer(kBatch * kPageSize);
  encode(sb, std::span<std::byte, kPageSize>(staging_.data(), kPageSize));
  const std::uint64_t slot =
      KESSAI_MUTANT(overwrite_newest_superblock) ? 0 : sb.number % kSuperblocks;
  KESSAI_TRY(file_->write(slot * kSuperblockStride, {staging_.data(), kPageSize}));
  if (KESSAI_MUTANT(superblock_not_flushed)) return {};
  return file_->flush();
}

// ---- poison ----------------------------------------------------------------------------------

void PageStore::poison(const Error& why) {
  {
    io::MutexLock lock(map_mutex_);
    if (!poisoned_.load(std::memory_order_relaxed)) {
      ErrorDetail d = why.detail();
      d.what = "the store stopped after an error; close and reopen it: " + why.message();
      poison_error_ = Error(Code::poisoned, std::move(d), why.os_error());
      poisoned_.store(true, std::memory_order_release);
    }
  }
  if (log_ != nullptr && !log_->poisoned()) log_->poison(why);
}

Error PageStore::poison_error() const {
  io::MutexLock lock(map_mutex_);
  return poison_error_;
}

}  // namespace kessai::btree
