// SPDX-License-Identifier: Apache-2.0
// Real invoices through the ledger: balances and reconciliation against an independent computation
// from the same files (its own CSV reader and its own arithmetic).
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <vector>

#include "kessai/payments/invoice_file.hpp"
#include "tests/io/temp_dir.hpp"
#include "tests/payments/pay_store.hpp"
#include "tests/tools/seed.hpp"

namespace kessai::payments {
namespace {

struct Oracle {
  struct Invoice {
    std::string customer, day;
    long long milli = 0;
  };
  std::map<std::string, std::map<std::string, Invoice>> days;  // file day -> id -> invoice
  std::map<std::string, long long> balances;                   // customer -> sum
};

std::vector<std::string> split(const std::string& line) {
  std::vector<std::string> out(1);
  bool quoted = false;
  for (const char c : line) {
    if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      out.emplace_back();
    } else if (c != '\r') {
      out.back() += c;
    }
  }
  return out;
}

long long milli_of(std::string price) {
  const bool negative = price.starts_with('-');
  if (negative) price.erase(0, 1);
  if (price.find('.') == price.npos) price += '.';
  const auto point = price.find('.');
  std::string decimals = price.substr(point + 1);
  decimals.resize(3, '0');
  const long long n = std::stoll("0" + price.substr(0, point)) * 1000 + std::stoll(decimals);
  return negative ? -n : n;
}

void read_file(const std::string& path, Oracle& oracle) {
  auto& invoices = oracle.days[std::filesystem::path(path).stem()];
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  while (std::getline(in, line)) {
    const auto f = split(line);
    ASSERT_EQ(f.size(), 8u) << path << ": " << line;
    auto& invoice = invoices[f[0]];
    const long long amount = std::stoll(f[3]) * milli_of(f[5]);
    const std::string customer = f[6].substr(0, f[6].find('.'));
    if (invoice.day.empty()) invoice.customer = customer;
    invoice.day = f[4].substr(0, 10);
    invoice.milli += amount;
    oracle.balances[invoice.customer] += amount;
  }
}

std::vector<std::string> files_of(const char* folder) {
  std::vector<std::string> out;
  for (const auto& e : std::filesystem::directory_iterator(folder))
    if (e.path().extension() == ".csv") out.push_back(e.path());
  std::sort(out.begin(), out.end());
  return out;
}

struct Pending {
  std::vector<CommitTicket> tickets;
  void add(Ledger& ledger, const std::string& path) {
    InvoiceFileReader reader;
    std::ifstream in(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    must(reader.feed(text));
    for (const Invoice& i : must(reader.finish())) {
      ASSERT_EQ(i.refusal, Refusal::none);
      const auto done = must(ledger.record(i.request));
      ASSERT_EQ(done.answer, Ledger::Answer::accepted);
      tickets.push_back(done.ticket);
    }
  }
};

struct StatementLine {
  std::string id;
  long long milli = 0;
  bool refunded = false;
};

Statement statement_of(const std::vector<StatementLine>& lines) {
  std::string text = "request_id,amount_milli,status\n";
  long long sum = 0;
  for (const auto& l : lines) {
    text += l.id + "," + std::to_string(l.milli) + (l.refunded ? ",refunded\n" : ",captured\n");
    sum += l.milli;
  }
  text += "#total," + std::to_string(lines.size()) + "," + std::to_string(sum) + "\n";
  StatementReader reader;
  must(reader.feed(text));
  return must(reader.finish());
}

std::vector<StatementLine> lines_of(const std::map<std::string, Oracle::Invoice>& day) {
  std::vector<StatementLine> out;
  for (const auto& [id, invoice] : day) out.push_back({id, invoice.milli, id[0] == 'C'});
  return out;
}

// Plants one difference of every class and two amounts that cancel out; answers what must be found.
std::vector<std::string> damage(std::vector<StatementLine>& lines, io::SeededRandom& random) {
  for (std::size_t i = lines.size(); i > 1; --i) std::swap(lines[i - 1], lines[random.below(i)]);
  std::vector<std::string> expected;
  const auto expect = [&](const char* what, const std::string& id) {
    expected.push_back(std::string(what) + " " + id);
  };
  expect("amount", lines[0].id);
  lines[0].milli += 1;
  expect("amount", lines[1].id);
  lines[1].milli -= 1;
  expect("status", lines[2].id);
  lines[2].refunded = !lines[2].refunded;
  expect("duplicates", lines[3].id);
  lines.push_back(lines[3]);
  expect("missing_there", lines[4].id);
  lines.erase(lines.begin() + 4);
  expect("missing_here", "nobody");
  lines.push_back({"nobody", 12345});
  std::sort(expected.begin(), expected.end());
  return expected;
}

// Goal: every customer's balance and every day's statement agree with the files; every planted
// difference is found.
TEST(Invoices, AgreeWithAnIndependentComputation) {
  const char* real = std::getenv("KESSAI_REAL_DATA");
  if (real == nullptr || *real == '\0') GTEST_SKIP() << "skipped: KESSAI_REAL_DATA not set";
  const auto files = files_of(real);
  ASSERT_GT(files.size(), 100u);
  const io::test::TempDir folder;
  Database db = must(Database::open(folder.path() + "/store", {.create = true}));
  Ledger ledger = must(Ledger::open(db, true));
  Oracle oracle;
  Pending pending;
  for (const std::string& path : files) {
    read_file(path, oracle);
    pending.add(ledger, path);
  }
  for (const auto& t : pending.tickets) must(t.wait());

  long long total = 0;
  for (const auto& [customer, expected] : oracle.balances) {
    const Balance b = must(ledger.balance(customer));
    EXPECT_EQ(b.ledger, expected) << customer;
    EXPECT_EQ(b.available, expected);
    EXPECT_GT(b.rows, 0u);
    total += expected;
  }
  EXPECT_GT(oracle.balances.size(), 1000u);
  EXPECT_EQ(must(ledger.totals({})).total, total);
  Transaction txn = must(db.read_only());
  EXPECT_EQ(must(ledger.accounts().all(txn)).ledger, total);
  must(txn.rollback());

  io::SeededRandom random(tools::test_seed());
  for (const auto& [name, invoices] : oracle.days) {
    SCOPED_TRACE(name);
    auto lines = lines_of(invoices);
    const auto clean = must(reconcile(db, ledger.tables(), day(name), statement_of(lines)));
    EXPECT_TRUE(clean.ok) << clean.differences.size();
    EXPECT_EQ(clean.matched, invoices.size());
    if (lines.size() < 8) continue;
    const auto expected = damage(lines, random);
    const auto dirty = must(reconcile(db, ledger.tables(), day(name), statement_of(lines)));
    std::vector<std::string> found;
    for (const Difference& d : dirty.differences)
      found.push_back(std::string(difference_name(d.what)) + " " + d.id);
    std::sort(found.begin(), found.end());
    EXPECT_EQ(found, expected);
    EXPECT_FALSE(dirty.ok);
  }
}

}  // namespace
}  // namespace kessai::payments
