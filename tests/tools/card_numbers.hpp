// SPDX-License-Identifier: Apache-2.0
// A tripwire: does a file hold what looks like a card number? The payments layer stores tokens
// only. The folders of the tests (ScratchFolder, TempDir) look through everything that is in them
// before they are removed, so that no test of the whole run leaves one anywhere.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace kessai::tools {

/// True for digits whose Luhn sum is right.
[[nodiscard]] inline bool luhn(std::string_view digits) {
  int sum = 0;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    const int d = digits[digits.size() - 1 - i] - '0';
    sum += i % 2 == 0 ? d : d < 5 ? 2 * d : 2 * d - 9;
  }
  return sum % 10 == 0;
}

/// True inside 0x..., the form in which the tools print bytes.
[[nodiscard]] inline bool in_hex(std::string_view bytes, std::size_t at) {
  constexpr std::string_view kHex = "0123456789abcdefABCDEF";
  while (at > 0 && kHex.find(bytes[at - 1]) != kHex.npos) --at;
  return at > 1 && bytes[at - 1] == 'x' && bytes[at - 2] == '0';
}

/// The first card number in `bytes`, empty when there is none: 15 or 16 digits as the brands issue
/// them (3 to 6 in front; 15 for 34 and 37), alone or in groups parted by one blank or dash, with a
/// right Luhn sum, and no digit or decimal point before, and no digit behind.
[[nodiscard]] inline std::string find_card_number(std::string_view bytes) {
  const auto digit = [&](std::size_t i) {
    return i < bytes.size() && bytes[i] >= '0' && bytes[i] <= '9';
  };
  const auto part = [&](std::size_t i) {
    return digit(i) || (i < bytes.size() && (bytes[i] == ' ' || bytes[i] == '-'));
  };
  constexpr std::size_t kSkip = 8;  // less than a number has bytes
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    while (i + kSkip <= bytes.size() && !part(i + kSkip - 1)) i += kSkip;
    if (!digit(i) || (i != 0 && (digit(i - 1) || bytes[i - 1] == '.'))) continue;
    std::string number;
    std::size_t end = i;
    while (digit(end) ||
           (end < bytes.size() && (bytes[end] == ' ' || bytes[end] == '-') && digit(end + 1))) {
      if (digit(end)) number += bytes[end];
      ++end;
    }
    const bool amex = number.starts_with("34") || number.starts_with("37");
    const bool shaped = !number.empty() && number[0] >= '3' && number[0] <= '6' &&
                        number.size() == (amex ? 15u : 16u);
    if (shaped && luhn(number) && !in_hex(bytes, i)) return number;
    i = end;
  }
  return {};
}

/// The first card number in a file, in pieces that overlap.
[[nodiscard]] inline std::string find_card_number_in(const std::filesystem::path& file) {
  constexpr std::size_t kPiece = 1 << 20, kOverlap = 64;
  std::ifstream in(file, std::ios::binary);
  std::string bytes;
  for (;;) {
    const std::size_t had = bytes.size();
    bytes.resize(had + kPiece);
    in.read(bytes.data() + had, kPiece);
    bytes.resize(had + static_cast<std::size_t>(in.gcount()));
    if (auto found = find_card_number(bytes); !found.empty()) return found;
    if (in.gcount() == 0) return {};
    if (bytes.size() > kOverlap) bytes.erase(0, bytes.size() - kOverlap);
  }
}

/// No file below `folder` may hold one.
inline void expect_no_card_numbers(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  for (fs::recursive_directory_iterator at(folder, ignored), end; !ignored && at != end;
       at.increment(ignored)) {
    if (!at->is_regular_file(ignored)) continue;
    EXPECT_EQ(find_card_number_in(at->path()), "") << at->path();
  }
}

}  // namespace kessai::tools
