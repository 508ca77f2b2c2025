// SPDX-License-Identifier: Apache-2.0
// The log's ordinary life on a simulated disk: append, flush, reopen, recycle, watermarks.
#include "wal/log.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "io/sync.hpp"
#include "tests/wal/log_helper.hpp"
#include "wal/format.hpp"

namespace kessai::wal::test {
namespace {

class WalLog : public ::testing::Test {
 protected:
  std::unique_ptr<Log> create(const LogOptions& options = small_options()) {
    auto log = Log::create(machine.env, kStore, options);
    EXPECT_TRUE(log) << log.error().message();
    return std::move(*log);
  }
  /// Everything is closed, then read back by another process.
  void expect_reads_back(const std::vector<Commit>& expected, Lsn low = kFirstLsn) {
    Machine other(disk, 99);
    auto r = recover(other, low);
    ASSERT_TRUE(r) << r.error().message();
    EXPECT_EQ(r->commits, expected);
    EXPECT_FALSE(r->end.torn);
  }
  io::SimDisk disk{3};
  Machine machine{disk};
};

// Goal: what was appended and waited for comes back, in order, with its LSNs, over several
// segments.
TEST_F(WalLog, GivesBackWhatWasAppendedAcrossSegments) {
  std::vector<Commit> expected;
  {
    auto log = create();
    io::SeededRandom random(5);
    for (int i = 0; i < 300; ++i) {
      std::string ops(random.below(3000), static_cast<char>('a' + i % 26));
      auto r = append(*log, ops);
      ASSERT_TRUE(r) << r.error().message();
      if (i % 3 == 0) {
        ASSERT_TRUE(log->wait_durable(r->lsn));
        EXPECT_GE(log->durable_lsn(), r->lsn);
      }
      expected.push_back({r->lsn, ops});
    }
    ASSERT_TRUE(log->wait_durable(log->tail()));
    EXPECT_GE(log->counters().segments, 4u);
    ASSERT_TRUE(log->seal());
  }
  expect_reads_back(expected);
}

// Goal: an LSN is the position just past the record; watermarks start at the first LSN.
TEST_F(WalLog, CountsRecordBytesOnly) {
  auto log = create();
  EXPECT_EQ(log->tail(), kFirstLsn);
  EXPECT_EQ(log->first_lsn(), kFirstLsn);
  EXPECT_EQ(log->durable_lsn(), kFirstLsn);
  EXPECT_EQ(log->applied_lsn(), kFirstLsn);
  auto a = append(*log, "x");
  ASSERT_TRUE(a);
  EXPECT_EQ(a->start, kFirstLsn);
  EXPECT_EQ(a->lsn, kFirstLsn + kRecordHeader + 1);
  EXPECT_EQ(log->tail(), a->lsn);
  EXPECT_EQ(log->bytes_since(a->start), kRecordHeader + 1);
}

// Goal: lengths 0, 1, the maximum work; more than the maximum is refused and changes nothing.
TEST_F(WalLog, TakesRecordsUpToTheMaximum) {
  std::vector<Commit> expected;
  {
    auto log = create();
    const std::size_t max = log->max_record() - kRecordHeader;
    for (std::size_t length : {std::size_t{0}, std::size_t{1}, max}) {
      auto r = append(*log, std::string(length, 'm'));
      ASSERT_TRUE(r) << r.error().message();
      expected.push_back({r->lsn, std::string(length, 'm')});
    }
    auto r = log->reserve(log->max_record() + 1);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error(), Code::invalid_argument);
    EXPECT_EQ(log->tail(), expected.back().lsn);
    ASSERT_TRUE(log->wait_durable(log->tail()));
  }
  expect_reads_back(expected);
  LogOptions normal;
  normal.ring_bytes = 1u << 20;
  io::SimDisk other_disk;
  Machine other(other_disk);
  auto log = Log::create(other.env, kStore, normal);
  ASSERT_TRUE(log);
  EXPECT_EQ((*log)->max_record(), kMaxRecord);
  EXPECT_LE((*log)->file_bytes(), 8u << 20);
}

// Goal: applied_lsn and low move over a prefix only, whatever the order of applied(), and a hold
// keeps low down (I5b a).
TEST_F(WalLog, WatermarksFollowTheOldestUnappliedRecord) {
  auto log = create();
  std::vector<Log::Reservation> rs;
  const std::string record = commit_record("abc");
  for (int i = 0; i < 4; ++i) {
    auto r = log->reserve(record.size());
    ASSERT_TRUE(r);
    log->fill(*r, std::as_bytes(std::span(record)));
    rs.push_back(*r);
  }
  EXPECT_EQ(log->low(), rs[0].start);
  log->applied(rs[1]);
  log->applied(rs[3]);
  EXPECT_EQ(log->applied_lsn(), kFirstLsn);
  EXPECT_EQ(log->low(), rs[0].start);
  log->applied(rs[0]);
  EXPECT_EQ(log->applied_lsn(), rs[1].lsn);
  EXPECT_EQ(log->low(), rs[2].start);
  const auto hold = log->hold_low();
  log->applied(rs[2]);
  EXPECT_EQ(log->applied_lsn(), rs[3].lsn);
  EXPECT_EQ(log->low(), rs[3].lsn);
  auto more = append(*log, "d");
  ASSERT_TRUE(more);
  EXPECT_EQ(log->low(), rs[3].lsn);
  log->release_low(hold);
  EXPECT_EQ(log->low(), more->lsn);
}

// Goal: a flight stops at the first record that is not filled, and takes the rest later.
TEST_F(WalLog, FlushesOnlyFilledRecordsInOrder) {
  auto log = create();
  const std::string record = commit_record("abc");
  auto a = append(*log, "first");
  auto gap = log->reserve(record.size());
  auto b = append(*log, "last");
  ASSERT_TRUE(a && gap && b);
  for (int i = 0; i < 40; ++i) log->poll();
  EXPECT_EQ(log->durable_lsn(), a->lsn);
  log->fill(*gap, std::as_bytes(std::span(record)));
  for (int i = 0; i < 40; ++i) log->poll();
  EXPECT_EQ(log->durable_lsn(), b->lsn);
}

// Goal: tickets progress by polling alone; callbacks come once each, at once when already durable.
TEST_F(WalLog, CallsBackWhenDurable) {
  auto log = create();
  int called = 0;
  auto a = append(*log, "a");
  ASSERT_TRUE(a);
  log->on_durable(a->lsn, [&](Result<void> r) { called += r ? 1 : 100; });
  EXPECT_EQ(called, 0);
  for (int i = 0; i < 40; ++i) log->poll();
  EXPECT_EQ(called, 1);
  log->on_durable(a->lsn, [&](Result<void> r) { called += r ? 1 : 100; });
  EXPECT_EQ(called, 2);
}

// Goal: relaxed commits become durable by tick() within the interval; then one hint frame is
// written, and only one.
TEST_F(WalLog, TickFlushesRelaxedCommitsThenWritesOneHint) {
  auto log = create();
  auto a = append(*log, "relaxed");
  ASSERT_TRUE(a);
  log->tick();
  EXPECT_LT(log->durable_lsn(), a->lsn);
  machine.clock.advance(5'000'000);
  for (int i = 0; i < 40; ++i) log->tick();  // the simulated write takes a random number of looks
  EXPECT_EQ(log->durable_lsn(), a->lsn);
  for (int i = 0; i < 20; ++i) {
    machine.clock.advance(5'000'000);
    log->tick();
  }
  EXPECT_EQ(log->counters().flushes, 2u);
}

// Goal: frames start on blocks, never share one, and nothing durable is written again (I8). Method:
// compare the file before and after each commit: only zero blocks may change.
TEST_F(WalLog, NeverRewritesADurableBlock) {
  auto log = create();
  auto before = disk.file_bytes("wal-00.kessai");
  for (int i = 0; i < 10; ++i) {
    auto r = append(*log, std::string(static_cast<std::size_t>(i * 700), 'q'));
    ASSERT_TRUE(r);
    ASSERT_TRUE(log->wait_durable(r->lsn));
    const auto after = disk.file_bytes("wal-00.kessai");
    for (std::size_t block = 0; block < after.size(); block += 4096) {
      const bool same =
          std::equal(after.begin() + block, after.begin() + block + 4096, before.begin() + block);
      const bool was_zero = std::all_of(before.begin() + block, before.begin() + block + 4096,
                                        [](std::byte b) { return b == std::byte{0}; });
      ASSERT_TRUE(same || was_zero) << "block " << block / 4096 << " after commit " << i;
    }
    before = after;
  }
}

// Goal: generations continue each other; LSNs never repeat, also when a generation stays empty, and
// the files do not pile up when nothing is appended.
TEST_F(WalLog, KeepsLsnsMonotonicOverManyReopenings) {
  std::vector<Commit> expected;
  Lsn last = 0;
  {
    create();
  }
  for (int i = 0; i < 200; ++i) {
    Machine m(disk, 1000 + static_cast<std::uint64_t>(i));
    auto r = recover(m);
    ASSERT_TRUE(r) << i << " " << r.error().message();
    ASSERT_EQ(r->commits, expected);
    auto log = restart(m, *r, small_options());
    ASSERT_TRUE(log) << i << " " << log.error().message();
    ASSERT_GT((*log)->first_lsn(), last + kWindow - 1);
    last = (*log)->first_lsn();
    if (i % 20 == 3) {
      auto a = append(**log, "generation " + std::to_string(i));
      ASSERT_TRUE(a);
      last = a->lsn;
      ASSERT_TRUE((*log)->wait_durable(a->lsn));
      expected.push_back({a->lsn, "generation " + std::to_string(i)});
    }
  }
  EXPECT_LE(disk.files().size(), 14u);
}

// Goal: recycled segments are used again, the log stays within its cap, and old frames never come
// back.
TEST_F(WalLog, RecyclesSegmentsWithinTheCap) {
  auto options = small_options();
  options.wal_limit = 512 * 1024;
  Lsn low = kFirstLsn;
  std::vector<Commit> expected;
  {
    auto log = create(options);
    for (int i = 0; i < 2000; ++i) {
      auto r = append(*log, std::string(900, static_cast<char>('a' + i % 26)));
      ASSERT_TRUE(r) << i << " " << r.error().message();
      expected.push_back({r->lsn, std::string(900, static_cast<char>('a' + i % 26))});
      ASSERT_TRUE(log->wait_durable(r->lsn));
      if (i % 20 == 19) {
        low = log->low();
        log->recycle_below(low);
      }
    }
    EXPECT_LE(log->file_bytes(), options.wal_limit);
  }
  std::erase_if(expected, [&](const Commit& c) { return c.lsn <= low; });
  expect_reads_back(expected, low);
}

// Goal: at the cap reserve answers disk_full, nothing is poisoned; the hook can make room inline.
TEST_F(WalLog, AnswersDiskFullAtTheCapAndWorksAgainAfterRecycling) {
  auto options = small_options();
  options.wal_limit = 300 * 1024;
  int asked = 0;
  bool help = false;
  Log* running = nullptr;
  options.on_log_full = [&] {
    ++asked;
    if (help) running->recycle_below(running->low());
  };
  auto log = create(options);
  running = log.get();
  Result<Log::Reservation> r = Log::Reservation{};
  int n = 0;
  while (n < 1000) {
    r = append(*log, std::string(3000, 'f'));
    if (!r) break;
    ASSERT_TRUE(log->wait_durable(r->lsn));
    ++n;
  }
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error(), Code::disk_full);
  EXPECT_GT(n, 20);
  EXPECT_EQ(asked, 1);
  EXPECT_FALSE(log->poisoned());
  help = true;
  for (int i = 0; i < 300; ++i) {
    r = append(*log, std::string(3000, 'f'));
    ASSERT_TRUE(r) << r.error().message();
    ASSERT_TRUE(log->wait_durable(r->lsn));
  }
}

