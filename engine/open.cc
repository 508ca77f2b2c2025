// SPDX-License-Identifier: Apache-2.0
// Opening: create or find the files, start a log generation, start the threads; closing.
#include <algorithm>
#include <cstring>

#include "engine/store.hpp"
#include "engine/transaction.hpp"
#include "io/check.hpp"

namespace kessai::engine {
namespace {

// Checkpoints stepped by commits take small steps: tests see more interleavings.
constexpr unsigned kSmallBatch = 6;

bool is_leftover(std::string_view name) {
  return name == btree::kDataFileNew || (name.starts_with("wal-") && name.ends_with(".kessai"));
}

}  // namespace

Result<std::shared_ptr<Store>> Store::open(std::string_view path, const Options& options) {
  // In a forked child threads, rings and locked mutexes are the parent's: there the store is left
  // alone.
  std::shared_ptr<Store> s(new Store(options), [](Store* store) {
    if (!store->in_forked_child()) delete store;
  });
  if (options.read_only && options.create) {
    return fail(Code::invalid_argument, "create and read_only exclude each other");
  }
  KESSAI_TRY(s->open_environment(path));
  auto opened = s->open_files();
  const bool absent = !opened && (opened.error() == Code::store_missing ||
                                  opened.error() == Code::incomplete_store);
  if (absent && options.create) {
    s->roots_.reset();
    s->pages_.reset();
    auto cleared = s->clear_leftovers();
    if (!cleared && cleared.error() == Code::store_exists) {
      opened = s->open_files();  // another process created it meanwhile
    } else if (!cleared) {
      return std::unexpected(cleared.error());
    } else {
      opened = s->create_files();
    }
  }
  if (!opened) return std::unexpected(opened.error());
  s->start_threads();
  return s;
}

Store::~Store() { static_cast<void>(close()); }

void Store::say(std::string_view line) const {
  if (options_.log_sink) options_.log_sink(line);
}

Result<void> Store::open_environment(std::string_view path) {
  if (options_.env != nullptr) {
    own_env_ = *options_.env;
  } else {
    io::DirectoryOptions d;
    d.backend = options_.io == IoBackend::uring   ? io::Backend::uring
                : options_.io == IoBackend::posix ? io::Backend::posix
                                                  : io::Backend::automatic;
    d.create = options_.create;
    d.log = options_.log_sink;
    KESSAI_ASSIGN(directory, io::open_directory(std::string(path), d));
    directory_ = std::move(directory);
    own_env_.directory = directory_.get();
    own_env_.log = options_.log_sink;
  }
  own_env_.waits = own_env_.count_waits ? &waits_ : nullptr;
  env_ = &own_env_;
  locks_ = std::make_unique<mvcc::LockTable>(
      *env_->clock, mvcc::LockTable::Options{.ranges = kS2pl, .waits = env_->waits});
  undo_ = std::make_unique<mvcc::Undo>(options_.undo_memory, env_);
  return {};
}

wal::LogOptions Store::log_options() {
  wal::LogOptions o;
  o.wal_limit = options_.wal_limit;
  o.flush_interval_ns = to_ns(options_.flush_interval);
  // Small caps (tests, tiny stores) get small segments, so that recycling has something to recycle.
  while (o.segment_bytes > 64 * 1024 && o.segment_bytes * 8 > options_.wal_limit)
    o.segment_bytes /= 2;
  while (o.ring_bytes > 512 * 1024 && o.ring_bytes > options_.wal_limit) o.ring_bytes /= 2;
  o.max_frame_bytes =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(o.max_frame_bytes, o.segment_bytes / 2));
  o.on_callbacks_due = [this] {
    io::MutexLock lock(hook_mutex_);
    callbacks_due_ = true;
    hook_wake_.notify_all();
  };
  o.on_log_full = [this] {
    // While the store opens no thread is there to make room yet.
    if (env_->background && checkpoint_thread_.joinable()) {
      io::MutexLock lock(wake_mutex_);
      checkpoint_wanted_ = true;
      wake_.notify_all();
    } else {
      // Two: the first makes the second's predecessor's log reusable.
      static_cast<void>(run_checkpoint(false) && run_checkpoint(false));
    }
  };
  return o;
}

