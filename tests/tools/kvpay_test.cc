// SPDX-License-Identifier: Apache-2.0
// kvpay as a process, on generated files and, where KESSAI_REAL_DATA names them, on real ones.
#include <ctime>

#include <gtest/gtest-spi.h>

#include "tests/tools/process.hpp"
#include "tests/tools/seed.hpp"

namespace kessai::tools {
namespace {

const std::string kKvpay = KESSAI_KVPAY;
const std::string kKvsh = KESSAI_KVSH;
constexpr std::string_view kHeader =
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

std::string line(std::string_view id, std::string_view quantity, std::string_view price) {
  return std::string(id)
      .append(",S,D,")
      .append(quantity)
      .append(",2010-12-01 08:26:00,")
      .append(price)
      .append(",17850.0,UK\n");
}

std::uint64_t now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1000 +
         static_cast<std::uint64_t>(t.tv_nsec) / 1'000'000;
}

TEST(CardNumbers, AreFoundInAnyBytes) {
  for (const char* planted : {"4111111111111111", "5555 5555 5555 4444", "3782-822463-10005",
                              "6011000990139424", "x3530111333300000y"}) {
    EXPECT_NE(find_card_number(std::string("\0\xff", 2) + planted + "\n"), "") << planted;
  }
  for (const char* innocent :
       {"4111111111111112", "411111111111111", "20101201082600000000", "1291191960000000", "",
        "41111111111111111111111", "0xab4111111111111111", "0.4111111111111111"}) {
    EXPECT_EQ(find_card_number(innocent), "") << innocent;
  }
}

// A number is found wherever it lies in a file, also across the pieces in which that is read.
TEST(CardNumbers, AreFoundAnywhereInAFile) {
  const std::string path = testing::TempDir() + "kessai-card-number-" + std::to_string(getpid());
  const std::string number = "4111 1111 1111 1111";
  for (const std::size_t at : {std::size_t{0}, std::size_t{5}, std::size_t{(1 << 20) - 10},
                               std::size_t{(2 << 20) - 1}, std::size_t{3 << 20}}) {
    std::string bytes(3 << 20, '\0');
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 % 256);
    bytes.resize(at, 'x');
    spill(path, bytes + number + std::string(100, 'x'));
    EXPECT_EQ(find_card_number_in(path), "4111111111111111") << at;
    spill(path, bytes + "4111 1111 1111 1112" + std::string(100, 'x'));
    EXPECT_EQ(find_card_number_in(path), "") << at;
  }
  std::filesystem::remove(path);
}

// The folders of the tests look before they go.
TEST(CardNumbers, TripTheFolderThatHoldsThem) {
  EXPECT_NONFATAL_FAILURE(
      {
        const ScratchFolder scratch;
        std::filesystem::create_directory(scratch / "store");
        spill(scratch / "store/wal", "token=4111111111111111;");
      },
      "4111111111111111");
}

class Kvpay : public ::testing::Test {
 protected:
  Ran replay(const std::string& store, const std::string& input, const std::string& threads = "2") {
    return run({kKvpay, "replay", store, input, "--threads", threads, "--json"}, scratch_);
  }
  Json totals(const std::string& store) {
    return run({kKvpay, "totals", store, "--json"}, scratch_).row();
  }
  Json generate(const std::string& folder, int days) {
    return run({kKvpay, "generate", folder, "--days", std::to_string(days), "--seed", "42",
                "--json"},
               scratch_)
        .row();
  }
  // A file of the rows below the header.
  std::string file(std::string_view rows, const char* name = "invoices.csv") {
    spill(scratch_ / name, std::string(kHeader).append(rows));
    return scratch_ / name;
  }
  void expect_clean(const std::string& store) {
    const Ran check = run({kKvsh, store, "--json", "-c", "check"}, scratch_);
    EXPECT_EQ(check.code, 0) << check.out << check.err;
  }

