// SPDX-License-Identifier: Apache-2.0
#include "btree/tree.hpp"

#include <algorithm>

#include "btree/race.hpp"
#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::btree {
namespace {

constexpr unsigned kGroup = 16;  // descents interleaved by multi_get

Result<void> damaged_tree(const PageStore& store, PageId page, std::string what) {
  ErrorDetail d;
  d.path = store.path();
  d.page = raw(page);
  d.what = std::move(what);
  return std::unexpected(Error(Code::damaged, std::move(d)));
}
Result<void> lost_page(const PageStore& store, PageId page) {
  return damaged_tree(
      store, page,
      "a tree refers to page " + std::to_string(raw(page)) + ", which is not in the page map");
}

}  // namespace

void Tree::format_root(Pool::Exclusive& x, std::uint64_t store, TreeId id) {
  NodeFormat f;
  f.store_id = store;
  f.page = x.page();
  f.tree = id;
  f.type = PageType::leaf;
  f.low = "";
  Node(x.data()).format(f);
}

// ---- descents --------------------------------------------------------------------------------

template <class Choose>
Result<Pool::Optimistic> Tree::descend(Choose&& choose, Turn* turn) {
  Pool& pool = store_->pool();
  io::Waits::LateTimer again(&store_->env());
  for (bool disturbed = false, first = true;; first = false) {
    if (!first) context_->counters.restarts.fetch_add(1, std::memory_order_relaxed);
    if (disturbed) again.start(io::Wait::page_latch);
    disturbed = false;  // true: another thread's change, not a page we read ourselves, is why
    Pool::Optimistic g;
    if (pool.peek(root_, g) != Pool::Peek::ok) {
      auto root = pool.read(root_);
      if (!root && root.error() == Code::not_found)
        return std::unexpected(lost_page(*store_, root_).error());
      if (!root) return root;
      g = *root;
    }
    for (unsigned depth = 0;; ++depth) {
      const NodeView node(g.data());
      if (node.is_leaf()) {
        if (g.valid()) return g;
        disturbed = true;
        break;
      }
      const unsigned index = choose(node);
      const PageId child = node.child(index);
      Pool::Optimistic c;
      if (pool.peek(child, c) == Pool::Peek::ok) {
        NodeView(c.data()).prefetch();
      } else {
        if (disturbed = !g.valid(); disturbed) break;
        auto loaded = pool.read(child);
        // Only now believe that `child` was still the child: it may have been freed meanwhile.
        if (!g.valid()) break;
        if (!loaded && loaded.error() == Code::not_found)
          return std::unexpected(lost_page(*store_, child).error());
        if (!loaded) return loaded;
        c = *loaded;
      }
      if (disturbed = !g.valid(); disturbed) break;
      if (depth > kMaxLevel)  // every page on the way was the child of the one before
        return std::unexpected(
            damaged_tree(*store_, child, "a tree is deeper than trees are: it has a cycle")
                .error());
      if (turn != nullptr) *turn = {g, index};
      g = c;
    }
  }
}

Result<Pool::Optimistic> Tree::find_leaf(std::string_view key, Turn* turn) {
  return descend([key](NodeView n) { return n.child_index(key); }, turn);
}

Result<Pool::Optimistic> Tree::find_leaf_before(std::string_view bound, bool unbounded,
                                                Turn* turn) {
  std::string separator;
  return descend(
      [&](NodeView n) {
        if (unbounded || !n.covers(bound)) return n.count();  // the bound is this node's high fence
        const unsigned i = n.child_index(bound);
        if (i == 0) return i;
        // A separator equal to the bound belongs to the right child, whose keys are >= bound.
        n.copy_separator(i - 1, separator);
        return separator == bound ? i - 1 : i;
      },
      turn);
}

Result<PageId> Tree::leaf_page(std::string_view key, Turn& turn) {
  Pool& pool = store_->pool();
  if (turn.parent.valid()) {
    const NodeView node(turn.parent.data());
    const PageId leaf = node.covers(key) ? node.child(node.child_index(key)) : kNoPage;
    if (turn.parent.valid() && leaf != kNoPage) return leaf;
  }
  for (;;) {
    KESSAI_ASSIGN(g, pool.read(root_));
    for (unsigned depth = 0;; ++depth) {
      const NodeView node(g.data());
      const unsigned level = node.level();
      const PageId child = level == 0 ? g.page() : node.child(node.child_index(key));
      if (!g.valid()) break;
      if (level <= 1) {
        turn.parent = level == 1 ? g : Pool::Optimistic{};
        return child;
      }
      if (depth > kMaxLevel) return std::unexpected(lost_page(*store_, child).error());
      KESSAI_ASSIGN(next, pool.read(child));
      if (!g.valid()) break;
      g = next;
    }
  }
}

