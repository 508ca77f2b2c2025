// SPDX-License-Identifier: Apache-2.0
// A database on the simulated disk for tests of the payments layer; threads and crashes are fine.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "kessai/kessai.hpp"
#include "kessai/payments/ledger.hpp"
#include "kessai/payments/reconcile.hpp"
#include "kessai/run_transaction.hpp"

namespace kessai::payments {

inline constexpr Micros kDayMicros = 86'400'000'000;
inline Day day(std::string_view text) { return parse_day(text).value(); }
inline Micros time_of(std::string_view text) { return parse_time(text).value(); }

/// The value, or a failed test that shows the error.
template <class T>
T must(Result<T> r) {
  if (!r) throw std::runtime_error(r.error().message());
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

struct PayStore {
  io::SimDisk disk;
  std::unique_ptr<io::Directory> directory;
  io::Env env;
  Options options;
  std::optional<Database> db;

  explicit PayStore(io::SimDisk found = io::SimDisk(42)) : disk(std::move(found)) {
    options.create = true;
    options.memory = 16_MiB;
    options.wal_limit = 32_MiB;
    open();
  }
  void open() {
    db.reset();
    directory = disk.attach();
    env = {};
    env.directory = directory.get();
    options.env = &env;
    db.emplace(must(Database::open("sim", options)));
  }
  void reopen_after_power_loss() {
    io::SimDisk after = disk.survivor(io::CrashOutcome::none, 7);
    disk.crash();
    db.reset();
    directory.reset();
    disk = after;
    open();
  }
  /// Runs `fn` as a transaction that sees what is committed now.
  template <class Fn>
  auto run(Fn fn) {
    const RetryPolicy policy{.begin = {.isolation = Isolation::read_committed}, .attempts = 1000};
    return run_transaction(*db, policy, fn);
  }
  /// Runs `fn` in a read-only snapshot.
  template <class Fn>
  auto read(Fn fn) {
    Transaction txn = must(db->read_only());
    auto out = fn(txn);
    must(txn.rollback());
    return out;
  }
};

/// A request as an invoice would make it.
inline Request request(std::string id, Milli amount, Micros time, std::string account = "") {
  Request r;
  r.kind = kind_of(id);
  r.original_id = std::move(id);
  r.amount = amount;
  r.time = time;
  r.account = std::move(account);
  r.lines = 1;
  r.fingerprint[0] = static_cast<std::uint8_t>(amount & 0xff);
  return r;
}

inline void record(Ledger& ledger, const Request& r) {
  const auto done = must(ledger.record(r));
  ASSERT_EQ(done.answer, Ledger::Answer::accepted) << r.original_id;
  must(done.ticket.wait());
}

}  // namespace kessai::payments
