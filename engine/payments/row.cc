// SPDX-License-Identifier: Apache-2.0
// Row encoding: a version byte, then the columns in order. Integers little-endian, texts with a
// two-byte length in front. The layout of version 1:
//
//   request      1 kind:1 currency:3 amount:8 request_date:8 payment_date:4 create:8 update:8
//                lines:4 fingerprint:16 account
//   transaction  1 currency:3 amount:8 transaction_date:8 create:8 update:8 request
//   result       1 kind:1 status:1 currency:3 amount:8 payment_date:4 create:8 update:8 transaction
#include <algorithm>
#include <type_traits>

#include "kessai/payments/ledger.hpp"

namespace kessai::payments {
namespace {

constexpr std::uint8_t kVersion = 1;
constexpr std::string_view kCurrency = "GBP";

class Writer {
 public:
  template <class T>
  void integer(T n) {
    const auto u = static_cast<std::make_unsigned_t<T>>(n);
    for (std::size_t i = 0; i < sizeof(T); ++i) bytes_ += static_cast<char>(u >> (8 * i) & 0xff);
  }
  void raw(std::string_view s) { bytes_ += s; }
  void text(std::string_view s) {
    integer(static_cast<std::uint16_t>(s.size()));
    bytes_ += s;
  }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Reads what Writer wrote; past the end everything reads as zero and `good` turns false.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {
    good_ = integer<std::uint8_t>() == kVersion;
  }
  template <class T>
  T integer() {
    const std::string_view s = raw(sizeof(T));
    std::make_unsigned_t<T> u = 0;
    for (std::size_t i = 0; i < s.size(); ++i) {
      u = static_cast<std::make_unsigned_t<T>>(
          u | static_cast<std::make_unsigned_t<T>>(static_cast<unsigned char>(s[i])) << (8 * i));
    }
    return static_cast<T>(u);
  }
  template <class E>
  E enumeration(E last) {
    const auto n = integer<std::uint8_t>();
    good_ = good_ && n <= static_cast<std::uint8_t>(last);
    return static_cast<E>(n);
  }
  std::string_view raw(std::size_t n) {
    if (rest_.size() < n) {
      good_ = false;
      return {};
    }
    const std::string_view out = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return out;
  }
  std::string text() { return std::string(raw(integer<std::uint16_t>())); }
  void currency() { good_ = (raw(3) == kCurrency) && good_; }
  [[nodiscard]] bool good() const { return good_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool good_ = true;
};

template <class Row>
Result<Row> checked(const Reader& reader, Row row, const char* what) {
  if (!reader.good() || row.create_date != row.update_date) return fail(Code::damaged, what);
  return row;
}

}  // namespace

std::string encode(const RequestRow& row) {
  Writer w;
  w.integer(kVersion);
  w.integer(static_cast<std::uint8_t>(row.kind));
  w.raw(kCurrency);
  w.integer(row.amount);
  w.integer(row.request_date);
  w.integer(row.payment_date);
  w.integer(row.create_date);
  w.integer(row.update_date);
  w.integer(row.lines);
  w.raw({reinterpret_cast<const char*>(row.fingerprint.data()), row.fingerprint.size()});
  w.text(row.account);
  return w.take();
}

Result<RequestRow> decode_request(std::string_view bytes) {
  Reader r(bytes);
  RequestRow row;
  row.kind = r.enumeration(Kind::adjustment);
  r.currency();
  row.amount = r.integer<Milli>();
  row.request_date = r.integer<Micros>();
  row.payment_date = r.integer<Day>();
  row.create_date = r.integer<Micros>();
  row.update_date = r.integer<Micros>();
  row.lines = r.integer<std::uint32_t>();
  const std::string_view print = r.raw(row.fingerprint.size());
  std::copy(print.begin(), print.end(), row.fingerprint.begin());
  row.account = r.text();
  return checked(r, std::move(row), "not a row of payment_request");
}

std::string encode(const TransactionRow& row) {
  Writer w;
  w.integer(kVersion);
  w.raw(kCurrency);
  w.integer(row.amount);
  w.integer(row.transaction_date);
  w.integer(row.create_date);
  w.integer(row.update_date);
  w.text(row.request);
  return w.take();
}

Result<TransactionRow> decode_transaction(std::string_view bytes) {
  Reader r(bytes);
  TransactionRow row;
  r.currency();
  row.amount = r.integer<Milli>();
  row.transaction_date = r.integer<Micros>();
  row.create_date = r.integer<Micros>();
  row.update_date = r.integer<Micros>();
  row.request = r.text();
  return checked(r, std::move(row), "not a row of payment_transaction");
}

std::string encode(const ResultRow& row) {
  Writer w;
  w.integer(kVersion);
  w.integer(static_cast<std::uint8_t>(row.kind));
  w.integer(static_cast<std::uint8_t>(row.status));
  w.raw(kCurrency);
  w.integer(row.amount);
  w.integer(row.payment_date);
  w.integer(row.create_date);
  w.integer(row.update_date);
  w.text(row.transaction);
  return w.take();
}

Result<ResultRow> decode_result(std::string_view bytes) {
  Reader r(bytes);
  ResultRow row;
  row.kind = r.enumeration(Kind::adjustment);
  row.status = r.enumeration(Status::adjusted);
  r.currency();
  row.amount = r.integer<Milli>();
  row.payment_date = r.integer<Day>();
  row.create_date = r.integer<Micros>();
  row.update_date = r.integer<Micros>();
  row.transaction = r.text();
  return checked(r, std::move(row), "not a row of payment_result");
}

}  // namespace kessai::payments
