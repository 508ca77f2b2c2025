// SPDX-License-Identifier: Apache-2.0
/// @file
/// Compares a day's payments with the statement that the other side made of it, in both directions.
///
/// Statement: CSV `request_id,amount_milli,status` with original ids, signed amounts in thousandths
/// and `captured` or `refunded`; the last line is `#total,<rows>,<sum_milli>`. A statement whose
/// last line is missing or wrong, with anything behind it, or with a line that cannot be read, is
/// refused as a whole: half a statement would look like missing payments.
///
/// Expected in the statement of day D: the rows of payment_result with PAYMENT_DATE D that are
/// captured or refunded and whose request was created on D or D+1 (UTC). Only the partitions of
/// these two days are read, however many are stored; both sides are in key order and met in one
/// pass. A payment of the statement that is not among them is looked up by its id:
///
///   missing_here    nothing of day D is known by this id
///   missing_there   expected, and not in the statement
///   duplicates      the statement has the id again (once for each further row)
///   amount, status  another amount; another status, or no captured or refunded result here
///   outside_window  of day D, but created on another day than D or D+1
///
/// The report of D also has, as outside_window, the captured and refunded payments that were
/// created on D and whose own day's report does not read them: of a later day, or of one before
/// D-1. So every payment is in some report, also one that no statement ever names.
///
/// Counts and sums of both sides come from their rows, not from the matching, so that they would
/// betray a matching that is wrong. A statement of which nothing belongs to D and something belongs
/// to another day is of the wrong day and refused.
///
/// Promises: one snapshot; differences in order of class and id: the same store and statement give
/// the same report. send_differences() is idempotent.
/// Threads: any number; a reader one at a time. Memory: about 40 bytes a row and the ids.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/database.hpp"
#include "kessai/payments/tables.hpp"

namespace kessai::payments {

/// One row of a statement.
struct StatementRow {
  std::uint64_t hash = 0;  ///< of the id: rows sort as the store's keys do
  std::uint32_t id_at = 0;
  std::uint16_t id_size = 0;
  Status status = Status::captured;
  Milli amount = 0;
};

struct Statement {
  std::vector<StatementRow> rows;  ///< in key order
  std::string ids;
  Milli sum = 0;
  [[nodiscard]] std::string_view id(const StatementRow& r) const {
    return std::string_view(ids).substr(r.id_at, r.id_size);
  }
};

/// Reads a statement from bytes. `invalid_argument` names the line and what is wrong with it; the
/// reader is of no use after that.
class StatementReader {
 public:
  [[nodiscard]] Result<void> feed(std::string_view bytes);
  [[nodiscard]] Result<Statement> finish();

 private:
  [[nodiscard]] Result<void> take_line(std::string_view line);
  [[nodiscard]] Result<void> take_row(std::string_view line);
  [[nodiscard]] Result<void> take_total(std::string_view line);
  [[nodiscard]] std::unexpected<Error> refuse(const std::string& what) const;

  std::string buffer_;
  std::uint64_t line_ = 0;
  bool complete_ = false;  ///< the last line was read, and was right
  Statement statement_;
};

enum class DifferenceClass : std::uint8_t {
  missing_here,
  missing_there,
  duplicates,
  amount,
  status,
  outside_window,
};
inline constexpr std::size_t kDifferenceClasses = 6;
[[nodiscard]] std::string_view difference_name(DifferenceClass c) noexcept;

struct Difference {
  DifferenceClass what{};
  std::string id = {};  ///< ORIGINAL_REQUEST_ID
  std::string transaction =
      {};            ///< missing_there of a captured payment: what to cancel; else empty
  Milli amount = 0;  ///< missing_there: of our row; else of the statement
};

struct Reconciliation {
  std::uint64_t rows = 0;  ///< of the statement
  std::uint64_t matched = 0;
  std::array<std::uint64_t, kDifferenceClasses> counts{};
  std::uint64_t count_there = 0, count_here = 0;
  Milli sum_there = 0, sum_here = 0;
  bool ok = false;
  std::vector<Difference> differences;
  ReadPlan plan;
  [[nodiscard]] std::uint64_t count(DifferenceClass c) const {
    return counts[static_cast<std::size_t>(c)];
  }
};

/// `step` is called now and then with the rows read; false stops with `interrupted`.
/// `invalid_argument`: the statement is of another day.
[[nodiscard]] Result<Reconciliation> reconcile(
    Database& db, const PaymentTables& tables, Day day, const Statement& statement,
    const std::function<bool(std::uint64_t rows)>& step = {});

/// Puts every difference of `r` into the cancel topic, durably, each once for ever: a captured
/// payment that the other side lacks as a cancel of its transaction (the same row that the on-line
/// path would write), the others for review. Answers how many were new.
[[nodiscard]] Result<std::uint64_t> send_differences(Database& db, const PaymentTables& tables,
                                                     Day day, const Reconciliation& r, Micros now);

}  // namespace kessai::payments
