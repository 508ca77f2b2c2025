// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/history.hpp"

#include <algorithm>

namespace kessai::torture {

Transaction& Transaction::operator=(const Transaction& o) {
  level = o.level;
  read_only = o.read_only;
  relaxed = o.relaxed;
  settled = o.settled;
  lane = o.lane;
  incarnation = o.incarnation;
  number = o.number;
  first_op = o.first_op;
  ops = o.ops;
  begin_ns = o.begin_ns;
  end_ns = o.end_ns;
  snapshot = o.snapshot;
  commit = o.commit;
  floor = o.floor;
  if (this != &o) fate(o.fate());
  return *this;
}

void History::add(const Lane& lane) {
  const auto txns = lane.transactions.all();
  const auto first_txn = transactions.size();
  const auto op0 = static_cast<std::uint32_t>(ops.size());
  const auto row0 = static_cast<std::uint32_t>(rows.size());
  const auto element0 = static_cast<std::uint32_t>(elements.size());
  transactions.insert(transactions.end(), txns.begin(), txns.end());
  ops.insert(ops.end(), lane.ops.all().begin(), lane.ops.all().end());
  rows.insert(rows.end(), lane.rows.all().begin(), lane.rows.all().end());
  elements.insert(elements.end(), lane.elements.all().begin(), lane.elements.all().end());
  for (auto i = first_txn; i < transactions.size(); ++i) {
    Transaction& t = transactions[i];
    // The operations of a transaction end where those of the next one begin.
    const std::uint32_t end = i + 1 < transactions.size()
                                  ? transactions[i + 1].first_op
                                  : static_cast<std::uint32_t>(ops.size()) - op0;
    t.ops = end - t.first_op;
    t.first_op += op0;
  }
  for (auto i = op0; i < ops.size(); ++i) {
    if (ops[i].kind == Kind::rollback_to) continue;
    ops[i].first += ops[i].kind == Kind::range ? row0 : element0;
  }
  for (auto i = row0; i < rows.size(); ++i) rows[i].first += element0;
}

std::string_view level_name(Isolation level) {
  switch (level) {
    case Isolation::read_committed:
      return "read_committed";
    case Isolation::snapshot:
      return "snapshot";
    case Isolation::serializable:
      return "serializable";
  }
  return "?";
}

std::string_view fate_name(Fate fate) {
  switch (fate) {
    case Fate::running:
      return "running when killed";
    case Fate::committing:
      return "in commit when killed";
    case Fate::visible:
      return "visible, not yet durable when killed";
    case Fate::committed:
      return "committed";
    case Fate::aborted:
      return "aborted";
    case Fate::lost:
      return "lost in a kill";
  }
  return "?";
}

std::string key_name(Key key) { return "k" + std::to_string(key); }

std::string element_name(Element e) {
  return std::to_string(lane_of(e)) + "." + std::to_string(number_of(e));
}

std::string list_text(bool found, std::span<const Element> elements) {
  if (!found) return "absent";
  constexpr std::size_t kEnds = 4;
  std::string out = "[";
  for (std::size_t i = 0; i < elements.size(); ++i) {
    if (elements.size() > 3 * kEnds && i == kEnds) {
      i = elements.size() - kEnds;
      out += " ... " + std::to_string(elements.size() - 2 * kEnds) + " more ...";
    }
    if (i != 0) out += " ";
    out += element_name(elements[i]);
  }
  return out + "]";
}

std::string History::name(TxnIndex i) const {
  const Transaction& t = transactions[i];
  std::string out = "T" + std::to_string(i) + " (" + std::string(level_name(t.level));
  if (t.read_only) out += ", read-only";
  if (t.relaxed) out += ", relaxed";
  out += ", " + std::string(fate_name(t.fate()));
  if (t.commit != 0) out += " at LSN " + std::to_string(t.commit);
  if (t.snapshot != 0) out += ", snapshot " + std::to_string(t.snapshot);
  return out + ")";
}

std::string History::describe(TxnIndex i) const {
  const Transaction& t = transactions[i];
  std::string out = name(i) + " on lane " + std::to_string(t.lane) + ", " +
                    std::to_string(t.begin_ns) + " to " + std::to_string(t.end_ns) + " ns\n";
  const auto all = ops_of(t);
  constexpr std::size_t kMostShown = 24;
  for (const Op& op : all.first(std::min(all.size(), kMostShown))) {
    out += "    ";
    const std::string read = op.kind == Kind::range || op.kind == Kind::rollback_to
                                 ? ""
                                 : key_name(op.key) + " = " + list_text(op.found, elements_of(op));
    switch (op.kind) {
      case Kind::read:
        out += "reads " + read;
        break;
      case Kind::locked_read:
        out += "locks and reads " + read;
        break;
      case Kind::exists:
        out += "cannot insert, " + read;
        break;
      case Kind::write:
        out += "writes " + key_name(op.key) + " = " + list_text(true, elements_of(op));
        break;
      case Kind::remove:
        out += "removes " + key_name(op.key);
        break;
      case Kind::savepoint:
        out += "savepoint";
        break;
      case Kind::rollback_to:
        out += "rolls back to the savepoint of operation " + std::to_string(op.first);
        break;
      case Kind::range:
        out += "reads " + key_name(op.key) + " to " + key_name(op.to) + ":";
        for (const Row& row : rows_of(op))
          out += " " + key_name(row.key) + " = " + list_text(true, elements_of(row));
        break;
    }
    if (op.row != 0) out += " of LSN " + std::to_string(op.row);
    out += "\n";
  }
  if (all.size() > kMostShown)
    out += "    and " + std::to_string(all.size() - kMostShown) + " operations more\n";
  return out;
}

}  // namespace kessai::torture
