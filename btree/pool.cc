// SPDX-License-Identifier: Apache-2.0
#include "btree/pool.hpp"

#include <algorithm>

#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::btree {
namespace {

constexpr unsigned kVersionShift = 36;
constexpr std::uint64_t kExclusive = std::uint64_t{1} << kLatchShift;
constexpr std::uint64_t kLoading = std::uint64_t{2} << kLatchShift;
constexpr std::uint64_t kVersionOne = std::uint64_t{1} << kVersionShift;

constexpr std::uint64_t frame_bits(std::uint64_t w) { return w & kFrameMask; }
constexpr bool latched(std::uint64_t w) { return (w & kLatchMask) != 0; }
/// The word after an exclusive release: unlatched, next version, given frame.
constexpr std::uint64_t released(std::uint64_t w, std::uint64_t frame_plus_one) {
  return ((w & ~(kLatchMask | kFrameMask)) + kVersionOne) | frame_plus_one;
}

constexpr std::size_t kBlockWords = std::size_t{1} << kBlockBits;
constexpr std::size_t kLoadEvents = 1024;
// Huge pages are cleared when first touched, 2 MiB at a time: small pools do better without.
constexpr std::size_t kHugeFrom = std::size_t{16} << 20;
constexpr unsigned kBatch = 64;
constexpr unsigned kSpins = 100;
constexpr std::uint64_t kWaitSliceNs = 10'000'000;
constexpr std::uint32_t kMinFrames = 64;
// How long a thread looks for a frame before it says out_of_memory: when all that is left is
// pinned, and when some are only busy (being read, written or handed over), in sweeps.
constexpr unsigned kPinnedRounds = 64;
constexpr unsigned kBusyRounds = 1000;
constexpr std::uint64_t kBusyPauseNs = 1'000'000;

}  // namespace

Pool::Exclusive& Pool::Exclusive::operator=(Exclusive&& o) noexcept {
  if (this != &o) {
    release();
    pool_ = std::exchange(o.pool_, nullptr);
    word_ = o.word_;
    data_ = o.data_;
    frame_ = o.frame_;
    frame_id_ = o.frame_id_;
    page_ = o.page_;
  }
  return *this;
}

void Pool::Exclusive::release() noexcept {
  if (pool_ == nullptr) return;
  pool_ = nullptr;
  // Only the holder writes a latched word. Release pairs with the readers' acquire loads.
  const std::uint64_t w = word_->load(std::memory_order_relaxed);
  word_->store(KESSAI_MUTANT(version_not_bumped) ? w & ~kLatchMask : released(w, frame_bits(w)),
               std::memory_order_release);
}

Pool::Pin& Pool::Pin::operator=(Pin&& o) noexcept {
  if (this != &o) {
    release();
    frame_ = std::exchange(o.frame_, nullptr);
  }
  return *this;
}

void Pool::Pin::release() noexcept {
  if (frame_ != nullptr) frame_->pins.fetch_sub(1, std::memory_order_release);
  frame_ = nullptr;
}

Result<std::unique_ptr<Pool>> Pool::create(std::uint64_t bytes, PageSource& source,
                                           const io::Env* env) {
  // Counts nothing, and spares every wait the question.
  static const io::Env kNobody;
  std::unique_ptr<Pool> p(new Pool);
  p->source_ = &source;
  p->env_ = env != nullptr ? env : &kNobody;
  p->frame_count_ = static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(bytes / kPageSize, kMinFrames, kFrameMask - 1));
  const std::size_t size = std::size_t{p->frame_count_} * kPageSize;
  KESSAI_ASSIGN(memory, io::Region::map(size, size >= kHugeFrom));
  p->memory_ = std::move(memory);
  p->frames_ = std::make_unique<Frame[]>(p->frame_count_);
  KESSAI_ASSIGN(directory, io::Region::map(kDirectorySize * sizeof(std::atomic<Word*>), false));
  p->directory_memory_ = std::move(directory);
  p->directory_ = reinterpret_cast<std::atomic<Word*>*>(p->directory_memory_.data());
  p->load_events_ = std::make_unique<io::Atomic<std::uint32_t>[]>(kLoadEvents);
  io::SpinLock lock(p->free_mutex_);
  p->free_.reserve(p->frame_count_);
  for (std::uint32_t f = p->frame_count_; f > 0; --f) p->free_.push_back(f - 1);
  return p;
}

