// SPDX-License-Identifier: Apache-2.0
// A log on a simulated disk, and the records that the tests put into it.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "wal/log.hpp"

namespace kessai::wal::test {

inline std::uint64_t seed_from_environment(std::uint64_t fallback) {
  const char* text = std::getenv("KESSAI_SEED");
  const std::uint64_t seed = text != nullptr ? std::strtoull(text, nullptr, 0) : fallback;
  std::printf("KESSAI_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

inline const StoreId kStore{0x1111, 0x2222};

inline LogOptions small_options() {
  LogOptions o;
  o.segment_bytes = 64 * 1024;
  o.ring_bytes = 64 * 1024;
  o.max_frame_bytes = 64 * 1024;
  o.wal_limit = 4u << 20;
  return o;
}

/// A whole commit record whose op stream is `ops` (any bytes: the log does not look inside).
inline std::string commit_record(std::string_view ops) {
  std::string record;
  start_record(RecordKind::commit, record);
  record.append(ops);
  finish_record(record);
  return record;
}

inline Result<Log::Reservation> append_record(Log& log, const std::string& record) {
  auto r = log.reserve(record.size());
  if (!r) return r;
  log.fill(*r, std::as_bytes(std::span(record)));
  log.applied(*r);
  return r;
}

inline Result<Log::Reservation> append(Log& log, std::string_view ops) {
  return append_record(log, commit_record(ops));
}

struct Commit {
  Lsn lsn = 0;
  std::string ops;
  friend bool operator==(const Commit&, const Commit&) = default;
};

/// One opening of a store's log on a disk: directory, clock, salts.
struct Machine {
  explicit Machine(io::SimDisk& disk, std::uint64_t seed = 7)
      : random(seed), directory(disk.attach()) {
    env.directory = directory.get();
    env.clock = &clock;
    env.random = &random;
    env.background = false;
  }
  io::VirtualClock clock;
  io::SeededRandom random;
  std::unique_ptr<io::Directory> directory;
  io::Env env;
};

struct Recovered {
  std::unique_ptr<LogReader> reader;
  LogEnd end;
  std::vector<Commit> commits;
};

inline Result<Recovered> recover(Machine& m, Lsn low = kFirstLsn, Lsn must_reach = 0,
                                 bool writable = true) {
  Recovered r;
  auto reader = LogReader::open(m.env, kStore, writable, 1'000'000'000);
  if (!reader) return std::unexpected(reader.error());
  r.reader = std::move(*reader);
  auto end = r.reader->find_end(low, must_reach);
  if (!end) return std::unexpected(end.error());
  r.end = *end;
  auto visited = r.reader->visit_commits(low, [&](const CommitView& c) -> Result<void> {
    r.commits.push_back({c.lsn, std::string(c.ops)});
    return {};
  });
  if (!visited) return std::unexpected(visited.error());
  return r;
}

inline Result<std::unique_ptr<Log>> restart(Machine& m, Recovered& r, const LogOptions& options,
                                            Lsn keep_from = 0) {
  return Log::start(m.env, kStore, options, std::move(r.reader), r.end, keep_from);
}

}  // namespace kessai::wal::test
