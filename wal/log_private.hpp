// SPDX-License-Identifier: Apache-2.0
// The running log. Three parts: the ring (log.cc), the flights (flush.cc), the segments (space.cc).
//
// Leader role (`leading_`, taken by try only). Its holder alone builds and lands flights. A flight
// is one frame under way, or the header write that precedes the first frame of a segment:
//
//        start_flight: nothing to do            start_flight: next record does not fit
//   idle ------------------------------> idle   idle ----------> header --land--> idle (new
//   segment) idle --start_flight--> frame (+ footer of the segment before) --land--> idle
//   (published)
//
// A flight outlives the leader that started it: poll() and tick() leave it under way, and so does a
// satisfied leader that starts one for tickets.
//
// Blocked committers wait on one of two words: the one of the flight that covers their LSN, or of
// the next. `flight_` = (its end LSN << 8 | its number) is read at once, so a committer cannot
// choose the word of a flight that is already over without noticing. Landing bumps and wakes one
// word. A leader that leaves while others wait passes the baton: it wakes one of them, who tries
// for the role. A thread that holds the baton and finds itself satisfied passes it on. A new leader
// clears the baton. Before it starts a flight, a leader lets those gather whom the last one
// satisfied (gather_led).
//
// Space (I4). Every reserved record is charged a frame of its own until a flight takes it. Reserve
// keeps: sum of charges <= blocks left in the active segment beyond `slack` + those of all spare
// segments but one. Cutting frames in order then always fits: a segment is left early only when the
// next record does not fit, which wastes less than `slack` = blocks of the longest record. The one
// spare that is never counted is what the next open starts its generation in (I15).
//
// Locks, in order: prepare_mutex_, mutex_ (spin; no I/O), poison_mutex_ and callbacks_mutex_
// (leaves). The role is never waited for.
#pragma once

#include <atomic>
#include <map>
#include <optional>

#include "io/memory.hpp"
#include "io/sync.hpp"
#include "io/waits.hpp"
#include "wal/format.hpp"
#include "wal/log.hpp"
#include "wal/reader_private.hpp"

namespace kessai::wal {

class LogImpl final : public Log {
 public:
  LogImpl(io::Env& env, StoreId store, const LogOptions& options);
  ~LogImpl() override;

  /// First segment of the generation, its header durable.
  [[nodiscard]] Result<void> open_fresh();
  [[nodiscard]] Result<void> open_after(Reader& reader, Lsn keep_from);

  Result<Reservation> reserve(std::size_t bytes) override;
  void fill(const Reservation& r, std::span<const std::byte> record) override;
  void applied(const Reservation& r) override;
  std::uint64_t hold_low() override;
  void release_low(std::uint64_t token) override;
  Lsn tail() const noexcept override { return tail_.load(std::memory_order_acquire); }
  Lsn durable_lsn() const noexcept override { return durable_.load(std::memory_order_seq_cst); }
  // seq_cst, both watermarks: snapshots begin at them (mvcc/snapshots.hpp, B2 and H1).
  Lsn applied_lsn() const noexcept override { return applied_.load(std::memory_order_seq_cst); }
  Lsn low() const override;
  std::uint64_t generation() const noexcept override { return generation_; }
  Lsn first_lsn() const noexcept override { return first_lsn_; }
  std::size_t max_record() const noexcept override { return max_record_; }

  Result<void> wait_durable(Lsn lsn) override;
  Lsn poll() override;
  void on_durable(Lsn lsn, std::function<void(Result<void>)> fn) override;
  void run_callbacks() override;
  void tick() override;
  void recycle_below(Lsn low) override;
  std::uint64_t bytes_since(Lsn from) const override;
  std::uint64_t file_bytes() const override;
  void poison(const Error& why) override;
  bool poisoned() const noexcept override { return poisoned_.load(std::memory_order_acquire); }
  Error failure() const override { return poison_error(Code::poisoned); }
  Result<void> seal() override;
  Counters counters() const override;
  Result<void> visit_records(const std::function<bool(const LogReader::RawRecord&)>& fn) override;

