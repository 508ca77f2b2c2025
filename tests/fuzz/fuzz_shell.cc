// SPDX-License-Identifier: Apache-2.0
// kvsh's parser and escaper: any text is a script or a syntax error; any byte string printed can be
// pasted back, alone and as a word of a script; nothing printed can steer a terminal.
//
//   input := text
#include "tests/fuzz/fuzz.hpp"
#include "tools/bytes.hpp"
#include "tools/script.hpp"

namespace kessai::fuzz {
namespace {

void expect_tame(std::string_view text) {
  expect(tools::is_printable_utf8(text), "unprintable bytes are printed");
  for (const char c : text)
    expect(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, "a control byte is printed");
}

void escape(const std::string& bytes) {
  const std::string alone = tools::format_bytes(bytes), word = tools::format_word(bytes);
  expect_tame(alone);
  expect_tame(word);
  expect(tools::parse_bytes(alone) == bytes, "what is printed does not read back: " + alone);
  const auto script = tools::parse_script("put " + word + " x; get " + word);
  expect(script && script->size() == 2 && (*script)[0].words.size() == 3,
         "what is printed is no word of a script: " + word);
  expect(tools::parse_bytes((*script)[0].words[1].text) == bytes,
         "a word does not read back: " + word);
  (void)tools::display_width(word);
  expect_tame(tools::printable(bytes));
}

void parse(std::string_view text) {
  const auto script = tools::parse_script(text);
  if (!script) return expect(!script.error().message().empty(), "a syntax error without a word");
  std::size_t line = 1;
  for (const tools::Command& command : *script) {
    expect(!command.words.empty(), "a command without words");
    expect(command.line >= line, "lines go backwards");
    line = command.line;
    for (const tools::Word& word : command.words) {
      if (word.text.starts_with('@')) continue;  // would read a file
      const auto bytes = tools::parse_bytes(word.text);
      if (bytes) escape(*bytes);
    }
  }
}

}  // namespace
}  // namespace kessai::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kessai::fuzz;
  const std::string text(Input(data, size).text());
  escape(text);
  parse(text);
  return 0;
}
