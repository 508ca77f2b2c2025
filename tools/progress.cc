// SPDX-License-Identifier: Apache-2.0
#include "tools/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "io/env.hpp"
#include "tools/bytes.hpp"
#include "tools/output.hpp"

namespace kessai::tools {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

unsigned terminal_columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string progress_line(std::string_view phase, double fraction, std::string_view note,
                          unsigned columns) {
  fraction = std::clamp(fraction, 0.0, 1.0);
  const std::string tail =
      fmt::format(" {:3.0f} %{}{}", fraction * 100, note.empty() ? "" : "  ", note);
  const std::size_t fixed = display_width(phase) + 3 + display_width(tail);
  const std::size_t cells =
      columns > fixed + 10 ? std::min<std::size_t>(columns - fixed - 1, 40) : 0;
  if (cells == 0) return fmt::format("{}{}", phase, tail);
  const auto full = static_cast<std::size_t>(fraction * static_cast<double>(cells));
  std::string bar(full, '=');
  if (full < cells) bar += '>';
  bar.resize(cells, ' ');
  return fmt::format("{} [{}]{}", phase, bar, tail);
}

ProgressBar::ProgressBar(bool enabled, bool always)
    : enabled_(enabled && is_terminal(STDERR_FILENO)),
      started_ns_(io::system_clock().now_ns()),
      quiet_ns_(always ? 0 : kSecond) {}

ProgressBar::~ProgressBar() { finish(); }

void ProgressBar::update(std::string_view phase, std::uint64_t done, std::uint64_t total,
                         std::string_view note) {
  if (!enabled_) return;
  const std::uint64_t now = io::system_clock().now_ns();
  if (now - started_ns_ < quiet_ns_ || now - drawn_ns_ < kSecond / 10) return;
  drawn_ns_ = now;
  draw(phase, total == 0 ? 0 : static_cast<double>(done) / static_cast<double>(total), note);
}

void ProgressBar::draw(std::string_view phase, double fraction, std::string_view note) {
  const Palette palette = Palette::for_fd(STDERR_FILENO);
  const std::string line = progress_line(printable(phase), fraction, note, terminal_columns());
  std::fputs(fmt::format("\r{}{}{}\x1b[K", palette.bold, line, palette.reset).c_str(), stderr);
  std::fflush(stderr);
  drawn_ = true;
}

void ProgressBar::finish(bool keep) {
  if (drawn_) std::fputs(keep ? "\n" : "\r\x1b[K", stderr);
  drawn_ = false;
}

}  // namespace kessai::tools
