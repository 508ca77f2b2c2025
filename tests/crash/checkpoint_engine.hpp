// SPDX-License-Identifier: Apache-2.0
// A miniature engine for the crash tests of checkpoints: log, page store and trees put together by
// the rules, no transactions. Trees are created and dropped by log records of tree 1 (key = id).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "btree/tree.hpp"
#include "io/check.hpp"
#include "io/sim_disk.hpp"
#include "wal/log.hpp"

namespace kessai::btree::test {

inline constexpr wal::StoreId kStore{0x1111, 0x2222};
inline constexpr std::uint32_t kCatalog = 1;

struct Op {
  std::uint32_t tree = 0;
  bool remove = false;
  std::string key, value;
};
struct Commit {
  Lsn lsn = 0;
  std::vector<Op> ops;
  std::string encoded;
};
using Tables = std::map<std::uint32_t, std::map<std::string, std::string>>;

inline void apply_to(Tables& tables, const Op& op) {
  const auto id = [&] { return static_cast<std::uint32_t>(std::stoul(op.key)); };
  if (op.tree == kCatalog) {
    if (op.remove) {
      tables.erase(id());
    } else {
      tables[id()];
    }
  } else if (op.remove) {
    tables[op.tree].erase(op.key);
  } else {
    tables[op.tree][op.key] = op.value;
  }
}

/// One opening of the store by one process.
class Engine {
  // Declared first: outlives everything that has files open.
  io::VirtualClock clock_;
  io::SeededRandom random_;
  std::unique_ptr<io::Directory> directory_;
  io::Env env_;
  PageStoreOptions pages_options_;
  wal::LogOptions log_options_;

 public:
  Engine(io::SimDisk& disk, std::uint64_t seed) : random_(seed), directory_(disk.attach()) {
    env_.directory = directory_.get();
    env_.clock = &clock_;
    env_.random = &random_;
    env_.background = false;
    pages_options_.memory = 64 * kPageSize;
    pages_options_.checkpoint_batch = 5;
    log_options_.segment_bytes = 48 * 1024;
    log_options_.ring_bytes = 64 * 1024;
    log_options_.max_frame_bytes = 24 * 1024;
    log_options_.wal_limit = 512 * 1024;
    log_options_.on_log_full = [this] {
      if (!checkpoint_when_log_is_full) return;
      while (store->checkpoint_running()) {
        if (!store->checkpoint_step()) return;
      }
      static_cast<void>(store->checkpoint() && store->checkpoint());
    };
  }
  ~Engine() { trees.clear(); }

  Result<void> create(std::span<const std::uint32_t> ids) {
    KESSAI_ASSIGN(s, PageStore::create(env_, kStore, pages_options_));
    adopt(std::move(s));
    KESSAI_ASSIGN(l, wal::Log::create(env_, kStore, log_options_));
    log = std::move(l);
    Shadows shadows(*store);
    KESSAI_TRY(roots->create(shadows));
    for (const auto id : ids) KESSAI_TRY(create_tree(id, shadows));
    store->attach_log(log.get());
    KESSAI_TRY(store->checkpoint());
    KESSAI_TRY(store->checkpoint());
    return store->publish_new();
  }

