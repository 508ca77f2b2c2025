// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/table.hpp"

#include <atomic>
#include <vector>

#include "io/sync.hpp"
#include "tests/engine/mode.hpp"
#include "tests/payments/pay_store.hpp"
#include "tests/tools/seed.hpp"

namespace kessai::payments {
namespace {

struct NoteRow {
  static constexpr TableSpec kTable{.name = "note", .partition = Partition::daily};
  std::string id = {};
  Micros create_date = 0;
  std::string text = {};
  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("NOTE_ID", ColumnType::text, r.id);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
    f("TEXT", ColumnType::text, r.text);
  }
};

struct SequenceRow {
  static constexpr TableSpec kTable{.name = "sequence", .hashed = false};
  Micros at = 0;
  std::string id = {};
  Micros create_date = 0;
  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("AT", ColumnType::time, r.at);
    f("ID", ColumnType::text, r.id);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
  }
};

NoteRow note(std::string id, std::string_view time, std::string text = "x") {
  return {.id = std::move(id), .create_date = time_of(time), .text = std::move(text)};
}

const Day kDay1 = day("2010-12-01"), kDay2 = day("2010-12-02");

struct Notes : ::testing::Test {
  PayStore store;
  Table<NoteRow> notes = must(Table<NoteRow>::open(*store.db, true));

  Result<Table<NoteRow>::Inserted> insert(const NoteRow& r) {
    return store.run([&](Transaction& txn) { return notes.insert(txn, r); });
  }
  std::optional<NoteRow> get(std::string id) {
    return store.read(
        [&](Transaction& txn) { return must(notes.get(txn, {.id = std::move(id)})); });
  }
  std::vector<std::string> scan(const Window& window, ReadPlan* plan = nullptr) {
    return store.read([&](Transaction& txn) {
      std::vector<std::string> out;
      auto c = notes.scan(txn, window, plan);
      while (c.next()) out.push_back(c.row().id);
      EXPECT_TRUE(c.status()) << c.status().error().message();
      std::sort(out.begin(), out.end());
      return out;
    });
  }
};

// ---- encoding ----------------------------------------------------------------------------------

template <class T>
std::string encoded(const T& value) {
  Encoder e;
  e.put(value);
  return e.take();
}

// Goal: bytes compare as values do. Method: random neighbours and extremes, all pairs.
TEST(Encoding, KeepsTheOrderOfValues) {
  io::SeededRandom random(tools::test_seed());
  std::vector<std::int64_t> numbers{INT64_MIN, INT64_MIN + 1, -256, -1, 0, 1, 255, 256, INT64_MAX};
  std::vector<std::string> texts{"",
                                 std::string(1, '\0'),
                                 std::string(2, '\0'),
                                 "a",
                                 std::string("a\0", 2),
                                 std::string("a\0\xff", 3),
                                 "a\xff",
                                 "b"};
  for (int i = 0; i < 60; ++i) {
    numbers.push_back(static_cast<std::int64_t>(random.below(UINT64_MAX)));
    texts.push_back(tools::random_bytes(random, random.below(5)));
    if (i % 2 == 0) texts.back() += texts[random.below(texts.size())];
  }
  for (const auto a : numbers) {
    for (const auto b : numbers) EXPECT_EQ(a < b, encoded(a) < encoded(b)) << a << " " << b;
  }
  for (const auto& a : texts) {
    for (const auto& b : texts) {
      EXPECT_EQ(a < b, encoded(a) < encoded(b));
      // Also with a column behind it, whatever that is.
      if (a != b) {
        EXPECT_EQ(a < b, encoded(a) + "\xff" < encoded(b) + std::string(1, '\0'));
      }
    }
    const std::string bytes = encoded(a);
    Decoder d(bytes);
    EXPECT_EQ(d.text(), a);
    EXPECT_TRUE(d.good());
  }
}

