// SPDX-License-Identifier: Apache-2.0
// Before-images of records, for snapshots older than what the leaf holds (I14).
//
// An entry says: commits [begin, end) saw this image of (tree, key). Update and delete push what
// they replace, whether or not a snapshot is live: a read-only snapshot reads at min(applied,
// durable), so it can begin behind a change that is applied already. A reader whose snapshot does
// not see the leaf's tag asks find(): the entry with begin <= W < end is its version; no entry
// means absent. Hence an insert pushes nothing, not even over a ghost: the interval between delete
// and insert is in no entry, and that says absent. (The entries before the delete end at the
// delete, so they are never taken for the gap: that is why entries carry both ends.)
//
// Rules for the caller
//   - push before the leaf changes, under the record's lock or the leaf's latch: a reader that sees
//     the new leaf finds the entry; pushes of one key come in commit order.
//   - `horizon` given to gc is a result of Snapshots::horizon.
//
// Entries live in a FIFO of blocks per shard and go in push order once end <= horizon; entries of
// two commits that overlap may sit in either order, which only delays them. Each push frees
// up to kGcPerPush entries of its shard, so without old snapshots the memory stays flat without
// anybody's help; gc() does it for shards that nobody writes. gc_intervals() is for long readers
// over hot rows: it also drops the versions between the snapshots, so that a row keeps about one
// entry per snapshot however often it changes. prune_by() tells the pushes where snapshots are:
// each then takes the place of the image that its own record left behind, or drops it, so that such
// a sweep has little to do. An image in an old place ends late, and a younger snapshot may need it:
// it then keeps what stands behind it in the FIFO from gc(), but not from gc_intervals().
//
// Threads: any. Each shard has a mutex, held for one operation, leaf of the lock order. A find in
// an empty shard is one load.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/annotations.hpp"
#include "io/env.hpp"
#include "io/sync.hpp"
#include "io/types.hpp"
#include "mvcc/record_hash.hpp"
#include "mvcc/snapshots.hpp"

namespace kessai::mvcc {

/// An image of a record: the bytes of its leaf value, with the flag bits of its leaf tag
/// (overflow, ...), or a ghost (present == false).
struct Image {
  bool present = false;
  std::uint8_t flags = 0;
  std::string_view value;
};

/// A found image, copied. Reuse one object: `value` keeps its capacity.
struct Version {
  bool present = false;
  std::uint8_t flags = 0;
  Lsn begin = 0;
  std::string value;
};

class Undo {
 public:
  static constexpr std::size_t kShards = 256;
  struct Counters {
    std::uint64_t entries = 0;      ///< now
    std::uint64_t bytes = 0;        ///< now, of entries
    std::uint64_t block_bytes = 0;  ///< now, memory taken for blocks and hash tables
    std::uint64_t pushed = 0;
    std::uint64_t dropped = 0;
    std::uint64_t replaced = 0;      ///< of these, by a newer image in the same place
    std::uint64_t finds = 0;         ///< in shards that were not empty
    std::uint64_t longest_walk = 0;  ///< most entries one find looked at
  };

  /// `budget` bytes of entries; going past it is the caller's decision (over_budget). `env` counts
  /// the time of find() where there is something to look through (null: nobody).
  explicit Undo(std::uint64_t budget, const io::Env* env = nullptr);
  ~Undo();
  Undo(const Undo&) = delete;
  Undo& operator=(const Undo&) = delete;

  /// Never fails after the append (I4): ask over_budget() before it. Requires begin < end.
  void push(TreeId tree, std::string_view key, Lsn begin, Lsn end, const Image& before) {
    push(record_hash(tree, key), tree, key, begin, end, before);
  }
  void push(std::uint64_t hash, TreeId tree, std::string_view key, Lsn begin, Lsn end,
            const Image& before);

  /// The version that `snapshot` sees. False: no entry covers it, the record is absent to it.
  /// (An entry can also say absent: out.present.)
  [[nodiscard]] bool find(TreeId tree, std::string_view key, const Snapshot& snapshot,
                          Version& out) const {
    return find(record_hash(tree, key), tree, key, snapshot, out);
  }
  [[nodiscard]] bool find(std::uint64_t hash, TreeId tree, std::string_view key,
                          const Snapshot& snapshot, Version& out) const;

