// SPDX-License-Identifier: Apache-2.0
// kvtorture as a process.
#pragma once

#include <unistd.h>

#include "tests/tools/process.hpp"
#include "tests/tools/seed.hpp"

namespace kessai::torture {

using tools::Json;
using tools::Ran;
using tools::ScratchFolder;

/// `kvtorture WORDS... --json`, its store in `scratch`.
inline Ran kvtorture(std::vector<std::string> words, const ScratchFolder& scratch) {
  words.insert(words.begin(), KESSAI_KVTORTURE);
  words.insert(words.end(), {"--json", "--dir", scratch / "run"});
  return tools::run(words, scratch);
}

/// The modes that this build tree has.
inline std::vector<std::string> modes() {
  std::vector<std::string> out{"mvcc"};
  if (access(KESSAI_KVTORTURE "-s2pl", X_OK) == 0) out.emplace_back("s2pl");
  return out;
}

/// Each mode with each of its levels; in the S2PL build all levels are one.
struct Promise {
  std::string mode, level;
};
inline std::vector<Promise> promises() {
  std::vector<Promise> out;
  for (const char* level : {"read_committed", "snapshot", "serializable", "mixed"})
    out.push_back({"mvcc", level});
  if (modes().size() > 1) out.push_back({"s2pl", "mixed"});
  return out;
}

}  // namespace kessai::torture
