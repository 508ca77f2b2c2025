// SPDX-License-Identifier: Apache-2.0
#include "tools/load.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <deque>
#include <functional>
#include <memory>

#include "io/env.hpp"
#include "io/sync.hpp"
#include "tools/interrupt.hpp"
#include "tools/load_collector.hpp"

namespace kessai::tools {
namespace {

using payments::Answer;

constexpr std::uint64_t kSecondNs = 1'000'000'000;

/// A number in letters: in digits some would look like card numbers.
std::string letters(std::uint64_t n, unsigned count) {
  std::string out(count, 'a');
  for (char& c : out) {
    c = static_cast<char>('a' + n % 16);
    n /= 16;
  }
  return out;
}

/// Ids that no run repeats: a number drawn by run and payment, or the seed's shape of them: the
/// second, then six letters.
class Ids {
 public:
  Ids(std::uint64_t seed, bool time_prefix) : random_(seed), time_prefix_(time_prefix) {}
  std::string next() {
    if (!time_prefix_) return letters(random_.next(), 16) + letters(serial_++, 8);
    const std::string time =
        payments::format_time(static_cast<payments::Micros>(io::system_clock().unix_micros()));
    std::string id;
    for (const char c : std::string_view(time).substr(0, 19))
      if (c >= '0' && c <= '9') id += c;
    std::uint64_t n = random_.next() % 11'881'376 * 26 + serial_++ % 26;  // 26^5 * 26
    for (int i = 0; i < 6; ++i, n /= 26) id += static_cast<char>('A' + n % 26);
    return id;
  }

 private:
  io::SeededRandom random_;
  bool time_prefix_;
  std::uint64_t serial_ = 0;
};

// Until `at_ns`, in pieces, so that an interrupt is seen. False: interrupted.
bool wait_until(std::uint64_t at_ns) {
  static const std::atomic<std::uint32_t> nobody{0};
  for (;;) {
    if (interrupted()) return false;
    const std::uint64_t now = io::system_clock().now_ns();
    if (now >= at_ns) return true;
    io::futex_wait(nobody, 0, std::min(at_ns - now, kSecondNs / 10));
  }
}

}  // namespace

Result<std::vector<LoadStep>> plan_load(const LoadOptions& options) {
  unsigned n[3] = {};
  const char* at = options.ramp.data();
  const char* const end = at + options.ramp.size();
  bool good = true;
  for (int i = 0; i < 3; ++i) {
    const auto r = std::from_chars(at, end, n[i]);
    good = good && r.ec == std::errc() && (i == 2 ? r.ptr == end : r.ptr != end && *r.ptr == ':');
    at = r.ptr + (good && i < 2 ? 1 : 0);
  }
  constexpr unsigned kMost = 1'000'000;
  if (!good || n[0] == 0 || n[2] == 0 || n[0] > n[1] || n[1] > kMost)
    return fail(Code::invalid_argument,
                "--ramp takes FROM:TO:STEP in requests a second, FROM <= TO");
  const unsigned base = options.from != 0 ? options.from : n[0], s = options.step_seconds;
  std::vector<LoadStep> steps;
  if (options.profile == "ramp") {
    for (unsigned rps = n[0]; rps <= n[1]; rps += n[2])
      if (rps >= options.from) steps.push_back({rps, s});
    if (steps.empty()) return fail(Code::invalid_argument, "--from is above the ramp's end");
  } else if (options.profile == "burst100") {
    constexpr unsigned kTimes = 100, kBurstSeconds = 10;
    steps = {{base, s}, {base * kTimes, std::min(s, kBurstSeconds)}, {base, s}};
  } else if (options.profile == "campaign") {  // load peaks where a campaign starts and ends (S22)
    steps = {{base, s}, {base * 4, s}, {base * 2, s}, {base * 2, s}, {base * 4, s}, {base, s}};
  } else if (options.profile == "soak") {
    constexpr unsigned kDays = 7;
    steps.assign(kDays, {base, s});
  } else {
    return fail(Code::invalid_argument, "--profile is ramp, burst100, campaign or soak");
  }
  return steps;
}

unsigned peak_of(const std::vector<LoadStep>& steps) {
  unsigned peak = 0;
  for (const LoadStep& s : steps) peak = std::max(peak, s.rps);
  return peak;
}

Result<unsigned> enough_cards(const LoadOptions& options, unsigned peak) {
  const unsigned needed = 2 * peak;
  unsigned cards = options.cards;
  if (cards == 0) cards = (needed + options.workers - 1) / options.workers * options.workers;
  if (cards < needed)
    return fail(Code::invalid_argument,
                fmt::format("{} cards are too few for {} requests a second: a card is refused when "
                            "it comes again within a second; give {} or more",
                            cards, peak, needed));
  return cards;
}

Result<std::vector<CardRange>> split_cards(unsigned cards, unsigned workers) {
  if (workers == 0 || cards < workers)
    return fail(Code::invalid_argument,
                fmt::format("{} cards are too few for {} workers", cards, workers));
  std::vector<CardRange> out;
  for (unsigned w = 0, first = 0; w < workers; ++w) {
    const unsigned count = cards / workers + (w < cards % workers ? 1 : 0);
    out.push_back({first, count});
    first += count;
  }
  return out;
}

std::string top_wait(const std::vector<WaitInfo>& before, const std::vector<WaitInfo>& after) {
  std::string_view top = "none";
  std::chrono::nanoseconds most{};
  for (const WaitInfo& a : after) {
    auto spent = a.total;
    for (const WaitInfo& b : before)
      if (b.name == a.name) spent -= b.total;
    if (spent > most) {
      most = spent;
      top = a.name;
    }
  }
  return std::string(top);
}

std::vector<Spike> find_spikes(const std::vector<SecondOfLoad>& seconds,
                               const std::vector<LoadStep>& steps) {
  constexpr std::uint64_t kTimes = 3, kFloorUs = 5000;
  std::vector<Spike> out;
  for (unsigned step = 0; step < steps.size(); ++step) {
    std::vector<std::uint64_t> all;
    for (const SecondOfLoad& s : seconds)
      if (s.step == step) all.push_back(s.p99_us);
    if (all.empty()) continue;
    const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
    std::nth_element(all.begin(), middle, all.end());
    for (unsigned i = 0; i < seconds.size(); ++i) {
      const SecondOfLoad& s = seconds[i];
      if (s.step == step && s.p99_us > kTimes * *middle && s.p99_us > kFloorUs)
        out.push_back({i, steps[step].rps, s.p99_us, *middle, s.top_wait});
    }
  }
  return out;
}

namespace {

/// The steps that were sent and are not reported yet; the others go on beside them.
class Reports {
 public:
  Reports(LoadCollector& collector, std::function<void(const StepReport&)> on_step)
      : collector_(collector), on_step_(std::move(on_step)) {}

