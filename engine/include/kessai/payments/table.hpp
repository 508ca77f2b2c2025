// SPDX-License-Identifier: Apache-2.0
/// @file
/// Insert-only tables: rows of a fixed type that are inserted, read, and never changed.
///
/// A row type describes itself (see tables.hpp for all of the payments layer's):
///
///     struct NoteRow {
///       static constexpr TableSpec kTable{.name = "note", .partition = Partition::daily};
///       std::string id;
///       Micros create_date = 0;
///       std::string text;
///       template <class Row, class F> static void key(Row& r, F&& f) {
///         f("NOTE_ID", ColumnType::text, r.id);
///       }
///       template <class Row, class F> static void columns(Row& r, F&& f) {
///         f("CREATE_DATE", ColumnType::time, r.create_date);
///         f("TEXT", ColumnType::text, r.text);
///       }
///     };
///     auto notes = Table<NoteRow>::open(db, true);             // Result<Table<NoteRow>>
///     auto done = notes->insert(txn, {.id = "n1", .create_date = now, .text = "hello"});
///     if (done && !done->inserted) use(*done->earlier);        // the id was taken
///
/// Keys. Hashed (the default): XXH3-64 of the first key column, big-endian, in front of all key
/// columns. The hash scatters inserts over the leaves, which a time or a sequence at the front of a
/// key would not; the columns behind it keep uniqueness exact. A key of several columns groups: the
/// rows of one first column stand together, in order of the other columns.
///
/// Partitions. `daily`: one tree per UTC day of CREATE_DATE (`name.20101201`), and one
/// unpartitioned tree `name.ids` from key to day that keeps keys unique over all days.
/// `with_parent`: the row lives in the partition of the day of the row it belongs to
/// (Row::parent_id(): the parent's key column), whenever it is inserted, so that the parent's index
/// serves both, a day is dropped as a whole, and no row can lack its parent. A partition is created
/// by the first row of its day (prepare() does it before), outside the writer's transaction and
/// without a flush: its creation is earlier in the log than any row of it. Who meets the day at the
/// same moment waits for microseconds, other days do not wait at all.
///
/// Promises
///   * Rows never change: nothing here updates or deletes, and the trees are insert-only in the
///     engine, so that put, remove, kvsh and load get `insert_only_violation` as well. UPDATE_DATE
///     is a constant column equal to CREATE_DATE, derived, so that it cannot differ.
///   * An insert is part of the caller's transaction; several tables commit together.
///   * insert() of a key that is taken, by whatever day, answers the earlier row (durable by then).
///   * A scan of a window opens the partitions of its days only.
///   * drop_day() is O(1) in rows. It is durable step by step: the day is first marked as dropped,
///     then the tables' trees go, parents first; finish_drops() does what a crash left undone
///     (PaymentTables::open calls it). A dropped day never comes back: its ids stay taken, inserts
///     into it answer `tree_not_found`. A cursor that is open on it reads on to its end (MVCC;
///     in the S2PL build it gets `tree_not_found`); later reads do not have the day.
/// Threads: any number; the transaction belongs to one. Lifetime: the database must outlive tables
/// and cursors. Uses the engine's public API only.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kessai/database.hpp"
#include "kessai/payments/dates.hpp"
#include "kessai/payments/encoding.hpp"

namespace kessai::payments {

enum class ColumnType : std::uint8_t { text, bytes, number, amount, currency, time, day, name };
[[nodiscard]] std::string_view column_type_name(ColumnType t) noexcept;

enum class Partition : std::uint8_t { none, daily, with_parent };

struct TableSpec {
  std::string_view name;
  Partition partition = Partition::none;
  std::string_view parent = {};  ///< with_parent: name of a daily table
  bool hashed = true;            ///< false: the key starts with its first column as it is
};

struct Column {
  std::string_view name;
  ColumnType type{};
  bool key = false;
};
struct Schema {
  TableSpec table;
  std::vector<Column> columns;
};

/// Days [from, to], both included.
struct Window {
  Day from = INT32_MIN;
  Day to = INT32_MAX;
  [[nodiscard]] static Window day(Day d) { return {d, d}; }
};

/// How a read went; several reads may add to one plan.
struct ReadPlan {
  std::vector<std::string> opened;  ///< partitions, in the order they were read
  std::uint64_t pruned = 0;         ///< partitions outside the window
  std::uint64_t leaves = 0;         ///< leaf pages read by scans
  std::uint64_t visited = 0;        ///< rows read from trees
  std::uint64_t returned = 0;  ///< rows that the reader kept (cursors: all; filters count less)
  /// For people; with a warning when more than kManyPartitions were opened.
  [[nodiscard]] std::string text() const;
};
inline constexpr std::size_t kManyPartitions = 7;

/// Warnings about keys that put all inserts of a moment into one leaf (S39). Of a schema: an
/// unhashed key that starts with a time, a day or a number.
[[nodiscard]] std::vector<std::string> lint(const Schema& schema);
/// Of keys in the order of their insertion (a hundred or more): ascending, or with a long common
/// prefix. `what` names them in the warning.
[[nodiscard]] std::vector<std::string> lint_keys(std::string_view what,
                                                 std::span<const std::string> keys);

/// The bytes side of a table; use Table<Row>.
class RawTable {
 public:
  struct Inserted {
    bool inserted = false;
    std::optional<std::string>
        earlier;  ///< !inserted: the earlier row; nothing: its day was dropped
  };

