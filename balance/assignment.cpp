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

/// Nodes 0 .. E-1 are the experts, node E ("the rest") holds the seats past floor(Tk/E), of which
/// an expert may have one. excess > 0: tokens too many; < 0: too few.
class Flow {
 public:
  Flow(std::span<const double> affinity, int64_t tokens, int64_t experts, int64_t top_k)
      : affinity_(affinity),
        tokens_(static_cast<size_t>(tokens)),
        experts_(static_cast<size_t>(experts)),
        is_at_(affinity_.size(), 0),
        by_expert_(affinity_.size()),
        open_(affinity_.begin(), affinity_.end()),
        tokens_at_(experts_),
        has_seat_(experts_, 0),
        excess_(experts_ + 1, 0),
        potential_(experts_ + 1, 0.0),
        arc_cost_((experts_ + 1) * (experts_ + 1), kInfinity),
        arc_token_(arc_cost_.size(), -1),
        search_(experts_ + 1) {
    start_greedily(tokens, top_k);
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
    for (size_t e = 0; e < experts_; ++e) renew_seat(e);
    parallel_for(experts, [&](int64_t e) {
      const auto from = static_cast<size_t>(e);
      for (size_t t = 0; t < tokens_; ++t)
        by_expert_[from * tokens_ + t] = affinity_[t * experts_ + from];
      for (const int32_t token : tokens_at_[from]) offer(static_cast<size_t>(token), from);
    });
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
      const size_t token = slot / static_cast<size_t>(top_k);
      is_at_[token * experts_ + expert] = 1;
      open_[token * experts_ + expert] = -kInfinity;
      tokens_at_[expert].push_back(static_cast<int32_t>(token));
      ++excess_[expert];
    }
  }

  [[nodiscard]] size_t arc(size_t from, size_t to) const { return from * (experts_ + 1) + to; }

  /// Lets a token at `from` make the arcs from there cheaper; ties to the lower token.
  void offer(size_t token, size_t from) {
    const double own = affinity_[token * experts_ + from];
    const double* open = open_.data() + token * experts_;
    double* costs = arc_cost_.data() + arc(from, 0);
    int64_t* tokens = arc_token_.data() + arc(from, 0);
    const auto number = static_cast<int64_t>(token);
    for (size_t to = 0; to < experts_; ++to) {
      const double cost = own - open[to];
      const bool is_better = (cost < costs[to]) | ((cost == costs[to]) & (number < tokens[to]));
      costs[to] = is_better ? cost : costs[to];
      tokens[to] = is_better ? number : tokens[to];
    }
  }

  /// The arc between two experts, from all tokens.
  void renew_arc(size_t from, size_t to) {
    const double* own = by_expert_.data() + from * tokens_;
    const double* other = by_expert_.data() + to * tokens_;
    double least = kInfinity;
    int64_t best = -1;
    for (const int32_t token : tokens_at_[from]) {
      const auto t = static_cast<size_t>(token);
      const double cost = own[t] - other[t];
      if (cost < least && !is_at(t, to)) {
        least = cost;
        best = token;
      }
    }
    arc_cost_[arc(from, to)] = least;
    arc_token_[arc(from, to)] = best;
  }

  /// The arcs between an expert and the rest.
  void renew_seat(size_t expert) {
    const bool has_seat = has_seat_[expert] != 0;
    arc_cost_[arc(expert, experts_)] = has_rest_ && !has_seat ? 0.0 : kInfinity;
    arc_cost_[arc(experts_, expert)] = has_rest_ && has_seat ? 0.0 : kInfinity;
  }

  /// Moves one token too many at `source` to the nearest node with too few (Dijkstra on costs made
  /// non-negative by the potentials).
  void push_from(size_t source) {
    const size_t nodes = experts_ + 1;
    auto& [distance, before, token, done] = search_;
    std::ranges::fill(distance, kInfinity);
    std::ranges::fill(done, uint8_t{0});
    distance[source] = 0.0;
    size_t node = source;
    while (true) {
      SLUICE_INTERNAL_CHECK(std::isfinite(distance[node]), "no seat can be reached from expert {}",
                            source);
      done[node] = 1;
      if (excess_[node] < 0) break;
      const double* costs = arc_cost_.data() + arc(node, 0);
      size_t nearest = nodes;
      for (size_t v = 0; v < nodes; ++v) {
        if (done[v] != 0) continue;
        // Below 0 by rounding only.
        const double reduced = std::max(0.0, costs[v] + potential_[node] - potential_[v]);
        if (distance[node] + reduced < distance[v]) {
          distance[v] = distance[node] + reduced;
          before[v] = node;
          token[v] = arc_token_[arc(node, v)];
        }
        if (nearest == nodes || distance[v] < distance[nearest]) nearest = v;
      }
      SLUICE_INTERNAL_CHECK(nearest < nodes, "no expert has too few tokens");
      node = nearest;
    }
    for (size_t v = 0; v < nodes; ++v) {
      if (done[v] != 0) potential_[v] += distance[v] - distance[node];
    }
    ++excess_[node];
    --excess_[source];
    for (size_t v = node; v != source; v = before[v]) shift(before[v], v, token[v]);
  }

  void shift(size_t from, size_t to, int64_t moved) {
    if (to == experts_ || from == experts_) {
      const size_t expert = std::min(from, to);
      has_seat_[expert] = to == experts_ ? 1 : 0;
      renew_seat(expert);
      return;
    }
    const auto token = static_cast<size_t>(moved);
    is_at_[token * experts_ + from] = 0;
    is_at_[token * experts_ + to] = 1;
    open_[token * experts_ + from] = affinity_[token * experts_ + from];
    open_[token * experts_ + to] = -kInfinity;
    const auto number = static_cast<int32_t>(moved);
    std::vector<int32_t>& left = tokens_at_[from];
    std::vector<int32_t>& joined = tokens_at_[to];
    left.erase(std::ranges::lower_bound(left, number));
    joined.insert(std::ranges::lower_bound(joined, number), number);
    for (size_t e = 0; e < experts_; ++e) {
      if (arc_token_[arc(from, e)] == moved) renew_arc(from, e);
    }
    offer(token, to);
    for (size_t e = 0; e < experts_; ++e) {
      if (e == to || !is_at(token, e)) continue;
      offer(token, e);
      if (arc_token_[arc(e, to)] == moved) renew_arc(e, to);
    }
  }

  /// What one search writes, [E + 1] each.
  struct Search {
    explicit Search(size_t nodes) : distance(nodes), before(nodes), token(nodes), done(nodes) {}
    std::vector<double> distance;
    std::vector<size_t> before;
    std::vector<int64_t> token;  // that the arc from `before` moves
    std::vector<uint8_t> done;
  };

  std::span<const double> affinity_;  // [T, E]
  size_t tokens_;
  size_t experts_;
  std::vector<uint8_t> is_at_;     // [T, E]
  std::vector<double> by_expert_;  // [E, T]: the affinity
  std::vector<double> open_;       // [T, E]: the affinity, minus infinity where the token is
  std::vector<std::vector<int32_t>> tokens_at_;  // [E], ascending
  std::vector<uint8_t> has_seat_;                // [E]: holds a seat of the rest
  std::vector<int64_t> excess_;                  // [E + 1]
  std::vector<double> potential_;                // [E + 1]
  /// [E + 1, E + 1]: the cheapest move from node to node and its token. Kept up to date, since
  /// a search reads nearly all of them and a move changes one row and a few others.
  std::vector<double> arc_cost_;
  std::vector<int64_t> arc_token_;
  Search search_;
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
