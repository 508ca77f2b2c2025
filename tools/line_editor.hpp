// SPDX-License-Identifier: Apache-2.0
// Lines from a person: editing, history and completion by libedit. Only for terminals.
//
// The history file (0600, ours, not a link) keeps commands that read; lines that write carry
// values and stay out of it, as do lines that start with a blank.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kessai::tools {

class LineEditor {
 public:
  struct Hooks {
    std::function<std::string()> prompt;
    std::function<std::vector<std::string>(std::string_view line)> complete;
    std::function<bool(std::string_view line)> remember;  ///< may go to the history file
  };
  LineEditor(Hooks hooks, std::string history_file);  ///< no file: history lives in memory
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  /// The next line; nullopt at the end of input. After Ctrl-C an empty line.
  [[nodiscard]] std::optional<std::string> next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// $KVSH_HISTORY (empty: none), else ~/.kvsh_history.
[[nodiscard]] std::string default_history_file();

/// The longest start that all candidates share.
[[nodiscard]] std::string common_start(const std::vector<std::string>& candidates);

}  // namespace kessai::tools
