// SPDX-License-Identifier: Apache-2.0
// Goal: each row of the state table of docs/payments-flow.md (request, transaction, log record,
// result) is recovered as the table says. Method: the state is written by hand, then the service is
// started, asked again, and the acquirer's book is looked at.
#include "tests/payments/flow_world.hpp"

namespace kessai::payments_test {
namespace {

/// Writes pieces of payment "a" as a process that stopped would have left them.
class Pieces {
 public:
  explicit Pieces(World& world, bool authorised = false) : life_(world) {
    EXPECT_TRUE(life_.open_store().has_value());
    tables_.emplace(life_.tables());
    const Micros now = life_.executor->unix_micros();
    const Order o = order("a");
    record_.request = {.id = "a",
                       .amount = o.amount,
                       .request_date = now,
                       .payment_date = day_of(now),
                       .create_date = now,
                       .card_token = o.card_token};
    record_.request.fingerprint = fingerprint();
    record_.transaction = {.id = transaction_id_of("a"),
                           .request = "a",
                           .amount = o.amount,
                           .transaction_date = now,
                           .create_date = now,
                           .acquirer = "acquirer",
                           .acquirer_key = transaction_id_of("a")};
    if (authorised)
      static_cast<void>(world.book.authorise(record_.transaction.acquirer_key, o.amount, "",
                                             world.clock.now_ns()));
  }
  Pieces& request() {
    insert(tables_->request, record_.request);
    return *this;
  }
  Pieces& transaction() {
    insert(tables_->transaction, record_.transaction);
    return *this;
  }
  Pieces& log() {
    EXPECT_TRUE(life_.journal(kTxlogName).append(encode(record_)).has_value());
    return *this;
  }
  Pieces& result(Journal::Position position) {
    insert(tables_->result, ResultRow{.request = "a",
                                      .amount = record_.request.amount,
                                      .payment_date = record_.request.payment_date,
                                      .create_date = record_.request.create_date,
                                      .transaction = record_.transaction.id,
                                      .auth_code = "1",
                                      .answer = "captured 1.000 GBP auth=1",
                                      .log_position = position});
    return *this;
  }
  template <class Table, class Row>
  Result<void> try_insert(const Table& table, const Row& row) {
    auto txn = life_.db->begin({.isolation = Isolation::read_committed});
    auto done = table.insert(*txn, row);
    if (!done) return std::unexpected(done.error());
    EXPECT_TRUE(done->inserted);
    EXPECT_TRUE(txn->commit().has_value());
    return {};
  }
  [[nodiscard]] const SentRecord& record() const { return record_; }
  [[nodiscard]] const PaymentTables& tables() const { return *tables_; }

 private:
  template <class Table, class Row>
  void insert(const Table& table, const Row& row) {
    const auto ok = try_insert(table, row);
    EXPECT_TRUE(ok.has_value()) << ok.error().message();
  }
  // As the flow computes it: asked of a service in a world of its own.
  static Fingerprint fingerprint() {
    World world;
    Life life(world);
    EXPECT_TRUE(life.open().has_value());
    static_cast<void>(life.pay_now(order("a")));
    return stored(life, "a").request->fingerprint;
  }

