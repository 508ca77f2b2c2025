// SPDX-License-Identifier: Apache-2.0
// Goal: no slot that a kept checkpoint references is ever handed out (I5a), and none is lost.
// Method: random images, drops and checkpoints; the model keeps, for each checkpoint, the plain set
// of slots its image refers to.
#include "btree/space.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "btree/superblock.hpp"
#include "io/env.hpp"
#include "io/memory.hpp"
#include "io/sim_disk.hpp"

namespace kessai::btree {
namespace {

struct Disk {
  io::SimDisk disk{1};
  std::unique_ptr<io::Directory> directory = disk.attach();
  std::unique_ptr<io::File> file = directory->open("data", io::OpenMode::create_new).value();
};

class Model {
 public:
  explicit Model(std::uint64_t seed) : random_(seed), space_(*d_.file) {
    EXPECT_TRUE(d_.file->resize(slot_offset(1 + 128)).has_value());
    space_.reset(128);
  }

  void run(int steps) {
    for (int i = 0; i < steps && !::testing::Test::HasFailure(); ++i) step();
    // Nothing live and two checkpoints later everything is free again.
    while (!live_.empty()) drop(*live_.begin());
    for (int i = 0; i < 3; ++i) {
      if (!building_) begin();
      publish();
    }
    EXPECT_EQ(space_.free_slots(), space_.slots());
  }

 private:
  using Slots = std::set<Slot>;

  void step() {
    const auto dice = random_.below(100);
    if (dice < 40) {
      write(epoch_, false);
    } else if (dice < 55 && building_) {
      write(cut_, true);  // an image of the cut: in it and in the live map
    } else if (dice < 75 && !live_.empty()) {
      drop(pick());
    } else if (dice < 80) {
      const Slot s = take(epoch_);  // an image whose page was freed meanwhile: no map ever had it
      space_.give_back(s);
    } else if (dice < 90 && !building_) {
      begin();
    } else if (dice >= 90 && building_) {
      publish();
    }
    check();
  }
  Slot pick() {
    auto it = live_.begin();
    std::advance(it, random_.below(live_.size()));
    return *it;
  }
  Slot take(std::uint64_t epoch) {
    EXPECT_TRUE(space_.ensure_free(1).has_value());
    std::vector<Slot> out;
    space_.take(1, epoch, out);
    const Slot s = out.at(0);
    EXPECT_FALSE(live_.contains(s) || older_.contains(s) || newest_.contains(s) ||
                 (building_ && cut_slots_.contains(s)))
        << "slot " << s << " is still referenced";
    EXPECT_LE(slot_offset(s) + kPageSize, d_.file->size().value());
    return s;
  }
  /// A new image of a page; half of them replace an older image.
  void write(std::uint64_t epoch, bool of_cut) {
    const Slot s = take(epoch);
    if (!live_.empty() && random_.below(2) == 0) {
      const Slot old = pick();
      if (of_cut) {
        if (!cut_slots_.contains(old) || born_after_cut_.contains(old)) return space_.give_back(s);
        cut_slots_.erase(old);
      }
      live_.erase(old);
      space_.drop(old, of_cut ? cut_ : epoch_);
    }
    live_.insert(s);
    if (of_cut) {
      cut_slots_.insert(s);
    } else if (building_) {
      born_after_cut_.insert(s);
    }
  }
  void drop(Slot s) {
    live_.erase(s);
    space_.drop(s, epoch_);
  }
  void begin() {
    building_ = true;
    cut_ = epoch_++;
    cut_slots_ = live_;
    born_after_cut_.clear();
    space_.keep(older_epoch_, newest_epoch_, cut_);
  }
  void publish() {
    building_ = false;
    older_ = std::move(newest_);
    older_epoch_ = newest_epoch_;
    newest_ = cut_slots_;
    newest_epoch_ = cut_;
    space_.keep(older_epoch_, newest_epoch_, 0);
  }
  void check() {
    const auto ok = space_.audit(
        [&](const std::function<void(Slot)>& fn) {
          for (const Slot s : live_) fn(s);
        },
        0);
    ASSERT_TRUE(ok.has_value()) << ok.error().message();
    Slots needed = live_;
    for (const Slots* set : {&older_, &newest_, &cut_slots_}) {
      if (set != &cut_slots_ || building_) needed.insert(set->begin(), set->end());
    }
    ASSERT_EQ(space_.slots() - space_.free_slots(), needed.size()) << "a slot is kept for nobody";
  }

  Disk d_;
  io::SeededRandom random_;
  Space space_;
  Slots live_, older_, newest_, cut_slots_, born_after_cut_;
  bool building_ = false;
  std::uint64_t epoch_ = 1, cut_ = 0, older_epoch_ = 0, newest_epoch_ = 0;
};

TEST(Space, KeepsWhatCheckpointsReferenceAndNothingElse) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Model(seed).run(2000);
    if (::testing::Test::HasFailure()) FAIL() << "seed " << seed;
  }
}

