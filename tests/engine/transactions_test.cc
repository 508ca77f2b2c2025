// SPDX-License-Identifier: Apache-2.0
// Goal: levels, locks, savepoints, locking reads, hooks, limits: what the docstrings of Transaction
// promise, in both concurrency builds. Method: the simulated disk, a virtual clock, no engine
// threads; where somebody has to wait, a second thread that is known to wait because the lock views
// say so.
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

#include "io/sync.hpp"
#include "kessai/kessai.hpp"
#include "tests/engine/sim_store.hpp"

namespace kessai {
namespace {

using namespace std::chrono_literals;

class Transactions : public testing::Test, protected engine_test::SimStore {
 protected:
  Transactions() {
    options.lock_timeout = 60'000ms;
    open();
  }
  [[nodiscard]] bool s2pl() const { return db->info().mode == "s2pl"; }
  [[nodiscard]] Transaction begin(Isolation level) {
    BeginOptions o;
    o.isolation = level;
    return db->begin(o).value();
  }
  [[nodiscard]] std::string value(std::string_view key) {
    auto v = db->get(main, key);
    return v ? *v : "(" + std::string(code_name(v.error().code())) + ")";
  }
  void put(std::string_view key, std::string_view v) {
    ASSERT_TRUE(db->put(main, key, v).has_value());
  }
  /// Waits until `n` transactions stand in lock queues.
  void await_waiters(std::size_t n) {
    for (;;) {
      std::size_t waiting = 0;
      for (const auto& l : db->locks()) waiting += l.waiters.size();
      if (waiting >= n) return;
      io::yield_thread();
    }
  }
  void expect_quiet() {
    const Stats s = db->stats();
    EXPECT_EQ(s.active_transactions, 0u);
    EXPECT_EQ(s.locks_held, 0u);
    EXPECT_TRUE(db->transactions().empty());
    EXPECT_TRUE(db->locks().empty());
  }
};

constexpr Isolation kLevels[] = {Isolation::read_committed, Isolation::snapshot,
                                 Isolation::serializable};

// ---- levels ------------------------------------------------------------------------------------

TEST_F(Transactions, ReadCommittedSeesEachCommitAndSnapshotsDoNot) {
  if (s2pl()) GTEST_SKIP() << "s2pl: a reader blocks the writer instead (next test)";
  put("a", "1");
  for (const Isolation level : kLevels) {
    put("a", "1");
    auto txn = begin(level);
    EXPECT_EQ(txn.isolation(), level);
    EXPECT_EQ(txn.get(main, "a").value(), "1");
    put("a", "2");
    EXPECT_EQ(txn.get(main, "a").value(), level == Isolation::read_committed ? "2" : "1");
    std::string seen;
    for (auto c = txn.scan(main, {}); c.next();) seen += c.value();
    EXPECT_EQ(seen, level == Isolation::read_committed ? "2" : "1");
    ASSERT_TRUE(txn.rollback().has_value());
  }
  expect_quiet();
}

TEST_F(Transactions, S2plReadersBlockWritersUntilTheyEnd) {
  if (!s2pl()) GTEST_SKIP() << "mvcc: readers block nobody (the test above)";
  put("a", "1");
  auto reader = begin(Isolation::read_committed);
  EXPECT_EQ(reader.isolation(), Isolation::serializable);
  EXPECT_EQ(reader.get(main, "a").value(), "1");
  std::atomic<bool> written{false};
  io::Thread writer("writer", [&] {
    EXPECT_TRUE(db->put(main, "a", "2").has_value());
    written = true;
  });
  await_waiters(1);
  EXPECT_FALSE(written.load());
  EXPECT_EQ(reader.get(main, "a").value(), "1");
  ASSERT_TRUE(reader.commit().has_value());
  writer.join();
  EXPECT_EQ(value("a"), "2");
  expect_quiet();
}

TEST_F(Transactions, FirstUpdaterWins) {
  put("a", "1");
  for (const Isolation level : kLevels) {
    if (s2pl()) break;
    auto txn = begin(level);
    (void)txn.get(main, "a").value();
    put("a", "2");
    const auto done = txn.put(main, "a", "3");
    if (level == Isolation::read_committed) {
      ASSERT_TRUE(done.has_value());
      ASSERT_TRUE(txn.commit().has_value());
      EXPECT_EQ(value("a"), "3");
      continue;
    }
    EXPECT_EQ(done.error(), Code::write_conflict);
    EXPECT_TRUE(done.error().retryable());
    // It was rolled back: everything is released already.
    EXPECT_FALSE(txn.active());
    EXPECT_EQ(txn.get(main, "a").error(), Code::closed_handle);
    ASSERT_TRUE(txn.rollback().has_value());
    EXPECT_EQ(txn.rollback().error(), Code::closed_handle);
  }
  expect_quiet();
}

TEST_F(Transactions, WriteSkewIsStoppedBySerializableAndHappensBelow) {
  if (s2pl()) GTEST_SKIP() << "s2pl: the second writer waits; see the sessions";
  for (const Isolation level : kLevels) {
    put("x", "1");
    put("y", "1");
    auto a = begin(level), b = begin(level);
    EXPECT_EQ(a.get(main, "y").value(), "1");
    EXPECT_EQ(b.get(main, "x").value(), "1");
    ASSERT_TRUE(a.put(main, "x", "0").has_value());
    ASSERT_TRUE(b.put(main, "y", "0").has_value());
    ASSERT_TRUE(a.commit().has_value());
    const auto second = b.commit();
    if (level == Isolation::serializable) {
      ASSERT_FALSE(second.has_value());
      EXPECT_EQ(second.error(), Code::write_conflict);
      EXPECT_EQ(second.error().detail().key, "x");
      EXPECT_EQ(value("y"), "1");
    } else {
      ASSERT_TRUE(second.has_value());
      EXPECT_EQ(value("x") + value("y"), "00");
    }
  }
  expect_quiet();
}

TEST_F(Transactions, SerializableRangesAreExact) {
  if (s2pl()) GTEST_SKIP() << "s2pl: the ranges are locks, see RangeLocks";
  for (const bool reverse : {false, true}) {
    for (const auto& [other, conflicts] :
         std::vector<std::pair<std::string, bool>>{{"k12", true},
                                                   {"k15", true},
                                                   {"k10", true},
                                                   {"k20", false},
                                                   {"k17", false},
                                                   {"k09", false}}) {
      put("k10", "v");
      put("k15", "v");
      put("k20", "v");
      auto txn = begin(Isolation::serializable);
      Range range;
      range.from = "k10";
      range.to = "k16";
      range.reverse = reverse;
      for (auto c = txn.scan(main, range); c.next();) EXPECT_EQ(c.value(), "v");
      ASSERT_TRUE(txn.put(main, "mine", "w").has_value());
      put(other, "changed");
      const auto done = txn.commit();
      EXPECT_EQ(done.has_value(), !conflicts) << other << (reverse ? " reverse" : "");
      static_cast<void>(db->remove(main, "k12"));
      static_cast<void>(db->remove(main, "k17"));
      static_cast<void>(db->remove(main, "k09"));
    }
  }
  expect_quiet();
}

TEST_F(Transactions, SerializableCoversOnlyWhatAScanPassed) {
  if (s2pl()) GTEST_SKIP() << "s2pl: see RangeLocks";
  for (int i = 10; i < 20; ++i) put("k" + std::to_string(i), "v");
  for (const auto& [other, conflicts] : std::vector<std::pair<std::string, bool>>{
           {"k11", true}, {"k115", false}, {"k12", false}, {"k19", false}, {"k105", true}}) {
    auto txn = begin(Isolation::serializable);
    auto c = txn.scan(main, {});
    ASSERT_TRUE(c.next());
    ASSERT_TRUE(c.next());
    EXPECT_EQ(c.key(), "k11");
    ASSERT_TRUE(txn.put(main, "mine", "w").has_value());
    put(other, "v");
    EXPECT_EQ(txn.commit().has_value(), !conflicts) << other;
    if (other.size() > 3) {
      ASSERT_TRUE(db->remove(main, other).has_value());
    }
  }
}

TEST_F(Transactions, SerializableSeesPhantomsOfAbsentKeys) {
  if (s2pl()) GTEST_SKIP() << "s2pl: absent keys are locked";
  auto a = begin(Isolation::serializable);
  EXPECT_EQ(a.get(main, "absent").error(), Code::not_found);
  ASSERT_TRUE(a.put(main, "mine", "1").has_value());
  put("absent", "now here");
  EXPECT_EQ(a.commit().error(), Code::write_conflict);
  // A transaction that writes nothing ran at its snapshot.
  auto b = begin(Isolation::serializable);
  EXPECT_EQ(b.get(main, "absent").value(), "now here");
  put("absent", "again");
  EXPECT_TRUE(b.commit().has_value());
  expect_quiet();
}

TEST_F(Transactions, ConflictsLeaveNoHoleInTheLog) {
  if (s2pl()) GTEST_SKIP() << "s2pl: nothing is validated at commit";
  // A refused commit had reserved log: what follows must survive a crash all the same.
  for (int i = 0; i < 20; ++i) {
    auto a = begin(Isolation::serializable);
    (void)a.get(main, "x");
    ASSERT_TRUE(a.put(main, "a" + std::to_string(i), "lost").has_value());
    put("x", std::to_string(i));
    ASSERT_EQ(a.commit().error(), Code::write_conflict);
    put("kept" + std::to_string(i), "v");
  }
  const io::SimDisk after = disk.survivor(io::CrashOutcome::none, 7);
  disk.crash();
  db.reset();
  directory.reset();
  disk = after;
  open();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(value("kept" + std::to_string(i)), "v");
    EXPECT_EQ(value("a" + std::to_string(i)), "(not_found)");
  }
  EXPECT_TRUE(db->check().value().ok);
}

// ---- locking reads and conditional updates -----------------------------------------------------

TEST_F(Transactions, GetForUpdateLocksPresentAndAbsentKeys) {
  put("a", "1");
  for (const std::string key : {"a", "absent"}) {
    auto txn = begin(Isolation::read_committed);
    const auto got = txn.get_for_update(main, key);
    EXPECT_EQ(got.has_value(), key == "a");
    io::Thread other("other", [&] {
      auto t = begin(Isolation::read_committed);
      EXPECT_EQ(t.get_for_update(main, key, kNoWait).error(), Code::lock_timeout);
      EXPECT_EQ(t.put(main, key, "x", kNoWait).error(), Code::lock_timeout);
      EXPECT_EQ(t.insert(main, key, "x", nullptr, kNoWait).error(), Code::lock_timeout);
      EXPECT_EQ(t.remove(main, key, kNoWait).error(), Code::lock_timeout);
      EXPECT_TRUE(t.active());  // nothing happened, it may go on
      EXPECT_TRUE(t.put(main, "else", "x", kNoWait).has_value());
      EXPECT_TRUE(t.commit().has_value());
    });
    other.join();
    ASSERT_TRUE(txn.rollback().has_value());
  }
  EXPECT_EQ(value("a"), "1");
  expect_quiet();
}

TEST_F(Transactions, UpdateIfJudgesTheCurrentVersion) {
  put("status", "1");
  auto txn = begin(Isolation::read_committed);
  (void)txn.get(main, "other");
  put("status", "2");
  EXPECT_FALSE(txn.update_if(main, "status",
                             [](std::string_view now) {
                               return now == "1" ? std::optional<std::string>("3") : std::nullopt;
                             })
                   .value());
  EXPECT_TRUE(txn.update_if(main, "status",
                            [](std::string_view now) {
                              return std::optional<std::string>(std::string(now) + "!");
                            })
                  .value());
  EXPECT_EQ(txn.get(main, "status").value(), "2!");
  // On the own write, too.
  EXPECT_TRUE(txn.update_if(main, "status",
                            [](std::string_view now) {
                              return std::optional<std::string>(std::string(now) + "!");
                            })
                  .value());
  EXPECT_EQ(txn.update_if(main, "absent",
                          [](std::string_view) { return std::optional<std::string>("x"); })
                .error(),
            Code::not_found);
  const auto thrown = txn.update_if(
      main, "status",
      [](std::string_view) -> std::optional<std::string> { throw std::runtime_error("no"); });
  ASSERT_FALSE(thrown.has_value());
  EXPECT_EQ(thrown.error(), Code::callback_failed);
  EXPECT_NE(thrown.error().message().find("no"), std::string::npos);
  // A function that uses its own transaction is told so instead of hanging.
  const auto nested = txn.update_if(main, "status", [&](std::string_view) {
    EXPECT_EQ(txn.get(main, "status").error(), Code::invalid_argument);
    return std::optional<std::string>();
  });
  EXPECT_FALSE(nested.value());
  ASSERT_TRUE(txn.commit().has_value());
  EXPECT_EQ(value("status"), "2!!");
  expect_quiet();
}

TEST_F(Transactions, OnlyOneOfManyMatches) {
  put("status", "1");
  std::atomic<int> matched{0};
  std::vector<io::Thread> crew;
  for (int i = 0; i < 8; ++i) {
    crew.emplace_back("crew", [&] {
      for (;;) {
        auto txn = begin(Isolation::snapshot);
        const auto done = txn.update_if(main, "status", [](std::string_view now) {
          return now == "1" ? std::optional<std::string>("2") : std::nullopt;
        });
        if (!done) {
          EXPECT_TRUE(done.error().retryable()) << done.error().message();
          continue;
        }
        if (*done) {
          if (!txn.commit()) continue;
          matched.fetch_add(1);
        }
        return;
      }
    });
  }
  crew.clear();
  EXPECT_EQ(matched.load(), 1);
  expect_quiet();
}

TEST_F(Transactions, InsertWaitsForAnUncommittedInsertThenDecides) {
  for (const bool first_commits : {true, false}) {
    const std::string k = first_commits ? "x" : "y";
    auto first = begin(Isolation::snapshot);
    ASSERT_TRUE(first.insert(main, k, "first").has_value());
    Result<void> second;
    std::string existing;
    io::Thread other("other", [&] {
      auto t = begin(Isolation::snapshot);
      second = t.insert(main, k, "second", &existing);
      if (second) {
        EXPECT_TRUE(t.commit().has_value());
      }
    });
    await_waiters(1);
    if (first_commits) {
      ASSERT_TRUE(first.commit().has_value());
    } else {
      ASSERT_TRUE(first.rollback().has_value());
    }
    other.join();
    if (first_commits) {
      ASSERT_FALSE(second.has_value());
      EXPECT_EQ(second.error(), Code::key_exists);
      EXPECT_EQ(existing, "first");
    } else {
      EXPECT_TRUE(second.has_value());
    }
    EXPECT_EQ(value(k), first_commits ? "first" : "second");
  }
  expect_quiet();
}

// ---- locks -------------------------------------------------------------------------------------

TEST_F(Transactions, TwoTransactionsOfOneThreadOnOneKeyAreToldSo) {
  auto a = begin(Isolation::snapshot), b = begin(Isolation::snapshot);
  ASSERT_TRUE(a.put(main, "k", "1").has_value());
  const auto second = b.put(main, "k", "2");
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error(), Code::self_deadlock);
  EXPECT_FALSE(second.error().retryable());
  ASSERT_TRUE(a.commit().has_value());
  ASSERT_TRUE(b.rollback().has_value());
  expect_quiet();
}

