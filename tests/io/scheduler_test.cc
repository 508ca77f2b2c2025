// SPDX-License-Identifier: Apache-2.0
// Goal: the scheduler of the torture copies repeats exactly, finds what it says it finds, and
// reaches every schedule that it says it reaches. Method: fibers over the seams of io, with
// textbook races.
#include "io/scheduler.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <set>
#include <vector>

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
  for (const Strategy s : {Strategy::random_walk, Strategy::pct, Strategy::sites}) {
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
  for (const bool alone : {false, true}) {
    World w;
    w.options.most_turns = 1000;
    const auto outcome = w.run([alone] {
      Atomic<bool> never{false};
      const auto spin = [&never] {
        while (!never.load()) yield_thread();
      };
      std::optional<Thread> t;
      if (!alone) t.emplace("spins", spin);
      spin();
    });
    ASSERT_TRUE(outcome.violation);
    EXPECT_NE(outcome.violation->find("livelock"), std::string::npos);
  }
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

/// Half of what a queue is for: until it is reaped a write is under way, for others to see.
TEST(Scheduler, AQueuedWriteIsUnderWayWhileItsTimePasses) {
  int landed = 0;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    World w(Strategy::random_walk, seed);
    SimDisk disk(seed);
    const auto directory = disk.attach();
    auto file = directory->open("f", OpenMode::create_new);
    ASSERT_TRUE(file && (*file)->resize(4096) && (*file)->flush() && directory->flush());
    bool reaped = false;
    const auto outcome = w.run([&] {
      Thread writer("writer", [&] {
        AlignedBuffer ones(4096);
        std::memset(ones.data(), 1, 4096);
        auto queue = directory->make_queue(1);
        ASSERT_TRUE(queue);
        (*queue)->write(**file, 0, ones.span(), 7);
        std::vector<Queue::Completion> done;
        EXPECT_EQ((*queue)->reap(done, 1), 1u);
        reaped = true;
      });
      pause_for(1'000);
      const Scheduler::Quiet quiet;
      const auto bytes = disk.survivor(CrashOutcome::all, 1).file_bytes("f");
      landed += !reaped && bytes.front() == std::byte{1};
    });
    EXPECT_FALSE(outcome.violation);
  }
  EXPECT_GT(landed, 10);
}

TEST(Scheduler, SitesPreemptsAtFewLines) {
  int runs = 0, lost = 0;
  for (std::uint64_t seed = 1; seed <= 600; ++seed) {
    World w(Strategy::sites, seed);
    w.options.mean_gap = 1;
    Atomic<int> n{0};
    runs += w.run([&] { racy(n); }).preemptions > 0;
    lost += n.load() == 1;
  }
  EXPECT_GT(runs, 20) << "one line in twelve has its turn";
  EXPECT_LT(runs, 100);
  EXPECT_GT(lost, 5);
}

TEST(Scheduler, PreemptsInTheNamedFilesOnlyAndNotBeforeItIsArmed) {
  const auto preemptions = [](const char* only_in) {
    std::uint64_t sum = 0;
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      World w(Strategy::random_walk, seed);
      w.options.mean_gap = 1;
      w.options.only_in = {only_in};
      Atomic<int> n{0};
      sum += w.run([&] { racy(n); }).preemptions;
    }
    return sum;
  };
  EXPECT_EQ(preemptions("io/elsewhere.cc"), 0u);
  EXPECT_GT(preemptions("io/scheduler_test.cc"), 0u);
  int lost = 0;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    World w(Strategy::random_walk, seed);
    w.options.mean_gap = 1;
    w.options.armed = false;
    Atomic<int> before{0}, after{0};
    (void)w.run([&] {
      racy(before);
      Scheduler::arm();
      racy(after);
    });
    EXPECT_EQ(before.load(), 2);
    lost += after.load() == 1;
  }
  EXPECT_GT(lost, 3);
}

TEST(Scheduler, PageAccessesArePointsWhenAskedFor) {
  for (const bool points : {false, true}) {
    int lost = 0;
    for (std::uint64_t seed = 1; seed <= 100; ++seed) {
      World w(Strategy::random_walk, seed);
      w.options.mean_gap = 1;
      w.options.page_points = points;
      int n = 0;
      (void)w.run([&] {
        const auto add = [&n] {
          const int seen = n;
          KESSAI_PAGE_POINT();
          n = seen + 1;
        };
        Thread a("a", add), b("b", add);
      });
      lost += n == 1;
    }
    EXPECT_EQ(lost > 3, points) << lost;
  }
}

