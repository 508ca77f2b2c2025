// SPDX-License-Identifier: Apache-2.0
// The page store: the data file, its page map, space, and checkpoints.
//
// Promises
//  I5a a live page image is never overwritten; I5b a checkpoint is a cut: every page dirty in the
//      old epoch enters the cut map exactly once, before it is modified, freed or evicted.
//  I6  every page read is verified against the hash tree (or is one this process wrote and mapped).
//  I12 four superblocks in turn; falling back to N-1 only with the log that N needs.
//  I15 claim(): pages dirtied after a successful claim always find a slot.
//
// The life of a change
//   modifier: latch page -> touch() [captures the old image into a shadow frame when the page
//   belongs to the cut being written] -> change -> release.
//   Images (captures, evictees, checkpoint output) are copied under the latch, then hashed, given
//   slots, written, and only then entered into the map. At most one image of a page is under way.
//
// Checkpoint (a state machine, so that tests can interleave it with commits):
//   begin (low; gate closed: epoch + 1, freeze) -> capture dirty pages -> write map chunks ->
//   flush, fence F = log tail, wait durable >= F -> superblock, flush -> publish, recycle log.
//
// Threads: thread-safe; one checkpoint at a time (the caller serialises begin/step). Lock order:
// gate > page latch > map_mutex_ > queue_mutex_. map_mutex_ is never held across page reads or
// image writes; it may be held while the file grows.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <boost/unordered/unordered_flat_map.hpp>

#include "btree/gate.hpp"
#include "btree/page_map.hpp"
#include "btree/pool.hpp"
#include "btree/space.hpp"
#include "btree/superblock.hpp"
#include "io/env.hpp"
#include "io/memory.hpp"
#include "io/sync.hpp"
#include "wal/log.hpp"

namespace kessai::btree {

inline constexpr const char* kDataFile = "kessai.data";
inline constexpr const char* kDataFileNew = "kessai.data.new";

struct PageStoreOptions {
  std::uint64_t memory = std::uint64_t{256} << 20;
  bool read_only = false;
  std::uint64_t lock_timeout_ns = 10'000'000'000;
  unsigned checkpoint_batch = 64;  ///< pages or chunks per checkpoint_step(), at most 64
};

/// Shadow frames a thread holds before it latches pages it may have to capture (I11).
class Shadows;

class PageStore final : private PageSource {
 public:
  /// A new data file under its temporary name; publish_new() makes it the store.
  [[nodiscard]] static Result<std::unique_ptr<PageStore>> create(io::Env& env, wal::StoreId id,
                                                                 const PageStoreOptions& options);
  /// Reads superblocks and map, rebuilds the allocator. Errors: store_missing, incomplete_store,
  /// not_a_store, newer_format, page_size_mismatch, superblock_damaged, damaged, locked, io_error.
  [[nodiscard]] static Result<std::unique_ptr<PageStore>> open(io::Env& env,
                                                               const PageStoreOptions& options);
  ~PageStore();

  /// After create(): the first two checkpoints are on disk; rename and flush the directory.
  [[nodiscard]] Result<void> publish_new();
  /// The log that checkpoints fence against. Null (before recovery has started it): fences are 0.
  void attach_log(wal::Log* log) noexcept { log_ = log; }

  [[nodiscard]] Pool& pool() noexcept { return *pool_; }
  [[nodiscard]] Gate& gate() noexcept { return gate_; }
  [[nodiscard]] const io::Env& env() const noexcept { return *env_; }
  [[nodiscard]] wal::StoreId id() const noexcept { return id_; }
  [[nodiscard]] Superblock newest() const {
    io::MutexLock lock(map_mutex_);
    return newest_;
  }
  /// The log from here on stays: the older checkpoint's low.
  [[nodiscard]] Lsn keep_log_from() const noexcept { return std::min(older_.low, newest_.low); }
  /// Largest F of any readable superblock: recovery's log must reach it (I12).
  [[nodiscard]] Lsn must_reach() const noexcept { return must_reach_; }
  [[nodiscard]] bool read_only() const noexcept { return options_.read_only; }
  /// Superblock slots that could not be read at open, for check and the operator.
  [[nodiscard]] const std::vector<Error>& damaged_superblocks() const noexcept {
    return bad_superblocks_;
  }

  // --- pages -----------------------------------------------------------------------------------
  /// A fresh page id, not in the image until its page is touched. Inside the gate or before.
  [[nodiscard]] Result<PageId> allocate();
  /// Takes back an id that was never touched.
  void unallocate(PageId p);
  /// Marks the latched page changed in this epoch, capturing its old image first when the cut
  /// needs it. Call before the first change under each latch. False: a shadow is needed and none
  /// is at hand (release the latch, top up, retry); cannot happen inside the gate when
  /// shadows_needed() said enough were there.
  [[nodiscard]] bool touch(Pool::Exclusive& x, Shadows& shadows);
  /// Inside the gate: whether `n` pages can be touched or freed with these shadows.
  [[nodiscard]] bool enough(const Shadows& shadows, std::size_t n) const noexcept;
  /// Frees a latched page (inside the gate, enough() checked). Consumes the latch.
  void free(Pool::Exclusive&& x, Shadows& shadows);

