// SPDX-License-Identifier: Apache-2.0
// Goal: orders of events that no public call can force. Method: the flow's inside, driven by hand:
// its tasks, its journals and its upkeep run when the test says so.
#include "engine/payments/flow_core.hpp"

#include "tests/payments/flow_world.hpp"

namespace kessai::payments_test {
namespace {

/// A flow without its public face; polls only when asked.
struct ByHand {
  World world;
  Life life{world};
  std::optional<PaymentTables> tables;
  std::shared_ptr<FlowCore> core;
  std::map<std::string, std::vector<Answer>> answers;

  ByHand() {
    EXPECT_TRUE(life.open_store().has_value());
    tables.emplace(life.tables());
    core = std::make_shared<FlowCore>(*life.db, *life.executor, *life.acquirer, life.options,
                                      *tables, Table<MarkRow>::open(*life.db, true).value(),
                                      life.journal(kTxlogName), life.journal(kSpoolName));
    EXPECT_TRUE(core->recover().has_value());
    core->start_upkeep();
  }
  ~ByHand() { core->gate().close(); }
  ByHand(const ByHand&) = delete;
  ByHand& operator=(const ByHand&) = delete;

  void pay(const std::string& id) {
    core->pay(order(id), [this, id](const Answer& a) { answers[id].push_back(a); });
  }
  void settle() {
    do {
      life.executor->run_ready();
    } while (core->poll());
  }
  void poll_from_now_on() {
    life.executor->add_poller([weak = std::weak_ptr(core)] {
      const auto self = weak.lock();
      return self && self->poll();
    });
  }
};

// Upkeep takes a record over from the spool between its flush and the task that tells the payment
// of it. Symptom, without the look at what was taken over: the cancel counts as spooled for ever,
// and nobody who waits for the drain is told.
TEST(FlowCore, ASpoolRecordMayBeTakenOverBeforeItIsTold) {
  ByHand f;
  f.life.acquirer->silent = true;
  for (const char* id : {"a", "b"}) f.pay(id);
  f.settle();
  ASSERT_EQ(f.life.acquirer->waiting.size(), 2u);
  // Somebody holds the results' keys, so that the store takes neither of them.
  auto other = f.life.db->begin({.isolation = Isolation::read_committed}).value();
  for (const char* id : {"a", "b"})
    ASSERT_TRUE(f.tables->result.insert(other, {.request = id}).value().inserted);
  const AuthReply ok{.outcome = AuthOutcome::ok, .auth_code = "1", .reason = {}};
  f.life.acquirer->waiting[0](ok);
  f.settle();
  ASSERT_EQ(f.answers["a"].size(), 1u);
  EXPECT_EQ(f.core->stats().spooled, 1u);
  f.life.acquirer->waiting[1](ok);
  f.life.executor->run_ready();  // appended, not flushed
  ASSERT_TRUE(other.rollback().has_value());
  ASSERT_TRUE(f.core->poll()) << "flushed; its answer waits in the executor";
  ASSERT_TRUE(f.answers["b"].empty());
  f.core->upkeep();
  f.life.executor->run_ready();
  ASSERT_EQ(f.answers["b"].size(), 1u);
  EXPECT_EQ(f.answers["b"][0].kind, AnswerKind::failed);
  EXPECT_TRUE(stored(f.life, "a").cancel);
  EXPECT_TRUE(stored(f.life, "b").cancel);
  EXPECT_EQ(f.core->stats().cancels_open, 2u);
  bool drained = false;
  f.core->when_drained([&] { drained = true; });
  f.poll_from_now_on();
  EXPECT_TRUE(f.life.run_until([&] { return drained; }));
  EXPECT_EQ(f.core->stats().cancels_delivered, 2u);
}

}  // namespace
}  // namespace kessai::payments_test
