// SPDX-License-Identifier: Apache-2.0
// A window of the log in memory: operations gathered in log order, given back by tree and key.
//
// Recovery promises per key that the last operation wins (I16), so of several operations on one key
// only the last is given back. Sorted, the operations of a leaf come one after the other.
//
// Memory: the bytes of the operations live in frames of the page pool, which are the cache's
// anyway; long values (overflow, at most kMostLong and one value) and the sort entries (at most
// kMostOps) on the heap.
//
// Threads: belongs to one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <boost/unordered/unordered_flat_map.hpp>

#include "btree/pool.hpp"
#include "wal/record.hpp"

namespace kessai::engine {

class ReplayWindow {
 public:
  static constexpr std::size_t kMostOps = std::size_t{1} << 20;
  static constexpr std::uint64_t kMostLong = std::uint64_t{8} << 20;

  struct Entry {
    std::uint64_t word = 0;  ///< while sorting: eight bytes of the key; then free for the caller
    std::uint32_t at = 0;    ///< where the operation is kept, in log order
    std::uint16_t tree = 0;  ///< index into trees()
    std::uint16_t key_bytes = 0;
  };
  struct Change {
    std::string_view key, value;
    Lsn lsn = 0;
    bool remove = false;
  };

  ReplayWindow(btree::Pool& pool, std::uint64_t bytes) : pool_(&pool), limit_(bytes) {}
  ~ReplayWindow();
  ReplayWindow(const ReplayWindow&) = delete;
  ReplayWindow& operator=(const ReplayWindow&) = delete;

  /// Keeps a copy. False: no room until clear(); an empty window takes any operation.
  [[nodiscard]] Result<bool> add(const wal::Op& op, Lsn lsn);
  [[nodiscard]] bool empty() const noexcept { return entries_.empty(); }
  /// By tree and key, one entry each: the last one of the log. Nothing can be added then
  /// before clear().
  [[nodiscard]] std::span<Entry> sorted();
  [[nodiscard]] Change change(const Entry& e) const noexcept;
  [[nodiscard]] std::span<const TreeId> trees() const noexcept { return trees_; }
  void prefetch(const Entry& e) const noexcept { __builtin_prefetch(place(e.at)); }
  void clear() noexcept;

 private:
  [[nodiscard]] std::byte* place(std::uint32_t at) const noexcept;
  [[nodiscard]] std::string_view key(const Entry& e) const noexcept;
  [[nodiscard]] Result<std::byte*> allocate(std::size_t bytes, std::uint32_t& at);
  [[nodiscard]] std::uint16_t index_of(TreeId tree);
  void sort_from(std::span<Entry> entries, std::size_t depth);

  btree::Pool* pool_;
  std::uint64_t limit_;
  std::vector<btree::FrameId> frames_;
  std::size_t next_frame_ = 0;  ///< frames in use
  std::size_t room_ = 0;        ///< left in the last of them
  std::uint64_t bytes_ = 0, long_bytes_ = 0;
  bool sorted_ = false;
  std::vector<Entry> entries_;
  std::vector<std::string> long_values_;
  std::vector<TreeId> trees_;
  boost::unordered_flat_map<std::uint32_t, std::uint16_t> index_;  ///< of trees_, by id
};

}  // namespace kessai::engine
