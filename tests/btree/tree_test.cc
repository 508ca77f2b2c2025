// SPDX-License-Identifier: Apache-2.0
// The tree over the page store, on the simulated disk, against a std::map: changes, scans both
// ways, long values, eviction with a pool smaller than the data, checkpoints stepped between
// changes, reopening, merging, dropping; the audits of structure and ownership after each phase.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/btree/world.hpp"

namespace kessai::btree {
namespace {

using test::seed;
using test::World;

std::string key(io::SeededRandom& r, unsigned space) {
  const std::uint64_t n = r.below(space);
  std::string k = "key" + std::to_string(n * 7919 % space);
  if (n % 17 == 0) k += std::string(n % 900, 'x');
  return k;
}
std::string value(io::SeededRandom& r) {
  const std::uint64_t kind = r.below(100);
  const std::size_t n = kind < 80 ? r.below(200) : kind < 97 ? r.below(1500) : r.below(60000);
  std::string v(n, '\0');
  for (auto& c : v) c = static_cast<char>(r.next());
  return v;
}

// Random changes against the model; the pool is smaller than the data, so pages are evicted dirty.
TEST(Tree, AgreesWithMapWhenLargerThanThePool) {
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed()));
  io::SeededRandom r(seed());
  World w(1 << 20);
  for (int i = 0; i < 20000; ++i) {
    const std::string k = key(r, 3000);
    if (r.below(4) == 0 && w.model.contains(k)) {
      w.remove(k);
    } else {
      w.put(k, value(r));
    }
    if (::testing::Test::HasFatalFailure()) return;
  }
  w.reclaim_all();
  w.verify();
  EXPECT_GT(w.store->pool().counters().evicted.load(), 0u);
  EXPECT_GT(w.context->counters.leaf_splits.load(), 50u);
}

// A checkpoint advanced one step between changes: what is reopened is a state between the cut and
// the end; a checkpoint at rest reopens to exactly the model.
TEST(Tree, CheckpointsInterleavedWithChangesReopenToTheModel) {
  io::SeededRandom r(seed() + 1);
  World w(2 << 20);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 3000; ++i) {
      const std::string k = key(r, 1500);
      if (r.below(3) == 0 && w.model.contains(k)) {
        w.remove(k);
      } else {
        w.put(k, value(r));
      }
      if (::testing::Test::HasFatalFailure()) return;
      if (w.store->checkpoint_running()) {
        const auto ok = w.store->checkpoint_step();
        ASSERT_TRUE(ok.has_value()) << ok.error().message();
      } else if (r.below(200) == 0) {
        w.store->begin_checkpoint(false);
      }
    }
    while (w.store->checkpoint_running()) ASSERT_TRUE(w.store->checkpoint_step().has_value());
    w.reclaim_all();
    ASSERT_TRUE(w.store->checkpoint().has_value());
    ASSERT_NO_FATAL_FAILURE(w.verify());
    ASSERT_NO_FATAL_FAILURE(w.reopen());
    ASSERT_NO_FATAL_FAILURE(w.verify());
  }
}

// Deleting nearly everything and purging merges leaves and lowers the tree; pages are freed.
TEST(Tree, PurgingGhostsMergesAndShrinks) {
  World w(8 << 20);
  for (int i = 0; i < 20000; ++i) {
    char k[16];
    std::snprintf(k, sizeof k, "%08d", i);
    w.put(k, std::string(100, 'v'));
  }
  const auto before = w.tree->audit(false, false).value();
  EXPECT_GE(static_cast<double>(before.live_bytes) /
                static_cast<double>(before.leaves * NodeView::usable_bytes()),
            0.95);
  w.context->horizon = [] { return kMaxLsn; };
  Shadows shadows(*w.store);
  for (int i = 0; i < 20000; ++i) {
    if (i % 50 == 0) continue;
    char k[16];
    std::snprintf(k, sizeof k, "%08d", i);
    w.remove(k);
    ASSERT_TRUE(w.tree->purge_ghost(k, w.lsn, shadows).has_value());
  }
  w.verify();
  const auto after = w.tree->audit(false, false).value();
  EXPECT_LT(after.pages * 10, before.pages);
  EXPECT_EQ(after.ghosts, 0u);
  EXPECT_LE(after.depth, before.depth);
}

TEST(Tree, DroppingFreesEveryPage) {
  io::SeededRandom r(seed() + 2);
  World w(4 << 20);
  for (int i = 0; i < 3000; ++i) w.put(key(r, 3000), value(r));
  Shadows shadows(*w.store);
  {
    Gate::Pass gate(w.store->gate());
    w.roots->replace({Roots::Kind::tree, TreeId{2}, w.tree->root()},
                     {Roots::Kind::dropping, TreeId{2}, w.tree->root()}, shadows);
  }
  w.reclaim_all();
  EXPECT_EQ(w.store->usage().pages, w.roots->pages().size());
  EXPECT_TRUE(w.store->audit_space().has_value());
}

// multi_get answers what get answers, resident or not.
TEST(Tree, MultiGetAgreesWithGet) {
  io::SeededRandom r(seed() + 3);
  World w(1 << 20);
  for (int i = 0; i < 8000; ++i) w.put(key(r, 6000), std::string(r.below(300), 'a'));
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> keys, values(37);
    for (int i = 0; i < 37; ++i) keys.push_back(key(r, 9000));
    std::vector<Tree::Lookup> lookups;
    for (int i = 0; i < 37; ++i) lookups.push_back({keys[i], &values[i]});
    w.tree->multi_get(lookups);
    for (int i = 0; i < 37; ++i) {
      ASSERT_TRUE(lookups[i].status.has_value());
      const auto it = w.model.find(keys[i]);
      ASSERT_EQ(lookups[i].record.present, it != w.model.end());
      if (it != w.model.end()) {
        ASSERT_EQ(values[i], it->second);
      }
    }
  }
}

}  // namespace
}  // namespace kessai::btree
