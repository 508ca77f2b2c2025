// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/accounts.hpp"

#include <algorithm>
#include <atomic>
#include <map>
#include <vector>

#include "io/sync.hpp"
#include "tests/engine/mode.hpp"
#include "tests/payments/pay_store.hpp"
#include "tests/tools/seed.hpp"

namespace kessai::payments {
namespace {

constexpr Micros kNoon = 1'291'204'800'000'000;  // 2010-12-01 12:00

struct Books : ::testing::Test {
  PayStore store;
  Accounts accounts = must(Accounts::open(*store.db, true));
  int ids = 0;

  std::string new_id() { return "d" + std::to_string(++ids); }
  Deal deal(Milli amount, Micros time = kNoon) {
    return {.id = new_id(), .amount = amount, .time = time};
  }
  static AccountEventRow entry(std::string account, Milli amount, std::string id,
                               Micros time = kNoon) {
    AccountEventRow e;
    e.account = std::move(account);
    e.ledger = amount;
    e.id = std::move(id);
    e.event_date = e.create_date = time;
    return e;
  }
  void post(std::string account, Milli amount, Micros time = kNoon) {
    must(store.run([&](Transaction& txn) -> Result<int> {
      const auto ok = accounts.post(txn, entry(account, amount, new_id(), time));
      if (!ok) return std::unexpected(ok.error());
      return 0;
    }));
  }
  template <class Call>
  Applied apply(Call call) {
    return must(store.run([&](Transaction& txn) { return call(txn); }));
  }
  Balance balance(std::string_view account, ReadPlan* plan = nullptr) {
    return store.read([&](Transaction& txn) { return must(accounts.balance(txn, account, plan)); });
  }
  Balance all() {
    return store.read([&](Transaction& txn) { return must(accounts.all(txn)); });
  }
};

TEST_F(Books, SumTheEventsOfAnAccount) {
  post("a", 5000);
  post("a", -2000, kNoon + 1);
  post("b", 7);
  EXPECT_EQ(balance("a").ledger, 3000);
  EXPECT_EQ(balance("a").available, 3000);
  EXPECT_EQ(balance("a").rows, 2u);
  EXPECT_EQ(balance("").rows, 0u);
  post("", 1);
  EXPECT_EQ(balance("").ledger, 1);
  EXPECT_EQ(all().ledger, 3008);
}

// Goal: a sum visits the account's own rows, whatever others have (A03b), and the tail behind a
// mark.
TEST_F(Books, VisitRowsOfOneAccountOnly) {
  for (int i = 0; i < 40; ++i) {
    post("1785" + std::to_string(i), 1);
    post("17850", 10, kNoon + i);
  }
  ReadPlan plan;
  EXPECT_EQ(balance("17850", &plan).ledger, 401);
  EXPECT_EQ(plan.visited, 41u);
  must(store.run([&](Transaction& txn) { return accounts.mark(txn, "17850", kNoon); }));
  post("17850", 100, kNoon + 1000);
  ReadPlan marked;
  EXPECT_EQ(balance("17850", &marked).ledger, 501);
  EXPECT_EQ(balance("17850").rows, 42u);
  EXPECT_EQ(marked.visited, 2u);  // the mark and one event
}

// Goal: A03b: a balance reads the account's rows and pages, whatever the others have. Method:
// accounts of 10, 1,000 and (complete: 100,000) rows among neighbours, counters; prints the times.
TEST_F(Books, ReadAsMuchAsTheAccountHas) {
#ifdef KESSAI_COMPLETE
  const int largest = 100'000;
#else
  const int largest = 5000;
#endif
  const int sizes[] = {10, 1000, largest};
  const auto fill = [&](const std::string& account, int rows) {
    constexpr int kBatch = 500;
    for (int from = 0; from < rows; from += kBatch) {
      must(store.run([&](Transaction& txn) -> Result<int> {
        for (int i = from; i < std::min(rows, from + kBatch); ++i) {
          const auto event = entry(account, 1, std::to_string(i), kNoon + i);
          if (auto ok = accounts.post(txn, event); !ok) return std::unexpected(ok.error());
        }
        return 0;
      }));
    }
  };
  for (int i = 0; i < 50; ++i) fill("neighbour" + std::to_string(i), 20);
  for (const int rows : sizes) {
    const std::string account = "rows " + std::to_string(rows);
    fill(account, rows);
    ReadPlan plan;
    const auto began = io::system_clock().now_ns();
    const Balance b = balance(account, &plan);
    std::printf("balance of %d rows: %llu us, %llu leaf pages\n", rows,
                static_cast<unsigned long long>((io::system_clock().now_ns() - began) / 1000),
                static_cast<unsigned long long>(plan.leaves));
    EXPECT_EQ(b.ledger, rows);
    EXPECT_EQ(b.rows, static_cast<std::uint64_t>(rows));
    EXPECT_EQ(plan.visited, static_cast<std::uint64_t>(rows));
    // A row has about 80 bytes: more than ten share a leaf. The rest: the mark that is not there,
    // the ends, and in the S2PL build the short stretches with which a scan begins.
    EXPECT_LE(plan.leaves, static_cast<std::uint64_t>(rows) / 10 + 16);
  }
}

// Goal: A03d. Each case: an authorisation of 1,000 and what follows; then available and ledger.
TEST_F(Books, BookAuthorisationAndClearing) {
  struct Step {
    char what;  // 'h'old, 'c'apture (last), 'p'artial capture, 'r'elease
    Milli amount;
  };
  struct Case {
    const char* name;
    std::vector<Step> steps;
    Milli available, ledger;
  };
  const Case cases[] = {
      {"authorised", {{'h', 1000}}, -1000, 0},
      {"cleared for less", {{'h', 1000}, {'c', 900}}, -900, -900},
      {"cleared without authorisation", {{'c', 900}}, -900, -900},
      {"cleared in parts", {{'h', 1000}, {'p', 300}, {'p', 200}}, -1000, -500},
      {"last part", {{'h', 1000}, {'p', 300}, {'c', 200}}, -500, -500},
      {"cleared late, after the release", {{'h', 1000}, {'r', 0}, {'c', 900}}, -900, -900},
      {"cleared for more", {{'h', 1000}, {'p', 1200}}, -1200, -1200},
      {"released", {{'h', 1000}, {'r', 0}}, 0, 0},
      {"released twice", {{'h', 1000}, {'r', 0}, {'r', 0}}, 0, 0},
      {"released without authorisation", {{'r', 0}}, 0, 0},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const std::string hold = std::string("hold ") + c.name;
    Micros time = kNoon;
    for (const Step& s : c.steps) {
      Deal d = deal(s.amount, ++time);
      if (s.what == 'h') d.id = hold;
      EXPECT_EQ(apply([&](Transaction& txn) {
                  return s.what == 'h'   ? accounts.hold(txn, d, c.name)
                         : s.what == 'r' ? accounts.release(txn, d, c.name, hold)
                                         : accounts.capture(txn, d, c.name, hold, s.what == 'c');
                }),
                Applied::done);
    }
    EXPECT_EQ(balance(c.name).available, c.available);
    EXPECT_EQ(balance(c.name).ledger, c.ledger);
  }
}

// Goal: a deal done again changes nothing; the same id for anything else is refused.
TEST_F(Books, DoADealOnce) {
  post("a", 1000);
  const Deal d = deal(400);
  const auto go = [&](std::string_view from, std::string_view to, const Deal& what) {
    return store.run([&](Transaction& txn) { return accounts.transfer(txn, what, from, to); });
  };
  EXPECT_EQ(must(go("a", "b", d)), Applied::done);
  EXPECT_EQ(must(go("a", "b", d)), Applied::already_done);
  Deal other = d;
  other.amount = 401;
  EXPECT_EQ(go("a", "b", other).error(), Code::key_exists);
  EXPECT_EQ(go("a", "c", d).error(), Code::key_exists);
  EXPECT_EQ(go("c", "b", d).error(), Code::key_exists);
  EXPECT_EQ(go("a", "a", deal(1)).error(), Code::invalid_argument);
  EXPECT_EQ(go("a", "b", deal(0)).error(), Code::invalid_argument);
  EXPECT_EQ(balance("a").ledger, 600);
  EXPECT_EQ(balance("b").ledger, 400);
  EXPECT_EQ(all().ledger, 1000);
}

TEST_F(Books, RefuseWhatWouldOverdraw) {
  post("a", 1000);
  const auto hold = [&](Milli amount) {
    const Deal d = deal(amount);
    return apply([&](Transaction& txn) { return accounts.hold(txn, d, "a", 0); });
  };
  EXPECT_EQ(hold(600), Applied::done);
  EXPECT_EQ(hold(401), Applied::refused);
  const Deal d = deal(401);
  EXPECT_EQ(apply([&](Transaction& txn) { return accounts.transfer(txn, d, "a", "b", 0); }),
            Applied::refused);
  EXPECT_EQ(balance("a").available, 400);
  EXPECT_EQ(balance("b").rows, 0u);
  // Refused is not done: once there is enough, the same deal goes through.
  post("a", 1);
  EXPECT_EQ(apply([&](Transaction& txn) { return accounts.transfer(txn, d, "a", "b", 0); }),
            Applied::done);
}

TEST_F(Books, RefuseSumsThatDoNotFitAndOtherCurrencies) {
  post("a", INT64_MAX);
  post("a", 1, kNoon + 1);  // an insert looks at no sum; reading it must not wrap
  EXPECT_EQ(store.read([&](Transaction& txn) { return accounts.balance(txn, "a"); }).error(),
            Code::invalid_argument);
  post("b", 1);
  AccountEventRow yen = entry("b", 1, "yen", kNoon + 1);
  yen.currency = *parse_currency("JPY");
  EXPECT_EQ(
      store.run([&](Transaction& txn) { return accounts.insert_if_sum_at_most(txn, yen, 100); })
          .error(),
      Code::invalid_argument);
  for (const Micros odd : {Micros{-1}, Micros{INT64_MAX}, Micros{INT64_MIN}}) {
    EXPECT_EQ(store
                  .run([&](Transaction& txn) {
                    return accounts.insert_if_sum_at_most(txn, entry("c", 1, "odd", odd), 100);
                  })
                  .error(),
              Code::invalid_argument);
  }
}

// Goal: whatever books an event, it is in the account's currency or answers an error, and the
// balance can always be told; also behind a mark, and for either side of a transfer.
TEST_F(Books, KeepOneCurrencyAnAccount) {
  const Currency yen = *parse_currency("JPY");
  post("a", 1000);
  post("b", 1000);
  AccountEventRow first = entry("y", 50, new_id());
  first.currency = yen;
  must(
      store.run([&](Transaction& txn) { return accounts.insert_if_sum_at_most(txn, first, 100); }));
  const auto refused = [&](const auto& call) {
    const auto done = store.run([&](Transaction& txn) -> Result<int> {
      if (auto ok = call(txn); !ok) return std::unexpected(ok.error());
      return 0;
    });
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error(), Code::invalid_argument) << done.error().message();
    EXPECT_NE(done.error().message().find("JPY"), std::string::npos) << done.error().message();
  };
  for (const bool marked : {false, true}) {
    if (marked) must(store.run([&](Transaction& txn) { return accounts.mark(txn, "a", kNoon); }));
    AccountEventRow event = entry("a", 1, new_id(), kNoon + 7);
    event.currency = yen;
    refused([&](Transaction& txn) { return accounts.post(txn, event); });
    Deal d = deal(5);
    d.currency = yen;
    refused([&](Transaction& txn) { return accounts.transfer(txn, d, "a", "y"); });
    refused([&](Transaction& txn) { return accounts.transfer(txn, d, "y", "a"); });
    refused([&](Transaction& txn) { return accounts.transfer(txn, d, "new", "a"); });
    refused([&](Transaction& txn) { return accounts.hold(txn, d, "a"); });
    refused([&](Transaction& txn) { return accounts.capture(txn, d, "a", "none"); });
    refused([&](Transaction& txn) { return accounts.transfer(txn, deal(5), "b", "y"); });
  }
  EXPECT_EQ(balance("a").ledger, 1000);
  EXPECT_EQ(balance("b").ledger, 1000);
  EXPECT_EQ(balance("y").ledger, 50);
  EXPECT_EQ(balance("new").rows, 0u);
  // Two events of a new account in one transaction: the second meets the first.
  refused([&](Transaction& txn) -> Result<void> {
    if (auto ok = accounts.post(txn, entry("n", 1, "gbp")); !ok) return ok;
    AccountEventRow other = entry("n", 1, "jpy", kNoon + 1);
    other.currency = yen;
    return accounts.post(txn, other);
  });
}

// Goal: looking at the currency costs one row: who posts to an account shuts nobody out.
TEST_F(Books, PostBesideEachOther) {
  for (int i = 0; i < 40; ++i) post("hot", 1, kNoon + i);
  const auto waits = store.db->stats().lock_waits;
  Transaction txn = must(store.db->begin({.isolation = Isolation::read_committed}));
  must(accounts.post(txn, entry("hot", 1, "mine", kNoon + 100)));
  io::Thread other("post", [&] { post("hot", 1, kNoon + 101); });
  other.join();
  EXPECT_EQ(store.db->stats().lock_waits, waits);
  must(txn.commit());
  EXPECT_EQ(balance("hot").ledger, 42);
}

TEST_F(Books, NeedATransactionThatSeesTheCurrentState) {
  Transaction txn = must(store.db->begin({.isolation = Isolation::snapshot}));
  const auto posted = accounts.post(txn, entry("a", 1, "e"));
  EXPECT_EQ(posted.has_value(), engine_test::kS2plBuild);
  if (!posted) {
    EXPECT_EQ(posted.error(), Code::invalid_argument);
  }
}

// ---- marks -------------------------------------------------------------------------------------

// Goal: mark + tail = sum of all, at random points, with late events; without marks the same.
TEST_F(Books, AddUpWithAndWithoutMarks) {
  io::SeededRandom random(tools::test_seed());
  std::map<std::string, std::pair<Milli, std::uint64_t>> model;
  Micros now = kNoon;
  for (int i = 0; i < 400; ++i) {
    const std::string account = "a" + std::to_string(random.below(3));
    now += static_cast<Micros>(random.below(100));
    if (random.below(20) == 0) {
      const auto marked =
          store.run([&](Transaction& txn) { return accounts.mark(txn, account, now); });
      if (!marked) {
        EXPECT_EQ(marked.error(), Code::not_found);
      }
      if (marked) {
        EXPECT_EQ(marked->ledger, model[account].first);
        EXPECT_EQ(marked->rows, model[account].second);
      }
    } else {
      const auto amount = static_cast<Milli>(random.below(2000)) - 1000;
      post(account, amount, now - static_cast<Micros>(random.below(5000)));
      model[account].first += amount;
      ++model[account].second;
    }
    const auto& [sum, rows] = model[account];
    ASSERT_EQ(balance(account).ledger, sum) << "step " << i;
    ASSERT_EQ(balance(account).rows, rows);
  }
  must(Accounts::drop_marks(*store.db));
  accounts = must(Accounts::open(*store.db, true));
  for (const auto& [account, expected] : model) {
    EXPECT_EQ(balance(account).ledger, expected.first);
    EXPECT_EQ(balance(account).rows, expected.second);
  }
}

// Goal: a mark misses no event that is posted beside it. Method: posters and markers on one
// account; in the end the newest mark and its tail are all events.
TEST_F(Books, MarkBesidePosters) {
  constexpr int kThreads = 4, kEvents = 60;
  std::atomic<int> posted{0};
  {
    std::vector<io::Thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back("post", [&, t] {
        for (int i = 0; i < kEvents; ++i) {
          const auto event =
              entry("hot", 1, std::to_string(t) + "/" + std::to_string(i), kNoon + i);
          must(store.run([&](Transaction& txn) -> Result<int> {
            if (auto ok = accounts.post(txn, event); !ok) return std::unexpected(ok.error());
            return 0;
          }));
          ++posted;
        }
      });
    }
    threads.emplace_back("mark", [&] {
      while (posted < kThreads * kEvents) {
        const auto m =
            store.run([&](Transaction& txn) { return accounts.mark(txn, "hot", kNoon); });
        if (!m) {
          EXPECT_EQ(m.error(), Code::not_found) << m.error().message();
        }
      }
    });
    for (auto& t : threads) t.join();
  }
  EXPECT_EQ(balance("hot").ledger, kThreads * kEvents);
  EXPECT_EQ(all().ledger, kThreads * kEvents);
}

