// SPDX-License-Identifier: Apache-2.0
// Goal: a power cut leaves exactly what it may, and the journal is cut at the same moment. Method:
// recordings and journals made by hand; no file system, no root.
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "tools/torture/disk_recording.hpp"
#include "tools/torture/kill_board.hpp"

namespace kessai::torture {
namespace {

constexpr std::size_t kBytes = 1 << 16;
using Bytes = std::vector<std::byte>;

Bytes filled(std::size_t bytes, int with) { return Bytes(bytes, static_cast<std::byte>(with)); }

/// Write 1 | flush | writes 2, 3, 4 of 8 KiB, each at its own place | flush | write 5 over write 2.
void record(DiskRecording& r) {
  r.begin();
  r.write(0, filled(8192, 1));
  r.flush();
  for (int n = 2; n <= 4; ++n) r.write(static_cast<std::uint64_t>(n) * 8192, filled(8192, n));
  r.flush();
  r.write(2 * 8192, filled(8192, 5));
}

Bytes after(const DiskRecording& r, const PowerCut& cut) {
  Bytes image(kBytes);
  r.apply(0, r.durable_at(cut.at), image);
  lay_over(r, cut, image);
  return image;
}

/// Which writes are there, as a whole; -1 for one in part.
std::set<int> whole(const Bytes& image) {
  std::set<int> out;
  for (const int slot : {0, 2, 3, 4}) {
    std::set<int> units;
    for (std::size_t at = 0; at < 8192; at += 512)
      units.insert(static_cast<int>(image[static_cast<std::size_t>(slot) * 8192 + at]));
    if (units.size() != 1) out.insert(-1);
    if (units.size() == 1 && *units.begin() != 0) out.insert(*units.begin());
  }
  return out;
}

TEST(PowerCut, WhatWasFlushedIsAlwaysThere) {
  DiskRecording r(64, 1 << 20);
  record(r);
  for (const CutKind kind : kCutKinds)
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      EXPECT_TRUE(whole(after(r, {2, kind, seed})).contains(1)) << cut_kind_name(kind);
      const std::set<int> found = whole(after(r, {6, kind, seed}));
      EXPECT_EQ(found, (std::set{1, 2, 3, 4})) << cut_kind_name(kind);
    }
}

TEST(PowerCut, OfTheWindowASubsetOfItsKindSurvives) {
  DiskRecording r(64, 1 << 20);
  record(r);
  std::set<std::set<int>> prefixes, one_of_each, some;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    EXPECT_EQ(whole(after(r, {5, CutKind::none, seed})), std::set{1});
    EXPECT_EQ(whole(after(r, {5, CutKind::all, seed})), (std::set{1, 2, 3, 4}));
    EXPECT_EQ(whole(after(r, {5, CutKind::all_but_one, seed})).size(), 3u);
    EXPECT_EQ(whole(after(r, {5, CutKind::one_only, seed})).size(), 2u);
    prefixes.insert(whole(after(r, {5, CutKind::prefix, seed})));
    some.insert(whole(after(r, {5, CutKind::some, seed})));
    one_of_each.insert(whole(after(r, {5, CutKind::torn_last, seed})));
  }
  EXPECT_EQ(prefixes, (std::set<std::set<int>>{{1}, {1, 2}, {1, 2, 3}}));
  EXPECT_EQ(some.size(), 8u);
  EXPECT_TRUE(one_of_each.contains({-1, 1, 2, 3})) << "the last write is never torn";
}

TEST(PowerCut, TearsWritesAtSectorsAndBlocks) {
  DiskRecording r(64, 1 << 20);
  record(r);
  bool torn_512 = false, torn_4096 = false;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const Bytes sectors = after(r, {3, CutKind::random_512, seed});
    const Bytes blocks = after(r, {3, CutKind::random_4096, seed});
    for (std::size_t at = 2 * 8192; at < 3 * 8192; at += 512) {
      EXPECT_EQ(blocks[at], blocks[at / 4096 * 4096]);
      torn_512 |= sectors[at] != sectors[at / 4096 * 4096];
      torn_4096 |= blocks[at] != blocks[2 * 8192];
    }
  }
  EXPECT_TRUE(torn_512);
  EXPECT_TRUE(torn_4096);
}

