// SPDX-License-Identifier: Apache-2.0
// What became of a commit: the history of log generations (I9), tokens, outcomes.
//
// The catalog has a row for each generation that left commits: key = 256 bytes 0xFF (longer than
// any tree name) and the number (u64 big-endian), value = its end LSN (u64 little-endian). Row 0
// comes with a new store. A generation writes its predecessor's row as its first commit, so
//   - everything that survives of it comes with that row: a crash that takes the row back leaves
//     the generation without commits, and the next open finds the same predecessor again in the
//     log's headers. So the row need not be waited for.
//   - a generation without a row, between two that have one, left nothing.
//   - the LSN of the row before its own is below every other commit of a generation with a row.
#include <charconv>
#include <cstdio>
#include <cstring>

#include "engine/store.hpp"
#include "io/check.hpp"

namespace kessai {

namespace {

constexpr std::size_t kStoreIdDigits = 32;

std::unexpected<Error> closed() { return fail(Code::closed_handle, "the database is closed"); }

bool number(std::string_view text, std::uint64_t& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc{} && end == text.data() + text.size();
}

}  // namespace

std::string CommitToken::text() const {
  return store + '/' + std::to_string(generation) + '/' + std::to_string(lsn);
}

Result<CommitToken> CommitToken::parse(std::string_view text) {
  CommitToken t;
  const std::size_t first = text.find('/');
  const std::size_t second = first == text.npos ? text.npos : text.find('/', first + 1);
  if (second != text.npos) {
    t.store = text.substr(0, first);
    const bool hex = t.store.size() == kStoreIdDigits &&
                     t.store.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (hex && number(text.substr(first + 1, second - first - 1), t.generation) &&
        number(text.substr(second + 1), t.lsn))
      return t;
  }
  return fail(Code::invalid_argument, "this is not a commit token: STORE/GENERATION/LSN expected");
}

Result<CommitToken> Database::token(Lsn lsn) const {
  if (store_ == nullptr) return closed();
  const engine::Store::Use use(*store_);
  if (!use) return closed();
  return store_->commit_token(lsn);
}

Result<Outcome> Database::outcome(const CommitToken& token) {
  if (store_ == nullptr) return closed();
  const engine::Store::Use use(*store_);
  if (!use) return closed();
  return store_->outcome(token);
}

namespace engine {
namespace {

std::unexpected<Error> no_commit(const CommitToken& t, const std::string& why) {
  ErrorDetail d;
  d.what = "no commit of this store's history has this token: " + why;
  d.lsn = t.lsn;
  return std::unexpected(Error(Code::invalid_argument, std::move(d)));
}

}  // namespace

std::string Store::store_id() const {
  char s[kStoreIdDigits + 1];
  std::snprintf(s, sizeof s, "%016llx%016llx", static_cast<unsigned long long>(pages_->id().hi),
                static_cast<unsigned long long>(pages_->id().lo));
  return s;
}

std::string Store::history_prefix() { return std::string(kMaxTreeNameBytes + 1, '\xff'); }

std::string Store::history_key(std::uint64_t generation) {
  std::string key = history_prefix();
  for (int shift = 56; shift >= 0; shift -= 8) key += static_cast<char>(generation >> shift & 0xff);
  return key;
}

Result<void> Store::record_generation() {
  if (used_generation_ == 0) return {};
  const std::string key = history_key(used_generation_);
  std::string value(sizeof used_end_, '\0');
  std::memcpy(value.data(), &used_end_, sizeof used_end_);
  std::string record;
  wal::start_record(wal::RecordKind::commit, record);
  wal::encode_op({kCatalogTree, wal::OpKind::put, key, value}, record);
  wal::finish_record(record);
  btree::LeafHint hint;
  KESSAI_ASSIGN(pin, catalog_tree_->tree.pin_leaf(key, hint));
  // Urgent: a store on a full disk must open. There is a margin that only this and deletes get.
  KESSAI_TRY(pages_->claim(btree::Tree::kClaimPerChange, true));
  auto at = log_->reserve(record.size());
  Result<void> ok;
  if (at) {
    log_->fill(*at, std::as_bytes(std::span(record)));
    btree::Change c;
    c.key = key;
    c.value = value;
    c.lsn = at->lsn;
    btree::Shadows shadows(*pages_);
    ok = catalog_tree_->tree.apply(c, hint, shadows, nullptr);
    if (ok) log_->applied(*at);
    if (!ok) pages_->poison(ok.error());  // I4
  } else {
    ok = std::unexpected(at.error());
  }
  pages_->unclaim(btree::Tree::kClaimPerChange);
  return ok;
}

Result<std::optional<Lsn>> Store::generation_end(std::uint64_t generation) {
  if (generation == used_generation_) return used_end_;
  std::string value;
  KESSAI_ASSIGN(row, catalog_tree_->tree.get(history_key(generation), &value));
  if (!row.present) return std::nullopt;
  Lsn end = 0;
  if (value.size() != sizeof end)
    return fail(Code::damaged, "the history of generations is damaged");
  std::memcpy(&end, value.data(), sizeof end);
  return end;
}

Result<std::optional<Lsn>> Store::generation_floor(std::uint64_t generation) {
  btree::TreeCursor before(catalog_tree_->tree, history_prefix(), history_key(generation), true);
  btree::TreeCursor::Row row;
  KESSAI_ASSIGN(found, before.next(row));
  if (!found) return std::nullopt;
  return btree::tag_lsn(row.tag);
}

Result<CommitToken> Store::commit_token(Lsn lsn) const {
  if (log_ == nullptr) return fail(Code::read_only, "the store is open for reading only");
  if (lsn <= log_->first_lsn() || lsn > log_->tail())
    return fail(Code::invalid_argument,
                "LSN " + std::to_string(lsn) + " is of no commit of this open of the store");
  return CommitToken{store_id(), log_->generation(), lsn};
}

Result<Outcome> Store::outcome(const CommitToken& t) {
  if (t.store != store_id()) return no_commit(t, "it is of store " + t.store);
  const std::uint64_t newest = log_ ? log_->generation() : reader_->last_generation();
  if (t.generation == 0 || t.generation > newest)
    return no_commit(t, "this copy of the store knows generations 1 to " + std::to_string(newest));
  if (log_ && t.generation == newest) {
    if (auto own = commit_token(t.lsn); !own) return no_commit(t, own.error().detail().what);
    KESSAI_TRY(wait_durable(t.lsn));
    return Outcome::committed;
  }
  KESSAI_ASSIGN(floor, generation_floor(t.generation));
  if (!floor) return no_commit(t, "it is older than the history this store keeps");
  KESSAI_ASSIGN(end, generation_end(t.generation));
  if (!end) return Outcome::not_committed;  // the crash left nothing of that generation
  if (t.lsn <= *floor) return no_commit(t, "its generation began later");
  if (t.lsn <= *end) return Outcome::committed;
  if (t.lsn - *end > wal::kWindow) return no_commit(t, "its generation never came so far");
  return Outcome::not_committed;
}

}  // namespace engine
}  // namespace kessai
