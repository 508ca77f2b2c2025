// SPDX-License-Identifier: Apache-2.0
// A small store as an image that a fuzzer damages: the input is a list of patches on the blocks
// that are in use, and afterwards every checksum that guards a patched block is made right again
// (page hashes in the map, map chunks, superblocks, segment headers, frames and their chain,
// footers), so that what reads the store has nothing but its own care. The layouts are those of
// btree/superblock.hpp, btree/page_map.hpp and wal/format.hpp, written down here once more so that
// fields no encoder would write can be reached.
//
//   input := patch*      patch := u8 block | u16 offset | u8 n | n % 16 + 1 bytes
#pragma once

#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "io/sim_disk.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace kessai::fuzz {

class StoreImage {
 public:
  /// The blocks that `want(file, offset)` lets through are patched.
  using Want = bool (*)(std::string_view file, std::uint64_t offset);
  explicit StoreImage(
      const io::SimDisk& disk, Want want = [](std::string_view, std::uint64_t) { return true; });

  /// A disk with the image and the patches of `input`.
  [[nodiscard]] io::SimDisk patched(Input& input, bool checksums_made_right) const;
  /// The same for one patch, checksums made right: for tests of what fuzzing found.
  [[nodiscard]] io::SimDisk with(std::string_view file, std::uint64_t offset,
                                 std::span<const std::byte> bytes) const;

 private:
  static constexpr std::size_t kBlock = 4096;
  using Block = std::array<std::byte, kBlock>;
  struct Place {
    std::size_t file = 0;
    std::uint64_t block = 0;
    auto operator<=>(const Place&) const = default;
  };
  using Patched = std::map<Place, Block>;

  void make_checksums_right(Patched& patched) const;
  [[nodiscard]] io::SimDisk disk_with(const Patched& patched) const;
  [[nodiscard]] bool exists(Place at) const;
  [[nodiscard]] const std::byte* read(const Patched& patched, Place at) const;
  Block& change(Patched& patched, Place at) const;
  void put(Patched& patched, Place at, std::size_t offset, const void* bytes, std::size_t n) const;
  void fix_superblock(Patched& patched, Place at) const;
  bool fix_chunk(Patched& patched, std::uint64_t slot, unsigned level) const;
  void fix_segment(Patched& patched, std::size_t file) const;
  [[nodiscard]] Place place_of_slot(std::uint64_t slot) const;

  io::SimDisk disk_;
  std::vector<std::string> names_;
  std::vector<std::vector<std::byte>> files_;
  std::vector<Place> used_;  ///< blocks that are not zero
  std::size_t data_file_ = 0;
};

}  // namespace kessai::fuzz
