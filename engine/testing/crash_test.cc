// SPDX-License-Identifier: Apache-2.0
// The steps run twice. The first run, without crashes, learns the state after each step and the LSN
// from which on it is durable; the second one is the same run (checked) with a power failure at
// each of its disk operations, so what a crash in the middle of a step may leave is known.
#include "kessai/testing/crash_test.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "engine/testing/process.hpp"
#include "io/check.hpp"

namespace kessai::testing {
namespace {

using Rows = std::map<std::string, std::string>;
using Content = std::map<std::string, Rows>;  // of all trees
using Finding = std::optional<std::string>;

constexpr std::uint64_t kStepNs = 1'000'000;

Result<Content> content_of(Database& db) {
  Content out;
  KESSAI_ASSIGN(names, db.tree_names());
  for (const auto& name : names) {
    KESSAI_ASSIGN(tree, db.tree(name));
    Rows& rows = out[name];
    auto c = db.scan(tree, {});
    while (c.next()) rows.emplace_hint(rows.end(), c.key(), c.value());
    KESSAI_TRY(c.status());
  }
  return out;
}

/// The first difference, in words, without values: they may be secrets.
std::string difference(const Content& found, const Content& expected) {
  for (const auto& [name, rows] : expected) {
    const auto it = found.find(name);
    if (it == found.end()) return "tree " + name + " is missing";
    for (const auto& [key, value] : rows) {
      const auto row = it->second.find(key);
      if (row == it->second.end()) return "a row of " + name + " is missing";
      if (row->second != value) return "a row of " + name + " has another value";
    }
    if (it->second.size() != rows.size()) return "a row of " + name + " should not be there";
  }
  return found.size() == expected.size() ? "nothing" : "a tree should not be there";
}

class Harness {
 public:
  explicit Harness(const CrashTest& test) : test_(test), random_(test.seed), disk_(test.seed) {}

  Result<CrashReport> run() {
    KESSAI_TRY(all_steps(false));
    const std::uint64_t steps = states_.size() - 1;
    KESSAI_CHECK(steps == test_.steps);
    random_ = io::SeededRandom(test_.seed);
    disk_ = io::SimDisk(test_.seed);
    clock_.emplace();
    KESSAI_TRY(all_steps(true));
    return std::move(report_);
  }

 private:
  [[nodiscard]] bool good() const { return !report_.violation; }

  Result<void> all_steps(bool crashing) {
    told_ = 0;
    std::uint64_t n = 0;
    // Four openings: the store is closed in order, killed, loses power, is closed in order.
    for (unsigned opening = 0; opening < 4 && good(); ++opening) {
      Process p(disk_, *clock_, random_.next());
      Options options = test_.options;
      options.create = opening == 0;
      KESSAI_TRY(p.open(options));
      if (opening == 0 && test_.prepare) KESSAI_TRY(test_.prepare(p.db()));
      if (opening == 0) KESSAI_TRY(learn(p.db(), 0, crashing));
      if (crashing) watch();
      const std::uint64_t until = test_.steps * (opening + 1) / 4;
      for (; n < until && good(); ++n) {
        now_ = n + 1;
        clock_->advance(kStepNs);
        KESSAI_TRY(test_.step(p.db(), n));
        KESSAI_TRY(learn(p.db(), n + 1, crashing));
        told_ = std::max(told_, durable_state(p.db()));
      }
      if (opening % 3 == 0) {
        KESSAI_TRY(p.close());
        told_ = n;
      } else {
        // What a program cannot take for granted is given up here, so that both runs are the same.
        KESSAI_TRY(p.db().wait_durable(lsns_[n]));
        told_ = n;
      }
      disk_.set_observer({});
      if (opening == 2) lose_power();
    }
    return {};
  }

  void lose_power() {
    disk_ = disk_.survivor(io::kCrashOutcomes[random_.below(io::kCrashOutcomes.size())],
                           random_.next());
  }

  /// The state after step n: learnt by the first run, checked by the second.
  Result<void> learn(Database& db, std::uint64_t n, bool known) {
    KESSAI_ASSIGN(content, content_of(db));
    if (known) {
      if (content == states_[n]) return {};
      return fail(Code::invalid_argument, "step " + std::to_string(n) +
                                              " does not do the same each time; it may draw from "
                                              "nothing but its number");
    }
    states_.push_back(std::move(content));
    lsns_.push_back(db.stats().applied_lsn);
    return {};
  }

  /// The newest state that the store itself has called durable.
  [[nodiscard]] std::uint64_t durable_state(Database& db) const {
    const Lsn durable = db.stats().durable_lsn;
    const auto known = std::min<std::size_t>(now_ + 1, lsns_.size());
    std::uint64_t out = 0;
    for (std::uint64_t n = 0; n < known; ++n)
      if (lsns_[n] <= durable) out = n;
    return out;
  }

  // ---- power failures --------------------------------------------------------------------------

  void watch() {
    disk_.set_observer([this](std::uint64_t op, std::string_view kind, std::string_view file) {
      if (!good()) return;
      if (kind == "read" || kind == "open" || kind == "lock") return;  // change nothing
      if (op % std::max<std::uint64_t>(test_.every, 1) != 0) return;
      ++report_.crash_points;
      crash_random_ = io::SeededRandom(test_.seed * 0x9e3779b97f4a7c15 + op);
      crashes_here(op, kind, file);
    });
  }

