// SPDX-License-Identifier: Apache-2.0
// Goal: a store keeps through kill -9 what it promised, and `kvtorture kill` speaks its contract
// and has teeth. Method: a short run for each mode with a new seed (printed); one with a planted
// bug. The long form is kill_torture_test.cc.
#include <filesystem>

#include "tests/torture/tool.hpp"

namespace kessai::torture {
namespace {

class Kill : public ::testing::TestWithParam<const char*> {};

TEST_P(Kill, LosesNothingThatWasPromised) {
  if (!has_mode(GetParam())) GTEST_SKIP() << "this build has no " << GetParam();
  const ScratchFolder scratch;
  const auto seed = std::to_string(tools::test_seed() % 1'000'000'000);
  const Ran ran =
      kvtorture({"kill", "--mode", GetParam(), "--seconds", "2", "--seed", seed}, scratch);
  ASSERT_EQ(ran.code, 0) << ran.err << ran.out;
  const Json row = ran.row();
  EXPECT_EQ(row["lost"], 0);
  EXPECT_EQ(row["half_applied"], 0);
  EXPECT_TRUE(row["violations"].empty());
  EXPECT_GT(row["kills"].get<std::uint64_t>(), 0u);
  EXPECT_GT(row["acked"].get<std::uint64_t>(), 0u);
  EXPECT_EQ(row["mode"], GetParam());
  EXPECT_FALSE(std::filesystem::exists(scratch / "run")) << "the work folder stays behind";
}

INSTANTIATE_TEST_SUITE_P(Kvtorture, Kill, ::testing::Values("mvcc", "s2pl"));

TEST(Kvtorture, FindsAnAcknowledgementBeforeTheWrite) {
  const ScratchFolder scratch;
  const Ran ran = kvtorture(
      {"kill", "--seconds", "60", "--seed", "3", "--mutant", "ack_before_write"}, scratch);
  EXPECT_EQ(ran.code, 1) << ran.err;
  EXPECT_FALSE(ran.row()["violations"].empty());
  // What is missing may be the newest commits or some before those that are there.
  EXPECT_TRUE(ran.err.contains("lost: ") || ran.err.contains("hole: ")) << ran.err;
  EXPECT_NE(ran.err.find("again: kvtorture kill --mode "), std::string::npos) << ran.err;
  EXPECT_NE(ran.err.find("the stores are kept in "), std::string::npos) << ran.err;
  EXPECT_FALSE(std::filesystem::is_empty(scratch / "run"));
}

TEST(Kvtorture, RefusesWhatKillDoesNotKnow) {
  const ScratchFolder scratch;
  EXPECT_EQ(kvtorture({"kill", "--mutant", "no_such_bug"}, scratch).code, 2);
  EXPECT_EQ(kvtorture({"kill", "--mode", "occ"}, scratch).code, 2);
}

}  // namespace
}  // namespace kessai::torture
