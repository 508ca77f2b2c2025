// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/white_box.hpp"

#include <algorithm>

namespace kessai::torture {
namespace {

constexpr Lsn kEnd = ~Lsn{0};

// What one commit left at a key. `op` null: absent from the start.
struct Version {
  Lsn lsn = 0;
  TxnIndex txn = kNobody;
  const Op* op = nullptr;
  [[nodiscard]] bool present() const { return op != nullptr && op->kind == Kind::write; }
};

class Checker {
 public:
  Checker(const History& h, const Index& index, std::size_t most)
      : h_(h), index_(index), most_(most) {}

  std::vector<Violation> run() {
    gather_versions();
    for (TxnIndex i = 0; i < h_.transactions.size() && found_.size() < most_; ++i) {
      const Transaction& t = h_.transactions[i];
      if (t.fate() == Fate::committed || (t.fate() == Fate::aborted && t.settled)) check(i, t);
    }
    return std::move(found_);
  }

 private:
  void gather_versions() {
    first_.assign(h_.keys + 1, 1);  // room for the initial version of each key
    first_[0] = 0;
    for_each_version([&](TxnIndex, const Op& op) { ++first_[op.key + 1]; });
    for (Key k = 0; k < h_.keys; ++k) first_[k + 1] += first_[k];
    versions_.resize(first_[h_.keys]);
    std::vector<std::uint32_t> next(first_.begin(), first_.end() - 1);
    for (Key k = 0; k < h_.keys; ++k) versions_[next[k]++] = {};
    for_each_version([&](TxnIndex i, const Op& op) {
      versions_[next[op.key]++] = {h_.transactions[i].commit, i, &op};
    });
    last_.assign(first_.begin() + 1, first_.end());
    for (Key k = 0; k < h_.keys; ++k) {
      const auto all = versions_of(k);
      std::sort(all.begin(), all.end(),
                [](const Version& a, const Version& b) { return a.lsn < b.lsn; });
      std::size_t kept = 1;
      for (std::size_t i = 1; i < all.size(); ++i) {
        if (all[i].lsn == all[kept - 1].lsn)
          violation("commit-order", all[i].txn,
                    "no LSN of its own: " + key_name(k) + " has two versions of LSN " +
                        std::to_string(all[i].lsn),
                    all[kept - 1].txn);
        // What was inserted and removed by one transaction never was there: no change.
        if (all[i].present() || all[kept - 1].present()) all[kept++] = all[i];
      }
      last_[k] = first_[k] + static_cast<std::uint32_t>(kept);
    }
  }

  template <class Fn>
  void for_each_version(Fn&& fn) const {
    for (TxnIndex i = 0; i < h_.transactions.size(); ++i) {
      const Transaction& t = h_.transactions[i];
      if (t.fate() != Fate::committed || t.commit == 0) continue;
      for (const Op* op : index_.finals_of(i)) fn(i, *op);
    }
  }

  [[nodiscard]] std::span<Version> versions_of(Key k) {
    return {versions_.data() + first_[k], last_[k] - first_[k]};
  }
  [[nodiscard]] const Version* state_at(Key k, Lsn lsn) {
    const auto all = versions_of(k);
    return &*std::upper_bound(all.begin() + 1, all.end(), lsn, [](Lsn x, const Version& v) {
      return x < v.lsn;
    }) - 1;
  }
  // When it was replaced.
  [[nodiscard]] Lsn end_of(Key k, const Version* v) const {
    return v + 1 == versions_.data() + last_[k] ? kEnd : v[1].lsn;
  }

  [[nodiscard]] bool same(const Seen& seen, const Version& v) const {
    return same_row(seen, v.present() ? v.op : nullptr) && (seen.row == 0 || seen.row == v.lsn);
  }
  [[nodiscard]] bool same_row(const Seen& seen, const Op* op) const {
    if (seen.garbled || seen.found != (op != nullptr)) return false;
    if (!seen.found) return true;
    const auto want = h_.elements_of(*op);
    return std::ranges::equal(seen.elements, want);
  }

