// SPDX-License-Identifier: Apache-2.0
// The structural audit of a tree: what check, tree pictures and fill figures are made from.
#include <algorithm>

#include "btree/race.hpp"
#include "btree/tree.hpp"

namespace kessai::btree {
namespace {

struct Visit {
  PageId page{};
  PageId parent{};
  unsigned level = 0;  ///< expected; kMaxLevel + 1 = unknown (the root)
  std::string low;
  std::optional<std::string> high;
};

}  // namespace

Result<Tree::Audit> Tree::audit(bool list_pages, bool list_nodes) {
  Audit a;
  std::vector<Visit> stack{{root_, kNoPage, kMaxLevel + 1, "", std::nullopt}};
  alignas(64) std::byte copy[kPageSize];
  while (!stack.empty()) {
    const Visit v = std::move(stack.back());
    stack.pop_back();
    const auto bad = [&](std::string what) {
      ErrorDetail d;
      d.path = store_->path();
      d.page = raw(v.page);
      d.what = std::move(what);
      a.damage.emplace_back(Code::damaged, std::move(d));
    };
    for (;;) {
      auto g = store_->pool().read(v.page);
      if (!g) {
        if (g.error() == Code::not_found) {
          bad("the page is referred to but not in the page map");
        } else if (g.error() == Code::damaged) {
          a.damage.push_back(g.error());
        } else {
          return std::unexpected(g.error());
        }
        break;
      }
      race::copy_out(copy, g->data(), kPageSize);
      if (!g->valid()) continue;
      ++a.pages;
      if (a.pages > store_->next_page() + 64)
        return fail(Code::damaged, "a tree visits more pages than there are: it has a cycle");
      if (list_pages) a.reachable.push_back(v.page);
      const NodeView n(copy);
      std::string what, low, high;
      if (!n.verify(store_->id().lo, v.page, what)) {
        bad(what);
        break;
      }
      n.low_fence(low);
      const bool has_high = n.high_fence(high);
      if (n.tree_id() != id_) bad("the page belongs to tree " + std::to_string(raw(n.tree_id())));
      if (v.level <= kMaxLevel && n.level() != v.level) bad("the page is at the wrong level");
      if (low != v.low || has_high != v.high.has_value() || (has_high && high != *v.high)) {
        bad("the fences of the page differ from its parent's separators");
      }
      a.depth = std::max(a.depth, n.level() + 1);
      if (list_nodes)
        a.nodes.push_back({v.page, v.parent, n.level(), n.count(), n.live_bytes(), low});
      if (n.is_leaf()) {
        ++a.leaves;
        a.live_bytes += n.live_bytes();
        for (unsigned s = 0; s < n.count(); ++s) {
          LeafHit hit;
          if (!n.leaf_at(s, hit)) continue;
          if (is_ghost(hit.tag)) {
            ++a.ghosts;
            continue;
          }
          ++a.records;
          if (!is_overflow(hit.tag)) continue;
          OverflowRef ref;
          n.copy_value(hit, reinterpret_cast<char*>(&ref));
          std::string value;
          auto whole = read_overflow(ref, value);
          if (!whole && whole.error() != Code::damaged) return std::unexpected(whole.error());
          if (!whole) a.damage.push_back(whole.error());
          if (whole && !*whole)
            bad("the overflow chain from page " + std::to_string(ref.first_page) + " is broken");
          for (PageId p{ref.first_page}; p != kNoPage && whole && *whole;) {
            auto link = store_->pool().read(p);
            if (!link) break;
            ++a.overflow_pages;
            if (list_pages) a.reachable.push_back(p);
            p = PageId{race::load<std::uint32_t>(link->data() + 64)};
            if (a.overflow_pages > store_->next_page()) break;
          }
        }
      } else {
        for (unsigned i = n.count() + 1; i-- > 0;) {
          Visit c{n.child(i), v.page, n.level() - 1, low,
                  has_high ? std::optional(high) : std::nullopt};
          if (i > 0) n.copy_separator(i - 1, c.low);
          if (i < n.count()) {
            c.high.emplace();
            n.copy_separator(i, *c.high);
          }
          stack.push_back(std::move(c));
        }
      }
      break;
    }
  }
  return a;
}

}  // namespace kessai::btree
