// SPDX-License-Identifier: Apache-2.0
// One B+tree over the page store: optimistic descents, leaf changes, splits, merges, cursors.
//
// What it is: committed records only (I1); every leaf record carries the commit LSN as its tag, a
// delete leaves a ghost. The root page keeps its id for life: a root split moves its content into
// two new pages.
//
// Promises
//  I10 readers hold no latch: they validate the version of each node after use and start over.
//  I11 no latch is held while waiting for I/O, frames or shadows; splits and merges happen inside
//      the structure gate with everything they need in hand.
//  Replay and normal operation share apply(): a change is skipped when the stored tag is not older.
//  The page LSN and max_ts never go down; split and merge inherit the larger.
//
// Fences make each node know its range, so a scan finds the next leaf by re-descending for the high
// fence (Graefe, "A survey of B-tree locking techniques"); there are no sibling pointers.
//
// Threads: all methods are thread-safe. Latches: parent before child, left before right, the roots
// page last.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "btree/node.hpp"
#include "btree/page_store.hpp"
#include "btree/roots.hpp"

namespace kessai::btree {

struct TreeCounters {
  std::atomic<std::uint64_t> leaf_splits{0}, inner_splits{0}, merges{0}, restarts{0},
      ghosts_purged{0}, structure_changes{0};
};

/// What all trees of a store share. Lifetime: outlives the trees.
struct TreeContext {
  PageStore* store = nullptr;
  Roots* roots = nullptr;
  /// Ghosts with a commit LSN at or below this are invisible to every snapshot, now and later.
  std::function<Lsn()> horizon = [] { return Lsn{0}; };
  TreeCounters counters;
};

/// Receives the image that a change replaces, under the leaf's latch, before the change.
class BeforeImages {
 public:
  /// `value` is meaningless for ghosts and overflow records (their owner read it beforehand).
  virtual void before(TreeId tree, std::string_view key, std::uint64_t tag, std::string_view value,
                      Lsn end) = 0;

 protected:
  ~BeforeImages() = default;
};

/// Overflow pages written ahead of a commit; unreachable until apply() publishes them.
struct OverflowPages {
  OverflowRef ref;
  std::vector<PageId> pages;
  std::vector<Pool::Pin> pins;
  [[nodiscard]] bool empty() const noexcept { return pages.empty(); }
};

struct Change {
  bool remove = false;
  std::string_view key;
  std::string_view value;  ///< ignored when `overflow` holds it
  Lsn lsn = 0;
  OverflowPages* overflow = nullptr;
};

/// Where a key's leaf was last seen.
struct LeafHint {
  PageId page = kNoPage;
};

class Tree {
 public:
  Tree(TreeContext& context, TreeId id, PageId root)
      : context_(&context), store_(context.store), id_(id), root_(root) {}
  [[nodiscard]] TreeId id() const noexcept { return id_; }
  [[nodiscard]] PageId root() const noexcept { return root_; }

  /// Formats the root page of a new, empty tree (inside the gate; `page` latched and adopted).
  static void format_root(Pool::Exclusive& x, std::uint64_t store, TreeId id);

  struct Record {
    bool present = false;  ///< a record (or ghost) is stored under the key
    std::uint64_t tag = 0;
    Lsn page_lsn = 0;  ///< of the leaf that answered
    Lsn max_ts = 0;
  };
  /// The current version. `value` (may be null) receives a live record's value, overflow included.
  [[nodiscard]] Result<Record> get(std::string_view key, std::string* value,
                                   LeafHint* hint = nullptr);

  struct Lookup {
    std::string_view key;
    std::string* value = nullptr;
    Record record{};
    Result<void> status{};
  };
  /// Interleaved descents with prefetching; misses are read in batches.
  void multi_get(std::span<Lookup> lookups);

  /// Where a descent left the last inner node.
  struct Turn {
    Pool::Optimistic parent;
    unsigned index = 0;
  };
  /// The leaf that covers `key`, without reading it. `turn` remembers its parent: ascending keys
  /// are cheap.
  [[nodiscard]] Result<PageId> leaf_page(std::string_view key, Turn& turn);

