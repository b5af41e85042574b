// Splitting one dense feed-forward into experts (LLaMA-MoE, Zhu et al. 2024, arXiv 2406.16554): its F
// neurons are shared out, f to each of m = F / f experts, and the sum of all m is the dense feed-forward.
// More experts than m are further copies of the m parts. Which neurons go together:
//
//   in_order   neighbours
//   random     a random order, another for every copy
//   clusters   balanced k-means on the rows of Wg, scaled to length 1: clusters of exactly f neurons
//   sharing    what matters on the text of a domain (neuron_importance.h): expert e has the f neurons that
//              matter most in domain e mod (number of domains); a neuron may be in several experts
//
// Clusters: neurons are given away pair by pair, the closest neuron and centre first, as long as the
// neuron is free and the cluster has room; centres move to the mean of their neurons, at most 100 times
// (the published balanced k-means has 500 rounds; the rule of giving away is ours [R]).
//
// With `sharing` and shared experts (`shared: part`, the "inter" split; "inner" without), the W neurons
// that most domains have among their f most important ones, ties by their importance, are shared, and each
// domain chooses among the others.
//
// With shared experts of joint width W, shared: part gives them W neurons, the first in that order, and
// splits the others; shared: whole makes them the dense feed-forward (W = F) and splits all of it, as
// Innovator does (arXiv 2507.18671).

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/core/dtype.h"
#include "autograd/support/error.h"
#include "train/transforms/neuron_importance.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

struct SplitConfig final : Configurable {
  enum class Order : uint8_t { in_order, random, clusters, sharing };
  enum class Shared : uint8_t { part, whole };
  Order order = Order::in_order;
  Shared shared = Shared::part;
  int64_t measured_tokens = 16384;
  void fields(FieldVisitor& v) override {
    v.enumeration(
        {"order",
         "neurons that go together: in_order, random, clusters (balanced k-means on the rows of "
         "w_gate), or sharing (those that matter most in a domain of the text)"},
        order,
        {{"in_order", Order::in_order},
         {"random", Order::random},
         {"clusters", Order::clusters},
         {"sharing", Order::sharing}});
    v.enumeration(
        {"shared",
         "shared experts: part (they take some of the neurons) or whole (they are the dense "
         "feed-forward, of which the routed experts are parts once more)"},
        shared, {{"part", Shared::part}, {"whole", Shared::whole}});
    v.integer({"measured_tokens", "training tokens on which sharing measures what matters"},
              measured_tokens, {.min = 1});
  }
};

constexpr int kMostRounds = 100;

/// Rows of length 1.
std::vector<double> unit_rows(const StateArray& matrix, int64_t rows, int64_t columns) {
  std::vector<double> result(static_cast<size_t>(rows * columns));
  dispatch_float(matrix.type == ElementType::f64 ? DType::f64 : DType::f32, [&]<class T>() {
    const auto values = matrix.values<T>();
    std::copy(values.begin(), values.end(), result.begin());
  });
  for (int64_t i = 0; i < rows; ++i) {
    double* row = result.data() + i * columns;
    const double length = std::sqrt(std::inner_product(row, row + columns, row, 0.0));
    if (length == 0.0) continue;
    for (int64_t d = 0; d < columns; ++d) row[d] /= length;
  }
  return result;
}

struct Pair {
  double similarity;
  int32_t neuron;
  int32_t cluster;
};

