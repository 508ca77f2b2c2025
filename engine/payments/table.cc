// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/table.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

#include "engine/payments/result.hpp"
#include "kessai/payments/request.hpp"

namespace kessai::payments {
namespace {

// A bounded window of at most so many days is probed day by day; a wider one asks for all names.
constexpr Day kMostProbes = 62;

std::string partition_name(std::string_view table, Day day) {
  std::string date = format_day(day);
  std::erase(date, '-');
  return std::string(table).append(".").append(date);
}

// The day in the name of a partition of `table`; nothing for other trees.
std::optional<Day> day_in(std::string_view tree, std::string_view table) {
  constexpr std::size_t kDigits = 8;
  if (tree.size() != table.size() + 1 + kDigits || !tree.starts_with(table) ||
      tree[table.size()] != '.') {
    return std::nullopt;
  }
  std::string date(tree.substr(table.size() + 1));
  return parse_day(date.insert(6, 1, '-').insert(4, 1, '-'));
}

std::string encode_day(Day day) {
  Encoder e;
  e.put(day);
  return e.take();
}

Result<Day> decode_day(std::string_view bytes, std::string_view tree) {
  Decoder d(bytes);
  Day day = 0;
  d.get(day);
  if (d.good()) return day;
  ErrorDetail detail;
  detail.what = "a row of this tree does not hold a day";
  detail.tree = tree;
  return fail(Code::damaged, std::move(detail));
}

std::unexpected<Error> error(Code code, const char* what, std::string_view tree,
                             std::string_view key = {}) {
  ErrorDetail detail;
  detail.what = what;
  detail.tree = tree;
  detail.key = key;
  return fail(code, std::move(detail));
}

std::unexpected<Error> day_dropped(std::string_view tree) {
  return error(Code::tree_not_found, "this day was dropped and does not come back", tree);
}

// Nothing when there is no such tree.
Result<std::optional<Tree>> find_tree(Database& db, std::string_view name) {
  auto tree = db.tree(name);
  if (tree) return std::optional(std::move(*tree));
  if (tree.error() == Code::tree_not_found) return std::nullopt;
  return std::unexpected(tree.error());
}

Result<Tree> make_tree(Database& db, std::string_view name) {
  auto tree =
      db.tree(name, {.create = true, .insert_only = true, .durability = Durability::relaxed});
  if (tree && !tree->insert_only())
    return error(Code::invalid_argument, "a tree of this name exists and is not insert-only", name);
  return tree;
}

Result<std::optional<std::string>> get_row(Transaction& txn, const Tree& tree,
                                           std::string_view key) {
  auto value = txn.get(tree, key);
  if (value) return std::optional(std::move(*value));
  if (value.error() == Code::not_found) return std::nullopt;
  return std::unexpected(value.error());
}

std::string dropped_name(std::string_view parent) { return std::string(parent) + ".dropped"; }

}  // namespace

std::string_view column_type_name(ColumnType t) noexcept {
  switch (t) {
    case ColumnType::text:
      return "text";
    case ColumnType::bytes:
      return "bytes";
    case ColumnType::number:
      return "number";
    case ColumnType::amount:
      return "amount";
    case ColumnType::currency:
      return "currency";
    case ColumnType::time:
      return "time";
    case ColumnType::day:
      return "day";
    case ColumnType::name:
      return "name";
  }
  return "?";
}

// ---- keys, explain, lint -----------------------------------------------------------------------

namespace row {

std::string hash_prefix(std::string_view first_column) {
  const std::uint64_t hash = request_id(first_column);
  std::string out;
  for (int shift = 56; shift >= 0; shift -= 8) out += static_cast<char>(hash >> shift & 0xff);
  return out;
}

std::unexpected<Error> damaged(const TableSpec& table, std::string_view key) {
  return error(Code::damaged, "these bytes are no row of this table; check the store", table.name,
               key);
}

}  // namespace row

std::string group_prefix(std::string_view group) {
  Encoder e;
  e.text(group);
  return row::hash_prefix(group) + e.take();
}

std::string ReadPlan::text() const {
  std::string out =
      "partitions opened: " + std::to_string(opened.size()) +
      ", pruned: " + std::to_string(pruned) + "; leaf pages read: " + std::to_string(leaves) +
      "; rows visited: " + std::to_string(visited) + ", returned: " + std::to_string(returned);
  for (const std::string& name : opened) out.append("\n  ").append(name);
  if (opened.size() > kManyPartitions)
    out += "\nwarning: this read grows with every stored day; ask for fewer days";
  return out;
}

std::vector<std::string> lint(const Schema& schema) {
  std::vector<std::string> out;
  if (schema.table.hashed || schema.columns.empty()) return out;
  const Column& first = schema.columns.front();
  if (first.type != ColumnType::time && first.type != ColumnType::day &&
      first.type != ColumnType::number) {
    return out;
  }
  out.push_back(std::string(schema.table.name)
                    .append(": the key starts with ")
                    .append(first.name)
                    .append(", a ")
                    .append(column_type_name(first.type))
                    .append(": all inserts of a moment meet in one leaf; put a hash in front"));
  return out;
}

std::vector<std::string> lint_keys(std::string_view what, std::span<const std::string> keys) {
  constexpr std::size_t kEnough = 100;
  constexpr std::size_t kSharedBytes = 2;
  std::vector<std::string> out;
  if (keys.size() < kEnough) return out;
  std::size_t shared = keys[0].size(), ascending = 0;
  for (std::size_t i = 1; i < keys.size(); ++i) {
    ascending += keys[i - 1] < keys[i] ? 1 : 0;
    const auto [a, b] =
        std::mismatch(keys[0].begin(), keys[0].end(), keys[i].begin(), keys[i].end());
    shared = std::min(shared, static_cast<std::size_t>(a - keys[0].begin()));
  }
  if (shared >= kSharedBytes) {
    out.push_back(std::string(what).append(": all keys start with the same ") +
                  std::to_string(shared) + " bytes: they meet in one part of the tree");
  }
  if (ascending * 10 >= (keys.size() - 1) * 9) {
    out.push_back(std::string(what).append(
        ": keys arrive in ascending order: all inserts of a moment meet in the last leaf"));
  }
  return out;
}

// ---- RawTable ----------------------------------------------------------------------------------

// A list of handles that only grows: a dropped day never comes back, so its handle may stay (it
// answers tree_not_found).
struct RawTable::State {
  struct Handle {
    Day day;
    Tree tree;
    Handle* next;
  };
  static constexpr std::size_t kBuckets = 64;

