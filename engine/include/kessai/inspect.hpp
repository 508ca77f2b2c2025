// SPDX-License-Identifier: Apache-2.0
/// @file
/// Looking inside a running store: who is at work, who waits for whom, what is kept for whom.
/// All of it is a picture of one moment that may be stale when it arrives; taking it stops nobody.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/options.hpp"

namespace kessai {

/// One open transaction.
struct TransactionInfo {
  std::uint64_t id = 0;  ///< larger = begun later
  Isolation isolation = Isolation::snapshot;
  bool read_only = false;
  unsigned thread = 0;  ///< number of the thread that made its last call, from 1
  std::uint64_t snapshot_lsn = 0;
  std::chrono::nanoseconds age{};
  std::chrono::nanoseconds idle{};  ///< since its last call ended; 0 inside a call
  std::uint64_t writes = 0;         ///< records changed so far
  std::uint64_t write_bytes = 0;
  std::uint64_t undo_bytes = 0;  ///< before-images that are kept for this snapshot or older ones
  std::string last_call;         ///< for example "get", "commit"
  bool in_call = false;
};

enum class LockMode : std::uint8_t { shared, exclusive };

/// What a lock is on.
struct LockTarget {
  enum class Kind : std::uint8_t { record, range, named };
  Kind kind = Kind::record;
  std::string tree;               ///< of records and ranges
  std::string key;                ///< record key, start of a range, or the name
  bool key_is_cut = false;        ///< only the first bytes are known (locks nobody waits for)
  std::optional<std::string> to;  ///< end of a range (exclusive); nothing = to the end of the tree
};

/// One lock that is held, with everybody who waits for it.
struct LockInfo {
  struct Holder {
    std::uint64_t transaction = 0;
    LockMode mode{};
    unsigned thread = 0;
  };
  struct Waiter {
    std::uint64_t transaction = 0;
    LockMode mode{};
    unsigned thread = 0;
    std::chrono::nanoseconds waited{};
  };
  LockTarget target;
  std::vector<Holder> holders;
  std::vector<Waiter> waiters;  ///< in the order they will get it
};

/// A deadlock that was found and broken.
struct DeadlockInfo {
  struct Member {
    std::uint64_t transaction = 0;
    unsigned thread = 0;
    LockMode wants{};
    LockTarget target;  ///< what it waits for; the next member (cyclically) is in its way
    std::chrono::nanoseconds waited{};
    std::uint64_t work = 0;  ///< locks and writes it would have lost
  };
  std::chrono::nanoseconds ago{};
  std::vector<Member> cycle;
  std::uint64_t victim = 0;
};

/// One version of a row, newest first.
struct VersionInfo {
  std::uint64_t lsn = 0;  ///< commit that wrote it
  std::uint64_t end = 0;  ///< commit that replaced it; 0: it is current
  bool present = false;   ///< false: the row was absent from `lsn` on
  bool in_page = false;   ///< the current version in its leaf; else a before-image
  std::string value;
};

/// Before-images kept for snapshots.
struct UndoInfo {
  std::uint64_t bytes = 0;
  std::uint64_t limit = 0;  ///< Options::undo_memory
  std::uint64_t entries = 0;
  std::uint64_t pushed = 0;              ///< since open
  std::uint64_t dropped = 0;             ///< since open
  std::uint64_t horizon = 0;             ///< LSN below which nobody looks
  std::uint64_t oldest_snapshot = 0;     ///< LSN; 0: none
  std::uint64_t oldest_transaction = 0;  ///< id of the transaction that holds it; 0: none
  std::uint64_t snapshots_killed = 0;    ///< since open
  std::uint64_t throttled = 0;           ///< commits slowed down, since open
};

/// One named wait: how often, how long altogether, and a histogram.
struct WaitInfo {
  std::string_view name;  ///< "lock_row", "wal_flush", ...
  std::uint64_t count = 0;
  std::chrono::nanoseconds total{};
  /// Bucket b: waits of [2^b, 2^(b+1)) microseconds; the ends hold what lies beyond.
  std::array<std::uint64_t, 24> histogram{};
};

}  // namespace kessai