Pool::~Pool() = default;

Result<void> Pool::cover(std::uint64_t next) {
  if (next > std::uint64_t{kDirectorySize} << kBlockBits) {
    return fail(Code::disk_full, "the store has used all 2^32 page ids");
  }
  io::MutexLock lock(cover_mutex_);
  for (std::size_t b = blocks_.size(); b << kBlockBits < next; ++b) {
    auto block = io::Region::map(kBlockWords * sizeof(Word), false);
    if (!block) return std::unexpected(block.error());
    directory_[b].store(reinterpret_cast<Word*>(block->data()), std::memory_order_release);
    blocks_.push_back(std::move(*block));
  }
  return {};
}

/// Waits while another thread has the page latched or reads it; counted once spinning did not help.
class Pool::BusyWait {
 public:
  BusyWait(Pool& pool, PageId page) noexcept : pool_(pool), page_(page), timer_(pool.env_) {}
  void missed() noexcept { timer_.start(io::Wait::buffer_miss); }
  void once(const Word& w) noexcept {
    if (++spins_ < kSpins) return io::cpu_relax();
    auto& event = pool_.load_events_[raw(page_) % kLoadEvents];
    const std::uint32_t e = event.load(std::memory_order_acquire);
    if ((w.load(std::memory_order_acquire) & kLatchMask) == kLoading) {
      missed();
      // Announced before the word is looked at again: see finish_load().
      pool_.load_waiters_.fetch_add(1, std::memory_order_seq_cst);
      io::futex_wait(event, e, kWaitSliceNs);
      pool_.load_waiters_.fetch_sub(1, std::memory_order_relaxed);
    } else {
      timer_.start(io::Wait::page_latch);
      io::yield_thread();
    }
  }

 private:
  Pool& pool_;
  PageId page_;
  unsigned spins_ = 0;
  io::Waits::LateTimer timer_;
};

Result<Pool::Optimistic> Pool::read(PageId page) {
  Optimistic g;
  bool resident = true;  // the visit that loads a page is no sign of reuse (a scan's only visit)
  for (BusyWait wait(*this, page);;) {
    switch (look(page, g, resident)) {
      case Peek::ok:
        return g;
      case Peek::busy:
        wait.once(*word(page));
        break;
      case Peek::miss:
        KESSAI_TRY(load(page));
        resident = false;
        break;
    }
  }
}

bool Pool::start_load(PageId page, FrameId f) noexcept {
  Word* w = word(page);
  std::uint64_t seen = w->load(std::memory_order_acquire);
  if (latched(seen) || frame_bits(seen) != 0) return false;
  return w->compare_exchange_strong(seen, seen | kLoading | (f + std::uint64_t{1}),
                                    std::memory_order_acq_rel);
}

void Pool::finish_load(PageId page, FrameId f, bool ok) noexcept {
  Word* w = word(page);
  if (ok) {
    frames_[f].dirty_epoch.store(0, std::memory_order_relaxed);
    frames_[f].ref.store(0, std::memory_order_relaxed);
    frames_[f].page.store(raw(page), std::memory_order_release);
  }
  const std::uint64_t now = w->load(std::memory_order_relaxed);
  w->store(released(now, ok ? f + std::uint64_t{1} : 0), std::memory_order_release);
  auto& event = load_events_[raw(page) % kLoadEvents];
  // The event first, then the look for waiters; they announce themselves, then look at the event
  // (both sequentially consistent).
  event.fetch_add(1, std::memory_order_seq_cst);
  if (load_waiters_.load(std::memory_order_seq_cst) != 0 && !KESSAI_MUTANT(load_waiter_not_woken))
    io::futex_wake(event, 1 << 30);
  if (!ok) return_frame(f);
}