TEST(Scheduler, SuspendedThreadsStayAwayForLong) {
  const auto passed = [](std::uint64_t suspend_odds) {
    World w;
    w.options.suspend_odds = suspend_odds;
    const std::uint64_t before = w.clock.now_ns();
    Atomic<int> n{0};
    const auto outcome = w.run([&] {
      const auto count = [&n] {
        for (int i = 0; i < 50; ++i) n.fetch_add(1);
      };
      Thread a("a", count), b("b", count);
    });
    EXPECT_FALSE(outcome.violation);
    EXPECT_EQ(n.load(), 100);
    return w.clock.now_ns() - before;
  };
  EXPECT_LT(passed(0), 1'000'000u);
  EXPECT_GT(passed(1), 1'000'000u);
}

/// With `tick_odds` a time-out comes although others could run, without only when nobody can.
TEST(Scheduler, TimersRaceWithWork) {
  const auto timeouts = [](std::uint64_t tick_odds) {
    int n = 0;
    for (std::uint64_t seed = 1; seed <= 50; ++seed) {
      World w(Strategy::random_walk, seed);
      w.options.tick_odds = tick_odds;
      const auto outcome = w.run([&] {
        Mutex mutex;
        CondVar changed;
        bool ready = false;
        Thread waiter("waiter", [&] {
          const MutexLock lock(mutex);
          if (!ready && !changed.wait_for(mutex, 10'000'000)) ++n;
        });
        for (int i = 0; i < 10; ++i) yield_thread();
        const MutexLock lock(mutex);
        ready = true;
        changed.notify_one();
      });
      EXPECT_FALSE(outcome.violation);
    }
    return n;
  };
  EXPECT_EQ(timeouts(0), 0);
  EXPECT_GT(timeouts(2), 10);
}

/// Threads that only spin let time pass by leaps until the one they wait for comes back.
TEST(Scheduler, SpinningThreadsDoNotHoldTimeUp) {
  World w;
  w.options.tick_odds = 0;
  w.options.most_turns = 1000;  // 50 ms in steps would be 20,000
  const auto outcome = w.run([] {
    Atomic<bool> ready{false};
    const auto spin = [&ready] {
      while (!ready.load()) yield_thread();
    };
    Thread a("a", spin), b("b", spin);
    pause_for(50'000'000);
    ready.store(true);
  });
  EXPECT_FALSE(outcome.violation) << *outcome.violation;
}

TEST(Scheduler, LocksExcludeAndNotifyOneWakesOne) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    World w(Strategy::random_walk, seed);
    w.options.mean_gap = 1;
    const auto outcome = w.run([] {
      SpinMutex spin;
      Mutex mutex;
      CondVar changed;
      Atomic<int> inside{0};
      int woken = 0, waiting = 0;
      const auto work = [&] {
        for (int i = 0; i < 5; ++i) {
          const SpinLock lock(spin);
          EXPECT_EQ(inside.fetch_add(1), 0);
          EXPECT_EQ(inside.fetch_sub(1), 1);
        }
        const MutexLock lock(mutex);
        ++waiting;
        woken += changed.wait_for(mutex, 60'000'000'000);
      };
      std::vector<Thread> threads;
      for (int t = 0; t < 3; ++t) threads.emplace_back("t", work);
      for (bool all = false; !all; yield_thread()) {
        const MutexLock lock(mutex);
        EXPECT_TRUE(inside.load() <= 1);
        all = waiting == 3;
      }
      {
        const MutexLock lock(mutex);
        Thread other("other", [&] { EXPECT_FALSE(mutex.try_lock()); });
        other.join();
        changed.notify_one();
      }
      pause_for(1'000'000);
      if (!mutex.try_lock()) return void(ADD_FAILURE() << "nobody holds it");
      EXPECT_EQ(woken, 1);
      changed.notify_all();
      mutex.unlock();
      for (Thread& t : threads) t.join();
      EXPECT_EQ(woken, 3);
    });
    EXPECT_FALSE(outcome.violation) << *outcome.violation;
  }
}

/// The stacks of an abandoned run are dropped where they stood: what comes next finds them clean.
TEST(Scheduler, ARunAfterAnAbandonedOneIsLikeAnyOther) {
  const auto deep = [](auto&& self, int left) -> int {
    std::array<volatile char, 3000> frame;
    for (volatile char& c : frame) c = static_cast<char>(left);
    if (left == 0) {
      pause_for(1'000);
      return frame[0];
    }
    return self(self, left - 1) + frame[2999];
  };
  for (int round = 0; round < 20; ++round) {
    World stuck;
    stuck.options.most_turns = 1;
    const auto outcome = stuck.run([&] {
      Thread a("a", [&] { (void)deep(deep, 40); });
      (void)deep(deep, 40);
    });
    EXPECT_TRUE(outcome.violation);
    World next;
    int sum = 0;
    EXPECT_FALSE(next.run([&] { sum = deep(deep, 60); }).violation);
    EXPECT_EQ(sum, 60 * 61 / 2);
  }
}

}  // namespace
}  // namespace kessai::io