TEST(Encoding, DecodesNothingThatIsNotThere) {
  io::SeededRandom random(tools::test_seed());
  RequestRow row;
  row.id = "536365";
  row.account = "17850";
  row.card_token = std::string("tok\0en", 6);
  const std::string key = row::key_of(row), value = row::value_of(row);
  EXPECT_EQ(key, row_key("536365"));  // design.md: hash || original id
  const auto same = must(row::decode<RequestRow>(key, value));
  EXPECT_EQ(same.card_token, row.card_token);
  EXPECT_EQ(same.account, row.account);
  for (std::size_t cut = 0; cut < value.size(); ++cut)
    EXPECT_EQ(row::decode<RequestRow>(key, value.substr(0, cut)).error(), Code::damaged) << cut;
  EXPECT_EQ(row::decode<RequestRow>(key, value + "x").error(), Code::damaged);
  EXPECT_EQ(row::decode<RequestRow>(key + "x", value).error(), Code::damaged);
  EXPECT_EQ(row::decode<RequestRow>("", value).error(), Code::damaged);
  for (int i = 0; i < 2000; ++i) {  // must not crash; what decodes must encode back
    std::string damaged = value;
    damaged[random.below(damaged.size())] = static_cast<char>(random.below(256));
    const auto r = row::decode<RequestRow>(key, damaged);
    EXPECT_TRUE(!r || row::value_of(*r) == damaged);
  }
}

TEST(Encoding, GroupsTheRowsOfAFirstColumn) {
  const CancelAttemptRow a{.transaction = std::string("t\0", 2), .attempt = 1};
  const CancelAttemptRow b{.transaction = std::string("t\0", 2), .attempt = 256};
  EXPECT_TRUE(row::key_of(a).starts_with(group_prefix(a.transaction)));
  EXPECT_FALSE(row::key_of(a).starts_with(group_prefix("t")));
  EXPECT_LT(row::key_of(a), row::key_of(b));
  EXPECT_EQ(must(row::decode<CancelAttemptRow>(row::key_of(b), row::value_of(b))).attempt, 256u);
}

// ---- insert-only -------------------------------------------------------------------------------

TEST_F(Notes, AreInsertedAndRead) {
  EXPECT_TRUE(must(insert(note("n1", "2010-12-01 08:26:00", "hello"))).inserted);
  EXPECT_EQ(get("n1")->text, "hello");
  EXPECT_EQ(get("n2"), std::nullopt);
  const auto again = must(insert(note("n1", "2010-12-01 09:00:00", "other")));
  ASSERT_FALSE(again.inserted);
  EXPECT_EQ(again.earlier->text, "hello");
  EXPECT_EQ(get("n1")->text, "hello");
}

// Goal: an id is unique over all days (E09), and the answer carries the earlier row.
TEST_F(Notes, HaveUniqueIdsOverAllDays) {
  ASSERT_TRUE(must(insert(note("n1", "2010-12-01 23:59:59", "first"))).inserted);
  const auto after_midnight = must(insert(note("n1", "2010-12-02 00:00:01", "second")));
  ASSERT_FALSE(after_midnight.inserted);
  EXPECT_EQ(after_midnight.earlier->text, "first");
  EXPECT_EQ(scan({}), std::vector<std::string>{"n1"});
  // Within one transaction too, and before the first is committed.
  store.run([&](Transaction& txn) -> Result<int> {
    EXPECT_TRUE(must(notes.insert(txn, note("n2", "2010-12-02 23:59:59"))).inserted);
    EXPECT_EQ(must(notes.insert(txn, note("n2", "2010-12-03 00:00:00"))).earlier->text, "x");
    return 0;
  });
}

TEST_F(Notes, TakeIdsOfAnyBytes) {
  for (const std::string& id : {std::string(), std::string(1, '\0'), std::string(255, 'n'),
                                std::string(256, 'n'), std::string("a\0b\xff", 4)}) {
    EXPECT_TRUE(must(insert(note(id, "2010-12-01 00:00"))).inserted) << id.size();
    EXPECT_EQ(get(id)->id, id);
  }
  EXPECT_EQ(insert(note(std::string(2000, 'n'), "2010-12-01 00:00")).error(), Code::key_too_long);
  EXPECT_EQ(insert({.id = "jump", .create_date = -1}).error(), Code::invalid_argument);
  EXPECT_EQ(insert({.id = "jump", .create_date = INT64_MAX}).error(), Code::invalid_argument);
  EXPECT_EQ(get("jump"), std::nullopt);
  EXPECT_TRUE(must(insert(note("jump", "9999-12-31 23:59:59"))).inserted);
}

