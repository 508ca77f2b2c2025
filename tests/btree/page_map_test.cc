// SPDX-License-Identifier: Apache-2.0
// Goal: a frozen map stays as it was at the cut but for its captures, the live side goes on, and
// what is written loads again, at every size where the tree of chunks changes shape. Method: a
// plain vector as model of each side; chunk images kept by slot in memory.
#include "btree/page_map.hpp"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <vector>

#include "io/env.hpp"

namespace kessai::btree {
namespace {

using Image = std::array<std::byte, kPageSize>;
constexpr wal::StoreId kStore{1, 2};

bool same(const MapEntry& a, const MapEntry& b) { return a.slot == b.slot && a.hash == b.hash; }

class World {
 public:
  explicit World(std::uint64_t seed) : random(seed) { map.begin_load(1, 1, {}); }

  MapEntry entry() { return {++slots_, {random.next(), random.next()}}; }
  void grow(std::uint64_t next) {
    map.set_next_page(next);
    live.resize(next);
  }
  void set(std::uint64_t p) {
    live[p] = entry();
    map.set_live(PageId{p}, live[p]);
  }
  void freeze() {
    map.freeze();
    cut = live;
  }
  /// Writes the cut; answers how many chunks that took.
  std::size_t write() {
    std::size_t written = 0;
    for (unsigned level = 0; level < map.cut_depth(); ++level) {
      for (const auto index : map.dirty_chunks(level)) {
        const MapEntry at = entry();
        Image image;
        map.image(level, index, kStore, image);
        disk[at.slot] = image;
        if (const Slot old = map.wrote(level, index, {at.slot, hash_page(image.data())}); old != 0)
          disk.erase(old);
        ++written;
      }
      EXPECT_TRUE(map.dirty_chunks(level).empty());
    }
    return written;
  }
  /// Loads what is on the disk as open does and compares it with `expected`.
  void expect_loads(const std::vector<MapEntry>& expected) {
    PageMap loaded;
    const unsigned depth = map.cut_depth();
    ASSERT_EQ(depth, PageMap::depth_for(expected.size()));
    loaded.begin_load(expected.size(), depth, map.root());
    for (unsigned level = depth; level-- > 0;) {
      const auto entries = loaded.chunk_entries(level);
      for (std::size_t i = 0; i < entries.size(); ++i) {
        const auto it = disk.find(entries[i].slot);
        ASSERT_NE(it, disk.end()) << "level " << level << " chunk " << i;
        ASSERT_EQ(hash_page(it->second.data()), entries[i].hash);
        loaded.load_chunk(level, i, it->second.data());
      }
    }
    for (std::uint64_t p = 1; p < expected.size(); ++p)
      ASSERT_TRUE(same(loaded.live(PageId{p}), expected[p])) << p;
  }
  void expect_sides() {
    for (std::uint64_t p = 1; p < live.size(); ++p)
      ASSERT_TRUE(same(map.live(PageId{p}), live[p])) << p;
    for (std::uint64_t p = 1; p < cut.size(); ++p)
      ASSERT_TRUE(same(map.cut(PageId{p}), cut[p])) << p;
    ASSERT_EQ(map.live(PageId{live.size()}).slot, 0u);
  }

  io::SeededRandom random;
  PageMap map;
  std::vector<MapEntry> live{1}, cut;
  std::map<Slot, Image> disk;

