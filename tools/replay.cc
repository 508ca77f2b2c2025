// SPDX-License-Identifier: Apache-2.0
#include "tools/replay.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>

#include "io/check.hpp"
#include "io/env.hpp"
#include "io/sync.hpp"
#include "kessai/payments/ledger.hpp"
#include "tools/interrupt.hpp"
#include "tools/progress.hpp"

namespace kessai::tools {
namespace {

using payments::Invoice;
using payments::InvoiceFileReader;
using payments::Ledger;
using payments::Refusal;

constexpr std::size_t kQueueLimit = 2048;
constexpr std::size_t kWindow = 128;  // commits in flight per thread
constexpr std::uint64_t kPollNs = 50'000'000;
constexpr std::size_t kBlock = 256u << 10;

std::unexpected<Error> file_error(Code code, const std::string& path, std::string what,
                                  int os_error = 0) {
  ErrorDetail detail;
  detail.what = std::move(what);
  detail.path = path;
  return fail(code, std::move(detail), os_error);
}

// Feeds at most `limit` bytes of a file to `reader`; true when that was all of it.
Result<bool> feed_file(const std::string& path, InvoiceFileReader& reader,
                       std::uint64_t limit = UINT64_MAX) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  if (!file) return file_error(Code::invalid_argument, path, std::strerror(errno), errno);
  const auto block = std::make_unique<char[]>(kBlock);
  for (std::uint64_t left = limit; left != 0 && !interrupted();) {
    const std::size_t n =
        std::fread(block.get(), 1, std::min<std::uint64_t>(kBlock, left), file.get());
    if (n == 0) {
      if (std::ferror(file.get()) != 0)
        return file_error(Code::io_error, path, std::strerror(errno), errno);
      return true;
    }
    if (const auto fed = reader.feed({block.get(), n}); !fed) {
      return file_error(fed.error().code(), path, fed.error().detail().what);
    }
    left -= n;
  }
  return false;
}

struct Job {
  Invoice invoice;
  std::size_t file = 0;
};

// What reader and workers share.
class Shared {
 public:
  Shared(std::uint64_t total_bytes, const ReplayOptions& options)
      : total_bytes_(total_bytes), options_(options) {}

  // Blocks while the queue is full; false when the run is over early.
  bool push(Job job) {
    const io::MutexLock lock(mutex_);
    while (jobs_.size() >= kQueueLimit && !stop_) room_.wait_for(mutex_, kPollNs);
    if (stop_) return false;
    jobs_.push_back(std::move(job));
    ready_.notify_one();
    return true;
  }

  // The next job. Without one: nothing at once if `!wait`, else waits for one or for the end.
  std::optional<Job> pop(bool wait) {
    const io::MutexLock lock(mutex_);
    while (wait && jobs_.empty() && !closed_ && !stop_) ready_.wait_for(mutex_, kPollNs);
    if (jobs_.empty() || stop_) return std::nullopt;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    room_.notify_one();
    return job;
  }

  // No more jobs will come.
  void close() {
    const io::MutexLock lock(mutex_);
    closed_ = true;
    ready_.notify_all();
  }
  bool finished() {
    const io::MutexLock lock(mutex_);
    return stop_ || (closed_ && jobs_.empty());
  }
  void stop(Error error) {
    const io::MutexLock lock(mutex_);
    if (!stop_) error_ = std::move(error);
    stop_ = true;
    ready_.notify_all();
    room_.notify_all();
  }
  std::optional<Error> error() {
    const io::MutexLock lock(mutex_);
    return error_;
  }

  // A request with `bytes` of the input is settled; at the milestone the world is told.
  void settled(std::uint64_t bytes) {
    requests_.fetch_add(1, std::memory_order_relaxed);
    const std::uint64_t done = done_bytes_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    if (options_.milestone == 0 || done * 100 < total_bytes_ * options_.milestone) return;
    if (milestone_told_.exchange(true)) return;
    options_.out(
        json_line({{"milestone_percent", options_.milestone}, {"settled", requests_.load()}}));
    std::fflush(stdout);
    if (options_.hold) std::raise(SIGSTOP);
  }
  void draw(ProgressBar& bar) const {
    const std::uint64_t n = requests_.load(std::memory_order_relaxed);
    bar.update("replay", done_bytes_.load(std::memory_order_relaxed), total_bytes_,
               grouped(n) + " requests");
  }

