// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/lock_watch.hpp"

#include <algorithm>
#include <set>

#include "kessai/database.hpp"

namespace kessai::torture {
namespace {

constexpr std::uint64_t kPauseNs = 1'000'000;
constexpr unsigned kOftenEnough = 4;  // a picture may mix two moments; four do not do so alike

}  // namespace

LockWatch::LockWatch(Database& db, Board& board) : db_(db), board_(board) {
  thread_ = io::Thread("lock-watch", [this] {
    while (!stop_) {
      look();
      nap(kPauseNs);
    }
  });
}

LockWatch::~LockWatch() {
  stop_ = true;
  thread_.join();
}

void LockWatch::look() {
  std::set<std::pair<std::uint64_t, std::string>> now;
  for (const LockInfo& lock : db_.locks()) {
    if (lock.target.kind == LockTarget::Kind::range || lock.waiters.empty()) continue;
    const LockInfo::Waiter& first = lock.waiters.front();
    if (first.mode == LockMode::shared &&
        std::ranges::all_of(lock.holders, [](const auto& h) { return h.mode == LockMode::shared; }))
      now.emplace(first.transaction, lock.target.key);
  }
  if (!now.empty()) {
    // Scans stand in line for a range, which is not this lock.
    std::set<std::uint64_t> scans;
    for (const TransactionInfo& t : db_.transactions())
      if (t.last_call != "get") scans.insert(t.id);
    std::erase_if(now, [&](const auto& w) { return scans.contains(w.first); });
  }
  std::erase_if(waiting_, [&](const auto& w) { return !now.contains(w.first); });
  for (const auto& waiter : now) {
    if (++waiting_[waiter] != kOftenEnough) continue;
    board_.complain("lost-wake-up", "transaction " + std::to_string(waiter.first) +
                                        " waits to read a row that only readers hold, first in "
                                        "line, and nobody wakes it");
  }
}

}  // namespace kessai::torture