 private:
  static constexpr std::uint64_t kEntries = 8192;
  static constexpr std::uint32_t kFilled = 1, kApplied = 2;
  struct Entry {
    Lsn start = 0, lsn = 0;  // written by reserve under mutex_, published by head_
    io::Atomic<std::uint32_t> state{0};
  };
  struct Segment {
    std::shared_ptr<io::File> file;
    std::string name;
    std::uint32_t index = 0;
    std::uint64_t bytes = 0;
    std::uint64_t number = 0;
    Lsn first = 0, end = 0;
    std::uint64_t offset = 0;  // of the next frame
  };
  struct alignas(64) Group {
    io::Atomic<std::uint32_t> word{0};
    io::Atomic<std::uint32_t> waiters{0};
  };
  enum class Stage : std::uint8_t { idle, header, frame };
  enum class Lack : std::uint8_t { nothing, entries, ring, space };

  Entry& entry(std::uint64_t number) noexcept { return entries_[number & (kEntries - 1)]; }
  const Entry& entry(std::uint64_t number) const noexcept {
    return entries_[number & (kEntries - 1)];
  }
  std::uint64_t blocks(std::uint64_t bytes) const noexcept { return bytes / block_; }
  std::uint64_t frames_end(const Segment& s) const noexcept {
    return s.bytes - kFooterBlocks * block_;
  }

  // log.cc
  Lack lacking(std::size_t bytes, std::uint64_t charge) const KESSAI_REQUIRES(mutex_);
  Result<void> await_durable(Lsn lsn);  ///< wait_durable, counted by the caller
  Result<void> make_room(Lack lack, std::uint64_t charge, unsigned& attempts, std::uint32_t room);
  void made_room() noexcept;
  Lsn flushable_end() const;
  Error poison_error(Code code, Lsn lsn = 0) const;
  void poison_waiters(const Error& why);  ///< without the callbacks: under the leader role

  // flush.cc; "led": the caller holds the leader role
  bool try_lead() noexcept;
  void stop_leading();
  void pass_baton();
  void lead_until(Lsn lsn);
  void gather_led();
  std::uint32_t waiting() const noexcept;
  bool start_flight_led(bool hint);
  bool start_header_led();
  void submit_led(io::File& file, std::uint64_t offset, std::span<const std::byte> bytes);
  void land_led(bool wait);
  void header_landed_led();
  void frame_landed_led();
  void wake_landed_led();
  bool hint_fits_led();
  void want(Lsn lsn) noexcept;
  void callbacks_due();

  // space.cc
  std::uint64_t available_blocks() const KESSAI_REQUIRES(mutex_);
  Result<void> write_first_header(Segment segment, const Reader::Tail& tail, bool replace);
  SegmentHeader header_of(const Segment& s, std::uint64_t previous, std::uint64_t chain) const;
  std::uint64_t next_segment_bytes() const;
  Result<bool> prepare_segment(std::uint64_t budget) KESSAI_REQUIRES(prepare_mutex_);
  Result<bool> write_zeros(std::uint64_t budget) KESSAI_REQUIRES(prepare_mutex_);
  Result<void> begin_preparing() KESSAI_REQUIRES(prepare_mutex_);
  void drop_preparing() KESSAI_REQUIRES(prepare_mutex_);
  bool wants_spare() const;

  // Constant after construction and open_*().
  io::Env& env_;
  const StoreId store_;
  LogOptions options_;
  std::uint32_t block_ = kMinBlock;
  std::size_t max_record_ = 0;
  std::uint64_t slack_blocks_ = 0;
  std::uint64_t generation_ = 1;
  Salt salt_;
  Lsn first_lsn_ = kFirstLsn;
  std::uint64_t generation_segment_ = 1;
  Reader::Tail before_;  ///< what the generation follows
  io::Region ring_;
  std::unique_ptr<Entry[]> entries_;

