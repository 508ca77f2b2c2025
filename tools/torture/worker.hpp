// SPDX-License-Identifier: Apache-2.0
// One thread of the workload: draws programs, runs them as transactions, writes down what it was
// told.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "io/env.hpp"
#include "kessai/database.hpp"
#include "tools/torture/recorder.hpp"
#include "tools/torture/workload.hpp"

namespace kessai::torture {

class Worker {
 public:
  Worker(Database& db, const Tree& tree, const Tree& markers, const Plan& plan, Board& board,
         unsigned incarnation, unsigned thread);
  /// Programs of the epochs [from, to).
  void run(unsigned from, unsigned to);
  /// One transaction that reads all keys below `keys`.
  void read_everything(Key keys);

 private:
  enum class Flavor { update, read, long_read };

  void wait_for_others(unsigned epoch) const;
  void run_program(unsigned epoch);
  /// True: worth another attempt.
  bool attempt(std::uint64_t program, unsigned epoch);
  void begin(const BeginOptions& o);
  [[nodiscard]] Transaction begun(const BeginOptions& o);
  [[nodiscard]] Key draw_key(io::SeededRandom& r, unsigned epoch) const;
  /// A call of Database that is a transaction by itself, recorded as one of read_committed.
  void one_call(io::SeededRandom& r, unsigned epoch);
  void read_in_one_call(io::SeededRandom& r, Key key);
  void write_in_one_call(io::SeededRandom& r, Key key);
  /// False: the transaction is over.
  bool step(io::SeededRandom& r, unsigned epoch);
  bool change_list(io::SeededRandom& r, Key key);
  bool change_register(io::SeededRandom& r, Key key);
  bool use_savepoint(io::SeededRandom& r);
  bool lock_some(io::SeededRandom& r, unsigned epoch);

  bool read(Key key);
  bool lock_and_read(Key key, bool& found);
  bool range(Key from, Key to, bool reverse, std::size_t limit);
  bool put(Key key);
  bool insert(Key key);
  bool update(Key key);
  bool remove(Key key);
  void finish(io::SeededRandom& r);
  void commit(io::SeededRandom& r);
  /// Ends the transaction after an error of a call; complains about what must not happen.
  bool over(const Error& e);
  void complain_about(const Error& e);
  void roll_back();

  /// The row after one more write, into row_; its elements into next_.
  void make_row(Key key);
  Answer decode(bool found, Key key, std::string_view row, Lsn lsn);
  /// The rows of a cursor, at most `limit`; false when some are left.
  [[nodiscard]] bool walk(Cursor& c, Key from, Key to, std::size_t limit);
  [[nodiscard]] std::string name_of(Key key) const;
  [[nodiscard]] Lsn floor() const;
  [[nodiscard]] bool at_commit() const { return options_.locking == Locking::at_commit; }
  void dawdle();

  Database& db_;
  Tree tree_, markers_;
  const Plan& plan_;
  Board& board_;
  const unsigned incarnation_, thread_;
  Recorder recorder_;
  io::SeededRandom programs_, pauses_;

  std::optional<kessai::Transaction> txn_;
  BeginOptions options_;
  Flavor flavor_ = Flavor::update;
  bool retryable_ = false;
  bool wrote_ = false;
  std::optional<std::pair<Savepoint, std::uint32_t>> savepoint_;
  std::string value_, row_;
  std::vector<Element> seen_, next_;
  std::vector<Row> rows_;
};

}  // namespace kessai::torture
