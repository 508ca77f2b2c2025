// SPDX-License-Identifier: Apache-2.0
// Goal: what takes long of sim: a thousand seeds repeat exactly, all small histories hold, in each
// mode of the build tree. Method: the tool itself; each seed is looked at twice.
#include <gtest/gtest.h>

#include "tests/torture/tool.hpp"

namespace kessai::torture {
namespace {

std::vector<std::string> modes() {
  std::vector<std::string> out;
  for (const char* mode : {"mvcc", "s2pl"})
    if (has_mode(mode)) out.emplace_back(mode);
  return out;
}

TEST(Sim, AThousandSeedsRepeatToTheSameTrace) {
  constexpr std::uint64_t kSeeds = 1000, kOfARun = 20;
  const std::uint64_t first = tools::test_seed() % 1'000'000'000;
  for (const auto& mode : modes()) {
    for (std::uint64_t seed = first; seed < first + kSeeds; seed += kOfARun) {
      tools::Json rows[2];
      for (auto& row : rows) {
        const ScratchFolder scratch;
        const Ran ran = kvtorture({"sim", "--mode", mode, "--histories", std::to_string(kOfARun),
                                   "--every", "64", "--seed", std::to_string(seed)},
                                  scratch);
        ASSERT_EQ(ran.code, 0) << ran.err << ran.out;
        row = ran.row();
      }
      ASSERT_EQ(rows[0]["trace_hash"], rows[1]["trace_hash"]) << mode << " from seed " << seed;
      ASSERT_EQ(rows[0]["distinct"], rows[1]["distinct"]) << mode << " from seed " << seed;
    }
  }
}

TEST(Small, AllHistoriesHold) {
  for (const auto& mode : modes()) {
    const ScratchFolder scratch;
    const Ran ran =
        kvtorture({"sim", "--mode", mode, "--kind", "small", "--seconds", "86400"}, scratch);
    ASSERT_EQ(ran.code, 0) << ran.err << ran.out;
    std::printf("%s", ran.out.c_str());
    EXPECT_EQ(ran.row()["complete"], true);
    EXPECT_EQ(ran.row()["small_histories"], 2314);
  }
}

}  // namespace
}  // namespace kessai::torture
