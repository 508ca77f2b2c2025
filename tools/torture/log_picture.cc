// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/log_picture.hpp"

#include <algorithm>
#include <set>
#include <span>

namespace kessai::crash {
namespace {

using Bytes = std::vector<std::byte>;

std::optional<wal::SegmentHeader> header_of(const Bytes& bytes) {
  const auto at = [&](std::size_t block) {
    return std::span(bytes).subspan(block * wal::kMinBlock, wal::kMinBlock);
  };
  if (bytes.size() < wal::kHeaderBlocks * std::size_t{wal::kMinBlock}) return std::nullopt;
  auto first = wal::decode_header(at(0));
  const auto second = wal::decode_header(at(1));
  if (second && (!first || second->segment > first->segment)) first = second;
  return first;
}

}  // namespace

LogPicture::LogPicture(const io::SimDisk& disk) {
  for (const auto& name : disk.files()) {
    if (!name.starts_with("wal-")) continue;
    Bytes bytes = disk.intended_bytes(name);
    const auto header = header_of(bytes);
    if (!header) continue;
    File file{.name = name, .header = *header, .frames = {}};
    const wal::Salt salt(header->salt);
    Lsn next = header->first;
    for (std::uint64_t at = std::uint64_t{wal::kHeaderBlocks} * header->block;
         at + 2 * std::uint64_t{header->block} <= bytes.size();) {
      const auto frame = wal::peek_frame(std::span(bytes).subspan(at, header->block));
      if (!frame || frame->segment != header->segment || frame->first != next) break;
      const auto size = wal::frame_bytes(frame->payload, header->block);
      if (at + size > bytes.size() ||
          !wal::frame_verifies(*frame, salt, std::span(bytes).subspan(at, size)))
        break;
      file.frames.push_back({at, size, frame->first, frame->hint});
      next = frame->end();
      at += size;
    }
    files_.push_back(std::move(file));
  }
  std::ranges::sort(files_, {}, [](const File& f) { return f.header.segment; });
}

std::optional<Lsn> LogPicture::may_end_at(const io::SimDisk& disk) const {
  const auto unseen = [&](const File& f) {  // header gone, and nothing else is in it
    const auto wrong = disk.wrong_blocks(f.name);
    return f.frames.empty() && wrong.size() > 1 && wrong[0] == 0 && wrong[1] == wal::kMinBlock;
  };
  // Of every segment but the newest, the next one's header says where it must end.
  const auto last = std::find_if_not(files_.rbegin(), files_.rend(), unseen);
  if (last == files_.rend()) return std::nullopt;
  const File& newest = *last;
  const auto blocks = disk.wrong_blocks(newest.name);
  const std::set<std::uint64_t> wrong(blocks.begin(), blocks.end());
  const auto spoilt = [&](const Frame& f) {
    const auto at = wrong.lower_bound(f.offset);
    return at != wrong.end() && *at < f.offset + f.bytes;
  };
  const auto readable_start = [&](const Frame& f) { return !wrong.contains(f.offset); };
  if (wrong.contains(0) && wrong.contains(wal::kMinBlock)) {
    // Without its header, frames prove the segment by the block that they start in: the first one
    // always, the others when the header's place holds something else than a header or zeros.
    if (readable_start(newest.frames.front())) return std::nullopt;
    const Bytes bytes = disk.file_bytes(newest.name);
    const bool blank =
        std::all_of(bytes.begin(), bytes.begin() + wal::kHeaderBlocks * wal::kMinBlock,
                    [](std::byte b) { return b == std::byte{0}; });
    const bool searched = !blank && !header_of(bytes);
    if (searched && std::ranges::any_of(newest.frames, readable_start)) return std::nullopt;
    // A segment inside a generation is also named by the footer before it.
    if (!newest.header.opens_generation()) return std::nullopt;
    return newest.header.previous_end;
  }
  const auto first = std::ranges::find_if(newest.frames, spoilt);
  if (first == newest.frames.end()) return std::nullopt;
  const bool hinted = std::any_of(first, newest.frames.end(), [&](const Frame& f) {
    return !spoilt(f) && f.hint > first->first;
  });
  if (hinted) return std::nullopt;
  return first->first;
}

}  // namespace kessai::crash
