// SPDX-License-Identifier: Apache-2.0
// The commit pipeline: see engine/store.hpp for its steps.
#include <algorithm>

#include <boost/container/small_vector.hpp>

#include "engine/store.hpp"
#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::engine {
namespace {

constexpr std::uint32_t kLeafPinsPerFrame =
    8;  // a commit pins at most an eighth of the pool's frames

std::span<const std::byte> as_bytes(const std::string& s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

/// Pushes what a commit replaces. Overflow values were read when the record was locked.
class UndoPusher final : public btree::BeforeImages {
 public:
  explicit UndoPusher(mvcc::Undo& undo) : undo_(undo) {}
  const Write* current = nullptr;

  void before(TreeId tree, std::string_view key, std::uint64_t tag, std::string_view value,
              Lsn end) override {
    mvcc::Image image;
    image.present = !btree::is_ghost(tag);
    if (!image.present) return;  // between delete and re-insert no entry means absent
    image.value = btree::is_overflow(tag) ? std::string_view(current->before_overflow) : value;
    undo_.push(tree, key, btree::tag_lsn(tag), end, image);
  }

 private:
  mvcc::Undo& undo_;
};

/// Commits hold the trees they change: a drop waits for them (I16).
class TreeHolds {
 public:
  [[nodiscard]] Result<void> take(std::vector<Write>& writes) {
    TreeState* last = nullptr;
    for (const Write& w : writes) {
      if (w.tree.get() == last) continue;
      last = w.tree.get();
      last->writers.fetch_add(1, std::memory_order_seq_cst);
      held_.push_back(w.tree);
      if (last->dropping.load(std::memory_order_seq_cst))
        return std::unexpected(dropped_tree(*last));
    }
    return {};
  }
  ~TreeHolds() {
    for (const auto& t : held_) t->writers.fetch_sub(1, std::memory_order_release);
  }
  TreeHolds() = default;
  TreeHolds(const TreeHolds&) = delete;
  TreeHolds& operator=(const TreeHolds&) = delete;

 private:
  std::vector<std::shared_ptr<TreeState>> held_;
};

}  // namespace

Result<void> Store::writable() const {
  if (log_ == nullptr) return fail(Code::read_only, "the store is open for reading only");
  // A log that failed ends the store as a whole (I4).
  if (log_->poisoned() && !pages_->poisoned()) pages_->poison(log_->failure());
  if (pages_->poisoned()) return std::unexpected(pages_->poison_error());
  return {};
}

Result<std::uint32_t> Store::take_pin_share(const std::vector<Write>& writes) {
  const std::uint32_t frames = pages_->pool().frames();
  std::size_t long_pages = 0;
  for (const Write& w : writes) {
    if (w.noop || w.remove || btree::fits_inline(w.key.size(), w.value.size())) continue;
    long_pages += btree::Tree::overflow_pages(w.value.size());
  }
  if (long_pages > frames / 4) {
    return fail(Code::transaction_too_large,
                "the transaction's long values need " + std::to_string(long_pages) +
                    " pages, more than a quarter of the page cache; raise Options::memory");
  }
  const auto share = static_cast<std::uint32_t>(
      long_pages + std::min<std::size_t>(writes.size(), frames / kLeafPinsPerFrame));
  // Whoever holds a share is past its record locks and finishes: the wait is bounded by commits.
  io::Waits::LateTimer wait(env_);
  for (std::uint32_t now = pinned_.load(std::memory_order_relaxed);;) {
    if (now + share > frames / 2) {
      wait.start(io::Wait::buffer_miss);
      io::yield_thread();
      now = pinned_.load(std::memory_order_relaxed);
    } else if (pinned_.compare_exchange_weak(now, now + share, std::memory_order_acq_rel)) {
      return share;
    }
  }
}

Result<void> Store::prepare_writes(WriteSet& writes, std::vector<btree::Pool::Pin>& pins) {
  const std::size_t quota = pages_->pool().frames() / kLeafPinsPerFrame;
  PageId last{};
  for (Write& w : writes.all()) {
    if (w.noop) continue;
    if (!w.remove && !btree::fits_inline(w.key.size(), w.value.size())) {
      KESSAI_TRY(w.tree->tree.prepare_overflow(w.value, w.overflow));
    }
    // I4: leaves are resident and stay so. Past the quota apply reads what is missing itself.
    if (pins.size() >= quota) continue;
    KESSAI_ASSIGN(pin, w.tree->tree.pin_leaf(w.key, w.hint));
    if (w.hint.page != last) pins.push_back(std::move(pin));
    last = w.hint.page;
  }
  return {};
}

Result<void> Store::validate(const Validate& v, mvcc::Certifier::Ticket mine, Lsn commit) {
  const auto hit = certifier_.validate(*v.reads, v.start, v.snapshot, mine, commit);
  if (!hit) return {};
  counters.conflicts.fetch_add(1, std::memory_order_relaxed);
  ErrorDetail d;
  d.what = hit->overtaken()
               ? "too many commits since this transaction began; run the transaction again"
               : "what this transaction read has changed; run the transaction again";
  if (!hit->overtaken()) d.tree = tree_name(hit->tree);
  d.key = hit->key;
  d.lsn = hit->lsn;
  return std::unexpected(Error(Code::write_conflict, std::move(d)));
}

Result<Lsn> Store::commit(WriteSet& writes, mvcc::LockSet& locks, const Validate* validate) {
  KESSAI_TRY(writable());
  relieve_undo();
  auto& sorted = writes.sorted();
  TreeHolds holds;
  KESSAI_TRY(holds.take(sorted));
  KESSAI_ASSIGN(share, take_pin_share(sorted));
  struct PinShare {  // given back after the pins, which are declared later
    io::Atomic<std::uint32_t>& pinned;
    std::uint32_t share;
    ~PinShare() { pinned.fetch_sub(share, std::memory_order_acq_rel); }
  } const pin_share{pinned_, share};
  std::vector<btree::Pool::Pin> pins;
  auto prepared = prepare_writes(writes, pins);
  std::uint64_t claim = 8;
  for (const Write& w : sorted) claim += btree::Tree::kClaimPerChange + w.overflow.pages.size();
  const bool only_removes =
      std::all_of(sorted.begin(), sorted.end(), [](const Write& w) { return w.remove || w.noop; });
  if (prepared) prepared = pages_->claim(claim, only_removes);
  const auto discard = [&] {
    for (Write& w : sorted) {
      if (!w.overflow.empty()) w.tree->tree.discard_overflow(w.overflow);
    }
  };
  if (!prepared) {
    discard();
    return std::unexpected(prepared.error());
  }
  btree::Shadows shadows(*pages_);
  if (KESSAI_MUTANT(locks_released_before_append)) locks_->release_all(locks);
  auto lsn = append_and_apply(writes, shadows, validate);
  pages_->unclaim(claim);
  if (!lsn) {
    if (lsn.error() != Code::unknown_outcome) discard();
    return lsn;
  }
  for (Write& w : sorted) {
    if (w.remove && !w.noop) note_ghost(w.tree, w.key, *lsn);
  }
  pins.clear();
  locks_->release_all(locks);
  writes.clear();
  counters.commits.fetch_add(1, std::memory_order_relaxed);
  after_commit();
  return lsn;
}

namespace {

/// A write set in the certifier's ring, from before the reservation until the commit is visible or
/// came to nothing.
class Published {
 public:
  Published(mvcc::Certifier& certifier, const std::vector<Write>& writes) : certifier_(certifier) {
    if constexpr (kS2pl) return;
    boost::container::small_vector<mvcc::Certifier::Written, 16> keys;
    for (const Write& w : writes) {
      if (!w.noop) keys.push_back({w.tree->tree.id(), w.key});
    }
    ticket_ = certifier_.publish({keys.data(), keys.size()});
  }
  ~Published() {
    if constexpr (!kS2pl) certifier_.finished(ticket_, lsn_);
  }
  Published(const Published&) = delete;
  Published& operator=(const Published&) = delete;
  [[nodiscard]] mvcc::Certifier::Ticket ticket() const noexcept { return ticket_; }
  void reserved(Lsn lsn) noexcept {
    lsn_ = lsn;
    if constexpr (!kS2pl) certifier_.reserved(ticket_, lsn);
  }
  void withdraw() noexcept { lsn_ = 0; }

