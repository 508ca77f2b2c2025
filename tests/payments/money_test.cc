// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/money.hpp"

#include <gtest/gtest.h>

#include <cstdint>

#include "kessai/payments/dates.hpp"
#include "kessai/payments/request.hpp"

namespace kessai::payments {
namespace {

std::string milli(std::string_view text) {
  Milli out = 0;
  switch (parse_milli(text, out)) {
    case MoneyError::none:
      return std::to_string(out);
    case MoneyError::not_a_number:
      return "not a number";
    case MoneyError::too_many_decimals:
      return "too many decimals";
    case MoneyError::too_large:
      return "too large";
  }
  return "?";
}

TEST(Money, ReadsExactThousandths) {
  EXPECT_EQ(milli("0"), "0");
  EXPECT_EQ(milli("2.55"), "2550");
  EXPECT_EQ(milli("2.5"), "2500");
  EXPECT_EQ(milli("0.001"), "1");
  EXPECT_EQ(milli("-11062.06"), "-11062060");
  EXPECT_EQ(milli("007"), "7000");
  EXPECT_EQ(milli("9223372036854775.807"), "9223372036854775807");
  EXPECT_EQ(milli("-9223372036854775.808"), "-9223372036854775808");
}

TEST(Money, RefusesWhatIsNotExact) {
  EXPECT_EQ(milli("1.2345"), "too many decimals");
  EXPECT_EQ(milli("1.2340"), "too many decimals");
  EXPECT_EQ(milli("9223372036854775.808"), "too large");
  EXPECT_EQ(milli("99999999999999999999999"), "too large");
  for (const char* text : {"", "-", ".", "1.", ".5", "+1", "1e3", " 1", "1 ", "1,5", "--1", "0x1",
                           "1.2.3", "nan", "1.23x4"}) {
    EXPECT_EQ(milli(text), "not a number") << text;
  }
}

TEST(Money, ChecksSumsAndProducts) {
  EXPECT_EQ(add(INT64_MAX, 1), std::nullopt);
  EXPECT_EQ(add(INT64_MIN, -1), std::nullopt);
  EXPECT_EQ(add(INT64_MAX, INT64_MIN), -1);
  EXPECT_EQ(multiply(INT64_MIN, -1), std::nullopt);
  EXPECT_EQ(multiply(-3, 2550), -7650);
}

TEST(Money, PrintsThreeDecimals) {
  EXPECT_EQ(format_milli(0), "0.000");
  EXPECT_EQ(format_milli(-5), "-0.005");
  EXPECT_EQ(format_milli(3706827641), "3706827.641");
  EXPECT_EQ(format_milli(INT64_MIN), "-9223372036854775.808");
}

// Goal: the rule is what it says, at the half and beside it, on both sides of zero.
TEST(Money, RoundsFeesByTheRuleThatIsNamed) {
  // 10 % of 5, 15, 25 and 24 thousandths is 0.5, 1.5, 2.5 and 2.4.
  const FeeRule tenth{.millionths = 100'000};
  const auto fees = [&](Rounding rounding) {
    std::string out;
    for (const Milli amount : {5, 15, 25, 24, -5, -15, -25, -24, 0, 20})
      out += std::to_string(fee_of(amount, tenth, rounding).value()) + " ";
    return out;
  };
  EXPECT_EQ(fees(Rounding::half_up), "1 2 3 2 -1 -2 -3 -2 0 2 ");
  EXPECT_EQ(fees(Rounding::half_even), "0 2 2 2 0 -2 -2 -2 0 2 ");
  EXPECT_EQ(fees(Rounding::down), "0 1 2 2 0 -1 -2 -2 0 2 ");
  EXPECT_EQ(fees(Rounding::up), "1 2 3 3 -1 -2 -3 -3 0 2 ");
  // 3.6 % of 1,000 yen in whole yen, and 40 yen.
  EXPECT_EQ(
      fee_of(1'000'000, {.millionths = 36'000, .fixed = 40'000, .unit = 1000}, Rounding::down),
      76'000);
  EXPECT_EQ(fee_of(1'020'000, {.millionths = 36'000, .unit = 1000}, Rounding::half_even), 37'000);
  EXPECT_EQ(fee_of(INT64_MAX, {.millionths = 1'000'000}, Rounding::up), INT64_MAX);
  EXPECT_EQ(fee_of(INT64_MIN, {.millionths = 1'000'000}, Rounding::up), INT64_MIN);
  EXPECT_EQ(fee_of(INT64_MAX, {.millionths = 1'000'001}, Rounding::down), std::nullopt);
  EXPECT_EQ(fee_of(INT64_MIN, {.millionths = INT64_MIN, .unit = INT64_MAX}, Rounding::up),
            std::nullopt);
  EXPECT_EQ(fee_of(INT64_MAX, {.millionths = 1'000'000, .fixed = 1}, Rounding::down), std::nullopt);
  EXPECT_EQ(fee_of(1, {.millionths = 1, .unit = 0}, Rounding::down), std::nullopt);
}

TEST(Money, KnowsItsCurrencies) {
  EXPECT_EQ(parse_currency("GBP"), kGbp);
  EXPECT_EQ(currency_code(parse_currency("JPY").value()), "JPY");
  for (const char* code : {"", "GB", "gbp", "QQQ", "GBPX", "G\0P"})
    EXPECT_EQ(parse_currency(code), std::nullopt) << code;
}

TEST(Dates, ReadAndPrintUtc) {
  EXPECT_EQ(parse_time("2010-12-01 08:26:00"), Micros{1291191960} * 1'000'000);
  EXPECT_EQ(parse_time("2010-12-01T08:26"), parse_time("2010-12-01 08:26:00"));
  EXPECT_EQ(parse_time("1970-01-01 00:00:00"), 0);
  EXPECT_EQ(format_time(*parse_time("2012-02-29 23:59:59")), "2012-02-29T23:59:59Z");
  EXPECT_EQ(format_time(1), "1970-01-01T00:00:00.000001Z");
  EXPECT_EQ(format_time(-1), "1969-12-31T23:59:59.999999Z");
  EXPECT_EQ(day_of(-1), -1);
  EXPECT_EQ(format_day(*parse_day("2011-05-31")), "2011-05-31");
  for (const char* text :
       {"", "2010-12-01", "2010-13-01 00:00:00", "2011-02-29 00:00:00", "2010-12-01 24:00:00",
        "2010-12-01 08:60:00", "2010-12-01 08:26:60", "2010-12-01 08:26:00Z", "12/1/2010 8:26",
        "2010-12-01  08:26:00", "2010-12-01 8:26:00", "1969-12-31 00:00:00", "2010-12-01 08:26:"}) {
    EXPECT_EQ(parse_time(text), std::nullopt) << text;
  }
  EXPECT_EQ(parse_day("2010-12-01 "), std::nullopt);
}

// Goal: the key's hash is XXH3-64 without seed, big-endian. The value comes from `xxhsum -H3`.
TEST(RequestId, IsTheUnseededHashInFrontOfTheOriginal) {
  EXPECT_EQ(format_request_id(""), "2D06800538D394C2");
  EXPECT_EQ(row_key(""), std::string("\x2d\x06\x80\x05\x38\xd3\x94\xc2", 8));
  EXPECT_EQ(original_id_of(row_key("C536379")), "C536379");
  EXPECT_EQ(row_key("536365").size(), 14u);
  EXPECT_EQ(original_id_of("536365"), "");
  EXPECT_EQ(original_id_of("\x01\x02\x03\x04\x05\x06\x07\x08"
                           "536365"),
            "");
}

TEST(RequestId, TellsKindsByPrefix) {
  EXPECT_EQ(kind_of("536365"), Kind::payment);
  EXPECT_EQ(kind_of("C536379"), Kind::cancellation);
  EXPECT_EQ(kind_of("A563185"), Kind::adjustment);
  EXPECT_EQ(kind_of("c536379"), Kind::adjustment);
}

}  // namespace
}  // namespace kessai::payments
