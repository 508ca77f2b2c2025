// SPDX-License-Identifier: Apache-2.0
// A progress bar on standard error: only on a terminal, only once a task has taken longer than a
// second, redrawn at most ten times a second, wiped when done.
// Threads: update() from one thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace kessai::tools {

/// "phase  [======>     ]  42 %  4,200 things" in at most `columns` cells; no escape sequences.
[[nodiscard]] std::string progress_line(std::string_view phase, double fraction,
                                        std::string_view note, unsigned columns);

class ProgressBar {
 public:
  /// `enabled` false: draws nothing. `always`: does not wait for the first second.
  explicit ProgressBar(bool enabled, bool always = false);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(std::string_view phase, std::uint64_t done, std::uint64_t total,
              std::string_view note = {});
  /// Draws the last state and leaves it on screen with a line feed, if anything was ever drawn.
  void finish(bool keep = false);

 private:
  void draw(std::string_view phase, double fraction, std::string_view note);
  bool enabled_;
  bool drawn_ = false;
  std::uint64_t started_ns_;
  std::uint64_t quiet_ns_;
  std::uint64_t drawn_ns_ = 0;
};

}  // namespace kessai::tools
