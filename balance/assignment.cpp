#include "balance/assignment.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/kernels/top_k.h"
#include "autograd/support/error.h"
#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A token's move from one expert to another, and what it loses.
struct Move {
  double cost;
  int32_t token;
  friend bool operator>(const Move& a, const Move& b) {
    return a.cost != b.cost ? a.cost > b.cost : a.token > b.token;
  }
};

/// Nodes 0 .. E-1 are the experts, node E ("the rest") holds the seats past floor(Tk/E), of which
/// an expert may have one. excess > 0: tokens too many; < 0: too few.
class Flow {
 public:
  Flow(std::span<const double> affinity, int64_t tokens, int64_t experts, int64_t top_k)
      : affinity_(affinity),
        experts_(static_cast<size_t>(experts)),
        is_at_(affinity_.size(), 0),
        moves_(experts_ * experts_),
        has_seat_(experts_, 0),
        excess_(experts_ + 1, 0),
        potential_(experts_ + 1, 0.0) {
    start_greedily(tokens, top_k);
    fill_heaps(tokens);
    const int64_t floor = tokens * top_k / experts;
    const int64_t rest = tokens * top_k % experts;
    has_rest_ = rest > 0;
    excess_[experts_] = -rest;
    for (size_t e = 0; e < experts_; ++e) {
      excess_[e] -= floor;
      if (has_rest_ && excess_[e] > 0) {
        has_seat_[e] = 1;
        --excess_[e];
        ++excess_[experts_];
      }
    }
  }

  void balance() {
    for (size_t source = 0; source <= experts_; ++source) {
      while (excess_[source] > 0) push_from(source);
    }
  }

  [[nodiscard]] bool is_at(size_t token, size_t expert) const {
    return is_at_[token * experts_ + expert] != 0;
  }
  [[nodiscard]] double potential(size_t expert) const { return potential_[expert]; }

 private:
  void start_greedily(int64_t tokens, int64_t top_k) {
    std::vector<int32_t> best(static_cast<size_t>(tokens * top_k));
    kernels::top_k<double>(tokens, {.E = static_cast<int64_t>(experts_),
                                    .k = top_k,
                                    .scores = affinity_.data(),
                                    .values = nullptr,
                                    .indices = best.data()});
    for (size_t slot = 0; slot < best.size(); ++slot) {
      const auto expert = static_cast<size_t>(best[slot]);
      is_at_[slot / static_cast<size_t>(top_k) * experts_ + expert] = 1;
      ++excess_[expert];
    }
  }

