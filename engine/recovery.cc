// SPDX-License-Identifier: Apache-2.0
// Recovery: the newest image plus the log from its `low` on (I2, I16).
//
// Before anybody else is there. Operations are gathered in windows and applied by tree and
// key, so that the leaves they need are read in the order of the file, each once a window, and
// visited one after the other. Windows are replayed in log order; within one the last operation on
// a key wins. Pages may be written out meanwhile, but no checkpoint publishes before replay has
// ended (there is no log to fence against yet): a crash in here leaves the image and the log that
// recovery starts from again.
//
// Threads: the caller's, and a second one for what takes long, unless Env::background is false.
#include <algorithm>
#include <cstring>
#include <set>

#include "engine/replay_window.hpp"
#include "engine/store.hpp"
#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::engine {
namespace {

constexpr std::size_t kAhead = 8;     // operations whose bytes are fetched ahead
constexpr std::size_t kAlone = 4096;  // less than this is not worth a second thread
constexpr std::size_t kGroup = 64;    // changes that share a claim of slots

}  // namespace

std::uint64_t Store::recovery_memory() const {
  if (!options_.read_only) return options_.memory;
  // Nothing can be written out, so all pages that replay changes stay in memory: make room.
  std::uint64_t log_bytes = 0;
  if (auto names = env_->directory->list()) {
    for (const auto& name : *names) {
      if (!name.starts_with("wal-")) continue;
      if (auto f = env_->directory->open(name, io::OpenMode::read_only))
        log_bytes += (*f)->size().value_or(0);
    }
  }
  return options_.memory + 8 * log_bytes;
}

class Store::Replay {
 public:
  Replay(Store& store, wal::LogReader& reader)
      : store_(&store),
        reader_(&reader),
        low_(store.pages_->newest().low),
        window_(store.pages_->pool(), window_bytes(store)) {}

  /// Finds the end of the log and fills the first window on the way.
  Result<wal::LogEnd> read() {
    KESSAI_ASSIGN(
        end, reader_->find_end(low_, store_->pages_->must_reach(), [&](const wal::CommitView& c) {
          // What fails here fails again when the rest of the log is visited.
          bool kept = true;
          const auto parsed = wal::decode_ops(c.ops, [&](const wal::Op& op) {
            kept = window_.add(op, c.lsn).value_or(false);
            return kept;
          });
          return (kept || KESSAI_MUTANT(cut_commit_forgotten)) && parsed;
        }));
    end_ = end.lsn;
    shown_ = end.shown;
    return end;
  }

  /// Applies what the log says about the catalog.
  Result<void> catalog() {
    for (const Entry& e : window_.sorted()) {
      if (window_.trees()[e.tree] == kCatalogTree)
        KESSAI_TRY(apply(*store_->catalog_tree_, window_.change(e)));
    }
    return visit_rest([&](const wal::Op& op, Lsn lsn) -> Result<void> {
      if (op.tree != kCatalogTree) return {};
      return apply(*store_->catalog_tree_, {op.key, op.value, lsn, op.kind == wal::OpKind::remove});
    });
  }

  /// Applies everything else. The store's trees are those at the end of the log.
  Result<void> data() {
    {
      io::MutexLock lock(store_->trees_mutex_);
      for (const auto& [name, t] : store_->trees_) trees_[raw(t->tree.id())] = t;
    }
    KESSAI_TRY(apply_window(shown_));
    KESSAI_TRY(visit_rest([&](const wal::Op& op, Lsn lsn) -> Result<void> {
      if (!trees_.contains(raw(op.tree))) return {};
      KESSAI_ASSIGN(kept, window_.add(op, lsn));
      if (kept) return {};
      if (KESSAI_MUTANT(window_lost)) window_.clear();
      if (auto ok = apply_window(lsn); !ok) return ok;
      KESSAI_ASSIGN(again, window_.add(op, lsn));
      KESSAI_CHECK(again);  // it is empty now
      return {};
    }));
    KESSAI_TRY(apply_window(end_));
    tell(end_);
    return {};
  }

 private:
  using Entry = ReplayWindow::Entry;
  using Trees = std::vector<std::shared_ptr<TreeState>>;

  static std::uint64_t window_bytes(const Store& store) {
    const std::uint64_t most = store.pages_->pool().frames() / 4 * kPageSize;
    const std::uint64_t wanted = store.env_->recovery_window;
    return wanted != 0 ? std::min(wanted, most) : most;
  }

