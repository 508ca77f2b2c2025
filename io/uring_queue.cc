// SPDX-License-Identifier: Apache-2.0
// The queue of the io_uring back end: one ring per queue.
//
// Choices
//   * A plain ring. SINGLE_ISSUER and DEFER_TASKRUN need one submitting thread for ever, but a
//   queue
//     moves between threads under its caller's lock. COOP_TASKRUN would leave a completion pending
//     until the submitter's next system call, also when another thread reaps.
//   * No linked SQEs: a short write breaks a soft link, and a hard link flushes over the torn
//   write.
//     Write and flush are two steps of one operation here, the second submitted by `reap`.
//   * No IOPOLL (it refuses fsync), no SQPOLL (it burns a core), no registered files
//   (os_private.hpp).
//   * Completions carry slot and generation; an unknown or doubled one is a broken kernel interface
//     and stops the process before it can acknowledge anything wrong.
#include <liburing.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <deque>

#include "io/os_private.hpp"

namespace kessai::io {
namespace {

class UringQueue final : public Queue {
 public:
  UringQueue(const OsDirectory& dir, unsigned depth) : dir_(dir), depth_(depth), slots_(depth) {
    for (unsigned i = depth; i > 0; --i) free_.push_back(i - 1);
  }

  /// 0 or the errno of the refusal.
  int start() {
    const int rc = ::io_uring_queue_init(depth_, &ring_, IORING_SETUP_CLAMP);
    ready_ = rc == 0;
    if (ready_ && (ring_.features & IORING_FEAT_NODROP) == 0) return ENOSYS;
    return -rc;
  }

  ~UringQueue() override {
    if (!ready_) return;
    for (const unsigned slot : to_submit_) release(slot);
    const bool unsubmitted = !to_submit_.empty();
    to_submit_.clear();
    broken_ = broken_ || unsubmitted;  // those SQEs must not reach the kernel any more
    std::vector<Completion> ignored;
    while (in_kernel_ > 0) {
      collect(ignored);
      if (in_kernel_ > 0) enter(1);
    }
    ::io_uring_queue_exit(&ring_);
  }
  UringQueue(const UringQueue&) = delete;
  UringQueue& operator=(const UringQueue&) = delete;

  unsigned depth() const noexcept override { return depth_; }
  unsigned in_flight() const noexcept override {
    return depth_ - static_cast<unsigned>(free_.size()) + static_cast<unsigned>(failed_.size());
  }

  void read(File& file, std::uint64_t offset, std::span<std::byte> into,
            std::uint64_t tag) override {
    prepare(file, offset, into.data(), into.size(), tag, Transfer::read, false);
  }
  void write(File& file, std::uint64_t offset, std::span<const std::byte> from,
             std::uint64_t tag) override {
    prepare(file, offset, const_cast<std::byte*>(from.data()), from.size(), tag, Transfer::write,
            false);
  }
  void write_durable(File& file, std::uint64_t offset, std::span<const std::byte> from,
                     std::uint64_t tag) override {
    const bool flush_after = dsync_refused_ || dir_.durable_mode() == DurableMode::write_then_flush;
    prepare(file, offset, const_cast<std::byte*>(from.data()), from.size(), tag,
            flush_after ? Transfer::write : Transfer::write_dsync, flush_after);
  }

  void submit() override {
    for (int retries = 0; !to_submit_.empty() && !broken_ && retries <= kMaxRetries; ++retries)
      enter(0);
  }

  std::size_t reap(std::vector<Completion>& out, unsigned wait_for) override {
    KESSAI_CHECK(wait_for <= in_flight());
    const std::size_t before = out.size();
    if (wait_for == 0) submit();
    for (;;) {
      collect(out);
      const std::size_t got = out.size() - before;
      if (got >= wait_for) break;
      // One system call submits and waits. A re-driven transfer makes the loop come round again.
      enter(static_cast<unsigned>(
          std::min<std::size_t>(wait_for - got, in_kernel_ + to_submit_.size())));
    }
    submit();
    return out.size() - before;
  }

