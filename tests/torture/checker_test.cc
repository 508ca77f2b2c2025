// SPDX-License-Identifier: Apache-2.0
// Goal: the isolation checkers find what is wrong and nothing else. Method: a toy store
// (toy_store.hpp) makes histories of interleaved transactions. With every rule kept, neither
// checker may object; with one rule broken, the checkers that can know must find it within a few
// seeds, under a fitting name. Single anomalies are also written out by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/torture/toy_store.hpp"
#include "tools/torture/black_box.hpp"
#include "tools/torture/graph.hpp"
#include "tools/torture/resolve.hpp"
#include "tools/torture/white_box.hpp"

namespace kessai::torture {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

std::vector<std::string> kinds(const std::vector<Violation>& found) {
  std::vector<std::string> out;
  for (const Violation& v : found) out.push_back(v.kind);
  return out;
}
std::string text(const std::vector<Violation>& found) {
  std::string out;
  for (const Violation& v : found) out += v.kind + ": " + v.text;
  return out;
}

struct Mode {
  bool s2pl;
  std::optional<Isolation> level;
};

class ValidHistories : public ::testing::TestWithParam<Mode> {};

TEST_P(ValidHistories, PassBothCheckers) {
  std::uint64_t committed = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    ToyPlan plan;
    plan.seed = seed;
    plan.s2pl = GetParam().s2pl;
    plan.level = GetParam().level;
    const History h = ToyStore(plan).run();
    const Index index(h);
    const auto white = check_white_box(h, index), black = check_black_box(h, index);
    ASSERT_TRUE(white.empty()) << "seed " << seed << ": " << text(white);
    ASSERT_TRUE(black.empty()) << "seed " << seed << ": " << text(black);
    for (const Transaction& t : h.transactions) committed += t.fate() == Fate::committed ? 1 : 0;
  }
  EXPECT_GT(committed, 60u * 100);
}

INSTANTIATE_TEST_SUITE_P(Checkers, ValidHistories,
                         ::testing::Values(Mode{false, {}}, Mode{false, Isolation::read_committed},
                                           Mode{false, Isolation::snapshot},
                                           Mode{false, Isolation::serializable}, Mode{true, {}}),
                         [](const auto& mode) {
                           return mode.param.s2pl
                                      ? std::string("s2pl")
                                      : std::string(mode.param.level ? level_name(*mode.param.level)
                                                                     : "mixed");
                         });

struct Case {
  const char* name;
  Broken broken;
  bool s2pl;
  std::optional<Isolation> level;
  const char* white;  // the name the white box must use at least once; null: it need not find it
  const char* black;
};

class BrokenRules : public ::testing::TestWithParam<Case> {};

TEST_P(BrokenRules, AreFound) {
  const Case& c = GetParam();
  std::vector<std::string> white, black;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    ToyPlan plan;
    plan.seed = seed;
    plan.broken = c.broken;
    plan.s2pl = c.s2pl;
    plan.level = c.level;
    const History h = ToyStore(plan).run();
    const Index index(h);
    for (const auto& k : kinds(check_white_box(h, index))) white.push_back(k);
    for (const auto& k : kinds(check_black_box(h, index))) black.push_back(k);
  }
  if (c.white != nullptr) {
    EXPECT_THAT(white, Contains(c.white));
  }
  if (c.black != nullptr) {
    EXPECT_THAT(black, Contains(c.black));
  }
}

constexpr auto kRc = Isolation::read_committed;
constexpr auto kSi = Isolation::snapshot;
constexpr auto kSer = Isolation::serializable;
INSTANTIATE_TEST_SUITE_P(
    Checkers, BrokenRules,
    ::testing::Values(
        Case{"dirty_read", Broken::dirty_read, false, kRc, "G1a", "G1a"},
        Case{"intermediate_read", Broken::intermediate_read, false, kRc, "G1b", "G1b"},
        Case{"fractured_snapshot", Broken::fractured_snapshot, false, kSi, "future-read",
             "G-single"},
        Case{"first_updater", Broken::first_updater, false, kSi, "lost-update", "lost-update"},
        Case{"write_skew", Broken::validation, false, kSer, "G2", "G2-item"},
        Case{"write_skew_s2pl", Broken::validation, true, {}, "stale-read", "G2"},
        Case{"phantom", Broken::ranges, false, kSer, "G2", "G2"},
        Case{"stale_snapshot", Broken::stale_snapshot, false, kSi, "stale-snapshot",
             "G-single-realtime"},
        Case{"half_applied", Broken::half_applied, false, kSi, "stale-read", "G-single"},
        Case{"lost_commit", Broken::lost_commit, false, kSi, "missing-row", "lost-update"},
        Case{"rolled_back_stays", Broken::rolled_back_stays, false, {}, "G1a", "G1a"},
        Case{"stale_read", Broken::stale_read, false, kRc, "stale-read", nullptr},
        Case{"forgotten_own",
             Broken::forgotten_own,
             false,
             {},
             "own-write-missed",
             "own-write-missed"}),
    [](const auto& mode) { return std::string(mode.param.name); });

