// SPDX-License-Identifier: Apache-2.0
// Goal: run_transaction commits once or not at all, leaves nothing open whatever its function does,
// and gets through conflicts. Method: functions that misbehave in each way, on the simulated disk
// without engine threads; eight threads on one row with them.
#include "kessai/run_transaction.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <stdexcept>

#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "io/sync.hpp"

namespace kessai {
namespace {

class RunTransaction : public testing::Test {
 public:
  RunTransaction() { open(false); }
  ~RunTransaction() override {
    if (!db) return;
    const Stats s = db->stats();
    EXPECT_EQ(s.active_transactions, 0u);
    EXPECT_EQ(s.locks_held, 0u);
  }
  void open(bool background) {
    db.reset();
    directory = disk.attach();
    env = {};
    env.directory = directory.get();
    env.background = background;
    options.create = true;
    options.memory = 4_MiB;
    options.wal_limit = 8_MiB;
    options.lock_timeout = std::chrono::seconds(60);
    options.env = &env;
    auto opened = Database::open("sim", options);
    ASSERT_TRUE(opened.has_value()) << opened.error().message();
    db.emplace(std::move(*opened));
    main = db->tree("main").value();
  }
  [[nodiscard]] std::string value(std::string_view key) {
    auto v = db->get(main, key);
    return v ? *v : "(" + std::string(code_name(v.error().code())) + ")";
  }