  /// What read() was not shown. The operations of a commit that it kept in part come again: then
  /// the trees have them already.
  Result<void> visit_rest(const std::function<Result<void>(const wal::Op&, Lsn)>& fn) {
    if (shown_ == end_) return {};
    return reader_->visit_commits(shown_, [&](const wal::CommitView& commit) -> Result<void> {
      Result<void> status;
      KESSAI_TRY(wal::decode_ops(commit.ops, [&](const wal::Op& op) {
        status = fn(op, commit.lsn);
        return status.has_value();
      }));
      return status;
    });
  }

  /// Runs fn(from, to, first) for parts of [0, n), on two threads when there is enough to do.
  template <class Fn>
  void share(std::size_t n, const Fn& fn) const {
    if (n < kAlone || !store_->env_->background) return fn(0, n, true);
    io::Thread other("kessai-recover", [&] { fn(n / 2, n, false); });
    fn(0, n / 2, true);
    other.join();
  }

  /// The window's operations, which reach up to `upto` in the log.
  Result<void> apply_window(Lsn upto) {
    const auto entries = window_.sorted();
    Trees trees;
    for (const TreeId id : window_.trees()) {
      const auto it = trees_.find(raw(id));  // not there: the catalog, or dropped later in the log
      trees.push_back(it == trees_.end() ? nullptr : it->second);
    }
    btree::Pool& pool = store_->pages_->pool();
    for (std::size_t from = 0; from < entries.size();) {
      const std::size_t room =
          std::max(pool.frames() - pool.frames_used(), std::max(pool.frames() / 4, 1u));
      const std::size_t n = preload(entries.subspan(from), trees, room);
      const auto at = [&](std::size_t i) {
        return applied_to_ + (upto - applied_to_) * (from + i) / entries.size();
      };
      Result<void> status[2];
      share(n, [&](std::size_t a, std::size_t b, bool first) {
        const std::size_t pace = b - a < n ? 2 : 1;  // the other thread does as much meanwhile
        Result<void>& ok = status[first ? 0 : 1];
        for (std::size_t i = a; i < b && ok; i += kGroup) {
          ok = apply_group(entries.subspan(from + i, std::min(kGroup, b - i)), trees);
          if (first) tell(at(i * pace));
        }
      });
      for (const auto& s : status) KESSAI_TRY(s);
      from += n;
    }
    applied_to_ = std::max(applied_to_, upto);
    tell(applied_to_);
    window_.clear();
    return {};
  }

  /// Makes the leaves of the first operations resident, about `room` of them, and notes them in the
  /// entries. Answers how many operations that are. Best effort: apply() meets the errors.
  std::size_t preload(std::span<Entry> entries, const Trees& trees, std::size_t room) {
    pages_.clear();
    btree::Tree::Turn turn;
    std::size_t n = 0;
    for (; n < entries.size() && pages_.size() < room; ++n) {
      if (n + kAhead < entries.size()) window_.prefetch(entries[n + kAhead]);
      Entry& e = entries[n];
      if (n > 0 && entries[n - 1].tree != e.tree) turn = {};
      if (trees[e.tree] == nullptr) continue;
      const auto leaf = trees[e.tree]->tree.leaf_page(window_.change(e).key, turn);
      e.word = raw(leaf.value_or(kNoPage));
      if (leaf && (pages_.empty() || pages_.back() != *leaf)) pages_.push_back(*leaf);
    }
    if (pages_.size() < 2) return n;  // apply() reads it as well
    store_->pages_->order_by_slot(pages_);
    share(pages_.size(), [&](std::size_t a, std::size_t b, bool) {
      store_->pages_->preload(std::span(pages_).subspan(a, b - a));
    });
    return n;
  }

  /// One claim of slots for all, if there is room for that.
  Result<void> apply_group(std::span<const Entry> group, const Trees& trees) {
    for (const Entry& e : group) window_.prefetch(e);
    const std::uint64_t claim = group.size() * btree::Tree::kClaimPerChange;
    const bool claimed = store_->pages_->claim(claim).has_value();
    Result<void> ok;
    for (const Entry& e : group) {
      if (trees[e.tree] == nullptr) continue;
      const auto change = window_.change(e);
      ok = apply(*trees[e.tree], change, claimed, {PageId{e.word}});
      if (!ok) break;
      if (change.remove) store_->note_ghost(trees[e.tree], change.key, change.lsn);
    }
    if (claimed) store_->pages_->unclaim(claim);
    return ok;
  }

