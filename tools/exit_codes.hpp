// SPDX-License-Identifier: Apache-2.0
// Exit codes of all tools, and which one an engine error becomes.
#pragma once

#include <cerrno>

#include "kessai/error.hpp"

namespace kessai::tools {

enum Exit : int {
  kExitOk = 0,          // success, verdict "good"
  kExitNo = 1,          // verdict "not good": key absent, differences, violation, conflict
  kExitUsage = 2,       // usage, or input refused
  kExitCannotOpen = 3,  // locked, not a store, newer format, incomplete
  kExitDamage = 4,
  kExitIo = 5,
  kExitBudget = 6,  // out of memory, budget or disk
  kExitInterrupted = 130,
};

/// The exit code of an error; `opening` = it came from Database::open.
[[nodiscard]] constexpr int exit_code(Code code, bool opening = false) noexcept {
  switch (code) {
    case Code::not_found:
    case Code::key_exists:
    case Code::insert_only_violation:
    case Code::unfinished:
    case Code::write_conflict:
    case Code::lock_timeout:
    case Code::deadlock:
    case Code::transaction_expired:
    case Code::self_deadlock:
      return kExitNo;
    case Code::not_a_store:
    case Code::newer_format:
    case Code::page_size_mismatch:
    case Code::incomplete_store:
    case Code::locked:
    case Code::store_missing:
    case Code::store_exists:
    case Code::wrong_mode:
      return kExitCannotOpen;
    case Code::damaged:
    case Code::log_damaged:
    case Code::superblock_damaged:
      return kExitDamage;
    case Code::permission_denied:
      return opening ? kExitCannotOpen : kExitIo;
    case Code::io_error:
    case Code::poisoned:
    case Code::unknown_outcome:
      return kExitIo;
    case Code::transaction_too_large:
    case Code::snapshot_too_old:
    case Code::disk_full:
    case Code::out_of_memory:
      return kExitBudget;
    case Code::interrupted:
      return kExitInterrupted;
    case Code::invalid_argument:
    case Code::key_too_long:
    case Code::value_too_long:
    case Code::bad_tree_name:
    case Code::closed_handle:
    case Code::wrong_database:
    case Code::read_only:
    case Code::tree_not_found:
    case Code::tree_exists:
    case Code::not_supported:
    case Code::callback_failed:
      return kExitUsage;
  }
  return kExitIo;  // a number this build does not know
}

/// As above for a whole error: a path that leads to no folder is no store, whatever errno says.
[[nodiscard]] inline int exit_code(const Error& error, bool opening) noexcept {
  if (opening && (error.os_error() == ENOTDIR || error.os_error() == ELOOP)) return kExitCannotOpen;
  return exit_code(error.code(), opening);
}

}  // namespace kessai::tools
