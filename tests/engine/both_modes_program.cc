// SPDX-License-Identifier: Apache-2.0
// One engine of both_modes_test.cc, built once per concurrency mode:
//
//   PROGRAM DIRECTORY STEPS END
//
// The store in DIRECTORY must hold what STEPS steps of a fixed workload leave there (a store
// without any is created). The program looks at it in every way, makes one more step, and ends:
//   close        in order
//   kill         by SIGKILL, with everything committed durable and a transaction open
//   cut          as kill, but with a checkpoint in the middle of the step, whose image keeps
//                deleted rows as ghosts
//   read         without a step, the store opened for reading only
// It prints "MODE clean=0|1 ghosts=N" about what it found; a mismatch is told and ends it with 1.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "io/env.hpp"
#include "kessai/kessai.hpp"

namespace {

using kessai::Database;
using kessai::Durability;
using kessai::Transaction;
using kessai::Tree;

using Rows = std::map<std::string, std::string>;
using Tables = std::map<std::string, Rows>;

struct Op {
  std::string tree, key;
  std::optional<std::string> value;  // nothing: remove
};

[[noreturn]] void wrong(const std::string& what) {
  std::printf("wrong: %s\n", what.c_str());
  std::fflush(stdout);
  std::_Exit(1);
}

template <class T>
T must(kessai::Result<T> r, const char* what) {
  if (!r) wrong(std::string(what) + ": " + r.error().message());
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

/// Step `n`: overwrites, long values, many removals, all over the trees that exist then.
std::vector<Op> ops_of(unsigned n) {
  kessai::io::SeededRandom random(1000 + n);
  std::vector<Op> ops;
  for (unsigned i = 0; i < 400; ++i) {
    Op op;
    op.tree = random.below(4) == 0 ? "side" : n % 3 == 1 && random.below(4) == 0 ? "extra" : "main";
    op.key = "key" + std::to_string(random.below(500));
    if (random.below(3) != 0) {
      const auto size = random.below(20) == 0 ? 3000 + random.below(30'000) : random.below(300);
      op.value = std::to_string(n) + std::string(size, static_cast<char>('a' + random.below(26)));
    }
    ops.push_back(std::move(op));
  }
  return ops;
}

/// "extra" comes with steps 1, 4, 7, ... and goes with the next.
bool extra_after(unsigned n) { return n % 3 == 1; }

Tables state_after(unsigned steps) {
  Tables t{{"main", {}}, {"side", {}}};
  for (unsigned n = 1; n <= steps; ++n) {
    t.erase("extra");
    if (extra_after(n)) t["extra"];
    for (const Op& op : ops_of(n)) {
      if (op.value) {
        t[op.tree][op.key] = *op.value;
      } else {
        t[op.tree].erase(op.key);
      }
    }
  }
  return t;
}

void expect_rows(const std::string& tree, const Rows& found, const Rows& expected,
                 const char* way) {
  if (found == expected) return;
  for (const auto& [k, v] : expected)
    if (const auto f = found.find(k); f == found.end() || f->second != v)
      wrong(tree + "/" + k + (f == found.end() ? " is missing" : " is another") + " by " + way);
  wrong(tree + " has rows too many by " + way);
}

Rows rows_of(kessai::Cursor c) {
  Rows rows;
  while (c.next()) rows.emplace(c.key(), c.value());
  must(c.status(), "scan");
  return rows;
}

void look(Database& db, const Tables& expected) {
  const auto names = must(db.tree_names(), "tree_names");
  if (names.size() != expected.size()) wrong("other trees");
  for (const auto& [name, rows] : expected) {
    const Tree t = must(db.tree(name), "tree");
    expect_rows(name, rows_of(db.scan(t, {})), rows, "scan");
    auto txn = must(db.begin(), "begin");
    expect_rows(name, rows_of(txn.scan(t, {.from = {}, .to = {}, .reverse = true})), rows,
                "reverse scan");
    Rows got, many;
    std::vector<std::string> keys;
    for (unsigned i = 0; i < 500; ++i) keys.push_back("key" + std::to_string(i));
    for (const auto& k : keys)
      if (auto v = txn.get(t, k)) got[k] = *v;
    expect_rows(name, got, rows, "get");
    must(txn.rollback(), "rollback");
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    std::vector<kessai::Lookup> out(keys.size());
    must(db.multi_get(t, views, out), "multi_get");
    for (std::size_t i = 0; i < keys.size(); ++i)
      if (out[i].found) many[keys[i]] = out[i].value;
    expect_rows(name, many, rows, "multi_get");
    if (must(db.tree_info(t), "tree_info").records != rows.size()) wrong(name + ": record count");
  }
  const auto report = must(db.check(), "check");
  for (const auto& d : report.damage) wrong("check: " + d.what);
}

std::size_t ghosts_in(Database& db) {
  std::size_t ghosts = 0;
  for (const auto& name : must(db.tree_names(), "tree_names"))
    for (const auto& node : must(db.tree_nodes(must(db.tree(name), "tree")), "tree_nodes"))
      for (const auto& entry : must(db.page(node.page), "page").entries) ghosts += entry.ghost;
  return ghosts;
}

void work(Database& db, unsigned n, bool cut) {
  if (extra_after(n)) (void)must(db.tree("extra", {.create = true}), "create");
  if (extra_after(n + 2)) must(db.drop_tree("extra"), "drop");  // of the step before
  const auto ops = ops_of(n);
  kessai::Lsn last = 0;
  constexpr std::size_t kTogether = 20;
  for (std::size_t from = 0; from < ops.size(); from += kTogether) {
    if (cut && from == ops.size() / 2 / kTogether * kTogether) must(db.checkpoint(), "checkpoint");
    auto txn = must(db.begin({.durability = Durability::relaxed}), "begin");
    for (std::size_t i = from; i < from + kTogether && i < ops.size(); ++i) {
      const Tree t = must(db.tree(ops[i].tree), "tree");
      const auto done =
          ops[i].value ? txn.put(t, ops[i].key, *ops[i].value) : txn.remove(t, ops[i].key);
      if (!done && done.error() != kessai::Code::not_found) must(done, "write");
    }
    last = std::max(last, must(txn.commit(), "commit"));
  }
  must(db.wait_durable(last), "wait_durable");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const auto steps = static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10));
  const std::string end = argv[3];
  kessai::Options o;
  o.create = steps == 0;
  o.read_only = end == "read";
  o.memory = 1 << 20;
  o.wal_limit = 4 << 20;
  auto db = must(Database::open(argv[1], o), "open");
  if (steps == 0) (void)must(db.tree("side", {.create = true}), "create");
  const std::size_t ghosts = ghosts_in(db);
  look(db, state_after(steps));
  const auto info = db.info();
  std::printf("%s clean=%d ghosts=%zu\n", info.mode.c_str(), info.clean ? 1 : 0, ghosts);
  std::fflush(stdout);
  if (end == "read") return db.close() ? 0 : 1;
  // An old snapshot keeps removed rows in their pages, as ghosts (MVCC; in the S2PL build they stay
  // until upkeep comes by).
  auto old = must(db.read_only(), "read_only");
  work(db, steps + 1, end == "cut");
  auto open = must(db.begin(), "begin");
  must(open.put(must(db.tree("main"), "tree"), "key0", "never"), "put");
  must(open.put(must(db.tree("main"), "tree"), "never", std::string(9000, 'n')), "put");
  if (end != "close") ::kill(::getpid(), SIGKILL);
  must(db.close(), "close");
  return 0;
}