  void violation(std::string kind, TxnIndex i, const std::string& what, TxnIndex other = kNobody) {
    if (found_.size() >= most_) return;
    std::string text = h_.name(i) + ": " + what + "\n  " + h_.describe(i);
    if (other != kNobody && other != i) text += "  " + h_.describe(other);
    found_.push_back({std::move(kind), std::move(text)});
  }
  [[nodiscard]] std::string version_text(Key k, const Version& v) const {
    return key_name(k) + " = " +
           list_text(v.present(),
                     v.op != nullptr ? h_.elements_of(*v.op) : std::span<const Element>{}) +
           (v.txn == kNobody
                ? ", as at the start"
                : " of LSN " + std::to_string(v.lsn) + ", left by T" + std::to_string(v.txn));
  }
  static std::string seen_text(const Seen& s) {
    return (s.op->kind == Kind::range ? "in a range read it saw " : "it saw ") + key_name(s.key) +
           " = " + list_text(s.found, s.elements) +
           (s.row != 0 ? " of LSN " + std::to_string(s.row) : "") +
           (s.garbled ? " (a row of something else)" : "");
  }

  // What an answer that is not the expected version is called.
  [[nodiscard]] std::string kind_of(const Seen& s, Lsn at) {
    if (s.garbled) return "garbled-row";
    if (!s.found) return "missing-row";
    for (const Element e : s.elements)
      if (index_.written(e) == nullptr) return "garbled-row";
    const Written& w = *index_.written(s.elements.back());
    if (w.state == Written::State::undone) return "G1a";
    const Transaction& writer = h_.transactions[w.txn];
    if (writer.fate() != Fate::committed) return "G1a";
    if (w.state == Written::State::intermediate) return "G1b";
    return writer.commit > at ? "future-read" : "stale-read";
  }

  void expect(TxnIndex i, const Seen& s, Lsn at, const char* rule) {
    const Version& want = *state_at(s.key, at);
    if (same(s, want)) return;
    violation(kind_of(s, at), i,
              seen_text(s) + "; " + rule + " (" + std::to_string(at) + ") it is " +
                  version_text(s.key, want),
              want.txn);
  }

  void check(TxnIndex i, const Transaction& t) {
    if (h_.s2pl) {
      t.commit != 0 ? check_s2pl_commit(i, t) : check_s2pl_reads(i, t);
      return;
    }
    if (t.level != Isolation::read_committed && t.snapshot < t.floor)
      violation(
          "stale-snapshot", i,
          "its snapshot misses a commit answered before it began, LSN " + std::to_string(t.floor));
    if (t.commit != 0 && t.commit <= t.snapshot)
      violation("commit-order", i, "its commit LSN is not above its snapshot");
    if (t.level == Isolation::read_committed) {
      check_read_committed(i, t);
      if (t.commit != 0) check_writes(i, t);
      return;
    }
    for_each_seen(h_, t, own_, [&](const Seen& s) {
      if (found_.size() >= most_) return;
      if (s.own != nullptr) return expect_own(i, s);
      const bool locked = s.op->kind == Kind::locked_read;
      if (s.op->kind == Kind::exists && t.level == Isolation::snapshot)
        expect_current(i, t, s);
      else
        expect(i, s, t.snapshot, "at its snapshot");
      if (t.commit != 0 && (locked || t.level == Isolation::serializable))
        expect_unchanged(i, t, s);
    });
    if (t.commit != 0) check_writes(i, t);
  }

  void expect_own(TxnIndex i, const Seen& s) {
    if (same_row(s, s.own->kind == Kind::write ? s.own : nullptr)) return;
    violation(
        "own-write-missed", i,
        seen_text(s) + "; it had itself left " +
            (s.own->kind == Kind::write ? list_text(true, h_.elements_of(*s.own)) : "nothing") +
            " there");
  }

  void check_read_committed(TxnIndex i, const Transaction& t) {
    Lsn watermark = 0;
    const Op* range = nullptr;  // whose rows are being looked at
    const auto end_range = [&] {
      if (range != nullptr) end_search(i, range->at, range->until);
      range = nullptr;
    };
    for_each_seen(h_, t, own_, [&](const Seen& s) {
      if (s.op != range) end_range();
      if (found_.size() >= most_) return;
      if (s.op->kind == Kind::range && range == nullptr) {
        range = s.op;
        begin_search(range->at);
      }
      if (s.own != nullptr) return expect_own(i, s);
      if (s.op->kind == Kind::locked_read || s.op->kind == Kind::exists)
        return expect_current(i, t, s);
      if (s.op->at < std::max(s.op->floor, watermark))
        violation("stale-read", i,
                  seen_text(s) + " with watermark " + std::to_string(s.op->at) + ", though LSN " +
                      std::to_string(std::max(s.op->floor, watermark)) +
                      " had been answered or seen before");
      watermark = s.op->at;
      range != nullptr ? narrow(i, s) : expect(i, s, s.op->at, "at the watermark of the call");
    });
    end_range();
  }

