// SPDX-License-Identifier: Apache-2.0
#include "tools/script.hpp"

#include <fmt/format.h>

#include <charconv>

#include "io/check.hpp"
#include "tools/bytes.hpp"

namespace kessai::tools {
namespace {

constexpr bool blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }
constexpr bool ends_command(char c) { return c == '\n' || c == ';'; }

class Parser {
 public:
  explicit Parser(std::string_view text) : rest_(text) {}

  Result<std::vector<Command>> run() {
    std::vector<Command> commands;
    while (skip_to_command()) {
      KESSAI_ASSIGN(command, parse_command());
      commands.push_back(std::move(command));
    }
    return commands;
  }

 private:
  // Skips blanks, separators and comments; false at the end of the text.
  bool skip_to_command() {
    while (!rest_.empty()) {
      if (rest_[0] == '#') {
        rest_.remove_prefix(std::min(rest_.find('\n'), rest_.size()));
      } else if (blank(rest_[0]) || ends_command(rest_[0])) {
        line_ += rest_[0] == '\n' ? 1 : 0;
        rest_.remove_prefix(1);
      } else {
        return true;
      }
    }
    return false;
  }

  Result<Command> parse_command() {
    Command command;
    command.line = line_;
    for (;;) {
      while (!rest_.empty() && blank(rest_[0])) rest_.remove_prefix(1);
      if (rest_.empty() || ends_command(rest_[0])) break;
      KESSAI_ASSIGN(word, parse_word());
      command.words.push_back(std::move(word));
    }
    KESSAI_TRY(take_prefixes(command));
    if (command.words.empty()) return error("a command is missing after the prefix");
    return command;
  }

  Result<Word> parse_word() {
    Word word;
    std::size_t length = 0;
    if (rest_[0] == '"') {
      word.quoted = true;
      length = quoted_length(rest_);
      if (length == 0) return error("a quote is never closed");
      if (length < rest_.size() && !blank(rest_[length]) && !ends_command(rest_[length])) {
        return error("a blank is missing after a closing quote");
      }
    } else {
      while (length < rest_.size() && !blank(rest_[length]) && !ends_command(rest_[length])) {
        if (rest_[length] == '"')
          return error("a quote in the middle of a word; write the word in quotes, with \\\"");
        ++length;
      }
    }
    word.text = rest_.substr(0, length);
    for (const char c : word.text) line_ += c == '\n' ? 1 : 0;
    rest_.remove_prefix(length);
    return word;
  }

  // "!1", "!*" and "@2" in front of the command.
  Result<void> take_prefixes(Command& command) {
    while (!command.words.empty() && !command.words[0].quoted) {
      const std::string& text = command.words[0].text;
      if (text[0] != '!' && text[0] != '@') break;
      if (text == "!*") {
        command.expected = kAnyCode;
        command.words.erase(command.words.begin());
        continue;
      }
      unsigned number = 0;
      const auto [end, code] = std::from_chars(text.data() + 1, text.data() + text.size(), number);
      if (code != std::errc{} || end != text.data() + text.size() || number > 255) {
        return error(text[0] == '!' ? "! is followed by an exit code, as in: !1 get x"
                                    : "@ is followed by a session number, as in: @1 begin");
      }
      if (text[0] == '!') {
        command.expected = static_cast<int>(number);
      } else {
        command.session = number;
      }
      command.words.erase(command.words.begin());
    }
    return {};
  }

  [[nodiscard]] std::unexpected<Error> error(std::string_view what) const {
    return fail(Code::invalid_argument, fmt::format("line {}: {}", line_, what));
  }

  std::string_view rest_;
  std::size_t line_ = 1;
};

}  // namespace

Result<std::vector<Command>> parse_script(std::string_view text) { return Parser(text).run(); }

}  // namespace kessai::tools
