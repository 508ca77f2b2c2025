// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/small_run.hpp"

#include <memory>
#include <unordered_set>

namespace kessai::crash {
namespace {

constexpr unsigned kKeys = 3;

/// What a transaction does with a key.
enum class Change : std::uint8_t { none, put, remove };

/// 0: checkpoint, 1: close and open, else a transaction: its changes as digits of base 3.
using Step = unsigned;
constexpr Step kCheckpoint = 0, kReopen = 1, kSteps = 28;
using History = std::vector<Step>;
using Names = std::array<unsigned, kKeys>;  ///< of the keys
constexpr std::array<Names, 6> kRenamings{
    {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}};

Change change_of(Step step, unsigned key) {
  static constexpr std::array<unsigned, kKeys> kDigit{9, 3, 1};
  return static_cast<Change>((step - 1) / kDigit[key] % 3);
}

Step renamed(Step step, const Names& names) {
  if (step <= kReopen) return step;
  static constexpr std::array<unsigned, kKeys> kDigit{9, 3, 1};
  Step out = 1;
  for (unsigned k = 0; k < kKeys; ++k)
    out += static_cast<unsigned>(change_of(step, k)) * kDigit[names[k]];
  return out;
}

/// No row is deleted that is not there, and no renaming of the keys comes first.
bool counts(const History& history) {
  std::array<bool, kKeys> there{true, true, true};
  for (const Step step : history) {
    for (unsigned k = 0; step > kReopen && k < kKeys; ++k) {
      const Change change = change_of(step, k);
      if (change == Change::remove && !there[k]) return false;
      if (change != Change::none) there[k] = change == Change::put;
    }
  }
  return std::ranges::none_of(kRenamings, [&](const Names& names) {
    History other;
    for (const Step step : history) other.push_back(renamed(step, names));
    return other < history;
  });
}

/// Calls fn for each history of up to `steps` steps, shorter ones first, until it answers false.
void each_history(unsigned steps, const std::function<bool(const History&)>& fn) {
  for (unsigned length = 1; length <= steps; ++length) {
    History history(length, 0);
    for (;;) {
      if (counts(history) && !fn(history)) return;
      unsigned at = length;
      while (at > 0 && ++history[at - 1] == kSteps) history[--at] = 0;
      if (at == 0) break;
    }
  }
}

std::string text_of(const History& history) {
  std::string out;
  for (const Step step : history) {
    out += out.empty() ? "" : ", ";
    if (step == kCheckpoint) out += "checkpoint";
    if (step == kReopen) out += "reopen";
    for (unsigned k = 0; step > kReopen && k < kKeys; ++k) {
      if (change_of(step, k) == Change::put) out += "+" + std::to_string(k);
      if (change_of(step, k) == Change::remove) out += "-" + std::to_string(k);
    }
  }
  return out;
}

std::string key_of(unsigned k) { return "k" + std::to_string(k); }

class SmallHarness {
 public:
  explicit SmallHarness(const SmallPlan& plan) : plan_(plan) {}

  CrashRun run() {
    make_store();
    std::uint64_t number = 0;
    each_history(plan_.steps, [&](const History& history) {
      if (number >= plan_.from) {
        if (plan_.go_on && !plan_.go_on()) return false;
        number_ = number;
        live(history);
        if (!good()) return false;
        ++run_.small_histories;
      }
      return ++number < plan_.from + plan_.count;
    });
    return std::move(run_);
  }

 private:
  [[nodiscard]] bool good() const { return !run_.violation; }
  void violate(const std::string& what) {
    if (!good()) return;
    run_.violated_at = number_;
    run_.violation = "history " + std::to_string(number_) + " (" + text_ + "): " + what;
  }
  bool must(const Result<void>& r, const char* what) {
    if (!r) violate(std::string(what) + ": " + r.error().message());
    return r.has_value();
  }

  void make_store() {
    Process p(base_, 1);
    p.options.create = true;
    Rows rows;
    if (!must(p.open(), "create")) return;
    for (unsigned k = 0; k < kKeys; ++k) {
      rows[key_of(k)] = "first";
      if (auto r = p.db->put(p.db->tree("main").value(), key_of(k), "first"); !r)
        return violate("put: " + r.error().message());
    }
    must(p.close(), "close");
    rows_ = std::move(rows);
  }

  // ---- a history -------------------------------------------------------------------------------

  void live(const History& history) {
    text_ = text_of(history);
    io::SimDisk disk = base_;
    states_ = {Tables{{"main", std::make_shared<Rows>(rows_)}}};
    std::uint64_t opening = 2;  // also the seed of that process: salts differ
    auto p = std::make_unique<Process>(disk, opening);
    if (!must(p->open(), "open")) return;
    for (std::size_t i = 0; i < history.size() && good(); ++i) {
      const bool last = i + 1 == history.size();
      told_ = states_.size() - 1;
      if (last) {
        disk.set_observer([&](std::uint64_t, std::string_view kind, std::string_view file) {
          ++run_.points;
          if (kind != "read" && kind != "open" && kind != "lock") power_fails(disk, kind, file);
        });
      }
      if (history[i] == kCheckpoint) {
        must(p->db->checkpoint(), "checkpoint");
      } else if (history[i] == kReopen) {
        must(p->close(), "close");
        p = std::make_unique<Process>(disk, ++opening);
        if (good()) must(p->open(), "open");
      } else {
        transact(*p, history[i], "step " + std::to_string(i));
      }
      disk.set_observer({});
    }
    told_ = states_.size() - 1;
    if (good()) power_fails(disk, "nothing", "");
  }