  /// `parent`: for Partition::with_parent. Not creating: what is missing reads as empty.
  [[nodiscard]] static Result<RawTable> open(Database& db, const TableSpec& spec, bool create,
                                             const RawTable* parent = nullptr);

  [[nodiscard]] const TableSpec& spec() const noexcept;
  /// `day`: of a daily row; ignored otherwise. `parent_key`: of a with_parent row.
  [[nodiscard]] Result<Inserted> insert(Transaction& txn, std::string_view key,
                                        std::string_view value, Day day,
                                        std::string_view parent_key) const;
  /// `parent_key` as in insert.
  [[nodiscard]] Result<std::optional<std::string>> get(Transaction& txn, std::string_view key,
                                                       std::string_view parent_key = {}) const;
  /// The day of a daily table's key.
  [[nodiscard]] Result<std::optional<Day>> locate(Transaction& txn, std::string_view key) const;
  /// The tree of a day (of an unpartitioned table: its only one); nothing when there is none.
  [[nodiscard]] Result<std::optional<Tree>> tree_of(Day day) const;
  /// The days that have a partition, ascending, of those in the window; `pruned` counts the others.
  [[nodiscard]] Result<std::vector<Day>> days(const Window& window,
                                              std::uint64_t* pruned = nullptr) const;
  [[nodiscard]] Result<void> prepare(Day day) const;

 private:
  friend Result<void> drop_day(Database& db, Day day, std::span<const RawTable> tables);
  friend Result<void> finish_drops(Database& db, std::span<const RawTable> tables);
  struct State;
  explicit RawTable(std::shared_ptr<State> s) noexcept : state_(std::move(s)) {}
  [[nodiscard]] Result<Tree> writable_tree(Day day) const;
  [[nodiscard]] Result<Inserted> insert_daily(Transaction& txn, std::string_view key,
                                              std::string_view value, Day day) const;
  [[nodiscard]] Result<void> drop(Day day) const;
  [[nodiscard]] Result<Day> parent_day(Transaction& txn, std::string_view parent_key) const;
  std::shared_ptr<State> state_;
};

/// Drops a day of a daily table and of the tables that live with it: `tables[0]` is the parent, and
/// none may be missing.
[[nodiscard]] Result<void> drop_day(Database& db, Day day, std::span<const RawTable> tables);
/// Finishes drops that a crash interrupted; `tables` as for drop_day.
[[nodiscard]] Result<void> finish_drops(Database& db, std::span<const RawTable> tables);

/// XXH3-64 of `group`, big-endian, then `group` as a text of a key with more columns: what all keys
/// of the group start with.
[[nodiscard]] std::string group_prefix(std::string_view group);

namespace row {

/// 8 bytes in front of a hashed key.
[[nodiscard]] std::string hash_prefix(std::string_view first_column);
/// A Partition::with_parent row names its parent.
template <class Row>
concept HasParent = requires(const Row& r) { r.parent_id(); };

inline constexpr std::uint8_t kVersion = 1;

template <class Row>
std::string key_of(const Row& r) {
  std::size_t columns = 0, at = 0;
  Row::key(r, [&](auto, ColumnType, const auto&) { ++columns; });
  std::string prefix;
  Encoder e;
  Row::key(r, [&](auto, ColumnType, const auto& value) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, std::string>) {
      if (at == 0 && Row::kTable.hashed) prefix = hash_prefix(value);
      if (++at == columns) return e.raw(value);
      return e.text(value);
    } else {
      ++at;
      e.put(value);
    }
  });
  return prefix.append(e.take());
}

template <class Row>
std::string value_of(const Row& r) {
  Encoder e;
  e.put(kVersion);
  Row::columns(r, [&](auto, ColumnType, const auto& value) { e.put(value); });
  return e.take();
}

