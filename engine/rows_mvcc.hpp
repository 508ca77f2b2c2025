// SPDX-License-Identifier: Apache-2.0
// The stored rows of a range as a snapshot sees them: leaf copies, and before-images where the leaf
// is newer. A serializable transaction's read set grows with the rows that were passed.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "engine/transaction.hpp"

namespace kessai::engine {

class Rows {
 public:
  /// `txn` null: with a snapshot of its own. Not owned; next() is not called once it has ended.
  Rows(std::shared_ptr<Store> store, std::shared_ptr<TreeState> tree, const Range& range,
       TransactionState* txn);

  /// The next row; false at the end or on error. Views stay valid until the next call.
  [[nodiscard]] bool next(Result<void>& status) {
    if (ahead_at_ < ahead_end_) {
      btree::TreeCursor::Row row;
      const Taken taken = take_ahead(row);
      if (taken == Taken::visible) return true;
      if (taken == Taken::resolve) return next_resolved(row, true, status);
    }
    // The leaf copy at hand is private memory: rows that the snapshot sees need nothing else. `row`
    // stays in registers: nobody is given its address.
    btree::TreeCursor::Row row;
    while (cursor_.next_in_page(row)) {
      const Lsn lsn = btree::tag_lsn(row.tag);
      if (!snapshot_.sees(lsn) || btree::is_overflow(row.tag)) {
        btree::TreeCursor::Row given = row;
        return next_resolved(given, true, status);
      }
      if (btree::is_ghost(row.tag)) continue;
      key_ = row.key;
      value_ = row.value;
      lsn_ = lsn;
      if (reads_ != nullptr) passed(key_);
      return true;
    }
    btree::TreeCursor::Row none;
    return next_resolved(none, false, status);
  }
  [[nodiscard]] std::string_view key() const noexcept { return key_; }
  [[nodiscard]] std::string_view value() const noexcept { return value_; }
  [[nodiscard]] Lsn lsn() const noexcept { return lsn_; }
  [[nodiscard]] std::uint64_t leaves() const noexcept { return cursor_.leaves(); }

 private:
  [[nodiscard]] bool next_resolved(btree::TreeCursor::Row& row, bool have_row,
                                   Result<void>& status);
  [[nodiscard]] bool resolve(const btree::TreeCursor::Row& row, Result<void>& status);
  enum class Taken : std::uint8_t { none, visible, resolve };
  [[nodiscard]] Taken take_ahead(btree::TreeCursor::Row& row);
  void look_ahead(const btree::TreeCursor::Row& row);
  [[nodiscard]] bool killed(Result<void>& status);
  void passed(std::string_view key);
  void passed_all();

  std::shared_ptr<Store> store_;
  std::shared_ptr<TreeState> tree_;
  TransactionState* txn_;
  Range range_;
  mvcc::Snapshots::Live live_;  ///< none: the transaction's
  mvcc::Snapshot snapshot_;
  btree::TreeCursor cursor_;
  mvcc::ReadSet* reads_ = nullptr;  ///< of a serializable transaction
  std::size_t read_ = 0;            ///< the range in it
  std::string_view key_, value_;
  Lsn lsn_ = 0;
  std::string long_value_;  ///< storage of a value that is not in the leaf copy
  /// Rows of the leaf copy that were taken together, to look for their versions together.
  static constexpr std::size_t kMostAhead = 16;
  struct Ahead {
    std::array<btree::TreeCursor::Row, kMostAhead> rows;
    std::array<std::string, kMostAhead> keys;
    std::array<mvcc::Undo::Ask, kMostAhead> asks;  ///< of the rows that are newer, in order
    std::size_t asked = 0;                         ///< were taken
  };
  std::unique_ptr<Ahead> ahead_;
  std::size_t ahead_at_ = 0, ahead_end_ = 0;
  std::size_t next_ahead_ = 1;  ///< how many next time: doubles, so that a short scan asks for few
};

}  // namespace kessai::engine
