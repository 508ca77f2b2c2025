// SPDX-License-Identifier: Apache-2.0
// The state behind Cursor: the tree's rows as a snapshot sees them, merged with own writes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/transaction.hpp"

namespace kessai::engine {

class CursorState {
 public:
  /// A cursor that only reports `e`.
  explicit CursorState(Error e) : status_(std::unexpected(std::move(e))) {}
  /// Within `txn` (not owned; when it ends, so does the cursor), or with a snapshot of its own.
  CursorState(std::shared_ptr<Store> store, std::shared_ptr<TreeState> tree, Range range,
              TransactionState* txn);

  [[nodiscard]] bool next();
  [[nodiscard]] std::string_view key() const noexcept { return key_; }
  [[nodiscard]] std::string_view value() const noexcept { return value_; }
  [[nodiscard]] Lsn lsn() const noexcept { return lsn_; }
  [[nodiscard]] const Result<void>& status() const noexcept { return status_; }

 private:
  struct Own {
    std::string key, value;
    bool remove;
  };
  [[nodiscard]] bool next_stored();
  [[nodiscard]] bool killed();
  [[nodiscard]] bool next_resolved(btree::TreeCursor::Row& row, bool have_row);
  [[nodiscard]] bool resolve(const btree::TreeCursor::Row& row);
  [[nodiscard]] bool before(std::string_view a, std::string_view b) const noexcept {
    return reverse_ ? b < a : a < b;
  }

  std::shared_ptr<Store> store_;
  std::shared_ptr<TreeState> tree_;
  std::shared_ptr<TransactionState*> txn_;  ///< null: no transaction; points to null: it is gone
  mvcc::Snapshots::Live live_;
  mvcc::Snapshot snapshot_;
  bool reverse_ = false;
  std::optional<btree::TreeCursor> cursor_;
  std::vector<Own> own_;  ///< own writes in the range, in scan order, copied at the start
  std::size_t own_at_ = 0;
  bool stored_valid_ = false, stored_done_ = false;
  std::string_view stored_key_, stored_value_;
  Lsn stored_lsn_ = 0;
  mvcc::Version version_;  ///< storage of values that are not in the leaf copy
  std::string long_value_;
  std::string_view key_, value_;
  Lsn lsn_ = 0;
  Result<void> status_;
};

}  // namespace kessai::engine