// A file system's superblock goes as a whole, its surroundings do not.
TEST(PowerCut, TearsNoAtom) {
  DiskRecording r(64, 1 << 20);
  record(r);
  constexpr std::size_t kBegin = 2 * 8192 + 1024, kEnd = kBegin + 1024;
  bool there = false, gone = false, torn_beside = false;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    for (const CutKind kind : {CutKind::random_512, CutKind::torn_last}) {
      Bytes image(kBytes);
      r.apply(0, r.durable_at(3), image);
      lay_over(r, {3, kind, seed}, image, {.offset = kBegin, .bytes = kEnd - kBegin});
      for (std::size_t at = kBegin; at < kEnd; at += 512) EXPECT_EQ(image[at], image[kBegin]);
      (image[kBegin] == std::byte{2} ? there : gone) = true;
      torn_beside |= image[kBegin] != image[kEnd];
    }
  }
  EXPECT_TRUE(there && gone && torn_beside);
}

TEST(PowerCut, SameSeedSameCut) {
  DiskRecording r(64, 1 << 20);
  record(r);
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    const PowerCut cut = drawn_cut(r, seed), again = drawn_cut(r, seed);
    EXPECT_GT(cut.at, 0u);
    EXPECT_LE(cut.at, r.count());
    EXPECT_EQ(cut.text(), again.text());
    EXPECT_EQ(after(r, cut), after(r, again));
  }
}

// A recording without room says so and keeps what it has, so that later promises count in no cut.
TEST(DiskRecording, StopsWhenItIsFull) {
  DiskRecording few(2, 1 << 20), small(64, 8192);
  EXPECT_TRUE(few.write(0, filled(512, 1)));
  EXPECT_TRUE(few.flush());
  EXPECT_FALSE(few.flush());
  EXPECT_TRUE(few.full());
  EXPECT_EQ(few.count(), 2u);
  EXPECT_TRUE(small.write(0, filled(8192, 1)));
  EXPECT_FALSE(small.write(0, filled(512, 2)));
  EXPECT_FALSE(small.flush());
  EXPECT_EQ(small.count(), 1u);
  small.begin();
  EXPECT_TRUE(small.flush());
}

void add_step(Bank& bank, Lsn lsn, std::uint64_t intended, std::uint64_t answered,
              std::uint64_t promised) {
  Step& s = bank.lanes[0].steps[bank.lanes[0].used++];
  s.lsn = lsn;
  s.promised = promised != 0;
  s.intended_at = intended;
  s.answered_at = answered;
  s.promised_at = promised;
  s.groups = 1;
  s.group[0] = 3;
  s.number[0] = lsn;
}

TEST(KillBoard, IsCutAtAMoment) {
  SharedKillBoard recorded, cut;
  Bank& before = recorded->banks[0];
  before.life = 4;
  before.base[3] = {7, 2};
  add_step(before, 8, 0, 0, 0);
  Bank& now = recorded->banks[1];
  now.life = 5;
  now.begun_at = 100;
  now.base[3] = {8, 4};
  add_step(now, 9, 110, 120, 130);
  add_step(now, 10, 125, 140, 0);
  add_step(now, 11, 150, 160, 170);
  recorded->current = 1;
  recorded->lost = 1;
  recorded->complain("lost", "of the recorded life");

  cut->become_cut_of(*recorded, 99);  // before the life had read what there was
  EXPECT_EQ(cut->bank().life, 4u);
  EXPECT_EQ(cut->bank().base[3].number, 7u);
  EXPECT_EQ(cut->bank().lanes[0].used, 1u);
  EXPECT_EQ(cut->complaints, 0u);
  EXPECT_EQ(cut->lost, 0u);

  cut->become_cut_of(*recorded, 129);
  EXPECT_EQ(cut->bank().life, 5u);
  EXPECT_EQ(cut->bank().base[3].number, 8u);
  ASSERT_EQ(cut->bank().lanes[0].used, 2u);  // the third was not meant to be yet
  const Step* steps = cut->bank().lanes[0].steps;
  EXPECT_EQ(steps[0].lsn, 9u);
  EXPECT_FALSE(steps[0].promised);  // it was only promised at 130
  EXPECT_EQ(steps[1].lsn, 0u);      // it was only answered at 140

  cut->become_cut_of(*recorded, 130);
  EXPECT_TRUE(cut->bank().lanes[0].steps[0].promised);
  // A cut of a cut, as of its own beginning, is the same.
  recorded->become_cut_of(*cut, 0);
  EXPECT_EQ(recorded->bank().lanes[0].used, 2u);
  EXPECT_TRUE(recorded->bank().lanes[0].steps[0].promised);
}

}  // namespace
}  // namespace kessai::torture
