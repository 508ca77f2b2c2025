// SPDX-License-Identifier: Apache-2.0
// Serializable by precision locking (Jordan, Banerjee, Batman 1981): a transaction reads at its
// snapshot, remembers what it read (points and ranges), and commits at LSN L only if no other
// transaction with a commit LSN between its snapshot and L wrote into that. So every committed
// serializable transaction could have run alone at its commit LSN, and a transaction without writes
// at its snapshot.
//
// The commit pipeline, all levels (anybody's write can meet a serializable reader):
//   publish()    the write set enters a ring, LSN unknown     after its record locks are held
//   (the log reserves the commit's LSN)
//   reserved()   the LSN becomes known
//   validate()   serializable only: after the reservation
//   finished()   applied and visible, or nothing came of it (void: a filler took its place)
//
// Why nothing is missed. Take T with LSN L and a commit C with snapshot(T) < LSN(C) < L.
//   a. LSN(C) < L: C reserved before T did, and published before that; reservations are ordered by
//      the log's own synchronisation, so T, which looks after its reservation, finds C's entry in
//      the ring: with its LSN, or still unknown, which counts as below L when it overlaps (after a
//      short wait for it to become known; longer would not do: C may be waiting for log space that
//      only T's end gives). A place that is taken but not filled yet is nobody's with an LSN below
//      L.
//   b. C's entry is not older than where T's look starts: begin() reads the oldest unfinished entry
//      before the snapshot is taken; an entry that was finished by then was applied, so its LSN is
//      at or below the snapshot.
// Validating first and reserving afterwards, or reserving before publishing, lets write skew
// through; both are planted bugs in the torture copy.
//
// The ring has kEntries places. A serializable transaction that is overtaken by that many commits
// is refused (`write_conflict`: run it again). So is one that needs a write set that had to go:
// large sets (more than kSmallKeys keys or kSmallBytes of them) live on the heap, kLargeBytes of
// them together, the oldest finished ones go first. Small sets live in buffers of the places, which
// are used again: publishing them allocates nothing in the long run.
//
// Threads: any. No global mutex: an entry has a spin lock that is held for a copy or a look of a
// small set; large sets are immutable and looked at outside.
// Waits: publish() waits (spins, yields) only for the commit that used its place kEntries commits
// ago, which is past its locks and never waits for a publish(). Nothing that a commit between
// publish() and finished() waits for may be held by a caller of publish(): its own record locks are
// fine.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/sync.hpp"
#include "io/types.hpp"
#include "mvcc/record_hash.hpp"

namespace kessai::mvcc {

/// What a serializable transaction has read. Belongs to one thread.
/// A point is known by its hash only: a collision is a conflict too many, never one too few.
class ReadSet {
 public:
  struct Range {
    TreeId tree{};
    std::string from;
    std::string to;
    bool to_end = false;        ///< no upper bound
    bool to_inclusive = false;  ///< `to` itself was read
    [[nodiscard]] bool holds(TreeId t, std::string_view key) const noexcept {
      return t == tree && key >= from && (to_end || key < to || (to_inclusive && key == to));
    }
  };
  void point(TreeId tree, std::string_view key);
  /// Adds a range; the answer names it for range(i), which a cursor widens as it goes.
  std::size_t add(Range range);
  [[nodiscard]] Range& range(std::size_t i) { return ranges_[i]; }
  [[nodiscard]] bool empty() const noexcept { return points_.empty() && ranges_.empty(); }
  /// REQUIRES seal() since the last addition.
  [[nodiscard]] bool read(TreeId tree, std::string_view key, std::uint64_t hash) const;
  void clear() noexcept;
  /// Sorts and merges, to be called before validating. Names of ranges end with it.
  void seal();

 private:
  void compact_points();

  std::vector<std::uint64_t> points_;  // record_hash; sorted and unique once sealed
  std::vector<Range> ranges_;          // sorted and disjoint once sealed
  std::size_t compact_at_ = 1024;      // points: who reads the same again and again stays small
  bool sealed_ = true;
};

class Certifier {
 public:
  static constexpr std::size_t kEntries = 4096;  // power of two
  static constexpr std::size_t kChunk = 64;      // divides kEntries
  static constexpr std::size_t kSmallKeys = 32;
  static constexpr std::size_t kSmallBytes = 1024;
  static constexpr std::size_t kLargeBytes = 32u << 20;

  struct Written {
    TreeId tree{};
    std::string_view key;
  };
  /// Names an entry of the ring.
  using Ticket = std::uint64_t;
  static constexpr Ticket kNone = ~Ticket{0};
  struct Conflict {
    TreeId tree{};
    std::string key;
    Lsn lsn = 0;  ///< 0: not known yet
    /// Not a conflict for certain: what would tell is no longer there. Names no tree and no key.
    [[nodiscard]] bool overtaken() const noexcept { return tree == TreeId{}; }
  };
  struct Counters {
    std::uint64_t validated = 0;
    std::uint64_t conflicts = 0;
    std::uint64_t overtaken = 0;
    std::uint64_t entries_looked_at = 0;
    std::uint64_t large_bytes = 0;  ///< now
  };

  Certifier();
  ~Certifier();
  Certifier(const Certifier&) = delete;
  Certifier& operator=(const Certifier&) = delete;

  /// For a serializable transaction, before its snapshot is taken: where its look starts.
  [[nodiscard]] Ticket begin() const noexcept;
  [[nodiscard]] Ticket publish(std::span<const Written> writes);
  void reserved(Ticket entry, Lsn lsn) noexcept;
  /// `lsn` 0: nothing came of it. Else the commit is applied and visible to new snapshots.
  void finished(Ticket entry, Lsn lsn) noexcept;
  /// `mine`: the own entry (or kNone), skipped; `commit` its LSN. Before the reservation, as an
  /// early look that saves fillers, `commit` is kMaxLsn and unknown LSNs count as harmless.
  [[nodiscard]] std::optional<Conflict> validate(const ReadSet& reads, Ticket start, Lsn snapshot,
                                                 Ticket mine, Lsn commit);
  [[nodiscard]] Counters counters() const noexcept;

 private:
  struct Set;
  struct Entry;
  struct Tally;

  [[nodiscard]] Entry& at(Ticket ticket) const noexcept;
  /// Out of memory ends the program, as everywhere that a commit cannot be stopped any more.
  Entry* make_chunk(std::size_t chunk) const noexcept;
  void advance() noexcept;
  void shrink() noexcept;
  void give_back(const std::shared_ptr<const Set>& large) noexcept;
  [[nodiscard]] std::optional<Conflict> look(const ReadSet& reads, Ticket ticket, Lsn snapshot,
                                             Lsn commit) const;

  // Null until a place in it is used; freed with the certifier.
  mutable std::array<io::Atomic<Entry*>, kEntries / kChunk> ring_{};
  std::unique_ptr<Tally[]> tallies_;
  // Tickets start at kEntries: the first lap finds places that look used and finished.
  alignas(64) io::Atomic<Ticket> next_{kEntries};
  alignas(64) io::Atomic<Ticket> oldest_unfinished_{kEntries};
  alignas(64) std::atomic<std::uint64_t> large_bytes_{0};
  io::Atomic<Ticket> shrunk_to_{kEntries};  // large sets before this one are gone
};

}  // namespace kessai::mvcc
