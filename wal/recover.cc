// SPDX-License-Identifier: Apache-2.0
// Where the log ends (the verdict of I9) and what it says.
#include <algorithm>
#include <map>

#include "io/check.hpp"
#include "io/mutant.hpp"
#include "wal/reader_private.hpp"

namespace kessai::wal {
namespace {

/// Calls fn(start, lsn, record) for the records of a frame; false when they do not fill it exactly.
template <class Fn>
Result<bool> each_record(const Reader::Frame& frame, const Fn& fn) {
  std::string_view rest = frame.payload;
  Lsn start = frame.header.first;
  std::uint32_t count = 0;
  for (; !rest.empty(); ++count) {
    const auto record = decode_record(rest);
    if (!record) return false;
    const Lsn lsn = start + record->length;
    KESSAI_TRY(fn(start, lsn, *record));
    rest.remove_prefix(record->length);
    start = lsn;
  }
  return count == frame.header.records;
}

Error unparsable(const Reader::Link& link, const Reader::Frame& frame) {
  return log_damage("a log frame verifies but its records do not parse", link.file->file->path(),
                    frame.offset, frame.header.first);
}

}  // namespace

Result<void> Reader::note_closes(const Link& link, const Frame& frame, const RecordFn& fn) {
  auto parsed = each_record(frame, [&](Lsn start, Lsn lsn, const RecordView& r) -> Result<void> {
    fn(start, lsn, r);
    if (r.kind != RecordKind::close) return {};
    auto close = decode_close(r.body);
    if (!close || (!close->ranges.empty() && close->ranges.back().to > lsn))
      return std::unexpected(log_damage("a closing log record does not make sense",
                                        link.file->file->path(), frame.offset, lsn));
    for (const auto& range : close->ranges) ranges_.push_back({range, closes_.size()});
    closes_.push_back(std::move(*close));
    close_lsns_.push_back(lsn);
    return {};
  });
  if (!parsed) return std::unexpected(parsed.error());
  if (!*parsed) return std::unexpected(unparsable(link, frame));
  return {};
}

Result<void> Reader::index_ranges() {
  std::ranges::sort(ranges_, {}, [](const Range& r) { return r.lsns.from; });
  for (std::size_t i = 1; i < ranges_.size(); ++i)
    if (ranges_[i].lsns.from < ranges_[i - 1].lsns.to)
      return std::unexpected(log_damage("two closing log records name the same parts", "", 0,
                                        close_lsns_[ranges_[i].close]));
  return {};
}

const Reader::Range* Reader::range_of(Lsn start, Lsn lsn) const {
  auto it =
      std::ranges::upper_bound(ranges_, start, {}, [](const Range& r) { return r.lsns.from; });
  if (it == ranges_.begin()) return nullptr;
  --it;
  return lsn <= it->lsns.to ? &*it : nullptr;
}

Result<LogEnd> Reader::find_end(Lsn low, Lsn must_reach,
                                const std::function<bool(const CommitView&)>& ahead) {
  found_end_ = false;
  closes_.clear();
  close_lsns_.clear();
  ranges_.clear();
  KESSAI_TRY(build_chain());
  KESSAI_TRY(find_lost_headers());
  KESSAI_ASSIGN(first, first_needed(low));
  Position p;
  bool showing = ahead != nullptr;
  Lsn shown = low;
  for (std::size_t i = first; i < chain_.size(); ++i) {
    auto read = read_segment(chain_[i], [&](const Link& link, const Frame& frame) -> Result<bool> {
      KESSAI_TRY(note_closes(link, frame, [&](Lsn start, Lsn lsn, const RecordView& r) {
        if (!showing || start < low || r.kind == RecordKind::filler) return;
        showing = r.kind == RecordKind::commit && ahead({lsn, link.header.generation, r.body});
        if (showing) shown = lsn;
      }));
      return true;
    });
    if (!read) return std::unexpected(read.error());
    p = *read;
  }
  Link& last = chain_.back();
  const auto& path = last.file->file->path();
  KESSAI_ASSIGN(torn, judge_tail(last, p));
  if (p.lsn < std::max(low, must_reach))
    return std::unexpected(log_damage("the log ends before LSN " +
                                          std::to_string(std::max(low, must_reach)) +
                                          ", which was durable",
                                      path, p.offset, p.lsn));
  KESSAI_TRY(index_ranges());
  last.ended = true;
  last.end = p.lsn;
  last.end_chain = p.chain;
  const auto& h = last.header;
  if (last.frames) {
    tail_ = {h.segment, h.generation, p.chain, p.lsn};
  } else if (!h.opens_generation()) {  // nothing in it: the next generation follows what it follows
    tail_ = {h.previous_segment, h.generation, h.chain, h.first};
  } else {
    tail_ = {h.previous_segment, h.previous_generation, h.chain, h.previous_end};
  }
  end_ = {.lsn = p.lsn,
          .generation = h.generation,
          .checksum = p.chain,
          .torn = torn,
          .last_segment = h.segment,
          .used_generation = tail_.generation,
          .used_end = tail_.end,
          .shown = showing ? p.lsn : shown};
  found_end_ = true;
  return end_;
}

/// The newest segment has no good next frame at `p`. Answers whether something is cut there, or the
/// damage: a footer, a frame's hint, or a frame beyond the window says that more was durable.
Result<bool> Reader::judge_tail(const Link& link, const Position& p) {
  const auto& h = link.header;
  const auto& path = link.file->file->path();
  SegmentCursor footer_cursor(*link.file, h.bytes, h.block);
  KESSAI_ASSIGN(block, footer_cursor.fetch(h.bytes - h.block, h.block));
  if (const auto footer = decode_footer(block, link.salt); footer && footer->segment == h.segment) {
    if (p.lsn < footer->end)
      return std::unexpected(log_damage("a sealed log segment is damaged", path, p.offset, p.lsn));
    return std::unexpected(log_damage(
        "log segment " + std::to_string(footer->next_segment) + " must be there and is not", path,
        p.offset, p.lsn));
  }
  const std::uint64_t limit = h.bytes - std::uint64_t{kFooterBlocks} * h.block;
  bool torn = false;
  if (p.offset + h.block <= limit) {
    SegmentCursor cursor(*link.file, p.offset + h.block, h.block);
    KESSAI_ASSIGN(here, cursor.fetch(p.offset, h.block));
    const auto half = peek_frame(here);
    torn = half && half->generation == h.generation && half->segment == h.segment &&
           half->first == p.lsn;
  }
  KESSAI_ASSIGN(later, judge_later_frames(*link.file, link, limit, p.offset, p));
  torn |= later;
  // A segment whose headers are both unreadable may hold frames: their header was durable before.
  for (const auto& f : files_) {
    if (f.header || f.blank || f.bytes % h.block != 0 ||
        f.bytes < std::uint64_t{kMinSegmentBlocks} * h.block || f.bytes > kMaxSegmentBytes)
      continue;
    KESSAI_ASSIGN(orphan, judge_later_frames(f, link, f.bytes - h.block,
                                             std::uint64_t{kHeaderBlocks} * h.block, p));
    if (orphan)
      return std::unexpected(log_damage("the header of a log segment that holds frames is damaged",
                                        f.file->path(), 0, p.lsn));
  }
  return torn;
}

/// Looks for valid frames of the generation at or after `from`. True: there are, all of them inside
/// the in-flight window and none knows of a durable LSN beyond `p`: they were cut off with the
/// tail.
Result<bool> Reader::judge_later_frames(const SegmentFile& file, const Link& link,
                                        std::uint64_t limit, std::uint64_t from,
                                        const Position& p) {
  SegmentCursor cursor(file, limit, link.header.block);
  bool found = false;
  for (std::uint64_t offset = from; offset + cursor.block() <= limit; offset += cursor.block()) {
    KESSAI_ASSIGN(frame, read_frame(cursor, link, offset));
    if (!frame) continue;
    const FrameHeader& f = frame->header;
    if (f.segment < link.header.segment || f.first < p.lsn ||
        (f.first == p.lsn && f.payload == 0 && f.hint <= p.lsn))
      continue;  // left from an earlier use of the file
    const bool acknowledged = f.hint > p.lsn && !KESSAI_MUTANT(hint_ignored);
    if (acknowledged || f.first > p.lsn + kWindow ||
        (f.first == p.lsn && file.index == link.file->index))
      return std::unexpected(log_damage(
          acknowledged ? "a damaged log frame was durable: a later frame's hint says so"
                       : "valid log frames follow a damaged one that must have been durable",
          link.file->file->path(), p.offset, p.lsn));
    found = true;
  }
  return found;
}

Result<void> Reader::visit_commits(
    Lsn low, const std::function<Result<void>(const CommitView&)>& fn,
    const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  KESSAI_CHECK(found_end_);
  KESSAI_ASSIGN(first, first_needed(low));
  std::uint64_t total = 0, done = 0, told = 0;
  for (std::size_t i = first; i < chain_.size(); ++i)
    total += chain_[i].end - std::min(chain_[i].end, std::max(low, chain_[i].header.first));
  std::map<std::size_t, std::string> open;  // large commits being put together
  std::size_t next_close = 0;
  const auto record = [&](const Link& link, Lsn start, Lsn lsn,
                          const RecordView& r) -> Result<void> {
    const auto broken = [&](const char* what) {
      return std::unexpected(log_damage(what, link.file->file->path(), 0, lsn));
    };
    switch (r.kind) {
      case RecordKind::filler:
        return {};
      case RecordKind::commit:
        if (start < low) return {};
        return fn({lsn, link.header.generation, r.body});
      case RecordKind::part: {
        const Range* range = range_of(start, lsn);
        if (KESSAI_MUTANT(void_parts_applied)) return fn({lsn, link.header.generation, r.body});
        if (range == nullptr || close_lsns_[range->close] <= low) return {};
        auto& stream = open[range->close];
        if (stream.size() + r.body.size() > closes_[range->close].stream_bytes)
          return broken("the parts of a large commit are longer than its closing record says");
        stream.append(r.body);
        return {};
      }
      case RecordKind::close: {
        while (next_close < close_lsns_.size() && close_lsns_[next_close] < lsn) ++next_close;
        if (start < low) return {};
        const Close& close = closes_[next_close];
        auto node = open.extract(next_close);
        const std::string stream = node.empty() ? std::string() : std::move(node.mapped());
        const Hash128 hash = hash128(std::as_bytes(std::span(stream)));
        if (stream.size() != close.stream_bytes || hash != Hash128{close.hash_low, close.hash_high})
          return broken("the parts of a large commit do not match its closing record");
        return fn({lsn, link.header.generation, stream});
      }
    }
    return broken("unknown log record");
  };
  for (std::size_t i = first; i < chain_.size(); ++i) {
    auto read = read_segment(chain_[i], [&](const Link& link, const Frame& frame) -> Result<bool> {
      auto parsed = each_record(frame, [&](Lsn start, Lsn lsn, const RecordView& r) {
        return record(link, start, lsn, r);
      });
      if (!parsed) return std::unexpected(parsed.error());
      if (!*parsed) return std::unexpected(unparsable(link, frame));
      if (frame.header.end() > low) done += frame.header.end() - std::max(low, frame.header.first);
      if (progress && done - told >= (1u << 20)) progress(told = done, total);
      return true;
    });
    if (!read) return std::unexpected(read.error());
  }
  if (progress) progress(total, total);
  return {};
}

Result<void> Reader::visit_records(const std::function<bool(const RawRecord&)>& fn) {
  if (!found_end_) KESSAI_TRY(build_chain());
  bool stopped = false;
  Result<void> damage;
  for (std::size_t i = 0; i < chain_.size() && !stopped; ++i) {
    auto read = read_segment(chain_[i], [&](const Link& link, const Frame& frame) -> Result<bool> {
      auto parsed =
          each_record(frame, [&](Lsn start, Lsn lsn, const RecordView& r) -> Result<void> {
            if (!stopped && !fn({lsn, start, link.header.generation, r.kind, r.body}))
              stopped = true;
            return {};
          });
      if (parsed && !*parsed) return std::unexpected(unparsable(link, frame));
      return !stopped;
    });
    if (!read && damage) damage = std::unexpected(read.error());
  }
  return damage;
}

}  // namespace kessai::wal
