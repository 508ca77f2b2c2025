// SPDX-License-Identifier: Apache-2.0
/// @file
/// Dates of payment rows: UTC microseconds since 1970 and days since 1970.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kessai::payments {

using Micros = std::int64_t;
using Day = std::int32_t;

/// "2010-12-01 08:26:00" (a T between them and a missing ":00" are fine), years 1970..9999.
[[nodiscard]] std::optional<Micros> parse_time(std::string_view text) noexcept;
/// "2010-12-01".
[[nodiscard]] std::optional<Day> parse_day(std::string_view text) noexcept;
[[nodiscard]] Day day_of(Micros time) noexcept;
/// Days that rows can be stored for: years 1970 to 9999. Clocks can jump further.
inline constexpr Day kFirstDay = 0, kLastDay = 2932896;
[[nodiscard]] inline bool storable(Day day) noexcept { return day >= kFirstDay && day <= kLastDay; }
[[nodiscard]] inline bool storable(Micros time) noexcept { return storable(day_of(time)); }
/// "2010-12-01T08:26:00Z", with microseconds when there are any.
[[nodiscard]] std::string format_time(Micros time);
[[nodiscard]] std::string format_day(Day day);

}  // namespace kessai::payments
