// SPDX-License-Identifier: Apache-2.0
// The crash loop for embedders: a sound schema passes, and each kind of mistake that it promises to
// find is found when it is planted.
#include "kessai/testing/crash_test.hpp"

#include <gtest/gtest.h>

namespace kessai::testing {
namespace {

std::string row(std::uint64_t n) { return "row " + std::to_string(100 + n % 25); }

/// Each step changes a row of `left` and the same one of `right`; they must always be equal.
CrashTest pairs() {
  CrashTest t;
  t.options = small_options();
  t.steps = 24;
#if defined(KESSAI_DEBUG_CHECKS)
  t.every = 5;
#endif
  t.prepare = [](Database& db) -> Result<void> {
    for (const char* name : {"left", "right"})
      if (auto tree = db.tree(name, {.create = true}); !tree) return std::unexpected(tree.error());
    return {};
  };
  t.step = [](Database& db, std::uint64_t n) -> Result<void> {
    auto txn = db.begin({.durability = n % 3 == 0 ? Durability::relaxed : Durability::durable});
    if (!txn) return std::unexpected(txn.error());
    for (const char* name : {"left", "right"}) {
      const std::string value(n * 37 % 900, static_cast<char>('a' + n % 26));
      if (auto r = txn->put(db.tree(name).value(), row(n), value); !r) return r;
    }
    if (auto lsn = txn->commit(); !lsn) return std::unexpected(lsn.error());
    return {};
  };
  t.invariant = [](Database& db) -> std::optional<std::string> {
    for (std::uint64_t n = 0; n < 25; ++n) {
      const auto left = db.get(db.tree("left").value(), row(n));
      const auto right = db.get(db.tree("right").value(), row(n));
      if (left.has_value() != right.has_value() || (left && *left != *right))
        return "left and right differ";
    }
    return {};
  };
  return t;
}

TEST(CrashTest, ASoundSchemaPasses) {
  const CrashTest t = pairs();
  const auto r = run_crash_test(t);
  ASSERT_TRUE(r) << r.error().message();
  EXPECT_FALSE(r->violation) << *r->violation;
  EXPECT_GT(r->crash_points * t.every, 20u);
  EXPECT_GT(r->distinct * t.every, 50u);
  EXPECT_GT(r->nested * t.every, 50u);
  EXPECT_LE(r->distinct, r->tried);
}

TEST(CrashTest, SameSeedSameRun) {
  const auto a = run_crash_test(pairs()), b = run_crash_test(pairs());
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->tried, b->tried);
  EXPECT_EQ(a->distinct, b->distinct);
}

// The planted bug: two transactions for what must be one.
TEST(CrashTest, FindsHalfOfAFact) {
  CrashTest t = pairs();
  t.step = [](Database& db, std::uint64_t n) -> Result<void> {
    for (const char* name : {"left", "right"})
      if (auto lsn = db.put(db.tree(name).value(), row(n), std::to_string(n)); !lsn)
        return std::unexpected(lsn.error());
    return {};
  };
  const auto r = run_crash_test(t);
  ASSERT_TRUE(r) << r.error().message();
  ASSERT_TRUE(r->violation);
  EXPECT_NE(r->violation->find("left and right differ"), std::string::npos) << *r->violation;
  // Without a rule of its own the program learns that a step is not all or nothing.
  t.invariant = {};
  const auto oracle = run_crash_test(t);
  ASSERT_TRUE(oracle && oracle->violation);
  EXPECT_NE(oracle->violation->find("as after none of the steps"), std::string::npos)
      << *oracle->violation;
}

// What start_up does is part of the program: a repair that breaks the rule is found.
TEST(CrashTest, FindsARepairThatBreaks) {
  CrashTest t = pairs();
  t.start_up = [](Database& db) -> Result<void> {
    auto lsn = db.put(db.tree("left").value(), row(0), "repaired");
    return lsn ? Result<void>() : std::unexpected(lsn.error());
  };
  const auto r = run_crash_test(t);
  ASSERT_TRUE(r && r->violation);
  EXPECT_NE(r->violation->find("after start_up: left and right differ"), std::string::npos)
      << *r->violation;
}

TEST(CrashTest, RefusesStepsThatAreNotDeterministic) {
  CrashTest t = pairs();
  std::uint64_t calls = 0;
  t.step = [&](Database& db, std::uint64_t) -> Result<void> {
    auto lsn = db.put(db.tree("left").value(), row(++calls), "x");
    return lsn ? Result<void>() : std::unexpected(lsn.error());
  };
  t.invariant = {};
  const auto r = run_crash_test(t);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error(), Code::invalid_argument);
  t.step = {};
  EXPECT_EQ(run_crash_test(t).error(), Code::invalid_argument);
}

TEST(CrashTest, AStepThatFailsIsToldAsItIs) {
  CrashTest t = pairs();
  t.step = [](Database& db, std::uint64_t) -> Result<void> {
    auto tree = db.tree("no such tree");
    return tree ? Result<void>() : std::unexpected(tree.error());
  };
  EXPECT_EQ(run_crash_test(t).error(), Code::tree_not_found);
}

}  // namespace
}  // namespace kessai::testing
