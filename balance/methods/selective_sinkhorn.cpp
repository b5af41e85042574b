// Selective Sinkhorn routing: now and then a step is routed by an optimal transport plan.
//
//   Pi = argmax over Pi > 0 of  <Pi, C> - xi <Pi, log Pi>,   Pi 1 = 1,   Pi^T 1 = (T/E) 1
//   with probability p:  top-k of Pi_t, weights Pi_ti / sum over chosen j of Pi_tj
//   else:                top-k of z + sigma eps, eps ~ N(0, 1), with the router's weights
//   evaluation:          the router's own top-k, always
//
// "Selective Sinkhorn Routing for Improved Sparse Mixture of Experts" (arXiv 2511.08972); the cost
// C is z (`linear`) or softmax(z). No auxiliary loss is needed.
//
// Ours [R]: one draw per layer and step, keyed by both, so that every micro-batch of a step is
// routed alike and a replay draws the same; the plan is a constant, so the router learns nothing in
// such a step (`gradient: none`), or its last scaling of the tokens is differentiated
// (`gradient: last_iteration`); the noise moves the choice and leaves the weights alone; tokens
// without a loss are not in the marginals and are routed by the potentials of the experts. Looks at
// later tokens in the steps with a plan, at none otherwise. Routers with groups, thresholds or null
// experts, which would be heard in evaluation only, are refused.

#include <algorithm>
#include <cmath>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "autograd/support/parallel.h"
#include "autograd/support/rng.h"
#include "balance/batch.h"
#include "balance/method.h"
#include "balance/transport.h"

namespace sluice {
namespace {

enum class Cost : uint8_t { linear, softmax };
enum class PlanGradient : uint8_t { none, last_iteration };

struct SelectiveSinkhornConfig final : Configurable {
  Scheduled probability = 1e-3;
  Cost cost = Cost::linear;
  double regularisation = 0.5;
  double tolerance = 1e-4;
  int64_t max_iterations = 100;
  Scheduled noise = 0.1;
  PlanGradient gradient = PlanGradient::none;

  void fields(FieldVisitor& v) override {
    v.scheduled(
        {"probability", "share p of the steps that are routed by the plan (paper: 0.001 to 0.01)"},
        probability, {.min = 0.0, .max = 1.0});
    v.enumeration({"cost", "what the plan maximises: linear (logits) or softmax (of the logits)"},
                  cost, {{"linear", Cost::linear}, {"softmax", Cost::softmax}});
    v.number({"regularisation", "weight xi of the entropy: 0.5 or 1 for linear, 0.05 for softmax"},
             regularisation, {.min = 0.0, .exclusive_min = true});
    v.number({"tolerance", "stop when the loads of the plan are this close, relatively"}, tolerance,
             {.min = 0.0});
    v.integer({"max_iterations", "most scaling iterations per micro-batch"}, max_iterations,
              {.min = 1, .max = 100000});
    v.scheduled(
        {"noise",
         "standard deviation sigma of the noise on the logits in other steps (paper: 0.1 to 4)"},
        noise, {.min = 0.0});
    v.enumeration(
        {"gradient", "through the weights of the plan: none (a constant), or last_iteration"},
        gradient, {{"none", PlanGradient::none}, {"last_iteration", PlanGradient::last_iteration}});
  }
};

class SelectiveSinkhorn final : public Balancer {
 public:
  SelectiveSinkhorn(SelectiveSinkhornConfig config, const BalancerSetup& setup)
      : config_(std::move(config)), layer_(setup.layer), seed_(setup.seed) {}

  [[nodiscard]] BalancerTraits traits() const override {
    return {.selects = true, .batch_dependent = true};
  }

  /// The plan gives every token k experts, whatever the router would.
  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query,
                                             const ActiveExperts& /*of_router*/) const override {
    return ActiveExperts::exactly(static_cast<double>(query.top_k));
  }

  void route(const RouterInput& input, Selection& selection) override {
    selection.plan.clear();
    if (!input.training) {
      input.choose({}, selection);
    } else if (draws_plan(input.progress)) {
      route_by_plan(input, selection);
    } else {
      route_with_noise(input, selection);
    }
  }

  [[nodiscard]] Tensor combine_weights(Tape& tape, const RouterInput& input,
                                       const Selection& selection) override {
    if (selection.plan.empty()) return {};
    Tensor affinity = input.router.logits;
    if (config_.cost == Cost::softmax) affinity = softmax(tape, affinity);
    if (config_.gradient == PlanGradient::none) affinity = stop_gradient(tape, affinity);
    const Tensor scaled = add_bias(tape, scale(tape, affinity, 1.0 / config_.regularisation),
                                   potentials(tape, affinity.dtype(), selection.plan));
    // Pi_ti / sum over chosen j of Pi_tj, with Pi_t = softmax(scaled_t).
    return softmax(tape, gather_last(tape, scaled, expert_index(tape.pool(), selection)));
  }

