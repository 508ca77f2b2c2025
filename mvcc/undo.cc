// SPDX-License-Identifier: Apache-2.0
#include "mvcc/undo.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <utility>

#include "io/check.hpp"
#include "io/mutant.hpp"
#include "io/waits.hpp"

namespace kessai::mvcc {

// In a block; key and value bytes follow. A bucket's chain runs from the newest push to the oldest.
struct Undo::Entry {
  Entry* older;
  Entry* newer;
  std::uint64_t hash;
  Lsn begin;
  Lsn end;
  std::uint32_t size;  // of the entry with its bytes, a multiple of 8
  TreeId tree;
  std::uint32_t key_bytes;
  std::uint32_t value_bytes;
  std::uint8_t flags;
  bool present;
  bool dead;             // unlinked, its bytes not yet given back
  std::uint32_t offset;  // in its block

  [[nodiscard]] const char* bytes() const noexcept {
    return reinterpret_cast<const char*>(this) + sizeof(Entry);
  }
  [[nodiscard]] bool is(std::uint64_t h, TreeId t, std::string_view key) const noexcept {
    return hash == h && tree == t && std::string_view(bytes(), key_bytes) == key;
  }
  void prefetch() const noexcept {
    const auto* at = reinterpret_cast<const char*>(this);
    for (std::size_t line = 0; line < 3; ++line) __builtin_prefetch(at + line * 64);
  }
  void set(const Image& image) noexcept {
    flags = image.flags;
    present = image.present;
    value_bytes = static_cast<std::uint32_t>(image.value.size());
    if (!image.value.empty())
      std::memcpy(reinterpret_cast<char*>(this + 1) + key_bytes, image.value.data(), value_bytes);
  }
};

struct Undo::Block {
  static constexpr std::size_t kBytes = 16'384;
  Block* next = nullptr;
  Block* prev = nullptr;
  std::size_t capacity = 0;  // of data
  std::size_t head = 0;      // entries before were dropped
  std::size_t tail = 0;      // free from here
  std::size_t live = 0;      // bytes of entries that are not dead

  [[nodiscard]] std::byte* data() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
  [[nodiscard]] Entry* at(std::size_t offset) noexcept {
    return reinterpret_cast<Entry*>(data() + offset);
  }
  static Block* of(Entry* e) noexcept {
    return reinterpret_cast<Block*>(reinterpret_cast<std::byte*>(e) - e->offset) - 1;
  }
  static Block* make(std::size_t entry_size) {
    const std::size_t capacity = std::max(kBytes - sizeof(Block), entry_size);
    auto* block = new (::operator new(sizeof(Block) + capacity)) Block;
    block->capacity = capacity;
    return block;
  }
  static void free(Block* block) noexcept { ::operator delete(block); }
};

struct alignas(64) Undo::Shard {
  // Stored under the mutex; find's acquire load pairs with the release stores of push and gc.
  io::Atomic<std::uint32_t> count{0};
  io::Mutex mutex;
  std::uint32_t bucket_mask KESSAI_GUARDED_BY(mutex) = 0;
  std::unique_ptr<Entry*[]> buckets KESSAI_GUARDED_BY(mutex);
  // Where the buckets are, for prefetching without the mutex; never dereferenced.
  std::atomic<Entry**> near_buckets{nullptr};
  std::atomic<std::uint32_t> near_mask{0};
  Block* first KESSAI_GUARDED_BY(mutex) = nullptr;  // oldest
  Block* last KESSAI_GUARDED_BY(mutex) = nullptr;
  std::int64_t unreported KESSAI_GUARDED_BY(mutex) = 0;  // bytes not yet in Undo::bytes_
  std::uint64_t find_ns KESSAI_GUARDED_BY(mutex) = 0;    // of the last find that was timed
  Counters counters KESSAI_GUARDED_BY(mutex);
  InUse in_use KESSAI_GUARDED_BY(mutex);  // for push; as old as the last prune_by

