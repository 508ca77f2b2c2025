// SPDX-License-Identifier: Apache-2.0
// For the tests of the lock table: owners that act on threads of their own, so that they can wait
// and are nobody's "other transaction of this thread"; time is a clock that the test moves.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/env.hpp"
#include "mvcc/lock_table.hpp"

namespace kessai::mvcc {

inline constexpr TreeId kTree{7};
inline constexpr std::uint64_t kSecond = 1'000'000'000;
inline constexpr std::uint64_t kLong = 3600 * kSecond;
inline constexpr LockMode kS = LockMode::shared;
inline constexpr LockMode kX = LockMode::exclusive;

inline std::uint64_t seed_or(std::uint64_t standard) {
  const char* given = std::getenv("KESSAI_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : standard;
}

/// A transaction with its thread: runs one call at a time.
class Actor {
 public:
  using Call = std::function<Result<bool>(LockSet&)>;

  explicit Actor(LockTable& table, std::uint64_t id) : table_(table), set_(OwnerId{id}) {
    thread_ = io::Thread("actor", [this] { run(); });
  }
  ~Actor() {
    (void)finish();
    table_.release_all(set_);
    state_.store(kEnd);
    io::futex_wake(state_, 1);
  }
  Actor(const Actor&) = delete;
  Actor& operator=(const Actor&) = delete;

  void start(Call call) {
    call_ = std::move(call);
    result_.reset();
    state_.store(kBusy);
    io::futex_wake(state_, 1);
  }
  [[nodiscard]] bool idle() const { return state_.load() == kIdle; }
  /// The answer of the last call, once it is there.
  std::optional<Result<bool>> finish() {
    while (!idle()) io::yield_thread();
    return result_;
  }
  Result<bool> operator()(Call call) {
    start(std::move(call));
    return *finish();
  }
  void release() { table_.release_all(set_); }  // by the caller's thread
  LockSet& set() { return set_; }

 private:
  enum : std::uint32_t { kIdle, kBusy, kEnd };
  void run() {
    for (;;) {
      const std::uint32_t state = state_.load();
      if (state == kEnd) return;
      if (state == kIdle) {
        io::futex_wait(state_, kIdle, kSecond);
        continue;
      }
      result_.emplace(call_(set_));
      state_.store(kIdle);
    }
  }

  LockTable& table_;
  LockSet set_;
  Call call_;
  std::optional<Result<bool>> result_;
  io::Atomic<std::uint32_t> state_{kIdle};
  io::Thread thread_;
};

class LockFixture : public testing::Test {
 protected:
  explicit LockFixture(bool ranges = false)
      : table_(clock_, LockTable::Options{.ranges = ranges, .waits = nullptr}) {}

  Actor& actor(std::uint64_t id) {
    return *actors_.emplace_back(std::make_unique<Actor>(table_, id));
  }
  Actor::Call record(std::string key, LockMode mode, std::uint64_t timeout = kLong) {
    return [this, key, mode, timeout](LockSet& set) {
      return table_.acquire(set, kTree, key, mode, timeout);
    };
  }
  Actor::Call named(std::string name, LockMode mode, std::uint64_t timeout = kLong) {
    return [this, name, mode, timeout](LockSet& set) {
      return table_.acquire_named(set, name, mode, timeout);
    };
  }
  Actor::Call range(std::string from, std::optional<std::string> to,
                    std::uint64_t timeout = kLong) {
    return [this, from, to, timeout](LockSet& set) {
      return table_.acquire_range(
          set, kTree, from, to ? std::optional<std::string_view>(*to) : std::nullopt, timeout);
    };
  }
  void await_waiting(std::uint64_t n) {
    while (table_.counters().waiting != n) io::yield_thread();
  }
  /// Starts a call that has to wait, and comes back when it does.
  void wait(Actor& a, Actor::Call call) {
    const std::uint64_t before = table_.counters().waiting;
    a.start(std::move(call));
    await_waiting(before + 1);
  }
  static bool granted(const std::optional<Result<bool>>& r) { return r && *r && **r; }
  static bool refused(const std::optional<Result<bool>>& r, Code code) {
    return r && !*r && r->error() == code;
  }
  LockTable::View view_of(std::string_view key, LockKind kind = LockKind::record) {
    LockTable::View found;
    table_.iterate([&](const LockTable::View& v) {
      if (v.name.kind == kind && v.name.key == key) found = v;
    });
    return found;
  }
  static std::vector<std::uint64_t> owners(const auto& list) {
    std::vector<std::uint64_t> ids;
    for (const auto& x : list) ids.push_back(static_cast<std::uint64_t>(x.owner));
    return ids;
  }

  io::VirtualClock clock_;
  LockTable table_;
  std::vector<std::unique_ptr<Actor>> actors_;
};

using Ids = std::vector<std::uint64_t>;

}  // namespace kessai::mvcc