// ---- reads -----------------------------------------------------------------------------------

Result<Tree::Record> Tree::get(std::string_view key, std::string* value, LeafHint* hint) {
  io::Waits::LateTimer again(&store_->env());
  for (bool disturbed = false;; disturbed = true) {
    if (disturbed) again.start(io::Wait::page_latch);
    KESSAI_ASSIGN(g, find_leaf(key));
    const NodeView leaf(g.data());
    Record r;
    r.page_lsn = leaf.page_lsn();
    r.max_ts = leaf.max_ts();
    bool exact = false;
    const unsigned slot = leaf.lower_bound(key, exact);
    LeafHit hit;
    OverflowRef ref;
    if (exact) {
      if (!leaf.leaf_at(slot, hit)) continue;
      r.present = true;
      r.tag = hit.tag;
      if (value != nullptr && !is_ghost(hit.tag)) {
        if (is_overflow(hit.tag)) {
          if (hit.vlen != sizeof ref) continue;
          leaf.copy_value(hit, reinterpret_cast<char*>(&ref));
        } else {
          leaf.copy_value(hit, *value);
        }
      }
    }
    if (!g.valid()) continue;
    if (hint != nullptr) hint->page = g.page();
    if (ref.first_page != 0) {
      // The chain may be freed under us: then it does not read as this value, and the leaf moved
      // on.
      auto whole = read_overflow(ref, *value);
      if (!g.valid()) continue;
      if (!whole) return std::unexpected(whole.error());
      if (!*whole) return std::unexpected(lost_page(*store_, PageId{ref.first_page}).error());
    }
    return r;
  }
}

void Tree::multi_get(std::span<Lookup> lookups) {
  Pool& pool = store_->pool();
  for (; !lookups.empty();
       lookups = lookups.subspan(std::min<std::size_t>(kGroup, lookups.size()))) {
    const auto group = lookups.first(std::min<std::size_t>(kGroup, lookups.size()));
    const std::size_t n = group.size();
    Pool::Optimistic at[kGroup];
    bool active[kGroup], slow[kGroup] = {};
    std::size_t left = 0;
    Pool::Optimistic root;
    const bool resident = pool.peek(root_, root) == Pool::Peek::ok;
    for (std::size_t i = 0; i < n; ++i) {
      at[i] = root;
      active[i] = resident;
      slow[i] = !resident;
      left += active[i] ? 1 : 0;
    }
    PageId missing[kGroup];
    PageId wanted[kGroup];
    while (left > 0) {
      // One level for all: fetch the heads, then the slots they lead to, then the children.
      for (std::size_t i = 0; i < n; ++i) {
        if (active[i]) NodeView(at[i].data()).prefetch();
      }
      for (std::size_t i = 0; i < n; ++i) {
        if (active[i]) NodeView(at[i].data()).prefetch_match(group[i].key);
      }
      std::size_t misses = 0;
      for (std::size_t i = 0; i < n; ++i) {
        wanted[i] = kNoPage;
        if (!active[i]) continue;
        const NodeView node(at[i].data());
        if (node.is_leaf()) {
          Lookup& l = group[i];
          bool exact = false;
          const unsigned slot = node.lower_bound(l.key, exact);
          l.record = {};
          l.record.page_lsn = node.page_lsn();
          l.record.max_ts = node.max_ts();
          LeafHit hit;
          if (exact && node.leaf_at(slot, hit)) {
            l.record.present = true;
            l.record.tag = hit.tag;
            if (is_overflow(hit.tag)) {
              slow[i] = true;
            } else if (l.value != nullptr && !is_ghost(hit.tag)) {
              node.copy_value(hit, *l.value);
            }
          } else if (exact) {
            slow[i] = true;
          }
          if (!at[i].valid()) slow[i] = true;
          active[i] = false;
          --left;
          continue;
        }
        const PageId child = node.child(node.child_index(group[i].key));
        if (!at[i].valid()) {
          slow[i] = true;
          active[i] = false;
          --left;
          continue;
        }
        Pool::Optimistic next;
        const auto p = pool.peek(child, next);
        if (p == Pool::Peek::ok && at[i].valid()) {
          at[i] = next;
        } else if (p == Pool::Peek::miss) {
          wanted[i] = child;
          missing[misses++] = child;
        } else {
          slow[i] = true;
          active[i] = false;
          --left;
        }
      }
      if (misses == 0) continue;
      pool.load_batch({missing, misses});
      for (std::size_t i = 0; i < n; ++i) {
        if (wanted[i] == kNoPage) continue;
        Pool::Optimistic next;
        if (pool.peek(wanted[i], next) == Pool::Peek::ok && at[i].valid()) {
          at[i] = next;
        } else {
          slow[i] = true;
          active[i] = false;
          --left;
        }
      }
    }
    for (std::size_t i = 0; i < n; ++i) {
      if (!slow[i]) continue;
      auto r = get(group[i].key, group[i].value);
      if (r) {
        group[i].record = *r;
      } else {
        group[i].status = std::unexpected(r.error());
      }
    }
  }
}