TEST_F(Notes, CannotBeChangedByAnyCall) {
  ASSERT_TRUE(must(insert(note("n1", "2010-12-01 08:26:00"))).inserted);
  for (const char* name : {"note.20101201", "note.ids"}) {
    const Tree tree = must(store.db->tree(name));
    EXPECT_TRUE(tree.insert_only());
    const std::string key = row::key_of(note("n1", "2010-12-01 08:26:00"));
    const std::string before = must(store.db->get(tree, key));
    EXPECT_EQ(store.db->put(tree, key, "y").error(), Code::insert_only_violation);
    EXPECT_EQ(store.db->put(tree, "new", "y").error(), Code::insert_only_violation);
    EXPECT_EQ(store.db->remove(tree, key).error(), Code::insert_only_violation);
    Transaction txn = must(store.db->begin());
    EXPECT_EQ(txn.update_if(tree, key, [](auto) { return "y"; }).error(),
              Code::insert_only_violation);
    EXPECT_TRUE(txn.active());
    must(txn.commit());
    EXPECT_EQ(must(store.db->get(tree, key)), before);
  }
}

TEST_F(Notes, JoinTheCallersTransaction) {
  Transaction txn = must(store.db->begin());
  EXPECT_TRUE(must(notes.insert(txn, note("n1", "2010-12-01 08:26:00"))).inserted);
  EXPECT_EQ(must(notes.get(txn, {.id = "n1"}))->id, "n1");
  must(txn.rollback());
  EXPECT_EQ(get("n1"), std::nullopt);
  EXPECT_TRUE(must(insert(note("n1", "2010-12-05 00:00:00"))).inserted);
}

// Goal: of two transactions with one id on two days one wins and the other hears of it, at every
// isolation level and with locks at the call or at commit.
TEST_F(Notes, LetOneOfTwoConcurrentInsertsWin) {
  int n = 0;
  for (const Isolation level :
       {Isolation::read_committed, Isolation::snapshot, Isolation::serializable}) {
    for (const Locking locking : {Locking::at_call, Locking::at_commit}) {
      const std::string id = "n" + std::to_string(n++);
      const RetryPolicy policy{.begin = {.isolation = level, .locking = locking}, .attempts = 1000};
      std::atomic<int> won{0}, heard{0};
      {
        std::vector<io::Thread> threads;
        for (int i = 0; i < 4; ++i) {
          threads.emplace_back("insert", [&, i] {
            const auto once = [&] {
              return run_transaction(*store.db, policy, [&](Transaction& txn) {
                return notes.insert(
                    txn, note(id, i % 2 == 0 ? "2010-12-01 12:00" : "2010-12-02 12:00", "same"));
              });
            };
            auto done = once();
            // Judged at commit, read_committed hears of the other row there, and asks again.
            while (!done && done.error() == Code::key_exists) done = once();
            if (must(done).inserted) {
              ++won;
            } else {
              heard += done->earlier && done->earlier->text == "same" ? 1 : 0;
            }
          });
        }
        for (auto& t : threads) t.join();
      }
      EXPECT_EQ(won, 1);
      EXPECT_EQ(heard, 3);
    }
  }
}

// ---- partitions --------------------------------------------------------------------------------

TEST_F(Notes, OpenOnlyThePartitionsOfTheWindow) {
  for (Day d = kDay1; d < kDay1 + 30; ++d) {
    ASSERT_TRUE(
        must(insert({.id = "n" + std::to_string(d), .create_date = d * kDayMicros})).inserted);
  }
  ReadPlan plan;
  EXPECT_EQ(scan({kDay1 + 3, kDay1 + 4}, &plan).size(), 2u);
  EXPECT_EQ(plan.opened, (std::vector<std::string>{"note.20101204", "note.20101205"}));
  EXPECT_EQ(plan.pruned, 28u);
  EXPECT_EQ(plan.visited, 2u);
  EXPECT_EQ(plan.leaves, engine_test::kS2plBuild ? 4u : 2u);  // S2PL: a row, then the rest
  EXPECT_NE(plan.text().find("leaf pages read: " + std::to_string(plan.leaves) + ";"),
            std::string::npos)
      << plan.text();
  EXPECT_EQ(plan.text().find("warning"), std::string::npos);
  ReadPlan wide;
  EXPECT_EQ(scan({}, &wide).size(), 30u);
  EXPECT_EQ(wide.pruned, 0u);
  EXPECT_NE(wide.text().find("warning"), std::string::npos);
  EXPECT_EQ(scan(Window::day(kDay1 - 1)).size(), 0u);
  EXPECT_EQ(scan({kDay1 + 5, kDay1 + 1}).size(), 0u);
}

