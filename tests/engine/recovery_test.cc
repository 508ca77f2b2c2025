// SPDX-License-Identifier: Apache-2.0
// Goal: recovery ends with the same contents whatever the size of its windows, with one thread or
// two, opened for reading or writing, and again after a crash. Method: a log on the simulated disk
// that writes, removes and rewrites the same few keys with short and long values and creates and
// drops trees; each recovery is compared with a model and checked.
#include <gtest/gtest.h>

#include <string>

#include "tests/engine/fault_world.hpp"

namespace kessai::test {
namespace {

/// A store whose log, from the last checkpoint on, holds everything below. Nothing closes it.
class Workload {
 public:
  explicit Workload(std::uint64_t seed) : random_(seed) {
    Process p(disk, seed);
    p.options.create = true;
    p.options.memory = 4000 * 4096;
    p.options.wal_limit = 256 << 20;
    EXPECT_TRUE(p.open().has_value());
    db_ = &*p.db;
    rows_["main"];
    for (int i = 0; i < 400; ++i) write("main");
    EXPECT_TRUE(p.db->checkpoint().has_value());
    const std::uint64_t image = p.db->stats().checkpoints;
    for (int i = 0; i < 2000; ++i) {
      const auto dice = random_.below(100);
      if (dice == 0) {
        create_or_drop();
      } else if (dice == 1) {
        large_commit();
      } else {
        write(random_.below(3) == 0 ? some_tree() : "main");
      }
    }
    EXPECT_TRUE(p.db->wait_durable(p.db->stats().applied_lsn).has_value());
    EXPECT_EQ(p.db->stats().checkpoints, image) << "the log has been cut";
    for (const auto& [name, rows] : rows_) tables[name] = std::make_shared<Rows>(rows);
  }

  io::SimDisk disk{5};
  Tables tables;
  unsigned removed = 0, long_values = 0, created = 0, dropped = 0, large = 0;

 private:
  std::string some_tree() {
    auto it = rows_.begin();
    std::advance(it, random_.below(rows_.size()));
    return it->first;
  }
  std::string some_key() {
    // Few keys, so that each is met many times; many share their first bytes.
    const auto n = random_.below(90);
    return (n % 3 == 0 ? std::string(n % 40, 'p') : std::string()) + "k" + std::to_string(n);
  }
  std::string some_value() {
    const bool is_long = random_.below(12) == 0;
    long_values += is_long ? 1 : 0;
    return std::string(is_long ? 1200 + random_.below(9000) : random_.below(200),
                       static_cast<char>('a' + random_.below(26)));
  }
  void write(const std::string& tree) {
    const Tree t = db_->tree(tree).value();
    Rows& rows = rows_[tree];
    const std::string k = some_key();
    if (random_.below(3) == 0) {
      EXPECT_TRUE(db_->remove(t, k, Durability::relaxed).has_value() || !rows.contains(k));
      removed += rows.erase(k) > 0 ? 1 : 0;
    } else {
      const std::string v = some_value();
      EXPECT_TRUE(db_->put(t, k, v, Durability::relaxed).has_value());
      rows[k] = v;
    }
  }
  void large_commit() {
    auto txn = db_->begin({.durability = Durability::relaxed}).value();
    Rows& rows = rows_["main"];
    for (int i = 0; i < 40; ++i) {
      const std::string k = some_key(), v = std::string(9000, static_cast<char>('A' + i % 26));
      EXPECT_TRUE(txn.put(db_->tree("main").value(), k, v).has_value());
      rows[k] = v;
    }
    EXPECT_TRUE(txn.commit().has_value());
    ++large;
  }
  void create_or_drop() {
    const std::string name = "t" + std::to_string(random_.below(3));
    if (rows_.erase(name) > 0) {
      EXPECT_TRUE(db_->drop_tree(name).has_value());
      ++dropped;
      return;
    }
    EXPECT_TRUE(db_->tree(name, {.create = true}).has_value());
    rows_[name];
    ++created;
    for (int i = 0; i < 20; ++i) write(name);
  }

