// SPDX-License-Identifier: Apache-2.0
// The state behind Transaction: a snapshot, private writes, record locks.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "engine/store.hpp"

namespace kessai::engine {

class TransactionState {
 public:
  TransactionState(std::shared_ptr<Store> store, const BeginOptions& options);
  ~TransactionState();
  TransactionState(const TransactionState&) = delete;
  TransactionState& operator=(const TransactionState&) = delete;

  [[nodiscard]] Result<Lsn> get(const std::shared_ptr<TreeState>& t, std::string_view key,
                                std::string& value);
  [[nodiscard]] Result<std::string> get_for_update(const std::shared_ptr<TreeState>& t,
                                                   std::string_view key);
  [[nodiscard]] Result<void> put(const std::shared_ptr<TreeState>& t, std::string_view key,
                                 std::string_view value);
  [[nodiscard]] Result<void> insert(const std::shared_ptr<TreeState>& t, std::string_view key,
                                    std::string_view value, std::string* existing);
  [[nodiscard]] Result<void> remove(const std::shared_ptr<TreeState>& t, std::string_view key);
  /// {commit LSN or 0, LSN whose durability the answer must wait for}.
  [[nodiscard]] Result<std::pair<Lsn, Lsn>> commit();
  [[nodiscard]] Result<void> rollback();

  [[nodiscard]] bool active() const noexcept { return active_; }
  [[nodiscard]] const mvcc::Snapshot& snapshot() const noexcept { return live_.snapshot(); }
  [[nodiscard]] bool killed() const noexcept { return live_.killed() && !judge_current_; }
  [[nodiscard]] Durability durability() const noexcept { return options_.durability; }
  [[nodiscard]] const std::shared_ptr<Store>& store() const noexcept { return store_; }
  [[nodiscard]] WriteSet& writes() noexcept { return writes_; }
  /// Every call goes through this: open, not failed, tree of this store.
  [[nodiscard]] Result<void> usable(const TreeState* t) const;
  void answered() noexcept { answered_ = true; }
  void scan_failed(const Error& e) { static_cast<void>(failed(e)); }
  /// Autocommit: writes are judged on current data, not on the snapshot.
  void judge_current() noexcept { judge_current_ = true; }
  /// For cursors, which may outlive the transaction: points to it, then to null.
  [[nodiscard]] const std::shared_ptr<TransactionState*>& self() {
    if (!self_) self_ = std::make_shared<TransactionState*>(this);
    return self_;
  }

 private:
  struct Current {
    bool live = false;
    std::uint64_t tag = 0;
    Lsn page_lsn = 0;
    std::string value;  ///< only for long values, or when asked for
    btree::LeafHint hint;
  };
  /// Locks the record and reads its current version; write_conflict when it is newer than the
  /// snapshot.
  [[nodiscard]] Result<Current> lock_and_read(const std::shared_ptr<TreeState>& t,
                                              std::string_view key, bool want_value,
                                              bool conflict_on_newer);
  [[nodiscard]] Result<void> write(const std::shared_ptr<TreeState>& t, std::string_view key,
                                   Current&& current, bool remove, std::string_view value);
  [[nodiscard]] std::unexpected<Error> failed(Error e);
  void end() noexcept;

  std::shared_ptr<Store> store_;
  BeginOptions options_;
  mvcc::Snapshots::Live live_;
  mvcc::LockSet locks_;
  WriteSet writes_;
  Lsn seen_ = 0;           ///< I7
  bool answered_ = false;  ///< something read was given out
  bool active_ = true;
  bool failed_ = false;  ///< only rollback is left
  bool judge_current_ = false;
  std::shared_ptr<TransactionState*> self_;
};

/// One autocommitted change: the same path without a snapshot.
[[nodiscard]] Result<Lsn> autocommit(const std::shared_ptr<Store>& store,
                                     const std::shared_ptr<TreeState>& t, std::string_view key,
                                     std::string_view value, char kind, Durability durability);

}  // namespace kessai::engine