TEST_F(Notes, AreFoundAfterACrashOfTheFirstRowOfADay) {
  must(notes.prepare(kDay2));  // waits for no flush: the row's takes it along
  ASSERT_TRUE(must(insert(note("n1", "2010-12-01 08:26:00"))).inserted);
  store.reopen_after_power_loss();
  notes = must(Table<NoteRow>::open(*store.db, true));
  EXPECT_EQ(get("n1")->id, "n1");
  EXPECT_TRUE(must(store.db->tree("note.20101202")).insert_only());
  EXPECT_FALSE(must(insert(note("n1", "2010-12-02 08:26:00"))).inserted);
}

// Goal: many threads that meet new days at once all get through, and nothing is lost or doubled.
TEST_F(Notes, MeetNewDaysFromManyThreads) {
  constexpr int kThreads = 8, kDays = 12;
  std::vector<io::Thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back("insert", [&, t] {
      for (Day d = 0; d < kDays; ++d) {
        const NoteRow row{.id = std::to_string(t) + "/" + std::to_string(d),
                          .create_date = (kDay1 + d) * kDayMicros + t};
        EXPECT_TRUE(must(insert(row)).inserted);
      }
    });
  }
  for (auto& t : threads) t.join();
  ReadPlan plan;
  EXPECT_EQ(scan({}, &plan).size(), std::size_t{kThreads * kDays});
  EXPECT_EQ(plan.opened.size(), std::size_t{kDays});
}

// ---- dropping ----------------------------------------------------------------------------------

TEST_F(Notes, AreDroppedWithTheirDayForEver) {
  ASSERT_TRUE(must(insert(note("n1", "2010-12-01 08:26:00"))).inserted);
  ASSERT_TRUE(must(insert(note("n2", "2010-12-02 08:26:00"))).inserted);
  must(drop_day(*store.db, kDay1, std::array{notes.raw()}));
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(scan({}), std::vector<std::string>{"n2"});
    EXPECT_EQ(get("n1"), std::nullopt);
    const auto again = must(insert(note("n1", "2010-12-03 08:26:00")));
    EXPECT_FALSE(again.inserted);
    EXPECT_FALSE(again.earlier);
    // A new id into the dropped day is refused, and its transaction can go on without it.
    store.run([&](Transaction& txn) -> Result<int> {
      EXPECT_EQ(notes.insert(txn, note("n9", "2010-12-01 09:00:00")).error(), Code::tree_not_found);
      return 0;
    });
    EXPECT_EQ(store.db->tree("note.20101201").error(), Code::tree_not_found);
    store.reopen_after_power_loss();
    notes = must(Table<NoteRow>::open(*store.db, true));
  }
  EXPECT_TRUE(must(insert(note("n9", "2010-12-04 09:00:00"))).inserted);
  must(drop_day(*store.db, kDay1, std::array{notes.raw()}));  // again: nothing to do
  EXPECT_TRUE(must(store.db->check()).ok);
}

// Goal: a drop does not disturb who is reading the day: the open cursor goes on to its end, on its
// snapshot; what is read afterwards does not have the day.
TEST_F(Notes, AreReadToTheEndByWhoBeganBeforeTheDrop) {
  for (int i = 0; i < 500; ++i)
    ASSERT_TRUE(must(insert(note("n" + std::to_string(i), "2010-12-01 08:26:00"))).inserted);
  if (engine_test::kS2plBuild) GTEST_SKIP() << "readers of the current state have no snapshot";
  Transaction reader = must(store.db->read_only());
  auto c = notes.scan(reader);
  ASSERT_TRUE(c.next());
  must(drop_day(*store.db, kDay1, std::array{notes.raw()}));
  int rows = 1;
  while (c.next()) ++rows;
  EXPECT_TRUE(c.status()) << c.status().error().message();
  EXPECT_EQ(rows, 500);
  EXPECT_FALSE(notes.scan(reader).next());
  EXPECT_EQ(must(notes.get(reader, {.id = "n1"})), std::nullopt);
  must(reader.rollback());
  EXPECT_EQ(scan({}).size(), 0u);
}