// ---- one after the other -----------------------------------------------------------------------

// Runs `second` on a thread while `first`'s transaction is open, and commits that once `second`
// waits for a lock (or, wrongly, is done).
struct Pair : Books {
  template <class First, class Second>
  void meet(First first, Second second) {
    Transaction txn = must(store.db->begin({.isolation = Isolation::read_committed}));
    first(txn);
    std::atomic<bool> done{false};
    io::Thread other("second", [&] {
      must(store.run([&](Transaction& own) -> Result<int> { return second(own); }));
      done = true;
    });
    const auto waits = [&] {
      const auto locks = store.db->locks();
      return std::any_of(locks.begin(), locks.end(),
                         [](const auto& l) { return !l.waiters.empty(); });
    };
    while (!done && !waits()) io::yield_thread();
    EXPECT_FALSE(done);
    must(txn.commit());
    other.join();
  }
};

// Goal: who judges a sum sees what the one before inserted, though it was not committed then.
TEST_F(Pair, JudgesTheSumThatTheOneBeforeLeaves) {
  bool second = true;
  meet(
      [&](Transaction& txn) {
        EXPECT_TRUE(must(accounts.insert_if_sum_at_most(txn, entry("a", 60, "1"), 100)));
      },
      [&](Transaction& txn) -> Result<int> {
        auto done = accounts.insert_if_sum_at_most(txn, entry("a", 60, "2"), 100);
        if (!done) return std::unexpected(done.error());
        second = *done;
        return 0;
      });
  EXPECT_FALSE(second);
  EXPECT_EQ(balance("a").ledger, 60);
}

