// SPDX-License-Identifier: Apache-2.0
// The redo log: append, group commit, segments, generations.
//
// What it is: one stream of record bytes (LSN = position in it, never repeats), cut into frames
// (one frame = one durable write), in preallocated zero-filled segment files that are recycled.
//
// Promises
//  I3  a record is in the stream before its effects are in the tree, and durable before answered.
//  I8  frames start on a block boundary (block = max(4096, device block)), never share a block, are
//      never rewritten once durable; records never span frames, frames never span segments.
//  I9  every read-write open starts a generation (random salt, number, first LSN beyond anything
//      its predecessor can have used); its header names the predecessor's end LSN and checksum and
//      is durable before its first frame. No frame is submitted more than kWindow beyond `durable`.
//      A log that falls idle writes an empty frame carrying the durable-LSN hint.
//  I4  space is claimed before the append (reserve fails with disk_full, append cannot); an I/O
//      error after it poisons the log: waits answer unknown_outcome, nothing is retried.
//
// Frame header (128 bytes, little-endian; the frame is padded with zeros to the block):
//   0 u32 magic  4 u32 header bytes  8 u64 generation  16 u64 first LSN (position of the first
//   record byte) 24 u32 payload bytes  28 u32 records  32 u64 durable-LSN hint  40 u64 previous
//   frame's checksum (low word) 48 u128 salted XXH3-128 over the whole padded frame (this field
//   zero)  64 u64 segment number 72..127 reserved, zero (a later nonce and tag)
//
// In-flight ring: reserve() enters the commit in LSN order; fill() makes its bytes flushable (the
// flusher stops at the first unfilled entry); applied() lets the applied watermark pass it.
//   applied_lsn() = largest W such that every record with LSN <= W is applied
//   low()         = smallest start LSN of a record reserved and not fully applied, or tail; also
//                   held down by hold_low() (open multi-part commits)           (I5b a)
//
// Group commit is greedy (Helland et al., "Group commit timers and high volume transaction
// systems"; Aether's flush pipelining): whoever finds the device idle leads a flush; blocked
// committers wait on a futex word of their flush, so that one wake-up call reaches exactly those it
// satisfied; one of the rest is handed the lead, and lets those gather who were just woken and
// commit again (else two halves of the committers take turns: measured, half the commits per
// flush).
//
// Threads: all methods are thread-safe except create/start. Lock order: mutex_ (ring, spin) and
// flush role (try-lock) are never held together with any engine latch; no I/O under mutex_.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/env.hpp"
#include "io/types.hpp"
#include "kessai/error.hpp"
#include "wal/record.hpp"