[[nodiscard]] std::unexpected<Error> damaged(const TableSpec& table, std::string_view key);

template <class Row>
Result<Row> decode(std::string_view key, std::string_view value) {
  Row out;
  std::size_t columns = 0, at = 0;
  Row::key(out, [&](auto, ColumnType, const auto&) { ++columns; });
  Decoder k(key);
  if (Row::kTable.hashed) static_cast<void>(k.raw(8));
  Row::key(out, [&](auto, ColumnType, auto& column) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(column)>, std::string>) {
      column = ++at == columns ? std::string(k.rest()) : k.text();
    } else {
      ++at;
      k.get(column);
    }
  });
  Decoder v(value);
  std::uint8_t version = 0;
  v.get(version);
  Row::columns(out, [&](auto, ColumnType, auto& column) { v.get(column); });
  if (!k.good() || !v.good() || version != kVersion || key_of(out) != key)
    return damaged(Row::kTable, key);
  return out;
}

}  // namespace row

template <class Row>
[[nodiscard]] Schema schema_of() {
  Schema s{Row::kTable, {}};
  const Row r;
  Row::key(
      r, [&](std::string_view n, ColumnType t, const auto&) { s.columns.push_back({n, t, true}); });
  Row::columns(r, [&](std::string_view n, ColumnType t, const auto&) {
    s.columns.push_back({n, t, false});
    if (n == "CREATE_DATE") s.columns.push_back({"UPDATE_DATE", ColumnType::time, false});
  });
  return s;
}

/// Walks rows, day by day, in key order within a day.
///
///     for (auto c = table.scan(txn, Window::day(d)); c.next();) use(c.row());
///     // c.status() tells the end from an error
template <class Row>
class TableCursor {
 public:
  /// Moves to the next row; false at the end or on error.
  [[nodiscard]] bool next() {
    if (!status_) return false;
    for (;;) {
      if (!cursor_) {
        if (at_ == trees_.size()) return false;
        if (plan_ != nullptr) plan_->opened.push_back(trees_[at_].name());
        cursor_.emplace(txn_->scan(trees_[at_++], range_));
      }
      const bool found = cursor_->next();
      if (plan_ != nullptr) plan_->leaves += leaves() - std::exchange(told_, leaves());
      if (found) {
        auto row = row::decode<Row>(cursor_->key(), cursor_->value());
        if (!row) {
          status_ = std::unexpected(row.error());
          return false;
        }
        row_ = std::move(*row);
        if (plan_ != nullptr) ++plan_->visited, ++plan_->returned;
        return true;
      }
      if (!cursor_->status()) {
        status_ = cursor_->status();
        return false;
      }
      leaves_ += cursor_->leaves();
      cursor_.reset();
    }
  }
  [[nodiscard]] const Row& row() const noexcept { return row_; }
  [[nodiscard]] std::string_view key() const noexcept { return cursor_->key(); }
  [[nodiscard]] Lsn lsn() const noexcept { return cursor_->lsn(); }
  [[nodiscard]] const Result<void>& status() const noexcept { return status_; }
  /// Leaf pages read so far.
  [[nodiscard]] std::uint64_t leaves() const noexcept {
    return leaves_ + (cursor_ ? cursor_->leaves() : 0);
  }

 private:
  template <class R>
  friend class Table;
  TableCursor(Transaction& txn, Range range, ReadPlan* plan)
      : txn_(&txn), range_(std::move(range)), plan_(plan) {}
  explicit TableCursor(Error e) : status_(std::unexpected(std::move(e))) {}

  Transaction* txn_ = nullptr;
  Range range_;
  ReadPlan* plan_ = nullptr;
  std::vector<Tree> trees_;
  std::size_t at_ = 0;
  std::optional<Cursor> cursor_;
  std::uint64_t leaves_ = 0, told_ = 0;  ///< of finished trees; told the plan
  Row row_;
  Result<void> status_;
};

template <class Row>
class Table {
 public:
  struct Inserted {
    bool inserted = false;
    /// !inserted: the row that has the key. Nothing: it was there, and its day was dropped.
    std::optional<Row> earlier;
  };