  // Kills `kills` importers, each on a fresh store at a random moment of the time that a whole run
  // takes, runs again, and wants `expected` totals and a clean check every time.
  void kill_and_rerun(const std::string& input, int kills, const Json& expected) {
    io::SeededRandom random(test_seed());
    const std::uint64_t started = now_ms();
    ASSERT_EQ(replay(scratch_ / "whole", input, "4").code, 0);
    const std::uint64_t duration = now_ms() - started + 1;
    std::filesystem::remove_all(scratch_ / "whole");
    int killed = 0;
    for (int i = 0; i < kills; ++i) {
      const std::string store = scratch_ / ("store" + std::to_string(i));
      const auto moment = static_cast<int>(random.below(duration));
      SCOPED_TRACE("kill " + std::to_string(i) + " after " + std::to_string(moment) + " of " +
                   std::to_string(duration) + " ms");
      {
        Process importer({kKvpay, "replay", store, input, "--threads", "4", "--json"}, scratch_);
        if (!importer.ended_within(moment)) killed += importer.kill_now() ? 1 : 0;
      }
      const Ran again = replay(store, input, "4");
      ASSERT_EQ(again.code, 0) << again.err;
      EXPECT_EQ(again.row()["accepted"].get<std::uint64_t>() +
                    again.row()["already_done"].get<std::uint64_t>(),
                expected["requests"]);
      EXPECT_EQ(totals(store), expected);
      expect_clean(store);
      std::filesystem::remove_all(store);
      if (HasFailure()) return;
    }
    EXPECT_GT(killed, 0);
  }

  ScratchFolder scratch_;
  std::string store_ = scratch_ / "store";
};

// Goal: exactly once, with one thread and with many; the sums are those of the generator.
TEST_F(Kvpay, PaysGeneratedInvoicesExactlyOnce) {
  const std::string input = scratch_ / "input";
  const Json oracle = generate(input, 3);
  for (const char* threads : {"1", "4"}) {
    const std::string store = scratch_ / threads;
    const Json first = replay(store, input, threads).row();
    EXPECT_EQ(first["lines"], oracle["lines"]);
    EXPECT_EQ(first["requests"], oracle["requests"]);
    EXPECT_EQ(first["accepted"], oracle["requests"]);
    EXPECT_EQ(first["commits"], oracle["requests"]);
    EXPECT_EQ(first["already_done"], 0);
    EXPECT_EQ(first["refused"], 0);
    EXPECT_EQ(first["sum_milli"], oracle["total_milli"]);
    const Json second = replay(store, input, threads).row();
    EXPECT_EQ(second["accepted"], 0);
    EXPECT_EQ(second["already_done"], oracle["requests"]);
    EXPECT_EQ(second["sum_milli"], oracle["total_milli"]);
    const Json sums = totals(store);
    for (const auto& [key, value] : sums.items()) EXPECT_EQ(value, oracle[key]) << key;
    expect_clean(store);
  }
}

TEST_F(Kvpay, WritesTheSameRowsWhateverTheThreadsAndFileOrder) {
  const std::string input = scratch_ / "input";
  generate(input, 2);
  const auto dump = [&](const std::string& store) {
    return run({kKvsh, store, "-c", "dump"}, scratch_).out;
  };
  ASSERT_EQ(replay(scratch_ / "a", input, "1").code, 0);
  ASSERT_EQ(replay(scratch_ / "b", input + "/2010-12-02.csv", "3").code, 0);
  ASSERT_EQ(replay(scratch_ / "b", input, "3").code, 0);
  EXPECT_EQ(dump(scratch_ / "a"), dump(scratch_ / "b"));
}

// Goal: same id, same lines is done; same id, anything else is refused and changes nothing, within
// one run and between runs.
TEST_F(Kvpay, RefusesAKnownIdWithOtherLines) {
  ASSERT_EQ(replay(store_, file(line("536365", "6", "2.55") + line("536366", "1", "1"))).code, 0);
  const Json before = totals(store_);
  const Ran again = replay(store_, file(line("536365", "6", "2.56") + line("536366", "1", "1.00") +
                                        line("536367", "2", "0.001")));
  EXPECT_EQ(again.code, 0);
  const Json r = again.row();
  EXPECT_EQ(r["accepted"], 1);
  EXPECT_EQ(r["already_done"], 1);
  EXPECT_EQ(r["refused"], 1);
  EXPECT_EQ(r["sum_milli"], 1002);
  ASSERT_EQ(r["rejected"].size(), 1u);
  EXPECT_EQ(r["rejected"][0]["id"], "536365");
  EXPECT_EQ(r["rejected"][0]["line"], 2);
  EXPECT_EQ(r["rejected"][0]["reason"], "key_reused_mismatch");
  EXPECT_EQ(totals(store_)["sum_payments_milli"].get<std::int64_t>(),
            before["sum_payments_milli"].get<std::int64_t>() + 2);
}

