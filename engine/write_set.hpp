// SPDX-License-Identifier: Apache-2.0
// The private writes of one transaction: one entry per (tree, key), the last write wins.
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
  bool noop = false;     ///< an own insert that was removed again: nothing to do
  bool had_row = false;  ///< a live row existed when the lock was taken
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
  void set_value(Write& w, std::string_view value);
  void clear() noexcept;
  /// Sorted by tree and key. Invalidates find() until clear().
  std::vector<Write>& sorted();
  [[nodiscard]] std::vector<Write>& all() noexcept { return writes_; }

 private:
  // Small sets are searched from the end; larger ones have an index by hash.
  static constexpr std::size_t kIndexFrom = 9;
  std::vector<Write> writes_;
  boost::unordered_flat_map<std::uint64_t, std::size_t> index_;
  std::size_t bytes_ = 0;
};

}  // namespace kessai::engine
