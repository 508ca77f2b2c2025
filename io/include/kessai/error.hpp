// SPDX-License-Identifier: Apache-2.0
/// @file
/// The error vocabulary of kessai: one enum with stable numbers, one small copyable `Error`,
/// and `Result<T>`. No function of this library throws; every fallible one returns a `Result`.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <string_view>

namespace kessai {

/// Stable numbers: they are never reused and never change meaning. A new code exists only where
/// a caller would react differently.
enum class Code : std::uint16_t {
  // What the caller asked for cannot be (fix the call).
  invalid_argument = 1,
  key_too_long = 2,
  value_too_long = 3,
  bad_tree_name = 4,
  closed_handle = 5,   ///< a transaction, tree or database used after it ended
  wrong_database = 6,  ///< a tree or transaction of another database
  read_only = 7,       ///< write on a store or transaction opened for reading
  transaction_too_large = 8,

  // Ordinary outcomes a caller branches on.
  not_found = 20,
  key_exists = 21,
  tree_not_found = 22,
  tree_exists = 23,
  insert_only_violation =
      24,           ///< put, update or remove in a tree made with TreeOptions::insert_only
  unfinished = 25,  ///< what would go is still at work; finish it, or say that it may go

  // Concurrency; retryable() is true for these.
  write_conflict = 40,
  lock_timeout = 41,
  deadlock = 42,
  snapshot_too_old = 43,
  transaction_expired = 44,
  self_deadlock = 45,  ///< two transactions of one thread on one key (not retryable)

  // The store cannot be opened.
  not_a_store = 60,
  newer_format = 61,
  page_size_mismatch = 62,
  incomplete_store = 63,  ///< creation was interrupted before the store held anything
  locked = 64,            ///< another process or handle has it open
  store_missing = 65,
  store_exists = 66,
  wrong_mode = 67,

  // Damage: something read back is not what was written.
  damaged = 80,
  log_damaged = 81,  ///< damage at or below an acknowledged LSN
  superblock_damaged = 82,

  // Resources and the outside world.
  io_error = 100,
  disk_full = 101,
  out_of_memory = 102,
  permission_denied = 103,
  not_supported = 104,
  poisoned = 105,         ///< an earlier I/O failure; close and reopen the store
  unknown_outcome = 106,  ///< the commit may or may not survive; ask again after reopening
  interrupted = 107,
  callback_failed = 108,  ///< a function of the caller's threw; the message has its what()
};

/// The enumerator's name, for example "key_exists". Static storage.
[[nodiscard]] std::string_view code_name(Code code) noexcept;

/// Where and what: allocated only for errors that carry more than their code.
struct ErrorDetail {
  std::string what{};        ///< one sentence: what happened and what to do
  std::string path{};        ///< file, where one is concerned
  std::string tree{};        ///< tree name, where one is concerned
  std::string key{};         ///< raw key bytes, where one is concerned
  std::uint64_t offset = 0;  ///< byte offset in `path`
  std::uint64_t page = 0;    ///< page id
  std::uint64_t lsn = 0;     ///< log sequence number
};

/// A code plus optional context. Copying never throws on the hot path (a shared pointer).
class Error {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): a code is an error
  Error(Code code) noexcept : code_(code) {}
  Error(Code code, std::string what);
  Error(Code code, ErrorDetail detail, int os_error = 0);

  [[nodiscard]] Code code() const noexcept { return code_; }
  /// errno of the failed call, or 0.
  [[nodiscard]] int os_error() const noexcept { return os_error_; }
  /// True when running the same transaction again can succeed.
  [[nodiscard]] bool retryable() const noexcept;
  /// Context; an empty object where there is none.
  [[nodiscard]] const ErrorDetail& detail() const noexcept;
  /// "code_name: what [path:offset] [page N] [lsn N]"; keys are escaped.
  [[nodiscard]] std::string message() const;

  friend bool operator==(const Error& e, Code c) noexcept { return e.code_ == c; }

 private:
  Code code_;
  int os_error_ = 0;
  std::shared_ptr<const ErrorDetail> detail_;
};

template <class T>
using Result = std::expected<T, Error>;

/// Shorthand: `return fail(Code::not_found);`
template <class... A>
[[nodiscard]] std::unexpected<Error> fail(A&&... args) {
  return std::unexpected<Error>(Error(static_cast<A&&>(args)...));
}

}  // namespace kessai
