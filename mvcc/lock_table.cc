// SPDX-License-Identifier: Apache-2.0
// The table's calls and the hashed locks (records, names). Ranges: lock_ranges.cc; the graph:
// deadlock.cc.
#include "mvcc/lock_table.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "io/check.hpp"
#include "io/mutant.hpp"
#include "mvcc/lock_table_private.hpp"
#include "mvcc/record_hash.hpp"

namespace kessai::mvcc {
namespace {

// Names have ids apart from records by this bit, which neither picks a shard nor, in tables of less
// than 2^53 locks, a place.
constexpr std::uint64_t kNamedBit = std::uint64_t{1} << 53;

std::uint64_t name_id(std::string_view name) noexcept {
  return record_hash(TreeId{}, name) | kNamedBit;
}

}  // namespace

// ---- LockSet ----

LockSet::~LockSet() { KESSAI_DCHECK(size() == 0); }

std::size_t LockSet::size() const noexcept {
  std::size_t n = inline_count_ + more_.size();
  for (const RangeUse& use : ranges_) n += use.intervals;
  return n;
}

void LockSet::reset(OwnerId owner) noexcept {
  KESSAI_CHECK(size() == 0 && ranges_.empty());
  owner_ = owner;
  work_ = 0;
}

LockSet::RangeUse& LockSet::use_of(TreeId tree) {
  for (RangeUse& use : ranges_)
    if (use.tree == tree) return use;
  return ranges_.emplace_back(RangeUse{.tree = tree});
}

// ---- one hashed lock ----

// With every lock: overlapping words instead of a call of memcpy.
inline void LockTable::Lock::set_name(const Request& r) noexcept {
  static_assert(kNameKept == 24);
  tree = r.tree;
  const std::size_t n = std::min(r.key.size(), kNameKept);
  const char* const from = r.key.data();
  if (n >= 8) {
    const std::size_t middle = std::min<std::size_t>(8, n - 8);
    std::memcpy(name.data(), from, 8);
    std::memcpy(name.data() + middle, from + middle, 8);
    std::memcpy(name.data() + n - 8, from + n - 8, 8);
  } else {
    for (std::size_t i = 0; i < n; ++i) name[i] = from[i];
  }
  name_size = n & 31;
  name_cut = r.key.size() > kNameKept ? 1 : 0;
}

inline bool LockTable::Lock::held_by(OwnerId o) const noexcept {
  if (owner == o) return true;
  for (const Sharer* s = more; s != nullptr; s = s->next)
    if (s->owner == o) return true;
  return false;
}

inline void LockTable::Lock::add_holder(const Request& r) {
  if (owner != kNobody) {
    more = new Sharer{.owner = r.owner, .thread = r.thread, .next = more};
    return;
  }
  owner = r.owner;
  thread = r.thread & 0xffffff;
  exclusive = r.mode == LockMode::exclusive ? 1 : 0;
  set_name(r);
}

bool LockTable::Lock::remove_holder(OwnerId o) noexcept {
  if (owner == o) {
    exclusive = 0;
    owner = kNobody;
    if (const std::unique_ptr<Sharer> next(more); next != nullptr) {
      owner = next->owner;
      thread = next->thread & 0xffffff;
      more = next->next;
    }
    return true;
  }
  for (Sharer** at = &more; *at != nullptr; at = &(*at)->next) {
    if ((*at)->owner != o) continue;
    const std::unique_ptr<Sharer> gone(*at);
    *at = gone->next;
    return true;
  }
  return false;
}

// ---- shards ----

/// The lock, or the free place where it goes. There always is a free place after reserve().
inline LockTable::Lock& LockTable::Shard::place(std::uint64_t id) const {
  std::size_t i = id & mask;
  while (locks[i].id != 0 && locks[i].id != id) i = (i + 1) & mask;
  return locks[i];
}

inline void LockTable::Shard::reserve() {
  if (locks != nullptr && (used + 1) * 4 <= (mask + 1) * 3) [[likely]]
    return;
  resize(locks == nullptr ? kSmallest : std::size_t{mask + 1} * 2);
}

void LockTable::Shard::resize(std::size_t n) {
  const std::unique_ptr<Lock[]> old = std::exchange(locks, std::make_unique<Lock[]>(n));
  const std::size_t old_n = old == nullptr ? 0 : std::size_t{mask} + 1;
  mask = static_cast<std::uint32_t>(n - 1);
  for (std::size_t i = 0; i < old_n; ++i)
    if (old[i].id != 0) place(old[i].id) = old[i];
}

inline void LockTable::Shard::erase(Lock& lock) {
  std::size_t hole = static_cast<std::size_t>(&lock - locks.get());
  for (std::size_t i = (hole + 1) & mask; locks[i].id != 0; i = (i + 1) & mask) {
    // May move into the hole unless its home lies after the hole (cyclically).
    if (((i - locks[i].id) & mask) < ((i - hole) & mask)) continue;
    locks[hole] = locks[i];
    hole = i;
  }
  locks[hole].id = 0;
  if (--used == 0 && mask >= kLargestIdle) resize(kSmallest);
}

inline LockTable::Taken LockTable::Shard::take_free(Lock& lock, const Request& r) {
  ++used;
  lock.id = r.id;
  lock.owner = kNobody;
  lock.more = nullptr;
  lock.queue = Queue{};
  lock.add_holder(r);
  return Taken::fresh;
}

inline LockTable::Taken LockTable::Shard::take_now(const Request& r) {
  reserve();
  Lock& lock = place(r.id);
  return lock.id == 0 ? take_free(lock, r) : take_held(lock, r);
}

LockTable::Taken LockTable::Shard::take(const Request& r) { return take_now(r); }

LockTable::Taken LockTable::Shard::take_held(Lock& lock, const Request& r) {
  const bool mine = lock.held_by(r.owner);
  const bool exclusive = r.mode == LockMode::exclusive;
  if (mine && (lock.exclusive != 0 || !exclusive))
    return lock.exclusive != 0 && lock.named(r) ? Taken::had : Taken::had_id;
  if (!exclusive && lock.exclusive == 0 && lock.queue.empty()) {
    lock.add_holder(r);
    return Taken::fresh;
  }
  if (KESSAI_MUTANT(shared_lock_ignored) && exclusive && lock.exclusive == 0)
    while (lock.owner != kNobody && (lock.owner != r.owner || lock.more != nullptr))
      (void)lock.remove_holder(lock.owner != r.owner ? lock.owner : lock.more->owner);
  if (mine && lock.more == nullptr) {
    lock.exclusive = 1;
    lock.set_name(r);
    return Taken::upgraded;
  }
  if (KESSAI_MUTANT(shared_lock_ignored) && lock.owner == kNobody) {
    lock.add_holder(r);
    return Taken::fresh;
  }
  Taken answer = Taken::conflict;
  lock.each_holder([&](OwnerId owner, unsigned thread) {
    if (owner != r.owner && thread == r.thread && (exclusive || lock.exclusive != 0))
      answer = Taken::own_thread;
  });
  return answer;
}

void LockTable::Shard::enqueue(Waiter& w) {
  Lock& lock = place(w.want.id);
  w.upgrade = lock.held_by(w.want.owner);
  if (w.upgrade)
    lock.queue.push_upgrade(w);
  else
    lock.queue.push_back(w);
}

/// Hands the lock to all in front that can have it now; frees it when nobody wants it.
void LockTable::Shard::settle(Lock& lock, Wakes& wakes) {
  for (bool first = true; !lock.queue.empty(); first = false) {
    Waiter& w = *lock.queue.first();
    if (w.upgrade) {
      if (lock.owner != w.want.owner || lock.more != nullptr) return;
    } else if (lock.owner != kNobody &&
               (lock.exclusive != 0 || w.want.mode == LockMode::exclusive)) {
      return;
    }
    if (!first && KESSAI_MUTANT(lost_wake_up)) return;
    lock.queue.remove(w);
    if (w.upgrade) {
      lock.exclusive = 1;
      lock.set_name(w.want);
    } else {
      lock.add_holder(w.want);
    }
    end(w, Waiter::kGranted, wakes);
  }
  if (lock.owner == kNobody) erase(lock);
}

void LockTable::Shard::leave(Waiter& w, Wakes& wakes) {
  Lock& lock = place(w.want.id);
  lock.queue.remove(w);
  settle(lock, wakes);
}

inline bool LockTable::Shard::release_lone(std::uint64_t id, OwnerId owner) {
  Lock& lock = place(id);
  if (lock.owner != owner || lock.more != nullptr ||
      (!lock.queue.empty() && !KESSAI_MUTANT(waiters_forgotten)))
    return false;
  KESSAI_CHECK(lock.id == id);
  erase(lock);
  return true;
}

void LockTable::Shard::release(std::uint64_t id, OwnerId owner, Wakes& wakes) {
  Lock& lock = place(id);
  if (lock.id != id || !lock.remove_holder(owner)) {
    KESSAI_CHECK(KESSAI_MUTANT(shared_lock_ignored));
    return;
  }
  settle(lock, wakes);
}

void LockTable::Shard::downgrade(std::uint64_t id, Wakes& wakes) {
  Lock& lock = place(id);
  KESSAI_CHECK(lock.id == id && lock.exclusive != 0);
  lock.exclusive = 0;
  settle(lock, wakes);
}

bool LockTable::Shard::holds(std::uint64_t id, OwnerId owner, LockMode mode) const {
  if (locks == nullptr) return false;
  const Lock& lock = place(id);
  return lock.id == id && lock.held_by(owner) && (mode == LockMode::shared || lock.exclusive != 0);
}

// An exclusive waiter waits for all holders, which is all that those in front of it wait for: in a
// cycle through one of them there is a shorter one without it.
void LockTable::Shard::blockers(const Waiter& w, std::vector<Blocker>& out) const {
  if (!w.waiting()) return;
  const Lock& lock = place(w.want.id);
  const bool exclusive = w.want.mode == LockMode::exclusive;
  lock.each_holder([&](OwnerId owner, unsigned thread) {
    if (owner != w.want.owner && (exclusive || lock.exclusive != 0))
      out.push_back({.owner = owner, .thread = thread, .holds = true});
  });
  if (exclusive) return;
  lock.queue.each_until(&w, [&](const Waiter& x) {
    if (x.want.mode == LockMode::exclusive)
      out.push_back({.owner = x.want.owner, .thread = x.want.thread, .holds = false});
    return true;
  });
}

void LockTable::Shard::views(std::uint64_t now, std::vector<View>& out) const {
  for (std::size_t i = 0; used != 0 && i <= mask; ++i) {
    const Lock& lock = locks[i];
    if (lock.id == 0) continue;
    View& view = out.emplace_back();
    view.hash = lock.id;
    view.name.kind = (lock.id & kNamedBit) != 0 ? LockKind::named : LockKind::record;
    view.name.tree = lock.tree;
    view.name.key.assign(lock.name.data(), lock.name_size);
    view.name_is_cut = lock.name_cut != 0;
    const LockMode mode = lock.exclusive != 0 ? LockMode::exclusive : LockMode::shared;
    lock.each_holder([&](OwnerId owner, unsigned thread) {
      view.holders.push_back({.owner = owner, .mode = mode, .thread = thread});
    });
    lock.queue.each([&](const Waiter& w) {
      view.waiters.push_back(w.line(now));
      view.name.key = w.want.key;
      view.name_is_cut = false;
    });
  }
}

// ---- the table ----

LockTable::LockTable(io::Clock& clock, Options options)
    : clock_(clock),
      options_(options),
      shards_(new Shard[kShards]),
      buckets_(options.ranges ? new Bucket[kBuckets] : nullptr),
      graph_(new Graph) {}

LockTable::~LockTable() { KESSAI_DCHECK(counters().held == 0); }

std::uint64_t LockTable::record_id(TreeId tree, std::string_view key) noexcept {
  const std::uint64_t id = record_hash(tree, key) & ~kNamedBit;
  return id != 0 ? id : 1;
}

inline LockTable::Shard& LockTable::shard_of(std::uint64_t id) const noexcept {
  return shards_[id >> 54];
}

LockTable::Bucket& LockTable::bucket_of(TreeId tree) const noexcept {
  return buckets_[raw(tree) % kBuckets];
}

LockName LockTable::name_of(const Request& r) {
  LockName name{.kind = r.kind, .tree = r.tree, .key = std::string(r.key), .to = {}};
  if (r.to) name.to = *r.to;
  return name;
}

Error LockTable::error(Code code, const Request& r, std::string what) {
  ErrorDetail d;
  d.what = std::move(what);
  if (r.kind != LockKind::named) d.tree = std::to_string(raw(r.tree));
  d.key = r.key;
  return Error(code, std::move(d));
}

Error LockTable::refused(Code code, const Request& r) {
  std::string what = r.kind == LockKind::named    ? "named lock"
                     : r.kind == LockKind::record ? "record lock in tree "
                                                  : "range lock in tree ";
  if (r.kind != LockKind::named) what += std::to_string(raw(r.tree));
  what += code == Code::self_deadlock ? " is held by another transaction of this thread"
                                      : " is held by another transaction";
  return error(code, r, std::move(what));
}

/// A hashed lock.
inline Result<LockTable::Taken> LockTable::take(LockSet& mine, const Request& r,
                                                std::uint64_t& timeout_ns) {
  Shard& shard = shard_of(r.id);
  Taken taken{};
  {
    io::MutexLock guard(shard.mutex);
    taken = shard.take_now(r);
  }
  if (taken == Taken::own_thread || taken == Taken::conflict) [[unlikely]] {
    KESSAI_ASSIGN(waited, wait(shard, r, mine, timeout_ns));
    taken = waited;
  }
  if (taken == Taken::fresh) mine.add(r.id);
  return taken;
}

Result<bool> LockTable::acquire(LockSet& mine, TreeId tree, std::string_view key, LockMode mode,
                                std::uint64_t timeout_ns) {
  const Request r{.owner = mine.owner_,
                  .thread = io::thread_serial(),
                  .mode = mode,
                  .kind = LockKind::record,
                  .id = record_id(tree, key),
                  .tree = tree,
                  .key = key};
  KESSAI_ASSIGN(taken, take(mine, r, timeout_ns));
  if (options_.ranges && mode == LockMode::exclusive && taken != Taken::had)
    return enter_range_map(mine, r, taken, timeout_ns);
  const bool news = taken == Taken::fresh || taken == Taken::upgraded;
  if (news) ++mine.work_;
  return news;
}

Result<bool> LockTable::acquire_named(LockSet& mine, std::string_view name, LockMode mode,
                                      std::uint64_t timeout_ns) {
  const Request r{.owner = mine.owner_,
                  .thread = io::thread_serial(),
                  .mode = mode,
                  .kind = LockKind::named,
                  .id = name_id(name),
                  .tree = {},
                  .key = name};
  KESSAI_ASSIGN(taken, take(mine, r, timeout_ns));
  const bool news = taken == Taken::fresh || taken == Taken::upgraded;
  if (news) ++mine.work_;
  return news;
}

/// The second half of an exclusive record lock; what the first half brought goes back when this
/// one fails.
Result<bool> LockTable::enter_range_map(LockSet& mine, const Request& r, Taken record,
                                        std::uint64_t timeout_ns) {
  Bucket& bucket = bucket_of(r.tree);
  Taken taken{};
  {
    io::MutexLock guard(bucket.mutex);
    taken = bucket.take(r);
  }
  if (taken == Taken::own_thread || taken == Taken::conflict) {
    const auto waited = wait(bucket, r, mine, timeout_ns);
    if (!waited) {
      Shard& shard = shard_of(r.id);
      Wakes wakes;
      io::MutexLock guard(shard.mutex);
      if (record == Taken::upgraded) shard.downgrade(r.id, wakes);
      if (record == Taken::fresh) {
        mine.drop_last();
        shard.release(r.id, mine.owner_, wakes);
      }
      return std::unexpected(waited.error());
    }
    taken = *waited;
  }
  (void)mine.use_of(r.tree);
  const bool news = record != Taken::had_id || taken == Taken::fresh;
  if (news) ++mine.work_;
  return news;
}

Result<bool> LockTable::acquire_range(LockSet& mine, TreeId tree, std::string_view from,
                                      std::optional<std::string_view> to,
                                      std::uint64_t timeout_ns) {
  KESSAI_CHECK(options_.ranges);
  if (KESSAI_MUTANT(gap_lock_missing) || (to && from >= *to)) return false;
  std::size_t intervals = 0;
  const Request r{.owner = mine.owner_,
                  .thread = io::thread_serial(),
                  .mode = LockMode::shared,
                  .kind = LockKind::range,
                  .id = 0,
                  .tree = tree,
                  .key = from,
                  .to = to,
                  .intervals = &intervals};
  Bucket& bucket = bucket_of(tree);
  Taken taken{};
  {
    io::MutexLock guard(bucket.mutex);
    taken = bucket.take(r);
  }
  if (taken == Taken::own_thread || taken == Taken::conflict) {
    KESSAI_ASSIGN(waited, wait(bucket, r, mine, timeout_ns));
    taken = waited;
  }
  if (taken != Taken::fresh) return false;
  mine.use_of(tree).intervals = intervals;
  ++mine.work_;
  return true;
}

Result<LockTable::Taken> LockTable::wait(Domain& domain, const Request& r, const LockSet& mine,
                                         std::uint64_t& timeout_ns) {
  Waiter w{.want = r, .domain = domain, .work = mine.work_};
  Taken taken{};
  {
    io::MutexLock guard(domain.mutex);
    taken = domain.take(r);
    if (taken == Taken::own_thread) {
      ++domain.self_deadlocks;
      return std::unexpected(refused(Code::self_deadlock, r));
    }
    if (taken != Taken::conflict) return taken;
    if (timeout_ns == 0) return std::unexpected(refused(Code::lock_timeout, r));
    w.start_ns = clock_.now_ns();
    domain.enqueue(w);
    taken = w.upgrade ? Taken::upgraded : Taken::fresh;
    ++domain.waits;
    ++domain.waiting;
  }
  graph_->enter(w, clock_);
  park(w, timeout_ns);
  graph_->exit(w);
  const std::uint64_t waited = clock_.now_ns() - w.start_ns;
  count_wait(w, waited);
  timeout_ns -= std::min(timeout_ns, waited);
  switch (w.state.load(std::memory_order_relaxed)) {
    case Waiter::kGranted:
      return taken;
    case Waiter::kVictim:
      return std::unexpected(error(Code::deadlock, r, std::move(w.why)));
    case Waiter::kOwnThread:
      return std::unexpected(refused(Code::self_deadlock, r));
    default:
      return std::unexpected(refused(Code::lock_timeout, r));
  }
}

// Sleeps in slices, because the clock need not run at the futex's speed (a test's clock).
void LockTable::park(Waiter& w, std::uint64_t timeout_ns) {
  constexpr std::uint64_t kSliceNs = 20'000'000;
  // Acquire: pairs with the release store in end(); what the last holder wrote is visible.
  while (w.state.load(std::memory_order_acquire) == Waiter::kWaiting) {
    const std::uint64_t waited = clock_.now_ns() - w.start_ns;
    if (waited >= timeout_ns) {
      Wakes wakes;
      io::MutexLock guard(w.domain.mutex);
      if (!w.waiting()) return;  // came in time after all
      w.domain.leave(w, wakes);
      w.domain.end(w, Waiter::kLeft, wakes);
      ++w.domain.timeouts;
      return;
    }
    io::futex_wait(w.state, Waiter::kWaiting, std::min(timeout_ns - waited, kSliceNs));
  }
}

void LockTable::count_wait(const Waiter& w, std::uint64_t ns) {
  if (options_.waits == nullptr) return;
  const bool in_map = w.want.kind == LockKind::range || &w.domain != &shard_of(w.want.id);
  options_.waits->add(in_map                           ? io::Wait::lock_range
                      : w.want.kind == LockKind::named ? io::Wait::lock_named
                                                       : io::Wait::lock_row,
                      ns);
}

bool LockTable::holds(const LockSet& mine, TreeId tree, std::string_view key, LockMode mode) const {
  const std::uint64_t id = record_id(tree, key);
  Shard& shard = shard_of(id);
  io::MutexLock guard(shard.mutex);
  return shard.holds(id, mine.owner_, mode);
}

inline void LockTable::release(std::uint64_t id, OwnerId owner) {
  Shard& shard = shard_of(id);
  Wakes wakes;
  io::MutexLock guard(shard.mutex);
  if (!shard.release_lone(id, owner)) shard.release(id, owner, wakes);
}

void LockTable::release_all(LockSet& mine) {
  // Ranges first: who gets the record next enters the same key there.
  for (const LockSet::RangeUse& use : mine.ranges_) {
    Bucket& bucket = bucket_of(use.tree);
    Wakes wakes;
    io::MutexLock guard(bucket.mutex);
    bucket.release(use.tree, mine.owner_, wakes);
  }
  mine.ranges_.clear();
  for (std::uint32_t i = 0; i < mine.inline_count_; ++i) release(mine.inline_[i], mine.owner_);
  for (const std::uint64_t id : mine.more_) release(id, mine.owner_);
  mine.inline_count_ = 0;
  mine.more_.clear();
}

LockTable::Counters LockTable::counters() const {
  Counters sum;
  const auto add = [&](Domain& d) {
    io::MutexLock guard(d.mutex);
    sum.held += d.held();
    sum.waiting += d.waiting;
    sum.waits += d.waits;
    sum.timeouts += d.timeouts;
    sum.self_deadlocks += d.self_deadlocks;
  };
  for (std::size_t i = 0; i < kShards; ++i) add(shards_[i]);
  for (std::size_t i = 0; buckets_ != nullptr && i < kBuckets; ++i) add(buckets_[i]);
  io::MutexLock guard(graph_->mutex);
  sum.deadlocks = graph_->broken;
  return sum;
}

void LockTable::iterate(const std::function<void(const View&)>& fn) const {
  const std::uint64_t now = clock_.now_ns();
  Bucket::BehindRecords behind;
  std::vector<View> views;
  for (std::size_t i = 0; buckets_ != nullptr && i < kBuckets; ++i) {
    views.clear();
    {
      io::MutexLock guard(buckets_[i].mutex);
      buckets_[i].views(now, views, behind);
    }
    for (const View& view : views) fn(view);
  }
  for (std::size_t i = 0; i < kShards; ++i) {
    views.clear();
    {
      io::MutexLock guard(shards_[i].mutex);
      shards_[i].views(now, views);
    }
    for (View& view : views) {
      if (const auto at = behind.find(view.hash); at != behind.end()) {
        view.name.key = std::move(at->second.key);
        view.name_is_cut = false;
        view.waiters.insert(view.waiters.end(), at->second.waiters.begin(),
                            at->second.waiters.end());
      }
      fn(view);
    }
  }
}

std::vector<LockTable::Deadlock> LockTable::deadlocks() const {
  io::MutexLock guard(graph_->mutex);
  return {graph_->kept.begin(), graph_->kept.end()};
}

}  // namespace kessai::mvcc
