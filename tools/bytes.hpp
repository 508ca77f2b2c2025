// SPDX-License-Identifier: Apache-2.0
// Byte strings as people type and read them.
//
// Input:  bare word · "text\x00\n" · 0x6b6579 · b64:a2V5 · @file
// Output: the text itself when it is harmless (printable UTF-8, no quotes, no blanks at the ends,
// no
//         start that means something in the input grammar), otherwise 0x...
//
// Promises
//   * parse_bytes(format_bytes(b)) == b for every byte string; the same for words on a command line
//     (format_word, split into words, parse_word).
//   * Nothing printed can steer a terminal: C0, C1, DEL, bidi and other format controls, line
//     separators, odd blanks and invalid UTF-8 always come out as hex digits.
// No state, no threads.
#pragma once

#include <string>
#include <string_view>

#include "kessai/error.hpp"

namespace kessai::tools {

/// A whole string in the input grammar (the content of a JSON string, one command-line argument).
/// `@file` reads the file, at most `kMaxValueBytes` of it.
[[nodiscard]] Result<std::string> parse_bytes(std::string_view text);

/// Output form of `bytes`; see above.
[[nodiscard]] std::string format_bytes(std::string_view bytes);

/// Output form that is one word of a command line: texts with blanks, `;` or a start that commands
/// read as syntax are put in quotes, the empty string is "".
[[nodiscard]] std::string format_word(std::string_view bytes);

/// Any text (messages, names) made safe for a terminal: unprintable bytes become \xHH, the rest
/// stays. Line feeds stay when `keep_newlines`.
[[nodiscard]] std::string printable(std::string_view text, bool keep_newlines = false);

/// True when every code point of `text` is one that `format_bytes` would print as it is.
[[nodiscard]] bool is_printable_utf8(std::string_view text);

/// Length in bytes of a quoted string at the start of `text` (which starts with `"`), closing quote
/// included; 0 when it never closes.
[[nodiscard]] std::size_t quoted_length(std::string_view text);

/// Columns a printable text takes on a terminal (wide characters take two).
[[nodiscard]] std::size_t display_width(std::string_view text);

}  // namespace kessai::tools
