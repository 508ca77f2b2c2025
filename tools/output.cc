// SPDX-License-Identifier: Apache-2.0
#include "tools/output.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tools/bytes.hpp"

namespace kessai::tools {
namespace {

std::string pad(const std::string& text, std::size_t width, Table::Align align) {
  const std::size_t used = display_width(text);
  const std::string blanks(width > used ? width - used : 0, ' ');
  return align == Table::Align::right ? blanks + text : text + blanks;
}

// "path:offset page N lsn N tree T": whatever of it is known.
std::string where(const Error& error, std::string_view context) {
  const ErrorDetail& d = error.detail();
  std::string out;
  const auto add = [&](const std::string& piece) { out += (out.empty() ? "" : " ") + piece; };
  if (!d.path.empty()) add(printable(d.path) + (d.offset != 0 ? fmt::format(":{}", d.offset) : ""));
  if (d.page != 0) add(fmt::format("page {}", d.page));
  if (d.lsn != 0) add(fmt::format("lsn {}", d.lsn));
  if (!d.tree.empty()) add("tree " + format_word(d.tree));
  if (!d.key.empty()) add("key " + format_word(d.key));
  if (out.empty()) out = printable(context);
  return out;
}

}  // namespace

Sink stdout_sink() {
  return [](std::string_view s) { std::fwrite(s.data(), 1, s.size(), stdout); };
}
Sink stderr_sink() {
  return [](std::string_view s) {
    std::fflush(stdout);
    std::fwrite(s.data(), 1, s.size(), stderr);
  };
}

bool is_terminal(int fd) {
  const char* term = std::getenv("TERM");
  return isatty(fd) == 1 && term != nullptr && std::strcmp(term, "dumb") != 0;
}

Palette Palette::for_fd(int fd) {
  const char* no_color = std::getenv("NO_COLOR");
  if (!is_terminal(fd) || (no_color != nullptr && *no_color != '\0')) return {};
  return {"\x1b[2m", "\x1b[1m", "\x1b[32m", "\x1b[31m", "\x1b[0m"};
}

std::string Table::render(const Palette& palette) const {
  std::vector<std::size_t> widths;
  for (const Column& c : columns_) widths.push_back(display_width(c.title));
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], display_width(row[i]));
  }
  std::string out;
  const auto line = [&](const auto& cell_of, std::string_view on) {
    std::string text;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      text += (i == 0 ? "" : "  ") + pad(cell_of(i), widths[i], columns_[i].align);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    out += fmt::format("{}{}{}\n", on, text, on.empty() ? "" : palette.reset);
  };
  line([&](std::size_t i) { return columns_[i].title; }, palette.dim);
  for (const auto& row : rows_) line([&](std::size_t i) { return row[i]; }, "");
  return out;
}

std::string render_fields(const std::vector<std::pair<std::string, std::string>>& fields) {
  std::size_t width = 0;
  for (const auto& f : fields) width = std::max(width, f.first.size());
  std::string out;
  for (const auto& [name, value] : fields) out += fmt::format("{:<{}}  {}\n", name, width, value);
  return out;
}

std::string grouped(std::uint64_t n) {
  std::string digits = std::to_string(n);
  for (std::size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits;
}

std::string human_bytes(std::uint64_t n) {
  if (n < 1024) return fmt::format("{} B", n);
  const char* const units[] = {"KiB", "MiB", "GiB", "TiB"};
  double v = static_cast<double>(n) / 1024;
  std::size_t u = 0;
  for (; v >= 1024 && u < 3; ++u) v /= 1024;
  return fmt::format("{:.1f} {}", v, units[u]);
}

std::string human_duration(std::chrono::nanoseconds t) {
  const auto us = std::chrono::duration<double, std::micro>(t).count();
  if (us < 1000) return fmt::format("{:.0f} us", us);
  if (us < 10'000) return fmt::format("{:.1f} ms", us / 1000);
  if (us < 1'000'000) return fmt::format("{:.0f} ms", us / 1000);
  return us < 10'000'000 ? fmt::format("{:.1f} s", us / 1e6) : fmt::format("{:.0f} s", us / 1e6);
}

std::string json_line(const Json& object) {
  return object.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

std::string render_error(const Error& error, bool json, std::string_view context) {
  const ErrorDetail& d = error.detail();
  std::string what = printable(d.what.empty() ? std::string(code_name(error.code())) : d.what);
  const char* reason = error.os_error() == 0 ? "" : std::strerror(error.os_error());
  if (what.find(reason) == what.npos)
    what += fmt::format(" (errno {}: {})", error.os_error(), reason);
  const std::string at = where(error, context);
  if (json) {
    return json_line({{"error", code_name(error.code())}, {"what", what}, {"where", at}});
  }
  std::string name(code_name(error.code()));
  std::string out = "error: " + (what == name ? name : name + ": " + what);
  return out + (at.empty() ? "" : " [" + at + "]") + '\n';
}

}  // namespace kessai::tools
