// SPDX-License-Identifier: Apache-2.0
#include "btree/space.hpp"

#include <algorithm>
#include <bit>
#include <string>

#include "btree/superblock.hpp"
#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::btree {
namespace {
constexpr std::uint64_t kMinGrowth = 256;    // slots: 1 MiB
constexpr std::uint64_t kMaxGrowth = 16384;  // slots: 64 MiB
}  // namespace

std::uint64_t slot_offset(Slot s) noexcept { return kFirstSlotOffset + (s - 1) * kPageSize; }

void Space::reset(std::uint64_t slots) {
  slots_ = slots;
  free_ = slots;
  bitmap_.assign((slots + 63) / 64, 0);
  birth_.assign(slots, 0);
  dead_.clear();
  for (std::uint64_t s = 0; s < slots; ++s) bitmap_[s / 64] |= std::uint64_t{1} << (s % 64);
}

bool Space::is_adopted(Slot s) const {
  return s >= 1 && s <= slots_ && (bitmap_[(s - 1) / 64] >> ((s - 1) % 64) & 1) == 0;
}

bool Space::adopt(Slot s) {
  if (s < 1 || s > slots_ || is_adopted(s)) return false;
  bitmap_[(s - 1) / 64] &= ~(std::uint64_t{1} << ((s - 1) % 64));
  --free_;
  return true;
}

void Space::adopt_dead(Slot s, std::uint64_t death) {
  if (adopt(s)) dead_.push_back({s, 0, death});
}

void Space::set_free(Slot s) {
  std::uint64_t& word = bitmap_[(s - 1) / 64];
  const std::uint64_t bit = std::uint64_t{1} << ((s - 1) % 64);
  KESSAI_CHECK((word & bit) == 0);
  word |= bit;
  ++free_;
}

void Space::take_from(std::size_t word, std::size_t& n, std::uint64_t epoch,
                      std::vector<Slot>& out) {
  while (n > 0 && bitmap_[word] != 0) {
    const int bit = std::countr_zero(bitmap_[word]);
    bitmap_[word] &= bitmap_[word] - 1;
    const Slot s = word * 64 + static_cast<unsigned>(bit) + 1;
    birth_[s - 1] = static_cast<std::uint32_t>(epoch);
    out.push_back(s);
    --free_;
    --n;
  }
}

void Space::take(std::size_t n, std::uint64_t epoch, std::vector<Slot>& out) {
  KESSAI_CHECK(free_ >= n);
  // First pass: extents at least half free, from the cursor on; second pass: anything.
  for (const int least : {32, 1}) {
    for (std::size_t i = 0; i < bitmap_.size() && n > 0; ++i) {
      const std::size_t word = (cursor_ + i) % bitmap_.size();
      if (std::popcount(bitmap_[word]) >= least) {
        take_from(word, n, epoch, out);
        if (n == 0) cursor_ = word;
      }
    }
  }
  KESSAI_CHECK(n == 0);
}

bool Space::referenced(std::uint64_t birth, std::uint64_t death) const noexcept {
  const auto by = [&](std::uint64_t c) { return c != 0 && birth <= c && c < death; };
  if (KESSAI_MUTANT(reuse_after_one_checkpoint)) return by(newest_);
  if (KESSAI_MUTANT(reuse_ignores_building)) return by(older_) || by(newest_);
  return by(older_) || by(newest_) || by(building_);
}

void Space::drop(Slot s, std::uint64_t death) {
  KESSAI_CHECK(s >= 1 && s <= slots_);
  if (const std::uint64_t birth = birth_[s - 1]; referenced(birth, death)) {
    dead_.push_back({s, birth, death});
  } else {
    set_free(s);
  }
}

void Space::give_back(Slot s) { set_free(s); }

void Space::keep(std::uint64_t older, std::uint64_t newest, std::uint64_t building) {
  older_ = older;
  newest_ = newest;
  building_ = building;
  std::erase_if(dead_, [&](const Dead& d) {
    if (referenced(d.birth, d.death)) return false;
    set_free(d.slot);
    return true;
  });
}

Result<void> Space::ensure_free(std::uint64_t needed) {
  if (free_ >= needed) return {};
  const std::uint64_t missing = needed - free_;
  // Grow by an eighth so that the number of extensions stays logarithmic; settle for less when the
  // file system refuses.
  std::uint64_t grow = std::max(missing, std::clamp(slots_ / 8, kMinGrowth, kMaxGrowth));
  grow = (grow + 63) / 64 * 64;
  auto grown = file_->resize(slot_offset(slots_ + 1 + grow));
  if (!grown && grown.error() == Code::disk_full && grow > missing) {
    grow = (missing + 63) / 64 * 64;
    grown = file_->resize(slot_offset(slots_ + 1 + grow));
  }
  if (!grown) return grown;
  for (std::uint64_t s = slots_ + 1; s <= slots_ + grow; ++s) {
    if ((s - 1) / 64 >= bitmap_.size()) bitmap_.push_back(0);
    bitmap_[(s - 1) / 64] |= std::uint64_t{1} << ((s - 1) % 64);
  }
  slots_ += grow;
  free_ += grow;
  birth_.resize(slots_, 0);
  return {};
}

Result<void> Space::audit(const std::function<void(const std::function<void(Slot)>&)>& each_live,
                          std::uint64_t in_flight) const {
  std::vector<std::uint8_t> uses(slots_, 0);
  Slot bad = 0;
  const auto use = [&](Slot s) {
    if (s < 1 || s > slots_ || ++uses[s - 1] > 1) bad = s;
  };
  each_live(use);
  for (const Dead& d : dead_) use(d.slot);
  std::uint64_t unaccounted = 0;
  for (Slot s = 1; s <= slots_; ++s) {
    if (!is_adopted(s)) {
      use(s);
    } else if (uses[s - 1] == 0) {
      ++unaccounted;
    }
  }
  if (bad == 0 && unaccounted <= in_flight) return {};
  ErrorDetail d;
  d.path = file_->path();
  d.offset = slot_offset(bad);
  d.what = bad != 0 ? "slot " + std::to_string(bad) + " is owned twice"
                    : std::to_string(unaccounted) + " slots are neither reachable, needed nor free";
  return std::unexpected(Error(Code::damaged, std::move(d)));
}

}  // namespace kessai::btree
