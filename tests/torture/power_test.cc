// SPDX-License-Identifier: Apache-2.0
// Goal: a store keeps through power cuts under a real kernel what it promised; `kvtorture power`
// speaks its contract, has teeth, and leaves nothing behind however it ends. Method: a short run
// for each mode with a new seed (printed); planted bugs; a run that is killed. Where root, FUSE and
// loop devices are there, all of it must run; elsewhere the tool has to say what is missing. The
// long form is power_torture_test.cc.
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>

#include "tests/torture/tool.hpp"

namespace kessai::torture {
namespace {

/// Root in a container may lack CAP_SYS_ADMIN; a child tries.
bool may_mount() {
  const pid_t child = fork();
  if (child == 0) _exit(unshare(CLONE_NEWNS) == 0 ? 0 : 1);
  int status = 1;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}
bool possible() {
  return geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0 &&
         access("/dev/loop-control", R_OK | W_OK) == 0 && may_mount();
}

/// Loop devices over an image of ours, from sysfs: 0 when all are gone.
std::size_t loops_in_use() {
  std::size_t n = 0;
  for (const auto& block : std::filesystem::directory_iterator("/sys/block")) {
    std::string backing;
    std::ifstream(block.path() / "loop" / "backing_file") >> backing;
    n += backing.contains("kvtorture") || backing == "/disk" || backing.ends_with("/fuse/disk");
  }
  return n;
}
std::string mounts() {
  std::ifstream in("/proc/mounts");
  return {std::istreambuf_iterator<char>(in), {}};
}
/// Waits for what the kernel takes down after the last process.
bool nothing_left() {
  for (int tries = 0; tries < 1000; ++tries) {
    if (loops_in_use() == 0 && !mounts().contains("kvtorture")) return true;
    (void)poll(nullptr, 0, 10);
  }
  return false;
}

class Power : public ::testing::TestWithParam<const char*> {};

TEST_P(Power, LosesNothingThatWasPromised) {
  if (!has_mode(GetParam())) GTEST_SKIP() << "this build has no " << GetParam();
  const ScratchFolder scratch;
  const auto seed = std::to_string(tools::test_seed() % 1'000'000'000);
  const Ran ran =
      kvtorture({"power", "--mode", GetParam(), "--seconds", "3", "--seed", seed}, scratch);
  if (!possible()) {
    EXPECT_EQ(ran.code, 2);
    EXPECT_NE(ran.err.find("not_supported"), std::string::npos) << ran.err;
    GTEST_SKIP() << "no root, no /dev/fuse or no /dev/loop-control here: " << ran.err;
  }
  ASSERT_EQ(ran.code, 0) << ran.err << ran.out;
  const Json row = ran.row();
  EXPECT_GT(row["cuts"].get<std::uint64_t>(), 0u);
  EXPECT_GT(row["acked"].get<std::uint64_t>(), 0u);
  EXPECT_GT(row["flushes"].get<std::uint64_t>(), 0u);
  EXPECT_EQ(row["lost"], 0);
  EXPECT_EQ(row["half_applied"], 0);
  EXPECT_TRUE(row["violations"].empty());
  EXPECT_EQ(row["mode"], GetParam());
  EXPECT_FALSE(std::filesystem::exists(scratch / "run")) << "the work folder stays behind";
  EXPECT_TRUE(nothing_left());
}

INSTANTIATE_TEST_SUITE_P(Kvtorture, Power, ::testing::Values("mvcc", "s2pl"));

// A flush of the log that is left out is what kill -9 cannot show.
TEST(Kvtorture, FindsASkippedFlushByPowerCuts) {
  if (!possible()) GTEST_SKIP() << "no root, no /dev/fuse or no /dev/loop-control here";
  const ScratchFolder scratch;
  const Ran ran = kvtorture({"power", "--seconds", "60", "--mutant", "skip_wal_flush"}, scratch);
  EXPECT_EQ(ran.code, 1) << ran.err;
  EXPECT_FALSE(ran.row()["violations"].empty());
  EXPECT_TRUE(ran.err.contains("lost: ") || ran.err.contains("hole: ") ||
              ran.err.contains("error: "))
      << ran.err;
  EXPECT_NE(ran.err.find("again: kvtorture power --mode "), std::string::npos) << ran.err;
  EXPECT_NE(ran.err.find("the disk is kept in "), std::string::npos) << ran.err;
  EXPECT_FALSE(std::filesystem::is_empty(scratch / "run"));
  EXPECT_TRUE(nothing_left());
}

/// The exit status of a long run that gets `sig` once it has a disk.
int status_after(int sig, const std::string& folder) {
  const pid_t pid = fork();
  if (pid == 0) {
    execl(KESSAI_KVTORTURE, "kvtorture", "power", "--seconds", "600", "--json", "--dir",
          folder.c_str(), nullptr);
    _exit(127);
  }
  for (int tries = 0; tries < 3000 && loops_in_use() == 0; ++tries) (void)poll(nullptr, 0, 10);
  EXPECT_GT(loops_in_use(), 0u) << "it never got to work";
  kill(pid, sig);
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

// kill -9 of the tool: its processes die with it, the kernel takes its mounts and devices down.
TEST(Kvtorture, LeavesNothingBehindWhenItIsKilled) {
  if (!possible()) GTEST_SKIP() << "no root, no /dev/fuse or no /dev/loop-control here";
  const ScratchFolder scratch;
  EXPECT_TRUE(WIFSIGNALED(status_after(SIGKILL, scratch / "run")));
  EXPECT_TRUE(nothing_left()) << mounts();
}

TEST(Kvtorture, LeavesNothingBehindWhenItIsInterrupted) {
  if (!possible()) GTEST_SKIP() << "no root, no /dev/fuse or no /dev/loop-control here";
  const ScratchFolder scratch;
  const int status = status_after(SIGINT, scratch / "run");
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
  EXPECT_TRUE(nothing_left()) << mounts();
  EXPECT_FALSE(std::filesystem::exists(scratch / "run")) << "the work folder stays behind";
}

TEST(Kvtorture, RefusesWhatPowerDoesNotKnow) {
  const ScratchFolder scratch;
  EXPECT_EQ(kvtorture({"power", "--mutant", "no_such_bug"}, scratch).code, 2);
  EXPECT_EQ(kvtorture({"power", "--fs", "ntfs"}, scratch).code, 2);
}

}  // namespace
}  // namespace kessai::torture
