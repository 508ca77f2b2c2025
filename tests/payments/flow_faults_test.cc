// SPDX-License-Identifier: Apache-2.0
// Goal: after any crash or disk error, restart and drain, the five invariants of
// docs/payments-flow.md hold. Method: seeded histories of payments on two simulated disks. Each is
// run once undisturbed to count its disk operations, then again and again with the power failing
// (or a disk erring) at one of them; the next process recovers, sometimes dying in that as well;
// the last one is asked every order again. KESSAI_CRASH_SCALE multiplies the histories.
#include <cstdlib>

#include "tests/payments/flow_world.hpp"

namespace kessai::payments_test {
namespace {

std::uint64_t number_from(const char* name, std::uint64_t fallback) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : fallback;
}

struct Plan {
  enum class What : std::uint8_t { nothing, power, store_error, store_full, log_error, lying_log };
  What what = What::nothing;
  std::uint64_t op = 0;         ///< of both disks, from the start of the first life
  std::uint64_t nested_op = 0;  ///< the second life dies at its n-th operation; 0: it does not
  std::uint64_t seed = 0;
};

struct Submission {
  Order order;
  std::uint64_t at_ns = 0;
};

using RowImage = std::map<std::string, std::string>;  // tree and key -> value

class History {
 public:
  History(std::uint64_t seed, const Plan& plan)
      : seed_(seed), plan_(plan), dice_(seed * 7919 + 13), world_(profile(seed)) {
    draw_orders();
  }

  /// What was wrong, in words; nothing when all invariants hold.
  std::vector<std::string> run() {
    run_life(1, plan_.what == Plan::What::power ? plan_.op : 0, true);
    if (plan_.nested_op != 0) run_life(2, plan_.nested_op, false);
    last_life();
    return std::move(violations_);
  }
  [[nodiscard]] std::uint64_t ops() const { return ops_; }
  [[nodiscard]] std::size_t payments() const { return orders_.size(); }
  std::uint64_t spooled = 0, recovered = 0, delivered = 0, successes = 0;

 private:
  static StubProfile profile(std::uint64_t seed) {
    StubProfile p;
    p.seed = seed;
    p.declined = 150;
    p.lost_before = 80;
    p.lost_after = 120;
    p.late = 80;
    p.cancel_fails = 200;
    p.fastest_ns = 1'000'000;
    p.slowest_ns = 2'000'000'000;
    return p;
  }

