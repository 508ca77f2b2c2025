// SPDX-License-Identifier: Apache-2.0
/// @file
/// The engine's public face: Database, Tree, Transaction, CommitTicket, Cursor.
///
/// Promises
///  * A commit answered `durable` survives kill -9, OS crash and power loss (on a device that
///    honours flushes). A transaction is all or nothing at every crash point.
///  * Nothing damaged is returned as data: reads verify every page against the hash tree of the
///    last checkpoint; damage is an error that names file, offset and page.
///  * Answers never outrun durability: a read-only snapshot reads what is durable; a read-write
///    transaction that ends without writes (S2PL build: also a read-only one), and an error that
///    carries a row, wait until everything they saw is durable.
///  * No exception leaves the library; every wait is bounded; nothing is printed.
///
/// Threads: Database and Tree may be used from any number of threads at once. A Transaction or
/// Cursor belongs to one thread at a time. Two transactions of one thread that meet on a lock get
/// `self_deadlock`, since the thread could never go on; a lock counts for the thread that took it,
/// so a transaction that holds locks is best finished where it was begun. Lifetime: Trees,
/// Transactions, Cursors and tickets keep the database's internals alive but answer `closed_handle`
/// after it was closed. Using any handle in a forked child answers `closed_handle`.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/error.hpp"
#include "kessai/inspect.hpp"
#include "kessai/options.hpp"
#include "kessai/stats.hpp"

namespace kessai {

/// Log sequence number of a commit; commits are ordered by it. 0 = before everything.
using Lsn = std::uint64_t;

namespace engine {
class Store;
struct TreeState;
class TransactionState;
class CursorState;
struct TicketState;
struct TransactionAccess;
}  // namespace engine

/// A named ordered map of byte strings. Cheap to copy.
class Tree {
 public:
  Tree() = default;
  [[nodiscard]] const std::string& name() const noexcept;
  [[nodiscard]] std::uint32_t id() const noexcept;
  [[nodiscard]] bool insert_only() const noexcept;  ///< see TreeOptions

 private:
  friend class engine::Store;
  friend class engine::TransactionState;
  friend class Database;
  friend class Transaction;
  explicit Tree(std::shared_ptr<engine::TreeState> s) noexcept : state_(std::move(s)) {}
  std::shared_ptr<engine::TreeState> state_;
};

/// Keys in [from, to), in byte order (memcmp, shorter first). Unset `to` = to the end.
struct Range {
  std::string from;
  std::optional<std::string> to;
  bool reverse = false;
  /// All keys that start with `prefix`.
  [[nodiscard]] static Range prefix(std::string_view prefix, bool reverse = false);
};

/// Walks rows in key order (or against it). Views stay valid until the next call of next().
/// After an error the cursor stays in error.
///
///     for (auto c = db->scan(t, {}); c.next();) use(c.key(), c.value());
///     // c.status() tells the end from an error
class Cursor {
 public:
  Cursor(Cursor&&) noexcept;
  Cursor& operator=(Cursor&&) noexcept;
  ~Cursor();
  /// Moves to the next row; false at the end or on error.
  [[nodiscard]] bool next();
  [[nodiscard]] std::string_view key() const noexcept;
  [[nodiscard]] std::string_view value() const noexcept;
  [[nodiscard]] Lsn lsn() const noexcept;  ///< commit LSN of the row; 0 for own uncommitted writes
  [[nodiscard]] const Result<void>& status() const noexcept;
  /// Leaf pages read so far.
  [[nodiscard]] std::uint64_t leaves() const noexcept;

