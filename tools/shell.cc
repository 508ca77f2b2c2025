// SPDX-License-Identifier: Apache-2.0
#include "tools/shell.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "io/check.hpp"
#include "tools/bytes.hpp"
#include "tools/exit_codes.hpp"

namespace kessai::tools {
namespace {

constexpr CommandSpec kCommands[] = {
    {"get", "read", "KEY [--for-update] [WAIT] [--own] [-t TREE]",
     "print the value of KEY; exit 1 when absent", 1, 1, "--for-update --nowait --own", "-t --wait",
     &Session::get, true},
    {"put", "update", "KEY VALUE [WAIT] [--own] [-t TREE]", "write KEY, new or not", 2, 2,
     "--nowait --own", "-t --wait", &Session::put, true},
    {"insert", "", "KEY VALUE [WAIT] [--own] [-t TREE]", "write KEY; exit 1 when it exists", 2, 2,
     "--nowait --own", "-t --wait", &Session::insert, true},
    {"del", "delete", "KEY [WAIT] [--own] [-t TREE]", "remove KEY; exit 1 when absent", 1, 1,
     "--nowait --own", "-t --wait", &Session::del, true},
    {"scan", "", "[FROM [TO)] [--prefix P] [--reverse] [--limit N] [-t TREE]", "rows in key order",
     0, 2, "--reverse", "-t --prefix --limit", &Session::scan, true},
    {"keys", "", "[FROM [TO)] [--prefix P] [--reverse] [--limit N] [-t TREE]", "as scan, keys only",
     0, 2, "--reverse", "-t --prefix --limit", &Session::keys, true},
    {"count", "", "[FROM [TO)] [--prefix P] [-t TREE]", "how many rows", 0, 2, "", "-t --prefix",
     &Session::count, true},
    {"begin", "", "[read_committed|snapshot|serializable] [read_only] [relaxed] [at_commit] [WAIT]",
     "start a transaction; without it every command is its own", 0, 4, "--nowait", "--wait",
     &Session::begin},
    {"commit", "", "", "commit the transaction, durably", 0, 0, "", "", &Session::commit},
    {"rollback", "abort", "[SAVEPOINT]", "undo the transaction, or what came after SAVEPOINT", 0, 1,
     "", "", &Session::rollback},
    {"savepoint", "", "[NAME]", "mark a point to roll back to", 0, 1, "", "", &Session::savepoint,
     true},
    {"lock", "", "NAME [--shared] [WAIT]",
     "lock a name of your choosing to the end of the transaction", 1, 1, "--shared --nowait",
     "--wait", &Session::lock, true},
    {"lock_many", "", "KEY... [WAIT] [-t TREE]",
     "lock rows, present or not, in an order that cannot deadlock", 1, 256, "--nowait", "-t --wait",
     &Session::lock_many, true},
    {"trees", "", "", "all trees with size, depth and fill", 0, 0, "", "", &Session::trees},
    {"create", "", "TREE", "make an empty tree", 1, 1, "", "", &Session::create},
    {"drop", "", "TREE", "remove a tree and all its rows", 1, 1, "", "", &Session::drop},
    {"dump", "", "[TREE...]", "all rows as JSON lines, in tree and key order", 0, 64, "", "",
     &Session::dump, true},
    {"load", "", "FILE",
     "write the rows of a dump; all lines are checked before the first is written", 1, 1, "", "",
     &Session::load},
    {"info", "", "", "what the store is and how it was opened", 0, 0, "", "", &Session::info},
    {"stats", "", "", "counters since open", 0, 0, "", "", &Session::stats},
    {"check", "", "", "verify every page and its owner; exit 4 on damage", 0, 0, "", "",
     &Session::check},
    {"tree", "", "[TREE] [--dot] [--nodes N]",
     "draw the tree: levels, fill, nodes; --dot for Graphviz", 0, 1, "--dot", "-t --nodes",
     &Session::tree},
    {"page", "", "N", "decode one page", 1, 1, "", "", &Session::page},
    {"wal", "", "[--limit N] [--tree TREE] [--key KEY]",
     "records of the log still on disk, oldest first", 0, 0, "", "-t --tree --key --limit",
     &Session::wal},
    {"txns", "", "", "open transactions, oldest first", 0, 0, "", "", &Session::txns},
    {"locks", "", "", "locks, who holds them, who waits for them", 0, 0, "", "", &Session::locks},
    {"undo", "", "", "before-images kept for open snapshots", 0, 0, "", "", &Session::undo},
    {"waits", "", "[--all]", "what was waited for since open", 0, 0, "--all", "", &Session::waits},
    {"deadlocks", "", "[--dot]", "the last deadlocks, oldest first; --dot for Graphviz", 0, 0,
     "--dot", "", &Session::deadlocks},
    {"versions", "", "KEY [-t TREE]", "the versions of a row that are kept, newest first", 1, 1, "",
     "-t", &Session::versions},
    {"help", "?", "[COMMAND]", "this list, or one command", 0, 1, "", "", &Session::help},
    {"exit", "quit", "", "leave", 0, 0, "", "", &Session::quit},
};

bool among(std::string_view list, std::string_view word) {
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find(' ', at), list.size());
    if (list.substr(at, end - at) == word) return true;
    at = end + 1;
  }
  return false;
}

