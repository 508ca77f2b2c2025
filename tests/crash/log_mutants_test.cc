// SPDX-License-Identifier: Apache-2.0
// Goal: the crash harness has teeth. Method: it must find each planted bug within a few seeds, and
// nothing when none is planted.
#include "io/mutant.hpp"
#include "tests/crash/log_crash.hpp"

#include <gtest/gtest.h>

namespace kessai::wal::test {
namespace {

class LogMutants : public ::testing::TestWithParam<const char*> {
 protected:
  void TearDown() override { io::set_mutant(""); }
};

TEST_P(LogMutants, AreFoundByTheCrashHarness) {
  io::set_mutant(GetParam());
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    const CrashRun run = CrashHarness(seed).run();
    if (!run.violation) continue;
    std::printf("%s: %s (%llu states)\n", GetParam(), run.violation->c_str(),
                static_cast<unsigned long long>(run.states));
    return;
  }
  FAIL() << "the planted bug " << GetParam() << " was not found";
}

INSTANTIATE_TEST_SUITE_P(Wal, LogMutants,
                         ::testing::Values("skip_wal_flush", "ack_before_completion",
                                           "stale_salt_accepted", "header_not_flushed",
                                           "segment_name_not_flushed", "footer_before_header",
                                           "recycle_live_segment", "void_parts_applied",
                                           "lsn_reuse"),
                         [](const auto& mutant) { return std::string(mutant.param); });

}  // namespace
}  // namespace kessai::wal::test
