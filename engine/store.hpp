// SPDX-License-Identifier: Apache-2.0
// The engine behind Database: one open store.
//
// What it is: page store + log + versions + locks, wired together. Database, Tree, Transaction,
// Cursor and CommitTicket are thin handles on what is here.
//
// Commit pipeline (I1-I4; the numbers of a step name what must not fail after it):
//   1 private writes, each under its record's X lock (first updater wins)
//   2 claim slots, write overflow pages, pin leaves, encode the record; publish the write set for
//     serializable readers, reserve log, validate the own reads (mvcc/certifier.hpp)
//   3 fill the log record                              -- from here on an error poisons the store
//   4 per key: latch leaf, push the before-image, change, raise max_ts
//   5 mark applied; release pins, claims, locks; then the answer waits for durability
//
// Watermarks (I7): a read-write snapshot is the applied watermark; a read-only one min(applied,
// durable). The horizon below which ghosts and before-images may go is cached by maintenance.
//
// Threads: everything is thread-safe unless it belongs to one transaction. Background threads:
// "kessai-log" (log upkeep, transaction limits), "kessai-ckpt" (checkpoints, version GC, purging,
// freeing) and "kessai-hook" (functions of the application that wait for durable commits); with
// Env::background == false their work is done in small steps at the end of commits, so that a test
// is deterministic.
// Lock order: ddl_mutex_ > upkeep_mutex_ > checkpoint_mutex_ > trees_mutex_ > everything in mvcc,
// btree and wal; relief_mutex_ > everything in mvcc. No page latch is held while any of these is
// taken.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "btree/page_store.hpp"
#include "btree/roots.hpp"
#include "btree/tree.hpp"
#include "engine/policy.hpp"
#include "engine/registry.hpp"
#include "engine/write_set.hpp"
#include "io/env.hpp"
#include "io/sync.hpp"
#include "io/waits.hpp"
#include "kessai/database.hpp"
#include "mvcc/certifier.hpp"
#include "mvcc/lock_table.hpp"
#include "mvcc/snapshots.hpp"
#include "mvcc/undo.hpp"
#include "wal/log.hpp"

namespace kessai::engine {

inline constexpr TreeId kCatalogTree{1};
inline constexpr TreeId kMainTree{2};
inline constexpr const char* kMainTreeName = "main";

struct TreeState {
  TreeState(std::shared_ptr<const int> s, std::string n, btree::TreeContext& c, TreeId i,
            PageId root, bool inserts_only = false)
      : store(std::move(s)), name(std::move(n)), insert_only(inserts_only), tree(c, i, root) {}
  std::shared_ptr<const int> store;  ///< Store::token(): tells stores apart, also dead ones
  std::string name;
  const bool insert_only;  ///< TreeOptions::insert_only
  btree::Tree tree;
  io::Atomic<std::uint32_t> writers{0};  ///< commits that are changing the tree now
  io::Atomic<bool> dropping{false};      ///< no new commits
  io::Atomic<Lsn> dropped_at{0};  ///< commit LSN of the drop; snapshots at or past it see nothing
  /// Set before the first page is freed; whoever met a freed page synchronised with that.
  [[nodiscard]] bool gone_at(Lsn w) const noexcept {
    const Lsn at = dropped_at.load(std::memory_order_acquire);
    return at != 0 && w >= at;
  }
};

/// Of a duration option or argument; negative ones count as 0.
[[nodiscard]] constexpr std::uint64_t to_ns(std::chrono::milliseconds d) noexcept {
  return d.count() > 0 ? static_cast<std::uint64_t>(d.count()) * 1'000'000 : 0;
}

/// A row as a snapshot sees it.
struct SnapshotRead {
  bool found = false;
  Lsn lsn = 0;
  Lsn page_lsn = 0;
};

class Store final : public std::enable_shared_from_this<Store> {
 public:
  [[nodiscard]] static Result<std::shared_ptr<Store>> open(std::string_view path,
                                                           const Options& options);
  ~Store();
  [[nodiscard]] Result<void> close();

  /// Keeps the store open while an operation runs; false once it is closed, and in a forked child.
  class Use {
   public:
    explicit Use(Store& s) noexcept;
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    [[nodiscard]] explicit operator bool() const noexcept { return slot_ != nullptr; }

