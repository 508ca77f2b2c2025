// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/black_box.hpp"

#include <algorithm>
#include <cstring>
#include <set>

#include "tools/torture/graph.hpp"

namespace kessai::torture {
namespace {

constexpr Node kNone = ~Node{0};

// A version of a list: the row that a committed transaction left.
struct Version {
  TxnIndex txn = kNobody;
  std::span<const Element> row;
};

struct Reading {
  TxnIndex txn = kNobody;
  Key key = 0;
  Element last = 0;  // 0: absent
  bool locked = false;
  bool exists = false;  // of the current row, whatever the snapshot
  bool range = false;
};

class Checker {
 public:
  Checker(const History& h, const Index& index, std::size_t most)
      : h_(h), index_(index), most_(most) {}

  std::vector<Violation> run() {
    place_transactions();
    order_lists();
    for (TxnIndex i = 0; i < h_.transactions.size(); ++i) {
      const Transaction& t = h_.transactions[i];
      if (placed(i) || (t.fate() == Fate::aborted && t.settled)) read(i, t);
    }
    connect_registers();
    connect_real_time();
    graph_.seal(owner_.size());
    if (!graph_.components(~EdgeKinds{0}).empty()) explain();
    return std::move(found_);
  }

 private:
  [[nodiscard]] bool placed(TxnIndex t) const { return first_[t] != kNone; }
  [[nodiscard]] Isolation level(const Transaction& t) const {
    return h_.s2pl ? Isolation::serializable : t.level;
  }

  void place_transactions() {
    first_.assign(h_.transactions.size(), kNone);
    last_ = first_;
    answered_.assign(h_.transactions.size(), false);
    for (TxnIndex i = 0; i < h_.transactions.size(); ++i) {
      const Transaction& t = h_.transactions[i];
      if (t.fate() != Fate::committed) continue;
      first_[i] = last_[i] = new_node(i);
      if (level(t) != Isolation::snapshot || t.read_only) continue;
      last_[i] = new_node(i);
      graph_.add({first_[i], last_[i], 0, EdgeKind::inner, false});
    }
  }
  Node new_node(TxnIndex owner) {
    owner_.push_back(owner);
    return static_cast<Node>(owner_.size() - 1);
  }

  // ---- versions of lists ----------------------------------------------------------------------

  void order_lists() {
    first_version_.assign(h_.keys + 1, 0);
    removed_.assign(h_.keys, false);
    const auto for_each_final = [&](auto&& fn) {
      for (TxnIndex i = 0; i < h_.transactions.size(); ++i) {
        if (!placed(i)) continue;
        for (const Op* op : index_.finals_of(i)) fn(i, *op);
      }
    };
    for_each_final([&](TxnIndex, const Op& op) {
      if (op.kind == Kind::remove) removed_[op.key] = true;
      if (is_list(op.key)) ++first_version_[op.key + 1];
    });
    for (Key k = 0; k < h_.keys; ++k) first_version_[k + 1] += first_version_[k];
    versions_.resize(first_version_[h_.keys]);
    std::vector<std::uint32_t> next(first_version_.begin(), first_version_.end() - 1);
    for_each_final([&](TxnIndex i, const Op& op) {
      if (is_list(op.key)) versions_[next[op.key]++] = {i, h_.elements_of(op)};
    });
    for (Key k = 0; k < h_.keys; ++k) order_list(k);
  }

  [[nodiscard]] std::span<Version> versions_of(Key k) {
    return {versions_.data() + first_version_[k], first_version_[k + 1] - first_version_[k]};
  }

  void order_list(Key k) {
    const auto all = versions_of(k);
    std::sort(all.begin(), all.end(),
              [](const Version& a, const Version& b) { return a.row.size() < b.row.size(); });
    for (std::size_t i = 1; i < all.size(); ++i) {
      const Version &a = all[i - 1], &b = all[i];
      const bool grows = a.row.size() < b.row.size() &&
                         std::memcmp(a.row.data(), b.row.data(), a.row.size_bytes()) == 0;
      if (grows) {
        graph_.add({last_[a.txn], first_[b.txn], k, EdgeKind::ww, false});
        continue;
      }
      violation("lost-update", {a.txn, b.txn},
                "one did not see what the other appended to " + key_name(k) + ": " +
                    list_text(true, a.row) + " and " + list_text(true, b.row));
      forked_.insert(k);
      return;
    }
  }

  // ---- reads ----------------------------------------------------------------------------------

