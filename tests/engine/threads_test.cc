// SPDX-License-Identifier: Apache-2.0
// Goal: what one thread is promised holds with many: transactions are atomic for every reader, one
// inserter wins, answers are durable, trees and the database may go away under their users, and
// every counter returns to zero. In the S2PL build readers are transactions like others: what loses
// a deadlock is done again. Method: real threads with bounded work on a real directory and on
// the simulated disk, engine threads on, small memory and log so that evictions and checkpoints run
// beside. Values name their tree, key and version, so a wrong row cannot pass. Built for TSan.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "io/sync.hpp"
#include "kessai/kessai.hpp"
#include "tests/engine/mode.hpp"
#include "tests/engine/model_seed.hpp"
#include "tests/io/temp_dir.hpp"

namespace kessai {
namespace {

using engine_test::despite_deadlocks;
using engine_test::lost_a_deadlock;
using engine_test::s2pl;

enum class Where : std::uint8_t { disk, simulated };

constexpr unsigned kPatience = 3'000'000;  // yields; reached only when something hangs

/// A store that outlives its databases.
class Place {
 public:
  explicit Place(Where where) {
    options.create = true;
    options.memory = 4_MiB;
    options.wal_limit = 8_MiB;
    options.lock_timeout = std::chrono::milliseconds(60'000);
    if (where == Where::disk) {
      directory_.emplace();
      path_ = directory_->path() + "/store";
    } else {
      disk_.emplace(7);
      attached_ = disk_->attach();
      env_.directory = attached_.get();
      options.env = &env_;
    }
  }
  [[nodiscard]] Database open() {
    auto db = Database::open(path_, options);
    if (!db) ADD_FAILURE() << db.error().message();
    return std::move(db).value();
  }
  Options options;

 private:
  std::optional<io::test::TempDir> directory_;
  std::optional<io::SimDisk> disk_;
  std::unique_ptr<io::Directory> attached_;
  io::Env env_;
  std::string path_;
};

class Threads : public testing::TestWithParam<Where> {
 protected:
  Threads() : place(GetParam()) {}
  Place place;
  const std::uint64_t seed = engine_test::seed();
  testing::ScopedTrace trace{__FILE__, __LINE__, "KESSAI_SEED=" + std::to_string(seed)};
};

// A checkpoint on its way to the disk holds slots that no map has yet; they are no damage.
TEST_P(Threads, ACheckBesideCheckpointsFindsNothing) {
  Database db = place.open();
  const Tree tree = *db.tree("t", {.create = true});
  std::atomic<bool> done{false};
  io::Thread checkpoints("checkpoints", [&] {
    for (unsigned i = 0; !done; ++i) {
      EXPECT_TRUE(db.put(tree, std::to_string(i % 100), std::to_string(i), Durability::relaxed));
      EXPECT_TRUE(db.checkpoint());
    }
  });
  for (int i = 0; i < 300; ++i) {
    const auto report = db.check();
    EXPECT_TRUE(report && report->ok)
        << (report ? report->damage.front().what : report.error().message());
  }
  done = true;
}

INSTANTIATE_TEST_SUITE_P(, Threads, testing::Values(Where::disk, Where::simulated),
                         [](const auto& p) {
                           return p.param == Where::disk ? "Disk" : "Simulated";
                         });

/// Runs `body(thread number, random)` on `n` threads; the destructor joins.
class Crew {
 public:
  explicit Crew(std::uint64_t seed) : seed_(seed) {}
  template <class Body>
  void start(unsigned n, Body body) {
    for (unsigned i = 0; i < n; ++i) {
      const std::uint64_t seed = seed_ * 1000 + threads_.size();
      threads_.emplace_back("crew", [body, i, seed] {
        io::SeededRandom random(seed);
        body(i, random);
      });
    }
  }
  void join() { threads_.clear(); }

