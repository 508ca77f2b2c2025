// SPDX-License-Identifier: Apache-2.0
/// @file
/// Options of a store and of its transactions.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

#include "kessai/error.hpp"

namespace kessai {

namespace io {
struct Env;
}

inline namespace literals {
constexpr std::uint64_t operator""_KiB(unsigned long long n) { return n << 10; }
constexpr std::uint64_t operator""_MiB(unsigned long long n) { return n << 20; }
constexpr std::uint64_t operator""_GiB(unsigned long long n) { return n << 30; }
}  // namespace literals

/// Largest key and value that any call accepts; checked at the call, never at commit.
inline constexpr std::size_t kMaxKeyBytes = 1024;
inline constexpr std::size_t kMaxValueBytes = 16u << 20;
/// Longest tree name in bytes (any bytes; not empty).
inline constexpr std::size_t kMaxTreeNameBytes = 255;

enum class IoBackend : std::uint8_t { automatic, uring, posix };

/// When a commit is answered: after its log record is on the device, or when it is visible (it
/// becomes durable within `flush_interval`; a crash takes back relaxed commits only as a suffix).
enum class Durability : std::uint8_t { durable, relaxed };

/// What a transaction is protected from; docs/isolation.md has the table of anomalies. In the S2PL
/// build every level runs as `serializable`.
enum class Isolation : std::uint8_t {
  read_committed,  ///< every call sees what was committed when it began
  /// Every call sees what was committed at begin (or at a lock before the first read); write
  /// conflicts are errors.
  snapshot,
  /// As if transactions ran one after another, in the order of their commits. A transaction with
  /// writes that is overtaken by 4096 commits gets `write_conflict`: keep them short.
  serializable,
};

/// When a transaction takes the locks of its writes: at each call, or all of them, sorted, at
/// commit. At commit there is no deadlock among such transactions and a lock is held for
/// microseconds; conflicts show up late, and inserts are judged at commit. Locking reads
/// (get_for_update, update_if) lock at the call in any case. The S2PL build locks at the call.
enum class Locking : std::uint8_t { at_call, at_commit };

/// What open is doing; `done` and `total` share a unit that depends on the phase (log bytes).
struct Progress {
  std::string_view phase;  ///< "recover" or "checkpoint"
  std::uint64_t done = 0;
  std::uint64_t total = 0;
};

struct Options {
  std::uint64_t memory = 256_MiB;      ///< page cache in bytes (at least 1 MiB)
  bool create = false;                 ///< make the store when there is none
  bool read_only = false;              ///< nothing is written; a dirty store is recovered in memory
  std::uint64_t wal_limit = 1_GiB;     ///< most log bytes kept; checkpoints pace themselves by it
  std::uint64_t undo_memory = 64_MiB;  ///< before-images kept for open snapshots
  std::chrono::milliseconds flush_interval{10};  ///< bound on how long a relaxed commit may be lost
  std::chrono::milliseconds lock_timeout{1000};  ///< longest wait for a record lock
  /// A transaction that makes no call for so long is rolled back, so that a forgotten one cannot
  /// hold locks and versions for ever; its next call answers `transaction_expired`. 0: never.
  std::chrono::milliseconds idle_limit{5 * 60 * 1000};
  /// The same for its age, whether it makes calls or not. 0: never.
  std::chrono::milliseconds age_limit{0};
  std::chrono::milliseconds open_timeout{
      10000};  ///< longest wait for another holder's in-flight I/O
  IoBackend io = IoBackend::automatic;
  std::function<void(std::string_view line)> log_sink =
      {};  ///< operator messages; called from any thread
  std::function<void(const Progress&)> progress = {};  ///< called on the opening thread
  /// The outside world for tests (simulated disk, virtual clock); null in production. With it the
  /// path given to open is ignored. Not owned; must outlive the database.
  io::Env* env = nullptr;
};

struct TreeOptions {
  bool create = false;  ///< create the tree when it is missing
  /// Of a tree that this call creates, for ever: rows are inserted and read, and nothing else. put,
  /// update_if and remove answer `insert_only_violation`; the tree as a whole can be dropped.
  bool insert_only = false;
  /// Of a creation. relaxed: the call waits for no flush; the tree survives if any later durable
  /// commit does (so whenever a row in it does).
  Durability durability = Durability::durable;
};

/// How long a call may wait for locks: nothing = Options::lock_timeout, 0 = do not wait.
using LockWait = std::optional<std::chrono::milliseconds>;
inline constexpr std::chrono::milliseconds kNoWait{0};

struct BeginOptions {
  Isolation isolation = Isolation::snapshot;
  bool read_only = false;
  Durability durability = Durability::durable;
  Locking locking = Locking::at_call;
  /// Longest lock wait of this transaction's calls that name none of their own.
  LockWait lock_timeout = {};
  /// read_only: the snapshot contains this commit, waiting until it is applied. It may then see
  /// what a crash takes back (a session's own relaxed commits). 0: no wish.
  std::uint64_t at_least = 0;
};

}  // namespace kessai
