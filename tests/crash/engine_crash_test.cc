// SPDX-License-Identifier: Apache-2.0
// Goal: whatever the power interrupts, the store opens again with every acknowledged commit, no
// half transaction and a sound structure. Method: crash_run.hpp. KESSAI_CRASH_SCALE=n: n seeds,
// and a crash at every operation of each recovery.
#include "tools/torture/crash_run.hpp"

#include <gtest/gtest.h>

#include "tests/engine/fault_world.hpp"

namespace kessai::crash {
namespace {

using Count = unsigned long long;

#if defined(KESSAI_DEBUG_CHECKS)
constexpr std::uint64_t kSeeds = 1, kEvery = 10;  // sanitizers: forty times slower
#else
constexpr std::uint64_t kSeeds = 3, kEvery = 1;
#endif

void print(const CrashRun& run) {
  std::printf(
      "  %llu crash points, %llu crash states, %llu distinct and recovered, %llu crashes inside "
      "recovery\n",
      static_cast<Count>(run.points), static_cast<Count>(run.outcomes),
      static_cast<Count>(run.distinct), static_cast<Count>(run.nested));
  std::printf(
      "  %llu commits (%llu relaxed, %llu large), %llu rollbacks, %llu trees created, %llu "
      "dropped, %llu long "
      "values\n",
      static_cast<Count>(run.commits), static_cast<Count>(run.relaxed),
      static_cast<Count>(run.large), static_cast<Count>(run.rollbacks),
      static_cast<Count>(run.created), static_cast<Count>(run.dropped),
      static_cast<Count>(run.long_values));
  std::printf(
      "  %llu checkpoints, %llu evicted, %llu splits, %llu merges, %llu purged, log %llu KiB in "
      "%llu KiB of files\n",
      static_cast<Count>(run.checkpoints), static_cast<Count>(run.evicted),
      static_cast<Count>(run.splits), static_cast<Count>(run.merges),
      static_cast<Count>(run.purged), static_cast<Count>(run.log_frame_bytes >> 10),
      static_cast<Count>(run.log_file_bytes >> 10));
}

TEST(EngineCrash, EveryCrashPointRecoversToAnAcknowledgedPrefix) {
  const std::uint64_t first = test::number_from("KESSAI_SEED", 1);
  const std::uint64_t scale = test::number_from("KESSAI_CRASH_SCALE", 0);
  CrashPlan plan;
  plan.every_nested = scale > 0;
  plan.every = kEvery;
  std::uint64_t distinct = 0, nested = 0;
  for (plan.seed = first; plan.seed < first + kSeeds * std::max<std::uint64_t>(1, scale);
       ++plan.seed) {
    std::printf("KESSAI_SEED=%llu\n", static_cast<Count>(plan.seed));
    const CrashRun run = CrashHarness(plan).run();
    print(run);
    ASSERT_FALSE(run.violation) << *run.violation;
    distinct += run.distinct;
    nested += run.nested;
    // The workload is worth its crashes only if all of this happened in it.
    EXPECT_GT(run.points, 600u);
    EXPECT_GT(run.commits, 140u);
    EXPECT_GT(run.relaxed, 30u);
    EXPECT_GT(run.large, 1u);
    EXPECT_GT(run.rollbacks, 3u);
    EXPECT_GT(run.created, 0u);
    EXPECT_GT(run.dropped, 0u);
    EXPECT_GT(run.long_values, 10u);
    EXPECT_GE(run.checkpoints, 6u);
    EXPECT_GT(run.evicted, 100u);
    EXPECT_GT(run.splits, 10u);
    EXPECT_GT(run.merges, 3u);
    EXPECT_GT(run.purged, 50u);
    EXPECT_GT(run.log_frame_bytes, 2 * run.log_file_bytes) << "segments were not reused";
  }
  std::printf("all: %llu distinct crash states, %llu nested\n", static_cast<Count>(distinct),
              static_cast<Count>(nested));
  EXPECT_GT(distinct, kSeeds * 1500 / kEvery);
}

}  // namespace
}  // namespace kessai::crash
