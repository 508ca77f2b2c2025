// SPDX-License-Identifier: Apache-2.0
// Goal: no flipped bit of a cleanly closed store leads to a wrong answer: opening or check()
// reports it, or every answer stays right; nothing hangs, nothing aborts (P3, G-05). Method: each
// flip on a copy of the same image; open, all rows by scan and by get, check(). For a page of the
// live image there is a second, cheaper way: the store stays open and check() must name the page.
//
// This file is built twice. `damage` (label unit): all bits of what steers opening (the fields of
// superblocks, of segment headers and of the first frame of each segment) and all bits of one page
// of each type; elsewhere one bit of every byte, or of every 2nd to 512th byte (see the strides).
// `damage_sweep` (label torture, KESSAI_COMPLETE): every bit of every block in use (superblocks,
// map, live pages, all blocks of the log that were ever written), each with an open of its own; of
// the old images that nothing refers to, one bit of every 8th byte.
#include <gtest/gtest.h>

#include <cstdio>
#include <set>

#include "btree/page_header.hpp"
#include "btree/page_store.hpp"
#include "tests/engine/fault_world.hpp"

namespace kessai::test {
namespace {

#if defined(KESSAI_COMPLETE)
constexpr bool kComplete = true;
#else
constexpr bool kComplete = false;
#endif
#if defined(KESSAI_DEBUG_CHECKS)
constexpr std::uint64_t kThin = 29;  // sanitizers: every 29th of the flips
#else
constexpr std::uint64_t kThin = 1;
#endif

constexpr std::uint64_t kBlock = 4096;

/// The blocks of a file that are not zero.
std::vector<std::uint64_t> used_blocks(const std::vector<std::byte>& bytes) {
  std::vector<std::uint64_t> out;
  for (std::uint64_t b = 0; b * kBlock < bytes.size(); ++b) {
    const auto* at = bytes.data() + b * kBlock;
    if (std::any_of(at, at + kBlock, [](std::byte x) { return x != std::byte{0}; }))
      out.push_back(b);
  }
  return out;
}

class Damage : public ::testing::Test {
 protected:
  static constexpr int kRows = 400;

  Damage() : store_(true, kRows) {
    Process p(store_.disk, 9);
    p.options.read_only = true;
    EXPECT_TRUE(p.open().has_value());
    for (std::uint64_t page = 1;; ++page) {
      const auto dump = p.db->page(page);
      if (!dump) break;
      if (dump->slot != 0)
        live_[(btree::kFirstSlotOffset + (dump->slot - 1) * kPageSize) / kBlock] = dump->type;
    }
  }

  /// Counts what became of the flips.
  struct Sum {
    std::uint64_t flips = 0, refused = 0, reported = 0, harmless = 0;
  };

  void flip_and_open(const std::string& file, std::uint64_t bit, Sum& sum) {
    io::SimDisk copy = store_.disk;
    copy.flip(file, bit);
    const Findings f = inspect(copy, store_.tables);
    ++sum.flips;
    ASSERT_FALSE(f.wrong) << file << " bit " << bit << ": " << *f.wrong;
    if (f.refused) {
      ++sum.refused;
      ASSERT_FALSE(f.refused->detail().what.empty()) << file << " bit " << bit;
      const bool damage = *f.refused == Code::damaged || *f.refused == Code::log_damaged ||
                          *f.refused == Code::superblock_damaged || *f.refused == Code::not_a_store;
      ASSERT_TRUE(damage) << file << " bit " << bit << ": " << f.refused->message();
    } else if (f.reported) {
      ++sum.reported;
    } else {
      ++sum.harmless;
    }
  }

  /// Every `stride`th byte of [from, to): one bit that changes from byte to byte, or all eight.
  void sweep(const std::string& file, std::uint64_t from, std::uint64_t to, std::uint64_t stride,
             bool all_bits, Sum& sum) {
    for (std::uint64_t byte = from; byte < to && !HasFatalFailure(); byte += stride) {
      for (std::uint64_t bit = 0; bit < 8; ++bit) {
        if (kThin > 1 && (byte / stride * 8 + bit) % kThin != 0) continue;
        if (all_bits || bit == (byte / stride) % 8) flip_and_open(file, byte * 8 + bit, sum);
        if (HasFatalFailure()) return;
      }
    }
  }

  static void print(const std::string& what, const Sum& s) {
    std::printf(
        "%s: %llu flips, %llu refused at open, %llu reported by check, %llu without effect\n",
        what.c_str(), static_cast<unsigned long long>(s.flips),
        static_cast<unsigned long long>(s.refused), static_cast<unsigned long long>(s.reported),
        static_cast<unsigned long long>(s.harmless));
    std::fflush(stdout);
  }

