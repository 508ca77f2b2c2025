// SPDX-License-Identifier: Apache-2.0
// Goal: a record that was answered is found again, after every crash, and nothing else is made up.
// Method: a journal on the simulated disk; the power fails at each of its operations in each way;
// damage is planted byte by byte.
#include "kessai/journal.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "kessai/executor.hpp"

namespace kessai {
namespace {

struct Opened {
  std::unique_ptr<io::Directory> directory;
  io::SeededRandom random{5};
  io::Env env;
  std::optional<Journal> journal;
  Result<void> result;

  explicit Opened(io::SimDisk& disk, bool read_only = false) : directory(disk.attach()) {
    env.directory = directory.get();
    env.random = &random;
    env.background = false;
    JournalOptions o;
    o.env = &env;
    o.read_only = read_only;
    o.segment_bytes = 16 * 4096;
    o.open_timeout = std::chrono::milliseconds(10);
    auto r = Journal::open("", "log", o);
    if (r) {
      journal.emplace(std::move(*r));
    } else {
      result = std::unexpected(r.error());
    }
  }
  [[nodiscard]] std::vector<std::string> records(Journal::Position from = 1) {
    std::vector<std::string> out;
    Journal::Position expected = std::max(from, journal->first());
    const auto ok = journal->read(from, [&](Journal::Position p, std::string_view r) {
      EXPECT_EQ(p, expected++);
      out.emplace_back(r);
      return true;
    });
    EXPECT_TRUE(ok.has_value()) << ok.error().message();
    return out;
  }
};

std::string record(int n) {
  return std::to_string(n) + std::string(static_cast<std::size_t>(n * 977 % 9000), 'r');
}

TEST(Journal, FindsWhatWasAppended) {
  io::SimDisk disk;
  {
    Opened o(disk);
    for (int i = 1; i <= 40; ++i) EXPECT_EQ(o.journal->append(record(i)).value(), std::uint64_t(i));
    EXPECT_EQ(o.records().size(), 40u);
    EXPECT_GT(disk.files().size(), 2u) << "several segments";
  }
  Opened o(disk);
  const auto found = o.records();
  ASSERT_EQ(found.size(), 40u);
  for (int i = 1; i <= 40; ++i) EXPECT_EQ(found[static_cast<std::size_t>(i) - 1], record(i));
  EXPECT_EQ(o.records(38).size(), 3u);
  EXPECT_EQ(o.journal->append("next").value(), 41u);
  EXPECT_FALSE(o.journal->cut_tail());
}

TEST(Journal, RecordsAppendedTogetherShareAFlush) {
  io::SimDisk disk;
  Opened o(disk);
  std::vector<std::uint64_t> got;
  for (int i = 0; i < 100; ++i)
    o.journal->append("r" + std::to_string(i),
                      [&](const Result<Journal::Position>& p) { got.push_back(p.value()); });
  EXPECT_TRUE(got.empty()) << "nothing is answered before it is durable";
  while (o.journal->poll()) {
  }
  ASSERT_EQ(got.size(), 100u);
  EXPECT_EQ(got.back(), 100u);
  EXPECT_EQ(o.journal->flushes(), 1u);
}

TEST(Journal, ForgetsWholeSegmentsOnly) {
  io::SimDisk disk;
  {
    Opened o(disk);
    for (int i = 1; i <= 60; ++i) ASSERT_TRUE(o.journal->append(record(i)).has_value());
    const std::uint64_t before = o.journal->bytes();
    ASSERT_TRUE(o.journal->forget_before(30).has_value());
    EXPECT_LT(o.journal->bytes(), before);
    EXPECT_LE(o.journal->first(), 30u);
    EXPECT_GT(o.journal->first(), 1u);
  }
  Opened o(disk);
  EXPECT_EQ(o.records(30).size(), 31u);
}

// Symptom: several segments were forgotten under one flush of the directory; a power failure kept
// an older one and lost a younger one, and the next open refused the gap. Method: the power fails
// at each operation of forgetting many segments, in each way and with several seeds.
TEST(Journal, ForgetsSegmentsWithoutAGapAfterAnyCrash) {
  constexpr int kRecords = 60;
  constexpr Journal::Position kFrom = 50;
  std::vector<io::SimDisk> found;
  io::SimDisk disk(9);
  std::size_t segments = 0;
  {
    Opened o(disk);
    for (int i = 1; i <= kRecords; ++i) ASSERT_TRUE(o.journal->append(record(i)).has_value());
    segments = disk.files().size();
    disk.set_observer([&](std::uint64_t op, std::string_view, std::string_view) {
      for (const auto outcome : io::kCrashOutcomes)
        for (std::uint64_t seed = 0; seed < 8; ++seed)
          found.push_back(disk.survivor(outcome, op * 8 + seed));
    });
    ASSERT_TRUE(o.journal->forget_before(kFrom).has_value());
    disk.set_observer({});
  }
  ASSERT_GT(segments, disk.files().size() + 3) << "several segments must go at once";
  std::set<std::size_t> counts;
  for (io::SimDisk& after : found) {
    Opened o(after);
    ASSERT_TRUE(o.journal.has_value()) << o.result.error().message();
    counts.insert(after.files().size());
    const auto records = o.records(kFrom);
    ASSERT_EQ(records.size(), kRecords - kFrom + 1);
    ASSERT_EQ(records[0], record(kFrom));
    ASSERT_EQ(o.journal->append("on").value(), std::uint64_t{kRecords} + 1);
  }
  EXPECT_GT(counts.size(), 3u) << "states between must be among them";
}

// A directory that cannot be flushed: nothing more is removed before an earlier removal is durable.
TEST(Journal, ForgetsNothingMoreWhileARemovalIsNotDurable) {
  io::SimDisk disk;
  Opened o(disk);
  for (int i = 1; i <= 60; ++i) ASSERT_TRUE(o.journal->append(record(i)).has_value());
  const std::size_t before = disk.files().size();
  disk.add_fault({.what = io::Fault::What::io_error, .kind = "dir_flush", .file = {}});
  EXPECT_FALSE(o.journal->forget_before(50).has_value());
  EXPECT_FALSE(o.journal->forget_before(50).has_value());
  EXPECT_EQ(disk.files().size(), before - 1);
}

TEST(Journal, RefusesASecondHolderAndWritesForReaders) {
  io::SimDisk disk;
  Opened o(disk);
  ASSERT_TRUE(o.journal->append("a").has_value());
  const Opened second(disk);
  ASSERT_FALSE(second.journal.has_value());
  EXPECT_EQ(second.result.error().code(), Code::locked);
  Opened reader(disk, true);
  ASSERT_TRUE(reader.journal.has_value()) << reader.result.error().message();
  EXPECT_EQ(reader.records().size(), 1u);
  EXPECT_EQ(reader.journal->append("b").error().code(), Code::read_only);
}

TEST(Journal, RefusesRecordsThatAreTooLong) {
  io::SimDisk disk;
  Opened o(disk);
  EXPECT_EQ(o.journal->append(std::string(Journal::kMaxRecordBytes + 1, 'x')).error().code(),
            Code::value_too_long);
  EXPECT_TRUE(o.journal->append("").has_value());
  EXPECT_EQ(o.records(), std::vector<std::string>{""});
}

// The power fails at each operation, in each way: what was answered is there, in order, and what
// else is there was appended.
TEST(Journal, SurvivesACrashAtEachOperation) {
  std::uint64_t states = 0;
  for (std::uint64_t op = 0;; ++op) {
    io::SimDisk disk(7);
    std::vector<std::pair<io::CrashOutcome, io::SimDisk>> found;
    disk.set_observer([&](std::uint64_t now, std::string_view, std::string_view) {
      if (now != op) return;
      for (const auto outcome : io::kCrashOutcomes)
        found.emplace_back(outcome, disk.survivor(outcome, op * 31 + 1));
      disk.crash();
    });
    int answered = 0;
    constexpr int kRecords = 25;
    {
      Opened o(disk);
      for (int i = 1; o.journal && i <= kRecords; ++i) {
        if (!o.journal->append(record(i))) break;
        answered = i;
      }
    }
    if (found.empty()) break;
    for (auto& [outcome, after] : found) {
      SCOPED_TRACE(std::string(io::outcome_name(outcome)) + " at " + std::to_string(op));
      ++states;
      Opened o(after);
      ASSERT_TRUE(o.journal.has_value()) << o.result.error().message();
      auto records = o.records();
      ASSERT_GE(records.size(), static_cast<std::size_t>(answered));
      ASSERT_LE(records.size(), static_cast<std::size_t>(answered) + 1);
      for (std::size_t i = 0; i < records.size(); ++i)
        ASSERT_EQ(records[i], record(static_cast<int>(i) + 1));
      // It goes on, and a torn frame's remains are never taken for records.
      ASSERT_TRUE(o.journal->append("on").has_value());
      ASSERT_EQ(o.records().size(), records.size() + 1);
      o.journal.reset();
      Opened again(after);
      ASSERT_TRUE(again.journal.has_value()) << again.result.error().message();
      ASSERT_EQ(again.records().size(), records.size() + 1);
    }
  }
  EXPECT_GT(states, 500u);
}

// A flipped bit before a later record is refused and named; in the last record it is a torn tail.
TEST(Journal, RefusesDamageBeforeALaterRecord) {
  io::SimDisk disk;
  {
    Opened o(disk);
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(o.journal->append("record").has_value());
  }
  constexpr std::uint64_t kBlockBits = 4096 * 8;
  {
    io::SimDisk middle = disk;
    middle.flip("log-00000001", 3 * kBlockBits + 70 * 8);
    const Opened o(middle);
    ASSERT_FALSE(o.journal.has_value());
    EXPECT_EQ(o.result.error().code(), Code::log_damaged);
    EXPECT_EQ(o.result.error().detail().offset, 3u * 4096);
  }
  {
    io::SimDisk last = disk;
    last.flip("log-00000001", 4 * kBlockBits + 70 * 8);
    Opened o(last);
    ASSERT_TRUE(o.journal.has_value());
    EXPECT_TRUE(o.journal->cut_tail());
    EXPECT_EQ(o.records().size(), 2u);
  }
  {
    io::SimDisk header = disk;  // one of two copies
    header.flip("log-00000001", 17 * 8);
    Opened o(header);
    ASSERT_TRUE(o.journal.has_value());
    EXPECT_EQ(o.records().size(), 3u);
    header.flip("log-00000001", kBlockBits + 17 * 8);
    o.journal.reset();
    const Opened both(header);
    ASSERT_FALSE(both.journal.has_value());
    EXPECT_EQ(both.result.error().code(), Code::log_damaged);
  }
}

// EIO: what is not known to be durable is not answered, and nothing is appended after it. ENOSPC:
// that record is refused, the next one may fit.
TEST(Journal, FailsClosed) {
  {
    io::SimDisk disk;
    Opened o(disk);
    ASSERT_TRUE(o.journal->append("a").has_value());
    disk.add_fault({.what = io::Fault::What::io_error, .kind = "flush", .file = {}});
    EXPECT_EQ(o.journal->append("b").error().code(), Code::io_error);
    EXPECT_EQ(o.journal->append("c").error().code(), Code::poisoned);
  }
  io::SimDisk disk;
  Opened o(disk);
  disk.set_capacity(16 * 4096);
  int n = 0;
  Result<Journal::Position> last;
  do {
    last = o.journal->append(std::string(4000, 'x'));
  } while (last && ++n < 100);
  ASSERT_FALSE(last.has_value());
  EXPECT_EQ(last.error().code(), Code::disk_full);
  disk.set_capacity(UINT64_MAX);
  EXPECT_EQ(o.journal->append("fits").value(), static_cast<std::uint64_t>(n) + 1);
}

// Tasks run in order, timers by the monotonic clock, and nothing by itself.
TEST(Executor, RunsTasksInOrderAndTimersWhenDue) {
  io::VirtualClock clock;
  io::Env env;
  env.clock = &clock;
  env.background = false;
  Executor e(&env);
  std::string seen;
  e.post_at(clock.now_ns() + 20, [&] { seen += 'd'; });
  e.post_at(clock.now_ns() + 10, [&] { seen += 'c'; });
  e.post([&] {
    seen += 'a';
    e.post([&] { seen += 'b'; });
  });
  EXPECT_EQ(seen, "");
  EXPECT_TRUE(e.run_ready());
  EXPECT_EQ(seen, "ab");
  clock.set_unix_micros(1);  // the wall clock moves no timer
  EXPECT_FALSE(e.run_ready());
  clock.advance(10);
  e.run_ready();
  EXPECT_EQ(seen, "abc");
  clock.set(*e.next_due());
  e.run_ready();
  EXPECT_EQ(seen, "abcd");
}

TEST(Executor, WithAThreadItRunsByItselfAndStopsInOrder) {
  Executor e;
  int n = 0;
  EXPECT_TRUE(e.await([&](Executor::Task done) {
    e.post([&] { n = 7; });
    e.post(std::move(done));
  }));
  EXPECT_EQ(n, 7);
  e.stop();
  EXPECT_FALSE(e.await([](const Executor::Task&) {}));
}

}  // namespace
}  // namespace kessai
