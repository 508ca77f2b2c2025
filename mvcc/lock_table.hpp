// SPDX-License-Identifier: Apache-2.0
// Locks of transactions: records (also absent ones), names, and, for strict two-phase locking, key
// ranges. (Latches protect pages for nanoseconds; these protect data until a transaction ends.)
//
// A record's lock is named by record_hash(tree, key): absent keys lock like present ones, and two
// records with equal hashes share one lock. Modes: shared and exclusive; an owner that holds one
// and asks for more upgrades, ahead of the queue. A transaction keeps its locks in a LockSet and
// gives all of them back at once, after apply and before durability (I3).
//
// Order: FIFO. A request is granted when it conflicts neither with a holder nor with an earlier
// waiter: nobody overtakes, so a writer does not starve behind readers nor the other way round. A
// lock passes from its releaser directly to the waiters that can have it.
//
// Ranges (only with Options::ranges). A private write set is nowhere in the tree until its commit,
// so the next-key rule of ARIES/KVL and InnoDB would have no record to hang the pending insert on,
// and a gap named by its neighbour would change its name under its holders when another insert or
// delete commits. Instead a scan locks the keys it asked for, as an interval, and every exclusive
// record lock also enters an ordered map of its tree: they conflict when the interval holds the
// key. So [11, 15] blocks 12 and neither 17 nor 20. Two exclusive keys never conflict here (the
// record lock decides), nor do two intervals.
//
// Deadlocks: when waiting starts, the wait-for graph is searched from the new waiter (waits are
// rare: one mutex orders them). Edges go from a waiter to the conflicting holders and to the
// conflicting earlier waiters. The victim of a cycle is its member with the least work
// (LockSet::work), the youngest of several; it gets `deadlock` from the call it waits in. The last
// kDeadlocksKept are kept with all their members.
//
// Every wait is bounded by the timeout (I11: never call acquire under a latch or inside the
// structure gate). A lock held by another transaction of the calling thread is reported at once,
// since that thread cannot both wait and release. "Of the thread" means: taken on it. A
// transaction that moved to another thread after it locked can therefore be taken for our own;
// it is the caller's error to mix the two.
//
// Threads: any; a LockSet belongs to one thread at a time. Mutexes: one per shard, one per range
// bucket, held for one operation; graph mutex > shard and bucket mutexes, which do not nest.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/env.hpp"
#include "io/sync.hpp"
#include "io/types.hpp"
#include "io/waits.hpp"
#include "kessai/error.hpp"

namespace kessai::mvcc {

enum class OwnerId : std::uint64_t {};  ///< a transaction; 0 is nobody. Larger = begun later.

enum class LockMode : std::uint8_t { shared, exclusive };
enum class LockKind : std::uint8_t { record, range, named };

/// What a lock is on, for errors and views.
struct LockName {
  LockKind kind = LockKind::record;
  TreeId tree{};                  ///< of records and ranges
  std::string key;                ///< record key, start of a range, or the name
  std::optional<std::string> to;  ///< end of a range (exclusive); nothing = to the end
};

/// The locks of one transaction, in the order they were taken. Empty when destroyed.
class LockSet {
 public:
  explicit LockSet(OwnerId owner) noexcept : owner_(owner) {}
  ~LockSet();
  LockSet(const LockSet&) = delete;
  LockSet& operator=(const LockSet&) = delete;
  [[nodiscard]] OwnerId owner() const noexcept { return owner_; }
  [[nodiscard]] std::size_t size() const noexcept;
  /// What would be lost if this transaction were the victim of a deadlock. Any unit (locks,
  /// writes); set by the owner before it waits, counted up by one for every lock taken.
  void add_work(std::uint64_t work) noexcept { work_ += work; }
  [[nodiscard]] std::uint64_t work() const noexcept { return work_; }
  /// For the next transaction of a pooled object; only when empty.
  void reset(OwnerId owner) noexcept;

 private:
  friend class LockTable;
  struct RangeUse {
    TreeId tree{};
    std::size_t intervals = 0;  // 0: exclusive keys only
  };
  void add(std::uint64_t id) {
    if (inline_count_ < inline_.size())
      inline_[inline_count_++] = id;
    else
      more_.push_back(id);
  }
  void drop_last() noexcept {
    if (more_.empty())
      --inline_count_;
    else
      more_.pop_back();
  }
  RangeUse& use_of(TreeId tree);

