// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "bench/engine.hpp"

namespace kessai::bench {
namespace {

struct Factory {
  std::string_view name;
  std::unique_ptr<Engine> (*make)();
  bool by_default = true;
};

constexpr auto kFactories = std::to_array<Factory>({
#ifdef KESSAI_BENCH_KESSAI
    {"kessai", [] { return make_kessai_engine("kessai"); }},
    {"kessai_rc", [] { return make_kessai_engine("kessai_rc"); }, false},
    {"kessai_ser", [] { return make_kessai_engine("kessai_ser"); }, false},
    {"kessai_s2pl", [] { return make_kessai_engine("kessai_s2pl"); }, false},
#endif
#ifdef KESSAI_BENCH_LMDB
    {"lmdb", make_lmdb_engine},
    {"lmdb_writemap", make_lmdb_writemap_engine, false},
#endif
#ifdef KESSAI_BENCH_ROCKSDB
    {"rocksdb", make_rocksdb_engine},
#endif
#ifdef KESSAI_BENCH_LEVELDB
    {"leveldb", make_leveldb_engine},
#endif
#ifdef KESSAI_BENCH_SQLITE
    {"sqlite", make_sqlite_engine},
#endif
    {"", nullptr, false},  // keeps the array from being empty
});

}  // namespace

std::vector<std::string> engine_names() {
  std::vector<std::string> names;
  for (const Factory& f : kFactories) {
    if (f.make != nullptr && f.by_default) names.emplace_back(f.name);
  }
  return names;
}

std::unique_ptr<Engine> make_engine(std::string_view name) {
  for (const Factory& f : kFactories) {
    if (f.make != nullptr && f.name == name) return f.make();
  }
  return nullptr;
}

}  // namespace kessai::bench
