// SPDX-License-Identifier: Apache-2.0
// The name under which the undo chain and the lock table know a record.
#pragma once

#include <cstdint>
#include <string_view>

#include "io/types.hpp"

namespace kessai::mvcc {

/// XXH3-64 over key bytes and tree id; never 0. Equal hashes of different records are possible:
/// the undo chain compares tree and key, in the lock table the two records share one lock.
[[nodiscard]] std::uint64_t record_hash(TreeId tree, std::string_view key) noexcept;

}  // namespace kessai::mvcc
