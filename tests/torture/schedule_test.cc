// SPDX-License-Identifier: Apache-2.0
// Goal: histories of several threads repeat exactly, hold, and show planted races within seconds.
// Method: the tool itself, with given numbers of histories.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/torture/tool.hpp"

namespace kessai::torture {
namespace {

std::string seed() { return std::to_string(tools::test_seed() % 1'000'000'000); }

TEST(Schedules, FindNothingAndRepeatExactly) {
  const std::string fresh = seed();
  const auto run = [](const std::string& seed) {
    const ScratchFolder scratch;
    const Ran ran =
        kvtorture({"sim", "--kind", "schedules", "--histories", "1", "--seed", seed}, scratch);
    EXPECT_EQ(ran.code, 0) << ran.err << ran.out;
    return ran.row();
  };
  const auto first = run(fresh), again = run(fresh);
  for (const char* field : {"schedules", "switches", "preemptions", "distinct", "crash_points",
                            "commits", "trace_hash"})
    EXPECT_EQ(first[field], again[field]) << field;
  EXPECT_EQ(first["violations"], tools::Json::array());
  EXPECT_EQ(first["schedules"], 100);
  EXPECT_GT(first["preemptions"].get<std::uint64_t>(), 100u);
  EXPECT_GT(first["commits"].get<std::uint64_t>(), 100u);
  const auto other = run(std::to_string(std::stoull(fresh) + 1000));
  EXPECT_NE(first["trace_hash"], other["trace_hash"]);
}

TEST(Schedules, FindAPlantedRaceMakeItSmallAndReplayIt) {
  const ScratchFolder scratch;
  const Ran ran = kvtorture({"sim", "--kind", "schedules", "--histories", "200", "--seed", "3",
                             "--mutant", "waiters_forgotten"},
                            scratch);
  ASSERT_EQ(ran.code, 1) << ran.err << ran.out;
  EXPECT_NE(ran.err.find("last switches:"), std::string::npos) << ran.err;
  const Replay replay(scratch);
  ASSERT_FALSE(replay.file.empty()) << ran.err;
  const Ran again = replay.run();
  EXPECT_EQ(again.code, 1) << again.err << again.out;
  EXPECT_EQ(again.row()["schedules"], 1) << "made small: one schedule";
  replay.set("mutant", "");
  EXPECT_EQ(replay.run().code, 0) << "the bug is not planted any more";
}

/// Of each layer one; all of them in schedule_torture_test.cc.
TEST(Schedules, ShowRacesOfTheLogAndOfTheTree) {
  for (const char* mutant : {"unfilled_record_flushed", "gate_not_closed"}) {
    const ScratchFolder scratch;
    const Ran ran = kvtorture({"sim", "--kind", "schedules", "--histories", "400", "--seed", "1",
                               "--no-shrink", "--mutant", mutant},
                              scratch);
    EXPECT_EQ(ran.code, 1) << mutant << ran.err << ran.out;
  }
}

TEST(Schedules, AllOfOneDeviationHold) {
  const ScratchFolder scratch;
  const Ran ran =
      kvtorture({"sim", "--exhaustive", "1", "--seconds", "600", "--seed", "1"}, scratch);
  EXPECT_EQ(ran.code, 0) << ran.err << ran.out;
  EXPECT_EQ(ran.row()["complete"], true);
  EXPECT_GT(ran.row()["schedules"].get<std::uint64_t>(), 100u);
}

}  // namespace
}  // namespace kessai::torture