  /// In the order of their images in the file, without those that have none.
  void order_by_slot(std::vector<PageId>& pages) const;
  /// Reads those of the pages (in that order) that are not resident, neighbours together. Best
  /// effort: who needs a page reads it and meets its error. Hold no latch.
  void preload(std::span<const PageId> ordered) { pool_->load_runs(ordered); }

  // --- space (I15) -----------------------------------------------------------------------------
  /// Promises slots for `pages` more dirty pages until the claim is given back. `disk_full`.
  /// `urgent` claims (deletes, drops, recovery) may use the reserve.
  [[nodiscard]] Result<void> claim(std::uint64_t pages, bool urgent = false);
  void unclaim(std::uint64_t pages) noexcept;

  // --- checkpoints -----------------------------------------------------------------------------
  [[nodiscard]] Result<void> checkpoint(bool clean = false);  ///< begin + steps to the end
  void begin_checkpoint(bool clean);
  [[nodiscard]] bool checkpoint_running() const noexcept { return phase_ != Phase::idle; }
#if defined(KESSAI_TORTURE)
  /// For the planted bug `wal_reset_race`.
  void recycle_to_building() {
    if (building_.load() != 0) log_->recycle_below(building_sb_.low);
  }
#endif
  /// One unit of work. An error poisons the store. REQUIRES checkpoint_running().
  [[nodiscard]] Result<void> checkpoint_step();

  /// An I/O error after which no checkpoint may publish (I4).
  void poison(const Error& why);
  [[nodiscard]] bool poisoned() const noexcept { return poisoned_.load(std::memory_order_acquire); }
  [[nodiscard]] Error poison_error() const;

  // --- looking inside --------------------------------------------------------------------------
  struct Usage {
    std::uint64_t pages = 0, free_slots = 0, slots = 0, dirty = 0, file_bytes = 0;
    std::uint64_t checkpoints = 0, images_written = 0, checkpoint_pages = 0;
  };
  [[nodiscard]] Usage usage() const;
  [[nodiscard]] MapEntry live_entry(PageId p) const;
  [[nodiscard]] std::uint64_t next_page() const;
  [[nodiscard]] const std::string& path() const noexcept { return file_->path(); }
  /// Re-reads the stored image of a page from the device and verifies it (check).
  [[nodiscard]] Result<void> verify_stored(PageId p);
  /// Re-reads all superblocks; one error per slot that should be readable and is not (check).
  [[nodiscard]] std::vector<Error> verify_superblocks();
  [[nodiscard]] Result<void> verify_map();
  /// Slot accounting: every slot exactly one of live, dead-but-needed, or free.
  [[nodiscard]] Result<void> audit_space();

 private:
  friend class Shadows;
  /// The copy of a page on its way to disk.
  struct Image {
    PageId page{};
    std::uint64_t epoch = 0;  ///< in which it was last changed
    FrameId frame = kNoFrame;
    std::uint64_t freed =
        0;  ///< epoch in which the page was freed after the copy: only a cut before wants it
    io::AlignedBuffer shadow;  ///< captures before a change; empty for copies into a staging buffer
    Slot slot = 0;
    Hash128 hash;
  };
  struct InFlight {
    FrameId frame = kNoFrame;  ///< frame whose `writing` count holds the page; none once freed
    std::uint64_t epoch = 0;   ///< of the image
    std::uint64_t freed = 0;   ///< as Image::freed
  };
  enum class Phase : std::uint8_t { idle, capture, map, publish };

  PageStore(io::Env& env, const PageStoreOptions& options)
      : env_(&env), options_(options), gate_(env) {}
  void read_pages(std::span<Read> reads) override;
  void read_runs(std::span<const PageId> pages, Arrivals& to) override;
  Result<void> write_out(std::span<const FrameId> frames) override;

  // open.cc
  /// `unreadable`: a bit for each slot that the device could not read.
  [[nodiscard]] std::pair<Result<void>, Result<Superblock>> read_superblock(
      unsigned i, io::AlignedBuffer& buffer);
  [[nodiscard]] Result<void> read_superblocks(std::vector<Superblock>& valid, unsigned& unreadable);
  [[nodiscard]] Result<void> load_map(PageMap& map, const Superblock& sb);
  [[nodiscard]] Result<void> adopt_newest();
  [[nodiscard]] Result<void> adopt_older() KESSAI_REQUIRES(map_mutex_);
  [[nodiscard]] Result<void> init_memory();