 private:
  friend class engine::Store;
  friend class Database;
  friend class Transaction;
  explicit Cursor(std::unique_ptr<engine::CursorState> s) noexcept;
  std::unique_ptr<engine::CursorState> state_;
};

/// The promise of a commit. Copyable; thread-safe.
class CommitTicket {
 public:
  CommitTicket() = default;
  [[nodiscard]] Lsn lsn() const noexcept;  ///< 0 for a transaction without writes
  /// True once the commit is durable (or failed: then wait() tells). Polling makes progress: it
  /// starts a flush when the device is idle.
  [[nodiscard]] bool ready() const;
  /// Waits until durable. `unknown_outcome` when the log failed: ask again after reopening.
  [[nodiscard]] Result<void> wait() const;
  /// Calls `fn` once durable (or failed), on a thread of the engine that is there for this, or at
  /// once when it already is. `fn` must not throw and must not close the database; while it runs,
  /// other callbacks wait.
  void on_durable(std::function<void(Result<void>)> fn) const;

 private:
  friend class engine::Store;
  friend class engine::TransactionState;
  friend class Transaction;
  CommitTicket(std::shared_ptr<engine::Store> store, Lsn lsn, Lsn wait_for) noexcept;
  std::shared_ptr<engine::Store> store_;
  Lsn lsn_ = 0;
  Lsn wait_for_ = 0;
};

/// Names a commit for ever: ask Database::outcome() after a reopen whether it survived.
struct CommitToken {
  std::string store;             ///< StoreInfo::store_id
  std::uint64_t generation = 0;  ///< of the log: one per read-write open
  Lsn lsn = 0;
  /// "STORE/GENERATION/LSN", to be kept outside the store.
  [[nodiscard]] std::string text() const;
  [[nodiscard]] static Result<CommitToken> parse(std::string_view text);
};

enum class Outcome : std::uint8_t { committed, not_committed };

/// A point in a transaction to roll back to. Valid until the transaction ends or an older
/// savepoint is rolled back to.
class Savepoint {
 private:
  friend class engine::TransactionState;
  std::uint64_t transaction_ = 0;
  std::uint64_t depth_ = 0;
};

/// A unit of work. Writes stay private until commit; reads see what the isolation level says plus
/// the own writes. Destroying an open transaction rolls it back.
///
/// Locks: a write or locking read locks its record to the end of the transaction; when another
/// transaction holds it, the call waits: FIFO, up to the given time (`lock_timeout`), unless the
/// wait would close a cycle: then the transaction with the least work gets `deadlock`.
/// Conflicts (snapshot, serializable; first updater wins): a write or locking read of a row that
/// changed since the snapshot fails with `write_conflict`. But while a transaction has neither read
/// nor written, the lock that it gets moves its snapshot to that moment instead, so that
/// transactions that begin with a lock queue up without conflicts. Serializable transactions can
/// get `write_conflict` from commit, too. Errors with `retryable()` ask to run the transaction
/// again. After any error other than not_found, key_exists, lock_timeout, tree_not_found, transient
/// refusals and errors of the call's own arguments the transaction can only be rolled back.
class Transaction {
 public:
  /// What update_if does with the current value: a new value, or nothing to leave the row alone.
  using Update = std::function<std::optional<std::string>(std::string_view current)>;

  Transaction(Transaction&&) noexcept;
  Transaction& operator=(Transaction&&) noexcept;
  ~Transaction();

  /// The value; `not_found` when absent.
  [[nodiscard]] Result<std::string> get(const Tree& tree, std::string_view key);
  /// As get, into `value` (its capacity is reused); returns the row's commit LSN (0: own write).
  [[nodiscard]] Result<Lsn> get(const Tree& tree, std::string_view key, std::string& value);
  /// Reads the current version and locks it to the end of the transaction; absent keys are locked
  /// too (`not_found`, and nobody else can insert them).
  [[nodiscard]] Result<std::string> get_for_update(const Tree& tree, std::string_view key,
                                                   LockWait wait = {});
  [[nodiscard]] Result<void> put(const Tree& tree, std::string_view key, std::string_view value,
                                 LockWait wait = {});
  /// As put, but an existing row answers `key_exists`, with the row's value in `existing` if given.
  /// Meets an uncommitted insert: waits for its end, then decides.
  [[nodiscard]] Result<void> insert(const Tree& tree, std::string_view key, std::string_view value,
                                    std::string* existing = nullptr, LockWait wait = {});
  /// `not_found` when absent.
  [[nodiscard]] Result<void> remove(const Tree& tree, std::string_view key, LockWait wait = {});
  /// Locks the row, shows its current version (not the snapshot's) to `update`, and writes what it
  /// answers. True: written. False: `update` left it alone. `not_found` when absent;
  /// `write_conflict` as for a write. What `update` throws becomes `callback_failed`.
  [[nodiscard]] Result<bool> update_if(const Tree& tree, std::string_view key, const Update& update,
                                       LockWait wait = {});
  [[nodiscard]] Cursor scan(const Tree& tree, const Range& range);