Result<void> Store::prepare(std::unique_ptr<btree::PageStore> pages) {
  pages_ = std::move(pages);
  roots_ = std::make_unique<btree::Roots>(*pages_);
  context_.store = pages_.get();
  context_.roots = roots_.get();
  context_.horizon = [this] { return horizon_.load(std::memory_order_acquire); };
  return {};
}

// ---- creating --------------------------------------------------------------------------------

Result<void> Store::clear_leftovers() {
  KESSAI_ASSIGN(names, env_->directory->list());
  std::erase_if(names, [](const auto& name) { return !is_leftover(name); });
  if (names.empty()) return {};
  const bool half_created = std::ranges::find(names, btree::kDataFileNew) != names.end();
  // Another process may be creating right now: its files are locked, and when they no longer are,
  // it has finished.
  std::vector<std::unique_ptr<io::File>> locked;
  for (const auto& name : names) {
    KESSAI_ASSIGN(file, env_->directory->open(name, io::OpenMode::read_write));
    KESSAI_TRY(file->lock(to_ns(options_.open_timeout)));
    locked.push_back(std::move(file));
  }
  KESSAI_ASSIGN(now, env_->directory->list());
  if (std::ranges::find(now, btree::kDataFile) != now.end()) return fail(Code::store_exists);
  if (!half_created) {
    return fail(Code::incomplete_store,
                "there is a log but no " + std::string(btree::kDataFile) +
                    ": the data file was lost or moved; put it back, or move the wal-* files away");
  }
  locked.clear();
  // The temporary data file goes last: its presence says that the log is nobody's.
  for (const auto& name : names) {
    if (name != btree::kDataFileNew) KESSAI_TRY(env_->directory->remove(name));
  }
  KESSAI_TRY(env_->directory->flush());
  KESSAI_TRY(env_->directory->remove(btree::kDataFileNew));
  return env_->directory->flush();
}

Result<void> Store::create_files() {
  wal::StoreId id;
  std::byte bytes[16];
  env_->random->fill(bytes);
  std::memcpy(&id, bytes, sizeof id);
  btree::PageStoreOptions o;
  o.memory = options_.memory;
  o.lock_timeout_ns = to_ns(options_.open_timeout);
  if (!env_->background) o.checkpoint_batch = kSmallBatch;
  KESSAI_ASSIGN(pages, btree::PageStore::create(*env_, id, o));
  KESSAI_TRY(prepare(std::move(pages)));
  KESSAI_TRY(env_->directory->flush());  // its name is durable before a log file is
  if (env_->directory->backend() != io::Backend::simulated)
    KESSAI_TRY(io::calibrate_durable_write(*env_->directory));
  KESSAI_ASSIGN(log, wal::Log::create(*env_, id, log_options()));
  log_ = std::move(log);
  btree::Shadows shadows(*pages_);
  KESSAI_TRY(pages_->claim(16));
  KESSAI_TRY(roots_->create(shadows));
  KESSAI_ASSIGN(catalog_root, make_root(kCatalogTree));
  KESSAI_ASSIGN(main_root, make_root(kMainTree));
  catalog_tree_ = std::make_shared<TreeState>(token_, "", context_, kCatalogTree, catalog_root);
  const auto record = [&](std::string_view key, auto value) {
    btree::Change c;
    std::string v(sizeof value, '\0');
    std::memcpy(v.data(), &value, sizeof value);
    c.key = key;
    c.value = v;
    c.lsn = 1;
    return catalog_tree_->tree.apply(c, {}, shadows, nullptr);
  };
  KESSAI_TRY(record("", raw(kMainTree) + 1));
  KESSAI_TRY(record(kMainTreeName, raw(kMainTree)));
  KESSAI_TRY(record(history_key(0), Lsn{0}));  // the history is complete from the start
  pages_->unclaim(16);
  pages_->attach_log(log_.get());
  // Two checkpoints: from the start there is one to fall back to.
  KESSAI_TRY(pages_->checkpoint());
  KESSAI_TRY(pages_->checkpoint());
  KESSAI_TRY(pages_->publish_new());
  static_cast<void>(remember(kMainTreeName, kMainTree, main_root));
  was_clean_ = true;
  step_versions();
  return {};
}

// ---- opening ---------------------------------------------------------------------------------

