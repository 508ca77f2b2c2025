// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/ledger.hpp"

#include <algorithm>
#include <charconv>

namespace kessai::crash {

Ledger::Ledger(FoundRows base, unsigned clients) : base_(std::move(base)), attempts_(clients) {}

Attempt& Ledger::begin(unsigned client) {
  Attempt& a = attempts_[client].emplace_back();
  a.floor = answered_;
  return a;
}

std::string Ledger::name(unsigned client, std::size_t number) {
  return "transaction " + std::to_string(number) + " of client " + std::to_string(client);
}

std::vector<Ledger::Commit> Ledger::committed() const {
  std::vector<Commit> out;
  for (unsigned c = 0; c < attempts_.size(); ++c) {
    for (std::size_t n = 1; n <= attempts_[c].size(); ++n) {
      const Attempt& a = attempts_[c][n - 1];
      if (a.fate == Attempt::Fate::committed && a.lsn != 0) out.push_back({a.lsn, c, n, &a});
    }
  }
  return out;
}

std::uint64_t Ledger::commits() const { return committed().size(); }

FoundRows Ledger::replay(std::vector<Commit>& commits) const {
  std::ranges::sort(commits, {}, &Commit::lsn);
  FoundRows rows = base_;
  for (const Commit& c : commits) {
    for (const auto& [key, value] : c.what->writes) {
      if (value)
        rows[key] = {value, c.lsn};
      else
        rows.erase(key);
    }
  }
  return rows;
}

std::optional<std::string> Ledger::difference(const FoundRows& found, const FoundRows& expected) {
  const auto text = [](const Version& v) {
    return "\"" + v.value.value_or("").substr(0, 24) + "\" of LSN " + std::to_string(v.lsn);
  };
  for (const auto& [key, row] : expected) {
    const auto it = found.find(key);
    if (it == found.end()) return key + " is missing, must be " + text(row);
    if (it->second.value != row.value || it->second.lsn != row.lsn)
      return key + " is " + text(it->second) + ", must be " + text(row);
  }
  for (const auto& [key, row] : found)
    if (!expected.contains(key)) return key + " is " + text(row) + ", must not exist";
  return std::nullopt;
}

std::optional<std::string> Ledger::judge(const FoundRows& found) {
  std::vector<Commit> in;
  std::vector<Commit> out;
  std::vector<Claim> undecided;
  for (unsigned c = 0; c < attempts_.size(); ++c) {
    std::size_t last = 0;
    Lsn last_lsn = 0;
    if (const auto m = found.find(marker(c)); m != found.end()) {
      const std::string& text = *m->second.value;
      std::from_chars(text.data(), text.data() + text.size(), last);
      last_lsn = m->second.lsn;
      if (last == 0 || last > attempts_[c].size())
        return name(c, last) + " is there, but was never begun";
    }
    for (std::size_t n = 1; n <= attempts_[c].size(); ++n) {
      const Attempt& a = attempts_[c][n - 1];
      const bool known = a.fate == Attempt::Fate::committed && a.lsn != 0;
      if (n == last && a.fate == Attempt::Fate::failed)
        return name(c, n) + " is there, but was answered as failed";
      if (n == last && known && a.lsn != last_lsn)
        return name(c, n) + " was answered with LSN " + std::to_string(a.lsn) +
               ", its marker has LSN " + std::to_string(last_lsn);
      if (n <= last && (known || n == last)) {
        in.push_back({n == last ? last_lsn : a.lsn, c, n, &a});
      } else if (known) {
        out.push_back({a.lsn, c, n, &a});
      } else if (n > last && a.fate == Attempt::Fate::running) {
        undecided.push_back({c, n, 0});
      }
    }
  }
  Lsn newest = 0;
  for (const Commit& c : in) newest = std::max(newest, c.lsn);
  for (const Commit& c : out) {
    if (c.lsn <= told_)
      return "an acknowledged commit is lost: " + name(c.client, c.number) + ", LSN " +
             std::to_string(c.lsn) + "; durable up to LSN " + std::to_string(told_) + " was told";
    if (c.lsn < newest)
      return "a hole: " + name(c.client, c.number) + ", LSN " + std::to_string(c.lsn) +
             ", is absent, a commit of LSN " + std::to_string(newest) + " is there";
  }
  for (Claim c : undecided) {
    c.lsn = newest;
    claims_.push_back(c);
  }
  const FoundRows expected = replay(in);
  if (auto bad = difference(found, expected)) return "the contents are no state: " + *bad;
  return std::nullopt;
}

std::optional<std::string> Ledger::judge_attempt(
    const Attempt& a, const std::map<std::string, std::vector<Version>>& versions) const {
  // The first version beyond `lsn`, as an index.
  const auto beyond = [](const std::vector<Version>& v, Lsn lsn) {
    return std::ranges::upper_bound(v, lsn, {}, &Version::lsn);
  };
  static const std::vector<Version> kNone;
  const auto of = [&](const std::string& key) -> const std::vector<Version>& {
    const auto it = versions.find(key);
    return it != versions.end() ? it->second : kNone;
  };
  if (a.snapshot != 0 && a.snapshot < a.floor)
    return "reads at LSN " + std::to_string(a.snapshot) + ", but LSN " + std::to_string(a.floor) +
           " had been answered before it began";
  const bool done = a.fate == Attempt::Fate::committed && a.lsn != 0;
  for (const auto& [key, seen] : a.reads) {
    const auto& all = of(key);
    const bool exists = seen.value.has_value();
    if (exists && std::ranges::none_of(all, [&](const Version& v) {
          return v.lsn == seen.lsn && v.value == seen.value;
        }))
      return "read " + key + " of LSN " + std::to_string(seen.lsn) + ", which nobody committed";
    if (a.snapshot != 0) {
      const auto it = beyond(all, a.snapshot);
      const Version must = it == all.begin() ? Version{} : *std::prev(it);
      if (must.value != seen.value || (exists && must.lsn != seen.lsn))
        return "read " + key + " of LSN " + std::to_string(seen.lsn) + ", but its snapshot " +
               std::to_string(a.snapshot) + " had LSN " + std::to_string(must.lsn);
    }
    if (a.snapshot == 0) {
      const auto after = beyond(all, a.floor);
      const Version was = after == all.begin() ? Version{} : *std::prev(after);
      const auto same = [&](const Version& v) {
        return v.value == seen.value && (!exists || v.lsn == seen.lsn);
      };
      if (!same(was) && std::none_of(after, all.end(), same))
        return "read " + key + " of LSN " + std::to_string(seen.lsn) + ", but LSN " +
               std::to_string(was.lsn) + " had been answered before it began";
    }
    if (!done) continue;
    // Nobody may have written between what it read and its commit what it relied on.
    const bool relies = a.serializable || a.reads_current || a.writes.contains(key);
    const Lsn from = a.snapshot != 0 ? a.snapshot : seen.lsn;
    if (!relies || (a.snapshot == 0 && (!a.reads_current || !exists))) continue;
    const auto next = beyond(all, from);
    if (next != all.end() && next->lsn < a.lsn)
      return "read " + key + " of LSN " + std::to_string(seen.lsn) + " and committed LSN " +
             std::to_string(a.lsn) + ", although LSN " + std::to_string(next->lsn) +
             " changed it in between" + (a.writes.contains(key) ? " (a lost update)" : "");
  }
  return std::nullopt;
}

std::optional<std::string> Ledger::judge_end(const FoundRows* found) const {
  std::vector<Commit> all = committed();
  const FoundRows expected = replay(all);
  for (std::size_t i = 1; i < all.size(); ++i)
    if (all[i].lsn == all[i - 1].lsn) return "two commits have LSN " + std::to_string(all[i].lsn);
  for (const Claim& c : claims_) {
    const Attempt& a = attempts_[c.client][c.number - 1];
    if (a.fate == Attempt::Fate::committed && a.lsn != 0 && a.lsn < c.lsn)
      return "a hole: " + name(c.client, c.number) + " got LSN " + std::to_string(a.lsn) +
             "; a crash took it back but kept a commit of LSN " + std::to_string(c.lsn);
  }
  if (found != nullptr) {
    if (auto bad = difference(*found, expected)) return "the contents are wrong: " + *bad;
  }
  std::map<std::string, std::vector<Version>> versions;
  for (const auto& [key, row] : base_) versions[key].push_back(row);
  for (const Commit& c : all) {
    for (const auto& [key, value] : c.what->writes) {
      auto& of = versions[key];
      // Removing what is absent changes nothing (at commit nobody is told).
      if (value || (!of.empty() && of.back().value)) of.push_back({value, c.lsn});
    }
  }
  for (unsigned c = 0; c < attempts_.size(); ++c) {
    for (std::size_t n = 1; n <= attempts_[c].size(); ++n) {
      const Attempt& a = attempts_[c][n - 1];
      if (auto bad = judge_attempt(a, versions)) return name(c, n) + " " + *bad;
    }
  }
  return std::nullopt;
}

}  // namespace kessai::crash
