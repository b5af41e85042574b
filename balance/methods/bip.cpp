// BIP-based balancing: balanced loads from the first step, by nearly solving the assignment problem
// of every micro-batch at the router.
//
//   repeat `iterations` times:   p <- token prices given q,   q <- expert prices given p
//   route: top-k of s - q; combine weights come from s alone
//
// Sun 2025, "Binary-Integer-Programming Based Algorithm for Expert Load Balancing in
// Mixture-of-Experts Models", algorithm 1 (half-steps and their order as in J. Su's account of it
// [S]). q is kept as a warm start between micro-batches; evaluation routes with q as it stands.
//
// Ours, not the paper's [R]: the capacity of T counted tokens is floor(T k / E), where the paper
// assumes that E divides T k; tokens without a loss are routed but set no price; `recentre`
// subtracts the least q after each micro-batch, which changes no route made with a given q but
// stops q from drifting up along the flat direction of the dual, which costs balance over hundreds
// of steps; `select: before` routes with the q of the micro-batch before, so that no token's route
// depends on later tokens. Both orders depend on how the global batch is cut into micro-batches,
// and each micro-batch is priced for itself, on its rank; after every step the ranks go on from the
// mean of their prices. `midpoint` prices an expert between the last token that it takes and the
// next, so that no token is exactly indifferent; `evaluate: scores` routes evaluation by the scores
// alone. Prices that are not finite are not kept, so that a micro-batch with NaN does not outlive
// its step.

#include <algorithm>
#include <cmath>

#include "autograd/support/parallel.h"
#include "balance/batch.h"
#include "balance/method.h"
#include "balance/prices.h"

namespace sluice {
namespace {

/// Tokens transposed at once.
constexpr int64_t kTokenBlock = 1024;

enum class Select : uint8_t { after, before };
enum class Evaluate : uint8_t { prices, scores };

struct BipConfig final : Configurable {
  int64_t iterations = 4;
  Select select = Select::after;
  bool recentre = false;
  bool midpoint = false;
  Evaluate evaluate = Evaluate::prices;

  void fields(FieldVisitor& v) override {
    v.integer({"iterations", "rounds of prices per micro-batch"}, iterations,
              {.min = 1, .max = 1000});
    v.enumeration({"select",
                   "after: route with the prices of this micro-batch; before: with those of the "
                   "micro-batch before"},
                  select, {{"after", Select::after}, {"before", Select::before}});
    v.boolean({"recentre", "subtract the least expert price after each micro-batch"}, recentre);
    v.boolean({"midpoint", "price an expert midway between its last token and the next"}, midpoint);
    v.enumeration({"evaluate", "evaluation routes by the prices as they stand, or by the scores"},
                  evaluate, {{"prices", Evaluate::prices}, {"scores", Evaluate::scores}});
  }
};

class Bip final : public Balancer {
 public:
  Bip(const BipConfig& config, const BalancerSetup& setup)
      : config_(config), prices_(static_cast<size_t>(setup.experts), 0.0) {}

  [[nodiscard]] BalancerTraits traits() const override {
    return {.selects = true, .batch_dependent = true};
  }

  void route(const RouterInput& input, Selection& selection) override {
    if (!input.training && config_.evaluate == Evaluate::scores) {
      input.choose({}, selection);
      return;
    }
    if (input.training && config_.select == Select::after) update_prices(input);
    ArenaScope scratch(thread_arena());
    const std::span<double> shift(scratch.allocate<double>(std::ssize(prices_)), prices_.size());
    std::transform(prices_.begin(), prices_.end(), shift.begin(), [](double q) { return -q; });
    input.choose(shift, selection);
    if (input.training && config_.select == Select::before) update_prices(input);
  }

  void reduce(Communicator& communicator) override {
    if (communicator.size() == 1) return;
    communicator.sum(std::span<double>(prices_));
    for (double& price : prices_) price /= static_cast<double>(communicator.size());
    recentre();
  }

  void visit_state(StateVisitor& visitor) override {
    const auto experts = static_cast<int64_t>(prices_.size());
    visitor.array<double>("prices", prices_, std::span(&experts, 1));
  }

  void metrics(std::vector<std::pair<std::string, double>>& metrics) const override {
    const auto [least, greatest] = std::minmax_element(prices_.begin(), prices_.end());
    metrics.emplace_back("price_min", *least);
    metrics.emplace_back("price_max", *greatest);
  }

 private:
  void update_prices(const RouterInput& input) {
    counted_tokens(input.layout, counted_);
    if (counted_.empty()) return;
    dispatch_float(input.router.scores.dtype(), [&]<class T>() { iterate<T>(input, counted_); });
    recentre();
  }

  void recentre() {
    if (!config_.recentre) return;
    const double least = *std::min_element(prices_.begin(), prices_.end());
    for (double& price : prices_) price -= least;
  }

  template <class T>
  void iterate(const RouterInput& input, const std::vector<int64_t>& tokens) {
    const auto count = static_cast<int64_t>(tokens.size());
    const auto experts = static_cast<int64_t>(prices_.size());
    ArenaScope scratch(thread_arena());
    T* by_expert = scratch.allocate<T>(experts * count);  // [E, T]
    T* p = scratch.allocate<T>(count);
    T* q = scratch.allocate<T>(experts);
    const T* scores = input.router.scores.data<T>();
    parallel_for_ranges(count, kTokenBlock, [&](int64_t begin, int64_t end) {
      for (int64_t e = 0; e < experts; ++e) {
        for (int64_t t = begin; t < end; ++t) {
          by_expert[e * count + t] = scores[tokens[static_cast<size_t>(t)] * experts + e];
        }
      }
    });
    const AssignmentProblem<T> problem = {.tokens = count,
                                          .experts = experts,
                                          .top_k = input.top_k,
                                          .capacity = count * input.top_k / experts,
                                          .scores = by_expert,
                                          .midpoint = config_.midpoint};
    std::transform(prices_.begin(), prices_.end(), q, [](double x) { return static_cast<T>(x); });
    for (int64_t i = 0; i < config_.iterations; ++i) {
      price_tokens(problem, q, p);
      price_experts(problem, p, q);
    }
    if (!std::all_of(q, q + experts, [](T x) { return std::isfinite(x); })) return;
    std::copy_n(q, experts, prices_.begin());
  }

  BipConfig config_;
  std::vector<double> prices_;    // q [E], from 0 up
  std::vector<int64_t> counted_;  // tokens of the micro-batch that set prices
};

}  // namespace

const BalancerEntry bip_balancer = {
    .name = "bip",
    .doc = "prices from the assignment problem of every micro-batch (Sun 2025)",
    .make_config = make_balancer_config<BipConfig>,
    .make = make_balancer_method<Bip, BipConfig>,
    .assumes_top_k = true,
};

}  // namespace sluice
