// SPDX-License-Identifier: Apache-2.0
// A client of one thread that goes on after errors, and remembers what it did and may rely on.
// And what an opened store answers, held against what it should.
#pragma once

#include <string>
#include <vector>

#include "tools/torture/sim_store.hpp"

namespace kessai::crash {

class Client {
 public:
  static constexpr int kKeys = 300;

  /// The store holds `now`, for certain.
  explicit Client(Tables now) : states{std::move(now)} {}

  std::vector<Tables> states;  ///< after each commit, in commit order
  std::vector<Lsn> lsns{0};    ///< of the commits that made them
  std::size_t told = 0;        ///< this state and what led to it is durable
  std::vector<Error> errors;
  bool over = false;                 ///< the store takes no more work
  std::optional<std::string> wrong;  ///< an answer that no error can excuse

  [[nodiscard]] static std::string key(int n);

  /// Transactions and reads, until one thing or the other ends it.
  void work(Process& p, io::SeededRandom& random, int transactions);
  /// Rows to begin with: `rows` in each tree.
  void load(Process& p, io::SeededRandom& random, int rows);
  /// All that was committed becomes durable.
  void settle(Process& p);
  /// What a call answered; an error is remembered.
  bool good(const Result<void>& r);
  /// The newest state with an LSN up to this one.
  [[nodiscard]] std::size_t state_at(Lsn lsn) const;

 private:
  void look(Process& p, io::SeededRandom& random);
  void transaction(Process& p, io::SeededRandom& random);
  void failed(const Error& e);
};

/// Reads everything in two ways. Errors are no contradiction; other data is, also an end of a scan
/// that is none.
[[nodiscard]] std::optional<std::string> contradiction(Database& db, const Tables& expected);

}  // namespace kessai::crash