 private:
  struct Slot {
    OsFile* file = nullptr;
    std::uint64_t offset = 0;
    std::byte* data = nullptr;
    std::size_t size = 0;
    std::uint64_t tag = 0;
    Transfer kind = Transfer::read;
    bool flush_after = false;
    bool durable = false;
    bool busy = false;
    int retries = 0;
    std::uint32_t generation = 0;
  };

  void prepare(File& file, std::uint64_t offset, std::byte* data, std::size_t size,
               std::uint64_t tag, Transfer kind, bool flush_after) {
    KESSAI_CHECK(in_flight() < depth_);
    KESSAI_DCHECK(dynamic_cast<OsFile*>(&file) != nullptr);
    auto* os = static_cast<OsFile*>(&file);
    const bool durable = flush_after || kind == Transfer::write_dsync;
    if (kind != Transfer::read && !os->writable()) return refuse(tag, os->not_writable());
    if (durable && os->failed_flush() != 0) return refuse(tag, os->flush_error(os->failed_flush()));
    if (broken_) return refuse(tag, os->transfer_error(EIO, kind, offset));
    const unsigned slot = free_.back();
    free_.pop_back();
    Slot& s = slots_[slot];
    s = {.file = os,
         .offset = offset,
         .data = data,
         .size = size,
         .tag = tag,
         .kind = kind,
         .flush_after = flush_after,
         .durable = durable,
         .busy = true,
         .generation = s.generation + 1};
    push(slot);
  }

  /// Fails without the kernel; counts as in flight until reaped.
  void refuse(std::uint64_t tag, Error error) {
    failed_.push_back({tag, std::unexpected(std::move(error))});
  }

  /// An SQE for what is left of the slot's operation. There is always room: one SQE per slot.
  void push(unsigned slot) {
    Slot& s = slots_[slot];
    io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
    KESSAI_CHECK(sqe != nullptr);
    const auto length = static_cast<unsigned>(std::min<std::size_t>(s.size, kLargest));
    if (s.size == 0 && s.flush_after) {
      ::io_uring_prep_fsync(sqe, s.file->fd(), IORING_FSYNC_DATASYNC);
    } else if (s.kind == Transfer::read) {
      ::io_uring_prep_read(sqe, s.file->fd(), s.data, length, s.offset);
    } else {
      ::io_uring_prep_write(sqe, s.file->fd(), s.data, length, s.offset);
      if (s.kind == Transfer::write_dsync) sqe->rw_flags = RWF_DSYNC;
    }
    sqe->user_data = std::uint64_t{s.generation} << 32 | slot;
    to_submit_.push_back(slot);
  }

  /// One io_uring_enter. Bounded retries are the callers' loops; a ring that stays refused is given
  /// up, and what it did not take fails.
  void enter(unsigned wait_for) {
    if (broken_ && !to_submit_.empty()) return give_up(EIO);
    const int rc = broken_ ? wait_only(wait_for) : ::io_uring_submit_and_wait(&ring_, wait_for);
    if (rc >= 0) {
      if (!broken_) taken(static_cast<unsigned>(rc));
      refusals_ = 0;
      return;
    }
    if (rc == -EINTR) return;
    if ((rc == -EAGAIN || rc == -EBUSY || rc == -ENOMEM) && ++refusals_ <= kMaxRetries) {
      yield_thread();  // the caller's loop collects completions, which makes room
      return;
    }
    give_up(-rc);
    yield_thread();
  }

  int wait_only(unsigned wait_for) {
    io_uring_cqe* cqe = nullptr;
    return wait_for == 0 || in_kernel_ == 0 ? 0 : ::io_uring_wait_cqe(&ring_, &cqe);
  }

  void taken(unsigned count) {
    KESSAI_CHECK(count <= to_submit_.size());
    for (unsigned i = 0; i < count; ++i) to_submit_.pop_front();
    in_kernel_ += count;
  }