  /// Opens the table; creates what is missing when asked, else what is missing reads as empty.
  [[nodiscard]] static Result<Table> open(Database& db, bool create) {
    static_assert(Row::kTable.partition != Partition::with_parent);
    auto raw = RawTable::open(db, Row::kTable, create);
    if (!raw) return std::unexpected(raw.error());
    return Table(std::move(*raw));
  }
  template <class ParentRow>
  [[nodiscard]] static Result<Table> open(Database& db, bool create,
                                          const Table<ParentRow>& parent) {
    static_assert(Row::kTable.partition == Partition::with_parent);
    static_assert(Row::kTable.parent == ParentRow::kTable.name);
    auto raw = RawTable::open(db, Row::kTable, create, &parent.raw());
    if (!raw) return std::unexpected(raw.error());
    return Table(std::move(*raw));
  }

  /// Inserts within `txn`, waiting like Transaction::insert. `not_found`: the parent row is missing
  /// (or committed after the snapshot of `txn`). `tree_not_found`: the day was dropped. After those
  /// and after !inserted the transaction can go on. With Locking::at_commit the row is judged at
  /// commit, which then answers `key_exists` or `write_conflict`.
  [[nodiscard]] Result<Inserted> insert(Transaction& txn, const Row& r) const {
    std::string parent_key;
    if constexpr (row::HasParent<Row>) {
      parent_key = row::hash_prefix(r.parent_id()) + std::string(r.parent_id());
    }
    const std::string key = row::key_of(r);
    auto done = raw_.insert(txn, key, row::value_of(r), day_of(r.create_date), parent_key);
    if (!done) return std::unexpected(done.error());
    Inserted out{.inserted = done->inserted, .earlier = {}};
    if (done->earlier) {
      auto earlier = row::decode<Row>(key, *done->earlier);
      if (!earlier) return std::unexpected(earlier.error());
      out.earlier = std::move(*earlier);
    }
    return out;
  }

  /// The row with the key columns of `like` (the others are ignored; with_parent rows need what
  /// parent_id() answers). Nothing when absent, or its day was dropped.
  [[nodiscard]] Result<std::optional<Row>> get(Transaction& txn, const Row& like) const {
    std::string parent_key;
    if constexpr (row::HasParent<Row>) {
      parent_key = row::hash_prefix(like.parent_id()) + std::string(like.parent_id());
    }
    const std::string key = row::key_of(like);
    auto found = raw_.get(txn, key, parent_key);
    if (!found) return std::unexpected(found.error());
    if (!*found) return std::nullopt;
    auto r = row::decode<Row>(key, **found);
    if (!r) return std::unexpected(r.error());
    return std::optional<Row>(std::move(*r));
  }

  /// The rows of the window's days; of an unpartitioned table all rows. `plan` and `txn` must
  /// outlive the cursor. `after`: only those whose key (TableCursor::key) is above this, in each
  /// partition; to go on with a read of one day in another transaction.
  [[nodiscard]] TableCursor<Row> scan(Transaction& txn, const Window& window = {},
                                      ReadPlan* plan = nullptr, std::string_view after = {}) const {
    Range range;
    if (!after.empty()) range.from = std::string(after) + '\0';  // the smallest key above it
    TableCursor<Row> c(txn, std::move(range), plan);
    auto days = raw_.days(window, plan != nullptr ? &plan->pruned : nullptr);
    if (!days) return TableCursor<Row>(days.error());
    for (const Day day : *days) {
      auto tree = raw_.tree_of(day);
      if (!tree) return TableCursor<Row>(tree.error());
      if (*tree) c.trees_.push_back(**tree);
    }
    return c;
  }

  /// The rows of one group (see file comment) of an unpartitioned table, or of the partition of
  /// `day`. `from`: encoded key columns behind the group to start at (or, in reverse, to stop at).
  [[nodiscard]] TableCursor<Row> group(Transaction& txn, std::string_view group,
                                       std::string_view from = {}, bool reverse = false,
                                       ReadPlan* plan = nullptr, Day day = 0) const {
    Range range = Range::prefix(group_prefix(group), reverse);
    range.from.append(from);
    TableCursor<Row> c(txn, std::move(range), plan);
    auto tree = raw_.tree_of(day);
    if (!tree) return TableCursor<Row>(tree.error());
    if (*tree) c.trees_.push_back(**tree);
    return c;
  }

  /// The day of the partition that holds a key's row, for Partition::daily.
  [[nodiscard]] Result<std::optional<Day>> locate(Transaction& txn, const Row& like) const {
    return raw_.locate(txn, row::key_of(like));
  }
  /// Creates the partition of a day ahead of its first row.
  [[nodiscard]] Result<void> prepare(Day day) const { return raw_.prepare(day); }
  [[nodiscard]] const RawTable& raw() const noexcept { return raw_; }

 private:
  explicit Table(RawTable raw) : raw_(std::move(raw)) {}
  RawTable raw_;
};

}  // namespace kessai::payments
