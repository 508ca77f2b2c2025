// SPDX-License-Identifier: Apache-2.0
// The queue of the posix back end: a few worker threads, started when first needed. A caller that
// has to wait executes operations itself, so one blocking writer pays no thread hand-over.
#include <algorithm>
#include <deque>

#include "io/os_private.hpp"

namespace kessai::io {
namespace {

class PosixQueue final : public Queue {
 public:
  PosixQueue(const OsDirectory& dir, unsigned depth)
      : dir_(dir), depth_(depth), max_workers_(std::min(depth, 16U)) {}

  ~PosixQueue() override {
    prepared_.clear();  // never handed over
    {
      const MutexLock lock(mutex_);
      stopping_ = true;
    }
    work_.notify_all();
    workers_.clear();  // joins; the workers empty the queue first
    while (run_one()) {
    }
  }

  unsigned depth() const noexcept override { return depth_; }
  unsigned in_flight() const noexcept override { return in_flight_; }

  void read(File& file, std::uint64_t offset, std::span<std::byte> into,
            std::uint64_t tag) override {
    prepare({static_cast<OsFile*>(&file), offset, into.data(), into.size(), tag, Kind::read});
  }
  void write(File& file, std::uint64_t offset, std::span<const std::byte> from,
             std::uint64_t tag) override {
    prepare({static_cast<OsFile*>(&file), offset, const_cast<std::byte*>(from.data()), from.size(),
             tag, Kind::write});
  }
  void write_durable(File& file, std::uint64_t offset, std::span<const std::byte> from,
                     std::uint64_t tag) override {
    prepare({static_cast<OsFile*>(&file), offset, const_cast<std::byte*>(from.data()), from.size(),
             tag, Kind::durable});
  }

  void submit() override { hand_over(prepared_.size()); }

  std::size_t reap(std::vector<Completion>& out, unsigned wait_for) override {
    KESSAI_CHECK(wait_for <= in_flight_);
    // One operation is kept from the workers when we have to wait anyway.
    const std::size_t own = wait_for > 0 ? 1 : 0;
    if (prepared_.size() > own) hand_over(prepared_.size() - own);
    std::size_t got = collect(out);
    while (got < wait_for) {
      if (!prepared_.empty()) {
        const Operation op = prepared_.front();
        prepared_.pop_front();
        auto result = execute(op);
        out.push_back({op.tag, std::move(result)});
        --in_flight_;
        ++got;
      } else if (!run_one()) {
        wait_for_completion();
      }
      got += collect(out);
    }
    submit();
    return got;
  }

 private:
  enum class Kind : std::uint8_t { read, write, durable };
  struct Operation {
    OsFile* file;
    std::uint64_t offset;
    std::byte* data;
    std::size_t size;
    std::uint64_t tag;
    Kind kind;
  };

  void prepare(const Operation& op) {
    KESSAI_CHECK(in_flight_ < depth_);
    ++in_flight_;
    prepared_.push_back(op);
  }

  Result<void> execute(const Operation& op) const {
    switch (op.kind) {
      case Kind::read:
        return op.file->read(op.offset, {op.data, op.size});
      case Kind::write:
        return op.file->write(op.offset, {op.data, op.size});
      case Kind::durable:
        return op.file->write_durable(op.offset, {op.data, op.size}, dir_.durable_mode());
    }
    return {};
  }

  void hand_over(std::size_t count) {
    if (count == 0) return;
    std::size_t waiting;
    {
      const MutexLock lock(mutex_);
      for (std::size_t i = 0; i < count; ++i) {
        queued_.push_back(prepared_.front());
        prepared_.pop_front();
      }
      waiting = queued_.size();
      if (waiting > idle_ && workers_.size() < max_workers_)
        waiting -= idle_;
      else
        waiting = 0;
    }
    for (; waiting > 0 && workers_.size() < max_workers_; --waiting) {
      workers_.emplace_back("kessai-io", [this] { work(); });
    }
    count == 1 ? work_.notify_one() : work_.notify_all();
  }

  /// Executes one queued operation that no worker has taken yet. False when there is none.
  bool run_one() {
    mutex_.lock();
    const bool found = !queued_.empty();
    if (found) run_front();
    mutex_.unlock();
    return found;
  }

  void run_front() KESSAI_REQUIRES(mutex_) {
    const Operation op = queued_.front();
    queued_.pop_front();
    mutex_.unlock();
    auto result = execute(op);
    mutex_.lock();
    done_.push_back({op.tag, std::move(result)});
  }

  void work() {
    static constexpr std::uint64_t kLongWait = 60'000'000'000;
    mutex_.lock();
    while (!stopping_ || !queued_.empty()) {
      if (!queued_.empty()) {
        run_front();
        finished_.notify_one();
        continue;
      }
      ++idle_;
      work_.wait_for(mutex_, kLongWait);
      --idle_;
    }
    mutex_.unlock();
  }

  void wait_for_completion() {
    static constexpr std::uint64_t kLongWait = 1'000'000'000;
    const MutexLock lock(mutex_);
    while (done_.empty() && queued_.empty()) finished_.wait_for(mutex_, kLongWait);
  }

  std::size_t collect(std::vector<Completion>& out) {
    const MutexLock lock(mutex_);
    const std::size_t n = done_.size();
    for (auto& c : done_) out.push_back(std::move(c));
    done_.clear();
    in_flight_ -= static_cast<unsigned>(n);
    return n;
  }

  const OsDirectory& dir_;
  const unsigned depth_;
  const std::size_t max_workers_;

  // Of the thread that owns the queue.
  unsigned in_flight_ = 0;
  std::deque<Operation> prepared_;
  std::vector<Thread> workers_;

  Mutex mutex_;
  CondVar work_;      // signalled: queued_ got longer, or stopping_
  CondVar finished_;  // signalled: done_ got longer
  std::deque<Operation> queued_ KESSAI_GUARDED_BY(mutex_);
  std::vector<Completion> done_ KESSAI_GUARDED_BY(mutex_);
  std::size_t idle_ KESSAI_GUARDED_BY(mutex_) = 0;
  bool stopping_ KESSAI_GUARDED_BY(mutex_) = false;
};

}  // namespace

std::unique_ptr<Queue> make_posix_queue(const OsDirectory& dir, unsigned depth) {
  return std::make_unique<PosixQueue>(dir, depth);
}

}  // namespace kessai::io
