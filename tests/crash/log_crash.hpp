// SPDX-License-Identifier: Apache-2.0
// The log's crash harness: one seeded workload over several generations; at every disk operation
// the power may fail with every outcome, recovery runs, and the power fails once more inside
// recovery.
//
// Oracle. The client's list of commits in LSN order, the largest LSN it was told is durable, and
// the last two checkpoints it announced (low, F). What recovery reads from either `low` must be a
// prefix of the list that holds everything acknowledged; a second recovery must read the same; a
// new generation's first LSN must lie beyond every LSN ever handed out.
#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "tests/wal/log_helper.hpp"

namespace kessai::wal::test {

struct CrashRun {
  std::uint64_t states = 0;              ///< crash states recovered, nested ones included
  std::optional<std::string> violation;  ///< the first one found
};

class CrashHarness {
 public:
  explicit CrashHarness(std::uint64_t seed) : seed_(seed), random_(seed), disk_(seed) {
    options_ = small_options();
    options_.segment_bytes = 32 * 1024;  // five blocks of frames: many switches, much reuse
    options_.wal_limit = 256 * 1024;
  }

  CrashRun run() {
    disk_.set_observer([this](std::uint64_t op, std::string_view kind, std::string_view) {
      power_may_fail(op, kind);
    });
    for (int generation = 0; generation < 5 && !run_.violation; ++generation) {
      {
        Machine machine(disk_, random_.next());
        auto log = generation == 0 ? Log::create(machine.env, kStore, options_) : reopen(machine);
        if (!log) {
          if (!run_.violation) violate("the log does not open: " + log.error().message());
          break;
        }
        created_ = true;
        handed_out_ = std::max(handed_out_, (*log)->first_lsn());
        work(machine, **log);
      }
      if (random_.below(2) == 0) lose_power();
    }
    return run_;
  }

 private:
  /// What the client knows; copied for every crash state.
  struct Client {
    std::vector<Commit> commits;
    Lsn acknowledged = 0;
    Lsn low = kFirstLsn, previous_low = kFirstLsn, reach = 0;  ///< the durable checkpoint
  };

  void violate(const std::string& what) {
    if (!run_.violation)
      run_.violation = "seed " + std::to_string(seed_) + " op " + std::to_string(op_) + ": " + what;
  }

  Result<std::unique_ptr<Log>> reopen(Machine& machine) {
    auto r = recover(machine, client_.previous_low, client_.reach);
    if (!r) return std::unexpected(r.error());
    if (auto bad = judge(client_.previous_low, r->commits)) {
      violate("after reopening: " + *bad);
      return fail(Code::log_damaged);
    }
    // What was not durable is gone for good: later states must agree.
    std::erase_if(client_.commits, [&](const Commit& c) { return c.lsn > client_.previous_low; });
    client_.commits.insert(client_.commits.end(), r->commits.begin(), r->commits.end());
    client_.acknowledged = std::max(client_.acknowledged, r->end.lsn);
    auto log = restart(machine, *r, options_, client_.previous_low);
    if (log && (*log)->first_lsn() <= handed_out_) violate("LSNs repeat after reopening");
    return log;
  }

  void work(Machine& machine, Log& log) {
    std::optional<CloseBuilder> large;
    std::string stream;
    std::uint64_t hold = 0;
    for (int step = 0; step < 70 && !run_.violation; ++step) {
      machine.clock.advance(1'000'000);
      const auto dice = random_.below(20);
      if (dice < 12) {
        const std::size_t bytes = random_.below(8) == 0 ? random_.below(8000) : random_.below(300);
        std::string ops(bytes, static_cast<char>('a' + random_.below(26)));
        if (!add(log, RecordKind::commit, ops, ops)) abandon(log, large, hold);
        if (dice < 6) wait(log);
        if (dice == 6) note(log.poll());
      } else if (dice < 15) {
        part(log, large, stream, hold);
      } else if (dice < 16) {
        close(log, large, stream, hold);
      } else if (dice < 18) {
        machine.clock.advance(6'000'000);
        log.tick();
        note(log.durable_lsn());
      } else {
        checkpoint(log);
      }
    }
    abandon(log, large, hold);
    if (random_.below(2) == 0 && log.seal()) note(log.durable_lsn());
  }

  /// False: the log is full, held by an open large commit.
  bool add(Log& log, RecordKind kind, std::string_view body, const std::string& ops) {
    std::string record;
    start_record(kind, record);
    record.append(body);
    finish_record(record);
    auto r = log.reserve(record.size());
    for (int i = 0; i < 2 && !r && r.error() == Code::disk_full; ++i) {
      checkpoint(log);
      r = log.reserve(record.size());
    }
    if (!r) {
      if (r.error() != Code::disk_full || log.low() >= log.tail())
        violate("reserve: " + r.error().message());
      return false;
    }
    handed_out_ = std::max(handed_out_, r->lsn);
    if (kind == RecordKind::commit || kind == RecordKind::close)
      client_.commits.push_back({r->lsn, ops});
    last_ = *r;
    log.fill(*r, std::as_bytes(std::span(record)));
    log.applied(*r);
    return true;
  }

  void part(Log& log, std::optional<CloseBuilder>& large, std::string& stream,
            std::uint64_t& hold) {
    if (!large) {
      large.emplace();
      stream.clear();
      hold = log.hold_low();
    }
    const std::string body(random_.below(4000), static_cast<char>('A' + random_.below(26)));
    if (!add(log, RecordKind::part, body, {})) return abandon(log, large, hold);
    if (random_.below(4) == 0) return;  // rolled back: this part counts for nothing
    large->add_part(last_.start, last_.lsn, body);
    stream += body;
  }

