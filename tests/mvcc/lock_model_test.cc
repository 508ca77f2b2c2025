// SPDX-License-Identifier: Apache-2.0
// Goal: after any history of requests, releases, timeouts and deadlocks exactly those are granted
// and exactly those wait that the rules say. Method: six owners, each on its thread, get random
// calls one at a time; after each, a naive reference (one list of holders, one of waiters, every
// pair compared) says who has finished with what. Deadlocks are taken from the table's records,
// each checked against the reference's edges; in the end no cycle may be left.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/mvcc/lock_fixture.hpp"

namespace kessai::mvcc {
namespace {

constexpr std::size_t kOwners = 6;
constexpr unsigned kKeys = 5;

std::string key_name(unsigned k) { return std::string(1, static_cast<char>('a' + k)); }

/// A request on key `key`, or of a range: on the keys in `keys`.
struct Want {
  LockKind kind = LockKind::record;
  LockMode mode = kX;
  unsigned key = 0;
  unsigned keys = 0;  // bit set
};

enum class Outcome : std::uint8_t { granted, had, timeout, deadlock };

class Reference {
 public:
  explicit Reference(bool ranges) : ranges_(ranges) {}

  struct Waiting {
    std::size_t owner;
    Want want;
    bool in_map;      // has the record lock, waits for ranges
    bool upgrade;     // of the record lock
    bool record_new;  // the record lock is given back if this fails
    bool had_shared;  // it held the record shared before
  };

  /// False: it has to wait. Else `out` says how it ended.
  void request(std::size_t owner, const Want& want, bool nowait) {
    Waiting w{.owner = owner,
              .want = want,
              .in_map = false,
              .upgrade = false,
              .record_new = false,
              .had_shared = false};
    if (want.kind == LockKind::range) {
      if ((want.keys & ~mask_[owner]) == 0) return finish(owner, Outcome::had);
      w.in_map = true;
    } else {
      const int held = held_[owner][id(want)];
      if (held == 2 || (held == 1 && want.mode == kS)) return finish(owner, Outcome::had);
      w.upgrade = w.had_shared = held == 1;
    }
    // Upgrades stand in front of all that are none.
    auto at = queue_.end();
    if (w.upgrade)
      at = std::find_if(queue_.begin(), queue_.end(), [](const Waiting& x) { return !x.upgrade; });
    const bool must_wait = !advance_new(at, w);
    if (must_wait && nowait) {
      const auto mine = find(owner);
      fail(mine, Outcome::timeout);
    }
    settle();
  }

  void release(std::size_t owner) {
    for (int& h : held_[owner]) h = 0;
    mask_[owner] = 0;
    writes_[owner] = 0;
    settle();
  }

  void time_out(std::size_t owner) {
    fail(find(owner), Outcome::timeout);
    settle();
  }

  void kill(std::size_t owner) {
    fail(find(owner), Outcome::deadlock);
    settle();
  }

  /// True when waiter `a` waits for `b` directly.
  [[nodiscard]] bool edge(std::size_t a, std::size_t b) const {
    for (auto at = queue_.begin(); at != queue_.end(); ++at)
      if (at->owner == a) return blocked_by(at, b);
    return false;
  }

  [[nodiscard]] bool cyclic() const {
    std::array<std::array<bool, kOwners>, kOwners> reach{};
    for (std::size_t a = 0; a < kOwners; ++a)
      for (std::size_t b = 0; b < kOwners; ++b) reach[a][b] = a != b && edge(a, b);
    for (std::size_t k = 0; k < kOwners; ++k)
      for (std::size_t a = 0; a < kOwners; ++a)
        for (std::size_t b = 0; b < kOwners; ++b)
          reach[a][b] = reach[a][b] || (reach[a][k] && reach[k][b]);
    for (std::size_t a = 0; a < kOwners; ++a)
      if (reach[a][a]) return true;
    return false;
  }

