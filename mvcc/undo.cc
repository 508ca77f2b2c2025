// SPDX-License-Identifier: Apache-2.0
#include "mvcc/undo.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>

#include "io/check.hpp"
#include "io/mutant.hpp"

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

  [[nodiscard]] const char* bytes() const noexcept {
    return reinterpret_cast<const char*>(this) + sizeof(Entry);
  }
  [[nodiscard]] bool is(std::uint64_t h, TreeId t, std::string_view key) const noexcept {
    return hash == h && tree == t && std::string_view(bytes(), key_bytes) == key;
  }
};

struct Undo::Block {
  static constexpr std::size_t kBytes = 16 * 1024;
  Block* next = nullptr;
  std::size_t capacity = 0;  // of data
  std::size_t head = 0;      // entries before were dropped
  std::size_t tail = 0;      // free from here

  [[nodiscard]] std::byte* data() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
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
  std::atomic<std::uint32_t> count{0};
  io::Mutex mutex;
  std::uint32_t bucket_mask KESSAI_GUARDED_BY(mutex) = 0;
  std::unique_ptr<Entry*[]> buckets KESSAI_GUARDED_BY(mutex);
  Block* first KESSAI_GUARDED_BY(mutex) = nullptr;  // oldest
  Block* last KESSAI_GUARDED_BY(mutex) = nullptr;
  std::int64_t unreported KESSAI_GUARDED_BY(mutex) = 0;  // bytes not yet in Undo::bytes_
  Counters counters KESSAI_GUARDED_BY(mutex);

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

  [[nodiscard]] Entry* oldest() KESSAI_REQUIRES(mutex) {
    return count.load(std::memory_order_relaxed) == 0
               ? nullptr
               : reinterpret_cast<Entry*>(first->data() + first->head);
  }

  [[nodiscard]] void* allocate(std::size_t size) KESSAI_REQUIRES(mutex) {
    if (last == nullptr || last->capacity - last->tail < size) {
      Block* block = Block::make(size);
      counters.block_bytes += sizeof(Block) + block->capacity;
      (last != nullptr ? last->next : first) = block;
      last = block;
      if (first != last && first->head == first->tail) release_first();  // was empty but too small
    }
    return last->data() + std::exchange(last->tail, last->tail + size);
  }

  void release_first() KESSAI_REQUIRES(mutex) {
    Block* block = std::exchange(first, first->next);
    if (first == nullptr) last = nullptr;
    counters.block_bytes -= sizeof(Block) + block->capacity;
    Block::free(block);
  }

  /// Takes the oldest entry out. A shard that falls empty keeps its last block for the next push.
  std::uint32_t drop_oldest() KESSAI_REQUIRES(mutex) {
    Entry* e = oldest();
    const std::uint32_t size = e->size;
    unlink(e);
    first->head += size;
    if (first->head == first->tail) {
      if (first == last && first->capacity + sizeof(Block) == Block::kBytes)
        first->head = first->tail = 0;
      else
        release_first();
    }
    return size;
  }

  // Doubles the buckets; relinking from oldest to newest keeps the chains in push order.
  void grow() KESSAI_REQUIRES(mutex) {
    const std::size_t n = buckets == nullptr ? 16 : (std::size_t{bucket_mask} + 1) * 2;
    counters.block_bytes += (n - (buckets == nullptr ? 0 : n / 2)) * sizeof(Entry*);
    buckets = std::make_unique<Entry*[]>(n);
    bucket_mask = static_cast<std::uint32_t>(n - 1);
    for (Block* b = first; b != nullptr; b = b->next)
      for (std::size_t at = b->head; at < b->tail;) {
        auto* e = reinterpret_cast<Entry*>(b->data() + at);
        at += e->size;
        link(e);
      }
  }
};

Undo::Undo(std::uint64_t budget) : budget_(budget), shards_(new Shard[kShards]) {}