/// `neurons` in an order in which each run of `size` is a cluster.
std::vector<int32_t> cluster(const UpcycledLayer& layer, const std::vector<int32_t>& neurons,
                             int64_t size) {
  const int64_t D = layer.hidden_size;
  const auto count = std::ssize(neurons) / size;
  const std::vector<double> rows = unit_rows(layer.dense_gate, layer.dense_width, D);
  const auto row = [&](int32_t neuron) { return rows.data() + neuron * D; };
  std::vector<double> centres;
  for (int64_t c = 0; c < count; ++c) {
    // Far apart in the order given.
    const double* first = row(neurons[static_cast<size_t>(c * size)]);
    centres.insert(centres.end(), first, first + D);
  }
  std::vector<int32_t> result;
  std::vector<Pair> pairs(neurons.size() * static_cast<size_t>(count));
  for (int round = 0; round < kMostRounds; ++round) {
    for (size_t i = 0; i < neurons.size(); ++i) {
      for (int64_t c = 0; c < count; ++c) {
        const double* own = row(neurons[i]);
        pairs[i * static_cast<size_t>(count) + static_cast<size_t>(c)] = {
            std::inner_product(own, own + D, centres.data() + c * D, 0.0), neurons[i],
            static_cast<int32_t>(c)};
      }
    }
    std::ranges::sort(pairs, [](const Pair& a, const Pair& b) {
      return std::tuple(-a.similarity, a.neuron, a.cluster) <
             std::tuple(-b.similarity, b.neuron, b.cluster);
    });
    std::vector<std::vector<int32_t>> members(static_cast<size_t>(count));
    std::vector<uint8_t> taken(static_cast<size_t>(layer.dense_width));
    for (const Pair& pair : pairs) {
      auto& own = members[static_cast<size_t>(pair.cluster)];
      if (taken[static_cast<size_t>(pair.neuron)] != 0 || std::ssize(own) == size) continue;
      taken[static_cast<size_t>(pair.neuron)] = 1;
      own.push_back(pair.neuron);
    }
    std::vector<int32_t> found;
    for (size_t c = 0; c < members.size(); ++c) {
      std::ranges::sort(members[c]);
      found.insert(found.end(), members[c].begin(), members[c].end());
      double* centre = centres.data() + static_cast<int64_t>(c) * D;
      std::fill_n(centre, D, 0.0);
      for (const int32_t neuron : members[c]) {
        for (int64_t d = 0; d < D; ++d) centre[d] += row(neuron)[d];
      }
      const double length = std::sqrt(std::inner_product(centre, centre + D, centre, 0.0));
      for (int64_t d = 0; d < D && length > 0.0; ++d) centre[d] /= length;
    }
    if (found == result) break;
    result = std::move(found);
  }
  return result;
}

/// The `count` neurons that are not `taken` and have the largest `values`, the largest first.
std::vector<int32_t> most_important(const std::vector<double>& values, int64_t count,
                                    const std::vector<uint8_t>& taken) {
  std::vector<int32_t> order;
  for (size_t i = 0; i < values.size(); ++i) {
    if (taken[i] == 0) order.push_back(static_cast<int32_t>(i));
  }
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(count));
  return order;
}

/// importance [domains][F]. Experts hold the neurons of their domain, shared ones those of many.
LayerNeurons share_neurons(const UpcycledLayer& layer, int64_t shared,
                           const std::vector<std::vector<double>>& importance) {
  const auto F = static_cast<size_t>(layer.dense_width);
  std::vector<uint8_t> taken(F);
  LayerNeurons plan;
  if (shared > 0) {
    std::vector<double> votes(F);
    double largest = 0.0;
    for (const std::vector<double>& values : importance) {
      for (const int32_t i : most_important(values, layer.expert_width, taken)) {
        votes[static_cast<size_t>(i)] += 1.0;
      }
      for (const double value : values) largest += value;
    }
    // Below one vote, so that they only decide between equal numbers of them.
    for (size_t i = 0; i < F && largest > 0.0; ++i) {
      for (const std::vector<double>& values : importance) votes[i] += values[i] / (2.0 * largest);
    }
    plan.shared.source = most_important(votes, shared, taken);
    for (const int32_t i : plan.shared.source) taken[static_cast<size_t>(i)] = 1;
  }
  for (int64_t e = 0; e < layer.num_experts; ++e) {
    const auto domain = static_cast<size_t>(e) % importance.size();
    plan.experts.push_back({most_important(importance[domain], layer.expert_width, taken), {}});
  }
  return plan;
}

class Split final : public UpcyclingScheme {
 public:
  explicit Split(const SplitConfig& config) : config_(config) {}

