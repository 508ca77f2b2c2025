// SPDX-License-Identifier: Apache-2.0
// Clang thread-safety attributes (no-ops elsewhere).
#pragma once

#if defined(__clang__)
#define KESSAI_TSA(x) __attribute__((x))
#else
#define KESSAI_TSA(x)
#endif
#define KESSAI_CAPABILITY(x) KESSAI_TSA(capability(x))
#define KESSAI_SCOPED_CAPABILITY KESSAI_TSA(scoped_lockable)
#define KESSAI_GUARDED_BY(x) KESSAI_TSA(guarded_by(x))
#define KESSAI_PT_GUARDED_BY(x) KESSAI_TSA(pt_guarded_by(x))
#define KESSAI_ACQUIRE(...) KESSAI_TSA(acquire_capability(__VA_ARGS__))
#define KESSAI_TRY_ACQUIRE(...) KESSAI_TSA(try_acquire_capability(__VA_ARGS__))
#define KESSAI_RELEASE(...) KESSAI_TSA(release_capability(__VA_ARGS__))
#define KESSAI_REQUIRES(...) KESSAI_TSA(requires_capability(__VA_ARGS__))
#define KESSAI_EXCLUDES(...) KESSAI_TSA(locks_excluded(__VA_ARGS__))
/// The body is not analysed: it holds either of two locks.
#define KESSAI_NOT_ANALYSED KESSAI_TSA(no_thread_safety_analysis)