// Goal: many records in flight before any flush keep within the space claimed (I4). Method: random
// sizes, flushes seldom, so that worst-case charges and frame cuts are exercised.
TEST_F(WalLog, NeverRunsOutOfClaimedSpace) {
  auto options = small_options();
  options.wal_limit = 600 * 1024;
  const auto seed = seed_from_environment(11);
  io::SeededRandom random(seed);
  auto log = create(options);
  for (int i = 0; i < 4000; ++i) {
    const std::size_t bytes =
        random.below(10) == 0 ? log->max_record() - kRecordHeader : random.below(500);
    auto r = append(*log, std::string(bytes, 's'));
    if (!r) {
      ASSERT_EQ(r.error(), Code::disk_full);
      log->recycle_below(log->low());
    }
    if (random.below(50) == 0) log->poll();
    if (random.below(200) == 0) log->recycle_below(std::min(log->low(), log->durable_lsn()));
    ASSERT_FALSE(log->poisoned());
  }
  ASSERT_TRUE(log->seal());
}

// Goal: large commits come back whole, in close order, though their parts interleave with other
// commits and with another large commit that is never closed.
TEST_F(WalLog, ReassemblesInterleavedLargeCommits) {
  std::vector<Commit> expected;
  {
    auto log = create();
    CloseBuilder a, b;
    std::string stream_a, stream_b;
    const auto part = [&](CloseBuilder* builder, std::string& stream, char c) {
      std::string record, body(5000, c);
      start_record(RecordKind::part, record);
      record += body;
      finish_record(record);
      auto r = append_record(*log, record);
      ASSERT_TRUE(r);
      if (builder == nullptr) return;
      builder->add_part(r->start, r->lsn, body);
      stream += body;
    };
    std::string none;
    for (int i = 0; i < 12; ++i) {
      part(&a, stream_a, static_cast<char>('A' + i));
      if (i % 2 == 0) part(&b, stream_b, static_cast<char>('a' + i));
      if (i % 3 == 0) part(nullptr, none, '!');
      auto r = append(*log, "small " + std::to_string(i));
      ASSERT_TRUE(r);
      expected.push_back({r->lsn, "small " + std::to_string(i)});
    }
    for (auto* both : {&b, &a}) {
      std::string record;
      both->finish(record);
      EXPECT_EQ(record.size(), both->record_bytes());
      auto r = append_record(*log, record);
      ASSERT_TRUE(r);
      expected.push_back({r->lsn, both == &a ? stream_a : stream_b});
    }
    ASSERT_TRUE(log->wait_durable(log->tail()));
  }
  expect_reads_back(expected);
}

