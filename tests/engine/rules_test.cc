// SPDX-License-Identifier: Apache-2.0
// Goal: rules that applications keep with transactions hold under threads: a limit per user, at
// least one doctor on call, ids without gaps, money that neither appears nor goes, and two writes
// that all readers see in one order. Method: real threads with bounded work, each attempt retried
// while its error says retryable; both concurrency builds. Every rule is also broken on purpose at
// a level that does not protect it, by a schedule that is forced, so that a test that cannot fail
// would show.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <map>
#include <string>

#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "io/sync.hpp"
#include "kessai/kessai.hpp"
#include "tests/engine/model_seed.hpp"

namespace kessai {
namespace {

class Rules : public testing::Test {
 protected:
  Rules() {
    env.directory = directory.get();
    options.create = true;
    options.memory = 4_MiB;
    options.wal_limit = 16_MiB;
    options.lock_timeout = std::chrono::milliseconds(60'000);
    options.env = &env;
    auto opened = Database::open("sim", options);
    EXPECT_TRUE(opened.has_value()) << opened.error().message();
    db.emplace(std::move(*opened));
    t = db->tree("main").value();
  }
  ~Rules() override {
    const Stats s = db->stats();
    EXPECT_EQ(s.active_transactions, 0u);
    EXPECT_EQ(s.locks_held, 0u);
    EXPECT_EQ(s.lock_timeouts, 0u);
    EXPECT_TRUE(db->check().value().ok);
  }
  [[nodiscard]] bool s2pl() const { return db->info().mode == "s2pl"; }

  /// Runs `body` as a transaction until it commits or fails for good.
  template <class Body>
  Result<void> transact(Isolation level, const Body& body) {
    for (;;) {
      auto txn = db->begin({.isolation = level, .durability = Durability::relaxed}).value();
      Result<void> done = body(txn);
      if (done) {
        const auto lsn = txn.commit();
        if (lsn) return {};
        done = std::unexpected(lsn.error());
      } else if (txn.active()) {
        static_cast<void>(txn.rollback());
      }
      if (!done.error().retryable()) return done;
    }
  }
  template <class Body>
  void crew(unsigned n, const Body& body) {
    std::vector<io::Thread> threads;
    for (unsigned i = 0; i < n; ++i) {
      threads.emplace_back("crew", [&body, i, this] {
        io::SeededRandom random(seed * 1000 + i);
        body(i, random);
      });
    }
  }
  [[nodiscard]] std::uint64_t number(std::string_view key) {
    return std::stoull(db->get(t, key).value());
  }
  void put(std::string_view key, std::uint64_t n) {
    ASSERT_TRUE(db->put(t, key, std::to_string(n)).has_value());
  }

  io::SimDisk disk{42};
  std::unique_ptr<io::Directory> directory = disk.attach();
  io::Env env;
  Options options;
  std::optional<Database> db;
  Tree t;
  const std::uint64_t seed = engine_test::seed();
  testing::ScopedTrace trace{__FILE__, __LINE__, "KESSAI_SEED=" + std::to_string(seed)};
};

// ---- a limit per user over insert-only rows ----------------------------------------------------

/// How the check and the insert are kept together.
enum class How : std::uint8_t { serializable, named_lock };

class Withdrawals : public Rules, public testing::WithParamInterface<How> {
 protected:
  static constexpr std::uint64_t kLimit = 100'000, kAmount = 10'000;
  static constexpr unsigned kRequests = 12;  // per user; ten fit

  /// True: accepted.
  Result<bool> withdraw(unsigned user, unsigned request) {
    const std::string prefix = "history/" + std::to_string(1000 + user) + "/";
    bool accepted = false;
    const bool lock = GetParam() == How::named_lock;
    auto done =
        transact(lock ? Isolation::read_committed : Isolation::serializable,
                 [&](Transaction& txn) -> Result<void> {
                   accepted = false;
                   if (lock) {
                     if (auto ok = txn.lock_named(prefix); !ok) return ok;
                   }
                   std::uint64_t sum = 0;
                   auto c = txn.scan(t, Range::prefix(prefix));
                   while (c.next()) sum += std::stoull(std::string(c.value()));
                   if (!c.status()) return c.status();
                   if (sum + kAmount > kLimit) return {};
                   accepted = true;
                   return txn.insert(t, prefix + std::to_string(request), std::to_string(kAmount));
                 });
    if (!done) return std::unexpected(done.error());
    return accepted;
  }