  /// Makes the leaf of `key` resident and pins it (I4).
  [[nodiscard]] Result<Pool::Pin> pin_leaf(std::string_view key, LeafHint& hint);
  /// Writes a long value into fresh overflow pages, pinned and private.
  /// Pages that a value of `bytes` takes.
  [[nodiscard]] static std::size_t overflow_pages(std::size_t bytes) noexcept;
  [[nodiscard]] Result<void> prepare_overflow(std::string_view value, OverflowPages& out);
  void discard_overflow(OverflowPages& pages);

  /// Applies one change. REQUIRES slots claimed (claim_for()). Errors are I/O errors of pages that
  /// had to be read again; after the append they poison the store.
  [[nodiscard]] Result<void> apply(const Change& change, LeafHint hint, Shadows& shadows,
                                   BeforeImages* undo);
  /// Slots that applying one change may need at most.
  static constexpr std::uint64_t kClaimPerChange = 4;

  /// Removes the ghost of `key` if its LSN is still `lsn` and the horizon passed it; merges a leaf
  /// that became underfull. Claims for itself.
  [[nodiscard]] Result<void> purge_ghost(std::string_view key, Lsn lsn, Shadows& shadows);

  /// Frees the tree's pages bottom up in small gated steps; `more` false when only the root is left
  /// (and was freed too). Restartable.
  [[nodiscard]] Result<bool> drop_step(Shadows& shadows);

  struct NodeInfo {
    PageId page{};
    PageId parent{};
    unsigned level = 0;
    unsigned entries = 0;
    std::size_t live_bytes = 0;
    std::string low;
  };
  struct Audit {
    std::uint64_t pages = 0, leaves = 0, records = 0, ghosts = 0, live_bytes = 0,
                  overflow_pages = 0;
    unsigned depth = 0;
    std::vector<Error> damage;
    std::vector<PageId> reachable;  ///< filled when asked for
    std::vector<NodeInfo> nodes;    ///< filled when asked for
  };
  /// Walks the whole tree, checking structure: fences, order, levels, overflow chains.
  [[nodiscard]] Result<Audit> audit(bool list_pages, bool list_nodes);

 private:
  friend class TreeCursor;
  /// Optimistic guard on the leaf that covers `key`. Loads on a miss.
  [[nodiscard]] Result<Pool::Optimistic> find_leaf(std::string_view key, Turn* turn = nullptr);
  /// The leaf whose range ends at or holds keys below `bound` (for reverse scans).
  [[nodiscard]] Result<Pool::Optimistic> find_leaf_before(std::string_view bound, bool unbounded,
                                                          Turn* turn = nullptr);
  template <class Choose>
  [[nodiscard]] Result<Pool::Optimistic> descend(Choose&& choose, Turn* turn = nullptr);
  [[nodiscard]] Result<void> latch_leaf(std::string_view key, LeafHint hint, Pool::Exclusive& out);
  [[nodiscard]] Result<bool> change_leaf(const Change& c, Pool::Exclusive& x, Shadows& shadows,
                                         BeforeImages* undo, bool gated);
  bool purge_page(Node node, Lsn horizon);

  // smo.cc
  struct Path {
    Pool::Optimistic parent, node;
    bool at_root = false;
    PageId missing = kNoPage;  ///< load this outside the gate and retry
  };
  [[nodiscard]] bool find_node(std::string_view key, unsigned level, Path& out);
  [[nodiscard]] Result<void> split_leaf(std::string_view key, std::size_t vlen, Shadows& shadows);
  [[nodiscard]] Result<void> split(std::string_view key, unsigned level,
                                   const std::function<SplitPoint(NodeView)>& plan,
                                   Shadows& shadows);
  [[nodiscard]] Result<bool> merge(std::string_view key, unsigned level, Shadows& shadows);

  // overflow.cc
  [[nodiscard]] Result<bool> read_overflow(OverflowRef ref, std::string& out);
  void publish_overflow(OverflowPages& pages, Shadows& shadows, Lsn lsn);

