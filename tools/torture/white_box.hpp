// SPDX-License-Identifier: Apache-2.0
// The white-box check: commit LSNs and snapshot LSNs say what each read must have answered.
//
// The state at LSN x holds, for each key, what the committed transaction with the largest commit
// LSN <= x left there. For a transaction with snapshot S and commit LSN C (- : just before it):
//
//   every level      own writes are seen; a locked row is the current one and stays it to the end:
//                    the state at C-
//   read_committed   a read that answered with watermark W saw the state at W (a range: at one W
//                    between those of its first and last call); W never goes back and covers every
//                    commit that was answered before the call
//   snapshot         reads saw the state at S; nobody wrote what it wrote between S and C
//   serializable     as snapshot, and nobody wrote what it read, absent keys and ranges included,
//                    between S and C: it could have run alone at C
//   S2PL build       reads saw the state at C-; without writes: the state at one LSN that covers
//                    every commit that was answered before it began
//
// MVCC: S covers every commit answered before begin (read-only: every durable one). This is exact:
// a history passes if and only if it keeps these rules. It trusts the LSNs that it is told; the
// black box does not.
#pragma once

#include "tools/torture/index.hpp"

namespace kessai::torture {

/// Stops looking after `most` violations.
[[nodiscard]] std::vector<Violation> check_white_box(const History& history, const Index& index,
                                                     std::size_t most = 10);

}  // namespace kessai::torture