  void fill_heaps(int64_t tokens) {
    parallel_for(static_cast<int64_t>(experts_), [&](int64_t expert) {
      const auto from = static_cast<size_t>(expert);
      for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
        if (!is_at(t, from)) continue;
        for (size_t to = 0; to < experts_; ++to) {
          if (!is_at(t, to)) moves_[from * experts_ + to].push_back(move_of(t, from, to));
        }
      }
      for (size_t to = 0; to < experts_; ++to) {
        auto& heap = moves_[from * experts_ + to];
        std::make_heap(heap.begin(), heap.end(), std::greater<>());
      }
    });
  }

  [[nodiscard]] Move move_of(size_t token, size_t from, size_t to) const {
    const double* row = affinity_.data() + token * experts_;
    return {row[from] - row[to], static_cast<int32_t>(token)};
  }

  void offer(size_t token, size_t from, size_t to) {
    auto& heap = moves_[from * experts_ + to];
    heap.push_back(move_of(token, from, to));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  }

  /// The cheapest possible move, or null. Moves that are possible no longer leave the heap here.
  const Move* cheapest(size_t from, size_t to) {
    auto& heap = moves_[from * experts_ + to];
    while (!heap.empty()) {
      const auto token = static_cast<size_t>(heap.front().token);
      if (is_at(token, from) && !is_at(token, to)) return &heap.front();
      std::pop_heap(heap.begin(), heap.end(), std::greater<>());
      heap.pop_back();
    }
    return nullptr;
  }

  struct Arc {
    double cost = kInfinity;
    int32_t token = -1;
  };
  Arc arc(size_t from, size_t to) {
    if (from < experts_ && to < experts_) {
      const Move* move = cheapest(from, to);
      return move == nullptr ? Arc{} : Arc{move->cost, move->token};
    }
    if (!has_rest_) return {};
    const bool is_open = to == experts_ ? has_seat_[from] == 0 : has_seat_[to] != 0;
    return is_open ? Arc{0.0, -1} : Arc{};
  }

  /// Moves one token too many at `source` to the nearest node with too few (Dijkstra on costs made
  /// non-negative by the potentials).
  void push_from(size_t source) {
    const size_t nodes = experts_ + 1;
    std::vector<double> distance(nodes, kInfinity);
    std::vector<size_t> before(nodes, nodes);
    std::vector<int32_t> token(nodes, -1);
    std::vector<uint8_t> done(nodes, 0);
    distance[source] = 0.0;
    size_t node = source;
    while (true) {
      node = nodes;
      for (size_t v = 0; v < nodes; ++v) {
        if (done[v] == 0 && (node == nodes || distance[v] < distance[node])) node = v;
      }
      SLUICE_INTERNAL_CHECK(std::isfinite(distance[node]), "no seat can be reached from expert {}",
                            source);
      done[node] = 1;
      if (excess_[node] < 0) break;
      for (size_t v = 0; v < nodes; ++v) {
        if (done[v] != 0) continue;
        const Arc step = arc(node, v);
        // Below 0 by rounding only.
        const double reduced = std::max(0.0, step.cost + potential_[node] - potential_[v]);
        if (distance[node] + reduced >= distance[v]) continue;
        distance[v] = distance[node] + reduced;
        before[v] = node;
        token[v] = step.token;
      }
    }
    for (size_t v = 0; v < nodes; ++v) {
      if (done[v] != 0) potential_[v] += distance[v] - distance[node];
    }
    ++excess_[node];
    --excess_[source];
    for (size_t v = node; v != source; v = before[v]) shift(before[v], v, token[v]);
  }

  void shift(size_t from, size_t to, int32_t moved) {
    if (to == experts_) {
      has_seat_[from] = 1;
    } else if (from == experts_) {
      has_seat_[to] = 0;
    } else {
      const auto token = static_cast<size_t>(moved);
      is_at_[token * experts_ + from] = 0;
      is_at_[token * experts_ + to] = 1;
      for (size_t e = 0; e < experts_; ++e) {
        if (!is_at(token, e)) {
          offer(token, to, e);
        } else if (e != to) {
          offer(token, e, from);
        }
      }
    }
  }

  std::span<const double> affinity_;  // [T, E]
  size_t experts_;
  std::vector<uint8_t> is_at_;            // [T, E]
  std::vector<std::vector<Move>> moves_;  // [E, E]: heaps, cheapest first
  std::vector<uint8_t> has_seat_;         // [E]: holds a seat of the rest
  std::vector<int64_t> excess_;           // [E + 1]
  std::vector<double> potential_;         // [E + 1]
  bool has_rest_ = false;
};

/// Affinities that differences can be taken of.
std::vector<double> finite(std::span<const double> affinity) {
  double least = kInfinity;
  double greatest = -kInfinity;
  for (const double a : affinity) {
    if (!std::isfinite(a)) continue;
    least = std::min(least, a);
    greatest = std::max(greatest, a);
  }
  std::vector<double> result(affinity.begin(), affinity.end());
  for (double& a : result) {
    if (std::isfinite(a)) continue;
    a = least > greatest ? 0.0 : (a == kInfinity ? greatest : least);
  }
  return result;
}

}  // namespace

BalancedAssignment assign_balanced(std::span<const double> affinity, int64_t tokens,
                                   int64_t experts, int64_t top_k) {
  const std::vector<double> values = finite(affinity);
  Flow flow(values, tokens, experts, top_k);
  flow.balance();
  BalancedAssignment result;
  result.expert.reserve(static_cast<size_t>(tokens * top_k));
  for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
    const double* row = values.data() + t * static_cast<size_t>(experts);
    const auto first = static_cast<int64_t>(result.expert.size());
    for (int32_t e = 0; e < static_cast<int32_t>(experts); ++e) {
      if (flow.is_at(t, static_cast<size_t>(e))) result.expert.push_back(e);
    }
    std::stable_sort(result.expert.begin() + first, result.expert.end(),
                     [&](int32_t a, int32_t b) { return row[a] > row[b]; });
  }
  for (size_t e = 0; e < static_cast<size_t>(experts); ++e) {
    result.price.push_back(-flow.potential(e));
  }
  return result;
}

}  // namespace sluice