Result<void> Store::open_files() {
  btree::PageStoreOptions o;
  o.memory = recovery_memory();
  o.read_only = options_.read_only;
  o.lock_timeout_ns = to_ns(options_.open_timeout);
  if (!env_->background) o.checkpoint_batch = kSmallBatch;
  KESSAI_ASSIGN(pages, btree::PageStore::open(*env_, o));
  KESSAI_TRY(prepare(std::move(pages)));
  for (const Error& e : pages_->damaged_superblocks()) say(e.message());
  KESSAI_TRY(roots_->load());
  KESSAI_ASSIGN(reader, wal::LogReader::open(*env_, pages_->id(), !options_.read_only,
                                             to_ns(options_.open_timeout)));
  horizon_.store(0);
  KESSAI_ASSIGN(end, recover(*reader));
  if (options_.read_only) {
    reader_ = std::move(reader);
    gc_horizon_.store(0);
    return {};
  }
  if (env_->directory->backend() != io::Backend::simulated)
    KESSAI_TRY(io::calibrate_durable_write(*env_->directory));
  KESSAI_ASSIGN(log, wal::Log::start(*env_, pages_->id(), log_options(), std::move(reader), end,
                                     pages_->keep_log_from()));
  log_ = std::move(log);
  pages_->attach_log(log_.get());
  KESSAI_TRY(settle_roots());
  KESSAI_TRY(record_generation());
  step_versions();
  return {};
}

// ---- closing ---------------------------------------------------------------------------------

Result<void> Store::close() {
  if (in_forked_child())
    return fail(Code::closed_handle, "this store was opened by the parent process");
  if (closed_.exchange(true, std::memory_order_seq_cst)) return {};
  closer_.store(io::thread_index() + 1, std::memory_order_relaxed);
  // Every operation is bounded, so this ends; new ones see closed_. The threads run on meanwhile:
  // an operation may wait for the log space that a checkpoint gives.
  for (std::size_t i = 0; uses_ && i < kUseSlots; ++i) {
    while (uses_[i].count.load(std::memory_order_seq_cst) != 0) io::yield_thread();
  }
  for (bool busy = true; busy; io::yield_thread()) {
    busy = false;
    std::vector<TransactionState*> open;
    registry_.visit([&](TransactionState& t) {
      if (t.claim())
        open.push_back(&t);
      else
        busy = busy || t.in_call();
    });
    for (TransactionState* t : open) t->expire(Code::closed_handle);
  }
  {
    io::MutexLock lock(wake_mutex_);
    stop_ = true;
    wake_.notify_all();
  }
  {
    io::MutexLock lock(hook_mutex_);
    stop_hooks_ = true;
    hook_wake_.notify_all();
  }
  log_thread_.join();
  checkpoint_thread_.join();
  hook_thread_.join();
  Result<void> ok;
  if (log_ != nullptr && pages_ != nullptr) {
    ok = writable();
    if (ok) {
      step_versions();
      step_reclaim(1024);  // a large drop goes on after the next open
      ok = log_->seal();
      if (ok) ok = run_checkpoint(true);
    }
    log_->run_callbacks();
  }
  if (log_ != nullptr) durable_at_close_.store(log_->durable_lsn(), std::memory_order_release);
  // The files are unlocked when their descriptors go. What handles still hold is memory.
  {
    io::MutexLock lock(trees_mutex_);
    trees_.clear();
    dropped_.clear();
  }
  catalog_tree_.reset();
  roots_.reset();  // its pins are in the pool
  pages_.reset();
  log_.reset();
  reader_.reset();
  close_ended_.store(true, std::memory_order_release);
  return ok;
}

Result<void> Store::outcome_at_close(Lsn lsn, bool commit) const {
  if (in_forked_child())
    return fail(Code::closed_handle, "this store was opened by the parent process");
  // A callback that the closing thread runs must not wait for it.
  const unsigned me = io::thread_index() + 1;
  const bool inside = closer_.load(std::memory_order_relaxed) == me ||
                      hook_runner_.load(std::memory_order_relaxed) == me;
  while (!inside && !close_ended_.load(std::memory_order_acquire)) io::yield_thread();
  if (durable_at_close_.load(std::memory_order_acquire) >= lsn) return {};
  if (!commit) return fail(Code::closed_handle, "the store is closed");
  ErrorDetail d;
  d.what = "the store was closed before the commit was durable; ask again after reopening";
  d.lsn = lsn;
  return fail(Code::unknown_outcome, std::move(d));
}

}  // namespace kessai::engine
