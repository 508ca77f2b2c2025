// SPDX-License-Identifier: Apache-2.0
// kvsh commands that look inside a store.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "io/check.hpp"
#include "tools/bytes.hpp"
#include "tools/exit_codes.hpp"
#include "tools/interrupt.hpp"
#include "tools/progress.hpp"
#include "tools/session.hpp"

namespace kessai::tools {
namespace {

constexpr std::size_t kDrawnNodes = 40;

std::string percent(double fraction) { return fmt::format("{:.0f} %", fraction * 100); }

std::string shortened(std::string text, std::size_t most = 48) {
  if (display_width(text) <= most) return text;
  std::size_t cut = most - 3;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) --cut;
  return text.substr(0, cut) + "...";
}

struct Counter {
  const char* name;
  std::uint64_t Stats::* value;
};
constexpr Counter kCounters[] = {
    {"commits", &Stats::commits},
    {"rollbacks", &Stats::rollbacks},
    {"write_conflicts", &Stats::write_conflicts},
    {"lock_waits", &Stats::lock_waits},
    {"lock_timeouts", &Stats::lock_timeouts},
    {"active_transactions", &Stats::active_transactions},
    {"locks_held", &Stats::locks_held},
    {"log_bytes", &Stats::log_bytes},
    {"log_flushes", &Stats::log_flushes},
    {"log_frame_bytes", &Stats::log_frame_bytes},
    {"durable_lsn", &Stats::durable_lsn},
    {"applied_lsn", &Stats::applied_lsn},
    {"page_hits", &Stats::page_hits},
    {"page_misses", &Stats::page_misses},
    {"pages_evicted", &Stats::pages_evicted},
    {"pages_written", &Stats::pages_written},
    {"leaf_splits", &Stats::leaf_splits},
    {"inner_splits", &Stats::inner_splits},
    {"merges", &Stats::merges},
    {"restarts", &Stats::restarts},
    {"frames", &Stats::frames},
    {"frames_used", &Stats::frames_used},
    {"dirty_pages", &Stats::dirty_pages},
    {"checkpoints", &Stats::checkpoints},
    {"checkpoint_pages", &Stats::checkpoint_pages},
    {"data_file_bytes", &Stats::data_file_bytes},
    {"free_slots", &Stats::free_slots},
    {"undo_bytes", &Stats::undo_bytes},
    {"undo_entries", &Stats::undo_entries},
    {"ghosts_purged", &Stats::ghosts_purged},
    {"oldest_snapshot", &Stats::oldest_snapshot},
    {"leaf_split_waits", &Stats::leaf_split_waits},
    {"page_latch_waits", &Stats::page_latch_waits},
    {"wal_flush_waits", &Stats::wal_flush_waits},
};

}  // namespace

Result<int> Session::trees(const Arguments&) {
  KESSAI_ASSIGN(names, db_.tree_names());
  using enum Table::Align;
  Table table({{"tree"},
               {"id", right},
               {"records", right},
               {"pages", right},
               {"depth", right},
               {"fill", right}});
  std::optional<Error> first_error;
  for (const std::string& name : names) {
    if (interrupted()) return fail(Code::interrupted);
    KESSAI_ASSIGN(tree, db_.tree(name));
    const auto info = db_.tree_info(tree);
    if (!info) {  // a damaged tree does not hide the others
      if (first_error)
        report(info.error(), "trees");
      else
        first_error = info.error();
      continue;
    }
    const TreeInfo& t = *info;
    if (config_.json) {
      Json object = {{"tree", format_bytes(t.name)},
                     {"id", t.id},
                     {"records", t.records},
                     {"pages", t.pages},
                     {"depth", t.depth},
                     {"fill", t.fill}};
      if (tree.insert_only()) object["insert_only"] = true;
      row(std::move(object));
    } else {
      table.add({format_word(t.name), std::to_string(t.id), grouped(t.records), grouped(t.pages),
                 std::to_string(t.depth), percent(t.fill)});
    }
  }
  if (!config_.json) print(table.render(config_.palette));
  if (first_error) return std::unexpected(*first_error);
  return kExitOk;
}