Undo::~Undo() {
  for (std::size_t i = 0; i < kShards; ++i) {
    io::MutexLock lock(shards_[i].mutex);
    while (shards_[i].first != nullptr) shards_[i].release_first();
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
    bytes += shard.drop_oldest();
    shard.count.store(shard.count.load(std::memory_order_relaxed) - 1, std::memory_order_release);
  }
  if (dropped != 0) {
    report(shard, -bytes);
    shard.counters.dropped += dropped;
  }
  return dropped;
}

void Undo::push(std::uint64_t hash, TreeId tree, std::string_view key, Lsn begin, Lsn end,
                const Image& before) {
  KESSAI_CHECK(begin < end);
  const std::size_t size = (sizeof(Entry) + key.size() + before.value.size() + 7) & ~std::size_t{7};
  Shard& shard = shard_of(hash);
  io::MutexLock lock(shard.mutex);
  drop_expired(shard, horizon_.load(std::memory_order_relaxed), kGcPerPush);
  const std::uint32_t count = shard.count.load(std::memory_order_relaxed);
  if (shard.buckets == nullptr || count > shard.bucket_mask) shard.grow();

  auto* e = new (shard.allocate(size))
      Entry{.older = nullptr,
            .newer = nullptr,
            .hash = hash,
            .begin = begin,
            .end = end,
            .size = static_cast<std::uint32_t>(size),
            .tree = tree,
            .key_bytes = static_cast<std::uint32_t>(key.size()),
            .value_bytes = static_cast<std::uint32_t>(before.value.size()),
            .flags = before.flags,
            .present = before.present};
  char* bytes = reinterpret_cast<char*>(e + 1);
  if (!key.empty()) std::memcpy(bytes, key.data(), key.size());
  if (!before.value.empty())
    std::memcpy(bytes + key.size(), before.value.data(), before.value.size());
  shard.link(e);
  shard.count.store(count + 1, std::memory_order_release);
  ++shard.counters.pushed;
  report(shard, static_cast<std::int64_t>(size));
}

bool Undo::find(std::uint64_t hash, TreeId tree, std::string_view key, const Snapshot& snapshot,
                Version& out) const {
  Shard& shard = shard_of(hash);
  if (shard.count.load(std::memory_order_acquire) == 0) return false;
  io::MutexLock lock(shard.mutex);
  if (shard.buckets == nullptr) return false;
  std::uint64_t walk = 0;
  const Entry* found = nullptr;
  for (const Entry* e = shard.bucket(hash); e != nullptr; e = e->older) {
    ++walk;
    if (!e->is(hash, tree, key)) continue;
    // Intervals of a key do not overlap and come newest first.
    if (snapshot.sees(e->end) && !KESSAI_MUTANT(undo_ignores_end)) break;
    if (snapshot.sees(e->begin)) {
      found = e;
      break;
    }
  }
  ++shard.counters.finds;
  shard.counters.longest_walk = std::max(shard.counters.longest_walk, walk);
  if (found == nullptr) return false;
  out.present = found->present;
  out.flags = found->flags;
  out.begin = found->begin;
  out.value.assign(found->bytes() + found->key_bytes, found->value_bytes);
  return true;
}

std::size_t Undo::gc(Lsn horizon, std::size_t limit) {
  for (Lsn seen = horizon_.load(std::memory_order_relaxed); seen < horizon;)
    if (horizon_.compare_exchange_weak(seen, horizon, std::memory_order_relaxed)) break;
  std::size_t dropped = 0;
  for (std::size_t n = 0; n < kShards && dropped < limit; ++n) {
    const std::size_t i = gc_cursor_.fetch_add(1, std::memory_order_relaxed) % kShards;
    if (shards_[i].count.load(std::memory_order_relaxed) == 0) continue;
    io::MutexLock lock(shards_[i].mutex);
    dropped += drop_expired(shards_[i], horizon, limit - dropped);
  }
  return dropped;
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
    sum.finds += shard.counters.finds;
    sum.longest_walk = std::max(sum.longest_walk, shard.counters.longest_walk);
  }
  return sum;
}

}  // namespace kessai::mvcc