  Entry*& bucket(std::uint64_t hash) KESSAI_REQUIRES(mutex) { return buckets[hash & bucket_mask]; }

  void link(Entry* e) KESSAI_REQUIRES(mutex) {
    Entry*& head = bucket(e->hash);
    e->older = head;
    e->newer = nullptr;
    if (head != nullptr) head->newer = e;
    head = e;
  }

  void unlink(Entry* e) KESSAI_REQUIRES(mutex) {
    (e->newer != nullptr ? e->newer->older : bucket(e->hash)) = e->older;
    if (e->older != nullptr) e->older->newer = e->newer;
  }

  /// Puts `moved` (a copy) in the chain in place of `e`.
  void relink(Entry* e, Entry* moved) KESSAI_REQUIRES(mutex) {
    (e->newer != nullptr ? e->newer->older : bucket(e->hash)) = moved;
    if (e->older != nullptr) e->older->newer = moved;
  }

  /// For an entry: a place in the last block, and its offset there.
  [[nodiscard]] std::pair<void*, std::uint32_t> allocate(std::size_t size) KESSAI_REQUIRES(mutex) {
    if (last == nullptr || last->capacity - last->tail < size) {
      Block* block = Block::make(size);
      counters.block_bytes += sizeof(Block) + block->capacity;
      block->prev = last;
      (last != nullptr ? last->next : first) = block;
      last = block;
    }
    last->live += size;
    const std::size_t at = std::exchange(last->tail, last->tail + size);
    return {last->data() + at, static_cast<std::uint32_t>(at)};
  }

  void free_block(Block* block) KESSAI_REQUIRES(mutex) {
    (block->prev != nullptr ? block->prev->next : first) = block->next;
    (block->next != nullptr ? block->next->prev : last) = block->prev;
    counters.block_bytes -= sizeof(Block) + block->capacity;
    Block::free(block);
  }

  /// First of the FIFO; gives back the blocks that are through. A shard that falls empty keeps its
  /// last block, unless that is an oversized one, for the next push.
  [[nodiscard]] Entry* oldest() KESSAI_REQUIRES(mutex) {
    while (first != nullptr) {
      if (first->live != 0) {
        while (first->at(first->head)->dead) first->head += first->at(first->head)->size;
        return first->at(first->head);
      }
      if (first == last && first->capacity + sizeof(Block) == Block::kBytes) {
        first->head = first->tail = 0;
        return nullptr;
      }
      free_block(first);
    }
    return nullptr;
  }

  void kill(Entry* e) KESSAI_REQUIRES(mutex) {
    unlink(e);
    e->dead = true;
    Block::of(e)->live -= e->size;
    // Release: pairs with the acquire load of find; who sees the shard empty sees why.
    count.store(count.load(std::memory_order_relaxed) - 1, std::memory_order_release);
    ++counters.dropped;
  }

  // Copies the entries that are left in a thin block to the end, so that it can be freed. They
  // then stand behind younger ones in the FIFO, but not in their chain.
  void move_out(Block* block) KESSAI_REQUIRES(mutex) {
    for (std::size_t at = block->head; at < block->tail; at += block->at(at)->size) {
      Entry* e = block->at(at);
      if (e->dead) continue;
      const auto [to, offset] = allocate(e->size);
      std::memcpy(to, e, e->size);
      auto* moved = static_cast<Entry*>(to);
      moved->offset = offset;
      relink(e, moved);
      block->live -= e->size;
      e->dead = true;
    }
  }

  /// Frees a block, not the last, when most of it is dead. Entries in it may move. True: it went.
  bool thin(Block* block) KESSAI_REQUIRES(mutex) {
    if (block == last || block->live * 4 >= block->tail) return false;
    if (block->live != 0) move_out(block);
    free_block(block);
    return true;
  }