   private:
    io::Atomic<std::uint32_t>* slot_;  ///< null: refused
  };

  // --- catalog (catalog.cc) ------------------------------------------------------------------
  [[nodiscard]] Result<std::shared_ptr<TreeState>> tree(std::string_view name,
                                                        const TreeOptions& options);
  [[nodiscard]] Result<void> drop_tree(std::string_view name);
  [[nodiscard]] Result<std::vector<std::string>> tree_names();

  // --- reads (reads_mvcc.cc, reads_s2pl.cc) --------------------------------------------------
  /// What snapshot `s` sees under `key`; `value` may be null.
  [[nodiscard]] Result<SnapshotRead> read_at(TreeState& t, std::string_view key,
                                             const mvcc::Snapshot& s, std::string* value,
                                             btree::LeafHint* hint = nullptr);
  /// Whether something that snapshot `s` needs may have gone: before-images, ghosts, the pages of a
  /// dropped tree. For reads without a registered snapshot; ask afterwards. Who misses what has
  /// gone synchronised with its removal (a mutex, or the version of a page), so also sees the
  /// announcement that came before it.
  [[nodiscard]] bool freed_since(const mvcc::Snapshot& s) const noexcept {
    return gc_horizon_.load(std::memory_order_seq_cst) > s.w;
  }
  /// The newest durable version, without a registered snapshot.
  [[nodiscard]] Result<Lsn> get(TreeState& t, std::string_view key, std::string& value);
  [[nodiscard]] Result<void> multi_get(TreeState& t, std::span<const std::string_view> keys,
                                       std::span<Lookup> out);
  /// `at_least` (read_only): contains that commit, which the caller knows to be applied.
  [[nodiscard]] mvcc::Snapshots::Live begin_snapshot(bool read_only, Lsn at_least);
  /// Waits until `lsn` is applied; `invalid_argument` when no such commit has begun.
  [[nodiscard]] Result<void> wait_applied(Lsn lsn) const;

  // --- commits (commit.cc) -------------------------------------------------------------------
  /// Runs steps 2 to 5. On success `lsn` is the commit's; the write set is emptied and its locks
  /// are gone. On failure before step 3 nothing happened; after it `unknown_outcome`. `validate`
  /// (may be null): what a serializable transaction read; `write_conflict` when it is stale.
  struct Validate {
    mvcc::ReadSet* reads = nullptr;
    mvcc::Certifier::Ticket start = 0;
    Lsn snapshot = 0;
  };
  [[nodiscard]] Result<Lsn> commit(WriteSet& writes, mvcc::LockSet& locks,
                                   const Validate* validate = nullptr);
  [[nodiscard]] Result<void> wait_durable(Lsn lsn);
  /// I7: an answer that saw pages up to `seen` may go out.
  [[nodiscard]] Result<void> wait_seen(Lsn seen);
  [[nodiscard]] Lsn applied() const noexcept { return log_ ? log_->applied_lsn() : recovered_to_; }
  [[nodiscard]] Lsn durable() const noexcept { return log_ ? log_->durable_lsn() : recovered_to_; }
  [[nodiscard]] Result<void> writable() const;
  /// For tickets once closing has begun: waits until it has ended, and tells whether `lsn` was
  /// durable then. `commit`: of a commit that was applied (else of what was read).
  [[nodiscard]] Result<void> outcome_at_close(Lsn lsn, bool commit) const;

  // --- outcomes (outcome.cc) -----------------------------------------------------------------
  [[nodiscard]] std::string store_id() const;
  [[nodiscard]] Result<CommitToken> commit_token(Lsn lsn) const;
  [[nodiscard]] Result<Outcome> outcome(const CommitToken& token);