// ---- written by hand ---------------------------------------------------------------------------

/// A history in one lane, transaction by transaction, each with its own times.
class ByHand {
 public:
  ByHand() {
    lane_.transactions.place(transactions_.data(), 64);
    lane_.ops.place(ops_.data(), 256);
    lane_.rows.place(rows_.data(), 64);
    lane_.elements.place(elements_.data(), 1024);
  }
  ByHand& txn(Isolation level, std::uint64_t begin_ns, std::uint64_t end_ns, Lsn snapshot,
              Lsn commit) {
    Transaction t;
    t.level = level;
    t.begin_ns = begin_ns;
    t.snapshot = snapshot;
    t.commit = commit;
    recorder_.begin(t);
    recorder_.end(Fate::committed, true, end_ns);
    return *this;
  }
  ByHand& reads(Key key, std::vector<Element> row) {
    recorder_.read(Kind::read, key, {!row.empty(), false, row, 0});
    return *this;
  }
  ByHand& writes(Key key, std::vector<Element> row) {
    recorder_.write(key, row);
    return *this;
  }
  ByHand& killed(Fate fate, unsigned incarnation, bool relaxed) {
    recorder_.open().incarnation = static_cast<std::uint8_t>(incarnation);
    recorder_.open().relaxed = relaxed;
    recorder_.open().fate(fate);
    return *this;
  }
  [[nodiscard]] History history() const {
    History h;
    h.keys = 6;
    h.add(lane_);
    return h;
  }

 private:
  std::vector<Transaction> transactions_ = std::vector<Transaction>(64);
  std::vector<Op> ops_ = std::vector<Op>(256);
  std::vector<Row> rows_ = std::vector<Row>(64);
  std::vector<Element> elements_ = std::vector<Element>(1024);
  Lane lane_;
  Recorder recorder_{lane_};
};

TEST(BlackBox, SaysAWriteSkewInWords) {
  ByHand h;
  h.txn(kSer, 1, 10, 0, 1).reads(0, {}).reads(1, {}).writes(0, {1});
  h.txn(kSer, 2, 11, 0, 2).reads(0, {}).reads(1, {}).writes(1, {2});
  h.txn(kSer, 20, 21, 2, 0).reads(0, {1}).reads(1, {2});
  const History history = h.history();
  const auto found = check_black_box(history, Index(history));
  ASSERT_EQ(found.size(), 1u) << text(found);
  EXPECT_EQ(found[0].kind, "G2");
  EXPECT_THAT(found[0].text, HasSubstr("a cycle of 2 transactions"));
  EXPECT_THAT(found[0].text, HasSubstr("T0 saw k1 (or its absence) as it was before T1"));
  EXPECT_THAT(found[0].text, HasSubstr("T1 saw k0 (or its absence) as it was before T0"));
}

TEST(BlackBox, LetsSnapshotsHaveWriteSkew) {
  ByHand h;
  h.txn(kSi, 1, 10, 0, 1).reads(0, {}).reads(1, {}).writes(0, {1});
  h.txn(kSi, 2, 11, 0, 2).reads(0, {}).reads(1, {}).writes(1, {2});
  const History history = h.history();
  EXPECT_TRUE(check_black_box(history, Index(history)).empty());
}

TEST(BlackBox, FindsALongFork) {
  ByHand h;
  h.txn(kSi, 1, 10, 0, 1).writes(0, {1});
  h.txn(kSi, 1, 11, 0, 2).writes(1, {2});
  h.txn(kSi, 2, 12, 0, 0).reads(0, {1}).reads(1, {});
  h.txn(kSi, 3, 13, 0, 0).reads(0, {}).reads(1, {2});
  const History history = h.history();
  const auto found = check_black_box(history, Index(history));
  ASSERT_FALSE(found.empty());
  EXPECT_EQ(found[0].kind, "G2") << text(found);
}

TEST(BlackBox, FindsALostAppendByRealTime) {
  ByHand h;
  h.txn(kSi, 1, 10, 0, 1).reads(0, {}).writes(0, {1});
  h.txn(kSi, 20, 21, 1, 0).reads(0, {});
  const History history = h.history();
  const auto found = check_black_box(history, Index(history));
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].kind, "G-single-realtime");
  EXPECT_THAT(found[0].text, HasSubstr("T0 ended before T1 began"));
}

