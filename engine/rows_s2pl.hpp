// SPDX-License-Identifier: Apache-2.0
// The stored rows of a range under shared range locks. The walk locks a stretch of keys (a row,
// then two, four, ...: a scan that stops early has locked little), then reads it: behind the lock
// nothing in it changes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/transaction.hpp"

namespace kessai::engine {

class Rows {
 public:
  /// `txn` null: with a transaction of its own, which ends with the rows.
  Rows(std::shared_ptr<Store> store, std::shared_ptr<TreeState> tree, const Range& range,
       TransactionState* txn);
  ~Rows();

  /// The next row; false at the end or on error. Views stay valid until the next call.
  [[nodiscard]] bool next(Result<void>& status);
  [[nodiscard]] std::string_view key() const noexcept { return batch_[at_ - 1].key; }
  [[nodiscard]] std::string_view value() const noexcept { return batch_[at_ - 1].value; }
  [[nodiscard]] Lsn lsn() const noexcept { return batch_[at_ - 1].lsn; }
  /// Leaves read, one that two stretches share twice; the looks ahead are not counted.
  [[nodiscard]] std::uint64_t leaves() const noexcept { return leaves_; }

 private:
  struct Row {
    std::string key, value;
    Lsn lsn = 0;
  };
  [[nodiscard]] Result<void> fill();
  [[nodiscard]] Result<void> fill_locked();
  /// Where the next `stretch_` rows end: a bound that the walk has not reached yet, or the range's.
  [[nodiscard]] Result<Range> next_stretch();
  [[nodiscard]] Result<void> read(const Range& stretch);

  std::shared_ptr<Store> store_;
  std::shared_ptr<TreeState> tree_;
  std::unique_ptr<TransactionState> own_;
  TransactionState* txn_;
  Range left_;  ///< what is not locked yet
  bool done_ = false;
  std::size_t stretch_ = 1;
  std::vector<Row> batch_;
  std::size_t at_ = 0;
  std::uint64_t leaves_ = 0;
};

}  // namespace kessai::engine