TEST_F(Pair, MarksWhatIsBeingPosted) {
  post("a", 1);
  BalanceMarkRow mark;
  meet([&](Transaction& txn) { must(accounts.post(txn, entry("a", 10, "late", kNoon - 1))); },
       [&](Transaction& txn) -> Result<int> {
         auto made = accounts.mark(txn, "a", kNoon);
         if (!made) return std::unexpected(made.error());
         mark = *made;
         return 0;
       });
  EXPECT_EQ(mark.ledger, 11);
  EXPECT_EQ(balance("a").ledger, 11);
}

TEST_F(Pair, BooksBehindAMarkThatIsBeingMade) {
  post("a", 1);
  meet([&](Transaction& txn) { must(accounts.mark(txn, "a", kNoon)); },
       [&](Transaction& txn) -> Result<int> {
         auto ok = accounts.post(txn, entry("a", 10, "late", kNoon - 1));
         if (!ok) return std::unexpected(ok.error());
         return 0;
       });
  EXPECT_EQ(balance("a").ledger, 11);
}

// Goal: of two that begin an account in two currencies one is told.
TEST_F(Pair, DecidesTheCurrencyOfANewAccountOnce) {
  AccountEventRow yen = entry("a", 1, "jpy", kNoon + 1);
  yen.currency = *parse_currency("JPY");
  Result<void> second;
  meet([&](Transaction& txn) { must(accounts.post(txn, entry("a", 1, "gbp"))); },
       [&](Transaction& txn) -> Result<int> {
         second = accounts.post(txn, yen);
         if (!second && second.error().retryable()) return std::unexpected(second.error());
         return 0;
       });
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error(), Code::invalid_argument);
  EXPECT_EQ(balance("a").ledger, 1);
}

