// SPDX-License-Identifier: Apache-2.0
// Segments: the generation's first one, spares, recycling, accounting.
#include <algorithm>

#include "io/check.hpp"
#include "io/mutant.hpp"
#include "wal/log_private.hpp"

namespace kessai::wal {
namespace {
constexpr std::size_t kZeroChunk = 1u << 20;
constexpr std::uint64_t kGrownSegment = 16u << 20;
// Active, the next, one to start the next generation in, and one that a checkpoint still holds.
constexpr std::uint32_t kMinFiles = 4;
constexpr std::uint64_t kLockNs = 1'000'000'000;
}  // namespace

std::uint64_t LogImpl::available_blocks() const {
  const std::uint64_t overhead = kHeaderBlocks + kFooterBlocks + slack_blocks_;
  const auto usable = [&](const Segment& s) {
    return blocks(s.bytes) - std::min(blocks(s.bytes), overhead);
  };
  const std::uint64_t left = blocks(frames_end(active_) - active_.offset);
  std::uint64_t sum = 0, smallest = ~std::uint64_t{0};
  for (const auto& s : spares_) {
    sum += usable(s);
    smallest = std::min(smallest, usable(s));
  }
  if (spares_.empty()) {
    if (!next_) return 0;  // the next open must find a segment (I15)
    smallest = 0;
  }
  sum -= smallest;
  if (next_) sum += usable(*next_);
  return sum + (left - std::min(left, slack_blocks_));
}

SegmentHeader LogImpl::header_of(const Segment& s, std::uint64_t previous,
                                 std::uint64_t chain) const {
  return {.block = block_,
          .store = store_,
          .segment = s.number,
          .bytes = s.bytes,
          .generation = generation_,
          .salt = salt_.bytes(),
          .generation_first = first_lsn_,
          .generation_segment = generation_segment_,
          .previous_generation = before_.generation,
          .previous_end = before_.end,
          .first = s.first,
          .previous_segment = previous,
          .chain = chain};
}

Result<void> LogImpl::open_fresh() {
  {
    const io::MutexLock lock(prepare_mutex_);
    for (int i = 0; i < 2; ++i) KESSAI_TRY(prepare_segment(~std::uint64_t{0}));
  }
  Segment first;
  {
    const io::SpinLock lock(mutex_);
    first = std::move(spares_.front());
    spares_.erase(spares_.begin());
  }
  return write_first_header(std::move(first), {}, false);
}

Result<void> LogImpl::open_after(Reader& reader, Lsn keep_from) {
  const auto& tail = reader.tail();
  block_ = reader.block();
  generation_ = reader.last_generation() + 1;
  generation_segment_ = reader.last_segment() + 1;
  const Lsn window = KESSAI_MUTANT(lsn_reuse) ? 0 : kWindow;
  first_lsn_ = round_up(std::max(tail.end, reader.floor()) + window, 4096);
  if (first_lsn_ > kMaxLsn / 2)  // a forged header: no store gets there in a lifetime
    return std::unexpected(log_damage("the log names impossible LSNs", "", 0, tail.end));
  // The newest segment stays as it is until our header is durable: it tells the end of the log and
  // the LSNs used so far.
  Segment newest;
  bool newest_needed = false;
  const io::MutexLock lock(prepare_mutex_);
  for (auto& f : reader.files()) {
    Segment s;
    s.file = f.file;
    s.name = f.name;
    s.index = f.index;
    s.bytes = f.bytes;
    next_index_ = std::max(next_index_, f.index + 1);
    const auto link = std::ranges::find(reader.chain(), &f, &Reader::Link::file);
    const io::SpinLock ring(mutex_);
    file_bytes_ += f.bytes;
    ++file_count_;
    if (link != reader.chain().end()) {
      s.number = link->header.segment;
      s.first = link->header.first;
      s.end = link->end;
    }
    if (link != reader.chain().end() && &*link == &reader.chain().back()) {
      newest = std::move(s);
      newest_needed = link->frames && link->end > keep_from;
    } else if (link != reader.chain().end() && link->end > keep_from) {
      retained_.push_back(std::move(s));
    } else if (f.header && f.bytes == f.header->bytes && f.bytes >= options_.segment_bytes) {
      spares_.push_back(std::move(s));
    } else {
      unprepared_.push_back(std::move(s));
    }
  }
  Result<bool> spare = true;
  {
    const io::SpinLock ring(mutex_);
    spare = !spares_.empty();
  }
  if (!*spare) spare = prepare_segment(~std::uint64_t{0});
  // On a full disk the newest segment itself will do when nothing in it is needed.
  const bool replace = !spare && spare.error() == Code::disk_full && !newest_needed;
  if (!spare && spare.error() == Code::disk_full && !replace) {
    // All of it is needed (after falling back to the older superblock, say): better past the cap
    // until the next checkpoint than a store that does not open.
    const auto limit = std::exchange(options_.wal_limit, ~std::uint64_t{0});
    spare = prepare_segment(~std::uint64_t{0});
    options_.wal_limit = limit;
  }
  if (!spare && !replace) return std::unexpected(spare.error());
  Segment first = newest;
  if (!replace) {
    const io::SpinLock ring(mutex_);
    first = std::move(spares_.back());
    spares_.pop_back();
  }
  KESSAI_TRY(write_first_header(std::move(first), tail, replace));
  if (replace) return {};
  const io::SpinLock ring(mutex_);
  if (newest_needed) {
    retained_.push_back(std::move(newest));
  } else if (newest.bytes >= options_.segment_bytes) {
    spares_.push_back(std::move(newest));
  } else {
    unprepared_.push_back(std::move(newest));
  }
  return {};
}

Result<void> LogImpl::write_first_header(Segment segment, const Reader::Tail& tail, bool replace) {
  Salt::Bytes salt{};
  env_.random->fill(salt);
  salt_ = Salt(KESSAI_MUTANT(no_generation_salt) ? Salt::Bytes{} : salt);
  before_ = tail;
  segment.number = generation_segment_;
  segment.first = first_lsn_;
  segment.offset = std::uint64_t{kHeaderBlocks} * block_;
  const SegmentHeader h = header_of(segment, tail.segment, tail.chain);
  std::fill(block_buffer_.span().begin(), block_buffer_.span().end(), std::byte{0});
  encode_header(h, block_buffer_.span().first(kMinBlock));
  encode_header(h, block_buffer_.span().subspan(block_, kMinBlock));
  if (replace) {
    KESSAI_TRY(segment.file->write(block_, block_buffer_.span().last(block_)));
    KESSAI_TRY(segment.file->flush());
    KESSAI_TRY(segment.file->write(0, block_buffer_.span().first(block_)));
  } else {
    KESSAI_TRY(segment.file->write(0, block_buffer_.span()));
  }
  if (!KESSAI_MUTANT(header_not_flushed)) KESSAI_TRY(segment.file->flush());
  KESSAI_ASSIGN(queue, env_.directory->make_queue(2));
  queue_ = std::move(queue);
  KESSAI_ASSIGN(ring, io::Region::map(options_.ring_bytes, false));
  ring_ = std::move(ring);
  chain_ = tail.chain;
  next_number_ = generation_segment_ + 1;
  segments_used_.fetch_add(1, std::memory_order_relaxed);
  for (auto* lsn : {&tail_, &taken_, &durable_, &applied_, &wanted_})
    lsn->store(first_lsn_, std::memory_order_seq_cst);
  flight_.store(first_lsn_ << 8, std::memory_order_seq_cst);
  hinted_ = first_lsn_;
  const io::SpinLock lock(mutex_);
  active_ = std::move(segment);
  return {};
}

/// The first files have the configured size (a small store stays small), later ones four times it.
std::uint64_t LogImpl::next_segment_bytes() const {
  const io::SpinLock lock(mutex_);
  if (file_count_ < kMinFiles) return options_.segment_bytes;
  const std::uint64_t grown = std::min(
      {options_.segment_bytes * 4, kGrownSegment, options_.wal_limit / 16 / block_ * block_});
  return std::max(options_.segment_bytes, grown);
}

Result<void> LogImpl::begin_preparing() {
  preparing_new_ = unprepared_.empty();
  if (!preparing_new_) {
    preparing_ = std::move(unprepared_.back());
    unprepared_.pop_back();
  } else {
    const std::uint64_t bytes = next_segment_bytes();
    {
      const io::SpinLock lock(mutex_);
      if (file_bytes_ + bytes > options_.wal_limit && file_count_ >= kMinFiles)
        return fail(Code::disk_full, "the log has reached wal_limit and no checkpoint frees it");
    }
    Segment s;
    s.index = next_index_;
    s.name = segment_name(s.index);
    KESSAI_ASSIGN(file, env_.directory->open(s.name, io::OpenMode::create_new));
    ++next_index_;
    s.file = std::move(file);
    preparing_ = std::move(s);
    KESSAI_TRY(preparing_->file->lock(kLockNs));
    preparing_->end = bytes;  // the size to be
  }
  Segment& s = *preparing_;
  const std::uint64_t bytes =
      std::max(options_.segment_bytes,
               preparing_new_ ? s.end : std::min(s.bytes / block_ * block_, kMaxSegmentBytes));
  KESSAI_TRY(s.file->resize(bytes));
  {
    const io::SpinLock lock(mutex_);
    file_bytes_ += bytes - s.bytes;
    file_count_ += preparing_new_ ? 1 : 0;
  }
  s.bytes = bytes;
  s.offset = s.end = 0;
  if (zeros_.size() == 0)
    zeros_ = io::AlignedBuffer(
        std::min<std::uint64_t>(kZeroChunk, round_up(options_.segment_bytes, block_)));
  return {};
}

/// A file that cannot be completed gives its space back.
void LogImpl::drop_preparing() {
  if (!preparing_) return;
  Segment s = std::move(*preparing_);
  preparing_.reset();
  if (!preparing_new_) {
    unprepared_.push_back(std::move(s));
    return;
  }
  if (s.bytes > 0) {
    const io::SpinLock lock(mutex_);
    file_bytes_ -= s.bytes;
    --file_count_;
  }
  s.file.reset();
  (void)env_.directory->remove(s.name);
}

/// True: all of the file being prepared is written and durable, its name too.
Result<bool> LogImpl::write_zeros(std::uint64_t budget) {
  Segment& s = *preparing_;
  // Really written: a durable write into blocks that were only allocated costs more than twice.
  for (std::uint64_t written = 0; s.offset < s.bytes;) {
    if (written >= budget) return false;
    const std::size_t n = std::min<std::uint64_t>(zeros_.size(), s.bytes - s.offset);
    KESSAI_TRY(s.file->write(s.offset, zeros_.span().first(n)));
    s.offset += n;
    written += n;
  }
  KESSAI_TRY(s.file->flush());
  if (!KESSAI_MUTANT(segment_name_not_flushed)) KESSAI_TRY(env_.directory->flush());
  return true;
}

/// Writes at most about `budget` zero bytes. True: a spare segment is ready.
Result<bool> LogImpl::prepare_segment(std::uint64_t budget) {
  if (!preparing_) {
    if (auto begun = begin_preparing(); !begun) {
      drop_preparing();
      return std::unexpected(begun.error());
    }
  }
  auto done = write_zeros(budget);
  if (!done) {
    drop_preparing();
    return done;
  }
  if (!*done) return false;
  Segment ready = std::move(*preparing_);
  preparing_.reset();
  ready.offset = 0;
  {
    const io::SpinLock lock(mutex_);
    spares_.push_back(std::move(ready));
  }
  made_room();
  return true;
}

bool LogImpl::wants_spare() const {
  const io::SpinLock lock(mutex_);
  const std::uint64_t ahead = available_blocks() - std::min(available_blocks(), pending_blocks_);
  return ahead < blocks(options_.segment_bytes) / 2;
}

void LogImpl::recycle_below(Lsn low) {
  {
    const io::SpinLock lock(mutex_);
    const auto free = std::ranges::partition(retained_, [&](const Segment& s) {
      return s.end > low && !KESSAI_MUTANT(recycle_live_segment);
    });
    std::ranges::move(free, std::back_inserter(spares_));
    retained_.erase(free.begin(), free.end());
  }
  made_room();
}

std::uint64_t LogImpl::bytes_since(Lsn from) const {
  const io::SpinLock lock(mutex_);
  const Lsn tail = tail_.load(std::memory_order_relaxed);
  std::uint64_t sum = tail - std::min(tail, std::max(from, first_lsn_));
  if (from >= first_lsn_) return sum;
  for (const auto& s : retained_)
    if (s.end <= before_.end) sum += s.end - std::min(s.end, std::max(from, s.first));
  return sum;
}

std::uint64_t LogImpl::file_bytes() const {
  const io::SpinLock lock(mutex_);
  return file_bytes_;
}

Result<void> LogImpl::visit_records(const std::function<bool(const LogReader::RawRecord&)>& fn) {
  std::vector<SegmentFile> files;
  const auto add = [&](const Segment& s) {
    SegmentFile f;
    f.index = s.index;
    f.name = s.name;
    f.file = s.file;
    files.push_back(std::move(f));
  };
  Lsn durable;
  {
    const io::SpinLock lock(mutex_);
    for (const auto& s : retained_) add(s);
    if (footer_due_) add(*footer_due_);
    add(active_);
    durable = durable_lsn();
  }
  KESSAI_ASSIGN(reader, Reader::over(std::move(files), store_, env_.directory->block_size()));
  return reader->visit_records(
      [&](const LogReader::RawRecord& r) { return r.lsn <= durable && fn(r); });
}

}  // namespace kessai::wal
