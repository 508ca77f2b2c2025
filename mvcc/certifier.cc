// SPDX-License-Identifier: Apache-2.0
#include "mvcc/certifier.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

#include "io/annotations.hpp"
#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::mvcc {
namespace {

constexpr unsigned kSpins = 64;   // then yield
constexpr unsigned kYields = 16;  // looks at an entry that overlaps and has no LSN yet
constexpr std::size_t kTallies = 16;
constexpr std::size_t kKeptPoints = 4096;  // capacity that clear() keeps

void relax(unsigned tries) noexcept {
  if (tries < kSpins) {
    io::cpu_relax();
  } else {
    io::yield_thread();
  }
}

}  // namespace

// ---- ReadSet -----------------------------------------------------------------------------------

void ReadSet::point(TreeId tree, std::string_view key) {
  points_.push_back(record_hash(tree, key));
  sealed_ = false;
  if (points_.size() >= compact_at_) compact_points();
}

void ReadSet::compact_points() {
  std::ranges::sort(points_);
  points_.erase(std::ranges::unique(points_).begin(), points_.end());
  compact_at_ = std::max<std::size_t>(1024, points_.size() * 2);
}

std::size_t ReadSet::add(Range range) {
  ranges_.push_back(std::move(range));
  sealed_ = false;
  return ranges_.size() - 1;
}

void ReadSet::clear() noexcept {
  points_.clear();
  if (points_.capacity() > kKeptPoints) points_.shrink_to_fit();
  ranges_.clear();
  compact_at_ = 1024;
  sealed_ = true;
}

void ReadSet::seal() {
  compact_points();
  std::ranges::sort(ranges_, {}, [](const Range& r) { return std::tie(r.tree, r.from); });
  const auto ends_before = [](const Range& a, const Range& b) {
    if (a.to_end || b.to_end) return !a.to_end;
    return a.to != b.to ? a.to < b.to : b.to_inclusive && !a.to_inclusive;
  };
  std::size_t kept = 0;
  for (Range& r : ranges_) {
    if (kept > 0) {
      Range& last = ranges_[kept - 1];
      if (last.tree == r.tree && (last.to_end || r.from <= last.to)) {
        if (ends_before(last, r)) {
          last.to = std::move(r.to);
          last.to_end = r.to_end;
          last.to_inclusive = r.to_inclusive;
        }
        continue;
      }
    }
    if (&ranges_[kept] != &r) ranges_[kept] = std::move(r);
    ++kept;
  }
  ranges_.resize(kept);
  sealed_ = true;
}

bool ReadSet::read(TreeId tree, std::string_view key, std::uint64_t hash) const {
  KESSAI_CHECK(sealed_);
  if (std::ranges::binary_search(points_, hash)) return true;
  // Disjoint and sorted: only the last one that starts at or before the key can hold it.
  const auto after = std::ranges::upper_bound(
      ranges_, std::pair(tree, key), {},
      [](const Range& r) { return std::pair(r.tree, std::string_view(r.from)); });
  return after != ranges_.begin() && std::prev(after)->holds(tree, key);
}

// ---- the ring ----------------------------------------------------------------------------------

struct Certifier::Set {
  struct Item {
    std::uint64_t hash;
    TreeId tree;
    std::uint32_t length;
  };
  std::vector<Item> items;
  std::string keys;  // one after the other

  static std::size_t key_bytes(std::span<const Written> writes) noexcept {
    std::size_t n = 0;
    for (const Written& w : writes) n += w.key.size();
    return n;
  }
  void assign(std::span<const Written> writes) {
    clear();
    for (const Written& w : writes) {
      items.push_back(
          {record_hash(w.tree, w.key), w.tree, static_cast<std::uint32_t>(w.key.size())});
      keys += w.key;
    }
  }
  void clear() noexcept {
    items.clear();
    keys.clear();
  }
  [[nodiscard]] std::size_t bytes() const noexcept {
    return items.size() * sizeof(Item) + keys.size();
  }
  [[nodiscard]] std::optional<Conflict> first_read(const ReadSet& reads) const {
    std::size_t from = 0;
    for (const Item& i : items) {
      const std::string_view key(keys.data() + from, i.length);
      if (reads.read(i.tree, key, i.hash)) return Conflict{i.tree, std::string(key), 0};
      from += i.length;
    }
    return std::nullopt;
  }
};

