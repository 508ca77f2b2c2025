// SPDX-License-Identifier: Apache-2.0
#include "kessai/testing/simulated_disk.hpp"

#include <chrono>
#include <list>

#include "engine/testing/process.hpp"

namespace kessai::testing {

struct SimulatedDisk::State {
  explicit State(std::uint64_t seed) : random(seed), disk(seed) {}
  io::SeededRandom random;
  io::VirtualClock clock;
  io::SimDisk disk;
  std::list<SimulatedEnv> envs;  ///< of all openings: a Database may outlive a power failure
};

SimulatedDisk::SimulatedDisk(std::uint64_t seed) : state_(std::make_unique<State>(seed)) {}
SimulatedDisk::~SimulatedDisk() = default;
SimulatedDisk::SimulatedDisk(SimulatedDisk&&) noexcept = default;
SimulatedDisk& SimulatedDisk::operator=(SimulatedDisk&&) noexcept = default;

Result<Database> SimulatedDisk::open(Options options) {
  SimulatedEnv& env = state_->envs.emplace_back(state_->disk, state_->clock, state_->random);
  options.env = &env.env;
  return Database::open("", options);
}

void SimulatedDisk::lose_power(Survivors survivors) {
  using io::CrashOutcome;
  const CrashOutcome outcome =
      survivors == Survivors::none ? CrashOutcome::none
      : survivors == Survivors::all
          ? CrashOutcome::all
          : io::kCrashOutcomes[state_->random.below(io::kCrashOutcomes.size())];
  io::SimDisk next = state_->disk.survivor(outcome, state_->random.next());
  state_->disk.crash();  // for Databases that still look at it
  state_->disk = std::move(next);
}

void SimulatedDisk::kill_process() {
  state_->disk.kill_processes();
  state_->disk.settle();
}

void SimulatedDisk::advance_clock(std::chrono::nanoseconds by) {
  state_->clock.advance(static_cast<std::uint64_t>(by.count()));
}

void SimulatedDisk::set_capacity(std::uint64_t bytes) { state_->disk.set_capacity(bytes); }

}  // namespace kessai::testing
