// SPDX-License-Identifier: Apache-2.0
// The state behind Transaction: a view of the data, private writes, locks.
//
// A transaction is idle, inside a call, or ended. It ends by commit, rollback or destruction, but
// also when a call fails for good (conflict, deadlock, a snapshot that was given up) or when it
// idles or grows too old: then everything is released at once, so that others go on, and later
// calls say why. The one who moves it from idle to busy (one CAS) may touch it: its own thread for
// a call, or the upkeep thread to end it. Being busy also keeps the store open, as Store::Use does:
// a call announces itself, then looks at the store's flag; close() sets the flag, then looks at all
// registered transactions (all seq_cst).
//
// Threads: one at a time, but for expire() and info(), which any thread may call through the
// registry.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/policy.hpp"
#include "engine/registry.hpp"
#include "engine/store.hpp"
#include "io/mutant.hpp"
#include "mvcc/certifier.hpp"

namespace kessai::engine {

/// What validation at commit needs (serializable, MVCC build).
struct Certify {
  mvcc::ReadSet reads;
  mvcc::Certifier::Ticket start = 0;
};

class TransactionState {
 public:
  TransactionState(std::shared_ptr<Store> store, const BeginOptions& options);
  ~TransactionState();
  TransactionState(const TransactionState&) = delete;
  TransactionState& operator=(const TransactionState&) = delete;

  using TreePtr = std::shared_ptr<TreeState>;
  // reads (transaction.cc, reads_*.cc)
  [[nodiscard]] Result<Lsn> get(const TreePtr& t, std::string_view key, std::string& value);
  // writes and locks (writes.cc)
  [[nodiscard]] Result<std::string> get_for_update(const TreePtr& t, std::string_view key,
                                                   LockWait wait);
  [[nodiscard]] Result<void> put(const TreePtr& t, std::string_view key, std::string_view value,
                                 LockWait wait);
  [[nodiscard]] Result<void> insert(const TreePtr& t, std::string_view key, std::string_view value,
                                    std::string* existing, LockWait wait);
  [[nodiscard]] Result<void> remove(const TreePtr& t, std::string_view key, LockWait wait);
  [[nodiscard]] Result<bool> update_if(const TreePtr& t, std::string_view key,
                                       const Transaction::Update& update, LockWait wait);
  [[nodiscard]] Result<void> lock_many(const TreePtr& t, std::span<const std::string_view> keys,
                                       LockWait wait);
  [[nodiscard]] Result<void> lock_named(std::string_view name, LockMode mode, LockWait wait);
  [[nodiscard]] Result<Savepoint> savepoint();
  [[nodiscard]] Result<void> rollback_to(const Savepoint& s);
  [[nodiscard]] Result<void> on_commit(std::function<void(Lsn)> fn);

  /// {commit LSN or 0, LSN whose durability the answer must wait for}.
  [[nodiscard]] Result<std::pair<Lsn, Lsn>> commit();
  [[nodiscard]] Result<void> rollback();
  /// Of a commit that succeeded; once.
  [[nodiscard]] std::vector<std::function<void(Lsn)>> take_hooks() { return std::move(hooks_); }

