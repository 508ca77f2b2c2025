// SPDX-License-Identifier: Apache-2.0
/// @file
/// Reads a retailer's invoice file and groups its lines into payment requests.
///
/// Format: CSV with the header
///   InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
/// Fields may be quoted ("" for a quote inside, line feeds inside); LF or CR LF; a UTF-8 byte order
/// mark is skipped; bytes are kept as they are.
///
/// Promises
///   * One request = all lines of one InvoiceNo of one file, wherever they stand in it. Its amount
///   is
///     the exact sum of Quantity x UnitPrice.
///   * A bad line refuses its whole invoice and names file line and reason; nothing is guessed. A
///     broken quote costs its own line only: reading goes on at the next line.
///   * A file that ends inside a line refuses that line's invoice: its lines may be incomplete.
///   * Memory: what the invoices of one file need (16 bytes a line and a little per invoice).
/// No OS calls: the bytes come in by feed(). Threads: one at a time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kessai/error.hpp"
#include "kessai/payments/request.hpp"

namespace kessai::payments {

/// Why an invoice was refused; the names are part of the command-line contract.
enum class Refusal : std::uint8_t {
  none,
  bad_csv,             ///< not eight fields, a broken quote
  bad_invoice_number,  ///< empty or longer than kMaxRequestIdBytes
  bad_quantity,
  bad_price,
  too_many_decimals,  ///< a price finer than 0.001
  bad_date,
  bad_customer,
  amount_overflow,
  cut_line,  ///< the file ends inside the line
  line_too_long,
  key_reused_mismatch,  ///< the id is known with other lines (found by the store, not here)
};
[[nodiscard]] std::string_view refusal_name(Refusal r) noexcept;

/// One invoice of a file, good or refused.
struct Invoice {
  Request request;  ///< complete only when refusal == none
  Refusal refusal = Refusal::none;
  std::uint64_t line = 0;  ///< of the first bad line, else of its first line (the header is line 1)
  std::uint64_t bytes = 0;  ///< of its lines in the file, for progress
};

/// Longest line, quoted line feeds included.
inline constexpr std::size_t kMaxLineBytes = 64u << 10;

class InvoiceFileReader {
 public:
  /// The next piece of the file, of any size. `invalid_argument` when the file is no invoice file;
  /// the reader is of no use after that.
  [[nodiscard]] Result<void> feed(std::string_view bytes);
  /// The end of the file: all its invoices in order of first appearance.
  [[nodiscard]] Result<std::vector<Invoice>> finish();
  [[nodiscard]] std::uint64_t lines() const noexcept { return lines_; }  ///< rows read, good or bad

 private:
  struct Group {
    Invoice invoice;
    std::vector<Fingerprint> line_prints;
  };

  [[nodiscard]] Result<void> consume(bool at_end);
  /// Consumes one row at the start of `rest`; 0 when more bytes are needed first.
  [[nodiscard]] std::size_t take_row(std::string_view rest, bool at_end);
  void take_fields(const std::vector<std::string>& fields, std::size_t bytes);
  void take_cut_line(std::string_view line);
  void refuse(const std::string& invoice, Refusal reason, std::size_t bytes);
  Group& group_of(const std::string& invoice, std::size_t bytes);

  std::string buffer_;  ///< bytes not yet consumed
  bool have_header_ = false;
  bool skipping_ = false;   ///< inside the rest of a line that is too long
  std::uint64_t line_ = 1;  ///< physical line at the start of what is not yet consumed
  std::uint64_t lines_ = 0;
  std::string last_id_;  ///< invoice of the row before
  std::vector<Group> groups_;
  std::unordered_map<std::string, std::size_t> by_id_;
};

}  // namespace kessai::payments
