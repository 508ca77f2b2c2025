// SPDX-License-Identifier: Apache-2.0
// Goal: every planted bug that only a schedule shows is found within five minutes, typically in
// seconds; so is every bug planted for the disk; and the short life of the log holds under all
// schedules of two preemptions. Method: `kvtorture sim` with each of them.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/torture/tool.hpp"
#include "tools/torture/mutants.hpp"

namespace kessai::torture {
namespace {

TEST(Schedules, ShowEveryPlantedRace) {
  unsigned planted = 0;
  for (const Mutant& m : kMutants) {
    if (m.finder != "sim" || !m.schedule || !has_mode(m.s2pl ? "s2pl" : "mvcc")) continue;
    ++planted;
    const ScratchFolder scratch;
    const Ran ran = kvtorture(
        {"sim", "--mode", m.s2pl ? "s2pl" : "mvcc", "--kind", "schedules", "--seconds", "300",
         "--no-shrink", "--seed", std::to_string(tools::test_seed() % 1'000'000'000), "--mutant",
         std::string(m.name)},
        scratch);
    EXPECT_EQ(ran.code, 1) << m.name << ran.err << ran.out;
    std::printf("%s: %.1f s\n", std::string(m.name).c_str(), ran.row().value("seconds", 0.0));
  }
  EXPECT_TRUE(planted >= 10 || !has_mode("mvcc"));
}

/// the log is reset beside a checkpoint that is only beginning (SQLite, 3.7.0 to 3.51.2).
TEST(Schedules, R02ResetOfTheLogBesideABeginningCheckpoint) {
  const ScratchFolder scratch;
  const Ran ran = kvtorture({"sim", "--kind", "schedules", "--seconds", "300", "--seed",
                             std::to_string(tools::test_seed() % 1'000'000'000), "--no-shrink",
                             "--mutant", "wal_reset_race"},
                            scratch);
  EXPECT_EQ(ran.code, 1) << ran.err << ran.out;
}

/// Those of schedules are above: here the budget is a minute.
TEST(Mutants, OfTheDiskAreAllFound) {
  const ScratchFolder scratch;
  const Ran ran = kvtorture({"mutants", "--finder", "sim", "--budget", "60"}, scratch);
  std::printf("%s", ran.out.c_str());
  for (const Json& row : ran.rows()) {
    const auto name = row["mutant"].get<std::string>();
    const auto* m = std::ranges::find(kMutants, name, &Mutant::name);
    EXPECT_TRUE(m->schedule || row["found"].get<bool>())
        << name << " in " << row["seconds"] << " s";
  }
  EXPECT_GE(ran.rows().size(), 40u);
}

TEST(Schedules, TheLifeOfTheLogHoldsUnderTwoPreemptions) {
  const ScratchFolder scratch;
  const Ran ran = kvtorture(
      {"sim", "--exhaustive", "2", "--seconds", std::to_string(torture_seconds()), "--seed", "1"},
      scratch);
  EXPECT_EQ(ran.code, 0) << ran.err << ran.out;
  std::printf("%s", ran.out.c_str());
  EXPECT_GT(ran.row()["schedules"].get<std::uint64_t>(), 100u);
}

}  // namespace
}  // namespace kessai::torture