  void crashes_here(std::uint64_t op, std::string_view kind, std::string_view file) {
    for (const io::CrashOutcome outcome : io::kCrashOutcomes) {
      ++report_.tried;
      io::SimDisk survivor = disk_.survivor(outcome, crash_random_.next());
      const bool fresh =
          seen_.insert(survivor.image_hash() * 0x9e3779b97f4a7c15 + told_ * 0x10001 + now_).second;
      if (fresh) {
        if (const Finding bad = recover(std::move(survivor))) {
          report_.violated_step = now_ == 0 ? 0 : now_ - 1;
          report_.violation = "power failure in step " + std::to_string(report_.violated_step) +
                              " before disk operation " + std::to_string(op) + " (" +
                              std::string(kind) + " of " + std::string(file) +
                              ", survivors: " + std::string(io::outcome_name(outcome)) + ", seed " +
                              std::to_string(test_.seed) + "): " + *bad;
          return;
        }
      }
      if (disk_.volatile_items() == 0) return;
    }
  }

  Finding recover(io::SimDisk survivor) {
    ++report_.distinct;
    io::SimDisk again = survivor;
    const std::uint64_t seed = crash_random_.next();
    std::vector<std::uint64_t> changing;  // operations of the recovery that write
    std::uint64_t state = 0;
    {
      survivor.set_observer([&](std::uint64_t op, std::string_view kind, std::string_view) {
        if (kind != "read" && kind != "open" && kind != "lock") changing.push_back(op);
      });
      Process p(survivor, *clock_, seed);
      const auto opened = p.open(test_.options);
      survivor.set_observer({});
      if (!opened) return "the store does not open: " + opened.error().message();
      if (const Finding bad = judge(p.db(), told_, std::min(now_, test_.steps), state)) return bad;
      if (test_.start_up) {
        if (const auto r = test_.start_up(p.db()); !r)
          return "start_up fails: " + r.error().message();
        if (const Finding bad = broken(p.db())) return "after start_up: " + *bad;
      }
    }
    if (changing.empty()) return {};
    ++report_.nested;
    again.crash_at(changing[crash_random_.below(changing.size())]);
    {
      Process p(again, *clock_, seed);
      static_cast<void>(p.open(test_.options));
    }
    const auto outcome = io::kCrashOutcomes[crash_random_.below(io::kCrashOutcomes.size())];
    io::SimDisk twice = again.survivor(outcome, crash_random_.next());
    Process p(twice, *clock_, crash_random_.next());
    if (const auto r = p.open(test_.options); !r)
      return "the store does not open after a second power failure, in the recovery: " +
             r.error().message();
    if (const Finding bad = judge(p.db(), state, state, state))
      return "after a second power failure, in the recovery: " + *bad;
    return {};
  }

  [[nodiscard]] Finding broken(Database& db) const {
    return test_.invariant ? test_.invariant(db) : Finding();
  }

  /// Which of the states [from, to] it is; what is wrong when it is none, or with it.
  Finding judge(Database& db, std::uint64_t from, std::uint64_t to, std::uint64_t& state) const {
    const auto found = content_of(db);
    if (!found) return "the store cannot be read: " + found.error().message();
    if (Finding bad = broken(db)) return bad;
    for (state = to + 1; state-- > from;) {
      if (*found == states_[state]) {
        const auto report = db.check();
        if (!report) return "check: " + report.error().message();
        for (const Damage& d : report->damage)
          if (!d.what.starts_with("superblock ")) return "check: " + d.what;
        return {};
      }
    }
    for (std::uint64_t n = 0; n < from; ++n)
      if (*found == states_[n])
        return "durable commits are lost: the store is as after " + std::to_string(n) +
               " steps, of which " + std::to_string(from) + " were durable";
    return "the store is as after none of the steps; in comparison with " + std::to_string(to) +
           " steps: " + difference(*found, states_[to]);
  }

  const CrashTest& test_;
  io::SeededRandom random_;           // of the run
  io::SeededRandom crash_random_{1};  // of the crashes at one operation
  std::optional<io::VirtualClock> clock_{std::in_place};
  io::SimDisk disk_;
  std::vector<Content> states_;  // [n]: after n steps
  std::vector<Lsn> lsns_;        // durable_lsn from which on state n is
  std::uint64_t now_ = 0;        // the state that the step under way makes
  std::uint64_t told_ = 0;       // this state can be taken for granted
  std::unordered_set<std::uint64_t> seen_;
  CrashReport report_;
};

}  // namespace

Result<CrashReport> run_crash_test(const CrashTest& test) {
  if (!test.step) return fail(Code::invalid_argument, "CrashTest::step is missing");
  return Harness(test).run();
}

Options small_options() {
  Options o;
  o.memory = 64 * 4096;
  o.wal_limit = 128 << 10;
  o.undo_memory = 1 << 20;
  o.open_timeout = std::chrono::milliseconds(100);
  return o;
}

}  // namespace kessai::testing