  /// Locks all keys as get_for_update would, sorted and each once, so that two such calls never
  /// deadlock with each other.
  [[nodiscard]] Result<void> lock_many(const Tree& tree, std::span<const std::string_view> keys,
                                       LockWait wait = {});
  /// A lock on a name of the application's choosing, to the end of the transaction. Taken before
  /// the first read, it makes that read see what was committed under the name before.
  [[nodiscard]] Result<void> lock_named(std::string_view name, LockMode mode = LockMode::exclusive,
                                        LockWait wait = {});
  /// Without waiting; false when another transaction is in the way.
  [[nodiscard]] Result<bool> try_lock_named(std::string_view name,
                                            LockMode mode = LockMode::exclusive);

  /// Savepoints nest. Rolling back to one undoes the writes made after it (and forgets savepoints
  /// and on_commit hooks made after it); locks and what was read stay until the transaction ends.
  [[nodiscard]] Result<Savepoint> savepoint();
  [[nodiscard]] Result<void> rollback_to(const Savepoint& savepoint);

  /// Calls `fn` once the commit is durable, never if it is rolled back or its outcome unknown. On
  /// the committing thread, or for commit_async on the thread that finds it durable. In the order
  /// given, after everything the commit held is released. It may use the database, but must not
  /// close it. What `fn` throws goes to Options::log_sink. A crash between durability and the call
  /// loses the call: what must not be lost belongs into a row.
  [[nodiscard]] Result<void> on_commit(std::function<void(Lsn)> fn);

  /// Commits and waits as its durability asks. `unknown_outcome`: the log failed while it waited;
  /// Error::detail().lsn names the commit, see Database::token().
  [[nodiscard]] Result<Lsn> commit();
  /// Commits, visible to others at once; durable when the ticket says so.
  [[nodiscard]] Result<CommitTicket> commit_async();
  /// Undoes everything. Waits like a read-only commit when answers were given (see file comment).
  [[nodiscard]] Result<void> rollback();
  [[nodiscard]] bool active() const noexcept;
  [[nodiscard]] std::uint64_t id() const noexcept;  ///< larger = begun later
  [[nodiscard]] Isolation isolation() const noexcept;
  /// Watermark of the reads: commits up to it are seen. Fixed at begin, or at a lock before the
  /// first read or write (read_committed: at the last call). 0 in the S2PL build, which reads the
  /// current state.
  [[nodiscard]] Lsn snapshot() const noexcept;

