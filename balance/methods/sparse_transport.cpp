// Routing by sparsity-constrained optimal transport: a plan in which no expert has more than kappa
// tokens.
//
//   training:    min over Pi >= 0 of -<Pi, z> + (gamma/2) ||Pi||^2,  Pi 1 = 1,  Pi^T 1 = T/E,
//                at most kappa = ceil(f T k / E) tokens of an expert above 0;
//                token t goes to every expert with Pi_ti > 0, with the weight Pi_ti / sum_j Pi_tj
//   evaluation:  the router's own top-k and weights
//
// Liu, Puigcerver and Blondel 2023, "Sparsity-Constrained Optimal Transport", its semi-dual
// (balance/sparse_transport.h). In units of one token's mass: gamma is the paper's over T, so that
// it means the same for any micro-batch.
//
// Ours [R]: dispatch by Pi > 0, where mass within the tolerance of the solution counts as 0, and
// the normalised weights; their gradient takes the prices of the semi-dual as constants, so that
// dPi_ti / dz_ti = 1/gamma on the support (`weights: differentiable`; `constant` has none, and then
// the router learns nothing from the weights); tokens without a loss are not part of the problem
// and take the projection on the simplex of their logits less the experts' levels; evaluation, of
// which the paper says nothing, is causal. A token that gets no mass passes by. Looks at later
// tokens in training, at none in evaluation. The router's weights and scale do not apply in
// training; routers with groups, thresholds or null experts are refused.

#include "balance/sparse_transport.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "balance/batch.h"
#include "balance/method.h"

namespace sluice {
namespace {

/// Added to the sum of a row, which is 0 for a token that passes by.
constexpr double kSumEpsilon = 1e-20;

enum class Weights : uint8_t { differentiable, constant };

struct SparseTransportConfig final : Configurable {
  double gamma = 1.0;
  Scheduled capacity_factor = 1.0;
  Weights weights = Weights::differentiable;
  double tolerance = 1e-3;
  int64_t max_iterations = 500;

  void fields(FieldVisitor& v) override {
    v.number({"gamma", "weight of the squared plan: larger spreads a token over more experts"},
             gamma, {.min = 0.0, .exclusive_min = true});
    v.scheduled({"capacity_factor", "an expert takes at most ceil(this * tokens * k / E) tokens"},
                capacity_factor, {.min = 0.0, .exclusive_min = true});
    v.enumeration({"weights",
                   "gradient of the combine weights: differentiable (with the prices constant) or "
                   "constant"},
                  weights,
                  {{"differentiable", Weights::differentiable}, {"constant", Weights::constant}});
    v.number({"tolerance", "stop when the mass of every token is this close to 1"}, tolerance,
             {.min = 0.0});
    v.integer({"max_iterations", "most L-BFGS iterations per micro-batch"}, max_iterations,
              {.min = 1, .max = 100000});
  }
};

class SparseTransport final : public Balancer {
 public:
  SparseTransport(const SparseTransportConfig& config, const BalancerSetup& /*setup*/)
      : config_(config) {}

  [[nodiscard]] BalancerTraits traits() const override {
    return {.selects = true, .batch_dependent = true, .varies_k = true};
  }

  /// At most kappa tokens per expert; a token may get nothing.
  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query,
                                             const ActiveExperts& /*of_router*/) const override {
    return ActiveExperts::within_bounds(
        0.0, std::min(config_.capacity_factor.at(query.progress) * static_cast<double>(query.top_k),
                      static_cast<double>(query.num_experts)));
  }