// Goal: the cost of a drop does not grow with the rows (E09). Method: log bytes written by the drop
// of a day of 5 and of a day of 5,000 rows.
TEST_F(Notes, AreDroppedAtACostThatDoesNotGrow) {
  const auto fill = [&](Day d, int rows) {
    store.run([&](Transaction& txn) -> Result<int> {
      for (int i = 0; i < rows; ++i) {
        const NoteRow r{.id = std::to_string(d) + "/" + std::to_string(i),
                        .create_date = d * kDayMicros,
                        .text = std::string(50, 'x')};
        if (auto done = notes.insert(txn, r); !done) return std::unexpected(done.error());
      }
      return 0;
    });
  };
  fill(kDay1, 5);
  fill(kDay2, 5000);
  must(drop_day(*store.db, kDay1 - 1, std::array{notes.raw()}));  // makes the tree of marks
  const auto cost_of = [&](Day d) {
    const auto before = store.db->stats().log_bytes;
    must(drop_day(*store.db, d, std::array{notes.raw()}));
    return store.db->stats().log_bytes - before;
  };
  const auto small = cost_of(kDay1), large = cost_of(kDay2);
  EXPECT_GT(small, 0u);
  EXPECT_EQ(small, large);
}

// ---- the payment tables ------------------------------------------------------------------------

struct Payments : ::testing::Test {
  PayStore store;
  PaymentTables tables = must(PaymentTables::open(*store.db, true));

  static RequestRow request_row(std::string id, std::string_view time) {
    RequestRow r;
    r.id = std::move(id);
    r.create_date = time_of(time);
    return r;
  }
  static ResultRow result_row(std::string id, std::string_view time, std::string answer) {
    ResultRow r;
    r.request = std::move(id);
    r.create_date = time_of(time);
    r.answer = std::move(answer);
    return r;
  }
};

// Goal: a result lives with its request, is unique wherever it is inserted, and needs its request.
TEST_F(Payments, KeepTheResultWithItsRequest) {
  store.run([&](Transaction& txn) -> Result<int> {
    EXPECT_EQ(tables.result.insert(txn, result_row("r1", "2010-12-01 23:59:59", "ok")).error(),
              Code::not_found);
    EXPECT_TRUE(
        must(tables.request.insert(txn, request_row("r1", "2010-12-01 23:59:59"))).inserted);
    return 0;
  });
  EXPECT_TRUE(must(store.run([&](Transaction& txn) {
                return tables.result.insert(txn, result_row("r1", "2010-12-02 00:00:01", "first"));
              })).inserted);
  const auto sweeper = must(store.run([&](Transaction& txn) {
    return tables.result.insert(txn, result_row("r1", "2010-12-09 00:00:00", "second"));
  }));
  ASSERT_FALSE(sweeper.inserted);
  EXPECT_EQ(sweeper.earlier->answer, "first");
  EXPECT_EQ(
      must(store.db->tree_names()),
      (std::vector<std::string>{"alert.ids", "cancel_topic.ids", "main", "payment_request.20101201",
                                "payment_request.ids", "payment_result.20101201"}));
}

TEST_F(Payments, CountTheAttemptsOfACancel) {
  CancelRow cancel;
  cancel.transaction = "r1/1";
  cancel.create_date = time_of("2010-12-01 10:00:00");
  store.run([&](Transaction& txn) -> Result<int> {
    EXPECT_TRUE(must(tables.cancel.insert(txn, cancel)).inserted);
    for (std::uint32_t i = 1; i <= 3; ++i) {
      CancelAttemptRow a{.transaction = "r1/1", .attempt = i, .outcome = CancelOutcome::failed};
      a.create_date = cancel.create_date + i;
      EXPECT_TRUE(must(tables.cancel_attempt.insert(txn, a)).inserted);
    }
    return 0;
  });
  std::uint32_t attempts = 0;
  store.read([&](Transaction& txn) {
    const auto d = must(tables.cancel.locate(txn, cancel));
    auto c = tables.cancel_attempt.group(txn, "r1/1", {}, false, nullptr, d.value());
    while (c.next()) EXPECT_EQ(c.row().attempt, ++attempts);
    EXPECT_TRUE(c.status());
    return 0;
  });
  EXPECT_EQ(attempts, 3u);
}