  // --- upkeep (upkeep.cc) --------------------------------------------------------------------
  [[nodiscard]] Result<void> checkpoint();
  void after_commit();  ///< the step of upkeep that a commit pays when there are no threads
  void note_ghost(std::shared_ptr<TreeState> tree, std::string_view key, Lsn lsn);
  void expire_transactions();
  /// Without threads: calls what on_durable was given and is due. The caller holds nothing.
  void run_due_callbacks();
  /// Monotonic; with threads good to a few milliseconds, without them exact.
  [[nodiscard]] std::uint64_t coarse_now() const noexcept {
    const std::uint64_t ticked = coarse_now_.load(std::memory_order_relaxed);
    return ticked != 0 ? ticked : env_->clock->now_ns();
  }
  [[nodiscard]] std::uint64_t idle_limit_ns() const noexcept;
  [[nodiscard]] std::uint64_t age_limit_ns() const noexcept;
  /// Calls a function of the application's; what it throws becomes `callback_failed`.
  [[nodiscard]] static Result<void> call_out(const std::function<void()>& fn);
  /// Sleeps for a random time below `ns`; not at all when there are no threads (tests).
  void pause_below(std::uint64_t ns);
  /// Runs on_commit hooks of commit `lsn`; what they throw goes to the log sink.
  void run_hooks(const std::vector<std::function<void(Lsn)>>& hooks, Lsn lsn) const;

  // --- looking inside (inspect.cc) -----------------------------------------------------------
  [[nodiscard]] StoreInfo info() const;
  // views.cc
  [[nodiscard]] std::vector<TransactionInfo> transactions() const;
  [[nodiscard]] std::vector<LockInfo> lock_infos() const;
  [[nodiscard]] std::vector<DeadlockInfo> deadlocks() const;
  [[nodiscard]] Stats stats() const;
  [[nodiscard]] std::vector<WaitInfo> waits() const;
  [[nodiscard]] UndoInfo undo_info() const;
  [[nodiscard]] Result<std::vector<VersionInfo>> versions(TreeState& t, std::string_view key);
  [[nodiscard]] Result<CheckReport> check(const std::function<void(const Progress&)>& progress);
  [[nodiscard]] Result<PageDump> page(std::uint64_t id);
  [[nodiscard]] Result<TreeInfo> tree_info(TreeState& t);
  [[nodiscard]] Result<std::vector<TreeNode>> tree_nodes(TreeState& t);
  [[nodiscard]] Result<void> wal_records(const std::function<bool(const WalRecord&)>& fn);

  [[nodiscard]] const std::shared_ptr<const int>& token() const noexcept { return token_; }
  /// Whether a tree handle is one of this store's.
  [[nodiscard]] Result<void> owns(const TreeState* t) const;
  [[nodiscard]] bool closing() const noexcept { return closed_.load(std::memory_order_seq_cst); }
  [[nodiscard]] bool in_forked_child() const noexcept { return process_ != io::process_id(); }
  [[nodiscard]] const Options& options() const noexcept { return options_; }
  [[nodiscard]] mvcc::LockTable& locks() noexcept { return *locks_; }
  [[nodiscard]] mvcc::Certifier& certifier() noexcept { return certifier_; }
  [[nodiscard]] Registry& registry() noexcept { return registry_; }
  [[nodiscard]] mvcc::Undo& undo() noexcept { return *undo_; }
  [[nodiscard]] wal::Log* log() noexcept { return log_.get(); }
  [[nodiscard]] mvcc::OwnerId next_owner() noexcept {
    return mvcc::OwnerId{next_owner_.fetch_add(1, std::memory_order_relaxed)};
  }

  struct Counters {
    std::atomic<std::uint64_t> commits{0}, rollbacks{0}, conflicts{0}, active{0};
  };
  Counters counters;

 private:
  explicit Store(Options options) : options_(std::move(options)) {}

  // open.cc
  [[nodiscard]] Result<void> open_environment(std::string_view path);
  [[nodiscard]] Result<void> create_files();
  [[nodiscard]] Result<void> clear_leftovers();
  [[nodiscard]] Result<void> open_files();
  [[nodiscard]] Result<void> prepare(std::unique_ptr<btree::PageStore> pages);
  [[nodiscard]] wal::LogOptions log_options();
  void start_threads();
  void say(std::string_view line) const;

  // recovery.cc
  class Replay;
  [[nodiscard]] std::uint64_t recovery_memory() const;
  [[nodiscard]] Result<wal::LogEnd> recover(wal::LogReader& reader);
  [[nodiscard]] Result<void> settle_roots();

  // catalog.cc
  [[nodiscard]] Result<PageId> make_root(TreeId id);
  struct CatalogRow {
    std::string name;
    TreeId id{};
    bool insert_only = false;
  };
  [[nodiscard]] Result<std::vector<CatalogRow>> catalog();
  [[nodiscard]] std::shared_ptr<TreeState> remember(const std::string& name, TreeId id, PageId root,
                                                    bool insert_only = false);
  [[nodiscard]] Result<void> mark_dropping(TreeId id, PageId root);

