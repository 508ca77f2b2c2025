// SPDX-License-Identifier: Apache-2.0
// Goal: what the docstrings of kessai/database.hpp and options.hpp promise and no other test looks
// at, one test per promise. Method: the public API on the simulated disk, without engine threads
// unless the promise is about them.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "io/sync.hpp"
#include "kessai/kessai.hpp"
#include "tests/engine/mode.hpp"

namespace kessai {
namespace {

using engine_test::s2pl;

struct Store {
  io::SimDisk disk{11};
  std::unique_ptr<io::Directory> directory;
  io::Env env;
  Options options;
  std::optional<Database> db;
  Tree main;

  explicit Store(bool background = false) {
    options.create = true;
    options.memory = 4_MiB;
    options.wal_limit = 8_MiB;
    env.background = background;
    open();
  }
  void open() {
    directory = disk.attach();
    env.directory = directory.get();
    options.env = &env;
    auto opened = Database::open("sim", options);
    ASSERT_TRUE(opened.has_value()) << opened.error().message();
    db.emplace(std::move(*opened));
    main = db->tree("main").value();
  }
  void close() {
    ASSERT_TRUE(db->close().has_value());
    db.reset();
    directory.reset();
  }
  void lose_power() {
    io::SimDisk after = disk.survivor(io::CrashOutcome::none, 1);
    disk.crash();
    db.reset();
    directory.reset();
    disk = after;
  }
  Lsn relaxed(std::string_view k, std::string_view v) {
    return db->put(main, k, v, Durability::relaxed).value();
  }
};

// ---- handles
// -------------------------------------------------------------------------------------

TEST(EnginePromises, EmptyAndMovedFromHandlesAnswerInsteadOfCrashing) {
  Store s;
  EXPECT_EQ(Tree().name(), "");
  EXPECT_EQ(Tree().id(), 0u);
  EXPECT_EQ(s.main.name(), "main");
  const CommitTicket none;
  EXPECT_TRUE(none.ready());
  EXPECT_TRUE(none.wait().has_value());
  EXPECT_EQ(none.lsn(), 0u);

  Transaction a = s.db->begin().value();
  Transaction b = std::move(a);
  EXPECT_FALSE(a.active());  // NOLINT(bugprone-use-after-move): that is the point
  EXPECT_EQ(a.get(s.main, "k").error(), Code::closed_handle);
  EXPECT_EQ(a.commit().error(), Code::closed_handle);
  EXPECT_EQ(a.scan(s.main, {}).status().error(), Code::closed_handle);
  b = s.db->begin().value();  // the one before is rolled back
  EXPECT_EQ(s.db->stats().active_transactions, 1u);

  Cursor c = s.db->scan(s.main, {});
  const Cursor d = std::move(c);
  EXPECT_FALSE(c.next());
  EXPECT_EQ(c.status().error(), Code::closed_handle);

  Database moved = std::move(*s.db);
  EXPECT_EQ(s.db->get(s.main, "k").error(), Code::closed_handle);
  EXPECT_EQ(s.db->begin().error(), Code::closed_handle);
  EXPECT_EQ(s.db->info().store_id, "");
  EXPECT_EQ(moved.get(s.main, "k").error(), Code::not_found);
  EXPECT_TRUE(moved.close().has_value());
  EXPECT_TRUE(moved.close().has_value());  // again is no error
}

TEST(EnginePromises, ACursorMayOutliveItsTransaction) {
  Store s;
  for (const char* k : {"a", "b", "c"}) s.relaxed(k, "v");
  std::optional<Transaction> txn(s.db->begin().value());
  Cursor destroyed = txn->scan(s.main, {}), committed = s.db->begin()->scan(s.main, {});
  ASSERT_TRUE(destroyed.next());
  txn.reset();
  EXPECT_FALSE(destroyed.next());
  EXPECT_EQ(destroyed.status().error(), Code::closed_handle);
  EXPECT_FALSE(destroyed.next());  // and stays in error
  EXPECT_EQ(destroyed.status().error(), Code::closed_handle);
  EXPECT_FALSE(committed.next());
  EXPECT_EQ(s.db->stats().oldest_snapshot, 0u);
}

TEST(EnginePromises, HandlesThatOutliveTheDatabaseAnswerClosed) {
  std::optional<Store> s(std::in_place);
  s->relaxed("k", "v");
  Transaction txn = s->db->begin().value();
  ASSERT_TRUE(txn.put(s->main, "x", "y").has_value());
  Transaction other = s->db->begin().value();
  ASSERT_TRUE(other.put(s->main, "t", "t").has_value());
  const CommitTicket ticket = other.commit_async().value();
  Cursor cursor = s->db->scan(s->main, {});
  const Tree tree = s->main;
  s->db.reset();  // closes
  EXPECT_EQ(tree.name(), "main");
  EXPECT_EQ(txn.get(tree, "k").error(), Code::closed_handle);
  EXPECT_EQ(txn.commit().error(), Code::closed_handle);
  EXPECT_FALSE(cursor.next());
  EXPECT_EQ(cursor.status().error(), Code::closed_handle);
  EXPECT_TRUE(ticket.ready());
  EXPECT_TRUE(ticket.wait().has_value());  // closing made it durable
  s->open();
  EXPECT_EQ(s->db->get(s->main, "t").value(), "t");
  EXPECT_EQ(s->db->get(s->main, "x").error(), Code::not_found);
}

TEST(EnginePromises, TreeNamesAreAnyBytes) {
  Store s;
  const std::string odd("\0\xff/..\n", 6), longest(kMaxTreeNameBytes, 'n');
  for (const auto& name : {odd, longest}) {
    const Tree t = s.db->tree(name, {.create = true}).value();
    EXPECT_EQ(t.name(), name);
    ASSERT_TRUE(s.db->put(t, "k", name).has_value());
  }
  s.close();
  s.open();
  for (const auto& name : {odd, longest})
    EXPECT_EQ(s.db->get(s.db->tree(name).value(), "k").value(), name);
  EXPECT_EQ(s.db->tree_names().value(), (std::vector<std::string>{odd, "main", longest}));
}

// ---- durability of answers
// -------------------------------------------------------------------------

TEST(EnginePromises, AnswersNeverOutrunDurability) {
  const auto seen_is_durable = [](const char* what, auto&& end) {
    Store s;
    const Lsn lsn = s.relaxed("k", "v");
    ASSERT_LT(s.db->stats().durable_lsn, lsn) << what;
    if (!s2pl(*s.db)) {  // there the answer waits, see below
      EXPECT_EQ(s.db->get(s.main, "k").error(), Code::not_found) << what;  // not durable: not shown
      EXPECT_EQ(s.db->read_only()->get(s.main, "k").error(), Code::not_found) << what;
      ASSERT_LT(s.db->stats().durable_lsn, lsn) << what;
    }
    auto txn = s.db->begin().value();
    end(s, txn);
    ASSERT_GE(s.db->stats().durable_lsn, lsn) << what;
    s.lose_power();
    s.open();
    EXPECT_EQ(s.db->get(s.main, "k").value_or("lost"), "v") << what;
  };
  seen_is_durable("commit without writes", [](Store& s, Transaction& txn) {
    ASSERT_EQ(txn.get(s.main, "k").value(), "v");
    ASSERT_EQ(txn.commit().value(), 0u);
  });
  seen_is_durable("ticket without writes", [](Store& s, Transaction& txn) {
    ASSERT_EQ(txn.get(s.main, "k").value(), "v");
    const auto ticket = txn.commit_async().value();
    ASSERT_EQ(ticket.lsn(), 0u);
    ASSERT_TRUE(ticket.wait().has_value());
  });
  seen_is_durable("rollback after a scan", [](Store& s, Transaction& txn) {
    auto c = txn.scan(s.main, {});
    ASSERT_TRUE(c.next());
    ASSERT_TRUE(txn.rollback().has_value());
  });
  seen_is_durable("key_exists", [](Store& s, Transaction& txn) {
    std::string existing;
    ASSERT_EQ(txn.insert(s.main, "k", "mine", &existing).error(), Code::key_exists);
    ASSERT_EQ(existing, "v");
  });
  seen_is_durable("one-call insert", [](Store& s, Transaction&) {
    ASSERT_EQ(s.db->insert(s.main, "k", "mine", Durability::relaxed).error(), Code::key_exists);
  });
  seen_is_durable("get_for_update", [](Store& s, Transaction& txn) {
    ASSERT_EQ(txn.get_for_update(s.main, "k").value(), "v");
    ASSERT_TRUE(txn.rollback().has_value());
  });
  seen_is_durable("wait_durable", [](Store& s, Transaction& txn) {
    const Lsn newest = s2pl(*s.db) ? s.db->stats().applied_lsn : txn.snapshot();
    ASSERT_TRUE(s.db->wait_durable(newest).has_value());
  });
  if (!s2pl(*Store().db)) return;
  // Reads of the current state: what is not durable yet is waited for, also by read-only ones.
  seen_is_durable("db.get",
                  [](Store& s, Transaction&) { ASSERT_EQ(s.db->get(s.main, "k").value(), "v"); });
  seen_is_durable("multi_get", [](Store& s, Transaction&) {
    const std::string_view keys[] = {"absent", "k"};
    Lookup out[2];
    ASSERT_TRUE(s.db->multi_get(s.main, keys, out).has_value());
    ASSERT_EQ(out[1].value, "v");
  });
  seen_is_durable("db.scan, at the row", [](Store& s, Transaction&) {
    auto c = s.db->scan(s.main, {});
    ASSERT_TRUE(c.next());
    ASSERT_EQ(c.value(), "v");
  });
  seen_is_durable("db.scan, without a row", [](Store& s, Transaction&) {
    auto c = s.db->scan(s.main, {.from = "x", .to = {}});
    ASSERT_FALSE(c.next());
    ASSERT_TRUE(c.status().has_value());
  });
  seen_is_durable("read_only, commit", [](Store& s, Transaction&) {
    auto reader = s.db->read_only().value();
    ASSERT_EQ(reader.get(s.main, "k").value(), "v");
    ASSERT_TRUE(reader.commit().has_value());
  });
  seen_is_durable("read_only, rollback", [](Store& s, Transaction&) {
    auto reader = s.db->read_only().value();
    ASSERT_EQ(reader.get(s.main, "k").value(), "v");
    ASSERT_TRUE(reader.rollback().has_value());
  });
}

// A removal that is not durable yet: "not found" is an answer, too.
TEST(EnginePromises, AnAbsentRowIsAnsweredOnlyOnceItsRemovalIsDurable) {
  enum class By : std::uint8_t { get, multi_get, transaction };
  for (const By by : {By::get, By::multi_get, By::transaction}) {
    Store s;
    ASSERT_TRUE(s.db->put(s.main, "k", "v").has_value());
    const Lsn gone = s.db->remove(s.main, "k", Durability::relaxed).value();
    ASSERT_LT(s.db->stats().durable_lsn, gone);
    bool found = true;
    switch (by) {
      case By::get:
        found = s.db->get(s.main, "k").has_value();
        break;
      case By::multi_get: {
        const std::string_view keys[] = {"k"};
        Lookup out[1];
        ASSERT_TRUE(s.db->multi_get(s.main, keys, out).has_value());
        found = out[0].found;
        break;
      }
      case By::transaction: {
        auto txn = s.db->begin().value();
        found = txn.get(s.main, "k").has_value();
        ASSERT_TRUE(txn.commit().has_value());
      }
    }
    // One-call reads of the MVCC build do not see it yet instead.
    ASSERT_EQ(found, !s2pl(*s.db) && by != By::transaction);
    if (found) continue;
    EXPECT_GE(s.db->stats().durable_lsn, gone);
    s.lose_power();
    s.open();
    EXPECT_EQ(s.db->get(s.main, "k").error(), Code::not_found);
  }
}

// I7 and a log that failed: rows that are durable are answered, also from a page with others that
// are not; those never are.
TEST(EnginePromises, APoisonedStoreAnswersWhatIsDurableAndNothingElse) {
  Store s;
  for (const char* k : {"a", "b", "gone"}) ASSERT_TRUE(s.db->put(s.main, k, "old").has_value());
  s.relaxed("b", "new");
  ASSERT_TRUE(s.db->remove(s.main, "gone", Durability::relaxed).has_value());
  s.disk.add_fault({.what = io::Fault::What::io_error, .kind = "", .file = "", .count = 1u << 30});
  EXPECT_EQ(s.db->put(s.main, "c", "new").error(), Code::unknown_outcome);
  EXPECT_EQ(s.db->put(s.main, "c", "new").error(), Code::poisoned);
  const auto answers = [&](const char* k) {
    const auto alone = s.db->get(s.main, k);
    const std::string_view keys[] = {k};
    Lookup out[1];
    const auto many = s.db->multi_get(s.main, keys, out);
    if (alone) {
      EXPECT_TRUE(many && out[0].found && out[0].value == *alone) << k;
      auto reader = s.db->read_only().value();
      EXPECT_EQ(reader.get(s.main, k).value(), *alone);
      EXPECT_TRUE(reader.commit().has_value());
    } else {
      EXPECT_FALSE(many && out[0].found) << k;
    }
    return alone ? *alone : std::string(code_name(alone.error().code()));
  };
  EXPECT_EQ(answers("a"), "old");
  // S2PL has no older version to answer.
  EXPECT_EQ(answers("b"), s2pl(*s.db) ? "poisoned" : "old");
  EXPECT_EQ(answers("gone"), s2pl(*s.db) ? "poisoned" : "old");
  EXPECT_EQ(answers("c"), s2pl(*s.db) ? "poisoned" : "not_found");
  if (s2pl(*s.db)) {
    auto c = s.db->scan(s.main, {});
    while (c.next()) EXPECT_EQ(c.key(), "a");
    EXPECT_EQ(c.status().error(), Code::poisoned);
  }
  EXPECT_EQ(s.db->stats().locks_held, 0u);
  s.disk.clear_faults();
  s.lose_power();
  s.open();
  EXPECT_EQ(s.db->get(s.main, "a").value(), "old");
}

TEST(EnginePromises, ReadOnlyTransactionsAndUnansweredOnesWaitForNothing) {
  Store s;
  s.relaxed("k", "v");
  const Lsn before = s.db->stats().durable_lsn;
  if (s2pl(*s.db)) {  // a reader of the current state waits for it, see above; not if it asked not
    ASSERT_TRUE(s.db->read_only()->commit().has_value());
    ASSERT_TRUE(s.db->read_only()->rollback().has_value());
  } else {
    auto reader = s.db->read_only().value();
    (void)reader.get(s.main, "k");
    ASSERT_TRUE(reader.commit().has_value());
  }
  ASSERT_TRUE(s.db->begin()->rollback().has_value());
  ASSERT_TRUE(s.db->begin()->commit().has_value());
  EXPECT_EQ(s.db->stats().durable_lsn, before);
}

TEST(EnginePromises, RelaxedCommitsBecomeDurableByThemselves) {
  Store s(true);
  const Lsn lsn = s.relaxed("k", "v");
  unsigned n = 0;
  while (s.db->stats().durable_lsn < lsn && ++n < 20'000'000) io::yield_thread();
  EXPECT_GE(s.db->stats().durable_lsn, lsn);
}

TEST(EnginePromises, WaitingForAnLsnThatWasNeverHandedOutIsAnError) {
  Store s;
  EXPECT_EQ(s.db->wait_durable(s.db->stats().applied_lsn + 1000).error(), Code::invalid_argument);
  EXPECT_TRUE(s.db->wait_durable(0).has_value());
}

TEST(EnginePromises, TicketsAreCopyableAndCallBackAtOnceWhenDurable) {
  Store s;
  auto txn = s.db->begin().value();
  ASSERT_TRUE(txn.put(s.main, "k", "v").has_value());
  const CommitTicket first = txn.commit_async().value();
  const CommitTicket copy = first;
  EXPECT_EQ(copy.lsn(), first.lsn());
  unsigned early = 0, late = 0;
  first.on_durable([&](Result<void> r) { early += r ? 1 : 10; });
  while (!copy.ready()) {
  }
  EXPECT_EQ(early, 1u);
  copy.on_durable([&](Result<void> r) { late += r ? 1 : 10; });
  EXPECT_EQ(late, 1u);
}

// ---- locks
// ---------------------------------------------------------------------------------------

TEST(EnginePromises, LocksCoverAbsentKeysAndALockTimeoutEndsNothing) {
  Store s;
  s.close();
  s.options.lock_timeout = std::chrono::milliseconds(0);
  s.open();
  auto holder = s.db->begin().value();
  EXPECT_EQ(holder.get_for_update(s.main, "absent").error(), Code::not_found);
  EXPECT_EQ(s.db->stats().locks_held, 1u);
  io::Thread("other", [&] {
    auto txn = s.db->begin().value();
    const auto refused = txn.insert(s.main, "absent", "v");
    ASSERT_EQ(refused.error(), Code::lock_timeout);
    EXPECT_TRUE(refused.error().retryable());
    EXPECT_EQ(refused.error().detail().tree, "main");
    EXPECT_EQ(refused.error().detail().key, "absent");
    EXPECT_TRUE(txn.put(s.main, "something else", "v").has_value());
    EXPECT_TRUE(txn.commit().has_value());
    EXPECT_EQ(s.db->put(s.main, "absent", "v").error(), Code::lock_timeout);
    const auto read = s.db->get(s.main, "absent");
    EXPECT_EQ(read.error(), s2pl(*s.db) ? Code::lock_timeout : Code::not_found);
    if (s2pl(*s.db)) {
      EXPECT_TRUE(read.error().retryable());
      EXPECT_EQ(read.error().detail().tree, "main");
      EXPECT_EQ(read.error().detail().key, "absent");
      auto reader = s.db->read_only().value();
      EXPECT_EQ(reader.get(s.main, "absent").error().detail().tree, "main");
      EXPECT_EQ(reader.get(s.main, "elsewhere").error(), Code::not_found);  // nothing has ended
      auto c = reader.scan(s.main, {});
      EXPECT_FALSE(c.next());
      EXPECT_EQ(c.status().error(), Code::lock_timeout);
      EXPECT_EQ(c.status().error().detail().tree, "main");
    }
  }).join();
  ASSERT_TRUE(holder.insert(s.main, "absent", "mine").has_value());
  ASSERT_TRUE(holder.commit().has_value());
  EXPECT_EQ(s.db->get(s.main, "absent").value(), "mine");
  EXPECT_EQ(s.db->stats().locks_held, 0u);
}

TEST(EnginePromises, AfterAConflictOnlyRollbackIsLeft) {
  Store s;
  if (s2pl(*s.db)) GTEST_SKIP() << "s2pl: no conflicts; deadlocks (next test)";
  s.relaxed("k", "0");
  auto txn = s.db->begin().value();
  ASSERT_TRUE(txn.put(s.main, "other", "x").has_value());
  s.relaxed("k", "1");
  const auto lost = txn.put(s.main, "k", "2");
  ASSERT_EQ(lost.error(), Code::write_conflict);
  EXPECT_EQ(lost.error().detail().key, "k");
  EXPECT_EQ(txn.put(s.main, "z", "x").error(), Code::closed_handle);
  EXPECT_EQ(txn.scan(s.main, {}).status().error(), Code::closed_handle);
  EXPECT_EQ(txn.commit().error(), Code::closed_handle);  // and is the rollback
  EXPECT_FALSE(txn.active());
  EXPECT_EQ(s.db->begin()->get(s.main, "other").error(), Code::not_found);
  EXPECT_EQ(s.db->stats().write_conflicts, 1u);
}

TEST(EnginePromises, AfterADeadlockOnlyRollbackIsLeft) {
  Store s;
  s.close();
  s.options.lock_timeout = std::chrono::milliseconds(60'000);
  s.open();
  std::atomic<bool> holds{false}, held_against{false};
  io::Thread victim("victim", [&] {
    auto txn = s.db->begin().value();
    ASSERT_TRUE(txn.put(s.main, "b", "lost").has_value());
    holds = true;
    while (!held_against) io::yield_thread();
    const auto lost = txn.put(s.main, "a", "lost");
    ASSERT_EQ(lost.error(), Code::deadlock);
    EXPECT_TRUE(lost.error().retryable());
    EXPECT_EQ(lost.error().detail().tree, "main");
    EXPECT_EQ(lost.error().detail().key, "a");
    EXPECT_EQ(txn.put(s.main, "z", "x").error(), Code::closed_handle);
    EXPECT_EQ(txn.scan(s.main, {}).status().error(), Code::closed_handle);
    EXPECT_EQ(txn.commit().error(), Code::closed_handle);
    EXPECT_FALSE(txn.active());
  });
  auto txn = s.db->begin().value();
  for (const char* k : {"a", "more", "work", "to", "lose"})
    ASSERT_TRUE(txn.put(s.main, k, "kept").has_value());
  held_against = true;
  const auto waiting = [&] {
    for (const auto& l : s.db->locks())
      if (!l.waiters.empty()) return true;
    return false;
  };
  while (!HasFailure() && !(holds && waiting())) io::yield_thread();
  ASSERT_TRUE(txn.put(s.main, "b", "kept").has_value());
  ASSERT_TRUE(txn.commit().has_value());
  victim.join();
  EXPECT_EQ(s.db->get(s.main, "b").value(), "kept");
  EXPECT_EQ(s.db->stats().locks_held, 0u);
  EXPECT_EQ(s.db->stats().active_transactions, 0u);
  EXPECT_EQ(s.db->deadlocks().size(), 1u);
}

TEST(EnginePromises, ErrorsOfACallsArgumentsEndNothing) {
  Store s;
  auto txn = s.db->begin().value();
  EXPECT_EQ(txn.put(s.main, std::string(kMaxKeyBytes + 1, 'k'), "v").error(), Code::key_too_long);
  EXPECT_EQ(txn.get(s.main, std::string(kMaxKeyBytes + 1, 'k')).error(), Code::key_too_long);
  EXPECT_EQ(txn.put(s.main, "k", std::string(kMaxValueBytes + 1, 'v')).error(),
            Code::value_too_long);
  EXPECT_EQ(txn.put(Tree(), "k", "v").error(), Code::invalid_argument);
  ASSERT_TRUE(txn.put(s.main, "k", "v").has_value());
  EXPECT_TRUE(txn.commit().has_value());
}

// ---- reading
// -------------------------------------------------------------------------------------

TEST(EnginePromises, PrefixRangesEndWhereThePrefixEnds) {
  Store s;
  for (const auto& k : {std::string("a"), std::string("a\xff"),
                        std::string("a\xff\xff"
                                    "1"),
                        std::string("b"), std::string("\xff"), std::string("\xff\xff"),
                        std::string("\xff\xff\x01")})
    s.relaxed(k, "v");
  ASSERT_TRUE(s.db->wait_durable(s.db->stats().applied_lsn).has_value());
  const auto count = [&](std::string_view prefix) {
    unsigned n = 0, back = 0;
    for (auto c = s.db->scan(s.main, Range::prefix(prefix)); c.next(); ++n)
      EXPECT_TRUE(c.key().starts_with(prefix));
    for (auto c = s.db->scan(s.main, Range::prefix(prefix, true)); c.next(); ++back)
      EXPECT_TRUE(c.key().starts_with(prefix));
    EXPECT_EQ(n, back);
    return n;
  };
  EXPECT_EQ(count(""), 7u);
  EXPECT_EQ(count("a"), 3u);
  EXPECT_EQ(count("a\xff"), 2u);
  EXPECT_EQ(count("\xff"), 3u);
  EXPECT_EQ(count("\xff\xff"), 2u);
  EXPECT_EQ(count("c"), 0u);
}

// The pages of a dropped tree are reused under an open cursor: an MVCC snapshot keeps its tree, the
// S2PL build says that it has gone; neither shows another tree's rows or calls it damage.
TEST(EnginePromises, ATreeDroppedUnderACursorIsKeptOrSaidToBeGone) {
  constexpr unsigned kRows = 2000;
  Store s;
  const Tree t = s.db->tree("t", {.create = true}).value();
  const auto name = [](unsigned i) { return "key" + std::to_string(100'000 + i); };
  for (unsigned i = 0; i < kRows; ++i)
    ASSERT_TRUE(s.db->put(t, name(i), std::string(100, 't'), Durability::relaxed).has_value());
  auto txn = s.db->begin().value();
  auto forward = txn.scan(t, {});
  auto back = txn.scan(t, {.from = {}, .to = {}, .reverse = true});
  ASSERT_TRUE(forward.next() && back.next());
  ASSERT_TRUE(s.db->drop_tree("t").has_value());
  const Tree other = s.db->tree("other", {.create = true}).value();
  for (unsigned i = 0; i < kRows; ++i)  // steps the freeing, and takes what is free
    ASSERT_TRUE(s.db->put(other, name(i), std::string(100, 'o'), Durability::relaxed).has_value());
  for (Cursor* c : {&forward, &back}) {
    unsigned rows = 1;
    for (; c->next(); ++rows) ASSERT_EQ(c->value(), std::string(100, 't'));
    if (s2pl(*s.db)) {
      EXPECT_LT(rows, kRows);
      EXPECT_EQ(c->status().error(), Code::tree_not_found) << c->status().error().message();
    } else {
      EXPECT_EQ(rows, kRows);
      EXPECT_TRUE(c->status().has_value());
    }
  }
  const auto got = txn.get(t, name(7));
  EXPECT_EQ(got ? *got : std::string(code_name(got.error().code())),
            s2pl(*s.db) ? "tree_not_found" : std::string(100, 't'));
  EXPECT_EQ(s.db->get(t, name(7)).error(), Code::tree_not_found);
  ASSERT_TRUE(txn.rollback().has_value());
  EXPECT_EQ(s.db->stats().locks_held, 0u);
  EXPECT_TRUE(s.db->check().value().ok);
}

TEST(EnginePromises, MultiGetWantsRoomForEachAnswer) {
  Store s;
  ASSERT_TRUE(s.db->put(s.main, "k", "v").has_value());
  const std::string_view keys[] = {"k", "absent", "k"};
  std::vector<Lookup> out(2);
  EXPECT_EQ(s.db->multi_get(s.main, keys, out).error(), Code::invalid_argument);
  out.resize(4);
  out[1].value = "left over";
  ASSERT_TRUE(s.db->multi_get(s.main, keys, out).has_value());
  EXPECT_TRUE(out[0].found && !out[1].found && out[2].found);
  EXPECT_EQ(out[1].value, "");
  EXPECT_EQ(out[1].code, Code::not_found);
  EXPECT_EQ(
      s.db->multi_get(s.main,
                      std::vector<std::string_view>{std::string_view(std::string(2000, 'k'))}, out)
          .error(),
      Code::key_too_long);
  EXPECT_TRUE(s.db->multi_get(s.main, {}, {}).has_value());
}

TEST(EnginePromises, AStoreOpenForReadingServesTransactionsAndTickets) {
  Store s;
  ASSERT_TRUE(s.db->put(s.main, "k", "v").has_value());
  s.close();
  s.options.create = false;
  s.options.read_only = true;
  s.open();
  auto txn = s.db->begin().value();
  EXPECT_EQ(txn.get(s.main, "k").value(), "v");
  EXPECT_EQ(txn.put(s.main, "k", "w").error(), Code::read_only);
  const auto ticket = txn.commit_async().value();
  EXPECT_TRUE(ticket.ready());
  EXPECT_TRUE(ticket.wait().has_value());
  bool called = false;
  ticket.on_durable([&](Result<void> r) { called = r.has_value(); });
  EXPECT_TRUE(called);
  EXPECT_EQ(s.db->checkpoint().error(), Code::read_only);
  EXPECT_EQ(s.db->drop_tree("main").error(), Code::read_only);
  EXPECT_TRUE(s.db->wait_durable(s.db->stats().durable_lsn).has_value());
  s.close();
  s.options.create = true;
  const auto both = Database::open("sim", s.options);
  EXPECT_EQ(both.error(), Code::invalid_argument);
}

// ---- looking inside
// --------------------------------------------------------------------------------

TEST(EnginePromises, InfoTellsWhereTheStoreStands) {
  Store s;
  const std::string id = s.db->info().store_id;
  EXPECT_EQ(id.size(), 32u);
  EXPECT_EQ(id.find_first_not_of("0123456789abcdef"), std::string::npos);
  const Lsn lsn = s.db->put(s.main, "k", std::string(5000, 'v')).value();
  const StoreInfo now = s.db->info();
  EXPECT_EQ(now.mode, engine_test::kS2plBuild ? "s2pl" : "mvcc");
  EXPECT_EQ(now.io_backend, "simulated");
  EXPECT_EQ(now.page_size, 4096u);
  EXPECT_GE(now.durable_lsn, lsn);
  EXPECT_LT(now.last_checkpoint_lsn, lsn);
  EXPECT_GE(now.redo_bytes, 5000u);
  EXPECT_GE(now.wal_bytes, now.redo_bytes);
  ASSERT_TRUE(s.db->checkpoint().has_value());
  EXPECT_GE(s.db->info().last_checkpoint_lsn, lsn);
  EXPECT_LT(s.db->info().redo_bytes, 5000u);
  EXPECT_FALSE(now.tail_cut_at.has_value());
  s.close();
  s.open();
  EXPECT_EQ(s.db->info().store_id, id);
  EXPECT_TRUE(s.db->info().clean);
}

TEST(EnginePromises, PagesTreesAndLogCanBeLookedAt) {
  Store s;
  constexpr unsigned kRows = 2000;
  for (unsigned i = 0; i < kRows; ++i)
    s.relaxed("key" + std::to_string(100000 + i), std::string(50, 'v'));
  s.relaxed("long", std::string(10000, 'L'));
  ASSERT_TRUE(s.db->remove(s.main, "key100000").has_value());
  const TreeInfo info = s.db->tree_info(s.main).value();
  EXPECT_EQ(info.name, "main");
  EXPECT_EQ(info.id, s.main.id());
  EXPECT_EQ(info.records, kRows);
  EXPECT_EQ(info.depth, 2u);
  EXPECT_GT(info.fill, 0.4);
  EXPECT_LE(info.fill, 1.0);

  std::uint64_t leaves = 0, entries = 0, roots = 0, ghosts = 0, long_bytes = 0;
  const auto nodes = s.db->tree_nodes(s.main).value();
  for (const auto& n : nodes) {
    roots += n.parent == 0 ? 1 : 0;
    const PageDump p = s.db->page(n.page).value();
    EXPECT_EQ(p.type, n.level == 0 ? "leaf" : "inner");
    EXPECT_EQ(p.tree, s.main.id());
    EXPECT_EQ(p.level, n.level);
    EXPECT_EQ(p.low_fence, n.first_key);
    EXPECT_TRUE(std::is_sorted(p.entries.begin(), p.entries.end(),
                               [](const auto& a, const auto& b) { return a.key < b.key; }));
    if (n.level != 0) continue;
    ++leaves;
    EXPECT_EQ(p.entries.size(), n.entries);
    for (const auto& e : p.entries) {
      ghosts += e.ghost ? 1 : 0;
      long_bytes += e.overflow_bytes;
      entries += e.ghost ? 0 : 1;
      EXPECT_GT(e.lsn, 0u);
      EXPECT_LE(e.lsn, p.max_ts);
    }
  }
  EXPECT_EQ(roots, 1u);
  EXPECT_GT(leaves, 10u);
  EXPECT_EQ(entries, kRows);
  EXPECT_LE(ghosts, 1u);
  EXPECT_EQ(long_bytes, 10000u);
  EXPECT_EQ(s.db->page(1).value().type, "roots");
  EXPECT_EQ(s.db->page(0).error(), Code::invalid_argument);
  EXPECT_EQ(s.db->page(1u << 30).error(), Code::invalid_argument);

  unsigned seen = 0, puts = 0, removes = 0;
  Lsn last = 0;
  ASSERT_TRUE(s.db->wal_records([&](const WalRecord& r) {
                    EXPECT_GT(r.lsn, last);
                    last = r.lsn;
                    for (const auto& op : r.ops) {
                      if (op.tree != s.main.id()) continue;
                      puts += op.op == "put" ? 1 : 0;
                      removes += op.op == "remove" && op.key == "key100000" ? 1 : 0;
                    }
                    return true;
                  })
                  .has_value());
  EXPECT_GE(puts, 1u);
  EXPECT_EQ(removes, 1u);
  ASSERT_TRUE(s.db->wal_records([&](const WalRecord&) { return ++seen < 3; }).has_value());
  EXPECT_EQ(seen, 3u);
}

TEST(EnginePromises, OpeningAndCheckingReportProgress) {
  Store s;
  for (unsigned i = 0; i < 3000; ++i) s.relaxed("key" + std::to_string(i), std::string(900, 'v'));
  ASSERT_TRUE(s.db->wait_durable(s.db->stats().applied_lsn).has_value());
  std::set<std::string> phases;
  bool sane = true;
  const auto note = [&](const Progress& p) {
    phases.emplace(p.phase);
    sane = sane && p.done <= p.total;
  };
  ASSERT_TRUE(s.db->check(note).value().ok);
  EXPECT_TRUE(phases.contains("check"));
  s.lose_power();
  s.options.progress = note;
  s.open();
  EXPECT_TRUE(phases.contains("recover"));
  EXPECT_TRUE(sane);
  EXPECT_FALSE(s.db->info().clean);
}

TEST(EnginePromises, StatsCountWhatHappened) {
  Store s;
  const Stats before = s.db->stats();
  ASSERT_TRUE(s.db->put(s.main, "k", "v").has_value());
  auto txn = s.db->begin().value();
  ASSERT_TRUE(txn.put(s.main, "k", "w").has_value());
  Stats now = s.db->stats();
  EXPECT_EQ(now.commits, before.commits + 1);
  EXPECT_EQ(now.active_transactions, 1u);
  EXPECT_EQ(now.locks_held, 1u);
  EXPECT_EQ(now.oldest_snapshot, txn.snapshot());
  EXPECT_GT(now.log_bytes, before.log_bytes);
  EXPECT_GT(now.log_flushes, before.log_flushes);
  ASSERT_TRUE(txn.rollback().has_value());
  ASSERT_TRUE(s.db->checkpoint().has_value());
  now = s.db->stats();
  EXPECT_EQ(now.rollbacks, before.rollbacks + 1);
  EXPECT_EQ(now.checkpoints, before.checkpoints + 1);
  EXPECT_GT(now.pages_written, before.pages_written);
  EXPECT_EQ(now.dirty_pages, 0u);
  EXPECT_EQ(now.frames, 4_MiB / 4096);
  EXPECT_LE(now.frames_used, now.frames);
}

TEST(EnginePromises, OpenNamesWhatIsThere) {
  io::SimDisk empty(1);
  const auto directory = empty.attach();
  io::Env env;
  env.directory = directory.get();
  env.background = false;
  Options o;
  o.env = &env;
  EXPECT_EQ(Database::open("sim", o).error(), Code::store_missing);
  o.create = true;
  EXPECT_TRUE(Database::open("sim", o).has_value());
  o.create = false;
  auto first = Database::open("sim", o);
  ASSERT_TRUE(first.has_value());
  o.open_timeout = std::chrono::milliseconds(0);
  EXPECT_EQ(Database::open("sim", o).error(), Code::locked);
  EXPECT_EQ(version().substr(0, 7), "kessai ");
}

}  // namespace
}  // namespace kessai
