// SPDX-License-Identifier: Apache-2.0
// Who wrote what: shared by both checkers. Built once per history, read-only afterwards.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "tools/torture/history.hpp"

namespace kessai::torture {

/// The write behind an element.
struct Written {
  enum class State : std::uint8_t { final, intermediate, undone };
  TxnIndex txn = kNobody;
  Key key = 0;
  State state = State::final;
};

class Index {
 public:
  explicit Index(const History& history);
  /// Null: nobody wrote it.
  [[nodiscard]] const Written* written(Element e) const {
    const auto& lane = lanes_[lane_of(e)];
    if (number_of(e) >= lane.size() || lane[number_of(e)].txn == kNobody) return nullptr;
    return &lane[number_of(e)];
  }
  /// The last write or removal of each key that the transaction changed.
  [[nodiscard]] std::span<const Op* const> finals_of(TxnIndex t) const {
    return {finals_.data() + first_final_[t], first_final_[t + 1] - first_final_[t]};
  }

 private:
  std::array<std::vector<Written>, kLanes> lanes_;
  std::vector<const Op*> finals_;
  std::vector<std::uint32_t> first_final_;
};

/// One key as one call of a transaction saw it.
struct Seen {
  const Op* op = nullptr;
  const Op* own = nullptr;  ///< the transaction's own write or removal that it had to see
  Key key = 0;
  bool found = false;
  bool garbled = false;
  std::span<const Element> elements;
  Lsn row = 0;
};

/// Own writes that are in force, in the order they were made.
class OwnWrites {
 public:
  void clear() { writes_.clear(); }
  void add(const Op& op) { writes_.push_back(&op); }
  /// Forgets what was written after `savepoint` and answers how to visit it first.
  template <class Fn>
  void undo_to(const Op* savepoint, Fn&& undone) {
    while (!writes_.empty() && writes_.back() > savepoint) {
      undone(*writes_.back());
      writes_.pop_back();
    }
  }
  [[nodiscard]] const Op* find(Key key) const {
    for (auto w = writes_.rbegin(); w != writes_.rend(); ++w)
      if ((*w)->key == key) return *w;
    return nullptr;
  }
  [[nodiscard]] std::span<const Op* const> all() const { return writes_; }

 private:
  std::vector<const Op*> writes_;
};

/// Calls `fn(const Seen&)` for each key that each call of `t` saw; ranges key by key, absent keys
/// included.
template <class Fn>
void for_each_seen(const History& h, const Transaction& t, OwnWrites& own, Fn&& fn) {
  own.clear();
  const auto ops = h.ops_of(t);
  for (const Op& op : ops) {
    switch (op.kind) {
      case Kind::read:
      case Kind::locked_read:
      case Kind::exists:
        fn(Seen{&op, own.find(op.key), op.key, op.found, op.garbled, h.elements_of(op), op.row});
        break;
      case Kind::range: {
        const auto rows = h.rows_of(op);
        std::size_t i = 0;
        for (Key key = op.key; key < op.to; ++key) {
          Seen seen{&op, own.find(key), key, false, false, {}, 0};
          if (i < rows.size() && rows[i].key == key) {
            seen.found = true;
            seen.garbled = rows[i].garbled;
            seen.elements = h.elements_of(rows[i]);
            seen.row = rows[i++].row;
          }
          fn(seen);
        }
        break;
      }
      case Kind::write:
      case Kind::remove:
        own.add(op);
        break;
      case Kind::savepoint:
        break;
      case Kind::rollback_to:
        own.undo_to(ops.data() + op.first, [](const Op&) {});
        break;
    }
  }
}

}  // namespace kessai::torture