TEST_F(Transactions, CrossedLocksMakeOneVictimAndTheOtherCommits) {
  std::atomic<int> deadlocks{0}, commits{0}, at_barrier{0};
  const auto run = [&](const std::string& first, const std::string& second) {
    auto txn = begin(Isolation::read_committed);
    EXPECT_TRUE(txn.put(main, first, "v").has_value());
    at_barrier.fetch_add(1);
    while (at_barrier.load() < 2) io::yield_thread();
    const auto done = txn.put(main, second, "v");
    if (done) {
      EXPECT_TRUE(txn.commit().has_value());
      commits.fetch_add(1);
    } else {
      EXPECT_EQ(done.error(), Code::deadlock) << done.error().message();
      EXPECT_TRUE(done.error().retryable());
      EXPECT_FALSE(txn.active());  // its locks are free already
      deadlocks.fetch_add(1);
    }
  };
  io::Thread a("a", [&] { run("1", "2"); }), b("b", [&] { run("2", "1"); });
  a.join();
  b.join();
  EXPECT_EQ(deadlocks.load(), 1);
  EXPECT_EQ(commits.load(), 1);
  const auto seen = db->deadlocks();
  ASSERT_EQ(seen.size(), 1u);
  ASSERT_EQ(seen[0].cycle.size(), 2u);
  EXPECT_TRUE(seen[0].victim == seen[0].cycle[0].transaction ||
              seen[0].victim == seen[0].cycle[1].transaction);
  EXPECT_EQ(seen[0].cycle[0].target.tree, "main");
  EXPECT_NE(deadlock_text(seen[0]).find("victim"), std::string::npos);
  EXPECT_NE(deadlock_dot(seen[0]).find("->"), std::string::npos);
  expect_quiet();
}

