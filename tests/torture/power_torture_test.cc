// SPDX-License-Identifier: Apache-2.0
// Goal: power cuts under a real kernel take nothing that was promised, for long. Method:
// KESSAI_TORTURE_SECONDS (60) of `kvtorture power`, shared among the modes, with new seeds.
#include "tests/torture/tool.hpp"

namespace kessai::torture {
namespace {

class LongPower : public ::testing::TestWithParam<const char*> {};

TEST_P(LongPower, LosesNothingThatWasPromised) {
  if (!has_mode(GetParam())) GTEST_SKIP() << "this build has no " << GetParam();
  const ScratchFolder scratch;
  const auto seed = std::to_string(tools::test_seed() % 1'000'000'000);
  const double seconds = torture_seconds() / (has_mode("mvcc") && has_mode("s2pl") ? 2 : 1);
  const Ran ran = kvtorture(
      {"power", "--mode", GetParam(), "--seconds", std::to_string(seconds), "--seed", seed},
      scratch);
  if (ran.code == 2) GTEST_SKIP() << ran.err;  // power_test.cc says where that is wrong
  ASSERT_EQ(ran.code, 0) << ran.err << ran.out;
  std::printf("%s", ran.out.c_str());
  EXPECT_GT(ran.row()["cuts"].get<std::uint64_t>(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Kvtorture, LongPower, ::testing::Values("mvcc", "s2pl"));

}  // namespace
}  // namespace kessai::torture
