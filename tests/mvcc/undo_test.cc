// SPDX-License-Identifier: Apache-2.0
// Goal: find answers the version a snapshot sees, gc keeps what a snapshot can need and gives the
// memory back. Method: scripted histories, then a random history against a list of intervals.
#include "mvcc/undo.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "io/env.hpp"
#include "io/waits.hpp"

namespace kessai::mvcc {
namespace {

constexpr TreeId kTree{3};
constexpr std::size_t kAll = ~std::size_t{0};

std::string seen(const Undo& undo, std::string_view key, Lsn w, TreeId tree = kTree) {
  Version v;
  if (!undo.find(tree, key, Snapshot{w}, v)) return "-";
  return v.present ? v.value : "ghost";
}
Image value(std::string_view bytes) { return {.present = true, .flags = 0, .value = bytes}; }

TEST(Undo, FindsTheEntryWhoseIntervalHoldsTheSnapshot) {
  Undo undo(1 << 20);
  EXPECT_EQ(seen(undo, "k", 5), "-");
  undo.push(kTree, "k", 2, 5, value("a"));
  undo.push(kTree, "k", 5, 9, value("b"));
  EXPECT_EQ(seen(undo, "k", 1), "-");
  EXPECT_EQ(seen(undo, "k", 2), "a");
  EXPECT_EQ(seen(undo, "k", 4), "a");
  EXPECT_EQ(seen(undo, "k", 5), "b");
  EXPECT_EQ(seen(undo, "k", 8), "b");
  EXPECT_EQ(seen(undo, "k", 9), "-");
  EXPECT_EQ(seen(undo, "k", 4, TreeId{4}), "-");
  EXPECT_EQ(seen(undo, "kk", 4), "-");
}

TEST(Undo, KeepsFlagsAndBeginAndEmptyValues) {
  Undo undo(1 << 20);
  undo.push(kTree, "", 2, 5, Image{.present = true, .flags = 0x42, .value = ""});
  undo.push(kTree, "", 5, 6, Image{});
  Version v;
  ASSERT_TRUE(undo.find(kTree, "", Snapshot{3}, v));
  EXPECT_TRUE(v.present);
  EXPECT_EQ(v.flags, 0x42);
  EXPECT_EQ(v.begin, 2u);
  EXPECT_EQ(v.value, "");
  EXPECT_EQ(seen(undo, "", 5), "ghost");
}

// Written at 10, deleted at 20 (leaves a ghost), inserted again at 30, updated at 40. The insert
// over the ghost pushes nothing: the gap [20, 30) reads as absent (C9).
TEST(Undo, DeleteAndReinsertUnderThreeSnapshots) {
  Undo undo(1 << 20);
  Snapshots snapshots;
  const auto begin = [&](Lsn w) { return snapshots.begin([w] { return w; }); };
  const auto gc = [&] { return undo.gc(snapshots.horizon(50), kAll); };
  Snapshots::Live s15 = begin(15), s25 = begin(25), s35 = begin(35);
  undo.push(kTree, "k", 10, 20, value("first"));
  undo.push(kTree, "k", 30, 40, value("second"));
  const auto all = [&] {
    return seen(undo, "k", 15) + " " + seen(undo, "k", 25) + " " + seen(undo, "k", 35);
  };
  EXPECT_EQ(all(), "first - second");
  EXPECT_EQ(gc(), 0u);
  s15.end();
  EXPECT_EQ(gc(), 1u);
  EXPECT_EQ(all(), "- - second");
  s25.end();
  EXPECT_EQ(gc(), 0u);
  EXPECT_EQ(all(), "- - second");
  s35.end();
  EXPECT_EQ(gc(), 1u);
  EXPECT_EQ(undo.counters().entries, 0u);
}

TEST(Undo, GcKeepsWhatTheNextReadOnlySnapshotNeeds) {
  // Applied is 30, durable 15: no snapshot is live, but the next read-only one will read at 15.
  Undo undo(1 << 20);
  Snapshots snapshots;
  undo.push(kTree, "k", 10, 20, value("a"));
  undo.push(kTree, "k", 20, 30, value("b"));
  EXPECT_EQ(undo.gc(snapshots.horizon(15), kAll), 0u);
  const Snapshots::Live reader = snapshots.begin([] { return Lsn{15}; });
  EXPECT_EQ(undo.gc(snapshots.horizon(30), kAll), 0u);
  EXPECT_EQ(seen(undo, "k", 15), "a");
}

TEST(Undo, GcIsBoundedPerCallAndReachesEveryShard) {
  Undo undo(1 << 20);
  for (int i = 0; i < 1000; ++i) undo.push(kTree, std::to_string(i), 1, 2, value("x"));
  std::size_t calls = 0;
  for (std::size_t left = 1000; left > 0; ++calls) {
    const std::size_t n = undo.gc(2, 64);
    ASSERT_GT(n, 0u);
    ASSERT_LE(n, 64u);
    left -= n;
  }
  EXPECT_GE(calls, 16u);
  EXPECT_EQ(undo.counters().entries, 0u);
  EXPECT_EQ(undo.counters().bytes, 0u);
}

TEST(Undo, PushesAloneKeepMemoryFlatBehindAMovingHorizon) {
  Undo undo(1 << 20);
  std::uint64_t most = 0;
  for (Lsn lsn = 1; lsn < 100'000; ++lsn) {
    undo.push(kTree, std::to_string(lsn % 1000), lsn, lsn + 1, value(std::string(100, 'x')));
    if (lsn % 100 == 0) (void)undo.gc(lsn - 50, 0);
    if (lsn % 128 == 0) most = std::max(most, undo.counters().entries);
  }
  EXPECT_LT(most, 2000u);
  EXPECT_LT(undo.counters().block_bytes, 8u << 20);
}

TEST(Undo, CountsBytesAgainstTheBudget) {
  Undo undo(1 << 20);
  EXPECT_FALSE(undo.over_budget());
  const std::string big(4000, 'x');
  for (Lsn i = 1; i < 500; ++i) undo.push(kTree, std::to_string(i), i, i + 1, value(big));
  EXPECT_TRUE(undo.over_budget());
  EXPECT_GE(undo.counters().bytes, 499u * 4000);
  while (undo.gc(1000, 64) != 0) {
  }
  EXPECT_FALSE(undo.over_budget());
  EXPECT_EQ(undo.counters().bytes, 0u);
}

TEST(Undo, TakesImagesLargerThanABlock) {
  Undo undo(1 << 20);
  for (Lsn i = 1; i < 20; ++i)
    undo.push(kTree, "k", i, i + 1, value(std::string(i * 9000, static_cast<char>('a' + i))));
  for (Lsn i = 1; i < 20; ++i)
    EXPECT_EQ(seen(undo, "k", i), std::string(i * 9000, static_cast<char>('a' + i)));
  EXPECT_EQ(undo.gc(10, kAll), 9u);
  EXPECT_EQ(seen(undo, "k", 9), "-");
  EXPECT_EQ(seen(undo, "k", 10).size(), 90'000u);
  EXPECT_EQ(undo.gc(100, kAll), 10u);
  EXPECT_EQ(undo.counters().bytes, 0u);
}

// One long reader and one row that changes all the time, the case that an end <= horizon rule
// alone lets grow without bound: the row keeps the reader's version and nothing else.
TEST(Undo, IntervalCollectionKeepsOneEntryPerSnapshotOfAHotRow) {
  Undo undo(1 << 20);
  Snapshots snapshots;
  const auto begin = [&](Lsn w) { return snapshots.begin([w] { return w; }); };
  const Snapshots::Live s100 = begin(100), s5000 = begin(5000);
  const std::string bytes(200, 'x');
  for (Lsn lsn = 1; lsn < 20'000; ++lsn) {
    undo.push(kTree, "hot", lsn, lsn + 1, value(bytes + std::to_string(lsn)));
    if (lsn % 1000 == 0) (void)undo.gc_intervals(snapshots.in_use(lsn));
  }
  (void)undo.gc_intervals(snapshots.in_use(20'000));
  EXPECT_EQ(undo.counters().entries, 2u);
  EXPECT_LT(undo.counters().block_bytes, 100'000u);
  EXPECT_EQ(seen(undo, "hot", 100), bytes + "100");
  EXPECT_EQ(seen(undo, "hot", 5000), bytes + "5000");
  EXPECT_EQ(seen(undo, "hot", 101), "-");
}

// Pushes that know the snapshots drop what their own record left behind: no sweep, and a find that
// looks at few entries however often the rows changed.
TEST(Undo, PushesThatKnowTheSnapshotsKeepARowAtTheVersionsTheyNeed) {
  constexpr Lsn kRows = 2000, kRounds = 50;
  Undo undo(1 << 20);
  Snapshots snapshots;
  const auto key_of = [](Lsn i) { return "row" + std::to_string(i); };
  const auto image = [](Lsn i) { return std::string(100, 'x') + std::to_string(i); };
  Lsn lsn = kRows;  // row i was written at i + 1
  const auto round = [&] {
    for (Lsn i = 0; i < kRows; ++i, ++lsn) {
      const Lsn begin = lsn - kRows + 1;
      undo.push(kTree, key_of(i), begin, lsn + 1, value(image(begin)));
    }
  };
  const Snapshots::Live first = snapshots.begin([&] { return lsn; });
  round();
  const Snapshots::Live second = snapshots.begin([&] { return lsn; });
  for (Lsn n = 0; n < kRounds; ++n) {
    undo.prune_by(snapshots.in_use(lsn));
    round();
  }
  const Undo::Counters before = undo.counters();
  EXPECT_LE(before.entries, 4 * kRows);  // two needed, the newest, and what shared a chain
  EXPECT_LE(before.block_bytes, 8 * before.bytes);
  for (Lsn i = 0; i < kRows; ++i) {
    ASSERT_EQ(seen(undo, key_of(i), kRows), image(i + 1));
    ASSERT_EQ(seen(undo, key_of(i), 2 * kRows), image(kRows + i + 1));
  }
  EXPECT_LT(undo.counters().longest_walk, 40u);
  // Told that nobody is left, they stop, and the plain collection takes the rest.
  undo.prune_by({.points = {}, .bound = lsn});
  const std::uint64_t dropped = undo.counters().dropped;
  undo.push(kTree, key_of(0), lsn, lsn + 1, value("x"));
  EXPECT_EQ(undo.counters().dropped, dropped);
  while (undo.gc(lsn + 1, 1000) != 0) {
  }
  EXPECT_EQ(undo.counters().entries, 0u);
  EXPECT_EQ(undo.counters().bytes, 0u);
}

// Beside a long reader a row keeps two images, the needed one and the newest, in the same memory.
TEST(Undo, TheNewestImageTakesThePlaceOfOneThatNobodyNeeds) {
  constexpr Lsn kRows = 10, kRounds = 400;
  Undo undo(1 << 20);
  Lsn lsn = 1;
  const auto round = [&](char c, std::size_t size) {
    for (Lsn i = 0; i < kRows; ++i)
      undo.push(kTree, std::to_string(i), lsn + i, lsn + kRows + i, value(std::string(size, c)));
    lsn += kRows;
  };
  round('a', 100);
  const Lsn w = lsn;  // a snapshot that sees the first row's second version
  round('b', 100);
  const auto pruned_round = [&](char c, std::size_t size) {
    undo.prune_by({.points = {w}, .bound = lsn + kRows});
    round(c, size);
  };
  pruned_round('c', 100);
  const Undo::Counters before = undo.counters();
  for (Lsn n = 0; n < kRounds; ++n) pruned_round(static_cast<char>('d' + n % 20), 100);
  const Undo::Counters after = undo.counters();
  EXPECT_EQ(after.replaced - before.replaced, kRows * kRounds);
  EXPECT_EQ(after.entries, 2 * kRows);
  EXPECT_EQ(after.bytes, before.bytes);
  EXPECT_EQ(after.pushed - after.dropped, after.entries);
  EXPECT_EQ(seen(undo, "0", w), std::string(100, 'b'));
  EXPECT_EQ(seen(undo, "1", w), std::string(100, 'a'));
  EXPECT_EQ(seen(undo, "7", lsn + 7 - 1), std::string(100, 'd' + (kRounds - 1) % 20));
  // A longer image does not fit, and a short one must not keep a long one's memory.
  pruned_round('x', 300);
  EXPECT_EQ(seen(undo, "7", lsn + 7 - 1), std::string(300, 'x'));
  pruned_round('y', 10);
  EXPECT_EQ(seen(undo, "7", lsn + 7 - 1), std::string(10, 'y'));
  EXPECT_EQ(seen(undo, "1", w), std::string(100, 'a'));
  EXPECT_EQ(undo.counters().replaced, after.replaced);
  EXPECT_LT(undo.counters().bytes, before.bytes);
}

// Images that piled up while nobody told where the snapshots are go again, though the newest one
// is replaced in its place and they stand behind it.
TEST(Undo, ReplacingAlsoTidiesUpBehind) {
  Undo undo(1 << 20);
  Lsn lsn = 10;
  const auto push = [&] {
    undo.push(kTree, "k", lsn, lsn + 1, value("x"));
    ++lsn;
  };
  undo.prune_by({.points = {10}, .bound = lsn});
  for (int n = 0; n < 50; ++n) push();  // newer than what prune_by knew
  EXPECT_EQ(undo.counters().entries, 50u);
  for (int n = 0; n < 200; ++n) {
    undo.prune_by({.points = {10}, .bound = lsn});
    push();
  }
  EXPECT_EQ(undo.counters().entries, 2u);
  EXPECT_EQ(seen(undo, "k", 10), "x");
}

TEST(Undo, PushesTreatMoreSnapshotsThanTheyRememberAsInUse) {
  Undo undo(1 << 20);
  Snapshots snapshots;
  std::vector<Snapshots::Live> live;
  for (Lsn w = 10; w <= 2000; w += 10) live.push_back(snapshots.begin([w] { return w; }));
  undo.prune_by(snapshots.in_use(5000));
  for (Lsn lsn = 1; lsn < 3000; ++lsn)
    undo.push(kTree, "k", lsn, lsn + 1, value(std::to_string(lsn)));
  EXPECT_GT(undo.counters().dropped, 500u);
  for (Lsn w = 10; w <= 2000; w += 10) ASSERT_EQ(seen(undo, "k", w), std::to_string(w));
}

// More points than it remembers, some above the bound: the bound does not rise by that.
TEST(Undo, PushesKeepWhatASnapshotAboveTheBoundCanStillNeed) {
  Undo undo(1 << 20);
  InUse in_use{.points = {}, .bound = 100};
  for (Lsn w = 31; w < 95; ++w) in_use.points.push_back(w);
  for (Lsn w = 150; w < 160; ++w) in_use.points.push_back(w);
  undo.prune_by(in_use);
  undo.push(kTree, "k", 105, 110, value("old"));
  undo.push(kTree, "k", 110, 130, value("needed"));  // by a snapshot that begins at 120
  undo.push(kTree, "k", 130, 140, value("new"));
  EXPECT_EQ(seen(undo, "k", 120), "needed");
}

TEST(Undo, FindManyAnswersAsFindDoes) {
  Undo undo(1 << 20);
  for (Lsn i = 1; i < 400; ++i)
    undo.push(kTree, "k" + std::to_string(i % 37), i, i + 20, value(std::to_string(i)));
  std::vector<std::string> keys;
  for (int i = 0; i < 60; ++i) keys.push_back("k" + std::to_string(i));  // 37 and above: absent
  for (const Lsn w : {Lsn{1}, Lsn{40}, Lsn{200}, Lsn{398}}) {
    std::vector<Undo::Ask> asks(keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) asks[i].key = keys[i];
    undo.find_many(kTree, asks, {w});
    std::size_t found = 0;
    for (const Undo::Ask& a : asks) {
      ASSERT_EQ(a.found ? a.version.value : "-", seen(undo, std::string(a.key), w)) << a.key;
      found += a.found ? 1 : 0;
    }
    EXPECT_GT(found, 0u);
  }
}

TEST(Undo, FindsAreCountedOneByOneAndTimedNowAndThen) {
  struct Ticking final : io::Clock {
    std::uint64_t now = 0, reads = 0;
    std::uint64_t now_ns() override { return ++reads, now += 1000; }
    std::uint64_t unix_micros() override { return 0; }
  } clock;
  io::Waits waits;
  io::Env env;
  env.clock = &clock;
  env.waits = &waits;
  Undo undo(1 << 20, &env);
  EXPECT_EQ(seen(undo, "k", 1), "-");
  EXPECT_EQ(waits.total(io::Wait::undo_read).count, 0u);  // nothing to look through
  undo.push(kTree, "k", 1, 2, value("a"));
  for (int i = 0; i < 160; ++i) ASSERT_EQ(seen(undo, "k", 1), "a");
  EXPECT_EQ(waits.total(io::Wait::undo_read).count, 160u);
  EXPECT_EQ(waits.total(io::Wait::undo_read).ns, 160'000u);
  EXPECT_EQ(clock.reads, 20u);
}

TEST(Undo, ShowsTheVersionsOfAKeyNewestFirst) {
  Undo undo(1 << 20);
  EXPECT_TRUE(undo.versions(kTree, "k").empty());
  undo.push(kTree, "k", 2, 5, value("a"));
  undo.push(kTree, "other", 3, 6, value("x"));
  undo.push(TreeId{4}, "k", 3, 6, value("x"));
  undo.push(kTree, "k", 5, 9, value("b"));
  undo.push(kTree, "k", 12, 15, Image{});
  const auto v = undo.versions(kTree, "k");
  ASSERT_EQ(v.size(), 3u);
  EXPECT_EQ(v[0].begin, 12u);
  EXPECT_EQ(v[0].end, 15u);
  EXPECT_FALSE(v[0].present);
  EXPECT_EQ(v[1].begin, 5u);
  EXPECT_EQ(v[1].value, "b");
  EXPECT_EQ(v[2].end, 5u);
  EXPECT_EQ(v[2].value, "a");
  EXPECT_TRUE(v[2].present);
  EXPECT_EQ(undo.gc(9, kAll), 4u);  // and what is other's
  EXPECT_EQ(undo.versions(kTree, "k").size(), 1u);
}

TEST(Undo, BytesAreNeededByTheOldestSnapshotThatLooksAtThem) {
  Undo undo(1 << 20);
  const std::vector<Lsn> none, two{10, 20};
  undo.push(kTree, "k", 1, 10, value("before all"));
  EXPECT_EQ(undo.bytes_needed(two), (std::vector<std::uint64_t>{0, 0}));
  const auto bytes = [&] { return undo.counters().bytes; };
  std::uint64_t last = bytes();
  const auto push = [&](Lsn begin, Lsn end) {
    undo.push(kTree, "k", begin, end, value("v"));
    return bytes() - std::exchange(last, bytes());
  };
  std::uint64_t first = push(10, 11), second = 0;
  second += push(11, 21);
  first += push(5, 25);  // both look; the older one is why it is still there
  second += push(20, 30);
  (void)push(21, 40);  // nobody
  EXPECT_EQ(undo.bytes_needed(two), (std::vector<std::uint64_t>{first, second}));
  EXPECT_TRUE(undo.bytes_needed(none).empty());
}

// Random pushes with gaps, finds and collections against the plain list of intervals.
TEST(Undo, AgreesWithAListOfIntervals) {
  const char* given = std::getenv("KESSAI_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : 20261;
  SCOPED_TRACE("KESSAI_SEED=" + std::to_string(seed));
  io::SeededRandom random(seed);
  struct Interval {
    std::string key;
    Lsn begin, end;
    std::string value;
  };
  Undo undo(1 << 20);
  std::vector<Interval> all;
  Lsn now = 1, horizon = 0;
  InUse live;  // what the last interval collection was told; reads keep to it
  for (int step = 0; step < 30'000; ++step) {
    const std::string key = std::to_string(random.below(40));
    const auto dice = random.below(10);
    if (dice < 4) {
      Lsn last = 0;
      for (const Interval& i : all)
        if (i.key == key) last = std::max(last, i.end);
      const Lsn begin = last + random.below(now - last + 1);
      const Lsn end = std::max(begin, now) + 1;
      now = end;
      const std::string bytes(random.below(300), static_cast<char>('a' + end % 26));
      undo.push(kTree, key, begin, end, value(bytes));
      all.push_back({key, begin, end, bytes});
    } else if (dice < 9) {
      Lsn w = horizon + random.below(now - horizon + 1);
      if (w < live.bound) {
        const auto point = std::lower_bound(live.points.begin(), live.points.end(), w);
        w = point != live.points.end() ? *point : live.bound;
      }
      std::string want = "-";
      for (const Interval& i : all)
        if (i.key == key && i.begin <= w && w < i.end) want = i.value;
      ASSERT_EQ(seen(undo, key, w), want) << "key " << key << " at " << w << " step " << step;
    } else if (random.below(4) == 0) {
      // Some snapshots end, some live on, some have begun since the last time.
      std::erase_if(live.points, [&](Lsn) { return random.below(3) == 0; });
      for (Lsn w = live.bound; w < now; w += 1 + random.below(30)) live.points.push_back(w);
      live.bound = now - random.below(std::min<Lsn>(now - live.bound + 1, 50));
      std::erase_if(live.points, [&](Lsn w) { return w >= live.bound; });
      if (random.below(2) == 0)
        (void)undo.gc_intervals(live);
      else
        undo.prune_by(live);
    } else {
      horizon = std::max(horizon, now > 60 ? now - 20 - random.below(40) : 0);
      (void)undo.gc(horizon, random.below(30));
      std::erase_if(all, [&](const Interval& i) { return i.end + 200 < horizon; });
    }
  }
  while (undo.gc(now, 100) != 0) {
  }
  EXPECT_EQ(undo.counters().entries, 0u);
}

}  // namespace
}  // namespace kessai::mvcc