// Goal: many threads meeting on few ids still accept each once. Method: the same invoices in many
// files at once; sums and counts as of one file.
TEST_F(Kvpay, LetsOneOfManyEqualRequestsWin) {
  std::string rows;
  for (int i = 0; i < 40; ++i) rows += line(std::to_string(700000 + i), "1", "1.5");
  std::filesystem::create_directory(scratch_ / "same");
  for (int i = 0; i < 20; ++i)
    spill((scratch_ / "same/") + std::to_string(i) + ".csv", std::string(kHeader) + rows);
  const Json r = replay(store_, scratch_ / "same", "8").row();
  EXPECT_EQ(r["accepted"], 40);
  EXPECT_EQ(r["already_done"], 19 * 40);
  EXPECT_EQ(totals(store_)["total_milli"], 40 * 1500);
}

TEST_F(Kvpay, CountsRefundsAndAdjustmentsApart) {
  ASSERT_EQ(replay(store_, file(line("536365", "1", "5") + line("C536366", "-1", "2") +
                                line("A536367", "1", "-11062.06")))
                .code,
            0);
  EXPECT_EQ(
      totals(store_).dump(),
      R"({"requests":3,"payments":1,"cancellations":1,"adjustments":1,"sum_payments_milli":5000,)"
      R"("sum_cancellations_milli":-2000,"sum_adjustments_milli":-11062060,"total_milli":-11059060})");
  const Json other_day =
      run({kKvpay, "totals", store_, "--day", "2010-12-02", "--json"}, scratch_).row();
  EXPECT_EQ(other_day["requests"], 0);
  EXPECT_EQ(run({kKvpay, "totals", store_, "--day", "2010-12-01", "--json"}, scratch_).row(),
            totals(store_));
  EXPECT_EQ(run({kKvpay, "totals", store_, "--day", "1 December", "--json"}, scratch_).code, 2);
}

TEST_F(Kvpay, RefusesBadInvoicesWholeAndGoesOn) {
  const Json r = replay(store_, file(line("1", "1", "1") + line("2", "1", "1.2345") +
                                     line("1", "x", "1") + line("3", "1", "1") + "4,cut"))
                     .row();
  EXPECT_EQ(r["lines"], 5);
  EXPECT_EQ(r["requests"], 4);
  EXPECT_EQ(r["accepted"], 1);
  EXPECT_EQ(r["refused"], 3);
  ASSERT_EQ(r["rejected"].size(), 3u);
  EXPECT_EQ(r["rejected"][0]["reason"], "too_many_decimals");
  EXPECT_EQ(r["rejected"][1]["id"], "1");
  EXPECT_EQ(r["rejected"][1]["line"], 4);
  EXPECT_EQ(r["rejected"][2]["reason"], "cut_line");
  EXPECT_EQ(totals(store_)["total_milli"], 1000);
}

// Goal: a foreign file among good ones is refused before anything is written.
TEST_F(Kvpay, RefusesForeignInputWithoutTouchingTheStore) {
  const std::string good = file(line("1", "1", "1"));
  spill(scratch_ / "foreign.csv", "a,b\n1,2\n");
  spill(scratch_ / "empty.csv", "");
  for (const std::string& bad :
       {scratch_ / "foreign.csv", scratch_ / "empty.csv", scratch_ / "missing", kKvpay}) {
    const Ran r = run({kKvpay, "replay", store_, good, bad, "--json"}, scratch_);
    EXPECT_EQ(r.code, 2) << bad;
    EXPECT_NE(Json::parse(r.err)["where"].get<std::string>().find(bad), std::string::npos) << r.err;
  }
  std::filesystem::create_directory(scratch_ / "no files");
  EXPECT_EQ(replay(store_, scratch_ / "no files").code, 2);
  EXPECT_FALSE(std::filesystem::exists(store_));
  EXPECT_EQ(run({kKvpay, "totals", store_}, scratch_).code, 3);
  EXPECT_EQ(run({kKvpay, "replay", store_}, scratch_).code, 2);
  EXPECT_EQ(run({kKvpay}, scratch_).code, 2);
}