// ---- changes ---------------------------------------------------------------------------------

Result<Pool::Pin> Tree::pin_leaf(std::string_view key, LeafHint& hint) {
  Pool& pool = store_->pool();
  Pool::Pin pin;
  if (hint.page != kNoPage) {
    Pool::Optimistic g;
    if (pool.peek(hint.page, g) == Pool::Peek::ok) {
      const NodeView n(g.data());
      if (n.is_leaf() && n.tree_id() == id_ && n.covers(key) && pool.pin(g, pin)) return pin;
    }
  }
  for (;;) {
    KESSAI_ASSIGN(g, find_leaf(key));
    hint.page = g.page();
    if (pool.pin(g, pin)) return pin;
  }
}

Result<void> Tree::latch_leaf(std::string_view key, LeafHint hint, Pool::Exclusive& out) {
  Pool& pool = store_->pool();
  if (hint.page != kNoPage && pool.latch(hint.page, out)) {
    const NodeView n(out.data());
    if (n.is_leaf() && n.tree_id() == id_ && n.covers(key)) return {};
    out.release();
  }
  io::Waits::LateTimer again(&store_->env());
  for (;;) {
    KESSAI_ASSIGN(g, find_leaf(key));
    if (pool.upgrade(g, out)) return {};
    again.start(io::Wait::page_latch);
    io::cpu_relax();
  }
}

bool Tree::purge_page(Node node, Lsn horizon) {
  bool any = false;
  for (unsigned slot = node.count(); slot-- > 0;) {
    LeafHit hit;
    if (node.leaf_at(slot, hit) && is_ghost(hit.tag) && tag_lsn(hit.tag) <= horizon) {
      node.erase_leaf(slot);
      context_->counters.ghosts_purged.fetch_add(1, std::memory_order_relaxed);
      any = true;
    }
  }
  return any;
}

/// True: done. False: the leaf must be split first, or shadows are needed.
Result<bool> Tree::change_leaf(const Change& c, Pool::Exclusive& x, Shadows& shadows,
                               BeforeImages* undo, bool gated) {
  Node leaf(x.data());
  bool exact = false;
  const unsigned slot = leaf.lower_bound(c.key, exact);
  LeafHit hit;
  if (exact && leaf.leaf_at(slot, hit) && tag_lsn(hit.tag) >= c.lsn)
    return true;  // replayed already
  const bool long_value = c.overflow != nullptr && !c.remove;
  const OverflowRef ref = long_value ? c.overflow->ref : OverflowRef{};
  const std::string_view value =
      c.remove     ? std::string_view{}
      : long_value ? std::string_view(reinterpret_cast<const char*>(&ref), sizeof ref)
                   : c.value;
  const std::uint64_t tag = make_tag(
      c.lsn, static_cast<std::uint8_t>((c.remove ? kGhost : 0) | (long_value ? kOverflow : 0)));
  OverflowRef old{};
  if (exact && is_overflow(hit.tag) && !is_ghost(hit.tag))
    leaf.copy_value(hit, reinterpret_cast<char*>(&old));
  KESSAI_CHECK(gated || (!long_value && old.first_page == 0));
  if (!exact && !leaf.room_for_leaf(c.key.size(), value.size())) {
    const Lsn horizon = context_->horizon();
    if (!store_->touch(x, shadows)) return false;
    if (!purge_page(leaf, horizon) || !leaf.room_for_leaf(c.key.size(), value.size())) return false;
    return change_leaf(c, x, shadows, undo, gated);  // slots moved
  }
  if (!store_->touch(x, shadows)) return false;
  char inline_before[kMaxInlineRecord];
  if (exact) {
    if (undo != nullptr && old.first_page == 0) leaf.copy_value(hit, inline_before);
    if (!leaf.update_leaf(slot, tag, value)) return false;
    if (undo != nullptr) undo->before(id_, c.key, hit.tag, {inline_before, hit.vlen}, c.lsn);
  } else {
    leaf.insert_leaf(slot, c.key, tag, value);
  }
  leaf.raise_max_ts(c.lsn);
  if (c.lsn > leaf.page_lsn()) leaf.set_page_lsn(c.lsn);
  if (long_value) publish_overflow(*c.overflow, shadows, c.lsn);
  if (old.first_page != 0) {
    context_->roots->add({Roots::Kind::overflow, id_, PageId{old.first_page}}, shadows);
  }
  return true;
}

