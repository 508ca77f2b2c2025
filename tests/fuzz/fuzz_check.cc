// SPDX-License-Identifier: Apache-2.0
// Looking into a damaged store, as `kvsh check`, `dump`, `page`, `tree` and `wal` do: patches with
// checksums made right, opened for reading. Every call ends and answers rows or an error.
//
//   input := u8 flags | patches (store_image.hpp); flags: 2 = the store was closed in order
#include "tests/engine/fault_world.hpp"
#include "tests/fuzz/store_image.hpp"

namespace kessai::fuzz {
namespace {

const StoreImage& image(bool clean) {
  static const StoreImage kClean(test::SmallStore(true, 30).disk);
  static const StoreImage kDirty(test::SmallStore(false, 30).disk);
  return clean ? kClean : kDirty;
}

constexpr std::uint64_t kMost = 100'000;  // rows, nodes, records of a store of 1 MiB

template <class T>
void answered(const Result<T>& r) {
  if (!r) expect_honest(r.error());
}

void look_at_tree(Database& db, const std::string& name) {
  const auto tree = db.tree(name);
  if (!tree) return answered(tree);
  for (const bool reverse : {false, true}) {
    std::uint64_t rows = 0;
    auto c = db.scan(*tree, {.from = {}, .to = {}, .reverse = reverse});
    while (c.next()) expect(++rows < kMost, "a scan does not end");
    answered(c.status());
    if (!c.status()) expect(!c.next(), "a cursor went on after an error");
  }
  answered(db.tree_info(*tree));
  if (const auto nodes = db.tree_nodes(*tree); nodes)
    expect(nodes->size() < kMost, "a tree has more nodes than its store");
  answered(db.versions(*tree, test::row_key(3)));
}

}  // namespace
}  // namespace kessai::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kessai;
  using namespace kessai::fuzz;
  Input input(data, size);
  const std::uint8_t flags = input.u8();
  io::SimDisk disk = image((flags & 2) != 0).patched(input, true);
  crash::Process p(disk, 5);
  p.options.read_only = true;
  if (const auto r = p.open(); !r) return answered(r), 0;
  Database& db = *p.db;
  const auto report = db.check();
  answered(report);
  if (report) {
    expect(report->ok == report->damage.empty(), "check() does not say what is wrong");
    for (const Damage& d : report->damage) expect(!d.what.empty(), "damage without a word");
  }
  const auto names = db.tree_names();
  answered(names);
  if (names)
    for (const auto& name : *names) look_at_tree(db, name);
  for (std::uint64_t page = 1; page < 64; ++page) {
    const auto dump = db.page(page);
    if (!dump && dump.error() == Code::invalid_argument) break;  // there are no more
    answered(dump);
  }
  std::uint64_t records = 0;
  answered(db.wal_records([&](const WalRecord&) { return ++records < kMost; }));
  expect(records < kMost, "the log has more records than bytes");
  (void)db.info();
  return 0;
}
