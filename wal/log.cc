// SPDX-License-Identifier: Apache-2.0
// The ring: reserve, fill, applied, the watermarks, and waiting for room.
#include <algorithm>
#include <bit>
#include <cstring>

#include "io/check.hpp"
#include "io/mutant.hpp"
#include "wal/log_private.hpp"

namespace kessai::wal {
namespace {
constexpr std::uint64_t kRoomWaitNs = 1'000'000;
constexpr unsigned kRoomAttempts = 10'000;  // ten seconds
}  // namespace

LogImpl::LogImpl(io::Env& env, StoreId store, const LogOptions& options)
    : env_(env), store_(store), options_(options) {
  block_ = std::max(kMinBlock, env.directory->block_size());
  auto& o = options_;
  o.segment_bytes =
      std::clamp<std::uint64_t>(round_up(o.segment_bytes, block_),
                                std::uint64_t{kMinSegmentBlocks} * block_, kMaxSegmentBytes / 4);
  // Handed-out LSNs stay below durable + ring + one frame: within the window (I9).
  o.ring_bytes = std::clamp<std::uint64_t>(std::bit_floor(o.ring_bytes), 64 * 1024, kWindow / 2);
  const std::uint64_t usable = o.segment_bytes / block_ - kHeaderBlocks - kFooterBlocks;
  slack_blocks_ = std::min(frame_bytes(kMaxRecord, block_) / block_, usable / 2);
  max_record_ = std::min<std::uint64_t>(
      {kMaxRecord, slack_blocks_ * block_ - kFrameHeader, o.ring_bytes / 2});
  o.max_frame_bytes = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(
      o.max_frame_bytes / block_ * block_, slack_blocks_ * block_, kMaxFrameBytes));
  entries_ = std::make_unique<Entry[]>(kEntries);
  frame_buffer_ = io::AlignedBuffer(o.max_frame_bytes);
  block_buffer_ = io::AlignedBuffer(std::size_t{block_} * kHeaderBlocks);
  const io::SpinLock lock(mutex_);
  holds_.reserve(64);
  spares_.reserve(128);
  retained_.reserve(128);
}

LogImpl::~LogImpl() = default;

Result<std::unique_ptr<Log>> Log::create(io::Env& env, StoreId store, const LogOptions& options) {
  auto log = std::make_unique<LogImpl>(env, store, options);
  KESSAI_TRY(log->open_fresh());
  return log;
}

Result<std::unique_ptr<Log>> Log::start(io::Env& env, StoreId store, const LogOptions& options,
                                        std::unique_ptr<LogReader> reader, const LogEnd& end,
                                        Lsn keep_from) {
  auto log = std::make_unique<LogImpl>(env, store, options);
  KESSAI_CHECK(end.lsn > 0);  // find_end() was called
  KESSAI_TRY(log->open_after(static_cast<Reader&>(*reader), keep_from));
  return log;
}

LogImpl::Lack LogImpl::lacking(std::size_t bytes, std::uint64_t charge) const {
  const std::uint64_t head = head_.load(std::memory_order_relaxed);
  const std::uint64_t done = std::min(taken_head_.load(std::memory_order_acquire),
                                      applied_head_.load(std::memory_order_seq_cst));
  if (head - done >= kEntries) return Lack::entries;
  const Lsn tail = tail_.load(std::memory_order_relaxed);
  if (tail + bytes - taken_.load(std::memory_order_acquire) > options_.ring_bytes)
    return Lack::ring;
  if (pending_blocks_ + charge > available_blocks()) return Lack::space;
  return Lack::nothing;
}

Result<Log::Reservation> LogImpl::reserve(std::size_t bytes) {
  if (bytes < kRecordHeader || bytes > max_record_)
    return fail(Code::invalid_argument, "log record of " + std::to_string(bytes) + " bytes");
  const std::uint64_t charge = blocks(frame_bytes(bytes, block_));
  io::Waits::LateTimer wait(&env_);
  for (unsigned attempts = 0;;) {
    // Before anything is looked at: room made from here on ends the wait for it.
    const std::uint32_t room = room_.load(std::memory_order_seq_cst);
    if (poisoned()) return std::unexpected(poison_error(Code::poisoned));
    Lack lack;
    {
      const io::SpinLock lock(mutex_);
      lack = lacking(bytes, charge);
      if (lack == Lack::nothing) {
        const Lsn start = tail_.load(std::memory_order_relaxed);
        const std::uint64_t number = head_.load(std::memory_order_relaxed);
        Entry& e = entry(number);
        e.start = start;
        e.lsn = start + bytes;
        e.state.store(0, std::memory_order_relaxed);
        pending_blocks_ += charge;
        // Pairs with the acquire loads of the leader and of applied().
        head_.store(number + 1, std::memory_order_release);
        tail_.store(e.lsn, std::memory_order_release);
        return Reservation{start, e.lsn, number};
      }
    }
    wait.start(io::Wait::wal_space);
    KESSAI_TRY(make_room(lack, charge, attempts, room));
  }
}

Lsn LogImpl::flushable_end() const {
  const io::SpinLock lock(mutex_);
  Lsn end = taken_.load(std::memory_order_acquire);
  const std::uint64_t head = head_.load(std::memory_order_relaxed);
  const std::uint64_t from = taken_head_.load(std::memory_order_acquire);
  for (std::uint64_t n = from; n < head && n < from + 1024; ++n) {
    if ((entry(n).state.load(std::memory_order_acquire) & kFilled) == 0) break;
    end = entry(n).lsn;
  }
  return end;
}

