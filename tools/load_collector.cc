// SPDX-License-Identifier: Apache-2.0
#include "tools/load_collector.hpp"

#include "io/env.hpp"

namespace kessai::tools {
namespace {

using payments::Answer;
using payments::AnswerKind;

void count(StepReport& r, const Answer& a) {
  switch (a.kind) {
    case AnswerKind::success:
      ++r.ok;
      return;
    case AnswerKind::declined:
      ++(a.reason == "card_busy" ? r.card_busy : r.declined);
      return;
    case AnswerKind::failed:
      ++(a.reason == "timeout" || a.reason == "broken" || a.reason == "no_connection" ? r.unknown
                                                                                      : r.errors);
      return;
    case AnswerKind::busy:
      ++r.busy;
      return;
    case AnswerKind::unique_violation:
    case AnswerKind::key_reused_mismatch:
    case AnswerKind::refused:
    case AnswerKind::unknown:
      ++r.errors;
      return;
  }
}

}  // namespace

void LoadCollector::submitted(unsigned step) {
  const io::MutexLock lock(mutex_);
  ++steps_[step].submitted;
}

void LoadCollector::answered(unsigned step, unsigned second, std::uint64_t due_ns,
                             std::uint64_t now_ns, const Answer& a) {
  const std::uint64_t total = now_ns > due_ns ? now_ns - due_ns : 0;
  const auto outside = static_cast<std::uint64_t>(a.outside.count()) * 1000;
  const std::uint64_t store = total > outside ? total - outside : 0;
  const io::MutexLock lock(mutex_);
  if (step < taken_) return;
  StepReport& r = steps_[step];
  ++r.answered;
  count(r, a);
  if (a.kind != AnswerKind::busy) {
    r.total.record_ns(total);
    r.store.record_ns(store);
    seconds_[second].record_ns(store);
  }
  if (r.answered == r.submitted) wake_.notify_all();
}

std::optional<StepReport> LoadCollector::take(unsigned step, bool give_up) {
  const io::MutexLock lock(mutex_);
  StepReport& r = steps_[step];
  if (r.answered < r.submitted && !give_up) return std::nullopt;
  r.errors += r.submitted - r.answered;  // never answered
  taken_ = step + 1;
  return std::move(r);
}

void LoadCollector::wait_for(unsigned step, std::uint64_t limit_ns) {
  constexpr std::uint64_t kLookNs = 100'000'000;
  const std::uint64_t end = io::system_clock().now_ns() + limit_ns;
  const io::MutexLock lock(mutex_);
  const StepReport& r = steps_[step];
  while (r.answered < r.submitted && io::system_clock().now_ns() < end)
    wake_.wait_for(mutex_, kLookNs);
}

std::uint64_t LoadCollector::p99_of(unsigned second) {
  const io::MutexLock lock(mutex_);
  const auto it = seconds_.find(second);
  return it == seconds_.end() ? 0 : whole_us(it->second.quantile_us(0.99));
}

}  // namespace kessai::tools