  void read(TxnIndex i, const Transaction& t) {
    for_each_seen(h_, t, own_, [&](const Seen& s) {
      if (found_.size() >= most_) return;
      if (s.own != nullptr) return check_own(i, s);
      if (s.found || s.op->kind == Kind::read || s.op->kind == Kind::range) answered_[i] = true;
      const Element last = s.found && !s.elements.empty() ? s.elements.back() : 0;
      const Reading r{i,
                      s.key,
                      last,
                      s.op->kind == Kind::locked_read || s.op->kind == Kind::exists,
                      s.op->kind == Kind::exists,
                      s.op->kind == Kind::range};
      if (last != 0 && !check_element(i, s, last)) return;
      if (last != 0 && is_list(s.key) && !check_prefix(i, s)) return;
      if (!placed(i)) return;
      if (last != 0) {
        const TxnIndex writer = index_.written(last)->txn;
        if (writer != i) graph_.add({last_[writer], sees_at(r), s.key, EdgeKind::wr, false});
      }
      if (!is_list(s.key)) {
        if (last != 0 || !removed_[s.key]) readings_.push_back(r);
      } else if (!forked_.contains(s.key)) {
        const auto all = versions_of(s.key);
        const auto replaced = std::ranges::upper_bound(
            all, s.elements.size(), {}, [](const Version& v) { return v.row.size(); });
        if (replaced != all.end()) connect_rw(r, replaced->txn);
      }
    });
  }

  [[nodiscard]] Node sees_at(const Reading& r) const {
    return r.exists ? last_[r.txn] : first_[r.txn];
  }
  void connect_rw(const Reading& r, TxnIndex writer) {
    if (writer == r.txn) return;
    if (level(h_.transactions[r.txn]) == Isolation::read_committed && !r.locked) return;
    graph_.add({r.locked ? last_[r.txn] : first_[r.txn], last_[writer], r.key, EdgeKind::rw,
                r.range || r.last == 0});
  }

  void check_own(TxnIndex i, const Seen& s) {
    const bool want = s.own->kind == Kind::write;
    if (s.found == want && !s.garbled &&
        (!want || std::ranges::equal(s.elements, h_.elements_of(*s.own))))
      return;
    violation("own-write-missed", {i},
              "it saw " + key_name(s.key) + " = " + list_text(s.found, s.elements) +
                  " after it had written it");
  }

  bool check_element(TxnIndex i, const Seen& s, Element last) {
    const Written* w = index_.written(last);
    const std::string saw =
        "it saw " + key_name(s.key) + " = " + list_text(s.found, s.elements) + "; ";
    if (s.garbled || w == nullptr || w->key != s.key) {
      violation("garbled-row", {i}, saw + "nobody wrote that there");
      return false;
    }
    const Fate fate = h_.transactions[w->txn].fate();
    if (fate != Fate::committed || w->state == Written::State::undone) {
      violation("G1a", {i, w->txn}, saw + element_name(last) + " was rolled back");
      return false;
    }
    if (w->state == Written::State::intermediate && w->txn != i) {
      violation("G1b", {i, w->txn}, saw + element_name(last) + " was not the writer's last");
      return false;
    }
    return true;
  }

  bool check_prefix(TxnIndex i, const Seen& s) {
    if (forked_.contains(s.key)) return true;
    const auto all = versions_of(s.key);
    const auto longest = all.empty() ? std::span<const Element>{} : all.back().row;
    if (s.elements.size() <= longest.size() &&
        std::memcmp(s.elements.data(), longest.data(), s.elements.size_bytes()) == 0)
      return true;
    violation("incompatible-order", {i},
              "it saw " + key_name(s.key) + " = " + list_text(true, s.elements) + "; others left " +
                  list_text(true, longest));
    return false;
  }

  // Who read a register and wrote it replaced what it had read, at once or later.
  void connect_registers() {
    std::ranges::sort(readings_, [](const Reading& a, const Reading& b) {
      return std::pair(a.key, a.last) < std::pair(b.key, b.last);
    });
    constexpr std::size_t kMostWriters = 4;
    std::vector<TxnIndex> writers;
    for (std::size_t from = 0, to; from < readings_.size(); from = to) {
      writers.clear();
      for (to = from; to < readings_.size() && readings_[to].key == readings_[from].key &&
                      readings_[to].last == readings_[from].last;
           ++to) {
        const Reading& r = readings_[to];
        if (writers.size() < kMostWriters && std::ranges::find(writers, r.txn) == writers.end() &&
            wrote(r.txn, r.key))
          writers.push_back(r.txn);
      }
      for (const TxnIndex writer : writers)
        for (std::size_t n = from; n < to; ++n) connect_rw(readings_[n], writer);
      check_lost_update(writers, readings_[from].key);
    }
  }
  [[nodiscard]] bool wrote(TxnIndex t, Key k) const {
    return std::ranges::any_of(index_.finals_of(t), [&](const Op* op) { return op->key == k; });
  }
  void check_lost_update(const std::vector<TxnIndex>& writers, Key k) {
    std::vector<TxnIndex> strict;
    for (const TxnIndex t : writers)
      if (level(h_.transactions[t]) != Isolation::read_committed) strict.push_back(t);
    if (strict.size() < 2) return;
    violation("lost-update", {strict[0], strict[1]},
              "both read the same " + key_name(k) + " and replaced it");
  }

