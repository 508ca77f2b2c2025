// SPDX-License-Identifier: Apache-2.0
// Goal: the scheduler of the torture copies repeats exactly, finds what it says it finds, and
// reaches every schedule that it says it reaches. Method: fibers over the seams of io, with
// textbook races.
#include "io/scheduler.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "io/memory.hpp"
#include "io/sim_disk.hpp"
#include "io/sync.hpp"
#include "tests/tools/seed.hpp"

namespace kessai::io {
namespace {

using Strategy = Scheduler::Strategy;

struct World {
  VirtualClock clock;
  Scheduler::Options options;
  explicit World(Strategy s = Strategy::random_walk, std::uint64_t seed = 1) {
    options.strategy = s;
    options.seed = seed;
    options.clock = &clock;
    options.mean_gap = 4;
    options.expected_points = 20;
  }
  Scheduler::Outcome run(const std::function<void()>& body) {
    return Scheduler::run(options, body);
  }
};

/// Two threads add one each, and one addition can be lost.
void racy(Atomic<int>& n) {
  const auto add = [&n] { n.store(n.load() + 1); };
  Thread a("a", add), b("b", add);
}

TEST(Scheduler, RepeatsASeedAndNotAnother) {
  const std::uint64_t seed = tools::test_seed();
  for (const Strategy s : {Strategy::random_walk, Strategy::pct}) {
    const auto hash = [&](std::uint64_t of) {
      World w(s, of);
      Mutex mutex;
      int sum = 0;
      const auto outcome = w.run([&] {
        std::vector<Thread> threads;
        for (int t = 0; t < 4; ++t)
          threads.emplace_back("t", [&] {
            for (int i = 0; i < 20; ++i) {
              const MutexLock lock(mutex);
              ++sum;
              yield_thread();
            }
          });
      });
      EXPECT_EQ(sum, 80);
      EXPECT_FALSE(outcome.violation);
      EXPECT_EQ(outcome.fibers, 5u);
      return outcome.hash;
    };
    std::set<std::uint64_t> seen;
    for (std::uint64_t n = 0; n < 20; ++n) {
      const auto first = hash(seed + n);
      EXPECT_EQ(first, hash(seed + n));
      seen.insert(first);
    }
    EXPECT_GT(seen.size(), 15u);
  }
}

TEST(Scheduler, FindsALostUpdateAndNoneWithoutPreemptions) {
  for (const Strategy s : {Strategy::random_walk, Strategy::pct}) {
    int lost = 0;
    for (std::uint64_t seed = 1; seed <= 300; ++seed) {
      World w(s, seed);
      w.options.preemptions = 1;
      Atomic<int> n{0};
      const auto outcome = w.run([&] { racy(n); });
      lost += n.load() == 1;
      EXPECT_TRUE(n.load() == 2 || outcome.preemptions > 0);
      w.options.most_preemptions = 0;
      Atomic<int> again{0};
      EXPECT_EQ(w.run([&] { racy(again); }).preemptions, 0u);
      EXPECT_EQ(again.load(), 2);
    }
    EXPECT_GT(lost, 3) << static_cast<int>(s);
    EXPECT_LT(lost, 300);
  }
}

TEST(Scheduler, ExhaustiveReachesEveryOrder) {
  // Two threads of two steps: C(4, 2) = 6 orders; round robin without deviations.
  const auto orders = [](unsigned preemptions) {
    std::set<std::string> seen;
    Choices choices;
    do {
      World w(Strategy::exhaustive);
      w.options.preemptions = preemptions;
      w.options.choices = &choices;
      std::string order;
      Atomic<int> step{0};
      const auto outcome = w.run([&] {
        Thread a("a", [&] {
          for (int i = 0; i < 2; ++i) {
            (void)step.load();
            order += 'a';
          }
        });
        Thread b("b", [&] {
          for (int i = 0; i < 2; ++i) {
            (void)step.load();
            order += 'b';
          }
        });
      });
      EXPECT_LE(outcome.preemptions, preemptions);
      seen.insert(order);
    } while (choices.advance());
    return seen;
  };
  EXPECT_EQ(orders(0), (std::set<std::string>{"aabb"}));
  EXPECT_EQ(orders(1), (std::set<std::string>{"aabb", "abba", "bbaa"}));
  EXPECT_EQ(orders(4).size(), 6u);
}

TEST(Scheduler, ADeadlockIsFoundAndToldInWords) {
  std::optional<std::string> found;
  for (std::uint64_t seed = 1; seed <= 200 && !found; ++seed) {
    World w(Strategy::random_walk, seed);
    const auto mutexes = std::make_shared<std::array<Mutex, 2>>();
    found =
        w.run([mutexes] {
           Thread t("other", [mutexes] { const MutexLock one((*mutexes)[1]), two((*mutexes)[0]); });
           const MutexLock one((*mutexes)[0]), two((*mutexes)[1]);
         }).violation;
  }
  ASSERT_TRUE(found);
  EXPECT_NE(found->find("deadlock"), std::string::npos) << *found;
  EXPECT_NE(found->find("other#2 waits at "), std::string::npos) << *found;
  EXPECT_NE(found->find("scheduler_test.cc:"), std::string::npos) << *found;
}

TEST(Scheduler, AWaitThatOnlyATimerEndsIsALostWakeUp) {
  const auto wait = [](bool watched) {
    World w;
    Mutex mutex;
    CondVar never;
    const std::uint64_t before = w.clock.now_ns();
    const auto outcome = w.run([&] {
      std::optional<Scheduler::Watched> watch;
      if (watched) watch.emplace();
      const MutexLock lock(mutex);
      EXPECT_FALSE(never.wait_for(mutex, 5'000'000));
    });
    EXPECT_TRUE(watched || w.clock.now_ns() - before >= 5'000'000);
    return outcome.violation;
  };
  EXPECT_FALSE(wait(false));
  const auto found = wait(true);
  ASSERT_TRUE(found);
  EXPECT_NE(found->find("a wake-up is lost"), std::string::npos) << *found;
}

TEST(Scheduler, AWatchedThreadMayPauseAndWaitForWhoPauses) {
  World w;
  Mutex mutex;
  CondVar changed;
  bool ready = false;
  const auto outcome = w.run([&] {
    const Scheduler::Watched watched;
    Thread t("sleeper", [&] {
      pause_for(1'000'000);
      const MutexLock lock(mutex);
      ready = true;
      changed.notify_all();
    });
    const MutexLock lock(mutex);
    while (!ready) (void)changed.wait_for(mutex, 60'000'000'000);
  });
  EXPECT_FALSE(outcome.violation) << *outcome.violation;
}

TEST(Scheduler, ALivelockIsFound) {
  World w;
  w.options.most_switches = 1000;
  const auto outcome = w.run([] {
    Atomic<bool> never{false};
    const auto spin = [&never] {
      while (!never.load()) yield_thread();
    };
    Thread t("spins", spin);
    spin();
  });
  ASSERT_TRUE(outcome.violation);
  EXPECT_NE(outcome.violation->find("livelock"), std::string::npos);
}

TEST(Scheduler, FutexesWakeTheirWaiters) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    World w(Strategy::random_walk, seed);
    Atomic<std::uint32_t> word{0};
    const auto outcome = w.run([&] {
      Thread t("waits", [&] {
        const Scheduler::Watched watched;
        while (word.load() == 0) futex_wait(word, 0, 60'000'000'000);
      });
      word.store(1);
      futex_wake(word, 1);
    });
    EXPECT_FALSE(outcome.violation) << *outcome.violation;
  }
}

TEST(Scheduler, ThreadsHaveIndexesOfTheirOwn) {
  World w;
  std::set<unsigned> serials;
  const auto outcome = w.run([&] {
    EXPECT_EQ(thread_index(), 0u);
    for (int round = 0; round < 3; ++round) {
      Thread t("t", [&] {
        EXPECT_EQ(thread_index(), 1u);  // of the one before, which has ended
        serials.insert(thread_serial());
      });
    }
  });
  EXPECT_EQ(serials.size(), 3u);
  EXPECT_FALSE(outcome.violation);
}

TEST(Scheduler, NobodyRunsInAQuietSection) {
  World w;
  w.options.mean_gap = 1;
  int inside = 0;
  Atomic<int> n{0};
  (void)w.run([&] {
    Thread t("t", [&] {
      for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(inside, 0);
        (void)n.load();
      }
    });
    for (int i = 0; i < 50; ++i) {
      const Scheduler::Quiet quiet;
      ++inside;
      (void)n.load();
      yield_thread();
      --inside;
    }
  });
}

/// A flush covers what was complete when it began; a disk operation lets others run.
TEST(Scheduler, AFlushDoesNotCoverWritesThatCompleteMeanwhile) {
  int survived = 0, lost = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    World w(Strategy::random_walk, seed);
    SimDisk disk(seed);
    const auto directory = disk.attach();
    auto file = directory->open("f", OpenMode::create_new);
    ASSERT_TRUE(file && (*file)->resize(8192) && (*file)->flush() && directory->flush());
    bool before = false;  // the write had completed when the flush began
    const auto outcome = w.run([&] {
      AlignedBuffer ones(4096);
      std::memset(ones.data(), 1, 4096);
      bool written = false;
      Thread writer("writer", [&] {
        EXPECT_TRUE((*file)->write(0, ones.span()));
        written = true;
      });
      if (seed % 2 == 0) pause_for(300'000);
      before = written;
      EXPECT_TRUE((*file)->flush());
    });
    EXPECT_FALSE(outcome.violation);
    const bool durable =
        disk.survivor(CrashOutcome::none, 1).file_bytes("f").front() == std::byte{1};
    EXPECT_EQ(durable, before) << "seed " << seed;
    (before ? survived : lost) += 1;
  }
  EXPECT_GT(survived, 10);
  EXPECT_GT(lost, 10);
}

}  // namespace
}  // namespace kessai::io
