// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/index.hpp"

namespace kessai::torture {

Index::Index(const History& h) {
  OwnWrites own;
  const auto note = [this](const History& history, TxnIndex txn, const Op& op,
                           Written::State state) {
    if (op.kind != Kind::write || op.count == 0) return;
    const Element e = history.elements_of(op).back();
    auto& lane = lanes_[lane_of(e)];
    if (lane.size() <= number_of(e)) lane.resize(std::max<std::size_t>(64, 2 * number_of(e) + 1));
    lane[number_of(e)] = {txn, op.key, state};
  };
  first_final_.reserve(h.transactions.size() + 1);
  for (TxnIndex i = 0; i < h.transactions.size(); ++i) {
    first_final_.push_back(static_cast<std::uint32_t>(finals_.size()));
    const auto ops = h.ops_of(h.transactions[i]);
    own.clear();
    for (const Op& op : ops) {
      if (op.kind == Kind::write || op.kind == Kind::remove) own.add(op);
      if (op.kind == Kind::rollback_to)
        own.undo_to(ops.data() + op.first,
                    [&](const Op& undone) { note(h, i, undone, Written::State::undone); });
    }
    for (const Op* write : own.all()) {
      const bool last = own.find(write->key) == write;
      if (last) finals_.push_back(write);
      note(h, i, *write, last ? Written::State::final : Written::State::intermediate);
    }
  }
  first_final_.push_back(static_cast<std::uint32_t>(finals_.size()));
}

}  // namespace kessai::torture
