// SPDX-License-Identifier: Apache-2.0
// Goal: the flow with real threads: callers, the acquirer's replies, log, spool and store each on
// their own, and an end in the middle of it. Method: many payments from several threads on real
// files, the flow destroyed while some are outside, opened again; the acquirer's book decides.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>
#include <vector>

#include "io/sync.hpp"
#include "kessai/kessai.hpp"
#include "kessai/payments/flow.hpp"
#include "kessai/payments/tables.hpp"
#include "tests/io/temp_dir.hpp"

namespace kessai::payments_test {
namespace {

using namespace payments;  // NOLINT(google-build-using-namespace): the tests' subject

/// Answers from a thread of its own; some keys are held and never answered.
class ThreadedAcquirer final : public Acquirer {
 public:
  ~ThreadedAcquirer() override { executor_.stop(); }

  void authorise(const Authorisation& what, std::function<void(AuthReply)> done) override {
    executor_.post(
        [this, key = what.key, lost = what.card_token == "lost", done = std::move(done)] {
          {
            const io::MutexLock lock(mutex_);
            ++held_[key];
            most_ = std::max(most_, held_[key]);
          }
          if (!lost) done({.outcome = AuthOutcome::ok, .auth_code = "1", .reason = {}});
        });
  }
  void cancel(const Cancellation& what, std::function<void(CancelReply)> done) override {
    executor_.post([this, key = what.key, done = std::move(done)] {
      bool found = false;
      {
        const io::MutexLock lock(mutex_);
        found = held_.contains(key);
        if (found) held_[key] = 0;
      }
      done(found ? CancelReply::cancelled : CancelReply::nothing_there);
    });
  }
  int held(const std::string& key) {
    const io::MutexLock lock(mutex_);
    return held_.contains(key) ? held_[key] : 0;
  }
  int most() {
    const io::MutexLock lock(mutex_);
    return most_;
  }

