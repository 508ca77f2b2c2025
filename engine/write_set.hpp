// SPDX-License-Identifier: Apache-2.0
// The private writes of one transaction: one entry per (tree, key), the last write wins. From the
// first savepoint on a journal remembers what each change replaced, for rolling back to it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <boost/unordered/unordered_flat_map.hpp>

#include "btree/tree.hpp"
#include "wal/record.hpp"

namespace kessai::engine {

struct TreeState;

struct Write {
  std::shared_ptr<TreeState> tree;
  std::string key;
  std::string value;
  bool remove = false;
  bool deferred = false;  ///< Locking::at_commit: neither locked nor judged yet
  bool insert = false;    ///< deferred: the row must not exist
  bool noop = false;      ///< an own insert that was removed again: nothing to do
  bool had_row = false;   ///< a live row existed when the lock was taken
  btree::LeafHint hint;
  btree::OverflowPages overflow;  ///< prepared at commit
  std::string before_overflow;    ///< the long value that this write replaces
};

class WriteSet {
 public:
  [[nodiscard]] bool empty() const noexcept { return writes_.empty(); }
  [[nodiscard]] std::size_t size() const noexcept { return writes_.size(); }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] Write* find(const TreeState* tree, std::string_view key) noexcept;
  Write& add(std::shared_ptr<TreeState> tree, std::string_view key);
  /// Changes what `w` writes.
  void set(Write& w, bool remove, std::string_view value);
  void clear() noexcept;
  /// Sorted by tree and key. Invalidates find() and marks until clear().
  std::vector<Write>& sorted();
  [[nodiscard]] std::vector<Write>& all() noexcept { return writes_; }

  /// A point to undo to. Costs nothing before the first one.
  [[nodiscard]] std::size_t mark() noexcept {
    journaling_ = true;
    return journal_.size();
  }
  void undo_to(std::size_t mark);

 private:
  struct Change {
    std::size_t index;
    bool added;
    bool remove = false, noop = false;
    std::string value;
  };
  void unadd();

  // Small sets are searched from the end; larger ones have an index by hash.
  static constexpr std::size_t kIndexFrom = 9;
  std::vector<Write> writes_;
  boost::unordered_flat_map<std::uint64_t, std::size_t> index_;
  std::vector<Change> journal_;
  bool journaling_ = false;
  std::size_t bytes_ = 0;
};

}  // namespace kessai::engine
