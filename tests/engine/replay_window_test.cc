// SPDX-License-Identifier: Apache-2.0
// Goal: a window gives back exactly the last operation on each key, by tree and key, whatever the
// keys look like, and takes no more memory than it was given. Method: random operations against a
// map.
#include "engine/replay_window.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "btree/node.hpp"
#include "io/env.hpp"

namespace kessai::engine {
namespace {

class NoPages final : public btree::PageSource {
 public:
  void read_pages(std::span<Read> /*reads*/) override {}
  Result<void> write_out(std::span<const btree::FrameId> /*frames*/) override { return {}; }
};

struct Last {
  std::string value;
  Lsn lsn = 0;
  bool remove = false;
  friend bool operator==(const Last&, const Last&) = default;
};
using Expected = std::map<std::pair<std::uint32_t, std::string>, Last>;

struct ReplayWindowTest : ::testing::Test {
  NoPages source;
  std::unique_ptr<btree::Pool> pool = btree::Pool::create(1 << 20, source).value();
  io::SeededRandom random{7};

  /// Adds until the window is full; what it must give back.
  Expected fill(ReplayWindow& w, const std::function<std::string()>& some_key, int most = 5000) {
    Expected expected;
    std::vector<std::uint32_t> order;
    for (Lsn lsn = 1; lsn <= static_cast<Lsn>(most); ++lsn) {
      const std::uint32_t tree = 3 + 5 * static_cast<std::uint32_t>(random.below(3));
      const std::string k = some_key();
      Last last{std::string(random.below(40) == 0 ? 1500 : random.below(60), 'v'), lsn,
                random.below(5) == 0};
      if (last.remove) last.value.clear();
      const auto kept = w.add(
          {TreeId{tree}, last.remove ? wal::OpKind::remove : wal::OpKind::put, k, last.value}, lsn);
      EXPECT_TRUE(kept.has_value());
      if (!*kept) break;
      expected[{tree, k}] = last;
    }
    return expected;
  }

  static void expect_sorted(ReplayWindow& w, const Expected& expected) {
    std::map<std::uint32_t, std::vector<std::pair<std::string, Last>>> found;
    std::uint32_t tree = 0;
    for (const auto& e : w.sorted()) {
      const std::uint32_t t = raw(w.trees()[e.tree]);
      // The operations of a tree come together, in the order of their keys.
      if (t != tree) {
        EXPECT_FALSE(found.contains(t));
      }
      tree = t;
      const auto c = w.change(e);
      found[t].emplace_back(c.key, Last{std::string(c.value), c.lsn, c.remove});
    }
    std::map<std::uint32_t, std::vector<std::pair<std::string, Last>>> wanted;
    for (const auto& [where, last] : expected) wanted[where.first].emplace_back(where.second, last);
    EXPECT_EQ(found, wanted);
  }
};

TEST_F(ReplayWindowTest, GivesBackTheLastOperationOnEachKeyInOrder) {
  const std::string common(37, 'c');
  const std::vector<std::function<std::string()>> kinds = {
      [&] { return std::to_string(random.below(400)); },
      [&] { return common + std::to_string(random.below(400)); },
      // Prefixes of each other, with the zeros that pad them.
      [&] { return std::string(1 + random.below(30), '\0'); },
      [&] { return std::string(1 + random.below(30), 'a') + std::string(random.below(3), '\0'); },
      [&] {
        std::string k(random.below(3) == 0 ? 8 : 16, '\0');
        for (char& c : k) c = static_cast<char>(random.below(2) == 0 ? 0 : 0xff);
        return k;
      },
      [&] { return std::string(900, 'x') + std::to_string(random.below(50)); },
      [&] { return std::string(); },
  };
  ReplayWindow w(*pool, 300'000);
  for (const auto& kind : kinds) {
    const auto expected = fill(w, kind);
    EXPECT_FALSE(w.empty());
    expect_sorted(w, expected);
    w.clear();
    EXPECT_TRUE(w.empty());
  }
}

TEST_F(ReplayWindowTest, TakesTheFramesItWasGivenAndReturnsThem) {
  {
    ReplayWindow w(*pool, 10 * kPageSize);
    for (int round = 0; round < 3; ++round) {
      const auto expected = fill(w, [&] { return std::to_string(random.below(1'000'000)); });
      EXPECT_GT(expected.size(), 200u);
      EXPECT_LT(expected.size(), 5000u);
      // Operations do not straddle frames.
      EXPECT_LE(pool->frames_used(), 11u);
      EXPECT_GE(pool->frames_used(), 8u);
      expect_sorted(w, expected);
      w.clear();
    }
  }
  EXPECT_EQ(pool->frames_used(), 0u);
}

TEST_F(ReplayWindowTest, AnEmptyWindowTakesAnyOperation) {
  ReplayWindow w(*pool, 1);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{900}, std::size_t{3} << 20}) {
    const std::string value(bytes, 'v');
    const wal::Op op{TreeId{3}, wal::OpKind::put, "key", value};
    EXPECT_TRUE(w.add(op, 5).value());
    EXPECT_FALSE(w.add(op, 6).value());
    ASSERT_EQ(w.sorted().size(), 1u);
    EXPECT_EQ(w.change(w.sorted()[0]).value, value);
    EXPECT_EQ(w.change(w.sorted()[0]).lsn, 5u);
    w.clear();
  }
}

TEST_F(ReplayWindowTest, LongValuesHaveABoundOfTheirOwn) {
  ReplayWindow w(*pool, std::uint64_t{1} << 30);
  const std::string value(std::size_t{1} << 20, 'v');
  std::uint64_t kept = 0;
  while (w.add({TreeId{3}, wal::OpKind::put, std::to_string(kept), value}, kept + 1).value())
    ++kept;
  EXPECT_EQ(kept, ReplayWindow::kMostLong >> 20);
}

TEST_F(ReplayWindowTest, RefusesAKeyThatNoTreeCanHold) {
  ReplayWindow w(*pool, 1 << 16);
  const std::string key(btree::kMaxKey + 1, 'k');
  EXPECT_EQ(w.add({TreeId{3}, wal::OpKind::put, key, "v"}, 5).error(), Code::log_damaged);
  EXPECT_TRUE(w.empty());
}

}  // namespace
}  // namespace kessai::engine