TEST(Space, TakesLongRuns) {
  Disk d;
  Space space(*d.file);
  space.reset(256);
  std::vector<Slot> out;
  space.take(100, 1, out);
  for (std::size_t i = 1; i < out.size(); ++i) EXPECT_EQ(out[i], out[i - 1] + 1);
  // Holes in a full extent are left alone while there is an empty one.
  space.drop(3, 1);
  space.drop(17, 1);
  out.clear();
  space.take(64, 1, out);
  EXPECT_EQ(std::count_if(out.begin(), out.end(), [](Slot s) { return s == 3 || s == 17; }), 0);
  out.clear();
  space.take(space.free_slots(), 1, out);
  EXPECT_EQ(std::count_if(out.begin(), out.end(), [](Slot s) { return s == 3 || s == 17; }), 2);
}

// Goal: a data file that crosses a power of two of bytes goes on. Method: all slots taken
// but for some on both sides of each border; those that are handed out lie where no other does, and
// what is written to them reads back.
TEST(Space, SlotsAroundPowersOfTwoDoNotMeet) {
  constexpr Slot kBeside = 3;
  for (const unsigned power : {30u, 31u, 32u, 33u}) {
    Disk d;
    Space space(*d.file);
    const Slot border = ((std::uint64_t{1} << power) - kFirstSlotOffset) / kPageSize;
    ASSERT_TRUE(d.file->resize(slot_offset(border + kBeside + 1)).has_value());
    space.reset(border + kBeside);
    for (Slot s = 1; s <= border - kBeside; ++s) ASSERT_TRUE(space.adopt(s));
    std::vector<Slot> out;
    space.take(space.free_slots(), 1, out);
    ASSERT_EQ(out.size(), 2 * kBeside);
    io::AlignedBuffer page(kPageSize);
    std::set<std::uint64_t> offsets;
    for (const Slot s : out) {
      offsets.insert(slot_offset(s));
      std::memset(page.data(), static_cast<int>(s % 251), kPageSize);
      ASSERT_TRUE(d.file->write(slot_offset(s), page.span()).has_value());
    }
    EXPECT_EQ(offsets.size(), out.size());
    EXPECT_LT(*offsets.begin(), std::uint64_t{1} << power);
    EXPECT_GE(*offsets.rbegin(), std::uint64_t{1} << power);
    for (const Slot s : out) {
      ASSERT_TRUE(d.file->read(slot_offset(s), page.span()).has_value());
      EXPECT_EQ(page.data()[kPageSize - 1], static_cast<std::byte>(s % 251));
    }
  }
}

TEST(Space, GrowsTheFileAndRefusesWhenItIsFull) {
  Disk d;
  ASSERT_TRUE(d.file->resize(slot_offset(1 + 64)).has_value());
  Space space(*d.file);
  space.reset(64);
  ASSERT_TRUE(space.ensure_free(65).has_value());
  EXPECT_GE(space.free_slots(), 65u);
  EXPECT_EQ(d.file->size().value(), slot_offset(space.slots() + 1));
  // Less than the usual step fits: settle for it.
  d.disk.set_capacity(slot_offset(space.slots() + 1) + 64 * kPageSize);
  ASSERT_TRUE(space.ensure_free(space.free_slots() + 1).has_value());
  const auto slots = space.slots(), free = space.free_slots();
  EXPECT_EQ(space.ensure_free(free + 1).error().code(), Code::disk_full);
  EXPECT_EQ(space.slots(), slots);
  EXPECT_EQ(space.free_slots(), free);
  std::vector<Slot> out;
  space.take(free, 1, out);
  EXPECT_EQ(std::set<Slot>(out.begin(), out.end()).size(), free);
}

TEST(Space, OpenFindsSlotsUsedTwiceOrOutside) {
  Disk d;
  Space space(*d.file);
  space.reset(10);
  EXPECT_TRUE(space.adopt(10));
  EXPECT_FALSE(space.adopt(10));
  EXPECT_FALSE(space.adopt(0));
  EXPECT_FALSE(space.adopt(11));
  space.adopt_dead(9, 5);
  space.adopt_dead(10, 5);  // shared with the newest: stays live
  space.keep(4, 5, 0);
  EXPECT_EQ(space.free_slots(), 8u);
  space.keep(5, 6, 0);
  EXPECT_EQ(space.free_slots(), 9u);
  const auto ok = space.audit([](const std::function<void(Slot)>& fn) { fn(10), fn(10); }, 0);
  EXPECT_FALSE(ok.has_value());
  EXPECT_FALSE(space.audit([](const std::function<void(Slot)>&) {}, 0).has_value()) << "10 is lost";
}

}  // namespace
}  // namespace kessai::btree