  io::SeededRandom random_;
  Database* db_ = nullptr;
  std::map<std::string, Rows> rows_;
};

void expect_contents(Process& p, const Tables& tables) {
  const auto found = read_all(*p.db);
  ASSERT_TRUE(found.has_value()) << found.error().message();
  const auto wrong = difference(*found, tables);
  EXPECT_FALSE(wrong.has_value()) << *wrong;
  const auto damage = first_damage(*p.db);
  EXPECT_FALSE(damage.has_value()) << *damage;
}

TEST(EngineRecovery, EndsWithTheSameContentsWhateverTheWindow) {
  const std::uint64_t seed = number_from("KESSAI_SEED", 1);
  std::printf("KESSAI_SEED=%llu\n", static_cast<unsigned long long>(seed));
  Workload w(seed);
  EXPECT_GT(w.removed, 100u);
  EXPECT_GT(w.long_values, 50u);
  EXPECT_GT(w.created, 2u);
  EXPECT_GT(w.dropped, 2u);
  EXPECT_GT(w.large, 3u);
  for (const std::uint64_t window : {0, 1, 700, 30'000}) {
    for (const std::uint64_t frames : {64, 2000}) {
      SCOPED_TRACE("window " + std::to_string(window) + ", frames " + std::to_string(frames));
      io::SimDisk disk = w.disk;
      {
        Process p(disk);
        p.options.memory = frames * 4096;
        p.options.wal_limit = 256 << 20;
        p.set_recovery_window(window);
        const auto opened = p.open();
        ASSERT_TRUE(opened.has_value()) << opened.error().message();
        expect_contents(p, w.tables);
      }
      // Killed before any checkpoint: the same log again, with what the first recovery left.
      Process p(disk);
      p.options.memory = frames * 4096;
      p.options.wal_limit = 256 << 20;
      p.set_recovery_window(window == 0 ? 2000 : 0);
      ASSERT_TRUE(p.open().has_value());
      expect_contents(p, w.tables);
      ASSERT_TRUE(p.close().has_value());
    }
  }
}

TEST(EngineRecovery, ReadsTheLogInMemoryWhenOpenedForReading) {
  Workload w(number_from("KESSAI_SEED", 2));
  const std::uint64_t before = w.disk.image_hash();
  for (const std::uint64_t window : {0, 700}) {
    Process p(w.disk);
    p.options.read_only = true;
    p.set_recovery_window(window);
    ASSERT_TRUE(p.open().has_value());
    expect_contents(p, w.tables);
  }
  EXPECT_EQ(w.disk.image_hash(), before);
}

TEST(EngineRecovery, TwoThreadsEndWithTheSameContents) {
  io::SimDisk disk{3};
  Rows rows;
  {
    Process p(disk);
    p.options.create = true;
    p.options.memory = 4000 * 4096;
    p.options.wal_limit = 64 << 20;
    ASSERT_TRUE(p.open().has_value());
    const Tree main = p.db->tree("main").value();
    io::SeededRandom random(9);
    const auto fill = [&](int commits, char c) {
      for (int n = 0; n < commits; ++n) {
        auto txn = p.db->begin({.durability = Durability::relaxed}).value();
        for (int i = 0; i < 20; ++i) {
          const std::string k = std::to_string(random.next() % 30'000);
          const std::string v(i == 0 && n % 10 == 0 ? 3000 : random.below(100), c);
          ASSERT_TRUE(txn.put(main, k, v).has_value());
          rows[k] = v;
        }
        ASSERT_TRUE(txn.commit().has_value());
      }
    };
    fill(500, 'a');
    ASSERT_TRUE(p.db->checkpoint().has_value());
    fill(700, 'b');
    ASSERT_TRUE(p.db->wait_durable(p.db->stats().applied_lsn).has_value());
  }
  for (const std::uint64_t frames : {256, 3000}) {
    io::SimDisk again = disk;
    Process p(again);
    p.options.memory = frames * 4096;
    p.options.wal_limit = 64 << 20;
    p.set_recovery_window(16 << 20);
    p.set_background(true);
    const auto opened = p.open();
    ASSERT_TRUE(opened.has_value()) << opened.error().message();
    EXPECT_FALSE(p.db->info().clean);
    expect_contents(p, {{"main", std::make_shared<Rows>(rows)}});
    ASSERT_TRUE(p.close().has_value());
  }
}

TEST(EngineRecovery, TellsItsProgressInLogBytes) {
  Workload w(3);
  Process p(w.disk);
  p.set_recovery_window(20'000);
  std::uint64_t last = 0, total = 0, calls = 0;
  p.options.progress = [&](const Progress& now) {
    EXPECT_EQ(now.phase, "recover");
    EXPECT_GE(now.done, last);
    EXPECT_TRUE(total == 0 || now.total == total);
    last = now.done;
    total = now.total;
    ++calls;
  };
  ASSERT_TRUE(p.open().has_value());
  EXPECT_GT(total, 500'000u);
  EXPECT_EQ(last, total);
  EXPECT_GT(calls, 10u);
  EXPECT_LT(calls, 300u);
}

}  // namespace
}  // namespace kessai::test
