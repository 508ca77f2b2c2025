// SPDX-License-Identifier: Apache-2.0
// How a program crash-tests its own schema with kessai::testing. The schema: `accounts` holds a
// balance for each account, `journal` every booking; the balances must always be the sums of the
// bookings. book() is sound. book_in_two() commits balance and booking one after the other, a bug
// that works until the power fails in between: the test has to find it. Exit 0 when it does.
#include <kessai/kessai.hpp>
#include <kessai/testing/crash_test.hpp>

#include <charconv>
#include <cstdio>
#include <map>

namespace {

using kessai::Database;
using kessai::Result;

std::int64_t number(std::string_view text) {
  std::int64_t out = 0;
  std::from_chars(text.data(), text.data() + text.size(), out);
  return out;
}
std::string account(std::uint64_t n) { return "account " + std::to_string(n % 3); }
std::int64_t amount(std::uint64_t n) { return static_cast<std::int64_t>(n * 7 % 100) - 40; }

Result<void> prepare(Database& db) {
  for (const char* name : {"accounts", "journal"})
    if (auto tree = db.tree(name, {.create = true}); !tree) return std::unexpected(tree.error());
  return {};
}

/// Books `amount(n)`: changes the balance and writes the booking, in one transaction or in two.
Result<void> book(Database& db, std::uint64_t n, bool in_two) {
  const auto accounts = db.tree("accounts"), journal = db.tree("journal");
  if (!accounts || !journal) return std::unexpected(kessai::Error(kessai::Code::tree_not_found));
  auto txn = db.begin();
  if (!txn) return std::unexpected(txn.error());
  const auto before = txn->get_for_update(*accounts, account(n));
  const std::int64_t balance = before ? number(*before) : 0;
  if (auto r = txn->put(*accounts, account(n), std::to_string(balance + amount(n))); !r) return r;
  if (in_two) {
    if (auto lsn = txn->commit(); !lsn) return std::unexpected(lsn.error());
    txn = db.begin();
    if (!txn) return std::unexpected(txn.error());
  }
  const std::string booking = account(n) + " booking " + std::to_string(1000 + n);
  if (auto r = txn->insert(*journal, booking, std::to_string(amount(n))); !r) return r;
  if (auto lsn = txn->commit(); !lsn) return std::unexpected(lsn.error());
  return {};
}

/// The sums of the journal are the balances.
std::optional<std::string> invariant(Database& db) {
  const auto accounts = db.tree("accounts"), journal = db.tree("journal");
  if (!accounts || !journal) return "a tree is missing";
  std::map<std::string, std::int64_t> sums;
  auto bookings = db.scan(*journal, {});
  while (bookings.next())
    sums[std::string(bookings.key().substr(0, account(0).size()))] += number(bookings.value());
  for (std::uint64_t n = 0; n < 3; ++n) {
    const auto balance = db.get(*accounts, account(n));
    if ((balance ? number(*balance) : 0) != sums[account(n)])
      return "the balance of " + account(n) + " is not the sum of its bookings";
  }
  return {};
}

Result<kessai::testing::CrashReport> torture(bool in_two) {
  kessai::testing::CrashTest test;
  test.prepare = prepare;
  test.step = [in_two](Database& db, std::uint64_t n) { return book(db, n, in_two); };
  test.invariant = invariant;
  test.options = kessai::testing::small_options();
  return run_crash_test(test);
}

}  // namespace

int main() {
  for (const bool in_two : {false, true}) {
    const auto report = torture(in_two);
    if (!report) return std::fprintf(stderr, "%s\n", report.error().message().c_str()), 1;
    std::printf("%s: %llu crash points, %llu crash states, %llu crashes in recovery: %s\n",
                in_two ? "two transactions" : "one transaction",
                static_cast<unsigned long long>(report->crash_points),
                static_cast<unsigned long long>(report->distinct),
                static_cast<unsigned long long>(report->nested),
                report->violation ? report->violation->c_str() : "sound");
    if (report->violation.has_value() != in_two) return 1;
  }
  return 0;
}