  io::SimDisk disk{42};
  std::unique_ptr<io::Directory> directory;
  io::Env env;
  Options options;
  std::optional<Database> db;
  Tree main;
};

TEST_F(RunTransaction, CommitsDurablyAndAnswersWhatTheFunctionAnswers) {
  // Goal: values and void; durable when it answers; one commit each.
  const auto before = db->stats().commits;
  const auto seven = run_transaction(*db, {}, [&](Transaction& txn) -> Result<int> {
    if (auto ok = txn.put(main, "a", "1"); !ok) return std::unexpected(ok.error());
    return 7;
  });
  ASSERT_TRUE(seven.has_value());
  EXPECT_EQ(*seven, 7);
  EXPECT_EQ(value("a"), "1");  // a one-call read sees what is durable
  const auto nothing = run_transaction(
      *db, {}, [&](Transaction& txn) -> Result<void> { return txn.put(main, "b", "2"); });
  EXPECT_TRUE(nothing.has_value());
  EXPECT_EQ(value("b"), "2");
  EXPECT_EQ(db->stats().commits - before, 2u);
  RetryPolicy reads;
  reads.begin.read_only = true;
  const auto read = run_transaction(
      *db, reads, [&](Transaction& txn) -> Result<std::string> { return txn.get(main, "b"); });
  EXPECT_EQ(read.value(), "2");
}

TEST_F(RunTransaction, ErrorEarlyReturnAndExceptionLeaveNothingOpen) {
  // Goal: each way out rolls back and releases; the fixture checks that nothing is held. Errors
  // that are not retryable are answered after one attempt.
  int runs = 0;
  const auto early = run_transaction(*db, {}, [&](Transaction& txn) -> Result<int> {
    ++runs;
    if (auto ok = txn.put(main, "a", "1"); !ok) return std::unexpected(ok.error());
    if (runs > 0) return fail(Code::invalid_argument, "my reason");
    return 1;
  });
  EXPECT_EQ(early.error(), Code::invalid_argument);
  EXPECT_EQ(early.error().detail().what, "my reason");
  const auto missing = run_transaction(*db, {}, [&](Transaction& txn) -> Result<std::string> {
    ++runs;
    if (auto ok = txn.put(main, "a", "1"); !ok) return std::unexpected(ok.error());
    return txn.get(main, "missing");
  });
  EXPECT_EQ(missing.error(), Code::not_found);
  const auto threw = run_transaction(*db, {}, [&](Transaction& txn) -> Result<void> {
    ++runs;
    if (auto ok = txn.put(main, "a", "1"); !ok) return ok;
    throw std::runtime_error("out of tea");
  });
  EXPECT_EQ(threw.error(), Code::callback_failed);
  EXPECT_NE(threw.error().detail().what.find("out of tea"), std::string::npos);
  const auto odd = run_transaction(*db, {}, [&](Transaction& txn) -> Result<void> {
    ++runs;
    if (auto ok = txn.put(main, "a", "1"); !ok) return ok;
    throw 3;  // NOLINT(hicpp-exception-baseclass): anything may be thrown
  });
  EXPECT_EQ(odd.error(), Code::callback_failed);
  EXPECT_EQ(runs, 4);
  EXPECT_EQ(value("a"), "(not_found)");
  EXPECT_EQ(db->stats().active_transactions, 0u);
  EXPECT_EQ(db->stats().locks_held, 0u);
}

TEST_F(RunTransaction, CommitAndRollbackInsideAreRefused) {
  // Goal: both answer invalid_argument, spoil nothing, and work again afterwards; in a nested run,
  // too, which gives the outer transaction back as it was.
  const auto done = run_transaction(*db, {}, [&](Transaction& txn) -> Result<void> {
    EXPECT_EQ(txn.commit().error(), Code::invalid_argument);
    EXPECT_EQ(txn.commit_async().error(), Code::invalid_argument);
    EXPECT_EQ(txn.rollback().error(), Code::invalid_argument);
    EXPECT_TRUE(run_transaction(txn, [&](Transaction& inner) -> Result<void> {
                  EXPECT_EQ(inner.commit().error(), Code::invalid_argument);
                  return inner.put(main, "a", "1");
                }).has_value());
    EXPECT_EQ(txn.commit().error(), Code::invalid_argument);
    return txn.put(main, "b", "2");
  });
  EXPECT_TRUE(done.has_value());
  EXPECT_EQ(value("a") + value("b"), "12");
  auto own = db->begin().value();
  EXPECT_TRUE(run_transaction(own, [&](Transaction& inner) -> Result<void> {
                EXPECT_EQ(inner.commit().error(), Code::invalid_argument);
                return inner.put(main, "a", "3");
              }).has_value());
  EXPECT_TRUE(own.commit().has_value());
  EXPECT_EQ(value("a"), "3");
}

TEST_F(RunTransaction, ATransactionMovedAwayIsRolledBackAllTheSame) {
  // Goal: even stealing the transaction does not keep it open.
  std::optional<Transaction> stolen;
  const auto done = run_transaction(*db, {}, [&](Transaction& txn) -> Result<void> {
    if (auto ok = txn.put(main, "a", "1"); !ok) return ok;
    stolen.emplace(std::move(txn));
    return {};
  });
  EXPECT_EQ(done.error(), Code::invalid_argument);
  EXPECT_FALSE(stolen->active());
  EXPECT_EQ(db->stats().active_transactions, 0u);
  EXPECT_EQ(db->stats().locks_held, 0u);
  EXPECT_EQ(stolen->commit().error(), Code::closed_handle);
  EXPECT_EQ(value("a"), "(not_found)");
  const auto gone = run_transaction(*db, {}, [&](Transaction& txn) -> Result<void> {
    const Transaction dies(std::move(txn));
    return fail(Code::not_found);
  });
  EXPECT_EQ(gone.error(), Code::not_found);
}

TEST_F(RunTransaction, NestedRunsAreOneCommitAndRollBackToTheirStart) {
  // Goal: one commit by the outermost; a nested error or exception takes back only what came after
  // its start.
  const auto before = db->stats().commits;
  int hooks = 0;
  const auto done = run_transaction(*db, {}, [&](Transaction& txn) -> Result<void> {
    EXPECT_TRUE(txn.put(main, "a", "outer").has_value());
    const auto inner = run_transaction(txn, [&](Transaction& t) -> Result<int> {
      EXPECT_TRUE(t.put(main, "b", "inner").has_value());
      return 5;
    });
    EXPECT_EQ(inner.value(), 5);
    const auto failed = run_transaction(txn, [&](Transaction& t) -> Result<int> {
      EXPECT_TRUE(t.put(main, "a", "lost").has_value());
      EXPECT_TRUE(t.put(main, "c", "lost").has_value());
      EXPECT_TRUE(t.on_commit([&](Lsn) { ++hooks; }).has_value());
      return fail(Code::key_exists);
    });
    EXPECT_EQ(failed.error(), Code::key_exists);
    const auto threw = run_transaction(txn, [&](Transaction& t) -> Result<void> {
      EXPECT_TRUE(t.put(main, "b", "lost").has_value());
      throw std::runtime_error("no");
    });
    EXPECT_EQ(threw.error(), Code::callback_failed);
    return {};
  });
  EXPECT_TRUE(done.has_value());
  EXPECT_EQ(value("a"), "outer");
  EXPECT_EQ(value("b"), "inner");
  EXPECT_EQ(value("c"), "(not_found)");
  EXPECT_EQ(hooks, 0);
  EXPECT_EQ(db->stats().commits - before, 1u);
  Transaction none = db->begin().value();
  EXPECT_TRUE(none.rollback().has_value());
  const auto ended = run_transaction(none, [&](Transaction&) -> Result<void> { return {}; });
  EXPECT_EQ(ended.error(), Code::closed_handle);
}

TEST_F(RunTransaction, RunsAgainOnRetryableErrorsUpToTheLimit) {
  // Goal: retryable errors of the function are retried in a fresh transaction, the last one is
  // answered; pauses neither overflow nor hang.
  for (const unsigned attempts : {0u, 1u, 7u, 300u}) {
    RetryPolicy policy;
    policy.attempts = attempts;
    unsigned runs = 0;
    std::set<std::uint64_t> ids;
    const auto never = run_transaction(*db, policy, [&](Transaction& txn) -> Result<void> {
      ++runs;
      ids.insert(txn.id());
      if (auto ok = txn.put(main, "a", "1"); !ok) return ok;
      return fail(Code::lock_timeout, "attempt " + std::to_string(runs));
    });
    EXPECT_EQ(never.error(), Code::lock_timeout);
    EXPECT_EQ(never.error().detail().what, "attempt " + std::to_string(runs));
    EXPECT_EQ(runs, std::max(attempts, 1u));
    EXPECT_EQ(ids.size(), runs);
  }
  EXPECT_EQ(value("a"), "(not_found)");
}

TEST_F(RunTransaction, ARealConflictIsRunAgainAndSeesTheNewValue) {
  // Goal: write_conflict leads to a second attempt at a new snapshot; so does one that the function
  // hides behind a success.
  if (db->info().mode == "s2pl") GTEST_SKIP() << "s2pl: the other write would wait";
  ASSERT_TRUE(db->put(main, "n", "1").has_value());
  for (const bool hide : {false, true}) {
    const std::string before = value("n");
    int runs = 0;
    const auto done = run_transaction(*db, {}, [&](Transaction& txn) -> Result<std::string> {
      auto seen = txn.get(main, "n");
      if (!seen) return seen;
      EXPECT_TRUE(++runs > 1 || db->put(main, "n", before + "x").has_value());
      auto ok = txn.put(main, "n", *seen + "y");
      if (!ok && !hide) return std::unexpected(ok.error());
      return seen;
    });
    EXPECT_EQ(runs, 2);
    EXPECT_EQ(done.value(), before + "x");
    EXPECT_EQ(value("n"), before + "xy");
  }
}

TEST_F(RunTransaction, AnUnknownOutcomeIsAnsweredOnceWithItsLsn) {
  // Goal: a failed flush is not retried (the commit may be there), and names the commit.
  io::Fault fault;
  fault.kind = "write_durable";
  disk.add_fault(fault);
  int runs = 0;
  const auto done = run_transaction(*db, {}, [&](Transaction& txn) -> Result<void> {
    ++runs;
    return txn.put(main, "a", "1");
  });
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error(), Code::unknown_outcome);
  EXPECT_TRUE(db->token(done.error().detail().lsn).has_value());
  EXPECT_EQ(runs, 1);
  disk.clear_faults();
}

TEST_F(RunTransaction, EightThreadsOnOneRowGetThroughWithinTwentyTries) {
  // Goal: no increment is lost and none gives up, at each level, durable and relaxed.
  open(true);
  constexpr int kThreads = 8, kEach = 40;
  for (const Isolation level : {Isolation::snapshot, Isolation::serializable}) {
    ASSERT_TRUE(db->put(main, "n", "0").has_value());
    std::atomic<unsigned> given_up{0}, most{0}, runs{0};
    {
      std::vector<io::Thread> threads;
      threads.reserve(kThreads);
      for (int n = 0; n < kThreads; ++n) {
        threads.emplace_back("retry", [&] {
          RetryPolicy policy;
          policy.begin.isolation = level;
          policy.begin.durability = Durability::relaxed;
          for (int i = 0; i < kEach; ++i) {
            unsigned tries = 0;
            const auto done = run_transaction(*db, policy, [&](Transaction& txn) -> Result<void> {
              ++tries;
              auto v = txn.get(main, "n");
              if (!v) return std::unexpected(v.error());
              return txn.put(main, "n", std::to_string(std::stoi(*v) + 1));
            });
            if (!done) given_up.fetch_add(1);
            runs.fetch_add(tries);
            for (unsigned m = most.load(); m < tries && !most.compare_exchange_weak(m, tries);) {
            }
          }
        });
      }
    }
    EXPECT_EQ(given_up.load(), 0u);
    EXPECT_LE(most.load(), 20u);
    EXPECT_GE(runs.load(), unsigned{kThreads * kEach});
    ASSERT_TRUE(db->put(main, "end", "").has_value());  // durable, and what is before it too
    EXPECT_EQ(value("n"), std::to_string(kThreads * kEach));
  }
}

}  // namespace
}  // namespace kessai
