// SPDX-License-Identifier: Apache-2.0
// The page pool: page ids to frames in huge-page memory, latches, replacement.
//
// Translation is an array indexed by page id, one 64-bit word per page (CALICO, 2026; vmcache,
// SIGMOD'23): 28 bits frame + 1 (0 = not resident) | 8 bits latch state | 28 bits version. The
// version lives outside the page, survives eviction and id reuse, and moves at every exclusive
// release, so an optimistic reader that sees the same word twice read an unchanged page (I10;
// Leis et al., "Optimistic Lock Coupling").
//
// Latch states: free, exclusive, loading (read from disk under way; waiters sleep). Guards are
// types: Optimistic holds nothing; Exclusive holds the latch until destroyed; upgrading consumes.
//
// Replacement: clock with a reference bit that is only maintained once the pool has been full;
// loaded pages enter without it, so that a scan does not push out the working set. Dirty pages are
// written out in batches (by PageSource) before they can be evicted. A page is kept while
// pins > 0 or image writes of it are under way.
//
// Threads: everything is thread-safe. No latch is ever held while waiting for a frame, for I/O or
// for a transaction lock (I11): take frames first. Lock order: evict_mutex_ > free_mutex_.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "io/env.hpp"
#include "io/memory.hpp"
#include "io/sync.hpp"
#include "io/types.hpp"
#include "io/waits.hpp"
#include "kessai/error.hpp"

namespace kessai::btree {

using FrameId = std::uint32_t;
inline constexpr FrameId kNoFrame = ~FrameId{0};

// The fields of a page's word, and the shape of the translation array.
inline constexpr std::uint64_t kFrameMask = (std::uint64_t{1} << 28) - 1;
inline constexpr unsigned kLatchShift = 28;
inline constexpr std::uint64_t kLatchMask = std::uint64_t{0xff} << kLatchShift;
inline constexpr unsigned kBlockBits = 16;                           // words per block
inline constexpr std::size_t kDirectorySize = std::size_t{1} << 16;  // 2^32 page ids

/// Who reads and writes page images.
class PageSource {
 public:
  struct Read {
    PageId page;
    std::byte* into = nullptr;  ///< one page, 4096-aligned
    Result<void> result{};      ///< `not_found`: the page does not exist (a stale reference)
  };
  /// Reads and verifies; results per page. Several reads are batched on the device.
  virtual void read_pages(std::span<Read> reads) = 0;
  /// Where read_runs() puts the pages.
  class Arrivals {
   public:
    /// Memory for page i, which will arrive; null: it is not wanted.
    [[nodiscard]] virtual std::byte* begin(std::size_t i) = 0;
    virtual void end(std::size_t i, bool ok) = 0;
    virtual ~Arrivals() = default;
  };
  /// Reads and verifies pages whose images lie in ascending order, neighbours together. Best
  /// effort: it may leave pages out.
  virtual void read_runs(std::span<const PageId> pages, Arrivals& to) {
    static_cast<void>(pages);
    static_cast<void>(to);
  }
  /// Makes these resident dirty pages clean by writing their images elsewhere (best effort: busy
  /// ones are skipped). Called with no latch held.
  [[nodiscard]] virtual Result<void> write_out(std::span<const FrameId> frames) = 0;

 protected:
  ~PageSource() = default;
};

class Pool {
 public:
  struct Frame {
    io::Atomic<std::uint64_t> page{0};         ///< 0: free. Written under the page's latch.
    io::Atomic<std::uint64_t> dirty_epoch{0};  ///< 0: clean; else epoch of the last change. Same.
    io::Atomic<std::uint32_t> pins{0};
    io::Atomic<std::uint32_t> writing{0};  ///< image of it queued or under way
    std::atomic<std::uint8_t> ref{0};
  };

  class Optimistic {
   public:
    [[nodiscard]] std::byte* data() const noexcept { return data_; }
    [[nodiscard]] PageId page() const noexcept { return page_; }
    /// True when nothing changed since the guard was made (acquire-loads of page bytes come
    /// before).
    [[nodiscard]] bool valid() const noexcept {
      return word_ != nullptr && word_->load(std::memory_order_acquire) == seen_;
    }

