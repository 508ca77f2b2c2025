// SPDX-License-Identifier: Apache-2.0
// kvsh commands that show who is at work, who waits for whom, and what is kept for whom.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "io/check.hpp"
#include "tools/bytes.hpp"
#include "tools/exit_codes.hpp"
#include "tools/session.hpp"

namespace kessai::tools {
namespace {

std::int64_t microseconds(std::chrono::nanoseconds t) {
  return std::chrono::duration_cast<std::chrono::microseconds>(t).count();
}

std::string_view mode_name(LockMode mode) {
  return mode == LockMode::shared ? "shared" : "exclusive";
}

std::string_view kind_name(LockTarget::Kind kind) {
  switch (kind) {
    case LockTarget::Kind::record:
      return "record";
    case LockTarget::Kind::range:
      return "range";
    case LockTarget::Kind::named:
      return "named";
  }
  return "?";
}

Json target_json(const LockTarget& t) {
  Json object = {{"kind", kind_name(t.kind)},
                 {"tree", format_bytes(t.tree)},
                 {"key", format_bytes(t.key)},
                 {"key_is_cut", t.key_is_cut}};
  object["to"] = t.to ? Json(format_bytes(*t.to)) : Json();
  return object;
}

Json lock_json(const LockInfo& lock) {
  Json holders = Json::array(), waiters = Json::array();
  for (const LockInfo::Holder& h : lock.holders) {
    holders.push_back(
        {{"transaction", h.transaction}, {"mode", mode_name(h.mode)}, {"thread", h.thread}});
  }
  for (const LockInfo::Waiter& w : lock.waiters) {
    waiters.push_back({{"transaction", w.transaction},
                       {"mode", mode_name(w.mode)},
                       {"thread", w.thread},
                       {"waited_us", microseconds(w.waited)}});
  }
  return {{"target", target_json(lock.target)},
          {"holders", std::move(holders)},
          {"waiters", std::move(waiters)}};
}

Json deadlock_json(const DeadlockInfo& deadlock) {
  Json cycle = Json::array();
  for (const DeadlockInfo::Member& m : deadlock.cycle) {
    cycle.push_back({{"transaction", m.transaction},
                     {"thread", m.thread},
                     {"wants", mode_name(m.wants)},
                     {"target", target_json(m.target)},
                     {"waited_us", microseconds(m.waited)},
                     {"work", m.work}});
  }
  return {{"ago_us", microseconds(deadlock.ago)},
          {"cycle", std::move(cycle)},
          {"victim", deadlock.victim}};
}

// Transactions that wait for nobody and that others wait for: whom to look at first.
std::vector<std::uint64_t> root_blockers(const std::vector<LockInfo>& locks) {
  std::set<std::uint64_t> waiting, blocking;
  for (const LockInfo& lock : locks) {
    for (const LockInfo::Waiter& w : lock.waiters) waiting.insert(w.transaction);
    if (lock.waiters.empty()) continue;
    for (const LockInfo::Holder& h : lock.holders) blocking.insert(h.transaction);
  }
  std::vector<std::uint64_t> roots;
  std::set_difference(blocking.begin(), blocking.end(), waiting.begin(), waiting.end(),
                      std::back_inserter(roots));
  return roots;
}

// The upper edge of the histogram bucket that holds the given share of all waits.
std::string percentile(const WaitInfo& wait, double share) {
  std::uint64_t seen = 0;
  for (std::size_t b = 0; b < wait.histogram.size(); ++b) {
    seen += wait.histogram[b];
    if (static_cast<double>(seen) >= share * static_cast<double>(wait.count)) {
      return "< " + human_duration(std::chrono::microseconds(std::int64_t{2} << b));
    }
  }
  return "-";
}

}  // namespace

std::string target_text(const LockTarget& target, std::string_view default_tree) {
  const std::string key = format_word(target.key) + (target.key_is_cut ? "..." : "");
  if (target.kind == LockTarget::Kind::named) return "lock " + key;
  const std::string tree = target.tree == default_tree ? "" : " in " + format_word(target.tree);
  if (target.kind == LockTarget::Kind::record) return key + tree;
  return fmt::format("[{}, {}){}", key, target.to ? format_word(*target.to) : "end", tree);
}

std::string Session::who(std::uint64_t transaction, unsigned thread) const {
  return config_.name_of ? config_.name_of(transaction, thread)
                         : fmt::format("transaction {}", transaction);
}

Result<int> Session::txns(const Arguments&) {
  const std::vector<TransactionInfo> all = db_.transactions();
  using enum Table::Align;
  Table table({{"who"},
               {"id", right},
               {"level"},
               {"age", right},
               {"idle", right},
               {"call"},
               {"snapshot", right},
               {"writes", right},
               {"bytes", right},
               {"undo", right}});
  for (const TransactionInfo& t : all) {
    if (config_.json) {
      row({{"id", t.id},
           {"isolation", level_name(t.isolation)},
           {"read_only", t.read_only},
           {"thread", t.thread},
           {"snapshot_lsn", t.snapshot_lsn},
           {"age_us", microseconds(t.age)},
           {"idle_us", microseconds(t.idle)},
           {"writes", t.writes},
           {"write_bytes", t.write_bytes},
           {"undo_bytes", t.undo_bytes},
           {"last_call", printable(t.last_call)},
           {"in_call", t.in_call}});
      continue;
    }
    table.add({who(t.id, t.thread), std::to_string(t.id),
               fmt::format("{}{}", level_name(t.isolation), t.read_only ? " read_only" : ""),
               human_duration(t.age), t.in_call ? "" : human_duration(t.idle),
               fmt::format("{} {}", t.in_call ? "in" : "after", printable(t.last_call)),
               std::to_string(t.snapshot_lsn), grouped(t.writes), human_bytes(t.write_bytes),
               human_bytes(t.undo_bytes)});
  }
  if (!config_.json && !table.empty()) print(table.render(config_.palette));
  return kExitOk;
}

Result<int> Session::locks(const Arguments&) {
  std::vector<LockInfo> all = db_.locks();
  std::sort(
      all.begin(), all.end(), [](const LockInfo& a, const LockInfo& b) {  // the waited for first
        return std::tuple(a.waiters.empty(), a.target.kind, std::tie(a.target.tree, a.target.key)) <
               std::tuple(b.waiters.empty(), b.target.kind, std::tie(b.target.tree, b.target.key));
      });
  Table table({{"lock"}, {"held by"}, {"waiting"}});
  std::map<std::uint64_t, unsigned> threads;
  for (const LockInfo& lock : all) {
    if (config_.json) {
      row(lock_json(lock));
      continue;
    }
    std::string holders, waiters;
    for (const LockInfo::Holder& h : lock.holders) {
      threads[h.transaction] = h.thread;
      holders += fmt::format("{}{} {}", holders.empty() ? "" : ", ", who(h.transaction, h.thread),
                             mode_name(h.mode));
    }
    for (const LockInfo::Waiter& w : lock.waiters) {
      waiters +=
          fmt::format("{}{} {} {}", waiters.empty() ? "" : ", ", who(w.transaction, w.thread),
                      mode_name(w.mode), human_duration(w.waited));
    }
    table.add({target_text(lock.target, config_.default_tree), holders, waiters});
  }
  const std::vector<std::uint64_t> roots = root_blockers(all);
  if (config_.json) {
    row({{"summary", true}, {"locks", all.size()}, {"root_blockers", roots}});
    return kExitOk;
  }
  if (!table.empty()) print(table.render(config_.palette));
  for (const std::uint64_t root : roots) {
    print(fmt::format("root blocker: {}\n", who(root, threads[root])));
  }
  return kExitOk;
}

Result<int> Session::undo(const Arguments&) {
  const UndoInfo u = db_.undo();
  const std::pair<const char*, std::uint64_t> fields[] = {
      {"bytes", u.bytes},
      {"limit", u.limit},
      {"entries", u.entries},
      {"pushed", u.pushed},
      {"dropped", u.dropped},
      {"horizon", u.horizon},
      {"oldest_snapshot", u.oldest_snapshot},
      {"oldest_transaction", u.oldest_transaction},
      {"snapshots_killed", u.snapshots_killed},
      {"throttled", u.throttled}};
  Json object;
  std::vector<std::pair<std::string, std::string>> lines;
  for (const auto& [name, value] : fields) {
    object[name] = value;
    lines.emplace_back(name, grouped(value));
  }
  config_.json ? row(std::move(object)) : print(render_fields(lines));
  return kExitOk;
}

Result<int> Session::waits(const Arguments& a) {
  using enum Table::Align;
  Table table({{"wait"},
               {"count", right},
               {"total", right},
               {"mean", right},
               {"p50", right},
               {"p99", right}});
  for (const WaitInfo& w : db_.waits()) {
    if (config_.json) {
      row({{"name", w.name},
           {"count", w.count},
           {"total_us", microseconds(w.total)},
           {"histogram", w.histogram}});
      continue;
    }
    if (w.count == 0 && !a.has("--all")) continue;
    const auto mean = w.total / static_cast<std::int64_t>(std::max<std::uint64_t>(1, w.count));
    table.add({std::string(w.name), grouped(w.count), human_duration(w.total), human_duration(mean),
               w.count == 0 ? "-" : percentile(w, 0.5), w.count == 0 ? "-" : percentile(w, 0.99)});
  }
  if (!config_.json && !table.empty()) print(table.render(config_.palette));
  return kExitOk;
}

Result<int> Session::deadlocks(const Arguments& a) {
  for (const DeadlockInfo& d : db_.deadlocks()) {
    if (a.has("--dot")) {
      const std::string dot = deadlock_dot(d);
      config_.json ? row({{"dot", dot}}) : print(dot);
    } else if (config_.json) {
      row(deadlock_json(d));
    } else {
      const std::string text = deadlock_text(d);
      print(fmt::format("{} ago\n{}{}", human_duration(d.ago), text,
                        text.ends_with('\n') ? "" : "\n"));
    }
  }
  return kExitOk;
}

Result<int> Session::versions(const Arguments& a) {
  KESSAI_ASSIGN(key, a.bytes(0));
  KESSAI_ASSIGN(tree, target(a));
  if (!tree) return kExitNo;
  KESSAI_ASSIGN(all, db_.versions(*tree, key));
  using enum Table::Align;
  Table table({{"from lsn", right}, {"to lsn", right}, {"where"}, {"value"}});
  for (const VersionInfo& v : all) {
    if (config_.json) {
      row({{"lsn", v.lsn},
           {"end", v.end},
           {"present", v.present},
           {"in_page", v.in_page},
           {"value", format_bytes(v.value)}});
      continue;
    }
    table.add({std::to_string(v.lsn), v.end == 0 ? "now" : std::to_string(v.end),
               v.in_page ? "page" : "undo", v.present ? format_word(v.value) : "(absent)"});
  }
  if (!config_.json && !table.empty()) print(table.render(config_.palette));
  return all.empty() ? kExitNo : kExitOk;
}

}  // namespace kessai::tools