/// Returns when trying again is worth it. First what is filled is flushed: that frees ring and
/// entries, and turns the worst-case charges of records into the blocks they really took.
Result<void> LogImpl::make_room(Lack lack, std::uint64_t charge, unsigned& attempts,
                                std::uint32_t room) {
  bool pending;
  {
    const io::SpinLock lock(mutex_);
    pending = pending_blocks_ > 0;
  }
  if (const Lsn end = flushable_end(); end > durable_lsn() && (lack != Lack::space || pending)) {
    if (!await_durable(end)) return std::unexpected(poison_error(Code::poisoned));
    return {};
  }
  if (lack == Lack::space) {
    Result<bool> made = [&]() -> Result<bool> {
      const io::MutexLock lock(prepare_mutex_);
      {
        const io::SpinLock ring(mutex_);  // another reserver may have made one meanwhile
        if (pending_blocks_ + charge <= available_blocks()) return true;
      }
      return prepare_segment(~std::uint64_t{0});
    }();
    if (made) return {};
    if (made.error() != Code::disk_full) return std::unexpected(made.error());
    if (options_.on_log_full && (attempts == 0 || env_.background)) options_.on_log_full();
    if (attempts++ == 0) return {};
    const bool device_full = made.error().os_error() != 0;
    if (device_full || !env_.background || attempts > kRoomAttempts)
      return std::unexpected(made.error());
  } else if (!env_.background || ++attempts > kRoomAttempts) {
    return fail(Code::lock_timeout, "waited for room in the log buffer (log_ring)");
  }
  io::futex_wait(room_, room, kRoomWaitNs);
  return {};
}

void LogImpl::made_room() noexcept {
  room_.fetch_add(1, std::memory_order_seq_cst);
  io::futex_wake(room_, INT32_MAX);
}

void LogImpl::fill(const Reservation& r, std::span<const std::byte> record) {
  KESSAI_CHECK(record.size() == r.lsn - r.start);
  const std::size_t mask = options_.ring_bytes - 1;
  const std::size_t at = r.start & mask;
  const std::size_t first = std::min<std::size_t>(record.size(), options_.ring_bytes - at);
  std::memcpy(ring_.data() + at, record.data(), first);
  std::memcpy(ring_.data(), record.data() + first, record.size() - first);
  record_bytes_.fetch_add(record.size(), std::memory_order_relaxed);
  // Pairs with the leader's acquire load: it then reads the ring bytes.
  entry(r.entry).state.fetch_or(kFilled, std::memory_order_release);
}

void LogImpl::applied(const Reservation& r) {
  // Store, then look whether we are the oldest; the one who moves the head stores it, then looks at
  // the next entry. All seq_cst: one of the two sees the other, so the head cannot stick.
  entry(r.entry).state.fetch_or(kApplied, std::memory_order_seq_cst);
  if (KESSAI_MUTANT(applied_out_of_order) && applied_.load(std::memory_order_relaxed) < r.lsn)
    applied_.store(r.lsn, std::memory_order_release);
  if (applied_head_.load(std::memory_order_seq_cst) != r.entry) return;
  const io::SpinLock lock(mutex_);
  std::uint64_t n = applied_head_.load(std::memory_order_seq_cst);
  const std::uint64_t head = head_.load(std::memory_order_relaxed);
  while (n < head && (entry(n).state.load(std::memory_order_seq_cst) & kApplied) != 0) {
    applied_.store(entry(n).lsn, std::memory_order_release);
    applied_head_.store(++n, std::memory_order_seq_cst);
  }
}

std::uint64_t LogImpl::hold_low() {
  const io::SpinLock lock(mutex_);
  holds_.emplace_back(++last_hold_, tail_.load(std::memory_order_relaxed));
  return last_hold_;
}

void LogImpl::release_low(std::uint64_t token) {
  const io::SpinLock lock(mutex_);
  std::erase_if(holds_, [&](const auto& h) { return h.first == token; });
}

Lsn LogImpl::low() const {
  const io::SpinLock lock(mutex_);
  const std::uint64_t n = applied_head_.load(std::memory_order_seq_cst);
  Lsn low = n < head_.load(std::memory_order_relaxed) ? entry(n).start
                                                      : tail_.load(std::memory_order_relaxed);
  for (const auto& h : holds_) low = std::min(low, h.second);
  return low;
}

void LogImpl::poison(const Error& why) {
  poison_waiters(why);
  callbacks_due();
}

void LogImpl::poison_waiters(const Error& why) {
  {
    const io::MutexLock lock(poison_mutex_);
    if (!poison_) poison_ = why;
  }
  poisoned_.store(true, std::memory_order_seq_cst);
  for (auto& g : groups_) {
    g.word.fetch_add(1, std::memory_order_seq_cst);
    io::futex_wake(g.word, INT32_MAX);
  }
  made_room();
}

Error LogImpl::poison_error(Code code, Lsn lsn) const {
  const io::MutexLock lock(poison_mutex_);
  ErrorDetail d;
  d.what = "the log failed: " + (poison_ ? poison_->message() : std::string("unknown"));
  d.lsn = lsn;
  return Error(code, std::move(d), poison_ ? poison_->os_error() : 0);
}

Log::Counters LogImpl::counters() const {
  const auto get = [](const auto& a) { return a.load(std::memory_order_relaxed); };
  return {.record_bytes = get(record_bytes_),
          .frame_bytes = get(frame_bytes_),
          .flushes = get(flushes_),
          .segments = get(segments_used_),
          .stalls = get(stalls_)};
}

}  // namespace kessai::wal