   private:
    friend class Pool;
    const io::Atomic<std::uint64_t>* word_ = nullptr;
    std::uint64_t seen_ = 0;
    std::byte* data_ = nullptr;
    PageId page_{};
  };

  class Exclusive {
   public:
    Exclusive() = default;
    Exclusive(Exclusive&& o) noexcept { *this = std::move(o); }
    Exclusive& operator=(Exclusive&& o) noexcept;
    ~Exclusive() { release(); }
    void release() noexcept;  ///< the version moves on
    [[nodiscard]] explicit operator bool() const noexcept { return pool_ != nullptr; }
    [[nodiscard]] std::byte* data() const noexcept { return data_; }
    [[nodiscard]] PageId page() const noexcept { return page_; }
    [[nodiscard]] Frame& frame() const noexcept { return *frame_; }
    [[nodiscard]] FrameId frame_id() const noexcept { return frame_id_; }

   private:
    friend class Pool;
    Pool* pool_ = nullptr;
    io::Atomic<std::uint64_t>* word_ = nullptr;
    std::byte* data_ = nullptr;
    Frame* frame_ = nullptr;
    FrameId frame_id_ = kNoFrame;
    PageId page_{};
  };

  /// Keeps a page resident and unmerged. Holds no latch.
  class Pin {
   public:
    Pin() = default;
    Pin(Pin&& o) noexcept { *this = std::move(o); }
    Pin& operator=(Pin&& o) noexcept;
    ~Pin() { release(); }
    void release() noexcept;
    [[nodiscard]] explicit operator bool() const noexcept { return frame_ != nullptr; }

   private:
    friend class Pool;
    Frame* frame_ = nullptr;
  };

  enum class Peek : std::uint8_t { ok, busy, miss };

  /// `env` counts the waits (null: nobody); it outlives the pool.
  [[nodiscard]] static Result<std::unique_ptr<Pool>> create(std::uint64_t bytes, PageSource& source,
                                                            const io::Env* env = nullptr);
  ~Pool();

  /// Never waits.
  [[nodiscard]] Peek peek(PageId page, Optimistic& out) noexcept;
  /// Makes the page resident, waiting for I/O. `not_found`: the page does not exist. Hold no latch.
  [[nodiscard]] Result<void> load(PageId page);
  /// Starts and finishes the reads of all of `pages` that are not resident, batched.
  void load_batch(std::span<const PageId> pages);
  /// The same for pages in the order of their images.
  void load_runs(std::span<const PageId> pages);
  /// peek, with bounded spinning on busy pages, and load on a miss. Hold no latch.
  [[nodiscard]] Result<Optimistic> read(PageId page);

  [[nodiscard]] bool upgrade(const Optimistic& from, Exclusive& out) noexcept;  ///< false: changed
  [[nodiscard]] bool try_latch(PageId page,
                               Exclusive& out) noexcept;  ///< false: busy or not resident
  /// Spins and yields until latched; false: not resident. Only for pages whose holder never waits.
  [[nodiscard]] bool latch(PageId page, Exclusive& out) noexcept;
  [[nodiscard]] bool pin(const Optimistic& seen, Pin& out) noexcept;  ///< false: changed
  [[nodiscard]] Pin pin(const Exclusive& held) noexcept;

  /// A free frame, evicting when there is none. `out_of_memory` when every page is pinned.
  [[nodiscard]] Result<FrameId> take_frame();
  void return_frame(FrameId f) noexcept;
  /// Binds a taken frame to a page that is not resident and latches it (a new page).
  [[nodiscard]] Exclusive adopt(PageId page, FrameId f);
  /// Forgets the page; its frame becomes free. Consumes the latch.
  void discard(Exclusive&& x) noexcept;

  /// Makes room in the translation array for ids below `next`.
  [[nodiscard]] Result<void> cover(std::uint64_t next);

  [[nodiscard]] std::uint32_t frames() const noexcept { return frame_count_; }
  [[nodiscard]] Frame& frame(FrameId f) noexcept { return frames_[f]; }
  [[nodiscard]] std::byte* frame_data(FrameId f) noexcept {
    return memory_.data() + std::size_t{f} * kPageSize;
  }
  /// Latches the page in frame f when it still holds one and nobody has it.
  [[nodiscard]] bool try_latch_frame(FrameId f, Exclusive& out) noexcept;

