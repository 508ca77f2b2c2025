// SPDX-License-Identifier: Apache-2.0
// Superblocks and page maps: patches on those blocks of a small store, checksums made right, then
// everything that opening the data file and auditing it does.
//
//   input := u8 flags | patches (store_image.hpp); flags: 1 = checksums stay wrong, 2 = read-only,
//   4 = the rest is one raw superblock
#include "btree/page_header.hpp"
#include "btree/page_store.hpp"
#include "tests/engine/fault_world.hpp"
#include "tests/fuzz/store_image.hpp"

namespace kessai::fuzz {
namespace {

const io::SimDisk& store() {
  static const test::SmallStore kStore(true, 60);
  return kStore.disk;
}

const StoreImage& image() {
  static const StoreImage kImage(store(), [](std::string_view file, std::uint64_t at) {
    static const auto kBytes = store().file_bytes(btree::kDataFile);
    return file == btree::kDataFile &&
           (at < btree::kFirstSlotOffset ||
            btree::read_header(kBytes.data() + at).type == btree::PageType::map);
  });
  return kImage;
}

void decode(std::span<const std::uint8_t> bytes) {
  std::array<std::byte, kPageSize> page{}, again{};
  std::copy_n(reinterpret_cast<const std::byte*>(bytes.data()), std::min(bytes.size(), page.size()),
              page.begin());
  const auto sb = btree::decode_superblock(page);
  if (!sb) return expect(!sb.error().message().empty(), "a superblock is refused without a word");
  btree::encode(*sb, again);
  const auto same = btree::decode_superblock(again);
  expect(same && same->number == sb->number && same->map_hash == sb->map_hash &&
             same->next_page == sb->next_page && same->clean == sb->clean,
         "a superblock does not survive encoding");
}

void audit(btree::PageStore& s) {
  for (const Error& e : s.verify_superblocks()) expect_honest(e);
  if (const auto r = s.verify_map(); !r) expect_honest(r.error());
  if (const auto r = s.audit_space(); !r) expect_honest(r.error());
  for (std::uint64_t p = 1; p < std::min<std::uint64_t>(s.next_page(), 200); ++p)
    if (const auto r = s.verify_stored(PageId{p}); !r) expect_honest(r.error());
}

}  // namespace
}  // namespace kessai::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kessai;
  using namespace kessai::fuzz;
  Input input(data, size);
  const std::uint8_t flags = input.u8();
  if ((flags & 4) != 0) return decode(input.bytes(size)), 0;
  io::SimDisk disk = image().patched(input, (flags & 1) == 0);
  const auto directory = disk.attach();
  io::VirtualClock clock;
  io::SeededRandom random(1);
  io::Env env;
  env.directory = directory.get();
  env.clock = &clock;
  env.random = &random;
  env.background = false;
  const auto s = btree::PageStore::open(
      env, {.memory = 64 * kPageSize, .read_only = (flags & 2) != 0, .lock_timeout_ns = 0});
  if (!s)
    expect_honest(s.error());
  else
    audit(**s);
  return 0;
}