  State(Database& d, const TableSpec& s) : db(&d), spec(s) {}
  ~State() {
    for (auto& bucket : handles) {
      for (Handle* h = bucket.load(std::memory_order_relaxed); h != nullptr;)
        delete std::exchange(h, h->next);
    }
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  [[nodiscard]] static std::size_t bucket_of(Day day) noexcept {
    return static_cast<std::size_t>(static_cast<std::uint32_t>(day)) % kBuckets;
  }
  [[nodiscard]] const Tree* known(Day day) const noexcept {
    // Acquire: pairs with the release of remember(), so that the handle's content is seen.
    const Handle* h = handles[bucket_of(day)].load(std::memory_order_acquire);
    while (h != nullptr && h->day != day) h = h->next;
    return h == nullptr ? nullptr : &h->tree;
  }
  // Two threads that meet a new day may both remember it: the same tree twice does no harm.
  void remember(Day day, Tree tree) {
    auto* h = new Handle{day, std::move(tree), nullptr};
    auto& head = handles[bucket_of(day)];
    h->next = head.load(std::memory_order_relaxed);
    while (!head.compare_exchange_weak(h->next, h, std::memory_order_release,
                                       std::memory_order_relaxed)) {
    }
  }
  [[nodiscard]] std::string tree_name(Day day) const {
    return spec.partition == Partition::none ? std::string(spec.name)
                                             : partition_name(spec.name, day);
  }
  // The daily table whose days these are.
  [[nodiscard]] const State& owner() const noexcept { return parent ? *parent : *this; }

  Database* const db;
  const TableSpec spec;
  std::optional<Tree> ids;              // daily: key -> day
  std::shared_ptr<const State> parent;  // with_parent
  std::array<std::atomic<Handle*>, kBuckets> handles{};
};

const TableSpec& RawTable::spec() const noexcept { return state_->spec; }

Result<RawTable> RawTable::open(Database& db, const TableSpec& spec, bool create,
                                const RawTable* parent) {
  auto s = std::make_shared<State>(db, spec);
  switch (spec.partition) {
    case Partition::none:
      if (create) PAYMENTS_TRY(make_tree(db, spec.name));
      break;
    case Partition::daily: {
      const std::string name = std::string(spec.name) + ".ids";
      PAYMENTS_ASSIGN(ids, find_tree(db, name));
      if (create) {  // also refuses one that can be changed
        PAYMENTS_ASSIGN(made, make_tree(db, name));
        ids = std::move(made);
      }
      s->ids = std::move(ids);
      break;
    }
    case Partition::with_parent:
      if (parent == nullptr || parent->spec().name != spec.parent ||
          parent->spec().partition != Partition::daily) {
        return error(Code::invalid_argument, "the table needs its daily parent table to be opened",
                     spec.name);
      }
      s->parent = parent->state_;
      break;
  }
  return RawTable(std::move(s));
}

Result<Tree> RawTable::writable_tree(Day day) const {
  State& s = *state_;
  if (s.spec.partition == Partition::none) day = 0;
  if (const Tree* known = s.known(day)) return *known;
  if (!storable(day))  // later ones would not have eight digits, and names must sort as days do
    return error(Code::invalid_argument, "CREATE_DATE is outside the years 1970 to 9999",
                 s.spec.name);
  const std::string name = s.tree_name(day);
  const auto marked = [&]() -> Result<bool> {
    if (s.spec.partition == Partition::none) return false;
    PAYMENTS_ASSIGN(marks, find_tree(*s.db, dropped_name(s.owner().spec.name)));
    if (!marks) return false;
    const auto mark = s.db->get(*marks, encode_day(day));
    if (!mark && mark.error() != Code::not_found) return std::unexpected(mark.error());
    return mark.has_value();
  };
  PAYMENTS_ASSIGN(found, find_tree(*s.db, name));
  if (!found) {
    PAYMENTS_ASSIGN(dropped, marked());
    if (dropped) return day_dropped(name);
  }
  PAYMENTS_ASSIGN(tree, make_tree(*s.db, name));
  // Dropping marks, then drops: who made or found the tree in between sees the mark now.
  PAYMENTS_ASSIGN(dropped, marked());
  if (dropped) {
    PAYMENTS_TRY(drop(day));
    return day_dropped(name);
  }
  s.remember(day, tree);
  return tree;
}

Result<void> RawTable::prepare(Day day) const {
  PAYMENTS_TRY(writable_tree(day));
  return {};
}

Result<Day> RawTable::parent_day(Transaction& txn, std::string_view parent_key) const {
  const State& parent = *state_->parent;
  if (parent.ids) {
    PAYMENTS_ASSIGN(day, get_row(txn, *parent.ids, parent_key));
    if (day) return decode_day(*day, parent.ids->name());
  }
  return error(Code::not_found, "the row that this one belongs to is not there; insert it first",
               parent.spec.name, parent_key);
}

namespace {

// The row that is in the way of an insert, as it is now and not as the snapshot saw it: uniqueness
// is judged on current data, and so must the answer be. Nothing when its day was dropped.
Result<std::optional<std::string>> row_in_the_way(Database& db, Transaction& txn,
                                                  const std::string& name, std::string_view key,
                                                  std::string_view value) {
  PAYMENTS_ASSIGN(tree, find_tree(db, name));
  if (!tree) return std::nullopt;
  std::string existing;
  const auto inserted = txn.insert(*tree, key, value, &existing);
  if (inserted) return error(Code::damaged, "the id is known and its row is missing", name, key);
  if (inserted.error() == Code::key_exists) return std::optional(std::move(existing));
  if (inserted.error() == Code::tree_not_found) return std::nullopt;
  return std::unexpected(inserted.error());
}

}  // namespace

Result<RawTable::Inserted> RawTable::insert(Transaction& txn, std::string_view key,
                                            std::string_view value, Day day,
                                            std::string_view parent_key) const {
  const State& s = *state_;
  if (s.spec.partition == Partition::with_parent) {
    PAYMENTS_ASSIGN(known, parent_day(txn, parent_key));
    day = known;
  }
  if (s.spec.partition != Partition::daily) {
    PAYMENTS_ASSIGN(tree, writable_tree(day));
    Inserted out;
    std::string existing;
    const auto done = txn.insert(tree, key, value, &existing);
    out.inserted = done.has_value();
    if (!done && done.error() != Code::key_exists) return std::unexpected(done.error());
    if (!done) out.earlier = std::move(existing);
    return out;
  }
  if (!s.ids) return error(Code::read_only, "the table was not opened for writing", s.spec.name);
  PAYMENTS_ASSIGN(start, txn.savepoint());
  auto done = insert_daily(txn, key, value, day);
  // What ended the transaction cannot be rolled back any further; its error says so.
  if (!done) static_cast<void>(txn.rollback_to(start));
  return done;
}

Result<RawTable::Inserted> RawTable::insert_daily(Transaction& txn, std::string_view key,
                                                  std::string_view value, Day day) const {
  const State& s = *state_;
  std::string known_day;
  const auto id = txn.insert(*s.ids, key, encode_day(day), &known_day);
  if (!id && id.error() == Code::key_exists) {
    PAYMENTS_ASSIGN(earlier_day, decode_day(known_day, s.ids->name()));
    PAYMENTS_ASSIGN(earlier, row_in_the_way(*s.db, txn, s.tree_name(earlier_day), key, value));
    return Inserted{.inserted = false, .earlier = std::move(earlier)};
  }
  PAYMENTS_TRY(id);
  PAYMENTS_ASSIGN(tree, writable_tree(day));
  std::string existing;
  const auto row = txn.insert(tree, key, value, &existing);
  if (!row && row.error() == Code::key_exists)
    return error(Code::damaged, "a row whose id is not in the id index", tree.name(), key);
  if (!row && row.error() == Code::tree_not_found) return day_dropped(tree.name());
  PAYMENTS_TRY(row);
  return Inserted{.inserted = true, .earlier = {}};
}

Result<std::optional<Day>> RawTable::locate(Transaction& txn, std::string_view key) const {
  const State& s = state_->owner();
  if (!s.ids) return std::nullopt;
  PAYMENTS_ASSIGN(day, get_row(txn, *s.ids, key));
  if (!day) return std::nullopt;
  PAYMENTS_ASSIGN(known, decode_day(*day, s.ids->name()));
  return std::optional(known);
}

Result<std::optional<std::string>> RawTable::get(Transaction& txn, std::string_view key,
                                                 std::string_view parent_key) const {
  const State& s = *state_;
  std::optional<Day> day = 0;
  if (s.spec.partition != Partition::none) {
    PAYMENTS_ASSIGN(known, locate(txn, s.parent ? parent_key : key));
    day = known;
  }
  if (!day) return std::nullopt;
  PAYMENTS_ASSIGN(tree, tree_of(*day));
  if (!tree) return std::nullopt;
  return get_row(txn, *tree, key);
}

Result<std::optional<Tree>> RawTable::tree_of(Day day) const {
  return find_tree(*state_->db, state_->tree_name(day));
}

Result<std::vector<Day>> RawTable::days(const Window& window, std::uint64_t* pruned) const {
  const State& s = *state_;
  if (s.spec.partition == Partition::none) return std::vector<Day>{0};
  std::vector<Day> out;
  const Window w{std::max(window.from, kFirstDay), std::min(window.to, kLastDay)};
  if (pruned == nullptr && w.to - w.from < kMostProbes) {
    for (Day day = w.from; day <= w.to; ++day) {
      PAYMENTS_ASSIGN(tree, tree_of(day));
      if (tree) out.push_back(day);
    }
    return out;
  }
  PAYMENTS_ASSIGN(names, s.db->tree_names());
  for (const std::string& name : names) {  // sorted, and days sort as their names do
    const auto day = day_in(name, s.spec.name);
    if (!day) continue;
    if (*day >= w.from && *day <= w.to) {
      out.push_back(*day);
    } else if (pruned != nullptr) {
      ++*pruned;
    }
  }
  return out;
}

Result<void> RawTable::drop(Day day) const {
  const auto dropped = state_->db->drop_tree(state_->tree_name(day));
  if (!dropped && dropped.error() != Code::tree_not_found) return dropped;
  return {};
}

Result<void> drop_day(Database& db, Day day, std::span<const RawTable> tables) {
  PAYMENTS_ASSIGN(marks, make_tree(db, dropped_name(tables[0].spec().name)));
  const auto marked = db.insert(marks, encode_day(day), "");
  if (!marked && marked.error() != Code::key_exists) return std::unexpected(marked.error());
  // Parents first: a crash in between leaves rows that nobody finds, never a request without its
  // result, which would look like a payment to be closed.
  for (const RawTable& t : tables) PAYMENTS_TRY(t.drop(day));
  return {};
}

Result<void> finish_drops(Database& db, std::span<const RawTable> tables) {
  PAYMENTS_ASSIGN(marks, find_tree(db, dropped_name(tables[0].spec().name)));
  if (!marks) return {};
  Cursor c = db.scan(*marks, {});
  while (c.next()) {
    PAYMENTS_ASSIGN(day, decode_day(c.key(), marks->name()));
    for (const RawTable& t : tables) PAYMENTS_TRY(t.drop(day));
  }
  return c.status();
}

}  // namespace kessai::payments
