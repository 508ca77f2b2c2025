// SPDX-License-Identifier: Apache-2.0
// A directed graph with kinds of edges: strongly connected components (Tarjan 1972, without
// recursion) and shortest cycles (breadth first). One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace kessai::torture {

using Node = std::uint32_t;

enum class EdgeKind : std::uint8_t {
  ww,     ///< the next version of a key
  wr,     ///< read from
  rw,     ///< read a version that was then replaced
  rt,     ///< ended before the other began
  rt_on,  ///< the rest of an `rt` that leads over moments; costs nothing in a path
  inner,  ///< from the start of a transaction to its commit; costs nothing in a path
};
using EdgeKinds = unsigned;
[[nodiscard]] constexpr EdgeKinds bit(EdgeKind k) { return 1u << static_cast<unsigned>(k); }

struct Edge {
  Node from = 0;
  Node to = 0;
  std::uint32_t key = 0;
  EdgeKind kind{};
  bool absent = false;  ///< rw: what was read was an absence, or a range
};

class Graph {
 public:
  void add(const Edge& e) { edges_.push_back(e); }
  /// REQUIRES before all that follows: sorts the edges by their start.
  void seal(std::size_t nodes);
  [[nodiscard]] std::size_t nodes() const { return first_.size() - 1; }
  [[nodiscard]] std::span<const Edge> edges_from(Node n) const {
    return {sorted_.data() + first_[n], first_[n + 1] - first_[n]};
  }
  /// Components of more than one node, over the edges of these kinds.
  [[nodiscard]] std::vector<std::vector<Node>> components(EdgeKinds kinds) const;
  /// A path with the fewest edges that count (not `inner`, `rt_on`) over edges of these kinds
  /// between nodes that `within` marks. From a node to itself: a cycle.
  [[nodiscard]] std::optional<std::vector<Edge>> path(Node from, Node to, EdgeKinds kinds,
                                                      const std::vector<bool>& within) const;

 private:
  std::vector<Edge> edges_;
  std::vector<Edge> sorted_;
  std::vector<std::uint32_t> first_;
};

}  // namespace kessai::torture