 private:
  friend class engine::Store;
  friend class Database;
  friend struct engine::TransactionAccess;
  explicit Transaction(std::unique_ptr<engine::TransactionState> s) noexcept;
  void hooks_when_durable(const CommitTicket& ticket, std::vector<std::function<void(Lsn)>> hooks);
  std::unique_ptr<engine::TransactionState> state_;
};

/// One answer of multi_get.
struct Lookup {
  Code code =
      Code::not_found;  ///< only meaningful when !found: not_found, or the error of this key
  bool found = false;
  Lsn lsn = 0;
  std::string value;
};

struct TreeInfo {
  std::string name;
  std::uint32_t id = 0;
  std::uint64_t records = 0;
  std::uint64_t pages = 0;
  unsigned depth = 0;
  double fill = 0;  ///< live record bytes / usable leaf bytes, 0..1
};

struct StoreInfo {
  std::uint32_t format = 0;
  std::string store_id;  ///< hex
  std::string mode;      ///< "mvcc" or "s2pl": how this build controls concurrency
  std::uint32_t page_size = 0;
  std::uint64_t pages = 0;       ///< pages in use
  std::uint64_t free_pages = 0;  ///< reusable slots in the data file
  Lsn last_checkpoint_lsn = 0;
  Lsn durable_lsn = 0;
  std::uint64_t wal_bytes = 0;     ///< log files on disk
  std::uint64_t redo_bytes = 0;    ///< what a crash now would replay
  bool clean = false;              ///< the store had been closed cleanly before this open
  std::optional<Lsn> tail_cut_at;  ///< where this open's recovery cut a torn tail
  std::string io_backend;          ///< "io_uring", "posix" or "simulated"
};

struct Damage {
  std::string file;
  std::uint64_t offset = 0;
  std::uint64_t page = 0;
  std::string what;
};
struct CheckReport {
  bool ok = true;
  std::uint64_t pages_checked = 0;
  std::uint64_t trees = 0;
  std::uint64_t records = 0;
  std::vector<Damage> damage;
};

/// One decoded page, for people: every field as text, as much as can be decoded.
struct PageDump {
  std::uint64_t page = 0;
  std::string type;  ///< "leaf", "inner", "overflow", "roots", "free"
  std::uint32_t tree = 0;
  unsigned level = 0;
  Lsn page_lsn = 0;
  Lsn max_ts = 0;
  std::uint64_t slot = 0;  ///< where the last written image lives in the data file
  bool dirty = false;      ///< newer in memory than on disk
  std::string low_fence, high_fence;
  bool has_high_fence = false;
  std::size_t free_bytes = 0;
  struct Entry {
    std::string key;
    std::string value;                 ///< leaf: value bytes (empty for overflow)
    Lsn lsn = 0;                       ///< leaf
    bool ghost = false;                ///< leaf: deleted, kept until no snapshot needs it
    std::uint64_t overflow_bytes = 0;  ///< leaf: length of an overflow value
    std::uint64_t child = 0;           ///< inner
  };
  std::vector<Entry> entries;
};

/// One node of a tree for drawing it.
struct TreeNode {
  std::uint64_t page = 0;
  unsigned level = 0;  ///< 0 = leaf
  std::uint64_t parent = 0;
  std::uint32_t entries = 0;
  double fill = 0;
  std::string first_key;
};

/// One record of the log.
struct WalRecord {
  Lsn lsn = 0;
  std::uint64_t generation = 0;
  std::string kind;  ///< "commit", "part", "close", "create", "drop", "note"
  struct Op {
    std::uint32_t tree = 0;
    std::string op;  ///< "put" or "remove"
    std::string key;
    std::uint64_t value_bytes = 0;
  };
  std::vector<Op> ops;
  std::uint64_t bytes = 0;
};

class Database {
 public:
  /// Opens (or creates) the store in directory `path`, recovering it when needed. Errors:
  /// store_missing, not_a_store, newer_format, page_size_mismatch, incomplete_store, locked,
  /// superblock_damaged, log_damaged, permission_denied, disk_full, io_error.
  [[nodiscard]] static Result<Database> open(std::string_view path, const Options& options = {});
  Database(Database&&) noexcept;
  Database& operator=(Database&&) noexcept;
  ~Database();  ///< closes; errors of the final checkpoint are lost: call close() to see them

  /// Checkpoints, seals the log and closes. Open transactions are rolled back.
  [[nodiscard]] Result<void> close();

  [[nodiscard]] Result<Tree> tree(std::string_view name, const TreeOptions& options = {});
  /// Waits for commits under way, not for open transactions: those that use the tree get
  /// `tree_not_found` from then on. Trees come and go outside isolation levels.
  [[nodiscard]] Result<void> drop_tree(std::string_view name);
  [[nodiscard]] Result<std::vector<std::string>> tree_names();
  [[nodiscard]] Result<TreeInfo> tree_info(const Tree& tree);  ///< walks the whole tree