struct alignas(64) Certifier::Entry {
  io::SpinMutex mutex;
  bool finished KESSAI_GUARDED_BY(mutex) = true;
  bool gone KESSAI_GUARDED_BY(mutex) = false;  ///< the large set had to go
  Ticket ticket KESSAI_GUARDED_BY(mutex) = 0;  ///< of the last commit that used the place
  Lsn lsn KESSAI_GUARDED_BY(mutex) = 0;        ///< 0: not known yet, or finished and void
  Set small KESSAI_GUARDED_BY(mutex);
  std::shared_ptr<const Set> large KESSAI_GUARDED_BY(mutex);
};

/// Counters of the threads whose index ends alike.
struct alignas(64) Certifier::Tally {
  std::atomic<std::uint64_t> validated{0}, conflicts{0}, overtaken{0}, looked_at{0};
};

Certifier::Certifier() : tallies_(std::make_unique<Tally[]>(kTallies)) {}

Certifier::~Certifier() {
  for (const auto& chunk : ring_) delete[] chunk.load(std::memory_order_relaxed);
}

Certifier::Entry& Certifier::at(Ticket ticket) const noexcept {
  const std::size_t place = ticket % kEntries;
  Entry* chunk = ring_[place / kChunk].load(std::memory_order_acquire);
  if (chunk == nullptr) [[unlikely]]
    chunk = make_chunk(place / kChunk);
  return chunk[place % kChunk];
}

Certifier::Entry* Certifier::make_chunk(std::size_t chunk) const noexcept {
  auto made = std::make_unique<Entry[]>(kChunk);
  for (std::size_t i = 0; i < kChunk; ++i) {
    const io::SpinLock lock(made[i].mutex);
    made[i].ticket = chunk * kChunk + i;
  }
  Entry* there = nullptr;  // or another thread's
  if (ring_[chunk].compare_exchange_strong(there, made.get(), std::memory_order_acq_rel))
    return made.release();
  return there;
}

// Acquire: pairs with advance(); what those before it applied is in a snapshot taken from now on.
Certifier::Ticket Certifier::begin() const noexcept {
  return oldest_unfinished_.load(std::memory_order_acquire);
}

Certifier::Ticket Certifier::publish(std::span<const Written> writes) {
  std::shared_ptr<const Set> large;
  if (writes.size() > kSmallKeys || Set::key_bytes(writes) > kSmallBytes) {
    auto set = std::make_shared<Set>();
    set->items.reserve(writes.size());
    set->keys.reserve(Set::key_bytes(writes));
    set->assign(writes);
    large_bytes_.fetch_add(set->bytes(), std::memory_order_relaxed);
    large = std::move(set);
    shrink();
  }
  const Ticket ticket = next_.fetch_add(1, std::memory_order_acq_rel);
  Entry& e = at(ticket);
  for (unsigned tries = 0;; ++tries) {
    {
      const io::SpinLock lock(e.mutex);
      if (e.finished && e.ticket + kEntries == ticket) {
        e.ticket = ticket;
        e.finished = false;
        e.gone = false;
        e.lsn = 0;
        if (large != nullptr) {
          e.small.clear();
        } else {
          e.small.assign(writes);
        }
        std::swap(e.large, large);
        break;
      }
    }
    relax(tries);
  }
  give_back(large);
  return ticket;
}

void Certifier::reserved(Ticket entry, Lsn lsn) noexcept {
  Entry& e = at(entry);
  const io::SpinLock lock(e.mutex);
  e.lsn = lsn;
}

void Certifier::finished(Ticket entry, Lsn lsn) noexcept {
  std::shared_ptr<const Set> void_set;
  {
    Entry& e = at(entry);
    const io::SpinLock lock(e.mutex);
    e.lsn = lsn;
    e.finished = true;
    if (lsn == 0) std::swap(void_set, e.large);
  }
  give_back(void_set);
  advance();
}

