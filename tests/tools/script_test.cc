// SPDX-License-Identifier: Apache-2.0
#include "tools/script.hpp"

#include <gtest/gtest.h>

#include "tests/tools/seed.hpp"

namespace kessai::tools {
namespace {

// Shows a script's structure in one line: commands in [], words joined by |.
std::string shape(std::string_view text) {
  const auto commands = parse_script(text);
  if (!commands) return "error: " + commands.error().detail().what;
  std::string out;
  for (const Command& c : *commands) {
    out += "[";
    if (c.expected == kAnyCode)
      out += "!* ";
    else if (c.expected != 0)
      out.append("!").append(std::to_string(c.expected)).append(" ");
    if (c.session) out.append("@").append(std::to_string(*c.session)).append(" ");
    for (std::size_t i = 0; i < c.words.size(); ++i) out += (i == 0 ? "" : "|") + c.words[i].text;
    out.append("]").append(std::to_string(c.line));
  }
  return out;
}

TEST(Script, SplitsCommandsAndWords) {
  EXPECT_EQ(shape(""), "");
  EXPECT_EQ(shape(" ; ;\n;"), "");
  EXPECT_EQ(shape("get a"), "[get|a]1");
  EXPECT_EQ(shape("get a;put b c;"), "[get|a]1[put|b|c]1");
  EXPECT_EQ(shape("get a\r\n\n  put b\tc # d\n# get x; y\nquit"), "[get|a]1[put|b|c|#|d]3[quit]5");
  EXPECT_EQ(shape("put \"a;b\" \"c \\\" d\";get x"), "[put|\"a;b\"|\"c \\\" d\"]1[get|x]1");
  EXPECT_EQ(shape("put \"two\nlines\" x\nget y"), "[put|\"two\nlines\"|x]1[get|y]3");
}

TEST(Script, TakesExpectedCodesAndSessions) {
  EXPECT_EQ(shape("!1 get x"), "[!1 get|x]1");
  EXPECT_EQ(shape("@2 put a 1"), "[@2 put|a|1]1");
  EXPECT_EQ(shape("@2 !1 get a; !4 check"), "[!1 @2 get|a]1[!4 check]1");
  EXPECT_EQ(shape("!* @2 get a; @0 !* get b"), "[!* @2 get|a]1[!* @0 get|b]1");
  EXPECT_EQ(shape("\"!1\" x"), "[\"!1\"|x]1");
}

// Goal: a script with a mistake anywhere does not run in part; the mistake is named with its line.
TEST(Script, NamesTheLineOfAMistake) {
  EXPECT_EQ(shape("get a\nput \"b c"), "error: line 2: a quote is never closed");
  EXPECT_EQ(shape("put \"b\"c"), "error: line 1: a blank is missing after a closing quote");
  EXPECT_EQ(shape("put b\"c\""),
            "error: line 1: a quote in the middle of a word; write the word in quotes, with \\\"");
  EXPECT_EQ(shape("\n!x get"), "error: line 2: ! is followed by an exit code, as in: !1 get x");
  EXPECT_EQ(shape("!256 get"), "error: line 1: ! is followed by an exit code, as in: !1 get x");
  EXPECT_EQ(shape("!1"), "error: line 1: a command is missing after the prefix");
  EXPECT_EQ(shape("@file get"),
            "error: line 1: @ is followed by a session number, as in: @1 begin");
}

// Goal: any bytes parse or fail in order, and no word is ever empty.
TEST(Script, SurvivesRandomText) {
  io::SeededRandom random(test_seed());
  constexpr std::string_view kAlphabet = "a\"\\ ;\n!@#1\t\r\xff";
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (std::uint64_t n = random.below(20); n-- > 0;)
      text += kAlphabet[random.below(kAlphabet.size())];
    const auto commands = parse_script(text);
    if (!commands) continue;
    for (const Command& c : *commands) {
      ASSERT_FALSE(c.words.empty()) << text;
      for (const Word& w : c.words) ASSERT_FALSE(w.text.empty()) << text;
    }
  }
}

}  // namespace
}  // namespace kessai::tools
