// SPDX-License-Identifier: Apache-2.0
/// @file
/// The payment tables in a store: three insert-only trees.
///
///   payment_request      REQUEST_ID || original id -> who asked for what, with the fingerprint
///   payment_transaction  the same key of TRANSACTION_ID = original id || "/1" -> what was
///   attempted payment_result       REQUEST_ID || original id -> how it ended
///
/// Promises
///   * A request is recorded by one durable commit that inserts its three rows; all or none survive
///     a crash. The unique insert of the request row is the arbiter: of any number of attempts with
///     one id exactly one is accepted.
///   * The same id with the same fingerprint answers already_done once that row is durable; with
///     another fingerprint key_reused_mismatch.
///   * Rows never change: CREATE_DATE == UPDATE_DATE for ever, both equal REQUEST_DATE here, so
///   that
///     a replay of the same files writes the same bytes.
/// Threads: any number. Uses the public API of the engine only.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/database.hpp"
#include "kessai/payments/request.hpp"

namespace kessai::payments {

inline constexpr std::string_view kRequestTree = "payment_request";
inline constexpr std::string_view kTransactionTree = "payment_transaction";
inline constexpr std::string_view kResultTree = "payment_result";

enum class Status : std::uint8_t { captured = 0, refunded = 1, adjusted = 2 };
[[nodiscard]] std::string_view status_name(Status s) noexcept;

/// The columns that all three tables share, and those of payment_request; the encoding is in
/// row.cc.
struct RequestRow {
  Kind kind = Kind::payment;
  Milli amount = 0;
  Micros request_date = 0;
  Day payment_date = 0;
  Micros create_date = 0, update_date = 0;
  std::uint32_t lines = 0;
  Fingerprint fingerprint{};
  std::string account;
};
struct TransactionRow {
  Milli amount = 0;
  Micros transaction_date = 0;
  Micros create_date = 0, update_date = 0;
  std::string request;  ///< original request id
};
struct ResultRow {
  Kind kind = Kind::payment;
  Status status = Status::captured;
  Milli amount = 0;
  Day payment_date = 0;
  Micros create_date = 0, update_date = 0;
  std::string transaction;  ///< TRANSACTION_ID
};

[[nodiscard]] std::string encode(const RequestRow& row);
[[nodiscard]] std::string encode(const TransactionRow& row);
[[nodiscard]] std::string encode(const ResultRow& row);
/// `damaged` when the bytes are no such row.
[[nodiscard]] Result<RequestRow> decode_request(std::string_view bytes);
[[nodiscard]] Result<TransactionRow> decode_transaction(std::string_view bytes);
[[nodiscard]] Result<ResultRow> decode_result(std::string_view bytes);

/// TRANSACTION_ID of the only attempt that replay makes.
[[nodiscard]] std::string transaction_id_of(std::string_view original_id);

struct Totals {
  std::uint64_t requests = 0;
  std::uint64_t payments = 0, cancellations = 0, adjustments = 0;
  Milli sum_payments = 0, sum_cancellations = 0, sum_adjustments = 0, total = 0;
};

/// Everything the store knows about one request.
struct Pieces {
  std::optional<RequestRow> request;
  std::optional<TransactionRow> transaction;
  std::optional<ResultRow> result;
};

class Ledger {
 public:
  /// Opens the three trees, creating them when asked; `tree_not_found` when one is missing.
  [[nodiscard]] static Result<Ledger> open(Database& db, bool create);

  enum class Answer : std::uint8_t { accepted, already_done, key_reused_mismatch };
  struct Recorded {
    Answer answer = Answer::accepted;
    CommitTicket ticket;  ///< accepted: durable once it says so; otherwise nothing to wait for
  };
  /// Records one request; retries conflicts with other threads by itself.
  [[nodiscard]] Result<Recorded> record(const Request& request);

  /// Sums over one durable snapshot, of one PAYMENT_DATE or of all. `step` is called now and then
  /// with the rows read; false stops with `interrupted`.
  [[nodiscard]] Result<Totals> totals(std::optional<Day> day,
                                      const std::function<bool(std::uint64_t rows)>& step = {});
  [[nodiscard]] Result<Pieces> find(std::string_view original_id);

 private:
  Ledger(Database& db, Tree request, Tree transaction, Tree result)
      : db_(&db),
        request_(std::move(request)),
        transaction_(std::move(transaction)),
        result_(std::move(result)) {}
  [[nodiscard]] Result<Recorded> try_record(const Request& request);

  Database* db_;
  Tree request_, transaction_, result_;
};

}  // namespace kessai::payments