  // Atomics. head_ (release, by reserve) publishes entries to the leader and to applied().
  io::Atomic<Lsn> tail_{0}, taken_{0}, durable_{0}, applied_{0}, wanted_{0};
  io::Atomic<std::uint64_t> head_{0}, taken_head_{0}, applied_head_{0};
  io::Atomic<std::uint64_t> flight_{0};
  io::Atomic<bool> leading_{false}, flying_{false}, poisoned_{false};
  io::Atomic<std::uint32_t> baton_{0};  ///< 0, or 1 + the group it was passed to
  Group groups_[2];
  io::Atomic<Lsn> callback_min_{kMaxLsn + 1};
  std::atomic<std::uint64_t> record_bytes_{0}, frame_bytes_{0}, flushes_{0}, segments_used_{0},
      stalls_{0};

  mutable io::SpinMutex mutex_;
  std::uint64_t pending_blocks_ KESSAI_GUARDED_BY(mutex_) =
      0;            ///< charges of records not yet taken
  Segment active_;  ///< written by the leader under mutex_: either is enough to read it
  std::optional<Segment> next_ KESSAI_GUARDED_BY(mutex_);  ///< its header is under way
  std::optional<Segment> footer_due_
      KESSAI_GUARDED_BY(mutex_);  ///< full; its footer is not written
  std::vector<Segment> spares_ KESSAI_GUARDED_BY(mutex_);
  std::vector<Segment> retained_ KESSAI_GUARDED_BY(mutex_);  ///< full, not recyclable yet
  std::vector<std::pair<std::uint64_t, Lsn>> holds_ KESSAI_GUARDED_BY(mutex_);
  std::uint64_t last_hold_ KESSAI_GUARDED_BY(mutex_) = 0;
  std::uint64_t file_bytes_ KESSAI_GUARDED_BY(mutex_) = 0;
  std::uint32_t file_count_ KESSAI_GUARDED_BY(mutex_) = 0;

  io::Mutex prepare_mutex_;  ///< making spare segments; held across I/O
  std::vector<Segment> unprepared_
      KESSAI_GUARDED_BY(prepare_mutex_);  ///< files to fill with zeros first
  std::optional<Segment> preparing_ KESSAI_GUARDED_BY(prepare_mutex_);
  bool preparing_new_ KESSAI_GUARDED_BY(prepare_mutex_) = false;
  io::AlignedBuffer zeros_ KESSAI_GUARDED_BY(prepare_mutex_);
  std::uint32_t next_index_ KESSAI_GUARDED_BY(prepare_mutex_) = 0;

  io::Atomic<std::uint32_t> room_{0};  ///< counts what may have made room: reservers wait on it

  mutable io::Mutex poison_mutex_;
  std::optional<Error> poison_ KESSAI_GUARDED_BY(poison_mutex_);

  io::Mutex callbacks_mutex_;
  std::multimap<Lsn, std::function<void(Result<void>)>> callbacks_
      KESSAI_GUARDED_BY(callbacks_mutex_);

  // The leader's.
  Stage stage_ = Stage::idle;
  unsigned ops_ = 0;
  std::optional<Error> failure_;
  Lsn flight_end_ = 0;
  std::uint64_t flight_bytes_ = 0;
  bool flight_is_hint_ = false, footer_flying_ = false;
  std::uint32_t company_ =
      1;  ///< committers around when the last flight landed, the leader included
  std::uint64_t submitted_ns_ = 0, landed_ns_ = 0, flight_ns_ = 0;
  std::uint32_t landed_ = 0;  ///< groups to wake: bit 0 and 1
  std::uint64_t chain_ = 0;   ///< low checksum word of the last frame built
  std::uint64_t next_number_ = 2;
  Lsn hinted_ = 0;  ///< durable LSN told by the last hint frame
  std::vector<io::Queue::Completion> completions_;
  io::AlignedBuffer frame_buffer_, block_buffer_;

  // tick()'s.
  Lsn waiting_lsn_ = 0;
  std::uint64_t waiting_since_ = 0, idle_since_ = 0;
  unsigned spare_pause_ = 0;

  std::unique_ptr<io::Queue> queue_;  ///< last: destroyed (drained) before the buffers and files
};

}  // namespace kessai::wal
