// SPDX-License-Identifier: Apache-2.0
// Goal: locks, undo, snapshots and horizon together, in parallel: a snapshot never sees half a
// transfer, whatever commits and collections run beside it. Method: writers move amounts between
// two of a few accounts (sum constant), readers add all accounts up at one snapshot. Iterations
// are bounded; built for TSan.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <string>
#include <vector>

#include "io/env.hpp"
#include "mvcc/lock_table.hpp"
#include "mvcc/snapshots.hpp"
#include "mvcc/undo.hpp"

namespace kessai::mvcc {
namespace {

constexpr TreeId kTree{1};
constexpr unsigned kAccounts = 16;
constexpr long kStart = 1000;

// The stand-in for log and tree: LSNs in commit order, leaves behind a latch each.
class Bank {
 public:
  Bank() {
    for (Account& a : accounts_) a.balance = kStart;
  }

  void transfer(OwnerId owner, unsigned from, unsigned to, long amount) {
    LockSet locks(owner);
    if (!locks_.acquire(locks, kTree, name(std::min(from, to)), LockMode::exclusive, kForever))
      return;
    if (from != to &&
        locks_.acquire(locks, kTree, name(std::max(from, to)), LockMode::exclusive, kForever)) {
      const Lsn lsn = reserve();
      change(from, lsn, -amount);
      change(to, lsn, amount);
      publish(lsn);
    }
    locks_.release_all(locks);
  }

  /// Sum over all accounts; nullopt when the snapshot was killed meanwhile.
  std::optional<long> total(bool read_only) {
    const Snapshots::Live live =
        snapshots_.begin([&] { return read_only ? read_only_bound() : applied_.load(); });
    long sum = 0;
    for (unsigned i = 0; i < kAccounts; ++i) {
      sum += read(i, live.snapshot());
      if (live.killed()) return std::nullopt;
    }
    return sum;
  }

  void collect(std::uint64_t dice) {
    if (dice % 4 != 0) durable_.store(std::max(durable_.load(), applied_.load()));
    if (dice % 64 == 0) (void)snapshots_.kill_oldest();
    (void)undo_.gc(snapshots_.horizon(read_only_bound()), 32);
    if (dice % 16 == 1) (void)undo_.gc_intervals(snapshots_.in_use(read_only_bound()));
    if (dice % 16 == 2) undo_.prune_by(snapshots_.in_use(read_only_bound()));
  }

  void expect_quiet() {
    durable_.store(applied_.load());
    while (undo_.gc(snapshots_.horizon(read_only_bound()), 1000) != 0) {
    }
    EXPECT_EQ(undo_.counters().entries, 0u);
    EXPECT_EQ(snapshots_.count(), 0u);
    EXPECT_EQ(locks_.counters().held, 0u);
    EXPECT_GT(undo_.counters().finds, 0u);
  }

 private:
  static constexpr std::uint64_t kForever = 600'000'000'000;
  struct Account {
    io::Mutex latch;
    long balance = 0;
    Lsn tag = 0;
  };

  static std::string name(unsigned i) { return "account" + std::to_string(i); }
  [[nodiscard]] Lsn read_only_bound() const { return std::min(applied_.load(), durable_.load()); }

  Lsn reserve() {
    io::MutexLock lock(order_mutex_);
    open_.push_back(++tail_);
    return tail_;
  }

  void publish(Lsn lsn) {
    io::MutexLock lock(order_mutex_);
    std::erase(open_, lsn);
    applied_.store(open_.empty() ? tail_ : *std::min_element(open_.begin(), open_.end()) - 1);
  }

  void change(unsigned i, Lsn lsn, long amount) {
    Account& a = accounts_[i];
    io::MutexLock lock(a.latch);
    const std::string before = std::to_string(a.balance);
    undo_.push(kTree, name(i), a.tag, lsn, Image{.present = true, .flags = 0, .value = before});
    a.balance += amount;
    a.tag = lsn;
  }

  long read(unsigned i, const Snapshot& s) {
    {
      io::MutexLock lock(accounts_[i].latch);
      if (s.sees(accounts_[i].tag)) return accounts_[i].balance;
    }
    Version v;
    return undo_.find(kTree, name(i), s, v) ? std::stol(v.value) : 1'000'000'000;
  }

  std::array<Account, kAccounts> accounts_;
  io::Mutex order_mutex_;
  Lsn tail_ = 0;
  std::vector<Lsn> open_;
  std::atomic<Lsn> applied_{0}, durable_{0};
  Snapshots snapshots_;
  Undo undo_{1 << 20};
  LockTable locks_{io::system_clock(), LockTable::Options{}};
};

TEST(MvccStress, SnapshotsNeverSeeHalfATransfer) {
  const char* given = std::getenv("KESSAI_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : 99;
  SCOPED_TRACE("KESSAI_SEED=" + std::to_string(seed));
  constexpr unsigned kWriters = 3, kReaders = 3;
  constexpr int kTransfers = 4000;
  Bank bank;
  std::atomic<unsigned> writing{kWriters};
  std::vector<io::Thread> threads;
  for (unsigned t = 0; t < kWriters; ++t)
    threads.emplace_back("writer", [&, t] {
      io::SeededRandom random(seed * 100 + t);
      for (int i = 0; i < kTransfers; ++i)
        bank.transfer(OwnerId{std::uint64_t{t} * kTransfers + static_cast<unsigned>(i) + 1},
                      static_cast<unsigned>(random.below(kAccounts)),
                      static_cast<unsigned>(random.below(kAccounts)),
                      static_cast<long>(random.below(50)));
      writing.fetch_sub(1);
    });
  for (unsigned t = 0; t < kReaders; ++t)
    threads.emplace_back("reader", [&, t] {
      for (int i = 0; writing.load() != 0 || i < 100; ++i) {
        const auto sum = bank.total((static_cast<unsigned>(i) + t) % 2 == 0);
        ASSERT_EQ(sum.value_or(kStart * kAccounts), kStart * kAccounts);
      }
    });
  threads.emplace_back("collector", [&] {
    for (std::uint64_t i = 0; writing.load() != 0; ++i) bank.collect(i);
  });
  for (io::Thread& t : threads) t.join();
  bank.expect_quiet();
}

}  // namespace
}  // namespace kessai::mvcc