TEST_F(Kvpay, ShowsEveryPieceOfAPayment) {
  ASSERT_EQ(replay(store_, file(line("536365", "6", "2.55"))).code, 0);
  const Ran shown = run({kKvpay, "show", store_, "536365", "--json"}, scratch_);
  EXPECT_EQ(shown.code, 0);
  const auto rows = shown.rows();
  ASSERT_EQ(rows.size(), 4u);
  for (const std::size_t i : {0u, 1u, 2u}) {
    EXPECT_EQ(rows[i]["piece"], (std::vector{"request", "transaction", "result"}[i]));
    EXPECT_EQ(rows[i]["missing"], false);
    EXPECT_EQ(rows[i]["time"], "2010-12-01T08:26:00Z");
    EXPECT_EQ(rows[i]["request_id"], "8DA94DDF2EC4AD66");
    EXPECT_EQ(rows[i]["amount_milli"], 15300);
  }
  EXPECT_EQ(rows[3]["complete"], true);
  EXPECT_EQ(run({kKvpay, "show", store_, "536366", "--json"}, scratch_).code, 1);
  // A missing piece is named: take the results of the day away with the shell.
  ASSERT_EQ(run({kKvsh, "--rw", store_, "-c", "drop payment_result.20101201"}, scratch_).code, 0);
  const Ran torn = run({kKvpay, "show", store_, "536365"}, scratch_);
  EXPECT_EQ(torn.code, 1);
  EXPECT_NE(torn.out.find("result       MISSING"), std::string::npos) << torn.out;
}

// Goal: what was told durable before kill -9 is there. Method: the importer freezes itself half way
// after telling how many requests are settled; meanwhile the store is locked for others.
TEST_F(Kvpay, LosesNothingItToldWhenKilledHalfWay) {
  const std::string input = scratch_ / "input";
  generate(input, 2);
  std::uint64_t told = 0;
  {
    Process importer({kKvpay, "replay", store_, input, "--threads", "2", "--json", "--milestone",
                      "50", "--hold"},
                     scratch_);
    ASSERT_TRUE(importer.wait_stopped());
    told = Json::parse(importer.out())["settled"];
    ScratchFolder other;
    EXPECT_EQ(run({kKvsh, store_, "-c", "count"}, other).code, 3);
    EXPECT_TRUE(importer.kill_now());
  }
  EXPECT_GT(told, 20u);
  const Json sums = totals(store_);
  EXPECT_GE(sums["requests"].get<std::uint64_t>(), told);
  EXPECT_EQ(sums["requests"].get<std::uint64_t>(), sums["payments"].get<std::uint64_t>() +
                                                       sums["cancellations"].get<std::uint64_t>() +
                                                       sums["adjustments"].get<std::uint64_t>());
  expect_clean(store_);
}

// Goal: Ctrl-C ends an import in order with 130, and running it again finishes the job. Method: the
// importer freezes itself, gets the signal, and goes on.
TEST_F(Kvpay, StopsInOrderWhenInterrupted) {
  const std::string input = scratch_ / "input";
  const Json oracle = generate(input, 20);
  {
    Process importer({kKvpay, "replay", store_, input, "--json", "--milestone", "5", "--hold"},
                     scratch_);
    ASSERT_TRUE(importer.wait_stopped());
    importer.send(SIGINT);
    importer.send(SIGCONT);
    EXPECT_EQ(importer.wait(), 130);
    EXPECT_EQ(Json::parse(importer.err())["error"], "interrupted");
  }
  const Json r = replay(store_, input).row();
  EXPECT_GT(r["already_done"], 0);
  EXPECT_GT(r["accepted"], 0);
  EXPECT_EQ(totals(store_)["total_milli"], oracle["total_milli"]);
}

