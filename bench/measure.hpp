// SPDX-License-Identifier: Apache-2.0
// The measured section: threads that start together, run until told to stop, and what it cost.
#pragma once

#include <atomic>
#include <boost/histogram.hpp>
#include <chrono>
#include <cstdint>
#include <functional>

#include "bench/engine.hpp"

namespace kessai::bench {

inline std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

/// Latencies in log-linear buckets, 64 to each power of two (error below 1.6 %).
class Latencies {
 public:
  Latencies()
      : counts_(boost::histogram::make_histogram_with(
            boost::histogram::dense_storage<std::uint64_t>(),
            boost::histogram::axis::integer<>(0, kBuckets))) {}
  void add(std::uint64_t ns) { counts_(bucket(ns)); }
  void merge(const Latencies& other) { counts_ += other.counts_; }
  double quantile_us(double q) const;

 private:
  static constexpr unsigned kSubBits = 6;
  static constexpr int kBuckets = (64 - kSubBits + 1) << kSubBits;
  static int bucket(std::uint64_t ns) {
    if (ns < (1u << kSubBits)) return static_cast<int>(ns);
    const unsigned shift = static_cast<unsigned>(std::bit_width(ns)) - kSubBits - 1;
    return static_cast<int>(((shift + 1) << kSubBits) + ((ns >> shift) & ((1u << kSubBits) - 1)));
  }
  static double middle_ns(int bucket);

  using Axis = std::tuple<boost::histogram::axis::integer<>>;
  boost::histogram::histogram<Axis, boost::histogram::dense_storage<std::uint64_t>> counts_;
};

/// One thread of a measured section.
struct Worker {
  unsigned index = 0;
  Session* session = nullptr;
  const std::atomic<bool>* stop = nullptr;
  std::uint64_t ops = 0;
  Latencies latencies;

  bool running() const { return !stop->load(std::memory_order_relaxed); }
  /// Runs `op` (which returns the operations it did, 0 = no work left) until stopped; times one
  /// call in `sample`, so that the clock is no part of a sub-microsecond operation.
  template <class Op>
  void loop(unsigned sample, Op&& op) {
    for (unsigned left = sample; running();) {
      const bool timed = --left == 0;
      const std::uint64_t start = timed ? now_ns() : 0;
      const std::uint64_t done = op();
      if (timed) {
        latencies.add(now_ns() - start);
        left = sample;
      }
      if (done == 0) return;
      ops += done;
    }
  }
};

struct Measured {
  std::uint64_t ops = 0;
  double seconds = 0;
  double cpu_us = 0;   ///< user + system time of the whole process, background threads included
  double rss_mib = 0;  ///< peak within the section
  std::uint64_t read_bytes = 0;  ///< from the device
  Latencies latencies;
};

struct SectionPlan {
  unsigned threads = 1;
  double seconds = 10;
  std::function<void(Worker&)> warm;  ///< before the section, each thread; may be empty
  std::function<void(Worker&)> body;  ///< until !running() or the work is done
};

Measured run_section(Engine& engine, const SectionPlan& plan);

double process_cpu_us();
double thread_cpu_ns();
double peak_rss_mib();
std::uint64_t process_read_bytes();

}  // namespace kessai::bench