// Goal: group commit with real threads: every wait ends, everything is there, LSNs are unique.
TEST(WalThreads, ManyCommittersAllBecomeDurable) {
  io::SimDisk disk(17);
  Machine machine(disk);
  machine.env.background = true;
  machine.env.clock = &io::system_clock();
  auto options = small_options();
  options.ring_bytes = 64 * 1024;
  options.wal_limit = 64u << 20;
  constexpr int kThreads = 16, kEach = 300;
  std::atomic<int> called{0};
  std::map<Lsn, std::string> written;
  {
    auto created = Log::create(machine.env, kStore, options);
    ASSERT_TRUE(created);
    Log& log = **created;
    std::vector<std::map<Lsn, std::string>> mine(kThreads);
    {
      std::vector<io::Thread> threads;
      for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back("committer", [&, t] {
          for (int i = 0; i < kEach; ++i) {
            const std::string ops = std::to_string(t) + "/" + std::to_string(i);
            auto r = append(log, ops);
            if (!r) return;
            mine[static_cast<std::size_t>(t)][r->lsn] = ops;
            if (i % 5 == 1) {
              log.on_durable(r->lsn, [&](Result<void> done) { called += done ? 1 : 1000; });
            } else if (i % 5 == 2) {
              (void)log.poll();
            } else if (!log.wait_durable(r->lsn) || log.durable_lsn() < r->lsn) {
              return;
            }
          }
        });
      }
      std::atomic<bool> stop{false};
      io::Thread ticker("ticker", [&] {
        while (!stop) {
          log.tick();
          (void)log.low();
          io::yield_thread();
        }
      });
      threads.clear();
      stop = true;
    }
    ASSERT_TRUE(log.seal());
    EXPECT_EQ(called, kThreads * kEach / 5);
    for (auto& m : mine) written.merge(m);
    EXPECT_EQ(log.applied_lsn(), log.tail());
    EXPECT_EQ(log.counters().stalls, 0u);  // no wake-up was lost
  }
  ASSERT_EQ(written.size(), std::size_t{kThreads} * kEach);
  Machine other(disk, 5);
  auto r = recover(other);
  ASSERT_TRUE(r) << r.error().message();
  ASSERT_EQ(r->commits.size(), written.size());
  for (const auto& c : r->commits) ASSERT_EQ(written[c.lsn], c.ops);
}

}  // namespace
}  // namespace kessai::wal::test