 private:
  Slot slots_ = 0;
};

constexpr std::uint64_t kF = kMapFanout;

TEST(PageMap, DepthFollowsTheNumberOfPages) {
  EXPECT_EQ(PageMap::depth_for(1), 1u);
  EXPECT_EQ(PageMap::depth_for(kF), 1u);
  EXPECT_EQ(PageMap::depth_for(kF + 1), 2u);
  EXPECT_EQ(PageMap::depth_for(kF * kF), 2u);
  EXPECT_EQ(PageMap::depth_for(kF * kF + 1), 3u);
  EXPECT_EQ(PageMap::depth_for(kF * kF * kF + 1), 4u);
}

TEST(PageMap, WritesAndLoadsAtEverySizeThatChangesItsShape) {
  for (const std::uint64_t size : {std::uint64_t{2}, kF - 1, kF, kF + 1, 2 * kF, 2 * kF + 1,
                                   kF * kF - 1, kF * kF, kF * kF + 1, kF * kF + 3 * kF}) {
    World w(size);
    w.grow(size);
    for (std::uint64_t p = 1; p < size; p += 1 + w.random.below(5)) w.set(p);
    w.freeze();
    const auto all = w.write();
    EXPECT_LE(all, w.map.chunk_bound());
    ASSERT_NO_FATAL_FAILURE(w.expect_loads(w.cut)) << size;
    w.map.thaw();
    // One change later: one chunk per level.
    w.set(1 + w.random.below(size - 1));
    w.freeze();
    EXPECT_EQ(w.write(), w.map.cut_depth());
    ASSERT_NO_FATAL_FAILURE(w.expect_loads(w.cut)) << size;
    w.map.thaw();
    w.freeze();
    EXPECT_EQ(w.write(), 0u) << "nothing changed";
  }
}

// Growing over a shape change, one page at a time around it, a checkpoint between.
TEST(PageMap, GrowsFromOneShapeToTheNext) {
  for (const std::uint64_t edge : {kF, kF * kF}) {
    World w(edge);
    w.grow(edge - 2);
    for (std::uint64_t p = 1; p < edge - 2; p += 7) w.set(p);
    for (std::uint64_t size = edge - 1; size < edge + 4; ++size) {
      w.grow(size);
      w.set(size - 1);
      w.freeze();
      w.write();
      ASSERT_NO_FATAL_FAILURE(w.expect_loads(w.cut)) << size;
      w.map.thaw();
    }
  }
}

// Captures enter both sides, later images and frees the live side only; the map grows meanwhile.
TEST(PageMap, FrozenSideOnlyTakesCaptures) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    World w(seed);
    const std::uint64_t size = seed % 2 == 0 ? 3 * kF : kF - 2;
    w.grow(size);
    for (std::uint64_t p = 1; p < size; ++p) w.set(p);
    for (int round = 0; round < 6; ++round) {
      for (int i = 0; i < 20; ++i) w.set(1 + w.random.below(w.live.size() - 1));
      w.freeze();
      std::vector<bool> newer(w.cut.size());
      for (int i = 0; i < 60; ++i) {
        const auto p = 1 + w.random.below(w.cut.size() - 1);
        switch (w.random.below(4)) {
          case 0:  // an image of the cut; the page may have been freed since
            w.cut[p] = w.entry();
            if (!newer[p]) w.live[p] = w.cut[p];
            w.map.capture(PageId{p}, w.cut[p], !newer[p]);
            break;
          case 1:
            w.set(p);
            newer[p] = true;
            break;
          case 2:  // freed
            w.live[p] = {};
            w.map.set_live(PageId{p}, {});
            newer[p] = true;
            break;
          default:
            w.grow(w.live.size() + w.random.below(4));
            w.set(w.live.size() - 1);
            if (w.live.size() - 1 < newer.size()) newer[w.live.size() - 1] = true;
        }
      }
      ASSERT_NO_FATAL_FAILURE(w.expect_sides());
      w.write();
      ASSERT_NO_FATAL_FAILURE(w.expect_loads(w.cut)) << seed;
      w.map.thaw();
      // The next checkpoint writes what the live side has now, captures included.
      w.freeze();
      w.write();
      ASSERT_NO_FATAL_FAILURE(w.expect_loads(w.live)) << seed;
      w.map.thaw();
    }
  }
}

TEST(PageMap, EachSlotNamesPagesAndChunksOnce) {
  World w(3);
  w.grow(2 * kF);
  for (std::uint64_t p = 1; p < 2 * kF; p += 3) w.set(p);
  w.freeze();
  w.write();
  w.map.thaw();
  std::map<Slot, int> seen;
  w.map.each_slot([&](Slot s) { ++seen[s]; });
  for (const auto& [slot, times] : seen) EXPECT_EQ(times, 1) << slot;
  std::size_t pages = 0;
  for (const auto& e : w.live) pages += e.slot != 0 ? 1 : 0;
  EXPECT_EQ(seen.size(), pages + w.disk.size());
}

}  // namespace
}  // namespace kessai::btree
