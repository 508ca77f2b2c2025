// SPDX-License-Identifier: Apache-2.0
// Flights: group commit, its waiters and its callbacks. The protocol is on top of log_private.hpp.
#include <algorithm>
#include <cstring>

#include "io/check.hpp"
#include "io/mutant.hpp"
#include "wal/log_private.hpp"

namespace kessai::wal {
namespace {
// Waiters are woken; the time-out only bounds what a bug could cost.
constexpr std::uint64_t kWaitNs = 1'000'000'000;
// How often a would-be leader yields to the thread that is copying a record in front of its own.
constexpr unsigned kYields = 64;
constexpr unsigned kStill = 24;  // yields without a newcomer after which a leader stops gathering
constexpr std::uint64_t kTickZeros = 2u << 20;  // zeros that one tick() writes into a spare segment
constexpr unsigned kSparePause = 100;           // ticks before it tries again on a full disk
}  // namespace

bool LogImpl::try_lead() noexcept {
  if (leading_.load(std::memory_order_seq_cst) ||
      leading_.exchange(true, std::memory_order_seq_cst))
    return false;
  baton_.store(0, std::memory_order_seq_cst);
  return true;
}

void LogImpl::stop_leading() {
  leading_.store(false, std::memory_order_seq_cst);
  pass_baton();
  callbacks_due();
}

void LogImpl::callbacks_due() {
  if (!options_.on_callbacks_due) return run_callbacks();
  const Lsn first = callback_min_.load(std::memory_order_seq_cst);
  if (first <= kMaxLsn && (first <= durable_lsn() || poisoned())) options_.on_callbacks_due();
}

void LogImpl::pass_baton() {
  for (;;) {
    const std::uint64_t f = flight_.load(std::memory_order_seq_cst);
    // Whoever waits for the flight under way should land it; else one of the next group starts one.
    std::uint32_t parity = (flying_.load(std::memory_order_seq_cst) ? f : f + 1) & 1;
    if (groups_[parity].waiters.load(std::memory_order_seq_cst) == 0) parity ^= 1;
    Group& g = groups_[parity];
    if (g.waiters.load(std::memory_order_seq_cst) == 0) return;
    std::uint32_t none = 0;
    if (!baton_.compare_exchange_strong(none, parity + 1, std::memory_order_seq_cst)) return;
    g.word.fetch_add(1, std::memory_order_seq_cst);
    io::futex_wake(g.word, 1);
    if (g.waiters.load(std::memory_order_seq_cst) != 0) return;
    // They left meanwhile, perhaps without seeing the baton: take it back and look again.
    std::uint32_t mine = parity + 1;
    if (!baton_.compare_exchange_strong(mine, 0, std::memory_order_seq_cst)) return;
  }
}

void LogImpl::want(Lsn lsn) noexcept {
  Lsn seen = wanted_.load(std::memory_order_relaxed);
  while (seen < lsn && !wanted_.compare_exchange_weak(seen, lsn, std::memory_order_relaxed)) {
  }
}

Result<void> LogImpl::wait_durable(Lsn lsn) {
  if (durable_lsn() >= lsn) return {};
  if (lsn > tail()) return fail(Code::invalid_argument, "no such LSN was handed out yet");
  if (KESSAI_MUTANT(ack_before_write)) return want(lsn), Result<void>{};
  const io::Waits::Timer wait(env_, io::Wait::wal_flush);
  return await_durable(lsn);
}

Result<void> LogImpl::await_durable(Lsn lsn) {
  want(lsn);
  bool baton = false;
  for (unsigned yields = 0;;) {
    const std::uint64_t f = flight_.load(std::memory_order_seq_cst);
    const std::uint32_t parity = (lsn <= (f >> 8) ? f : f + 1) & 1;
    Group& g = groups_[parity];
    const std::uint32_t word = g.word.load(std::memory_order_seq_cst);
    const bool durable = durable_lsn() >= lsn;
    if (durable || poisoned()) {
      if (baton && !leading_.load(std::memory_order_seq_cst)) {
        pass_baton();
        if (waiting() == 0 && wanted_.load(std::memory_order_relaxed) > durable_lsn()) (void)poll();
      }
      if (durable) return {};
      return std::unexpected(poison_error(Code::unknown_outcome, lsn));
    }
    if (flight_.load(std::memory_order_seq_cst) != f) continue;
    if (try_lead()) {
      baton = false;
      lead_until(lsn);
      stop_leading();
      if (durable_lsn() >= lsn || ++yields < kYields) {
        if (durable_lsn() < lsn) io::yield_thread();
        continue;
      }
      // The thread before us in the log was descheduled while it copied. Let it run.
      yields = 0;
      io::futex_wait(g.word, word, 50'000);
      continue;
    }
    g.waiters.fetch_add(1, std::memory_order_seq_cst);
    // Registered, then looked: either the leader sees us when it leaves, or we see that it left.
    if (leading_.load(std::memory_order_seq_cst) || KESSAI_MUTANT(lead_not_rechecked)) {
      io::futex_wait(g.word, word, kWaitNs);
      if (g.word.load(std::memory_order_seq_cst) == word)
        stalls_.fetch_add(1, std::memory_order_relaxed);
    }
    g.waiters.fetch_sub(1, std::memory_order_seq_cst);
    std::uint32_t mine = parity + 1;
    if (baton_.compare_exchange_strong(mine, 0, std::memory_order_seq_cst)) baton = true;
  }
}

void LogImpl::lead_until(Lsn lsn) {
  while (durable_lsn() < lsn && !poisoned()) {
    if (stage_ == Stage::idle) {
      gather_led();
      if (!start_flight_led(false)) break;
    }
    wake_landed_led();
    land_led(true);
    if (stage_ == Stage::idle) {
      company_ = 1 + waiting();
      if (company_ > 1) wake_landed_led();
    }
  }
  // Blocked committers decide when the next flight leaves; for tickets nobody else would.
  if (stage_ == Stage::idle && waiting() == 0 &&
      wanted_.load(std::memory_order_relaxed) > durable_lsn())
    (void)start_flight_led(false);
  wake_landed_led();
}

std::uint32_t LogImpl::waiting() const noexcept {
  return groups_[0].waiters.load(std::memory_order_relaxed) +
         groups_[1].waiters.load(std::memory_order_relaxed);
}

/// Those whom the last flight satisfied are about to commit again. Started at once, the next flight
/// would carry the other half only, and the two halves would take turns for ever: half the commits
/// per flight. So give them the processor while they keep coming, for at most a part of a flight.
void LogImpl::gather_led() {
  std::uint32_t seen = waiting() + 1;
  if (seen >= company_) return;
  const std::uint64_t until = landed_ns_ + flight_ns_ / 4;
  for (unsigned still = 0; still < kStill && seen < company_;) {
    io::yield_thread();
    const std::uint32_t now = waiting() + 1;
    still = now > seen ? 0 : still + 1;
    seen = now;
    if (env_.clock->now_ns() >= until) break;
  }
  company_ = 1;
}

Lsn LogImpl::poll() {
  const Lsn tail = this->tail();
  if (durable_lsn() >= tail && !flying_.load(std::memory_order_relaxed)) return durable_lsn();
  want(tail);
  if (try_lead()) {
    land_led(false);
    if (stage_ == Stage::idle) (void)start_flight_led(false);
    wake_landed_led();
    stop_leading();
  }
  return durable_lsn();
}

/// Builds a frame of the filled records and submits it. False: there is nothing to write.
bool LogImpl::start_flight_led(bool hint) {
  if (poisoned()) return false;
  const Lsn first = taken_.load(std::memory_order_relaxed);
  const std::uint64_t room = frames_end(active_) - active_.offset;
  const std::uint64_t limit = std::min<std::uint64_t>(room, options_.max_frame_bytes);
  const std::uint64_t head = head_.load(std::memory_order_acquire);
  std::uint64_t n = taken_head_.load(std::memory_order_relaxed);
  std::uint64_t payload = 0, charged = 0;
  std::uint32_t records = 0;
  for (; n < head; ++n) {
    const Entry& e = entry(n);
    if ((e.state.load(std::memory_order_acquire) & kFilled) == 0 &&
        !KESSAI_MUTANT(unfilled_record_flushed))
      break;
    const std::uint64_t bytes = e.lsn - e.start;
    if (kFrameHeader + payload + bytes > limit) {
      if (records == 0) return start_header_led();
      break;
    }
    payload += bytes;
    charged += blocks(frame_bytes(bytes, block_));
    ++records;
  }
  if (records == 0 && (!hint || room < block_)) return false;

  const std::uint64_t bytes = frame_bytes(payload, block_);
  std::byte* frame = frame_buffer_.data();
  const std::size_t at = first & (options_.ring_bytes - 1);
  const std::size_t part = std::min<std::size_t>(payload, options_.ring_bytes - at);
  std::memcpy(frame + kFrameHeader, ring_.data() + at, part);
  std::memcpy(frame + kFrameHeader + part, ring_.data(), payload - part);
  std::memset(frame + kFrameHeader + payload, 0, bytes - kFrameHeader - payload);
  FrameHeader h{.generation = generation_,
                .first = first,
                .payload = static_cast<std::uint32_t>(payload),
                .records = records,
                .hint = durable_lsn(),
                .previous = chain_,
                .segment = active_.number,
                .checksum = {}};
  seal_frame(h, salt_, {frame, bytes});
  chain_ = h.checksum.low;
  const std::uint64_t offset = active_.offset;
  std::shared_ptr<io::File> footer_file;
  std::uint64_t footer_at = 0;
  {
    const io::SpinLock lock(mutex_);
    active_.offset += bytes;
    pending_blocks_ -= charged;
    if (footer_due_) {
      footer_file = footer_due_->file;
      footer_at = frames_end(*footer_due_);
    }
  }
  // Release: the ring bytes and entries taken may be reused by whoever reads this.
  taken_head_.store(n, std::memory_order_release);
  taken_.store(h.end(), std::memory_order_release);
  stage_ = Stage::frame;
  flight_end_ = h.end();
  flight_bytes_ = bytes;
  flight_is_hint_ = records == 0;
  footer_flying_ = footer_file != nullptr;
  flying_.store(true, std::memory_order_seq_cst);
  const std::uint64_t number = (flight_.load(std::memory_order_relaxed) + 1) & 0xff;
  flight_.store(h.end() << 8 | number, std::memory_order_seq_cst);
  submit_led(*active_.file, offset, {frame, bytes});
  // The frame's own header was durable before, so the footer may say that it must be there.
  if (footer_file) submit_led(*footer_file, footer_at, block_buffer_.span().first(block_));
  queue_->submit();
  submitted_ns_ = env_.clock->now_ns();
  if (KESSAI_MUTANT(ack_before_completion)) durable_.store(flight_end_, std::memory_order_seq_cst);
  return true;
}

void LogImpl::submit_led(io::File& file, std::uint64_t offset, std::span<const std::byte> bytes) {
  if (KESSAI_MUTANT(skip_wal_flush)) {
    queue_->write(file, offset, bytes, 0);
  } else {
    queue_->write_durable(file, offset, bytes, 0);
  }
  ++ops_;
}

/// The next record does not fit into the active segment: sends the next segment's header ahead.
bool LogImpl::start_header_led() {
  Segment next;
  {
    const io::SpinLock lock(mutex_);
    // The largest, so that the one left over for the next open is the smallest.
    const auto it = std::ranges::max_element(spares_, {}, &Segment::bytes);
    if (it != spares_.end()) {
      next = std::move(*it);
      spares_.erase(it);
      next.number = next_number_++;
      next.first = taken_.load(std::memory_order_relaxed);
      next.offset = std::uint64_t{kHeaderBlocks} * block_;
      next_ = next;
    }
  }
  if (!next.file) {
    KESSAI_DCHECK(false);  // reserve() claimed the space
    poison_waiters(Error(Code::disk_full, "no log segment left for claimed records"));
    return false;
  }
  std::memset(block_buffer_.data(), 0, block_buffer_.size());
  if (KESSAI_MUTANT(footer_before_header)) {
    encode_footer({active_.number, next.first, chain_, next.number}, salt_,
                  block_buffer_.span().first(block_));
    (void)active_.file->write(frames_end(active_), block_buffer_.span().first(block_));
    (void)active_.file->flush();
    std::memset(block_buffer_.data(), 0, block_buffer_.size());
  }
  const SegmentHeader h = header_of(next, active_.number, chain_);
  encode_header(h, block_buffer_.span().first(kMinBlock));
  encode_header(h, block_buffer_.span().subspan(block_, kMinBlock));
  stage_ = Stage::header;
  flying_.store(true, std::memory_order_seq_cst);
  submit_led(*next.file, 0, block_buffer_.span());
  queue_->submit();
  return true;
}

void LogImpl::land_led(bool wait) {
  if (stage_ == Stage::idle) return;
  completions_.clear();
  queue_->reap(completions_, wait ? ops_ : 0);
  for (auto& c : completions_) {
    --ops_;
    if (!c.result && !failure_) failure_ = c.result.error();
  }
  if (ops_ > 0) return;
  const Stage landed = stage_;
  stage_ = Stage::idle;
  flying_.store(false, std::memory_order_seq_cst);
  if (failure_) {
    poison_waiters(*failure_);
    return;
  }
  if (landed == Stage::header) return header_landed_led();
  frame_landed_led();
}

void LogImpl::header_landed_led() {
  segments_used_.fetch_add(1, std::memory_order_relaxed);
  const io::SpinLock lock(mutex_);
  active_.end = taken_.load(std::memory_order_relaxed);
  if (footer_due_) retained_.push_back(std::move(*footer_due_));
  footer_due_ = std::move(active_);
  active_ = std::move(*next_);
  next_.reset();
  encode_footer({.segment = footer_due_->number,
                 .end = footer_due_->end,
                 .chain = chain_,
                 .next_segment = active_.number},
                salt_, block_buffer_.span().first(block_));
}

void LogImpl::frame_landed_led() {
  if (footer_flying_) {
    footer_flying_ = false;
    const io::SpinLock lock(mutex_);
    retained_.push_back(std::move(*footer_due_));
    footer_due_.reset();
  }
  landed_ns_ = env_.clock->now_ns();
  flight_ns_ = landed_ns_ - submitted_ns_;
  flushes_.fetch_add(1, std::memory_order_relaxed);
  frame_bytes_.fetch_add(flight_bytes_, std::memory_order_relaxed);
  if (flight_is_hint_) hinted_ = flight_end_;
  if (poisoned()) return;  // those waiting were told that the outcome is unknown
  durable_.store(flight_end_, std::memory_order_seq_cst);
  landed_ |= 1u << (flight_.load(std::memory_order_relaxed) & 1);
}

void LogImpl::wake_landed_led() {
  for (std::uint32_t parity = 0; parity < 2; ++parity) {
    if ((landed_ >> parity & 1) == 0) continue;
    Group& g = groups_[parity];
    g.word.fetch_add(1, std::memory_order_seq_cst);
    if (g.waiters.load(std::memory_order_seq_cst) > 0) io::futex_wake(g.word, INT32_MAX);
  }
  landed_ = 0;
}

void LogImpl::on_durable(Lsn lsn, std::function<void(Result<void>)> fn) {
  if (durable_lsn() >= lsn) return fn({});
  want(lsn);
  {
    const io::MutexLock lock(callbacks_mutex_);
    callbacks_.emplace(lsn, std::move(fn));
    callback_min_.store(callbacks_.begin()->first, std::memory_order_seq_cst);
  }
  // Stored, then looked: either the leader sees the callback or we see its publication.
  run_callbacks();
}

void LogImpl::run_callbacks() {
  for (;;) {
    const Lsn durable = durable_lsn();
    const bool failed = poisoned();
    const Lsn first = callback_min_.load(std::memory_order_seq_cst);
    if (first > kMaxLsn || (first > durable && !failed)) return;
    std::vector<std::pair<Lsn, std::function<void(Result<void>)>>> ready;
    {
      const io::MutexLock lock(callbacks_mutex_);
      const auto end = failed ? callbacks_.end() : callbacks_.upper_bound(durable);
      for (auto it = callbacks_.begin(); it != end; ++it)
        ready.emplace_back(it->first, std::move(it->second));
      callbacks_.erase(callbacks_.begin(), end);
      callback_min_.store(callbacks_.empty() ? kMaxLsn + 1 : callbacks_.begin()->first,
                          std::memory_order_seq_cst);
    }
    for (auto& [lsn, fn] : ready) {
      if (lsn <= durable) {
        fn({});
      } else {
        fn(std::unexpected(poison_error(Code::unknown_outcome, lsn)));
      }
    }
  }
}

/// A hint frame takes a block that no record was promised.
bool LogImpl::hint_fits_led() {
  const io::SpinLock lock(mutex_);
  const std::uint64_t left = blocks(frames_end(active_) - active_.offset);
  return left > 0 && (left <= slack_blocks_ || available_blocks() > pending_blocks_);
}

void LogImpl::tick() {
  if (poisoned()) return;
  const std::uint64_t now = env_.clock->now_ns();
  const std::uint64_t patience = options_.flush_interval_ns / 2;
  const Lsn tail = this->tail();
  const Lsn durable = durable_lsn();
  bool flush = false, idle = false;
  if (durable < tail) {
    idle_since_ = 0;
    if (waiting_lsn_ <= durable) {
      waiting_lsn_ = tail;
      waiting_since_ = now;
    }
    flush = now - waiting_since_ >= patience;
    if (flush) want(waiting_lsn_);
  } else {
    if (idle_since_ == 0) idle_since_ = now;
    idle = now - idle_since_ >= patience;
  }
  if ((flush || idle || flying_.load(std::memory_order_relaxed)) && try_lead()) {
    land_led(false);
    if (stage_ == Stage::idle && (flush || wanted_.load(std::memory_order_relaxed) > durable_lsn()))
      (void)start_flight_led(false);
    if (stage_ == Stage::idle && idle && hinted_ < durable_lsn() && durable_lsn() > first_lsn_ &&
        hint_fits_led())
      (void)start_flight_led(true);
    wake_landed_led();
    stop_leading();
  }
  if (spare_pause_ > 0) {
    --spare_pause_;
  } else if (wants_spare()) {
    const io::MutexLock lock(prepare_mutex_);
    // What fails here fails again, and is answered, in reserve().
    if (!prepare_segment(kTickZeros)) spare_pause_ = kSparePause;
  }
}

Result<void> LogImpl::seal() {
  KESSAI_TRY(wait_durable(tail()));
  while (!try_lead()) io::yield_thread();
  land_led(true);
  if (!poisoned() && hinted_ < durable_lsn() && durable_lsn() > first_lsn_ && hint_fits_led() &&
      start_flight_led(true))
    land_led(true);
  wake_landed_led();
  stop_leading();
  if (poisoned()) return std::unexpected(poison_error(Code::poisoned));
  return {};
}

}  // namespace kessai::wal
