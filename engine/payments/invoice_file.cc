// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/invoice_file.hpp"

#include <algorithm>

#include "engine/payments/csv.hpp"
#include "engine/payments/result.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace kessai::payments {
namespace {

enum Column : std::size_t {
  kInvoice,
  kStock,
  kDescription,
  kQuantity,
  kDate,
  kPrice,
  kCustomer,
  kCountry,
  kColumns
};
constexpr std::string_view kHeader[kColumns] = {"InvoiceNo",  "StockCode",   "Description",
                                                "Quantity",   "InvoiceDate", "UnitPrice",
                                                "CustomerID", "Country"};

// Canonical bytes for fingerprints: numbers as 8 bytes, texts with their length in front.
class Canonical {
 public:
  void number(std::int64_t n) {
    for (int i = 0; i < 8; ++i)
      bytes_ += static_cast<char>(static_cast<std::uint64_t>(n) >> (8 * i) & 0xff);
  }
  void text(std::string_view s) {
    number(static_cast<std::int64_t>(s.size()));
    bytes_ += s;
  }
  void print(const Fingerprint& p) {
    bytes_.append(reinterpret_cast<const char*>(p.data()), p.size());
  }
  [[nodiscard]] Fingerprint hash() const {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes_.data(), bytes_.size()));
    Fingerprint out;
    std::copy_n(canonical.digest, out.size(), out.begin());
    return out;
  }

 private:
  std::string bytes_;
};

std::string_view first_line(std::string_view text) {
  return text.substr(0, std::min(text.find('\n'), text.size()));
}

// The invoice number of a line that could not be parsed: the text before its first comma.
std::string rough_id(std::string_view line) {
  line = line.substr(0, std::min(line.find(','), kMaxRequestIdBytes));
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (line.size() >= 2 && line.starts_with('"') && line.ends_with('"'))
    line = line.substr(1, line.size() - 2);
  return std::string(line);
}

bool good_id(std::string_view id) {
  constexpr std::string_view kBlanks = " \t\r\n";
  return !id.empty() && id.size() <= kMaxRequestIdBytes &&
         kBlanks.find(id.front()) == kBlanks.npos && kBlanks.find(id.back()) == kBlanks.npos;
}

bool looks_like_a_row(std::string_view line) {
  const CsvRecord r = parse_csv_record(line);
  return r.status == CsvStatus::ok && r.fields.size() == kColumns &&
         parse_time(r.fields[kDate]).has_value();
}

// A quoted field with line feeds that contains what would be whole rows is a missing quote, not a
// long description: taking it as one field would silently drop payments.
bool swallows_rows(std::string_view record) {
  for (std::size_t at = record.find('\n'); at + 1 < record.size(); at = record.find('\n', at + 1)) {
    const std::string_view rest = record.substr(at + 1);
    if (looks_like_a_row(rest.substr(0, std::min(rest.find('\n'), rest.size() - 1) + 1)))
      return true;
  }
  return false;
}

std::string_view without_trailing_zero(std::string_view customer) {
  return customer.ends_with(".0") ? customer.substr(0, customer.size() - 2) : customer;
}

Refusal refusal_of(MoneyError e, Refusal otherwise) {
  return e == MoneyError::none                ? Refusal::none
         : e == MoneyError::too_many_decimals ? Refusal::too_many_decimals
                                              : otherwise;
}

}  // namespace

std::string_view refusal_name(Refusal r) noexcept {
  switch (r) {
    case Refusal::none:
      return "none";
    case Refusal::bad_csv:
      return "bad_csv";
    case Refusal::bad_invoice_number:
      return "bad_invoice_number";
    case Refusal::bad_quantity:
      return "bad_quantity";
    case Refusal::bad_price:
      return "bad_price";
    case Refusal::too_many_decimals:
      return "too_many_decimals";
    case Refusal::bad_date:
      return "bad_date";
    case Refusal::bad_customer:
      return "bad_customer";
    case Refusal::amount_overflow:
      return "amount_overflow";
    case Refusal::cut_line:
      return "cut_line";
    case Refusal::line_too_long:
      return "line_too_long";
    case Refusal::key_reused_mismatch:
      return "key_reused_mismatch";
  }
  return "?";
}

Result<void> InvoiceFileReader::feed(std::string_view bytes) {
  buffer_ += bytes;
  return consume(false);
}

Result<std::vector<Invoice>> InvoiceFileReader::finish() {
  PAYMENTS_TRY(consume(true));
  if (!have_header_) return fail(Code::invalid_argument, "no invoice file: it is empty");
  std::vector<Invoice> invoices;
  invoices.reserve(groups_.size());
  for (Group& g : groups_) {
    Request& r = g.invoice.request;
    if (g.invoice.refusal == Refusal::none) {
      std::sort(g.line_prints.begin(), g.line_prints.end());
      Canonical canonical;
      canonical.text("kessai request 1");
      canonical.text(r.original_id);
      for (const Fingerprint& p : g.line_prints) canonical.print(p);
      r.fingerprint = canonical.hash();
      r.lines = static_cast<std::uint32_t>(g.line_prints.size());
      r.kind = kind_of(r.original_id);
    }
    invoices.push_back(std::move(g.invoice));
  }
  groups_.clear();
  by_id_.clear();
  return invoices;
}

