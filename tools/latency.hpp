// SPDX-License-Identifier: Apache-2.0
// Distribution of latencies from 1 us to 100 s, to about 8 %. One thread fills one; merge() joins.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tools/output.hpp"

namespace kessai::tools {

class LatencyHistogram {
 public:
  LatencyHistogram();
  ~LatencyHistogram();
  LatencyHistogram(LatencyHistogram&&) noexcept;
  LatencyHistogram& operator=(LatencyHistogram&&) noexcept;

  void record_ns(std::uint64_t ns);
  void merge(const LatencyHistogram& other);
  [[nodiscard]] std::uint64_t count() const;
  /// The latency that `fraction` of the samples do not exceed, in us; 0 without samples.
  [[nodiscard]] double quantile_us(double fraction) const;
  [[nodiscard]] double max_us() const { return max_us_; }
  /// Bars for people, one row per step of 1-2-5.
  [[nodiscard]] std::string render(const Palette& palette) const;

 private:
  struct Bins;
  std::unique_ptr<Bins> bins_;
  double max_us_ = 0;
};

/// "840 us", "1.2 ms", "3.4 s".
[[nodiscard]] std::string human_us(double us);

}  // namespace kessai::tools
