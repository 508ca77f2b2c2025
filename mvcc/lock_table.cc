// SPDX-License-Identifier: Apache-2.0
#include "mvcc/lock_table.hpp"

#include <algorithm>
#include <utility>

#include "io/annotations.hpp"
#include "io/check.hpp"
#include "mvcc/record_hash.hpp"

namespace kessai::mvcc {

LockSet::~LockSet() { KESSAI_DCHECK(size() == 0); }

void LockSet::reset(OwnerId owner) noexcept {
  KESSAI_CHECK(size() == 0);
  owner_ = owner;
}

void LockSet::add(std::uint64_t hash) {
  if (inline_count_ < inline_.size())
    inline_[inline_count_++] = hash;
  else
    more_.push_back(hash);
}

// On the waiting thread's stack. Everything but `granted` is guarded by the shard's mutex.
struct LockTable::Waiter {
  std::uint64_t hash;
  OwnerId owner;
  unsigned thread;
  TreeId tree;
  std::string_view key;
  Waiter* next = nullptr;
  // 0 -> 1 under the shard's mutex, by the releaser, when the waiter is out of the queue. The
  // waiter may return the moment it sees 1, so the wake-up that follows can name a word whose
  // stack frame is gone: harmless, a futex wake uses the address only.
  std::atomic<std::uint32_t> granted{0};
};

// Queues are circular lists known by their last member, so that both ends are one step away.
struct LockTable::Lock {
  std::uint64_t hash = 0;  // 0: free place in the hash table
  OwnerId owner{};
  Waiter* last_waiter = nullptr;
  unsigned thread = 0;

  void enqueue(Waiter& w) noexcept {
    w.next = last_waiter != nullptr ? std::exchange(last_waiter->next, &w) : &w;
    last_waiter = &w;
  }
  Waiter* dequeue() noexcept {
    Waiter* first = last_waiter->next;
    if (first == last_waiter)
      last_waiter = nullptr;
    else
      last_waiter->next = first->next;
    return first;
  }
  void remove(Waiter& w) noexcept {
    Waiter* before = last_waiter;
    while (before->next != &w) before = before->next;
    before->next = w.next;
    if (last_waiter == &w) last_waiter = before != &w ? before : nullptr;
  }
  template <class Fn>
  void for_each_waiter(Fn&& fn) const {
    if (last_waiter == nullptr) return;
    for (const Waiter* w = last_waiter->next;; w = w->next) {
      fn(*w);
      if (w == last_waiter) return;
    }
  }
};

// Open addressing with linear probing; erase shifts back, so there are no tombstones.
struct alignas(64) LockTable::Shard {
  io::Mutex mutex;
  std::uint32_t used KESSAI_GUARDED_BY(mutex) = 0;
  std::uint32_t mask KESSAI_GUARDED_BY(mutex) = 0;
  std::unique_ptr<Lock[]> locks KESSAI_GUARDED_BY(mutex);
  std::uint32_t waiting KESSAI_GUARDED_BY(mutex) = 0;
  std::uint32_t self_deadlocks KESSAI_GUARDED_BY(mutex) = 0;
  std::uint64_t waits KESSAI_GUARDED_BY(mutex) = 0;
  std::uint64_t timeouts KESSAI_GUARDED_BY(mutex) = 0;

  /// The lock, or the free place where it goes. There always is a free place.
  Lock& place(std::uint64_t hash) KESSAI_REQUIRES(mutex) {
    std::size_t i = hash & mask;
    while (locks[i].hash != 0 && locks[i].hash != hash) i = (i + 1) & mask;
    return locks[i];
  }

  void reserve() KESSAI_REQUIRES(mutex) {
    if (locks != nullptr && (used + 1) * 4 <= (mask + 1) * 3) return;
    resize(locks == nullptr ? kSmallest : std::size_t{mask + 1} * 2);
  }

  void resize(std::size_t n) KESSAI_REQUIRES(mutex) {
    const std::unique_ptr<Lock[]> old = std::exchange(locks, std::make_unique<Lock[]>(n));
    const std::size_t old_n = old == nullptr ? 0 : std::size_t{mask} + 1;
    mask = static_cast<std::uint32_t>(n - 1);
    for (std::size_t i = 0; i < old_n; ++i)
      if (old[i].hash != 0) place(old[i].hash) = old[i];
  }

  void erase(Lock& lock) KESSAI_REQUIRES(mutex) {
    std::size_t hole = static_cast<std::size_t>(&lock - locks.get());
    for (std::size_t i = (hole + 1) & mask; locks[i].hash != 0; i = (i + 1) & mask) {
      // May move into the hole unless its home lies after the hole (cyclically).
      if (((i - locks[i].hash) & mask) < ((i - hole) & mask)) continue;
      locks[hole] = locks[i];
      hole = i;
    }
    locks[hole] = Lock{};
    if (--used == 0 && mask >= kLargestIdle) resize(kSmallest);
  }