// Goal: a day goes only when nothing in it waits to be finished, unless the caller says so; the
// error says how many and names the first.
TEST_F(Payments, DropADayOnlyWhenItIsFinished) {
  must(store.run([&](Transaction& txn) -> Result<int> {
    for (int i = 0; i < 30; ++i) {
      const std::string id = "r" + std::to_string(i);
      must(tables.request.insert(txn, request_row(id, "2010-12-01 10:00:00")));
      if (i != 7 && i != 21)
        must(tables.result.insert(txn, result_row(id, "2010-12-02 10:00:00", "ok")));
    }
    return 0;
  }));
  const auto first = [](std::string a, std::string b) { return row_key(a) < row_key(b) ? a : b; };
  const auto refused = tables.drop_payments(*store.db, kDay1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error(), Code::unfinished);
  EXPECT_EQ(refused.error().detail().key, first("r7", "r21"));
  EXPECT_NE(refused.error().message().find("2 rows of 2010-12-01"), std::string::npos)
      << refused.error().message();
  const auto close = [&](const std::string& id) {
    must(store.run([&](Transaction& txn) {
      return tables.result.insert(txn, result_row(id, "2010-12-03 10:00:00", "swept"));
    }));
  };
  close("r7");
  EXPECT_EQ(tables.drop_payments(*store.db, kDay1).error().detail().key, "r21");
  must(tables.drop_payments(*store.db, kDay1 + 1));  // nothing of that day is open
  close("r21");
  must(tables.drop_payments(*store.db, kDay1));
  EXPECT_EQ(store.db->tree("payment_request.20101201").error(), Code::tree_not_found);

  must(store.run([&](Transaction& txn) {
    return tables.request.insert(txn, request_row("late", "2010-12-03 10:00:00"));
  }));
  EXPECT_FALSE(tables.drop_payments(*store.db, kDay1 + 2));
  must(tables.drop_payments(*store.db, kDay1 + 2, Unfinished::drop));
  EXPECT_EQ(store.db->tree("payment_request.20101203").error(), Code::tree_not_found);
}

TEST_F(Payments, DropCancelsOnlyWhenTheyAreDeliveredOrDead) {
  const Micros time = time_of("2010-12-01 10:00:00");
  const auto attempt = [&](Transaction& txn, const char* id, CancelOutcome outcome) {
    must(tables.cancel_attempt.insert(txn, {.transaction = id,
                                            .attempt = 1,
                                            .outcome = outcome,
                                            .next_date = 0,
                                            .detail = "d",
                                            .create_date = time}));
  };
  must(store.run([&](Transaction& txn) -> Result<int> {
    for (const char* id : {"delivered/1", "dead/1", "failed/1", "new/1"}) {
      CancelRow c;
      c.transaction = id;
      c.create_date = time;
      must(tables.cancel.insert(txn, c));
    }
    attempt(txn, "delivered/1", CancelOutcome::delivered);
    attempt(txn, "failed/1", CancelOutcome::failed);
    attempt(txn, "dead/1", CancelOutcome::failed);
    DeadLetterRow dead;
    dead.transaction = "dead/1";
    dead.create_date = time;
    must(tables.dead_letter.insert(txn, dead));
    return 0;
  }));
  const auto refused = tables.drop_cancels(*store.db, kDay1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error(), Code::unfinished);
  EXPECT_NE(refused.error().message().find("2 rows"), std::string::npos);
  EXPECT_TRUE(store.db->tree("cancel_topic.20101201").has_value());
  must(tables.drop_cancels(*store.db, kDay1, Unfinished::drop));
  EXPECT_EQ(store.db->tree("cancel_topic.20101201").error(), Code::tree_not_found);
}

