// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/invoice_file.hpp"

#include <gtest/gtest.h>

#include <map>

#include "tests/tools/seed.hpp"

namespace kessai::payments {
namespace {

constexpr std::string_view kHeader =
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

struct Outcome {
  std::string error;
  std::vector<Invoice> invoices;
  std::uint64_t lines = 0;
};

// Reads `text` in pieces of `piece` bytes.
Outcome read_all(std::string_view text, std::size_t piece = SIZE_MAX) {
  InvoiceFileReader reader;
  Outcome out;
  while (!text.empty()) {
    const auto fed = reader.feed(text.substr(0, piece));
    if (!fed) {
      out.error = fed.error().detail().what;
      return out;
    }
    text.remove_prefix(std::min(piece, text.size()));
  }
  auto invoices = reader.finish();
  if (invoices) {
    out.invoices = std::move(*invoices);
  } else {
    out.error = invoices.error().detail().what;
  }
  out.lines = reader.lines();
  return out;
}

// "id amount lines" or "id reason@line", one a line.
std::string show(const Outcome& o) {
  if (!o.error.empty()) return "error: " + o.error.substr(0, 15);
  std::string out;
  for (const Invoice& i : o.invoices) {
    out += i.request.original_id + " ";
    out += i.refusal == Refusal::none
               ? format_milli(i.request.amount) + " " + std::to_string(i.request.lines)
               : std::string(refusal_name(i.refusal)) + "@" + std::to_string(i.line);
    out += "\n";
  }
  return out;
}

std::string read(std::string_view rows) {
  return show(read_all(std::string(kHeader) + std::string(rows)));
}

std::string row(std::string_view id, std::string_view quantity = "2",
                std::string_view price = "2.55", std::string_view description = "LANTERN",
                std::string_view customer = "17850.0") {
  return std::string(id) + ",85123A," + std::string(description) + "," + std::string(quantity) +
         ",2010-12-01 08:26:00," + std::string(price) + "," + std::string(customer) +
         ",United Kingdom\n";
}

TEST(InvoiceFile, SumsLinesOfOneInvoiceWhereverTheyStand) {
  EXPECT_EQ(read(row("1") + row("2", "-1", "0.001") + row("1", "3", "1.005")),
            "1 8.115 2\n2 -0.001 1\n");
  EXPECT_EQ(read(""), "");
}

TEST(InvoiceFile, ReadsQuotesLineEndsAndBytes) {
  EXPECT_EQ(read(row("1", "1", "1", "\"AIRLINE, \"\"METAL\"\"\"")), "1 1.000 1\n");
  EXPECT_EQ(read(row("1", "1", "1", "\"TWO\nLINES\"") + row("2", "1", "x")),
            "1 1.000 1\n2 bad_price@4\n");
  EXPECT_EQ(read(row("1", "1", "1",
                     "GIFT \xa3"
                     "40 \xff\0 7\"")),
            "1 1.000 1\n");
  EXPECT_EQ(read("\n\r\n" + row("1")), "1 5.100 1\n");
  std::string crlf = std::string(kHeader) + row("1") + row("2", "1", "-2.5");
  for (std::size_t at = 0; (at = crlf.find('\n', at)) != crlf.npos; at += 2)
    crlf.insert(at, 1, '\r');
  EXPECT_EQ(show(read_all("\xef\xbb\xbf" + crlf)), "1 5.100 1\n2 -2.500 1\n");
}

TEST(InvoiceFile, TakesTheCustomerWithoutItsDecimalsAndTheEarliestDate) {
  auto o = read_all(std::string(kHeader) + row("1", "1", "1", "X", "") + row("1"));
  ASSERT_EQ(o.invoices.size(), 1u);
  EXPECT_EQ(o.invoices[0].request.account, "17850");
  EXPECT_EQ(format_time(o.invoices[0].request.time), "2010-12-01T08:26:00Z");
  EXPECT_EQ(o.lines, 2u);
}

// Goal: one bad line refuses its invoice and nothing else, whatever is bad.
TEST(InvoiceFile, RefusesTheWholeInvoiceOfABadLine) {
  const std::string good = row("9");
  EXPECT_EQ(read(row("1") + row("1", "x") + good + row("1")), "1 bad_quantity@3\n9 5.100 1\n");
  EXPECT_EQ(read(row("1", "1.5") + good), "1 bad_quantity@2\n9 5.100 1\n");
  EXPECT_EQ(read(row("1", "1", "") + good), "1 bad_price@2\n9 5.100 1\n");
  EXPECT_EQ(read(row("1", "1", "1.2345") + good), "1 too_many_decimals@2\n9 5.100 1\n");
  EXPECT_EQ(read(row("1", "9223372036854775807", "1") + good), "1 amount_overflow@2\n9 5.100 1\n");
  EXPECT_EQ(read(row("1", "1", "9223372036854775.807") + row("1", "1", "0.001") + good),
            "1 amount_overflow@3\n9 5.100 1\n");
  EXPECT_EQ(read("1,2,3\n" + good), "1 bad_csv@2\n9 5.100 1\n");
  EXPECT_EQ(read("1,A,B,1,yesterday,1,,UK\n" + good), "1 bad_date@2\n9 5.100 1\n");
  EXPECT_EQ(read(row("1").insert(1, 1, ',') + good), "1 bad_csv@2\n9 5.100 1\n");
  EXPECT_EQ(read(row("") + good), " bad_invoice_number@2\n9 5.100 1\n");
  EXPECT_EQ(read(row(" 1") + good), " 1 bad_invoice_number@2\n9 5.100 1\n");
  EXPECT_EQ(read(row(std::string(256, '7')) + good),
            std::string(255, '7') + " bad_invoice_number@2\n9 5.100 1\n");
  EXPECT_EQ(read(row("1", "1", "1", "\"BROKEN\" QUOTE") + good), "1 bad_csv@2\n9 5.100 1\n");
  EXPECT_EQ(read(row("1", "1", "1", std::string(kMaxLineBytes, 'x')) + good),
            "1 line_too_long@2\n9 5.100 1\n");
}

// Goal: a quote that never closes costs its own line; payments behind it are not swallowed.
TEST(InvoiceFile, GoesOnBehindABrokenQuote) {
  const std::string open = row("1", "1", "1", "\"OPEN");
  EXPECT_EQ(read(open + row("2") + row("3")), "1 bad_csv@2\n2 5.100 1\n3 5.100 1\n");
  EXPECT_EQ(read(open + row("2", "1", "1", "\"A,B\"") + row("3")),
            "1 bad_csv@2\n2 1.000 1\n3 5.100 1\n");
  // Closing just so that eight fields come out: still two rows, not one with a long description.
  EXPECT_EQ(read("1,A,\"OPEN,1\n" + row("2", "1", "1", "RECORD 7\"")), "1 bad_csv@2\n2 1.000 1\n");
  std::string many;
  for (int i = 10; i < 3000; ++i) many += row(std::to_string(i));
  EXPECT_EQ(read_all(std::string(kHeader) + open + many).invoices.size(), 2991u);
}

// Goal: a file cut anywhere accepts no invoice that the cut made incomplete. Method: cut a file
// of three invoices at every byte; the invoice in which the cut falls is refused.
TEST(InvoiceFile, RefusesTheInvoiceThatACutFallsIn) {
  const std::string whole =
      std::string(kHeader) + row("536365") + row("536365", "1", "\"1\"") + row("536366");
  const std::size_t second = kHeader.size() + row("536365").size();
  for (std::size_t cut = second + 1; cut < whole.size(); ++cut) {
    const auto o = read_all(whole.substr(0, cut));
    const bool at_line_end = whole[cut - 1] == '\n';
    if (at_line_end) continue;  // looks complete
    std::size_t refused = 0;
    for (const Invoice& i : o.invoices) refused += i.refusal != Refusal::none ? 1 : 0;
    EXPECT_EQ(refused, 1u) << show(o);
    if (cut < second + row("536365", "1", "\"1\"").size()) {
      EXPECT_NE(o.invoices[0].refusal, Refusal::none) << cut << "\n" << show(o);
    }
  }
}

TEST(InvoiceFile, RefusesForeignFiles) {
  for (const std::string& text :
       {std::string(), std::string("\n"), std::string("a,b,c\n1,2,3\n"), std::string(1000, '\0'),
        std::string(kHeader.substr(0, 40)), "x" + std::string(kHeader), std::string(1 << 17, 'x'),
        "\"" + std::string(kHeader)}) {
    EXPECT_EQ(show(read_all(text)), "error: no invoice file") << text.substr(0, 30);
    EXPECT_EQ(show(read_all(text, 777)), "error: no invoice file");
  }
  EXPECT_EQ(show(read_all(kHeader.substr(0, kHeader.size() - 1))), "");
}

// Goal: the fingerprint stands for the request, not for its spelling.
TEST(InvoiceFile, FingerprintsIgnoreOrderAndSpelling) {
  const auto print = [](const std::string& rows) {
    return read_all(std::string(kHeader) + rows).invoices.at(0).request.fingerprint;
  };
  const auto base = print(row("1") + row("1", "3", "1.5"));
  EXPECT_EQ(base, print(row("1", "3", "1.50") + row("1", "2", "2.55", "\"LANTERN\"")));
  EXPECT_NE(base, print(row("2") + row("2", "3", "1.5")));
  EXPECT_NE(base, print(row("1") + row("1", "3", "1.6")));
  EXPECT_NE(base, print(row("1") + row("1", "3", "1.5") + row("1", "0", "0")));
  EXPECT_NE(base, print(row("1") + row("1", "3", "1.5", "OTHER")));
}

// Goal: pieces of any size read alike, and nothing crashes on damaged files. Method: random files,
// some with random damage, read whole and in pieces; undamaged invoices must come out exactly.
TEST(InvoiceFile, ReadsDamagedFilesAlikeInAnyPieces) {
  io::SeededRandom random(tools::test_seed());
  constexpr std::string_view kNoise[] = {"\"", ",", "\n", "\r\n", "\xff",
                                         "x",  "-", ".",  "",     ",,,,,,,"};
  for (int round = 0; round < 400; ++round) {
    std::map<std::string, Milli> expected;
    std::string text(kHeader);
    for (std::uint64_t n = random.below(30); n-- > 0;) {
      const std::string id = std::string(random.below(5) == 0 ? "C" : "")
                                 .append(std::to_string(500 + random.below(8)));
      const auto quantity = static_cast<std::int64_t>(random.below(100)) - 20;
      const auto price = static_cast<Milli>(random.below(10000)) - 500;
      expected[id] += quantity * price;
      const bool quoted = random.below(3) == 0;
      text += row(id, std::to_string(quantity), format_milli(price),
                  quoted ? "\"A \"\"B\"\", C\"" : "PLAIN 7\" DISC",
                  random.below(4) == 0 ? "" : "12345.0");
    }
    const bool damaged = random.below(2) == 0;
    for (std::uint64_t n = damaged ? 1 + random.below(4) : 0; n-- > 0;) {
      const std::size_t at = kHeader.size() + random.below(text.size() - kHeader.size() + 1);
      text.replace(std::min(at, text.size()), random.below(3),
                   kNoise[random.below(std::size(kNoise))]);
    }
    const Outcome whole = read_all(text);
    for (const std::size_t piece : {std::size_t{1}, 1 + random.below(100), std::size_t{4096}}) {
      ASSERT_EQ(show(whole), show(read_all(text, piece))) << text;
    }
    if (damaged) continue;
    ASSERT_EQ(whole.invoices.size(), expected.size());
    for (const Invoice& i : whole.invoices)
      ASSERT_EQ(i.request.amount, expected.at(i.request.original_id)) << text;
  }
}

}  // namespace
}  // namespace kessai::payments