  [[nodiscard]] bool active() const noexcept {
    return phase_.load(std::memory_order_acquire) < kExpiring;
  }
  [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
  [[nodiscard]] Isolation isolation() const noexcept { return isolation_; }
  [[nodiscard]] Lsn snapshot_lsn() const noexcept {
    return snapshot_lsn_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] const BeginOptions& options() const noexcept { return options_; }
  [[nodiscard]] const std::shared_ptr<Store>& store() const noexcept { return store_; }
  /// Answers what it was.
  bool set_managed(bool managed) noexcept { return std::exchange(managed_, managed); }

  // --- for cursors ---------------------------------------------------------------------------
  /// Opens a call; every public function starts with one. Refused: `ok` says why.
  class Call {
   public:
    /// `t` null: a call without a tree.
    Call(TransactionState& txn, const char* name, const TreeState* t, bool with_tree);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    Result<void> ok;

   private:
    TransactionState* txn_ = nullptr;  ///< null: refused
  };
  [[nodiscard]] const mvcc::Snapshot& snapshot() const noexcept { return live_.snapshot(); }
  [[nodiscard]] bool killed() const noexcept { return live_.killed() && !judge_current_; }
  [[nodiscard]] WriteSet& writes() noexcept { return writes_; }
  [[nodiscard]] mvcc::LockSet& locks() noexcept { return locks_; }
  [[nodiscard]] mvcc::ReadSet* read_set() noexcept { return certify_ ? &certify_->reads : nullptr; }
  [[nodiscard]] std::uint64_t lock_timeout_ns(LockWait wait) const noexcept;
  void answered(Lsn seen) noexcept {
    answered_ = true;
    seen_ = std::max(seen_, seen);
  }
  /// Ends the transaction when `e` is an error it cannot go on after; passes the error on.
  std::unexpected<Error> failed(Error e);
  [[nodiscard]] Lsn seen() const noexcept { return seen_; }
  /// Why it has ended. REQUIRES that it has.
  [[nodiscard]] Error ended_error() const;
  /// The same when it is ended or being ended: waits for the latter.
  [[nodiscard]] Error wait_ended() const;
  [[nodiscard]] Code ended_by() const noexcept {
    return phase_.load(std::memory_order_acquire) == kEnded ? ended_by_ : Code::closed_handle;
  }
  /// For cursors, which may outlive the transaction: points to it, then to null.
  [[nodiscard]] const std::shared_ptr<TransactionState*>& self() {
    if (!self_) self_ = std::make_shared<TransactionState*>(this);
    return self_;
  }

  /// Autocommit: writes are judged on current data, not on the snapshot.
  void judge_current() noexcept { judge_current_ = true; }

  // --- for the registry ----------------------------------------------------------------------
  /// Claims it for expire() when it has idled or aged beyond the store's limits. Under the
  /// registry's mutex; the claim keeps it alive.
  [[nodiscard]] bool claim_if_expired(std::uint64_t now_ns);
  /// Claims it if no call is under way.
  [[nodiscard]] bool claim();
  [[nodiscard]] bool in_call() const noexcept {
    return phase_.load(std::memory_order_seq_cst) == kBusy;
  }
  void expire(Code why);
  [[nodiscard]] TransactionInfo info(std::uint64_t now_ns) const;

 private:
  enum Phase : std::uint32_t { kIdle, kBusy, kExpiring, kEnded };

  struct Current {
    bool live = false;
    std::uint64_t tag = 0;
    Lsn page_lsn = 0;
    std::string value;  ///< only for long values, or when asked for
    btree::LeafHint hint;
  };
  // reads_mvcc.cc, reads_s2pl.cc
  void begin_view();
  /// Called when a call begins: read_committed takes a new snapshot.
  void refresh_view();
  /// After a lock was granted: moves the snapshot to now, if nothing was read or written yet. As if
  /// the transaction had begun after the holder before it had committed.
  void renew_view();
  [[nodiscard]] Result<SnapshotRead> read_row(TreeState& t, std::string_view key,
                                              std::string* value);
  /// Whether the current version, seen under its lock, is one this transaction may change.
  [[nodiscard]] bool conflicts(std::uint64_t tag) const noexcept;
  /// Trees dropped at or below this are gone for it.
  [[nodiscard]] Lsn tree_view() const noexcept;

  [[nodiscard]] bool over_limits(std::uint64_t now_ns) const noexcept;
  [[nodiscard]] Result<void> writable_call() const;
  /// Locks the record and reads its current version; write_conflict when it is newer than the
  /// snapshot and `conflict_on_newer`.
  [[nodiscard]] Result<Current> lock_and_read(const TreePtr& t, std::string_view key,
                                              bool want_value, bool conflict_on_newer,
                                              LockWait wait);
  [[nodiscard]] Result<void> lock_record(const TreeState& t, std::string_view key, LockWait wait);
  [[nodiscard]] std::unexpected<Error> conflict(const TreeState& t, std::string_view key, Lsn lsn);
  void write(const TreePtr& t, std::string_view key, Current&& current, bool remove,
             std::string_view value);
  [[nodiscard]] bool defers() const noexcept {
    return !kS2pl && options_.locking == Locking::at_commit && !judge_current_;
  }
  void defer(const TreePtr& t, std::string_view key, bool remove, bool insert,
             std::string_view value);
  /// Locks and judges a deferred write now.
  [[nodiscard]] Result<void> settle(Write& w, LockWait wait);
  [[nodiscard]] Result<void> settle_all();
  void note_writes() noexcept;
  void end(Code why) noexcept;
  [[nodiscard]] std::uint64_t now() const;

  std::shared_ptr<Store> store_;
  BeginOptions options_;
  Isolation isolation_;
  std::uint64_t id_;
  mvcc::Snapshots::Live live_;
  mvcc::LockSet locks_;
  WriteSet writes_;
  std::optional<Certify> certify_;
  struct Mark {
    std::size_t writes, hooks;
    std::uint64_t serial;
  };
  std::vector<Mark> savepoints_;
  std::uint64_t next_serial_ = 1;
  std::vector<std::function<void(Lsn)>> hooks_;
  Lsn seen_ = 0;           ///< I7
  bool answered_ = false;  ///< something read was given out
  bool judge_current_ = false;
  bool managed_ = false;  ///< run_transaction commits and rolls back
  Code ended_by_ = Code::closed_handle;
  std::shared_ptr<TransactionState*> self_;

  // read by other threads
  RegistryLink link_;
  std::uint64_t begun_ns_ = 0;
  io::Atomic<std::uint32_t> phase_{kIdle};
  std::atomic<std::uint64_t> last_ns_{0};
  std::atomic<const char*> last_call_{"begin"};
  std::atomic<unsigned> thread_{0};
  std::atomic<Lsn> snapshot_lsn_{0};
  std::atomic<std::uint64_t> write_count_{0}, write_bytes_{0};
};

/// For the library's own helpers on top of the public handles.
struct TransactionAccess {
  /// Null: moved away.
  static TransactionState* state(Transaction& t) noexcept { return t.state_.get(); }
};

/// One autocommitted change: the same path without a snapshot.
[[nodiscard]] Result<Lsn> autocommit(const std::shared_ptr<Store>& store,
                                     const std::shared_ptr<TreeState>& t, std::string_view key,
                                     std::string_view value, char kind, Durability durability);

}  // namespace kessai::engine
