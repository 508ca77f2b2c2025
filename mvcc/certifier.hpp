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
//      short wait for it to become known).
//   b. C's entry is not older than where T's look starts: begin() reads the oldest unfinished entry
//      before the snapshot is taken; an entry that was finished by then was applied, so its LSN is
//      at or below the snapshot.
// Validating first and reserving afterwards, or reserving before publishing, lets write skew
// through; both are planted bugs in the torture copy.
//
// The ring has kEntries places. A serializable transaction that is overtaken by that many commits
// is refused (`write_conflict`: run it again).
//
// Threads: any. No global mutex: an entry has a spin lock that is held for a copy or a look.
// Waits: publish() waits (spins, yields) only for the commit that used its place kEntries commits
// ago, which is past its locks.
#pragma once

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
  [[nodiscard]] bool read(TreeId tree, std::string_view key, std::uint64_t hash) const;
  void clear() noexcept;
  /// Makes read() fast; to be called before validating.
  void seal();

 private:
  std::vector<std::uint64_t> points_;  // record_hash; sorted and unique once sealed
  std::vector<Range> ranges_;
  bool sealed_ = false;
};

class Certifier {
 public:
  static constexpr std::size_t kEntries = 4096;  // power of two

  struct Written {
    TreeId tree{};
    std::string_view key;
  };
  /// Names an entry of the ring.
  using Ticket = std::uint64_t;
  struct Conflict {
    TreeId tree{};
    std::string key;  ///< empty, with lsn 0: overtaken by too many commits
    Lsn lsn = 0;      ///< 0: not known yet
  };
  struct Counters {
    std::uint64_t validated = 0;
    std::uint64_t conflicts = 0;
    std::uint64_t overtaken = 0;
    std::uint64_t entries_looked_at = 0;
  };

  Certifier();
  ~Certifier();

  /// For a serializable transaction, before its snapshot is taken: where its look starts.
  [[nodiscard]] Ticket begin() const noexcept;
  [[nodiscard]] Ticket publish(std::span<const Written> writes);
  void reserved(Ticket entry, Lsn lsn) noexcept;
  /// `lsn` 0: nothing came of it. Else the commit is applied and visible to new snapshots.
  void finished(Ticket entry, Lsn lsn) noexcept;
  /// `mine`: the own entry, skipped; `commit` its LSN. Before the reservation, as an early look
  /// that saves fillers, `commit` is kMaxLsn and unknown LSNs count as harmless.
  [[nodiscard]] std::optional<Conflict> validate(const ReadSet& reads, Ticket start, Lsn snapshot,
                                                 Ticket mine, Lsn commit);
  [[nodiscard]] Counters counters() const noexcept;

 private:
  struct Entry;
  std::unique_ptr<Entry[]> ring_;
  alignas(64) std::atomic<Ticket> next_{0};
  alignas(64) std::atomic<Ticket> oldest_unfinished_{0};
};

}  // namespace kessai::mvcc
