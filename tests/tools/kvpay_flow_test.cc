// SPDX-License-Identifier: Apache-2.0
// Goal: kvpay's payment flow as a process: what is refused, what load reports, and that the
// invariants of docs/payments-flow.md hold against the book of a stub in another process when kvpay
// is killed again and again. KESSAI_CRASH_SCALE multiplies the kills.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <sstream>

#include "io/env.hpp"
#include "kessai/payments/flow.hpp"
#include "kessai/payments/tables.hpp"
#include "tests/tools/process.hpp"
#include "tests/tools/seed.hpp"
#include "tools/stub_client.hpp"

namespace kessai::tools {
namespace {

using namespace payments;  // NOLINT(google-build-using-namespace): the tests' subject

std::vector<std::string> kvpay(std::vector<std::string> words) {
  words.insert(words.begin(), KESSAI_KVPAY);
  return words;
}

std::vector<std::string> quick_load(const std::string& store, std::vector<std::string> more) {
  std::vector<std::string> words = kvpay({"load", store, "--json", "--step", "1"});
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST(KvpayLoad, RefusesTooFewCardsAndBadPlans) {
  const ScratchFolder scratch;
  const auto code = [&](const std::vector<std::string>& more) {
    return run(quick_load(scratch / "store", more), scratch).code;
  };
  EXPECT_EQ(code({"--ramp", "500:500:50", "--cards", "999"}), 2);
  EXPECT_EQ(code({"--ramp", "500:200:50"}), 2);
  EXPECT_EQ(code({"--ramp", "1:2"}), 2);
  EXPECT_EQ(code({"--profile", "storm"}), 2);
  EXPECT_EQ(code({"--keys", "random"}), 2);
  EXPECT_EQ(code({"--acquirer", "stub://10.0.0.1:80"}), 2);
  EXPECT_FALSE(std::filesystem::exists(scratch / "store")) << "refused before anything is made";
  EXPECT_EQ(code({"--ramp", "20:20:1", "--cards", "41"}), 0) << "uneven is enough";
}

// A small ramp: every payment answered, nothing refused by the cards, one line a step.
TEST(KvpayLoad, RampsAndReports) {
  const ScratchFolder scratch;
  const Ran r =
      run(quick_load(scratch / "store", {"--ramp", "50:150:50", "--stub", "onus"}), scratch);
  EXPECT_EQ(r.code, 0) << r.err;
  const auto rows = r.rows();
  ASSERT_EQ(rows.size(), 4u) << r.out;
  std::uint64_t ok = 0;
  for (int i = 0; i < 3; ++i) {
    const Json& row = rows[static_cast<std::size_t>(i)];
    EXPECT_EQ(row["rps_target"], 50 + 50 * i);
    EXPECT_EQ(row["ok"].get<int>() + row["busy"].get<int>(), 50 + 50 * i);
    EXPECT_EQ(row["errors"], 0);
    EXPECT_EQ(row["card_busy"], 0);
    EXPECT_GE(row["p99_us"], row["p50_us"]);
    EXPECT_GE(row["p50_us"], 20'000) << "the stub takes 20 ms at least";
    ok += row["ok"].get<std::uint64_t>();
  }
  EXPECT_TRUE(rows[3]["summary"]);
  EXPECT_EQ(rows[3]["row_inserts"], ok * 3) << "three rows a payment";
  spill(scratch / "a", r.out);
  const Ran same = run(kvpay({"compare", scratch / "a", scratch / "a", "--json"}), scratch);
  EXPECT_EQ(same.code, 0) << same.err;
  EXPECT_EQ(run(kvpay({"compare", scratch / "a", scratch / "stdin"}), scratch).code, 2);
}

// Refusals leave no row: with room for few, most of a burst is refused at once.
TEST(KvpayLoad, RefusesCleanlyBeyondItsCapacity) {
  const ScratchFolder scratch;
  const Ran r =
      run(quick_load(scratch / "store", {"--ramp", "400:400:1", "--inflight", "10"}), scratch);
  EXPECT_EQ(r.code, 0) << r.err << r.out;
  const auto rows = r.rows();
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_GT(rows[0]["busy"], 0);
  EXPECT_EQ(rows[1]["row_inserts"], rows[0]["ok"].get<std::uint64_t>() * 3);
}

// A burst of a hundred times the rate: what is refused left no row anywhere.
TEST(KvpayLoad, ABurstIsRefusedWithoutARow) {
  const ScratchFolder scratch;
  const Ran r = run(quick_load(scratch / "store", {"--profile", "burst100", "--from", "5", "--ramp",
                                                   "5:5:1", "--inflight", "10"}),
                    scratch);
  EXPECT_EQ(r.code, 0) << r.err << r.out;
  const auto rows = r.rows();
  ASSERT_EQ(rows.size(), 4u) << r.out;
  EXPECT_EQ(rows[1]["rps_target"], 500);
  EXPECT_GT(rows[1]["busy"], 0);
  std::uint64_t ok = 0;
  for (int i = 0; i < 3; ++i) ok += rows[static_cast<std::size_t>(i)]["ok"].get<std::uint64_t>();
  const Json totals = run(kvpay({"totals", scratch / "store", "--json"}), scratch).row();
  EXPECT_EQ(totals["requests"], ok);
  EXPECT_EQ(totals["payments"], ok);
}

TEST(KvpayCompare, FlagsATenPercentRegression) {
  const ScratchFolder scratch;
  spill(scratch / "a", "{\"rps_target\":200,\"store_p99_us\":1000}\n{\"summary\":true}\n");
  spill(scratch / "b", "{\"rps_target\":200,\"store_p99_us\":1111}\n");
  const Ran worse = run(kvpay({"compare", scratch / "a", scratch / "b", "--json"}), scratch);
  EXPECT_EQ(worse.code, 1);
  EXPECT_EQ(worse.rows()[0]["change_percent"], 11);
  EXPECT_EQ(run(kvpay({"compare", scratch / "b", scratch / "a"}), scratch).code, 0);
}

TEST(KvpayFlow, RecoverAndSweepSayWhatTheyFound) {
  const ScratchFolder scratch;
  EXPECT_EQ(run(kvpay({"recover", scratch / "none"}), scratch).code, 3);
  ASSERT_EQ(
      run(quick_load(scratch / "s", {"--ramp", "20:20:1", "--stub", "instant"}), scratch).code, 0);
  const Ran recovered = run(kvpay({"recover", scratch / "s", "--json"}), scratch);
  EXPECT_EQ(recovered.code, 0) << recovered.err;
  EXPECT_EQ(recovered.row()["cancel_requested"], 0);
  EXPECT_EQ(recovered.row()["log_lost"], 0);
  const Ran swept = run(kvpay({"sweep", scratch / "s", "--json"}), scratch);
  EXPECT_EQ(swept.code, 0) << swept.err;
  EXPECT_EQ(swept.row()["swept"], 0);
  const Ran drained = run(kvpay({"drain", scratch / "s", "--json"}), scratch);
  EXPECT_EQ(drained.code, 0) << drained.err << "nothing to deliver: no acquirer is needed";
  EXPECT_EQ(drained.row()["cancels_open"], 0);
  // A log that lies somewhere else is not taken for a lost one.
  std::filesystem::rename(scratch / "s.txlog", scratch / "elsewhere");
  for (const char* command : {"recover", "sweep", "drain"}) {
    const Ran lost = run(kvpay({command, scratch / "s"}), scratch);
    EXPECT_EQ(lost.code, 3) << command;
    EXPECT_NE(lost.err.find("--log"), std::string::npos) << lost.err;
  }
  EXPECT_FALSE(std::filesystem::exists(scratch / "s.txlog"));
  EXPECT_EQ(run(kvpay({"recover", scratch / "s", "--log", scratch / "elsewhere"}), scratch).code,
            0);
}

// The stub of a killed load ends with it: drain needs no acquirer to know that it holds nothing.
TEST(KvpayFlow, DrainsWhatTheOwnStubOfALoadHeld) {
  const ScratchFolder scratch;
  {
    Process p(kvpay({"load", scratch / "s", "--json", "--ramp", "100:100:1", "--step", "60",
                     "--stub", "agency", "--answers", scratch / "answers"}),
              scratch);
    while (!std::filesystem::exists(scratch / "answers") ||
           std::filesystem::file_size(scratch / "answers") == 0) {
      ASSERT_FALSE(p.ended_within(10)) << p.err();
    }
    EXPECT_TRUE(p.kill_now());
  }
  const Ran drained = run(kvpay({"drain", scratch / "s", "--json"}), scratch);
  EXPECT_EQ(drained.code, 0) << drained.err << drained.out;
  EXPECT_GT(drained.row()["delivered"], 0);
  EXPECT_EQ(drained.row()["cancels_open"], 0);
}

// What was outside when kvpay was killed is closed by recover, and delivered by drain.
TEST(KvpayFlow, RecoverRegistersAndDrainDelivers) {
  const ScratchFolder scratch;
  const StubChild stub =
      StubChild::start({KESSAI_KVPAY, "stub", "--until-eof", "--stub", "agency"}).value();
  {
    Process p(kvpay({"load", scratch / "s", "--json", "--ramp", "100:100:1", "--step", "60",
                     "--acquirer", stub.url()}),
              scratch);
    auto client = StubClient::connect(stub.url()).value();
    while (client->list().value().size() < 20) {  // until some are outside
      ASSERT_FALSE(p.ended_within(10)) << p.err();
    }
    EXPECT_TRUE(p.kill_now());
  }
  const Ran recovered = run(kvpay({"recover", scratch / "s", "--json"}), scratch);
  ASSERT_EQ(recovered.code, 0) << recovered.err;
  EXPECT_GE(recovered.row()["cancel_requested"].get<unsigned>(), 20u);
  EXPECT_EQ(recovered.row()["cancels_open"], recovered.row()["cancel_requested"]);
  const Ran nobody = run(kvpay({"drain", scratch / "s"}), scratch);
  EXPECT_EQ(nobody.code, 2);
  EXPECT_NE(nobody.err.find("--acquirer"), std::string::npos) << nobody.err;
  const Ran drained =
      run(kvpay({"drain", scratch / "s", "--json", "--acquirer", stub.url(), "--window", "0"}),
          scratch);
  EXPECT_EQ(drained.code, 0) << drained.err << drained.out;
  EXPECT_EQ(drained.row()["delivered"], recovered.row()["cancels_open"]);
  const auto entries = StubClient::connect(stub.url()).value()->list().value();
  for (const auto& e : entries) EXPECT_FALSE(e.held) << e.key;
  EXPECT_EQ(run(kvpay({"drain", scratch / "s", "--acquirer", "stub://127.0.0.1:1"}), scratch).code,
            5)
      << "no acquirer there";
}

/// A stub of our own and what it and the store say at the end.
class Killed {
 public:
  Killed()
      : stub_(StubChild::start({KESSAI_KVPAY, "stub", "--until-eof", "--stub", "onus", "--declined",
                                "100", "--lost-after", "20", "--lost-before", "20", "--late", "20",
                                "--cancel-fails", "100"})
                  .value()) {}

  /// One life of kvpay load, killed after about `ms`; 0: to its end.
  void life(int ms, unsigned seconds) {
    Process p(
        kvpay({"load", store(), "--json", "--ramp", "400:400:1", "--step", std::to_string(seconds),
               "--acquirer", stub_.url(), "--answers", scratch_ / "answers"}),
        scratch_);
    if (ms == 0) {
      const int code = p.wait();
      EXPECT_TRUE(code == 0 || code == 1) << p.err();
    } else if (!p.ended_within(ms)) {
      p.kill_now();
      ++kills_;
    }
  }

  void check() {
    auto client = StubClient::connect(stub_.url()).value();
    auto db = Database::open(store()).value();
    Executor executor;
    FlowOptions options;
    options.acquirer_window = std::chrono::seconds(4);  // the stub delays for 3
    options.longest_backoff = std::chrono::milliseconds(500);
    auto flow = PaymentFlow::open(db, executor, store() + ".txlog", *client, options);
    ASSERT_TRUE(flow.has_value()) << flow.error().message();
    EXPECT_EQ((*flow)->recovery().vetoed, 0u);
    EXPECT_EQ((*flow)->recovery().log_lost, 0u);
    ask_again(db, **flow);
    EXPECT_EQ((*flow)->drain(std::chrono::seconds(60)), 0u);
    compare(*client);
  }
  [[nodiscard]] unsigned kills() const { return kills_; }
  [[nodiscard]] std::size_t payments() const { return last_.size(); }
  [[nodiscard]] std::uint64_t recovered() const { return recovered_; }

 private:
  [[nodiscard]] std::string store() const { return scratch_ / "store"; }

  // Every request that the store knows: what is it told now, and what was it told?
  void ask_again(Database& db, PaymentFlow& flow) {
    std::vector<Order> orders;
    {
      const PaymentTables t = PaymentTables::open(db, false).value();
      auto txn = db.read_only().value();
      auto c = t.request.scan(txn);
      while (c.next()) {
        const RequestRow& r = c.row();
        orders.push_back({.id = r.id,
                          .amount = r.amount,
                          .currency = std::string(currency_code(r.currency)),
                          .account = r.account,
                          .method = r.method,
                          .merchant = r.merchant,
                          .card_token = r.card_token});
      }
      EXPECT_TRUE(c.status().has_value());
    }
    for (const Order& o : orders) {
      const Answer a = flow.pay(o);
      EXPECT_TRUE(a.idempotent) << o.id << " " << answer_name(a.kind) << " " << a.reason;
      last_[o.id] = a;
      recovered_ += a.reason == "recovered" ? 1 : 0;
    }
    std::istringstream lines(slurp(scratch_ / "answers"));
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string id, kind, bytes;
      words >> id >> kind >> std::ws;
      std::getline(words, bytes);
      if (bytes.empty()) continue;  // an error, or cut by the kill
      ++told_;
      ASSERT_TRUE(last_.contains(id)) << "an answered payment is gone: " << line;
      EXPECT_EQ(answer_name(last_[id].kind), kind) << line;
      EXPECT_EQ(last_[id].bytes, bytes) << line;
    }
    EXPECT_GT(told_, 0u);
  }

  void compare(StubClient& client) {
    std::map<std::string, StubClient::Entry> book;
    auto entries = client.list().value();
    for (auto& e : entries) book.emplace(e.key, std::move(e));
    for (const auto& [id, a] : last_) {
      const auto it = book.find(transaction_id_of(id));
      const bool held = it != book.end() && it->second.held;
      EXPECT_EQ(held, a.kind == AnswerKind::success) << id << " " << a.bytes;
      if (it == book.end()) continue;
      EXPECT_LE(it->second.authorisations, 1u) << id;
      EXPECT_LE(it->second.calls, 1u) << id;
    }
    for (const auto& [key, e] : book)
      EXPECT_TRUE(last_.contains(key.substr(0, key.rfind('/')))) << "unknown to the store: " << key;
  }

  ScratchFolder scratch_;
  StubChild stub_;
  unsigned kills_ = 0;
  std::uint64_t told_ = 0, recovered_ = 0;
  std::map<std::string, Answer> last_;
};

TEST(KvpayFlow, InvariantsHoldWhenItIsKilledAgainAndAgain) {
  const std::uint64_t seed = test_seed();
  io::SeededRandom dice(seed);
  const char* scale = std::getenv("KESSAI_CRASH_SCALE");
  const unsigned lives =
      3 * static_cast<unsigned>(scale != nullptr ? std::strtoul(scale, nullptr, 10) : 1);
  Killed k;
  for (unsigned i = 0; i < lives; ++i) k.life(static_cast<int>(300 + dice.below(700)), 60);
  k.life(0, 1);
  k.check();
  EXPECT_EQ(k.kills(), lives);
  EXPECT_GT(k.payments(), 100u);
  EXPECT_GT(k.recovered(), 0u) << "no kill found anything in flight";
  std::printf("%u kills, %zu payments, %llu recovered\n", k.kills(), k.payments(),
              static_cast<unsigned long long>(k.recovered()));
}

}  // namespace
}  // namespace kessai::tools
