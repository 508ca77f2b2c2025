// SPDX-License-Identifier: Apache-2.0
// A payment service on two simulated disks (the store's, and the one of the transaction log and the
// spool) with a virtual clock, a stub acquirer whose book outlives every crash, and no threads:
// the same seed gives the same run.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/payments/outside_records.hpp"
#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "kessai/kessai.hpp"
#include "kessai/payments/flow.hpp"
#include "tools/stub_book.hpp"

namespace kessai::payments_test {

using namespace payments;  // NOLINT(google-build-using-namespace): the tests' subject
using namespace std::chrono_literals;
using tools::StubBook;
using tools::StubProfile;

/// The acquirer inside the process; what the process did after its death does not count.
class StubAcquirer final : public Acquirer {
 public:
  StubAcquirer(StubBook& book, Executor& executor, const bool& dead)
      : book_(book), executor_(executor), dead_(dead) {}

  void authorise(const Authorisation& what, std::function<void(AuthReply)> done) override {
    if (dead_) return;
    called.insert(what.key);
    if (silent) {
      waiting.push_back(std::move(done));
      return;
    }
    const auto v = book_.authorise(what.key, what.amount, what.card_token, executor_.now_ns());
    if (!v.answers) return;
    executor_.post_at(executor_.now_ns() + v.delay_ns,
                      [done = std::move(done), reply = v.reply] { done(reply); });
  }
  void cancel(const Cancellation& what, std::function<void(CancelReply)> done) override {
    if (dead_) return;
    ++cancels;
    if (cancels <= failing_cancels) return done(CancelReply::failed);
    done(book_.cancel(what.key, executor_.now_ns()));
  }

  std::set<std::string> called;
  bool silent = false;  ///< keeps replies back
  std::vector<std::function<void(AuthReply)>> waiting;
  unsigned cancels = 0;
  unsigned failing_cancels = 0;  ///< the first ones fail

 private:
  StubBook& book_;
  Executor& executor_;
  const bool& dead_;
};

inline constexpr Micros kDayMicros = 86'400'000'000;

struct World {
  io::SimDisk store{101}, outside{202};
  io::VirtualClock clock;
  StubBook book;
  bool dead = false;  ///< the power failed: nothing that happens now counts
  explicit World(const StubProfile& profile = {}) : book(profile) {}
};

/// One process. Destroying it is kill -9.
class Life {
 public:
  explicit Life(World& world, std::uint64_t seed = 1)
      : world_(world),
        random_(seed),
        store_dir_(world.store.attach()),
        outside_dir_(world.outside.attach()) {
    world_.dead = false;
    env_.directory = store_dir_.get();
    outside_env_.directory = outside_dir_.get();
    for (io::Env* e : {&env_, &outside_env_}) {
      e->clock = &world.clock;
      e->random = &random_;
      e->background = false;
    }
    store_options.create = true;
    store_options.memory = 2_MiB;
    store_options.wal_limit = 1_MiB;
    store_options.undo_memory = 1_MiB;
    store_options.open_timeout = 100ms;
    store_options.env = &env_;
    options.journal_env = &outside_env_;
    options.log_segment_bytes = 128_KiB;
    executor.emplace(&env_);
    acquirer.emplace(world.book, *executor, world.dead);
  }
  ~Life() {
    world_.dead = true;
    flow.reset();
    executor->stop();
    if (db) {
      world_.store.kill_processes();
      world_.outside.kill_processes();
    }
  }
  Life(const Life&) = delete;
  Life& operator=(const Life&) = delete;

  [[nodiscard]] Result<void> open_store() {
    auto opened = Database::open("", store_options);
    if (!opened) return std::unexpected(opened.error());
    db.emplace(std::move(*opened));
    return {};
  }
  [[nodiscard]] Result<void> open() {
    if (!db) {
      if (auto ok = open_store(); !ok) return ok;
    }
    auto opened = PaymentFlow::open(*db, *executor, "", *acquirer, options);
    if (!opened) return std::unexpected(opened.error());
    flow = std::move(*opened);
    return {};
  }
  [[nodiscard]] PaymentTables tables() { return PaymentTables::open(*db, true).value(); }
  [[nodiscard]] Journal journal(std::string_view name) {
    JournalOptions o;
    o.segment_bytes = options.log_segment_bytes;
    o.env = &outside_env_;
    return std::move(Journal::open("", name, o).value());
  }

