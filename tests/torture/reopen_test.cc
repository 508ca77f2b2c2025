// SPDX-License-Identifier: Apache-2.0
// Goal: a store opens however often its process dies young. Symptom of the bug that this guards:
// every open starts a new log segment; after enough deaths before the first checkpoint the log
// was at wal_limit, the open waited for a checkpoint that no thread was there to take, and failed
// with disk_full, for ever. Method: processes that open, commit once and die, one after the other.
#include <gtest/gtest.h>

#include "kessai/database.hpp"
#include "tests/io/temp_dir.hpp"

namespace kessai::torture {
namespace {

TEST(Reopening, SurvivesManyDeathsInARow) {
  const io::test::TempDir dir;
  const std::string path = dir.path() + "/store";
  Options o;
  o.create = true;
  o.memory = 2_MiB;
  o.wal_limit = 4_MiB;
  constexpr int kDeaths = 40;
  for (int i = 0; i < kDeaths; ++i) {
    const int code = io::test::in_child([&] {
      auto db = Database::open(path, o);
      if (!db) {
        std::fprintf(stderr, "%s\n", db.error().message().c_str());
        return 1;
      }
      auto tree = db->tree("main");
      if (!tree) return 2;
      const std::string last = std::to_string(i - 1), now = std::to_string(i);
      if (i > 0 && !db->get(*tree, last)) return 3;
      if (!db->put(*tree, now, "here")) return 4;
      ::_exit(0);  // without closing
      return 5;
    });
    ASSERT_EQ(code, 0) << "after " << i << " deaths";
  }
}

}  // namespace
}  // namespace kessai::torture
