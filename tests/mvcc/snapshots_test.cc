// SPDX-License-Identifier: Apache-2.0
// Goal: the horizon never passes a snapshot, at any moment of its beginning; killing and ending
// let it go on. Method: interleavings are scripted by running the other side inside `load`.
#include "mvcc/snapshots.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace kessai::mvcc {
namespace {

class SnapshotsTest : public testing::Test {
 protected:
  void TearDown() override { io::set_mutant(""); }
  static auto at(Lsn w) {
    return [w] { return w; };
  }
  Snapshots snapshots_;
};

TEST_F(SnapshotsTest, HorizonIsTheSmallestOfLiveSnapshotsAndTheReadOnlyBound) {
  EXPECT_EQ(snapshots_.horizon(5), 5u);
  Snapshots::Live a = snapshots_.begin(at(7));
  Snapshots::Live b = snapshots_.begin(at(9));
  EXPECT_EQ(snapshots_.horizon(6), 6u);
  EXPECT_EQ(snapshots_.horizon(20), 7u);
  EXPECT_EQ(snapshots_.oldest(), 7u);
  EXPECT_EQ(snapshots_.count(), 2u);
  a.end();
  EXPECT_EQ(snapshots_.horizon(20), 9u);
  b = Snapshots::Live();
  EXPECT_EQ(snapshots_.horizon(20), 20u);
  EXPECT_EQ(snapshots_.count(), 0u);
  EXPECT_EQ(snapshots_.oldest(), std::nullopt);
}

// The snapshot has loaded W = 10 and not raised its slot yet; meanwhile commits go on to 30 and a
// horizon is taken. It must stay at or below 10.
Lsn horizon_during_begin(Snapshots& snapshots) {
  (void)snapshots.horizon(4);
  Lsn during = 0;
  const Snapshots::Live live = snapshots.begin([&] {
    const Lsn w = 10;
    during = snapshots.horizon(30);
    return w;
  });
  EXPECT_EQ(live.snapshot().w, 10u);
  return during;
}

TEST_F(SnapshotsTest, HorizonTakenInsideBeginStaysBelowTheSnapshot) {
  EXPECT_EQ(horizon_during_begin(snapshots_), 4u);
  EXPECT_EQ(snapshots_.horizon(30), 30u);
}

TEST_F(SnapshotsTest, PublishingAfterTheLoadIsSeenFailing) {
  io::set_mutant("snapshot_published_late");
  EXPECT_GT(horizon_during_begin(snapshots_), 10u);
}

TEST_F(SnapshotsTest, HorizonNeverFalls) {
  EXPECT_EQ(snapshots_.horizon(10), 10u);
  const Snapshots::Live live = snapshots_.begin([&] {
    EXPECT_EQ(snapshots_.horizon(10), 10u);
    return Lsn{12};
  });
  EXPECT_EQ(snapshots_.horizon(11), 11u);
  EXPECT_EQ(snapshots_.horizon(15), 12u);
}

TEST_F(SnapshotsTest, InUseNamesTheGapsBetweenSnapshots) {
  const Snapshots::Live a = snapshots_.begin(at(10));
  const Snapshots::Live b = snapshots_.begin(at(20));
  const InUse in_use = snapshots_.in_use(30);
  EXPECT_TRUE(in_use.misses(1, 10));
  EXPECT_FALSE(in_use.misses(1, 11));
  EXPECT_FALSE(in_use.misses(10, 11));
  EXPECT_TRUE(in_use.misses(11, 20));
  EXPECT_FALSE(in_use.misses(11, 21));
  EXPECT_TRUE(in_use.misses(21, 30));
  EXPECT_FALSE(in_use.misses(21, 31));
  EXPECT_EQ(snapshots_.kill_oldest(), 10u);
  EXPECT_TRUE(snapshots_.in_use(30).misses(1, 20));
}

TEST_F(SnapshotsTest, InUseSparesWhatABeginningSnapshotMayTake) {
  const Snapshots::Live old = snapshots_.begin(at(3));
  EXPECT_EQ(snapshots_.horizon(8), 3u);
  const Snapshots::Live live = snapshots_.begin([&] {
    const InUse in_use = snapshots_.in_use(30);
    EXPECT_TRUE(in_use.misses(4, 8));  // the bound of an earlier scan
    EXPECT_FALSE(in_use.misses(9, 11));
    return Lsn{10};
  });
  EXPECT_TRUE(snapshots_.in_use(30).misses(11, 30));
}

TEST_F(SnapshotsTest, KillTakesTheOldestAndFreesTheHorizon) {
  const Snapshots::Live old = snapshots_.begin(at(3));
  const Snapshots::Live young = snapshots_.begin(at(8));
  EXPECT_EQ(snapshots_.horizon(20), 3u);
  EXPECT_EQ(snapshots_.kill_oldest(), 3u);
  EXPECT_TRUE(old.killed());
  EXPECT_FALSE(young.killed());
  EXPECT_EQ(snapshots_.horizon(20), 8u);
  EXPECT_EQ(snapshots_.kill_oldest(), 8u);
  EXPECT_EQ(snapshots_.kill_oldest(), std::nullopt);
  EXPECT_EQ(snapshots_.horizon(20), 20u);
}

TEST_F(SnapshotsTest, ASnapshotThatIsBeginningIsNotKilled) {
  const Snapshots::Live live = snapshots_.begin([&] {
    EXPECT_EQ(snapshots_.kill_oldest(), std::nullopt);
    return Lsn{5};
  });
  EXPECT_FALSE(live.killed());
}

TEST_F(SnapshotsTest, ASlotForgetsThatItsLastUserWasKilled) {
  Snapshots::Live live = snapshots_.begin(at(3));
  EXPECT_EQ(snapshots_.kill_oldest(), 3u);
  live.end();
  live = snapshots_.begin(at(4));
  EXPECT_FALSE(live.killed());
  EXPECT_EQ(snapshots_.horizon(20), 4u);
}

TEST_F(SnapshotsTest, MoreSnapshotsThanSlotsStillCount) {
  std::vector<Snapshots::Live> many;
  for (Lsn w = 5000; w > 0; --w) many.push_back(snapshots_.begin(at(w)));
  EXPECT_EQ(snapshots_.count(), 5000u);
  EXPECT_EQ(snapshots_.oldest(), 1u);
  EXPECT_EQ(snapshots_.horizon(9000), 1u);
  many.resize(100);
  EXPECT_EQ(snapshots_.horizon(9000), 4901u);
  many.clear();
  EXPECT_EQ(snapshots_.count(), 0u);
  EXPECT_EQ(snapshots_.horizon(9000), 9000u);
}

}  // namespace
}  // namespace kessai::mvcc