  [[nodiscard]] LayerNeurons choose(const UpcycledLayer& layer) const override {
    const int64_t f = layer.expert_width;
    const int64_t shared = neurons_of_shared(layer);
    const int64_t routed = layer.dense_width - shared;
    if (config_.order == SplitConfig::Order::sharing) {
      SLUICE_CHECK(ConfigError, f <= routed,
                   "upcycle.scheme split: model.experts.intermediate_size is {}, allowed 1 to {}: what "
                   "the shared experts leave of the dense feed-forward of {}",
                   f, routed, layer.name);
      return share_neurons(layer, shared,
                           layer.importance->of(layer.sublayer, config_.measured_tokens));
    }
    const std::string_view what =
        shared > 0 ? "what the shared experts leave of the width" : "the width";
    SLUICE_CHECK(
        ConfigError, routed > 0 && routed % f == 0,
        "upcycle.scheme split: model.experts.intermediate_size is {}, allowed what divides {}: "
        "{} of the dense feed-forward of {}",
        f, routed, what, layer.name);
    const int64_t parts = routed / f;
    SLUICE_CHECK(
        ConfigError, layer.num_experts % parts == 0,
        "upcycle.scheme split: model.experts.num_experts is {}, allowed a multiple of the {} "
        "parts of width {}",
        layer.num_experts, parts, f);
    LayerNeurons plan;
    for (int64_t copy = 0; copy < layer.num_experts / parts; ++copy) {
      const std::vector<int32_t> order = order_of(layer, copy, shared, f);
      if (copy == 0) plan.shared.source.assign(order.begin(), order.begin() + shared);
      for (auto begin = order.begin() + shared; begin != order.end(); begin += f) {
        plan.experts.push_back({{begin, begin + f}, {}});
      }
    }
    return plan;
  }

  [[nodiscard]] std::string departure(const UpcycledLayer& layer) const override {
    if (config_.order == SplitConfig::Order::sharing) {
      return "an expert has the neurons that matter in one domain only";
    }
    const int64_t parts = (layer.dense_width - neurons_of_shared(layer)) / layer.expert_width;
    if (parts == 1) return {};
    if (layer.num_experts > parts) return "a token's experts may be copies of the same part";
    if (layer.top_k < parts) {
      return fmt::format("a token uses {} of the {} parts", layer.top_k, parts);
    }
    return "parts are weighed by the router, not alike";
  }

 private:
  [[nodiscard]] int64_t neurons_of_shared(const UpcycledLayer& layer) const {
    return config_.shared == SplitConfig::Shared::part ? layer.shared_width : 0;
  }
  [[nodiscard]] std::vector<int32_t> order_of(const UpcycledLayer& layer, int64_t copy,
                                              int64_t shared, int64_t f) const {
    if (config_.order == SplitConfig::Order::in_order) return neurons_in_order(layer.dense_width);
    std::vector<int32_t> order = shuffled_neurons(layer, copy);
    // The shared experts' neurons are the same in every copy.
    if (shared > 0 && copy > 0) {
      const std::vector<int32_t> first = shuffled_neurons(layer, 0);
      std::vector<uint8_t> taken(order.size());
      for (int64_t i = 0; i < shared; ++i)
        taken[static_cast<size_t>(first[static_cast<size_t>(i)])] = 1;
      std::ranges::stable_partition(order,
                                    [&](int32_t i) { return taken[static_cast<size_t>(i)] != 0; });
    }
    if (config_.order == SplitConfig::Order::random) return order;
    const std::vector<int32_t> routed = cluster(layer, {order.begin() + shared, order.end()}, f);
    std::ranges::copy(routed, order.begin() + shared);
    return order;
  }

  SplitConfig config_;
};

}  // namespace

const UpcyclingEntry split_upcycling = {
    .name = "split",
    .doc = "the dense feed-forward's neurons shared out (LLaMA-MoE, arXiv 2406.16554; Innovator)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<SplitConfig>();
    },
    .make = [](const Configurable& config) -> std::unique_ptr<UpcyclingScheme> {
      return std::make_unique<Split>(dynamic_cast<const SplitConfig&>(config));
    },
};

}  // namespace sluice
