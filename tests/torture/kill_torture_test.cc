// SPDX-License-Identifier: Apache-2.0
// Goal: kill -9 takes nothing that was promised, for long. Method: KESSAI_TORTURE_SECONDS (60) of
// `kvtorture kill`, shared among the modes, with new seeds; and every planted bug that a kill can
// show must be found within 60 seconds.
#include "tests/torture/tool.hpp"

namespace kessai::torture {
namespace {

class LongKill : public ::testing::TestWithParam<const char*> {};

TEST_P(LongKill, LosesNothingThatWasPromised) {
  if (!has_mode(GetParam())) GTEST_SKIP() << "this build has no " << GetParam();
  const ScratchFolder scratch;
  const auto seed = std::to_string(tools::test_seed() % 1'000'000'000);
  const double seconds = torture_seconds() / (has_mode("mvcc") && has_mode("s2pl") ? 2 : 1);
  const Ran ran = kvtorture(
      {"kill", "--mode", GetParam(), "--seconds", std::to_string(seconds), "--seed", seed},
      scratch);
  ASSERT_EQ(ran.code, 0) << ran.err << ran.out;
  std::printf("%s", ran.out.c_str());
  const Json row = ran.row();
  EXPECT_GT(row["kills"].get<std::uint64_t>(), 0u);
  EXPECT_GT(row["acked"].get<std::uint64_t>(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Kvtorture, LongKill, ::testing::Values("mvcc", "s2pl"));

class KillMutants : public ::testing::TestWithParam<const char*> {};

TEST_P(KillMutants, AreFound) {
#if defined(KESSAI_DEBUG_CHECKS)
  GTEST_SKIP() << "what this proves about the harness does not depend on sanitizers";
#endif
  const ScratchFolder scratch;
  const Ran ran = kvtorture({"kill", "--seconds", "60", "--mutant", GetParam()}, scratch);
  std::printf("%s", ran.out.c_str());
  EXPECT_EQ(ran.code, 1) << ran.err;
}

// Not here: what takes a power failure, or sometimes longer (void_parts_applied, window_lost).
INSTANTIATE_TEST_SUITE_P(Kvtorture, KillMutants,
                         ::testing::Values("ack_before_write", "ack_before_completion",
                                           "stale_salt_accepted", "cut_commit_forgotten",
                                           "window_keeps_first", "modify_without_capture",
                                           "reuse_ignores_building", "live_map_written",
                                           "low_after_cut", "evict_missed_by_cut",
                                           "footer_before_header"),
                         [](const auto& mutant) { return std::string(mutant.param); });

}  // namespace
}  // namespace kessai::torture
