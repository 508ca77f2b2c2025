// SPDX-License-Identifier: Apache-2.0
// Goal: no crash of a simulated disk loses what was acknowledged. Method: `kvtorture sim` in each
// mode of the build tree with new seeds, for as long as KESSAI_TORTURE_SECONDS says (60), shared.
#include <gtest/gtest.h>

#include "tests/torture/tool.hpp"

namespace kessai::torture {
namespace {

TEST(Sim, FindsNoViolation) {
  std::vector<std::string> modes;
  for (const char* mode : {"mvcc", "s2pl"})
    if (has_mode(mode)) modes.emplace_back(mode);
  for (const auto& mode : modes) {
    const ScratchFolder scratch;
    const double seconds = torture_seconds() / static_cast<double>(modes.size());
    const Ran ran =
        kvtorture({"sim", "--kind", "crashes", "--mode", mode, "--seconds", std::to_string(seconds),
                   "--seed", std::to_string(tools::test_seed() % 1'000'000'000)},
                  scratch);
    ASSERT_EQ(ran.code, 0) << ran.err << ran.out;
    std::printf("%s", ran.out.c_str());
    EXPECT_GT(ran.row()["distinct"].get<std::uint64_t>(), 0u);
  }
}

}  // namespace
}  // namespace kessai::torture
