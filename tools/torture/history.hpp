// SPDX-License-Identifier: Apache-2.0
// What transactions did and were told: the material of both isolation checkers.
//
// A history is one run over a fresh set of keys, all absent at its start; it may continue across
// kills of the process (incarnations). Keys are small numbers. The keys of a register hold one
// value; the keys of a list hold all values appended so far, one row each. Every value written is
// an Element that nobody else writes in this history, so a row tells which write made it.
//
// Recording: a Lane belongs to one thread and lives in memory that survives the death of the
// process that fills it (a shared mapping). A thread fills an entry first and counts it afterwards
// (release), so what is counted is whole whenever the process dies. merge() turns lanes into a
// History, which is plain vectors and belongs to one thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kessai/options.hpp"

namespace kessai::torture {

using Lsn = std::uint64_t;
using Key = std::uint32_t;
/// Lane in the upper 8 bits, a number from 1 on in the lower 24. 0: none.
using Element = std::uint32_t;
/// Index into History::transactions.
using TxnIndex = std::uint32_t;

inline constexpr TxnIndex kNobody = ~TxnIndex{0};
inline constexpr unsigned kLanes = 256;

[[nodiscard]] constexpr Element make_element(unsigned lane, std::uint32_t number) {
  return lane << 24 | number;
}
[[nodiscard]] constexpr unsigned lane_of(Element e) { return e >> 24; }
[[nodiscard]] constexpr std::uint32_t number_of(Element e) { return e & 0xffffff; }

/// Two of three keys hold lists.
[[nodiscard]] constexpr bool is_list(Key key) { return key % 3 != 2; }

enum class Kind : std::uint8_t {
  read,         ///< get
  locked_read,  ///< get_for_update, what update_if was shown, an insert or remove that found
                ///< nothing in its way: the current row, which then stays locked
  exists,       ///< insert refused: the current row, which then stays locked
  write,        ///< the whole new row
  remove,       ///< answered as done
  range,        ///< all rows of [key, to)
  savepoint,
  rollback_to,  ///< `first` = number, in the transaction, of its savepoint operation
};

/// One call that was answered.
struct Op {
  Kind kind = Kind::read;
  bool found = false;    ///< reads: the row was there; remove: it was, under its lock
  bool garbled = false;  ///< a row that is not of this key and history
  Key key = 0;
  Key to = 0;               ///< range: its end
  std::uint32_t first = 0;  ///< of `count` elements, or rows (range)
  std::uint32_t count = 0;
  Lsn row = 0;    ///< reads: commit LSN of the row, as told; 0: own write, absent, not told
  Lsn at = 0;     ///< Transaction::snapshot() after the call; of a range: after its first
  Lsn until = 0;  ///< range: Transaction::snapshot() after the last call
  Lsn floor = 0;  ///< the newest commit that was answered before the call
};

/// A row of a range read.
struct Row {
  Key key = 0;
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  bool garbled = false;
  Lsn row = 0;
};

enum class Fate : std::uint8_t {
  running,     ///< the process died first; resolve() says what became of it
  committing,  ///< as `running`, inside commit
  visible,     ///< commit_async answered with an LSN, durability had not been answered
  committed,   ///< answered as asked: durable, or relaxed and visible
  aborted,     ///< answered: rolled back, refused
  lost,        ///< a kill took it back: never answered, or relaxed
};

struct Transaction {
  Isolation level = Isolation::snapshot;
  bool read_only = false;
  bool relaxed = false;
  bool settled = false;  ///< ended with an answer that outruns no durability (commit, rollback)
  std::uint8_t lane = 0;
  std::uint8_t incarnation = 0;
  std::atomic<Fate> fate_word{Fate::running};
  std::uint32_t number = 0;  ///< within its lane
  std::uint32_t first_op = 0;
  std::uint32_t ops = 0;
  std::uint64_t begin_ns = 0;  ///< real time before begin and after the answer; 0: none
  std::uint64_t end_ns = 0;
  Lsn snapshot = 0;  ///< Transaction::snapshot() after the last call
  Lsn commit = 0;    ///< 0: without writes, or not known
  Lsn floor = 0;     ///< the newest commit that a transaction of this kind had to see

