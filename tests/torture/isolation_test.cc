// SPDX-License-Identifier: Apache-2.0
// Goal: each level keeps its promise, kill -9 included, and the tool speaks its contract. Method:
// a few histories of `kvtorture isolation` for each mode and level, with a new seed each time
// (printed). The long form is isolation_torture_test.cc.
#include "tests/torture/tool.hpp"

namespace kessai::torture {
namespace {

// Number 4 ends with a check of the whole store, 5 is killed.
constexpr const char* kFirst = "4";
constexpr const char* kHistories = "2";

class Levels : public ::testing::TestWithParam<Promise> {};

TEST_P(Levels, KeepTheirPromise) {
  const ScratchFolder scratch;
  const auto seed = std::to_string(tools::test_seed() % 1'000'000'000);
  const Ran ran = kvtorture({"isolation", "--mode", GetParam().mode, "--level", GetParam().level,
                             "--histories", kHistories, "--from-history", kFirst, "--seed", seed},
                            scratch);
  ASSERT_EQ(ran.code, 0) << ran.err << ran.out;
  const Json row = ran.row();
  EXPECT_TRUE(row["violations"].empty());
  EXPECT_GT(row["committed"].get<std::uint64_t>(), 1000u);
  EXPECT_GT(row["checked_per_s"].get<std::uint64_t>(), 0u);
  EXPECT_GT(row["kills"].get<std::uint64_t>(), 0u) << "history 5 is killed";
  EXPECT_EQ(row["mode"], GetParam().mode);
}

INSTANTIATE_TEST_SUITE_P(Isolation, Levels, ::testing::ValuesIn(promises()),
                         [](const auto& p) { return p.param.mode + "_" + p.param.level; });

TEST(Kvtorture, FailsWithTheFirstViolationAndSaysHowToRepeatIt) {
  const ScratchFolder scratch;
  const Ran ran = kvtorture({"isolation", "--mode", "mvcc", "--level", "snapshot", "--seconds",
                             "60", "--seed", "3", "--mutant", "first_updater_ignored"},
                            scratch);
  EXPECT_EQ(ran.code, 1);
  EXPECT_FALSE(ran.row()["violations"].empty());
  EXPECT_NE(ran.err.find("again: kvtorture isolation --mode mvcc --level snapshot --seed 3"),
            std::string::npos)
      << ran.err;
}

TEST(Kvtorture, RefusesWhatItDoesNotKnow) {
  const ScratchFolder scratch;
  EXPECT_EQ(kvtorture({"isolation", "--mutant", "no_such_bug"}, scratch).code, 2);
  EXPECT_EQ(kvtorture({"isolation", "--level", "chaos"}, scratch).code, 2);
  EXPECT_EQ(kvtorture({"isolation", "--mode", "occ"}, scratch).code, 2);
  const Ran none = kvtorture({}, scratch);
  EXPECT_EQ(none.code, 2);
  EXPECT_TRUE(Json::parse(none.err, nullptr, false).contains("error")) << none.err;
}

}  // namespace
}  // namespace kessai::torture
