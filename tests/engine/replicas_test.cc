// SPDX-License-Identifier: Apache-2.0
// Small replicas of bugs that other engines had and that no other test replays;
// docs/torture-rows.md names the origin of each.
#include <gtest/gtest.h>

#include <set>

#include "tests/engine/fault_world.hpp"

namespace kessai::test {
namespace {

// A cursor stands on a row while that row, its neighbours or all rows go and others come.
// Goal: it goes on in order and answers what was there when it began. Method: the change at every
// position, in both directions, by the cursor's own transaction.
TEST(Replicas, ACursorStandsChangesAtAnyPosition) {
  constexpr int kRows = 40;
  enum class Change : std::uint8_t {
    remove_current,
    remove_next,
    remove_before,
    insert_after,
    all
  };
  for (const bool reverse : {false, true}) {
    for (const Change change : {Change::remove_current, Change::remove_next, Change::remove_before,
                                Change::insert_after, Change::all}) {
      for (int at = 0; at < kRows; at += 3) {
        io::SimDisk disk(61);
        Process p(disk, 61);
        p.options.create = true;
        ASSERT_TRUE(p.open());
        const Tree main = p.db->tree("main").value();
        std::vector<std::string> expected;
        for (int i = 0; i < kRows; ++i) {
          ASSERT_TRUE(p.db->put(main, row_key(i * 2), std::string(200, 'v'), Durability::relaxed));
          expected.push_back(row_key(i * 2));
        }
        if (reverse) std::ranges::reverse(expected);
        auto txn = p.db->begin();
        ASSERT_TRUE(txn);
        auto c = txn->scan(main, {.from = {}, .to = {}, .reverse = reverse});
        std::vector<std::string> found;
        for (int n = 0; c.next(); ++n) {
          found.emplace_back(c.key());
          if (n != at) continue;
          const int row = 2 * (reverse ? kRows - 1 - n : n), step = reverse ? -2 : 2;
          const auto remove = [&](int r) {
            EXPECT_TRUE(r < 0 || r >= 2 * kRows || txn->remove(main, row_key(r)));
          };
          if (change == Change::remove_current) remove(row);
          if (change == Change::remove_next) remove(row + step);
          if (change == Change::remove_before) remove(row - step);
          EXPECT_TRUE(change != Change::insert_after || txn->insert(main, row_key(row + 1), "new"));
          for (int r = 0; change == Change::all && r < 2 * kRows; r += 2) remove(r);
        }
        ASSERT_TRUE(c.status());
        ASSERT_EQ(found, expected) << "change " << static_cast<int>(change) << " at " << at;
      }
    }
  }
}

// check() of a store that is fine changes nothing, so a crash after it takes nothing back (R-33,
// Method: count the disk operations that write while it runs, on a store with relaxed
// commits and dirty pages; then kill the process.
TEST(Replicas, CheckWritesNothing) {
  io::SimDisk disk(62);
  {
    Process p(disk, 62);
    p.options.create = true;
    ASSERT_TRUE(p.open());
    const Tree main = p.db->tree("main").value();
    for (int i = 0; i < 200; ++i) ASSERT_TRUE(p.db->put(main, row_key(i), row_value(i)));
    std::set<std::string> kinds;
    disk.set_observer(
        [&](std::uint64_t, std::string_view kind, std::string_view) { kinds.emplace(kind); });
    const auto report = p.db->check();
    disk.set_observer({});
    ASSERT_TRUE(report && report->ok);
    kinds.erase("read");
    EXPECT_TRUE(kinds.empty()) << *kinds.begin();
  }
  Process again(disk, 63);
  ASSERT_TRUE(again.open());
  const auto found = read_all(*again.db);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->at("main")->size(), 200u);
}

}  // namespace
}  // namespace kessai::test