  [[nodiscard]] bool waits(std::size_t owner) const {
    return std::any_of(queue_.begin(), queue_.end(),
                       [&](const Waiting& w) { return w.owner == owner; });
  }
  [[nodiscard]] std::size_t waiting() const { return queue_.size(); }
  [[nodiscard]] int held(std::size_t owner, unsigned id) const { return held_[owner][id]; }
  [[nodiscard]] bool holds_anything(std::size_t owner) const {
    return mask_[owner] != 0 ||
           std::any_of(held_[owner].begin(), held_[owner].end(), [](int h) { return h != 0; });
  }
  [[nodiscard]] std::size_t locks() const {
    std::size_t n = 0;
    for (unsigned i = 0; i < kIds; ++i)
      n += std::any_of(held_.begin(), held_.end(), [&](const auto& h) { return h[i] != 0; }) ? 1u
                                                                                             : 0u;
    for (const unsigned m : mask_)  // runs of ones
      n += static_cast<std::size_t>(__builtin_popcount(m & ~(m << 1)));
    return n;
  }

  std::array<std::optional<Outcome>, kOwners> finished;

 private:
  static constexpr unsigned kIds = 2 * kKeys;  // records, then names
  static unsigned id(const Want& w) { return w.kind == LockKind::named ? kKeys + w.key : w.key; }
  using Line = std::deque<Waiting>;

  Line::iterator find(std::size_t owner) {
    return std::find_if(queue_.begin(), queue_.end(),
                        [&](const Waiting& w) { return w.owner == owner; });
  }

  /// Whether `other` holds or asks in front of `at` for something that conflicts with it.
  [[nodiscard]] bool blocked_by(Line::const_iterator at, std::size_t other) const {
    if (other == at->owner) return false;
    const Want& want = at->want;
    if (!at->in_map) {
      const int theirs = held_[other][id(want)];
      if (theirs == 2 || (theirs == 1 && want.mode == kX)) return true;
    } else if (want.kind == LockKind::record) {
      if ((mask_[other] >> want.key & 1) != 0) return true;
    } else if ((writes_[other] & want.keys) != 0) {
      return true;
    }
    for (auto x = queue_.begin(); x != at; ++x) {
      if (x->owner != other || x->in_map != at->in_map) continue;
      if (!at->in_map && id(x->want) == id(want) && (x->want.mode == kX || want.mode == kX))
        return true;
      if (!at->in_map || x->want.kind == want.kind) continue;
      const Want& range = want.kind == LockKind::range ? want : x->want;
      const Want& write = want.kind == LockKind::range ? x->want : want;
      if ((range.keys >> write.key & 1) == 0) continue;
      // Of a range, only the part that is new is asked for.
      if (want.kind == LockKind::range && (mask_[at->owner] >> write.key & 1) != 0) continue;
      return true;
    }
    return false;
  }

  [[nodiscard]] bool blocked(Line::const_iterator at) const {
    for (std::size_t o = 0; o < kOwners; ++o)
      if (blocked_by(at, o)) return true;
    return false;
  }

  bool advance_new(Line::iterator at, const Waiting& w) {
    const std::size_t owner = w.owner;
    queue_.insert(at, w);
    while (true) {
      const auto mine = find(owner);
      if (mine == queue_.end()) return true;
      if (blocked(mine)) return false;
      pass(mine);
    }
  }

  /// `at` gets what it waits for: it is done, or goes on to the ranges, at the end of that line.
  void pass(Line::iterator at) {
    Waiting w = *at;
    queue_.erase(at);
    if (!w.in_map) {
      held_[w.owner][id(w.want)] = w.want.mode == kX ? 2 : 1;
      if (ranges_ && w.want.kind == LockKind::record && w.want.mode == kX) {
        w.in_map = true;
        w.upgrade = false;
        w.record_new = !w.had_shared;
        queue_.push_back(w);
        return;
      }
    } else if (w.want.kind == LockKind::record) {
      writes_[w.owner] |= 1u << w.want.key;
    } else {
      mask_[w.owner] |= w.want.keys;
    }
    finish(w.owner, Outcome::granted);
  }