  void transact(Process& p, Step step, const std::string& value) {
    auto txn = p.db->begin({.durability = Durability::durable});
    if (!txn) return violate("begin: " + txn.error().message());
    const Tree main = p.db->tree("main").value();
    auto rows = std::make_shared<Rows>(*states_.back().at("main"));
    for (unsigned k = 0; k < kKeys; ++k) {
      Result<void> r;
      if (change_of(step, k) == Change::put) {
        r = txn->put(main, key_of(k), value);
        (*rows)[key_of(k)] = value;
      } else if (change_of(step, k) == Change::remove) {
        r = txn->remove(main, key_of(k));
        rows->erase(key_of(k));
      }
      if (!must(r, "change")) return;
    }
    states_.push_back({{"main", std::move(rows)}});
    if (auto lsn = txn->commit(); !lsn) violate("commit: " + lsn.error().message());
    ++run_.commits;
  }

  // ---- its crashes -----------------------------------------------------------------------------

  /// An image and the states it may show were looked at before, as deep as now.
  bool known(const io::SimDisk& disk, std::size_t from, std::size_t to, bool inside_recovery) {
    std::uint64_t key = disk.image_hash() + inside_recovery;
    for (std::size_t s = from; s <= to; ++s) {
      for (const auto& [k, v] : *states_[s].at("main"))
        key = (key ^ std::hash<std::string>{}(k + "=" + v)) * 0x9e3779b97f4a7c15;
      key = (key ^ (s - from)) * 0x9e3779b97f4a7c15;
    }
    return !seen_.insert(key).second;
  }

  void power_fails(const io::SimDisk& disk, std::string_view kind, std::string_view file) {
    for (const io::CrashOutcome outcome : io::kCrashOutcomes) {
      if (!good()) return;
      ++run_.outcomes;
      const std::size_t newest = states_.size() - 1;
      io::SimDisk survivor = disk.survivor(outcome, run_.outcomes);
      if (!known(survivor, told_, newest, false)) {
        const io::SimDisk before = survivor;
        const auto found = recover(std::move(survivor), told_, newest);
        if (good()) crash_recovery(before, found);
        if (!good()) {
          *run_.violation += " (power failure \"" + std::string(io::outcome_name(outcome)) +
                             "\" before " + std::string(kind) + " of " + std::string(file) + ")";
        }
      }
      if (disk.volatile_items() == 0) return;
    }
  }

  /// The power fails before each operation of the recovery that found `state`.
  void crash_recovery(io::SimDisk disk, std::size_t state) {
    disk.set_observer([&](std::uint64_t op, std::string_view kind, std::string_view) {
      if (!good() || kind == "read" || kind == "open" || kind == "lock") return;
      for (const io::CrashOutcome outcome : io::kCrashOutcomes) {
        ++run_.nested;
        io::SimDisk survivor = disk.survivor(outcome, op * 16 + run_.outcomes);
        if (!known(survivor, state, state, true)) {
          recover(std::move(survivor), state, state);
          if (!good()) {
            *run_.violation += " in the recovery after a crash in that recovery at its operation " +
                               std::to_string(op);
            return;
          }
        }
        if (disk.volatile_items() == 0) return;
      }
    });
    Process p(disk, 1000);
    static_cast<void>(p.open());
    disk.set_observer({});
  }

  std::size_t recover(io::SimDisk disk, std::size_t from, std::size_t to) {
    ++run_.distinct;
    Process p(disk, 1001);
    if (!must(p.open(), "recovery")) return from;
    const auto found = read_all(*p.db);
    if (!found) violate("reading: " + found.error().message());
    for (std::size_t s = to + 1; found && s-- > from;) {
      if (!same(*found, states_[s])) continue;
      if (auto bad = first_damage(*p.db)) violate(*bad);
      return s;
    }
    violate("the contents are no state from " + std::to_string(from) + " to " + std::to_string(to) +
            ": " + (found ? *difference(*found, states_[from]) : ""));
    return from;
  }

  const SmallPlan plan_;
  io::SimDisk base_{1};
  Rows rows_;
  std::vector<Tables> states_;
  std::size_t told_ = 0;
  std::unordered_set<std::uint64_t> seen_;
  std::uint64_t number_ = 0;
  std::string text_ = "none";
  CrashRun run_;
};

}  // namespace

std::uint64_t small_histories(unsigned steps) {
  std::uint64_t n = 0;
  each_history(steps, [&](const History&) {
    ++n;
    return true;
  });
  return n;
}

CrashRun small_run(const SmallPlan& plan) { return SmallHarness(plan).run(); }

}  // namespace kessai::crash