  void sent(unsigned step, const LoadStep& what, std::string top) {
    open_.push_back({step, what, std::move(top), io::system_clock().now_ns() + kAnswerLimitNs});
  }
  /// Reports what is answered, or was given its time.
  void tell() {
    while (!open_.empty()) {
      const Sent& first = open_.front();
      auto done = collector_.take(first.step, io::system_clock().now_ns() >= first.give_up_ns);
      if (!done) return;
      done->step = first.what;
      done->top_wait = first.top_wait;
      on_step_(*done);
      all_.push_back(std::move(*done));
      open_.pop_front();
    }
  }
  std::vector<StepReport> finish() {
    while (!open_.empty()) {
      const std::uint64_t now = io::system_clock().now_ns(), end = open_.front().give_up_ns;
      collector_.wait_for(open_.front().step, end > now ? end - now : 0);
      tell();
    }
    return std::move(all_);
  }

 private:
  static constexpr std::uint64_t kAnswerLimitNs = 30 * kSecondNs;
  struct Sent {
    unsigned step;
    LoadStep what;
    std::string top_wait;
    std::uint64_t give_up_ns;
  };
  LoadCollector& collector_;
  std::function<void(const StepReport&)> on_step_;
  std::deque<Sent> open_;
  std::vector<StepReport> all_;
};

}  // namespace

LoadReport run_load(payments::PaymentFlow& flow, const LoadOptions& options,
                    const std::vector<LoadStep>& steps, unsigned cards,
                    const std::function<void(const StepReport&)>& on_step) {
  LoadReport report;
  const auto collector = std::make_shared<LoadCollector>(steps.size());
  Reports reports(*collector, on_step);
  Ids ids(options.seed != 0 ? options.seed : io::system_clock().unix_micros(), options.time_prefix);
  const auto ranges = split_cards(cards, options.workers).value();
  std::uint64_t serial = 0;
  std::vector<SecondOfLoad> seconds;
  auto second_waits = flow.waits();
  std::uint64_t begin = io::system_clock().now_ns();
  for (unsigned s = 0; s < steps.size() && !report.interrupted; ++s) {
    const LoadStep& step = steps[s];
    const auto step_waits = second_waits;
    for (unsigned second = 0; second < step.seconds && !report.interrupted; ++second) {
      const unsigned number = static_cast<unsigned>(seconds.size());
      for (unsigned i = 0; i < step.rps; ++i) {
        const std::uint64_t due = begin + kSecondNs * i / step.rps;
        if (!wait_until(due)) {
          report.interrupted = true;
          break;
        }
        const CardRange& range = ranges[serial % ranges.size()];
        const std::uint64_t card = range.first + serial / ranges.size() % range.count;
        ++serial;
        payments::Order o;
        o.id = ids.next();
        o.amount = static_cast<payments::Milli>(1000 + serial % 100'000);
        o.card_token = fmt::format("tok-card-{:07}", card);
        collector->submitted(s);
        const std::string id = options.on_answer ? o.id : std::string();
        flow.pay(std::move(o), [collector, s, number, due, id, &options](const Answer& a) {
          if (options.on_answer) options.on_answer(id, a);
          collector->answered(s, number, due, io::system_clock().now_ns(), a);
        });
      }
      begin += kSecondNs;
      if (!report.interrupted) report.interrupted = !wait_until(begin);
      auto now = flow.waits();
      seconds.push_back({s, 0, top_wait(second_waits, now)});
      second_waits = std::move(now);
      reports.tell();
    }
    reports.sent(s, step, top_wait(step_waits, second_waits));
  }
  report.steps = reports.finish();
  for (unsigned i = 0; i < seconds.size(); ++i) seconds[i].p99_us = collector->p99_of(i);
  report.spikes = find_spikes(seconds, steps);
  return report;
}

Json step_json(const StepReport& r) {
  const std::uint64_t per_second = r.step.seconds == 0 ? 0 : (r.answered - r.busy) / r.step.seconds;
  return {{"rps_target", r.step.rps},
          {"rps_done", per_second},
          {"ok", r.ok},
          {"declined", r.declined},
          {"unknown", r.unknown},
          {"card_busy", r.card_busy},
          {"busy", r.busy},
          {"errors", r.errors},
          {"p50_us", whole_us(r.total.quantile_us(0.5))},
          {"p99_us", whole_us(r.total.quantile_us(0.99))},
          {"p999_us", whole_us(r.total.quantile_us(0.999))},
          {"max_us", whole_us(r.total.max_us())},
          {"store_p50_us", whole_us(r.store.quantile_us(0.5))},
          {"store_p99_us", whole_us(r.store.quantile_us(0.99))},
          {"store_max_us", whole_us(r.store.max_us())},
          {"top_wait", r.top_wait}};
}

Result<std::vector<ComparedStep>> compare_reports(std::string_view a, std::string_view b,
                                                  unsigned worse_percent) {
  const auto steps_of = [](std::string_view text) -> Result<std::vector<Json>> {
    std::vector<Json> out;
    while (!text.empty()) {
      const auto end = std::min(text.find('\n'), text.size());
      const Json row = Json::parse(text.substr(0, end), nullptr, false);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (row.is_object() && row.contains("summary")) continue;
      if (!row.is_object() || !row.value("rps_target", Json()).is_number_unsigned() ||
          !row.value("store_p99_us", Json()).is_number_unsigned())
        return fail(Code::invalid_argument, "this is no report of `kvpay load --json`");
      out.push_back(row);
    }
    if (out.empty()) return fail(Code::invalid_argument, "a report without steps");
    return out;
  };
  auto one = steps_of(a), two = steps_of(b);
  if (!one) return std::unexpected(one.error());
  if (!two) return std::unexpected(two.error());
  if (one->size() != two->size())
    return fail(Code::invalid_argument, "the reports have different numbers of steps");
  std::vector<ComparedStep> out;
  for (std::size_t i = 0; i < one->size(); ++i) {
    ComparedStep c{.rps = (*one)[i]["rps_target"].get<unsigned>(),
                   .p99_a_us = (*one)[i]["store_p99_us"].get<std::uint64_t>(),
                   .p99_b_us = (*two)[i]["store_p99_us"].get<std::uint64_t>()};
    if ((*two)[i]["rps_target"].get<unsigned>() != c.rps)
      return fail(Code::invalid_argument, "the reports have different steps");
    const auto was = static_cast<std::int64_t>(std::max<std::uint64_t>(c.p99_a_us, 1));
    c.change_percent = (static_cast<std::int64_t>(c.p99_b_us) - was) * 100 / was;
    c.worse = c.change_percent > static_cast<std::int64_t>(worse_percent);
    out.push_back(c);
  }
  return out;
}

}  // namespace kessai::tools