  /// The newest image of a record, if nobody looks into it and `size` fits in its place: the next
  /// image may take it over. Then a record that changes beside a long reader costs neither new
  /// memory nor the lines of a block's header.
  [[nodiscard]] Entry* replaceable(std::uint64_t hash, TreeId tree, std::string_view key,
                                   std::size_t size) KESSAI_REQUIRES(mutex) {
    Entry* e = bucket(hash);
    for (std::size_t n = 0; n < kPrunePerPush && e != nullptr; ++n, e = e->older) {
      if (!e->is(hash, tree, key)) continue;
      // Not into a much larger one: a short row must not keep the bytes of a long one.
      const bool fits = size <= e->size && e->size <= 2 * size;
      return fits && in_use.misses(e->begin, e->end) ? e : nullptr;
    }
    return nullptr;
  }

  /// Drops what nobody looks into among the entries just before `e`: mostly the image that the last
  /// change of the same record left. Returns bytes.
  [[nodiscard]] std::int64_t prune_behind(const Entry* e) KESSAI_REQUIRES(mutex) {
    if (in_use.points.empty()) return 0;
    std::int64_t bytes = 0;
    Entry* at = e->older;
    for (std::size_t n = 0; n < kPrunePerPush && at != nullptr; ++n) {
      Entry* older = at->older;
      if (in_use.misses(at->begin, at->end)) {
        bytes += at->size;
        kill(at);
        if (thin(Block::of(at))) break;
      }
      at = older;
    }
    return bytes;
  }

  [[nodiscard]] bool find(std::uint64_t hash, TreeId tree, std::string_view key,
                          const Snapshot& snapshot, Version& out) KESSAI_REQUIRES(mutex) {
    std::uint64_t walk = 0;
    const Entry* found = nullptr;
    const Entry* e = buckets == nullptr ? nullptr : bucket(hash);
    for (; e != nullptr; e = e->older) {
      ++walk;
      if (e->older != nullptr) e->older->prefetch();
      // Intervals of a key do not overlap and come newest first. What is too new is passed before
      // its bytes are looked at.
      const bool too_new = !snapshot.sees(e->begin);
      if (too_new || !e->is(hash, tree, key)) continue;
      if (!snapshot.sees(e->end) || KESSAI_MUTANT(undo_ignores_end)) found = e;
      break;
    }
    ++counters.finds;
    counters.longest_walk = std::max(counters.longest_walk, walk);
    if (found == nullptr) return false;
    out.present = found->present;
    out.flags = found->flags;
    out.begin = found->begin;
    out.value.assign(found->bytes() + found->key_bytes, found->value_bytes);
    return true;
  }

