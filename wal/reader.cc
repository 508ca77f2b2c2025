// SPDX-License-Identifier: Apache-2.0
// Opening, the chain, and reading frames forward.
#include <algorithm>
#include <charconv>
#include <cstring>
#include <ranges>

#include "io/check.hpp"
#include "io/mutant.hpp"
#include "wal/reader_private.hpp"

namespace kessai::wal {
namespace {

constexpr std::string_view kPrefix = "wal-", kSuffix = ".kessai";
constexpr std::size_t kReadAhead = 256 * 1024;

}  // namespace

std::string segment_name(std::uint32_t index) {
  std::string digits = std::to_string(index);
  if (digits.size() < 2) digits.insert(0, 1, '0');
  return std::string(kPrefix) + digits + std::string(kSuffix);
}

std::optional<std::uint32_t> segment_index(std::string_view name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix) ||
      name.size() < kPrefix.size() + kSuffix.size())
    return std::nullopt;
  name.remove_prefix(kPrefix.size());
  name.remove_suffix(kSuffix.size());
  std::uint32_t index = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  const bool whole = error == std::errc{} && end == name.data() + name.size();
  if (!whole || index > 99'999 ||
      segment_name(index).size() != name.size() + kPrefix.size() + kSuffix.size())
    return std::nullopt;
  return index;
}

Error log_damage(std::string what, const std::string& file, std::uint64_t offset, Lsn lsn) {
  ErrorDetail d;
  d.what = std::move(what);
  d.path = file;
  d.offset = offset;
  d.lsn = lsn;
  return Error(Code::log_damaged, std::move(d));
}

Result<std::span<std::byte>> SegmentCursor::fetch(std::uint64_t offset, std::size_t length) {
  KESSAI_CHECK(offset + length <= limit_);
  if (offset >= start_ && offset + length <= start_ + filled_)
    return std::span(buffer_.data() + (offset - start_), length);
  const std::size_t want = static_cast<std::size_t>(
      std::min<std::uint64_t>(limit_ - offset, std::max(length, round_up(kReadAhead, block_))));
  // What is already here of the range moves to the front, so that no byte is read twice.
  std::size_t kept = 0;
  if (offset >= start_ && offset < start_ + filled_) kept = start_ + filled_ - offset;
  if (want > buffer_.size()) {
    io::AlignedBuffer larger(want);
    if (kept > 0) std::memcpy(larger.data(), buffer_.data() + (offset - start_), kept);
    buffer_ = std::move(larger);
  } else if (kept > 0) {
    std::memmove(buffer_.data(), buffer_.data() + (offset - start_), kept);
  }
  start_ = offset;
  filled_ = kept;
  auto read = file_.file->read(offset + kept, {buffer_.data() + kept, want - kept});
  if (!read) {
    if (read.error() != Code::damaged) return std::unexpected(read.error());
    return std::unexpected(log_damage("the segment file is shorter than its header says",
                                      file_.file->path(), offset + kept, 0));
  }
  filled_ = want;
  return std::span(buffer_.data(), length);
}

Result<std::unique_ptr<LogReader>> LogReader::open(io::Env& env, StoreId store, bool writable,
                                                   std::uint64_t lock_timeout_ns) {
  auto& dir = *env.directory;
  KESSAI_ASSIGN(names, dir.list());
  std::vector<SegmentFile> files;
  for (const auto& name : names) {
    const auto index = segment_index(name);
    if (!index) continue;
    KESSAI_ASSIGN(file,
                  dir.open(name, writable ? io::OpenMode::read_write : io::OpenMode::read_only));
    files.push_back(
        {.index = *index, .name = name, .file = std::move(file), .bytes = 0, .header = {}});
  }
  // Every segment before any is read: a dead predecessor's write may still be under way (I13,
  //
  for (auto& f : files) KESSAI_TRY(f.file->lock(lock_timeout_ns));
  if (writable) {
    for (auto& f : files) KESSAI_TRY(f.file->flush_and_drop_cache());
    KESSAI_TRY(dir.flush());
  }
  KESSAI_ASSIGN(reader, Reader::over(std::move(files), store, dir.block_size()));
  return reader;
}