Result<void> Pool::load(PageId page) {
  Word* w = word(page);
  if (w == nullptr || page == kNoPage) return fail(Code::not_found);
  for (BusyWait wait(*this, page);;) {
    const std::uint64_t seen = w->load(std::memory_order_acquire);
    if (latched(seen)) {
      wait.once(*w);
      continue;
    }
    if (frame_bits(seen) != 0) return {};
    wait.missed();
    KESSAI_ASSIGN(f, take(true));
    if (!start_load(page, f)) {
      return_frame(f);
      continue;
    }
    counters_.misses.fetch_add(1, std::memory_order_relaxed);
    PageSource::Read r{page, frame_data(f), {}};
    source_->read_pages({&r, 1});
    finish_load(page, f, r.result.has_value());
    return r.result;
  }
}

void Pool::load_batch(std::span<const PageId> pages) {
  // Errors are not reported here: the caller's own read() of the page meets them again.
  PageSource::Read reads[kBatch];
  FrameId frames[kBatch];
  while (!pages.empty()) {
    io::Waits::LateTimer miss(env_);
    std::size_t n = 0;
    for (; !pages.empty() && n < kBatch; pages = pages.subspan(1)) {
      const PageId page = pages.front();
      Optimistic g;
      if (page == kNoPage || word(page) == nullptr || peek(page, g) != Peek::miss) continue;
      miss.start(io::Wait::buffer_miss);
      const auto f = take(n == 0);  // who holds frames does not wait long for more
      if (!f) {
        pages = {};  // finish the reads begun; the rest is the callers' own
        break;
      }
      if (!start_load(page, *f)) {
        return_frame(*f);
        continue;
      }
      reads[n] = {page, frame_data(*f), {}};
      frames[n++] = *f;
    }
    if (n == 0) continue;
    counters_.misses.fetch_add(n, std::memory_order_relaxed);
    source_->read_pages({reads, n});
    for (std::size_t i = 0; i < n; ++i)
      finish_load(reads[i].page, frames[i], reads[i].result.has_value());
  }
}

class Pool::Arriving final : public PageSource::Arrivals {
 public:
  Arriving(Pool& pool, std::span<const PageId> pages)
      : pool_(pool), pages_(pages), frames_(pages.size(), kNoFrame) {}

  std::byte* begin(std::size_t i) override {
    const PageId page = pages_[i];
    Optimistic g;
    if (full_ || page == kNoPage || pool_.word(page) == nullptr ||
        pool_.peek(page, g) != Peek::miss)
      return nullptr;
    const auto f = pool_.take(held_ == 0);  // as in load_batch()
    full_ = !f;
    if (!f) return nullptr;
    if (!pool_.start_load(page, *f)) {
      pool_.return_frame(*f);
      return nullptr;
    }
    pool_.counters_.misses.fetch_add(1, std::memory_order_relaxed);
    frames_[i] = *f;
    ++held_;
    return pool_.frame_data(*f);
  }
  void end(std::size_t i, bool ok) override {
    pool_.finish_load(pages_[i], frames_[i], ok);
    --held_;
  }

 private:
  Pool& pool_;
  std::span<const PageId> pages_;
  std::vector<FrameId> frames_;
  std::size_t held_ = 0;
  bool full_ = false;
};

void Pool::load_runs(std::span<const PageId> pages) {
  Arriving to(*this, pages);
  source_->read_runs(pages, to);
}

void Pool::hold(PageId page, Word& w, FrameId f, Exclusive& out) noexcept {
  out.release();
  out.pool_ = this;
  out.word_ = &w;
  out.data_ = frame_data(f);
  out.frame_ = &frames_[f];
  out.frame_id_ = f;
  out.page_ = page;
}

bool Pool::upgrade(const Optimistic& from, Exclusive& out) noexcept {
  if (from.word_ == nullptr) return false;
  Word* w = word(from.page_);
  std::uint64_t expected = from.seen_;
  if (!w->compare_exchange_strong(expected, expected | kExclusive, std::memory_order_acq_rel))
    return false;
  hold(from.page_, *w, static_cast<FrameId>(frame_bits(from.seen_) - 1), out);
  return true;
}