/// Each finisher marks its entry, then looks whether the oldest is finished; both under the entry's
/// lock. So of two that finish the oldest and the next, one sees the other: it cannot stick.
void Certifier::advance() noexcept {
  Ticket oldest = oldest_unfinished_.load(std::memory_order_acquire);
  while (oldest < next_.load(std::memory_order_acquire)) {
    {
      Entry& e = at(oldest);
      const io::SpinLock lock(e.mutex);
      // A later ticket: the place was used again, so the entry was finished.
      if (e.ticket < oldest || (e.ticket == oldest && !e.finished)) return;
    }
    if (oldest_unfinished_.compare_exchange_strong(oldest, oldest + 1, std::memory_order_acq_rel))
      ++oldest;
  }
}

void Certifier::give_back(const std::shared_ptr<const Set>& large) noexcept {
  if (large != nullptr) large_bytes_.fetch_sub(large->bytes(), std::memory_order_relaxed);
}

/// Lets the oldest large sets of finished commits go while there is too much of them.
void Certifier::shrink() noexcept {
  while (large_bytes_.load(std::memory_order_relaxed) > kLargeBytes) {
    Ticket from = shrunk_to_.load(std::memory_order_relaxed);
    const Ticket t = std::max(from, next_.load(std::memory_order_acquire) - kEntries);
    if (t >= oldest_unfinished_.load(std::memory_order_acquire)) return;
    if (!shrunk_to_.compare_exchange_strong(from, t + 1, std::memory_order_relaxed)) continue;
    std::shared_ptr<const Set> old;
    {
      Entry& e = at(t);
      const io::SpinLock lock(e.mutex);
      if (e.ticket != t || e.large == nullptr) continue;
      e.gone = true;
      std::swap(old, e.large);
    }
    give_back(old);
  }
}

// ---- validating --------------------------------------------------------------------------------

std::optional<Certifier::Conflict> Certifier::look(const ReadSet& reads, Ticket ticket,
                                                   Lsn snapshot, Lsn commit) const {
  Entry& e = at(ticket);
  std::optional<Conflict> found;  // overlaps, but its LSN is not known yet
  for (unsigned tries = 0;; ++tries) {
    std::shared_ptr<const Set> large;
    Lsn lsn = 0;
    {
      const io::SpinLock lock(e.mutex);
      if (e.ticket < ticket) return std::nullopt;  // not filled yet: reserves after we did
      if (e.ticket > ticket) return found ? found : Conflict{};
      lsn = e.lsn;
      if (lsn == 0 && (e.finished || commit == kMaxLsn)) return std::nullopt;
      if (lsn != 0 && (lsn <= snapshot || lsn > commit)) return std::nullopt;
      if (e.gone) return found ? found : Conflict{};
      if (!found) {
        large = e.large;
        if (large == nullptr) found = e.small.first_read(reads);
      }
    }
    if (large != nullptr) found = large->first_read(reads);
    if (!found) return std::nullopt;
    found->lsn = lsn;
    if (lsn != 0 || tries >= kSpins + kYields) return found;
    relax(tries);
  }
}

std::optional<Certifier::Conflict> Certifier::validate(const ReadSet& reads, Ticket start,
                                                       Lsn snapshot, Ticket mine, Lsn commit) {
  if (KESSAI_MUTANT(skip_validation)) return std::nullopt;
  Tally& tally = tallies_[io::thread_index() % kTallies];
  tally.validated.fetch_add(1, std::memory_order_relaxed);
  // Acquire: after the caller's reservation; see (a).
  const Ticket end = next_.load(std::memory_order_acquire);
  std::optional<Conflict> conflict;
  Ticket t = start;
  for (; t < end && !conflict; ++t) {
    if (t != mine) conflict = look(reads, t, snapshot, commit);
  }
  tally.looked_at.fetch_add(t - start, std::memory_order_relaxed);
  if (conflict) {
    (conflict->overtaken() ? tally.overtaken : tally.conflicts)
        .fetch_add(1, std::memory_order_relaxed);
  }
  return conflict;
}

Certifier::Counters Certifier::counters() const noexcept {
  Counters c;
  for (std::size_t i = 0; i < kTallies; ++i) {
    const Tally& t = tallies_[i];
    c.validated += t.validated.load(std::memory_order_relaxed);
    c.conflicts += t.conflicts.load(std::memory_order_relaxed);
    c.overtaken += t.overtaken.load(std::memory_order_relaxed);
    c.entries_looked_at += t.looked_at.load(std::memory_order_relaxed);
  }
  c.large_bytes = large_bytes_.load(std::memory_order_relaxed);
  return c;
}

}  // namespace kessai::mvcc