  // Doubles the buckets. Each chain moves from its oldest entry on, which keeps the order.
  void grow() KESSAI_REQUIRES(mutex) {
    const std::size_t old_n = buckets == nullptr ? 0 : std::size_t{bucket_mask} + 1;
    const std::size_t n = std::max<std::size_t>(16, old_n * 2);
    counters.block_bytes += (n - old_n) * sizeof(Entry*);
    const auto old = std::exchange(buckets, std::make_unique<Entry*[]>(n));
    bucket_mask = static_cast<std::uint32_t>(n - 1);
    near_buckets.store(buckets.get(), std::memory_order_relaxed);
    near_mask.store(bucket_mask, std::memory_order_relaxed);
    for (std::size_t i = 0; i < old_n; ++i) {
      Entry* e = old[i];
      while (e != nullptr && e->older != nullptr) e = e->older;
      while (e != nullptr) link(std::exchange(e, e->newer));
    }
  }
};

Undo::Undo(std::uint64_t budget, const io::Env* env)
    : budget_(budget), env_(env), shards_(new Shard[kShards]) {}

Undo::~Undo() {
  for (std::size_t i = 0; i < kShards; ++i) {
    io::MutexLock lock(shards_[i].mutex);
    for (Block* block = shards_[i].first; block != nullptr;)
      Block::free(std::exchange(block, block->next));
  }
}

Undo::Shard& Undo::shard_of(std::uint64_t hash) const noexcept { return shards_[hash >> 56]; }

// The global sum is touched once per kReportBytes, not by each push.
void Undo::report(Shard& shard, std::int64_t delta) KESSAI_REQUIRES(shard.mutex) {
  shard.counters.bytes += static_cast<std::uint64_t>(delta);
  shard.unreported += delta;
  if (shard.unreported >= kReportBytes || shard.unreported <= -kReportBytes)
    bytes_.fetch_add(std::exchange(shard.unreported, 0), std::memory_order_relaxed);
}

std::size_t Undo::drop_expired(Shard& shard, Lsn horizon, std::size_t limit)
    KESSAI_REQUIRES(shard.mutex) {
  std::size_t dropped = 0;
  std::int64_t bytes = 0;
  for (Entry* e; dropped < limit && (e = shard.oldest()) != nullptr; ++dropped) {
    if ((KESSAI_MUTANT(undo_gc_by_begin) ? e->begin : e->end) > horizon) break;
    bytes += e->size;
    shard.kill(e);
  }
  if (dropped != 0) {
    (void)shard.oldest();
    report(shard, -bytes);
  }
  return dropped;
}

void Undo::push(std::uint64_t hash, TreeId tree, std::string_view key, Lsn begin, Lsn end,
                const Image& before) {
  KESSAI_CHECK(begin < end);
  const std::size_t size = (sizeof(Entry) + key.size() + before.value.size() + 7) & ~std::size_t{7};
  Shard& shard = shard_of(hash);
  io::MutexLock lock(shard.mutex);
  // Acquire, and release in gc(): who misses what goes here also sees what the collector announced.
  drop_expired(shard, horizon_.load(std::memory_order_acquire), kGcPerPush);
  const std::uint32_t count = shard.count.load(std::memory_order_relaxed);
  if (shard.buckets == nullptr || count > shard.bucket_mask) shard.grow();

  Entry* const over =
      shard.in_use.points.empty() ? nullptr : shard.replaceable(hash, tree, key, size);
  if (over != nullptr) {
    over->begin = begin;
    over->end = end;
    over->set(before);
    ++shard.counters.dropped;
    ++shard.counters.replaced;
    // What is behind is mostly needed, and not in the cache. What is not (the row changed often
    // between two prune_by) goes a few at a time.
    if (++shard.counters.pushed % kTidyEvery == 0) report(shard, -shard.prune_behind(over));
    return;
  }
  const auto [place, offset] = shard.allocate(size);
  auto* e = new (place) Entry{.older = nullptr,
                              .newer = nullptr,
                              .hash = hash,
                              .begin = begin,
                              .end = end,
                              .size = static_cast<std::uint32_t>(size),
                              .tree = tree,
                              .key_bytes = static_cast<std::uint32_t>(key.size()),
                              .value_bytes = 0,
                              .flags = 0,
                              .present = false,
                              .dead = false,
                              .offset = offset};
  if (!key.empty()) std::memcpy(reinterpret_cast<char*>(e + 1), key.data(), key.size());
  e->set(before);
  shard.link(e);
  shard.count.store(count + 1, std::memory_order_release);
  ++shard.counters.pushed;
  report(shard, static_cast<std::int64_t>(size) - shard.prune_behind(e));
}

bool Undo::find(std::uint64_t hash, TreeId tree, std::string_view key, const Snapshot& snapshot,
                Version& out) const {
  Shard& shard = shard_of(hash);
  if (shard.count.load(std::memory_order_acquire) == 0) return false;
  io::Waits* const waits = env_ != nullptr ? env_->waits : nullptr;
  // The clock costs as much as the search. So it is read where somebody holds the mutex, and for
  // one find in kTimedFinds of a shard; the finds between count with the time of that one.
  std::uint64_t start = 0;
  bool waited = false;
  if (!shard.mutex.try_lock()) {
    waited = true;
    if (waits != nullptr) start = env_->clock->now_ns();
    shard.mutex.lock();
  }
  const bool timed = waited || shard.counters.finds % kTimedFinds == 0;
  if (timed && !waited && waits != nullptr) start = env_->clock->now_ns();
  const bool found = shard.find(hash, tree, key, snapshot, out);
  std::uint64_t ns = shard.find_ns;
  if (timed && waits != nullptr) {
    ns = env_->clock->now_ns() - start;
    if (!waited) shard.find_ns = ns;
  }
  shard.mutex.unlock();
  if (waits != nullptr) waits->add(io::Wait::undo_read, ns);
  return found;
}

void Undo::prefetch_chain(std::uint64_t hash) const noexcept {
  const Shard& shard = shard_of(hash);
  const auto slot = (hash & shard.near_mask.load(std::memory_order_relaxed)) * sizeof(Entry*);
  const auto* buckets =
      reinterpret_cast<const char*>(shard.near_buckets.load(std::memory_order_relaxed));
  if (buckets != nullptr) __builtin_prefetch(buckets + slot);
}

void Undo::prefetch_newest(std::uint64_t hash, bool behind) const {
  Shard& shard = shard_of(hash);
  if (shard.count.load(std::memory_order_acquire) == 0 || !shard.mutex.try_lock()) return;
  if (shard.buckets != nullptr) {
    const Entry* e = shard.bucket(hash);
    if (behind && e != nullptr) e = e->older;
    if (e != nullptr) e->prefetch();
  }
  shard.mutex.unlock();
}

void Undo::find_many(TreeId tree, std::span<Ask> asks, const Snapshot& snapshot) const {
  for (Ask& a : asks) {
    a.hash = record_hash(tree, a.key);
    a.found = false;
    __builtin_prefetch(&shard_of(a.hash));
  }
  for (const Ask& a : asks) prefetch_chain(a.hash);
  io::Waits* const waits = env_ != nullptr ? env_->waits : nullptr;
  const std::uint64_t start = waits != nullptr ? env_->clock->now_ns() : 0;
  for (const Ask& a : asks) prefetch_newest(a.hash);
  for (const Ask& a : asks) prefetch_newest(a.hash, true);  // mostly the one that is asked for
  std::uint64_t finds = 0;
  for (Ask& a : asks) {
    Shard& shard = shard_of(a.hash);
    if (shard.count.load(std::memory_order_acquire) == 0) continue;
    ++finds;
    io::MutexLock lock(shard.mutex);
    a.found = shard.find(a.hash, tree, a.key, snapshot, a.version);
  }
  if (waits == nullptr || finds == 0) return;
  const std::uint64_t ns = (env_->clock->now_ns() - start) / finds;
  for (; finds != 0; --finds) waits->add(io::Wait::undo_read, ns);
}

std::size_t Undo::gc(Lsn horizon, std::size_t limit) {
  for (Lsn seen = horizon_.load(std::memory_order_relaxed); seen < horizon;)
    if (horizon_.compare_exchange_weak(seen, horizon, std::memory_order_release,
                                       std::memory_order_relaxed))
      break;
  std::size_t dropped = 0;
  for (std::size_t n = 0; n < kShards && dropped < limit; ++n) {
    const std::size_t i = gc_cursor_.fetch_add(1, std::memory_order_relaxed) % kShards;
    if (shards_[i].count.load(std::memory_order_relaxed) == 0) continue;
    io::MutexLock lock(shards_[i].mutex);
    dropped += drop_expired(shards_[i], horizon, limit - dropped);
  }
  return dropped;
}

std::size_t Undo::sweep(Shard& shard, const InUse& in_use) KESSAI_REQUIRES(shard.mutex) {
  std::size_t dropped = 0;
  std::int64_t bytes = 0;
  // Not past the block that is the last now: later ones hold what this sweep moves out.
  for (Block *block = shard.first, *end = shard.last, *next; block != nullptr; block = next) {
    next = block == end ? nullptr : block->next;
    for (std::size_t at = block->head; at < block->tail; at += block->at(at)->size) {
      Entry* e = block->at(at);
      if (e->dead || !in_use.misses(e->begin, e->end)) continue;
      bytes += e->size;
      ++dropped;
      shard.kill(e);
    }
    (void)shard.thin(block);
  }
  (void)shard.oldest();
  report(shard, -bytes);
  return dropped;
}

std::size_t Undo::gc_intervals(const InUse& in_use, std::size_t shards) {
  std::size_t dropped = 0;
  for (std::size_t n = 0; n < std::min(shards, kShards); ++n) {
    const std::size_t i = sweep_cursor_.fetch_add(1, std::memory_order_relaxed) % kShards;
    if (shards_[i].count.load(std::memory_order_relaxed) == 0) continue;
    io::MutexLock lock(shards_[i].mutex);
    dropped += sweep(shards_[i], in_use);
  }
  return dropped;
}

void Undo::prune_by(const InUse& in_use) {
  InUse first = in_use;
  if (KESSAI_MUTANT(prune_forgets_snapshots))
    first.points.resize(std::min<std::size_t>(1, first.points.size()));
  if (first.points.size() > kPrunePoints) {
    // Whatever is from there on, is in use.
    first.bound = std::min(first.bound, first.points[kPrunePoints]);
    first.points.resize(kPrunePoints);
  }
  old_below_.store(first.points.empty() ? 0 : first.bound, std::memory_order_relaxed);
  for (std::size_t i = 0; i < kShards; ++i) {
    io::MutexLock lock(shards_[i].mutex);
    shards_[i].in_use = first;
  }
}

std::vector<Undo::Kept> Undo::versions(TreeId tree, std::string_view key) const {
  const std::uint64_t hash = record_hash(tree, key);
  Shard& shard = shard_of(hash);
  std::vector<Kept> found;
  io::MutexLock lock(shard.mutex);
  if (shard.buckets == nullptr) return found;
  for (const Entry* e = shard.bucket(hash); e != nullptr; e = e->older) {
    if (!e->is(hash, tree, key)) continue;
    found.push_back(
        {e->begin, e->end, e->present, std::string(e->bytes() + e->key_bytes, e->value_bytes)});
  }
  return found;
}

std::vector<std::uint64_t> Undo::bytes_needed(std::span<const Lsn> snapshots) const {
  std::vector<std::uint64_t> bytes(snapshots.size(), 0);
  if (snapshots.empty()) return bytes;
  for (std::size_t i = 0; i < kShards; ++i) {
    Shard& shard = shards_[i];
    if (shard.count.load(std::memory_order_relaxed) == 0) continue;
    io::MutexLock lock(shard.mutex);
    for (Block* block = shard.first; block != nullptr; block = block->next) {
      for (std::size_t at = block->head; at < block->tail; at += block->at(at)->size) {
        const Entry* e = block->at(at);
        if (e->dead) continue;
        const auto first = std::ranges::lower_bound(snapshots, e->begin);
        if (first != snapshots.end() && *first < e->end)
          bytes[static_cast<std::size_t>(first - snapshots.begin())] += e->size;
      }
    }
  }
  return bytes;
}

Undo::Counters Undo::counters() const {
  Counters sum;
  for (std::size_t i = 0; i < kShards; ++i) {
    Shard& shard = shards_[i];
    io::MutexLock lock(shard.mutex);
    sum.entries += shard.count.load(std::memory_order_relaxed);
    sum.bytes += shard.counters.bytes;
    sum.block_bytes += shard.counters.block_bytes;
    sum.pushed += shard.counters.pushed;
    sum.dropped += shard.counters.dropped;
    sum.replaced += shard.counters.replaced;
    sum.finds += shard.counters.finds;
    sum.longest_walk = std::max(sum.longest_walk, shard.counters.longest_walk);
  }
  return sum;
}

}  // namespace kessai::mvcc
