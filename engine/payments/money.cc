// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/money.hpp"

namespace kessai::payments {
namespace {

__extension__ using Wide = __int128;  // products of two amounts fit

constexpr bool digit(char c) { return c >= '0' && c <= '9'; }

// Reads `text` (digits only) onto `value`, downwards: the smallest int64 has no positive twin.
MoneyError take_digits(std::string_view text, std::int64_t& value) noexcept {
  for (const char c : text) {
    if (!digit(c)) return MoneyError::not_a_number;
    if (__builtin_mul_overflow(value, 10, &value) ||
        __builtin_sub_overflow(value, c - '0', &value)) {
      return MoneyError::too_large;
    }
  }
  return MoneyError::none;
}

MoneyError signed_of(bool negative, std::int64_t downwards, std::int64_t& out) noexcept {
  if (negative) {
    out = downwards;
    return MoneyError::none;
  }
  return __builtin_sub_overflow(std::int64_t{0}, downwards, &out) ? MoneyError::too_large
                                                                  : MoneyError::none;
}

// The fraction part/whole of a unit, 0 <= part < whole, behind `even` units: one more of them?
bool rounds_up(Wide part, Wide whole, bool even, Rounding rounding) noexcept {
  switch (rounding) {
    case Rounding::half_up:
      return 2 * part >= whole;
    case Rounding::half_even:
      return 2 * part > whole || (2 * part == whole && !even);
    case Rounding::down:
      return false;
    case Rounding::up:
      return part != 0;
  }
  return false;
}

// The currencies in which the layer takes amounts; more are a matter of adding them here.
constexpr std::string_view kCurrencies[] = {
    "AED", "AUD", "BHD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD",
    "HUF", "IDR", "ILS", "INR", "JOD", "JPY", "KRW", "KWD", "MXN", "MYR", "NOK", "NZD",
    "OMR", "PHP", "PLN", "SAR", "SEK", "SGD", "THB", "TND", "TRY", "TWD", "USD", "ZAR"};

}  // namespace

std::optional<Currency> parse_currency(std::string_view code) noexcept {
  for (const std::string_view known : kCurrencies) {
    if (known == code) return Currency{code[0], code[1], code[2]};
  }
  return std::nullopt;
}

std::optional<Milli> fee_of(Milli amount, const FeeRule& rule, Rounding rounding) noexcept {
  constexpr Wide kMillion = 1'000'000;
  if (rule.unit <= 0) return std::nullopt;
  const Wide exact = static_cast<Wide>(amount) * rule.millionths;  // millionths of a thousandth
  const Wide size = exact < 0 ? -exact : exact;
  const Wide whole = kMillion * rule.unit;
  Wide units = size / whole;
  if (rounds_up(size % whole, whole, units % 2 == 0, rounding)) ++units;
  Wide fee = 0;
  if (__builtin_mul_overflow(exact < 0 ? -units : units, static_cast<Wide>(rule.unit), &fee) ||
      __builtin_add_overflow(fee, static_cast<Wide>(rule.fixed), &fee) || fee < INT64_MIN ||
      fee > INT64_MAX) {
    return std::nullopt;
  }
  return static_cast<Milli>(fee);
}

MoneyError parse_milli(std::string_view text, Milli& out) noexcept {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  const std::size_t point = text.find('.');
  const std::string_view whole = text.substr(0, point);
  const std::string_view decimals =
      point == text.npos ? std::string_view() : text.substr(point + 1);
  if (whole.empty() || (point != text.npos && decimals.empty())) return MoneyError::not_a_number;
  for (const char c : decimals) {
    if (!digit(c)) return MoneyError::not_a_number;
  }
  std::int64_t value = 0;
  if (const auto e = take_digits(whole, value); e != MoneyError::none) return e;
  if (decimals.size() > 3) return MoneyError::too_many_decimals;
  if (const auto e = take_digits(decimals, value); e != MoneyError::none) return e;
  if (const auto e = take_digits(std::string_view("000").substr(decimals.size()), value);
      e != MoneyError::none) {
    return e;
  }
  return signed_of(negative, value, out);
}

MoneyError parse_whole(std::string_view text, std::int64_t& out) noexcept {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  if (text.empty()) return MoneyError::not_a_number;
  std::int64_t value = 0;
  if (const auto e = take_digits(text, value); e != MoneyError::none) return e;
  return signed_of(negative, value, out);
}

std::string format_milli(Milli amount) {
  const bool negative = amount < 0;
  const std::uint64_t n = negative ? std::uint64_t{0} - static_cast<std::uint64_t>(amount)
                                   : static_cast<std::uint64_t>(amount);
  std::string decimals = std::to_string(n % 1000);
  decimals.insert(0, 3 - decimals.size(), '0');
  std::string out(negative ? "-" : "");
  return out.append(std::to_string(n / 1000)).append(".").append(decimals);
}

}  // namespace kessai::payments
