// SPDX-License-Identifier: Apache-2.0
/// @file
/// Money: signed 64-bit integers in thousandths of the currency's unit. Every sum and product is
/// checked; no floating point anywhere near an amount.
#pragma once

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

enum class MoneyError : std::uint8_t { none, not_a_number, too_many_decimals, too_large };

/// "-12.345": an optional minus, digits, at most three decimals. Nothing else, no blanks.
[[nodiscard]] MoneyError parse_milli(std::string_view text, Milli& out) noexcept;
/// A whole number with an optional minus.
[[nodiscard]] MoneyError parse_whole(std::string_view text, std::int64_t& out) noexcept;

/// "-12.345", always three decimals.
[[nodiscard]] std::string format_milli(Milli amount);

}  // namespace kessai::payments
