// SPDX-License-Identifier: Apache-2.0
// Goal: the order of the commit pipeline is right and matters. Method: virtual transactions step
// through the pipeline on one thread, over the real certifier, a multi-version map and a stand-in
// for the log; a schedule says whose step comes next. Afterwards every committed transaction that
// wrote must have read what stood just below its commit LSN. All interleavings of two skewed
// transactions, and random ones of more. The right order never fails; `validate before reserve`,
// `reserve before publish`, `skip_validation` do.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <set>

#include "io/env.hpp"
#include "io/mutant.hpp"
#include "mvcc/certifier.hpp"

namespace kessai::mvcc {
namespace {

constexpr TreeId kTree{1};

enum class Step : std::uint8_t {
  begin,
  snapshot,  ///< and all reads: they depend on nothing that happens later
  lock,      ///< blocks while another holds one of the rows; gives up when a row is newer
  early_look,
  publish,
  reserve,
  reserved,
  validate,
  apply,
  release,
  visible,  ///< blocks until the applied watermark has come
  finished,
  done
};
using Order = std::vector<Step>;
const Order kRight{Step::begin,   Step::snapshot, Step::lock,     Step::early_look, Step::publish,
                   Step::reserve, Step::reserved, Step::validate, Step::apply,      Step::release,
                   Step::visible, Step::finished, Step::done};

Order moved(Order order, Step what, Step before) {
  std::erase(order, what);
  order.insert(std::ranges::find(order, before), what);
  return order;
}

struct Program {
  std::vector<std::string> points;
  std::vector<std::pair<std::string, std::string>> ranges;  ///< [from, to]
  std::vector<std::string> writes;
};

struct World {
  Certifier certifier;
  Lsn tail = 0;
  // Of one history:
  std::map<std::string, std::vector<Lsn>> versions;
  std::map<std::string, int> locks;
  std::set<Lsn> open;
  [[nodiscard]] Lsn applied() const { return open.empty() ? tail : *open.begin() - 1; }
  [[nodiscard]] Lsn version(const std::string& key, Lsn at) const {
    const auto it = versions.find(key);
    if (it == versions.end()) return 0;
    const auto after = std::ranges::upper_bound(it->second, at);
    return after == it->second.begin() ? 0 : *std::prev(after);
  }
};

class Virtual {
 public:
  Virtual(World& w, const Order& order, Program program, int id)
      : w_(w), order_(order), program_(std::move(program)), id_(id) {}

  [[nodiscard]] bool over() const { return order_[at_] == Step::done; }
  [[nodiscard]] bool committed() const { return over() && !refused_; }
  [[nodiscard]] Lsn lsn() const { return lsn_; }

  [[nodiscard]] bool runnable() const {
    switch (order_[at_]) {
      case Step::done:
        return false;
      case Step::lock:
        return std::ranges::none_of(program_.writes,
                                    [&](const auto& k) { return w_.locks.contains(k); });
      case Step::visible:
        return lsn_ == 0 || w_.applied() >= lsn_;
      default:
        return true;
    }
  }

  void step() {
    const Step now = order_[at_++];
    if (refused_ && lsn_ == 0 && now != Step::finished && now != Step::release) return;
    switch (now) {
      case Step::begin:
        start_ = w_.certifier.begin();
        return;
      case Step::snapshot:
        snapshot_ = w_.applied();
        return read();
      case Step::lock:
        for (const auto& k : program_.writes) w_.locks[k] = id_;
        for (const auto& k : program_.writes) refused_ |= w_.version(k, kMaxLsn) > snapshot_;
        return;
      case Step::early_look:
        refused_ =
            w_.certifier.validate(reads_, start_, snapshot_, Certifier::kNone, kMaxLsn).has_value();
        return;
      case Step::publish: {
        std::vector<Certifier::Written> writes;
        writes.reserve(program_.writes.size());
        for (const auto& k : program_.writes) writes.push_back({kTree, k});
        mine_ = w_.certifier.publish(writes);
        return;
      }
      case Step::reserve:
        w_.open.insert(lsn_ = ++w_.tail);
        return;
      case Step::reserved:
        w_.certifier.reserved(mine_, lsn_);
        return;
      case Step::validate:
        refused_ =
            w_.certifier.validate(reads_, start_, snapshot_, mine_, lsn_ != 0 ? lsn_ : kMaxLsn)
                .has_value();
        return;
      case Step::apply:
        for (const auto& k : program_.writes)
          if (!refused_) w_.versions[k].push_back(lsn_);
        w_.open.erase(lsn_);
        return;
      case Step::release:
        std::erase_if(w_.locks, [&](const auto& l) { return l.second == id_; });
        return;
      case Step::finished:
        if (mine_ != Certifier::kNone) w_.certifier.finished(mine_, refused_ ? 0 : lsn_);
        return;
      case Step::visible:
      case Step::done:
        return;
    }
  }

