// SPDX-License-Identifier: Apache-2.0
#include "tools/reconcile.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "io/check.hpp"
#include "tools/bytes.hpp"
#include "tools/interrupt.hpp"

namespace kessai::tools {
namespace {

using payments::DifferenceClass;

constexpr std::size_t kBlock = 256u << 10;
constexpr std::size_t kShown = 20;

std::unexpected<Error> file_error(const Error& e, const std::string& path) {
  ErrorDetail detail = e.detail();
  detail.path = path;
  return fail(e.code(), std::move(detail), e.os_error());
}

}  // namespace

Result<payments::Statement> read_statement(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  if (!file) {
    return file_error(
        Error(Code::invalid_argument, ErrorDetail{.what = std::strerror(errno)}, errno), path);
  }
  payments::StatementReader reader;
  std::vector<char> block(kBlock);
  while (const std::size_t n = std::fread(block.data(), 1, block.size(), file.get())) {
    if (interrupted()) return fail(Code::interrupted);
    if (const auto fed = reader.feed({block.data(), n}); !fed) return file_error(fed.error(), path);
  }
  if (std::ferror(file.get()) != 0) {
    return file_error(Error(Code::io_error, ErrorDetail{.what = std::strerror(errno)}, errno),
                      path);
  }
  auto statement = reader.finish();
  if (!statement) return file_error(statement.error(), path);
  return statement;
}

Json plan_json(const payments::ReadPlan& plan) {
  return {{"partitions_opened", plan.opened},
          {"partitions_pruned", plan.pruned},
          {"leaf_pages", plan.leaves},
          {"rows_visited", plan.visited},
          {"rows_returned", plan.returned}};
}

Json reconciliation_json(const payments::Reconciliation& r) {
  Json row = {{"rows", r.rows}, {"matched", r.matched}};
  for (std::size_t i = 0; i < payments::kDifferenceClasses; ++i)
    row[std::string(payments::difference_name(static_cast<DifferenceClass>(i)))] = r.counts[i];
  row["count_there"] = r.count_there;
  row["sum_there_milli"] = r.sum_there;
  row["count_here"] = r.count_here;
  row["sum_here_milli"] = r.sum_here;
  row["ok"] = r.ok;
  Json list = Json::array();
  for (const payments::Difference& d : r.differences)
    list.push_back(
        {{"class", payments::difference_name(d.what)}, {"request_id", format_bytes(d.id)}});
  row["differences"] = std::move(list);
  return row;
}

std::string reconciliation_text(const payments::Reconciliation& r, const Palette& palette) {
  using enum Table::Align;
  Table sums({{""}, {"count", right}, {"sum", right}});
  sums.add({"here", grouped(r.count_here), pounds(r.sum_here)});
  sums.add({"there", grouped(r.count_there), pounds(r.sum_there)});
  std::string out = sums.render(palette);
  out += fmt::format("\n{} of {} rows match\n", grouped(r.matched), grouped(r.rows));
  Table table({{"difference"}, {"request"}});
  for (std::size_t i = 0; i < std::min(kShown, r.differences.size()); ++i) {
    const payments::Difference& d = r.differences[i];
    table.add({std::string(payments::difference_name(d.what)), format_word(d.id)});
  }
  if (!table.empty()) out += "\n" + table.render(palette);
  if (r.differences.size() > kShown)
    out += fmt::format("... and {} more; --json lists all\n", r.differences.size() - kShown);
  return out;
}

std::string pounds(payments::Milli amount) {
  std::string text = payments::format_milli(amount);
  const std::size_t point = text.find('.');
  const std::size_t first = text[0] == '-' ? 1 : 0;
  for (std::size_t i = point; i > first + 3; i -= 3) text.insert(i - 3, 1, ',');
  return text;
}

}  // namespace kessai::tools