  void give_up(int error) {
    broken_ = true;
    for (const unsigned slot : to_submit_) {
      Slot& s = slots_[slot];
      if (s.durable) s.file->flush_failed(error);
      refuse(s.tag, s.file->transfer_error(error, s.kind, s.offset));
      release(slot);
    }
    to_submit_.clear();
  }

  void release(unsigned slot) {
    slots_[slot].busy = false;
    free_.push_back(slot);
  }

  void collect(std::vector<Completion>& out) {
    const std::size_t first = out.size();
    io_uring_cqe* cqe = nullptr;
    while (in_kernel_ > 0 && ::io_uring_peek_cqe(&ring_, &cqe) == 0) {
      const auto slot = static_cast<unsigned>(cqe->user_data & 0xffff'ffff);
      const auto generation = static_cast<std::uint32_t>(cqe->user_data >> 32);
      const int res = cqe->res;
      ::io_uring_cqe_seen(&ring_, cqe);
      KESSAI_CHECK(slot < depth_ && slots_[slot].busy && slots_[slot].generation == generation);
      --in_kernel_;
      step(slot, res, out);
    }
    // The kernel reports a lost page of a buffered file to one operation only: what completed
    // beside a failed flush is not durable either.
    for (std::size_t i = first; i < out.size(); ++i) {
      OsFile* const file = durable_of_[i - first];
      if (file != nullptr && out[i].result && file->failed_flush() != 0) {
        out[i].result = std::unexpected(file->flush_error(file->failed_flush()));
      }
    }
    durable_of_.clear();
    for (auto& f : failed_) out.push_back(std::move(f));
    failed_.clear();
  }

  /// The next step of an operation after `res`: go on, try again, flush, or complete.
  void step(unsigned slot, int res, std::vector<Completion>& out) {
    Slot& s = slots_[slot];
    const bool flushing = s.size == 0 && s.flush_after;
    // ECANCELED: the submitting thread exited before a kernel worker took the request up. Nothing
    // ran, so a flush is not being retried after a failure here.
    if (res == -ECANCELED) return again(slot, ECANCELED, out);
    if (flushing) {
      if (res < 0) return complete(slot, fail(s.file->flush_error(-res)), -res, out);
      return complete(slot, {}, 0, out);
    }
    if (res == -EINTR || res == -EAGAIN) return again(slot, -res, out);
    if (res == -EOPNOTSUPP && s.kind == Transfer::write_dsync) {
      dsync_refused_ = true;
      s.kind = Transfer::write;
      s.flush_after = true;
      return push(slot);
    }
    if (res < 0)
      return complete(slot, fail(s.file->transfer_error(-res, s.kind, s.offset)), -res, out);
    const std::size_t moved = usable_progress(static_cast<std::size_t>(res), s.size);
    if (moved == 0 && s.size > 0) {
      if (s.kind != Transfer::read) return again(slot, EIO, out);
      return complete(
          slot, fail(s.file->no_progress(s.kind, s.offset + static_cast<unsigned>(res))), EIO, out);
    }
    s.retries = 0;
    s.offset += moved;
    s.data += moved;
    s.size -= moved;
    if (s.size > 0 || s.flush_after) return push(slot);
    complete(slot, {}, 0, out);
  }

  void again(unsigned slot, int error, std::vector<Completion>& out) {
    Slot& s = slots_[slot];
    if (++s.retries <= kMaxRetries && !broken_) return push(slot);
    complete(slot, fail(s.file->transfer_error(error, s.kind, s.offset)), error, out);
  }

  void complete(unsigned slot, Result<void> result, int error, std::vector<Completion>& out) {
    const Slot& s = slots_[slot];
    if (!result && s.durable) s.file->flush_failed(error);
    durable_of_.push_back(s.durable ? s.file : nullptr);
    out.push_back({s.tag, std::move(result)});
    release(slot);
  }

  static constexpr std::size_t kLargest = std::size_t{1} << 30;  // an SQE's length has 32 bits

  const OsDirectory& dir_;
  const unsigned depth_;
  io_uring ring_{};
  bool ready_ = false;
  bool broken_ = false;  // the kernel refused the ring for good: nothing is submitted any more
  bool dsync_refused_ = false;  // EOPNOTSUPP for RWF_DSYNC
  int refusals_ = 0;
  std::vector<Slot> slots_;
  std::vector<unsigned> free_;
  std::deque<unsigned> to_submit_;  // slots with an SQE that the kernel has not taken, in SQ order
  unsigned in_kernel_ = 0;
  std::vector<Completion> failed_;   // failed without the kernel
  std::vector<OsFile*> durable_of_;  // during collect: per new completion, its file if durable
};

std::string read_small_file(const char* path) {
  std::FILE* f = std::fopen(path, "re");
  if (f == nullptr) return {};
  char text[32] = {};
  const std::size_t n = std::fread(text, 1, sizeof text - 1, f);
  std::fclose(f);
  return {text, n};
}

std::string likely_cause(int error) {
  const std::string disabled = read_small_file("/proc/sys/kernel/io_uring_disabled");
  switch (error) {
    case EPERM:
    case EACCES:
      if (!disabled.empty() && disabled[0] != '0') {
        return "sysctl kernel.io_uring_disabled is " + disabled.substr(0, 1);
      }
      return "a seccomp filter, as container runtimes install by default";
    case ENOSYS:
      return "the kernel has no io_uring, or a seccomp filter hides it";
    case ENOMEM: {
      rlimit limit{};
      ::getrlimit(RLIMIT_MEMLOCK, &limit);
      return "locked memory is limited (RLIMIT_MEMLOCK is " + std::to_string(limit.rlim_cur) +
             " bytes)";
    }
    case EMFILE:
    case ENFILE:
      return "too many open files";
    case EINVAL:
      return "the kernel is too old";
    default:
      return "unknown";
  }
}

Error refused(int error) {
  std::string what = "io_uring is refused (";
  what += ::strerrordesc_np(error) != nullptr ? ::strerrordesc_np(error) : "unknown error";
  what += "); likely cause: " + likely_cause(error);
  return {Code::not_supported, ErrorDetail{.what = std::move(what)}, error};
}

/// Sets a ring up, checks the operations and makes it do something: a filter may allow the set-up
/// and refuse the use.
int try_ring() {
  io_uring ring;
  if (const int rc = ::io_uring_queue_init(2, &ring, 0); rc != 0) return -rc;
  int error = 0;
  io_uring_probe* probe = ::io_uring_get_probe_ring(&ring);
  for (const int op : {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_FSYNC}) {
    if (probe == nullptr || ::io_uring_opcode_supported(probe, op) == 0) error = ENOSYS;
  }
  if (probe != nullptr) ::io_uring_free_probe(probe);
  if ((ring.features & IORING_FEAT_NODROP) == 0) error = ENOSYS;
  if (error == 0) {
    io_uring_sqe* sqe = ::io_uring_get_sqe(&ring);
    ::io_uring_prep_nop(sqe);
    int rc = -EINTR;
    for (int i = 0; i < kMaxRetries && (rc == -EINTR || rc == -EAGAIN || rc == -EBUSY); ++i) {
      rc = ::io_uring_submit_and_wait(&ring, 1);
    }
    if (rc < 0) error = -rc;
  }
  ::io_uring_queue_exit(&ring);
  return error;
}

}  // namespace

Result<void> probe_uring() {
  if (const int error = try_ring(); error != 0) return fail(refused(error));
  return {};
}

Result<std::unique_ptr<Queue>> make_uring_queue(const OsDirectory& dir, unsigned depth) {
  auto queue = std::make_unique<UringQueue>(dir, depth);
  if (const int error = queue->start(); error != 0) return fail(refused(error));
  return queue;
}

}  // namespace kessai::io
