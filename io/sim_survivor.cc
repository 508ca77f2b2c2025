// SPDX-License-Identifier: Apache-2.0
// What a power failure leaves: chooses which volatile items survive and builds the new medium.
#include "io/sim_private.hpp"

namespace kessai::io {
namespace {

/// One volatile item of the whole disk. Exactly one of `entry` and `item` counts.
struct Unit {
  std::uint64_t seq = 0;
  SimInodeId inode = 0;
  const SimEntry* entry = nullptr;
  SimItem item;
  bool keep = true;
  [[nodiscard]] bool is_write() const { return entry == nullptr && !item.resize; }
};

class Survival {
 public:
  Survival(SimDisk::Medium& medium, CrashOutcome outcome, std::uint64_t seed)
      : medium_(medium),
        outcome_(outcome),
        rng_(seed ^ (static_cast<std::uint64_t>(outcome) << 56)) {}

  void run(const SimDisk::Medium& from) {
    gather(from);
    choose();
    apply();
    medium_.entries.clear();
    medium_.names = medium_.durable_names;
    for (auto& [id, node] : medium_.inodes) {
      node.items.clear();
      node.current = node.durable;
      node.current_size = node.durable_size;
    }
    medium_.collect_garbage();
  }

 private:
  void gather(const SimDisk::Medium& from) {
    for (const auto& entry : medium_.entries)
      units_.push_back({.seq = entry.seq, .entry = &entry, .item = {}});
    for (const auto& [id, node] : medium_.inodes) {
      for (const auto& item : node.items)
        units_.push_back({.seq = item.seq, .inode = id, .item = item});
    }
    std::ranges::sort(units_, {}, &Unit::seq);
    const std::size_t completed = units_.size();
    for (const auto& op : from.under_way) {
      const auto end = op.offset + op.data->size();
      units_.push_back({.seq = 0,
                        .inode = op.inode,
                        .item = {.extends = end > medium_.inode(op.inode).current_size,
                                 .offset = op.offset,
                                 .data = op.data,
                                 .size = op.data->size()}});
    }
    for (std::size_t i = units_.size(); i > completed + 1; --i) {
      std::swap(units_[i - 1], units_[completed + rng_.below(i - completed)]);
    }
  }

  bool coin() { return rng_.below(8) < odds_; }

  void choose() {
    const std::size_t n = units_.size();
    if (n == 0) return;
    static constexpr std::uint64_t kOdds[] = {1, 4, 7};  // of 8: nearly nothing, half, nearly all
    odds_ = kOdds[rng_.below(3)];
    const std::size_t chosen = rng_.below(n);
    const std::size_t cut = rng_.below(n + 1);
    std::map<SimInodeId, std::size_t> quota;  // reordered: how many items of each file survive
    for (const Unit& u : units_) ++quota[u.inode];
    for (auto& [id, count] : quota) count = rng_.below(count + 1);
    for (std::size_t i = 0; i < n; ++i) {
      Unit& u = units_[i];
      switch (outcome_) {
        case CrashOutcome::none:
          u.keep = false;
          break;
        case CrashOutcome::all:
          break;
        case CrashOutcome::prefix:
          u.keep = i < cut;
          break;
        case CrashOutcome::all_but_one:
          u.keep = i != chosen;
          break;
        case CrashOutcome::one_only:
          u.keep = i == chosen;
          break;
        case CrashOutcome::random_512:
        case CrashOutcome::random_4096:
          u.keep = u.is_write() || coin();
          break;
        case CrashOutcome::torn_last:
          break;
        case CrashOutcome::entries_lost:
          u.keep = u.entry == nullptr;
          break;
        case CrashOutcome::metadata_only:
          u.keep = true;
          break;
        case CrashOutcome::reordered: {
          std::size_t& left = quota[u.inode];
          u.keep = left > 0;
          if (left > 0) --left;
          break;
        }
      }
    }
  }

  void apply() {
    std::size_t last_write = units_.size();
    for (std::size_t i = 0; i < units_.size(); ++i) {
      if (units_[i].is_write()) last_write = i;
    }
    std::map<SimInodeId, bool> size_lost;
    for (std::size_t i = 0; i < units_.size(); ++i) {
      const Unit& u = units_[i];
      if (u.entry != nullptr) {
        if (u.keep) apply_entry(*u.entry);
      } else if (u.item.resize) {
        bool& lost = size_lost[u.inode];
        lost = lost || !u.keep;
        if (!lost) medium_.inode(u.inode).harden(u.item);
      } else if (u.keep) {
        apply_write(medium_.inode(u.inode), u.item, i == last_write);
      }
    }
  }

  void apply_entry(const SimEntry& entry) {
    for (const auto& [name, id] : entry.changes) {
      if (id == 0) {
        medium_.durable_names.erase(name);
      } else {
        medium_.durable_names[name] = id;
      }
    }
  }

  void apply_write(SimInode& node, const SimItem& item, bool last) {
    switch (outcome_) {
      case CrashOutcome::random_512:
        return apply_blocks(node, item, 512);
      case CrashOutcome::random_4096:
        return apply_blocks(node, item, 4096);
      case CrashOutcome::metadata_only:
        if (item.extends) node.durable_size = std::max(node.durable_size, item.offset + item.size);
        return;
      case CrashOutcome::torn_last:
        if (last) return apply_torn(node, item);
        [[fallthrough]];
      default:
        return node.harden(item);
    }
  }

  static SimItem piece(const SimItem& item, std::size_t at, std::size_t size) {
    SimItem p = item;
    p.begin += at;
    p.offset += at;
    p.size = size;
    return p;
  }

  /// The size of a write that made the file longer may survive without its bytes.
  void maybe_keep_size(SimInode& node, const SimItem& item) {
    if (item.extends && rng_.below(2) == 0)
      node.durable_size = std::max(node.durable_size, item.offset + item.size);
  }

  void apply_blocks(SimInode& node, const SimItem& item, std::size_t block) {
    maybe_keep_size(node, item);
    for (std::size_t at = 0; at < item.size;) {
      const std::size_t n =
          std::min<std::uint64_t>(item.size - at, block - (item.offset + at) % block);
      if (coin()) node.harden(piece(item, at, n));
      at += n;
    }
  }

  void apply_torn(SimInode& node, const SimItem& item) {
    static constexpr std::size_t kSector = 512;
    maybe_keep_size(node, item);
    const std::size_t sectors = (item.size + kSector - 1) / kSector;
    const std::size_t at = rng_.below(sectors) * kSector;
    const std::size_t size = std::min(kSector, item.size - at);
    if (at > 0) node.harden(piece(item, 0, at));
    switch (rng_.below(4)) {
      case 0:
        node.harden(piece(item, at, size * 3 / 8));
        break;
      case 1:
        node.harden(piece(item, at, size * 7 / 8));
        break;
      case 2:
        if (item.offset + at + size <= node.durable_size) node.durable.zero(item.offset + at, size);
        break;
      default:
        break;
    }
  }

  SimDisk::Medium& medium_;
  const CrashOutcome outcome_;
  SeededRandom rng_;
  std::uint64_t odds_ = 4;
  std::vector<Unit> units_;
};

}  // namespace

std::shared_ptr<SimDisk::Medium> SimDisk::Medium::survivor(CrashOutcome outcome,
                                                           std::uint64_t seed) const {
  const std::lock_guard lock(mutex);
  auto after = std::make_shared<Medium>(*this);
  Survival(*after, outcome, seed).run(*this);
  return after;
}

}  // namespace kessai::io