std::unexpected<Error> usage_error(const CommandSpec& spec, std::string_view what) {
  return fail(Code::invalid_argument, fmt::format("{}; usage: {} {}", what, spec.name, spec.usage));
}

}  // namespace

std::span<const CommandSpec> command_table() { return kCommands; }

const CommandSpec* find_command(std::string_view name) {
  for (const CommandSpec& spec : kCommands) {
    if (spec.name == name || among(spec.aliases, name)) return &spec;
  }
  return nullptr;
}

Result<std::string> Arguments::to_bytes(std::string_view text) { return parse_bytes(text); }

std::optional<std::string_view> Arguments::raw(std::string_view option) const {
  const auto it = options.find(option);
  if (it == options.end()) return std::nullopt;
  return it->second;
}

Result<std::string> Arguments::bytes(std::string_view option) const {
  return to_bytes(raw(option).value_or(""));
}

Result<std::uint64_t> Arguments::number(std::string_view option, std::uint64_t otherwise) const {
  const auto text = raw(option);
  if (!text) return otherwise;
  std::uint64_t n = 0;
  const auto [end, code] = std::from_chars(text->data(), text->data() + text->size(), n);
  if (code != std::errc{} || end != text->data() + text->size()) {
    return fail(Code::invalid_argument,
                fmt::format("{} takes a number, not {}", option, printable(*text)));
  }
  return n;
}

Result<LockWait> Arguments::wait() const {
  if (has("--nowait")) return LockWait(kNoWait);
  if (!has("--wait")) return LockWait();
  KESSAI_ASSIGN(ms, number("--wait", 0));
  if (ms > 86'400'000) return fail(Code::invalid_argument, "--wait takes at most a day, in ms");
  return LockWait(std::chrono::milliseconds(ms));
}

Result<Arguments> parse_arguments(const CommandSpec& spec, std::span<const Word> words) {
  Arguments a;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const Word& word = words[i];
    const std::size_t equals =
        word.text.starts_with("--") ? word.text.find('=') : std::string::npos;
    const std::string name = word.text.substr(0, equals);
    if (word.quoted || name.empty() || name[0] != '-') {
      a.positional.push_back(word);
    } else if (among(spec.flags, name) && equals == std::string::npos) {
      a.options.emplace(name, "");
    } else if (among(spec.values, name)) {
      if (equals == std::string::npos && i + 1 == words.size()) {
        return usage_error(spec, fmt::format("{} needs a value", name));
      }
      a.options[name] =
          equals == std::string::npos ? words[++i].text : word.text.substr(equals + 1);
    } else if (name.starts_with("--")) {
      return usage_error(spec,
                         fmt::format("unknown option {} (text that starts with -- goes in quotes)",
                                     printable(name)));
    } else {
      a.positional.push_back(word);  // "-5" is a value like any other
    }
  }
  if (a.positional.size() < spec.min_arguments) return usage_error(spec, "too few arguments");
  if (a.positional.size() > spec.max_arguments) {
    return usage_error(spec, "too many arguments (text with blanks goes in quotes)");
  }
  return a;
}

int Session::run(const Command& command) {
  const auto attempt = [&]() -> Result<int> {
    const std::string& name = command.words[0].text;
    const CommandSpec* spec = command.words[0].quoted ? nullptr : find_command(name);
    if (spec == nullptr) {
      return fail(Code::invalid_argument,
                  fmt::format("unknown command {}; try: help", printable(name)));
    }
    KESSAI_ASSIGN(arguments, parse_arguments(*spec, std::span(command.words).subspan(1)));
    return run_checked(*spec, arguments);
  };
  const Result<int> result = attempt();
  if (result) return *result;
  report(result.error(), printable(command.words[0].text));
  return exit_code(result.error().code());
}