Result<int> Session::info(const Arguments&) {
  const StoreInfo s = db_.info();
  if (config_.json) {
    Json object = {{"format", s.format},
                   {"store_id", s.store_id},
                   {"mode", s.mode},
                   {"page_size", s.page_size},
                   {"pages", s.pages},
                   {"free_pages", s.free_pages},
                   {"last_checkpoint_lsn", s.last_checkpoint_lsn},
                   {"durable_lsn", s.durable_lsn},
                   {"wal_bytes", s.wal_bytes},
                   {"redo_bytes", s.redo_bytes},
                   {"clean", s.clean}};
    object["tail_cut_at"] = s.tail_cut_at ? Json(*s.tail_cut_at) : Json();
    object["io_backend"] = s.io_backend;
    row(object);
    return kExitOk;
  }
  print(render_fields({
      {"store", s.store_id},
      {"format", fmt::format("{} ({})", s.format, s.mode)},
      {"pages", fmt::format("{} of {}, {} free ({})", grouped(s.pages), human_bytes(s.page_size),
                            grouped(s.free_pages), human_bytes(s.pages * s.page_size))},
      {"last checkpoint", fmt::format("lsn {}", s.last_checkpoint_lsn)},
      {"durable", fmt::format("lsn {}", s.durable_lsn)},
      {"log", fmt::format("{}, of which a crash now would replay {}", human_bytes(s.wal_bytes),
                          human_bytes(s.redo_bytes))},
      {"closed cleanly", s.clean ? "yes" : "no, recovered by this open"},
      {"torn tail",
       s.tail_cut_at ? fmt::format("cut at lsn {}", *s.tail_cut_at) : std::string("none")},
      {"io", s.io_backend},
  }));
  return kExitOk;
}

Result<int> Session::stats(const Arguments&) {
  const Stats s = db_.stats();
  Json object;
  std::vector<std::pair<std::string, std::string>> fields;
  for (const Counter& c : kCounters) {
    object[c.name] = s.*c.value;
    fields.emplace_back(c.name, grouped(s.*c.value));
  }
  object["poisoned"] = s.poisoned;
  fields.emplace_back("poisoned", s.poisoned ? "yes" : "no");
  config_.json ? row(object) : print(render_fields(fields));
  return kExitOk;
}

Result<int> Session::check(const Arguments&) {
  KESSAI_TRY(require_no_transaction());
  ProgressBar bar(config_.progress);
  const auto report = db_.check([&](const Progress& p) { bar.update(p.phase, p.done, p.total); });
  bar.finish();
  if (!report) return std::unexpected(report.error());
  const CheckReport& c = *report;
  if (config_.json) {
    Json damage = Json::array();
    for (const Damage& d : c.damage) {
      damage.push_back({{"file", printable(d.file)},
                        {"offset", d.offset},
                        {"page", d.page},
                        {"what", printable(d.what)}});
    }
    row({{"ok", c.ok},
         {"pages_checked", c.pages_checked},
         {"trees", c.trees},
         {"records", c.records},
         {"damage", damage}});
    return c.ok ? kExitOk : kExitDamage;
  }
  print(fmt::format("{}{}{}: {} pages, {} trees, {} records\n",
                    c.ok ? config_.palette.good : config_.palette.bad, c.ok ? "good" : "DAMAGED",
                    config_.palette.reset, grouped(c.pages_checked), c.trees, grouped(c.records)));
  using enum Table::Align;
  Table table({{"file"}, {"offset", right}, {"page", right}, {"what"}});
  for (const Damage& d : c.damage) {
    table.add(
        {printable(d.file), std::to_string(d.offset), std::to_string(d.page), printable(d.what)});
  }
  if (!table.empty()) print(table.render(config_.palette));
  return c.ok ? kExitOk : kExitDamage;
}

