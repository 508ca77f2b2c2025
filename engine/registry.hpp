// SPDX-License-Identifier: Apache-2.0
// The open transactions of a store: for views, and for ending those that idle or grow too old.
//
// Threads: any. A transaction is listed from its begin to its end; visit() runs under the shard's
// mutex, so what it is shown stays alive meanwhile. Nothing else is locked under these mutexes.
#pragma once

#include <array>
#include <cstdint>

#include "io/annotations.hpp"
#include "io/sync.hpp"

namespace kessai::engine {

class TransactionState;

/// What makes a transaction a member of the lists; its own until it is unlinked.
struct RegistryLink {
  TransactionState* state = nullptr;
  RegistryLink* before = nullptr;
  RegistryLink* after = nullptr;
  unsigned shard = 0;
};

class Registry {
 public:
  void add(RegistryLink& link) {
    link.shard = io::thread_index() % kShards;
    Shard& s = shards_[link.shard];
    const io::SpinLock lock(s.mutex);
    link.before = nullptr;
    link.after = s.first;
    if (s.first != nullptr) s.first->before = &link;
    s.first = &link;
  }
  void remove(RegistryLink& link) {
    Shard& s = shards_[link.shard];
    const io::SpinLock lock(s.mutex);
    if (link.before != nullptr) link.before->after = link.after;
    if (link.after != nullptr) link.after->before = link.before;
    if (s.first == &link) s.first = link.after;
  }
  template <class Fn>
  void visit(Fn&& fn) const {
    for (const Shard& s : shards_) {
      const io::SpinLock lock(s.mutex);
      for (const RegistryLink* l = s.first; l != nullptr; l = l->after) fn(*l->state);
    }
  }

 private:
  static constexpr unsigned kShards = 32;
  struct alignas(64) Shard {
    mutable io::SpinMutex mutex;
    RegistryLink* first KESSAI_GUARDED_BY(mutex) = nullptr;
  };
  std::array<Shard, kShards> shards_;
};

}  // namespace kessai::engine
