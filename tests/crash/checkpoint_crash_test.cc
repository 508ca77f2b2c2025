// SPDX-License-Identifier: Apache-2.0
// Goal: whatever checkpoint step, eviction or page the power interrupts, recovery finds every
// acknowledged commit, whole and without holes, and a tree and a space map that are sound.
// Method: checkpoint_crash.hpp over several seeds; KESSAI_CRASH_SCALE multiplies them.
#include "tests/crash/checkpoint_crash.hpp"

#include <gtest/gtest.h>

namespace kessai::btree::test {
namespace {

std::uint64_t number_from(const char* name, std::uint64_t fallback) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : fallback;
}

TEST(CheckpointCrash, EveryCrashPointRecoversToAnAcknowledgedPrefix) {
  const std::uint64_t first = number_from("KESSAI_SEED", 1);
  const std::uint64_t seeds = 4 * number_from("KESSAI_CRASH_SCALE", 1);
  std::printf("KESSAI_SEED=%llu\n", static_cast<unsigned long long>(first));
  CrashRun sum;
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    const CrashRun run = CheckpointHarness(seed, 250).run();
    sum.states += run.states;
    sum.repeated += run.repeated;
    sum.leaf_splits += run.leaf_splits;
    sum.merges += run.merges;
    sum.checkpoints += run.checkpoints;
    sum.evicted += run.evicted;
    ASSERT_FALSE(run.violation) << *run.violation;
  }
  std::printf(
      "%llu crash states, %llu repeated; %llu splits, %llu merges, %llu checkpoints, %llu pages "
      "evicted\n",
      static_cast<unsigned long long>(sum.states), static_cast<unsigned long long>(sum.repeated),
      static_cast<unsigned long long>(sum.leaf_splits), static_cast<unsigned long long>(sum.merges),
      static_cast<unsigned long long>(sum.checkpoints),
      static_cast<unsigned long long>(sum.evicted));
  EXPECT_GT(sum.states, 2000u);
  EXPECT_GT(sum.leaf_splits, 10u);
  EXPECT_GT(sum.merges, 15u);
  EXPECT_GT(sum.checkpoints, 10u);
  EXPECT_GT(sum.evicted, 100u);
}

}  // namespace
}  // namespace kessai::btree::test
