// SPDX-License-Identifier: Apache-2.0
// How the sanitizers of a fuzzer run: freed memory is kept for a while, but not so much that every
// input pays for fresh pages.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() {
  return "quarantine_size_mb=4:malloc_context_size=4:detect_stack_use_after_return=0:"
         "allocator_release_to_os_interval_ms=-1";
}