  /// A look-up among many.
  struct Ask {
    std::string_view key;
    Version version;
    bool found = false;
    std::uint64_t hash = 0;  ///< filled in
  };
  /// find() for each; while one record comes into the cache, the others do too.
  void find_many(TreeId tree, std::span<Ask> asks, const Snapshot& snapshot) const;

  /// For what push() or find() of a record will look at: first where its chain begins, then, a few
  /// hundred instructions later, its newest entry (or the one `behind` it). Best effort.
  void prefetch_chain(std::uint64_t hash) const noexcept;
  void prefetch_newest(std::uint64_t hash, bool behind = false) const;

  /// Drops entries with end <= horizon, at most `limit` and only what stands first in its shard.
  /// Successive calls go round the shards. Returns how many went.
  std::size_t gc(Lsn horizon, std::size_t limit);

  /// Drops every entry that no snapshot can look into, in the next `shards` shards. Costs a walk
  /// over their entries: for when gc() does not get below the budget, or now and then.
  std::size_t gc_intervals(const InUse& in_use, std::size_t shards = kShards);

  /// From now on a push also drops, of the few entries of its chain before it, those that nobody
  /// looks into. `in_use` may grow old: it only keeps more. No points: pushes do nothing of the
  /// kind.
  void prune_by(const InUse& in_use);

  /// The next three are exact to within 256 KiB.
  [[nodiscard]] bool over_budget() const noexcept { return bytes() > budget_; }
  /// An eighth of the budget is left: time to do something.
  [[nodiscard]] bool pressed() const noexcept { return pressed(bytes()); }
  [[nodiscard]] bool pressed(std::uint64_t bytes) const noexcept {
    return bytes > budget_ - budget_ / 8;
  }
  [[nodiscard]] std::uint64_t bytes() const noexcept {
    const std::int64_t b = bytes_.load(std::memory_order_relaxed);
    return b > 0 ? static_cast<std::uint64_t>(b) : 0;
  }
  [[nodiscard]] std::uint64_t budget() const noexcept { return budget_; }
  /// Snapshots below are old, as prune_by told: entries for them have piled up, and are far from
  /// the caches. 0: there are none.
  [[nodiscard]] Lsn old_below() const noexcept {
    return old_below_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] Counters counters() const;

  // --- for views: they walk, and stop nobody but the users of one shard ---
  struct Kept {
    Lsn begin = 0, end = 0;
    bool present = false;
    std::string value;
  };
  /// The before-images of a key that are still kept, newest first. In a gap between two of them the
  /// record was absent, or nobody can look there any more.
  [[nodiscard]] std::vector<Kept> versions(TreeId tree, std::string_view key) const;
  /// Bytes of entries by the oldest snapshot that needs them: answer[i] is for snapshots[i].
  /// REQUIRES sorted LSNs.
  [[nodiscard]] std::vector<std::uint64_t> bytes_needed(std::span<const Lsn> snapshots) const;

 private:
  static constexpr std::size_t kGcPerPush = 2;
  static constexpr std::size_t kPrunePerPush = 4;
  static constexpr std::size_t kPrunePoints = 64;
  static constexpr std::uint64_t kTidyEvery = 8;
  static constexpr std::uint64_t kTimedFinds = 16;
  static constexpr std::int64_t kReportBytes = 1024;

  struct Entry;
  struct Block;
  struct alignas(64) Shard;

  [[nodiscard]] Shard& shard_of(std::uint64_t hash) const noexcept;
  void report(Shard& shard, std::int64_t delta);
  std::size_t drop_expired(Shard& shard, Lsn horizon, std::size_t limit);
  std::size_t sweep(Shard& shard, const InUse& in_use);

  const std::uint64_t budget_;
  const io::Env* const env_;
  const std::unique_ptr<Shard[]> shards_;
  std::atomic<std::int64_t> bytes_{0};  // sum of what the shards reported
  std::atomic<Lsn> old_below_{0};
  io::Atomic<Lsn> horizon_{0};                // largest given to gc; used by push
  std::atomic<std::size_t> gc_cursor_{0};     // shard where the next gc starts
  std::atomic<std::size_t> sweep_cursor_{0};  // the same for gc_intervals
};

}  // namespace kessai::mvcc
