// SPDX-License-Identifier: Apache-2.0
#include "engine/payments/outside_records.hpp"

#include "engine/payments/result.hpp"

namespace kessai::payments {
namespace {

constexpr std::uint8_t kVersion = 1;

template <class Row>
void put_row(Encoder& e, const Row& row) {
  e.text(row::key_of(row));
  e.text(row::value_of(row));
}

template <class Row>
Result<Row> get_row(Decoder& d) {
  const std::string key = d.text();
  const std::string value = d.text();
  return row::decode<Row>(key, value);
}

Result<void> check(std::uint8_t version, const Decoder& d) {
  if (version == kVersion && d.good()) return {};
  return fail(Code::damaged, "a record of the transaction log or spool cannot be read");
}

}  // namespace

std::string encode(const SentRecord& record) {
  Encoder e;
  e.put(kVersion);
  put_row(e, record.request);
  put_row(e, record.transaction);
  return e.take();
}

Result<SentRecord> decode_sent(std::string_view bytes) {
  Decoder d(bytes);
  std::uint8_t version = 0;
  d.get(version);
  PAYMENTS_ASSIGN(request, get_row<RequestRow>(d));
  PAYMENTS_ASSIGN(transaction, get_row<TransactionRow>(d));
  PAYMENTS_TRY(check(version, d));
  return SentRecord{std::move(request), std::move(transaction)};
}

std::string encode_spooled(const CancelRow& row) {
  Encoder e;
  e.put(kVersion);
  put_row(e, row);
  return e.take();
}

Result<CancelRow> decode_spooled(std::string_view bytes) {
  Decoder d(bytes);
  std::uint8_t version = 0;
  d.get(version);
  PAYMENTS_ASSIGN(row, get_row<CancelRow>(d));
  PAYMENTS_TRY(check(version, d));
  return row;
}

}  // namespace kessai::payments
