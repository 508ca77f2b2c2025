// SPDX-License-Identifier: Apache-2.0
/// @file
/// One CSV record at a time (RFC 4180, strict about quotes, bytes kept as they are).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace kessai::payments {

enum class CsvStatus : unsigned char { ok, broken, incomplete };

struct CsvRecord {
  CsvStatus status = CsvStatus::incomplete;
  std::size_t length = 0;  ///< bytes of the record, line end included; only when ok
  std::vector<std::string> fields;
};

/// Parses the record at the start of `text`. `incomplete`: the text ends before the record does
/// (no line end yet, or an open quote). `broken`: text after a closing quote.
[[nodiscard]] CsvRecord parse_csv_record(std::string_view text);

}  // namespace kessai::payments
