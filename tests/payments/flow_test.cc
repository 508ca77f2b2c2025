// SPDX-License-Identifier: Apache-2.0
// Goal: the steps of one payment, in every order in which they can go wrong. Method: a service on
// simulated disks with a virtual clock; the acquirer's book is compared with answers and rows.
#include "tests/payments/flow_world.hpp"

namespace kessai::payments_test {
namespace {

Life& opened(Life& life) {
  const auto ok = life.open();
  EXPECT_TRUE(ok.has_value()) << ok.error().message();
  return life;
}

// A payment inserts three rows and its id, and nothing of the store is held while it is outside.
TEST(Flow, SuccessIsThreeRowsAndOneCall) {
  World world;
  Life life(world);
  opened(life);
  const Answer a = life.pay_now(order("order-1", 42'500));
  EXPECT_EQ(a.kind, AnswerKind::success) << a.reason;
  EXPECT_FALSE(a.idempotent);
  EXPECT_TRUE(a.bytes.starts_with("captured 42.500 GBP auth=")) << a.bytes;
  EXPECT_EQ(held(world, "order-1"), 1u);
  EXPECT_EQ(life.flow->stats().row_inserts, 3u);
  const Stored s = stored(life, "order-1");
  ASSERT_TRUE(s.request && s.transaction && s.result);
  EXPECT_EQ(s.result->answer, a.bytes);
  EXPECT_EQ(s.result->status, Status::captured);
  EXPECT_EQ(s.result->log_position, 1u);
  EXPECT_FALSE(s.cancel);
}

// The same request again is answered the same bytes, in this process and the next, without a call.
TEST(Flow, ReplaysTheStoredBytes) {
  World world;
  std::string bytes;
  {
    Life life(world);
    opened(life);
    bytes = life.pay_now(order("a")).bytes;
    const Answer again = life.pay_now(order("a"));
    EXPECT_EQ(again.kind, AnswerKind::success);
    EXPECT_TRUE(again.idempotent);
    EXPECT_EQ(again.bytes, bytes);
  }
  Life life(world, 2);
  opened(life);
  EXPECT_EQ(life.pay_now(order("a")).bytes, bytes);
  EXPECT_EQ(calls(world, "a"), 1u);
}

// A declined payment stays declined: no second call, and the same bytes.
TEST(Flow, ADeclineIsFinal) {
  World world({.declined = 1000});
  Life life(world);
  opened(life);
  const Answer a = life.pay_now(order("a"));
  EXPECT_EQ(a.kind, AnswerKind::declined);
  const Answer b = life.pay_now(order("a"));
  EXPECT_EQ(b.kind, AnswerKind::declined);
  EXPECT_EQ(b.bytes, a.bytes);
  EXPECT_EQ(calls(world, "a"), 1u);
  EXPECT_FALSE(stored(life, "a").cancel);
}

// S19a: of 64 equal requests at one moment one goes on; the others are told so, with its age.
TEST(Flow, OneOfManyEqualRequestsGoesOn) {
  World world({.fastest_ns = 300'000'000, .slowest_ns = 300'000'001});
  Life life(world);
  opened(life);
  for (int i = 0; i < 64; ++i) life.pay(order("a"));
  ASSERT_TRUE(life.run_answers());
  unsigned success = 0, violation = 0;
  for (const Answer& a : life.answers["a"]) {
    success += a.kind == AnswerKind::success ? 1 : 0;
    violation += a.kind == AnswerKind::unique_violation ? 1 : 0;
  }
  EXPECT_EQ(success, 1u);
  EXPECT_EQ(violation, 63u);
  EXPECT_EQ(calls(world, "a"), 1u);
  world.clock.advance(5'000'000'000);
  EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::success);
}

// The insert is the arbiter also between two services over one store.
TEST(Flow, TheInsertDecidesBetweenTwoServices) {
  World world;
  Life life(world);
  opened(life);
  life.acquirer->silent = true;
  life.pay(order("a"));
  life.executor->run_ready();
  io::SimDisk other_disk(303);
  const auto other_dir = other_disk.attach();
  io::Env other_env = life.outside_env();
  other_env.directory = other_dir.get();
  FlowOptions options;
  options.journal_env = &other_env;
  auto other = PaymentFlow::open(*life.db, *life.executor, "", *life.acquirer, options);
  // Its recovery closed what it found open: as not sent, since its own log knows nothing.
  ASSERT_TRUE(other.has_value()) << other.error().message();
  std::vector<Answer> got;
  (*other)->pay(order("a"), [&](const Answer& a) { got.push_back(a); });
  life.executor->run_ready();
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].kind, AnswerKind::failed);
  // The first service's call succeeds after all: it lost the race, and cancels.
  ASSERT_EQ(life.acquirer->waiting.size(), 1u);
  static_cast<void>(world.book.authorise(transaction_id_of("a"), 1000, "", 1));
  life.acquirer->waiting[0]({.outcome = AuthOutcome::ok, .auth_code = "1", .reason = {}});
  ASSERT_TRUE(life.run_answers());
  EXPECT_EQ(life.answers["a"].at(0).kind, AnswerKind::failed);
  EXPECT_EQ(life.answers["a"].at(0).bytes, got[0].bytes);
  EXPECT_TRUE(life.drain());
  EXPECT_TRUE(life.run_until([&] { return (*other)->stats().cancels_open == 0; }));
  EXPECT_EQ(held(world, "a"), 0u);
}

TEST(Flow, TheSameIdWithOtherContentsIsAMismatch) {
  World world;
  Life life(world);
  opened(life);
  life.acquirer->silent = true;
  life.pay(order("a", 1000));
  life.executor->run_ready();
  EXPECT_EQ(life.flow->stats().in_flight, 1u);
  life.pay(order("a", 1001));  // in flight
  life.executor->run_ready();
  ASSERT_EQ(life.answers["a"].size(), 1u);
  EXPECT_EQ(life.answers["a"][0].kind, AnswerKind::key_reused_mismatch);
  life.acquirer->silent = false;
  EXPECT_EQ(life.pay_now(order("b")).kind, AnswerKind::success);
  Order other = order("b");
  other.card_token = "tok-other";
  EXPECT_EQ(life.pay_now(other).kind, AnswerKind::key_reused_mismatch);  // finished
  EXPECT_EQ(calls(world, "b"), 1u);
}

// Admission and bad orders: refused before any row.
TEST(Flow, RefusalsLeaveNoRow) {
  World world;
  Life life(world);
  life.options.max_in_flight = 2;
  opened(life);
  life.acquirer->silent = true;
  for (const char* id : {"a", "b", "c"}) life.pay(order(id));
  ASSERT_EQ(life.answers["c"].size(), 1u);
  EXPECT_EQ(life.answers["c"][0].kind, AnswerKind::busy);
  EXPECT_FALSE(stored(life, "c").request);

  const auto refused = [&](Order o, const char* why) {
    EXPECT_EQ(life.pay_now(o).kind, AnswerKind::refused) << why;
  };
  life.acquirer->silent = false;
  EXPECT_TRUE(life.run_until([&] { return life.answered == life.asked; }));
  refused(order(""), "no id");
  refused(order(std::string(256, 'x')), "an id of 256 bytes");
  refused(order("z", 0), "nothing");
  refused(order("z", -5), "negative");
  Order o = order("z");
  o.currency = "XQX";
  refused(o, "unknown currency");
  o = order("z");
  o.card_token = "4111 1111 1111 1111";
  refused(o, "a card number");
  o = order("z");
  o.account = std::string(256, 'a');
  refused(o, "a long account");
  EXPECT_FALSE(stored(life, "z").request);
  EXPECT_EQ(life.flow->stats().refused, 7u);

  o = order("");
  o.id = std::string(255, '\0');
  EXPECT_EQ(life.pay_now(o).kind, AnswerKind::success) << "255 bytes of any kind";
  EXPECT_EQ(life.pay_now(order(std::string("\xff\x00'\n", 4))).kind, AnswerKind::success);
  EXPECT_EQ(life.pay_now(order("largest", INT64_MAX)).kind, AnswerKind::success);
}

// A timeout is not a failure: the cancel is registered with the result, and delivered.
TEST(Flow, ATimeoutIsCancelled) {
  for (const StubProfile profile : {StubProfile{.lost_before = 1000},
                                    StubProfile{.lost_after = 1000}, StubProfile{.late = 1000}}) {
    World world(profile);
    Life life(world);
    opened(life);
    const std::uint64_t before = world.clock.now_ns();
    const Answer a = life.pay_now(order("a"));
    EXPECT_EQ(a.kind, AnswerKind::failed);
    EXPECT_LT(world.clock.now_ns() - before, 10'000'000'000u) << "answered before the caller left";
    const Stored s = stored(life, "a");
    ASSERT_TRUE(s.result && s.cancel);
    EXPECT_EQ(s.result->status, Status::failed_cancel_requested);
    EXPECT_TRUE(life.drain());
    EXPECT_EQ(held(world, "a"), 0u);
    EXPECT_EQ(life.pay_now(order("a")).bytes, a.bytes);
  }
}

// S43 and 15: the cancel is there before the authorisation that it cancels.
TEST(Flow, KeepsCancellingUntilTheWindowIsOver) {
  World world({.late = 1000, .late_ns = 40'000'000'000});
  Life life(world);
  opened(life);
  EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::failed);
  EXPECT_TRUE(life.run_for(5s) || life.flow->stats().cancels_open == 1);
  EXPECT_TRUE(life.drain());
  EXPECT_EQ(world.book.entries(world.clock.now_ns()).begin()->second.authorisations, 1u);
  EXPECT_EQ(held(world, "a"), 0u);
}

// What is not there is asked for less and less often, and once more when the window ends.
TEST(Flow, NothingThereBacksOff) {
  World world({.lost_before = 1000});
  Life life(world);
  opened(life);
  EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::failed);
  const std::uint64_t before = world.clock.now_ns();
  EXPECT_TRUE(life.drain());
  EXPECT_LE(world.clock.now_ns() - before, 60'100'000'000u) << "at the end of the window";
  EXPECT_GE(life.acquirer->cancels, 5u);
  EXPECT_LE(life.acquirer->cancels, 15u);
}

// No call is begun that cannot end before the caller leaves.
TEST(Flow, WithoutTimeLeftNothingIsSent) {
  World world;
  Life life(world);
  opened(life);
  Order o = order("a");
  o.patience = 1400ms;  // margin 1 s, least call 0.5 s
  EXPECT_EQ(life.pay_now(o).kind, AnswerKind::refused);
  EXPECT_EQ(calls(world, "a"), 0u);
  EXPECT_FALSE(stored(life, "a").request) << "found out before any row";
  // The time went while it waited for its turn: busy, and again without a row.
  life.pay(order("b"));
  world.clock.advance(9'000'000'000);
  ASSERT_TRUE(life.run_answers());
  EXPECT_EQ(life.answers["b"].at(0).kind, AnswerKind::busy);
  EXPECT_FALSE(stored(life, "b").request);
  EXPECT_EQ(life.flow->stats().busy, 1u);
  EXPECT_EQ(life.flow->stats().refused, 1u);
}

// Who asks with little patience about an id that is known is told what became of it.
TEST(Flow, WithoutTimeLeftAKnownIdIsAnswered) {
  World world;
  Life life(world);
  opened(life);
  Order o = order("done");
  EXPECT_EQ(life.pay_now(o).kind, AnswerKind::success);
  o.patience = 100ms;
  EXPECT_EQ(life.pay_now(o).kind, AnswerKind::success);
  {
    const PaymentTables t = life.tables();  // accepted, by somebody who is still at it
    auto txn = life.db->begin().value();
    RequestRow row = *stored(life, "done").request;
    row.id = "open";
    ASSERT_TRUE(t.request.insert(txn, row).value().inserted);
    ASSERT_TRUE(txn.commit().has_value());
  }
  Order open = order("open");
  open.card_token = "tok-done";
  open.patience = 100ms;
  EXPECT_EQ(life.pay_now(open).kind, AnswerKind::unique_violation);
  open.amount += 1;
  EXPECT_EQ(life.pay_now(open).kind, AnswerKind::key_reused_mismatch);
}

// A late answer after the deadline changes nothing.
TEST(Flow, ALateReplyIsCountedOnly) {
  World world({.fastest_ns = 20'000'000'000, .slowest_ns = 20'000'000'001});
  Life life(world);
  opened(life);
  EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::failed);
  life.run_for(30s);
  EXPECT_EQ(life.flow->stats().late_replies, 1u);
  EXPECT_TRUE(life.drain());
  EXPECT_EQ(held(world, "a"), 0u);
  EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::failed);
}

// 17: two thousand in flight hold no transaction, lock or snapshot.
TEST(Flow, ThousandsInFlightHoldNothing) {
  World world({.fastest_ns = 5'000'000'000, .slowest_ns = 5'000'000'001});
  Life life(world);
  opened(life);
  constexpr int kPayments = 2000;
  for (int i = 0; i < kPayments; ++i) life.pay(order("id" + std::to_string(i)));
  life.executor->run_ready();
  EXPECT_EQ(life.flow->stats().in_flight, std::uint64_t{kPayments});
  EXPECT_EQ(life.flow->stats().calls, std::uint64_t{kPayments});
  EXPECT_TRUE(life.db->transactions().empty());
  EXPECT_TRUE(life.db->locks().empty());
  ASSERT_TRUE(life.run_answers());
  EXPECT_EQ(life.flow->stats().success, std::uint64_t{kPayments});
}

// Step 6 fails closed: without a log record nothing is sent.
TEST(Flow, WithoutTheLogNothingIsSent) {
  World world;
  Life life(world);
  opened(life);
  world.outside.add_fault(
      {.what = io::Fault::What::io_error, .kind = "write", .file = {}, .count = 1000});
  const Answer a = life.pay_now(order("a"));
  EXPECT_EQ(a.kind, AnswerKind::failed);
  EXPECT_EQ(calls(world, "a"), 0u);
  EXPECT_EQ(stored(life, "a").result->status, Status::failed_not_sent);
}

// Who runs the service is told, once, and finds it in the store; another failure is told again.
TEST(Flow, ALogThatTakesNothingRaisesAnAlert) {
  World world;
  std::vector<std::string> told;
  const auto tell = [&](const Alert& a) { told.push_back(a.what); };
  {
    Life life(world);
    life.options.on_alert = tell;
    opened(life);
    world.outside.add_fault(
        {.what = io::Fault::What::io_error, .kind = "write", .file = {}, .count = 1});
    for (const char* id : {"a", "b", "c"}) {
      EXPECT_EQ(life.pay_now(order(id)).kind, AnswerKind::failed);
      EXPECT_EQ(calls(world, id), 0u);
    }
    life.run_for(1s);
    EXPECT_EQ(told, std::vector<std::string>{"log_failed"});
    ASSERT_EQ(alerts(life).size(), 1u);
    EXPECT_EQ(alerts(life)[0].what, "log_failed");
    EXPECT_NE(alerts(life)[0].detail.find("io_error"), std::string::npos) << alerts(life)[0].detail;
  }
  Life life(world, 2);
  life.options.on_alert = tell;
  life.options.log_segment_bytes = 64_KiB;
  opened(life);
  for (int round = 0; round < 2; ++round) {
    told.clear();
    std::uint64_t used = 0;
    for (const auto& name : world.outside.files()) used += world.outside.file_bytes(name).size();
    world.outside.set_capacity(used);
    int failed = 0;
    for (int i = 0; i < 100 && failed < 3; ++i) {
      const std::string id = std::to_string(round) + "/" + std::to_string(i);
      failed += life.pay_now(order(id)).kind == AnswerKind::failed ? 1 : 0;
    }
    EXPECT_EQ(failed, 3);
    life.run_for(1s);
    EXPECT_EQ(told, std::vector<std::string>{"log_full"}) << round;
    EXPECT_EQ(alerts(life).size(), 2u + static_cast<unsigned>(round));
    world.outside.set_capacity(UINT64_MAX);
    EXPECT_EQ(life.pay_now(order("room" + std::to_string(round))).kind, AnswerKind::success);
  }
}

// Nothing takes anything: the callback is what is left.
TEST(Flow, ASpoolThatTakesNothingIsTold) {
  World world;
  Life life(world);
  std::vector<std::string> told;
  life.options.on_alert = [&](const Alert& a) { told.push_back(a.what + ": " + a.detail); };
  opened(life);
  life.acquirer->silent = true;
  for (const char* id : {"a", "b"}) life.pay(order(id));
  life.executor->run_ready();
  ASSERT_EQ(life.acquirer->waiting.size(), 2u);
  for (io::SimDisk* disk : {&world.store, &world.outside})
    for (const char* kind : {"write", "write_durable", "flush"})
      disk->add_fault(
          {.what = io::Fault::What::io_error, .kind = kind, .file = {}, .count = 100'000});
  for (const auto& reply : life.acquirer->waiting)
    reply({.outcome = AuthOutcome::ok, .auth_code = "1", .reason = {}});
  ASSERT_TRUE(life.run_answers());
  EXPECT_EQ(life.answers["a"].at(0).kind, AnswerKind::unknown);
  EXPECT_EQ(life.answers["b"].at(0).kind, AnswerKind::unknown);
  life.run_for(1s);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_TRUE(told[0].starts_with("spool_failed: ")) << told[0];
}

// Step 10: the store dies under the call. The cancel goes out from the spool while the store is
// dead; after the restart the row is there as well, and the retry is told the failure.
TEST(Flow, TheSpoolCancelsWhenTheStoreIsDead) {
  World world;
  {
    Life life(world);
    opened(life);
    life.acquirer->silent = true;
    life.pay(order("a"));
    life.executor->run_ready();
    ASSERT_EQ(life.acquirer->waiting.size(), 1u);
    static_cast<void>(world.book.authorise(transaction_id_of("a"), 1000, "", 1));
    for (const char* kind : {"write", "write_durable", "flush"})
      world.store.add_fault(
          {.what = io::Fault::What::io_error, .kind = kind, .file = {}, .count = 100'000});
    life.acquirer->waiting[0]({.outcome = AuthOutcome::ok, .auth_code = "1", .reason = {}});
    ASSERT_TRUE(life.run_answers());
    EXPECT_EQ(life.answers["a"].at(0).kind, AnswerKind::failed);
    EXPECT_EQ(life.flow->stats().spooled, 1u);
    EXPECT_TRUE(life.drain());
    EXPECT_EQ(held(world, "a"), 0u) << "delivered from the spool";
    EXPECT_EQ(life.pay_now(order("new")).kind, AnswerKind::unknown)
        << "a dead store cannot say whether the id was accepted earlier";
  }
  world.store.clear_faults();
  Life life(world, 2);
  opened(life);
  EXPECT_TRUE(stored(life, "a").cancel);
  EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::failed);
  EXPECT_TRUE(life.drain());
  EXPECT_EQ(held(world, "a"), 0u);
}

// A full disk in the middle of a payment: a named answer, nothing forgotten, and the store that has
// room again takes what the spool holds.
TEST(Flow, AFullDiskInTheMiddle) {
  World world;
  Life life(world);
  life.options.lease = 20s;
  opened(life);
  EXPECT_EQ(life.pay_now(order("before")).kind, AnswerKind::success);
  std::uint64_t used = 0;
  for (const auto& name : world.store.files()) used += world.store.file_bytes(name).size();
  world.store.set_capacity(used);
  unsigned failed = 0;
  for (int i = 0; i < 3000 && failed < 3; ++i) {
    Order o = order("id" + std::to_string(i));
    o.account = std::string(255, 'a');
    const Answer a = life.pay_now(o);
    failed += a.kind == AnswerKind::success ? 0 : 1;
    if (a.kind != AnswerKind::success) {
      EXPECT_EQ(a.kind, AnswerKind::failed);
      EXPECT_FALSE(a.reason.empty());
    }
  }
  EXPECT_GT(failed, 0u);
  world.store.set_capacity(UINT64_MAX);
  life.run_for(60s);
  EXPECT_TRUE(life.drain());
  for (const auto& [id, all] : life.answers) {
    EXPECT_EQ(held(world, id), all.back().kind == AnswerKind::success ? 1u : 0u) << id;
  }
}

// S19g: cancels fail too.
TEST(Flow, ACancelThatFailsFiveTimesIsDeliveredOnce) {
  World world({.lost_after = 1000});
  Life life(world);
  life.acquirer->failing_cancels = 5;
  opened(life);
  EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::failed);
  EXPECT_TRUE(life.drain());
  EXPECT_EQ(life.acquirer->cancels, 6u);
  EXPECT_EQ(held(world, "a"), 0u);
  EXPECT_EQ(life.flow->stats().dead_letters, 0u);
}

// Always failing: a dead letter and an alert, in one commit, known after a restart.
TEST(Flow, ACancelThatAlwaysFailsBecomesADeadLetterAndAnAlert) {
  World world({.lost_after = 1000});
  std::vector<std::string> told;
  {
    Life life(world);
    life.acquirer->failing_cancels = 1000;
    life.options.cancel_attempts = 4;
    life.options.on_alert = [&](const Alert& a) { told.push_back(a.what + " " + a.subject); };
    opened(life);
    static_cast<void>(life.pay_now(order("a")));
    EXPECT_TRUE(life.drain());
    EXPECT_EQ(life.acquirer->cancels, 4u);
    EXPECT_EQ(told, std::vector<std::string>{"dead_letter a/1"});
  }
  Life life(world, 2);
  opened(life);
  life.run_for(60s);
  EXPECT_EQ(life.acquirer->cancels, 0u) << "a person's business now";
  ASSERT_EQ(alerts(life).size(), 1u);
  EXPECT_EQ(alerts(life)[0].what, "dead_letter");
  EXPECT_EQ(held(world, "a"), 1u);
}

// Attempts are counted over restarts.
TEST(Flow, CancelsGoOnAfterARestart) {
  World world({.lost_after = 1000});
  {
    Life life(world);
    life.acquirer->failing_cancels = 1000;
    opened(life);
    static_cast<void>(life.pay_now(order("a")));
    life.run_until([&] { return life.acquirer->cancels == 3; });
    EXPECT_EQ(life.acquirer->cancels, 3u);
  }
  Life life(world, 2);
  opened(life);
  EXPECT_EQ(life.flow->recovery().cancels_open, 1u);
  EXPECT_TRUE(life.drain());
  EXPECT_EQ(held(world, "a"), 0u);
}

// Clocks that jump: deadlines are monotonic, rows before the mark are covered by a new one.
TEST(Flow, ClocksThatJumpDoNoHarm) {
  World world({.fastest_ns = 300'000'000, .slowest_ns = 300'000'001});
  const std::uint64_t year = 365ull * 86'400 * 1'000'000;
  {
    Life life(world);
    opened(life);
    EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::success);
    world.clock.set_unix_micros(world.clock.unix_micros() + year);
    EXPECT_EQ(life.pay_now(order("b")).kind, AnswerKind::success);
    world.clock.set_unix_micros(world.clock.unix_micros() - 2 * year);
    life.pay(order("c"));
    life.run_for(100ms);
    EXPECT_EQ(life.flow->stats().calls, 3u);
  }  // killed with c outside, created before everything else
  Life life(world, 2);
  opened(life);
  EXPECT_EQ(life.flow->recovery().cancel_requested, 1u);
  EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::success);
  EXPECT_EQ(life.pay_now(order("b")).kind, AnswerKind::success);
  EXPECT_EQ(life.pay_now(order("c")).kind, AnswerKind::failed);
  EXPECT_TRUE(life.drain());
  EXPECT_EQ(held(world, "a") + held(world, "b"), 2u);
  EXPECT_EQ(held(world, "c"), 0u);
}

// A clock set back by a day while nobody ran: what the start registers is delivered in that life.
TEST(Flow, AClockSetBackBetweenLivesLosesNoCancel) {
  World world;
  const std::uint64_t day = 86'400ull * 1'000'000;
  world.clock.set_unix_micros(world.clock.unix_micros() + 10 * day);
  {
    Life life(world);
    opened(life);  // leaves a mark of this day
    life.acquirer->silent = true;
    life.pay(order("a"));
    life.executor->run_ready();
    ASSERT_EQ(life.acquirer->waiting.size(), 1u);
    static_cast<void>(world.book.authorise(transaction_id_of("a"), 1000, "", 1));
  }
  world.clock.set_unix_micros(world.clock.unix_micros() - day);
  Life life(world, 2);
  opened(life);
  EXPECT_EQ(life.flow->recovery().cancel_requested, 1u);
  EXPECT_EQ(life.flow->recovery().cancels_open, 1u);
  EXPECT_TRUE(life.drain());
  EXPECT_EQ(held(world, "a"), 0u);
}

// A cancel in the spool whose day was dropped meanwhile does not bar the start.
TEST(Flow, ASpooledCancelOfADroppedDayIsTakenOver) {
  World world;
  const std::uint64_t day = 86'400ull * 1'000'000;
  Micros old = 0;
  {
    Life life(world);
    opened(life);
    old = static_cast<Micros>(world.clock.unix_micros());
    EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::success);
    ASSERT_TRUE(life.flow->close().has_value());
    life.flow.reset();
    world.clock.set_unix_micros(world.clock.unix_micros() + 3 * day);
    ASSERT_TRUE(life.tables().drop_cancels(*life.db, day_of(old)).has_value());
    const CancelRow row{.transaction = transaction_id_of("a"),
                        .request = "a",
                        .reason = "spooled",
                        .acquirer_key = transaction_id_of("a"),
                        .amount = 1000,
                        .create_date = old};
    ASSERT_TRUE(life.journal(kSpoolName).append(encode_spooled(row)).has_value());
  }
  Life life(world, 2);
  const auto ok = life.open();
  ASSERT_TRUE(ok.has_value()) << ok.error().message();
  EXPECT_EQ(life.flow->recovery().from_spool, 1u);
  EXPECT_TRUE(life.drain());
  EXPECT_EQ(held(world, "a"), 0u);
}

// Two sweepers at once: the result's insert decides, and one cancel comes of it.
TEST(Flow, TwoSweepersDoNoHarm) {
  World world({.lost_after = 1000});
  io::SimDisk other_disk(303);
  Life life(world);
  life.options.caller_patience = 4000s * 10;  // it stays outside for longer than the lease
  life.options.lease = 30s;
  opened(life);
  life.pay(order("a"));
  life.executor->run_ready();
  EXPECT_EQ(calls(world, "a"), 1u);
  life.run_for(60s);
  const auto other_dir = other_disk.attach();
  io::Env other_env = life.outside_env();
  other_env.directory = other_dir.get();
  FlowOptions options = life.options;
  options.journal_env = &other_env;
  // The second service's start is a sweeper by itself; then both sweep.
  auto other = PaymentFlow::open(*life.db, *life.executor, "", *life.acquirer, options);
  ASSERT_TRUE(other.has_value()) << other.error().message();
  const auto first = (*other)->sweep();
  const auto second = life.flow->sweep();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(*first + *second, 0u) << "closed by the start";
  Order b = order("b");
  b.patience = 10s;
  life.pay(b);
  EXPECT_TRUE(life.run_until([&] { return !life.answers["b"].empty(); }));
  EXPECT_EQ(life.answers["b"].at(0).kind, AnswerKind::failed);
  EXPECT_TRUE(life.run_until([&] { return (*other)->stats().cancels_open == 0; }));
  EXPECT_EQ(held(world, "a"), 0u);
}

// Who never says that gathering is over: the payment is closed as not sent while there is time to
// answer, keeps no slot, and a sweeper leaves it alone until then.
TEST(Flow, GatheringThatNeverEndsIsNotSent) {
  World world;
  Life life(world);
  std::function<void(Result<void>)> ready;
  life.options.gather = [&](const Order&, std::function<void(Result<void>)> done) {
    ready = std::move(done);
  };
  life.options.lease = 0s;
  opened(life);
  life.pay(order("a"));
  life.run_for(8s);
  ASSERT_TRUE(life.flow->sweep().has_value());
  EXPECT_FALSE(stored(life, "a").result);
  life.run_for(1s);
  ASSERT_EQ(life.answers["a"].size(), 1u);
  EXPECT_EQ(life.answers["a"][0].kind, AnswerKind::failed);
  EXPECT_EQ(stored(life, "a").result->status, Status::failed_not_sent);
  ready({});  // too late
  life.run_for(1s);
  EXPECT_EQ(calls(world, "a"), 0u);
  EXPECT_EQ(life.flow->stats().in_flight, 0u);
  EXPECT_TRUE(life.flow->close().has_value());
}

// A log whose flush takes all the time: the acquirer is not called.
TEST(Flow, AStalledLogLeavesNoTimeForTheCall) {
  World world;
  Life life(world);
  opened(life);
  world.outside.set_observer([&](std::uint64_t, std::string_view, std::string_view) {
    world.clock.set(world.clock.now_ns() + 9'000'000'000);
  });
  life.pay(order("a"));
  EXPECT_TRUE(life.run_answers());
  world.outside.set_observer({});
  EXPECT_EQ(life.answers["a"].at(0).kind, AnswerKind::failed);
  EXPECT_FALSE(life.acquirer->called.contains(transaction_id_of("a")));
  EXPECT_EQ(stored(life, "a").result->status, Status::failed_not_sent);
  EXPECT_GT(stored(life, "a").result->log_position, 0u);
}

// A sweep reads in short transactions: between them nothing of the store is held, and who writes
// into the day that is being read gets in (in the S2PL build a scan of all would answer
// self_deadlock here).
TEST(Flow, ASweepHoldsNothingForLong) {
  World world;
  Life life(world);
  life.options.lease = 0s;
  opened(life);
  constexpr int kRows = 1500, kOpen = 5, kMostAtOnce = 256;
  const Micros now = static_cast<Micros>(world.clock.unix_micros());
  const PaymentTables t = life.tables();
  const auto write = [&](const std::string& id, Micros create_date, bool result) {
    auto txn =
        life.db->begin({.isolation = Isolation::read_committed, .lock_timeout = 0ms}).value();
    const auto request = t.request.insert(txn, {.id = id, .amount = 1, .create_date = create_date});
    ASSERT_TRUE(request.has_value()) << request.error().message();
    if (result) {
      ASSERT_TRUE(t.result.insert(txn, {.request = id, .create_date = create_date}).has_value());
    }
    ASSERT_TRUE(txn.commit().has_value());
  };
  for (int i = 0; i < kRows; ++i)
    write("id" + std::to_string(i), now - (i % 3 == 0 ? kDayMicros : 0), i >= kOpen);
  EXPECT_EQ(life.flow->sweep([](std::uint64_t) { return false; }).error(), Code::interrupted);
  std::uint64_t seen = 0;
  int pieces = 0;
  const auto waits = life.db->stats().lock_waits;
  const auto closed = life.flow->sweep([&](std::uint64_t rows) {
    EXPECT_LE(rows - seen, std::uint64_t{kMostAtOnce});
    seen = rows;
    EXPECT_TRUE(life.db->locks().empty());
    EXPECT_EQ(life.db->stats().locks_held, 0u);
    EXPECT_TRUE(life.db->transactions().empty());
    write("beside" + std::to_string(pieces++), now + 1, false);
    return true;
  });
  ASSERT_TRUE(closed.has_value()) << closed.error().message();
  EXPECT_EQ(*closed, std::uint64_t{kOpen});
  EXPECT_GE(seen, std::uint64_t{kRows});
  EXPECT_GE(pieces, kRows / kMostAtOnce);
  EXPECT_EQ(life.db->stats().lock_waits, waits);
  EXPECT_EQ(life.flow->sweep().value(), 0u);
}

// A sweep that cannot write says so.
TEST(Flow, ASweepOfADeadStoreIsAnError) {
  World world;
  Life life(world);
  life.options.lease = 0s;
  opened(life);
  const auto row = [&](const std::string& id) {
    const Micros now = static_cast<Micros>(world.clock.unix_micros());
    const PaymentTables t = life.tables();
    auto txn = life.db->begin().value();
    ASSERT_TRUE(t.request.insert(txn, {.id = id, .amount = 1, .create_date = now}).has_value());
    ASSERT_TRUE(txn.commit().has_value());
  };
  row("a");
  EXPECT_EQ(life.flow->sweep().value(), 1u);
  row("b");
  for (const char* kind : {"write", "write_durable", "flush"})
    world.store.add_fault(
        {.what = io::Fault::What::io_error, .kind = kind, .file = {}, .count = 100'000});
  EXPECT_FALSE(life.flow->sweep().has_value()) << "found at the flush";
  EXPECT_FALSE(life.flow->sweep().has_value()) << "found at the insert";
}

// close() leaves a mark: the next start walks nothing.
TEST(Flow, ACleanEndLeavesNothingToWalk) {
  World world;
  {
    Life life(world);
    opened(life);
    for (int i = 0; i < 20; ++i)
      EXPECT_EQ(life.pay_now(order("id" + std::to_string(i))).kind, AnswerKind::success);
    ASSERT_TRUE(life.flow->close().has_value());
    life.pay(order("late"));
    EXPECT_EQ(life.answers["late"].at(0).kind, AnswerKind::busy);
  }
  Life life(world, 2);
  opened(life);
  EXPECT_EQ(life.flow->recovery().log_records, 0u);
}

// With something to gather, request and transaction are two commits.
TEST(Flow, GathersBetweenRequestAndTransaction) {
  World world;
  Life life(world);
  std::function<void(Result<void>)> ready;
  life.options.gather = [&](const Order&, std::function<void(Result<void>)> done) {
    ready = std::move(done);
  };
  opened(life);
  life.pay(order("a"));
  life.executor->run_ready();
  ASSERT_TRUE(ready);
  EXPECT_TRUE(stored(life, "a").request);
  EXPECT_FALSE(stored(life, "a").transaction);
  EXPECT_TRUE(life.db->transactions().empty());
  ready({});
  ready({});  // told twice
  ASSERT_TRUE(life.run_answers());
  EXPECT_EQ(life.answers["a"].at(0).kind, AnswerKind::success);
  EXPECT_EQ(calls(world, "a"), 1u);
}

}  // namespace
}  // namespace kessai::payments_test
