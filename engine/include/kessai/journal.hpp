// SPDX-License-Identifier: Apache-2.0
/// @file
/// Journal: an append-only file of records outside any store. For what must be on a device even
/// when the store is not there to take it: a transaction log, a spool.
///
/// Promises
///  * A record whose append was answered survives kill -9, an OS crash and power loss, on a device
///    that honours flushes. Records appended while a flush is under way share the next one.
///  * It shares no code with the store's log: a defect of one cannot lose what the other kept.
///  * A record that was not answered may or may not be found again; found records are whole, in the
///    order of their positions and without gaps. A torn tail is cut, and told by `cut_tail()`.
///    Damage before a later record that is whole is refused: `log_damaged` names file and offset.
///  * After a failed write or flush nothing more is appended (`poisoned`) until it is opened again.
///    A full disk (`disk_full`) refuses the record and nothing else.
///
/// On disk: segments NAME-00000001, NAME-00000002, ... in one directory; the byte layout is in
/// engine/journal_format.hpp. One process at a time has a journal open: the newest segment is
/// locked.
///
/// Threads: any. Callbacks run on the journal's own thread (with Env::background false: inside
/// poll() and the blocking calls) and must not wait for the journal; while one runs the next flush
/// waits.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "kessai/error.hpp"
#include "kessai/options.hpp"

namespace kessai {

struct JournalOptions {
  bool create = true;      ///< make directory and journal when they are missing
  bool read_only = false;  ///< for looking at it; appends answer `read_only`
  std::uint64_t segment_bytes = 8_MiB;
  std::chrono::milliseconds open_timeout{10000};  ///< wait for another holder's in-flight I/O
  std::function<void(std::string_view line)> log_sink = {};
  /// As Options::env, with the journal's directory. Not owned; must outlive the journal.
  io::Env* env = nullptr;
};

class Journal {
 public:
  /// A record's number: 1 for the first, then without gaps, never reused.
  using Position = std::uint64_t;
  using Appended = std::function<void(Result<Position>)>;
  static constexpr std::size_t kMaxRecordBytes = 64u << 10;

  /// Opens NAME in `directory`. Errors: store_missing, locked, log_damaged, newer_format,
  /// permission_denied, disk_full, io_error.
  [[nodiscard]] static Result<Journal> open(std::string_view directory, std::string_view name,
                                            const JournalOptions& options = {});
  Journal(Journal&&) noexcept;
  Journal& operator=(Journal&&) noexcept;
  ~Journal();  ///< what is not durable yet is answered `closed_handle`

  /// Calls `fn` once the record is durable, or cannot become so. After an error other than
  /// `disk_full`, `value_too_long`, `read_only` the record may be found by the next open.
  void append(std::string_view record, Appended fn);
  /// The same, waiting.
  [[nodiscard]] Result<Position> append(std::string_view record);
  /// Visits the records from `from` on (or from first() when that is later) that were durable when
  /// the call began; stops when `fn` answers false.
  [[nodiscard]] Result<void> read(Position from,
                                  const std::function<bool(Position, std::string_view)>& fn);
  /// Removes segments all of whose records are before `position`; the newest one stays. A crash in
  /// the middle leaves a journal without gaps. Waits for a flush of the directory a segment.
  [[nodiscard]] Result<void> forget_before(Position position);

  [[nodiscard]] Position first() const;  ///< oldest record that is kept; next() when there is none
  [[nodiscard]] Position next() const;   ///< position of the next record
  [[nodiscard]] std::string id() const;  ///< 32 hex digits, drawn when it was made
  [[nodiscard]] bool cut_tail() const;   ///< this open found and cut a torn record
  [[nodiscard]] std::uint64_t flushes() const;
  [[nodiscard]] std::chrono::nanoseconds flush_time() const;  ///< spent in them, since open
  [[nodiscard]] std::uint64_t bytes() const;                  ///< of its segments on disk
  /// Without threads (Env::background false): flushes what waits. True when there was something.
  bool poll();

 private:
  struct State;
  explicit Journal(std::shared_ptr<State> state) noexcept;
  std::shared_ptr<State> state_;
};

}  // namespace kessai