 private:
  const std::uint64_t total_bytes_;
  const ReplayOptions& options_;
  std::atomic<std::uint64_t> done_bytes_{0}, requests_{0};  // relaxed: for display only
  std::atomic<bool> milestone_told_{false};
  io::Mutex mutex_;
  io::CondVar ready_, room_;
  std::deque<Job> jobs_ KESSAI_GUARDED_BY(mutex_);
  bool closed_ KESSAI_GUARDED_BY(mutex_) = false;
  bool stop_ KESSAI_GUARDED_BY(mutex_) = false;
  std::optional<Error> error_ KESSAI_GUARDED_BY(mutex_);
};

class Worker {
 public:
  Worker(Ledger& ledger, Shared& shared) : ledger_(ledger), shared_(shared) {}

  void run() {
    const auto ended = work();
    if (!ended) shared_.stop(ended.error());
  }

  ReplayResult result;

 private:
  struct Pending {
    CommitTicket ticket;
    payments::Milli amount = 0;
    std::uint64_t bytes = 0;
    std::uint64_t started_ns = 0;
  };

  Result<void> work() {
    for (;;) {
      auto job = shared_.pop(pending_.empty());
      if (job) {
        KESSAI_TRY(take(std::move(*job)));
        while (pending_.size() >= kWindow) KESSAI_TRY(settle());
      } else if (!pending_.empty()) {
        KESSAI_TRY(settle());
      } else if (shared_.finished()) {
        return {};
      }
    }
  }

  Result<void> take(Job job) {
    const Invoice& invoice = job.invoice;
    if (invoice.refusal != Refusal::none) return reject(job, invoice.refusal);
    const std::uint64_t started = io::system_clock().now_ns();
    KESSAI_ASSIGN(recorded, ledger_.record(invoice.request));
    switch (recorded.answer) {
      case Ledger::Answer::accepted:
        pending_.push_back(
            {std::move(recorded.ticket), invoice.request.amount, invoice.bytes, started});
        return {};
      case Ledger::Answer::already_done:
        ++result.already_done;
        shared_.settled(invoice.bytes);
        return count(invoice.request.amount);
      case Ledger::Answer::key_reused_mismatch:
        break;
    }
    return reject(job, Refusal::key_reused_mismatch);
  }

  // Waits for the oldest commit, then takes along those that became durable with it.
  Result<void> settle() {
    KESSAI_TRY(pending_.front().ticket.wait());
    do {
      const Pending& p = pending_.front();
      KESSAI_TRY(p.ticket.wait());
      result.commit_latency.record_ns(io::system_clock().now_ns() - p.started_ns);
      ++result.accepted;
      KESSAI_TRY(count(p.amount));
      shared_.settled(p.bytes);
      pending_.pop_front();
    } while (!pending_.empty() && pending_.front().ticket.ready());
    return {};
  }

  Result<void> count(payments::Milli amount) {
    const auto sum = payments::add(result.sum, amount);
    if (!sum)
      return fail(Code::invalid_argument,
                  "the sum of amounts does not fit into 64 bits of thousandths");
    result.sum = *sum;
    return {};
  }

  Result<void> reject(const Job& job, Refusal reason) {
    result.rejected.push_back(
        {{}, job.file, job.invoice.line, job.invoice.request.original_id, reason});
    shared_.settled(job.invoice.bytes);
    return {};
  }

  Ledger& ledger_;
  Shared& shared_;
  std::deque<Pending> pending_;
};

// Reads all files and queues their invoices.
Result<std::uint64_t> read_files(const std::vector<InputFile>& files, Shared& shared,
                                 ProgressBar& bar) {
  std::uint64_t lines = 0;
  for (std::size_t i = 0; i < files.size(); ++i) {
    InvoiceFileReader reader;
    KESSAI_TRY(feed_file(files[i].path, reader));
    if (interrupted()) return fail(Code::interrupted, "stopped; run it again to go on");
    auto invoices = reader.finish();
    if (!invoices)
      return file_error(invoices.error().code(), files[i].path, invoices.error().detail().what);
    lines += reader.lines();
    for (Invoice& invoice : *invoices) {
      if (interrupted()) return fail(Code::interrupted, "stopped; run it again to go on");
      if (!shared.push({std::move(invoice), i})) return lines;
      shared.draw(bar);
    }
  }
  return lines;
}

}  // namespace

