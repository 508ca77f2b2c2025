// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/resolve.hpp"

#include <algorithm>
#include <map>

namespace kessai::torture {

std::vector<Violation> resolve(History& h, std::span<const Marker> markers, unsigned last) {
  std::vector<Violation> found;
  std::map<std::pair<std::uint32_t, std::uint32_t>, Lsn> survived;  // lane, number -> LSN
  for (const Marker& m : markers) survived[{m.lane, m.number}] = m.lsn;
  std::vector<Lsn> newest(last + 2, 0), oldest(last + 2, ~Lsn{0});  // LSNs of each incarnation
  std::vector<Lsn> newest_survivor(last + 2, 0);
  const auto complain = [&](const char* kind, TxnIndex i, const std::string& what) {
    found.push_back({kind, h.name(i) + ": " + what + "\n  " + h.describe(i)});
  };
  for (TxnIndex i = 0; i < h.transactions.size(); ++i) {
    Transaction& t = h.transactions[i];
    const auto marker = survived.find({t.lane, t.number});
    const Lsn there = marker == survived.end() ? 0 : marker->second;
    if (there != 0) {
      newest_survivor[t.incarnation] = std::max(newest_survivor[t.incarnation], there);
      if (t.fate() == Fate::aborted) complain("aborted-but-there", i, "its commit is in the store");
      if (t.commit != 0 && t.commit != there)
        complain("other-lsn", i, "the store has it at LSN " + std::to_string(there));
    }
    for (const Lsn lsn : {there, t.commit}) {
      if (lsn == 0) continue;
      newest[t.incarnation] = std::max(newest[t.incarnation], lsn);
      oldest[t.incarnation] = std::min(oldest[t.incarnation], lsn);
    }
  }
  for (TxnIndex i = 0; i < h.transactions.size(); ++i) {
    Transaction& t = h.transactions[i];
    const bool there = survived.contains({t.lane, t.number});
    const Fate fate = t.fate();
    if (fate == Fate::aborted || (fate == Fate::committed && t.commit == 0)) continue;
    if (there) {
      t.commit = survived[{t.lane, t.number}];
      t.fate(Fate::committed);
      continue;
    }
    if (fate == Fate::committed && (!t.relaxed || t.incarnation == last))
      complain("lost-commit", i, "it was answered, and is not in the store");
    else if (t.commit != 0 && t.commit < newest_survivor[t.incarnation])
      complain("hole", i,
               "it is not in the store, though LSN " +
                   std::to_string(newest_survivor[t.incarnation]) + " is");
    t.fate(Fate::lost);
  }
  for (unsigned n = 1; n <= last; ++n) {
    if (newest[n - 1] != 0 && oldest[n] <= newest[n - 1])
      found.push_back({"lsn-repeats", "after kill " + std::to_string(n) + " LSN " +
                                          std::to_string(oldest[n]) + " was given out, though " +
                                          std::to_string(newest[n - 1]) + " had been"});
  }
  return found;
}

}  // namespace kessai::torture
