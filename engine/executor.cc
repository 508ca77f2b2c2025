// SPDX-License-Identifier: Apache-2.0
#include "kessai/executor.hpp"

#include <algorithm>
#include <deque>
#include <queue>
#include <span>
#include <vector>

#include "io/env.hpp"
#include "io/sync.hpp"

namespace kessai {

struct Executor::State {
  struct Timer {
    std::uint64_t due;
    std::uint64_t order;  // of equal times: first come, first run
    Task task;
    bool operator<(const Timer& o) const {
      return due != o.due ? due > o.due : order > o.order;  // for a heap with the earliest on top
    }
  };

  explicit State(const io::Env& e) : env(e) {}

  /// Moves due timers behind the ready tasks; answers how long the next one may wait.
  std::uint64_t collect_due() KESSAI_REQUIRES(mutex) {
    constexpr std::uint64_t kLongNs = 1'000'000'000;
    if (timers.empty()) return kLongNs;
    const std::uint64_t now = env.clock->now_ns();
    while (!timers.empty() && timers.front().due <= now) {
      std::pop_heap(timers.begin(), timers.end());
      ready.push_back(std::move(timers.back().task));
      timers.pop_back();
    }
    return timers.empty() ? kLongNs : std::min(kLongNs, timers.front().due - now);
  }

  bool run_one() {
    Task task;
    {
      const io::MutexLock lock(mutex);
      if (stopped) return false;
      collect_due();
      if (ready.empty()) return false;
      task = std::move(ready.front());
      ready.pop_front();
    }
    task();
    return true;
  }

  void loop() {
    for (;;) {
      Task task;
      {
        const io::MutexLock lock(mutex);
        while (!stopped) {
          const std::uint64_t wait = collect_due();
          if (!ready.empty()) break;
          wake.wait_for(mutex, wait);
        }
        if (stopped) return;
        task = std::move(ready.front());
        ready.pop_front();
      }
      task();
    }
  }

  io::Env env;
  io::Mutex mutex;
  io::CondVar wake;
  std::deque<Task> ready KESSAI_GUARDED_BY(mutex);
  std::vector<Timer> timers KESSAI_GUARDED_BY(mutex);
  std::uint64_t order KESSAI_GUARDED_BY(mutex) = 0;
  bool stopped KESSAI_GUARDED_BY(mutex) = false;
  std::vector<std::function<bool()>> pollers;  // without threads only: the one caller's
  io::Thread thread;
};

Executor::Executor(io::Env* env)
    : state_(std::make_unique<State>(env != nullptr ? *env : io::Env{})) {
  if (state_->env.background)
    state_->thread = io::Thread("kessai-exec", [s = state_.get()] { s->loop(); });
}
Executor::~Executor() { stop(); }

void Executor::post(Task task) {
  const io::MutexLock lock(state_->mutex);
  if (state_->stopped) return;
  state_->ready.push_back(std::move(task));
  state_->wake.notify_one();
}

void Executor::post_at(std::uint64_t due_ns, Task task) {
  const io::MutexLock lock(state_->mutex);
  if (state_->stopped) return;
  state_->timers.push_back({due_ns, state_->order++, std::move(task)});
  std::push_heap(state_->timers.begin(), state_->timers.end());
  if (state_->timers.front().due == due_ns) state_->wake.notify_one();
}

bool Executor::await(const std::function<void(Task)>& start) {
  struct Done {
    io::Mutex mutex;
    io::CondVar wake;
    bool yes KESSAI_GUARDED_BY(mutex) = false;
  };
  const auto done = std::make_shared<Done>();
  start([done] {
    const io::MutexLock lock(done->mutex);
    done->yes = true;
    done->wake.notify_all();
  });
  constexpr std::uint64_t kLookNs = 100'000'000;
  for (;;) {
    {
      const io::MutexLock lock(done->mutex);
      if (!done->yes && threaded()) done->wake.wait_for(done->mutex, kLookNs);
      if (done->yes) return true;
    }
    {
      const io::MutexLock lock(state_->mutex);
      if (state_->stopped) return false;
    }
    // Without threads only this call makes progress; when it cannot, nobody will.
    if (!threaded() && !run_ready()) return false;
  }
}

void Executor::stop() {
  std::deque<Task> ready;
  std::vector<State::Timer> timers;
  {
    const io::MutexLock lock(state_->mutex);
    state_->stopped = true;
    ready.swap(state_->ready);
    timers.swap(state_->timers);
    state_->wake.notify_all();
  }
  if (state_->thread.joinable()) state_->thread.join();
  state_->pollers.clear();
}

std::uint64_t Executor::now_ns() const { return state_->env.clock->now_ns(); }
std::int64_t Executor::unix_micros() const {
  return static_cast<std::int64_t>(state_->env.clock->unix_micros());
}
std::uint64_t Executor::random_bits() const {
  std::uint64_t bits = 0;
  state_->env.random->fill(std::as_writable_bytes(std::span(&bits, 1)));
  return bits;
}
bool Executor::threaded() const noexcept { return state_->env.background; }

void Executor::add_poller(std::function<bool()> poller) {
  if (!threaded()) state_->pollers.push_back(std::move(poller));
}

bool Executor::run_ready() {
  bool any = false;
  for (bool more = true; more;) {
    more = false;
    while (state_->run_one()) more = true;
    for (const auto& poller : state_->pollers) more = poller() || more;
    any = any || more;
  }
  return any;
}

std::optional<std::uint64_t> Executor::next_due() const {
  const io::MutexLock lock(state_->mutex);
  if (state_->timers.empty()) return std::nullopt;
  return state_->timers.front().due;
}

}  // namespace kessai
