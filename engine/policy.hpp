// SPDX-License-Identifier: Apache-2.0
// How concurrent transactions are kept apart, chosen at compile time (-DKESSAI_CONCURRENCY):
//   mvcc  reads at a snapshot (reads_mvcc.cc, rows_mvcc.*), levels, validation at commit
//   s2pl  strict two-phase locking (reads_s2pl.cc, rows_s2pl.*): shared locks on what is read
// Everything else is the same code: writes, commit, log, pages, recovery, file format. Each build
// opens the other's store.
#pragma once

#include <string_view>

#ifndef KESSAI_S2PL
#define KESSAI_S2PL 0
#endif

namespace kessai::engine {

inline constexpr bool kS2pl = KESSAI_S2PL != 0;
inline constexpr std::string_view kMode = kS2pl ? "s2pl" : "mvcc";

}  // namespace kessai::engine