  /// Whether everything read was what stood just below the commit.
  [[nodiscard]] bool serial() const {
    return std::ranges::all_of(
        seen_, [&](const auto& s) { return w_.version(s.first, lsn_ - 1) == s.second; });
  }

 private:
  void read() {
    for (const auto& k : program_.points) {
      reads_.point(kTree, k);
      seen_[k] = w_.version(k, snapshot_);
    }
    for (const auto& [from, to] : program_.ranges) {
      reads_.add({kTree, from, to, false, true});
      for (char k = from[0]; k <= to[0]; ++k)
        seen_[std::string(1, k)] = w_.version(std::string(1, k), snapshot_);
    }
    reads_.seal();
  }

  World& w_;
  const Order& order_;
  Program program_;
  int id_;
  std::size_t at_ = 0;
  Certifier::Ticket start_ = 0, mine_ = Certifier::kNone;
  Lsn snapshot_ = 0, lsn_ = 0;
  bool refused_ = false;
  ReadSet reads_;
  std::map<std::string, Lsn> seen_;
};

struct Tally {
  std::uint64_t histories = 0, commits = 0, refused = 0, wrong = 0;
};

/// Runs one history; `choose(n)` answers which of n runnable transactions goes next.
template <class Choose>
void run(World& w, const Order& order, const std::vector<Program>& programs, Tally& tally,
         const Choose& choose) {
  w.versions.clear();
  w.locks.clear();
  std::vector<Virtual> all;
  all.reserve(programs.size());
  for (std::size_t i = 0; i < programs.size(); ++i)
    all.emplace_back(w, order, programs[i], static_cast<int>(i));
  std::vector<Virtual*> ready;
  for (;;) {
    ready.clear();
    for (auto& t : all)
      if (t.runnable()) ready.push_back(&t);
    if (ready.empty()) break;
    ready[choose(ready.size())]->step();
  }
  ++tally.histories;
  bool serial = true;
  for (const auto& t : all) {
    ASSERT_TRUE(t.over()) << "the pipeline is stuck";
    ++(t.committed() ? tally.commits : tally.refused);
    if (t.committed()) serial &= t.serial();
  }
  tally.wrong += serial ? 0 : 1;
}

/// Every schedule of the programs: a depth-first walk over the choices.
Tally run_all(const Order& order, const std::vector<Program>& programs) {
  World w;
  Tally tally;
  std::vector<std::pair<std::size_t, std::size_t>> path;  // (taken, of how many)
  do {
    std::size_t depth = 0;
    run(w, order, programs, tally, [&](std::size_t n) {
      if (depth == path.size()) path.emplace_back(0, n);
      return path[depth++].first;
    });
    while (!path.empty() && path.back().first + 1 == path.back().second) path.pop_back();
    if (!path.empty()) ++path.back().first;
  } while (!path.empty() && !testing::Test::HasFatalFailure());
  return tally;
}

Tally run_random(const Order& order, std::uint64_t seed, unsigned histories) {
  World w;
  Tally tally;
  io::SeededRandom random(seed);
  const auto key = [&] { return std::string(1, static_cast<char>('a' + random.below(5))); };
  for (unsigned h = 0; h < histories && !testing::Test::HasFatalFailure(); ++h) {
    std::vector<Program> programs(2 + random.below(4));
    for (Program& p : programs) {
      for (auto n = random.below(3); n > 0; --n) p.points.push_back(key());
      if (random.below(3) == 0) {
        auto [from, to] = std::minmax({key(), key()});  // a list: the pair owns its strings
        p.ranges.emplace_back(std::move(from), std::move(to));
      }
      for (auto n = 1 + random.below(2); n > 0; --n) p.writes.push_back(key());
      std::ranges::sort(p.writes);
      p.writes.erase(std::ranges::unique(p.writes).begin(), p.writes.end());
    }
    // In half of the histories one goes on for a while, so that others begin late.
    const bool sticky = random.below(2) == 0;
    std::size_t last = 0;
    run(w, order, programs, tally, [&](std::size_t n) {
      if (!sticky || random.below(4) == 0) last = random.below(n);
      return last % n;
    });
  }
  return tally;
}

const std::vector<Program> kSkew{{{"a", "b"}, {}, {"a"}}, {{"a", "b"}, {}, {"b"}}};
const std::vector<Program> kRangeSkew{{{}, {{"a", "c"}}, {"a"}}, {{}, {{"b", "d"}}, {"c"}}};

/// Fewer steps, the same races: the two write different rows, so they need no locks.
Order shorter(Order order) {
  std::erase_if(
      order, [](Step s) { return s == Step::early_look || s == Step::lock || s == Step::release; });
  return order;
}

std::uint64_t seed() {
  const char* text = std::getenv("KESSAI_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 0) : 1;
}

constexpr unsigned kHistories = 20'000;

TEST(CertifierModel, TheRightOrderIsSerialInEveryInterleavingOfTwo) {
  // Goal: no schedule of write skew gets through, over points and over ranges, and most schedules
  // let somebody commit.
  for (const auto& programs : {kSkew, kRangeSkew}) {
    const Tally t = run_all(shorter(kRight), programs);
    EXPECT_EQ(t.wrong, 0u) << "of " << t.histories;
    EXPECT_GT(t.histories, 10'000u);
    EXPECT_GT(t.commits, t.histories / 2);
  }
}

TEST(CertifierModel, TheRightOrderIsSerialInRandomHistories) {
  // Goal: the same for two to five transactions with points, ranges and several writes.
  SCOPED_TRACE("KESSAI_SEED=" + std::to_string(seed()));
  const Tally t = run_random(kRight, seed(), kHistories);
  EXPECT_EQ(t.wrong, 0u) << "of " << t.histories;
  EXPECT_GT(t.commits, t.histories);
  EXPECT_GT(t.refused, t.histories / 10);
}

TEST(CertifierModel, ValidatingBeforeReservingLetsWriteSkewThrough) {
  // Goal: the model notices the first wrong order.
  const Order wrong = moved(kRight, Step::validate, Step::reserve);
  EXPECT_GT(run_all(shorter(wrong), kSkew).wrong, 0u);
  EXPECT_GT(run_random(wrong, seed(), kHistories).wrong, 0u);
}

TEST(CertifierModel, ReservingBeforePublishingLetsWriteSkewThrough) {
  // Goal: the model notices the second wrong order.
  const Order wrong = moved(kRight, Step::reserve, Step::publish);
  EXPECT_GT(run_all(shorter(wrong), kSkew).wrong, 0u);
  EXPECT_GT(run_random(wrong, seed(), kHistories).wrong, 0u);
}

TEST(CertifierModel, FinishingBeforeVisibleLetsWriteSkewThrough) {
  // Goal: `finished` means visible to new snapshots. Method: an entry is finished while an earlier
  // commit still holds the applied watermark back; who begins then must not miss it.
  const Order wrong = moved(kRight, Step::finished, Step::visible);
  EXPECT_GT(run_random(wrong, seed(), kHistories).wrong, 0u);
}

TEST(CertifierModel, SnapshotBeforeBeginLetsWriteSkewThrough) {
  // Goal: begin() must come before the snapshot.
  const Order wrong = moved(kRight, Step::snapshot, Step::begin);
  EXPECT_GT(run_random(wrong, seed(), kHistories).wrong, 0u);
}

TEST(CertifierModel, SkippedValidationLetsWriteSkewThrough) {
  // Goal: the planted bug is found.
  io::set_mutant("skip_validation");
  EXPECT_GT(run_random(kRight, seed(), kHistories).wrong, 0u);
  io::set_mutant("");
  EXPECT_EQ(run_random(kRight, seed(), 1000).wrong, 0u);
}

}  // namespace
}  // namespace kessai::mvcc