  // commit.cc
  /// Takes a share of the pin budget for a commit: waits while others hold too much of it.
  [[nodiscard]] Result<std::uint32_t> take_pin_share(const std::vector<Write>& writes);
  [[nodiscard]] Result<void> prepare_writes(WriteSet& writes, std::vector<btree::Pool::Pin>& pins);
  [[nodiscard]] Result<Lsn> append_and_apply(WriteSet& writes, btree::Shadows& shadows,
                                             const Validate* validate);
  [[nodiscard]] Result<void> validate(const Validate& v, mvcc::Certifier::Ticket mine, Lsn commit);
  /// Appends the parts and reserves for their closing record, which it leaves in `record`.
  [[nodiscard]] Result<wal::Log::Reservation> append_parts(const std::string& stream,
                                                           std::uint64_t& hold,
                                                           std::string& record);
  void fill_with_nothing(const wal::Log::Reservation& at, std::size_t bytes);
  [[nodiscard]] std::string tree_name(TreeId id) const;
  [[nodiscard]] LockTarget lock_target(const mvcc::LockName& name) const;
  [[nodiscard]] Result<void> apply_writes(WriteSet& writes, Lsn lsn, btree::Shadows& shadows);

  // outcome.cc
  /// Catalog keys from here on belong to the history of generations: no name is that long.
  [[nodiscard]] static std::string history_prefix();
  [[nodiscard]] static std::string history_key(std::uint64_t generation);
  /// First commit of a generation: writes where the last one before it ended.
  [[nodiscard]] Result<void> record_generation();
  /// Where `generation` ended, if it left anything.
  [[nodiscard]] Result<std::optional<Lsn>> generation_end(std::uint64_t generation);
  /// LSN below every commit of `generation`, which left some; nothing when it is older than the
  /// history.
  [[nodiscard]] Result<std::optional<Lsn>> generation_floor(std::uint64_t generation);

  // upkeep.cc
  /// Before a commit adds before-images: makes room for them (I14).
  void relieve_undo();
  void step_between_snapshots() KESSAI_REQUIRES(upkeep_mutex_);
  void collect_between_snapshots();
  void relieve_undo_now() KESSAI_REQUIRES(relief_mutex_);
  void throttle();
  void log_thread();
  void hook_thread();
  void checkpoint_thread();
  std::size_t step_versions();  ///< how many before-images went
  static void raise(io::Atomic<Lsn>& horizon, Lsn to) noexcept;
  void step_purge(std::size_t most);
  void step_reclaim(std::size_t most);
  void step_checkpoint(bool due);
  [[nodiscard]] bool checkpoint_due() const;
  [[nodiscard]] Result<void> run_checkpoint(bool clean);

  [[nodiscard]] Result<void> walk_trees(CheckReport& report);

  // constant after open
  Options options_;
  io::Waits waits_;
  io::Env own_env_;
  io::Env* env_ = nullptr;
  std::unique_ptr<io::Directory> directory_;
  std::unique_ptr<btree::PageStore> pages_;
  std::unique_ptr<btree::Roots> roots_;
  btree::TreeContext context_;
  std::unique_ptr<mvcc::LockTable> locks_;
  std::unique_ptr<mvcc::Undo> undo_;
  std::unique_ptr<wal::LogReader> reader_;  ///< kept when the store is open for reading only
  std::unique_ptr<wal::Log> log_;           ///< null when read-only
  std::shared_ptr<TreeState> catalog_tree_;
  Lsn recovered_to_ = 0;
  std::optional<Lsn> tail_cut_at_;
  std::uint64_t used_generation_ = 0;  ///< the last one before this open that left commits
  Lsn used_end_ = 0;
  bool was_clean_ = false;
  const int process_ = io::process_id();
  std::shared_ptr<const int> token_ = std::make_shared<const int>(0);