Result<std::vector<InputFile>> collect_invoice_files(const std::vector<std::string>& paths) {
  namespace fs = std::filesystem;
  std::vector<InputFile> files;
  std::error_code code;
  for (const std::string& path : paths) {
    if (!fs::is_directory(path, code)) {
      files.push_back({path});
      continue;
    }
    const std::size_t before = files.size();
    for (fs::directory_iterator it(path, code), end; !code && it != end; it.increment(code)) {
      if (it->path().extension() == ".csv") files.push_back({it->path().string()});
    }
    if (code) return file_error(Code::invalid_argument, path, code.message(), code.value());
    if (files.size() == before)
      return file_error(Code::invalid_argument, path, "no .csv file in this folder");
    std::sort(files.begin() + static_cast<std::ptrdiff_t>(before), files.end(),
              [](const InputFile& a, const InputFile& b) { return a.path < b.path; });
  }
  for (InputFile& file : files) {
    InvoiceFileReader reader;
    KESSAI_ASSIGN(whole, feed_file(file.path, reader, 2 * payments::kMaxLineBytes));
    if (whole) {
      if (const auto read = reader.finish(); !read) {
        return file_error(read.error().code(), file.path, read.error().detail().what);
      }
    }
    file.bytes = fs::file_size(file.path, code);
    if (code) file.bytes = 0;  // a pipe, say
  }
  return files;
}

Result<ReplayResult> replay(Database& db, const std::vector<InputFile>& files,
                            const ReplayOptions& options) {
  const std::uint64_t started = io::system_clock().now_ns();
  KESSAI_ASSIGN(ledger, Ledger::open(db, true));
  std::uint64_t total_bytes = 0;
  for (const InputFile& f : files) total_bytes += f.bytes;
  Shared shared(total_bytes, options);
  ProgressBar bar(options.progress, true);

  std::vector<std::unique_ptr<Worker>> workers;
  std::vector<io::Thread> threads;
  std::atomic<unsigned> running{std::max(1u, options.threads)};
  for (unsigned i = 0; i < std::max(1u, options.threads); ++i) {
    Worker& worker = *workers.emplace_back(std::make_unique<Worker>(ledger, shared));
    threads.emplace_back("replay", [&worker, &running] {
      worker.run();
      running.fetch_sub(1);
    });
  }
  const auto lines = read_files(files, shared, bar);
  if (!lines) shared.stop(lines.error());
  shared.close();
  io::Mutex idle;
  io::CondVar tick;  // nobody notifies it: the main thread only draws while it waits
  while (running.load() != 0) {
    shared.draw(bar);
    if (interrupted()) shared.stop(Error(Code::interrupted, "stopped; run it again to go on"));
    const io::MutexLock lock(idle);
    tick.wait_for(idle, kPollNs / 10);
  }
  for (io::Thread& t : threads) t.join();
  shared.draw(bar);
  bar.finish();
  if (const auto error = shared.error()) return std::unexpected(*error);

  ReplayResult total;
  total.lines = *lines;
  for (const auto& worker : workers) {
    ReplayResult& r = worker->result;
    total.accepted += r.accepted;
    total.already_done += r.already_done;
    const auto sum = payments::add(total.sum, r.sum);
    if (!sum)
      return fail(Code::invalid_argument,
                  "the sum of amounts does not fit into 64 bits of thousandths");
    total.sum = *sum;
    total.commit_latency.merge(r.commit_latency);
    std::move(r.rejected.begin(), r.rejected.end(), std::back_inserter(total.rejected));
  }
  for (Rejected& r : total.rejected) r.file = files[r.file_index].path;
  std::sort(total.rejected.begin(), total.rejected.end(), [](const Rejected& a, const Rejected& b) {
    return std::pair(a.file_index, a.line) < std::pair(b.file_index, b.line);
  });
  total.seconds = static_cast<double>(io::system_clock().now_ns() - started) / 1e9;
  return total;
}

}  // namespace kessai::tools
