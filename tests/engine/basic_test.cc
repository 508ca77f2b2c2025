// SPDX-License-Identifier: Apache-2.0
// The public API on the simulated disk: what each call promises in its docstring, reopening after a
// clean close and after a kill, catalog, conflicts, cursors merged with own writes.
#include <gtest/gtest.h>

#include "io/sync.hpp"
#include "kessai/kessai.hpp"
#include "tests/engine/mode.hpp"
#include "tests/engine/sim_store.hpp"

namespace kessai {
namespace {

using engine_test::s2pl;

using World = engine_test::SimStore;

std::string key(int i) {
  char s[16];
  std::snprintf(s, sizeof s, "k%07d", i);
  return s;
}

TEST(Engine, PutGetRemoveRoundTrip) {
  World w;
  EXPECT_EQ(w.db->get(w.main, "a").error(), Code::not_found);
  const Lsn first = w.db->put(w.main, "a", "1").value();
  EXPECT_EQ(w.db->get(w.main, "a").value(), "1");
  const Lsn second = w.db->put(w.main, "a", "2").value();
  EXPECT_GT(second, first);
  std::string v;
  EXPECT_EQ(w.db->get(w.main, "a", v).value(), second);
  EXPECT_EQ(v, "2");
  EXPECT_EQ(w.db->insert(w.main, "a", "3").error(), Code::key_exists);
  EXPECT_TRUE(w.db->remove(w.main, "a").has_value());
  EXPECT_EQ(w.db->remove(w.main, "a").error(), Code::not_found);
  EXPECT_TRUE(w.db->insert(w.main, "a", "3").has_value());
  EXPECT_EQ(w.db->get(w.main, "a").value(), "3");
  EXPECT_TRUE(w.db->check().value().ok);
}

TEST(Engine, CommittedRowsSurviveCleanCloseAndPowerLoss) {
  World w;
  for (int i = 0; i < 500; ++i)
    ASSERT_TRUE(w.db->put(w.main, key(i), std::string(i % 300, 'v')).has_value());
  w.reopen_clean();
  EXPECT_TRUE(w.db->info().clean);
  for (int i = 500; i < 1000; ++i)
    ASSERT_TRUE(w.db->put(w.main, key(i), std::string(i % 300, 'v')).has_value());
  w.reopen_after_power_loss();
  EXPECT_FALSE(w.db->info().clean);
  for (int i = 0; i < 1000; ++i)
    ASSERT_EQ(w.db->get(w.main, key(i)).value(), std::string(i % 300, 'v')) << i;
  EXPECT_EQ(w.db->tree_info(w.main).value().records, 1000u);
  const auto report = w.db->check().value();
  for (const auto& d : report.damage) ADD_FAILURE() << d.page << " " << d.what;
}

TEST(Engine, LongValuesAndLargeCommitsSurvive) {
  World w;
  const std::string big(300000, 'B');
  ASSERT_TRUE(w.db->put(w.main, "big", big).has_value());
  auto txn = w.db->begin().value();
  for (int i = 0; i < 3000; ++i)
    ASSERT_TRUE(txn.put(w.main, key(i), std::string(200, 'x')).has_value());
  ASSERT_TRUE(txn.put(w.main, "big2", big + "2").has_value());
  ASSERT_TRUE(txn.commit().has_value());
  w.reopen_after_power_loss();
  EXPECT_EQ(w.db->get(w.main, "big").value(), big);
  EXPECT_EQ(w.db->get(w.main, "big2").value(), big + "2");
  EXPECT_EQ(w.db->tree_info(w.main).value().records, 3002u);
  ASSERT_TRUE(w.db->put(w.main, "big", "small").has_value());
  ASSERT_TRUE(w.db->remove(w.main, "big2").has_value());
  for (int i = 0; i < 400; ++i) ASSERT_TRUE(w.db->put(w.main, "tick", "t").has_value());
  const auto report = w.db->check().value();
  for (const auto& d : report.damage) ADD_FAILURE() << d.page << " " << d.what;
}

// A snapshot keeps seeing what it saw: update, delete, delete + reinsert, by get and by scan.
TEST(Engine, SnapshotsDoNotMove) {
  World w;
  if (s2pl(*w.db)) GTEST_SKIP() << "s2pl: the rows do not move instead (next test)";
  for (const char* k : {"a", "b", "c", "d"}) ASSERT_TRUE(w.db->put(w.main, k, "old").has_value());
  auto reader = w.db->begin().value();
  EXPECT_EQ(reader.get(w.main, "a").value(), "old");
  ASSERT_TRUE(w.db->put(w.main, "a", "new").has_value());
  ASSERT_TRUE(w.db->remove(w.main, "b").has_value());
  ASSERT_TRUE(w.db->remove(w.main, "c").has_value());
  ASSERT_TRUE(w.db->put(w.main, "c", "again").has_value());
  ASSERT_TRUE(w.db->put(w.main, "e", "fresh").has_value());
  for (const char* k : {"a", "b", "c", "d"}) EXPECT_EQ(reader.get(w.main, k).value(), "old") << k;
  EXPECT_EQ(reader.get(w.main, "e").error(), Code::not_found);
  for (const bool reverse : {false, true}) {
    auto c = reader.scan(w.main, {.from = "", .to = {}, .reverse = reverse});
    std::string seen;
    while (c.next()) seen += std::string(c.key()) + "=" + std::string(c.value()) + " ";
    EXPECT_TRUE(c.status().has_value());
    EXPECT_EQ(seen, reverse ? "d=old c=old b=old a=old " : "a=old b=old c=old d=old ");
  }
  ASSERT_TRUE(reader.rollback().has_value());
  EXPECT_EQ(w.db->get(w.main, "c").value(), "again");
  EXPECT_EQ(w.db->stats().active_transactions, 0u);
}

// The counterpart: what a transaction has read, rows and gaps, nobody changes until it ends.
TEST(Engine, WhatAnS2plReaderSawStaysUntilItEnds) {
  World w;
  if (!s2pl(*w.db)) GTEST_SKIP() << "mvcc: readers block nobody (the test above)";
  for (const char* k : {"a", "b", "d", "x", "z"})
    ASSERT_TRUE(w.db->put(w.main, k, "old").has_value());
  for (const bool read_only : {false, true}) {
    for (const bool reverse : {false, true}) {
      BeginOptions o;
      o.read_only = read_only;
      auto reader = w.db->begin(o).value();
      EXPECT_EQ(reader.snapshot(), 0u);
      EXPECT_EQ(reader.isolation(), Isolation::serializable);
      EXPECT_EQ(reader.get(w.main, "x").value(), "old");
      EXPECT_EQ(reader.get(w.main, "y").error(), Code::not_found);
      const auto rows = [&] {
        std::string seen;
        auto c = reader.scan(w.main, {.from = "a", .to = "e", .reverse = reverse});
        while (c.next()) seen += std::string(c.key()) + "=" + std::string(c.value()) + " ";
        EXPECT_TRUE(c.status().has_value());
        return seen;
      };
      EXPECT_EQ(rows(), reverse ? "d=old b=old a=old " : "a=old b=old d=old ");
      io::Thread("writer", [&] {
        auto writer = w.db->begin().value();
        for (const char* k : {"a", "aa", "b", "c", "d", "dz", "x", "y"}) {
          EXPECT_EQ(writer.put(w.main, k, "new", kNoWait).error(), Code::lock_timeout) << k;
          EXPECT_EQ(writer.insert(w.main, k, "new", nullptr, kNoWait).error(), Code::lock_timeout);
          EXPECT_EQ(writer.remove(w.main, k, kNoWait).error(), Code::lock_timeout) << k;
        }
        for (const char* k : {"A", "e", "w", "z"})
          EXPECT_TRUE(writer.put(w.main, k, "old", kNoWait).has_value()) << k;
        EXPECT_TRUE(writer.rollback().has_value());
      }).join();
      EXPECT_EQ(rows(), reverse ? "d=old b=old a=old " : "a=old b=old d=old ");
      EXPECT_EQ(w.db->put(w.main, "b", "new").error(), Code::self_deadlock);  // its own thread
      ASSERT_TRUE(reader.commit().has_value());
    }
  }
  ASSERT_TRUE(w.db->put(w.main, "b", "new").has_value());
  EXPECT_EQ(w.db->stats().locks_held, 0u);
  EXPECT_EQ(w.db->stats().active_transactions, 0u);
}

// A scan locks what it has passed and a stretch ahead, not the rest of its range; outside of a
// transaction it lets go when the cursor goes.
TEST(Engine, AnS2plScanThatStopsEarlyHasLockedLittle) {
  World w;
  if (!s2pl(*w.db)) GTEST_SKIP() << "mvcc: scans lock nothing";
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(w.db->put(w.main, key(i), "v").has_value());
  const auto writable = [&](int i) {
    bool ok = false;
    io::Thread("writer", [&] {
      auto writer = w.db->begin().value();
      ok = writer.put(w.main, key(i), "new", kNoWait).has_value();
      EXPECT_TRUE(writer.rollback().has_value());
    }).join();
    return ok;
  };
  {
    auto c = w.db->scan(w.main, {});
    EXPECT_EQ(w.db->stats().locks_held, 0u);
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(c.next());
    for (int i = 0; i < 5; ++i) EXPECT_FALSE(writable(i)) << i;
    for (const int i : {20, 500, 999}) EXPECT_TRUE(writable(i)) << i;
    EXPECT_EQ(w.db->stats().locks_held, 1u);
    auto back = w.db->scan(w.main, {.from = key(500), .to = {}, .reverse = true});
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(back.next());
    for (int i = 995; i < 1000; ++i) EXPECT_FALSE(writable(i)) << i;
    for (const int i : {20, 500, 980}) EXPECT_TRUE(writable(i)) << i;
  }
  for (const int i : {0, 4, 999}) EXPECT_TRUE(writable(i)) << i;
  EXPECT_EQ(w.db->stats().locks_held, 0u);
  EXPECT_EQ(w.db->stats().active_transactions, 0u);
}

TEST(Engine, FirstUpdaterWins) {
  World w;
  ASSERT_TRUE(w.db->put(w.main, "x", "0").has_value());
  w.options.lock_timeout = std::chrono::milliseconds(0);
  auto t1 = w.db->begin().value();
  auto t2 = w.db->begin().value();
  ASSERT_TRUE(t1.put(w.main, "x", "1").has_value());
  const auto blocked = t2.put(w.main, "x", "2");
  EXPECT_EQ(blocked.error(), Code::self_deadlock);  // same thread: reported, never a hang
  ASSERT_TRUE(t1.commit().has_value());
  auto t3 = w.db->begin().value();
  if (!s2pl(*w.db)) {
    EXPECT_EQ(t3.get(w.main, "x").value(), "1");
  }
  ASSERT_TRUE(w.db->put(w.main, "x", "3").has_value());
  const auto late = t3.put(w.main, "x", "4");
  if (s2pl(*w.db)) {
    // It had read nothing, so the change that came in between simply came first.
    EXPECT_TRUE(late.has_value());
    EXPECT_TRUE(t3.commit().has_value());
    EXPECT_EQ(w.db->get(w.main, "x").value(), "4");
  } else {
    EXPECT_EQ(late.error(), Code::write_conflict);
    EXPECT_TRUE(late.error().retryable());
    EXPECT_EQ(t3.get(w.main, "x").error(), Code::closed_handle);
    EXPECT_TRUE(t3.rollback().has_value());
    EXPECT_EQ(w.db->get(w.main, "x").value(), "3");
  }
  EXPECT_TRUE(t2.rollback().has_value());
  EXPECT_EQ(w.db->stats().locks_held, 0u);
}

TEST(Engine, ALockBeforeTheFirstReadMovesTheSnapshot) {
  World w;
  ASSERT_TRUE(w.db->put(w.main, "x", "1").has_value());
  ASSERT_TRUE(w.db->put(w.main, "y", "1").has_value());
  for (const Isolation level : {Isolation::snapshot, Isolation::serializable}) {
    const auto begin = [&] { return w.db->begin({.isolation = level}).value(); };
    auto row = begin(), blind = begin(), absent = begin(), named = begin();
    ASSERT_TRUE(w.db->put(w.main, "x", "2").has_value());
    ASSERT_TRUE(w.db->put(w.main, "y", "2").has_value());
    EXPECT_EQ(row.get_for_update(w.main, "x").value(), "2");
    EXPECT_EQ(row.get(w.main, "y").value(), "2") << "one snapshot for both";
    ASSERT_TRUE(row.put(w.main, "x", "3").has_value());
    ASSERT_TRUE(row.commit().has_value());
    ASSERT_TRUE(blind.put(w.main, "x", "4").has_value());
    ASSERT_TRUE(blind.commit().has_value());
    ASSERT_TRUE(w.db->remove(w.main, "x").has_value());
    ASSERT_TRUE(absent.insert(w.main, "x", "5").has_value());
    ASSERT_TRUE(absent.commit().has_value());
    ASSERT_TRUE(named.lock_named("till").has_value());
    EXPECT_EQ(named.get(w.main, "x").value(), "5");
    ASSERT_TRUE(named.rollback().has_value());
    if (s2pl(*w.db)) continue;
    auto read = begin();  // has looked: nothing moves any more
    EXPECT_EQ(read.get(w.main, "y").value(), "2");
    const Lsn before = read.snapshot();
    ASSERT_TRUE(w.db->put(w.main, "x", "6").has_value());
    ASSERT_TRUE(read.lock_named("till").has_value());
    EXPECT_EQ(read.get(w.main, "x").value(), "5");
    EXPECT_EQ(read.snapshot(), before);
    EXPECT_EQ(read.get_for_update(w.main, "x").error(), Code::write_conflict);
  }
}

TEST(Engine, OwnWritesShowInReadsAndScans) {
  World w;
  for (int i = 0; i < 10; i += 2) ASSERT_TRUE(w.db->put(w.main, key(i), "stored").has_value());
  auto t = w.db->begin().value();
  ASSERT_TRUE(t.put(w.main, key(1), "mine").has_value());
  ASSERT_TRUE(t.put(w.main, key(2), "mine").has_value());
  ASSERT_TRUE(t.remove(w.main, key(4)).has_value());
  ASSERT_TRUE(t.put(w.main, key(99), "mine").has_value());
  EXPECT_EQ(t.insert(w.main, key(99), "x").error(), Code::key_exists);
  EXPECT_EQ(t.get(w.main, key(4)).error(), Code::not_found);
  std::string seen;
  for (auto c = t.scan(w.main, {}); c.next();)
    seen += std::string(c.key()).substr(5) + std::string(c.value()).substr(0, 1) + " ";
  EXPECT_EQ(seen, "000s 001m 002m 006s 008s 099m ");
  seen.clear();
  for (auto c = t.scan(w.main, {.from = key(1), .to = key(99), .reverse = true}); c.next();)
    seen += std::string(c.key()).substr(5) + " ";
  EXPECT_EQ(seen, "008 006 002 001 ");
  ASSERT_TRUE(t.rollback().has_value());
  EXPECT_EQ(w.db->get(w.main, key(2)).value(), "stored");
}

TEST(Engine, TreesAreCreatedDroppedAndNeverReused) {
  World w;
  EXPECT_EQ(w.db->tree("t").error(), Code::tree_not_found);
  EXPECT_EQ(w.db->tree("").error(), Code::bad_tree_name);
  EXPECT_EQ(w.db->tree(std::string(256, 'n')).error(), Code::bad_tree_name);
  Tree t = w.db->tree("t", {.create = true}).value();
  const auto id = t.id();
  for (int i = 0; i < 2000; ++i)
    ASSERT_TRUE(w.db->put(t, key(i), "v", Durability::relaxed).has_value());
  w.reopen_after_power_loss(io::CrashOutcome::all);
  t = w.db->tree("t").value();
  EXPECT_EQ(t.id(), id);
  EXPECT_EQ(w.db->drop_tree("main").error(), Code::bad_tree_name);
  ASSERT_TRUE(w.db->drop_tree("t").has_value());
  EXPECT_EQ(w.db->get(t, key(1)).error(), Code::tree_not_found);
  EXPECT_EQ(w.db->put(t, key(1), "v").error(), Code::tree_not_found);
  const Tree again = w.db->tree("t", {.create = true}).value();
  EXPECT_GT(again.id(), id);
  EXPECT_EQ(w.db->get(again, key(1)).error(), Code::not_found);
  w.reopen_clean();
  EXPECT_EQ(w.db->tree_names().value(), (std::vector<std::string>{"main", "t"}));
  const auto report = w.db->check().value();
  for (const auto& d : report.damage) ADD_FAILURE() << d.page << " " << d.what;
  EXPECT_LT(w.db->info().pages, 20u);  // the dropped tree's pages are free again
}

// Goal: an insert-only tree takes inserts and refuses everything that could change a row, before
// and after crash and reopen; plain trees beside it are as ever.
TEST(Engine, InsertOnlyTreesRefuseChanges) {
  World w;
  Tree t = w.db->tree("rows", {.create = true, .insert_only = true}).value();
  ASSERT_TRUE(w.db->insert(t, "k", "first").has_value());
  for (int life = 0; life < 3; ++life) {
    EXPECT_TRUE(t.insert_only());
    EXPECT_FALSE(w.main.insert_only());
    EXPECT_EQ(w.db->put(t, "k", "second").error(), Code::insert_only_violation);
    EXPECT_EQ(w.db->put(t, "new", "second").error(), Code::insert_only_violation);
    EXPECT_EQ(w.db->remove(t, "k").error(), Code::insert_only_violation);
    EXPECT_EQ(w.db->remove(t, "absent").error(), Code::insert_only_violation);
    EXPECT_EQ(w.db->insert(t, "k", "second").error(), Code::key_exists);
    for (const Locking locking : {Locking::at_call, Locking::at_commit}) {
      auto txn = w.db->begin({.locking = locking}).value();
      const std::string own =
          "own" + std::to_string(life) + (locking == Locking::at_call ? "a" : "c");
      ASSERT_TRUE(txn.insert(t, own, "v").has_value());
      EXPECT_EQ(txn.put(t, own, "w").error(), Code::insert_only_violation);
      EXPECT_EQ(txn.remove(t, own).error(), Code::insert_only_violation);
      EXPECT_EQ(txn.update_if(t, "k", [](auto) { return "w"; }).error(),
                Code::insert_only_violation);
      ASSERT_TRUE(txn.put(w.main, own, "v").has_value());
      ASSERT_TRUE(txn.commit().has_value());  // a refused call ends nothing
      EXPECT_EQ(w.db->get(t, own).value(), "v");
    }
    EXPECT_EQ(w.db->get(t, "k").value(), "first");
    if (life == 0) {
      w.reopen_after_power_loss(io::CrashOutcome::all);
    } else {
      w.reopen_clean();
    }
    t = w.db->tree("rows").value();
  }
  ASSERT_TRUE(w.db->drop_tree("rows").has_value());
  EXPECT_FALSE(w.db->tree("rows", {.create = true}).value().insert_only());
}

// Goal: a relaxed creation costs no flush, is lost with a crash, and survives with its first
// durable row.
TEST(Engine, RelaxedTreesSurviveWithTheirFirstDurableRow) {
  World w;
  const TreeOptions relaxed{.create = true, .durability = Durability::relaxed};
  const auto flushes = w.db->stats().log_flushes;
  ASSERT_TRUE(w.db->tree("empty", relaxed).has_value());
  const Tree kept = w.db->tree("kept", relaxed).value();
  EXPECT_EQ(w.db->stats().log_flushes, flushes);
  ASSERT_TRUE(w.db->put(kept, "k", "v").has_value());
  w.reopen_after_power_loss(io::CrashOutcome::none);
  EXPECT_EQ(w.db->get(w.db->tree("kept").value(), "k").value(), "v");
  EXPECT_TRUE(w.db->tree("empty").has_value());  // earlier in the log than the row
  ASSERT_TRUE(w.db->tree("gone", relaxed).has_value());
  w.reopen_after_power_loss(io::CrashOutcome::none);
  EXPECT_EQ(w.db->tree("gone").error(), Code::tree_not_found);
  EXPECT_TRUE(w.db->check().value().ok);
}

TEST(Engine, BadArgumentsAreTypedErrors) {
  World w;
  EXPECT_EQ(w.db->put(w.main, std::string(1025, 'k'), "v").error(), Code::key_too_long);
  EXPECT_EQ(w.db->put(w.main, "k", std::string(kMaxValueBytes + 1, 'v')).error(),
            Code::value_too_long);
  EXPECT_TRUE(w.db->put(w.main, std::string(1024, 'k'), "").has_value());
  EXPECT_TRUE(w.db->put(w.main, "", "empty key").has_value());
  EXPECT_EQ(w.db->get(w.main, "").value(), "empty key");
  World other;
  EXPECT_EQ(w.db->get(other.main, "k").error(), Code::wrong_database);
  EXPECT_EQ(w.db->get(Tree{}, "k").error(), Code::invalid_argument);
  auto txn = w.db->begin().value();
  ASSERT_TRUE(txn.commit().has_value());
  EXPECT_EQ(txn.get(w.main, "k").error(), Code::closed_handle);
  auto ro = w.db->read_only().value();
  EXPECT_EQ(ro.put(w.main, "k", "v").error(), Code::read_only);
  auto open = w.db->begin().value();
  ASSERT_TRUE(open.put(w.main, "never", "v").has_value());
  ASSERT_TRUE(w.db->close().has_value());
  EXPECT_EQ(w.db->get(w.main, "k").error(), Code::closed_handle);
  EXPECT_EQ(open.commit().error(), Code::closed_handle);
}

// Tickets: visible at once, durable later; a crash takes back relaxed commits only as a suffix.
TEST(Engine, TicketsBecomeDurableInOrder) {
  World w;
  std::vector<CommitTicket> tickets;
  for (int i = 0; i < 50; ++i) {
    auto t = w.db->begin().value();
    ASSERT_TRUE(t.put(w.main, key(i), "v").has_value());
    tickets.push_back(t.commit_async().value());
  }
  EXPECT_TRUE(w.db->begin().value().get(w.main, key(49)).has_value());
  int called = 0;
  tickets[10].on_durable([&](Result<void> r) { called += r.has_value(); });
  ASSERT_TRUE(tickets[49].wait().has_value());
  EXPECT_EQ(called, 1);
  for (const auto& t : tickets) EXPECT_TRUE(t.ready());
  w.reopen_after_power_loss();
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(w.db->get(w.main, key(i)).has_value());
}

TEST(Engine, ReadOnlyOpenRecoversInMemoryAndWritesNothing) {
  World w;
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(w.db->put(w.main, key(i), "v").has_value());
  io::SimDisk after = w.disk.survivor(io::CrashOutcome::all, 3);
  const auto before = after.image_hash();
  auto directory = after.attach();
  io::Env env;
  env.directory = directory.get();
  env.background = false;
  Options o;
  o.env = &env;
  o.read_only = true;
  {
    auto db = Database::open("sim", o);
    ASSERT_TRUE(db.has_value()) << db.error().message();
    const Tree t = db->tree("main").value();
    EXPECT_EQ(db->tree_info(t).value().records, 300u);
    EXPECT_EQ(db->put(t, "x", "y").error(), Code::read_only);
    EXPECT_EQ(db->tree("new", {.create = true}).error(), Code::read_only);
    EXPECT_TRUE(db->check().value().ok);
  }
  EXPECT_EQ(after.image_hash(), before);
}

}  // namespace
}  // namespace kessai