bool Pool::try_latch(PageId page, Exclusive& out) noexcept {
  Optimistic g;
  return peek(page, g) == Peek::ok && upgrade(g, out);
}

bool Pool::latch(PageId page, Exclusive& out) noexcept {
  return try_latch(page, out) || latch_slowly(page, out);
}

bool Pool::latch_slowly(PageId page, Exclusive& out) noexcept {
  Optimistic g;
  io::Waits::LateTimer wait(env_);
  for (unsigned spins = 0;;) {
    const Peek p = peek(page, g);
    if (p == Peek::miss) return false;
    if (p == Peek::ok && upgrade(g, out)) return true;
    // Being read from disk counts as not resident: nobody waits for I/O under a latch (I11).
    if ((word(page)->load(std::memory_order_acquire) & kLatchMask) == kLoading) return false;
    if (++spins < kSpins) {
      io::cpu_relax();
    } else {
      wait.start(io::Wait::page_latch);
      io::yield_thread();
    }
  }
}

bool Pool::try_latch_frame(FrameId f, Exclusive& out) noexcept {
  const std::uint64_t page = frames_[f].page.load(std::memory_order_acquire);
  return page != 0 && try_latch(PageId{page}, out) && out.frame_id() == f;
}

bool Pool::pin(const Optimistic& seen, Pin& out) noexcept {
  Frame& fr = frames_[frame_bits(seen.seen_) - 1];
  // The increment must be visible before the re-check, as the evictor's latch must be before its
  // look at the pins (both sequentially consistent): one of the two sees the other.
  fr.pins.fetch_add(1, std::memory_order_seq_cst);
  if (seen.word_->load(std::memory_order_seq_cst) != seen.seen_) {
    fr.pins.fetch_sub(1, std::memory_order_release);
    return false;
  }
  out.release();
  out.frame_ = &fr;
  return true;
}

Pool::Pin Pool::pin(const Exclusive& held) noexcept {
  Pin p;
  held.frame().pins.fetch_add(1, std::memory_order_seq_cst);
  p.frame_ = &held.frame();
  return p;
}

Pool::Exclusive Pool::adopt(PageId page, FrameId f) {
  Word* w = word(page);
  KESSAI_CHECK(w != nullptr);
  std::uint64_t seen = w->load(std::memory_order_acquire);
  for (;;) {
    // A stale optimistic reader may be probing this id ("loading"): it will find nothing and let
    // go.
    if (!latched(seen)) {
      KESSAI_CHECK(frame_bits(seen) == 0);
      if (w->compare_exchange_weak(seen, seen | kExclusive | (f + std::uint64_t{1}),
                                   std::memory_order_acq_rel))
        break;
    } else {
      io::yield_thread();
      seen = w->load(std::memory_order_acquire);
    }
  }
  frames_[f].dirty_epoch.store(0, std::memory_order_relaxed);
  frames_[f].ref.store(1, std::memory_order_relaxed);
  frames_[f].page.store(raw(page), std::memory_order_release);
  Exclusive x;
  hold(page, *w, f, x);
  return x;
}

void Pool::discard(Exclusive&& x) noexcept {
  const FrameId f = x.frame_id_;
  frames_[f].page.store(0, std::memory_order_relaxed);
  frames_[f].dirty_epoch.store(0, std::memory_order_relaxed);
  const std::uint64_t w = x.word_->load(std::memory_order_relaxed);
  x.word_->store(released(w, 0), std::memory_order_release);
  x.pool_ = nullptr;
  return_frame(f);
}

void Pool::return_frame(FrameId f) noexcept {
  io::SpinLock lock(free_mutex_);
  free_.push_back(f);
}

Result<FrameId> Pool::take_frame() {
  if (FrameId f; take_free(f)) return f;
  const io::Waits::Timer wait(*env_, io::Wait::buffer_miss);
  return take(true);
}