  TreeContext* context_;
  PageStore* store_;
  TreeId id_;
  PageId root_;
};

/// Frees one more page of what waits to be freed (overflow chains, dropped trees). False: nothing
/// waits. One caller at a time.
[[nodiscard]] Result<bool> reclaim_step(TreeContext& context, Shadows& shadows);

/// Forward or reverse walk over the current versions, ghosts included. Copies one leaf at a time.
class TreeCursor {
 public:
  struct Row {
    std::string_view key;  ///< valid until the next call
    std::uint64_t tag = 0;
    std::string_view value;  ///< inline bytes; meaningless for ghosts and overflow records
  };
  /// Forward from the first key >= from; reverse from the last key < to (or the very last).
  TreeCursor(Tree& tree, std::string from, std::optional<std::string> to, bool reverse);
  /// False at the end. The row may have changed since; its tag says which version this is.
  [[nodiscard]] Result<bool> next(Row& row) {
    if (next_in_page(row)) return true;
    return next_page(row);
  }
  /// The next row of the leaf copy at hand, if there is one. Reads private memory only.
  [[nodiscard]] bool next_in_page(Row& row) noexcept {
    if (reverse_ ? slot_ <= end_ : slot_ >= end_) return false;
    if (ahead_ != nullptr) fetch_ahead();
    LeafHit hit;
    const unsigned slot = reverse_ ? --slot_ : slot_++;
    if (!NodeView(page_).leaf_at(slot, hit)) return false;
    const char* value = reinterpret_cast<const char*>(page_) + hit.voff;
    if (prefix_ == 0) {
      row.key = {value - hit.klen, hit.klen};
    } else {
      std::memcpy(key_ + prefix_, value - hit.klen, hit.klen);
      row.key = {key_, prefix_ + hit.klen};
    }
    row.tag = hit.tag;
    row.value = {value, hit.vlen};
    return true;
  }
  /// max_ts of the leaf the last row came from: nothing in it is newer.
  [[nodiscard]] Lsn leaf_max_ts() const noexcept { return max_ts_; }
  /// Leaves entered so far.
  [[nodiscard]] std::uint64_t leaves() const noexcept { return leaves_; }
  /// Largest page LSN of the leaves visited (I7).
  [[nodiscard]] Lsn seen() const noexcept { return seen_; }
  /// Reads the overflow value of a row just returned; false: the row changed meanwhile (look it
  /// up).
  [[nodiscard]] Result<bool> overflow_value(const Row& row, std::string& out);

 private:
  [[nodiscard]] Result<bool> next_page(Row& row);
  [[nodiscard]] Result<void> fetch();
  [[nodiscard]] Result<void> check_place() const;
  [[nodiscard]] bool fetch_neighbour();
  void enter_page();
  void look_ahead() noexcept;
  /// Prefetches the neighbour's heap a few lines a row: all at once would wait for the line
  /// buffers.
  void fetch_ahead() noexcept {
    for (unsigned i = 0; i < 4 && ahead_at_ < kPageSize; ++i, ahead_at_ += 64)
      __builtin_prefetch(ahead_ + ahead_at_);
    if (ahead_at_ >= kPageSize) ahead_ = nullptr;
  }

  Tree* tree_;
  std::string bound_;       ///< where the next leaf starts (ends, when reverse)
  bool unbounded_ = false;  ///< reverse from the end of the tree
  std::string from_;
  std::optional<std::string> to_;
  bool reverse_;
  bool done_ = false, loaded_ = false;
  unsigned slot_ = 0,
           end_ = 0;  ///< forward: [slot_, end_); reverse: slots below slot_ down to end_
  Lsn max_ts_ = 0, seen_ = 0;
  std::uint64_t leaves_ = 0;
  std::string next_bound_;
  bool next_unbounded_ = false;
  Tree::Turn turn_;  ///< the leaf's parent, while it is valid: the way to the next leaf
  const std::byte* ahead_ =
      nullptr;  ///< the neighbour being prefetched (never dereferenced: it may be unmapped)
  unsigned ahead_at_ = 0;
  std::size_t prefix_ = 0;  ///< bytes of key_ that all keys of the leaf share
  char key_[2 * kMaxKey];
  alignas(64) std::byte page_[kPageSize];
};

}  // namespace kessai::btree
