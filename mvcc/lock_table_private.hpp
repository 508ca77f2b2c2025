// SPDX-License-Identifier: Apache-2.0
// Inside the lock table: what waits, where it waits, and the graph that finds deadlocks.
//
// A Domain is a mutex with the queues under it: a shard of hashed locks (records, names) or a
// bucket of range trees. A Waiter stands in one queue of one domain, on the stack of its thread.
//
// Life of a waiter: enqueued under the domain's mutex; registered in the graph, where the search
// runs; sleeps until `state` is no longer waiting; leaves the graph. `state` changes once, under
// the domain's mutex, together with leaving the queue: by a releaser (granted), by somebody's
// deadlock search (victim), by itself (left). So a hand-off, a timeout and a death sentence that
// meet are decided by that mutex, and the losers see what has happened. As the waiter cannot leave
// the graph without the graph mutex, a search may use every registered waiter.
//
// Why no deadlock is missed: a cycle has a last member to register, and its search sees the others
// registered and enqueued. Edges that appear later come from owners that do not wait (they will
// search when they do); a grant turns an edge to an earlier waiter into one to a holder. A waiter
// that dies in its own search leaves no cycle behind: those it is not in were there before it.
// Why a cycle found is real: its members wait, all through the search (only the searcher could
// let them start another wait), so none can have given anything back. One may time out meanwhile;
// then a victim dies that could have lived.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/annotations.hpp"
#include "io/sync.hpp"
#include "mvcc/lock_table.hpp"

namespace kessai::mvcc {

inline constexpr OwnerId kNobody{0};

enum class LockTable::Taken : std::uint8_t {
  had,         // this very key, as strongly
  had_id,      // the lock, as strongly; perhaps through another key with an equal hash
  fresh,       // newly taken
  upgraded,    // shared before
  own_thread,  // in the way of another transaction of the calling thread
  conflict,    // has to wait
};

struct LockTable::Request {
  OwnerId owner;
  unsigned thread;
  LockMode mode;
  LockKind kind;
  std::uint64_t id;  // of a hashed lock; 0: a range
  TreeId tree;
  std::string_view key;
  std::optional<std::string_view> to = {};
  std::size_t* intervals = nullptr;  // of a range: told how many the owner has then

  [[nodiscard]] bool spans(std::string_view k) const noexcept {
    return k >= key && (!to || k < *to);
  }
};

struct LockTable::Waiter {
  enum State : std::uint32_t { kWaiting, kGranted, kVictim, kOwnThread, kLeft };

  const Request want;
  Domain& domain;
  const std::uint64_t work;
  std::uint64_t start_ns = 0;  // set before it is enqueued
  // Guarded by the domain's mutex.
  bool upgrade = false;
  Waiter* next = nullptr;
  Waiter* before = nullptr;
  std::string why = {};  // of a victim; written before `state`
  // Guarded by the graph mutex.
  Waiter* chain = nullptr;
  Waiter* parent = nullptr;
  std::uint64_t search = 0;
  // The thread may return when it sees a grant, so the wake-up that follows can name a word whose
  // stack frame is gone: harmless, a futex wake uses the address only.
  io::Atomic<std::uint32_t> state{kWaiting};

  [[nodiscard]] Waiting line(std::uint64_t now) const;
  [[nodiscard]] bool waiting() const noexcept {
    return state.load(std::memory_order_relaxed) == kWaiting;
  }
};

/// A circular list known by its last member, so that both ends are one step away.
struct LockTable::Queue {
  Waiter* last = nullptr;

