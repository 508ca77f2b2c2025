// SPDX-License-Identifier: Apache-2.0
// Structure modifications: splits, merges, dropping a tree. All inside the gate, with frames and
// shadows in hand; whatever is missing is fetched outside and the operation starts over (I11).
#include <algorithm>

#include "btree/race.hpp"
#include "btree/tree.hpp"
#include "io/check.hpp"

namespace kessai::btree {
namespace {

/// Frames taken ahead; unused ones go back.
class SpareFrames {
 public:
  explicit SpareFrames(Pool& pool) : pool_(pool) {}
  ~SpareFrames() {
    for (; n_ > 0; --n_) pool_.return_frame(frames_[n_ - 1]);
  }
  SpareFrames(const SpareFrames&) = delete;
  SpareFrames& operator=(const SpareFrames&) = delete;
  [[nodiscard]] Result<void> fill() {
    for (; n_ < 2; ++n_) {
      KESSAI_ASSIGN(f, pool_.take_frame());
      frames_[n_] = f;
    }
    return {};
  }
  FrameId take() { return frames_[--n_]; }

 private:
  Pool& pool_;
  FrameId frames_[2] = {};
  unsigned n_ = 0;
};

struct alignas(64) Buffer {
  std::byte bytes[kPageSize];
};

}  // namespace

bool Tree::find_node(std::string_view key, unsigned level, Path& out) {
  Pool& pool = store_->pool();
  out.missing = kNoPage;
  Pool::Optimistic g;
  if (pool.peek(root_, g) != Pool::Peek::ok) {
    out.missing = root_;
    return false;
  }
  out.at_root = true;
  for (;;) {
    const NodeView node(g.data());
    const unsigned here = node.level();
    if (here == level) {
      out.node = g;
      return g.valid();
    }
    if (here < level || node.is_leaf()) return false;
    const PageId child = node.child(node.child_index(key));
    if (!g.valid()) return false;
    Pool::Optimistic c;
    const auto p = pool.peek(child, c);
    if (!g.valid()) return false;
    if (p == Pool::Peek::miss) out.missing = child;
    if (p != Pool::Peek::ok) return false;
    out.parent = g;
    out.at_root = false;
    g = c;
  }
}

Result<void> Tree::split_leaf(std::string_view key, std::size_t vlen, Shadows& shadows) {
  return split(
      key, 0,
      [key, vlen](NodeView leaf) {
        bool exact = false;
        const unsigned slot = leaf.lower_bound(key, exact);
        if (!exact && leaf.room_for_leaf(key.size(), vlen)) return SplitPoint{0, {}, true};
        const LeafChange change = exact ? LeafChange::replace
                                  : slot == leaf.count() && !leaf.has_high_fence()
                                      ? LeafChange::append
                                      : LeafChange::insert;
        LeafHit hit;
        if (exact && leaf.leaf_at(slot, hit)) {
          // Enough room for the longer value after all? Someone split or purged this leaf
          // meanwhile.
          alignas(8) std::byte trial[kPageSize];
          race::copy_out(trial, leaf.bytes(), kPageSize);
          const std::string filler(vlen, '\0');
          if (Node(trial).update_leaf(slot, hit.tag, filler)) return SplitPoint{0, {}, true};
        }
        return leaf.plan_leaf_split(key, vlen, slot, change);
      },
      shadows);
}

Result<void> Tree::split(std::string_view key, unsigned level,
                         const std::function<SplitPoint(NodeView)>& plan, Shadows& shadows) {
  Pool& pool = store_->pool();
  SpareFrames frames(pool);
  Buffer left, right;
  io::Waits::LateTimer wait(&store_->env());
  for (;;) {
    KESSAI_TRY(frames.fill());
    KESSAI_TRY(shadows.top_up(4));
    Path path;
    std::string too_big_for_parent;
    {
      Gate::Pass gate(store_->gate());
      Pool::Exclusive parent, node;
      if (!store_->enough(shadows, 4) || !find_node(key, level, path)) {
        // fall through to load what is missing, outside the gate
      } else if ((path.at_root || pool.upgrade(path.parent, parent)) &&
                 pool.upgrade(path.node, node)) {
        const SplitPoint at = plan(NodeView(node.data()));
        if (at.separator.empty()) return {};  // room was made meanwhile
        if (!path.at_root && !Node(parent.data()).room_for_separator(at.separator.size())) {
          too_big_for_parent = at.separator;
        } else {
          auto right_id = store_->allocate();
          auto left_id =
              path.at_root && right_id ? store_->allocate() : Result<PageId>(node.page());
          if (!right_id || !left_id)
            return std::unexpected(!right_id ? right_id.error() : left_id.error());
          NodeView(node.data()).split_to(left.bytes, *left_id, right.bytes, *right_id, at);
          Pool::Exclusive r = pool.adopt(*right_id, frames.take());
          KESSAI_CHECK(store_->touch(r, shadows) && store_->touch(node, shadows));
          race::copy_in(r.data(), right.bytes, kPageSize);
          if (path.at_root) {
            Pool::Exclusive l = pool.adopt(*left_id, frames.take());
            KESSAI_CHECK(store_->touch(l, shadows));
            race::copy_in(l.data(), left.bytes, kPageSize);
            Node(node.data()).make_root(*left_id, *right_id, at.separator);
          } else {
            KESSAI_CHECK(store_->touch(parent, shadows));
            Node(parent.data()).insert_separator(at.separator, *right_id);
            race::copy_in(node.data(), left.bytes, kPageSize);
          }
          auto& count =
              level == 0 ? context_->counters.leaf_splits : context_->counters.inner_splits;
          count.fetch_add(1, std::memory_order_relaxed);
          context_->counters.structure_changes.fetch_add(1, std::memory_order_release);
          return {};
        }
      }
    }
    if (!too_big_for_parent.empty()) {
      KESSAI_TRY(split(
          key, level + 1,
          [&](NodeView parent) {
            if (parent.room_for_separator(too_big_for_parent.size()))
              return SplitPoint{0, {}, true};
            return parent.plan_inner_split(too_big_for_parent);
          },
          shadows));
    } else if (path.missing != kNoPage) {
      auto loaded = pool.load(path.missing);
      if (!loaded && loaded.error() != Code::not_found) return loaded;
    } else {  // others are at work on these pages
      wait.start(io::Wait::leaf_split);
      io::cpu_relax();
    }
  }
}

/// Joins the node of `key` at `level` with a neighbour under the same parent when both fit in one
/// page with some air, or shortens the tree. True: the parent became underfull.
Result<bool> Tree::merge(std::string_view key, unsigned level, Shadows& shadows) {
  Pool& pool = store_->pool();
  Buffer merged;
  for (unsigned attempt = 0; attempt < 16; ++attempt) {
    KESSAI_TRY(shadows.top_up(4));
    Path path;
    PageId missing = kNoPage;
    {
      Gate::Pass gate(store_->gate());
      Pool::Exclusive parent;
      if (!store_->enough(shadows, 4) || !find_node(key, level, path)) {
        missing = path.missing;
      } else if (path.at_root) {
        return false;
      } else if (pool.upgrade(path.parent, parent)) {
        Node up(parent.data());
        const unsigned i = up.child_index(key);
        if (up.count() == 0) {
          // An only child: at the root, the tree loses a level.
          Pool::Exclusive child;
          if (parent.page() != root_) return false;
          if (!pool.upgrade(path.node, child)) continue;
          if (child.frame().pins.load() != 0) return false;
          race::copy_out(merged.bytes, child.data(), kPageSize);
          const std::uint64_t id = raw(root_);
          std::memcpy(merged.bytes + 8, &id, sizeof id);
          KESSAI_CHECK(store_->touch(parent, shadows));
          race::copy_in(parent.data(), merged.bytes, kPageSize);
          store_->free(std::move(child), shadows);
          context_->counters.structure_changes.fetch_add(1, std::memory_order_release);
          return false;
        }
        // With the right neighbour, else with the left one.
        bool joined = false;
        for (const unsigned l : {i, i - 1}) {
          if (l >= up.count() || joined || missing != kNoPage) continue;
          const PageId left_id = up.child(l), right_id = up.child(l + 1);
          Pool::Exclusive left, right;
          if (!pool.latch(left_id, left)) {
            missing = left_id;
          } else if (!pool.latch(right_id, right)) {
            missing = right_id;
          } else {
            const NodeView lv(left.data()), rv(right.data());
            // A pinned page stays: somebody is about to change it.
            if (NodeView::merged_bytes(lv, rv) > NodeView::usable_bytes() * 4 / 5 ||
                right.frame().pins.load() != 0)
              continue;
            NodeView::merge_to(merged.bytes, left_id, lv, rv);
            KESSAI_CHECK(store_->touch(left, shadows) && store_->touch(parent, shadows));
            race::copy_in(left.data(), merged.bytes, kPageSize);
            up.erase_separator(l);
            store_->free(std::move(right), shadows);
            joined = true;
          }
        }
        if (missing == kNoPage) {
          if (!joined) return false;
          context_->counters.merges.fetch_add(1, std::memory_order_relaxed);
          context_->counters.structure_changes.fetch_add(1, std::memory_order_release);
          return up.count() == 0 || up.live_bytes() < NodeView::usable_bytes() / 4;
        }
      }
    }
    if (missing != kNoPage) {
      auto loaded = pool.load(missing);
      if (!loaded && loaded.error() != Code::not_found) return std::unexpected(loaded.error());
    } else {
      io::cpu_relax();
    }
  }
  return false;
}

Result<bool> Tree::drop_step(Shadows& shadows) {
  // Frees the rightmost leaf, or the root when it is the last page. Nobody else uses the tree.
  Pool& pool = store_->pool();
  KESSAI_TRY(store_->claim(kClaimPerChange, true));
  struct Claim {
    PageStore* s;
    ~Claim() { s->unclaim(kClaimPerChange); }
  } claim{store_};
  for (;;) {
    KESSAI_TRY(shadows.top_up(4));
    // Walk to the rightmost leaf, loading on the way (no gate: the tree is ours).
    PageId page = root_, parent_id = kNoPage;
    for (unsigned depth = 0; depth <= kMaxLevel; ++depth) {
      KESSAI_ASSIGN(g, pool.read(page));
      const NodeView n(g.data());
      if (n.is_leaf()) break;
      const PageId child = n.child(n.count());
      if (!g.valid()) continue;
      parent_id = page;
      page = child;
    }
    KESSAI_TRY(context_->roots->make_room(2, shadows));
    Gate::Pass gate(store_->gate());
    if (!store_->enough(shadows, 4)) continue;
    Pool::Exclusive parent, leaf;
    if ((parent_id != kNoPage && !pool.latch(parent_id, parent)) || !pool.latch(page, leaf))
      continue;
    Node node(leaf.data());
    // Long values of this leaf become chains to free, one gated step at a time.
    for (unsigned slot = node.count(); slot-- > 0;) {
      LeafHit hit;
      if (!node.leaf_at(slot, hit) || !is_overflow(hit.tag) || is_ghost(hit.tag)) continue;
      OverflowRef ref;
      node.copy_value(hit, reinterpret_cast<char*>(&ref));
      KESSAI_CHECK(store_->touch(leaf, shadows));
      node.erase_leaf(slot);
      context_->roots->add({Roots::Kind::overflow, id_, PageId{ref.first_page}}, shadows);
      return true;
    }
    context_->counters.structure_changes.fetch_add(1, std::memory_order_release);
    if (parent_id == kNoPage) {
      context_->roots->remove({Roots::Kind::dropping, id_, root_}, shadows);
      store_->free(std::move(leaf), shadows);
      return false;
    }
    Node up(parent.data());
    KESSAI_CHECK(store_->touch(parent, shadows));
    if (up.count() == 0) {
      // The only child: the parent becomes an empty leaf in its place.
      NodeFormat f;
      f.store_id = store_->id().lo;
      f.page = parent_id;
      f.tree = id_;
      Buffer empty;
      std::memset(empty.bytes, 0, kPageSize);
      f.low = "";
      Node(empty.bytes).format(f);
      race::copy_in(parent.data(), empty.bytes, kPageSize);
    } else {
      up.erase_separator(up.count() - 1);
    }
    store_->free(std::move(leaf), shadows);
    return true;
  }
}

}  // namespace kessai::btree
