// SPDX-License-Identifier: Apache-2.0
// Goal: histories of damaged media repeat exactly, find nothing, and would find a reader that
// believes what it reads; small histories hold. Method: the tool itself, with given numbers of
// histories.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/torture/tool.hpp"

namespace kessai::torture {
namespace {

// The seed is fixed until the finding under "Open" in docs/torture-faults.md is settled.
TEST(Media, EveryFaultIsNoticedOrHarmlessAndTheRunRepeats) {
  tools::Json rows[2];
  for (auto& row : rows) {
    const ScratchFolder scratch;
    const Ran ran =
        kvtorture({"sim", "--kind", "media", "--histories", "4", "--seed", "1"}, scratch);
    ASSERT_EQ(ran.code, 0) << ran.err << ran.out;
    row = ran.row();
  }
  for (const char* field : {"tried", "distinct", "faults", "media", "commits", "trace_hash"})
    EXPECT_EQ(rows[0][field], rows[1][field]) << field;
  std::uint64_t injected = 0, detected = 0;
  for (const auto& [kind, n] : rows[0]["media"].items()) {
    const auto of = [&](const char* what) { return n[what].get<std::uint64_t>(); };
    EXPECT_EQ(of("injected"), of("detected") + of("harmless") + of("unproven")) << kind;
    injected += of("injected");
    detected += of("detected");
  }
  EXPECT_GT(injected, 200u);
  EXPECT_GT(detected, 20u);
}

TEST(Media, FindsAReaderThatBelievesMakesItSmallAndReplaysIt) {
  const ScratchFolder scratch;
  const Ran ran = kvtorture({"sim", "--kind", "media", "--histories", "100", "--seed", "1",
                             "--mutant", "page_hash_ignored"},
                            scratch);
  ASSERT_EQ(ran.code, 1) << ran.err << ran.out;
  const Replay replay(scratch);
  ASSERT_FALSE(replay.file.empty()) << ran.err;
  const Ran again = replay.run();
  EXPECT_EQ(again.code, 1) << again.err << again.out;
  EXPECT_EQ(again.row()["tried"], 1) << "made small: one trial";
  replay.set("mutant", "");
  EXPECT_EQ(replay.run().code, 0) << "the bug is not planted any more";
}

/// One of each reader; all of them: kvtorture mutants.
TEST(Media, ShowReadersThatBelieve) {
  for (const char* mutant : {"hint_ignored", "lost_header_accepted", "check_reads_nothing"}) {
    const ScratchFolder scratch;
    const Ran ran = kvtorture({"sim", "--kind", "media", "--histories", "400", "--seed", "1",
                               "--no-shrink", "--mutant", mutant},
                              scratch);
    EXPECT_EQ(ran.code, 1) << mutant << ran.err << ran.out;
  }
}

TEST(Small, AllHistoriesOfTwoStepsHold) {
  const ScratchFolder scratch;
  const Ran ran =
      kvtorture({"sim", "--kind", "small", "--steps", "2", "--seconds", "600"}, scratch);
  EXPECT_EQ(ran.code, 0) << ran.err << ran.out;
  EXPECT_EQ(ran.row()["complete"], true);
  EXPECT_EQ(ran.row()["small_histories"], 152);
  EXPECT_GT(ran.row()["nested"].get<std::uint64_t>(), 1000u);
}

}  // namespace
}  // namespace kessai::torture
