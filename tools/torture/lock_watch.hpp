// SPDX-License-Identifier: Apache-2.0
// Looks at the locks of a running workload from the side: a reader that stays first in line while
// everybody who holds the lock is a reader too has missed its wake-up.
#pragma once

#include <atomic>
#include <map>
#include <string>
#include <utility>

#include "io/sync.hpp"
#include "tools/torture/workload.hpp"

namespace kessai::torture {

class LockWatch {
 public:
  LockWatch(Database& db, Board& board);
  ~LockWatch();  ///< stops looking
  LockWatch(const LockWatch&) = delete;
  LockWatch& operator=(const LockWatch&) = delete;

 private:
  void look();

  Database& db_;
  Board& board_;
  std::map<std::pair<std::uint64_t, std::string>, unsigned> waiting_;  // how often seen in a row
  std::atomic<bool> stop_{false};
  io::Thread thread_;
};

}  // namespace kessai::torture
