// SPDX-License-Identifier: Apache-2.0
// Goal: the checkpoint crash harness has teeth. Method: each planted bug of the page store must be
// found within a few seeds; the run stops at the first violation.
#include "io/mutant.hpp"
#include "tests/crash/checkpoint_crash.hpp"

#include <gtest/gtest.h>

namespace kessai::btree::test {
namespace {

class CheckpointMutants : public ::testing::TestWithParam<const char*> {
 protected:
  void TearDown() override { io::set_mutant(""); }
};

TEST_P(CheckpointMutants, AreFoundByTheCrashHarness) {
  io::set_mutant(GetParam());
  std::uint64_t states = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const CrashRun run = CheckpointHarness(seed, 250).run();
    states += run.states;
    if (!run.violation) continue;
    std::printf("%s: %s (%llu states)\n", GetParam(), run.violation->c_str(),
                static_cast<unsigned long long>(states));
    return;
  }
  FAIL() << "the planted bug " << GetParam() << " was not found in " << states << " states";
}

INSTANTIATE_TEST_SUITE_P(
    Btree, CheckpointMutants,
    ::testing::Values("modify_without_capture", "free_drops_dirty", "evict_missed_by_cut",
                      "live_map_written", "low_after_cut", "reuse_after_one_checkpoint",
                      "reuse_ignores_building", "map_chunk_not_flushed", "data_not_flushed",
                      "superblock_before_fence", "recycle_to_newest", "overwrite_newest_superblock",
                      "superblock_not_flushed", "freed_page_comes_back", "older_slots_forgotten"),
    [](const auto& bug) { return std::string(bug.param); });

}  // namespace
}  // namespace kessai::btree::test
