// SPDX-License-Identifier: Apache-2.0
#include "kessai/error.hpp"

#include <cstring>

namespace kessai {
namespace {

const ErrorDetail kNoDetail;

/// Printable ASCII stays, everything else becomes \xNN: a message never carries control bytes.
void append_escaped(std::string& out, std::string_view raw, std::size_t limit) {
  static constexpr char kHex[] = "0123456789abcdef";
  for (const char c : raw.substr(0, limit)) {
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u >= 0x7f) {
      out += "\\x";
      out += kHex[u >> 4];
      out += kHex[u & 15];
    } else {
      if (c == '\\' || c == '"') out += '\\';
      out += c;
    }
  }
  if (raw.size() > limit) out += "...";
}

}  // namespace

std::string_view code_name(Code code) noexcept {
  switch (code) {
#define KESSAI_NAME(x) \
  case Code::x:        \
    return #x
    KESSAI_NAME(invalid_argument);
    KESSAI_NAME(key_too_long);
    KESSAI_NAME(value_too_long);
    KESSAI_NAME(bad_tree_name);
    KESSAI_NAME(closed_handle);
    KESSAI_NAME(wrong_database);
    KESSAI_NAME(read_only);
    KESSAI_NAME(transaction_too_large);
    KESSAI_NAME(not_found);
    KESSAI_NAME(key_exists);
    KESSAI_NAME(tree_not_found);
    KESSAI_NAME(tree_exists);
    KESSAI_NAME(insert_only_violation);
    KESSAI_NAME(unfinished);
    KESSAI_NAME(write_conflict);
    KESSAI_NAME(lock_timeout);
    KESSAI_NAME(deadlock);
    KESSAI_NAME(snapshot_too_old);
    KESSAI_NAME(transaction_expired);
    KESSAI_NAME(self_deadlock);
    KESSAI_NAME(not_a_store);
    KESSAI_NAME(newer_format);
    KESSAI_NAME(page_size_mismatch);
    KESSAI_NAME(incomplete_store);
    KESSAI_NAME(locked);
    KESSAI_NAME(store_missing);
    KESSAI_NAME(store_exists);
    KESSAI_NAME(wrong_mode);
    KESSAI_NAME(damaged);
    KESSAI_NAME(log_damaged);
    KESSAI_NAME(superblock_damaged);
    KESSAI_NAME(io_error);
    KESSAI_NAME(disk_full);
    KESSAI_NAME(out_of_memory);
    KESSAI_NAME(permission_denied);
    KESSAI_NAME(not_supported);
    KESSAI_NAME(poisoned);
    KESSAI_NAME(unknown_outcome);
    KESSAI_NAME(interrupted);
    KESSAI_NAME(callback_failed);
#undef KESSAI_NAME
  }
  return "unknown_code";
}

Error::Error(Code code, std::string what) : code_(code) {
  auto d = std::make_shared<ErrorDetail>();
  d->what = std::move(what);
  detail_ = std::move(d);
}

Error::Error(Code code, ErrorDetail detail, int os_error)
    : code_(code), os_error_(os_error), detail_(std::make_shared<ErrorDetail>(std::move(detail))) {}

bool Error::retryable() const noexcept {
  switch (code_) {
    case Code::write_conflict:
    case Code::lock_timeout:
    case Code::deadlock:
    case Code::snapshot_too_old:
    case Code::transaction_expired:
      return true;
    default:
      return false;
  }
}

const ErrorDetail& Error::detail() const noexcept { return detail_ ? *detail_ : kNoDetail; }

std::string Error::message() const {
  static constexpr std::size_t kShownKey = 64;
  static constexpr std::size_t kShownName = 4096;
  std::string out(code_name(code_));
  if (!detail_) return out;
  const ErrorDetail& d = *detail_;
  if (!d.what.empty()) out.append(": ").append(d.what);
  if (!d.path.empty()) {
    out += " [";
    append_escaped(out, d.path, kShownName);
    if (d.offset != 0) out.append(":").append(std::to_string(d.offset));
    out += ']';
  }
  if (!d.tree.empty()) {
    out += " [tree \"";
    append_escaped(out, d.tree, kShownName);
    out += "\"]";
  }
  if (!d.key.empty()) {
    out += " [key \"";
    append_escaped(out, d.key, kShownKey);
    out += "\"]";
  }
  if (d.page != 0) out.append(" [page ").append(std::to_string(d.page)).append("]");
  if (d.lsn != 0) out.append(" [lsn ").append(std::to_string(d.lsn)).append("]");
  if (os_error_ != 0) {
    const char* name = ::strerrorname_np(os_error_);
    out += " [";
    out += name != nullptr ? std::string(name) : std::to_string(os_error_);
    out += ']';
  }
  return out;
}

}  // namespace kessai