// Goal: of a drop of a day and the first insert of that day whichever comes first, the day is gone
// in the end, with all its trees, and the insert was told so or was dropped with it. Method: both
// at once, again and again, beside somebody who makes and drops other trees, so that who makes the
// day's waits after it looked for the mark; then the store is opened again.
TEST_F(Payments, DropADayBesideItsFirstInsert) {
  int inserted = 0, refused = 0;
  constexpr int kRounds = 300;
  std::atomic<bool> over{false};
  io::Thread churn("churn", [&] {
    while (!over) {
      must(store.db->tree("other", {.create = true}));
      must(store.db->drop_tree("other"));
    }
  });
  for (int round = 0; round < kRounds; ++round) {
    const Day d = kDay1 + round;
    const std::string id = "r" + std::to_string(round);
    std::atomic<int> ready{0};
    Result<Table<RequestRow>::Inserted> done;
    io::Thread inserter("insert", [&] {
      for (++ready; ready < 2;) io::yield_thread();
      done = store.run([&](Transaction& txn) -> Result<Table<RequestRow>::Inserted> {
        RequestRow r;
        r.id = id;
        r.create_date = d * kDayMicros;
        auto request = tables.request.insert(txn, r);
        if (!request) return request;
        ResultRow result;
        result.request = id;
        result.create_date = r.create_date;
        if (auto ok = tables.result.insert(txn, result); !ok) return std::unexpected(ok.error());
        return request;
      });
    });
    for (++ready; ready < 2;) io::yield_thread();
    must(tables.drop_payments(*store.db, d, Unfinished::drop));
    inserter.join();
    if (!done) {
      EXPECT_EQ(done.error(), Code::tree_not_found) << done.error().message();
    }
    ++(done ? inserted : refused);
  }
  over = true;
  churn.join();
  std::printf("%d inserted and dropped, %d refused\n", inserted, refused);
  for (int opened = 0; opened < 2; ++opened) {
    for (const std::string& name : must(store.db->tree_names()))
      EXPECT_FALSE(name.starts_with("payment_re") && name.find(".20") != name.npos) << name;
    // A refused id is free, one that was dropped stays taken.
    int taken = 0;
    for (int round = 0; opened == 1 && round < kRounds; ++round) {
      RequestRow r;
      r.id = "r" + std::to_string(round);
      r.create_date = (kDay1 + 2 * kRounds) * kDayMicros;
      taken +=
          must(store.run([&](Transaction& txn) { return tables.request.insert(txn, r); })).inserted
              ? 0
              : 1;
    }
    if (opened == 1) {
      EXPECT_EQ(taken, inserted);
    }
    store.reopen_after_power_loss();
    tables = must(PaymentTables::open(*store.db, true));
  }
}

// Goal: a crash between the steps of a drop never shows a request without its result. Method: do
// the first step by hand, lose power, open again: the drop is finished.
TEST_F(Payments, FinishADropThatACrashInterrupted) {
  store.run([&](Transaction& txn) -> Result<int> {
    EXPECT_TRUE(
        must(tables.request.insert(txn, request_row("r1", "2010-12-01 10:00:00"))).inserted);
    EXPECT_TRUE(
        must(tables.result.insert(txn, result_row("r1", "2010-12-01 10:00:00", ""))).inserted);
    return 0;
  });
  const Tree marks =
      must(store.db->tree("payment_request.dropped", {.create = true, .insert_only = true}));
  Encoder e;
  e.put(kDay1);
  must(store.db->insert(marks, e.take(), ""));
  must(store.db->drop_tree("payment_request.20101201"));
  store.reopen_after_power_loss();
  EXPECT_TRUE(store.db->tree("payment_result.20101201").has_value());
  tables = must(PaymentTables::open(*store.db, true));
  EXPECT_EQ(store.db->tree("payment_result.20101201").error(), Code::tree_not_found);
  const auto again = must(store.run([&](Transaction& txn) {
    return tables.request.insert(txn, request_row("r1", "2010-12-05 10:00:00"));
  }));
  EXPECT_FALSE(again.inserted);
  EXPECT_FALSE(again.earlier);
}