  void run(unsigned threads, unsigned users) {
    std::vector<std::atomic<unsigned>> accepted(users), refused(users);
    std::atomic<unsigned> next{0};
    crew(threads, [&](unsigned, io::SeededRandom&) {
      for (;;) {
        const unsigned n = next.fetch_add(1);
        if (n >= users * kRequests) return;
        const unsigned user = n % users;
        const auto answer = withdraw(user, n / users);
        ASSERT_TRUE(answer.has_value()) << answer.error().message();
        (*answer ? accepted : refused)[user].fetch_add(1);
      }
    });
    for (unsigned u = 0; u < users; ++u) {
      EXPECT_EQ(accepted[u].load(), kLimit / kAmount) << "user " << u;
      EXPECT_EQ(refused[u].load(), kRequests - kLimit / kAmount) << "user " << u;
    }
  }
};

INSTANTIATE_TEST_SUITE_P(, Withdrawals, testing::Values(How::serializable, How::named_lock),
                         [](const auto& p) {
                           return p.param == How::serializable ? "Serializable" : "NamedLock";
                         });

TEST_P(Withdrawals, TwoUsersFourThreads) {
  for (unsigned round = 0; round < 10; ++round) {
    ASSERT_TRUE(transact(Isolation::read_committed, [&](Transaction& txn) -> Result<void> {
                  std::vector<std::string> keys;
                  for (auto c = txn.scan(t, {}); c.next();) keys.emplace_back(c.key());
                  for (const auto& k : keys) {
                    if (auto ok = txn.remove(t, k); !ok) return ok;
                  }
                  return {};
                }).has_value());
    run(4, 2);
  }
}

TEST_P(Withdrawals, HundredUsersSixtyFourThreads) { run(64, 100); }

TEST_F(Rules, WithoutProtectionTheLimitIsPassed) {
  if (s2pl()) GTEST_SKIP() << "every level of the s2pl build is serializable";
  for (const Isolation level : {Isolation::read_committed, Isolation::snapshot}) {
    const std::string prefix = std::to_string(static_cast<int>(level)) + "/";
    ASSERT_TRUE(db->put(t, prefix + "first", "90000").has_value());
    auto a = db->begin({.isolation = level}).value(), b = db->begin({.isolation = level}).value();
    for (Transaction* txn : {&a, &b}) {
      std::uint64_t sum = 0;
      for (auto c = txn->scan(t, Range::prefix(prefix)); c.next();)
        sum += std::stoull(std::string(c.value()));
      ASSERT_EQ(sum, 90'000u);
    }
    ASSERT_TRUE(a.insert(t, prefix + "a", "10000").has_value());
    ASSERT_TRUE(b.insert(t, prefix + "b", "10000").has_value());
    ASSERT_TRUE(a.commit().has_value());
    ASSERT_TRUE(b.commit().has_value());  // 110,000: shown to happen
  }
}

// ---- write skew --------------------------------------------------------------------------------

TEST_F(Rules, OneDoctorStaysOnCall) {
  constexpr unsigned kDoctors = 4;
  for (unsigned round = 0; round < 30; ++round) {
    for (unsigned d = 0; d < kDoctors; ++d) put("doctor" + std::to_string(d), 1);
    crew(kDoctors, [&](unsigned me, io::SeededRandom&) {
      const auto done = transact(Isolation::serializable, [&](Transaction& txn) -> Result<void> {
        unsigned on_call = 0;
        auto c = txn.scan(t, Range::prefix("doctor"));
        while (c.next()) on_call += c.value() == "1" ? 1 : 0;
        if (!c.status()) return c.status();
        if (on_call < 2) return {};
        return txn.put(t, "doctor" + std::to_string(me), "0");
      });
      ASSERT_TRUE(done.has_value()) << done.error().message();
    });
    unsigned on_call = 0;
    for (auto c = db->scan(t, Range::prefix("doctor")); c.next();) on_call += c.value() == "1";
    ASSERT_EQ(on_call, 1u) << "round " << round;
  }
}

// ---- ids without gaps --------------------------------------------------------------------------

TEST_F(Rules, SequentialInsertsLeaveNoGapAndNoDouble) {
  constexpr unsigned kThreads = 4, kEach = 100;
  std::array<std::atomic<unsigned>, kThreads * kEach + 2> given{};
  crew(kThreads, [&](unsigned, io::SeededRandom&) {
    for (unsigned i = 0; i < kEach; ++i) {
      unsigned id = 0;
      const auto done = transact(Isolation::serializable, [&](Transaction& txn) -> Result<void> {
        Range newest = Range::prefix("id", true);
        auto c = txn.scan(t, newest);
        id = c.next() ? static_cast<unsigned>(std::stoul(std::string(c.key().substr(2)))) + 1 : 1;
        if (!c.status()) return c.status();
        std::string key = std::to_string(id);
        key.insert(0, 8 - key.size(), '0');
        return txn.insert(t, "id" + key, "row");
      });
      ASSERT_TRUE(done.has_value()) << done.error().message();
      given.at(id).fetch_add(1);
    }
  });
  for (unsigned id = 1; id <= kThreads * kEach; ++id) EXPECT_EQ(given[id].load(), 1u) << id;
}

// ---- money neither appears nor goes ------------------------------------------------------------

TEST_F(Rules, TransfersKeepTheTotalAtEveryLevel) {
  constexpr unsigned kAccounts = 8, kEach = 2000;
  for (unsigned a = 0; a < kAccounts; ++a) put("account" + std::to_string(a), 1000);
  const auto total = [&](Transaction& txn) -> Result<std::uint64_t> {
    std::uint64_t sum = 0;
    auto c = txn.scan(t, Range::prefix("account"));
    while (c.next()) sum += std::stoull(std::string(c.value()));
    if (!c.status()) return std::unexpected(c.status().error());
    return sum;
  };
  crew(4, [&](unsigned me, io::SeededRandom& random) {
    constexpr Isolation kLevels[] = {Isolation::read_committed, Isolation::snapshot,
                                     Isolation::serializable};
    for (unsigned i = 0; i < kEach; ++i) {
      const Isolation level = kLevels[random.below(3)];
      if (me == 0) {  // the auditor
        std::uint64_t sum = 0;
        const auto seen = transact(level, [&](Transaction& txn) -> Result<void> {
          const auto s = total(txn);
          if (!s) return std::unexpected(s.error());
          sum = *s;
          return {};
        });
        ASSERT_TRUE(seen.has_value()) << seen.error().message();
        ASSERT_EQ(sum, 1000u * kAccounts);
        continue;
      }
      const std::string from = "account" + std::to_string(random.below(kAccounts));
      const std::string to = "account" + std::to_string(random.below(kAccounts));
      if (from == to) continue;
      const auto done = transact(level, [&](Transaction& txn) -> Result<void> {
        const auto move = [&](const std::string& account, std::int64_t by) -> Result<void> {
          auto ok = txn.update_if(t, account, [by](std::string_view now) {
            return std::to_string(std::stoll(std::string(now)) + by);
          });
          if (!ok) return std::unexpected(ok.error());
          return {};
        };
        if (auto ok = move(from, -1); !ok) return ok;
        return move(to, 1);
      });
      ASSERT_TRUE(done.has_value()) << done.error().message();
    }
  });
  std::uint64_t sum = 0;
  for (auto c = db->scan(t, Range::prefix("account")); c.next();)
    sum += std::stoull(std::string(c.value()));
  EXPECT_EQ(sum, 1000u * kAccounts);
}

// ---- long fork ---------------------------------------------------------------------------------

TEST_F(Rules, AllReadersSeeTwoWritesInOneOrder) {
  constexpr unsigned kRounds = 300;
  std::atomic<unsigned> ready{0};
  std::array<std::array<std::pair<std::uint64_t, std::uint64_t>, kRounds>, 2> seen{};
  put("x", 0);
  put("y", 0);
  crew(4, [&](unsigned me, io::SeededRandom&) {
    for (unsigned r = 0; r < kRounds; ++r) {
      ready.fetch_add(1);
      while (ready.load() < 4 * (r + 1)) io::yield_thread();
      if (me < 2) {
        const auto done = transact(Isolation::snapshot, [&](Transaction& txn) {
          return txn.put(t, me == 0 ? "x" : "y", std::to_string(r + 1));
        });
        ASSERT_TRUE(done.has_value());
        continue;
      }
      const auto done = transact(Isolation::snapshot, [&](Transaction& txn) -> Result<void> {
        auto& [x, y] = seen[me - 2][r];
        const auto gx = txn.get(t, "x"), gy = txn.get(t, "y");
        if (!gx) return std::unexpected(gx.error());
        if (!gy) return std::unexpected(gy.error());
        x = std::stoull(*gx);
        y = std::stoull(*gy);
        return {};
      });
      ASSERT_TRUE(done.has_value()) << done.error().message();
    }
  });
  for (unsigned r = 0; r < kRounds; ++r) {
    const auto [ax, ay] = seen[0][r];
    const auto [bx, by] = seen[1][r];
    EXPECT_FALSE((ax > bx && ay < by) || (ax < bx && ay > by)) << "round " << r;
  }
}

// ---- crossed locks -----------------------------------------------------------------------------

TEST_F(Rules, SortedLocksNeverDeadlock) {
#ifdef KESSAI_DEBUG_CHECKS  // sanitizers
  constexpr unsigned kRounds = 10'000;
#else
  constexpr unsigned kRounds = 500'000;  // of each thread
#endif
  const std::string_view keys[] = {"1", "2"}, crossed[] = {"2", "1"};
  crew(2, [&](unsigned me, io::SeededRandom&) {
    for (unsigned r = 0; r < kRounds; ++r) {
      auto txn = db->begin({.isolation = Isolation::read_committed}).value();
      const auto ok = me == 0 ? txn.lock_many(t, keys) : txn.lock_many(t, crossed);
      ASSERT_TRUE(ok.has_value()) << ok.error().message();
    }
  });
  EXPECT_TRUE(db->deadlocks().empty());
}

}  // namespace
}  // namespace kessai
