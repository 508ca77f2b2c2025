// SPDX-License-Identifier: Apache-2.0
// kvpay load: payments at given rates, whatever the service does.
//
// Open loop: each payment has a time at which it is due, and its latency counts from then, so that
// a stall of the service shows in every payment that had to wait for it (Tene, "How not to measure
// latency": no coordinated omission). Cards are split over workers and used in sequence, as the
// containers of a load test would. Each second's waits of the store are kept, so that a second that
// stands out can name its cause.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/database.hpp"
#include "kessai/payments/flow.hpp"
#include "tools/latency.hpp"
#include "tools/output.hpp"

namespace kessai::tools {

struct LoadStep {
  unsigned rps = 0;
  unsigned seconds = 0;
};

struct LoadOptions {
  std::string profile = "ramp";
  std::string ramp = "200:500:50";  ///< FROM:TO:STEP
  unsigned from = 0;                ///< ramp: begin at this rate
  unsigned step_seconds = 300;
  unsigned cards = 0;  ///< 0: twice the peak rate
  unsigned workers = 5;
  bool time_prefix = false;
  std::uint64_t seed = 0;  ///< of the ids; 0: the time
  /// Told each answer before it is counted; from any thread, one at a time.
  std::function<void(const std::string& id, const payments::Answer&)> on_answer = {};
};

/// The steps of a profile; `invalid_argument` says what is wrong with the ramp.
[[nodiscard]] Result<std::vector<LoadStep>> plan_load(const LoadOptions& options);
[[nodiscard]] unsigned peak_of(const std::vector<LoadStep>& steps);
/// A card must not come again within a second, in whatever order the workers go: two cards a
/// request of the peak second. Nothing, or what to say.
[[nodiscard]] Result<unsigned> enough_cards(const LoadOptions& options, unsigned peak);

/// The cards of one worker in their order: disjoint from the others', the numbers differ by at most
/// one. Error: fewer cards than workers.
struct CardRange {
  unsigned first = 0, count = 0;
};
[[nodiscard]] Result<std::vector<CardRange>> split_cards(unsigned cards, unsigned workers);

/// What one step did. Latencies in total, and without the time spent outside.
struct StepReport {
  LoadStep step;
  std::uint64_t submitted = 0, answered = 0;
  std::uint64_t ok = 0, declined = 0, unknown = 0, card_busy = 0, busy = 0, errors = 0;
  LatencyHistogram total, store;
  std::string top_wait;
};

/// A second that stands out.
struct Spike {
  unsigned second = 0;  ///< of the run
  unsigned rps = 0;
  std::uint64_t p99_us = 0, median_us = 0;
  std::string top_wait;
};

struct LoadReport {
  std::vector<StepReport> steps;
  std::vector<Spike> spikes;
  bool interrupted = false;
};

/// Seconds whose p99 is more than three times the median second's of the step and above 5 ms.
struct SecondOfLoad {
  unsigned step = 0;
  std::uint64_t p99_us = 0;
  std::string top_wait;
};
[[nodiscard]] std::vector<Spike> find_spikes(const std::vector<SecondOfLoad>& seconds,
                                             const std::vector<LoadStep>& steps);

/// The wait with the most time between two readings of Database::waits(); "none" without any.
[[nodiscard]] std::string top_wait(const std::vector<WaitInfo>& before,
                                   const std::vector<WaitInfo>& after);

/// Runs the steps one right behind the other, whatever is still unanswered; `on_step` is told each
/// in order once its payments are answered, or did not come within 30 seconds.
[[nodiscard]] LoadReport run_load(payments::PaymentFlow& flow, const LoadOptions& options,
                                  const std::vector<LoadStep>& steps, unsigned cards,
                                  const std::function<void(const StepReport&)>& on_step);

[[nodiscard]] inline std::uint64_t whole_us(double us) noexcept {
  return static_cast<std::uint64_t>(us + 0.5);
}
[[nodiscard]] Json step_json(const StepReport& r);

/// Two reports of `kvpay load --json`, step by step. `worse_percent`: a p99 that grew by more is
/// worse.
struct ComparedStep {
  unsigned rps = 0;
  std::uint64_t p99_a_us = 0, p99_b_us = 0;
  std::int64_t change_percent = 0;
  bool worse = false;
};
[[nodiscard]] Result<std::vector<ComparedStep>> compare_reports(std::string_view a,
                                                                std::string_view b,
                                                                unsigned worse_percent);

}  // namespace kessai::tools