TEST_F(Transactions, LockManySortsSoNobodyDeadlocks) {
  std::vector<io::Thread> crew;
  const std::string_view one[] = {"1", "2", "3"}, two[] = {"3", "2", "1", "2"};
  std::atomic<int> failures{0};
  for (int n = 0; n < 2; ++n) {
    crew.emplace_back("crew", [&, n] {
      for (int i = 0; i < 2000; ++i) {
        auto txn = begin(Isolation::read_committed);
        const auto done = n == 0 ? txn.lock_many(main, one) : txn.lock_many(main, two);
        if (!done) failures.fetch_add(1);
      }
    });
  }
  crew.clear();
  EXPECT_EQ(failures.load(), 0);
  EXPECT_TRUE(db->deadlocks().empty());
  expect_quiet();
}

TEST_F(Transactions, NamedLocksAreSharedOrExclusiveAndEndWithTheTransaction) {
  auto a = begin(Isolation::snapshot), b = begin(Isolation::snapshot);
  ASSERT_TRUE(a.lock_named("job", LockMode::shared).has_value());
  EXPECT_TRUE(b.try_lock_named("job", LockMode::shared).value());
  io::Thread other("other", [&] {
    auto c = begin(Isolation::snapshot);
    EXPECT_FALSE(c.try_lock_named("job").value());
    EXPECT_TRUE(c.try_lock_named("another job").value());
    EXPECT_TRUE(c.put(main, "job", "a record of that key is another lock").has_value());
  });
  other.join();
  EXPECT_EQ(db->locks().size(), 1u);
  EXPECT_EQ(db->locks()[0].target.kind, LockTarget::Kind::named);
  EXPECT_EQ(db->locks()[0].target.key, "job");
  ASSERT_TRUE(a.commit().has_value());
  ASSERT_TRUE(b.rollback().has_value());
  expect_quiet();
}

