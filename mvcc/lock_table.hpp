// SPDX-License-Identifier: Apache-2.0
// Exclusive record locks of transactions: one owner per record, others queue in FIFO order.
//
// A lock is named by record_hash(tree, key): absent keys lock like present ones, and two records
// with equal hashes share one lock. A transaction keeps its locks in a LockSet and gives all of
// them back at once, after apply and before durability (I3). A lock with waiters passes directly
// to the first of them: nobody overtakes, nobody starves.
//
// Every wait is bounded by the timeout (I11: never call acquire under a latch or inside the
// structure gate). A record held by another transaction of the calling thread is reported at once,
// since that thread cannot both wait and release. "Of the thread" means: taken on it. A
// transaction that moved to another thread after it locked can therefore be taken for our own;
// it is the caller's error to mix the two.
//
// Threads: any; a LockSet belongs to one thread at a time. Each shard has a mutex that is held for
// one operation and nothing else is taken under it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/env.hpp"
#include "io/sync.hpp"
#include "io/types.hpp"
#include "kessai/error.hpp"

namespace kessai::mvcc {

enum class OwnerId : std::uint64_t {};  ///< a transaction; 0 is nobody

/// The locks of one transaction, in the order they were taken. Empty when destroyed.
class LockSet {
 public:
  explicit LockSet(OwnerId owner) noexcept : owner_(owner) {}
  ~LockSet();
  LockSet(const LockSet&) = delete;
  LockSet& operator=(const LockSet&) = delete;
  [[nodiscard]] OwnerId owner() const noexcept { return owner_; }
  [[nodiscard]] std::size_t size() const noexcept { return inline_count_ + more_.size(); }
  /// For the next transaction of a pooled object; only when empty.
  void reset(OwnerId owner) noexcept;

 private:
  friend class LockTable;
  void add(std::uint64_t hash);

  OwnerId owner_;
  std::uint32_t inline_count_ = 0;
  std::array<std::uint64_t, 8> inline_;  // the first locks, without malloc
  std::vector<std::uint64_t> more_;
};

class LockTable {
 public:
  struct Counters {
    std::uint64_t held = 0;     ///< now
    std::uint64_t waiting = 0;  ///< now
    std::uint64_t waits = 0;
    std::uint64_t timeouts = 0;  ///< waits that ended without the lock (not: nowait refusals)
    std::uint64_t self_deadlocks = 0;
  };
  /// One lock, for views. The record's name is known only where somebody waits for it.
  struct View {
    std::uint64_t hash = 0;
    OwnerId owner{};
    unsigned thread = 0;           ///< io::thread_index() of the owner when it took the lock
    std::vector<OwnerId> waiters;  ///< in the order they will get it
    TreeId tree{};
    std::string key;
  };

  explicit LockTable(io::Clock& clock);
  ~LockTable();
  LockTable(const LockTable&) = delete;
  LockTable& operator=(const LockTable&) = delete;

  /// True: newly taken. False: `mine` had it. 0 ns: do not wait.
  /// Errors: lock_timeout, self_deadlock; both name tree id and key.
  [[nodiscard]] Result<bool> acquire(LockSet& mine, TreeId tree, std::string_view key,
                                     std::uint64_t timeout_ns);
  /// True when `mine` holds the record's lock.
  [[nodiscard]] bool holds(const LockSet& mine, TreeId tree, std::string_view key) const;
  /// Hands every lock to its next waiter or frees it; empties the set.
  void release_all(LockSet& mine);

  [[nodiscard]] Counters counters() const;
  /// Calls `fn` for each held lock, outside of all mutexes; locks that change meanwhile may be
  /// missed or stale.
  void iterate(const std::function<void(const View&)>& fn) const;

 private:
  static constexpr std::size_t kShards = 1024;

  struct Waiter;
  struct Lock;
  struct alignas(64) Shard;

  [[nodiscard]] Shard& shard_of(std::uint64_t hash) const noexcept;
  Result<bool> wait(Waiter& waiter, Shard& shard, LockSet& mine, std::uint64_t timeout_ns);
  void release(std::uint64_t hash, OwnerId owner);

  io::Clock& clock_;
  const std::unique_ptr<Shard[]> shards_;
};

}  // namespace kessai::mvcc