  // A row that was locked: nobody changed it before the commit. Without one, it is some version
  // that had not been replaced by what was answered before the call.
  void expect_current(TxnIndex i, const Transaction& t, const Seen& s) {
    if (t.commit != 0) return expect(i, s, t.commit - 1, "locked: just before its commit");
    for (const Version& v : versions_of(s.key))
      if (same(s, v) && end_of(s.key, &v) > s.op->floor) return;
    violation(kind_of(s, kEnd), i, seen_text(s) + "; that was not current when it was locked");
  }

  void expect_unchanged(TxnIndex i, const Transaction& t, const Seen& s) {
    const Version* v = state_at(s.key, t.snapshot);
    const Lsn end = end_of(s.key, v);
    if (end >= t.commit) return;
    violation(s.op->kind == Kind::locked_read ? "lock-broken" : "G2", i,
              seen_text(s) + ", which changed before it committed: " + version_text(s.key, v[1]),
              v[1].txn);
  }

  void check_writes(TxnIndex i, const Transaction& t) {
    for (const Op* op : index_.finals_of(i)) {
      const Version* before = state_at(op->key, t.commit - 1);
      if (t.level != Isolation::read_committed && before->lsn > t.snapshot)
        violation("lost-update", i,
                  "it overwrote what it could not see, " + version_text(op->key, *before),
                  before->txn);
    }
    const auto ops = h_.ops_of(t);
    for (std::size_t n = 0; n < ops.size(); ++n) {
      if (ops[n].kind != Kind::remove || !ops[n].found) continue;
      const bool first =
          std::none_of(ops.begin(), ops.begin() + static_cast<std::ptrdiff_t>(n), [&](const Op& o) {
            return o.key == ops[n].key && (o.kind == Kind::write || o.kind == Kind::remove);
          });
      const Version& before = *state_at(ops[n].key, t.commit - 1);
      if (first && !before.present())
        violation("lock-broken", i, "it removed " + key_name(ops[n].key) + ", which was absent",
                  before.txn);
    }
  }

  void check_s2pl_commit(TxnIndex i, const Transaction& t) {
    for_each_seen(h_, t, own_, [&](const Seen& s) {
      if (found_.size() >= most_) return;
      s.own != nullptr ? expect_own(i, s) : expect(i, s, t.commit - 1, "just before its commit");
    });
  }

  void check_s2pl_reads(TxnIndex i, const Transaction& t) {
    begin_search(t.floor);
    for_each_seen(h_, t, own_,
                  [&](const Seen& s) { s.own != nullptr ? expect_own(i, s) : narrow(i, s); });
    end_search(i, t.floor, kEnd);
  }

  // Is there one moment, in [from, until], at which everything that was read was so?
  void begin_search(Lsn from) {
    search_ = {.low = from, .high = kEnd, .failed = false};
    absent_.clear();
  }
  void narrow(TxnIndex i, const Seen& s) {
    if (search_.failed) return;
    if (!s.found) {
      absent_.push_back(s.key);
      return;
    }
    const auto all = versions_of(s.key);
    const auto v = std::ranges::find_if(all, [&](const Version& x) { return same(s, x); });
    if (v == all.end()) {
      violation(kind_of(s, kEnd), i, seen_text(s) + "; nobody left that there");
      search_.failed = true;
      return;
    }
    search_.low = std::max(search_.low, v->lsn);
    search_.high = std::min(search_.high, end_of(s.key, &*v));
  }
  void end_search(TxnIndex i, Lsn from, Lsn until) {
    if (search_.failed) return;
    for (std::size_t n = 0; n < absent_.size() && search_.low < search_.high;) {
      const Version* v = state_at(absent_[n], search_.low);
      if (!v->present()) {
        ++n;
        continue;
      }
      search_.low = end_of(absent_[n], v);
      n = 0;
    }
    if (search_.low < search_.high && search_.low <= until) return;
    violation("G-single", i,
              "what it read together was never there at one time from LSN " + std::to_string(from) +
                  (until == kEnd ? std::string(" on") : " to " + std::to_string(until)));
  }

  const History& h_;
  const Index& index_;
  const std::size_t most_;
  std::vector<Violation> found_;
  std::vector<Version> versions_;  // by key, then LSN
  std::vector<std::uint32_t> first_, last_;
  OwnWrites own_;
  struct Search {
    Lsn low, high;  // the moment is in [low, high)
    bool failed;
  } search_{};
  std::vector<Key> absent_;
};

}  // namespace

std::vector<Violation> check_white_box(const History& history, const Index& index,
                                       std::size_t most) {
  return Checker(history, index, most).run();
}

}  // namespace kessai::torture
