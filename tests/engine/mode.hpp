// SPDX-License-Identifier: Apache-2.0
// What a test that runs in both concurrency builds must know of them. In the S2PL build reads take
// shared locks: they wait for writers of other threads and writers wait for them, a conflict within
// one thread answers self_deadlock, and whoever waits can be the victim of a deadlock.
#pragma once

#include "kessai/kessai.hpp"

namespace kessai::engine_test {

inline constexpr bool kS2plBuild = KESSAI_S2PL != 0;

[[nodiscard]] inline bool s2pl(const Database& db) { return db.info().mode == "s2pl"; }

/// Whether the call must simply be made again: in the S2PL build readers, and writers of one row
/// among readers of ranges, can be deadlock victims. Never in the MVCC build.
[[nodiscard]] inline bool lost_a_deadlock(const Database& db, const Error& e) {
  return e == Code::deadlock && e.retryable() && s2pl(db);
}

template <class Call>
auto despite_deadlocks(const Database& db, Call call) {
  for (;;)
    if (auto done = call(); done || !lost_a_deadlock(db, done.error())) return done;
}

}  // namespace kessai::engine_test
