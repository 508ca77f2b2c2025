// SPDX-License-Identifier: Apache-2.0
/// @file
/// Options of a store and of its transactions.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
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

enum class Isolation : std::uint8_t { snapshot };

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
};

struct BeginOptions {
  Isolation isolation = Isolation::snapshot;
  bool read_only = false;
  Durability durability = Durability::durable;
};

}  // namespace kessai