TEST_F(Transactions, LocksAtCommitConflictLateAndNeverDeadlock) {
  if (s2pl()) GTEST_SKIP() << "s2pl locks at the call";
  put("a", "1");
  BeginOptions o;
  o.locking = Locking::at_commit;
  auto txn = db->begin(o).value();
  ASSERT_TRUE(txn.put(main, "a", "2").has_value());
  ASSERT_TRUE(txn.insert(main, "new", "n").has_value());
  EXPECT_EQ(db->stats().locks_held, 0u);
  EXPECT_EQ(txn.get(main, "a").value(), "2");
  ASSERT_TRUE(txn.commit().has_value());
  EXPECT_EQ(value("a") + value("new"), "2n");

  auto late = db->begin(o).value();
  ASSERT_TRUE(late.put(main, "a", "3").has_value());
  put("a", "4");
  EXPECT_EQ(late.commit().error(), Code::write_conflict);
  auto twice = db->begin(o).value();
  EXPECT_EQ(twice.insert(main, "new", "m").error(), Code::key_exists);
  ASSERT_TRUE(twice.insert(main, "newer", "m").has_value());
  put("newer", "was faster");
  EXPECT_EQ(twice.commit().error(), Code::write_conflict);
  auto gone = db->begin(o).value();
  ASSERT_TRUE(gone.remove(main, "a").has_value());
  EXPECT_EQ(gone.remove(main, "a").error(), Code::not_found);
  ASSERT_TRUE(gone.insert(main, "brief", "x").has_value());
  ASSERT_TRUE(gone.remove(main, "brief").has_value());
  ASSERT_TRUE(gone.commit().has_value());
  EXPECT_EQ(value("a") + value("brief"), "(not_found)(not_found)");

  std::vector<io::Thread> crew;
  std::atomic<int> deadlocks{0};
  for (int n = 0; n < 2; ++n) {
    crew.emplace_back("crew", [&, n] {
      BeginOptions rc = o;
      rc.isolation = Isolation::read_committed;
      for (int i = 0; i < 300; ++i) {
        auto t = db->begin(rc).value();
        EXPECT_TRUE(t.put(main, n == 0 ? "1" : "2", "v").has_value());
        EXPECT_TRUE(t.put(main, n == 0 ? "2" : "1", "v").has_value());
        if (!t.commit()) deadlocks.fetch_add(1);
      }
    });
  }
  crew.clear();
  EXPECT_EQ(deadlocks.load(), 0);
  expect_quiet();
}