Result<std::unique_ptr<Reader>> Reader::over(std::vector<SegmentFile> files, StoreId store,
                                             std::uint32_t block_hint) {
  auto reader = std::make_unique<Reader>();
  const std::uint32_t block = std::max(kMinBlock, block_hint);
  reader->block_ = block;
  const std::size_t headers = std::size_t{block} * kHeaderBlocks;
  io::AlignedBuffer buffer(headers + block);
  for (auto& f : files) {
    KESSAI_ASSIGN(bytes, f.file->size());
    f.bytes = bytes;
    f.header.reset();
    f.first_frame.reset();
    f.blank = true;
    if (bytes < headers) continue;
    const bool has_frames = bytes >= buffer.size();
    const auto primary = buffer.span().first(kMinBlock);
    const auto copy = buffer.span().subspan(block, kMinBlock);
    // A second time when there is no header: the device may have given us other bytes than those.
    for (int attempt = 0; attempt < 2 && !f.header; ++attempt) {
      KESSAI_TRY(f.file->read(0, buffer.span().first(has_frames ? buffer.size() : headers)));
      if (has_frames) f.first_frame = peek_frame(buffer.span().subspan(headers));
      f.header = decode_header(primary);
      // Whichever is newer: the copy is written first when a segment is replaced in place.
      if (auto second = decode_header(copy);
          second && (!f.header || second->segment > f.header->segment))
        f.header = second;
    }
    if (!f.header) {
      if (newer_header(primary) || newer_header(copy))
        return fail(
            Code::newer_format,
            ErrorDetail{.what = "the log was written by a newer version", .path = f.file->path()});
      f.blank = std::ranges::all_of(buffer.span().first(headers),
                                    [](std::byte b) { return b == std::byte{0}; });
      continue;
    }
    if (!(f.header->store == store))
      return std::unexpected(log_damage("this log segment belongs to another store; remove it",
                                        f.file->path(), 0, f.header->first));
    if (f.header->block != block)
      return fail(Code::not_supported,
                  ErrorDetail{.what = "the log was created with another device block size",
                              .path = f.file->path()});
    reader->last_generation_ = std::max(reader->last_generation_, f.header->generation);
    reader->last_segment_ = std::max(reader->last_segment_, f.header->segment);
    reader->floor_ = std::max(reader->floor_, f.header->generation_first);
  }
  reader->files_ = std::move(files);
  return reader;
}

std::uint64_t Reader::file_bytes() const {
  std::uint64_t sum = 0;
  for (const auto& f : files_) sum += f.bytes;
  return sum;
}

/// Whether a frame says that it belongs to the segment after the newest one that has a header.
bool Reader::follows_newest(const FrameHeader& frame) const noexcept {
  return frame.segment == last_segment_ + 1 &&
         (frame.generation == last_generation_ || frame.generation == last_generation_ + 1);
}

/// A header is durable before the first frame of its segment is written. One that is not there
/// although the frame is was lost by the device, or damaged since; nobody else may know of the
/// segment when it opens a generation. A file whose header blocks are neither zeros nor a header is
/// looked at as a whole: a crash leaves such a thing only in a file that never held a frame, or
/// that was being filled with zeros; its old frames are of older segments.
Result<void> Reader::find_lost_headers() const {
  for (const auto& f : files_) {
    bool lost = f.first_frame && follows_newest(*f.first_frame);
    const std::uint64_t end = f.bytes / block_ * block_;
    if (!lost && !f.header && !f.blank && end <= kMaxSegmentBytes) {
      SegmentCursor cursor(f, end, block_);
      for (std::uint64_t at = std::uint64_t{kHeaderBlocks} * block_; at < end && !lost;
           at += block_) {
        KESSAI_ASSIGN(bytes, cursor.fetch(at, block_));
        const auto frame = peek_frame(bytes);
        lost = frame && follows_newest(*frame);
      }
    }
    if (lost && !KESSAI_MUTANT(lost_header_accepted))
      return std::unexpected(log_damage(
          "the header of a log segment that holds frames is damaged or was never written",
          f.file->path(), 0, 0));
  }
  return {};
}

