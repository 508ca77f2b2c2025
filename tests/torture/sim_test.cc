// SPDX-License-Identifier: Apache-2.0
// Goal: `kvtorture sim` does what its users rely on: it runs histories with faults, is repeatable,
// finds a planted bug, makes it small and replays it. Method: the tool itself; no time limits, the
// number of histories is given.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/torture/tool.hpp"

namespace kessai::torture {
namespace {

std::string seed() { return std::to_string(tools::test_seed() % 1'000'000'000); }

TEST(Sim, FindsNothingAndIsRepeatable) {
  const std::string fresh = seed();
  tools::Json rows[2];
  for (auto& row : rows) {
    const ScratchFolder scratch;
    const Ran ran = kvtorture(
        {"sim", "--kind", "crashes", "--histories", "12", "--every", "64", "--seed", fresh},
        scratch);
    ASSERT_EQ(ran.code, 0) << ran.err << ran.out;
    row = ran.row();
  }
  for (const char* field : {"tried", "distinct", "crash_points", "nested", "faults", "commits",
                            "histories", "schedules", "switches", "preemptions", "trace_hash"})
    EXPECT_EQ(rows[0][field], rows[1][field]) << field;
  EXPECT_EQ(rows[0]["histories"], 12);
  EXPECT_EQ(rows[0]["violations"], tools::Json::array());
  EXPECT_GT(rows[0]["distinct"].get<std::uint64_t>(), 100u);
  EXPECT_GT(rows[0]["faults"]["power_reordered"].get<std::uint64_t>(), 0u);
}

TEST(Sim, FindsAPlantedBugMakesItSmallAndReplaysIt) {
  const ScratchFolder scratch;
  const Ran ran = kvtorture(
      {"sim", "--histories", "100", "--seed", "3", "--mutant", "skip_wal_flush"}, scratch);
  ASSERT_EQ(ran.code, 1) << ran.err << ran.out;
  ASSERT_EQ(ran.row()["violations"].size(), 1u);
  const Replay replay(scratch);
  ASSERT_FALSE(replay.file.empty()) << ran.err;
  EXPECT_NE(ran.err.find("again: kvtorture replay " + replay.file), std::string::npos) << ran.err;

  const Ran again = replay.run();
  EXPECT_EQ(again.code, 1) << again.err << again.out;
  EXPECT_EQ(again.row()["violations"].size(), 1u);
  EXPECT_EQ(again.row()["distinct"], replay.run().row()["distinct"]);

  replay.set("mutant", "");
  EXPECT_EQ(replay.run().code, 0) << "the bug is not planted any more";
  replay.set("kvtorture_replay", 99);
  const Ran newer = replay.run();
  EXPECT_EQ(newer.code, 2);
  EXPECT_NE(newer.err.find("version 99"), std::string::npos) << newer.err;
  std::ofstream(replay.file) << "no JSON";
  EXPECT_EQ(replay.run().code, 2);
}

TEST(Sim, RefusesWhatItDoesNotKnow) {
  const ScratchFolder scratch;
  EXPECT_EQ(kvtorture({"sim", "--mutant", "no_such_bug"}, scratch).code, 2);
  EXPECT_EQ(kvtorture({"replay", scratch / "nothing"}, scratch).code, 2);
}

}  // namespace
}  // namespace kessai::torture
