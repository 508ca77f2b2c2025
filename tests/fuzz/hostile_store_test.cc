// SPDX-License-Identifier: Apache-2.0
// Stores that somebody made, with every checksum right: what fuzzing found, by name, and what was
// thought up. Goal: each call answers, in bounded time and memory; check() names the damage.
// Method: one patch on a small store (store_image.hpp).
#include <gtest/gtest.h>

#include <cstring>

#include "btree/node.hpp"
#include "btree/page_store.hpp"
#include "tests/engine/fault_world.hpp"
#include "tests/fuzz/store_image.hpp"

namespace kessai::fuzz {
namespace {

class HostileStore : public ::testing::Test {
 protected:
  HostileStore() : store_(true, 400), image_(store_.disk) {}

  /// Where the first page of a type is in the data file, and what it says.
  struct Found {
    std::uint64_t offset = 0;
    PageDump dump;
  };
  Found find(const std::string& type) {
    crash::Process p(store_.disk, 9);
    p.options.read_only = true;
    EXPECT_TRUE(p.open().has_value());
    for (std::uint64_t page = 1;; ++page) {
      auto dump = p.db->page(page);
      if (!dump) break;
      if (dump->slot == 0 || dump->type != type) continue;
      return {btree::kFirstSlotOffset + (dump->slot - 1) * kPageSize, *dump};
    }
    ADD_FAILURE() << "no " << type << " page";
    return {};
  }
  template <class T>
  io::SimDisk with(std::uint64_t offset, T value) {
    return image_.with(btree::kDataFile, offset, std::as_bytes(std::span(&value, 1)));
  }
  /// Opens it, reads all, checks: the report of check(), or nothing when it does not open.
  static std::optional<CheckReport> look(io::SimDisk disk) {
    crash::Process p(disk, 5);
    p.options.read_only = true;
    if (!p.open()) return {};
    (void)crash::read_all(*p.db);
    auto report = p.db->check();
    EXPECT_TRUE(report.has_value());
    return report ? *report : CheckReport{};
  }

  test::SmallStore store_;
  StoreImage image_;
};

TEST_F(HostileStore, TheHarnessItselfDoesNoHarm) {
  const Found leaf = find("leaf");
  const auto report = look(with(leaf.offset + 16, leaf.dump.page_lsn));
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->ok) << report->damage.front().what;
}

// A page that is its own child: readers and check() end.
TEST_F(HostileStore, ACycleOfPagesIsNamedAndNobodyHangs) {
  const Found inner = find("inner");
  const std::uint64_t count = inner.dump.entries.size();  // separators and the first child
  ASSERT_GT(count, 1u);
  const std::uint64_t children = btree::kNodeHeader + 4 * (count - 1);
  const auto report =
      look(with(inner.offset + children, static_cast<std::uint32_t>(inner.dump.page)));
  ASSERT_TRUE(report);
  EXPECT_FALSE(report->ok);
}

// Two children that are one page: a cursor would come back to where it was for ever.
TEST_F(HostileStore, ALeafInTheWrongPlaceEndsACursor) {
  const Found inner = find("inner");
  const std::uint64_t count = inner.dump.entries.size();
  ASSERT_GT(count, 2u);
  constexpr std::uint64_t kFirstChild = 88;
  const std::uint64_t others = btree::kNodeHeader + 4 * (count - 1);
  for (const auto& [to, from] : {std::pair{1u, 0u}, std::pair{0u, 1u}}) {
    const auto child = static_cast<std::uint32_t>(inner.dump.entries[from].child);
    io::SimDisk disk = with(inner.offset + (to == 0 ? kFirstChild : others), child);
    const auto report = look(disk);
    ASSERT_TRUE(report);
    EXPECT_FALSE(report->ok) << "child " << to;
    crash::Process p(disk, 5);
    ASSERT_TRUE(p.open());
    for (const char* name : {"main", "side"}) {
      const auto tree = p.db->tree(name);
      ASSERT_TRUE(tree);
      auto c = p.db->scan(*tree, {.from = {}, .to = {}, .reverse = true});
      std::uint64_t rows = 0;
      while (c.next() && rows < 10'000) ++rows;
      EXPECT_LT(rows, 10'000u);
    }
  }
}

// An overflow chain that leads back to its start, and one that says it is as long as memory.
TEST_F(HostileStore, OverflowChainsEnd) {
  const Found overflow = find("overflow");
  auto report = look(with(overflow.offset + 64, static_cast<std::uint32_t>(overflow.dump.page)));
  ASSERT_TRUE(report);
  EXPECT_FALSE(report->ok);
  report = look(with(overflow.offset + 68, std::uint32_t{0}));
  ASSERT_TRUE(report);
  EXPECT_FALSE(report->ok);
}

// A superblock that promises more pages than the file could hold takes no memory for them, and the
// one before it answers.
TEST_F(HostileStore, NumbersThatNoFileCanHoldAreRefused) {
  const auto bytes = store_.disk.file_bytes(btree::kDataFile);
  std::uint64_t newest = 0, offset = 0;
  for (unsigned i = 0; i < btree::kSuperblocks; ++i) {
    const std::uint64_t at = i * btree::kSuperblockStride;
    const auto sb = btree::decode_superblock(
        std::span<const std::byte, kPageSize>(bytes.data() + at, kPageSize));
    if (sb && sb->number > newest) {
      newest = sb->number;
      offset = at;
    }
  }
  constexpr std::uint64_t kNextPage = 72, kMapSlot = 80;
  for (const std::uint64_t field : {kNextPage, kMapSlot}) {
    const auto report = look(with(offset + field, std::uint64_t{1} << 40));
    ASSERT_TRUE(report);
    EXPECT_FALSE(report->ok);
  }
}

}  // namespace
}  // namespace kessai::fuzz