namespace kessai::wal {

struct StoreId {
  std::uint64_t hi = 0, lo = 0;
  friend bool operator==(const StoreId&, const StoreId&) = default;
};

/// Where a log ends, as recovery decided it.
struct LogEnd {
  Lsn lsn = 0;  ///< end of the last good record
  std::uint64_t generation = 0;
  std::uint64_t checksum = 0;  ///< low word of the last good frame's checksum (chains generations)
  bool torn = false;           ///< something beyond `lsn` was cut
  std::uint64_t last_segment = 0;
  /// The last generation that left records (0: none) and their end. It is `generation` itself, or
  /// all generations after it came to nothing.
  std::uint64_t used_generation = 0;
  Lsn used_end = 0;
  Lsn shown = 0;  ///< the commits up to here were shown on the way
};

struct LogOptions {
  std::uint64_t wal_limit = std::uint64_t{1} << 30;
  std::uint64_t segment_bytes = 4u << 20;  ///< multiple of the block; tests use 64 KiB
  std::uint64_t ring_bytes = 8u << 20;     ///< record bytes buffered in memory; power of two
  std::uint32_t max_frame_bytes = 1u << 20;
  std::uint64_t flush_interval_ns = 10'000'000;
  /// Called by reserve(), outside all locks, when the cap or the file system leaves no segment:
  /// runs a checkpoint inline (Env::background false) or nudges the checkpointer. May call
  /// recycle_below().
  std::function<void()> on_log_full;
  /// Called when callbacks of on_durable() have become due, from whatever thread found it out,
  /// which may be in the middle of something: it must only take note and have run_callbacks()
  /// called elsewhere. Null: that thread calls them itself once it leads no more.
  std::function<void()> on_callbacks_due;
};

inline constexpr std::uint64_t kWindow = 16u << 20;  ///< W of I9, in LSN bytes; >= ring_bytes
inline constexpr Lsn kFirstLsn = 4096;               ///< where generation 1 starts

/// One complete commit during replay, in commit-LSN order; large commits come reassembled.
struct CommitView {
  Lsn lsn = 0;
  std::uint64_t generation = 0;
  std::string_view ops;  ///< decode_ops(); valid during the call
};

/// Read side: finds, locks and reads the segments of a store. Never writes.
class LogReader {
 public:
  struct RawRecord {
    Lsn lsn = 0;  ///< end
    Lsn start = 0;
    std::uint64_t generation = 0;
    RecordKind kind{};
    std::string_view body;
  };
  /// Opens and locks every segment (I13), flushes them when `writable` (so that what is read is
  /// durable, I12), and reads their headers.
  [[nodiscard]] static Result<std::unique_ptr<LogReader>> open(io::Env& env, StoreId store,
                                                               bool writable,
                                                               std::uint64_t lock_timeout_ns);
  virtual ~LogReader() = default;
  /// Finds the end of the log and gives the torn-tail/damage verdict (I9): everything in
  /// [low, end) must be readable; `must_reach` (superblock F) and every hint seen are at or below
  /// the end, else `log_damaged` naming LSN, file and offset. Call before the visits.
  /// `ahead` is shown the commits that visit_commits() would visit, in order, until it answers
  /// false or a large commit begins: who can keep them saves a reading. The verdict comes after.
  [[nodiscard]] virtual Result<LogEnd> find_end(
      Lsn low, Lsn must_reach, const std::function<bool(const CommitView&)>& ahead = {}) = 0;
  /// Visits the commits with LSN > low (start >= low) up to the end; may be called repeatedly.
  /// `progress(done, total)` in log bytes.
  [[nodiscard]] virtual Result<void> visit_commits(
      Lsn low, const std::function<Result<void>(const CommitView&)>& fn,
      const std::function<void(std::uint64_t, std::uint64_t)>& progress = {}) = 0;
  /// Visits raw records from the oldest readable one on (inspection); stops when `fn` answers
  /// false.
  [[nodiscard]] virtual Result<void> visit_records(
      const std::function<bool(const RawRecord&)>& fn) = 0;
  /// Largest generation number seen and total bytes of the segment files.
  [[nodiscard]] virtual std::uint64_t last_generation() const = 0;
  [[nodiscard]] virtual std::uint64_t file_bytes() const = 0;
};

class Log {
 public:
  struct Reservation {
    Lsn start = 0;
    Lsn lsn = 0;  ///< end = the record's LSN = commit timestamp
    std::uint64_t entry = 0;
  };
  struct Counters {
    std::uint64_t record_bytes = 0, frame_bytes = 0, flushes = 0;
    std::uint64_t segments = 0;  ///< segments begun
    std::uint64_t stalls = 0;    ///< waits that ended by time-out without a wake-up: should stay 0
  };

  /// A fresh log in an empty directory: first segments zero-filled, generation 1 header durable.
  [[nodiscard]] static Result<std::unique_ptr<Log>> create(io::Env& env, StoreId store,
                                                           const LogOptions& options);
  /// Continues after `end` in a new generation. Takes over the reader's files and locks. Segments
  /// holding LSNs >= keep_from stay until recycle_below() says otherwise; others are reusable.
  [[nodiscard]] static Result<std::unique_ptr<Log>> start(io::Env& env, StoreId store,
                                                          const LogOptions& options,
                                                          std::unique_ptr<LogReader> reader,
                                                          const LogEnd& end, Lsn keep_from);
  virtual ~Log() = default;

