// SPDX-License-Identifier: Apache-2.0
// Threads and waiting. Nothing outside io/ uses std::thread, std::mutex, futexes or sleeps. The
// names are those of real_sync.hpp; in the torture copies (KESSAI_TORTURE=1) those of
// fiber_sync.hpp, under a deterministic scheduler.
#pragma once

#include "io/real_sync.hpp"

#if defined(KESSAI_TORTURE)
#include "io/fiber_sync.hpp"
#else
namespace kessai::io {
using real::CondVar;
using real::cpu_relax;
using real::futex_wait;
using real::futex_wake;
using real::Mutex;
using real::MutexLock;
using real::pause_for;
using real::SpinLock;
using real::SpinMutex;
using real::Thread;
using real::thread_index;
using real::thread_serial;
using real::yield_thread;
}  // namespace kessai::io
#endif

namespace kessai::io {
/// Process id, for refusing use in a forked child.
[[nodiscard]] int process_id() noexcept;
}  // namespace kessai::io
