// SPDX-License-Identifier: Apache-2.0
// The import of invoice files: any bytes, in pieces of any size, give the same invoices or the same
// refusals, and no amount that is not the exact sum of accepted lines.
//
//   input := u8 first piece | u8 piece | file
#include <algorithm>

#include "engine/payments/csv.hpp"
#include "kessai/payments/invoice_file.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace kessai::fuzz {
namespace {

using payments::Invoice;
using payments::InvoiceFileReader;

struct Read {
  std::uint64_t lines = 0;
  Result<std::vector<Invoice>> invoices = std::vector<Invoice>();
};

Read read(std::string_view file, std::size_t first, std::size_t piece) {
  InvoiceFileReader reader;
  Read out;
  for (std::size_t n = first; !file.empty(); n = piece) {
    n = std::min(std::max<std::size_t>(n, 1), file.size());
    if (const auto r = reader.feed(file.substr(0, n)); !r) {
      out.invoices = std::unexpected(r.error());
      return out;
    }
    file.remove_prefix(n);
  }
  out.invoices = reader.finish();
  out.lines = reader.lines();
  return out;
}

void expect_same(const Read& a, const Read& b) {
  expect(a.invoices.has_value() == b.invoices.has_value(), "pieces decide whether a file is read");
  if (!a.invoices) return;
  expect(a.lines == b.lines && a.invoices->size() == b.invoices->size(),
         "pieces decide how many invoices there are");
  for (std::size_t i = 0; i < a.invoices->size(); ++i) {
    const Invoice &x = (*a.invoices)[i], &y = (*b.invoices)[i];
    expect(x.refusal == y.refusal && x.line == y.line &&
               x.request.original_id == y.request.original_id &&
               x.request.amount == y.request.amount,
           "pieces decide about an invoice");
  }
}

}  // namespace
}  // namespace kessai::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kessai;
  using namespace kessai::fuzz;
  Input input(data, size);
  const std::size_t first = input.u8(), piece = input.u8();
  const std::string_view text = input.text();
  constexpr std::string_view kHeader =
      "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";
  for (const std::string& file : {std::string(text), std::string(kHeader).append(text)}) {
    const Read whole = read(file, file.size(), file.size());
    expect_same(whole, read(file, first, piece));
    if (!whole.invoices) continue;
    for (const Invoice& i : *whole.invoices)
      expect(i.line >= 2 && !payments::refusal_name(i.refusal).empty(),
             "an invoice without a place");
  }
  std::string_view rest = text;
  while (!rest.empty()) {
    const auto record = payments::parse_csv_record(rest);
    if (record.status != payments::CsvStatus::ok) break;
    expect(record.length > 0 && record.length <= rest.size() && !record.fields.empty(),
           "a record of no length");
    rest.remove_prefix(record.length);
  }
  return 0;
}