 private:
  io::Mutex mutex_;
  std::map<std::string, int> held_ KESSAI_GUARDED_BY(mutex_);
  int most_ KESSAI_GUARDED_BY(mutex_) = 0;
  Executor executor_;
};

constexpr int kThreads = 4, kEach = 60;

std::string id_of(int thread, int n) { return std::to_string(thread) + "-" + std::to_string(n); }

Order order_of(const std::string& id, bool lost) {
  Order o{.id = id, .amount = 1000};
  o.card_token = lost ? "lost" : "token";
  o.patience = std::chrono::milliseconds(1700);  // the lost ones end soon
  return o;
}

TEST(FlowThreads, PaysOnceWhateverEndsInTheMiddle) {
  const io::test::TempDir dir;
  ThreadedAcquirer acquirer;
  Executor executor;
  FlowOptions options;
  options.acquirer_window = std::chrono::milliseconds(0);
  const auto lost = [](int n) { return n % 20 == 7; };
  std::map<std::string, Answer> told;
  io::Mutex mutex;
  const auto open_store = [&] {
    return Database::open(dir.path() + "/store", {.memory = 8_MiB, .create = true}).value();
  };
  {
    Database db = open_store();
    auto flow = PaymentFlow::open(db, executor, dir.path() + "/log", acquirer, options);
    ASSERT_TRUE(flow.has_value()) << flow.error().message();
    std::vector<std::thread> callers;
    for (int t = 0; t < kThreads; ++t) {
      callers.emplace_back([&, t] {
        for (int n = 0; n < kEach; ++n) {
          const std::string id = id_of(t, n);
          (*flow)->pay(order_of(id, lost(n)), [&, id](const Answer& a) {
            const io::MutexLock lock(mutex);
            told[id] = a;
          });
          if (n % 15 == 0) {  // and one that is waited for, asked twice at once
            const std::string again = id + "w";
            std::thread twin([&] { static_cast<void>((*flow)->pay(order_of(again, false))); });
            static_cast<void>((*flow)->pay(order_of(again, false)));
            twin.join();
          }
        }
      });
    }
    for (auto& c : callers) c.join();
    flow->reset();  // with some of them outside
  }
  Database db = open_store();
  auto flow = PaymentFlow::open(db, executor, dir.path() + "/log", acquirer, options);
  ASSERT_TRUE(flow.has_value()) << flow.error().message();
  EXPECT_EQ((*flow)->recovery().vetoed + (*flow)->recovery().log_lost, 0u);
  int success = 0;
  for (int t = 0; t < kThreads; ++t) {
    for (int n = 0; n < kEach; ++n) {
      const std::string id = id_of(t, n);
      const Answer a = (*flow)->pay(order_of(id, lost(n)));
      success += a.kind == AnswerKind::success ? 1 : 0;
      const auto earlier = told.find(id);
      if (earlier != told.end() && !earlier->second.bytes.empty()) {
        EXPECT_EQ(earlier->second.bytes, a.bytes) << id;
      }
    }
  }
  EXPECT_EQ((*flow)->drain(std::chrono::seconds(60)), 0u);
  for (int t = 0; t < kThreads; ++t) {
    for (int n = 0; n < kEach; ++n) {
      const std::string id = id_of(t, n);
      const Answer a = (*flow)->pay(order_of(id, lost(n)));
      EXPECT_EQ(acquirer.held(transaction_id_of(id)), a.kind == AnswerKind::success ? 1 : 0)
          << id << " " << answer_name(a.kind) << " " << a.bytes << " " << a.reason;
    }
  }
  EXPECT_LE(acquirer.most(), 1);
  EXPECT_GT(success, 0);
  ASSERT_TRUE((*flow)->close().has_value());
}

// Two services sweep one store at once: each orphan is closed by one of them, with one cancel where
// it may have been sent. Method: orphans written beside both, then both sweep on threads.
TEST(FlowThreads, TwoSweepersAtOnceCloseEachOrphanOnce) {
  const io::test::TempDir dir;
  ThreadedAcquirer acquirer;
  Database db = Database::open(dir.path() + "/store", {.memory = 16_MiB, .create = true}).value();
  FlowOptions options;
  options.lease = std::chrono::milliseconds(0);
  options.upkeep_interval = std::chrono::hours(1);
  options.acquirer_window = std::chrono::milliseconds(0);
  Executor executors[2];
  std::vector<std::unique_ptr<PaymentFlow>> flows;
  for (int i = 0; i < 2; ++i) {
    auto flow = PaymentFlow::open(db, executors[i], dir.path() + "/log" + std::to_string(i),
                                  acquirer, options);
    ASSERT_TRUE(flow.has_value()) << flow.error().message();
    flows.push_back(std::move(*flow));
  }
  const PaymentTables t = PaymentTables::open(db, true).value();
  constexpr int kRounds = 5, kOrphans = 200;
  std::uint64_t by[2] = {0, 0};
  for (int round = 0; round < kRounds; ++round) {
    {
      auto txn = db.begin({.isolation = Isolation::read_committed}).value();
      for (int n = 0; n < kOrphans; ++n) {
        const std::string id = id_of(round, n);
        const Micros now = executors[0].unix_micros() - 1000;
        ASSERT_TRUE(t.request.insert(txn, {.id = id, .amount = 1, .create_date = now}).has_value());
        if (n % 2 == 0) {
          ASSERT_TRUE(t.transaction
                          .insert(txn, {.id = transaction_id_of(id),
                                        .request = id,
                                        .amount = 1,
                                        .create_date = now,
                                        .acquirer_key = transaction_id_of(id)})
                          .has_value());
        }
      }
      ASSERT_TRUE(txn.commit().has_value());
    }
    // Both have found all of them before either closes one.
    std::atomic<int> found{0};
    Result<std::uint64_t> swept[2];
    std::vector<std::thread> sweepers;
    for (int i = 0; i < 2; ++i) {
      sweepers.emplace_back([&, i] {
        bool told = false;
        swept[i] = flows[static_cast<std::size_t>(i)]->sweep([&](std::uint64_t rows) {
          if (rows < std::uint64_t{kOrphans} * (round + 1u) || std::exchange(told, true))
            return true;
          for (++found; found < 2;) std::this_thread::yield();
          return true;
        });
        if (!told) ++found;  // it failed: the other must not wait for it
      });
    }
    for (auto& s : sweepers) s.join();
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE(swept[i].has_value()) << swept[i].error().message();
      by[i] += *swept[i];
    }
    EXPECT_EQ(*swept[0] + *swept[1], std::uint64_t{kOrphans});
  }
  std::printf("closed by the two: %llu and %llu\n", static_cast<unsigned long long>(by[0]),
              static_cast<unsigned long long>(by[1]));
  for (auto& flow : flows) {
    EXPECT_EQ(flow->drain(std::chrono::seconds(60)), 0u);
  }
  auto txn = db.read_only().value();
  int cancels = 0;
  for (int round = 0; round < kRounds; ++round) {
    for (int n = 0; n < kOrphans; ++n) {
      const std::string id = id_of(round, n);
      const auto result = t.result.get(txn, {.request = id}).value();
      ASSERT_TRUE(result.has_value()) << id;
      EXPECT_EQ(result->status,
                n % 2 == 0 ? Status::failed_cancel_requested : Status::failed_not_sent);
      const bool cancel =
          t.cancel.get(txn, {.transaction = transaction_id_of(id)}).value().has_value();
      EXPECT_EQ(cancel, n % 2 == 0) << id;
      cancels += cancel ? 1 : 0;
    }
  }
  EXPECT_EQ(cancels, kRounds * kOrphans / 2);
}

// Appends from many threads: each gets a position of its own, and all are found again.
TEST(FlowThreads, AJournalTakesAppendsFromManyThreads) {
  const io::test::TempDir dir;
  std::map<std::uint64_t, std::string> got;
  {
    auto journal = Journal::open(dir.path(), "log", {.segment_bytes = 128_KiB}).value();
    io::Mutex mutex;
    std::vector<std::thread> writers;
    for (int t = 0; t < kThreads; ++t) {
      writers.emplace_back([&, t] {
        for (int n = 0; n < 100; ++n) {
          const std::string record =
              id_of(t, n) + std::string(static_cast<std::size_t>(n * 7), 'x');
          const auto position = journal.append(record);
          ASSERT_TRUE(position.has_value()) << position.error().message();
          const io::MutexLock lock(mutex);
          EXPECT_TRUE(got.emplace(*position, record).second);
        }
      });
    }
    for (auto& w : writers) w.join();
    EXPECT_LE(journal.flushes(), std::uint64_t{kThreads} * 100);
  }
  auto journal = Journal::open(dir.path(), "log").value();
  std::size_t found = 0;
  ASSERT_TRUE(journal
                  .read(1,
                        [&](Journal::Position p, std::string_view record) {
                          ++found;
                          EXPECT_EQ(got[p], record);
                          return true;
                        })
                  .has_value());
  EXPECT_EQ(found, got.size());
}

}  // namespace
}  // namespace kessai::payments_test