  Result<void> apply(TreeState& t, const ReplayWindow::Change& from, bool claimed = false,
                     btree::LeafHint hint = {}) {
    btree::PageStore& pages = *store_->pages_;
    btree::Change c{.remove = from.remove, .key = from.key, .value = from.value, .lsn = from.lsn};
    btree::OverflowPages overflow;
    if (!c.remove && !btree::fits_inline(c.key.size(), c.value.size())) {
      // Already there, with its pages? Then do not write them again.
      KESSAI_ASSIGN(now, t.tree.get(c.key, nullptr));
      if (now.present && btree::tag_lsn(now.tag) >= c.lsn) return {};
      KESSAI_TRY(t.tree.prepare_overflow(c.value, overflow));
      c.overflow = &overflow;
    }
    const std::uint64_t claim =
        (claimed ? 0 : btree::Tree::kClaimPerChange) + overflow.pages.size();
    if (claim > 0) KESSAI_TRY(pages.claim(claim, true));
    btree::Shadows shadows(pages);  // none needed: there is no checkpoint beside recovery
    auto ok = t.tree.apply(c, hint, shadows, nullptr);
    if (claim > 0) pages.unclaim(claim);
    return ok;
  }

  /// Everything up to `done` is applied.
  void tell(Lsn done) {
    const auto& progress = store_->options_.progress;
    if (!progress || told_ == end_ || (done < end_ && done - told_ < (end_ - low_) / 200)) return;
    progress({"recover", done - low_, end_ - low_});
    told_ = done;
  }

  Store* store_;
  wal::LogReader* reader_;
  const Lsn low_;
  Lsn end_ = 0;
  Lsn shown_ = 0;  ///< the first window reaches to here
  Lsn applied_to_ = low_, told_ = low_;
  ReplayWindow window_;
  std::unordered_map<std::uint32_t, std::shared_ptr<TreeState>> trees_;
  std::vector<PageId> pages_;
};

Result<wal::LogEnd> Store::recover(wal::LogReader& reader) {
  const btree::Superblock image = pages_->newest();
  Replay replay(*this, reader);
  KESSAI_ASSIGN(end, replay.read());
  was_clean_ = image.clean && end.lsn == image.fence;
  if (end.torn) tail_cut_at_ = end.lsn;
  recovered_to_ = end.lsn;
  used_generation_ = end.used_generation;
  used_end_ = end.used_end;
  const auto root = roots_->root_of(kCatalogTree);
  if (!root) return fail(Code::damaged, "the image has no catalog tree");
  catalog_tree_ = std::make_shared<TreeState>(token_, "", context_, kCatalogTree, *root);
  if (!was_clean_) KESSAI_TRY(replay.catalog());
  KESSAI_ASSIGN(trees, catalog());
  for (const auto& [name, id, insert_only] : trees) {
    auto r = roots_->root_of(id);
    if (!r) {
      KESSAI_ASSIGN(made, make_root(id));
      r = made;
    }
    static_cast<void>(remember(name, id, *r, insert_only));
  }
  std::string next;
  KESSAI_ASSIGN(record, catalog_tree_->tree.get("", &next));
  if (!record.present || next.size() != sizeof(std::uint32_t))
    return fail(Code::damaged, "the catalog has no next tree id");
  {
    io::MutexLock ddl(ddl_mutex_);
    std::memcpy(&next_tree_, next.data(), sizeof next_tree_);
  }
  if (!was_clean_) KESSAI_TRY(replay.data());
  return end;
}

Result<void> Store::settle_roots() {
  // Roots that no catalog record names: a tree whose creation or drop a crash interrupted.
  std::set<std::uint32_t> known{raw(kCatalogTree)};
  {
    io::MutexLock lock(trees_mutex_);
    for (const auto& [name, t] : trees_) known.insert(raw(t->tree.id()));
  }
  for (const auto& e : roots_->entries()) {
    if (e.kind == btree::Roots::Kind::tree && !known.contains(raw(e.tree)))
      KESSAI_TRY(mark_dropping(e.tree, e.page));
  }
  return {};
}

}  // namespace kessai::engine