  [[nodiscard]] bool empty() const noexcept { return last == nullptr; }
  [[nodiscard]] Waiter* first() const noexcept { return last->next; }
  void push_back(Waiter& w) noexcept {
    insert(w);
    last = &w;
  }
  /// Ahead of all but other upgrades.
  void push_upgrade(Waiter& w) noexcept {
    if (empty() || last->upgrade) return push_back(w);
    Waiter* after = first();
    while (after->upgrade) after = after->next;
    link(w, *after->before, *after);
  }
  void remove(Waiter& w) noexcept {
    if (w.next == &w) {
      last = nullptr;
      return;
    }
    w.before->next = w.next;
    w.next->before = w.before;
    if (last == &w) last = w.before;
  }
  /// Calls `fn` in order, until it answers false or `end` is reached (null: for all).
  template <class Fn>
  void each_until(const Waiter* end, Fn&& fn) const {
    if (empty()) return;
    for (Waiter* w = first(); w != end && fn(*w) && w != last;) w = w->next;
  }
  template <class Fn>
  void each(Fn&& fn) const {
    each_until(nullptr, [&](Waiter& w) {
      fn(w);
      return true;
    });
  }

 private:
  void insert(Waiter& w) noexcept {
    if (empty())
      w.next = w.before = &w;
    else
      link(w, *last, *last->next);
  }
  static void link(Waiter& w, Waiter& before, Waiter& after) noexcept {
    w.before = &before;
    w.next = &after;
    before.next = after.before = &w;
  }
};

/// Wake-ups, done when the mutex is free again: declare it before the guard.
struct LockTable::Wakes {
  Wakes() = default;
  Wakes(const Wakes&) = delete;
  Wakes& operator=(const Wakes&) = delete;
  ~Wakes() {
    if (count != 0) flush();
  }
  void add(const Waiter& w) {
    if (count == words.size()) flush();
    words[count++] = &w.state;
  }
  void flush() {
    for (std::size_t i = 0; i < count; ++i) io::futex_wake(*words[i], 1);
    count = 0;
  }
  std::size_t count = 0;
  std::array<const io::Atomic<std::uint32_t>*, 16> words;
};

/// Somebody in the way of a waiter.
struct LockTable::Blocker {
  OwnerId owner;
  unsigned thread;
  bool holds;  // else it waits in front
};

struct LockTable::Domain {
  io::Mutex mutex;
  std::uint32_t waiting KESSAI_GUARDED_BY(mutex) = 0;
  std::uint32_t self_deadlocks KESSAI_GUARDED_BY(mutex) = 0;
  std::uint64_t waits KESSAI_GUARDED_BY(mutex) = 0;
  std::uint64_t timeouts KESSAI_GUARDED_BY(mutex) = 0;

  Domain() = default;
  Domain(const Domain&) = delete;
  Domain& operator=(const Domain&) = delete;
  virtual ~Domain() = default;
  /// Takes the lock when nobody is in the way.
  virtual Taken take(const Request& r) KESSAI_REQUIRES(mutex) = 0;
  virtual void enqueue(Waiter& w) KESSAI_REQUIRES(mutex) = 0;
  /// Takes `w` out of its queue; those behind it move up.
  virtual void leave(Waiter& w, Wakes& wakes) KESSAI_REQUIRES(mutex) = 0;
  /// Whom `w` waits for, each directly: to reach one only through another waiter would miss it
  /// while that other is not registered yet. Left out may be waiters whose blockers are all listed.
  virtual void blockers(const Waiter& w, std::vector<Blocker>& out) const
      KESSAI_REQUIRES(mutex) = 0;
  virtual std::uint64_t held() const KESSAI_REQUIRES(mutex) = 0;

  void end(Waiter& w, Waiter::State state, Wakes& wakes) KESSAI_REQUIRES(mutex) {
    // Release: pairs with the acquire load in park(); what the last holder wrote is visible.
    --waiting;
    w.state.store(state, std::memory_order_release);
    wakes.add(w);
  }
};

/// One hashed lock: one cache line. Holders after the first are in a list; several are shared.
struct alignas(64) LockTable::Lock {
  struct Sharer {
    OwnerId owner;
    unsigned thread;
    Sharer* next;
  };

  std::uint64_t id = 0;  // 0: free place in the hash table
  OwnerId owner{};
  Sharer* more = nullptr;
  Queue queue;
  TreeId tree{};
  std::uint32_t thread : 24 = 0;
  std::uint32_t name_size : 5 = 0;
  std::uint32_t name_cut : 1 = 0;
  std::uint32_t exclusive : 1 = 0;
  std::array<char, kNameKept> name;