  // ---- real time ------------------------------------------------------------------------------

  // What had ended, as a chain of moments. A transaction that begins hangs on the last of them.
  struct Chain {
    std::vector<Node> ended;
    Node moment = kNone;
  };
  void link(Chain& chain, Node begun) {
    if (!chain.ended.empty()) {
      const Node moment = new_node(kNobody);
      if (chain.moment != kNone) graph_.add({chain.moment, moment, 0, EdgeKind::rt_on, false});
      for (const Node n : chain.ended) graph_.add({n, moment, 0, EdgeKind::rt, false});
      chain.ended.clear();
      chain.moment = moment;
    }
    if (chain.moment != kNone) graph_.add({chain.moment, begun, 0, EdgeKind::rt_on, false});
  }

  void connect_real_time() {
    struct Event {
      std::uint8_t incarnation;
      std::uint64_t ns;
      bool end;
      TxnIndex txn;
    };
    std::vector<Event> events;
    events.reserve(2 * h_.transactions.size());
    for (TxnIndex i = 0; i < h_.transactions.size(); ++i) {
      const Transaction& t = h_.transactions[i];
      if (!placed(i)) continue;
      events.push_back({t.incarnation, t.begin_ns, false, i});
      // Without an answer: it ended with its incarnation.
      events.push_back({t.incarnation, t.end_ns == 0 ? ~std::uint64_t{0} : t.end_ns, true, i});
    }
    // At equal times begins first: an edge needs a clear order.
    std::ranges::sort(events, [](const Event& a, const Event& b) {
      if (a.incarnation != b.incarnation) return a.incarnation < b.incarnation;
      return a.ns != b.ns ? a.ns < b.ns : a.end < b.end;
    });
    Chain all, durable;
    std::vector<Node> relaxed;
    std::uint8_t incarnation = 0;
    for (const Event& e : events) {
      if (e.incarnation != incarnation) {
        // What survived the kill is durable for whoever comes after it.
        durable.ended.insert(durable.ended.end(), relaxed.begin(), relaxed.end());
        relaxed.clear();
        incarnation = e.incarnation;
      }
      const Transaction& t = h_.transactions[e.txn];
      if (!e.end) {
        link(t.read_only && !h_.s2pl ? durable : all, first_[e.txn]);
        continue;
      }
      all.ended.push_back(last_[e.txn]);
      // What it wrote, or what it saw if it wrote nothing, is durable; it may also have neither.
      const bool wrote = t.commit != 0 || !index_.finals_of(e.txn).empty();
      const bool waited = wrote ? !t.relaxed : answered_[e.txn];
      (waited ? durable.ended : relaxed).push_back(last_[e.txn]);
    }
  }

  // ---- cycles ---------------------------------------------------------------------------------

  void explain() {
    using enum EdgeKind;
    constexpr EdgeKinds kFree = bit(inner) | bit(rt_on);
    for (const EdgeKinds time : {EdgeKinds{0}, bit(rt)}) {
      for (const EdgeKinds kinds : {bit(ww), bit(ww) | bit(wr), bit(ww) | bit(wr) | bit(rw)}) {
        const auto components = graph_.components(kinds | time | kFree);
        for (std::size_t i = 0; i < components.size() && i < 3; ++i)
          explain_cycle(shortest_cycle(components[i], kinds | time | kFree));
        if (!components.empty()) return;
      }
    }
  }

