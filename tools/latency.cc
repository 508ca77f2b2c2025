// SPDX-License-Identifier: Apache-2.0
#include "tools/latency.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/histogram/axis/regular.hpp>
#include <boost/histogram/make_histogram.hpp>
#include <boost/histogram/ostream.hpp>
#include <vector>

namespace kessai::tools {
namespace {

namespace bh = boost::histogram;
constexpr unsigned kBins = 240;  // 30 a decade
constexpr double kLeastUs = 1, kMostUs = 1e8;

auto make_bins() {
  return bh::make_histogram(
      bh::axis::regular<double, bh::axis::transform::log>(kBins, kLeastUs, kMostUs));
}

}  // namespace

struct LatencyHistogram::Bins {
  decltype(make_bins()) histogram = make_bins();
};

LatencyHistogram::LatencyHistogram() : bins_(std::make_unique<Bins>()) {}
LatencyHistogram::~LatencyHistogram() = default;
LatencyHistogram::LatencyHistogram(LatencyHistogram&&) noexcept = default;
LatencyHistogram& LatencyHistogram::operator=(LatencyHistogram&&) noexcept = default;

void LatencyHistogram::record_ns(std::uint64_t ns) {
  const double us = static_cast<double>(ns) / 1000;
  max_us_ = std::max(max_us_, us);
  bins_->histogram(std::clamp(us, kLeastUs, kMostUs * 0.999));
}

void LatencyHistogram::merge(const LatencyHistogram& other) {
  bins_->histogram += other.bins_->histogram;
  max_us_ = std::max(max_us_, other.max_us_);
}

std::uint64_t LatencyHistogram::count() const {
  double n = 0;
  for (const auto& bin : bins_->histogram) n += bin;
  return static_cast<std::uint64_t>(n);
}

double LatencyHistogram::quantile_us(double fraction) const {
  const double wanted = fraction * static_cast<double>(count());
  if (wanted == 0) return 0;
  double seen = 0;
  const auto& axis = bins_->histogram.axis();
  for (int i = 0; i < axis.size(); ++i) {
    seen += bins_->histogram.at(i);
    if (seen >= wanted) return std::min(axis.bin(i).upper(), max_us_);
  }
  return max_us_;
}

std::string LatencyHistogram::render(const Palette& palette) const {
  struct Row {
    double upper;
    double samples = 0;
  };
  std::vector<Row> rows;
  for (double decade = 1; decade < kMostUs; decade *= 10) {
    for (const double step : {1, 2, 5}) rows.push_back({decade * step});
  }
  rows.push_back({kMostUs * 10});
  const auto& axis = bins_->histogram.axis();
  for (int i = 0; i < axis.size(); ++i) {
    const double middle = (axis.bin(i).lower() + axis.bin(i).upper()) / 2;
    std::find_if(rows.begin(), rows.end(), [&](const Row& r) {
      return middle < r.upper;
    })->samples += bins_->histogram.at(i);
  }
  const auto filled = [](const Row& r) { return r.samples > 0; };
  const auto first = std::find_if(rows.begin(), rows.end(), filled);
  const auto last = std::find_if(rows.rbegin(), rows.rend(), filled).base();
  double widest = 1;
  for (const Row& r : rows) widest = std::max(widest, r.samples);
  std::string out;
  for (auto r = first; r < last; ++r) {
    const auto cells =
        static_cast<std::size_t>(r->samples / widest * 50 + (r->samples > 0 ? 0.999 : 0));
    out += fmt::format("  < {:>7} {:>8} {}{}{}\n", human_us(r->upper),
                       grouped(static_cast<std::uint64_t>(r->samples)), palette.good,
                       std::string(cells, '#'), palette.reset);
  }
  return out + fmt::format("  p50 {}   p99 {}   p99.9 {}   max {}\n", human_us(quantile_us(0.5)),
                           human_us(quantile_us(0.99)), human_us(quantile_us(0.999)),
                           human_us(max_us()));
}

std::string human_us(double us) {
  const auto scaled = [](double v, const char* unit) {
    return v < 9.95 && v != static_cast<int>(v) ? fmt::format("{:.1f} {}", v, unit)
                                                : fmt::format("{:.0f} {}", v, unit);
  };
  if (us < 1000) return scaled(us, "us");
  if (us < 1e6) return scaled(us / 1000, "ms");
  return scaled(us / 1e6, "s");
}

}  // namespace kessai::tools
