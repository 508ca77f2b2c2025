// SPDX-License-Identifier: Apache-2.0
// Runs the tools as users do: as processes.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/tools/card_numbers.hpp"

namespace kessai::tools {

using Json = nlohmann::ordered_json;

/// A fresh folder, removed at the end. In $TMPDIR or /var/tmp: /tmp may be no disk.
class ScratchFolder {
 public:
  ScratchFolder() {
    const char* base = std::getenv("TMPDIR");
    path_ =
        std::string(base == nullptr || *base == '\0' ? "/var/tmp" : base) + "/kessai-testXXXXXX";
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~ScratchFolder() {
    expect_no_card_numbers(path_);
    std::filesystem::remove_all(path_);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  [[nodiscard]] std::string operator/(std::string_view name) const {
    return path_ + "/" + std::string(name);
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void spill(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary)
      .write(text.data(), static_cast<std::streamsize>(text.size()));
}

/// A started process; its stdout and stderr go to files. Killed when forgotten.
class Process {
 public:
  Process(const std::vector<std::string>& words, const ScratchFolder& scratch,
          std::string_view input = {})
      : out_(scratch / "stdout"), err_(scratch / "stderr") {
    const std::string in = scratch / "stdin";
    spill(in, input);
    std::vector<char*> argv;
    for (const std::string& w : words) argv.push_back(const_cast<char*>(w.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, in.c_str(), O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, out_.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, err_.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &files, nullptr, argv.data(), environ), 0) << words[0];
    posix_spawn_file_actions_destroy(&files);
  }
  ~Process() {
    if (pid_ > 0) kill_now();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  /// Waits at most `ms` for its end; true when it ended.
  bool ended_within(int ms) {
    const int fd = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
    pollfd p{fd, POLLIN, 0};
    const bool ended = poll(&p, 1, ms) == 1;
    close(fd);
    return ended;
  }
  /// SIGKILL; true when that is what ended it.
  bool kill_now() {
    kill(pid_, SIGKILL);
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  }
  void send(int signal) const { kill(pid_, signal); }
  /// Waits until it stopped itself (SIGSTOP); false when it ended instead.
  bool wait_stopped() {
    int status = 0;
    waitpid(pid_, &status, WUNTRACED);
    if (WIFSTOPPED(status)) return true;
    pid_ = -1;
    return false;
  }
  /// Its exit code; 128 + signal when a signal ended it.
  int wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  [[nodiscard]] std::string out() const { return slurp(out_); }
  [[nodiscard]] std::string err() const { return slurp(err_); }

 private:
  pid_t pid_ = -1;
  std::string out_, err_;
};

struct Ran {
  int code = 0;
  std::string out, err;
  /// stdout as JSON lines; a line that is none fails the test.
  [[nodiscard]] std::vector<Json> rows() const {
    std::vector<Json> rows;
    std::istringstream in(out);
    for (std::string line; std::getline(in, line);) {
      rows.push_back(Json::parse(line, nullptr, false));
      EXPECT_TRUE(rows.back().is_object()) << line;
    }
    return rows;
  }
  [[nodiscard]] Json row() const {
    const auto all = rows();
    EXPECT_EQ(all.size(), 1u) << out << err;
    return all.empty() ? Json() : all[0];
  }
};

/// Runs to the end.
inline Ran run(const std::vector<std::string>& words, const ScratchFolder& scratch,
               std::string_view input = {}) {
  Process process(words, scratch, input);
  const int code = process.wait();
  return {code, process.out(), process.err()};
}

}  // namespace kessai::tools