  Transaction() = default;
  Transaction(const Transaction& o) { *this = o; }
  Transaction& operator=(const Transaction& o);
  [[nodiscard]] Fate fate() const noexcept { return fate_word.load(std::memory_order_acquire); }
  void fate(Fate f) noexcept { fate_word.store(f, std::memory_order_release); }
};

/// A run of entries in a shared mapping: written by one thread, counted for whoever is left.
template <class T>
class Tape {
 public:
  void place(T* data, std::uint32_t capacity) noexcept {
    data_ = data;
    capacity_ = capacity;
    used_.store(0, std::memory_order_release);
  }
  [[nodiscard]] std::uint32_t size() const noexcept {
    return used_.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::uint32_t room() const noexcept { return capacity_ - size(); }
  void clear() noexcept { used_.store(0, std::memory_order_release); }
  /// REQUIRES room. The entry counts at once.
  std::uint32_t push(const T& entry) noexcept {
    const std::uint32_t at = used_.load(std::memory_order_relaxed);
    data_[at] = entry;
    used_.store(at + 1, std::memory_order_release);
    return at;
  }
  std::uint32_t push(std::span<const T> entries) noexcept {
    const std::uint32_t at = used_.load(std::memory_order_relaxed);
    std::copy(entries.begin(), entries.end(), data_ + at);
    used_.store(at + static_cast<std::uint32_t>(entries.size()), std::memory_order_release);
    return at;
  }
  [[nodiscard]] T& operator[](std::uint32_t i) noexcept { return data_[i]; }
  [[nodiscard]] std::span<const T> all() const noexcept { return {data_, size()}; }

 private:
  T* data_ = nullptr;
  std::uint32_t capacity_ = 0;
  std::atomic<std::uint32_t> used_{0};
};

struct Lane {
  std::uint8_t number = 0;
  std::uint8_t incarnation = 0;
  Tape<Transaction> transactions;
  Tape<Op> ops;
  Tape<Row> rows;
  Tape<Element> elements;
};

struct Violation {
  std::string kind;  ///< "G1a", "lost-update", "stale-read", ...
  std::string text;  ///< what happened, in words
};

struct History {
  bool s2pl = false;
  Key keys = 0;  ///< all keys are below
  std::vector<Transaction> transactions;
  std::vector<Op> ops;
  std::vector<Row> rows;
  std::vector<Element> elements;

  /// Copies what a lane holds to the end.
  void add(const Lane& lane);

  [[nodiscard]] std::span<const Op> ops_of(const Transaction& t) const {
    return {ops.data() + t.first_op, t.ops};
  }
  [[nodiscard]] std::span<const Element> elements_of(const Op& op) const {
    return {elements.data() + op.first, op.count};
  }
  [[nodiscard]] std::span<const Element> elements_of(const Row& row) const {
    return {elements.data() + row.first, row.count};
  }
  [[nodiscard]] std::span<const Row> rows_of(const Op& op) const {
    return {rows.data() + op.first, op.count};
  }
  /// "T12 (serializable, committed at 4711)".
  [[nodiscard]] std::string name(TxnIndex t) const;
  /// The transaction with all it did, one operation a line.
  [[nodiscard]] std::string describe(TxnIndex t) const;
};

[[nodiscard]] std::string_view level_name(Isolation level);
[[nodiscard]] std::string_view fate_name(Fate fate);
/// "k7".
[[nodiscard]] std::string key_name(Key key);
/// "3.17": the 17th write of lane 3.
[[nodiscard]] std::string element_name(Element e);
/// "[1.1 3.17]", the middle of long ones left out; "absent" when not found.
[[nodiscard]] std::string list_text(bool found, std::span<const Element> elements);

}  // namespace kessai::torture
