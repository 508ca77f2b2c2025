// SPDX-License-Identifier: Apache-2.0
// kvtorture as a process.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>

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

/// The replay file that a run has left in `scratch`.
class Replay {
 public:
  explicit Replay(const ScratchFolder& scratch) : scratch_(scratch) {
    for (const auto& entry : std::filesystem::directory_iterator(scratch / "run"))
      if (entry.path().extension() == ".replay") file = entry.path();
  }
  [[nodiscard]] Ran run() const {
    std::vector<std::string> words{"replay", file};
    if (KESSAI_S2PL != 0) words.insert(words.end(), {"--mode", "s2pl"});
    return kvtorture(words, scratch_);
  }
  /// Writes the file anew with one field changed.
  void set(const char* field, const Json& value) const {
    auto json = Json::parse(std::ifstream(file));
    json[field] = value;
    std::ofstream(file) << json.dump();
  }

  std::string file;  ///< empty: there is none

 private:
  const ScratchFolder& scratch_;
};

/// How long a torture test may take.
inline double torture_seconds() {
  const char* given = std::getenv("KESSAI_TORTURE_SECONDS");
  const double seconds = given == nullptr ? 0 : std::strtod(given, nullptr);
  return seconds > 0 ? seconds : 60;
}

/// Whether this build tree has the mode: kvtorture itself, or the twin beside it.
inline bool has_mode(std::string_view mode) {
  const bool own = (mode == "s2pl") == (KESSAI_S2PL != 0);
  const std::string twin = std::string(KESSAI_KVTORTURE "-") + std::string(mode);
  return own || access(twin.c_str(), X_OK) == 0;
}

/// Each mode with each of its levels; in the S2PL build all levels are one.
struct Promise {
  std::string mode, level;
};
inline std::vector<Promise> promises() {
  std::vector<Promise> out;
  if (has_mode("mvcc"))
    for (const char* level : {"read_committed", "snapshot", "serializable", "mixed"})
      out.push_back({"mvcc", level});
  if (has_mode("s2pl")) out.push_back({"s2pl", "mixed"});
  return out;
}

}  // namespace kessai::torture