 private:
  mvcc::Certifier& certifier_;
  mvcc::Certifier::Ticket ticket_ = 0;
  Lsn lsn_ = 0;
};

}  // namespace

Result<Lsn> Store::append_and_apply(WriteSet& writes, btree::Shadows& shadows,
                                    const Validate* validate) {
  std::string stream, record;
  for (const Write& w : writes.all()) {
    if (w.noop) continue;
    wal::encode_op(
        {w.tree->tree.id(), w.remove ? wal::OpKind::remove : wal::OpKind::put, w.key, w.value},
        stream);
  }
  Published published(certifier_, writes.all());
  wal::Log::Reservation at;
  std::uint64_t hold = 0;
  const bool large = wal::kRecordHeader + stream.size() > log_->max_record();
  if (validate != nullptr) {
    validate->reads->seal();
    // An early look for large commits: a conflict that shows already costs no log.
    if (large) KESSAI_TRY(this->validate(*validate, published.ticket(), kMaxLsn));
  }
  if (large) {
    KESSAI_ASSIGN(closed, append_parts(stream, hold, record));
    at = closed;
  } else {
    wal::start_record(wal::RecordKind::commit, record);
    record += stream;
    wal::finish_record(record);
    KESSAI_ASSIGN(reserved, log_->reserve(record.size()));
    at = reserved;
  }
  published.reserved(at.lsn);
  if (validate != nullptr) {
    if (auto ok = this->validate(*validate, published.ticket(), at.lsn); !ok) {
      published.withdraw();
      fill_with_nothing(at, record.size());
      if (large) log_->release_low(hold);
      return std::unexpected(ok.error());
    }
  }
  if (!KESSAI_MUTANT(apply_before_append)) log_->fill(at, as_bytes(record));
  if (KESSAI_MUTANT(half_applied_visible)) log_->applied(at);
  // No failure from here on (I4): what fails all the same poisons the store.
  auto ok = apply_writes(writes, at.lsn, shadows);
  if (KESSAI_MUTANT(apply_before_append)) log_->fill(at, as_bytes(record));
  if (!ok) {
    pages_->poison(ok.error());
    ErrorDetail d;
    d.what = "the commit is in the log but could not be applied: " + ok.error().message();
    d.lsn = at.lsn;
    return std::unexpected(Error(Code::unknown_outcome, std::move(d)));
  }
  if (KESSAI_INTERRUPT(before_applied)) step_checkpoint(true);
  if (!KESSAI_MUTANT(half_applied_visible)) log_->applied(at);
  if (large) log_->release_low(hold);
  // Visible before answered, before the certifier forgets, and before any lock goes: who takes the
  // lock next begins a snapshot that must see what it protected. Earlier commits may still be
  // applying.
  while (log_->applied_lsn() < at.lsn && !log_->poisoned() &&
         !KESSAI_MUTANT(locks_go_before_visible))
    io::yield_thread();
  return at.lsn;
}

/// A reservation that comes to nothing still has to be filled: the log has no holes.
void Store::fill_with_nothing(const wal::Log::Reservation& at, std::size_t bytes) {
  std::string record;
  wal::start_record(wal::RecordKind::filler, record);
  record.resize(bytes, '\0');
  wal::finish_record(record);
  log_->fill(at, as_bytes(record));
  log_->applied(at);
}

Result<wal::Log::Reservation> Store::append_parts(const std::string& stream, std::uint64_t& hold,
                                                  std::string& record) {
  if (stream.size() > options_.wal_limit / 4) {
    return fail(Code::transaction_too_large,
                "the transaction writes " + std::to_string(stream.size()) +
                    " bytes, more than a quarter of Options::wal_limit");
  }
  hold = log_->hold_low();
  wal::CloseBuilder close;
  const auto give_up = [&](const Error& e) {
    log_->release_low(hold);  // the parts are void: no closing record names them
    return std::unexpected(e);
  };
  const std::size_t body_bytes = log_->max_record() - wal::kRecordHeader;
  for (std::size_t from = 0; from < stream.size(); from += body_bytes) {
    const std::string_view body = std::string_view(stream).substr(from, body_bytes);
    wal::start_record(wal::RecordKind::part, record);
    record += body;
    wal::finish_record(record);
    auto at = log_->reserve(record.size());
    if (!at) return give_up(at.error());
    log_->fill(*at, as_bytes(record));
    log_->applied(*at);  // nothing to apply: the closing record counts
    close.add_part(at->start, at->lsn, body);
  }
  auto at = log_->reserve(close.record_bytes());
  if (!at) return give_up(at.error());
  close.finish(record);  // filled by the caller
  return *at;
}

Result<void> Store::apply_writes(WriteSet& writes, Lsn lsn, btree::Shadows& shadows) {
  UndoPusher pusher(*undo_);
  for (Write& w : writes.all()) {
    if (w.noop) continue;
    btree::Change c;
    c.remove = w.remove;
    c.key = w.key;
    c.value = w.value;
    c.lsn = lsn;
    c.overflow = w.overflow.empty() ? nullptr : &w.overflow;
    pusher.current = &w;
    if (KESSAI_INTERRUPT(before_apply)) step_checkpoint(true);
    KESSAI_TRY(w.tree->tree.apply(c, w.hint, shadows, kS2pl ? nullptr : &pusher));
  }
  return {};
}

Result<void> Store::wait_applied(Lsn lsn) const {
  if (log_ != nullptr ? lsn > log_->tail() : lsn > recovered_to_)
    return fail(Code::invalid_argument, "at_least names an LSN that no commit has reached");
  // Whoever appended before the tail is applying: the wait is bounded by commits under way.
  while (applied() < lsn) {
    KESSAI_TRY(writable());
    io::yield_thread();
  }
  return {};
}

Result<void> Store::wait_durable(Lsn lsn) {
  if (lsn == 0 || log_ == nullptr) return {};
  return log_->wait_durable(lsn);
}

Result<void> Store::wait_seen(Lsn seen) {
  if (log_ == nullptr || log_->durable_lsn() >= seen) return {};
  auto ok = log_->wait_durable(seen);
  if (!ok)
    return std::unexpected(pages_->poisoned() ? pages_->poison_error()
                                              : Error(Code::poisoned,
                                                      "what was read is not durable and the log "
                                                      "has failed; close and reopen the store"));
  return ok;
}

}  // namespace kessai::engine
