// SPDX-License-Identifier: Apache-2.0
// Goal: what kvpay load plans, and what it makes of its measurements. Method: plain calls; the
// process as a whole is tested by kvpay_flow_test.cc.
#include "tools/load.hpp"

#include <gtest/gtest.h>

#include <set>

#include "io/env.hpp"
#include "kessai/executor.hpp"
#include "tests/io/temp_dir.hpp"
#include "tools/load_collector.hpp"
#include "tools/stub_book.hpp"

namespace kessai::tools {
namespace {

using namespace std::chrono_literals;

std::vector<unsigned> rates(const LoadOptions& o) {
  std::vector<unsigned> out;
  const auto steps = plan_load(o).value();
  for (const LoadStep& s : steps) out.push_back(s.rps);
  return out;
}

// S33: 200 to 500 in seven steps; --from 300 when 250 is known to be good.
TEST(Load, PlansTheRampsOfTheSeed) {
  EXPECT_EQ(rates({}), (std::vector<unsigned>{200, 250, 300, 350, 400, 450, 500}));
  EXPECT_EQ(rates({.from = 300}), (std::vector<unsigned>{300, 350, 400, 450, 500}));
  EXPECT_EQ(plan_load({})->front().seconds, 300u);
  EXPECT_EQ(rates({.profile = "burst100"}), (std::vector<unsigned>{200, 20'000, 200}));
  EXPECT_EQ(rates({.profile = "soak", .from = 50}), std::vector<unsigned>(7, 50));
  EXPECT_FALSE(plan_load({.ramp = "0:1:1"}).has_value());
  EXPECT_FALSE(plan_load({.ramp = "200:500:50x"}).has_value());
  EXPECT_FALSE(plan_load({.from = 501}).has_value());
}

// S30, S31: 1,000 cards for 500 rps, five workers with 200 each, none shared, all used.
TEST(Load, SplitsCardsOverWorkers) {
  EXPECT_EQ(enough_cards({}, 500).value(), 1000u);
  EXPECT_FALSE(enough_cards({.cards = 999}, 500).has_value());
  const auto split = split_cards(1000, 5).value();
  ASSERT_EQ(split.size(), 5u);
  std::set<unsigned> all;
  for (const CardRange& r : split) {
    EXPECT_EQ(r.count, 200u);
    for (unsigned i = 0; i < r.count; ++i) EXPECT_TRUE(all.insert(r.first + i).second);
  }
  EXPECT_EQ(all.size(), 1000u);
  const auto uneven = split_cards(1024, 5).value();
  unsigned next = 0;
  for (const CardRange& r : uneven) {
    EXPECT_EQ(r.first, next);
    EXPECT_TRUE(r.count == 204 || r.count == 205);
    next += r.count;
  }
  EXPECT_EQ(next, 1024u);
  EXPECT_FALSE(split_cards(4, 5).has_value());
}

WaitInfo wait(std::string_view name, std::chrono::nanoseconds total) {
  WaitInfo w;
  w.name = name;
  w.total = total;
  return w;
}

// S34: the second that stands out names the wait that grew most in it.
TEST(Load, ASpikeNamesItsTopWait) {
  EXPECT_EQ(top_wait({wait("wal_flush", 5ms), wait("leaf_split", 1ms)},
                     {wait("wal_flush", 7ms), wait("leaf_split", 90ms)}),
            "leaf_split");
  EXPECT_EQ(top_wait({wait("wal_flush", 5ms)}, {wait("wal_flush", 5ms)}), "none");
  std::vector<SecondOfLoad> seconds;
  for (unsigned i = 0; i < 10; ++i) seconds.push_back({i / 5, 1000, "wal_flush"});
  EXPECT_TRUE(find_spikes(seconds, {{200, 5}, {300, 5}}).empty());
  seconds[7] = {1, 40'000, "leaf_split"};
  seconds[8] = {1, 4000, "checkpoint"};  // four times the median, and still nothing to feel
  const auto spikes = find_spikes(seconds, {{200, 5}, {300, 5}});
  ASSERT_EQ(spikes.size(), 1u);
  EXPECT_EQ(spikes[0].second, 7u);
  EXPECT_EQ(spikes[0].rps, 300u);
  EXPECT_EQ(spikes[0].top_wait, "leaf_split");
}

payments::Answer success() {
  payments::Answer a;
  a.kind = payments::AnswerKind::success;
  return a;
}

// What is answered after its step was reported is an error of that step, and nothing of the next.
TEST(Load, ALateAnswerChangesNoReport) {
  constexpr std::uint64_t kMs = 1'000'000;
  LoadCollector c(2);
  for (int i = 0; i < 3; ++i) c.submitted(0);
  c.answered(0, 0, 0, 5 * kMs, success());
  EXPECT_FALSE(c.take(0, false).has_value());
  const auto first = c.take(0, true);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->ok, 1u);
  EXPECT_EQ(first->errors, 2u);
  const std::uint64_t p99 = c.p99_of(0);
  c.submitted(1);
  c.answered(0, 0, 0, 40'000 * kMs, success());
  c.answered(1, 1, 0, kMs, success());
  c.answered(0, 0, 0, 40'000 * kMs, success());
  const auto second = c.take(1, false);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->submitted, 1u);
  EXPECT_EQ(second->answered, 1u);
  EXPECT_EQ(second->ok, 1u);
  EXPECT_EQ(second->errors, 0u);
  EXPECT_LT(second->total.max_us(), 2000);
  EXPECT_EQ(c.p99_of(0), p99);
}

/// Answers nothing until more than `first` have asked; then everybody.
class Hesitant final : public payments::Acquirer {
 public:
  explicit Hesitant(std::size_t first) : first_(first) {}
  void authorise(const payments::Authorisation&,
                 std::function<void(payments::AuthReply)> done) override {
    waiting_.push_back(std::move(done));
    if (++asked_ <= first_) return;
    for (auto& answer : std::exchange(waiting_, {}))
      answer({.outcome = payments::AuthOutcome::ok, .auth_code = "1", .reason = {}});
  }
  void cancel(const payments::Cancellation&,
              std::function<void(payments::CancelReply)> done) override {
    done(payments::CancelReply::nothing_there);
  }

 private:
  std::size_t first_, asked_ = 0;
  std::vector<std::function<void(payments::AuthReply)>> waiting_;
};

// Open loop also between steps: the second step begins though nothing of the first is answered.
TEST(Load, DoesNotRestBetweenSteps) {
  const io::test::TempDir dir;
  auto db = Database::open(dir.path() + "/store", {.memory = 8_MiB, .create = true}).value();
  Executor executor;
  Hesitant acquirer(20);
  auto flow = payments::PaymentFlow::open(db, executor, dir.path() + "/log", acquirer);
  ASSERT_TRUE(flow.has_value()) << flow.error().message();
  LoadOptions options;
  options.seed = 1;
  unsigned told = 0;
  const LoadReport r = run_load(**flow, options, {{20, 1}, {20, 1}}, 100, [&](const StepReport& s) {
    EXPECT_EQ(s.step.rps, 20u);
    ++told;
  });
  EXPECT_EQ(told, 2u);
  ASSERT_EQ(r.steps.size(), 2u);
  for (const StepReport& s : r.steps) {
    EXPECT_EQ(s.submitted, 20u);
    EXPECT_EQ(s.ok, 20u) << "unknown: " << s.unknown << ", errors: " << s.errors;
  }
  EXPECT_TRUE((*flow)->close().has_value());
}

TEST(Load, ComparesReportsStepByStep) {
  const std::string a = "{\"rps_target\":200,\"store_p99_us\":100}\n",
                    summary = "{\"summary\":true}\n";
  EXPECT_FALSE(compare_reports(a, a, 10)->front().worse);
  EXPECT_TRUE(compare_reports(a, "{\"rps_target\":200,\"store_p99_us\":120}", 10)->front().worse);
  EXPECT_FALSE(compare_reports(a, a + a, 10).has_value());
  EXPECT_FALSE(compare_reports(a, "{\"rps_target\":250,\"store_p99_us\":1}", 10).has_value());
  EXPECT_FALSE(compare_reports(a, "no report", 10).has_value());
  EXPECT_FALSE(compare_reports(summary, summary, 10).has_value());
}

// S30: a card that comes again within a second is refused.
TEST(StubBook, RefusesACardWithinASecond) {
  StubBook book({});
  constexpr std::uint64_t kStart = 1'000'000'000'000, kSecond = 1'000'000'000;
  EXPECT_EQ(book.authorise("a", 1, "card", kStart).reply.outcome, payments::AuthOutcome::ok);
  const auto busy = book.authorise("b", 1, "card", kStart + kSecond - 1).reply;
  EXPECT_EQ(busy.outcome, payments::AuthOutcome::declined);
  EXPECT_EQ(busy.reason, "card_busy");
  EXPECT_EQ(book.authorise("c", 1, "card", kStart + 2 * kSecond).reply.outcome,
            payments::AuthOutcome::ok);
}

// An equal key changes nothing; a late authorisation is held from its time on, unless cancelled
// after it came.
TEST(StubBook, KeepsOneAuthorisationAKey) {
  StubBook ok({});
  const auto first = ok.authorise("a", 5, "", 1), again = ok.authorise("a", 5, "", 2);
  EXPECT_EQ(first.reply.auth_code, again.reply.auth_code);
  EXPECT_EQ(ok.entries(3).at("a").authorisations, 1u);
  EXPECT_EQ(ok.entries(3).at("a").calls, 2u);
  EXPECT_EQ(ok.cancel("a", 4), payments::CancelReply::cancelled);
  EXPECT_EQ(ok.cancel("a", 5), payments::CancelReply::cancelled);
  EXPECT_FALSE(ok.entries(6).at("a").held);

  StubBook late({.late = 1000, .late_ns = 100});
  EXPECT_FALSE(late.authorise("a", 5, "", 1).answers);
  EXPECT_EQ(late.cancel("a", 50), payments::CancelReply::nothing_there);
  EXPECT_FALSE(late.entries(100).at("a").held);
  EXPECT_TRUE(late.entries(101).at("a").held);
  EXPECT_EQ(late.cancel("a", 102), payments::CancelReply::cancelled);
}

}  // namespace
}  // namespace kessai::tools
