// SPDX-License-Identifier: Apache-2.0
// Looking inside a store: info, stats, check, pages, trees, log.
#include <algorithm>
#include <unordered_set>

#include "btree/race.hpp"
#include "engine/transaction.hpp"
#include "io/check.hpp"

namespace kessai::engine {
namespace {

const char* type_name(btree::PageType t) {
  switch (t) {
    case btree::PageType::leaf:
      return "leaf";
    case btree::PageType::inner:
      return "inner";
    case btree::PageType::overflow:
      return "overflow";
    case btree::PageType::roots:
      return "roots";
    case btree::PageType::map:
      return "map";
    case btree::PageType::free:
      break;
  }
  return "free";
}

Damage to_damage(const Error& e) {
  const ErrorDetail& d = e.detail();
  return {d.path, d.offset, d.page, d.what.empty() ? std::string(code_name(e.code())) : d.what};
}

}  // namespace

Result<void> Store::owns(const TreeState* t) const {
  if (in_forked_child())
    return fail(Code::closed_handle, "this store was opened by the parent process");
  if (t == nullptr) return fail(Code::invalid_argument, "an empty tree handle");
  if (t->store != token_) return fail(Code::wrong_database, "the tree belongs to another database");
  return {};
}

StoreInfo Store::info() const {
  StoreInfo i;
  const auto sb = pages_->newest();
  const auto usage = pages_->usage();
  i.format = btree::kFormatVersion;
  i.store_id = store_id();
  i.mode = kMode;
  i.page_size = kPageSize;
  i.pages = usage.pages;
  i.free_pages = usage.free_slots;
  i.last_checkpoint_lsn = sb.fence;
  i.durable_lsn = durable();
  i.wal_bytes = log_ ? log_->file_bytes() : reader_ ? reader_->file_bytes() : 0;
  i.redo_bytes = log_ ? log_->bytes_since(sb.low) : recovered_to_ - std::min(recovered_to_, sb.low);
  i.clean = was_clean_;
  i.tail_cut_at = tail_cut_at_;
  switch (env_->directory->backend()) {
    case io::Backend::uring:
      i.io_backend = "io_uring";
      break;
    case io::Backend::simulated:
      i.io_backend = "simulated";
      break;
    default:
      i.io_backend = "posix";
  }
  return i;
}

Stats Store::stats() const {
  Stats s;
  s.commits = counters.commits.load();
  s.rollbacks = counters.rollbacks.load();
  s.write_conflicts = counters.conflicts.load();
  s.active_transactions = counters.active.load();
  const auto locks = locks_->counters();
  s.lock_waits = locks.waits;
  s.lock_timeouts = locks.timeouts;
  s.locks_held = locks.held;
  if (log_) {
    const auto c = log_->counters();
    s.log_bytes = c.record_bytes;
    s.log_flushes = c.flushes;
    s.log_frame_bytes = c.frame_bytes;
  }
  s.durable_lsn = durable();
  s.applied_lsn = applied();
  const auto& pool = pages_->pool().counters();
  s.page_misses = pool.misses.load();
  s.pages_evicted = pool.evicted.load();
  const auto usage = pages_->usage();
  s.pages_written = usage.images_written;
  s.checkpoints = usage.checkpoints;
  s.checkpoint_pages = usage.checkpoint_pages;
  s.data_file_bytes = usage.file_bytes;
  s.free_slots = usage.free_slots;
  s.dirty_pages = usage.dirty;
  s.frames = pages_->pool().frames();
  s.frames_used = pages_->pool().frames_used();
  const auto& tree = context_.counters;
  s.leaf_splits = tree.leaf_splits.load();
  s.inner_splits = tree.inner_splits.load();
  s.merges = tree.merges.load();
  s.restarts = tree.restarts.load();
  s.ghosts_purged = tree.ghosts_purged.load();
  const auto undo = undo_->counters();
  s.undo_bytes = undo.bytes;
  s.undo_entries = undo.entries;
  s.oldest_snapshot = snapshots_.oldest().value_or(0);
  s.leaf_split_waits = waits_.total(io::Wait::leaf_split).count;
  s.page_latch_waits = waits_.total(io::Wait::page_latch).count;
  s.wal_flush_waits = waits_.total(io::Wait::wal_flush).count;
  s.poisoned = pages_->poisoned() || (log_ && log_->poisoned());
  return s;
}

std::vector<WaitInfo> Store::waits() const {
  static_assert(std::tuple_size_v<decltype(WaitInfo::histogram)> == io::Waits::kBuckets);
  std::vector<WaitInfo> out;
  const auto totals = waits_.totals();
  out.reserve(totals.size());
  for (std::size_t w = 0; w < totals.size(); ++w) {
    out.push_back({io::wait_name(static_cast<io::Wait>(w)), totals[w].count,
                   std::chrono::nanoseconds(totals[w].ns), totals[w].histogram});
  }
  return out;
}

UndoInfo Store::undo_info() const {
  UndoInfo u;
  const auto c = undo_->counters();
  u.bytes = c.bytes;
  u.limit = undo_->budget();
  u.entries = c.entries;
  u.pushed = c.pushed;
  u.dropped = c.dropped;
  u.horizon = horizon_.load(std::memory_order_acquire);
  u.oldest_snapshot = snapshots_.oldest().value_or(0);
  if (u.oldest_snapshot != 0) {
    registry_.visit([&](const TransactionState& t) {
      if (t.snapshot_lsn() == u.oldest_snapshot &&
          (u.oldest_transaction == 0 || t.id() < u.oldest_transaction))
        u.oldest_transaction = t.id();
    });
  }
  u.snapshots_killed = snapshots_killed_.load(std::memory_order_relaxed);
  u.throttled = waits_.total(io::Wait::undo_space).count;
  return u;
}

Result<std::vector<VersionInfo>> Store::versions(TreeState& t, std::string_view key) {
  KESSAI_TRY(check_key(key));
  std::string value;
  KESSAI_ASSIGN(current, t.tree.get(key, &value));
  if (t.gone_at(kMaxLsn)) return std::unexpected(dropped_tree(t));
  std::vector<VersionInfo> out;
  if (!current.present) return out;  // a ghost goes when nobody can look before it
  // The picture of the moment at which the leaf was read: what was replaced since is left out.
  Lsn next = btree::tag_lsn(current.tag);
  const bool live = !btree::is_ghost(current.tag);
  if (!live) value.clear();
  out.push_back({next, 0, live, true, std::move(value)});
  const mvcc::InUse in_use = snapshots_.in_use(std::min(applied(), durable()));
  for (auto& e : undo_->versions(t.tree.id(), key)) {
    if (e.end > next) continue;
    // A gap says absent to whoever looks into it. Where nobody can, a version may have been
    // dropped.
    if (e.end < next && !in_use.misses(e.end, next)) out.push_back({e.end, next, false, false, {}});
    out.push_back({e.begin, e.end, e.present, false, std::move(e.value)});
    next = e.begin;
  }
  return out;
}

Result<CheckReport> Store::check(const std::function<void(const Progress&)>& progress) {
  CheckReport report;
  for (const Error& e : pages_->verify_superblocks()) report.damage.push_back(to_damage(e));
  // What is on disk now, page by page. A checkpoint first would hide damage by rewriting it.
  const std::uint64_t next = pages_->next_page();
  for (std::uint64_t p = 1; p < next; ++p) {
    if (progress && p % 1024 == 0) progress({"check", p, next});
    if (auto ok = pages_->verify_stored(PageId{p}); !ok)
      report.damage.push_back(to_damage(ok.error()));
  }
  if (auto ok = pages_->verify_map(); !ok && ok.error() == Code::damaged)
    report.damage.push_back(to_damage(ok.error()));
  for (unsigned attempt = 0; attempt < 8; ++attempt) {
    const auto moment = pages_->gate().moment();
    CheckReport walk;
    KESSAI_TRY(walk_trees(walk));
    // Splits, merges or frees while we walked make a moving picture: look again.
    const bool quiet = moment && pages_->gate().moment() == moment;
    if (!quiet && !walk.damage.empty() && attempt < 7) {
      io::yield_thread();
      continue;
    }
    if (!quiet) walk.damage.clear();
    report.pages_checked = walk.pages_checked;
    report.trees = walk.trees;
    report.records = walk.records;
    for (auto& d : walk.damage) {
      const bool known =
          std::any_of(report.damage.begin(), report.damage.end(),
                      [&](const Damage& x) { return x.page == d.page && x.page != 0; });
      if (!known) report.damage.push_back(std::move(d));
    }
    break;
  }
  report.ok = report.damage.empty();
  return report;
}

/// The roots page says which trees the image holds: also one being created, or dropped and not
/// freed.
Result<void> Store::walk_trees(CheckReport& report) {
  std::unordered_set<std::uint32_t> named;
  {
    io::MutexLock lock(trees_mutex_);
    for (const auto& [name, t] : trees_) named.insert(raw(t->tree.id()));
  }
  std::vector<PageId> reachable = roots_->pages();
  for (const auto& e : roots_->entries()) {
    if (e.kind == btree::Roots::Kind::overflow) {
      for (PageId p = e.page; p != kNoPage;) {
        auto g = pages_->pool().read(p);
        if (!g) break;
        reachable.push_back(p);
        p = PageId{race::load<std::uint32_t>(g->data() + 64)};
        if (reachable.size() > pages_->next_page() * 2) break;
      }
      continue;
    }
    btree::Tree tree(context_, e.tree, e.page);
    const auto a = tree.audit(true, false);
    if (!a && a.error() != Code::damaged) return std::unexpected(a.error());
    if (!a) {
      report.damage.push_back(to_damage(a.error()));
      continue;
    }
    reachable.insert(reachable.end(), a->reachable.begin(), a->reachable.end());
    if (e.kind == btree::Roots::Kind::dropping) continue;  // half freed
    report.pages_checked += a->pages + a->overflow_pages;
    for (const Error& d : a->damage) report.damage.push_back(to_damage(d));
    if (!named.contains(raw(e.tree))) continue;
    ++report.trees;
    report.records += a->records;
  }
  std::unordered_set<std::uint64_t> seen;
  for (const PageId p : reachable) {
    if (!seen.insert(raw(p)).second)
      report.damage.push_back({pages_->path(), 0, raw(p), "the page is reachable twice"});
  }
  for (std::uint64_t p = 1; p < pages_->next_page(); ++p) {
    if (pages_->live_entry(PageId{p}).slot != 0 && !seen.contains(p)) {
      report.damage.push_back(
          {pages_->path(), 0, p, "the page is in the page map but not reachable"});
    }
  }
  if (auto ok = pages_->audit_space(); !ok) report.damage.push_back(to_damage(ok.error()));
  return {};
}

Result<TreeInfo> Store::tree_info(TreeState& t) {
  KESSAI_ASSIGN(a, t.tree.audit(false, false));
  if (!a.damage.empty()) return std::unexpected(a.damage.front());
  TreeInfo i;
  i.name = t.name;
  i.id = raw(t.tree.id());
  i.records = a.records;
  i.pages = a.pages + a.overflow_pages;
  i.depth = a.depth;
  i.fill = a.leaves == 0 ? 0
                         : static_cast<double>(a.live_bytes) /
                               static_cast<double>(a.leaves * btree::NodeView::usable_bytes());
  return i;
}

Result<std::vector<TreeNode>> Store::tree_nodes(TreeState& t) {
  KESSAI_ASSIGN(a, t.tree.audit(false, true));
  std::vector<TreeNode> out;
  out.reserve(a.nodes.size());
  for (auto& n : a.nodes) {
    out.push_back(
        {raw(n.page), n.level, raw(n.parent), n.entries,
         static_cast<double>(n.live_bytes) / static_cast<double>(btree::NodeView::usable_bytes()),
         std::move(n.low)});
  }
  return out;
}

Result<PageDump> Store::page(std::uint64_t id) {
  if (id == 0 || id >= pages_->next_page()) {
    return fail(Code::invalid_argument,
                "page ids go from 1 to " + std::to_string(pages_->next_page() - 1));
  }
  PageDump d;
  d.page = id;
  d.slot = pages_->live_entry(PageId{id}).slot;
  alignas(64) std::byte copy[kPageSize];
  for (;;) {
    auto g = pages_->pool().read(PageId{id});
    if (!g && g.error() == Code::not_found) {
      d.type = "free";
      return d;
    }
    if (!g) return std::unexpected(g.error());
    race::copy_out(copy, g->data(), kPageSize);
    if (g->valid()) break;
  }
  const btree::NodeView n(copy);
  d.type = type_name(n.type());
  d.tree = raw(n.tree_id());
  d.level = n.level();
  d.page_lsn = n.page_lsn();
  if (n.type() != btree::PageType::leaf && n.type() != btree::PageType::inner) return d;
  d.max_ts = n.max_ts();
  n.low_fence(d.low_fence);
  d.has_high_fence = n.high_fence(d.high_fence);
  d.free_bytes =
      btree::NodeView::usable_bytes() - std::min(btree::NodeView::usable_bytes(), n.live_bytes());
  for (unsigned i = 0; i < n.count() + (n.is_leaf() ? 0 : 1); ++i) {
    PageDump::Entry e;
    if (n.is_leaf()) {
      btree::LeafHit hit;
      if (!n.leaf_at(i, hit)) continue;
      n.copy_key(i, e.key);
      e.lsn = btree::tag_lsn(hit.tag);
      e.ghost = btree::is_ghost(hit.tag);
      if (btree::is_overflow(hit.tag) && !e.ghost && hit.vlen == sizeof(btree::OverflowRef)) {
        btree::OverflowRef ref;
        n.copy_value(hit, reinterpret_cast<char*>(&ref));
        e.overflow_bytes = ref.length;
      } else {
        n.copy_value(hit, e.value);
      }
    } else {
      if (i > 0) n.copy_separator(i - 1, e.key);
      e.child = raw(n.child(i));
    }
    d.entries.push_back(std::move(e));
  }
  return d;
}

Result<void> Store::wal_records(const std::function<bool(const WalRecord&)>& fn) {
  const auto visit = [&](const wal::LogReader::RawRecord& r) {
    WalRecord out;
    out.lsn = r.lsn;
    out.generation = r.generation;
    out.bytes = r.lsn - r.start;
    switch (r.kind) {
      case wal::RecordKind::commit:
        out.kind = "commit";
        break;
      case wal::RecordKind::part:
        out.kind = "part";
        break;
      case wal::RecordKind::close:
        out.kind = "close";
        break;
      case wal::RecordKind::filler:
        out.kind = "filler";
        break;
    }
    if (r.kind == wal::RecordKind::commit) {
      static_cast<void>(wal::decode_ops(r.body, [&](const wal::Op& op) {
        out.ops.push_back({raw(op.tree), op.kind == wal::OpKind::remove ? "remove" : "put",
                           std::string(op.key), op.value.size()});
        return true;
      }));
    }
    return fn(out);
  };
  return log_ ? log_->visit_records(visit) : reader_->visit_records(visit);
}

}  // namespace kessai::engine
