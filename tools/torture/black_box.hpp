// SPDX-License-Identifier: Apache-2.0
// The black-box check: what transactions saw of each other's writes must fit one order. It believes
// no LSN. The idea is Elle's (Kingsbury, Alvaro, "Elle: Inferring Isolation Anomalies from
// Experimental Observations", 2020): a list that is only appended to tells the order of its
// versions, so the dependencies between transactions are known, and isolation levels are cycles
// that must not be (Adya 1999).
//
// Beyond single reads: an absent key and a key missing from a range read are versions too (the one
// before the first), so phantoms are cycles like others.
//
// Levels may be mixed in one history. Each transaction becomes the moments at which its level says
// that it happens, and every edge goes forward in time in every correct run:
//   serializable, S2PL, read-only  one moment
//   snapshot                       two: reads at the first, writes at the second, nobody else's
//                                  write of the same key in between (first updater wins)
//   read_committed                 one; its unlocked reads have no edge to what replaced them
//   wr   the writer's last moment -> the reader's first
//   ww   as wr for a snapshot writer; else last -> last
//   rw   the reader's first moment (a locked read: the last) -> the last of who replaced it
//   rt   ended -> first moment of whoever began later; not from a relaxed commit to a read-only
//        transaction, which reads what is durable
// A cycle is a violation, of the worst of G0, G1c, G-single, G2 that its edges allow; "-realtime"
// when it needs rt.
//
// Registers (one value, blind writes, removals) give wr edges, and rw and ww where a transaction
// read what it replaced.
#pragma once

#include "tools/torture/index.hpp"

namespace kessai::torture {

[[nodiscard]] std::vector<Violation> check_black_box(const History& history, const Index& index,
                                                     std::size_t most = 10);

}  // namespace kessai::torture
