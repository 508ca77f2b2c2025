// SPDX-License-Identifier: Apache-2.0
// Opening a whole store that somebody changed: patches on any of its blocks. With checksums made
// right nothing of the content can be promised, but that every call answers, that a store which
// opens takes commits, and that it opens again. With wrong checksums (bit flips, as it were) every
// answer is right or an error.
//
//   input := u8 flags | patches (store_image.hpp); flags: 1 = checksums stay wrong, 2 = the store
//   was closed in order, 4, 8 = recovery window, 16 = it also commits, is closed and opened again
#include "tests/engine/fault_world.hpp"
#include "tests/fuzz/store_image.hpp"

namespace kessai::fuzz {
namespace {

constexpr int kRows = 30;

const test::SmallStore& store(bool clean) {
  static const test::SmallStore kClean(true, kRows), kDirty(false, kRows);
  return clean ? kClean : kDirty;
}
const StoreImage& image(bool clean) {
  static const StoreImage kClean(store(true).disk), kDirty(store(false).disk);
  return clean ? kClean : kDirty;
}

/// An error of a call on a store that is open; only then the rest is not looked at.
template <class T>
bool answered(const Result<T>& r) {
  if (!r) expect_honest(r.error());
  return r.has_value();
}

void look(crash::Process& p) {
  (void)crash::read_all(*p.db);
  (void)answered(p.db->check());
}

void commit(crash::Process& p) {
  const auto tree = p.db->tree("main");
  if (!answered(tree)) return;
  for (int i = 0; i < 5; ++i)
    if (!answered(p.db->put(*tree, test::row_key(i * 9), "changed"))) return;
  (void)answered(p.db->remove(*tree, "long"));
}

}  // namespace
}  // namespace kessai::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kessai;
  using namespace kessai::fuzz;
  Input input(data, size);
  const std::uint8_t flags = input.u8();
  if ((flags & 1) != 0) {
    io::SimDisk disk = image(true).patched(input, false);
    const test::Findings f = test::inspect(disk, store(true).tables);
    expect(!f.wrong, f.wrong ? *f.wrong : "");
    if (f.refused) expect_honest(*f.refused);
    return 0;
  }
  io::SimDisk disk = image((flags & 2) != 0).patched(input, true);
  const int openings = (flags & 16) != 0 ? 2 : 1;
  for (int opening = 0; opening < openings; ++opening) {
    crash::Process p(disk, 5);
    constexpr std::uint64_t kWindows[] = {0, 4000, 600, 1};
    p.set_recovery_window(kWindows[(flags >> 2) % 4]);
    if (!answered(p.open())) return 0;
    look(p);
    if (openings == 1) continue;
    commit(p);
    if (!answered(p.close())) return 0;
  }
  return 0;
}
