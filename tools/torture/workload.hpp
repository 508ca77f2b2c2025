// SPDX-License-Identifier: Apache-2.0
// Random transactions of several threads against a Database, written down as a history.
//
// A plan and its seed fix the operations that each thread tries, in order; what they meet depends
// on the schedule. Each attempt is a transaction of the history, retries included. Keys come in
// epochs of a few slots, so that lists stay short and new rows appear between old ones; no thread
// starts an epoch before all have finished the last but one.
//
// Shared memory: everything that is recorded lies in one mapping that outlives the process that
// fills it (history.hpp), so that a killed child's history can be read and continued.
#pragma once

#include <memory>
#include <optional>

#include "tools/torture/resolve.hpp"

namespace kessai {
class Database;
}

namespace kessai::torture {

struct Plan {
  std::uint64_t seed = 1;
  std::uint32_t history = 1;  ///< its number: keys and rows of other histories are other keys
  unsigned threads = 4;
  unsigned epochs = 20;
  unsigned per_epoch = 20;         ///< programs of one thread
  Key slots = 9;                   ///< keys of an epoch
  std::optional<Isolation> level;  ///< nothing: a mix
  bool s2pl = false;
  bool markers = false;    ///< each commit leaves a row that names it: the process may be killed
  bool long_rows = false;  ///< some rows on overflow pages
  unsigned relaxed_of_16 = 12;
  unsigned yields_of_16 = 4;
  // Options of the open
  std::uint64_t memory = 4u << 20;
  std::uint64_t undo_memory = 1u << 20;
  std::uint64_t wal_limit = 16u << 20;

  /// A plan whose shape is drawn from the seed.
  [[nodiscard]] static Plan drawn(std::uint64_t seed, std::uint32_t history);
  [[nodiscard]] Key keys() const { return slots * epochs; }
  [[nodiscard]] std::string text() const;
};

struct Complaint {
  char kind[32];
  char text[2000];
};

inline constexpr unsigned kMostThreads = 8;
inline constexpr unsigned kMostIncarnations = 6;

/// What all processes of a history share.
struct Board {
  std::atomic<Lsn> answered{0};  ///< newest commit that was answered
  std::atomic<Lsn> durable{0};   ///< newest that was answered as durable
  std::atomic<std::uint64_t> progress{0};
  std::atomic<std::uint32_t> working{0};  ///< threads of this incarnation have begun
  std::atomic<std::uint32_t> epochs_done[kMostThreads] = {};
  char tokens[kMostIncarnations][160] = {};  ///< of some commit of each incarnation
  Tape<Marker> markers;
  Tape<Complaint> complaints;
  Lane lanes[kMostIncarnations * (kMostThreads + 1)];

  [[nodiscard]] Lane& lane(unsigned incarnation, unsigned thread) {
    return lanes[incarnation * (kMostThreads + 1) + thread];
  }
  void complain(std::string_view kind, std::string_view text);
};

/// A pause of this thread.
void nap(std::uint64_t ns);

/// The mapping behind a Board.
class SharedBoard {
 public:
  SharedBoard();
  ~SharedBoard();
  SharedBoard(const SharedBoard&) = delete;
  SharedBoard& operator=(const SharedBoard&) = delete;
  /// Empty again, for the next history.
  void clear();
  [[nodiscard]] Board& operator*() noexcept { return *board_; }
  [[nodiscard]] Board* operator->() noexcept { return board_; }

 private:
  Board* board_ = nullptr;
  std::byte* memory_ = nullptr;
};

/// The commits of this history that the store holds, from their markers; onto the board.
void collect_markers(Database& db, const Plan& plan, Board& board);

/// Asks Database::outcome() about every commit of earlier incarnations whose LSN is known, and
/// compares with the markers.
void check_outcomes(Database& db, const Plan& plan, Board& board, unsigned incarnation);

/// Runs the threads of one incarnation to their end. `last`: then reads everything once more.
void run_workload(Database& db, const Plan& plan, Board& board, unsigned incarnation, bool last);

}  // namespace kessai::torture
