// SPDX-License-Identifier: Apache-2.0
// The reader's inside, shared with Log::start (which takes over its files) and with inspection.
//
// The chain: valid headers name the segment read before them. Walking back from the newest one
// gives the segments in reading order; those the walk does not meet are unused. Where a segment
// ends is said by its successor's header (position and checksum), for the newest one by the
// verdict.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/memory.hpp"
#include "wal/format.hpp"
#include "wal/log.hpp"

namespace kessai::wal {

struct SegmentFile {
  std::uint32_t index = 0;  ///< NN of wal-NN.kessai
  std::string name;
  std::shared_ptr<io::File> file;
  std::uint64_t bytes = 0;              ///< as the file system says
  std::optional<SegmentHeader> header;  ///< of the last use; none: never used, or torn
  bool blank = true;                    ///< no header and nothing that looks like one was there
  std::optional<FrameHeader> first_frame{};  ///< at its place, as it says itself: not verified
};

[[nodiscard]] std::string segment_name(std::uint32_t index);
[[nodiscard]] std::optional<std::uint32_t> segment_index(std::string_view name);
[[nodiscard]] Error log_damage(std::string what, const std::string& file, std::uint64_t offset,
                               Lsn lsn);

/// Reads a segment front to back in large pieces.
class SegmentCursor {
 public:
  SegmentCursor(const SegmentFile& file, std::uint64_t limit, std::uint32_t block)
      : file_(file), limit_(limit), block_(block) {}
  /// Bytes [offset, offset + length), valid until the next call. Block multiples, within the limit.
  [[nodiscard]] Result<std::span<std::byte>> fetch(std::uint64_t offset, std::size_t length);
  [[nodiscard]] std::uint32_t block() const noexcept { return block_; }
  [[nodiscard]] std::uint64_t limit() const noexcept { return limit_; }

 private:
  const SegmentFile& file_;
  std::uint64_t limit_;
  std::uint32_t block_;
  io::AlignedBuffer buffer_;
  std::uint64_t start_ = 0;
  std::size_t filled_ = 0;
};

class Reader final : public LogReader {
 public:
  struct Link {
    const SegmentFile* file = nullptr;
    SegmentHeader header;
    Salt salt;
    bool ended = false;  ///< end and end_chain are known
    Lsn end = 0;
    std::uint64_t end_chain = 0;
    bool frames = false;  ///< holds at least one frame
  };
  struct Frame {
    FrameHeader header;
    std::string_view payload;
    std::uint64_t offset = 0;
  };
  /// What the next generation's header says about the past.
  struct Tail {
    std::uint64_t segment = 0, generation = 0, chain = 0;
    Lsn end = 0;
  };

  /// Reads the headers of `files` (already open). `block_hint`: of the directory.
  [[nodiscard]] static Result<std::unique_ptr<Reader>> over(std::vector<SegmentFile> files,
                                                            StoreId store,
                                                            std::uint32_t block_hint);

  Result<LogEnd> find_end(Lsn low, Lsn must_reach,
                          const std::function<bool(const CommitView&)>& ahead) override;
  Result<void> visit_commits(
      Lsn low, const std::function<Result<void>(const CommitView&)>& fn,
      const std::function<void(std::uint64_t, std::uint64_t)>& progress) override;
  Result<void> visit_records(const std::function<bool(const RawRecord&)>& fn) override;
  std::uint64_t last_generation() const override { return last_generation_; }
  std::uint64_t file_bytes() const override;

  std::vector<SegmentFile>& files() noexcept { return files_; }
  const std::vector<Link>& chain() const noexcept { return chain_; }
  /// REQUIRES find_end() succeeded.
  [[nodiscard]] const Tail& tail() const noexcept { return tail_; }
  [[nodiscard]] std::uint64_t last_segment() const noexcept { return last_segment_; }
  /// Largest first LSN of any generation.
  [[nodiscard]] Lsn floor() const noexcept { return floor_; }
  [[nodiscard]] std::uint32_t block() const noexcept { return block_; }

 private:
  struct Range {
    PartRange lsns;
    std::size_t close = 0;
  };
  struct Position {
    std::uint64_t offset = 0;
    Lsn lsn = 0;
    std::uint64_t chain = 0;
  };
  using FrameFn = std::function<Result<bool>(const Link&, const Frame&)>;

  Result<void> build_chain();
  [[nodiscard]] bool follows_newest(const FrameHeader& frame) const noexcept;
  [[nodiscard]] Result<void> find_lost_headers() const;
  Result<std::size_t> first_needed(Lsn low) const;
  static Result<std::optional<Frame>> read_frame(SegmentCursor& cursor, const Link& link,
                                                 std::uint64_t offset);
  static Result<Position> read_segment(Link& link, const FrameFn& fn);
  Result<bool> judge_tail(const Link& link, const Position& p);
  Result<bool> judge_later_frames(const SegmentFile& file, const Link& link, std::uint64_t limit,
                                  std::uint64_t from, const Position& p);
  using RecordFn = std::function<void(Lsn start, Lsn lsn, const RecordView& r)>;
  Result<void> note_closes(const Link& link, const Frame& frame, const RecordFn& fn);
  Result<void> index_ranges();
  const Range* range_of(Lsn start, Lsn lsn) const;

  std::vector<SegmentFile> files_;
  std::vector<Link> chain_;
  std::uint32_t block_ = kMinBlock;
  std::uint64_t last_generation_ = 0, last_segment_ = 0;
  Lsn floor_ = 0;
  bool found_end_ = false;
  LogEnd end_;
  Tail tail_;
  std::vector<Close> closes_;  ///< with the LSN of each
  std::vector<Lsn> close_lsns_;
  std::vector<Range> ranges_;
};

}  // namespace kessai::wal
