// SPDX-License-Identifier: Apache-2.0
// The log alone: what a commit costs before any tree is involved. Uses a directory of its own under
// the current one, which should be on the disk of interest.
#include <benchmark/benchmark.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>

#include "bench/data.hpp"
#include "io/env.hpp"
#include "wal/log.hpp"

namespace kessai::bench {
namespace {

template <class T>
T must(Result<T> r) {
  if (!r) {
    std::fprintf(stderr, "micro_log: %s\n", r.error().message().c_str());
    std::exit(5);
  }
  return std::move(*r);
}

/// A fresh log whose segments are recycled as soon as they are durable.
class LogFixture : public benchmark::Fixture {
 public:
  void SetUp(const benchmark::State& state) override {
    if (state.thread_index() != 0) return;
    char path[] = "micro-log-XXXXXX";
    if (::mkdtemp(path) == nullptr) std::exit(5);
    path_ = path;
    directory_ = must(io::open_directory(path_, {}));
    env_.directory = directory_.get();
    wal::LogOptions options;
    options.on_log_full = [this] { recycle(); };
    log_ = must(wal::Log::create(env_, {1, 2}, options));
    const std::string key(16, 'k'), value(100, 'v');
    std::string body;
    wal::start_record(wal::RecordKind::commit, record_);
    wal::encode_op({.tree = TreeId{1}, .kind = wal::OpKind::put, .key = key, .value = value}, body);
    record_ += body;
    wal::finish_record(record_);
  }
  void TearDown(const benchmark::State& state) override {
    if (state.thread_index() != 0) return;
    (void)log_->seal();
    log_.reset();
    directory_.reset();
    std::filesystem::remove_all(path_);
  }

 protected:
  Lsn append() {
    const wal::Log::Reservation r = must(log_->reserve(record_.size()));
    log_->fill(r, std::as_bytes(std::span(record_)));
    log_->applied(r);
    return r.lsn;
  }
  void recycle() { log_->recycle_below(log_->durable_lsn()); }

  std::string path_, record_;
  std::unique_ptr<io::Directory> directory_;
  io::Env env_;
  std::unique_ptr<wal::Log> log_;
};

/// Commits nobody waits for; the appenders keep the device busy themselves.
BENCHMARK_DEFINE_F(LogFixture, append_relaxed)(benchmark::State& state) {
  std::uint64_t count = 0;
  for (auto _ : state) {
    append();
    if ((++count & 63) == 0) log_->poll();
    if ((count & 16383) == 0) recycle();
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK_REGISTER_F(LogFixture, append_relaxed)->Threads(1)->Threads(2)->UseRealTime();

/// Each commit is waited for.
BENCHMARK_DEFINE_F(LogFixture, append_durable)(benchmark::State& state) {
  std::uint64_t count = 0;
  for (auto _ : state) {
    const auto waited = log_->wait_durable(append());
    if (!waited) state.SkipWithError("the log failed");
    if ((++count & 1023) == 0) recycle();
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK_REGISTER_F(LogFixture, append_durable)
    ->Threads(1)
    ->Threads(16)
    ->Threads(64)
    ->UseRealTime();

}  // namespace
}  // namespace kessai::bench

BENCHMARK_MAIN();