  void route(const RouterInput& input, Selection& selection) override {
    selection.plan.clear();
    const std::vector<int64_t> tokens =
        input.training ? counted_tokens(input.layout) : std::vector<int64_t>();
    ArenaScope scratch(thread_arena());
    const std::span<const double> z = shifted_rows(scratch, input.router.logits, {});
    const bool is_finite = std::ranges::all_of(z, [](double x) { return std::isfinite(x); });
    if (tokens.empty() || !is_finite) {
      input.choose({}, selection);
      return;
    }
    const std::vector<double> plan = plan_of(input, z, tokens);
    const int64_t experts = input.router.logits.dim(1);
    select_positive(plan, input.layout.tokens(), experts, input.top_k, selection);
    selection.plan.assign(selection.expert.size(), 0.0);
    for (size_t slot = 0; slot < selection.expert.size(); ++slot) {
      if (selection.expert[slot] == kNoExpert) continue;
      const auto token = static_cast<int64_t>(slot) / selection.top_k;
      selection.plan[slot] = plan[static_cast<size_t>(token * experts + selection.expert[slot])];
    }
  }

  [[nodiscard]] Tensor combine_weights(Tape& tape, const RouterInput& input,
                                       const Selection& selection) override {
    if (selection.plan.empty()) return {};
    const Tensor& z = input.router.logits;
    Tensor mass = plan_of_slots(tape, z.dtype(), selection);
    if (config_.weights == Weights::differentiable) {
      // z - z is 0 without rounding, and has the gradient of z.
      const Tensor zero = sub(tape, z, stop_gradient(tape, z));
      mass = add_scaled(tape, mass, gather_last(tape, zero, expert_index(tape.pool(), selection)),
                        1.0 / config_.gamma);
    }
    return normalise_rows(tape, mass, kSumEpsilon);
  }

 private:
  static Tensor plan_of_slots(const Tape& tape, DType dtype, const Selection& selection) {
    Tensor result = tape.empty({selection.tokens, selection.top_k}, dtype);
    if (!result.has_memory()) return result;
    dispatch_float(dtype, [&]<class T>() {
      std::ranges::transform(selection.plan, result.data<T>(),
                             [](double x) { return static_cast<T>(x); });
    });
    return result;
  }

  /// The plan of all tokens, [N, E].
  [[nodiscard]] std::vector<double> plan_of(const RouterInput& input, std::span<const double> z,
                                            const std::vector<int64_t>& tokens) const {
    const int64_t experts = input.router.logits.dim(1);
    const auto count = static_cast<int64_t>(tokens.size());
    const std::vector<double> affinity = rows_of(input.router.logits, tokens);
    const SparseTransportProblem problem = {
        .tokens = count,
        .experts = experts,
        .kappa = std::max<int64_t>(1, expert_capacity(config_.capacity_factor.at(input.progress),
                                                      count, input.top_k, experts)),
        .gamma = config_.gamma,
        .row_mass = 1.0,
        .affinity = affinity};
    const SparseTransportPlan solved =
        solve_sparse_transport(problem, {config_.max_iterations, config_.tolerance});
    std::vector<double> plan(z.size());
    size_t next = 0;
    for (size_t t = 0; t < input.layout.counted.size(); ++t) {
      const auto width = static_cast<size_t>(experts);
      const std::span row(plan.data() + t * width, width);
      if (input.layout.counted[t] != 0) {
        std::copy_n(solved.plan.begin() + static_cast<int64_t>(next++ * width), width, row.begin());
        continue;
      }
      std::vector<double> own(width);
      for (size_t e = 0; e < width; ++e) {
        own[e] = z[t * width + e] / config_.gamma - solved.level[e];
      }
      (void)project_sparse_simplex(own, experts, row);
    }
    // Noise of the solution: a token of such mass alone would get a huge gradient.
    for (double& mass : plan) mass = mass > config_.tolerance ? mass : 0.0;
    return plan;
  }

  SparseTransportConfig config_;
};

}  // namespace

const BalancerEntry sparse_transport_balancer = {
    .name = "sparse_transport",
    .doc = "transport plan with at most kappa tokens per expert (Liu et al. 2023)",
    .make_config = make_balancer_config<SparseTransportConfig>,
    .make = make_balancer_method<SparseTransport, SparseTransportConfig>,
    .passes_over_router = true,
};

}  // namespace sluice
