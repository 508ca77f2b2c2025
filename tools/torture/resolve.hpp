// SPDX-License-Identifier: Apache-2.0
// Histories that were killed: what became of transactions that got no answer.
//
// Each commit of such a history leaves a marker, a row that names it. What the store holds in the
// end is therefore known exactly, and so is what a kill took back. Allowed is: whatever was not
// answered; relaxed commits, but of each incarnation only the newest ones (a suffix by LSN).
#pragma once

#include "tools/torture/history.hpp"

namespace kessai::torture {

/// A commit found in the store by the row that it left there.
struct Marker {
  std::uint32_t lane = 0;
  std::uint32_t number = 0;
  Lsn lsn = 0;
};

/// Sets the fate of every transaction to committed, aborted or lost. `last`: the incarnation that
/// was not killed. Violations: an answered commit that is not there (lost-commit), an older one
/// missing where a newer survived (hole), a rolled back one that is there (aborted-but-there),
/// other-lsn, and LSNs that do not grow from one incarnation to the next (lsn-repeats).
[[nodiscard]] std::vector<Violation> resolve(History& history, std::span<const Marker> markers,
                                             unsigned last);

}  // namespace kessai::torture
