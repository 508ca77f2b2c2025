// SPDX-License-Identifier: Apache-2.0
// The wait-for graph: breadth-first search for cycles through the newest waiter.
#include <algorithm>

#include "io/mutant.hpp"
#include "mvcc/lock_table_private.hpp"

namespace kessai::mvcc {
namespace {

/// Printable, and short enough for a message with several keys.
std::string shown(std::string_view key) {
  static constexpr char kHex[] = "0123456789abcdef";
  static constexpr std::size_t kShown = 40;
  std::string out = "\"";
  for (const char c : key.substr(0, kShown)) {
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u >= 0x7f) {
      out += "\\x";
      out += kHex[u >> 4];
      out += kHex[u & 15];
    } else {
      if (c == '\\' || c == '"') out += '\\';
      out += c;
    }
  }
  if (key.size() > kShown) out += "...";
  return out += '"';
}

std::string number(OwnerId owner) { return std::to_string(static_cast<std::uint64_t>(owner)); }

}  // namespace

std::string LockTable::text_of(const Request& r) {
  switch (r.kind) {
    case LockKind::named:
      return "name " + shown(r.key);
    case LockKind::record:
      return "record " + shown(r.key) + " of tree " + std::to_string(raw(r.tree));
    case LockKind::range:
      break;
  }
  return "range [" + shown(r.key) + ", " + (r.to ? shown(*r.to) : "end") + ") of tree " +
         std::to_string(raw(r.tree));
}

void LockTable::Graph::enter(Waiter& me, io::Clock& clock) {
  io::MutexLock guard(mutex);
  Waiter*& head = chain_of(me.want.owner);
  me.chain = std::exchange(head, &me);
  if (!KESSAI_MUTANT(no_deadlock_check)) break_cycles(me, clock);
}

void LockTable::Graph::exit(Waiter& me) {
  io::MutexLock guard(mutex);
  Waiter** at = &chain_of(me.want.owner);
  while (*at != &me) at = &(*at)->chain;
  *at = me.chain;
}

LockTable::Waiter* LockTable::Graph::waiter_of(OwnerId owner) {
  Waiter* w = chain_of(owner);
  while (w != nullptr && w->want.owner != owner) w = w->chain;
  return w;
}

LockTable::Graph::Search LockTable::Graph::search(Waiter& me) {
  me.search = ++searches_;
  me.parent = nullptr;
  reached_.assign(1, &me);
  std::size_t at = 0;
  Search found = Search::nothing;
  while (found == Search::nothing && at < reached_.size()) found = expand(*reached_[at++], me);
  return found;
}

LockTable::Graph::Search LockTable::Graph::expand(Waiter& w, Waiter& me) {
  blockers_.clear();
  {
    io::MutexLock guard(w.domain.mutex);
    w.domain.blockers(w, blockers_);
  }
  for (const Blocker& b : blockers_) {
    if (b.owner == me.want.owner) {
      cycle_.clear();
      for (Waiter* member = &w; member != nullptr; member = member->parent)
        cycle_.push_back(member);
      std::reverse(cycle_.begin(), cycle_.end());
      return Search::cycle;
    }
    // This thread waits, so it can release nothing of its other transactions either.
    if (b.holds && b.thread == me.want.thread) return Search::own_thread;
    Waiter* const next = waiter_of(b.owner);
    if (next == nullptr || next->search == searches_) continue;
    next->search = searches_;
    next->parent = &w;
    reached_.push_back(next);
  }
  return Search::nothing;
}

void LockTable::Graph::break_cycles(Waiter& me, io::Clock& clock) {
  for (;;) {
    const Search found = search(me);
    if (found == Search::nothing) return;
    if (found == Search::own_thread) {
      (void)kill(me, Waiter::kOwnThread, {});
      return;
    }
    Waiter* const victim =
        *std::min_element(cycle_.begin(), cycle_.end(), [](const Waiter* a, const Waiter* b) {
          return a->work != b->work ? a->work < b->work : a->want.owner > b->want.owner;
        });
    // Granted or timed out meanwhile: then it is no longer in anybody's way like this.
    if (!kill(*victim, Waiter::kVictim, describe(*victim))) continue;
    keep(*victim, clock.now_ns());
    if (victim == &me) return;
  }
}

bool LockTable::Graph::kill(Waiter& victim, Waiter::State state, std::string why) {
  Wakes wakes;
  io::MutexLock guard(victim.domain.mutex);
  if (!victim.waiting()) return false;
  victim.why = std::move(why);
  victim.domain.leave(victim, wakes);
  victim.domain.end(victim, state, wakes);
  if (state == Waiter::kOwnThread) ++victim.domain.self_deadlocks;
  return true;
}

void LockTable::Graph::keep(const Waiter& victim, std::uint64_t now) {
  ++broken;
  Deadlock d{.at_ns = now, .cycle = {}, .victim = victim.want.owner};
  for (const Waiter* w : cycle_)
    d.cycle.push_back({.owner = w->want.owner,
                       .thread = w->want.thread,
                       .wants = w->want.mode,
                       .name = name_of(w->want),
                       .waited_ns = now - w->start_ns,
                       .work = w->work});
  if (kept.size() == kDeadlocksKept) kept.pop_front();
  kept.push_back(std::move(d));
}

/// "transaction 5 waits for record "b" of tree 7, held by transaction 4; that waits for ...".
std::string LockTable::Graph::describe(const Waiter& victim) const {
  static constexpr std::size_t kShown = 8;
  const auto start = std::find(cycle_.begin(), cycle_.end(), &victim) - cycle_.begin();
  std::string out;
  for (std::size_t i = 0; i < std::min(cycle_.size(), kShown); ++i) {
    const Request& r = cycle_[(static_cast<std::size_t>(start) + i) % cycle_.size()]->want;
    const Request& next = cycle_[(static_cast<std::size_t>(start) + i + 1) % cycle_.size()]->want;
    out += i == 0 ? "transaction " + number(r.owner) + " waits for " : "; that waits for ";
    out += text_of(r) + ", where transaction " + number(next.owner) + " is in its way";
  }
  if (cycle_.size() > kShown) out += "; and so on";
  return out + "; it had the least to lose, run it again";
}

}  // namespace kessai::mvcc
