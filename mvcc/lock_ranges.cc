// SPDX-License-Identifier: Apache-2.0
// Range locks: intervals that scans hold, and the exclusive keys that must not be in them.
#include <algorithm>
#include <iterator>
#include <tuple>

#include "io/check.hpp"
#include "io/mutant.hpp"
#include "mvcc/lock_table_private.hpp"

namespace kessai::mvcc {
namespace {

using To = std::optional<std::string>;

bool ends_at_or_after(const To& to, std::string_view key) { return !to || *to >= key; }

template <class Intervals>
bool covers(const Intervals& intervals, std::string_view key) {
  const auto next = intervals.upper_bound(key);
  if (next == intervals.begin()) return false;
  const To& to = std::prev(next)->second;
  return !to || key < *to;
}

}  // namespace

const LockTable::RangeTree::Intervals* LockTable::RangeTree::intervals_of(OwnerId owner) const {
  const auto at = owners.find(owner);
  return at == owners.end() || at->second.intervals.empty() ? nullptr : &at->second.intervals;
}

bool LockTable::RangeTree::covered(const Request& r) const {
  const Intervals* own = intervals_of(r.owner);
  if (own == nullptr) return false;
  const auto next = own->upper_bound(r.key);
  if (next == own->begin()) return false;
  const To& to = std::prev(next)->second;
  return !to || (r.to && *to >= *r.to);
}

LockTable::RangeTree::Owned& LockTable::RangeTree::owned(OwnerId owner) {
  auto at = owners.lower_bound(owner);
  if (at != owners.end() && at->first == owner) return at->second;
  if (idle_owners.empty()) return owners.emplace_hint(at, owner, Owned{})->second;
  auto node = std::move(idle_owners.back());
  idle_owners.pop_back();
  node.key() = owner;
  return owners.insert(at, std::move(node))->second;
}

void LockTable::RangeTree::insert_key(const Request& r, Writers::iterator hint) {
  const Writer writer{.owner = r.owner, .thread = r.thread};
  Writers::iterator at;
  if (idle_writers.empty()) {
    at = writers.emplace_hint(hint, r.key, writer);
  } else {
    auto node = std::move(idle_writers.back());
    idle_writers.pop_back();
    node.key() = r.key;
    node.mapped() = writer;
    at = writers.insert(hint, std::move(node));
  }
  owned(r.owner).keys.push_back(at);
}

void LockTable::RangeTree::remove(OwnerId owner) {
  const auto at = owners.find(owner);
  if (at == owners.end()) return;
  Owned& own = at->second;
  for (const auto key : own.keys) {
    auto node = writers.extract(key);
    if (idle_writers.size() < kIdle) idle_writers.push_back(std::move(node));
  }
  intervals -= own.intervals.size();
  own.intervals.clear();
  own.keys.clear();
  auto node = owners.extract(at);
  if (idle_owners.size() < kIdle && own.keys.capacity() <= kIdle)
    idle_owners.push_back(std::move(node));
}

void LockTable::RangeTree::insert_range(const Request& r) {
  Owned& own = owned(r.owner);
  own.thread = r.thread;
  std::string from(r.key);
  To to;
  if (r.to) to.emplace(*r.to);
  auto at = own.intervals.upper_bound(from);
  if (at != own.intervals.begin() && ends_at_or_after(std::prev(at)->second, from)) {
    --at;
    from = at->first;
  }
  while (at != own.intervals.end() && ends_at_or_after(to, at->first)) {
    if (!at->second || (to && *to < *at->second)) to = std::move(at->second);
    at = own.intervals.erase(at);
    --intervals;
  }
  own.intervals.emplace_hint(at, std::move(from), std::move(to));
  ++intervals;
  *r.intervals = own.intervals.size();
}

template <class Fn>
void LockTable::RangeTree::each_blocker(const Request& r, const Waiter* end, Fn&& fn) const {
  if (r.kind == LockKind::record) {
    if (intervals > 0)
      for (const auto& [owner, own] : owners)
        if (owner != r.owner && covers(own.intervals, r.key) && !fn(owner, own.thread, true))
          return;
    queue.each_until(end, [&](const Waiter& w) {
      if (w.want.kind == LockKind::record || w.want.owner == r.owner || !w.want.spans(r.key))
        return true;
      return static_cast<bool>(fn(w.want.owner, w.want.thread, false));
    });
    return;
  }
  for (auto at = writers.lower_bound(r.key); at != writers.end() && r.spans(at->first); ++at)
    if (at->second.owner != r.owner && !fn(at->second.owner, at->second.thread, true)) return;
  // What the owner has already it does not ask for again: a writer that waits for it there is not
  // in its way.
  const Intervals* own = intervals_of(r.owner);
  queue.each_until(end, [&](const Waiter& w) {
    if (w.want.kind == LockKind::range || w.want.owner == r.owner || !r.spans(w.want.key) ||
        (own != nullptr && covers(*own, w.want.key)))
      return true;
    return static_cast<bool>(fn(w.want.owner, w.want.thread, false));
  });
}

LockTable::RangeTree& LockTable::Bucket::tree_of(TreeId id) {
  if (const auto at = trees.find(id); at != trees.end()) return at->second;
  // Idle trees stay, they will be wanted again; but dropped ones are never asked for.
  std::erase_if(trees, [](const auto& tree) { return tree.second.idle(); });
  return trees[id];
}

LockTable::Taken LockTable::Bucket::take(const Request& r) {
  RangeTree& tree = tree_of(r.tree);
  RangeTree::Writers::iterator at;
  if (r.kind == LockKind::record) {
    at = tree.writers.lower_bound(r.key);
    if (at != tree.writers.end() && at->first == r.key) {
      KESSAI_CHECK(at->second.owner == r.owner);  // the record lock is exclusive
      return Taken::had;
    }
  } else if (tree.covered(r)) {
    return Taken::had;
  }
  Taken answer = Taken::fresh;
  tree.each_blocker(r, nullptr, [&](OwnerId, unsigned thread, bool holds) {
    answer = holds && thread == r.thread ? Taken::own_thread : Taken::conflict;
    return answer == Taken::conflict;
  });
  if (answer != Taken::fresh) return answer;
  if (r.kind == LockKind::record)
    tree.insert_key(r, at);
  else
    tree.insert_range(r);
  return answer;
}

void LockTable::Bucket::enqueue(Waiter& w) { tree_of(w.want.tree).queue.push_back(w); }

/// Grants all that are blocked neither by a holder nor by somebody in front, in order.
void LockTable::Bucket::move_up(RangeTree& tree, Wakes& wakes) {
  if (tree.queue.empty()) return;
  bool first = true;
  const Waiter* const last = tree.queue.last;
  for (Waiter* w = tree.queue.first();;) {
    Waiter* const next = w->next;
    const bool at_end = w == last;
    bool blocked = false;
    tree.each_blocker(w->want, w, [&](OwnerId, unsigned, bool) { return !(blocked = true); });
    if (!blocked && (first || !KESSAI_MUTANT(lost_wake_up))) {
      first = false;
      tree.queue.remove(*w);
      if (w->want.kind == LockKind::record)
        tree.insert_key(w->want, tree.writers.lower_bound(w->want.key));
      else
        tree.insert_range(w->want);
      end(*w, Waiter::kGranted, wakes);
    }
    if (at_end) return;
    w = next;
  }
}

void LockTable::Bucket::leave(Waiter& w, Wakes& wakes) {
  RangeTree& tree = tree_of(w.want.tree);
  tree.queue.remove(w);
  move_up(tree, wakes);
}

void LockTable::Bucket::blockers(const Waiter& w, std::vector<Blocker>& out) const {
  if (!w.waiting()) return;
  trees.at(w.want.tree).each_blocker(w.want, &w, [&](OwnerId owner, unsigned thread, bool holds) {
    out.push_back({.owner = owner, .thread = thread, .holds = holds});
    return true;
  });
}

std::uint64_t LockTable::Bucket::held() const {
  std::uint64_t n = 0;
  for (const auto& [id, tree] : trees) n += tree.intervals;
  return n;
}

void LockTable::Bucket::release(TreeId id, OwnerId owner, Wakes& wakes) {
  RangeTree& tree = tree_of(id);
  tree.remove(owner);
  move_up(tree, wakes);
}

LockTable::Waiting LockTable::Waiter::line(std::uint64_t now) const {
  return {
      .owner = want.owner, .mode = want.mode, .thread = want.thread, .waited_ns = now - start_ns};
}

void LockTable::Bucket::interval_views(TreeId id, const RangeTree& tree, std::uint64_t now,
                                       std::vector<View>& out) {
  for (const auto& owner : tree.owners)
    for (const auto& interval : owner.second.intervals) {
      View& view = out.emplace_back();
      view.name.kind = LockKind::range;
      view.name.tree = id;
      std::tie(view.name.key, view.name.to) = interval;
      view.holders.push_back(
          {.owner = owner.first, .mode = LockMode::shared, .thread = owner.second.thread});
      tree.queue.each([&](const Waiter& w) {
        if (w.want.kind == LockKind::record && w.want.owner != owner.first &&
            w.want.key >= view.name.key && (!view.name.to || w.want.key < *view.name.to))
          view.waiters.push_back(w.line(now));
      });
    }
}

void LockTable::Bucket::views(std::uint64_t now, std::vector<View>& out,
                              BehindRecords& behind) const {
  for (const auto& entry : trees) {
    const RangeTree& tree = entry.second;
    interval_views(entry.first, tree, now, out);
    tree.queue.each([&](const Waiter& w) {
      if (w.want.kind != LockKind::range) return;
      const auto waits_for = [&](std::string_view key) {
        Behind& record = behind[record_id(w.want.tree, key)];
        record.key = key;
        record.waiters.push_back(w.line(now));
      };
      for (auto at = tree.writers.lower_bound(w.want.key);
           at != tree.writers.end() && w.want.spans(at->first); ++at)
        if (at->second.owner != w.want.owner) waits_for(at->first);
      View wish;
      bool passed = false;
      tree.queue.each([&](const Waiter& x) {
        if (&x == &w) passed = true;
        if (x.want.kind != LockKind::record || x.want.owner == w.want.owner ||
            !w.want.spans(x.want.key))
          return;
        if (passed)
          wish.waiters.push_back(x.line(now));
        else
          waits_for(x.want.key);
      });
      if (wish.waiters.empty()) return;
      wish.name = name_of(w.want);
      wish.waiters.insert(wish.waiters.begin(), w.line(now));
      out.push_back(std::move(wish));
    });
  }
}

}  // namespace kessai::mvcc