  /// Starts a payment; the answer appears in `answers` under its id (a vector: all of them).
  void pay(const Order& order) {
    ++asked;
    flow->pay(order, [this, id = order.id](const Answer& a) {
      ++answered;
      if (!world_.dead) answers[id].push_back(a);
    });
  }
  /// Runs events, moving the clock, until `done` or for `limit` of virtual time. True: done.
  bool run_until(const std::function<bool()>& done, std::chrono::nanoseconds limit = 600s) {
    const std::uint64_t end = world_.clock.now_ns() + static_cast<std::uint64_t>(limit.count());
    for (;;) {
      executor->run_ready();
      if (world_.dead || done()) return done();
      const auto due = executor->next_due();
      if (!due || *due > end) {
        world_.clock.set(std::max(end, world_.clock.now_ns()));
        executor->run_ready();
        return done();
      }
      if (*due > world_.clock.now_ns()) world_.clock.set(*due);
    }
  }
  bool run_answers() {
    return run_until([this] { return answered == asked; });
  }
  bool run_for(std::chrono::nanoseconds t) {
    return run_until([] { return false; }, t);
  }
  /// The only answer of a payment made now.
  Answer pay_now(const Order& order) {
    pay(order);
    EXPECT_TRUE(run_answers()) << order.id;
    return answers[order.id].empty() ? Answer{} : answers[order.id].back();
  }
  /// Delivers all cancels; false when some are still open after `limit`.
  bool drain(std::chrono::nanoseconds limit = 3600s) {
    return run_until([this] { return flow->stats().cancels_open == 0; }, limit);
  }
  [[nodiscard]] io::Env& env() { return env_; }
  [[nodiscard]] io::Env& outside_env() { return outside_env_; }

  Options store_options;
  FlowOptions options;
  std::map<std::string, std::vector<Answer>> answers;
  std::size_t asked = 0, answered = 0;

 private:
  World& world_;
  io::SeededRandom random_;
  std::unique_ptr<io::Directory> store_dir_, outside_dir_;
  io::Env env_, outside_env_;

 public:
  std::optional<Executor> executor;
  std::optional<Database> db;
  std::optional<StubAcquirer> acquirer;
  std::unique_ptr<PaymentFlow> flow;
};

inline Order order(std::string id, Milli amount = 1000) {
  Order o;
  o.card_token = "tok-" + id;
  o.id = std::move(id);
  o.amount = amount;
  return o;
}

/// Money held outside under the id's key: 0 or 1.
inline unsigned held(World& world, const std::string& id) {
  const auto& entries = world.book.entries(world.clock.now_ns());
  const auto it = entries.find(transaction_id_of(id));
  return it != entries.end() && it->second.held ? 1 : 0;
}
inline unsigned calls(World& world, const std::string& id) {
  const auto& entries = world.book.entries(world.clock.now_ns());
  const auto it = entries.find(transaction_id_of(id));
  return it == entries.end() ? 0 : it->second.calls;
}

/// What tables hold about one id.
struct Stored {
  std::optional<RequestRow> request;
  std::optional<TransactionRow> transaction;
  std::optional<ResultRow> result;
  std::optional<CancelRow> cancel;
};
inline Stored stored(Life& life, const std::string& id) {
  const PaymentTables t = life.tables();
  auto txn = life.db->read_only().value();
  const std::string transaction = transaction_id_of(id);
  Stored s;
  s.request = t.request.get(txn, {.id = id}).value();
  s.cancel = t.cancel.get(txn, {.transaction = transaction}).value();
  if (!s.request) return s;
  s.transaction = t.transaction.get(txn, {.id = transaction, .request = id}).value();
  s.result = t.result.get(txn, {.request = id}).value();
  return s;
}
inline std::vector<AlertRow> alerts(Life& life) {
  const PaymentTables t = life.tables();
  auto txn = life.db->read_only().value();
  std::vector<AlertRow> out;
  for (auto c = t.alert.scan(txn); c.next();) out.push_back(c.row());
  return out;
}

}  // namespace kessai::payments_test