// ---- savepoints, hooks -------------------------------------------------------------------------

TEST_F(Transactions, SavepointsNest) {
  put("kept", "old");
  auto txn = begin(Isolation::snapshot);
  ASSERT_TRUE(txn.put(main, "kept", "1").has_value());
  const Savepoint outer = txn.savepoint().value();
  ASSERT_TRUE(txn.put(main, "kept", "2").has_value());
  ASSERT_TRUE(txn.insert(main, "gone", "x").has_value());
  const Savepoint inner = txn.savepoint().value();
  ASSERT_TRUE(txn.remove(main, "kept").has_value());
  for (int i = 0; i < 30; ++i)
    ASSERT_TRUE(txn.put(main, "bulk" + std::to_string(i), "x").has_value());
  ASSERT_TRUE(txn.rollback_to(inner).has_value());
  EXPECT_EQ(txn.get(main, "kept").value(), "2");
  EXPECT_EQ(txn.get(main, "gone").value(), "x");
  EXPECT_EQ(txn.get(main, "bulk7").error(), Code::not_found);
  ASSERT_TRUE(txn.put(main, "bulk7", "again").has_value());
  ASSERT_TRUE(txn.rollback_to(inner).has_value());  // a savepoint survives being rolled back to
  ASSERT_TRUE(txn.rollback_to(outer).has_value());
  EXPECT_EQ(txn.get(main, "kept").value(), "1");
  EXPECT_EQ(txn.get(main, "gone").error(), Code::not_found);
  EXPECT_EQ(txn.rollback_to(inner).error(), Code::invalid_argument);
  auto other = begin(Isolation::snapshot);
  EXPECT_EQ(other.rollback_to(outer).error(), Code::invalid_argument);
  ASSERT_TRUE(txn.put(main, "more", "m").has_value());
  ASSERT_TRUE(txn.commit().has_value());
  ASSERT_TRUE(other.rollback().has_value());
  EXPECT_EQ(value("kept") + value("more") + value("gone") + value("bulk7"),
            "1m(not_found)(not_found)");
  expect_quiet();
}