  // images.cc
  void capture(Pool::Exclusive& x, std::uint64_t epoch, Shadows& shadows);
  [[nodiscard]] bool copy_image(Pool::Exclusive& x, std::byte* into, Image& out);
  [[nodiscard]] Result<void> write_images(std::span<Image> images, std::byte* bytes);
  [[nodiscard]] Result<void> write_slots(std::span<const Slot> slots, const std::byte* bytes);
  void finish_image(const Image& image);
  [[nodiscard]] Result<void> drain_captures();
  /// True, for good, when no image of the cut is awaited any more. A page marked old by a thread
  /// that was held up over the whole sweep was clean at the cut: its image is a later one.
  [[nodiscard]] bool complete_cut(std::uint64_t epoch);
  [[nodiscard]] Result<void> verify_image(PageId p, const MapEntry& e, const std::byte* page) const;
  [[nodiscard]] Error damage(Slot slot, PageId page, std::string what) const;
  [[nodiscard]] Result<std::unique_ptr<io::Queue>> take_queue();
  void return_queue(std::unique_ptr<io::Queue> q);

  // checkpoint.cc
  [[nodiscard]] Result<void> step_capture();
  [[nodiscard]] Result<void> step_map();
  [[nodiscard]] Result<void> step_publish();
  [[nodiscard]] Result<void> write_superblock(const Superblock& sb);

  // constant after open
  io::Env* env_;
  PageStoreOptions options_;
  wal::StoreId id_;
  std::unique_ptr<io::File> file_;
  std::unique_ptr<Pool> pool_;
  wal::Log* log_ = nullptr;
  Lsn must_reach_ = 0;
  std::vector<Error> bad_superblocks_;
  Gate gate_;

  // own synchronisation. building_ is stored before epoch_ moves on; touch() loads epoch_ first.
  io::Atomic<std::uint64_t> epoch_{1};
  io::Atomic<std::uint64_t> building_{0};  ///< cut epoch of the checkpoint being built, 0 = none
  io::Atomic<std::uint64_t> owed_{
      0};  ///< images that will need a slot: dirty pages, copies without one
  io::Atomic<bool> poisoned_{false};
  std::atomic<std::uint64_t> images_written_{0}, checkpoint_pages_{0};

  mutable io::Mutex map_mutex_;
  PageMap map_ KESSAI_GUARDED_BY(map_mutex_);
  std::unique_ptr<Space> space_ KESSAI_GUARDED_BY(map_mutex_);
  std::vector<PageId> free_pages_ KESSAI_GUARDED_BY(map_mutex_);
  std::uint64_t claims_ KESSAI_GUARDED_BY(map_mutex_) = 0;
  bool cut_complete_ KESSAI_GUARDED_BY(map_mutex_) = false;
  std::uint64_t used_pages_ KESSAI_GUARDED_BY(map_mutex_) = 0;
  boost::unordered_flat_map<std::uint64_t, InFlight> in_flight_ KESSAI_GUARDED_BY(map_mutex_);
  /// Map chunks of a checkpoint on their way: their slots are taken, no map has them yet.
  std::uint64_t chunks_in_flight_ KESSAI_GUARDED_BY(map_mutex_) = 0;
  Error poison_error_ KESSAI_GUARDED_BY(map_mutex_) = Error(Code::poisoned);

  mutable io::Mutex queue_mutex_;
  std::vector<std::unique_ptr<io::Queue>> queues_ KESSAI_GUARDED_BY(queue_mutex_);
  std::vector<io::AlignedBuffer> shadow_pool_ KESSAI_GUARDED_BY(queue_mutex_);
  unsigned shadows_made_ KESSAI_GUARDED_BY(queue_mutex_) = 0;
  std::vector<Image> captures_ KESSAI_GUARDED_BY(queue_mutex_);  ///< shadows waiting to be written
  io::Mutex drain_mutex_;  ///< one drainer at a time, so captures of a page stay in order
  io::AlignedBuffer drain_buffer_ KESSAI_GUARDED_BY(drain_mutex_);
  io::Mutex evict_mutex_;
  io::AlignedBuffer evict_buffer_ KESSAI_GUARDED_BY(evict_mutex_);

  // owned by whoever runs the checkpoint
  Phase phase_ = Phase::idle;
  Superblock newest_;  ///< written under map_mutex_, which others read it under
  Superblock older_, building_sb_;
  std::uint32_t sweep_ = 0;   ///< next frame the capture phase looks at
  bool sweep_clean_ = false;  ///< this round of the sweep found nothing to capture
  unsigned map_level_ = 0;
  std::uint64_t checkpoints_ = 0;
  io::AlignedBuffer staging_;  ///< checkpoint output, one batch
};

class Shadows {
 public:
  explicit Shadows(PageStore& store) noexcept : store_(&store) {}
  ~Shadows();
  Shadows(const Shadows&) = delete;
  Shadows& operator=(const Shadows&) = delete;
  /// Has at least `n` at hand afterwards when a checkpoint is being built; drains captures itself
  /// when the pool of shadows is used up (back-pressure). Hold no latch, be outside the gate.
  [[nodiscard]] Result<void> top_up(unsigned n);
  [[nodiscard]] std::size_t size() const noexcept { return held_.size(); }

 private:
  friend class PageStore;
  PageStore* store_;
  std::vector<io::AlignedBuffer> held_;
};

}  // namespace kessai::btree
