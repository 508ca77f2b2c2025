// SPDX-License-Identifier: Apache-2.0
// The state behind Cursor: the stored rows that the transaction sees, merged with own writes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/policy.hpp"
#include "engine/transaction.hpp"
#if KESSAI_S2PL
#include "engine/rows_s2pl.hpp"
#else
#include "engine/rows_mvcc.hpp"
#endif

namespace kessai::engine {

class CursorState {
 public:
  /// A cursor that only reports `e`.
  explicit CursorState(Error e) : status_(std::unexpected(std::move(e))) {}
  /// Within `txn` (not owned; when it ends, so does the cursor), or on its own.
  CursorState(std::shared_ptr<Store> store, std::shared_ptr<TreeState> tree, const Range& range,
              TransactionState* txn);

  [[nodiscard]] bool next();
  [[nodiscard]] std::string_view key() const noexcept { return key_; }
  [[nodiscard]] std::string_view value() const noexcept { return value_; }
  [[nodiscard]] Lsn lsn() const noexcept { return lsn_; }
  [[nodiscard]] std::uint64_t leaves() const noexcept { return rows_ ? rows_->leaves() : 0; }
  [[nodiscard]] const Result<void>& status() const noexcept { return status_; }

 private:
  struct Own {
    std::string key, value;
    bool remove;
  };
  [[nodiscard]] bool before(std::string_view a, std::string_view b) const noexcept {
    return reverse_ ? b < a : a < b;
  }

  std::shared_ptr<TransactionState*> txn_;  ///< null: no transaction; points to null: it is gone
  bool reverse_ = false;
  std::optional<Rows> rows_;
  std::vector<Own> own_;  ///< own writes in the range, in scan order, copied at the start
  std::size_t own_at_ = 0;
  bool stored_valid_ = false, stored_done_ = false;
  std::string_view key_, value_;
  Lsn lsn_ = 0;
  Result<void> status_;
};

}  // namespace kessai::engine
