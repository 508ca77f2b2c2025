// SPDX-License-Identifier: Apache-2.0
// Text sessions: tests/data/*.session hold what is typed and what kvsh answers, run through kvsh's
// own parser and command table.
//
//   # comment            kept
//   > COMMAND            typed; what follows up to the next > is the answer, stdout and stderr
//   % rw | ro            close the store and open it again, for writing or for reading
//   % json | text        form of the answers
//   % complete LINE      what Tab offers
//
// A command that fails must say so (!1 get x); otherwise the test fails, even under --rewrite, so
// that a rewrite cannot make an error the expected answer. `test_tools_session --rewrite` refreshes
// the answers: review the difference as code.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "tests/tools/card_numbers.hpp"
#include "tools/shell.hpp"

namespace kessai::tools {
namespace {

namespace fs = std::filesystem;
bool g_rewrite = false;

// LSNs, times and the like are not the sessions' business, nor which build they run in.
std::string normalised(const std::string& text) {
  static const std::regex numbers(
      R"rx(("lsn":|"snapshot":|"end":|"transaction":|"thread":|"id":|"snapshot_lsn":|"\w+_us":|"\w+_bytes":|"root_blockers":\[|"victim":|"work":|\btransaction |\blsn )[0-9]+)rx");
  static const std::regex mode(R"rx(, runs as serializable \(s2pl\))rx");
  static const std::regex level(R"rx("runs_as":"\w+")rx");
  return std::regex_replace(std::regex_replace(std::regex_replace(text, numbers, "$1N"), mode, ""),
                            level, "\"runs_as\":\"L\"");
}

class Typist {
 public:
  explicit Typist(std::string store) : store_(std::move(store)) { reopen(true); }
  ~Typist() {
    if (shell_) shell_->close();
  }

  // The answer to one line of a session file, and whether it ended as it said.
  std::string answer(const std::string& line, bool& as_expected) {
    output_.clear();
    as_expected = true;
    if (line.starts_with("% complete ")) {
      for (const std::string& c : shell_->completions(line.substr(11))) output_ += c + "\n";
    } else if (line == "% json" || line == "% text") {
      json_ = line == "% json";
      reopen(writable_);
    } else if (line == "% rw" || line == "% ro") {
      reopen(line == "% rw");
    } else if (line.starts_with("> ")) {
      as_expected = shell_->run_lines(line.substr(2)) == 0;
    } else {
      as_expected = false;
    }
    return normalised(output_);
  }

 private:
  void reopen(bool writable) {
    if (shell_) shell_->close();
    shell_.reset();
    writable_ = writable;
    auto db = Database::open(store_, {.memory = 8_MiB, .create = writable, .read_only = !writable});
    ASSERT_TRUE(db) << db.error().message();
    const auto main_tree =
        writable ? db->tree("main", {.create = true}) : Result<Tree>();  // as kvsh --create does
    ASSERT_TRUE(main_tree);
    const auto collect = [this](std::string_view s) { output_ += s; };
    shell_.emplace(
        std::move(*db),
        ShellConfig{.json = json_, .writable = writable, .out = collect, .err = collect});
  }

  std::string store_;
  std::string output_;
  bool json_ = false, writable_ = true;
  std::optional<Shell> shell_;
};

class SessionFile : public ::testing::TestWithParam<std::string> {};

TEST_P(SessionFile, AnswersAsRecorded) {
  const fs::path path = fs::path(KESSAI_TEST_DATA) / (GetParam() + ".session");
  std::string pattern = ::testing::TempDir() + "kessai_sessionXXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  std::string expected, actual, line;
  {
    std::ifstream file(path);
    std::stringstream all;
    all << file.rdbuf();
    expected = all.str();
    Typist session(pattern + "/store");
    for (std::istringstream in(expected); std::getline(in, line);) {
      if (line.starts_with('#')) actual += line + "\n";
      if (line.empty() && (actual.empty() || actual.ends_with("\n"))) actual += "\n";
      if (!line.starts_with("> ") && !line.starts_with("% ")) continue;
      bool as_expected = true;
      const std::string answer = session.answer(line, as_expected);
      EXPECT_TRUE(as_expected) << path << ": " << line << "\nanswered\n" << answer;
      actual += line + "\n" + answer;
    }
  }
  expect_no_card_numbers(pattern);
  fs::remove_all(pattern);
  if (g_rewrite && !HasFailure()) {
    std::ofstream(path) << actual;
  } else {
    EXPECT_EQ(expected, actual) << path;
  }
}

std::vector<std::string> session_files() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(KESSAI_TEST_DATA)) {
    if (entry.path().extension() == ".session") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(Data, SessionFile, ::testing::ValuesIn(session_files()),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace kessai::tools

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i)
    kessai::tools::g_rewrite |= std::string_view(argv[i]) == "--rewrite";
  return RUN_ALL_TESTS();
}
