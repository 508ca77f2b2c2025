// SPDX-License-Identifier: Apache-2.0
// Goal: kvbench runs every workload on every engine of this build and prints the rows its users
// read. Method: a tiny store, short sections; the JSON rows are parsed. No figure is asserted but
// "> 0".
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "bench/engine.hpp"
#include "bench/report.hpp"
#include "bench/workloads.hpp"

namespace kessai::bench {
namespace {

struct Output {
  int exit_code = -1;
  std::vector<std::string> lines;
  std::vector<nlohmann::json> rows;  ///< the lines, when --json is among the arguments
};

Output kvbench(const std::string& arguments) {
  Output out;
  const bool json = arguments.find("--json") != std::string::npos;
  std::FILE* pipe = ::popen((std::string(KVBENCH_PATH) + " " + arguments + " 2>&1").c_str(), "r");
  std::string line;
  for (int c; (c = std::fgetc(pipe)) != EOF;) {
    if (c != '\n') {
      line += static_cast<char>(c);
      continue;
    }
    out.lines.push_back(line);
    if (json) {
      out.rows.push_back(nlohmann::json::parse(line, nullptr, false));
      EXPECT_TRUE(out.rows.back().is_object()) << "not a JSON row: " << line;
    }
    line.clear();
  }
  out.exit_code = WEXITSTATUS(::pclose(pipe));
  return out;
}

TEST(BenchSmoke, EveryWorkloadAndEngineGivesARow) {
  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / "kvbench-smoke";
  const Output out =
      kvbench("--json --table --workload all --n 2000 --seconds 0.2 --runs 1 --threads 2 --dir " +
              dir.string());
  EXPECT_EQ(out.exit_code, 0);
  std::map<std::string, std::set<std::string>> seen;
  std::size_t floors = 0;
  for (const auto& row : out.rows) {
    if (row.value("summary", false)) {
      ++floors;
      continue;
    }
    SCOPED_TRACE(row.dump());
    for (const char* key :
         {"workload", "engine", "threads", "ops_per_s", "p50_us", "p99_us", "p999_us",
          "cpu_us_per_op", "rss_mib", "n", "value_bytes", "durability", "device_flush_us"}) {
      EXPECT_TRUE(row.contains(key)) << key;
    }
    EXPECT_GT(row.value("ops_per_s", 0.0), 0);
    EXPECT_GT(row.value("p50_us", 0.0), 0);
    const std::string workload = row.value("workload", "");
    if (workload.starts_with("load_")) {
      EXPECT_TRUE(row.contains("fill"));
    }
    if (workload == "recovery") {
      EXPECT_GT(row.value("reopen_s", 0.0), 0);
    }
    if (workload == "long_reader") {
      EXPECT_GT(row.value("reader_slowdown", 0.0), 0);
    }
    if (row.value("engine", "").starts_with("kessai")) {
      for (const auto& [of, field] : {std::pair{"snapshot_get", "of_tree"},
                                      {"hot_row", "flushes_per_op"},
                                      {"long_reader", "undo_mib"}}) {
        if (workload == of) {
          EXPECT_GT(row.value(field, 0.0), 0) << field;
        }
      }
    }
    seen[workload].insert(row.value("engine", ""));
  }
  EXPECT_GT(floors, 0u);
  for (const Workload& w : workloads()) {
    std::vector<std::string> engines(w.engines.begin(), w.engines.end());
    if (engines.empty()) engines = engine_names();
    std::set<std::string> expected;
    for (const std::string& engine : engines) {
      if (const auto e = make_engine(engine); e != nullptr && e->can(w.needs))
        expected.insert(engine);
    }
    EXPECT_FALSE(expected.empty()) << w.name;
    EXPECT_EQ(seen[std::string(w.name)], expected) << w.name;
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir)) << "stores were left behind";
  std::filesystem::remove_all(dir);
}

// Goal: --modes prints the published table, with the rows of both builds and nothing else.
TEST(BenchSmoke, ModesAreAMarkdownTable) {
  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / "kvbench-modes";
  const Output out = kvbench(
      "--modes --n 1000 --seconds 0.05 --runs 1 --threads 1,2 --reads 0,100 --engine "
      "kessai,kessai_s2pl --dir " +
      dir.string());
  EXPECT_EQ(out.exit_code, 0);
  std::vector<std::string> starts;
  for (const std::string& line : out.lines) {
    EXPECT_EQ(std::ranges::count(line, '|'), 6) << line;
    EXPECT_EQ(line.find("failed"), std::string::npos) << line;
    starts.push_back(line.substr(0, line.find('|', line.find('|', line.find('|', 1) + 1) + 1)));
  }
  const std::vector<std::string> expected = {
      "| build | level | threads ",       "|---|---|--:",
      "| mvcc | snapshot | 1 ",           "| mvcc | snapshot | 2 ",
      "| s2pl | all (serializable) | 1 ", "| s2pl | all (serializable) | 2 "};
  EXPECT_EQ(starts, expected);
  std::filesystem::remove_all(dir);
}

// Goal: ratios come from medians, each against the right peer; what was not measured is not "met".
TEST(BenchReport, FloorsAreRatiosOfMedians) {
  const auto series = [](std::string engine, std::string workload, std::vector<double> rates) {
    Series s;
    s.engine = std::move(engine);
    s.workload = std::move(workload);
    for (const double r : rates) {
      s.runs.push_back({{"ops_per_s", r}, {"cpu_us_per_op", 1e6 / r}, {"device_flush_us", 100.0}});
    }
    return s;
  };
  const auto floors = floors_of(
      {series("kessai", "get_rand", {100, 400, 300}), series("lmdb", "get_rand", {150, 9, 999}),
       series("kessai", "commit_durable", {7000}), series("rocksdb", "get_rand", {150})});
  const auto value = [&](std::string_view name) {
    for (const Floor& f : floors) {
      if (f.name.starts_with(name)) return f;
    }
    return Floor{};
  };
  EXPECT_DOUBLE_EQ(value("get_rand, 1 thread: kessai / lmdb").value.value_or(0), 2.0);
  EXPECT_TRUE(value("get_rand, 1 thread: kessai / lmdb").met());
  EXPECT_DOUBLE_EQ(value("get_rand, 1 thread: kessai / lmdb").by_cpu.value_or(0), 2.0);
  EXPECT_FALSE(value("get_rand, 1 thread: kessai / rocksdb").met());
  EXPECT_DOUBLE_EQ(value("commit_durable, 1 thread").value.value_or(0),
                   0.7);  // 7000/s against 100 us
  EXPECT_FALSE(value("commit_durable, 1 thread").met());
  // A rate of its own workload, thread count and engine; a field where less is better.
  Series hot = series("kessai", "hot_row", {50'000, 30'000, 40'000});
  hot.threads = 64;
  Series ser = series("kessai_ser", "txn_update", {60}), si = series("kessai", "txn_update", {100});
  ser.threads = si.threads = 2;
  Series reader = series("kessai", "long_reader", {1});
  reader.runs[0].update({{"reader_slowdown", 2.5}, {"undo_mib", 16.0}, {"undo_limit_mib", 64.0}});
  const auto more = floors_of({hot, ser, si, reader});
  const auto other = [&](std::string_view name) {
    const auto it = std::ranges::find_if(more, [&](const Floor& f) { return f.name == name; });
    return it == more.end() ? Floor{} : *it;
  };
  EXPECT_DOUBLE_EQ(other("hot_row, 64 threads: kessai / a commit a flush").value.value_or(0), 4.0);
  EXPECT_FALSE(other("hot_row, 64 threads: kessai_rc / a commit a flush").value.has_value());
  EXPECT_DOUBLE_EQ(other("txn_update, 2 threads: serializable / snapshot").value.value_or(0), 0.6);
  EXPECT_FALSE(other("txn_update, 2 threads: serializable / snapshot").met());
  EXPECT_DOUBLE_EQ(other("long_reader: undo / its budget").value.value_or(0), 0.25);
  EXPECT_TRUE(other("long_reader: undo / its budget").met());
  EXPECT_FALSE(other("long_reader: the reader's gets, times slower").met());
  EXPECT_FALSE(value("scan").value.has_value());
  EXPECT_FALSE(value("scan").met());
}

TEST(BenchSmoke, UnknownNamesAreUsageErrors) {
  EXPECT_EQ(
      std::system((std::string(KVBENCH_PATH) + " --workload nonsense 2>/dev/null").c_str()) >> 8,
      2);
  EXPECT_EQ(
      std::system((std::string(KVBENCH_PATH) + " --engine nonsense 2>/dev/null").c_str()) >> 8, 2);
  EXPECT_EQ(std::system((std::string(KVBENCH_PATH) + " --value 1 2>/dev/null").c_str()) >> 8, 2);
}

}  // namespace
}  // namespace kessai::bench