TEST(BlackBox, ReportsTheShortestCycle) {
  // Three transactions in a ring, and two of them in a smaller one.
  ByHand h;
  h.txn(kSer, 1, 10, 0, 1).reads(0, {}).reads(1, {}).reads(3, {}).writes(4, {1});
  h.txn(kSer, 1, 11, 0, 2).reads(4, {}).reads(3, {}).writes(0, {2}).writes(1, {3});
  h.txn(kSer, 1, 12, 0, 3).reads(1, {}).writes(3, {4});
  const History history = h.history();
  const auto found = check_black_box(history, Index(history));
  ASSERT_FALSE(found.empty());
  EXPECT_THAT(found[0].text, HasSubstr("a cycle of 2 transactions")) << text(found);
}

TEST(Graph, FindsComponentsAndTheirShortestCycles) {
  Graph g;
  const auto edge = [&](Node a, Node b) { g.add({a, b, 0, EdgeKind::ww, false}); };
  edge(0, 1), edge(1, 2), edge(2, 0), edge(2, 3), edge(3, 4), edge(4, 5), edge(5, 3), edge(4, 3);
  g.seal(7);
  auto found = g.components(~EdgeKinds{0});
  ASSERT_EQ(found.size(), 2u);
  std::ranges::sort(found[0]);
  std::ranges::sort(found[1]);
  EXPECT_EQ(found[0], (std::vector<Node>{3, 4, 5}));
  EXPECT_EQ(found[1], (std::vector<Node>{0, 1, 2}));
  const std::vector<bool> all(7, true);
  EXPECT_EQ(g.path(3, 3, ~EdgeKinds{0}, all)->size(), 2u);
  EXPECT_EQ(g.path(0, 5, ~EdgeKinds{0}, all)->size(), 5u);
  EXPECT_FALSE(g.path(6, 0, ~EdgeKinds{0}, all));
  EXPECT_TRUE(g.components(bit(EdgeKind::rw)).empty());
}

TEST(Graph, SurvivesLongChains) {
  constexpr Node kNodes = 300'000;  // deep enough to end a recursion
  Graph g;
  for (Node n = 0; n < kNodes; ++n) g.add({n, (n + 1) % kNodes, 0, EdgeKind::ww, false});
  g.seal(kNodes);
  const auto found = g.components(~EdgeKinds{0});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].size(), kNodes);
}

TEST(Resolve, TellsLostFromTakenBack) {
  ByHand h;
  h.txn(kSi, 1, 2, 0, 10).writes(0, {1}).killed(Fate::committed, 0, false);  // 0: durable, there
  h.txn(kSi, 1, 2, 0, 20).writes(0, {2}).killed(Fate::committed, 0, true);   // 1: relaxed, gone
  h.txn(kSi, 1, 0, 0, 0).writes(0, {3}).killed(Fate::committing, 0, false);  // 2: there after all
  h.txn(kSi, 1, 0, 0, 0).writes(0, {4}).killed(Fate::running, 0, false);     // 3: gone
  h.txn(kSi, 1, 2, 0, 40).writes(0, {5}).killed(Fate::committed, 1, false);  // 4: there
  History history = h.history();
  const std::vector<Marker> markers{{0, 0, 10}, {0, 2, 15}, {0, 4, 40}};
  EXPECT_TRUE(resolve(history, markers, 1).empty());
  std::vector<Fate> fates;
  for (const Transaction& t : history.transactions) fates.push_back(t.fate());
  EXPECT_EQ(fates, (std::vector{Fate::committed, Fate::lost, Fate::committed, Fate::lost,
                                Fate::committed}));
  EXPECT_EQ(history.transactions[2].commit, 15u);
}

TEST(Resolve, FindsBrokenPromises) {
  ByHand h;
  h.txn(kSi, 1, 2, 0, 10).writes(0, {1}).killed(Fate::committed, 0, true);  // a hole: 20 survived
  h.txn(kSi, 1, 2, 0, 20).writes(0, {2}).killed(Fate::committed, 0, true);
  h.txn(kSi, 1, 2, 0, 30).writes(0, {3}).killed(Fate::committed, 0, false);  // durable, not there
  h.txn(kSi, 1, 2, 0, 0).writes(0, {4}).killed(Fate::aborted, 0, false);     // there all the same
  h.txn(kSi, 1, 2, 0, 25).writes(0, {5}).killed(Fate::committed, 1, false);  // below 30
  History history = h.history();
  const std::vector<Marker> markers{{0, 1, 20}, {0, 3, 21}, {0, 4, 25}};
  EXPECT_THAT(
      kinds(resolve(history, markers, 1)),
      ::testing::UnorderedElementsAre("hole", "lost-commit", "aborted-but-there", "lsn-repeats"));
}

}  // namespace
}  // namespace kessai::torture