bool Pool::take_free(FrameId& out) noexcept {
  io::SpinLock lock(free_mutex_);
  if (free_.empty()) return false;
  out = free_.back();
  free_.pop_back();
  return true;
}

Result<FrameId> Pool::take(bool patient) {
  for (FrameId f;;) {
    if (take_free(f)) return f;
    KESSAI_TRY(evict_batch(patient));
  }
}

std::uint32_t Pool::frames_used() const noexcept {
  io::SpinLock lock(free_mutex_);
  return frame_count_ - static_cast<std::uint32_t>(free_.size());
}

bool Pool::try_evict(FrameId f) noexcept {
  Exclusive x;
  if (!try_latch_frame(f, x)) return false;
  Frame& fr = frames_[f];
  // seq_cst: see pin().
  if (fr.pins.load(std::memory_order_seq_cst) != 0 ||
      (fr.writing.load(std::memory_order_acquire) != 0 && !KESSAI_MUTANT(evicted_while_written)) ||
      fr.dirty_epoch.load(std::memory_order_relaxed) != 0) {
    return false;
  }
  discard(std::move(x));
  return true;
}

/// A batch is never so much of the pool that one sweep goes all the way round and takes what it has
/// just stripped of its reference bit.
std::uint32_t Pool::eviction_batch() const noexcept {
  return std::clamp<std::uint32_t>(frame_count_ / 16, 4, kBatch);
}

std::uint32_t Pool::sweep(std::vector<FrameId>& dirty, bool& busy) {
  std::uint32_t evicted = 0;
  const std::uint32_t batch = eviction_batch();
  for (std::uint32_t seen = 0; seen < 2 * frame_count_ && evicted < batch; ++seen) {
    const FrameId f = hand_;
    hand_ = hand_ + 1 == frame_count_ ? 0 : hand_ + 1;
    Frame& fr = frames_[f];
    if (fr.pins.load(std::memory_order_relaxed) != 0) continue;
    if (fr.page.load(std::memory_order_relaxed) == 0 ||
        (fr.writing.load(std::memory_order_relaxed) != 0 &&
         !KESSAI_MUTANT(evicted_while_written))) {
      busy = true;
      continue;
    }
    if (fr.ref.load(std::memory_order_relaxed) != 0) {
      fr.ref.store(0, std::memory_order_relaxed);
    } else if (fr.dirty_epoch.load(std::memory_order_relaxed) != 0) {
      if (dirty.size() < batch && std::find(dirty.begin(), dirty.end(), f) == dirty.end())
        dirty.push_back(f);
      // A batch of dirty victims is as good as evicted ones: writing it frees the next round.
      if (dirty.size() == batch) break;
    } else if (try_evict(f)) {
      ++evicted;
    } else {
      busy = true;
    }
  }
  return evicted;
}

Result<void> Pool::evict_batch(bool patient) {
  io::MutexLock lock(evict_mutex_);
  {
    io::SpinLock free_lock(free_mutex_);
    if (!free_.empty()) return {};  // somebody else made room while we waited
  }
  pressure_.store(true, std::memory_order_relaxed);
  std::vector<FrameId> dirty;
  for (unsigned round = 0;; ++round) {
    dirty.clear();
    bool busy = false;
    std::uint32_t evicted = sweep(dirty, busy);
    busy |= !dirty.empty();
    if (!dirty.empty() && evicted < eviction_batch()) {
      KESSAI_TRY(source_->write_out(dirty));
      for (const FrameId f : dirty) evicted += try_evict(f) ? 1 : 0;
    }
    counters_.evicted.fetch_add(evicted, std::memory_order_relaxed);
    if (evicted > 0) return {};
    if (round >= (busy && patient ? kBusyRounds : kPinnedRounds)) break;
    if (round < kPinnedRounds) {
      io::yield_thread();
    } else {
      io::pause_for(kBusyPauseNs);
    }
    io::SpinLock free_lock(free_mutex_);
    if (!free_.empty()) return {};
  }
  return fail(Code::out_of_memory,
              "every page of the cache is in use (pinned or being written); raise Options::memory");
}

}  // namespace kessai::btree