  void close(Log& log, std::optional<CloseBuilder>& large, std::string& stream,
             std::uint64_t hold) {
    if (!large) return;
    std::string record;
    large->finish(record);
    (void)add(log, RecordKind::close, std::string_view(record).substr(kRecordHeader), stream);
    abandon(log, large, hold);
  }

  static void abandon(Log& log, std::optional<CloseBuilder>& large, std::uint64_t hold) {
    if (large) log.release_low(hold);
    large.reset();
  }

  void wait(Log& log) {
    if (auto r = log.wait_durable(log.tail()); !r) return violate("wait: " + r.error().message());
    note(log.durable_lsn());
  }
  void note(Lsn durable) { client_.acknowledged = std::max(client_.acknowledged, durable); }

  /// As the engine does it: low, F, wait, "superblock", recycle what the one before does not need.
  void checkpoint(Log& log) {
    const Lsn low = log.low();
    const Lsn reach = log.tail();
    wait(log);
    client_.previous_low = client_.low;
    client_.low = low;
    client_.reach = reach;
    log.recycle_below(client_.previous_low);
  }

  std::optional<std::string> judge(Lsn low, const std::vector<Commit>& read) const {
    std::vector<Commit> expected;
    for (const auto& c : client_.commits)
      if (c.lsn > low) expected.push_back(c);
    if (read.size() > expected.size()) return "more commits than were made";
    for (std::size_t i = 0; i < read.size(); ++i)
      if (!(read[i] == expected[i]))
        return "commit " + std::to_string(i) + " at LSN " + std::to_string(read[i].lsn) +
               " is not what was committed";
    if (read.size() < expected.size() && expected[read.size()].lsn <= client_.acknowledged)
      return "the acknowledged commit at LSN " + std::to_string(expected[read.size()].lsn) +
             " is lost";
    return std::nullopt;
  }

  void power_may_fail(std::uint64_t op, std::string_view kind) {
    if (run_.violation || kind == "read" || kind == "lock" || kind == "open" || !created_) return;
    op_ = op;
    for (const io::CrashOutcome outcome : io::kCrashOutcomes) {
      const auto bad = crash_and_recover(disk_.survivor(outcome, random_.next()));
      if (bad)
        return violate(std::string(io::outcome_name(outcome)) + " before " + std::string(kind) +
                       ": " + *bad);
      if (disk_.volatile_items() == 0) break;
    }
  }

  std::optional<std::string> crash_and_recover(io::SimDisk survivor) {
    ++run_.states;
    const io::SimDisk before = survivor;
    const Lsn low = random_.below(2) == 0 ? client_.low : client_.previous_low;
    std::vector<Commit> first;
    std::uint64_t ops = 0;
    {
      Machine machine(survivor, random_.next());
      auto r = recover(machine, low, client_.reach);
      if (!r) return "recovery fails: " + r.error().message();
      first = r->commits;
      if (auto bad = judge(low, first)) return bad;
      auto log = restart(machine, *r, options_, client_.previous_low);
      if (!log) return "the next generation does not start: " + log.error().message();
      if ((*log)->first_lsn() <= handed_out_) return "LSNs repeat";
      ops = survivor.ops();
      if (random_.below(8) == 0) {
        auto a = append(**log, "after the crash");
        if (a && (*log)->wait_durable(a->lsn)) first.push_back({a->lsn, "after the crash"});
      }
    }
    if (auto bad = recovers_same(survivor, low, first)) return "second recovery: " + *bad;
    // The power fails once more, somewhere in that recovery.
    std::optional<std::string> nested;
    io::SimDisk again = before;
    const std::uint64_t at = random_.below(ops);
    const auto outcome = io::kCrashOutcomes[random_.below(io::kCrashOutcomes.size())];
    if (first.size() > 0 && first.back().ops == "after the crash") first.pop_back();
    again.set_observer([&](std::uint64_t op, std::string_view, std::string_view) {
      if (op != at) return;
      ++run_.states;
      io::SimDisk inner = again.survivor(outcome, random_.next());
      nested = recovers_same(inner, low, first);
    });
    Machine machine(again, random_.next());
    auto r = recover(machine, low, client_.reach);
    if (r) (void)restart(machine, *r, options_, client_.previous_low);
    again.set_observer({});
    if (nested) return "crash in recovery at its operation " + std::to_string(at) + ": " + *nested;
    return std::nullopt;
  }

  std::optional<std::string> recovers_same(io::SimDisk& disk, Lsn low,
                                           const std::vector<Commit>& expected) {
    Machine machine(disk, random_.next());
    auto r = recover(machine, low, client_.reach);
    if (!r) return r.error().message();
    if (r->commits != expected) return "reads something else";
    return std::nullopt;
  }

  /// The run itself goes on from a crash state.
  void lose_power() {
    io::SimDisk next = disk_.survivor(io::kCrashOutcomes[random_.below(io::kCrashOutcomes.size())],
                                      random_.next());
    disk_.set_observer({});
    disk_ = std::move(next);
    disk_.set_observer([this](std::uint64_t op, std::string_view kind, std::string_view) {
      power_may_fail(op, kind);
    });
  }

  const std::uint64_t seed_;
  io::SeededRandom random_;
  io::SimDisk disk_;
  LogOptions options_;
  Client client_;
  Log::Reservation last_;
  Lsn handed_out_ = 0;
  bool created_ = false;
  std::uint64_t op_ = 0;
  CrashRun run_;
};

}  // namespace kessai::wal::test