  OwnerId owner_;
  std::uint64_t work_ = 0;
  std::uint32_t inline_count_ = 0;
  std::array<std::uint64_t, 8> inline_;  // ids of the first record and named locks, without malloc
  std::vector<std::uint64_t> more_;
  std::vector<RangeUse> ranges_;  // trees in which it holds intervals or exclusive keys
};

class LockTable {
 public:
  struct Options {
    bool ranges = false;         ///< strict two-phase locking: exclusive locks meet range locks
    io::Waits* waits = nullptr;  ///< lock_row, lock_range, lock_named are counted here
  };
  struct Counters {
    std::uint64_t held = 0;     ///< locks that somebody holds now; ranges included
    std::uint64_t waiting = 0;  ///< now
    std::uint64_t waits = 0;
    std::uint64_t timeouts = 0;  ///< waits that ended without the lock (not: nowait refusals)
    std::uint64_t deadlocks = 0;
    std::uint64_t self_deadlocks = 0;
  };
  struct Holder {
    OwnerId owner{};
    LockMode mode{};
    unsigned thread = 0;  ///< io::thread_serial() of the owner when it took the lock
  };
  struct Waiting {
    OwnerId owner{};
    LockMode mode{};
    unsigned thread = 0;
    std::uint64_t waited_ns = 0;
  };
  /// One lock, for views.
  struct View {
    std::uint64_t hash = 0;    ///< names a record's or named lock; 0 for ranges
    LockName name;             ///< of records nobody waits for: at most the first kNameKept bytes
    bool name_is_cut = false;  ///< the key is longer than what is known of it
    std::vector<Holder> holders;
    std::vector<Waiting> waiters;  ///< in the order they will get it
  };
  static constexpr std::size_t kNameKept = 24;

  /// One member of a deadlock: it waits for `name`, which the next member (cyclically) holds or
  /// stands in line for before it.
  struct Member {
    OwnerId owner{};
    unsigned thread = 0;
    LockMode wants{};
    LockName name;
    std::uint64_t waited_ns = 0;
    std::uint64_t work = 0;
  };
  struct Deadlock {
    std::uint64_t at_ns = 0;  ///< io::Clock::now_ns when it was found
    std::vector<Member> cycle;
    OwnerId victim{};
  };
  static constexpr std::size_t kDeadlocksKept = 32;

  LockTable(io::Clock& clock, Options options);
  ~LockTable();
  LockTable(const LockTable&) = delete;
  LockTable& operator=(const LockTable&) = delete;

  /// True: newly taken or upgraded. False: `mine` held it at least as strongly. 0 ns: do not wait.
  /// Errors: lock_timeout, deadlock, self_deadlock; they name tree id and key. What `mine` held
  /// before the call it holds after an error, too.
  [[nodiscard]] Result<bool> acquire(LockSet& mine, TreeId tree, std::string_view key,
                                     LockMode mode, std::uint64_t timeout_ns);
  /// A lock on a name of the application's choosing; its names are apart from all records.
  [[nodiscard]] Result<bool> acquire_named(LockSet& mine, std::string_view name, LockMode mode,
                                           std::uint64_t timeout_ns);
  /// Shared lock on all keys in [from, to), present or not. REQUIRES Options::ranges. Touching or
  /// overlapping intervals of one owner become one, so a scan extends its own by asking for the
  /// next stretch.
  [[nodiscard]] Result<bool> acquire_range(LockSet& mine, TreeId tree, std::string_view from,
                                           std::optional<std::string_view> to,
                                           std::uint64_t timeout_ns);
  /// True when `mine` holds the record's lock at least in `mode`.
  [[nodiscard]] bool holds(const LockSet& mine, TreeId tree, std::string_view key,
                           LockMode mode = LockMode::exclusive) const;
  /// Hands every lock to its next waiters or frees it; empties the set. Any thread, but not while
  /// the owner is inside acquire.
  void release_all(LockSet& mine);

  [[nodiscard]] Counters counters() const;
  /// Calls `fn` for each held lock, outside of all mutexes; locks that change meanwhile may be
  /// missed or stale. A range that is only waited for has a view (without holders) when somebody
  /// stands in line behind it.
  void iterate(const std::function<void(const View&)>& fn) const;
  /// The last deadlocks, oldest first.
  [[nodiscard]] std::vector<Deadlock> deadlocks() const;

 private:
  static constexpr std::size_t kShards = 1024;
  static constexpr std::size_t kBuckets = 64;
  enum class Taken : std::uint8_t;
  struct Request;
  struct Waiter;
  struct Queue;
  struct Wakes;
  struct Blocker;
  struct Domain;
  struct Lock;
  struct Shard;
  struct RangeTree;
  struct Bucket;
  struct Graph;

  [[nodiscard]] static std::uint64_t record_id(TreeId tree, std::string_view key) noexcept;
  [[nodiscard]] static Error error(Code code, const Request& r, std::string what);
  [[nodiscard]] static Error refused(Code code, const Request& r);
  [[nodiscard]] static LockName name_of(const Request& r);
  [[nodiscard]] static std::string text_of(const Request& r);
  [[nodiscard]] Shard& shard_of(std::uint64_t id) const noexcept;
  [[nodiscard]] Bucket& bucket_of(TreeId tree) const noexcept;
  Result<Taken> take(LockSet& mine, const Request& r, std::uint64_t& timeout_ns);
  Result<Taken> wait(Domain& domain, const Request& r, const LockSet& mine,
                     std::uint64_t& timeout_ns);
  void park(Waiter& waiter, std::uint64_t timeout_ns);
  void count_wait(const Waiter& waiter, std::uint64_t ns);
  Result<bool> enter_range_map(LockSet& mine, const Request& r, Taken record,
                               std::uint64_t timeout_ns);
  void release(std::uint64_t id, OwnerId owner);

  io::Clock& clock_;
  const Options options_;
  const std::unique_ptr<Shard[]> shards_;
  const std::unique_ptr<Bucket[]> buckets_;  // null without ranges
  const std::unique_ptr<Graph> graph_;
};

}  // namespace kessai::mvcc