  void settle() {
    for (bool again = true; again;) {
      again = false;
      for (auto at = queue_.begin(); at != queue_.end(); ++at)
        if (!blocked(at)) {
          pass(at);
          again = true;
          break;
        }
    }
  }

  void fail(Line::iterator at, Outcome why) {
    const Waiting w = *at;
    queue_.erase(at);
    if (w.in_map && w.want.kind == LockKind::record)
      held_[w.owner][w.want.key] = w.had_shared ? 1 : 0;
    finish(w.owner, why);
  }

  void finish(std::size_t owner, Outcome how) { finished[owner] = how; }

  const bool ranges_;
  std::array<std::array<int, kIds>, kOwners> held_{};  // 1 shared, 2 exclusive
  std::array<unsigned, kOwners> mask_{};               // keys in held ranges
  std::array<unsigned, kOwners> writes_{};             // exclusive keys in the range map
  Line queue_;
};

class LockModel : public LockFixture, public testing::WithParamInterface<bool> {
 protected:
  LockModel() : LockFixture(GetParam()) {
    for (std::size_t i = 0; i < kOwners; ++i) {
      (void)actor(next_id_++);
      deadline_[i] = 0;
    }
  }
  // Whatever has gone wrong: nobody waits for ever.
  ~LockModel() override {
    for (auto& a : actors_) {
      clock_.advance(1'000'000 * kSecond);
      (void)a->finish();
      a->release();
    }
  }

  Actor::Call call(const Want& w, std::uint64_t timeout) {
    if (w.kind == LockKind::named) return named(key_name(w.key), w.mode, timeout);
    if (w.kind == LockKind::record) return record(key_name(w.key), w.mode, timeout);
    const auto first = static_cast<unsigned>(__builtin_ctz(w.keys));
    const auto end = first + static_cast<unsigned>(__builtin_popcount(w.keys));
    return range(key_name(first), end == kKeys ? std::optional<std::string>() : key_name(end),
                 timeout);
  }

  Want random_want() {
    Want w;
    const auto dice = random_.below(GetParam() ? 10 : 7);
    w.key = static_cast<unsigned>(random_.below(kKeys));
    w.mode = random_.below(2) == 0 ? kS : kX;
    if (dice == 0) {
      w.kind = LockKind::named;
    } else if (dice >= 7) {
      w.kind = LockKind::range;
      w.mode = kS;
      const auto length = 1 + random_.below(kKeys - w.key);
      w.keys = ((1u << length) - 1) << w.key;
    }
    return w;
  }

  /// Lets the table reach what the reference says, following its deadlocks. False: it does not.
  bool catch_up() {
    for (int patience = 0; patience < 200'000; ++patience) {
      follow_deadlocks();
      if (HasFailure()) return false;
      bool same = !reference_.cyclic();
      for (std::size_t i = 0; same && i < kOwners; ++i)
        same = actors_[i]->idle() != reference_.waits(i);
      if (same && table_.counters().waiting == reference_.waiting() &&
          table_.counters().deadlocks == deadlocks_seen_)
        return true;
      io::yield_thread();
    }
    return false;
  }

  void follow_deadlocks() {
    const std::uint64_t n = table_.counters().deadlocks;
    if (n == deadlocks_seen_) return;
    const auto kept = table_.deadlocks();
    for (; deadlocks_seen_ < n; ++deadlocks_seen_) {
      const LockTable::Deadlock& d = kept.at(kept.size() - (n - deadlocks_seen_));
      ASSERT_GE(d.cycle.size(), 2u);
      const LockTable::Member* victim = &d.cycle[0];
      for (std::size_t i = 0; i < d.cycle.size(); ++i) {
        const LockTable::Member& m = d.cycle[i];
        EXPECT_TRUE(
            reference_.edge(index(m.owner), index(d.cycle[(i + 1) % d.cycle.size()].owner)));
        EXPECT_EQ(m.work, work_[index(m.owner)]);
        if (m.work < victim->work || (m.work == victim->work && m.owner > victim->owner))
          victim = &m;
      }
      EXPECT_EQ(victim->owner, d.victim);
      reference_.kill(index(d.victim));
    }
  }

