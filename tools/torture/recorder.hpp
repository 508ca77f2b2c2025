// SPDX-License-Identifier: Apache-2.0
// Writes down what one thread's transactions did, into its lane. One transaction at a time.
#pragma once

#include <span>
#include <vector>

#include "tools/torture/history.hpp"

namespace kessai::torture {

/// An answer to a read of one key.
struct Answer {
  bool found = false;
  bool garbled = false;
  std::span<const Element> elements;
  Lsn row = 0;  ///< commit LSN of the row, as told; 0: not told
};

class Recorder {
 public:
  explicit Recorder(Lane& lane) : lane_(lane) {}

  /// Whether a transaction of any size still fits.
  [[nodiscard]] bool room() const {
    return lane_.transactions.room() > 0 && lane_.ops.room() > kMostOps &&
           lane_.rows.room() > kMostRows && lane_.elements.room() > kMostElements;
  }
  /// Whether the open transaction may go on.
  [[nodiscard]] bool room_in_transaction() const {
    return lane_.ops.room() > kMostOps / 2 && lane_.rows.room() > kMostRows / 2 &&
           lane_.elements.room() > kMostElements / 2;
  }

  Transaction& begin(Transaction t) {
    t.lane = lane_.number;
    t.incarnation = lane_.incarnation;
    t.number = lane_.transactions.size();
    t.first_op = lane_.ops.size();
    open_ = &lane_.transactions[lane_.transactions.push(t)];
    return *open_;
  }
  [[nodiscard]] Transaction& open() { return *open_; }
  [[nodiscard]] Element next_element() { return make_element(lane_.number, ++elements_made_); }

  /// What Transaction::snapshot() answers: a lock before the first read moves it. Recorded before
  /// what was read under that lock: the process can be killed between the two.
  void sees(Lsn snapshot) {
    if (open_->level != Isolation::read_committed) open_->snapshot = snapshot;
  }
  void read(Kind kind, Key key, const Answer& a, Lsn at = 0, Lsn floor = 0) {
    push({.kind = kind,
          .found = a.found,
          .garbled = a.garbled,
          .key = key,
          .first = lane_.elements.push(a.elements),
          .count = static_cast<std::uint32_t>(a.elements.size()),
          .row = a.row,
          .at = at,
          .floor = floor});
  }
  /// `rows` in key order; their elements are parts of `elements`.
  void range(Key from, Key to, std::vector<Row>& rows, std::span<const Element> elements,
             Lsn at = 0, Lsn until = 0, Lsn floor = 0) {
    const std::uint32_t first = lane_.elements.push(elements);
    for (Row& row : rows) row.first += first;
    push({.kind = Kind::range,
          .key = from,
          .to = to,
          .first = lane_.rows.push(rows),
          .count = static_cast<std::uint32_t>(rows.size()),
          .at = at,
          .until = until,
          .floor = floor});
  }
  void write(Key key, std::span<const Element> row) {
    push({.kind = Kind::write,
          .key = key,
          .first = lane_.elements.push(row),
          .count = static_cast<std::uint32_t>(row.size())});
  }
  /// `locked`: the row was seen under its lock.
  void remove(Key key, bool locked = true) {
    push({.kind = Kind::remove, .found = locked, .key = key});
  }
  /// Answers the number that rollback_to takes.
  std::uint32_t savepoint() {
    push({.kind = Kind::savepoint});
    return lane_.ops.size() - 1 - open_->first_op;
  }
  void rollback_to(std::uint32_t savepoint) {
    push({.kind = Kind::rollback_to, .first = savepoint});
  }
  void end(Fate fate, bool settled, std::uint64_t now_ns) {
    open_->settled = settled;
    open_->end_ns = now_ns;
    open_->fate(fate);
  }

  static constexpr std::uint32_t kMostOps = 512, kMostRows = 8192, kMostElements = 1u << 19;

 private:
  void push(const Op& op) { lane_.ops.push(op); }

  Lane& lane_;
  Transaction* open_ = nullptr;
  std::uint32_t elements_made_ = 0;
};

}  // namespace kessai::torture
