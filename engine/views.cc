// SPDX-License-Identifier: Apache-2.0
// Who is at work and who waits for whom; ending transactions that idle or grow too old.
#include <algorithm>
#include <exception>
#include <numeric>
#include <utility>

#include "engine/transaction.hpp"

namespace kessai::engine {
namespace {

LockMode public_mode(mvcc::LockMode m) {
  return m == mvcc::LockMode::shared ? LockMode::shared : LockMode::exclusive;
}

}  // namespace

std::string Store::tree_name(TreeId id) const {
  if (id == kCatalogTree) return "(catalog)";
  io::MutexLock lock(trees_mutex_);
  for (const auto& [name, t] : trees_) {
    if (t->tree.id() == id) return name;
  }
  return "#" + std::to_string(raw(id));
}

std::uint64_t Store::idle_limit_ns() const noexcept { return to_ns(options_.idle_limit); }
std::uint64_t Store::age_limit_ns() const noexcept { return to_ns(options_.age_limit); }

void Store::expire_transactions() {
  if (idle_limit_ns() == 0 && age_limit_ns() == 0) return;
  const std::uint64_t now = coarse_now();
  std::vector<TransactionState*> expired;
  registry_.visit([&](TransactionState& t) {
    if (t.claim_if_expired(now)) expired.push_back(&t);
  });
  for (TransactionState* t : expired) t->expire(Code::transaction_expired);
}

std::vector<TransactionInfo> Store::transactions() const {
  const std::uint64_t now = coarse_now();
  std::vector<TransactionInfo> out;
  out.reserve(counters.active.load(std::memory_order_relaxed) + 64);  // not under its spin locks
  registry_.visit([&](const TransactionState& t) { out.push_back(t.info(now)); });
  // Each with what is kept for it and for older ones.
  std::vector<Lsn> snapshots;
  for (const auto& t : out) {
    if (t.snapshot_lsn != 0) snapshots.push_back(t.snapshot_lsn);
  }
  std::sort(snapshots.begin(), snapshots.end());
  auto bytes = undo_->bytes_needed(snapshots);
  std::partial_sum(bytes.begin(), bytes.end(), bytes.begin());
  for (auto& t : out) {
    const auto at = std::upper_bound(snapshots.begin(), snapshots.end(), t.snapshot_lsn);
    if (t.snapshot_lsn != 0)
      t.undo_bytes = bytes[static_cast<std::size_t>(at - snapshots.begin()) - 1];
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return out;
}

std::vector<LockInfo> Store::lock_infos() const {
  std::vector<LockInfo> out;
  locks_->iterate([&](const mvcc::LockTable::View& v) {
    LockInfo& i = out.emplace_back();
    i.target = lock_target(v.name);
    i.target.key_is_cut = v.name_is_cut;
    for (const auto& h : v.holders)
      i.holders.push_back({std::to_underlying(h.owner), public_mode(h.mode), h.thread});
    for (const auto& w : v.waiters) {
      i.waiters.push_back({std::to_underlying(w.owner), public_mode(w.mode), w.thread,
                           std::chrono::nanoseconds(w.waited_ns)});
    }
  });
  return out;
}

LockTarget Store::lock_target(const mvcc::LockName& name) const {
  LockTarget t;
  t.kind = static_cast<LockTarget::Kind>(name.kind);
  if (name.kind != mvcc::LockKind::named) t.tree = tree_name(name.tree);
  t.key = name.key;
  t.to = name.to;
  return t;
}

std::vector<DeadlockInfo> Store::deadlocks() const {
  const std::uint64_t now = env_->clock->now_ns();
  std::vector<DeadlockInfo> out;
  for (const auto& d : locks_->deadlocks()) {
    DeadlockInfo& i = out.emplace_back();
    i.ago = std::chrono::nanoseconds(now > d.at_ns ? now - d.at_ns : 0);
    i.victim = std::to_underlying(d.victim);
    for (const auto& m : d.cycle) {
      i.cycle.push_back({std::to_underlying(m.owner), m.thread, public_mode(m.wants),
                         lock_target(m.name), std::chrono::nanoseconds(m.waited_ns), m.work});
    }
  }
  return out;
}

Result<void> Store::call_out(const std::function<void()>& fn) {
  try {
    fn();
    return {};
  } catch (const std::exception& e) {
    return fail(Code::callback_failed, std::string("a function of the caller threw: ") + e.what());
  } catch (...) {
    return fail(Code::callback_failed, "a function of the caller threw");
  }
}

void Store::run_hooks(const std::vector<std::function<void(Lsn)>>& hooks, Lsn lsn) const {
  for (const auto& hook : hooks) {
    if (auto ok = call_out([&] { hook(lsn); }); !ok) say("on_commit: " + ok.error().message());
  }
}

}  // namespace kessai::engine

namespace kessai {
namespace {

std::string target_text(const LockTarget& t) {
  switch (t.kind) {
    case LockTarget::Kind::named:
      return "the name \"" + t.key + "\"";
    case LockTarget::Kind::range:
      return "keys [" + t.key + ", " + (t.to ? *t.to + ")" : "end)") + " of " + t.tree;
    case LockTarget::Kind::record:
      break;
  }
  return t.tree + "/" + t.key;
}

const char* mode_text(LockMode m) { return m == LockMode::shared ? "S" : "X"; }

std::string printable(std::string_view s) {
  std::string out;
  for (const char c : s) {
    const auto u = static_cast<unsigned char>(c);
    if (u >= 0x20 && u < 0x7f && c != '"' && c != '\\') {
      out += c;
    } else {
      constexpr char kHex[] = "0123456789abcdef";
      out += "\\x";
      out += kHex[u >> 4];
      out += kHex[u & 15];
    }
  }
  return out;
}

LockTarget printable(LockTarget t) {
  t.tree = printable(std::string_view(t.tree));
  t.key = printable(std::string_view(t.key));
  if (t.to) t.to = printable(std::string_view(*t.to));
  return t;
}

}  // namespace

std::string deadlock_text(const DeadlockInfo& d) {
  std::string out;
  for (std::size_t i = 0; i < d.cycle.size(); ++i) {
    const auto& m = d.cycle[i];
    const auto& blocker = d.cycle[(i + 1) % d.cycle.size()];
    out += "transaction " + std::to_string(m.transaction) + " (work " + std::to_string(m.work) +
           ") wants " + mode_text(m.wants) + " on " + target_text(printable(m.target)) +
           ", waits for " + std::to_string(blocker.transaction);
    out += m.transaction == d.victim ? "  <- victim\n" : "\n";
  }
  return out;
}

std::string deadlock_dot(const DeadlockInfo& d) {
  std::string out = "digraph deadlock {\n";
  for (std::size_t i = 0; i < d.cycle.size(); ++i) {
    const auto& m = d.cycle[i];
    const auto& blocker = d.cycle[(i + 1) % d.cycle.size()];
    const std::string id = std::to_string(m.transaction);
    if (m.transaction == d.victim) out += "  t" + id + " [color=red];\n";
    // The label is quoted: target_text's own quotes must not end it.
    std::string label = std::string(mode_text(m.wants)) + " " + target_text(printable(m.target));
    std::replace(label.begin(), label.end(), '"', '\'');
    out.append("  t").append(id).append(" -> t").append(std::to_string(blocker.transaction));
    out.append(" [label=\"").append(label).append("\"];\n");
  }
  return out + "}\n";
}

}  // namespace kessai