Result<void> Reader::build_chain() {
  chain_.clear();
  std::vector<const SegmentFile*> used;
  for (const auto& f : files_)
    if (f.header) used.push_back(&f);
  if (used.empty()) {
    const std::string path = files_.empty() ? "" : files_.front().file->path();
    return std::unexpected(log_damage("the store has no valid log segment", path, 0, 0));
  }
  std::ranges::sort(used, {}, [](const SegmentFile* f) { return f->header->segment; });
  for (std::size_t i = 1; i < used.size(); ++i) {
    if (used[i]->header->segment == used[i - 1]->header->segment)
      return std::unexpected(log_damage("two files claim to be the same log segment",
                                        used[i]->file->path(), 0, used[i]->header->first));
  }
  std::uint64_t wanted = used.back()->header->segment;
  for (const SegmentFile* file : std::views::reverse(used)) {
    const SegmentHeader& h = *file->header;
    if (h.segment > wanted) continue;
    if (h.segment < wanted) break;  // the segment before is gone: recycled, or missing
    Link link{.file = file, .header = h, .salt = Salt(h.salt)};
    if (!chain_.empty()) {
      const SegmentHeader& next = chain_.back().header;
      link.ended = true;
      link.end = next.opens_generation() ? next.previous_end : next.first;
      link.end_chain = next.chain;
      const bool same = next.generation == h.generation;
      if (same == next.opens_generation() || link.end < h.first || next.generation < h.generation ||
          (same && (next.salt != h.salt || next.generation_first != h.generation_first)))
        return std::unexpected(log_damage("the headers of two log segments contradict each other",
                                          file->file->path(), 0, h.first));
    }
    chain_.push_back(link);
    if (h.previous_segment == 0) break;
    wanted = h.previous_segment;
  }
  std::ranges::reverse(chain_);
  return {};
}

Result<std::size_t> Reader::first_needed(Lsn low) const {
  for (std::size_t i = chain_.size(); i-- > 0;) {
    const auto& h = chain_[i].header;
    if (h.first <= low || h.previous_segment == 0 ||
        (h.opens_generation() && h.previous_end <= low))
      return i;
  }
  const auto& h = chain_.front().header;
  return std::unexpected(log_damage(
      "log segment " + std::to_string(h.previous_segment) + " is missing",
      chain_.front().file->file->path(), 0, h.opens_generation() ? h.previous_end : h.first));
}

Result<std::optional<Reader::Frame>> Reader::read_frame(SegmentCursor& cursor, const Link& link,
                                                        std::uint64_t offset) {
  const std::uint64_t room = cursor.limit() - offset;
  if (room < cursor.block()) return std::nullopt;
  KESSAI_ASSIGN(head, cursor.fetch(offset, cursor.block()));
  const auto header = peek_frame(head);
  if (!header) return std::nullopt;
  if (header->generation != link.header.generation && !KESSAI_MUTANT(stale_salt_accepted))
    return std::nullopt;
  const std::uint64_t bytes = frame_bytes(header->payload, cursor.block());
  if (bytes > room) return std::nullopt;
  KESSAI_ASSIGN(whole, cursor.fetch(offset, bytes));
  if (!frame_verifies(*header, link.salt, whole) && !KESSAI_MUTANT(stale_salt_accepted))
    return std::nullopt;
  return Frame{*header,
               {reinterpret_cast<const char*>(whole.data()) + kFrameHeader, header->payload},
               offset};
}

Result<Reader::Position> Reader::read_segment(Link& link, const FrameFn& fn) {
  const auto& h = link.header;
  const auto& path = link.file->file->path();
  if (link.file->bytes < h.bytes)
    return std::unexpected(log_damage("the segment file is shorter than its header says", path,
                                      link.file->bytes, h.first));
  SegmentCursor cursor(*link.file, h.bytes - std::uint64_t{kFooterBlocks} * h.block, h.block);
  Position p{.offset = std::uint64_t{kHeaderBlocks} * h.block, .lsn = h.first, .chain = h.chain};
  while (!link.ended || p.lsn != link.end || p.chain != link.end_chain) {
    auto read = read_frame(cursor, link, p.offset);
    if (!read && KESSAI_MUTANT(eio_is_end) && read.error() == Code::io_error) return p;
    if (!read) return std::unexpected(read.error());
    auto& frame = *read;
    if (frame && KESSAI_MUTANT(stale_salt_accepted)) {
      frame->header.first = p.lsn;
      frame->header.previous = p.chain;
      frame->header.segment = h.segment;
    }
    const bool next = frame && frame->header.segment == h.segment && frame->header.first == p.lsn &&
                      frame->header.previous == p.chain;
    if (!next) {
      if (!link.ended) return p;
      return std::unexpected(log_damage("a log frame that must be there is damaged or missing",
                                        path, p.offset, p.lsn));
    }
    const FrameHeader header = frame->header;
    link.frames = true;
    auto go_on = fn(link, *frame);
    if (!go_on) return std::unexpected(go_on.error());
    p.offset += frame_bytes(header.payload, h.block);
    p.lsn = header.end();
    p.chain = header.checksum.low;
    if (!*go_on) return p;
    if (link.ended && p.lsn > link.end)
      return std::unexpected(
          log_damage("a log segment holds more than its successor says", path, p.offset, p.lsn));
  }
  return p;
}

}  // namespace kessai::wal