  /// Opens and replays. `low`, `end` and `replayed` say what recovery found.
  Result<void> recover() {
    KESSAI_ASSIGN(s, PageStore::open(env_, pages_options_));
    adopt(std::move(s));
    KESSAI_TRY(roots->load());
    low = store->newest().low;
    KESSAI_ASSIGN(reader, wal::LogReader::open(env_, kStore, true, 1'000'000'000));
    KESSAI_ASSIGN(found, reader->find_end(low, store->must_reach()));
    end = found.lsn;
    for (const auto& e : roots->entries()) {
      if (e.kind == Roots::Kind::tree)
        trees[raw(e.tree)] = std::make_unique<Tree>(*context, e.tree, e.page);
    }
    // I16: trees that the log drops later need none of their records.
    std::set<std::uint32_t> dropped;
    KESSAI_TRY(reader->visit_commits(low, [&](const wal::CommitView& c) {
      replayed.push_back({c.lsn, {}, std::string(c.ops)});
      return wal::decode_ops(c.ops, [&](const wal::Op& op) {
        if (raw(op.tree) == kCatalog && op.kind == wal::OpKind::remove)
          dropped.insert(static_cast<std::uint32_t>(std::stoul(std::string(op.key))));
        return true;
      });
    }));
    Shadows shadows(*store);
    for (Commit& c : replayed) {
      Result<void> status;
      KESSAI_TRY(wal::decode_ops(c.encoded, [&](const wal::Op& o) {
        Op op{raw(o.tree), o.kind == wal::OpKind::remove, std::string(o.key), std::string(o.value)};
        const bool skipped =
            op.tree == kCatalog
                ? !op.remove && dropped.contains(static_cast<std::uint32_t>(std::stoul(op.key)))
                : dropped.contains(op.tree);
        if (!skipped) status = replay(op, c.lsn, shadows);
        return status.has_value();
      }));
      KESSAI_TRY(status);
    }
    KESSAI_ASSIGN(l, wal::Log::start(env_, kStore, log_options_, std::move(reader), found,
                                     store->keep_log_from()));
    log = std::move(l);
    store->attach_log(log.get());
    return {};
  }

  /// Long values become overflow pages before the commit is appended.
  Result<void> prepare(const Op& op, OverflowPages& pages) {
    if (op.tree == kCatalog || op.remove || fits_inline(op.key.size(), op.value.size())) return {};
    return trees.at(op.tree)->prepare_overflow(op.value, pages);
  }
  static std::uint64_t claim_for(const Op& op) {
    return Tree::kClaimPerChange + op.value.size() / 4000 + 1;
  }

  Result<void> apply(const Op& op, Lsn lsn, OverflowPages& pages, Shadows& shadows) {
    if (op.tree == kCatalog) {
      const auto id = static_cast<std::uint32_t>(std::stoul(op.key));
      return op.remove ? drop_tree(id, shadows) : create_tree(id, shadows);
    }
    Change c;
    c.key = op.key;
    c.value = op.value;
    c.remove = op.remove;
    c.lsn = lsn;
    c.overflow = pages.empty() ? nullptr : &pages;
    return trees.at(op.tree)->apply(c, {}, shadows, nullptr);
  }

  /// Frees everything that waits to be freed.
  Result<void> reclaim() {
    Shadows shadows(*store);
    for (;;) {
      KESSAI_ASSIGN(more, reclaim_step(*context, shadows));
      if (!more) return {};
    }
  }

  /// Contents against `expected`; then, after reclaim(), structure, ownership and space.
  std::optional<std::string> verify(const Tables& expected) {
    std::set<std::uint32_t> ids;
    for (const auto& e : roots->entries()) {
      if (e.kind == Roots::Kind::tree && !ids.insert(raw(e.tree)).second)
        return "two roots of one tree";
    }
    if (ids.size() != expected.size()) return "the image has other trees than the log tells";
    for (const auto& [id, rows] : expected) {
      if (!ids.contains(id)) return "tree " + std::to_string(id) + " is missing";
      if (auto bad = compare(id, rows)) return "tree " + std::to_string(id) + ": " + *bad;
    }
    if (auto r = reclaim(); !r) return "reclaim: " + r.error().message();
    std::set<std::uint64_t> owned;
    for (const PageId p : roots->pages()) owned.insert(raw(p));
    for (const auto& [id, rows] : expected) {
      auto a = trees.at(id)->audit(true, false);
      if (!a) return "audit: " + a.error().message();
      if (!a->damage.empty()) return "audit: " + a->damage.front().message();
      if (a->records != rows.size()) return "audit: wrong number of records";
      for (const PageId p : a->reachable) {
        if (!owned.insert(raw(p)).second)
          return "page " + std::to_string(raw(p)) + " is reachable twice";
      }
    }
    for (std::uint64_t p = 1; p < store->next_page(); ++p) {
      if (store->live_entry(PageId{p}).slot != 0 && !owned.contains(p))
        return "page " + std::to_string(p) + " leaked";
    }
    if (store->usage().pages != owned.size()) return "the store counts pages that no tree reaches";
    if (auto s = store->audit_space(); !s) return s.error().message();
    return std::nullopt;
  }

  std::unique_ptr<PageStore> store;
  std::unique_ptr<TreeContext> context;
  std::unique_ptr<Roots> roots;
  std::map<std::uint32_t, std::unique_ptr<Tree>> trees;
  std::unique_ptr<wal::Log> log;
  Lsn low = 0, end = 0;
  bool checkpoint_when_log_is_full = true;
  std::vector<Commit> replayed;
  wal::LogOptions& log_options() { return log_options_; }
  io::VirtualClock& clock() { return clock_; }

 private:
  void adopt(std::unique_ptr<PageStore> s) {
    context = std::make_unique<TreeContext>();
    roots = std::make_unique<Roots>(*s);
    context->store = s.get();
    context->roots = roots.get();
    context->horizon = [this] { return log ? log->applied_lsn() : 0; };
    store = std::move(s);
  }

  Result<void> create_tree(std::uint32_t id, Shadows& shadows) {
    if (trees.contains(id)) return {};
    KESSAI_ASSIGN(frame, store->pool().take_frame());
    for (;;) {
      KESSAI_TRY(shadows.top_up(4));
      KESSAI_TRY(roots->make_room(1, shadows));
      Gate::Pass gate(store->gate());
      if (!store->enough(shadows, 4)) continue;
      KESSAI_ASSIGN(page, store->allocate());
      Pool::Exclusive x = store->pool().adopt(page, frame);
      KESSAI_CHECK(store->touch(x, shadows));
      Tree::format_root(x, store->id().lo, TreeId{id});
      roots->add({Roots::Kind::tree, TreeId{id}, page}, shadows);
      trees[id] = std::make_unique<Tree>(*context, TreeId{id}, page);
      return {};
    }
  }

  Result<void> drop_tree(std::uint32_t id, Shadows& shadows) {
    const auto it = trees.find(id);
    if (it == trees.end()) return {};
    const PageId root = it->second->root();
    for (;;) {
      KESSAI_TRY(shadows.top_up(4));
      Gate::Pass gate(store->gate());
      if (!store->enough(shadows, 4)) continue;
      roots->replace({Roots::Kind::tree, TreeId{id}, root},
                     {Roots::Kind::dropping, TreeId{id}, root}, shadows);
      trees.erase(it);
      return {};
    }
  }

  Result<void> replay(const Op& op, Lsn lsn, Shadows& shadows) {
    const std::uint64_t claim = claim_for(op);
    if (op.tree != kCatalog && !trees.contains(op.tree))
      return fail(Code::damaged, "the log names an unknown tree");
    KESSAI_TRY(store->claim(claim, true));
    OverflowPages pages;
    auto ok = prepare(op, pages);
    if (ok) ok = apply(op, lsn, pages, shadows);
    if (!pages.empty()) trees.at(op.tree)->discard_overflow(pages);  // the image has it already
    store->unclaim(claim);
    return ok;
  }

  std::optional<std::string> compare(std::uint32_t id,
                                     const std::map<std::string, std::string>& rows) {
    TreeCursor cursor(*trees.at(id), "", std::nullopt, false);
    TreeCursor::Row row;
    std::string value;
    auto it = rows.begin();
    for (;;) {
      auto more = cursor.next(row);
      if (!more) return more.error().message();
      if (!*more) break;
      if (is_ghost(row.tag)) continue;
      if (it == rows.end() || row.key != it->first)
        return "wrong keys near " + std::string(row.key);
      value = row.value;
      if (is_overflow(row.tag)) {
        auto whole = cursor.overflow_value(row, value);
        if (!whole) return whole.error().message();
        if (!*whole) return "long value unreadable";
      }
      if (value != it->second) return "wrong value of " + it->first;
      ++it;
    }
    if (it != rows.end()) return "lost " + it->first;
    return std::nullopt;
  }
};

}  // namespace kessai::btree::test
