// SPDX-License-Identifier: Apache-2.0
// Goal: the isolation checkers find what is wrong and nothing else. Method: a toy store
// (toy_store.hpp) makes histories of interleaved transactions. With every rule kept, neither
// checker may object; with one rule broken, the checkers that can know must find it within a few
// seeds, under a fitting name. Single anomalies are also written out by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/torture/toy_store.hpp"
#include "tools/torture/black_box.hpp"
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

}  // namespace
}  // namespace kessai::torture
