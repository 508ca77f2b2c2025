// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/media_client.hpp"

#include <cstdio>

namespace kessai::crash {
namespace {

constexpr std::size_t kMostErrors = 4;

std::string some_value(io::SeededRandom& random) {
  const std::size_t size = random.below(16) == 0 ? 4000 + random.below(3000) : random.below(400);
  std::string v(size, static_cast<char>('a' + random.below(26)));
  for (std::size_t i = 0; i < v.size(); i += 97) v[i] = static_cast<char>('0' + random.below(10));
  return v;
}

}  // namespace

std::string Client::key(int n) {
  char s[16];
  std::snprintf(s, sizeof s, "k%05d", n);
  return s;
}

void Client::failed(const Error& e) {
  errors.push_back(e);
  if (e == Code::poisoned || e == Code::unknown_outcome || errors.size() >= kMostErrors)
    over = true;
}

bool Client::good(const Result<void>& r) {
  if (!r) failed(r.error());
  return r.has_value();
}

std::size_t Client::state_at(Lsn lsn) const {
  std::size_t s = 0;
  while (s + 1 < lsns.size() && lsns[s + 1] <= lsn) ++s;
  return s;
}

void Client::load(Process& p, io::SeededRandom& random, int rows) {
  Tables next;
  Lsn last = 0;
  for (const char* name : {"main", "side"}) {
    const auto tree = p.db->tree(name, {.create = true});
    if (!tree) return failed(tree.error());
    auto held = std::make_shared<Rows>();
    for (int i = 0; i < rows; ++i) {
      const std::string k = key(static_cast<int>(random.below(kKeys))), v = some_value(random);
      const auto lsn = p.db->put(*tree, k, v, Durability::relaxed);
      if (!lsn) return failed(lsn.error());
      (*held)[k] = v;
      last = *lsn;
    }
    next[name] = std::move(held);
  }
  states = {std::move(next)};
  lsns = {last};
  settle(p);
}

void Client::settle(Process& p) {
  if (lsns.back() == 0 || good(p.db->wait_durable(lsns.back()))) told = states.size() - 1;
}

void Client::work(Process& p, io::SeededRandom& random, int transactions) {
  for (int i = 0; i < transactions && !over && !wrong; ++i) {
    p.clock.advance(1'000'000);
    look(p, random);
    if (!over && !wrong) transaction(p, random);
  }
}

void Client::look(Process& p, io::SeededRandom& random) {
  std::string value;
  auto txn = p.db->begin();
  if (!txn) return failed(txn.error());
  for (int n = 0; n < 3; ++n) {
    const char* name = random.below(2) == 0 ? "main" : "side";
    const std::string k = key(static_cast<int>(random.below(kKeys)));
    const auto tree = p.db->tree(name);
    if (!tree) return failed(tree.error());
    const auto lsn = txn->get(*tree, k, value);
    const auto& rows = *states.back().at(name);
    const auto it = rows.find(k);
    if (lsn ? it == rows.end() || it->second != value
            : lsn.error() == Code::not_found && it != rows.end())
      wrong = "a read of " + std::string(name) + "/" + k + " answers something else";
    if (!lsn && lsn.error() != Code::not_found) return failed(lsn.error());
  }
}

void Client::transaction(Process& p, io::SeededRandom& random) {
  const bool durable = random.below(3) != 0;
  auto txn = p.db->begin({.durability = durable ? Durability::durable : Durability::relaxed});
  if (!txn) return failed(txn.error());
  Tables after = states.back();
  const auto changes = 1 + random.below(4);
  for (std::uint64_t n = 0; n < changes; ++n) {
    const char* name = random.below(2) == 0 ? "main" : "side";
    auto rows = std::make_shared<Rows>(*after.at(name));
    const std::string k = key(static_cast<int>(random.below(kKeys))), v = some_value(random);
    const auto tree = p.db->tree(name);
    if (!tree) return failed(tree.error());
    Result<void> r;
    if (rows->contains(k) && random.below(3) == 0) {
      r = txn->remove(*tree, k);
      rows->erase(k);
    } else {
      r = txn->put(*tree, k, v);
      (*rows)[k] = v;
    }
    if (!good(r)) return;
    after[name] = std::move(rows);
  }
  const auto lsn = txn->commit();
  if (lsn || lsn.error() == Code::unknown_outcome) {
    states.push_back(std::move(after));
    lsns.push_back(lsn ? *lsn : lsns.back());
    if (lsn && durable) told = states.size() - 1;
  }
  if (!lsn) failed(lsn.error());
}

std::optional<std::string> contradiction(Database& db, const Tables& expected) {
  if (const auto names = db.tree_names(); names && names->size() != expected.size())
    return "there are other trees";
  std::string value;
  for (const auto& [name, rows] : expected) {
    const auto tree = db.tree(name);
    if (!tree && tree.error() == Code::tree_not_found) return "tree " + name + " is missing";
    if (!tree) continue;
    auto at = rows->begin();
    auto c = db.scan(*tree, {});
    for (; c.next(); ++at) {
      if (at == rows->end() || c.key() != at->first || c.value() != at->second)
        return "a scan of " + name + " answers another row at " + std::string(c.key());
    }
    if (c.status() && at != rows->end()) return "a scan of " + name + " ends early";
    if (!c.status() && c.next()) return "a cursor went on after an error";
    for (int n = 0; n < Client::kKeys; ++n) {
      const std::string k = Client::key(n);
      const auto row = rows->find(k);
      const auto got = db.get(*tree, k, value);
      if (got ? row == rows->end() || row->second != value
              : got.error() == Code::not_found && row != rows->end())
        return "get of " + name + "/" + k + " is wrong";
    }
  }
  return std::nullopt;
}

}  // namespace kessai::crash
