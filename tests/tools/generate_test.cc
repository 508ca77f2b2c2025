// SPDX-License-Identifier: Apache-2.0
#include "tools/generate.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "kessai/payments/invoice_file.hpp"
#include "tests/tools/card_numbers.hpp"
#include "tools/latency.hpp"

namespace kessai::tools {
namespace {

namespace fs = std::filesystem;

std::string slurp(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class Generate : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "kessai_generateXXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override {
    expect_no_card_numbers(dir_);
    fs::remove_all(dir_);
  }
  std::string dir_;
};

// Goal: the printed oracle is what the files hold. Method: read them back through the importer's
// reader and add up.
TEST_F(Generate, TellsTheSumsOfItsFiles) {
  const auto made = generate_invoices(dir_, {.days = 3, .seed = 7});
  ASSERT_TRUE(made);
  EXPECT_EQ(made->files, 3u);
  payments::Totals read;
  std::uint64_t lines = 0;
  std::set<std::string> ids;
  for (const auto& entry : fs::directory_iterator(dir_)) {
    payments::InvoiceFileReader reader;
    ASSERT_TRUE(reader.feed(slurp(entry.path())));
    const auto invoices = reader.finish();
    ASSERT_TRUE(invoices);
    lines += reader.lines();
    for (const payments::Invoice& i : *invoices) {
      ASSERT_EQ(i.refusal, payments::Refusal::none) << i.request.original_id << " line " << i.line;
      EXPECT_TRUE(ids.insert(i.request.original_id).second);
      ++read.requests;
      read.total += i.request.amount;
      if (i.request.kind == payments::Kind::payment)
        ++read.payments, read.sum_payments += i.request.amount;
      if (i.request.kind == payments::Kind::cancellation)
        ++read.cancellations, read.sum_cancellations += i.request.amount;
      if (i.request.kind == payments::Kind::adjustment)
        ++read.adjustments, read.sum_adjustments += i.request.amount;
    }
  }
  EXPECT_EQ(lines, made->lines);
  EXPECT_EQ(read.requests, made->totals.requests);
  EXPECT_EQ(read.total, made->totals.total);
  EXPECT_EQ(read.payments, made->totals.payments);
  EXPECT_EQ(read.sum_payments, made->totals.sum_payments);
  EXPECT_EQ(read.cancellations, made->totals.cancellations);
  EXPECT_EQ(read.sum_cancellations, made->totals.sum_cancellations);
  EXPECT_EQ(read.adjustments, made->totals.adjustments);
  EXPECT_EQ(read.sum_adjustments, made->totals.sum_adjustments);
}

// Goal: the files hold what makes real files hard, the same seed gives the same bytes, and nothing
// is ever overwritten.
TEST_F(Generate, IsHardDeterministicAndCareful) {
  ASSERT_TRUE(generate_invoices(dir_ + "/a", {.seed = 5}));
  ASSERT_TRUE(generate_invoices(dir_ + "/b", {.seed = 5}));
  ASSERT_TRUE(generate_invoices(dir_ + "/c", {.seed = 6}));
  const std::string a = slurp(dir_ + "/a/2010-12-01.csv");
  EXPECT_EQ(a, slurp(dir_ + "/b/2010-12-01.csv"));
  EXPECT_NE(a, slurp(dir_ + "/c/2010-12-01.csv"));
  for (const char* hard :
       {"\"\"", "\nSET OF", "\xa3", ",,United", ",0.0,", "\nC6", "\nA6", "Adjust bad debt,1,"}) {
    EXPECT_NE(a.find(hard), a.npos) << hard;
  }
  const auto again = generate_invoices(dir_ + "/a", {.seed = 5});
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), Code::invalid_argument);
}

TEST(Latency, FindsQuantilesWithinABin) {
  LatencyHistogram a, b;
  for (std::uint64_t us = 1; us <= 1000; ++us) (us % 2 == 0 ? a : b).record_ns(us * 1000);
  a.merge(b);
  EXPECT_EQ(a.count(), 1000u);
  EXPECT_NEAR(a.quantile_us(0.5), 500, 40);
  EXPECT_NEAR(a.quantile_us(0.99), 990, 80);
  EXPECT_EQ(a.quantile_us(1), 1000);
  EXPECT_EQ(a.max_us(), 1000);
  EXPECT_EQ(LatencyHistogram().quantile_us(0.5), 0);
  EXPECT_NE(a.render({}).find("p50"), std::string::npos);
  EXPECT_EQ(human_us(840), "840 us");
  EXPECT_EQ(human_us(1200), "1.2 ms");
  EXPECT_EQ(human_us(5e6), "5 s");
}

}  // namespace
}  // namespace kessai::tools