  // own synchronisation
  mvcc::Snapshots snapshots_;
  mvcc::Certifier certifier_;
  Registry registry_;
  std::atomic<std::uint64_t> coarse_now_{0};  ///< 0: nobody ticks it
  io::Atomic<Lsn> horizon_{0};
  io::Atomic<Lsn> gc_horizon_{0};  ///< what ended at or below it may be gone; raised before it goes
  std::atomic<std::uint64_t> next_owner_{1};
  std::atomic<std::uint64_t> pauses_{0};
  /// Frames that commits under way may pin, all together: at most half the pool (I4).
  io::Atomic<std::uint32_t> pinned_{0};
  io::Atomic<bool> closed_{false};
  std::atomic<unsigned> closer_{0};  ///< 1 + thread_index() of the thread in close()
  io::Atomic<bool> close_ended_{false};
  io::Atomic<Lsn> durable_at_close_{0};
  static constexpr std::size_t kUseSlots = 64;
  struct alignas(64) UseSlot {
    io::Atomic<std::uint32_t> count{0};
  };
  std::unique_ptr<UseSlot[]> uses_ = std::make_unique<UseSlot[]>(kUseSlots);

  io::Mutex ddl_mutex_;
  std::uint32_t next_tree_ KESSAI_GUARDED_BY(ddl_mutex_) = 3;

  io::Mutex checkpoint_mutex_;

  mutable io::Mutex trees_mutex_;
  std::unordered_map<std::string, std::shared_ptr<TreeState>> trees_
      KESSAI_GUARDED_BY(trees_mutex_);
  std::vector<std::shared_ptr<TreeState>> dropped_
      KESSAI_GUARDED_BY(trees_mutex_);  ///< wait for the horizon

  struct Ghost {
    std::shared_ptr<TreeState> tree;
    std::string key;
    Lsn lsn;
  };
  io::Mutex upkeep_mutex_;  ///< one thread does version upkeep at a time
  std::uint64_t upkeep_steps_ KESSAI_GUARDED_BY(upkeep_mutex_) = 0;
  bool pruning_ KESSAI_GUARDED_BY(upkeep_mutex_) = false;           ///< pushes know snapshots
  std::size_t to_sweep_ KESSAI_GUARDED_BY(upkeep_mutex_) = 0;       ///< shards, in this round
  std::uint64_t bytes_swept_ KESSAI_GUARDED_BY(upkeep_mutex_) = 0;  ///< what the last round left
  /// Making room for before-images. What the last collection between the snapshots left, and when
  /// the next one is worth its walk: from so many bytes on, or so late.
  io::Mutex relief_mutex_;
  std::atomic<std::uint64_t> undo_needed_{0}, sweep_at_{0};
  std::uint64_t sweep_again_ns_ KESSAI_GUARDED_BY(relief_mutex_) = 0;
  std::atomic<std::uint64_t> snapshots_killed_{0};
  mutable io::SpinMutex ghosts_mutex_;
  std::deque<Ghost> ghosts_ KESSAI_GUARDED_BY(ghosts_mutex_);

  io::Mutex wake_mutex_;
  io::CondVar wake_;
  bool stop_ KESSAI_GUARDED_BY(wake_mutex_) = false;
  bool checkpoint_wanted_ KESSAI_GUARDED_BY(wake_mutex_) = false;
  io::Thread log_thread_, checkpoint_thread_;

  io::Mutex hook_mutex_;
  io::CondVar hook_wake_;
  bool callbacks_due_ KESSAI_GUARDED_BY(hook_mutex_) = false;
  bool stop_hooks_ KESSAI_GUARDED_BY(hook_mutex_) = false;
  std::atomic<unsigned> hook_runner_{0};  ///< 1 + thread_index() of hook_thread_
  io::Thread hook_thread_;
};

[[nodiscard]] Error dropped_tree(const TreeState& t);
/// What is wrong with a row; `lsn` = the commit that wrote it, or 0.
[[nodiscard]] Error row_error(Code code, const char* what, const TreeState& t, std::string_view key,
                              Lsn lsn);
/// snapshot_too_old: the versions it needed are gone (I14).
[[nodiscard]] Error snapshot_given_up();
/// The lock table knows ids only: its error with the tree's name.
[[nodiscard]] std::unexpected<Error> lock_error(const TreeState& t, const Error& e);
/// Arguments of every read and write call.
[[nodiscard]] Result<void> check_key(std::string_view key);
[[nodiscard]] Result<void> check_value(std::string_view value);

}  // namespace kessai::engine
