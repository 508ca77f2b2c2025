// SPDX-License-Identifier: Apache-2.0
// A tripwire: does a file hold what looks like a card number? The payments layer stores tokens
// only.
#pragma once

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
  for (std::size_t i = 0; i < bytes.size(); ++i) {
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

}  // namespace kessai::tools