  /// Longest record that reserve() takes: kMaxRecord, less when segments are very small.
  [[nodiscard]] virtual std::size_t max_record() const noexcept = 0;
  /// Reserves `bytes` (<= max_record()) of log with all the space it needs. May wait for ring or
  /// segment space (bounded; named wait); `disk_full` when the file system is full or the cap
  /// `wal_limit` is reached and nothing recycles it; `poisoned`. Never call under a latch (I11).
  [[nodiscard]] virtual Result<Reservation> reserve(std::size_t bytes) = 0;
  /// Copies the record (exactly the reserved bytes) and makes it flushable. Cannot fail.
  virtual void fill(const Reservation& r, std::span<const std::byte> record) = 0;
  /// The commit's effects are all in the tree. Cannot fail.
  virtual void applied(const Reservation& r) = 0;

  /// Keeps low() at or below the present tail until released (open multi-part commit).
  [[nodiscard]] virtual std::uint64_t hold_low() = 0;
  virtual void release_low(std::uint64_t token) = 0;

  [[nodiscard]] virtual Lsn tail() const noexcept = 0;
  [[nodiscard]] virtual Lsn durable_lsn() const noexcept = 0;
  [[nodiscard]] virtual Lsn applied_lsn() const noexcept = 0;
  [[nodiscard]] virtual Lsn low() const = 0;
  [[nodiscard]] virtual std::uint64_t generation() const noexcept = 0;
  [[nodiscard]] virtual Lsn first_lsn() const noexcept = 0;  ///< of this generation

  /// Waits until durable_lsn() >= lsn, leading a flush when the device is idle. `unknown_outcome`
  /// when the log is poisoned before that; its detail carries the LSN.
  [[nodiscard]] virtual Result<void> wait_durable(Lsn lsn) = 0;
  /// Makes progress without blocking: reaps completions, starts a flush when the device is idle and
  /// bytes are waiting. Answers durable_lsn().
  virtual Lsn poll() = 0;
  /// Calls `fn` once lsn is durable or the log is poisoned; at once when it already is. Called
  /// outside all locks, after the leader role was given up.
  virtual void on_durable(Lsn lsn, std::function<void(Result<void>)> fn) = 0;
  /// Calls the due callbacks of on_durable() on this thread, which must hold nothing.
  virtual void run_callbacks() = 0;
  /// Background upkeep, called every few ms by one thread: flushes relaxed commits older than the
  /// flush interval, writes the idle hint, prepares spare segments. Never fails: errors poison.
  virtual void tick() = 0;

  /// Segments wholly below `low` become reusable. Call only after a durable superblock allows it
  /// (I5b).
  virtual void recycle_below(Lsn low) = 0;
  /// Replay bytes from `from` to the tail, and bytes of all segment files.
  [[nodiscard]] virtual std::uint64_t bytes_since(Lsn from) const = 0;
  [[nodiscard]] virtual std::uint64_t file_bytes() const = 0;

  /// No more appends; everything waiting answers. Used on an I/O error elsewhere (checkpoint).
  virtual void poison(const Error& why) = 0;
  [[nodiscard]] virtual bool poisoned() const noexcept = 0;
  /// Why it is poisoned, as the error `poisoned`.
  [[nodiscard]] virtual Error failure() const = 0;
  /// Flushes everything and writes the last hint. REQUIRES no concurrent use.
  [[nodiscard]] virtual Result<void> seal() = 0;
  [[nodiscard]] virtual Counters counters() const = 0;
  /// Visits the records still on disk, for inspection (the durable part).
  [[nodiscard]] virtual Result<void> visit_records(
      const std::function<bool(const LogReader::RawRecord&)>& fn) = 0;
};

}  // namespace kessai::wal