Result<int> Session::run_checked(const CommandSpec& spec, const Arguments& a) {
  const bool own = a.has("--own");
  if (failed_ && !own && spec.in_transaction) {
    return fail(failed_->code(), "the transaction was rolled back by an earlier error");
  }
  Result<int> result = (this->*spec.run)(a);
  if (!result && txn_ && !own && !failed_ && result.error().retryable() &&
      result.error() != Code::lock_timeout) {
    failed_ = result.error();
    // Whatever it answers: the transaction is over, and why is known.
    (void)txn_->rollback();
  }
  return result;
}

void Session::print(std::string_view text) {
  if (number_ == 0) return config_.out(text);
  std::string out;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    out += fmt::format("@{} {}", number_, text.substr(0, end));
    text.remove_prefix(end);
  }
  config_.out(out);
}

void Session::row(Json object) {
  if (number_ != 0) object["session"] = number_;
  config_.out(json_line(object));
}

void Session::done_row(Json object) { config_.json ? row(std::move(object)) : print("ok\n"); }

void Session::report(const Error& error, std::string_view context) {
  const std::string text = render_error(error, config_.json, context);
  if (number_ == 0) return config_.err(text);
  if (!config_.json) return config_.err(fmt::format("@{} {}", number_, text));
  Json object = Json::parse(text);
  object["session"] = number_;
  config_.err(json_line(object));
}

std::vector<std::string> Shell::completions(std::string_view line) {
  const std::size_t command_at =
      std::min(line.find_last_of(';') + 1, line.size());  // npos + 1 == 0
  line.remove_prefix(command_at);
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  const std::size_t last_blank = line.find_last_of(' ');
  const std::string_view stem = last_blank == line.npos ? line : line.substr(last_blank + 1);
  std::vector<std::string> out;
  const auto offer = [&](std::string candidate) {
    if (candidate.starts_with(stem)) out.push_back(std::move(candidate));
  };
  const CommandSpec* spec = find_command(line.substr(0, line.find(' ')));
  if (last_blank == line.npos || (spec != nullptr && spec->name == "help")) {
    for (const CommandSpec& c : kCommands) {
      offer(std::string(c.name));
    }
  } else if (spec != nullptr && stem.starts_with('-')) {
    for (const std::string_view list : {spec->flags, spec->values}) {
      for (std::size_t at = 0; at < list.size();) {
        const std::size_t end = std::min(list.find(' ', at), list.size());
        offer(std::string(list.substr(at, end - at)));
        at = end + 1;
      }
    }
  } else if (spec != nullptr) {
    const std::string_view before = line.substr(0, last_blank);
    const bool tree_wanted = before.ends_with(" -t") || before.ends_with(" --tree") ||
                             spec->name == "drop" || spec->name == "tree" || spec->name == "dump";
    const auto names = tree_wanted ? db_.tree_names() : Result<std::vector<std::string>>();
    if (names) {
      for (const std::string& name : *names) offer(format_word(name));
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

Result<int> Session::help(const Arguments& a) {
  if (!a.positional.empty()) {
    const CommandSpec* spec = find_command(a.positional[0].text);
    if (spec == nullptr) return fail(Code::invalid_argument, "no such command; try: help");
    if (config_.json) {
      row({{"command", spec->name},
           {"aliases", spec->aliases},
           {"usage", spec->usage},
           {"help", spec->help}});
      return kExitOk;
    }
    print(fmt::format("{} {}\n  {}{}{}\n", spec->name, spec->usage, spec->help,
                      spec->aliases.empty() ? "" : "; also: ", spec->aliases));
    return kExitOk;
  }
  if (config_.json) {
    for (const CommandSpec& c : kCommands) {
      row({{"command", c.name}, {"aliases", c.aliases}, {"usage", c.usage}, {"help", c.help}});
    }
    return kExitOk;
  }
  Table table({{"command"}, {"what it does"}});
  for (const CommandSpec& c : kCommands) {
    table.add({fmt::format("{}{}{} {}", c.name, c.aliases.empty() ? "" : "|", c.aliases, c.usage),
               std::string(c.help)});
  }
  print(table.render(config_.palette));
  print(
      "\nBytes: word, \"text\\x00\\n\", 0x6b6579, b64:a2V5, @file. Commands are separated by ; or "
      "a new line;\n"
      "!1 COMMAND expects exit code 1, !* any. @2 COMMAND runs in session 2, a thread of its own.\n"
      "WAIT: --nowait or --wait MS. --own: beside the open transaction, not in it. Writing needs "
      "kvsh --rw.\n");
  return kExitOk;
}

Result<int> Session::quit(const Arguments&) {
  done_ = true;
  return kExitOk;
}

}  // namespace kessai::tools
