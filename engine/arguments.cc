// SPDX-License-Identifier: Apache-2.0
// Checks of arguments, and errors, that several calls share.
#include "engine/store.hpp"

namespace kessai::engine {

Result<void> check_key(std::string_view key) {
  if (key.size() <= kMaxKeyBytes) return {};
  return fail(Code::key_too_long, "the key has " + std::to_string(key.size()) +
                                      " bytes; the limit is " + std::to_string(kMaxKeyBytes));
}

Result<void> check_value(std::string_view value) {
  if (value.size() <= kMaxValueBytes) return {};
  return fail(Code::value_too_long, "the value has " + std::to_string(value.size()) +
                                        " bytes; the limit is " + std::to_string(kMaxValueBytes));
}

Error dropped_tree(const TreeState& t) {
  ErrorDetail d;
  d.what = "the tree was dropped";
  d.tree = t.name;
  return Error(Code::tree_not_found, std::move(d));
}

Error row_error(Code code, const char* what, const TreeState& t, std::string_view key, Lsn lsn) {
  ErrorDetail d;
  d.what = what;
  d.tree = t.name;
  d.key = key;
  d.lsn = lsn;
  return Error(code, std::move(d));
}

Error snapshot_given_up() {
  return Error(Code::snapshot_too_old,
               "the snapshot was given up to keep undo_memory; run the transaction or scan again");
}

std::unexpected<Error> lock_error(const TreeState& t, const Error& e) {
  ErrorDetail d = e.detail();
  d.tree = t.name;
  return std::unexpected(Error(e.code(), std::move(d)));
}

}  // namespace kessai::engine
