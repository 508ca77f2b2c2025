// SPDX-License-Identifier: Apache-2.0
// A database on the simulated disk with a virtual clock and no engine threads: every run is the
// same. Opened by the constructor; `options` hold for the next open().
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <utility>

#include "io/env.hpp"
#include "io/sim_disk.hpp"
#include "kessai/kessai.hpp"

namespace kessai::engine_test {

struct SimStore {
  io::SimDisk disk{42};
  std::unique_ptr<io::Directory> directory;
  io::Env env;
  io::VirtualClock clock;
  Options options;
  std::optional<Database> db;
  Tree main;

  SimStore() {
    options.create = true;
    options.memory = 4_MiB;
    options.wal_limit = 8_MiB;
    open();
  }
  void open() {
    db.reset();
    directory = disk.attach();
    env = {};
    env.directory = directory.get();
    env.clock = &clock;
    env.background = false;
    options.env = &env;
    auto opened = Database::open("sim", options);
    ASSERT_TRUE(opened.has_value()) << opened.error().message();
    db.emplace(std::move(*opened));
    main = db->tree("main").value();
  }
  void reopen_clean() {
    ASSERT_TRUE(db->close().has_value());
    db.reset();
    directory.reset();
    open();
  }
  /// Power fails; what certainly was on the disk is what comes back.
  void reopen_after_power_loss(io::CrashOutcome outcome = io::CrashOutcome::none) {
    io::SimDisk after = disk.survivor(outcome, 7);
    disk.crash();
    db.reset();
    directory.reset();
    disk = after;
    open();
  }
};

}  // namespace kessai::engine_test