TEST_F(Transactions, HooksRunOnceAfterDurableCommitsOnly) {
  std::vector<std::string> ran;
  const auto hook = [&](const std::string& name) {
    return [&ran, name](Lsn) { ran.push_back(name); };
  };
  auto a = begin(Isolation::snapshot);
  ASSERT_TRUE(a.put(main, "a", "1").has_value());
  ASSERT_TRUE(a.on_commit(hook("first")).has_value());
  const Savepoint s = a.savepoint().value();
  ASSERT_TRUE(a.on_commit(hook("taken back")).has_value());
  ASSERT_TRUE(a.rollback_to(s).has_value());
  ASSERT_TRUE(a.on_commit([](Lsn) { throw std::runtime_error("hooks may throw"); }).has_value());
  ASSERT_TRUE(a.on_commit([&](Lsn lsn) {
                 EXPECT_LE(lsn, db->stats().durable_lsn);
                 ran.push_back("last");
               }).has_value());
  ASSERT_TRUE(a.commit().has_value());
  EXPECT_EQ(ran, (std::vector<std::string>{"first", "last"}));

  ran.clear();
  auto b = begin(Isolation::snapshot);
  ASSERT_TRUE(b.put(main, "a", "2").has_value());
  ASSERT_TRUE(b.on_commit(hook("never")).has_value());
  ASSERT_TRUE(b.rollback().has_value());
  {
    auto c = begin(Isolation::snapshot);
    ASSERT_TRUE(c.on_commit(hook("never")).has_value());
  }
  EXPECT_TRUE(ran.empty());

  auto d = begin(Isolation::snapshot);
  ASSERT_TRUE(d.put(main, "a", "3").has_value());
  ASSERT_TRUE(d.on_commit(hook("async")).has_value());
  auto ticket = d.commit_async().value();
  ASSERT_TRUE(ticket.wait().has_value());
  EXPECT_EQ(ran, (std::vector<std::string>{"async"}));
  expect_quiet();
}

