// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/dates.hpp"

#include <chrono>

namespace kessai::payments {
namespace {

using std::chrono::days;
using std::chrono::sys_days;
using std::chrono::year_month_day;

constexpr Micros kMicrosPerSecond = 1'000'000;
constexpr Micros kMicrosPerDay = 86'400 * kMicrosPerSecond;

// The number of `digits` digits at the start of `text`, which it consumes; -1 when they are not
// there.
int take(std::string_view& text, std::size_t digits) noexcept {
  if (text.size() < digits) return -1;
  int n = 0;
  for (const char c : text.substr(0, digits)) {
    if (c < '0' || c > '9') return -1;
    n = n * 10 + (c - '0');
  }
  text.remove_prefix(digits);
  return n;
}

bool take(std::string_view& text, std::string_view one_of) noexcept {
  if (text.empty() || one_of.find(text[0]) == one_of.npos) return false;
  text.remove_prefix(1);
  return true;
}

std::optional<Day> take_day(std::string_view& text) noexcept {
  const int year = take(text, 4);
  if (year < 1970 || !take(text, "-")) return std::nullopt;
  const int month = take(text, 2);
  if (month < 1 || !take(text, "-")) return std::nullopt;
  const int day = take(text, 2);
  if (day < 1) return std::nullopt;
  const year_month_day date{std::chrono::year(year),
                            std::chrono::month(static_cast<unsigned>(month)),
                            std::chrono::day(static_cast<unsigned>(day))};
  if (!date.ok()) return std::nullopt;
  return static_cast<Day>(sys_days(date).time_since_epoch().count());
}

std::string padded(std::int64_t n, std::size_t width) {
  std::string out = std::to_string(n);
  if (out.size() < width) out.insert(0, width - out.size(), '0');
  return out;
}

}  // namespace

std::optional<Day> parse_day(std::string_view text) noexcept {
  const auto day = take_day(text);
  return text.empty() ? day : std::nullopt;
}

std::optional<Micros> parse_time(std::string_view text) noexcept {
  const auto day = take_day(text);
  if (!day || !take(text, " T")) return std::nullopt;
  const int hour = take(text, 2);
  if (hour < 0 || hour > 23 || !take(text, ":")) return std::nullopt;
  const int minute = take(text, 2);
  if (minute < 0 || minute > 59) return std::nullopt;
  const int second = take(text, ":") ? take(text, 2) : 0;
  if (second < 0 || second > 59 || !text.empty()) return std::nullopt;
  return *day * kMicrosPerDay + (hour * 3600 + minute * 60 + second) * kMicrosPerSecond;
}

Day day_of(Micros time) noexcept {
  return static_cast<Day>(time / kMicrosPerDay - (time % kMicrosPerDay < 0 ? 1 : 0));
}

std::string format_day(Day day) {
  const year_month_day date{sys_days(days(day))};
  return padded(static_cast<int>(date.year()), 4) + "-" +
         padded(static_cast<unsigned>(date.month()), 2) + "-" +
         padded(static_cast<unsigned>(date.day()), 2);
}

std::string format_time(Micros time) {
  const Day day = day_of(time);
  const Micros in_day = time - day * kMicrosPerDay;
  const std::int64_t second = in_day / kMicrosPerSecond;
  std::string out = format_day(day) + "T" + padded(second / 3600, 2) + ":" +
                    padded(second / 60 % 60, 2) + ":" + padded(second % 60, 2);
  if (in_day % kMicrosPerSecond != 0) out.append(".").append(padded(in_day % kMicrosPerSecond, 6));
  return out + "Z";
}

}  // namespace kessai::payments
