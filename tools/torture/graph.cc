// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/graph.hpp"

#include <algorithm>
#include <deque>

namespace kessai::torture {

void Graph::seal(std::size_t nodes) {
  first_.assign(nodes + 1, 0);
  for (const Edge& e : edges_) ++first_[e.from + 1];
  for (std::size_t n = 0; n < nodes; ++n) first_[n + 1] += first_[n];
  sorted_.resize(edges_.size());
  std::vector<std::uint32_t> next(first_.begin(), first_.end() - 1);
  for (const Edge& e : edges_) sorted_[next[e.from]++] = e;
  edges_.clear();
}

std::vector<std::vector<Node>> Graph::components(EdgeKinds kinds) const {
  constexpr std::uint32_t kNew = 0, kDone = ~std::uint32_t{0};
  struct Frame {
    Node node;
    std::uint32_t edge;
  };
  std::vector<std::vector<Node>> out;
  std::vector<std::uint32_t> index(nodes(), kNew), low(nodes());
  std::vector<Node> stack;
  std::vector<Frame> calls;
  std::uint32_t counter = 0;
  for (Node root = 0; root < nodes(); ++root) {
    if (index[root] != kNew) continue;
    calls.push_back({root, first_[root]});
    index[root] = low[root] = ++counter;
    stack.push_back(root);
    while (!calls.empty()) {
      Frame& f = calls.back();
      const Node n = f.node;
      if (f.edge < first_[n + 1]) {
        const Edge& e = sorted_[f.edge++];
        if ((bit(e.kind) & kinds) == 0) continue;
        if (index[e.to] == kNew) {
          index[e.to] = low[e.to] = ++counter;
          stack.push_back(e.to);
          calls.push_back({e.to, first_[e.to]});
        } else if (index[e.to] != kDone) {
          low[n] = std::min(low[n], index[e.to]);
        }
        continue;
      }
      calls.pop_back();
      if (!calls.empty()) low[calls.back().node] = std::min(low[calls.back().node], low[n]);
      if (low[n] != index[n]) continue;
      const auto begin = std::find(stack.rbegin(), stack.rend(), n).base() - 1;
      if (stack.end() - begin > 1) out.emplace_back(begin, stack.end());
      for (auto s = begin; s != stack.end(); ++s) index[*s] = kDone;
      stack.erase(begin, stack.end());
    }
  }
  return out;
}

std::optional<std::vector<Edge>> Graph::path(Node from, Node to, EdgeKinds kinds,
                                             const std::vector<bool>& within) const {
  constexpr std::uint32_t kFar = ~std::uint32_t{0};
  std::vector<std::uint32_t> distance(nodes(), kFar);
  std::vector<const Edge*> came(nodes(), nullptr);
  std::deque<Node> queue{from};
  distance[from] = 0;
  bool started = false;  // a cycle comes back to its start
  while (!queue.empty()) {
    const Node n = queue.front();
    queue.pop_front();
    if (n == to && started && came[to] != nullptr) break;
    started = true;
    for (const Edge& e : edges_from(n)) {
      if ((bit(e.kind) & kinds) == 0 || !within[e.to]) continue;
      if (e.to == from) {
        if (to == from && came[to] == nullptr) {
          came[to] = &e;
          distance[to] = kFar;
          queue.push_back(to);
        }
        continue;
      }
      const bool free = e.kind == EdgeKind::inner || e.kind == EdgeKind::rt_on;
      const std::uint32_t d = distance[n] + (free ? 0 : 1);
      if (d >= distance[e.to]) continue;
      distance[e.to] = d;
      came[e.to] = &e;
      free ? queue.push_front(e.to) : queue.push_back(e.to);
    }
  }
  if (came[to] == nullptr) return std::nullopt;
  std::vector<Edge> out;
  Node n = to;
  do {
    out.push_back(*came[n]);
    n = came[n]->from;
  } while (n != from);
  std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace kessai::torture
