// SPDX-License-Identifier: Apache-2.0
// A deterministic scheduler of threads, for the torture copies of the engine (KESSAI_TORTURE=1).
//
// What it is: run() calls a function as a fiber of the calling OS thread; every io::Thread begun
// inside is another fiber. Exactly one runs at a time. Who goes on at each point (fiber.hpp), after
// each wait and each yield is decided by a strategy from a seed, so that a run repeats exactly.
// Time is virtual: it moves a little at each switch, by leaps when every fiber waits, and now and
// then by a tick although others could run, so that timers race with work.
//
// Strategies
//   random_walk  a fiber runs for a geometrically distributed number of points, then any other
//   pct          the fiber of the highest priority runs; at `preemptions` points drawn among the
//                first `expected_points` the running one becomes the lowest. Finds a bug of depth d
//                with probability >= 1/(n k^(d-1)) (Burckhardt, Kothari, Musuvathi, Nagarakatte,
//                "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs",
//                ASPLOS 2010).
//   sites        preemptions at a few lines of the source only, drawn by the seed: one in 12 of
//                those that have points, there at one pass in `mean_gap`. Reaches the windows of a
//                few instructions that a walk over all points seldom hits.
//   exhaustive   depth-first over all schedules that differ from round robin in at most
//                `preemptions` places: a preemption, or after a wait another fiber than the next
//                (preemption bounding: Musuvathi, Qadeer, PLDI 2007; with waits counted, since
//                disk operations make them many: Emmi, Qadeer, Rakamaric, "Delay-Bounded
//                Scheduling", POPL 2011). A run follows `choices`, which the caller advances.
//
// Found by itself
//   deadlock   all fibers wait and no timer is set
//   lost wake-up  all fibers wait, nothing is under way on the disk, and the next thing to happen
//              is a timer, while a watched fiber (Watched) waits for an event: with real threads
//              it would stand still until a time-out
//   livelock   somebody's turn was decided more than `most_turns` times
// Such a run is abandoned: its fibers' stacks are dropped without unwinding. The violation carries
// the last switches in words. What the fibers held is lost, so the caller ends the process
// (kvtorture runs each history in a child), or owns nothing that matters (unit tests).
//
// Limits: memory orders. One OS thread runs everything, so the machine looks sequentially
// consistent; reorderings are the business of ThreadSanitizer and the stress tests. The C++ runtime
// keeps the exceptions in flight by OS thread: no point may be passed inside a catch block.
//
// Threads: run() may be called on any OS thread, one at a time on each; not nested.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "io/env.hpp"
#include "io/fiber.hpp"

namespace kessai::io {

/// The decisions of an exhaustive search: a path in the tree of all schedules.
class Choices {
 public:
  /// Goes to the next path. False: all have been gone.
  [[nodiscard]] bool advance();
  /// A number below `options`.
  [[nodiscard]] unsigned choose(unsigned options);
  void rewind() noexcept { at_ = 0; }

 private:
  struct Step {
    unsigned options = 1, chosen = 0;
  };
  std::vector<Step> path_;
  std::size_t at_ = 0;
};

class Scheduler {
 public:
  enum class Strategy : std::uint8_t { random_walk, pct, sites, exhaustive };
  static constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

  struct Options {
    Strategy strategy = Strategy::random_walk;
    std::uint64_t seed = 1;
    std::uint64_t mean_gap = 64;  ///< random_walk, sites: points between preemptions, on average
    unsigned preemptions = 3;     ///< pct: changes of priority; exhaustive: deviations at most
    std::uint64_t expected_points = 10'000;  ///< pct: how long the run is going to be, about
    std::uint64_t tick_odds = 64;  ///< a timer fires early at one in so many switches; 0: never
    /// One in so many preemptions keeps the fiber off the processor for up to 20 ms: others get
    /// through whole commits and collections meanwhile, which waits for the disk end otherwise.
    /// 0: never.
    std::uint64_t suspend_odds = 0;
    bool uneven = false;       ///< some fibers find the disk 4 or 16 times as slow as others
    bool page_points = false;  ///< accesses to page bytes are points
    std::uint64_t most_preemptions = kUnlimited;  ///< none after so many: to make a schedule small
    std::uint64_t most_turns = 2'000'000;         ///< more are a livelock
    std::vector<std::string> only_in;  ///< preempt in files of such a name only; empty: anywhere
    bool armed = true;                 ///< false: no preemptions before arm()
    VirtualClock* clock = nullptr;     ///< moved by the scheduler; required
    Choices* choices = nullptr;        ///< exhaustive: required
  };

  struct Outcome {
    std::optional<std::string> violation;  ///< deadlock, lost wake-up, livelock, with the schedule
    std::uint64_t points = 0, switches = 0, preemptions = 0;
    unsigned fibers = 0;
    std::uint64_t hash = 0;  ///< of every switch: who, where, when
  };

  /// Runs `body` as the first fiber, and all fibers to their end.
  [[nodiscard]] static Outcome run(const Options& options, const std::function<void()>& body);

  /// From here on there are preemptions, and points count towards `expected_points`.
  static void arm() noexcept;

  /// The last switches of the running schedule in words; "" outside of one.
  [[nodiscard]] static std::string schedule_so_far();

  /// No switches while one lives: for observers that run inside an operation of the disk, and for
  /// what a harness does between steps. Outside of run() it does nothing.
  class Quiet {
   public:
    Quiet() noexcept;
    ~Quiet();
    Quiet(const Quiet&) = delete;
    Quiet& operator=(const Quiet&) = delete;

   private:
    std::int64_t points_left_;
    bool page_points_;
  };

  /// The running fiber's waits must end by the work of others, not by a timer.
  class Watched {
   public:
    Watched() noexcept;
    ~Watched();
    Watched(const Watched&) = delete;
    Watched& operator=(const Watched&) = delete;
  };
};

namespace fiber {
/// For io::Thread: begins a fiber; its number is given to join() once.
[[nodiscard]] unsigned start(const char* name, std::function<void()> body);
void join(unsigned number, const Site& at) noexcept;
}  // namespace fiber

}  // namespace kessai::io
