// SPDX-License-Identifier: Apache-2.0
#include "engine/write_set.hpp"

#include <algorithm>

#include "engine/store.hpp"
#include "mvcc/record_hash.hpp"

namespace kessai::engine {

Write* WriteSet::find(const TreeState* tree, std::string_view key) noexcept {
  if (writes_.size() >= kIndexFrom) {
    const auto it = index_.find(mvcc::record_hash(tree->tree.id(), key));
    if (it == index_.end()) return nullptr;
    Write& w = writes_[it->second];
    if (w.tree.get() == tree && w.key == key) return &w;
    // Two records with one hash: look at all (practically never).
  }
  for (std::size_t i = writes_.size(); i-- > 0;) {
    if (writes_[i].tree.get() == tree && writes_[i].key == key) return &writes_[i];
  }
  return nullptr;
}

Write& WriteSet::add(std::shared_ptr<TreeState> tree, std::string_view key) {
  Write& w = writes_.emplace_back();
  w.tree = std::move(tree);
  w.key = key;
  bytes_ += key.size() + sizeof(Write);
  if (journaling_) journal_.push_back({.index = writes_.size() - 1, .added = true, .value = {}});
  if (writes_.size() == kIndexFrom) {
    for (std::size_t i = 0; i < writes_.size(); ++i) {
      index_[mvcc::record_hash(writes_[i].tree->tree.id(), writes_[i].key)] = i;
    }
  } else if (writes_.size() > kIndexFrom) {
    index_[mvcc::record_hash(w.tree->tree.id(), key)] = writes_.size() - 1;
  }
  return w;
}

void WriteSet::set(Write& w, bool remove, std::string_view value) {
  if (journaling_) {
    journal_.push_back({.index = static_cast<std::size_t>(&w - writes_.data()),
                        .added = false,
                        .remove = w.remove,
                        .noop = w.noop,
                        .value = w.value});
    bytes_ += w.value.size();
  }
  bytes_ += value.size();
  bytes_ -= w.value.size();
  w.value = value;
  w.remove = remove;
  w.noop = remove && !w.had_row;
}

void WriteSet::unadd() {
  const Write& w = writes_.back();
  bytes_ -= w.key.size() + w.value.size() + sizeof(Write);
  if (writes_.size() >= kIndexFrom) index_.erase(mvcc::record_hash(w.tree->tree.id(), w.key));
  writes_.pop_back();
}

void WriteSet::undo_to(std::size_t mark) {
  for (; journal_.size() > mark; journal_.pop_back()) {
    Change& c = journal_.back();
    if (c.added) {
      unadd();  // the last one: later ones were undone before
      continue;
    }
    Write& w = writes_[c.index];
    bytes_ -= w.value.size();  // the journal's copy becomes the value
    w.value = std::move(c.value);
    w.remove = c.remove;
    w.noop = c.noop;
  }
}

void WriteSet::clear() noexcept {
  writes_.clear();
  index_.clear();
  journal_.clear();
  journaling_ = false;
  bytes_ = 0;
}

std::vector<Write>& WriteSet::sorted() {
  const auto less = [](const Write& a, const Write& b) {
    const auto x = raw(a.tree->tree.id()), y = raw(b.tree->tree.id());
    return x != y ? x < y : a.key < b.key;
  };
  if (!std::is_sorted(writes_.begin(), writes_.end(), less))
    std::sort(writes_.begin(), writes_.end(), less);
  return writes_;
}

}  // namespace kessai::engine
