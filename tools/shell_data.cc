// SPDX-License-Identifier: Apache-2.0
// kvsh commands that read and write rows and trees.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "io/check.hpp"
#include "tools/bytes.hpp"
#include "tools/exit_codes.hpp"
#include "tools/interrupt.hpp"
#include "tools/progress.hpp"
#include "tools/session.hpp"

namespace kessai::tools {
namespace {

constexpr std::size_t kLoadBatchBytes = 1u << 20;

std::unexpected<Error> fail_in_tree(Code code, std::string what, std::string_view tree) {
  ErrorDetail detail;
  detail.what = std::move(what);
  detail.tree = tree;
  return fail(code, std::move(detail));
}

// A write inside a transaction has no LSN yet.
Result<Lsn> uncommitted(const Result<void>& r) {
  if (!r) return std::unexpected(r.error());
  return Lsn{0};
}

}  // namespace

std::string Session::target_name(const Arguments& a, Result<void>& status) const {
  const auto typed = a.raw("-t");
  if (!typed) return config_.default_tree;
  auto name = parse_bytes(*typed);
  if (name) return std::move(*name);
  status = std::unexpected(name.error());
  return {};
}

Result<std::optional<Tree>> Session::target(const Arguments& a) {
  Result<void> status;
  const std::string name = target_name(a, status);
  KESSAI_TRY(std::move(status));
  const bool is_main = name == "main";
  auto tree = db_.tree(name, {.create = is_main && config_.writable && !txn_});
  if (tree) return std::optional(std::move(*tree));
  if (is_main && tree.error() == Code::tree_not_found) return std::nullopt;
  if (tree.error() != Code::tree_not_found) return std::unexpected(tree.error());
  return fail_in_tree(Code::tree_not_found, "no such tree (create TREE makes one)", name);
}

Result<void> Session::require_writable() const {
  if (config_.writable) return {};
  return fail(Code::read_only, "the store is open for reading; start kvsh with --rw to write");
}

Result<Tree> Session::write_target(const Arguments& a) {
  KESSAI_ASSIGN(tree, target(a));
  if (tree) return std::move(*tree);
  return fail_in_tree(Code::tree_not_found,
                      "the tree does not exist yet: create it outside the transaction", "main");
}

Result<void> Session::require_transaction() const {
  if (txn_) return {};
  return fail(Code::invalid_argument, "no transaction is open; begin starts one");
}

bool Session::own_transaction(const Arguments& a) const { return !txn_ || a.has("--own"); }

Result<void> Session::require_no_transaction() const {
  if (!txn_) return {};
  return fail(Code::invalid_argument, "not inside a transaction: commit or rollback first");
}

Cursor Session::open_cursor(const Tree& tree, Range range) {
  return txn_ ? txn_->scan(tree, std::move(range)) : db_.scan(tree, std::move(range));
}

Result<Lsn> Session::read_locked(const Tree& tree, const std::string& key, const Arguments& a,
                                 std::string& value) {
  KESSAI_ASSIGN(wait, a.wait());
  KESSAI_ASSIGN(locked, txn_->get_for_update(tree, key, wait));
  value = std::move(locked);
  if (!config_.json) return Lsn{0};
  std::string same;  // the locked version cannot change: a plain read tells its LSN
  return txn_->get(tree, key, same);
}

Result<int> Session::get(const Arguments& a) {
  KESSAI_ASSIGN(key, a.bytes(0));
  const bool locking = a.has("--for-update");
  if (locking) KESSAI_TRY(require_transaction());
  KESSAI_ASSIGN(tree, target(a));
  std::string value;
  Result<Lsn> lsn = fail(Code::not_found);
  if (tree) {
    lsn = locking              ? read_locked(*tree, key, a, value)
          : own_transaction(a) ? db_.get(*tree, key, value)
                               : txn_->get(*tree, key, value);
  }
  if (!lsn && lsn.error() == Code::not_found) {
    ErrorDetail detail;
    detail.what = "no such key";
    detail.tree = tree ? tree->name() : "main";
    detail.key = key;
    return fail(Code::not_found, std::move(detail));
  }
  if (!lsn) return std::unexpected(lsn.error());
  if (config_.json) {
    row({{"tree", format_bytes(tree->name())},
         {"key", format_bytes(key)},
         {"value", format_bytes(value)},
         {"lsn", *lsn}});
  } else {
    print(format_word(value) + '\n');
  }
  return kExitOk;
}

Result<int> Session::written(const Arguments& a, Result<Lsn> lsn) {
  KESSAI_ASSIGN(key, a.bytes(0));
  Result<void> status;
  const std::string tree = target_name(a, status);
  if (!lsn) {
    ErrorDetail detail = lsn.error().detail();
    if (detail.what.empty()) {
      detail.what = lsn.error() == Code::key_exists  ? "the key exists"
                    : lsn.error() == Code::not_found ? "no such key"
                                                     : std::string(code_name(lsn.error().code()));
    }
    detail.tree = tree;
    detail.key = key.substr(0, kMaxKeyBytes);
    return fail(lsn.error().code(), std::move(detail), lsn.error().os_error());
  }
  Json object = {{"tree", format_bytes(tree)}, {"key", format_bytes(key)}};
  object["lsn"] = *lsn == 0 ? Json() : Json(*lsn);  // null until the transaction commits
  done_row(std::move(object));
  return kExitOk;
}

template <class Write>
Result<int> Session::write(const Arguments& a, Write&& fn) {
  KESSAI_TRY(require_writable());
  KESSAI_ASSIGN(wait, a.wait());
  KESSAI_ASSIGN(tree, write_target(a));
  if (!own_transaction(a)) return written(a, uncommitted(fn(*txn_, tree, wait)));
  KESSAI_ASSIGN(txn, db_.begin({.isolation = Isolation::read_committed}));
  if (const Result<void> done = fn(txn, tree, wait); !done) {
    KESSAI_TRY(txn.rollback());  // the answer may tell of a row: it waits until that is durable
    return written(a, std::unexpected(done.error()));
  }
  return written(a, txn.commit());
}

Result<int> Session::put(const Arguments& a) {
  KESSAI_TRY(require_writable());
  KESSAI_ASSIGN(key, a.bytes(0));
  KESSAI_ASSIGN(value, a.bytes(1));
  return write(a, [&](Transaction& txn, const Tree& tree, LockWait wait) {
    return txn.put(tree, key, value, wait);
  });
}

Result<int> Session::insert(const Arguments& a) {
  KESSAI_TRY(require_writable());
  KESSAI_ASSIGN(key, a.bytes(0));
  KESSAI_ASSIGN(value, a.bytes(1));
  return write(a, [&](Transaction& txn, const Tree& tree, LockWait wait) {
    return txn.insert(tree, key, value, nullptr, wait);
  });
}

Result<int> Session::del(const Arguments& a) {
  KESSAI_TRY(require_writable());
  KESSAI_ASSIGN(key, a.bytes(0));
  return write(a, [&](Transaction& txn, const Tree& tree, LockWait wait) {
    return txn.remove(tree, key, wait);
  });
}

Result<Range> Session::range_of(const Arguments& a) const {
  Range range;
  if (a.has("--prefix")) {
    if (!a.positional.empty())
      return fail(Code::invalid_argument, "either FROM and TO, or --prefix");
    KESSAI_ASSIGN(prefix, a.bytes("--prefix"));
    return Range::prefix(prefix, a.has("--reverse"));
  }
  if (!a.positional.empty()) {
    KESSAI_ASSIGN(from, a.bytes(0));
    range.from = std::move(from);
  }
  if (a.positional.size() > 1) {
    KESSAI_ASSIGN(to, a.bytes(1));
    range.to = std::move(to);
  }
  range.reverse = a.has("--reverse");
  return range;
}

Result<int> Session::scan(const Arguments& a) {
  KESSAI_ASSIGN(range, range_of(a));
  KESSAI_ASSIGN(limit, a.number("--limit", UINT64_MAX));
  KESSAI_ASSIGN(tree, target(a));
  if (!tree) return kExitOk;
  // People get columns, but rows must also flow: the key column is as wide as the widest of a page.
  constexpr std::size_t kPageRows = 100;
  std::vector<std::pair<std::string, std::string>> rows;
  const auto flush = [&] {
    std::size_t width = 0;
    for (const auto& r : rows) width = std::max(width, display_width(r.first));
    for (const auto& [key, value] : rows) {
      print(key + std::string(width - display_width(key) + 2, ' ') + value + '\n');
    }
    rows.clear();
  };
  std::uint64_t left = limit;
  Cursor cursor = open_cursor(*tree, std::move(range));
  while (left != 0 && cursor.next()) {
    --left;
    if (interrupted()) return fail(Code::interrupted);
    if (config_.json) {
      row({{"key", format_bytes(cursor.key())},
           {"value", format_bytes(cursor.value())},
           {"lsn", cursor.lsn()}});
      continue;
    }
    rows.emplace_back(format_word(cursor.key()), format_word(cursor.value()));
    if (rows.size() == kPageRows) flush();
  }
  flush();
  KESSAI_TRY(cursor.status());
  return kExitOk;
}

Result<int> Session::keys(const Arguments& a) {
  KESSAI_ASSIGN(range, range_of(a));
  KESSAI_ASSIGN(limit, a.number("--limit", UINT64_MAX));
  KESSAI_ASSIGN(tree, target(a));
  if (!tree) return kExitOk;
  std::uint64_t left = limit;
  Cursor cursor = open_cursor(*tree, std::move(range));
  while (left != 0 && cursor.next()) {
    --left;
    if (interrupted()) return fail(Code::interrupted);
    if (config_.json) {
      row({{"key", format_bytes(cursor.key())}, {"lsn", cursor.lsn()}});
    } else {
      print(format_word(cursor.key()) + '\n');
    }
  }
  KESSAI_TRY(cursor.status());
  return kExitOk;
}

Result<int> Session::count(const Arguments& a) {
  KESSAI_ASSIGN(range, range_of(a));
  KESSAI_ASSIGN(tree, target(a));
  std::uint64_t records = 0;
  if (tree) {
    ProgressBar bar(config_.progress);
    Cursor cursor = open_cursor(*tree, std::move(range));
    while (cursor.next()) {
      if (++records % 4096 != 0) continue;
      if (interrupted()) return fail(Code::interrupted);
      bar.update("counting", 0, 0, grouped(records));
    }
    KESSAI_TRY(cursor.status());
  }
  if (config_.json) {
    row({{"tree", format_bytes(tree ? tree->name() : "main")}, {"records", records}});
  } else {
    print(fmt::format("{}\n", records));
  }
  return kExitOk;
}

Result<int> Session::create(const Arguments& a) {
  KESSAI_TRY(require_writable());
  KESSAI_TRY(require_no_transaction());
  KESSAI_ASSIGN(name, a.bytes(0));
  const auto existing = db_.tree(name);
  if (existing) return fail_in_tree(Code::tree_exists, "the tree exists", name);
  if (existing.error() != Code::tree_not_found) return std::unexpected(existing.error());
  KESSAI_ASSIGN(tree, db_.tree(name, {.create = true}));
  done_row({{"tree", format_bytes(tree.name())}, {"id", tree.id()}});
  return kExitOk;
}

Result<int> Session::drop(const Arguments& a) {
  KESSAI_TRY(require_writable());
  KESSAI_TRY(require_no_transaction());
  KESSAI_ASSIGN(name, a.bytes(0));
  if (name == "main") return fail_in_tree(Code::invalid_argument, "main cannot be dropped", name);
  KESSAI_TRY(db_.drop_tree(name));
  done_row({{"tree", format_bytes(name)}, {"dropped", true}});
  return kExitOk;
}

Result<int> Session::dump(const Arguments& a) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < a.positional.size(); ++i) {
    KESSAI_ASSIGN(name, a.bytes(i));
    names.push_back(std::move(name));
  }
  if (names.empty()) {
    KESSAI_ASSIGN(all, db_.tree_names());
    names = std::move(all);
  }
  std::sort(names.begin(), names.end());
  std::optional<Error> first_error;
  std::optional<Transaction> own;  // one snapshot for all trees
  if (!txn_) {
    KESSAI_ASSIGN(snapshot, db_.read_only());
    own.emplace(std::move(snapshot));
  }
  for (const std::string& name : names) {
    KESSAI_ASSIGN(tree, db_.tree(name));
    const std::string shown = format_bytes(name);
    Cursor cursor = (own ? *own : *txn_).scan(tree, {});
    while (cursor.next()) {
      if (interrupted()) return fail(Code::interrupted);
      Json object = {{"tree", shown},
                     {"key", format_bytes(cursor.key())},
                     {"value", format_bytes(cursor.value())}};
      if (tree.insert_only()) object["insert_only"] = true;
      row(std::move(object));
    }
    if (cursor.status()) continue;
    // A damaged tree does not hide the others; they come from a new snapshot.
    if (!own) return std::unexpected(cursor.status().error());
    if (first_error) report(cursor.status().error(), "dump");
    if (!first_error) first_error = cursor.status().error();
    KESSAI_ASSIGN(snapshot, db_.read_only());
    own.emplace(std::move(snapshot));
  }
  if (first_error) return std::unexpected(*first_error);
  if (own) KESSAI_TRY(own->rollback());
  return kExitOk;
}