  void set_name(const Request& r) noexcept;
  [[nodiscard]] bool named(const Request& r) const noexcept {
    return tree == r.tree && name_cut == 0 && std::string_view(name.data(), name_size) == r.key;
  }
  [[nodiscard]] bool held_by(OwnerId o) const noexcept;
  void add_holder(const Request& r);
  /// False: is none.
  bool remove_holder(OwnerId o) noexcept;
  template <class Fn>
  void each_holder(Fn&& fn) const {
    if (owner != kNobody) fn(owner, unsigned{thread});
    for (const Sharer* s = more; s != nullptr; s = s->next) fn(s->owner, s->thread);
  }
};

/// Open addressing with linear probing; erase shifts back, so there are no tombstones.
struct alignas(64) LockTable::Shard final : Domain {
  std::uint32_t used KESSAI_GUARDED_BY(mutex) = 0;
  std::uint32_t mask KESSAI_GUARDED_BY(mutex) = 0;
  std::unique_ptr<Lock[]> locks KESSAI_GUARDED_BY(mutex);

  Taken take(const Request& r) override KESSAI_REQUIRES(mutex);
  void enqueue(Waiter& w) override KESSAI_REQUIRES(mutex);
  void leave(Waiter& w, Wakes& wakes) override KESSAI_REQUIRES(mutex);
  void blockers(const Waiter& w, std::vector<Blocker>& out) const override KESSAI_REQUIRES(mutex);
  std::uint64_t held() const override KESSAI_REQUIRES(mutex) { return used; }
  Taken take_now(const Request& r) KESSAI_REQUIRES(mutex);
  void release(std::uint64_t id, OwnerId owner, Wakes& wakes) KESSAI_REQUIRES(mutex);
  /// False: it is shared, or somebody waits for it.
  bool release_lone(std::uint64_t id, OwnerId owner) KESSAI_REQUIRES(mutex);
  void downgrade(std::uint64_t id, Wakes& wakes) KESSAI_REQUIRES(mutex);
  [[nodiscard]] bool holds(std::uint64_t id, OwnerId owner, LockMode mode) const
      KESSAI_REQUIRES(mutex);
  void views(std::uint64_t now, std::vector<View>& out) const KESSAI_REQUIRES(mutex);

 private:
  static constexpr std::size_t kSmallest = 8;
  static constexpr std::size_t kLargestIdle = 256;  // a bulk commit's table goes when it is empty

  Lock& place(std::uint64_t id) const KESSAI_REQUIRES(mutex);
  Taken take_free(Lock& lock, const Request& r) KESSAI_REQUIRES(mutex);
  Taken take_held(Lock& lock, const Request& r) KESSAI_REQUIRES(mutex);
  void reserve() KESSAI_REQUIRES(mutex);
  void resize(std::size_t n) KESSAI_REQUIRES(mutex);
  void erase(Lock& lock) KESSAI_REQUIRES(mutex);
  void settle(Lock& lock, Wakes& wakes) KESSAI_REQUIRES(mutex);
};

/// Intervals and exclusive keys of one tree, and who waits for either.
struct LockTable::RangeTree {
  struct Writer {
    OwnerId owner;
    unsigned thread;
  };
  using Writers = std::map<std::string, Writer, std::less<>>;
  using Intervals = std::map<std::string, std::optional<std::string>, std::less<>>;
  struct Owned {
    unsigned thread = 0;  // that took the last interval
    Intervals intervals;  // disjoint, not touching
    std::vector<Writers::iterator> keys;
  };
  Writers writers;
  std::map<OwnerId, Owned> owners;
  std::size_t intervals = 0;  // of all owners
  Queue queue;
  static constexpr std::size_t kIdle = 64;
  std::vector<Writers::node_type> idle_writers;  // spare the allocator
  std::vector<std::map<OwnerId, Owned>::node_type> idle_owners;