  [[nodiscard]] std::vector<Edge> shortest_cycle(const std::vector<Node>& component,
                                                 EdgeKinds kinds) const {
    constexpr std::size_t kMostTries = 300;
    std::vector<bool> within(graph_.nodes());
    for (const Node n : component) within[n] = true;
    std::vector<Edge> best;
    const auto keep = [&](std::vector<Edge> cycle) {
      if (best.empty() || cost(cycle) < cost(best)) best = std::move(cycle);
    };
    if ((kinds & bit(EdgeKind::rw)) != 0) {  // with one rw only, if there is such a cycle
      std::size_t tries = 0;
      for (const Node n : component) {
        for (const Edge& e : graph_.edges_from(n)) {
          if (e.kind != EdgeKind::rw || !within[e.to] || ++tries > kMostTries) continue;
          auto back = graph_.path(e.to, n, kinds & ~bit(EdgeKind::rw), within);
          if (!back) continue;
          back->insert(back->begin(), e);
          keep(std::move(*back));
        }
      }
    }
    const bool single = !best.empty();
    for (std::size_t i = 0; !single && i < component.size(); ++i) {
      if (i >= kMostTries && !best.empty()) break;
      if (auto cycle = graph_.path(component[i], component[i], kinds, within))
        keep(std::move(*cycle));
    }
    return best;
  }
  [[nodiscard]] static std::size_t cost(const std::vector<Edge>& cycle) {
    return static_cast<std::size_t>(std::ranges::count_if(cycle, [](const Edge& e) {
      return e.kind != EdgeKind::inner && e.kind != EdgeKind::rt_on;
    }));
  }

  void explain_cycle(const std::vector<Edge>& cycle) {
    std::vector<TxnIndex> members;
    std::string text;
    unsigned rw = 0, wr = 0, rt = 0;
    bool absent = false, one_key = true;
    Key key = 0;
    for (std::size_t i = 0; i < cycle.size(); ++i) {
      const Edge& e = cycle[i];
      const TxnIndex from = owner_[e.from];
      TxnIndex to = owner_[e.to];
      for (std::size_t j = i + 1; to == kNobody; ++j) to = owner_[cycle[j % cycle.size()].to];
      if (from != kNobody && std::ranges::find(members, from) == members.end())
        members.push_back(from);
      const std::string a = "T" + std::to_string(from), b = "T" + std::to_string(to);
      if (e.kind == EdgeKind::ww || e.kind == EdgeKind::rw || e.kind == EdgeKind::wr) {
        one_key = one_key && (key == 0 || key == e.key + 1);
        key = e.key + 1;
      }
      switch (e.kind) {
        case EdgeKind::ww:
          text += "  " + b + " replaced what " + a + " left at " + key_name(e.key) + "\n";
          break;
        case EdgeKind::wr:
          text += "  " + b + " saw what " + a + " left at " + key_name(e.key) + "\n";
          ++wr;
          break;
        case EdgeKind::rw:
          text += "  " + a + " saw " + key_name(e.key) + (e.absent ? " (or its absence)" : "") +
                  " as it was before " + b + " replaced it\n";
          ++rw;
          absent = absent || e.absent;
          break;
        case EdgeKind::rt:
          text += "  " + a + " ended before " + b + " began\n";
          ++rt;
          break;
        case EdgeKind::rt_on:
        case EdgeKind::inner:
          break;
      }
    }
    const bool lost = rw == 1 && wr == 0 && rt == 0 && members.size() == 2 && one_key;
    std::string kind = lost      ? "lost-update"
                       : rw > 1  ? (absent ? "G2" : "G2-item")
                       : rw == 1 ? "G-single"
                       : wr != 0 ? "G1c"
                                 : "G0";
    if (rt != 0) kind += "-realtime";
    violation(std::move(kind), members,
              "a cycle of " + std::to_string(members.size()) + " transactions:\n" + text);
  }

  void violation(std::string kind, const std::vector<TxnIndex>& members, const std::string& what) {
    if (found_.size() >= most_) return;
    constexpr std::size_t kMostShown = 8;
    std::string text = what + (what.ends_with('\n') ? "" : "\n");
    for (std::size_t i = 0; i < members.size() && i < kMostShown; ++i)
      text += "  " + h_.describe(members[i]);
    found_.push_back({std::move(kind), std::move(text)});
  }

  const History& h_;
  const Index& index_;
  const std::size_t most_;
  std::vector<Violation> found_;
  Graph graph_;
  std::vector<TxnIndex> owner_;     // of each node; kNobody: a moment
  std::vector<Node> first_, last_;  // moments of each transaction; kNone: not committed
  std::vector<Version> versions_;   // of lists, by key, then length
  std::vector<std::uint32_t> first_version_;
  std::vector<bool> answered_;     // transactions that were told something of others
  std::vector<bool> removed_;      // keys that a committed transaction removed
  std::set<Key> forked_;           // lists whose versions have no order
  std::vector<Reading> readings_;  // of registers
  OwnWrites own_;
};

}  // namespace

std::vector<Violation> check_black_box(const History& history, const Index& index,
                                       std::size_t most) {
  return Checker(history, index, most).run();
}

}  // namespace kessai::torture