// Goal: a customer's invoices and refunds are on that customer's account, and nobody else's.
TEST_F(Kvpay, SumsAnAccountFromItsEvents) {
  const std::string other = "536367,S,D,1,2010-12-02 09:00:00,3,17851.0,UK\n";
  const std::string nobody = "536368,S,D,1,2010-12-02 09:00:00,0.5,,UK\n";
  ASSERT_EQ(
      replay(store_, file(line("536365", "1", "5") + line("C536366", "-1", "2") + other + nobody))
          .code,
      0);
  const auto balance = [&](const char* account) {
    return run({kKvpay, "balance", store_, account, "--json"}, scratch_);
  };
  EXPECT_EQ(balance("17850").row().dump(),
            R"({"account":"17850","balance_milli":3000,"available_milli":3000,"rows":2})");
  EXPECT_EQ(balance("17851").row()["balance_milli"], 3000);
  for (const char* empty : {"\"\"", ""}) {
    EXPECT_EQ(balance(empty).row()["balance_milli"], 500);
    EXPECT_EQ(balance(empty).row()["rows"], 1);
  }
  EXPECT_EQ(balance("17852").code, 1);
  EXPECT_EQ(balance("17852").row()["rows"], 0);
  const Json explained =
      run({kKvpay, "balance", store_, "17850", "--explain", "--json"}, scratch_).row();
  EXPECT_EQ(explained["explain"]["rows_visited"], 2);
}

TEST_F(Kvpay, ReconcilesADayWithAStatement) {
  ASSERT_EQ(replay(store_, file(line("536365", "1", "5") + line("C536366", "-1", "2") +
                                line("536367", "1", "7")))
                .code,
            0);
  const auto reconcile = [&](std::string_view statement, const char* on = "2010-12-01") {
    spill(scratch_ / "statement", statement);
    return run(
        {kKvpay, "reconcile", store_, "--day", on, "--file", scratch_ / "statement", "--json"},
        scratch_);
  };
  const std::string head = "request_id,amount_milli,status\n";
  const Ran same = reconcile(head +
                             "536365,5000,captured\nC536366,-2000,refunded\n"
                             "536367,7000,captured\n#total,3,10000\n");
  EXPECT_EQ(same.code, 0) << same.err;
  EXPECT_EQ(
      same.row().dump(),
      R"({"rows":3,"matched":3,"missing_here":0,"missing_there":0,"duplicates":0,"amount":0,)"
      R"("status":0,"outside_window":0,"count_there":3,"sum_there_milli":10000,"count_here":3,)"
      R"("sum_here_milli":10000,"ok":true,"differences":[]})");
  const std::string wrong = head +
                            "536365,5001,captured\n536367,6999,captured\n"
                            "9,-2000,refunded\n#total,3,10000\n";
  const Ran differs = reconcile(wrong);
  EXPECT_EQ(differs.code, 1);
  EXPECT_EQ(
      differs.row()["differences"].dump(),
      R"([{"class":"missing_here","request_id":"9"},)"
      R"({"class":"missing_there","request_id":"C536366"},)"
      R"({"class":"amount","request_id":"536365"},{"class":"amount","request_id":"536367"}])");
  const auto sent = [&] {
    const Json trees =
        run({kKvsh, store_, "--json", "-c", "count -t cancel_topic.ids"}, scratch_).row();
    return trees["records"];
  };
  EXPECT_EQ(sent(), 4);
  EXPECT_EQ(reconcile(wrong).out, differs.out);
  EXPECT_EQ(sent(), 4);
  const Ran only = run({kKvpay, "reconcile", store_, "--day", "2010-12-01", "--file",
                        scratch_ / "statement", "--report-only", "--explain", "--json"},
                       scratch_);
  EXPECT_EQ(only.code, 1);
  EXPECT_EQ(only.row()["explain"]["partitions_opened"].size(), 1u);
  // Refused: partial, empty, foreign, of another day, no such day.
  for (const std::string& bad :
       {head + "536365,5000,captured\n", std::string(), std::string("x\n")}) {
    const Ran refused = reconcile(bad);
    EXPECT_EQ(refused.code, 2) << bad;
    EXPECT_NE(refused.err.find("statement"), std::string::npos) << refused.err;
  }
  EXPECT_EQ(reconcile(head + "536365,5000,captured\n#total,1,5000\n", "2010-12-02").code, 2);
  EXPECT_EQ(reconcile(wrong, "yesterday").code, 2);
  EXPECT_EQ(run({kKvpay, "reconcile", store_, "--day", "2010-12-01", "--file", scratch_ / "gone"},
                scratch_)
                .code,
            2);
  expect_clean(store_);
}

