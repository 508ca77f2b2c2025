// SPDX-License-Identifier: Apache-2.0
// Goal: isolation holds for long, and the harness has teeth. Method: KESSAI_TORTURE_SECONDS (60)
// of `kvtorture isolation`, shared among all modes and levels, with new seeds; and every bug
// planted for it must be found within 60 seconds.
#include "tests/torture/tool.hpp"

namespace kessai::torture {
namespace {

class LongRun : public ::testing::TestWithParam<Promise> {};

TEST_P(LongRun, FindsNoViolation) {
  const ScratchFolder scratch;
  const auto seed = std::to_string(tools::test_seed() % 1'000'000'000);
  const double seconds = torture_seconds() / static_cast<double>(promises().size());
  const Ran ran = kvtorture({"isolation", "--mode", GetParam().mode, "--level", GetParam().level,
                             "--seconds", std::to_string(seconds), "--seed", seed},
                            scratch);
  ASSERT_EQ(ran.code, 0) << ran.err << ran.out;
  std::printf("%s", ran.out.c_str());
  EXPECT_GT(ran.row()["committed"].get<std::uint64_t>(), 1000u);
}

INSTANTIATE_TEST_SUITE_P(Isolation, LongRun, ::testing::ValuesIn(promises()),
                         [](const auto& p) { return p.param.mode + "_" + p.param.level; });

TEST(Mutants, AreAllFound) {
#if defined(KESSAI_DEBUG_CHECKS)
  GTEST_SKIP() << "what this proves about the harness does not depend on sanitizers";
#endif
  const ScratchFolder scratch;
  const Ran ran = kvtorture({"mutants", "--finder", "isolation", "--budget", "60"}, scratch);
  std::printf("%s", ran.out.c_str());
  for (const Json& row : ran.rows())
    EXPECT_TRUE(row["found"].get<bool>()) << row["mutant"] << " in " << row["seconds"] << " s";
  EXPECT_GE(ran.rows().size(), 8u);
}

}  // namespace
}  // namespace kessai::torture
