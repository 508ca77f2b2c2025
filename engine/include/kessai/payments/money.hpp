// SPDX-License-Identifier: Apache-2.0
/// @file
/// Money: signed 64-bit integers in thousandths of the currency's unit. Every sum and product is
/// checked; no floating point anywhere near an amount.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kessai::payments {

/// An amount in thousandths.
using Milli = std::int64_t;

/// Nothing when the result does not fit.
[[nodiscard]] constexpr std::optional<Milli> add(Milli a, Milli b) noexcept {
  Milli out = 0;
  if (__builtin_add_overflow(a, b, &out)) return std::nullopt;
  return out;
}
[[nodiscard]] constexpr std::optional<Milli> multiply(std::int64_t quantity, Milli price) noexcept {
  Milli out = 0;
  if (__builtin_mul_overflow(quantity, price, &out)) return std::nullopt;
  return out;
}

/// An ISO 4217 code, for example {'G','B','P'}.
using Currency = std::array<char, 3>;
inline constexpr Currency kGbp{'G', 'B', 'P'};
/// Nothing for a code that is not in the list of money.cc.
[[nodiscard]] std::optional<Currency> parse_currency(std::string_view code) noexcept;
[[nodiscard]] inline std::string_view currency_code(const Currency& c) noexcept {
  return {c.data(), c.size()};
}

/// How a fraction of the smallest amount is rounded: away from zero from the half on, to the even
/// neighbour at the half (unbiased), toward zero, or away from zero.
enum class Rounding : std::uint8_t { half_up, half_even, down, up };

/// A fee: `millionths` of the amount (36000 = 3.6 %) rounded to a whole number of `unit`
/// thousandths (10 = pence), plus a fixed part.
struct FeeRule {
  std::int64_t millionths = 0;
  Milli fixed = 0;
  Milli unit = 1;
};
/// Nothing when it does not fit, or `unit` is not positive.
[[nodiscard]] std::optional<Milli> fee_of(Milli amount, const FeeRule& rule,
                                          Rounding rounding) noexcept;

enum class MoneyError : std::uint8_t { none, not_a_number, too_many_decimals, too_large };

/// "-12.345": an optional minus, digits, at most three decimals. Nothing else, no blanks.
[[nodiscard]] MoneyError parse_milli(std::string_view text, Milli& out) noexcept;
/// A whole number with an optional minus.
[[nodiscard]] MoneyError parse_whole(std::string_view text, std::int64_t& out) noexcept;

/// "-12.345", always three decimals.
[[nodiscard]] std::string format_milli(Milli amount);

}  // namespace kessai::payments