// Goal: at every crash point of a payment and of the drop of its day: what was answered is there, a
// request is never without its result, and an id stays taken. Method: the disk's observer keeps
// what a power failure would leave before each operation; each is opened and looked at.
TEST_F(Payments, SurviveACrashAtEveryStep) {
  struct Found {
    io::SimDisk disk;
    bool paid, dropping, dropped;
  };
  std::vector<Found> found;
  bool paid = false, dropping = false, dropped = false;
  store.disk.set_observer([&](std::uint64_t op, std::string_view, std::string_view) {
    for (const auto outcome :
         {io::CrashOutcome::none, io::CrashOutcome::all, io::CrashOutcome::prefix})
      found.push_back({store.disk.survivor(outcome, op), paid, dropping, dropped});
  });
  must(store.run([&](Transaction& txn) -> Result<int> {
    must(tables.request.insert(txn, request_row("r1", "2010-12-01 10:00:00")));
    must(tables.result.insert(txn, result_row("r1", "2010-12-01 10:00:00", "ok")));
    return 0;
  }));
  paid = true;
  must(store.db->checkpoint());
  dropping = true;
  must(tables.drop_payments(*store.db, kDay1));
  dropped = true;
  must(store.db->checkpoint());
  store.disk.set_observer({});
  int rows = 0, gone = 0;
  for (Found& f : found) {
    PayStore after(std::move(f.disk));
    const PaymentTables t = must(PaymentTables::open(*after.db, true));
    const auto [request, result] = after.read([&](Transaction& txn) {
      return std::pair(must(t.request.get(txn, request_row("r1", "2010-12-01 10:00:00"))),
                       must(t.result.get(txn, result_row("r1", "2010-12-01 10:00:00", ""))));
    });
    EXPECT_EQ(request.has_value(), result.has_value());
    EXPECT_EQ(after.db->tree("payment_result.20101201").has_value() && f.dropping,
              after.db->tree("payment_request.20101201").has_value() && f.dropping);
    EXPECT_TRUE(request.has_value() || !f.paid || f.dropping);
    EXPECT_FALSE(request.has_value() && f.dropped);
    const auto again = must(after.run([&](Transaction& txn) {
      return t.request.insert(txn, request_row("r1", "2010-12-05 10:00:00"));
    }));
    EXPECT_FALSE(again.inserted && f.paid);
    EXPECT_EQ(again.earlier.has_value(), request.has_value());
    EXPECT_TRUE(must(after.db->check()).ok);
    rows += request ? 1 : 0;
    gone += !request && !again.inserted ? 1 : 0;
    if (HasFailure()) return;
  }
  EXPECT_GT(rows, 10);
  EXPECT_GT(gone, 10);
}

// ---- schema, lint ------------------------------------------------------------------------------

TEST(Schema, ShowsTheColumnsOfATable) {
  std::string shown;
  for (const Column& c : schema_of<ResultRow>().columns)
    shown += std::string(c.name) + (c.key ? "* " : " ");
  EXPECT_EQ(shown,
            "ORIGINAL_REQUEST_ID* CREATE_DATE UPDATE_DATE KIND PAYMENT_STATUS CURRENCY AMOUNT "
            "PAYMENT_DATE TRANSACTION_ID AUTH_CODE ANSWER LOG_POSITION ");
}

TEST(Lint, WarnsOfKeysThatStartWithATime) {
  EXPECT_EQ(lint(schema_of<SequenceRow>()).size(), 1u);
  EXPECT_TRUE(lint(schema_of<NoteRow>()).empty());
  EXPECT_TRUE(lint(schema_of<RequestRow>()).empty());
  EXPECT_TRUE(lint(schema_of<AccountEventRow>()).empty());
}

// Goal: S39: it fires on a time prefix, on YYYYMM and a hash, on an index on CREATE_DATE; hashed
// keys pass.
TEST(Lint, WarnsOfInsertsThatMeetInOnePlace) {
  std::vector<std::string> time_prefix, month_and_hash, by_date, hashed;
  for (int i = 0; i < 500; ++i) {
    const std::string id = std::to_string(20241231000000 + i) + "ASDFGH";
    time_prefix.push_back(id);
    month_and_hash.push_back("202412" + format_request_id(id));
    SequenceRow row;
    row.at = time_of("2024-12-31 00:00:00") + i * 1000;
    by_date.push_back(row::key_of(row));
    hashed.push_back(row_key(id));
  }
  EXPECT_FALSE(lint_keys("time-prefix", time_prefix).empty());
  EXPECT_FALSE(lint_keys("month", month_and_hash).empty());
  EXPECT_FALSE(lint_keys("date", by_date).empty());
  EXPECT_TRUE(lint_keys("hashed", hashed).empty());
  EXPECT_TRUE(lint_keys("few", std::span(time_prefix).first(10)).empty());
}

}  // namespace
}  // namespace kessai::payments
