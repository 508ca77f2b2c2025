// SPDX-License-Identifier: Apache-2.0
// The model of locks: what one transaction holds in one tree, and what an S2PL scan locks on its
// way. In the MVCC build only exclusive record locks exist.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kessai/kessai.hpp"

namespace kessai::engine_test {

class ModelLocks {
 public:
  void own(const std::string& key) { exclusive_.insert(key); }
  void share(const std::string& key) { shared_.insert(key); }
  /// Touching and overlapping ranges become one.
  void add_range(const Range& r) {
    if (r.to && *r.to <= r.from) return;
    Span span{r.from, r.to};
    std::erase_if(ranges_, [&](const Span& s) {
      if ((s.second && *s.second < span.first) || (span.second && *span.second < s.first))
        return false;
      span.first = std::min(span.first, s.first);
      if (!s.second || (span.second && *span.second < *s.second)) span.second = s.second;
      return true;
    });
    ranges_.push_back(std::move(span));
  }

  [[nodiscard]] bool blocks_read(const std::string& key) const { return exclusive_.contains(key); }
  [[nodiscard]] bool blocks_write(const std::string& key) const {
    if (exclusive_.contains(key) || shared_.contains(key)) return true;
    for (const auto& [from, to] : ranges_)
      if (key >= from && (!to || key < *to)) return true;
    return false;
  }
  [[nodiscard]] bool blocks_scan(const Range& r) const {
    const auto at = exclusive_.lower_bound(r.from);
    return at != exclusive_.end() && (!r.to || *at < *r.to);
  }
  /// Adds the locked keys to `records`; how many ranges there are besides.
  [[nodiscard]] std::size_t count(std::set<std::string>& records) const {
    records.insert(exclusive_.begin(), exclusive_.end());
    records.insert(shared_.begin(), shared_.end());
    return ranges_.size();
  }

 private:
  using Span = std::pair<std::string, std::optional<std::string>>;
  std::set<std::string> exclusive_, shared_;
  std::vector<Span> ranges_;
};

/// The stretches that an S2PL scan locks: a row and what is before it, then two rows, four, ... up
/// to 256; what is left behind the last row with the stretch that finds fewer rows than it wants.
template <class Value>
class ModelScan {
 public:
  using Rows = std::map<std::string, Value>;
  /// `rows`: those that are stored, without the scanning transaction's own writes.
  ModelScan(Rows rows, const Range& range)
      : rows_(std::move(rows)), left_(range), ended_(range.to && *range.to <= range.from) {}

  /// Calls `lock` for every stretch that must be locked before the scan can answer the row at
  /// `key` (null: that there are no more); false when `lock` refuses one.
  template <class Lock>
  bool reach(const std::string* key, Lock lock) {
    // The walk is one stored row ahead of the own writes it merges: it answers `key` once it has
    // seen a stored row at or past it.
    while (!ended_ && !(key != nullptr && reached(*key))) {
      const Range stretch = next();
      if (!lock(stretch)) return false;
      take(stretch);
    }
    return true;
  }

 private:
  [[nodiscard]] bool reached(const std::string& key) const {
    return furthest_ && (left_.reverse ? *furthest_ <= key : *furthest_ >= key);
  }
  [[nodiscard]] Range next() const {
    Range stretch = left_;
    std::size_t n = 0;
    if (left_.reverse) {
      auto at = left_.to ? rows_.lower_bound(*left_.to) : rows_.end();
      while (at != rows_.begin() && std::prev(at)->first >= left_.from) {
        --at;
        if (++n < stretch_) continue;
        stretch.from = at->first;
        break;
      }
    } else {
      for (auto at = rows_.lower_bound(left_.from);
           at != rows_.end() && (!left_.to || at->first < *left_.to); ++at) {
        if (++n < stretch_) continue;
        stretch.to = at->first + '\0';
        break;
      }
    }
    return stretch;
  }
  void take(const Range& stretch) {
    // The last row of the stretch, in the direction of the walk.
    if (left_.reverse) {
      const auto at = rows_.lower_bound(stretch.from);
      if (at != rows_.end() && (!stretch.to || at->first < *stretch.to)) furthest_ = at->first;
      ended_ = stretch.from == left_.from;
      left_.to = stretch.from;
    } else {
      const auto at = stretch.to ? rows_.lower_bound(*stretch.to) : rows_.end();
      if (at != rows_.begin() && std::prev(at)->first >= stretch.from)
        furthest_ = std::prev(at)->first;
      ended_ = stretch.to == left_.to;
      if (!ended_) left_.from = *stretch.to;
    }
    stretch_ = std::min<std::size_t>(2 * stretch_, 256);
  }

  const Rows rows_;
  Range left_;
  bool ended_;
  std::size_t stretch_ = 1;
  std::optional<std::string> furthest_;  ///< last stored row that is locked
};

}  // namespace kessai::engine_test
