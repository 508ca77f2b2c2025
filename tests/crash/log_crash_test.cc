// SPDX-License-Identifier: Apache-2.0
// Goal: no crash loses, invents or reorders a commit, at any disk operation, with any outcome, once
// more inside recovery. Method: log_crash.hpp, several seeds.
#include "tests/crash/log_crash.hpp"

#include <gtest/gtest.h>

namespace kessai::wal::test {
namespace {

#if defined(KESSAI_DEBUG_CHECKS)
constexpr std::uint64_t kSeeds = 1;  // sanitizers: forty times slower
#else
constexpr std::uint64_t kSeeds = 4;
#endif

TEST(LogCrash, EveryCrashPointKeepsAnAcknowledgedPrefix) {
  const std::uint64_t first = seed_from_environment(1);
  std::uint64_t states = 0;
  for (std::uint64_t seed = first; seed < first + kSeeds; ++seed) {
    const CrashRun run = CrashHarness(seed).run();
    states += run.states;
    ASSERT_FALSE(run.violation) << *run.violation;
  }
  std::printf("%llu crash states\n", static_cast<unsigned long long>(states));
  EXPECT_GT(states, kSeeds * 3000);
}

}  // namespace
}  // namespace kessai::wal::test
