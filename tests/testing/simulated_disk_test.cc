// SPDX-License-Identifier: Apache-2.0
// The simulated disk as embedders see it.
#include "kessai/testing/simulated_disk.hpp"

#include <gtest/gtest.h>

namespace kessai::testing {
namespace {

// Goal: a power failure leaves what was durable, kill -9 everything written. Method: a durable and
// a relaxed commit, then each kind of failure.
TEST(SimulatedDisk, KeepsWhatWasPromised) {
  for (const Survivors survivors : {Survivors::none, Survivors::random}) {
    SimulatedDisk disk(5);
    {
      auto db = disk.open({.create = true});
      ASSERT_TRUE(db) << db.error().message();
      const Tree main = db->tree("main").value();
      ASSERT_TRUE(db->put(main, "durable", "1"));
      ASSERT_TRUE(db->put(main, "relaxed", "2", Durability::relaxed));
      disk.lose_power(survivors);
      EXPECT_FALSE(db->put(main, "late", "3"));
    }
    auto db = disk.open();
    ASSERT_TRUE(db) << db.error().message();
    const Tree main = db->tree("main").value();
    EXPECT_EQ(db->get(main, "durable").value(), "1");
    EXPECT_EQ(db->get(main, "late").error(), Code::not_found);
    if (survivors == Survivors::none) {
      EXPECT_EQ(db->get(main, "relaxed").error(), Code::not_found);
    }
  }
}

TEST(SimulatedDisk, OpensAgainAfterAKilledProcess) {
  SimulatedDisk disk(6);
  {
    auto db = disk.open({.create = true});
    ASSERT_TRUE(db);
    ASSERT_TRUE(db->put(db->tree("main").value(), "a", "1"));
    EXPECT_EQ(disk.open({.open_timeout = std::chrono::milliseconds(1)}).error(), Code::locked);
    disk.kill_process();
  }
  auto db = disk.open();
  ASSERT_TRUE(db) << db.error().message();
  EXPECT_FALSE(db->info().clean);
  EXPECT_EQ(db->get(db->tree("main").value(), "a").value(), "1");
}

TEST(SimulatedDisk, IsFullWhenItIsTold) {
  SimulatedDisk disk(7);
  disk.set_capacity(1 << 20);
  EXPECT_EQ(disk.open({.create = true}).error(), Code::disk_full);
}

// The clock moves only when it is told to: a transaction that idles is rolled back then.
TEST(SimulatedDisk, HasAClockThatIsMoved) {
  SimulatedDisk disk(8);
  auto db = disk.open({.create = true, .idle_limit = std::chrono::milliseconds(100)});
  ASSERT_TRUE(db);
  const Tree main = db->tree("main").value();
  auto txn = db->begin();
  ASSERT_TRUE(txn && txn->put(main, "a", "1"));
  disk.advance_clock(std::chrono::seconds(1));
  EXPECT_EQ(txn->get(main, "a").error(), Code::transaction_expired);
}

}  // namespace
}  // namespace kessai::testing