  Life life_;
  std::optional<PaymentTables> tables_;
  SentRecord record_;
};

struct Started {
  Life life;
  explicit Started(World& world) : life(world, 9) {
    const auto ok = life.open();
    EXPECT_TRUE(ok.has_value()) << ok.error().message();
  }
  [[nodiscard]] const Recovery& recovery() const { return life.flow->recovery(); }
  Answer again() { return life.pay_now(order("a")); }
};

TEST(StateTable, Row1NewIsProcessed) {
  World world;
  Started s(world);
  EXPECT_EQ(s.again().kind, AnswerKind::success);
  EXPECT_EQ(held(world, "a"), 1u);
}

TEST(StateTable, Row2RequestOnlyWasNotSent) {
  World world;
  {
    Pieces(world).request();
  }
  Started s(world);
  EXPECT_EQ(s.recovery().not_sent, 1u);
  const Answer a = s.again();
  EXPECT_EQ(a.kind, AnswerKind::failed);
  EXPECT_TRUE(a.idempotent);
  EXPECT_EQ(stored(s.life, "a").result->status, Status::failed_not_sent);
  EXPECT_FALSE(stored(s.life, "a").cancel);
  EXPECT_EQ(calls(world, "a"), 0u);
}

TEST(StateTable, Row3WithTransactionButNotLoggedWasNotSent) {
  World world;
  {
    Pieces(world).request().transaction();
  }
  Started s(world);
  EXPECT_EQ(s.recovery().not_sent, 1u);
  EXPECT_EQ(s.again().kind, AnswerKind::failed);
  EXPECT_EQ(stored(s.life, "a").result->status, Status::failed_not_sent);
  EXPECT_EQ(calls(world, "a"), 0u);
}

TEST(StateTable, Row4LoggedWithoutResultMayBeSentAndIsCancelled) {
  for (const bool authorised : {false, true}) {
    World world;
    {
      Pieces(world, authorised).request().transaction().log();
    }
    Started s(world);
    EXPECT_EQ(s.recovery().cancel_requested, 1u);
    EXPECT_EQ(s.again().kind, AnswerKind::failed);
    EXPECT_EQ(stored(s.life, "a").result->status, Status::failed_cancel_requested);
    ASSERT_TRUE(stored(s.life, "a").cancel);
    EXPECT_TRUE(s.life.drain());
    EXPECT_EQ(held(world, "a"), 0u);
    EXPECT_EQ(calls(world, "a"), authorised ? 1u : 0u);
  }
}

TEST(StateTable, Row5FinishedIsAnsweredAgain) {
  World world;
  {
    Pieces(world, true).request().transaction().log().result(1);
  }
  Started s(world);
  EXPECT_EQ(s.recovery().cancel_requested + s.recovery().not_sent + s.recovery().log_lost, 0u);
  const Answer a = s.again();
  EXPECT_EQ(a.kind, AnswerKind::success);
  EXPECT_TRUE(a.idempotent);
  EXPECT_EQ(a.bytes, "captured 1.000 GBP auth=1");
  EXPECT_EQ(held(world, "a"), 1u);
}

TEST(StateTable, Row6LoggedWithoutRequestIsVetoed) {
  World world;
  {
    Pieces(world, true).log();
  }
  Started s(world);
  EXPECT_EQ(s.recovery().vetoed, 1u);
  EXPECT_EQ(s.again().kind, AnswerKind::failed) << "never charged again";
  EXPECT_EQ(calls(world, "a"), 1u);
  EXPECT_TRUE(s.life.drain());
  EXPECT_EQ(held(world, "a"), 0u);
  ASSERT_EQ(alerts(s.life).size(), 1u);
  EXPECT_EQ(alerts(s.life)[0].what, "log_without_request");
}

// Row 6 as it happens: yesterday's backup of the store is put back under today's log.
TEST(StateTable, Row6ARestoredBackupIsVetoedByTheLog) {
  World world;
  {
    Life life(world);
    ASSERT_TRUE(life.open().has_value());
    EXPECT_EQ(life.pay_now(order("before")).kind, AnswerKind::success);
    ASSERT_TRUE(life.flow->close().has_value());
  }
  const io::SimDisk backup = world.store;
  {
    Life life(world, 2);
    ASSERT_TRUE(life.open().has_value());
    EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::success);
    ASSERT_TRUE(life.flow->close().has_value());  // a mark that the backup does not know
  }
  world.store = backup;
  Started s(world);
  EXPECT_EQ(s.recovery().vetoed, 1u);
  EXPECT_EQ(s.again().kind, AnswerKind::failed);
  EXPECT_EQ(s.life.pay_now(order("before")).kind, AnswerKind::success);
  EXPECT_TRUE(s.life.drain());
  EXPECT_EQ(held(world, "a"), 0u);
  EXPECT_EQ(held(world, "before"), 1u);
}

// Row 6, a cancel that only the spool knows: the backup has the success, and is told by the spool
// that it was cancelled, though the spool has begun other segments and marks since.
TEST(StateTable, Row6ARestoredBackupIsToldByTheSpool) {
  World world;
  {
    Life life(world);
    ASSERT_TRUE(life.open().has_value());
    EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::success);
    ASSERT_TRUE(life.flow->close().has_value());
  }
  const io::SimDisk backup = world.store;
  {
    // As a flow leaves it whose store died when the result was written.
    Life life(world, 2);
    Journal spool = life.journal(kSpoolName);
    const auto cancel = [&](const std::string& id) {
      const CancelRow row{.transaction = transaction_id_of(id),
                          .request = id,
                          .reason = "result_not_written",
                          .acquirer_key = transaction_id_of(id),
                          .amount = 1000,
                          .create_date = life.executor->unix_micros()};
      ASSERT_TRUE(spool.append(encode_spooled(row)).has_value());
    };
    cancel("a");
    for (int i = 0; i < 100; ++i) cancel("other" + std::to_string(i));
  }
  {
    Life life(world, 3);
    life.options.mark_every = 1;
    ASSERT_TRUE(life.open().has_value());
    EXPECT_EQ(life.flow->recovery().from_spool, 101u);
    EXPECT_TRUE(life.drain());
    EXPECT_EQ(held(world, "a"), 0u);
    EXPECT_EQ(life.pay_now(order("b")).kind, AnswerKind::success);
    ASSERT_TRUE(life.flow->close().has_value());
  }
  world.store = backup;
  {
    Started s(world);
    EXPECT_EQ(s.recovery().from_spool, 101u);
    EXPECT_EQ(s.again().kind, AnswerKind::failed) << "it was cancelled";
    EXPECT_TRUE(stored(s.life, "a").cancel);
  }
  // After keep_log the spool goes as well, and a backup that would need it is refused.
  {
    Life life(world, 5);
    life.options.mark_every = 1;
    life.options.keep_log = std::chrono::hours(0);
    ASSERT_TRUE(life.open().has_value());
    world.clock.advance(1'000'000);
    EXPECT_EQ(life.pay_now(order("c")).kind, AnswerKind::success);
    EXPECT_EQ(life.pay_now(order("d")).kind, AnswerKind::success);
    life.run_for(1s);
    ASSERT_TRUE(life.flow->close().has_value());
    life.flow.reset();
    EXPECT_GT(life.journal(kSpoolName).first(), 1u);
  }
  world.store = backup;
  Life life(world, 6);
  const auto refused = life.open();
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::damaged);
  EXPECT_NE(refused.error().message().find("older than the spool"), std::string::npos)
      << refused.error().message();
}

