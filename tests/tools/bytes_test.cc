// SPDX-License-Identifier: Apache-2.0
#include "tools/bytes.hpp"

#include <gtest/gtest.h>

#include <cstdio>

#include "tests/tools/seed.hpp"
#include "tools/script.hpp"

namespace kessai::tools {
namespace {

// What a terminal must never receive.
void expect_safe(const std::string& out) {
  EXPECT_TRUE(is_printable_utf8(out)) << out;
  for (const char c : out) {
    EXPECT_GE(static_cast<unsigned char>(c), 0x20);
    EXPECT_NE(static_cast<unsigned char>(c), 0x7f);
  }
}

void expect_round_trip(const std::string& bytes) {
  const std::string text = format_bytes(bytes);
  expect_safe(text);
  const auto back = parse_bytes(text);
  ASSERT_TRUE(back) << text;
  EXPECT_EQ(*back, bytes) << text;

  const std::string word = format_word(bytes);
  expect_safe(word);
  const auto commands = parse_script("get " + word + " " + word + "; next");
  ASSERT_TRUE(commands) << word;
  ASSERT_EQ(commands->size(), 2u) << word;
  ASSERT_EQ((*commands)[0].words.size(), 3u) << word;
  for (const std::size_t i : {1u, 2u}) {
    const auto pasted = parse_bytes((*commands)[0].words[i].text);
    ASSERT_TRUE(pasted) << word;
    EXPECT_EQ(*pasted, bytes) << word;
  }
}

std::string parsed(std::string_view text) {
  const auto bytes = parse_bytes(text);
  return bytes ? *bytes : "error: " + bytes.error().detail().what;
}

// Goal: the documented input forms mean what they say.
TEST(Bytes, ReadsTheFiveForms) {
  EXPECT_EQ(parsed("word"), "word");
  EXPECT_EQ(parsed(""), "");
  EXPECT_EQ(parsed("two words"), "two words");
  EXPECT_EQ(parsed(R"("text\x00\n")"), std::string("text\0\n", 6));
  EXPECT_EQ(parsed(R"("\"\\\r\t\0")"), std::string("\"\\\r\t\0", 5));
  EXPECT_EQ(parsed("0x6b6579"), "key");
  EXPECT_EQ(parsed("0x6B"), "k");
  EXPECT_EQ(parsed("0x"), "");
  EXPECT_EQ(parsed("b64:a2V5"), "key");
  EXPECT_EQ(parsed("b64:a2U="), "ke");
  EXPECT_EQ(parsed("b64:a2U"), "ke");
  EXPECT_EQ(parsed("b64:_-8"), "\xff\xef");
  EXPECT_EQ(parsed("b64:"), "");
}

// Goal: a form that is begun but not finished is an error, never some other value.
TEST(Bytes, RefusesBrokenForms) {
  for (const char* text :
       {"0x6", "0x6g", "0x 6b", "b64:a", "b64:a2V!", "b64:a2V=x", "b64:a2W", "\"open", "\"a\"b",
        "\"\\q\"", "\"\\x1\"", "\"\\x\"", "\"\\x1g\"", "\"\\\"", "\"", "@", "@/no/such/file"}) {
    EXPECT_FALSE(parse_bytes(text)) << text;
  }
}

TEST(Bytes, ReadsAFileAndBoundsIt) {
  const std::string path = ::testing::TempDir() + "kessai_bytes_test";
  const std::string content("any\0bytes\xff\n", 11);
  std::FILE* file = std::fopen(path.c_str(), "wb");
  ASSERT_NE(file, nullptr);
  std::fwrite(content.data(), 1, content.size(), file);
  std::fclose(file);
  EXPECT_EQ(parsed("@" + path), content);
  ASSERT_EQ(truncate(path.c_str(), (16 << 20) + 1), 0);
  const auto too_large = parse_bytes("@" + path);
  ASSERT_FALSE(too_large);
  EXPECT_EQ(too_large.error().code(), Code::value_too_long);
  EXPECT_EQ(too_large.error().detail().path, path);
  std::remove(path.c_str());
}

// Goal: harmless text stays readable, everything else becomes hex.
TEST(Bytes, PrintsTextAsItselfOnlyWhenHarmless) {
  for (const char* text : {"word", "two words", "536365", "-5", "a'b", "back\\slash",
                           "\xc3\xa9t\xc3\xa9", "\xe6\xb1\xba\xe6\xb8\x88", "b6:", "x.", ""}) {
    EXPECT_EQ(format_bytes(text), text);
  }
  EXPECT_EQ(format_bytes(" a"), "0x2061");
  EXPECT_EQ(format_bytes("a "), "0x6120");
  EXPECT_EQ(format_bytes("0xzz"), "0x30787a7a");
  EXPECT_EQ(format_bytes("b64:"), "0x6236343a");
  EXPECT_EQ(format_bytes("@f"), "0x4066");
  EXPECT_EQ(format_bytes(".x"), "0x2e78");
  EXPECT_EQ(format_bytes("a\"b"), "0x612262");
  EXPECT_EQ(format_bytes("a\x1b[2J"), "0x611b5b324a");
}

// Goal: text that could steer a terminal or fool an eye never gets out as itself.
TEST(Bytes, HidesControlsBidiAndBrokenUtf8) {
  for (const char* text : {"\x7f",
                           "\xc2\x80",
                           "\xc2\x9b"
                           "31m",
                           "\xc2\x85",
                           "\xc2\xa0",
                           "\xc2\xad",  // DEL, C1, NBSP, SHY
                           "\xe2\x80\xae",
                           "\xe2\x80\x8f",
                           "\xe2\x81\xa6",
                           "\xe2\x80\x8b",
                           "\xe2\x80\xa8",  // bidi, ZWSP, LS
                           "\xd8\x9c",
                           "\xef\xbb\xbf",
                           "\xef\xbf\xbe",
                           "\xf3\xa0\x81\x81",
                           "\xe3\x80\x80",  // ALM, BOM, nonchar, tag
                           "\xc0\xaf",
                           "\xe0\x80\xaf",
                           "\xed\xa0\x80",
                           "\xf4\x90\x80\x80",
                           "\xc3",
                           "\xff",
                           "\xe2\x82"}) {
    EXPECT_TRUE(format_bytes(text).starts_with("0x")) << text;
    EXPECT_EQ(printable(text).find(text), std::string::npos);
    expect_safe(printable(text));
    expect_round_trip(std::string("a") + text + "b");
  }
  EXPECT_EQ(printable("ok\xff\n"), "ok\\xff\\x0a");
  EXPECT_EQ(printable("ok\n", true), "ok\n");
}

// Goal: everything printed can be pasted back. Method: all strings of one byte, all of two, every
// byte at the start, middle and end of text, then random strings of all lengths, raw and texty.
TEST(Bytes, RoundTripsEveryByteAndLength) {
  expect_round_trip("");
  for (int a = 0; a < 256; ++a) {
    const std::string one(1, static_cast<char>(a));
    expect_round_trip(one);
    expect_round_trip("text" + one);
    expect_round_trip(one + "text");
    expect_round_trip("te" + one + "xt");
    for (int b = 0; b < 256; ++b) expect_round_trip(one + static_cast<char>(b));
    if (HasFailure()) break;
  }
  for (const char* text : {"!1", "@2", "#", ";", "a;b", "-t", "--limit", "a b", "\\", "a b\\", "\"",
                           "x#", " ", "  ", "\\x00", "get"}) {
    expect_round_trip(text);
  }
  io::SeededRandom random(test_seed());
  constexpr std::string_view kTexty = "ab 09-.@x;!#\"\\b64:0x\n\t";
  for (std::size_t length = 0; length < 300 && !HasFailure(); ++length) {
    expect_round_trip(random_bytes(random, length));
    std::string texty;
    for (std::size_t i = 0; i < length; ++i) texty += kTexty[random.below(kTexty.size())];
    expect_round_trip(texty);
  }
}

// Goal: input never crashes and errors never carry raw bytes. Method: random text over the grammar.
TEST(Bytes, ReadsRandomInputWithoutHarm) {
  io::SeededRandom random(test_seed());
  constexpr std::string_view kPieces[] = {"\"", "\\", "x",  "0x",   "b64:", "0", "a",   "F",
                                          "=",  " ",  "\n", "\xff", ";",    "!", "\\x4"};
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (std::uint64_t n = random.below(8); n-- > 0;)
      text += kPieces[random.below(std::size(kPieces))];
    const auto bytes = parse_bytes(text);
    if (bytes) expect_round_trip(*bytes);
    if (!bytes) expect_safe(bytes.error().detail().what);
    if (HasFailure()) break;
  }
}

TEST(Bytes, CountsColumns) {
  EXPECT_EQ(display_width("abc"), 3u);
  EXPECT_EQ(display_width("\xe6\xb1\xba\xe6\xb8\x88"), 4u);
  EXPECT_EQ(display_width("e\xcc\x81"), 1u);
}

}  // namespace
}  // namespace kessai::tools
