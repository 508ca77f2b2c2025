// SPDX-License-Identifier: Apache-2.0
// What concurrent clients did and were told, and whether what a store shows agrees with it: the
// oracle of histories with several threads. Knows nothing of the engine.
//
// Every transaction that writes also writes its client's marker row: the number of the attempt, so
// that a store tells which transactions it contains (a client's commits follow one another). Commit
// order is LSN order; the LSN of a commit that has not been answered yet is that of its marker row.
//
// judge()       a state found after a crash: a prefix of the commit order (no holes), with
//               everything that was told to be durable, each transaction as a whole, failed ones
//               absent, each row with the LSN of its commit
// judge_end()   nobody runs any more: each read is what its snapshot had to see, no update was
//               lost, serializable ones read nothing stale, begun snapshots contain what had been
//               answered before, and what could not be judged at a crash because the commit was
//               not answered yet
//
// Threads: none of its own; under a Scheduler one fiber at a time is inside (no points in here).
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/types.hpp"

namespace kessai::crash {

/// A row with the LSN of the commit that wrote it.
struct Version {
  std::optional<std::string> value;  ///< nothing: removed
  Lsn lsn = 0;
};
using FoundRows = std::map<std::string, Version>;

struct Attempt {
  enum class Fate : std::uint8_t { running, committed, failed, unknown };
  struct Read {
    std::string key;
    Version seen;
  };
  Fate fate = Fate::running;
  Lsn lsn = 0;       ///< of the commit, once answered
  Lsn snapshot = 0;  ///< at which it reads; 0: not told (read committed, s2pl)
  Lsn floor = 0;     ///< commits up to here had been answered before it began
  bool serializable = false;
  bool reads_current = false;  ///< s2pl: what it read stays true until it has committed
  std::map<std::string, std::optional<std::string>> writes;
  std::vector<Read> reads;
};

class Ledger {
 public:
  Ledger(FoundRows base, unsigned clients);

  /// A new attempt of a client; its number is what its marker row has to say.
  Attempt& begin(unsigned client);
  [[nodiscard]] std::uint64_t number_of_last(unsigned client) const {
    return attempts_[client].size();
  }
  [[nodiscard]] static std::string marker(unsigned client) { return "m" + std::to_string(client); }
  /// Everything up to here is durable, as an answer said.
  void told(Lsn durable) { told_ = durable > told_ ? durable : told_; }
  [[nodiscard]] Lsn told() const { return told_; }
  /// Everything up to here was answered as visible.
  void answered(Lsn lsn) { answered_ = lsn > answered_ ? lsn : answered_; }
  [[nodiscard]] Lsn answered() const { return answered_; }
  [[nodiscard]] std::uint64_t commits() const;

  [[nodiscard]] std::optional<std::string> judge(const FoundRows& found);
  /// `found`: the whole contents now; null: not known.
  [[nodiscard]] std::optional<std::string> judge_end(const FoundRows* found) const;

 private:
  struct Commit {
    Lsn lsn;
    unsigned client;
    std::size_t number;
    const Attempt* what;
  };
  struct Claim {  ///< that attempt is not among the first commits up to `lsn`
    unsigned client;
    std::size_t number;
    Lsn lsn;
  };
  [[nodiscard]] std::vector<Commit> committed() const;
  [[nodiscard]] FoundRows replay(std::vector<Commit>& commits) const;
  [[nodiscard]] static std::optional<std::string> difference(const FoundRows& found,
                                                             const FoundRows& expected);
  [[nodiscard]] std::optional<std::string> judge_attempt(
      const Attempt& a, const std::map<std::string, std::vector<Version>>& versions) const;
  [[nodiscard]] static std::string name(unsigned client, std::size_t number);

  const FoundRows base_;
  std::vector<std::deque<Attempt>> attempts_;
  std::vector<Claim> claims_;
  Lsn told_ = 0, answered_ = 0;
};

}  // namespace kessai::crash
