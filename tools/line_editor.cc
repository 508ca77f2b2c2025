// SPDX-License-Identifier: Apache-2.0
#include "tools/line_editor.hpp"

#include <fcntl.h>
#include <histedit.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "tools/interrupt.hpp"

namespace kessai::tools {
namespace {

constexpr int kHistoryLines = 1000;

// Opens the history for reading and appending; -1 when it is not a private file of ours.
int open_history(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return -1;
  struct stat s{};
  const bool ours =
      fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_uid == geteuid() && (s.st_mode & 077) == 0;
  if (ours) return fd;
  ::close(fd);
  return -1;
}

}  // namespace

struct LineEditor::State {
  Hooks hooks;
  EditLine* editor = nullptr;
  History* history = nullptr;
  std::FILE* file = nullptr;
  std::string prompt;

  void remember(const char* line) const {
    HistEvent event;
    ::history(history, &event, H_ENTER, line);
  }

  static State& of(EditLine* e) {
    void* data = nullptr;
    el_get(e, EL_CLIENTDATA, &data);
    return *static_cast<State*>(data);
  }
  static char* show_prompt(EditLine* e) { return of(e).prompt.data(); }

  static unsigned char complete(EditLine* e, wint_t) {
    const LineInfo* info = el_line(e);
    const std::string_view line(info->buffer,
                                static_cast<std::size_t>(info->cursor - info->buffer));
    const std::vector<std::string> candidates = of(e).hooks.complete(line);
    if (candidates.empty()) return CC_REFRESH_BEEP;
    const std::size_t typed = line.size() - (line.find_last_of(' ') + 1);
    const std::string more =
        common_start(candidates).substr(std::min(typed, common_start(candidates).size())) +
        (candidates.size() == 1 ? " " : "");
    if (!more.empty() && el_insertstr(e, more.c_str()) == 0) return CC_REFRESH;
    std::fputc('\n', stdout);
    for (const std::string& c : candidates) std::printf("%s  ", c.c_str());
    std::fputc('\n', stdout);
    return CC_REDISPLAY;
  }
};

LineEditor::LineEditor(Hooks hooks, std::string history_file) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.hooks = std::move(hooks);
  s.editor = el_init("kvsh", stdin, stdout, stderr);
  s.history = history_init();
  HistEvent event;
  history(s.history, &event, H_SETSIZE, kHistoryLines);
  history(s.history, &event, H_SETUNIQUE, 1);
  el_set(s.editor, EL_CLIENTDATA, &s);
  el_set(s.editor, EL_PROMPT, &State::show_prompt);
  el_set(s.editor, EL_EDITOR, "emacs");
  el_set(s.editor, EL_HIST, history, s.history);
  // The wide form: the narrow one leaks its two strings.
  el_wset(s.editor, EL_ADDFN, L"kvsh-complete", L"complete commands, options and trees",
          &State::complete);
  el_set(s.editor, EL_BIND, "^I", "kvsh-complete", nullptr);
  el_set(s.editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  const int fd = history_file.empty() ? -1 : open_history(history_file);
  if (fd < 0) return;
  s.file = fdopen(fd, "a+");
  std::rewind(s.file);
  char* line = nullptr;
  std::size_t capacity = 0;
  while (getline(&line, &capacity, s.file) > 0) s.remember(line);
  std::free(line);
}

LineEditor::~LineEditor() {
  if (state_->file != nullptr) std::fclose(state_->file);
  el_end(state_->editor);
  history_end(state_->history);
}

std::optional<std::string> LineEditor::next() {
  State& s = *state_;
  s.prompt = s.hooks.prompt();
  int length = 0;
  const char* typed = el_gets(s.editor, &length);
  if (interrupted()) {
    clear_interrupt();
    el_reset(s.editor);
    std::fputc('\n', stdout);
    return std::string();
  }
  if (typed == nullptr || length <= 0) return std::nullopt;
  std::string line(typed, static_cast<std::size_t>(length));
  const bool blank = line.find_first_not_of(" \t\r\n") == std::string::npos;
  if (!blank) s.remember(line.c_str());
  if (!blank && s.file != nullptr && line[0] != ' ' && s.hooks.remember(line)) {
    std::fputs(line.c_str(), s.file);
    std::fflush(s.file);
  }
  return line;
}

std::string default_history_file() {
  if (const char* named = std::getenv("KVSH_HISTORY")) return named;
  const char* home = std::getenv("HOME");
  return home == nullptr || *home == '\0' ? std::string() : std::string(home) + "/.kvsh_history";
}

std::string common_start(const std::vector<std::string>& candidates) {
  if (candidates.empty()) return {};
  std::string start = candidates[0];
  for (const std::string& c : candidates) {
    const auto end = std::mismatch(start.begin(), start.end(), c.begin(), c.end()).first;
    start.erase(end, start.end());
  }
  return start;
}

}  // namespace kessai::tools