  [[nodiscard]] bool idle() const noexcept { return owners.empty() && queue.empty(); }
  [[nodiscard]] const Intervals* intervals_of(OwnerId owner) const;
  /// All of the range is in an interval of its owner.
  [[nodiscard]] bool covered(const Request& r) const;
  Owned& owned(OwnerId owner);
  void insert_key(const Request& r, Writers::iterator hint);
  void insert_range(const Request& r);
  void remove(OwnerId owner);
  /// Calls `fn(owner, thread, holds)` for everybody in the way of `r` who holds or waits in front
  /// of `end`, until it answers false.
  template <class Fn>
  void each_blocker(const Request& r, const Waiter* end, Fn&& fn) const;
};

struct alignas(64) LockTable::Bucket final : Domain {
  /// Range requests that wait for an exclusive record lock, by that lock's id.
  struct Behind {
    std::string key;
    std::vector<Waiting> waiters;
  };
  using BehindRecords = std::unordered_map<std::uint64_t, Behind>;

  std::map<TreeId, RangeTree> trees KESSAI_GUARDED_BY(mutex);

  Taken take(const Request& r) override KESSAI_REQUIRES(mutex);
  void enqueue(Waiter& w) override KESSAI_REQUIRES(mutex);
  void leave(Waiter& w, Wakes& wakes) override KESSAI_REQUIRES(mutex);
  void blockers(const Waiter& w, std::vector<Blocker>& out) const override KESSAI_REQUIRES(mutex);
  std::uint64_t held() const override KESSAI_REQUIRES(mutex);
  void release(TreeId tree, OwnerId owner, Wakes& wakes) KESSAI_REQUIRES(mutex);
  /// A waiting range request is listed at the record locks in its way, a waiting writer at the
  /// intervals; where only another waiter is in the way, at that waiter's record lock, or at a
  /// view of the range it wishes for, which has no holders and the waiter itself in front.
  void views(std::uint64_t now, std::vector<View>& out, BehindRecords& behind) const
      KESSAI_REQUIRES(mutex);

 private:
  static void interval_views(TreeId id, const RangeTree& tree, std::uint64_t now,
                             std::vector<View>& out);
  RangeTree& tree_of(TreeId id) KESSAI_REQUIRES(mutex);
  void move_up(RangeTree& tree, Wakes& wakes) KESSAI_REQUIRES(mutex);
};

/// The waiters by owner, and the search for cycles among them.
struct LockTable::Graph {
  io::Mutex mutex;
  std::uint64_t broken KESSAI_GUARDED_BY(mutex) = 0;
  std::deque<Deadlock> kept KESSAI_GUARDED_BY(mutex);

  /// Registers an enqueued waiter and breaks all cycles through it.
  void enter(Waiter& me, io::Clock& clock) KESSAI_EXCLUDES(mutex);
  void exit(Waiter& me) KESSAI_EXCLUDES(mutex);

 private:
  enum class Search : std::uint8_t { nothing, cycle, own_thread };
  static constexpr std::size_t kChains = 256;

  std::array<Waiter*, kChains> chains_ KESSAI_GUARDED_BY(mutex) = {};
  std::uint64_t searches_ KESSAI_GUARDED_BY(mutex) = 0;
  std::vector<Waiter*> reached_ KESSAI_GUARDED_BY(mutex);
  std::vector<Waiter*> cycle_ KESSAI_GUARDED_BY(mutex);
  std::vector<Blocker> blockers_ KESSAI_GUARDED_BY(mutex);

  Waiter*& chain_of(OwnerId owner) KESSAI_REQUIRES(mutex) {
    return chains_[static_cast<std::uint64_t>(owner) % kChains];
  }
  Waiter* waiter_of(OwnerId owner) KESSAI_REQUIRES(mutex);
  Search search(Waiter& me) KESSAI_REQUIRES(mutex);
  Search expand(Waiter& w, Waiter& me) KESSAI_REQUIRES(mutex);
  void break_cycles(Waiter& me, io::Clock& clock) KESSAI_REQUIRES(mutex);
  bool kill(Waiter& victim, Waiter::State state, std::string why) KESSAI_REQUIRES(mutex);
  void keep(const Waiter& victim, std::uint64_t now) KESSAI_REQUIRES(mutex);
  std::string describe(const Waiter& victim) const KESSAI_REQUIRES(mutex);
};

}  // namespace kessai::mvcc
