// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/store_image.hpp"

#include <algorithm>
#include <cstring>
#include <memory>

#include "btree/page_map.hpp"
#include "btree/page_store.hpp"
#include "btree/superblock.hpp"
#include "io/memory.hpp"
#include "wal/format.hpp"

namespace kessai::fuzz {
namespace {

// Superblock: 80 map root slot, 88 its hash, 104 depth, 144 hash of the page.
constexpr std::size_t kMapSlot = 80, kMapHash = 88, kMapDepth = 104, kPageHash = 144;
constexpr std::size_t kEntries = 64;  // of a map chunk: {u64 slot, u128 hash}
// Segment header: 64 salt, 496 hash. Frame: 40 checksum of the one before, 48 its own. Footer: 48.
constexpr std::size_t kSalt = 64, kHeaderHash = 496, kPrevious = 40, kFrameHash = 48;
constexpr std::string_view kFooterMagic = "KSSIEND1";
constexpr unsigned kMostDepth = 3;

template <class T>
T get(const std::byte* block, std::size_t at) {
  T out;
  std::memcpy(&out, block + at, sizeof out);
  return out;
}

bool is_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

StoreImage::StoreImage(const io::SimDisk& disk, Want want) : disk_(disk), names_(disk.files()) {
  for (std::size_t f = 0; f < names_.size(); ++f) {
    if (names_[f] == btree::kDataFile) data_file_ = f;
    const auto& bytes = files_.emplace_back(disk.file_bytes(names_[f]));
    for (std::uint64_t b = 0; (b + 1) * kBlock <= bytes.size(); ++b)
      if (!is_zero(std::span(bytes).subspan(b * kBlock, kBlock)) && want(names_[f], b * kBlock))
        used_.push_back({f, b});
  }
}

bool StoreImage::exists(Place at) const { return at.block < files_[at.file].size() / kBlock; }

const std::byte* StoreImage::read(const Patched& patched, Place at) const {
  const auto it = patched.find(at);
  return it != patched.end() ? it->second.data() : files_[at.file].data() + at.block * kBlock;
}

StoreImage::Block& StoreImage::change(Patched& patched, Place at) const {
  const auto [it, fresh] = patched.try_emplace(at);
  if (fresh) std::memcpy(it->second.data(), files_[at.file].data() + at.block * kBlock, kBlock);
  return it->second;
}

void StoreImage::put(Patched& patched, Place at, std::size_t offset, const void* bytes,
                     std::size_t n) const {
  if (std::memcmp(read(patched, at) + offset, bytes, n) == 0) return;
  std::memcpy(change(patched, at).data() + offset, bytes, n);
}

io::SimDisk StoreImage::patched(Input& input, bool checksums_made_right) const {
  Patched patched;
  while (!input.empty() && !used_.empty()) {
    const Place at = used_[input.u8() % used_.size()];
    const std::size_t offset = input.u16() % kBlock;
    const auto bytes = input.bytes(input.u8() % 16 + 1);
    const std::size_t n = std::min(bytes.size(), kBlock - offset);
    if (n != 0) std::memcpy(change(patched, at).data() + offset, bytes.data(), n);
  }
  if (checksums_made_right && !patched.empty()) make_checksums_right(patched);
  return disk_with(patched);
}

io::SimDisk StoreImage::with(std::string_view file, std::uint64_t offset,
                             std::span<const std::byte> bytes) const {
  Patched patched;
  const auto f = static_cast<std::size_t>(std::ranges::find(names_, file) - names_.begin());
  std::memcpy(change(patched, {f, offset / kBlock}).data() + offset % kBlock, bytes.data(),
              bytes.size());
  make_checksums_right(patched);
  return disk_with(patched);
}

void StoreImage::make_checksums_right(Patched& patched) const {
  for (std::size_t f = 0; f < names_.size(); ++f)
    if (names_[f].starts_with("wal-")) fix_segment(patched, f);
  if (names_[data_file_] != btree::kDataFile) return;
  for (unsigned i = 0; i < btree::kSuperblocks; ++i)
    if (const Place at{data_file_, i * btree::kSuperblockStride / kBlock}; exists(at))
      fix_superblock(patched, at);
}

io::SimDisk StoreImage::disk_with(const Patched& patched) const {
  io::SimDisk out = disk_;
  const auto directory = out.attach();
  std::unique_ptr<io::File> open;
  std::size_t open_file = 0;
  io::AlignedBuffer buffer(kBlock);
  for (const auto& [at, block] : patched) {
    if (!open || at.file != open_file) {
      open = std::move(*directory->open(names_[at.file], io::OpenMode::read_write));
      open_file = at.file;
    }
    std::memcpy(buffer.data(), block.data(), kBlock);
    expect(open->write(at.block * kBlock, buffer.span()).has_value(), "the harness cannot patch");
  }
  return out.survivor(io::CrashOutcome::all, 1);
}

StoreImage::Place StoreImage::place_of_slot(std::uint64_t slot) const {
  return {data_file_, btree::kFirstSlotOffset / kBlock + slot - 1};
}

void StoreImage::fix_superblock(Patched& patched, Place at) const {
  const std::byte* sb = read(patched, at);
  if (is_zero(std::span(sb, 8))) return;
  const auto depth = get<std::uint32_t>(sb, kMapDepth);
  const auto slot = get<std::uint64_t>(sb, kMapSlot);
  if (depth >= 1 && depth <= kMostDepth && fix_chunk(patched, slot, depth - 1)) {
    const auto hash = btree::hash_page(read(patched, place_of_slot(slot)));
    put(patched, at, kMapHash, &hash, sizeof hash);
  }
  Block copy;
  std::memcpy(copy.data(), read(patched, at), kBlock);
  std::memset(copy.data() + kPageHash, 0, sizeof(btree::Hash128));
  const auto hash = btree::hash_page(copy.data());
  put(patched, at, kPageHash, &hash, sizeof hash);
}

/// False: there is no such slot.
bool StoreImage::fix_chunk(Patched& patched, std::uint64_t slot, unsigned level) const {
  const Place at = place_of_slot(slot);
  if (slot == 0 || !exists(at)) return false;
  const bool all = patched.contains(at);  // entries may name other slots now
  for (std::size_t i = 0; i < btree::kMapFanout; ++i) {
    const std::size_t entry = kEntries + i * sizeof(btree::MapEntry);
    const auto child = get<std::uint64_t>(read(patched, at), entry);
    const Place page = place_of_slot(child);
    if (child == 0 || !exists(page)) continue;
    if (level > 0 && !fix_chunk(patched, child, level - 1)) continue;
    if (!all && !patched.contains(page)) continue;
    const auto hash = btree::hash_page(read(patched, page));
    put(patched, at, entry + 8, &hash, sizeof hash);
  }
  return true;
}

void StoreImage::fix_segment(Patched& patched, std::size_t file) const {
  const std::uint64_t blocks = files_[file].size() / kBlock;
  if (blocks < wal::kMinSegmentBlocks) return;
  for (std::uint64_t b = 0; b < wal::kHeaderBlocks; ++b) {
    if (!patched.contains({file, b})) continue;
    Block& header = change(patched, {file, b});
    std::memset(header.data() + kHeaderHash, 0, 16);
    const auto hash = wal::hash128(header);
    std::memcpy(header.data() + kHeaderHash, &hash, sizeof hash);
  }
  const wal::Salt salt(get<wal::Salt::Bytes>(read(patched, {file, 0}), kSalt));
  bool changed = patched.contains({file, 0});  // a frame before, or the salt
  std::uint64_t previous = 0;
  for (std::uint64_t b = wal::kHeaderBlocks; b < blocks;) {
    const auto frame = wal::peek_frame({read(patched, {file, b}), kBlock});
    const std::uint64_t n = frame ? wal::frame_bytes(frame->payload, kBlock) / kBlock : 1;
    if (!frame || n > blocks - b) {
      ++b;
      continue;
    }
    std::vector<std::byte> whole(n * kBlock);
    for (std::uint64_t i = 0; i < n; ++i) {
      changed |= patched.contains({file, b + i});
      std::memcpy(whole.data() + i * kBlock, read(patched, {file, b + i}), kBlock);
    }
    if (changed) {
      if (previous != 0) put(patched, {file, b}, kPrevious, &previous, sizeof previous);
      std::memcpy(whole.data(), read(patched, {file, b}), kBlock);
      std::memset(whole.data() + kFrameHash, 0, 16);
      const auto hash = salt.hash(whole);
      put(patched, {file, b}, kFrameHash, &hash, sizeof hash);
    }
    previous = get<std::uint64_t>(read(patched, {file, b}), kFrameHash);
    b += n;
  }
  const Place last{file, blocks - 1};
  if (patched.contains(last) &&
      std::memcmp(read(patched, last), kFooterMagic.data(), kFooterMagic.size()) == 0) {
    Block& footer = change(patched, last);
    std::memset(footer.data() + kFrameHash, 0, 16);
    const auto hash = salt.hash(footer);
    std::memcpy(footer.data() + kFrameHash, &hash, sizeof hash);
  }
}

}  // namespace kessai::fuzz
