// SPDX-License-Identifier: Apache-2.0
// A program that knows kessai from its installed package only: creates a store, commits, reopens,
// reads back. Exit 0 when the answer is right.
#include <kessai/kessai.hpp>

#include <cstdio>

namespace {

kessai::Result<std::string> write_then_read(const char* path) {
  {
    auto db = kessai::Database::open(path, {.create = true});
    if (!db) return std::unexpected(db.error());
    auto tree = db->tree("greetings", {.create = true});
    if (!tree) return std::unexpected(tree.error());
    if (auto lsn = db->put(*tree, "hello", "world"); !lsn) return std::unexpected(lsn.error());
    if (auto closed = db->close(); !closed) return std::unexpected(closed.error());
  }
  auto db = kessai::Database::open(path, {.read_only = true});
  if (!db) return std::unexpected(db.error());
  auto tree = db->tree("greetings");
  if (!tree) return std::unexpected(tree.error());
  return db->get(*tree, "hello");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto value = write_then_read(argv[1]);
  if (!value) std::fprintf(stderr, "%s\n", value.error().message().c_str());
  return value && *value == "world" ? 0 : 1;
}
