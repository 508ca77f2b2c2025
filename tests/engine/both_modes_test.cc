// SPDX-License-Identifier: Apache-2.0
// Goal: a store written by one concurrency build is the other's, too: contents, long values, ghosts
// in the pages, trees that came and went, after a clean close and after kill -9 (then the other
// build's recovery replays this one's log). Method: the two engines cannot live in one process, so
// two programs take turns on one directory; each checks everything the one before left.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "tests/io/temp_dir.hpp"

namespace kessai {
namespace {

struct Turn {
  const char* mode;
  const char* end;
};

class BothModes : public testing::Test {
 protected:
  /// Runs one program and checks how it ended; false: the test has failed.
  void take(const Turn& turn) {
    SCOPED_TRACE(std::string(turn.mode) + " " + turn.end + " after " + std::to_string(steps_) +
                 " steps");
    const std::string program =
        turn.mode == std::string("mvcc") ? KESSAI_MVCC_PROGRAM : KESSAI_S2PL_PROGRAM;
    const std::string steps = std::to_string(steps_), out = directory_.path() + "/out";
    const int code = io::test::in_child([&] {
      const int fd = ::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      if (fd < 0 || ::dup2(fd, STDOUT_FILENO) < 0) return 125;
      ::execl(program.c_str(), program.c_str(), store_.c_str(), steps.c_str(), turn.end,
              static_cast<char*>(nullptr));
      return 126;
    });
    std::stringstream text;
    text << std::ifstream(out).rdbuf();
    const bool killed = turn.end != std::string("close") && turn.end != std::string("read");
    ASSERT_EQ(code, killed ? 1000 + SIGKILL : 0) << text.str();
    std::string mode, clean, ghosts;
    text >> mode >> clean >> ghosts;
    EXPECT_EQ(mode, turn.mode);
    if (steps_ > 0) {
      EXPECT_EQ(clean, clean_ ? "clean=1" : "clean=0");
    }
    const std::string count = ghosts.substr(ghosts.find('=') + 1);
    if (last_ != mode && std::stoul(count) > 0) ++(mode == "mvcc" ? to_mvcc_ : to_s2pl_);
    if (turn.end == std::string("read")) return;
    ++steps_;
    clean_ = !killed;
    last_ = mode;
  }

  io::test::TempDir directory_;
  std::string store_ = directory_.path() + "/store";
  unsigned steps_ = 0;
  bool clean_ = true;
  std::string last_;
  unsigned to_mvcc_ = 0, to_s2pl_ = 0;  ///< handovers with ghosts in the pages
};

TEST_F(BothModes, TakeTurnsOnOneStore) {
  const Turn turns[] = {
      {"mvcc", "close"}, {"s2pl", "close"}, {"mvcc", "kill"},  {"s2pl", "read"},
      {"s2pl", "kill"},  {"mvcc", "read"},  {"mvcc", "cut"},   {"s2pl", "cut"},
      {"mvcc", "cut"},   {"s2pl", "read"},  {"s2pl", "close"}, {"mvcc", "read"},
      {"mvcc", "kill"},  {"s2pl", "cut"},   {"mvcc", "close"}, {"s2pl", "read"},
  };
  for (const Turn& turn : turns) {
    take(turn);
    if (HasFailure()) return;
  }
  EXPECT_EQ(steps_, 11u);
  EXPECT_GT(to_s2pl_, 0u);
  EXPECT_GT(to_mvcc_, 0u);
}

}  // namespace
}  // namespace kessai