 private:
  std::uint64_t seed_;
  std::vector<io::Thread> threads_;
};

template <class T>
Result<void> status(const Result<T>& r) {
  return r ? Result<void>() : std::unexpected(r.error());
}

std::string key(std::uint64_t i) {
  char s[24];
  std::snprintf(s, sizeof s, "key%06llu", static_cast<unsigned long long>(i));
  return s;
}

/// "<key>=<version>;xxxx", `bytes` long or a little more.
std::string row(std::string_view k, std::uint64_t version, std::size_t bytes = 0) {
  std::string s = std::string(k) + "=" + std::to_string(version) + ";";
  if (s.size() < bytes) s.append(bytes - s.size(), static_cast<char>('a' + version % 26));
  return s;
}

/// The version in a row of `k`; fails the test when the row is another's or torn.
std::uint64_t version_in(std::string_view k, std::string_view value) {
  std::uint64_t v = 0;
  const bool named = value.starts_with(k) && value.size() > k.size() && value[k.size()] == '=';
  if (named) v = std::strtoull(std::string(value.substr(k.size() + 1, 20)).c_str(), nullptr, 10);
  EXPECT_TRUE(named && value == row(k, v, value.size())) << k << " -> " << value.substr(0, 60);
  return v;
}

/// A failed thread counts nothing down: nobody waits for it.
bool under_way(const std::atomic<unsigned>& threads) {
  return threads.load() != 0 && !testing::Test::HasFailure();
}

/// Everything that belongs to running transactions is gone, and undo soon is.
void expect_quiet(Database& db) {
  ASSERT_TRUE(db.wait_durable(db.stats().applied_lsn).has_value());
  unsigned n = 0;
  while (db.stats().undo_entries != 0 && ++n < kPatience) io::yield_thread();
  const Stats s = db.stats();
  EXPECT_EQ(s.locks_held, 0u);
  EXPECT_EQ(s.active_transactions, 0u);
  EXPECT_EQ(s.undo_entries, 0u);
  EXPECT_EQ(s.oldest_snapshot, 0u);
  EXPECT_EQ(s.lock_timeouts, 0u);
  EXPECT_FALSE(s.poisoned);
}

void expect_sound(Database& db) {
  const auto report = db.check();
  ASSERT_TRUE(report.has_value()) << report.error().message();
  for (const auto& d : report->damage) ADD_FAILURE() << d.page << " " << d.what;
}

// ---- transfers
// -----------------------------------------------------------------------------------

constexpr unsigned kAccounts = 6;
constexpr long kStart = 1000;

/// Nothing: lost a deadlock.
std::optional<long> total_by_scan(const Database& db, Cursor c) {
  long sum = 0;
  unsigned rows = 0;
  for (; c.next(); ++rows) sum += std::stol(std::string(c.value()));
  if (!c.status() && lost_a_deadlock(db, c.status().error())) return std::nullopt;
  EXPECT_TRUE(c.status().has_value()) << c.status().error().message();
  EXPECT_EQ(rows, kAccounts);
  return sum;
}

std::optional<long> try_total(Database& db, const Tree& t, std::uint64_t way) {
  if (way % 5 == 4) return total_by_scan(db, db.scan(t, {}));
  auto txn = way % 2 == 0 ? db.begin() : db.read_only();
  std::optional<long> sum = 0;
  if (way % 5 < 2) {
    Range all;
    all.reverse = way % 5 == 1;
    sum = total_by_scan(db, txn->scan(t, all));
  } else {
    for (unsigned i = 0; i < kAccounts; ++i) {
      const auto account = txn->get(t, key(i));
      if (!account && lost_a_deadlock(db, account.error())) return std::nullopt;
      *sum += std::stol(account.value());
    }
  }
  if (sum) {
    EXPECT_TRUE(txn->commit().has_value());
  }
  return sum;
}

long total(Database& db, const Tree& t, std::uint64_t way) {
  for (;;)
    if (const auto sum = try_total(db, t, way)) return *sum;
}

TEST_P(Threads, EveryReaderSeesWholeTransfers) {
  constexpr unsigned kWriters = 3, kTransfers = 120;
  Database db = place.open();
  const Tree t = db.tree("main").value();
  for (unsigned i = 0; i < kAccounts; ++i)
    ASSERT_TRUE(db.put(t, key(i), std::to_string(kStart), Durability::relaxed).has_value());
  ASSERT_TRUE(db.checkpoint().has_value());
  std::atomic<unsigned> writing{kWriters};
  std::atomic<unsigned> done{0};
  Crew crew(seed);
  crew.start(kWriters, [&](unsigned, io::SeededRandom& random) {
    for (unsigned i = 0; i < kTransfers;) {
      const auto a = random.below(kAccounts), b = random.below(kAccounts);
      if (a == b) continue;
      const long amount = static_cast<long>(random.below(50));
      BeginOptions o;
      o.durability = random.below(8) == 0 ? Durability::durable : Durability::relaxed;
      auto txn = db.begin(o).value();
      const auto move = [&](std::uint64_t account, long by) {
        const auto balance = txn.get(t, key(account));
        if (!balance && lost_a_deadlock(db, balance.error())) return status(balance);
        const long now = std::stol(balance.value());
        io::yield_thread();  // let others in between
        return txn.put(t, key(account), std::to_string(now + by));
      };
      auto ok = move(std::min(a, b), a < b ? -amount : amount);
      if (ok) ok = move(std::max(a, b), a < b ? amount : -amount);
      if (ok && random.below(10) == 0) {
        ASSERT_TRUE(txn.rollback().has_value());
        continue;
      }
      if (ok) {
        ASSERT_TRUE(txn.commit().has_value());
        ++i;
        done.fetch_add(1);
      } else {
        // S2PL: two that have read want to write.
        ASSERT_EQ(ok.error(), s2pl(db) ? Code::deadlock : Code::write_conflict)
            << ok.error().message();
        ASSERT_TRUE(ok.error().retryable());
        ASSERT_FALSE(txn.active());
      }
    }
    writing.fetch_sub(1);
  });
  crew.start(2, [&](unsigned n, io::SeededRandom&) {
    for (std::uint64_t i = n; under_way(writing) || i < 20; ++i) {
      ASSERT_EQ(total(db, t, i), kStart * kAccounts) << "way " << i % 5;
      io::yield_thread();
    }
  });
  crew.join();
  EXPECT_EQ(done.load(), kWriters * kTransfers);
  EXPECT_EQ(total(db, t, 0), kStart * kAccounts);
  expect_quiet(db);
  ASSERT_TRUE(db.close().has_value());
  Database again = place.open();
  EXPECT_EQ(total(again, again.tree("main").value(), 1), kStart * kAccounts);
  expect_sound(again);
}

// ---- one winner
// ----------------------------------------------------------------------------------

TEST_P(Threads, OneInserterWinsAndLosersGetItsDurableRow) {
  constexpr unsigned kThreads = 4, kRounds = 60;
  Database db = place.open();
  const Tree t = db.tree("main").value();
  std::array<std::atomic<unsigned>, kRounds> arrived{}, won{};
  Crew crew(seed);
  crew.start(kThreads, [&](unsigned n, io::SeededRandom& random) {
    for (unsigned r = 0; r < kRounds; ++r) {
      const std::string k = key(r), mine = row(k, n + 1, 40);
      BeginOptions o;
      o.durability = Durability::relaxed;  // so that "durable" is the losers' own doing
      arrived[r].fetch_add(1);
      while (arrived[r].load() != kThreads && !HasFailure()) io::yield_thread();
      std::string existing;
      Result<void> ok;
      const bool single = random.below(3) == 0;
      if (single) {
        ok = status(db.insert(t, k, mine, Durability::relaxed));
      } else {
        auto txn = db.begin(o).value();
        ok = txn.insert(t, k, mine, &existing);
        if (ok && random.below(4) == 0 && won[r].load() == 0) {
          ASSERT_TRUE(txn.rollback().has_value());  // the lock passes on, the key stays free
          ok = status(db.insert(t, k, mine));
        } else if (ok) {
          ASSERT_TRUE(txn.commit().has_value());
        }
      }
      if (ok) {
        won[r].fetch_add(1);
        continue;
      }
      ASSERT_EQ(ok.error(), Code::key_exists) << ok.error().message();
      ASSERT_GE(db.stats().durable_lsn, ok.error().detail().lsn);
      // MVCC reads at the durable watermark: the row that the loser was told of is there already.
      const auto durable = db.get(t, k);
      ASSERT_TRUE(durable.has_value()) << r;
      ASSERT_NE(*durable, mine);
      (void)version_in(k, *durable);
      ASSERT_TRUE(existing.empty() || existing == *durable);
    }
  });
  crew.join();
  for (unsigned r = 0; r < kRounds; ++r) EXPECT_EQ(won[r].load(), 1u) << r;
  expect_quiet(db);
  expect_sound(db);
}

// ---- tickets
// -------------------------------------------------------------------------------------

TEST_P(Threads, TicketsAnswerByPollWaitAndCallback) {
  constexpr unsigned kThreads = 4, kCommits = 60;
  Database db = place.open();
  const Tree t = db.tree("main").value();
  std::atomic<unsigned> called{0}, expected{0};
  Crew crew(seed);
  crew.start(kThreads, [&](unsigned n, io::SeededRandom& random) {
    Lsn last = 0;
    for (unsigned i = 0; i < kCommits; ++i) {
      const std::string k = key(n * 1000 + i);
      auto txn = db.begin().value();
      ASSERT_TRUE(txn.put(t, k, row(k, i)).has_value());
      const CommitTicket ticket = txn.commit_async().value();
      ASSERT_GT(ticket.lsn(), last);
      last = ticket.lsn();
      // Visible at once to later read-write snapshots, whoever takes them.
      ASSERT_TRUE(db.begin().value().get(t, k).has_value());
      switch (random.below(4)) {
        case 0:
          while (!ticket.ready()) io::yield_thread();
          break;
        case 1:
          ASSERT_TRUE(ticket.wait().has_value());
          break;
        case 2:
          expected.fetch_add(1);
          ticket.on_durable(
              [&called](Result<void> r) { called.fetch_add(r.has_value() ? 1 : 1000); });
          continue;
        default:
          continue;  // forgotten: durable all the same
      }
      ASSERT_TRUE(ticket.ready());
      ASSERT_TRUE(ticket.wait().has_value());
      ASSERT_EQ(version_in(k, db.get(t, k).value()), i);  // reads what is durable
    }
  });
  crew.join();
  ASSERT_TRUE(db.wait_durable(db.stats().applied_lsn).has_value());
  for (unsigned n = 0; called.load() != expected.load() && n < kPatience; ++n) io::yield_thread();
  EXPECT_EQ(called.load(), expected.load());
  EXPECT_EQ(db.tree_info(t).value().records, kThreads * kCommits);
  expect_quiet(db);
}

// ---- readers beside everything
// ---------------------------------------------------------------------

TEST_P(Threads, ReadersBesideWritersEvictionsAndCheckpoints) {
  constexpr unsigned kWriters = 2, kKeys = 600, kChanges = 1000;
  place.options.memory = 1_MiB;
  place.options.wal_limit = 1_MiB;
  Database db = place.open();
  const Tree t = db.tree("main").value();
  std::array<std::map<std::string, std::string>, kWriters> truth;
  std::atomic<unsigned> writing{kWriters};
  Crew crew(seed);
  crew.start(kWriters, [&](unsigned n, io::SeededRandom& random) {
    auto& mine = truth[n];  // keys n, n + kWriters, ...: nobody else's
    for (unsigned i = 1; i <= kChanges; ++i) {
      const std::string k = key(random.below(kKeys / kWriters) * kWriters + n);
      const auto durability = i % 40 == 0 ? Durability::durable : Durability::relaxed;
      const bool there = mine.contains(k);
      if (there && random.below(4) == 0) {
        const auto gone = despite_deadlocks(db, [&] { return db.remove(t, k, durability); });
        ASSERT_TRUE(gone.has_value()) << gone.error().message();
        mine.erase(k);
        continue;
      }
      const std::string value = row(k, i, random.below(30) == 0 ? 9000 : random.below(2500));
      const auto ok = despite_deadlocks(db, [&] {
        return there ? db.put(t, k, value, durability) : db.insert(t, k, value, durability);
      });
      ASSERT_TRUE(ok.has_value()) << ok.error().message();
      mine[k] = value;
    }
    writing.fetch_sub(1);
  });
  crew.start(2, [&](unsigned, io::SeededRandom& random) {
    std::map<std::string, std::uint64_t> newest;  // what is durable never goes back
    const auto saw = [&](const std::string& k, std::string_view value) {
      const auto v = version_in(k, value);
      ASSERT_GE(v, newest[k]) << k;
      newest[k] = v;
    };
    std::string value;
    for (unsigned i = 0; under_way(writing) || i < 50; ++i) {
      const std::string k = key(random.below(kKeys));
      if (db.get(t, k, value)) saw(k, value);
      std::vector<std::string> keys;
      for (unsigned j = 0; j < 70; ++j) keys.push_back(key(random.below(kKeys)));
      std::vector<std::string_view> views(keys.begin(), keys.end());
      std::vector<Lookup> out(views.size());
      const auto many = db.multi_get(t, views, out);
      if (!many && lost_a_deadlock(db, many.error())) continue;
      ASSERT_TRUE(many.has_value()) << many.error().message();
      for (unsigned j = 0; j < out.size(); ++j) {
        if (out[j].found) {
          saw(keys[j], out[j].value);
        } else {
          ASSERT_EQ(out[j].code, Code::not_found);
        }
      }
      Range range;
      range.from = k;
      range.to = key(random.below(kKeys));
      range.reverse = random.below(2) == 0;
      std::string last;
      auto c = db.scan(t, range);
      while (c.next()) {
        ASSERT_TRUE(last.empty() || (range.reverse ? c.key() < last : last < c.key()));
        last = c.key();
        ASSERT_TRUE(last >= range.from && last < *range.to);
        saw(last, c.value());
      }
      ASSERT_TRUE(c.status() || lost_a_deadlock(db, c.status().error()))
          << c.status().error().message();
    }
  });
  crew.start(1, [&](unsigned, io::SeededRandom&) {
    for (unsigned i = 0; under_way(writing); ++i) {
      ASSERT_FALSE(db.stats().poisoned);
      ASSERT_GE(db.info().durable_lsn, db.info().last_checkpoint_lsn);
      ASSERT_TRUE(i % 16 != 0 || db.checkpoint().has_value());
      if (i % 64 == 0) expect_sound(db);
      io::yield_thread();
    }
  });
  crew.join();
  expect_quiet(db);
  const Stats s = db.stats();
  EXPECT_GT(s.pages_evicted, 0u);
  EXPECT_GT(s.checkpoints, 2u);
  std::map<std::string, std::string> all;
  for (auto& part : truth) all.merge(part);
  const auto compare = [&](Database& with) {
    std::map<std::string, std::string> stored;
    for (auto c = with.scan(with.tree("main").value(), {}); c.next();)
      stored.emplace(c.key(), c.value());
    EXPECT_TRUE(stored == all) << stored.size() << " rows, not " << all.size();
    expect_sound(with);
  };
  compare(db);
  ASSERT_TRUE(db.close().has_value());
  Database again = place.open();
  compare(again);
}

// Before-images are needed all the time (relaxed commits run ahead of what is durable) and are
// collected under pressure, between the snapshots and by killing the oldest: a row that always
// exists is found by every one-call read.
TEST_P(Threads, TinyUndoMemoryKillsOldSnapshotsButLosesNoRow) {
  constexpr unsigned kHot = 8, kKeys = 500, kUpdates = 1500;
  place.options.undo_memory = 256_KiB;
  Database db = place.open();
  const Tree t = db.tree("main").value();
  for (unsigned i = 0; i < kKeys; ++i)
    ASSERT_TRUE(db.put(t, key(i), row(key(i), 0, 1800), Durability::relaxed).has_value());
  ASSERT_TRUE(db.checkpoint().has_value());
  std::atomic<unsigned> writing{2}, too_old{0};
  Crew crew(seed);
  crew.start(2, [&](unsigned, io::SeededRandom& random) {
    for (unsigned i = 1; i <= kUpdates; ++i) {
      const std::string k = key(random.below(random.below(2) == 0 ? kHot : kKeys));
      const auto how = i % 100 == 0 ? Durability::durable : Durability::relaxed;
      const auto ok = db.put(t, k, row(k, i, 1800), how);
      ASSERT_TRUE(ok.has_value()) << ok.error().message();
    }
    writing.fetch_sub(1);
  });
  crew.start(2, [&](unsigned, io::SeededRandom& random) {
    for (unsigned i = 0; under_way(writing) || i < 100; ++i) {
      const std::string k = key(random.below(kHot));
      const auto value = db.get(t, k);
      ASSERT_TRUE(value.has_value()) << k << ": " << value.error().message();
      (void)version_in(k, *value);
      const std::string_view one[] = {k};
      Lookup out[1];
      ASSERT_TRUE(db.multi_get(t, one, out).has_value());
      ASSERT_TRUE(out[0].found) << k;
    }
  });
  const auto old_snapshots = [&](unsigned, io::SeededRandom&) {
    while (under_way(writing)) {
      auto old = db.begin().value();
      std::string first;
      for (bool alive = true; alive && under_way(writing); io::yield_thread()) {
        const auto again = old.get(t, key(0));
        if (first.empty() && again) first = *again;
        alive = again.has_value();
        ASSERT_TRUE(alive ? *again == first
                          : again.error() == Code::snapshot_too_old && again.error().retryable());
      }
      if (under_way(writing)) too_old.fetch_add(1);
      ASSERT_TRUE(old.rollback().has_value());
    }
  };
  // S2PL keeps no before-images: who reads a row again holds up its writers.
  const auto readers_again = [&](unsigned, io::SeededRandom&) {
    while (under_way(writing)) {
      auto reader = db.begin().value();
      const auto first = reader.get(t, key(0));
      ASSERT_TRUE(first.has_value()) << first.error().message();
      for (unsigned i = 0; i < 20; ++i, io::yield_thread())
        ASSERT_EQ(reader.get(t, key(0)).value(), *first);
      ASSERT_TRUE(reader.rollback().has_value());
    }
  };
  const bool snapshots = !s2pl(db);
  if (snapshots) {
    crew.start(1, old_snapshots);
  } else {
    crew.start(1, readers_again);
  }
  crew.join();
  EXPECT_EQ(too_old.load() > 0, snapshots);
  EXPECT_EQ(db.undo().pushed > 0, snapshots);
  EXPECT_EQ(db.stats().write_conflicts, 0u);  // single puts never conflict, they queue
  expect_quiet(db);
}

// ---- own commits
// ---------------------------------------------------------------------------------

TEST_P(Threads, ReturnedCommitsAreSeenByEveryThread) {
  constexpr unsigned kThreads = 4, kRounds = 60;
  Database db = place.open();
  const Tree t = db.tree("main").value();
  struct Seen {
    std::atomic<std::uint64_t> durable{0}, visible{0};
  };
  std::array<Seen, kThreads> published;
  Crew crew(seed);
  crew.start(kThreads, [&](unsigned n, io::SeededRandom& random) {
    const auto newest = [&](auto&& reader, unsigned who) {
      const auto value = reader.get(t, key(who));
      return value ? version_in(key(who), *value) : 0;
    };
    for (std::uint64_t v = 1; v <= kRounds; ++v) {
      const bool relaxed = random.below(2) == 0;
      const auto how = relaxed ? Durability::relaxed : Durability::durable;
      if (random.below(2) == 0) {
        ASSERT_TRUE(db.put(t, key(n), row(key(n), v), how).has_value());
      } else {
        BeginOptions o;
        o.durability = how;
        auto txn = db.begin(o).value();
        ASSERT_TRUE(txn.put(t, key(n), row(key(n), v)).has_value());
        ASSERT_TRUE(txn.commit().has_value());
      }
      published[n].visible.store(v);
      if (!relaxed) published[n].durable.store(v);
      for (unsigned who = 0; who < kThreads; ++who) {
        const auto visible = published[who].visible.load(), durable = published[who].durable.load();
        ASSERT_GE(newest(db.begin().value(), who), visible);
        ASSERT_GE(newest(db, who), durable);
        ASSERT_GE(newest(db.read_only().value(), who), durable);
      }
    }
  });
  crew.join();
  expect_quiet(db);
}

// ---- things that go away
// ---------------------------------------------------------------------------

TEST_P(Threads, TreesComeAndGoUnderTheirUsers) {
  constexpr unsigned kNames = 3, kDrops = 25;
  place.options.memory = 1_MiB;
  Database db = place.open();
  std::atomic<bool> dropping{true};
  const auto name = [](std::uint64_t i) { return "tree" + std::to_string(i); };
  // Rows name the tree they are in, by its id, which is never reused.
  const auto label = [](const Tree& t, std::uint64_t i) {
    return std::to_string(t.id()) + "/" + key(i);
  };
  const auto gone = [](const Error& e) { return e == Code::tree_not_found; };
  Crew crew(seed);
  crew.start(1, [&](unsigned, io::SeededRandom& random) {
    std::uint32_t last = 0;
    for (unsigned i = 0; i < kDrops; ++i) {
      const auto n = name(random.below(kNames));
      const Tree t = db.tree(n, {.create = true}).value();
      for (unsigned j = 0; j < 30; ++j)
        ASSERT_TRUE(db.put(t, key(j), row(label(t, j), 1, 300), Durability::relaxed).has_value());
      ASSERT_TRUE(db.drop_tree(n).has_value());
      ASSERT_EQ(db.get(t, key(0)).error(), Code::tree_not_found);
      // Another thread may have created the name anew.
      const auto again = db.drop_tree(n);
      ASSERT_TRUE(again || again.error() == Code::tree_not_found) << again.error().message();
      const Tree next = db.tree(n, {.create = true}).value();
      ASSERT_GT(next.id(), std::max(t.id(), last));
      last = next.id();
    }
    dropping = false;
  });
  crew.start(3, [&](unsigned, io::SeededRandom& random) {
    std::vector<Tree> held;  // also handles of trees long gone
    while (dropping.load() && !HasFailure()) {
      if (const auto t = db.tree(name(random.below(kNames)), {.create = random.below(4) == 0})) {
        held.push_back(*t);
      } else {
        ASSERT_EQ(t.error(), Code::tree_not_found);
      }
      if (held.size() > 6) held.erase(held.begin());
      if (held.empty()) continue;
      const Tree& t = held[random.below(held.size())];
      const auto i = random.below(60);
      const auto put = db.put(t, key(i), row(label(t, i), 2, random.below(20) == 0 ? 9000 : 300),
                              Durability::relaxed);
      ASSERT_TRUE(put || gone(put.error())) << put.error().message();
      std::string value, existing;
      const auto got = db.get(t, key(i), value);
      if (got) (void)version_in(label(t, i), value);
      ASSERT_TRUE(got || gone(got.error()) || got.error() == Code::not_found)
          << got.error().message();
      auto txn = db.begin().value();
      const auto inserted = txn.insert(t, key(i), row(label(t, i), 3), &existing);
      if (!inserted && inserted.error() == Code::key_exists)
        (void)version_in(label(t, i), existing);
      ASSERT_TRUE(inserted || gone(inserted.error()) || inserted.error() == Code::key_exists ||
                  inserted.error() == Code::write_conflict)
          << inserted.error().message();
      ASSERT_TRUE(txn.rollback().has_value());
      auto snapshot = db.read_only().value();
      auto c = snapshot.scan(t, {});
      while (c.next()) {
        const auto number = std::strtoull(std::string(c.key().substr(3)).c_str(), nullptr, 10);
        (void)version_in(label(t, number), c.value());
      }
      ASSERT_TRUE(c.status() || gone(c.status().error()) || lost_a_deadlock(db, c.status().error()))
          << c.status().error().message();
      // A writer that waits for what this thread has scanned, and this thread for it: nobody could
      // go on.
      if (s2pl(db)) {
        ASSERT_TRUE(snapshot.rollback() || !snapshot.active());
      }
      const std::string_view keys[] = {"key000001", "key000002"};
      Lookup out[2];
      const auto many = db.multi_get(t, keys, out);
      ASSERT_TRUE(many || gone(many.error())) << many.error().message();
      for (const auto& o : out)
        ASSERT_TRUE(!many || o.found || o.code == Code::not_found) << code_name(o.code);
      if (out[0].found && many) (void)version_in(label(t, 1), out[0].value);
    }
  });
  crew.join();
  expect_quiet(db);
  expect_sound(db);
  ASSERT_TRUE(db.close().has_value());
  Database again = place.open();
  expect_sound(again);
}

TEST_P(Threads, ClosingUnderWorkingThreadsKeepsWhatWasAnswered) {
  constexpr unsigned kThreads = 3;
  place.options.wal_limit = 1_MiB;
  for (unsigned round = 0; round < 4; ++round) {
    Database db = place.open();
    const Tree t = db.tree("main").value();
    std::array<std::vector<std::string>, kThreads> kept, refused;
    std::atomic<unsigned> commits{0};
    Crew crew(seed + round);
    crew.start(kThreads, [&](unsigned n, io::SeededRandom& random) {
      for (unsigned i = 0;; ++i) {
        const std::string k =
            std::to_string(round) + "-" + std::to_string(n) + "-" + std::to_string(i);
        Result<void> done;
        auto txn = db.begin();
        if (i % 3 == 0) {
          const auto how = i % 2 == 0 ? Durability::relaxed : Durability::durable;
          done = status(db.put(t, k, row(k, i, random.below(2000)), how));
        } else if (!txn) {
          done = status(txn);
        } else if (done = txn->put(t, k, row(k, i)); done && i % 3 == 1) {
          done = status(txn->commit());
        } else if (done) {
          const auto ticket = txn->commit_async();
          done = status(ticket);
          // Closing makes it durable: whether before or after, waiting says so.
          ASSERT_TRUE(!ticket || ticket->wait().has_value());
        }
        if (!done) {
          ASSERT_EQ(done.error(), Code::closed_handle) << done.error().message();
          refused[n].push_back(k);
          break;
        }
        kept[n].push_back(k);
        commits.fetch_add(1);
        auto c = db.scan(t, Range::prefix(k));
        while (c.next()) (void)version_in(k, c.value());
        ASSERT_TRUE(c.status() || c.status().error() == Code::closed_handle);
      }
    });
    while (commits.load() < 20 + 30 * round && !HasFailure()) io::yield_thread();
    auto open = db.begin().value();
    ASSERT_TRUE(open.put(t, "never" + std::to_string(round), "x").has_value());
    auto cursor = db.scan(t, {});
    ASSERT_TRUE(db.close().has_value());
    crew.join();
    EXPECT_EQ(open.get(t, "k").error(), Code::closed_handle);
    EXPECT_EQ(open.commit().error(), Code::closed_handle);
    EXPECT_FALSE(cursor.next());
    EXPECT_EQ(cursor.status().error(), Code::closed_handle);
    EXPECT_EQ(db.begin().error(), Code::closed_handle);
    EXPECT_TRUE(db.close().has_value());
    Database again = place.open();
    const Tree after = again.tree("main").value();
    EXPECT_TRUE(again.info().clean);
    for (const auto& keys : kept)
      for (const auto& k : keys) ASSERT_TRUE(again.get(after, k).has_value()) << k;
    for (const auto& keys : refused)
      for (const auto& k : keys) ASSERT_EQ(again.get(after, k).error(), Code::not_found) << k;
    EXPECT_EQ(again.get(after, "never" + std::to_string(round)).error(), Code::not_found);
    EXPECT_EQ(again.get(t, "x").error(), Code::wrong_database);
  }
}

// ---- several databases
// ---------------------------------------------------------------------------

TEST_P(Threads, TwoDatabasesInOneProcessDoNotMeet) {
  constexpr unsigned kRounds = 40;
  Place other(GetParam());
  Database a = place.open(), b = other.open();
  const Tree ta = a.tree("main").value(), tb = b.tree("main").value();
  Crew crew(seed);
  crew.start(2, [&](unsigned n, io::SeededRandom&) {
    Database& mine = n == 0 ? a : b;
    const Tree& tree = n == 0 ? ta : tb;
    for (unsigned i = 0; i < kRounds; ++i) {
      ASSERT_TRUE(mine.put(tree, key(i), row(key(i), n)).has_value());
      ASSERT_EQ(mine.put(n == 0 ? tb : ta, key(i), "x").error(), Code::wrong_database);
      auto txn = mine.begin().value();
      ASSERT_EQ(txn.get(n == 0 ? tb : ta, key(i)).error(), Code::wrong_database);
      ASSERT_EQ(version_in(key(i), txn.get(tree, key(i)).value()), n);
    }
  });
  crew.join();
  ASSERT_TRUE(a.close().has_value());
  EXPECT_EQ(version_in(key(0), b.get(tb, key(0)).value()), 1u);
  EXPECT_NE(b.info().store_id, "");
  EXPECT_EQ(a.info().store_id, "");
  expect_quiet(b);
}

TEST_P(Threads, OpeningAndClosingAgainAndAgain) {
  constexpr unsigned kRounds = 12;
  for (unsigned i = 0; i < kRounds; ++i) {
    Database db = place.open();
    const Tree t = db.tree("main").value();
    for (unsigned j = 0; j < i; ++j) ASSERT_EQ(version_in(key(j), db.get(t, key(j)).value()), j);
    ASSERT_TRUE(
        db.put(t, key(i), row(key(i), i), i % 2 == 0 ? Durability::durable : Durability::relaxed)
            .has_value());
    ASSERT_TRUE(i % 3 != 0 || db.close().has_value());  // else the destructor closes
  }
}

}  // namespace
}  // namespace kessai
