// SPDX-License-Identifier: Apache-2.0
// Scenarios about the end of the log: each answers what went wrong, or nothing. The same functions
// run against the planted bugs.
#pragma once

#include <cstring>
#include <optional>
#include <string>

#include "tests/wal/log_helper.hpp"
#include "wal/format.hpp"

namespace kessai::wal::test {

using Verdict = std::optional<std::string>;
inline constexpr const char* kFirstFile = "wal-00.kessai";

/// `count` commits, each a frame of its own; then optionally the idle hint.
inline std::vector<Commit> write_frames(io::SimDisk& disk, int count, bool hint,
                                        const LogOptions& options = small_options(),
                                        std::size_t size = 200) {
  Machine machine(disk);
  std::vector<Commit> commits;
  auto log = Log::create(machine.env, kStore, options);
  if (!log) return commits;
  for (int i = 0; i < count; ++i) {
    const std::string ops(size, static_cast<char>('a' + i % 26));
    auto r = append(**log, ops);
    if (!r || !(*log)->wait_durable(r->lsn)) return commits;
    commits.push_back({r->lsn, ops});
  }
  if (hint) (void)(*log)->seal();
  return commits;
}

/// Damage to an acknowledged frame is reported, never cut off, once a later frame or hint knows of
/// it.
inline Verdict damage_below_a_hint_is_reported() {
  for (int damaged = 0; damaged < 5; ++damaged) {
    io::SimDisk disk(5);
    (void)write_frames(disk, 5, true);
    disk.flip(kFirstFile, (2 + static_cast<std::uint64_t>(damaged)) * 4096 * 8 + 150 * 8);
    Machine machine(disk, 8);
    auto r = recover(machine);
    if (r) return "frame " + std::to_string(damaged) + " was cut off silently";
    if (r.error() != Code::log_damaged || r.error().detail().path.empty() ||
        r.error().detail().lsn == 0 ||
        r.error().detail().offset != (2 + static_cast<std::uint64_t>(damaged)) * 4096)
      return "unhelpful error: " + r.error().message();
  }
  return std::nullopt;
}

/// EIO at each read of recovery fails the open; the log is intact afterwards.
inline Verdict read_errors_never_end_the_log() {
  io::SimDisk disk(6);
  auto options = small_options();
  const auto commits = write_frames(disk, 40, false, options);
  std::uint64_t reads = 0;
  for (bool done = false; !done; ++reads) {
    io::SimDisk copy = disk;
    copy.add_fault({.what = io::Fault::What::io_error, .kind = "read", .file = {}, .skip = reads});
    Machine machine(copy, 9);
    auto r = recover(machine);
    done = copy.faults_fired() == 0;
    if (!done && r)
      return "EIO at read " + std::to_string(reads) + " was taken for the end of the log";
    if (!done && r.error() != Code::io_error) return "read error became " + r.error().message();
    if (done && (!r || r->commits != commits)) return "the log does not read back without faults";
    if (r) r->reader.reset();
    copy.clear_faults();
    Machine again(copy, 10);
    auto second = recover(again);
    if (!second || second->commits != commits) return "the failed open changed the log";
  }
  if (reads < 3) return "the scenario has too few reads";
  return std::nullopt;
}

/// A value that contains a well-formed frame (best guess of an attacker who knows the format)
/// changes nothing when the frame around it is torn: it must neither be read nor look like lost
/// data.
inline Verdict frames_inside_values_mean_nothing() {
  io::SimDisk disk(12);
  Lsn end = 0;
  {
    Machine machine(disk);
    auto log = Log::create(machine.env, kStore, small_options());
    if (!log) return "create";
    auto a = append(**log, "before");
    if (!a || !(*log)->wait_durable(a->lsn)) return "append";
    end = a->lsn;
    // Frame block 3; the value covers blocks 4 and 5 wholly. It imitates a later frame with a hint.
    std::vector<std::byte> fake(4096);
    FrameHeader h{.generation = 1,
                  .first = end + 100,
                  .payload = 0,
                  .records = 0,
                  .hint = end + 50,
                  .previous = 0,
                  .segment = 1,
                  .checksum = {}};
    seal_frame(h, Salt(), fake);
    std::string ops(3 * 4096, 'v');
    const std::size_t at = 4096 - kFrameHeader - kRecordHeader;
    std::memcpy(ops.data() + at, fake.data(), fake.size());
    auto b = append(**log, ops);
    if (!b || !(*log)->wait_durable(b->lsn)) return "append";
  }
  disk.flip(kFirstFile, 3 * 4096 * 8 + 20);  // the outer frame is torn in its first block
  Machine machine(disk, 3);
  auto r = recover(machine);
  if (!r) return "a value was taken for a log frame: " + r.error().message();
  if (r->end.lsn != end || r->commits.size() != 1) return "the log ends at the wrong place";
  return std::nullopt;
}

}  // namespace kessai::wal::test