  SmallStore store_;
  std::map<std::uint64_t, std::string> live_;  ///< block of the data file -> page type
};

TEST_F(Damage, TheUndamagedStoreIsCleanAndSmall) {
  io::SimDisk copy = store_.disk;
  const Findings f = inspect(copy, store_.tables);
  EXPECT_FALSE(f.refused || f.unreadable || f.wrong || f.reported);
  EXPECT_GT(live_.size(), 20u);
  EXPECT_LE(live_.size() * kBlock, 256u << 10);
  std::set<std::string> types;
  for (const auto& [block, type] : live_) types.insert(type);
  EXPECT_EQ(types, (std::set<std::string>{"inner", "leaf", "overflow", "roots"}));
}

TEST_F(Damage, SuperblocksAndMapAreReportedOrTheOneBeforeAnswers) {
  Sum super, map, old, zero;
  const auto bytes = store_.disk.file_bytes(btree::kDataFile);
  std::uint64_t blocks = 0;
  for (const std::uint64_t b : used_blocks(bytes)) {
    const std::uint64_t at = b * kBlock;
    const bool superblock = at < btree::kFirstSlotOffset;
    const bool chunk =
        !superblock && btree::read_header(bytes.data() + at).type == btree::PageType::map;
    if (superblock) {
      // The first 160 bytes carry everything; the rest is zero and covered by the hash.
      sweep(btree::kDataFile, at, at + 160, 1, true, super);
      sweep(btree::kDataFile, at + 160, at + kBlock, kComplete ? 1 : 16, kComplete, super);
    } else if (chunk) {
      sweep(btree::kDataFile, at, at + kBlock, kComplete ? 1 : 2, kComplete, map);
    } else if (!live_.contains(b)) {
      sweep(btree::kDataFile, at, at + kBlock, kComplete ? 8 : 512, false, old);
    }
    if (HasFatalFailure()) return;
    ++blocks;
  }
  for (std::uint64_t b = 0; b * kBlock < bytes.size() && !HasFatalFailure(); b += 16) {
    const auto* at = bytes.data() + b * kBlock;
    if (std::all_of(at, at + kBlock, [](std::byte x) { return x == std::byte{0}; }))
      flip_and_open(btree::kDataFile, b * kBlock * 8 + b, zero);
  }
  print("superblocks", super);
  print("map chunks", map);
  print("old images", old);
  print("zero blocks", zero);
  EXPECT_GT(super.reported + super.refused, 0u);
  EXPECT_GT(map.reported + map.refused, 0u);
}

TEST_F(Damage, TheLogIsReportedOrNotNeeded) {
  Sum sum;
  for (const auto& file : store_.disk.files()) {
    if (!file.starts_with("wal-")) continue;
    const auto bytes = store_.disk.file_bytes(file);
    for (const std::uint64_t b : used_blocks(bytes)) {
      const std::uint64_t at = b * kBlock;
      if (kComplete) {
        sweep(file, at, at + kBlock, 1, true, sum);
      } else {
        sweep(file, at, at + 160, 1, b == 0 || b == 2, sum);  // headers: of the segment, of a frame
        sweep(file, at + 160, at + kBlock, 256, false, sum);
      }
      if (HasFatalFailure()) return;
    }
    if (kComplete) print(file, sum);
  }
  print("log", sum);
}

TEST_F(Damage, EveryLivePageIsReported) {
  std::map<std::string, Sum> sums;
  std::set<std::string> whole;  // types of which one page was swept bit by bit
  for (const auto& [block, type] : live_) {
    const bool all = kComplete || whole.insert(type).second;
    sweep(btree::kDataFile, block * kBlock, (block + 1) * kBlock, all ? kComplete ? 1 : 8 : 256,
          kComplete, sums[type]);
    if (HasFatalFailure()) return;
    if (kComplete) print(type, sums[type]);
  }
  for (const auto& [type, sum] : sums) {
    print(type, sum);
    EXPECT_EQ(sum.harmless, 0u) << type;
  }
}

// While the store is open: check() reads the device, not the cache.
TEST_F(Damage, EveryBitOfAPageOfEachTypeIsNamedByCheckOfAnOpenStore) {
  Process p(store_.disk, 9);
  p.options.read_only = true;
  ASSERT_TRUE(p.open().has_value());
  std::set<std::string> whole;
  std::uint64_t flips = 0;
  for (const auto& [block, type] : live_) {
    const bool all = whole.insert(type).second;
    for (std::uint64_t bit = block * kBlock * 8; bit < (block + 1) * kBlock * 8;
         bit += all ? kThin : 8 * 64 + 1) {
      store_.disk.flip(btree::kDataFile, bit);
      const auto report = p.db->check();
      ++flips;
      ASSERT_TRUE(report.has_value());
      ASSERT_FALSE(report->ok) << type << " bit " << bit;
      ASSERT_EQ(report->damage.front().offset, block * kBlock);
      ASSERT_NE(report->damage.front().page, 0u);
      store_.disk.flip(btree::kDataFile, bit);
    }
  }
  EXPECT_TRUE(p.db->check().value().ok);
  std::printf("%llu flips, each named by check()\n", static_cast<unsigned long long>(flips));
}

}  // namespace
}  // namespace kessai::test