  [[nodiscard]] Result<Transaction> begin(const BeginOptions& options = {});
  [[nodiscard]] Result<Transaction> read_only();

  // One-call forms. Reads see every durably acknowledged commit. MVCC build: reads wait for
  // nothing. S2PL build: they wait for locks, as transactions of one call, and until what they
  // answer is durable; a scan keeps its range locks until the cursor goes. All of them can get
  // lock_timeout, deadlock or, beside a transaction or cursor of the same thread, self_deadlock.
  [[nodiscard]] Result<std::string> get(const Tree& tree, std::string_view key);
  [[nodiscard]] Result<Lsn> get(const Tree& tree, std::string_view key, std::string& value);
  /// Looks up `keys` with interleaved descents and batched reads; `out[i]` answers `keys[i]`.
  /// REQUIRES out.size() >= keys.size().
  [[nodiscard]] Result<void> multi_get(const Tree& tree, std::span<const std::string_view> keys,
                                       std::span<Lookup> out);
  [[nodiscard]] Cursor scan(const Tree& tree, const Range& range);
  [[nodiscard]] Result<Lsn> put(const Tree& tree, std::string_view key, std::string_view value,
                                Durability durability = Durability::durable);
  [[nodiscard]] Result<Lsn> insert(const Tree& tree, std::string_view key, std::string_view value,
                                   Durability durability = Durability::durable);
  [[nodiscard]] Result<Lsn> remove(const Tree& tree, std::string_view key,
                                   Durability durability = Durability::durable);

  [[nodiscard]] Result<void> wait_durable(Lsn lsn);
  /// The token of a commit of this open: of the LSN that commit() answered, or of the one in
  /// Error::detail() of `unknown_outcome`.
  [[nodiscard]] Result<CommitToken> token(Lsn lsn) const;
  /// Whether a commit of any earlier open survived. `invalid_argument`: not a token of this store,
  /// or of a later history than this copy of it knows; of this open and not yet durable: waits.
  [[nodiscard]] Result<Outcome> outcome(const CommitToken& token);
  [[nodiscard]] Result<void> checkpoint();
  [[nodiscard]] Result<CheckReport> check(
      const std::function<void(const Progress&)>& progress = {});
  [[nodiscard]] StoreInfo info() const;
  [[nodiscard]] Stats stats() const;
  [[nodiscard]] std::vector<WaitInfo> waits() const;  ///< since open; every name, also unused ones
  [[nodiscard]] std::vector<TransactionInfo> transactions() const;
  [[nodiscard]] std::vector<LockInfo> locks() const;
  [[nodiscard]] std::vector<DeadlockInfo> deadlocks() const;  ///< the last 32, oldest first
  [[nodiscard]] UndoInfo undo() const;
  /// All versions of a row that are still kept, newest first. Empty: absent for everybody.
  [[nodiscard]] Result<std::vector<VersionInfo>> versions(const Tree& tree, std::string_view key);
  [[nodiscard]] Result<PageDump> page(std::uint64_t page_id);
  [[nodiscard]] Result<std::vector<TreeNode>> tree_nodes(const Tree& tree);
  /// Visits the log's records still on disk, oldest first; stops when `fn` answers false.
  [[nodiscard]] Result<void> wal_records(const std::function<bool(const WalRecord&)>& fn);

 private:
  explicit Database(std::shared_ptr<engine::Store> s) noexcept;
  std::shared_ptr<engine::Store> store_;
};

/// "a -> b -> a" in words, one line a member; for people.
[[nodiscard]] std::string deadlock_text(const DeadlockInfo& deadlock);
/// The wait-for graph for Graphviz.
[[nodiscard]] std::string deadlock_dot(const DeadlockInfo& deadlock);

/// "kessai 0.1.0".
[[nodiscard]] std::string_view version() noexcept;

}  // namespace kessai