TEST_F(Pair, TransfersOneDealOnce) {
  post("a", 100);
  const Deal d = deal(60);
  Applied second = Applied::done;
  meet(
      [&](Transaction& txn) {
        EXPECT_EQ(must(accounts.transfer(txn, d, "a", "b")), Applied::done);
      },
      [&](Transaction& txn) -> Result<int> {
        auto done = accounts.transfer(txn, d, "a", "b");
        if (!done) return std::unexpected(done.error());
        second = *done;
        return 0;
      });
  EXPECT_EQ(second, Applied::already_done);
  EXPECT_EQ(balance("b").ledger, 60);
}

// ---- many threads ------------------------------------------------------------------------------

// Goal: A09: withdrawals of 10,000 against a limit of 100,000; 12 requests a user, from whatever
// threads: exactly 10 are accepted and 2 refused for each user, and there is no other answer.
struct Withdrawals : Books {
  static constexpr int kEach = 12;  // requests a user
  static constexpr Milli kAmount = 10'000'000, kLimit = 100'000'000;

  void withdraw(int users, int thread_count, const std::string& round) {
    std::vector<std::atomic<int>> accepted(static_cast<std::size_t>(users)),
        refused(static_cast<std::size_t>(users));
    std::atomic<int> next{0}, errors{0}, ready{0};
    {
      std::vector<io::Thread> threads;
      for (int t = 0; t < thread_count; ++t) {
        threads.emplace_back("withdraw", [&] {
          for (++ready; ready < thread_count;) io::yield_thread();
          // Requests of one user follow each other: they meet.
          for (int n = next++; n < users * kEach; n = next++) {
            const auto user = static_cast<std::size_t>(n / kEach);
            const auto event = entry(round + "/user" + std::to_string(user), kAmount,
                                     std::to_string(n), kNoon + n);
            const auto done = store.run([&](Transaction& txn) {
              return accounts.insert_if_sum_at_most(txn, event, kLimit);
            });
            if (!done) {
              ++errors;
              ADD_FAILURE() << done.error().message();
            } else {
              ++(*done ? accepted : refused)[user];
            }
          }
        });
      }
      for (auto& t : threads) t.join();
    }
    EXPECT_EQ(errors, 0);
    for (std::size_t user = 0; user < accepted.size(); ++user) {
      EXPECT_EQ(accepted[user], 10) << user;
      EXPECT_EQ(refused[user], 2) << user;
      EXPECT_EQ(balance(round + "/user" + std::to_string(user)).ledger, kLimit);
    }
  }
};