Result<void> InvoiceFileReader::consume(bool at_end) {
  std::size_t at = 0;
  while (at < buffer_.size()) {
    std::string_view rest = std::string_view(buffer_).substr(at);
    const std::size_t feed = rest.find('\n');
    if (skipping_) {
      skipping_ = feed == rest.npos;
      line_ += skipping_ ? 0 : 1;
      at += skipping_ ? rest.size() : feed + 1;
    } else if (!have_header_) {
      if (feed == rest.npos && !at_end && rest.size() < kMaxLineBytes) break;
      std::string line(first_line(rest));
      if (line.starts_with("\xef\xbb\xbf")) line.erase(0, 3);
      const CsvRecord header = parse_csv_record(line + '\n');
      if (header.status != CsvStatus::ok ||
          !std::equal(header.fields.begin(), header.fields.end(), kHeader, kHeader + kColumns)) {
        return fail(Code::invalid_argument,
                    "no invoice file: its first line is not InvoiceNo,StockCode,Description,"
                    "Quantity,InvoiceDate,UnitPrice,CustomerID,Country");
      }
      have_header_ = true;
      ++line_;
      at += std::min(first_line(rest).size() + 1, rest.size());
    } else {
      const std::size_t used = take_row(rest, at_end);
      if (used == 0) break;
      at += used;
    }
  }
  buffer_.erase(0, at);
  return {};
}

std::size_t InvoiceFileReader::take_row(std::string_view rest, bool at_end) {
  const std::string_view line = first_line(rest);
  const bool whole_line = line.size() < rest.size();
  if (!whole_line && !at_end && rest.size() <= kMaxLineBytes) return 0;
  if (line.size() > kMaxLineBytes) {
    ++lines_;
    refuse(rough_id(line), Refusal::line_too_long, line.size() + 1);
    skipping_ = !whole_line;
    line_ += whole_line ? 1 : 0;
    return line.size() + (whole_line ? 1 : 0);
  }
  if (!whole_line) {
    ++lines_;
    take_cut_line(line);
    return line.size();
  }
  if (line.empty() || line == "\r") {  // a blank line says nothing
    ++line_;
    return line.size() + 1;
  }
  const CsvRecord record = parse_csv_record(rest.substr(0, kMaxLineBytes));
  if (record.status == CsvStatus::incomplete && !at_end && rest.size() < kMaxLineBytes) return 0;
  ++lines_;
  const bool good = record.status == CsvStatus::ok && record.fields.size() == kColumns &&
                    !swallows_rows(rest.substr(0, record.length));
  // A bad one costs its first physical line only; what an open quote swallowed is read again.
  const std::size_t used = good ? record.length : line.size() + 1;
  if (good) {
    take_fields(record.fields, used);
  } else {
    refuse(rough_id(line), Refusal::bad_csv, used);
  }
  line_ += static_cast<std::uint64_t>(
      std::count(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(used), '\n'));
  return used;
}

void InvoiceFileReader::take_cut_line(std::string_view line) {
  // Without a comma even the number may be cut: then the invoice before it is the suspect.
  const bool number_is_whole = line.find(',') != line.npos;
  std::string id = !number_is_whole && last_id_.starts_with(line) ? last_id_ : rough_id(line);
  refuse(id, Refusal::cut_line, line.size());
}

void InvoiceFileReader::take_fields(const std::vector<std::string>& fields, std::size_t bytes) {
  const std::string& id = fields[kInvoice];
  if (!good_id(id))
    return refuse(id.substr(0, kMaxRequestIdBytes), Refusal::bad_invoice_number, bytes);
  std::int64_t quantity = 0;
  Milli price = 0;
  const auto time = parse_time(fields[kDate]);
  const std::string_view customer = without_trailing_zero(fields[kCustomer]);
  Refusal bad = refusal_of(parse_whole(fields[kQuantity], quantity), Refusal::bad_quantity);
  if (bad == Refusal::none && !time) bad = Refusal::bad_date;
  if (bad == Refusal::none)
    bad = refusal_of(parse_milli(fields[kPrice], price), Refusal::bad_price);
  if (bad == Refusal::none && customer.size() > kMaxRequestIdBytes) bad = Refusal::bad_customer;
  if (bad != Refusal::none) return refuse(id, bad, bytes);

  Group& group = group_of(id, bytes);
  Request& r = group.invoice.request;
  if (group.invoice.refusal != Refusal::none) return;
  const auto product = multiply(quantity, price);
  const auto sum = product ? add(r.amount, *product) : std::nullopt;
  if (!sum) {
    group.invoice.refusal = Refusal::amount_overflow;
    group.invoice.line = line_;
    return;
  }
  r.amount = *sum;
  r.time = group.line_prints.empty() ? *time : std::min(r.time, *time);
  if (r.account.empty()) r.account = customer;
  Canonical canonical;
  canonical.text(fields[kStock]);
  canonical.text(fields[kDescription]);
  canonical.number(quantity);
  canonical.number(*time);
  canonical.number(price);
  canonical.text(customer);
  canonical.text(fields[kCountry]);
  group.line_prints.push_back(canonical.hash());
}

void InvoiceFileReader::refuse(const std::string& invoice, Refusal reason, std::size_t bytes) {
  Group& group = group_of(invoice, bytes);
  if (group.invoice.refusal != Refusal::none) return;  // the first reason stands
  group.invoice.refusal = reason;
  group.invoice.line = line_;
}

InvoiceFileReader::Group& InvoiceFileReader::group_of(const std::string& invoice,
                                                      std::size_t bytes) {
  const auto [it, fresh] = by_id_.try_emplace(invoice, groups_.size());
  if (fresh) {
    Group& group = groups_.emplace_back();
    group.invoice.request.original_id = invoice;
    group.invoice.line = line_;
  }
  last_id_ = invoice;
  Group& group = groups_[it->second];
  group.invoice.bytes += bytes;
  return group;
}

}  // namespace kessai::payments
