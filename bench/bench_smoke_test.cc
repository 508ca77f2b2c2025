// SPDX-License-Identifier: Apache-2.0
// Goal: kvbench runs every workload on every engine of this build and prints the rows its users
// read. Method: a tiny store, short sections; the JSON rows are parsed. No figure is asserted but
// "> 0".
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "bench/engine.hpp"
#include "bench/report.hpp"
#include "bench/workloads.hpp"

namespace kessai::bench {
namespace {

struct Output {
  int exit_code = -1;
  std::vector<nlohmann::json> rows;
};

Output kvbench(const std::string& arguments) {
  Output out;
  std::FILE* pipe = ::popen((std::string(KVBENCH_PATH) + " " + arguments + " 2>&1").c_str(), "r");
  std::string line;
  for (int c; (c = std::fgetc(pipe)) != EOF;) {
    if (c != '\n') {
      line += static_cast<char>(c);
      continue;
    }
    out.rows.push_back(nlohmann::json::parse(line, nullptr, false));
    EXPECT_TRUE(out.rows.back().is_object()) << "not a JSON row: " << line;
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
    seen[workload].insert(row.value("engine", ""));
  }
  EXPECT_GT(floors, 0u);
  for (const Workload& w : workloads()) {
    for (const std::string& engine : engine_names()) {
      const bool expected = w.name != "commit_ticket" || make_engine(engine)->has_tickets();
      EXPECT_EQ(seen[std::string(w.name)].contains(engine), expected) << w.name << ' ' << engine;
    }
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir)) << "stores were left behind";
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