// ---- limits ------------------------------------------------------------------------------------

TEST_F(Transactions, IdleOnesAreEndedAndOthersGoOn) {
  db.reset();
  options.idle_limit = 30'000ms;
  open();
  put("a", "1");
  auto idle = begin(Isolation::snapshot);
  ASSERT_TRUE(idle.put(main, "a", "2").has_value());
  clock.advance(29'000'000'000);
  EXPECT_EQ(idle.get(main, "a").value(), "2");  // a call: not idle
  clock.advance(29'000'000'000);
  EXPECT_EQ(db->transactions().size(), 1u);
  EXPECT_EQ(db->transactions()[0].idle, 29s);
  EXPECT_EQ(db->transactions()[0].last_call, "get");
  clock.advance(2'000'000'000);
  put("b", "somebody's commit pays for upkeep here");
  EXPECT_EQ(db->transactions().size(), 0u);
  EXPECT_EQ(db->stats().locks_held, 0u);
  EXPECT_EQ(idle.put(main, "a", "3").error(), Code::transaction_expired);
  EXPECT_EQ(idle.commit().error(), Code::transaction_expired);
  EXPECT_TRUE(idle.commit().error().retryable());
  put("a", "4");
  EXPECT_EQ(value("a"), "4");
  ASSERT_TRUE(idle.rollback().has_value());
  expect_quiet();
}

TEST_F(Transactions, OldOnesAreEndedEvenWhenBusy) {
  db.reset();
  options.age_limit = 10'000ms;
  open();
  auto old = begin(Isolation::snapshot);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(old.get(main, "a").error(), Code::not_found);
    clock.advance(1'000'000'000);
  }
  clock.advance(1);
  EXPECT_EQ(old.get(main, "a").error(), Code::transaction_expired);
  expect_quiet();
}

TEST_F(Transactions, CursorsOfEndedTransactionsSayWhy) {
  put("a", "1");
  put("b", "2");
  std::optional<Cursor> c;
  {
    auto txn = begin(Isolation::snapshot);
    c.emplace(txn.scan(main, {}));
    ASSERT_TRUE(c->next());
    ASSERT_TRUE(txn.commit().has_value());
    EXPECT_FALSE(c->next());
    EXPECT_EQ(c->status().error(), Code::closed_handle);
    c.emplace(txn.scan(main, {}));
    EXPECT_FALSE(c->next());
    EXPECT_EQ(c->status().error(), Code::closed_handle);
  }
  EXPECT_FALSE(c->next());
  expect_quiet();
}

TEST_F(Transactions, AtLeastReadsTheSessionsOwnRelaxedCommit) {
  if (s2pl()) GTEST_SKIP() << "s2pl reads the current state";
  const Lsn lsn = db->put(main, "a", "mine", Durability::relaxed).value();
  BeginOptions o;
  o.read_only = true;
  o.at_least = lsn;
  EXPECT_EQ(db->begin(o).value().get(main, "a").value(), "mine");
  o.at_least = lsn + 1'000'000;
  EXPECT_EQ(db->begin(o).error(), Code::invalid_argument);
  expect_quiet();
}

}  // namespace
}  // namespace kessai