  std::size_t index(OwnerId owner) {
    for (std::size_t i = 0; i < kOwners; ++i)
      if (actors_[i]->set().owner() == owner) return i;
    ADD_FAILURE() << "unknown owner";
    return 0;
  }

  /// Compares how the calls ended, and what everybody holds.
  void check() {
    for (std::size_t i = 0; i < kOwners; ++i) {
      if (!reference_.finished[i] || !pending_[i]) continue;
      const Result<bool> r = *actors_[i]->finish();
      const Outcome expected = *std::exchange(reference_.finished[i], std::nullopt);
      pending_[i] = false;
      const Outcome seen = r ? (*r ? Outcome::granted : Outcome::had)
                             : (r.error() == Code::deadlock ? Outcome::deadlock : Outcome::timeout);
      EXPECT_EQ(seen, expected) << "owner " << i;
      ++outcomes_[static_cast<std::size_t>(seen)];
    }
    EXPECT_EQ(table_.counters().held, reference_.locks());
    for (std::size_t i = 0; i < kOwners; ++i)
      for (unsigned k = 0; k < kKeys; ++k) {
        const int held = reference_.held(i, k);
        EXPECT_EQ(table_.holds(actors_[i]->set(), kTree, key_name(k), kS), held >= 1);
        EXPECT_EQ(table_.holds(actors_[i]->set(), kTree, key_name(k), kX), held == 2);
      }
  }

  void step() {
    const std::size_t i = random_.below(kOwners);
    if (reference_.waits(i)) {
      // Its time runs out: nobody else's does, deadlines differ and only the next one passes.
      std::size_t next = i;
      for (std::size_t o = 0; o < kOwners; ++o)
        if (reference_.waits(o) && deadline_[o] < deadline_[next]) next = o;
      if (random_.below(4) != 0) return;
      clock_.set(deadline_[next]);
      reference_.time_out(next);
      return;
    }
    if (random_.below(6) == 0 && reference_.holds_anything(i)) {
      reference_.release(i);
      actors_[i]->release();
      actors_[i]->set().reset(OwnerId{next_id_++});
      return;
    }
    const Want want = random_want();
    const bool nowait = random_.below(4) == 0;
    last_deadline_ = std::max(last_deadline_, clock_.now_ns()) + kSecond;
    deadline_[i] = last_deadline_;
    pending_[i] = true;
    work_[i] = actors_[i]->set().work();
    reference_.request(i, want, nowait);
    actors_[i]->start(call(want, nowait ? 0 : deadline_[i] - clock_.now_ns()));
  }

  const std::uint64_t seed_ = seed_or(3);
  io::SeededRandom random_{seed_};
  Reference reference_{GetParam()};
  std::array<std::uint64_t, kOwners> deadline_;
  std::array<bool, kOwners> pending_{};
  std::array<std::uint64_t, kOwners> work_{};  // when the last call began
  std::uint64_t last_deadline_ = 0, deadlocks_seen_ = 0, next_id_ = 1;
  std::array<std::uint64_t, 4> outcomes_{};
};

TEST_P(LockModel, GrantsAndRefusesAsTheRulesSay) {
  SCOPED_TRACE("KESSAI_SEED=" + std::to_string(seed_));
  constexpr int kSteps = 1500;
  for (int i = 0; i < kSteps; ++i) {
    SCOPED_TRACE("step " + std::to_string(i));
    step();
    ASSERT_TRUE(catch_up());
    check();
    if (HasFailure()) return;
  }
  for (const std::uint64_t n : outcomes_) EXPECT_GT(n, 20u);
}

INSTANTIATE_TEST_SUITE_P(, LockModel, testing::Bool(),
                         [](const auto& p) { return p.param ? "WithRanges" : "WithoutRanges"; });

}  // namespace
}  // namespace kessai::mvcc
