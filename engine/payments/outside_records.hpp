// SPDX-License-Identifier: Apache-2.0
// What the payment flow keeps outside the store: records of the transaction log and of the spool,
// and the marks inside the store that say how far both are settled.
//
// A log record is a whole request row and a whole transaction row: enough to cancel, and to put the
// request back, when the store has lost it. A spool record is a cancel row.
#pragma once

#include <string>
#include <string_view>

#include "kessai/payments/tables.hpp"

namespace kessai::payments {

struct SentRecord {
  RequestRow request;
  TransactionRow transaction;
};
[[nodiscard]] std::string encode(const SentRecord& record);
[[nodiscard]] Result<SentRecord> decode_sent(std::string_view bytes);
[[nodiscard]] std::string encode_spooled(const CancelRow& row);
[[nodiscard]] Result<CancelRow> decode_spooled(std::string_view bytes);

inline constexpr std::string_view kTxlogName = "txlog";
inline constexpr std::string_view kSpoolName = "spool";

/// Everything before `position` of the log has a durable result, everything before `spooled` of the
/// spool a cancel row; open requests were created on `scan_from` or later, undelivered cancels on
/// `cancels_from` or later. The newest of a journal counts.
struct MarkRow {
  static constexpr TableSpec kTable{.name = "payment_mark"};
  std::string journal;  ///< id of the transaction log
  std::uint64_t sequence = 0;
  Micros create_date = 0;
  std::uint64_t position = 1, spooled = 1;
  Day scan_from = 0, cancels_from = 0;

  template <class Row, class F>
  static void key(Row& r, F&& f) {
    f("JOURNAL", ColumnType::text, r.journal);
    f("SEQUENCE", ColumnType::number, r.sequence);
  }
  template <class Row, class F>
  static void columns(Row& r, F&& f) {
    f("CREATE_DATE", ColumnType::time, r.create_date);
    f("POSITION", ColumnType::number, r.position);
    f("SPOOLED", ColumnType::number, r.spooled);
    f("SCAN_FROM", ColumnType::day, r.scan_from);
    f("CANCELS_FROM", ColumnType::day, r.cancels_from);
  }
};

}  // namespace kessai::payments
