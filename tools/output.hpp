// SPDX-License-Identifier: Apache-2.0
// Where the tools print: JSON objects one per line or aligned tables for people, and errors.
// Sinks are functions so that tests and text sessions capture what a terminal would show.
#pragma once

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/error.hpp"

namespace kessai::tools {

using Json = nlohmann::ordered_json;
using Sink = std::function<void(std::string_view)>;

[[nodiscard]] Sink stdout_sink();
[[nodiscard]] Sink stderr_sink();

/// True when `fd` is a terminal that understands cursor movement.
[[nodiscard]] bool is_terminal(int fd);

/// Escape sequences for a terminal, empty strings for anything else or under NO_COLOR.
struct Palette {
  std::string_view dim, bold, good, bad, reset;
  [[nodiscard]] static Palette for_fd(int fd);
};

/// A table for people: columns as wide as their widest cell, numbers to the right.
class Table {
 public:
  enum class Align : bool { left, right };
  struct Column {
    std::string title;
    Align align = Align::left;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  [[nodiscard]] bool empty() const { return rows_.empty(); }
  [[nodiscard]] std::string render(const Palette& palette = {}) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// Name and value lines with the values in one column.
[[nodiscard]] std::string render_fields(
    const std::vector<std::pair<std::string, std::string>>& fields);

/// "12,345", "1.2 MiB", and "850 us", "3.4 ms" or "12 s".
[[nodiscard]] std::string grouped(std::uint64_t n);
[[nodiscard]] std::string human_bytes(std::uint64_t n);
[[nodiscard]] std::string human_duration(std::chrono::nanoseconds t);

/// One object on one line. Strings that are not UTF-8 never get here: keys and values go through
/// format_bytes first, everything else through printable().
[[nodiscard]] std::string json_line(const Json& object);

/// The error line: {"error","what","where"} or "error: ...".
[[nodiscard]] std::string render_error(const Error& error, bool json,
                                       std::string_view context = {});

}  // namespace kessai::tools
