// SPDX-License-Identifier: Apache-2.0
// The text side of kvsh: command lines into words, nothing executed here.
//
//   script  = command { (newline | ";") command }       # at the start of a command = comment
//   command = [ "!" EXIT-CODE | "!*" ] [ "@" SESSION ] word { blank word }
//   word    = "quoted\x00text" | bare                   (bare: no blanks, no ";", no quotes)
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/error.hpp"

namespace kessai::tools {

struct Word {
  std::string text;     ///< as typed, quotes included
  bool quoted = false;  ///< never an option or a command prefix
};

inline constexpr int kAnyCode = -1;

struct Command {
  int expected = 0;                 ///< the exit code that lets a script go on, or kAnyCode
  std::optional<unsigned> session;  ///< @n
  std::vector<Word> words;          ///< never empty
  std::size_t line = 1;             ///< where it starts in the script
};

/// All commands of a script, or the first syntax error with its line. A script with a syntax error
/// runs not even in part.
[[nodiscard]] Result<std::vector<Command>> parse_script(std::string_view text);

}  // namespace kessai::tools