namespace {

struct Row {
  std::string tree, key, value;
  bool insert_only = false;
};

// Takes a row back. Into an insert-only tree: the same row again is fine, a change is refused.
Result<void> load_row(Transaction& txn, const Tree& tree, const Row& r) {
  if (!tree.insert_only()) return txn.put(tree, r.key, r.value);
  std::string existing;
  auto inserted = txn.insert(tree, r.key, r.value, &existing);
  if (inserted || inserted.error() != Code::key_exists) return inserted;
  if (existing == r.value) return {};
  ErrorDetail detail;
  detail.what =
      "the tree is insert-only and holds another row with this key; nothing of it changes";
  detail.tree = r.tree;
  detail.key = r.key;
  return fail(Code::insert_only_violation, std::move(detail));
}

// A file of JSON lines; calls `fn` for each row, stops at the first error and names file and line.
Result<std::uint64_t> for_each_row(const std::string& path,
                                   const std::function<Result<void>(Row&&)>& fn) {
  const auto failed = [&](Code code, std::string what, int os_error = 0) {
    ErrorDetail detail;
    detail.what = std::move(what);
    detail.path = path;
    return fail(code, std::move(detail), os_error);
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  if (!file) return failed(Code::invalid_argument, std::strerror(errno), errno);
  char* buffer = nullptr;
  std::size_t capacity = 0;
  std::uint64_t lines = 0, rows = 0;
  Result<void> status;
  for (ssize_t n = 0; status && (n = getline(&buffer, &capacity, file.get())) >= 0;) {
    ++lines;
    const Json object = Json::parse(buffer, buffer + n, nullptr, false);
    if (n == 1 || (object.is_object() && object.value("summary", false))) continue;
    const auto text = [&](const char* name) -> Result<std::string> {
      const auto it = object.find(name);
      if (it == object.end() || !it->is_string()) {
        return failed(Code::invalid_argument,
                      fmt::format("line {}: \"{}\" is missing", lines, name));
      }
      auto bytes = parse_bytes(it->get_ref<const std::string&>());
      if (!bytes)
        return failed(Code::invalid_argument,
                      fmt::format("line {}: {}: {}", lines, name, bytes.error().detail().what));
      return bytes;
    };
    status = [&]() -> Result<void> {
      if (!object.is_object())
        return failed(Code::invalid_argument, fmt::format("line {}: not a JSON object", lines));
      KESSAI_ASSIGN(tree, text("tree"));
      KESSAI_ASSIGN(key, text("key"));
      KESSAI_ASSIGN(value, text("value"));
      if (tree.empty() || tree.size() > kMaxTreeNameBytes || key.size() > kMaxKeyBytes ||
          value.size() > kMaxValueBytes) {
        return failed(Code::invalid_argument,
                      fmt::format("line {}: tree name, key or value out of limits", lines));
      }
      ++rows;
      const auto option = object.find("insert_only");
      return fn({std::move(tree), std::move(key), std::move(value),
                 option != object.end() && *option == true});
    }();
  }
  const bool read_error = std::ferror(file.get()) != 0;
  std::free(buffer);
  KESSAI_TRY(std::move(status));
  if (read_error) return failed(Code::io_error, std::strerror(errno), errno);
  return rows;
}

}  // namespace

Result<int> Session::load(const Arguments& a) {
  KESSAI_TRY(require_writable());
  KESSAI_TRY(require_no_transaction());
  std::string path = a.positional[0].text;
  if (a.positional[0].quoted) {
    KESSAI_ASSIGN(unquoted, parse_bytes(path));
    path = std::move(unquoted);
  }
  KESSAI_ASSIGN(total, for_each_row(path, [](Row&&) -> Result<void> { return {}; }));
  ProgressBar bar(config_.progress);
  std::map<std::string, Tree, std::less<>> trees;
  std::optional<Transaction> txn;
  std::size_t batch = 0;
  std::uint64_t done = 0;
  const auto add = [&](Row&& r) -> Result<void> {
    auto it = trees.find(r.tree);
    if (it == trees.end()) {
      KESSAI_ASSIGN(tree, db_.tree(r.tree, {.create = true, .insert_only = r.insert_only}));
      it = trees.emplace(r.tree, std::move(tree)).first;
    }
    if (!txn) {
      KESSAI_ASSIGN(fresh, db_.begin());
      txn.emplace(std::move(fresh));
      batch = 0;
    }
    KESSAI_TRY(load_row(*txn, it->second, r));
    batch += r.key.size() + r.value.size() + 64;
    ++done;
    bar.update("loading", done, total, grouped(done));
    if (batch < kLoadBatchBytes) return {};
    if (interrupted()) return fail(Code::interrupted);
    KESSAI_TRY(txn->commit());
    txn.reset();
    return {};
  };
  KESSAI_TRY(for_each_row(path, add));
  if (txn) KESSAI_TRY(txn->commit());
  if (config_.json) {
    row({{"summary", true}, {"loaded", done}});
  } else {
    print(fmt::format("{} rows loaded\n", grouped(done)));
  }
  return kExitOk;
}

}  // namespace kessai::tools