  struct Counters {
    std::atomic<std::uint64_t> misses{0}, evicted{0};
  };
  [[nodiscard]] const Counters& counters() const noexcept { return counters_; }
  [[nodiscard]] std::uint32_t frames_used() const noexcept;

 private:
  using Word = io::Atomic<std::uint64_t>;
  class Arriving;
  Pool() = default;
  [[nodiscard]] Word* word(PageId page) noexcept;
  [[nodiscard]] Peek look(PageId page, Optimistic& out, bool reference) noexcept;
  void hold(PageId page, Word& w, FrameId f, Exclusive& out) noexcept;
  [[nodiscard]] bool start_load(PageId page, FrameId f) noexcept;
  void finish_load(PageId page, FrameId f, bool ok) noexcept;
  [[nodiscard]] bool take_free(FrameId& out) noexcept;
  [[nodiscard]] Result<FrameId> take(bool patient);
  [[nodiscard]] Result<void> evict_batch(bool patient);
  [[nodiscard]] bool try_evict(FrameId f) noexcept;
  [[nodiscard]] std::uint32_t eviction_batch() const noexcept;
  [[nodiscard]] std::uint32_t sweep(std::vector<FrameId>& dirty, bool& busy)
      KESSAI_REQUIRES(evict_mutex_);
  [[nodiscard]] bool latch_slowly(PageId page, Exclusive& out) noexcept;
  class BusyWait;

  // constant after create()
  PageSource* source_ = nullptr;
  const io::Env* env_ = nullptr;
  std::uint32_t frame_count_ = 0;
  io::Region memory_;
  std::unique_ptr<Frame[]> frames_;
  io::Region directory_memory_;              ///< zero, and physical only where touched
  std::atomic<Word*>* directory_ = nullptr;  ///< blocks of the translation array

  // own synchronisation
  std::atomic<bool> pressure_{false};  ///< the pool has been full: keep reference bits
  std::unique_ptr<io::Atomic<std::uint32_t>[]> load_events_;  ///< futex words by page id
  io::Atomic<std::uint32_t> load_waiters_{0};
  Counters counters_;

  io::Mutex cover_mutex_;
  std::vector<io::Region> blocks_ KESSAI_GUARDED_BY(cover_mutex_);

  io::Mutex evict_mutex_;
  std::uint32_t hand_ KESSAI_GUARDED_BY(evict_mutex_) = 0;

  mutable io::SpinMutex free_mutex_;
  std::vector<FrameId> free_ KESSAI_GUARDED_BY(free_mutex_);
};

inline Pool::Word* Pool::word(PageId page) noexcept {
  const std::uint64_t p = raw(page);
  if (p >> kBlockBits >= kDirectorySize) return nullptr;
  Word* block = directory_[p >> kBlockBits].load(std::memory_order_acquire);
  return block == nullptr ? nullptr : block + (p & ((std::uint64_t{1} << kBlockBits) - 1));
}

inline Pool::Peek Pool::look(PageId page, Optimistic& out, bool reference) noexcept {
  Word* w = word(page);
  if (w == nullptr) return Peek::miss;
  const std::uint64_t seen = w->load(std::memory_order_acquire);
  if ((seen & kLatchMask) != 0) return Peek::busy;
  if ((seen & kFrameMask) == 0) return Peek::miss;
  const auto f = static_cast<FrameId>((seen & kFrameMask) - 1);
  if (reference && pressure_.load(std::memory_order_relaxed) &&
      frames_[f].ref.load(std::memory_order_relaxed) == 0) {
    frames_[f].ref.store(1, std::memory_order_relaxed);
  }
  out.word_ = w;
  out.seen_ = seen;
  out.data_ = frame_data(f);
  out.page_ = page;
  return Peek::ok;
}

inline Pool::Peek Pool::peek(PageId page, Optimistic& out) noexcept {
  return look(page, out, true);
}

}  // namespace kessai::btree