  static constexpr std::size_t kSmallest = 8;
  static constexpr std::size_t kLargestIdle = 256;  // a bulk commit's table goes when it is empty
};

LockTable::LockTable(io::Clock& clock) : clock_(clock), shards_(new Shard[kShards]) {}

LockTable::Shard& LockTable::shard_of(std::uint64_t hash) const noexcept {
  return shards_[hash >> 54];
}

LockTable::~LockTable() { KESSAI_DCHECK(counters().held == 0); }

namespace {
Error refused(Code code, const char* why, TreeId tree, std::string_view key) {
  return Error(code, ErrorDetail{.what = "record lock in tree " + std::to_string(raw(tree)) + why,
                                 .path = {},
                                 .tree = std::to_string(raw(tree)),
                                 .key = std::string(key)});
}
}  // namespace

Result<bool> LockTable::acquire(LockSet& mine, TreeId tree, std::string_view key,
                                std::uint64_t timeout_ns) {
  const std::uint64_t hash = record_hash(tree, key);
  const unsigned thread = io::thread_index();
  Shard& shard = shard_of(hash);
  Waiter waiter{.hash = hash, .owner = mine.owner_, .thread = thread, .tree = tree, .key = key};
  {
    io::MutexLock guard(shard.mutex);
    shard.reserve();
    Lock& lock = shard.place(hash);
    if (lock.hash == 0) {
      ++shard.used;
      lock = Lock{.hash = hash, .owner = mine.owner_, .last_waiter = nullptr, .thread = thread};
      mine.add(hash);
      return true;
    }
    if (lock.owner == mine.owner_) return false;
    if (lock.thread == thread) {
      ++shard.self_deadlocks;
      return std::unexpected(refused(Code::self_deadlock,
                                     " is held by another transaction of this thread", tree, key));
    }
    if (timeout_ns == 0)
      return std::unexpected(
          refused(Code::lock_timeout, " is held by another transaction", tree, key));
    lock.enqueue(waiter);
    ++shard.waits;
    ++shard.waiting;
  }
  return wait(waiter, shard, mine, timeout_ns);
}

// Sleeps in slices, because the clock need not run at the futex's speed (a test's clock).
Result<bool> LockTable::wait(Waiter& waiter, Shard& shard, LockSet& mine,
                             std::uint64_t timeout_ns) {
  constexpr std::uint64_t kSliceNs = 20'000'000;
  const std::uint64_t start = clock_.now_ns();
  for (;;) {
    const std::uint64_t waited = clock_.now_ns() - start;
    // Acquire: pairs with the release store in release(); what the last owner wrote is visible.
    if (waiter.granted.load(std::memory_order_acquire) != 0) break;
    if (waited >= timeout_ns) {
      io::MutexLock guard(shard.mutex);
      if (waiter.granted.load(std::memory_order_relaxed) != 0) break;  // came in time after all
      shard.place(waiter.hash).remove(waiter);
      --shard.waiting;
      ++shard.timeouts;
      return std::unexpected(refused(Code::lock_timeout,
                                     " is held by another transaction: timed out", waiter.tree,
                                     waiter.key));
    }
    io::futex_wait(waiter.granted, 0, std::min(timeout_ns - waited, kSliceNs));
  }
  mine.add(waiter.hash);
  return true;
}

bool LockTable::holds(const LockSet& mine, TreeId tree, std::string_view key) const {
  const std::uint64_t hash = record_hash(tree, key);
  Shard& shard = shard_of(hash);
  io::MutexLock guard(shard.mutex);
  if (shard.locks == nullptr) return false;
  const Lock& lock = shard.place(hash);
  return lock.hash == hash && lock.owner == mine.owner_;
}

void LockTable::release(std::uint64_t hash, OwnerId owner) {
  Shard& shard = shard_of(hash);
  const std::atomic<std::uint32_t>* wake = nullptr;
  {
    io::MutexLock guard(shard.mutex);
    Lock& lock = shard.place(hash);
    KESSAI_CHECK(lock.hash == hash && lock.owner == owner);
    if (lock.last_waiter == nullptr) {
      shard.erase(lock);
      return;
    }
    Waiter* next = lock.dequeue();
    --shard.waiting;
    lock.owner = next->owner;
    lock.thread = next->thread;
    wake = &next->granted;
    next->granted.store(1, std::memory_order_release);
  }
  io::futex_wake(*wake, 1);
}

void LockTable::release_all(LockSet& mine) {
  for (std::uint32_t i = 0; i < mine.inline_count_; ++i) release(mine.inline_[i], mine.owner_);
  for (const std::uint64_t hash : mine.more_) release(hash, mine.owner_);
  mine.inline_count_ = 0;
  mine.more_.clear();
}

LockTable::Counters LockTable::counters() const {
  Counters sum;
  for (std::size_t i = 0; i < kShards; ++i) {
    Shard& shard = shards_[i];
    io::MutexLock guard(shard.mutex);
    sum.held += shard.used;
    sum.waiting += shard.waiting;
    sum.waits += shard.waits;
    sum.timeouts += shard.timeouts;
    sum.self_deadlocks += shard.self_deadlocks;
  }
  return sum;
}

void LockTable::iterate(const std::function<void(const View&)>& fn) const {
  std::vector<View> views;
  for (std::size_t i = 0; i < kShards; ++i) {
    Shard& shard = shards_[i];
    views.clear();
    {
      io::MutexLock guard(shard.mutex);
      for (std::size_t p = 0; shard.used != 0 && p <= shard.mask; ++p) {
        const Lock& lock = shard.locks[p];
        if (lock.hash == 0) continue;
        View& view = views.emplace_back();
        view.hash = lock.hash;
        view.owner = lock.owner;
        view.thread = lock.thread;
        lock.for_each_waiter([&](const Waiter& w) {
          view.waiters.push_back(w.owner);
          view.tree = w.tree;
          view.key = w.key;
        });
      }
    }
    for (const View& view : views) fn(view);
  }
}

}  // namespace kessai::mvcc