// Row 6, the store replaced by an empty one.
TEST(StateTable, Row6AnEmptyStoreIsVetoedByTheLog) {
  World world;
  {
    Life life(world);
    ASSERT_TRUE(life.open().has_value());
    EXPECT_EQ(life.pay_now(order("a")).kind, AnswerKind::success);
  }
  world.store = io::SimDisk(77);
  Started s(world);
  EXPECT_EQ(s.recovery().vetoed, 1u);
  EXPECT_EQ(s.again().kind, AnswerKind::failed);
  EXPECT_TRUE(s.life.drain());
  EXPECT_EQ(held(world, "a"), 0u);
}

// Row 6, where the log has forgotten what the backup would need: nothing can be vetoed, so nothing
// is accepted.
TEST(StateTable, Row6ABackupOlderThanTheLogIsRefused) {
  World world({.fastest_ns = 1'000'000, .slowest_ns = 1'000'001});
  {
    Life life(world);
    ASSERT_TRUE(life.open().has_value());
    ASSERT_TRUE(life.flow->close().has_value());
  }
  const io::SimDisk backup = world.store;
  {
    Life life(world, 2);
    life.options.log_segment_bytes = 64_KiB;
    life.options.mark_every = 1;
    life.options.keep_log = std::chrono::hours(0);
    ASSERT_TRUE(life.open().has_value());
    for (int i = 0; i < 60; ++i)
      EXPECT_EQ(life.pay_now(order("id" + std::to_string(i))).kind, AnswerKind::success);
    ASSERT_TRUE(life.flow->close().has_value());
  }
  world.store = backup;
  Life life(world, 3);
  const auto refused = life.open();
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::damaged);
  EXPECT_NE(refused.error().message().find("older than the transaction log"), std::string::npos);
}

TEST(StateTable, Row7ASuccessWithoutItsLogRecordIsTold) {
  World world;
  {
    Pieces(world, true).request().transaction().result(7);
  }
  Started s(world);
  EXPECT_EQ(s.recovery().log_lost, 1u);
  EXPECT_EQ(s.again().kind, AnswerKind::success);
  ASSERT_EQ(alerts(s.life).size(), 1u);
  EXPECT_EQ(alerts(s.life)[0].what, "log_lost");
  EXPECT_EQ(held(world, "a"), 1u);
}

// Row 7, the whole log replaced: what was open may have been sent.
TEST(StateTable, Row7WithAnotherLogWhatIsOpenIsCancelled) {
  World world({.lost_after = 1000});
  {
    Life life(world);
    ASSERT_TRUE(life.open().has_value());
    life.pay(order("a"));
    life.executor->run_ready();
    EXPECT_EQ(held(world, "a"), 1u);
  }
  world.outside = io::SimDisk(78);
  Started s(world);
  ASSERT_FALSE(alerts(s.life).empty());
  EXPECT_EQ(alerts(s.life)[0].what, "log_replaced");
  EXPECT_EQ(s.again().kind, AnswerKind::failed);
  EXPECT_TRUE(s.life.drain());
  EXPECT_EQ(held(world, "a"), 0u);
}

// Row 8 cannot be stored: a transaction has its request's partition.
TEST(StateTable, Row8ATransactionWithoutItsRequestIsRefused) {
  World world;
  Pieces pieces(world);
  const auto done = pieces.try_insert(pieces.tables().transaction, pieces.record().transaction);
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().code(), Code::not_found);
}

}  // namespace
}  // namespace kessai::payments_test