Result<int> Session::tree(const Arguments& a) {
  Arguments by_name = a;
  if (!a.positional.empty()) by_name.options["-t"] = a.positional[0].text;
  KESSAI_ASSIGN(most, a.number("--nodes", kDrawnNodes));
  KESSAI_ASSIGN(tree, target(by_name));
  if (!tree) return kExitOk;
  KESSAI_ASSIGN(t, db_.tree_info(*tree));
  KESSAI_ASSIGN(nodes, db_.tree_nodes(*tree));
  if (a.has("--dot")) {
    draw_dot(t.name, nodes);
    return kExitOk;
  }
  if (config_.json) {
    for (const TreeNode& n : nodes) {
      row({{"page", n.page},
           {"level", n.level},
           {"parent", n.parent},
           {"entries", n.entries},
           {"fill", n.fill},
           {"first_key", format_bytes(n.first_key)}});
    }
    row({{"summary", true},
         {"tree", format_bytes(t.name)},
         {"id", t.id},
         {"records", t.records},
         {"pages", t.pages},
         {"depth", t.depth},
         {"fill", t.fill}});
    return kExitOk;
  }
  print(fmt::format("{}{}{} (id {}): {} records, {} pages, depth {}, leaves {} full\n",
                    config_.palette.bold, format_word(t.name), config_.palette.reset, t.id,
                    grouped(t.records), grouped(t.pages), t.depth, percent(t.fill)));
  using enum Table::Align;
  Table table({{"level"}, {"pages", right}, {"entries", right}, {"fill", right}});
  std::array<std::uint64_t, 10> leaves{};
  unsigned top = 0;
  for (const TreeNode& n : nodes) top = std::max(top, n.level);
  for (unsigned level = top + 1; level-- > 0 && !nodes.empty();) {
    std::uint64_t pages = 0, entries = 0;
    double fill = 0;
    for (const TreeNode& n : nodes) {
      if (n.level != level) continue;
      ++pages;
      entries += n.entries;
      fill += n.fill;
      if (level == 0)
        ++leaves[std::min<std::size_t>(9, static_cast<std::size_t>(std::max(0.0, n.fill) * 10))];
    }
    table.add({level == 0 ? "leaves" : fmt::format("{}", level), grouped(pages), grouped(entries),
               percent(pages == 0 ? 0 : fill / static_cast<double>(pages))});
  }
  print(table.render(config_.palette));
  const std::uint64_t widest =
      std::max<std::uint64_t>(1, *std::max_element(leaves.begin(), leaves.end()));
  print("leaves by fill\n");
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const std::string bar(static_cast<std::size_t>((leaves[i] * 40 + widest - 1) / widest), '#');
    print(fmt::format("{:>3}-{:>3} % {:>7} {}\n", i * 10, i * 10 + 10, grouped(leaves[i]), bar));
  }
  if (nodes.size() <= most) draw_nodes(nodes);
  return kExitOk;
}

// Indented, parents above children, children in key order.
void Session::draw_nodes(const std::vector<TreeNode>& nodes) {
  const auto draw = [&](auto&& self, const TreeNode& n, std::size_t indent) -> void {
    print(fmt::format("{}{} page {}: {} entries, {}, from {}\n", std::string(indent * 2, ' '),
                      n.level == 0 ? "leaf" : "inner", n.page, n.entries, percent(n.fill),
                      shortened(format_word(n.first_key))));
    for (const TreeNode& child : nodes) {
      if (child.parent == n.page && child.level + 1 == n.level) self(self, child, indent + 1);
    }
  };
  unsigned top = 0;
  for (const TreeNode& n : nodes) top = std::max(top, n.level);
  for (const TreeNode& n : nodes) {
    if (n.level == top) draw(draw, n, 0);
  }
}

void Session::draw_dot(std::string_view name, const std::vector<TreeNode>& nodes) {
  const auto escaped = [](std::string_view s) {
    std::string out;
    for (const char c : shortened(format_bytes(s))) {
      if (c == '"' || c == '\\' || c == '{' || c == '}' || c == '|' || c == '<' || c == '>')
        out += '\\';
      out += c;
    }
    return out;
  };
  std::string out = fmt::format("digraph \"{}\" {{\n  node [shape=record];\n", escaped(name));
  for (const TreeNode& n : nodes) {
    out += fmt::format("  p{} [label=\"{{page {}|{} entries, {}|{}}}\"];\n", n.page, n.page,
                       n.entries, percent(n.fill), escaped(n.first_key));
    if (n.parent != 0) out += fmt::format("  p{} -> p{};\n", n.parent, n.page);
  }
  out += "}\n";
  config_.json ? row({{"dot", out}}) : print(out);
}

