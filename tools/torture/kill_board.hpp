// SPDX-License-Identifier: Apache-2.0
// What all processes of `kvtorture kill` and `power` share: the journal that outlives them.
//
// A life is one process that opens the store. Every thread of it journals each commit before it
// asks for it (its intent) and what it was told afterwards (the LSN, the promise), in memory that
// survives its death. The next life compares what it finds with the journal of the last life that
// wrote, and begins a journal of its own, in the other bank: `current` turns from one bank to the
// other in one store, so a kill at any moment leaves one whole journal.
//
// The rows: each group has up to kRowsOfGroup rows, and one number, raised by each transaction that
// writes the group. All that a group must look like follows from that number and the life that
// wrote it (GroupState), so a half-applied transaction shows without knowing what it did.
//
// `kvtorture power` keeps the same journal and cuts it: `moment` counts what the recorded disk was
// told, each entry of the journal bears the moment at which it was made, and what a power cut at a
// moment must have kept is the journal up to there (become_cut_of).
//
// Threads: a lane belongs to one thread of a life. Whoever reads a bank has the store open, hence
// the life that filled it is over: the store's lock outlives its threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "tools/torture/workload.hpp"

namespace kessai::torture {

inline constexpr unsigned kGroups = 12;  // 2, 3 and 4 threads share them evenly
inline constexpr unsigned kRowsOfGroup = 6;
inline constexpr unsigned kMostInStep = 3;
inline constexpr unsigned kMostKillThreads = 4;
inline constexpr std::uint32_t kMostSteps = 1u << 14;

/// The number of a group and the life that wrote it. {0, 0}: never written.
struct GroupState {
  std::uint64_t number = 0;
  std::uint32_t life = 0;
  friend bool operator==(const GroupState&, const GroupState&) = default;
};

/// Row -> value of a group in this state. Row 0 is always there, others come and go; some are long.
[[nodiscard]] std::map<unsigned, std::string> rows_of(unsigned group, GroupState state);
/// The state that a value of any row names; nothing when it is too short to.
[[nodiscard]] std::optional<GroupState> state_in(std::string_view value);
[[nodiscard]] std::string group_row_key(unsigned group, unsigned row);

/// One commit of one thread.
struct Step {
  std::atomic<Lsn> lsn{0};            ///< 0: never told
  std::atomic<bool> promised{false};  ///< it was told that the commit is durable
  // Moments; answered and promised not before lsn and promised say so.
  std::uint64_t intended_at = 0, answered_at = 0, promised_at = 0;
  std::uint8_t groups = 0;
  std::uint8_t group[kMostInStep] = {};
  std::uint64_t number[kMostInStep] = {};
};

/// The journal of one life.
struct Bank {
  std::uint32_t life = 0;
  std::uint64_t begun_at = 0;     ///< the moment from which on it is the current one
  GroupState base[kGroups] = {};  ///< what it found, thus durable
  struct Lane {
    std::atomic<std::uint32_t> used{0};
    Step steps[kMostSteps];
  } lanes[kMostKillThreads];
};

/// Where a life is; it counts only together with the number of that life.
enum class Stage : std::uint32_t { opening, working, closing };
[[nodiscard]] constexpr std::uint32_t at_stage(std::uint32_t life, Stage stage) {
  return life * 4 + static_cast<std::uint32_t>(stage);
}

struct KillBoard {
  std::atomic<std::uint64_t> moment{0};   ///< power: events of the recorded disk so far
  std::atomic<std::uint32_t> current{0};  ///< the bank of the last life that wrote
  std::atomic<std::uint32_t> stage{0};
  std::atomic<std::uint32_t> stop{0};     ///< this life is to close the store and end
  std::atomic<std::uint32_t> limited{0};  ///< the files of this life have a size limit
  std::atomic<std::uint64_t> progress{0};
  std::atomic<std::uint64_t> commits{0}, acked{0}, limit_hits{0}, zombie_opens{0};
  std::atomic<std::uint64_t> lost{0}, half_applied{0};
  std::atomic<std::uint32_t> complaints_begun{0}, complaints{0};  ///< the latter are whole
  Complaint complaint[8] = {};
  Bank banks[2];

  [[nodiscard]] Bank& bank() { return banks[current.load()]; }
  /// From any thread of any process; the first few are kept.
  void complain(std::string_view kind, std::string_view text);
  /// Forgets all lives: what comes next is a fresh store.
  void forget();
  /// What `recorded` had been told at the moment `at`, all of it long ago (moment 0). Complaints
  /// and counts are fresh. REQUIRES the recorded life to be over.
  void become_cut_of(const KillBoard& recorded, std::uint64_t at);
};

/// A board that processes forked later share. Memory is used as it is touched.
class SharedKillBoard {
 public:
  SharedKillBoard();
  ~SharedKillBoard();
  SharedKillBoard(const SharedKillBoard&) = delete;
  SharedKillBoard& operator=(const SharedKillBoard&) = delete;
  KillBoard& operator*() noexcept { return *board_; }
  KillBoard* operator->() noexcept { return board_; }

 private:
  KillBoard* board_;
};

}  // namespace kessai::torture
