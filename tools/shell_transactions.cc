// SPDX-License-Identifier: Apache-2.0
// kvsh commands that begin, mark and end transactions, and those that lock.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "io/check.hpp"
#include "tools/bytes.hpp"
#include "tools/exit_codes.hpp"
#include "tools/session.hpp"

namespace kessai::tools {
namespace {

constexpr std::pair<std::string_view, Isolation> kLevels[] = {
    {"read_committed", Isolation::read_committed},
    {"snapshot", Isolation::snapshot},
    {"serializable", Isolation::serializable},
};

}  // namespace

std::optional<Isolation> parse_level(std::string_view word) {
  for (const auto& [name, level] : kLevels) {
    if (name == word) return level;
  }
  return std::nullopt;
}

std::string_view level_name(Isolation level) {
  for (const auto& [name, named] : kLevels) {
    if (named == level) return name;
  }
  return "?";
}

Result<int> Session::begin(const Arguments& a) {
  KESSAI_TRY(require_no_transaction());
  KESSAI_ASSIGN(wait, a.wait());
  BeginOptions options{
      .isolation = config_.isolation, .read_only = !config_.writable, .lock_timeout = wait};
  for (const Word& word : a.positional) {
    if (const auto level = parse_level(word.text)) {
      options.isolation = *level;
    } else if (word.text == "read_only") {
      options.read_only = true;
    } else if (word.text == "relaxed") {
      options.durability = Durability::relaxed;
    } else if (word.text == "at_commit") {
      options.locking = Locking::at_commit;
    } else {
      return fail(
          Code::invalid_argument,
          fmt::format("{} is no level and no option; see: help begin", printable(word.text)));
    }
  }
  if (config_.writable) KESSAI_TRY(db_.tree("main", {.create = true}));
  KESSAI_ASSIGN(txn, db_.begin(options));
  txn_.emplace(std::move(txn));
  savepoints_.clear();
  const bool raised = options.isolation != Isolation::serializable && db_.info().mode == "s2pl";
  if (config_.json) {
    row({{"snapshot", txn_->snapshot()},
         {"transaction", txn_->id()},
         {"isolation", level_name(options.isolation)},
         {"runs_as", level_name(raised ? Isolation::serializable : options.isolation)},
         {"read_only", options.read_only}});
  } else {
    print(raised ? "ok, runs as serializable (s2pl)\n" : "ok\n");
  }
  return kExitOk;
}

Result<int> Session::commit(const Arguments&) {
  KESSAI_TRY(require_transaction());
  Transaction txn = std::move(*txn_);
  txn_.reset();
  if (const auto failed = std::exchange(failed_, std::nullopt)) {
    return fail(failed->code(), "nothing to commit: rolled back by an earlier error");
  }
  KESSAI_ASSIGN(lsn, txn.commit());
  done_row({{"lsn", lsn}});
  return kExitOk;
}

Result<int> Session::rollback(const Arguments& a) {
  KESSAI_TRY(require_transaction());
  if (!a.positional.empty()) return rollback_to(a);
  Transaction txn = std::move(*txn_);
  txn_.reset();
  const bool over = std::exchange(failed_, std::nullopt).has_value();
  const Result<void> rolled_back = over ? Result<void>() : txn.rollback();
  // An expired one was rolled back before it was asked to.
  if (!rolled_back && rolled_back.error() != Code::transaction_expired) {
    return std::unexpected(rolled_back.error());
  }
  done_row({{"rolled_back", true}});
  return kExitOk;
}

Result<int> Session::savepoint(const Arguments& a) {
  KESSAI_TRY(require_transaction());
  std::string name = std::to_string(savepoints_.size() + 1);
  if (!a.positional.empty()) {
    KESSAI_ASSIGN(given, a.bytes(0));
    name = std::move(given);
  }
  KESSAI_ASSIGN(point, txn_->savepoint());
  savepoints_.emplace_back(name, point);
  if (config_.json) {
    row({{"savepoint", format_bytes(name)}});
  } else {
    print(a.positional.empty() ? fmt::format("ok, {}\n", name) : "ok\n");
  }
  return kExitOk;
}

// The newest savepoint of that name; it stays, those made after it are gone.
Result<int> Session::rollback_to(const Arguments& a) {
  if (failed_) return fail(failed_->code(), "the transaction was rolled back by an earlier error");
  KESSAI_ASSIGN(name, a.bytes(0));
  const auto found = std::find_if(savepoints_.rbegin(), savepoints_.rend(),
                                  [&](const auto& s) { return s.first == name; });
  if (found == savepoints_.rend()) {
    return fail(Code::invalid_argument,
                fmt::format("this transaction has no savepoint {}", format_word(name)));
  }
  KESSAI_TRY(txn_->rollback_to(found->second));
  savepoints_.erase(found.base(), savepoints_.end());
  done_row({{"savepoint", format_bytes(name)}});
  return kExitOk;
}

Result<int> Session::lock(const Arguments& a) {
  KESSAI_TRY(require_transaction());
  KESSAI_ASSIGN(name, a.bytes(0));
  KESSAI_ASSIGN(wait, a.wait());
  const LockMode mode = a.has("--shared") ? LockMode::shared : LockMode::exclusive;
  if (a.has("--nowait")) {
    KESSAI_ASSIGN(locked, txn_->try_lock_named(name, mode));
    if (!locked) return fail(Code::lock_timeout, "another transaction is in the way");
  } else {
    KESSAI_TRY(txn_->lock_named(name, mode, wait));
  }
  done_row(
      {{"lock", format_bytes(name)}, {"mode", mode == LockMode::shared ? "shared" : "exclusive"}});
  return kExitOk;
}

Result<int> Session::lock_many(const Arguments& a) {
  KESSAI_TRY(require_transaction());
  KESSAI_ASSIGN(wait, a.wait());
  KESSAI_ASSIGN(tree, write_target(a));
  std::vector<std::string> keys;
  for (std::size_t i = 0; i < a.positional.size(); ++i) {
    KESSAI_ASSIGN(key, a.bytes(i));
    keys.push_back(std::move(key));
  }
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  KESSAI_TRY(txn_->lock_many(tree, views, wait));
  done_row({{"tree", format_bytes(tree.name())}, {"locked", keys.size()}});
  return kExitOk;
}

void Session::close() {
  savepoints_.clear();
  if (!txn_) return;
  const std::string who = number_ == 0 ? std::string() : fmt::format("@{} ", number_);
  if (!config_.json && !failed_) config_.err(who + "the open transaction was rolled back\n");
  const Result<void> rolled_back = failed_ ? Result<void>() : txn_->rollback();
  failed_.reset();
  txn_.reset();
  if (!rolled_back && rolled_back.error() != Code::transaction_expired) {
    report(rolled_back.error(), "rollback");
  }
}

}  // namespace kessai::tools