Result<int> Session::page(const Arguments& a) {
  const std::string& text = a.positional[0].text;
  std::uint64_t number = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (code != std::errc{} || end != text.data() + text.size()) {
    return fail(Code::invalid_argument, "page takes a page number");
  }
  KESSAI_ASSIGN(p, db_.page(number));
  if (config_.json) {
    Json entries = Json::array();
    for (const PageDump::Entry& e : p.entries) {
      Json entry = {{"key", format_bytes(e.key)}};
      if (p.type == "leaf") {
        entry["value"] = e.overflow_bytes != 0 ? Json() : Json(format_bytes(e.value));
        entry["lsn"] = e.lsn;
        entry["ghost"] = e.ghost;
        entry["overflow_bytes"] = e.overflow_bytes;
      } else {
        entry["child"] = e.child;
      }
      entries.push_back(std::move(entry));
    }
    Json object = {{"page", p.page},
                   {"type", p.type},
                   {"tree", p.tree},
                   {"level", p.level},
                   {"page_lsn", p.page_lsn},
                   {"max_ts", p.max_ts},
                   {"slot", p.slot},
                   {"dirty", p.dirty},
                   {"free_bytes", p.free_bytes},
                   {"low_fence", format_bytes(p.low_fence)}};
    object["high_fence"] = p.has_high_fence ? Json(format_bytes(p.high_fence)) : Json();
    object["entries"] = std::move(entries);
    row(object);
    return kExitOk;
  }
  print(render_fields({
      {"page", fmt::format("{} ({}, level {}, tree {})", p.page, p.type, p.level, p.tree)},
      {"page lsn", fmt::format("{} (newest row {})", p.page_lsn, p.max_ts)},
      {"slot", fmt::format("{}{}", p.slot, p.dirty ? ", newer in memory" : "")},
      {"fences", fmt::format("[{}, {})", shortened(format_word(p.low_fence)),
                             p.has_high_fence ? shortened(format_word(p.high_fence)) : "end")},
      {"free", fmt::format("{} bytes, {} entries", grouped(p.free_bytes), p.entries.size())},
  }));
  using enum Table::Align;
  const bool leaf = p.type == "leaf";
  Table table(leaf ? std::vector<Table::Column>{{"slot", right}, {"key"}, {"lsn", right}, {"value"}}
                   : std::vector<Table::Column>{{"slot", right}, {"key"}, {"child", right}});
  for (std::size_t i = 0; i < p.entries.size(); ++i) {
    const PageDump::Entry& e = p.entries[i];
    const std::string key = shortened(format_word(e.key));
    if (!leaf) {
      table.add({std::to_string(i), key, std::to_string(e.child)});
    } else {
      const std::string value = e.ghost ? "(deleted)"
                                : e.overflow_bytes != 0
                                    ? fmt::format("(overflow, {})", human_bytes(e.overflow_bytes))
                                    : shortened(format_word(e.value));
      table.add({std::to_string(i), key, std::to_string(e.lsn), value});
    }
  }
  if (!table.empty()) print(table.render(config_.palette));
  return kExitOk;
}

Result<int> Session::wal(const Arguments& a) {
  KESSAI_ASSIGN(limit, a.number("--limit", UINT64_MAX));
  std::map<std::uint32_t, std::string> names;
  KESSAI_ASSIGN(all, db_.tree_names());
  for (const std::string& name : all) {
    KESSAI_ASSIGN(tree, db_.tree(name));
    names.emplace(tree.id(), name);
  }
  std::optional<std::string> only_tree, only_key;
  for (const char* option : {"--tree", "-t"}) {
    if (!a.has(option)) continue;
    KESSAI_ASSIGN(name, a.bytes(option));
    if (std::find(all.begin(), all.end(), name) == all.end())
      return fail(Code::tree_not_found, "no such tree");
    only_tree = std::move(name);
  }
  if (a.has("--key")) {
    KESSAI_ASSIGN(key, a.bytes("--key"));
    only_key = std::move(key);
  }
  const auto name_of = [&](std::uint32_t id) {
    const auto it = names.find(id);
    if (it != names.end()) return it->second;
    return id == 1 ? "#catalog" : fmt::format("#{}", id);  // #: no name, or none any more
  };
  const auto wanted = [&](const WalRecord& r) {
    if (!only_tree && !only_key) return true;
    return std::any_of(r.ops.begin(), r.ops.end(), [&](const WalRecord::Op& op) {
      return (!only_tree || name_of(op.tree) == *only_tree) && (!only_key || op.key == *only_key);
    });
  };
  std::uint64_t left = limit;
  bool stopped = false;
  const auto print_record = [&](const WalRecord& r) {
    if (config_.json) {
      Json ops = Json::array();
      for (const WalRecord::Op& op : r.ops) {
        ops.push_back({{"tree", format_bytes(name_of(op.tree))},
                       {"op", op.op},
                       {"key", format_bytes(op.key)},
                       {"value_bytes", op.value_bytes}});
      }
      row({{"lsn", r.lsn},
           {"generation", r.generation},
           {"kind", r.kind},
           {"bytes", r.bytes},
           {"ops", ops}});
      return;
    }
    print(fmt::format("{:>12}  gen {}  {:<6}  {:>6} bytes\n", r.lsn, r.generation, r.kind,
                      grouped(r.bytes)));
    for (const WalRecord::Op& op : r.ops) {
      print(fmt::format("{:14}{} {} {}{}\n", "", op.op, format_word(name_of(op.tree)),
                        shortened(format_word(op.key)),
                        op.op == "put" ? fmt::format(" ({} bytes)", op.value_bytes) : ""));
    }
  };
  KESSAI_TRY(db_.wal_records([&](const WalRecord& r) {
    stopped = interrupted();
    if (stopped || left == 0) return false;
    if (!wanted(r)) return true;
    print_record(r);
    return --left != 0;
  }));
  if (stopped) return fail(Code::interrupted);
  return kExitOk;
}

}  // namespace kessai::tools
