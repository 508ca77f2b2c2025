// SPDX-License-Identifier: Apache-2.0
// A small store and its contents, for tests that damage or starve copies of it.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "tools/torture/sim_store.hpp"

namespace kessai::test {

using namespace crash;

inline std::uint64_t number_from(const char* name, std::uint64_t fallback) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : fallback;
}

inline std::string row_key(int n) {
  char s[16];
  std::snprintf(s, sizeof s, "k%05d", n);
  return s;
}
inline std::string row_value(int n) {
  return std::string(static_cast<std::size_t>(20 + n * 37 % 300), static_cast<char>('a' + n % 26));
}

/// Two trees of some pages, a long value, rows that were deleted, inner pages, several checkpoints.
struct SmallStore {
  io::SimDisk disk{11};
  Tables tables;

  explicit SmallStore(bool clean, int rows = 400) {
    Process p(disk, 3);
    p.options.create = true;
    if (!p.open()) return;
    const Tree main = p.db->tree("main").value(),
               side = p.db->tree("side", {.create = true}).value();
    Rows m, s;
    const auto put = [&](const Tree& t, Rows& r, const std::string& k, const std::string& v) {
      if (p.db->put(t, k, v, Durability::relaxed)) r[k] = v;
    };
    for (int i = 0; i < rows; ++i)
      put(i % 4 == 0 ? side : main, i % 4 == 0 ? s : m, row_key(i), row_value(i));
    put(main, m, "long", std::string(9000, 'L'));
    for (int i = 1; i < rows; i += 5) {
      if (p.db->remove(main, row_key(i), Durability::relaxed)) m.erase(row_key(i));
    }
    static_cast<void>(p.db->checkpoint());
    for (int i = 0; i < 33; ++i) {
      const std::string v = row_value(i + 7);
      if (p.db->put(main, row_key(i * 4 + 2), v)) m[row_key(i * 4 + 2)] = v;
    }
    tables = {{"main", std::make_shared<Rows>(m)}, {"side", std::make_shared<Rows>(s)}};
    if (clean) static_cast<void>(p.close());
  }
};

/// Everything one open of a (damaged) store answers.
struct Findings {
  std::optional<Error> refused;      ///< open
  std::optional<Error> unreadable;   ///< the first read that failed
  std::optional<std::string> wrong;  ///< wrong data: never acceptable
  bool reported = false;             ///< by check()
  [[nodiscard]] bool noticed() const { return refused || reported; }
};

/// Opens the store and reads every row in three ways.
inline Findings inspect(io::SimDisk& disk, const Tables& expected) {
  Findings f;
  Process p(disk, 5);
  if (auto r = p.open(); !r) {
    f.refused = r.error();
    return f;
  }
  Database& db = *p.db;
  const auto failed = [&](const Error& e) {
    if (!f.unreadable) f.unreadable = e;
  };
  if (const auto names = db.tree_names(); names->size() != expected.size()) f.wrong = "other trees";
  std::string value;
  for (const auto& [name, rows] : expected) {
    const auto tree = db.tree(name);
    if (!tree) {
      if (tree.error() == Code::tree_not_found) f.wrong = "tree " + name + " is missing";
      failed(tree.error());
      continue;
    }
    auto at = rows->begin();
    auto c = db.scan(*tree, {});
    for (; c.next(); ++at) {
      if (at == rows->end() || c.key() != at->first || c.value() != at->second) {
        f.wrong = "a scan of " + name + " answers another row near " + std::string(c.key());
        return f;
      }
    }
    if (!c.status()) {
      failed(c.status().error());
      if (c.next()) f.wrong = "a cursor went on after an error";
    } else if (at != rows->end()) {
      f.wrong = "a scan of " + name + " ends early";
    }
    for (const auto& [k, v] : *rows) {
      const auto got = db.get(*tree, k, value);
      if (got ? value != v : got.error() == Code::not_found)
        f.wrong = "get of " + name + "/" + k + " is wrong";
      if (!got) failed(got.error());
    }
  }
  const auto report = db.check();
  f.reported = !report || !report->ok;
  if (f.unreadable && !f.reported && !f.wrong)
    f.wrong = "check() is clean, yet: " + f.unreadable->message();
  return f;
}

}  // namespace kessai::test