 private:
  [[nodiscard]] RandomKey key(RandomPurpose purpose, const Progress& progress) const {
    return {seed_, purpose, static_cast<uint32_t>(layer_), static_cast<uint64_t>(progress.step)};
  }

  [[nodiscard]] bool draws_plan(const Progress& progress) const {
    return uniform(key(RandomPurpose::transport_draw, progress), 0, 0) <
           config_.probability.at(progress);
  }

  static Tensor potentials(const Tape& tape, DType dtype, std::span<const double> plan) {
    Tensor result = tape.empty({static_cast<int64_t>(plan.size())}, dtype);
    if (!result.has_memory()) return result;
    dispatch_float(dtype, [&]<class T>() {
      std::ranges::transform(plan, result.data<T>(), [](double x) { return static_cast<T>(x); });
    });
    return result;
  }

  /// The cost of all tokens, [N, E].
  [[nodiscard]] std::span<double> costs(ArenaScope& scratch, const RouterInput& input) const {
    const std::span<double> cost = shifted_rows(scratch, input.router.logits, {});
    if (config_.cost == Cost::linear) return cost;
    const auto experts = static_cast<size_t>(input.router.logits.dim(1));
    for (size_t first = 0; first < cost.size(); first += experts) {
      const std::span row(cost.data() + first, experts);
      const double greatest = std::ranges::max(row);
      double sum = 0.0;
      for (double& x : row) sum += x = std::exp(x - greatest);
      for (double& x : row) x /= sum;
    }
    return cost;
  }

  void route_by_plan(const RouterInput& input, Selection& selection) const {
    const std::vector<int64_t> tokens = counted_tokens(input.layout);
    if (tokens.empty()) {
      input.choose({}, selection);
      return;
    }
    const int64_t experts = input.router.logits.dim(1);
    ArenaScope scratch(thread_arena());
    const std::span<double> cost = costs(scratch, input);
    std::vector<double> counted;
    counted.reserve(tokens.size() * static_cast<size_t>(experts));
    for (const int64_t t : tokens) {
      const auto row = cost.begin() + t * experts;
      counted.insert(counted.end(), row, row + experts);
    }
    selection.plan =
        entropic_potentials(counted, static_cast<int64_t>(tokens.size()), experts,
                            config_.regularisation, {config_.tolerance, config_.max_iterations});
    for (size_t i = 0; i < cost.size(); ++i) {
      cost[i] = cost[i] / config_.regularisation + selection.plan[i % static_cast<size_t>(experts)];
    }
    select_top_k(cost, input.layout.tokens(), experts, input.top_k, selection);
  }

  void route_with_noise(const RouterInput& input, Selection& selection) const {
    const double sigma = config_.noise.at(input.progress);
    if (sigma == 0.0) {
      input.choose({}, selection);
      return;
    }
    const Tensor& z = input.router.logits;
    const int64_t experts = z.dim(1);
    ArenaScope scratch(thread_arena());
    const std::span<double> noisy = shifted_rows(scratch, z, {});
    const RandomKey noise = key(RandomPurpose::transport_noise, input.progress);
    const SequenceLayout& layout = input.layout;
    parallel_for(layout.sequences(), [&](int64_t sequence) {
      const auto s = static_cast<size_t>(sequence);
      const int64_t begin = layout.sequence_offsets[s] * experts;
      const int64_t end = layout.sequence_offsets[s + 1] * experts;
      for (int64_t i = begin; i < end; ++i) {
        noisy[static_cast<size_t>(i)] +=
            sigma * normal(noise, layout.global_samples[s], static_cast<uint64_t>(i - begin));
      }
    });
    select_top_k(noisy, z.dim(0), experts, input.top_k, selection);
  }

  SelectiveSinkhornConfig config_;
  int64_t layer_;
  uint64_t seed_;
};

}  // namespace

const BalancerEntry selective_sinkhorn_balancer = {
    .name = "selective_sinkhorn",
    .doc = "a few steps routed by a transport plan, the others with noise (arXiv 2511.08972)",
    .make_config = make_balancer_config<SelectiveSinkhornConfig>,
    .make = make_balancer_method<SelectiveSinkhorn, SelectiveSinkhornConfig>,
    .passes_over_router = true,
};

}  // namespace sluice
