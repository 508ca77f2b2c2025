// SPDX-License-Identifier: Apache-2.0
// One process that has a store on the simulated disk open, and a model of its contents to compare
// with. For `kvtorture sim` and for the engine's fault tests.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "btree/page_store.hpp"
#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "kessai/kessai.hpp"

namespace kessai::crash {

using Rows = std::map<std::string, std::string>;
/// Tree name -> rows. Rows are shared between the states of a history.
using Tables = std::map<std::string, std::shared_ptr<const Rows>>;

/// A process that uses the store on `disk`, without background threads. Destroying it is kill -9.
class Process {
 public:
  explicit Process(io::SimDisk& disk, std::uint64_t seed = 1)
      : disk_(&disk), random_(seed), directory_(disk.attach()) {
    env_.directory = directory_.get();
    env_.clock = &clock;
    env_.random = &random_;
    env_.background = false;
    options.memory = 64 * 4096;
    options.wal_limit = 128 << 10;
    options.undo_memory = 1 << 20;
    options.open_timeout = std::chrono::milliseconds(100);
    options.env = &env_;
  }
  ~Process() {
    if (db) disk_->kill_processes();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  [[nodiscard]] Result<void> open() {
    auto r = Database::open("", options);
    if (!r) return std::unexpected(r.error());
    db.emplace(std::move(*r));
    return {};
  }
  [[nodiscard]] Result<void> close() {
    auto r = close_store();
    db.reset();
    return r;
  }
  /// Others may hold handles: `db` stays.
  [[nodiscard]] Result<void> close_store() { return db->close(); }

  /// See io::Env.
  void set_recovery_window(std::uint64_t bytes) { env_.recovery_window = bytes; }
  void set_background(bool on) { env_.background = on; }

  io::VirtualClock clock;
  Options options;

 private:
  io::SimDisk* disk_;
  io::SeededRandom random_;
  std::unique_ptr<io::Directory> directory_;
  io::Env env_;

 public:
  std::optional<Database> db;  ///< last: goes first
};

/// What is in the store, read by scans. Long or damaged: the error.
[[nodiscard]] inline Result<Tables> read_all(Database& db) {
  auto names = db.tree_names();
  if (!names) return std::unexpected(names.error());
  Tables out;
  for (const auto& name : *names) {
    auto tree = db.tree(name);
    if (!tree) return std::unexpected(tree.error());
    auto rows = std::make_shared<Rows>();
    auto c = db.scan(*tree, {});
    while (c.next()) rows->emplace_hint(rows->end(), c.key(), c.value());
    if (!c.status()) return std::unexpected(c.status().error());
    out.emplace(name, std::move(rows));
  }
  return out;
}

/// The first difference, in words.
[[nodiscard]] inline std::optional<std::string> difference(const Tables& found,
                                                           const Tables& expected) {
  for (const auto& [name, rows] : expected) {
    const auto it = found.find(name);
    if (it == found.end()) return "tree " + name + " is missing";
    for (const auto& [k, v] : *rows) {
      const auto row = it->second->find(k);
      if (row == it->second->end()) return name + "/" + k + " is missing";
      if (row->second != v) return name + "/" + k + " has a wrong value";
    }
    for (const auto& [k, v] : *it->second) {
      if (!rows->contains(k)) return name + "/" + k + " should not exist";
    }
  }
  for (const auto& [name, rows] : found) {
    if (!expected.contains(name)) return "tree " + name + " should not exist";
  }
  return std::nullopt;
}

[[nodiscard]] inline bool same(const Tables& a, const Tables& b) {
  if (a.size() != b.size()) return false;
  for (auto x = a.begin(), y = b.begin(); x != a.end(); ++x, ++y) {
    if (x->first != y->first || (x->second != y->second && *x->second != *y->second)) return false;
  }
  return true;
}

/// The first damage that check() reports. A superblock that is torn or damaged is no fault of the
/// store's: the crash did that, and recovery did without it.
[[nodiscard]] inline std::optional<std::string> first_damage(Database& db) {
  auto report = db.check();
  if (!report) return "check: " + report.error().message();
  for (const Damage& d : report->damage) {
    if (d.what.starts_with("superblock ")) continue;
    return "check: " + d.what + " (" + d.file + ":" + std::to_string(d.offset) + " page " +
           std::to_string(d.page) + ")";
  }
  return std::nullopt;
}

/// A store must do with the superblock before it, as long as the log reaches (I12).
inline void damage_newest_superblock(io::SimDisk& disk) {
  const auto bytes = disk.file_bytes(btree::kDataFile);
  std::uint64_t newest = 0, offset = 0;
  for (std::uint64_t at = 0; at < btree::kFirstSlotOffset; at += btree::kSuperblockStride) {
    const auto sb = btree::decode_superblock(
        std::span<const std::byte, kPageSize>(bytes.data() + at, kPageSize));
    if (!sb || sb->number <= newest) continue;
    newest = sb->number;
    offset = at;
  }
  disk.flip(btree::kDataFile, (offset + 100) * 8);
}

}  // namespace kessai::crash
