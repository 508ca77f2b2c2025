// SPDX-License-Identifier: Apache-2.0
// Goal: the damage scenarios have teeth: each finds the bug planted for it, and nothing without it.
#include "io/mutant.hpp"
#include "tests/wal/log_damage.hpp"

#include <gtest/gtest.h>

namespace kessai::wal::test {
namespace {

class WalDamageMutants : public ::testing::Test {
 protected:
  void TearDown() override { io::set_mutant(""); }
  void expect_found(const char* mutant, Verdict (*scenario)()) {
    io::set_mutant("");
    EXPECT_FALSE(scenario());
    io::set_mutant(mutant);
    const auto found = scenario();
    EXPECT_TRUE(found) << mutant;
    if (found) std::printf("%s: %s\n", mutant, found->c_str());
  }
};

TEST_F(WalDamageMutants, HintIgnored) {
  expect_found("hint_ignored", damage_below_a_hint_is_reported);
}
TEST_F(WalDamageMutants, EioIsEnd) { expect_found("eio_is_end", read_errors_never_end_the_log); }
TEST_F(WalDamageMutants, NoGenerationSalt) {
  expect_found("no_generation_salt", frames_inside_values_mean_nothing);
}
TEST_F(WalDamageMutants, StaleSaltAccepted) {
  expect_found("stale_salt_accepted", frames_inside_values_mean_nothing);
}

}  // namespace
}  // namespace kessai::wal::test