// Goal: nothing changes a payment through the shell; a dump taken back is the same store, once and
// again, and a dump with a changed row is refused.
TEST_F(Kvpay, KeepsRowsFromBeingChanged) {
  ASSERT_EQ(replay(store_, file(line("536365", "1", "5") + line("C536366", "-1", "2"))).code, 0);
  const auto shell = [&](const std::string& store, const std::string& command) {
    return run({kKvsh, "--rw", "--create", "--json", store, "-c", command}, scratch_);
  };
  const std::string tree = "payment_result.20101201";
  const std::string dump = shell(store_, "dump").out;
  const std::string key = shell(store_, "scan --limit 1 -t " + tree).row()["key"];
  for (const std::string& command :
       {"del " + key + " -t " + tree, "put " + key + " x -t " + tree, "put new x -t " + tree}) {
    const Ran refused = shell(store_, command);
    EXPECT_EQ(refused.code, 1) << command;
    EXPECT_EQ(Json::parse(refused.err)["error"], "insert_only_violation") << command;
  }
  spill(scratch_ / "dump", dump);
  const std::string copy = scratch_ / "copy";
  for (int i = 0; i < 2; ++i) ASSERT_EQ(shell(copy, "load " + (scratch_ / "dump")).code, 0);
  EXPECT_EQ(shell(copy, "dump").out, dump);
  EXPECT_EQ(totals(copy), totals(store_));
  EXPECT_EQ(shell(copy, "del " + key + " -t " + tree).code, 1);
  EXPECT_EQ(replay(copy, scratch_ / "invoices.csv").row()["already_done"], 2);
  Json changed;
  for (const Json& row : shell(store_, "dump").rows())
    if (row["tree"] == tree) changed = row;
  changed["value"] = "0x00";
  spill(scratch_ / "dump", changed.dump() + "\n");
  const Ran refused = shell(copy, "load " + (scratch_ / "dump"));
  EXPECT_EQ(refused.code, 1);
  EXPECT_EQ(Json::parse(refused.err)["error"], "insert_only_violation");
  EXPECT_EQ(shell(copy, "dump").out, dump);
}

TEST_F(Kvpay, SurvivesKillsOnGeneratedFiles) {
  const std::string input = scratch_ / "input";
  Json expected = generate(input, 10);
  for (const char* extra : {"files", "lines", "seed"}) expected.erase(extra);
  kill_and_rerun(input, 6, expected);
}

TEST_F(Kvpay, SurvivesKillsOnRealFiles) {
  const char* real = std::getenv("KESSAI_REAL_DATA");
  if (real == nullptr || *real == '\0') GTEST_SKIP() << "skipped: KESSAI_REAL_DATA not set";
  const Json expected = Json::parse(
      R"({"requests":10783,"payments":9106,"cancellations":1677,"adjustments":0,"sum_payments_milli":4064726591,)"
      R"("sum_cancellations_milli":-357898950,"sum_adjustments_milli":0,"total_milli":3706827641})");
  const Json first = replay(store_, real, "4").row();
  EXPECT_EQ(first["lines"], 209029);
  EXPECT_EQ(first["accepted"], 10783);
  const Json second = replay(store_, real, "4").row();
  EXPECT_EQ(second["accepted"], 0);
  EXPECT_EQ(second["already_done"], 10783);
  EXPECT_EQ(totals(store_), expected);
  const Json day = run({kKvpay, "totals", store_, "--day", "2010-12-01", "--json"}, scratch_).row();
  EXPECT_EQ(day["requests"], 143);
  EXPECT_EQ(day["total_milli"], 58635560);
  kill_and_rerun(real, 20, expected);
}

}  // namespace
}  // namespace kessai::tools