  void draw_orders() {
    const std::uint64_t n = 4 + dice_.below(8);
    for (std::uint64_t i = 0; i < n; ++i) {
      Order o = order("id" + std::to_string(i) + std::string(dice_.below(3) * 80, 'x'),
                      static_cast<Milli>(1 + dice_.below(1'000'000)));
      orders_.push_back(o);
      submissions_.push_back({o, dice_.below(3'000'000'000)});
      if (dice_.below(3) == 0)  // again, at about the same time or later
        submissions_.push_back({o, submissions_.back().at_ns + dice_.below(2'000'000'000)});
    }
  }

  void watch(io::SimDisk& disk, std::uint64_t crash_op) {
    disk.set_observer([this, crash_op](std::uint64_t, std::string_view, std::string_view) {
      ++ops_;
      if (crash_op == 0 || ops_ != crash_op) return;
      io::SeededRandom dice(plan_.seed + crash_op);
      const auto outcome = [&] {
        return io::kCrashOutcomes[dice.below(io::kCrashOutcomes.size())];
      };
      const auto store_outcome = outcome(), outside_outcome = outcome();
      after_store_ = world_.store.survivor(store_outcome, dice.next());
      after_outside_ = world_.outside.survivor(outside_outcome, dice.next());
      world_.dead = true;
      world_.store.crash();
      world_.outside.crash();
    });
  }

  void plant() {
    const auto error = [&](io::SimDisk& disk, const char* kind, io::Fault::What what) {
      io::Fault f{.what = what, .kind = kind, .file = {}, .skip = plan_.op, .count = 1};
      f.after_flush = static_cast<io::Fault::AfterFlush>(plan_.seed % 3);
      disk.add_fault(f);
    };
    switch (plan_.what) {
      case Plan::What::nothing:
      case Plan::What::power:
        return;
      case Plan::What::store_error:
        for (const char* kind : {"write", "write_durable", "flush"})
          error(world_.store, kind, io::Fault::What::io_error);
        return;
      case Plan::What::store_full:
        return error(world_.store, "write_durable", io::Fault::What::disk_full);
      case Plan::What::log_error:
        for (const char* kind : {"write", "flush"})
          error(world_.outside, kind, io::Fault::What::io_error);
        return;
      case Plan::What::lying_log: {
        io::Fault f{.what = io::Fault::What::lost, .kind = "write", .file = {}, .count = 100'000};
        world_.outside.add_fault(f);
        return;
      }
    }
  }

  // A life with the orders of the history, up to its crash or its end.
  void run_life(std::uint64_t number, std::uint64_t crash_op, bool faults) {
    ops_ = 0;
    watch(world_.store, crash_op);
    watch(world_.outside, crash_op);
    {
      Life life(world_, seed_ + number);
      life.options.mark_every = 3;
      const auto ok = life.open();
      if (ok) {
        took_over(life);
        if (faults) plant();
        for (const Submission& s : submissions_) {
          const std::uint64_t at = world_.clock.now_ns() + s.at_ns;
          life.executor->post_at(at, [&life, order = s.order] { life.pay(order); });
        }
        life.run_until([&] { return life.answered == submissions_.size(); }, 60s);
        if (!world_.dead && dice_.below(2) == 0) static_cast<void>(life.drain(120s));
        told(life);
      } else if (!world_.dead) {
        violations_.push_back("life " + std::to_string(number) +
                              " does not open: " + ok.error().message());
      }
    }
    world_.store.set_observer({});
    world_.outside.set_observer({});
    if (after_store_) {
      world_.store = *after_store_;
      world_.outside = *after_outside_;
      after_store_.reset();
    }
    world_.store.clear_faults();
    world_.outside.clear_faults();
  }

  void took_over(Life& life) {
    const Recovery& r = life.flow->recovery();
    recovered += r.cancel_requested + r.not_sent;
    if (r.vetoed != 0) violations_.emplace_back("the store lost a request that was logged");
    if (r.log_lost != 0) violations_.emplace_back("the log lost a record of a success");
    check_rows(life);
  }

  void told(Life& life) {
    for (auto& [id, all] : life.answers) {
      for (Answer& a : all) {
        const bool called = life.acquirer->called.contains(transaction_id_of(id));
        told_[id].emplace_back(std::move(a), called);
      }
    }
    if (!world_.dead) {
      spooled += life.flow->stats().spooled;
      delivered += life.flow->stats().cancels_delivered;
    }
  }

  // Invariant 5: what was once read is there for ever, byte for byte.
  void check_rows(Life& life) {
    RowImage now;
    const auto names = life.db->tree_names();
    if (!names) return violations_.push_back("trees: " + names.error().message());
    for (const std::string& name : *names) {
      if (!name.starts_with("payment_re") && !name.starts_with("payment_tr")) continue;
      const Tree tree = life.db->tree(name).value();
      auto c = life.db->scan(tree, {});
      while (c.next()) now[name + '\0' + std::string(c.key())] = c.value();
      if (!c.status()) violations_.push_back("rows: " + c.status().error().message());
    }
    for (const auto& [key, value] : rows_) {
      const auto it = now.find(key);
      if (it == now.end() || it->second != value)
        violations_.push_back("a row changed or went: " + key.substr(0, key.find('\0')));
    }
    rows_ = std::move(now);
  }

  void last_life() {
    Life life(world_, seed_ + 99);
    if (const auto ok = life.open(); !ok)
      return violations_.push_back("the last life does not open: " + ok.error().message());
    took_over(life);
    for (const Order& o : orders_) life.pay(o);
    if (!life.run_answers()) violations_.emplace_back("the last life does not answer");
    if (!life.drain()) violations_.emplace_back("cancels are open after an hour");
    life.run_for(120s);
    for (const Order& o : orders_) check_payment(life, o);
    check_book(life);
    check_rows(life);
    if (const auto report = life.db->check(); !report || !report->ok)
      violations_.emplace_back("the store is damaged");
  }

  void check_payment(Life& life, const Order& o) {
    const Answer& last = life.answers[o.id].at(0);
    const auto wrong = [&](const std::string& what) {
      violations_.push_back(o.id.substr(0, 4) + " (" + std::string(answer_name(last.kind)) + " " +
                            last.bytes + " " + last.reason + "): " + what);
    };
    const bool success = last.kind == AnswerKind::success;
    successes += success ? 1 : 0;
    if (!success && last.kind != AnswerKind::declined && last.kind != AnswerKind::failed)
      wrong("is not finished after a restart");
    if (held(world_, o.id) != (success ? 1u : 0u))
      wrong("held at the acquirer: " + std::to_string(held(world_, o.id)));  // invariants 1, 2
    const Stored s = stored(life, o.id);
    if (success && (!s.result || s.result->status != Status::captured || s.cancel))
      wrong("a success whose rows say otherwise");
    for (const auto& [a, called] : told_[o.id]) {
      const bool final_answer = a.kind == AnswerKind::success || !a.bytes.empty();
      if (final_answer && (a.kind != last.kind || a.bytes != last.bytes))
        wrong("was told " + std::string(answer_name(a.kind)) + " " + a.bytes);
      if (a.kind == AnswerKind::failed && called && success) wrong("was told a failure (A14)");
    }
  }

  // Invariants 3 and 4.
  void check_book(Life& life) {
    std::set<std::string> logged;
    life.flow.reset();  // its log is read below
    const auto ok = life.journal(kTxlogName).read(1, [&](Journal::Position, std::string_view r) {
      if (const auto record = decode_sent(r)) logged.insert(record->transaction.id);
      return true;
    });
    if (!ok) violations_.push_back("log: " + ok.error().message());
    for (const auto& [key, entry] : world_.book.entries(world_.clock.now_ns())) {
      if (entry.authorisations > 1) violations_.push_back("charged twice: " + key.substr(0, 6));
      if (!logged.contains(key))
        violations_.push_back("sent without a record: " + key.substr(0, 6));
    }
  }

  std::uint64_t seed_;
  Plan plan_;
  io::SeededRandom dice_;
  World world_;
  std::vector<Order> orders_;
  std::vector<Submission> submissions_;
  std::map<std::string, std::vector<std::pair<Answer, bool>>> told_;
  RowImage rows_;
  std::uint64_t ops_ = 0;
  std::optional<io::SimDisk> after_store_, after_outside_;
  std::vector<std::string> violations_;
};

struct Sums {
  std::uint64_t runs = 0, payments = 0, spooled = 0, recovered = 0, delivered = 0, successes = 0;
};

void run(std::uint64_t seed, const Plan& plan, Sums& sums) {
  History h(seed, plan);
  for (const std::string& v : h.run()) {
    ADD_FAILURE() << v << "  (KESSAI_SEED=" << seed << ", fault " << static_cast<int>(plan.what)
                  << " at " << plan.op << ", nested " << plan.nested_op << ")";
  }
  ++sums.runs;
  sums.payments += h.payments();
  sums.spooled += h.spooled;
  sums.recovered += h.recovered;
  sums.delivered += h.delivered;
  sums.successes += h.successes;
}

std::uint64_t first_seed() {
  const std::uint64_t seed = number_from("KESSAI_SEED", 1);
  std::printf("KESSAI_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

void report(const char* what, const Sums& s) {
  std::printf(
      "%s: %llu histories, %llu payments, %llu successes, %llu recovered, %llu spooled, "
      "%llu cancels\n",
      what, static_cast<unsigned long long>(s.runs), static_cast<unsigned long long>(s.payments),
      static_cast<unsigned long long>(s.successes), static_cast<unsigned long long>(s.recovered),
      static_cast<unsigned long long>(s.spooled), static_cast<unsigned long long>(s.delivered));
}

// Power failures, in recovery too. 25 kill points a history.
TEST(PaymentFaults, InvariantsHoldAfterPowerFailures) {
  const std::uint64_t first = first_seed(), histories = 12 * number_from("KESSAI_CRASH_SCALE", 1);
  Sums sums;
  for (std::uint64_t seed = first; seed < first + histories && !testing::Test::HasFailure();
       ++seed) {
    History undisturbed(seed, {});
    EXPECT_EQ(undisturbed.run(), std::vector<std::string>{}) << "KESSAI_SEED=" << seed;
    io::SeededRandom dice(seed);
    // ops() is of the last watched life: the first.
    for (int i = 0; i < 25; ++i) {
      Plan plan{
          .what = Plan::What::power, .op = 1 + dice.below(undisturbed.ops()), .seed = dice.next()};
      if (dice.below(3) == 0) plan.nested_op = 1 + dice.below(300);
      run(seed, plan, sums);
    }
  }
  report("power", sums);
  EXPECT_GT(sums.recovered, sums.runs / 4);
}

// Disk errors: the process goes on with a store that takes nothing, or a log that takes nothing.
TEST(PaymentFaults, InvariantsHoldAfterDiskErrors) {
  const std::uint64_t first = first_seed(), histories = 60 * number_from("KESSAI_CRASH_SCALE", 1);
  Sums sums;
  for (std::uint64_t seed = first; seed < first + histories && !testing::Test::HasFailure();
       ++seed) {
    io::SeededRandom dice(seed);
    for (const auto what :
         {Plan::What::store_error, Plan::What::store_full, Plan::What::log_error}) {
      Plan plan{.what = what,
                .op = dice.below(what == Plan::What::log_error ? 12 : 30),
                .seed = dice.next()};
      if (dice.below(3) == 0) plan.nested_op = 1 + dice.below(300);
      run(seed, plan, sums);
    }
  }
  report("errors", sums);
  EXPECT_GT(sums.spooled, 0u);
}

// The harness itself: a disk that loses the log's writes must be found out.
TEST(PaymentFaults, ALogThatKeepsNothingIsFound) {
  unsigned found = 0;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    History h(seed, {.what = Plan::What::lying_log});
    found += h.run().empty() ? 0 : 1;
  }
  EXPECT_EQ(found, 5u);
}

}  // namespace
}  // namespace kessai::payments_test
