// Every balancing method with every router: they train together, or a recipe with both is refused
// with the reason.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "autograd/ops/reduce.h"
#include "autograd/support/error.h"
#include "layers/router.h"
#include "tests/balance/routed_batch.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

using testing_support::experts_of;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;

/// Routers that a method does not go with.
using Refused = std::set<std::string>;

const Refused& refused_by(const std::string& method) {
  static const Refused of_fixed_choice = {"hash", "thor", "mixer"};
  static const Refused of_varying_k = {
      "hash", "thor", "mixer", "top_p", "null_experts", "dense_to_sparse", "document_share"};
  static const Refused of_own_choice = {"hash",          "thor",          "mixer",
                                        "top_p",         "null_experts",  "dense_to_sparse",
                                        "node_limited",  "grouped_top_k", "document_pool",
                                        "document_share"};
  static const Refused nothing;
  static const std::map<std::string, const Refused*> special = {
      {"none", &nothing},
      {"bip", &of_varying_k},
      {"bip_online", &of_varying_k},
      {"quantile", &of_varying_k},
      {"quantile_dynamic", &of_own_choice},
      {"sinkhorn", &of_own_choice},
      {"selective_sinkhorn", &of_own_choice},
      {"base", &of_own_choice},
      {"sparse_transport", &of_own_choice},
      {"expert_choice", &of_own_choice},
  };
  const auto found = special.find(method);
  return found == special.end() ? of_fixed_choice : *found->second;
}

/// Routers of one expert per token.
bool takes_one(const std::string& router) { return router == "thor" || router == "mixer"; }

/// "" or why a recipe with both is refused.
std::string refusal(const std::string& method, const std::string& router) {
  const char* top_k = takes_one(router) ? "1" : "2";
  // As many domains as the made-up text has.
  const char* options = router == "mixer" ? ", domains: 2" : "";
  try {
    (void)testing::tiny_recipe(
        fmt::format("model: {{experts: {{num_experts: {}, top_k: {}, router: {{type: {}{}}}}}}}\n"
                    "balance: {{type: {}{}}}",
                    router == "mixer" ? 2 : 4, top_k, router, options, method,
                    method == "device_aux_loss" ? ", groups: 2" : ""));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return {};
}

class EveryRouterWithEveryBalancer : public ::testing::TestWithParam<std::string> {
 protected:
  /// A model of two expert layers with the router's defaults.
  static ModelConfig config() {
    ModelConfig config = tiny_config("AEAE");
    ExpertsConfig& experts = experts_of(config);
    const RouterEntry& entry = router_registry().at(GetParam());
    experts.router = {GetParam(), std::shared_ptr<Configurable>(entry.make_config())};
    experts.top_k = static_cast<double>(top_k());
    const auto& router = dynamic_cast<const RouterConfig&>(*experts.router.config);
    EXPECT_EQ(router.check_against(experts.num_experts, top_k()), "");
    return config;
  }
  static int64_t top_k() { return takes_one(GetParam()) ? 1 : 2; }
  static RoutingSession session(const Model& model, const std::string& method) {
    const Tagged tagged = testing::method(method);
    std::vector<std::unique_ptr<Balancer>> balancers;
    for (const int64_t experts : model.experts_per_layer()) {
      balancers.push_back(make_balancer({&tagged, 1}, {.layer = std::ssize(balancers),
                                                       .experts = experts,
                                                       .top_k = top_k(),
                                                       .layers = 2,
                                                       .seed = 1}));
    }
    return RoutingSession(std::move(balancers));
  }

  static std::vector<Parameter*> trainable(const Model& model) {
    std::vector<Parameter*> parameters = model.parameters();
    std::erase_if(parameters, [](const Parameter* parameter) { return !parameter->trainable; });
    return parameters;
  }

  /// Loss of a step that is applied; gradients stay in the parameters.
  double train(const Model& model, const TinyBatch& batch, RoutingSession& routing,
               Recompute recompute) {
    testing_support::zero_grads(model, pool_);
    Tape tape(pool_);
    const Model::Loss loss =
        model.loss(testing_support::training_context(tape, batch, routing, recompute), batch.tokens,
                   batch.targets);
    const double value = loss.total.item();
    tape.backward(loss.total);
    tape.reset();
    for (Parameter* parameter : trainable(model)) parameter->materialise_grad();
    SingleRank alone;
    routing.finish_loads(alone);
    routing.end_step({});
    return value;
  }
  double evaluate(const Model& model, const TinyBatch& batch, RoutingSession& routing) {
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    routing.begin_evaluation();
    ForwardContext context{tape, batch.layout};
    context.routing = &routing;
    const double loss = sum(tape, model.token_losses(context, batch.tokens, batch.targets)).item();
    routing.end_evaluation();
    return loss;
  }

  Pool pool_;
};

TEST_P(EveryRouterWithEveryBalancer, TrainsOrIsRefusedWithTheReason) {
  const TinyBatch batch = tiny_batch(pool_, {{21, 9}, {1}, {12}});
  for (const Choice& choice : balance_choices()) {
    const std::string method(choice.name);
    SCOPED_TRACE(method);
    const std::string reason = refusal(method, GetParam());
    const bool needs_noise = method == "load_loss" && GetParam() != "noisy_top_k";
    if (needs_noise || refused_by(method).contains(GetParam())) {
      EXPECT_THAT(reason,
                  ::testing::AllOf(::testing::HasSubstr("balance: " + method),
                                   ::testing::HasSubstr("found model.experts.router " + GetParam()),
                                   ::testing::HasSubstr(", allowed ")));
      continue;
    }
    EXPECT_EQ(reason, "");
    const Model model(pool_, config(), 1);
    RoutingSession routing = session(model, method);
    const double loss = train(model, batch, routing, Recompute::none);
    EXPECT_TRUE(std::isfinite(loss));
    std::vector<Tensor> grads;
    for (Parameter* parameter : trainable(model)) {
      grads.push_back(parameter->grad.clone(pool_));
      for (int64_t i = 0; i < parameter->grad.numel(); ++i) {
        ASSERT_TRUE(std::isfinite(testing_support::element(parameter->grad, i))) << parameter->name;
      }
    }
    EXPECT_TRUE(std::isfinite(evaluate(model, batch, routing)));
    RoutingSession again = session(model, method);
    EXPECT_EQ(train(model, batch, again, Recompute::all), loss);
    for (size_t p = 0; p < grads.size(); ++p) {
      const Parameter& parameter = *trainable(model)[p];
      EXPECT_TRUE(same_bits(parameter.grad, grads[p])) << parameter.name;
    }
  }
}

TEST(BalancerWithRouter, IsRefusedInOneSentence) {
  EXPECT_THAT(refusal("bip", "hash"),
              ::testing::HasSubstr("balance: bip needs a router whose choice follows from scores; "
                                   "found model.experts.router hash, allowed top_k, "));
  EXPECT_THAT(refusal("expert_choice", "top_p"),
              ::testing::HasSubstr(
                  "balance: expert_choice chooses by itself and would pass over groups, thresholds "
                  "and null experts; found model.experts.router top_p, allowed top_k, "));
  EXPECT_THAT(refusal("quantile", "null_experts"),
              ::testing::HasSubstr("balance: quantile counts on top_k experts for every token; "
                                   "found model.experts.router null_experts, allowed top_k, "));
}

std::vector<std::string> names() {
  std::vector<std::string> result;
  for (const Choice& choice : router_choices()) result.emplace_back(choice.name);
  return result;
}

INSTANTIATE_TEST_SUITE_P(RoutersDef, EveryRouterWithEveryBalancer, ::testing::ValuesIn(names()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace sluice