TEST_F(Withdrawals, AreAcceptedExactlyAsFarAsTheLimitAllows) {
  for (int round = 0; round < 10; ++round) withdraw(2, 4, std::to_string(round));
  withdraw(20, 16, "more");
}

#ifdef KESSAI_COMPLETE
TEST_F(Withdrawals, OfAHundredUsersFrom64Threads) {
  for (int round = 0; round < 10; ++round) withdraw(100, 64, std::to_string(round));
}
#endif

// Goal: money is conserved at every snapshot, nobody is overdrawn. Method: threads move random
// amounts among few accounts while a reader sums all of them.
TEST_F(Books, ConserveMoneyAtEverySnapshot) {
  const std::uint64_t seed = tools::test_seed();
  constexpr int kAccounts = 5, kThreads = 4, kMoves = 40;
  for (int i = 0; i < kAccounts; ++i) post("a" + std::to_string(i), 1000);
  std::atomic<int> running{kThreads}, done{0};
  {
    std::vector<io::Thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back("move", [&, t] {
        io::SeededRandom random(seed + static_cast<unsigned>(t));
        for (int i = 0; i < kMoves; ++i) {
          const auto from = random.below(kAccounts);
          const std::string to =
              "a" + std::to_string((from + 1 + random.below(kAccounts - 1)) % kAccounts);
          const Deal d{.id = std::to_string(t) + "/" + std::to_string(i),
                       .amount = static_cast<Milli>(1 + random.below(700)),
                       .time = kNoon + i};
          const auto moved = must(store.run([&](Transaction& txn) {
            return accounts.transfer(txn, d, "a" + std::to_string(from), to, 0);
          }));
          done += moved == Applied::done ? 1 : 0;
        }
        --running;
      });
    }
    threads.emplace_back("sum", [&] {
      while (running != 0) {
        const auto sums = engine_test::despite_deadlocks(*store.db, [&]() -> Result<Balance> {
          auto txn = store.db->read_only();
          if (!txn) return std::unexpected(txn.error());
          return accounts.all(*txn);
        });
        if (!sums && sums.error() == Code::lock_timeout) continue;  // S2PL: writers were busy
        EXPECT_EQ(must(sums).ledger, 1000 * kAccounts);
      }
    });
    for (auto& t : threads) t.join();
  }
  EXPECT_GT(done, 0);
  for (int i = 0; i < kAccounts; ++i) EXPECT_GE(balance("a" + std::to_string(i)).ledger, 0);
  EXPECT_EQ(all().rows, static_cast<std::uint64_t>(kAccounts + 2 * done));
}

}  // namespace
}  // namespace kessai::payments