Result<void> Tree::apply(const Change& c, LeafHint hint, Shadows& shadows, BeforeImages* undo) {
  // Overflow pages come and go with the record in one cut: inside the gate. Whether the old record
  // has some is stable: the caller holds the record's lock (or is recovery).
  bool gated = c.overflow != nullptr;
  for (;;) {
    Pool::Exclusive x;
    std::optional<Gate::Pass> pass;
    if (gated) {
      KESSAI_TRY(shadows.top_up(4));
      KESSAI_TRY(context_->roots->make_room(1, shadows));
      KESSAI_TRY(find_leaf(c.key));  // resident now; the gate must not wait for it
      pass.emplace(store_->gate());
      if (!store_->enough(shadows, 4)) continue;
      Path path;
      if (!find_node(c.key, 0, path)) {
        const PageId missing = path.missing;
        pass.reset();
        if (missing != kNoPage) KESSAI_TRY(store_->pool().load(missing));
        continue;
      }
      if (!store_->pool().upgrade(path.node, x)) continue;
    } else {
      KESSAI_TRY(latch_leaf(c.key, hint, x));
      Node leaf(x.data());
      bool exact = false;
      LeafHit hit;
      const unsigned slot = leaf.lower_bound(c.key, exact);
      if (exact && leaf.leaf_at(slot, hit) && is_overflow(hit.tag) && !is_ghost(hit.tag)) {
        gated = true;
        continue;
      }
    }
    if (KESSAI_MUTANT(latch_released_early) && !gated) x.release();
    KESSAI_ASSIGN(done, change_leaf(c, x, shadows, undo, gated));
    if (done) return {};
    x.release();
    pass.reset();
    KESSAI_TRY(shadows.top_up(4));
    // Not shadows but room was missing? Ask the leaf again, and split it if so.
    const std::size_t vlen = c.remove                ? 0
                             : c.overflow != nullptr ? sizeof(OverflowRef)
                                                     : c.value.size();
    KESSAI_TRY(split_leaf(c.key, vlen, shadows));
  }
}

Result<void> Tree::purge_ghost(std::string_view key, Lsn lsn, Shadows& shadows) {
  bool underfull = false;
  KESSAI_TRY(store_->claim(kClaimPerChange, true));
  struct Claim {
    PageStore* s;
    ~Claim() { s->unclaim(kClaimPerChange); }
  } claim{store_};
  for (;;) {
    KESSAI_TRY(shadows.top_up(2));
    Pool::Exclusive x;
    KESSAI_TRY(latch_leaf(key, {}, x));
    Node leaf(x.data());
    bool exact = false;
    const unsigned slot = leaf.lower_bound(key, exact);
    LeafHit hit;
    const bool ours = exact && leaf.leaf_at(slot, hit) && is_ghost(hit.tag) &&
                      tag_lsn(hit.tag) == lsn && lsn <= context_->horizon();
    if (ours) {
      if (!store_->touch(x, shadows)) continue;
      leaf.erase_leaf(slot);
      context_->counters.ghosts_purged.fetch_add(1, std::memory_order_relaxed);
    }
    underfull = leaf.live_bytes() < NodeView::usable_bytes() * 2 / 5 && x.page() != root_;
    break;
  }
  for (unsigned level = 0; underfull; ++level) {
    KESSAI_ASSIGN(again, merge(key, level, shadows));
    underfull = again;
  }
  return {};
}

}  // namespace kessai::btree
