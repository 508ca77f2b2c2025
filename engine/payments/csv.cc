// SPDX-License-Identifier: Apache-2.0
#include "engine/payments/csv.hpp"

namespace kessai::payments {
namespace {

// The length of a line end at `at`: 1 for LF, 2 for CR LF, 0 for none.
std::size_t line_end(std::string_view text, std::size_t at) {
  if (text[at] == '\n') return 1;
  return text[at] == '\r' && at + 1 < text.size() && text[at + 1] == '\n' ? 2 : 0;
}

}  // namespace

CsvRecord parse_csv_record(std::string_view text) {
  CsvRecord record;
  std::string field;
  bool quoted = false;  // the field started with a quote
  bool inside = false;  // ... which is still open
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (inside) {
      if (c != '"') {
        field += c;
      } else if (i + 1 < text.size() && text[i + 1] == '"') {
        field += '"';
        ++i;
      } else {
        inside = false;
      }
    } else if (c == ',') {
      record.fields.push_back(std::move(field));
      field.clear();
      quoted = false;
    } else if (const std::size_t end = line_end(text, i); end != 0) {
      record.fields.push_back(std::move(field));
      record.length = i + end;
      record.status = CsvStatus::ok;
      return record;
    } else if (c == '"' && field.empty() && !quoted) {
      quoted = inside = true;
    } else if (quoted && !(c == '\r' && i + 1 == text.size())) {
      record.status = CsvStatus::broken;
      return record;
    } else {
      field += c;  // a quote inside an unquoted field is a character like any other
    }
  }
  return record;
}

}  // namespace kessai::payments
