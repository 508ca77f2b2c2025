// SPDX-License-Identifier: Apache-2.0
// The answers of kvpay load, by step and by second. A step is reported once all its payments are
// answered, or were given their time; the next steps go on meanwhile. What comes after its step
// was reported changes nothing: it had been counted as an error.
// Threads: any.
#pragma once

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "io/sync.hpp"
#include "tools/latency.hpp"
#include "tools/load.hpp"

namespace kessai::tools {

class LoadCollector {
 public:
  explicit LoadCollector(std::size_t steps) : steps_(steps) {}

  void submitted(unsigned step);
  /// `now_ns`: when it came; `due_ns`: when it was to be sent.
  void answered(unsigned step, unsigned second, std::uint64_t due_ns, std::uint64_t now_ns,
                const payments::Answer& a);
  /// The report of a step, once; nothing while answers are missing, unless `give_up`. Steps are
  /// taken in order, and only when nothing more is submitted for them.
  [[nodiscard]] std::optional<StepReport> take(unsigned step, bool give_up);
  /// Waits until the step is answered, at most `limit_ns`.
  void wait_for(unsigned step, std::uint64_t limit_ns);
  [[nodiscard]] std::uint64_t p99_of(unsigned second);

 private:
  io::Mutex mutex_;
  io::CondVar wake_;
  std::vector<StepReport> steps_ KESSAI_GUARDED_BY(mutex_);
  unsigned taken_ KESSAI_GUARDED_BY(mutex_) = 0;  ///< steps before it are reported
  std::map<unsigned, LatencyHistogram> seconds_ KESSAI_GUARDED_BY(mutex_);
};

}  // namespace kessai::tools
