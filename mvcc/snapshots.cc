// SPDX-License-Identifier: Apache-2.0
#include "mvcc/snapshots.hpp"

#include "io/check.hpp"

namespace kessai::mvcc {

Snapshots::~Snapshots() {
  KESSAI_DCHECK(count() == 0);
  for (Block* b = first_.next.load(); b != nullptr;) delete std::exchange(b, b->next.load());
}

// `used` and `next` are raised before the slot is claimed, all seq_cst: a scan that missed either
// comes before the claim in the total order, which is the "older value" case of the argument above.
Snapshots::Slot* Snapshots::claim(std::uint64_t word) {
  unsigned start = io::thread_index() % Block::kSlots;
  for (Block* block = &first_;; start = 0) {
    for (unsigned n = 0; n < Block::kSlots; ++n) {
      const unsigned i = (start + n) % Block::kSlots;
      Slot& slot = block->slots[i];
      std::uint64_t expected = kFree;
      if (slot.word.load(std::memory_order_relaxed) != kFree) continue;
      for (unsigned used = block->used.load(); used <= i;)
        block->used.compare_exchange_weak(used, i + 1);
      if (slot.word.compare_exchange_strong(expected, word)) return &slot;
    }
    Block* next = block->next.load();
    block = next != nullptr ? next : grow(*block);
  }
}

Snapshots::Block* Snapshots::grow(Block& last) {
  io::MutexLock lock(grow_mutex_);
  Block* next = last.next.load();
  if (next == nullptr) last.next.store(next = new Block);
  return next;
}

template <class Fn>
void Snapshots::for_each(Fn&& fn) const {
  for (const Block* b = &first_; b != nullptr; b = b->next.load()) {
    const unsigned used = b->used.load();
    for (unsigned i = 0; i < used; ++i) {
      const std::uint64_t word = b->slots[i].word.load();
      if (word != kFree) fn(b->slots[i], word);
    }
  }
}

namespace {
Lsn raise(io::Atomic<Lsn>& word, Lsn to) noexcept {
  Lsn now = word.load();
  while (now < to && !word.compare_exchange_weak(now, to)) {
  }
  return std::max(now, to);
}
}  // namespace

Lsn Snapshots::horizon(Lsn read_only_bound) noexcept {
  raise(last_bound_, read_only_bound);
  Lsn h = read_only_bound;
  for_each([&](const Slot&, std::uint64_t word) {
    if ((word & kKilled) == 0 && !KESSAI_MUTANT(chain_cut_early)) h = std::min(h, lsn_of(word));
  });
  return raise(last_horizon_, h);
}

InUse Snapshots::in_use(Lsn read_only_bound) {
  raise(last_bound_, read_only_bound);
  InUse result{.points = {}, .bound = read_only_bound};
  for_each([&](const Slot&, std::uint64_t word) {
    if ((word & kRaising) != 0) {
      result.bound = std::min(result.bound, lsn_of(word));  // its W is anything from there on
    } else if ((word & kKilled) == 0) {
      result.points.push_back(lsn_of(word));
    }
  });
  std::sort(result.points.begin(), result.points.end());
  result.points.erase(std::unique(result.points.begin(), result.points.end()), result.points.end());
  // From `bound` on everything is in use anyway.
  while (!result.points.empty() && result.points.back() >= result.bound) result.points.pop_back();
  return result;
}

std::optional<Lsn> Snapshots::oldest() const noexcept {
  std::optional<Lsn> lowest;
  for_each([&](const Slot&, std::uint64_t word) {
    if ((word & (kKilled | kRaising)) == 0)
      lowest = std::min(lowest.value_or(kMaxLsn), lsn_of(word));
  });
  return lowest;
}

std::size_t Snapshots::count() const noexcept {
  std::size_t n = 0;
  for_each([&](const Slot&, std::uint64_t) { ++n; });
  return n;
}

std::optional<Lsn> Snapshots::kill_oldest() noexcept {
  for (;;) {
    const Slot* victim = nullptr;
    std::uint64_t lowest = kFree;
    for_each([&](const Slot& slot, std::uint64_t word) {
      if ((word & (kKilled | kRaising)) == 0 && word < lowest) victim = &slot, lowest = word;
    });
    if (victim == nullptr) return std::nullopt;
    // The slot may have been reused since: with the same W it is as good a victim, else retry.
    std::uint64_t expected = lowest;
    if (const_cast<Slot*>(victim)->word.compare_exchange_strong(expected, lowest | kKilled))
      return lsn_of(lowest);
  }
}

}  // namespace kessai::mvcc
