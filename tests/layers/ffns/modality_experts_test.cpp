#include <gtest/gtest.h>

#include <array>

#include "layers/routed_layer.h"
#include "tests/layers/layer_checks.h"
#include "tests/layers/modality_models.h"

namespace sluice {
namespace {

using testing_support::element;
using testing_support::hidden_of;
using testing_support::modality_config;
using testing_support::parameter_named;
using testing_support::part_of;
using testing_support::plain_session;
using testing_support::tokens_of_modality;
using testing_support::training_context;
using Json = nlohmann::json;

/// E = 8 as published, [2 | 4 | 2]: each router knows 6.
ModelConfig experts_config(Json fields = Json::object(), const std::string& pattern = "AZ",
                           const std::string& dtype = "f32") {
  Json all = {{"num_experts", 6}, {"top_k", 2.0}, {"intermediate_size", 12}};
  all.update(fields);
  return modality_config(modality_experts_feed_forward, pattern, all, dtype);
}

TEST(ModalityExperts, KeepWhatLayersKeep) {
  testing_support::expect_documents_apart(experts_config());
  testing_support::expect_causal(experts_config());
  testing_support::expect_decoding_equals_forward(experts_config(), 1e-5);
  testing_support::expect_same_on_any_threads(experts_config());
  testing_support::expect_recomputation_changes_no_bit(experts_config());
  testing_support::expect_all_earlier_tokens_seen(experts_config());
  testing_support::expect_model_gradients(experts_config(Json::object(), "AZ", "f64"));
}

TEST(ModalityExperts, HaveTheParametersOfTheFormula) {
  // 3 d f E + 2 (3/4 E) d, d = 32, f = 12.
  for (const int64_t E : {4, 8}) {
    Pool pool;
    const ModelConfig config = experts_config({{"num_experts", 3 * E / 4}}, "Z");
    const Model model(pool, config, 1);
    int64_t layer = 0;
    for (const Parameter* parameter : model.parameters()) {
      const bool is_own = parameter->name.starts_with("layers.0.") &&
                          parameter->name.find("norm") == std::string::npos;
      if (is_own) layer += parameter->value.numel();
    }
    EXPECT_EQ(layer, 3 * 32 * 12 * E + 2 * (3 * E / 4) * 32) << E;
    EXPECT_EQ(config.routed_layers().size(), 2U);
    EXPECT_EQ(model.experts_per_layer(), (std::vector<int64_t>{3 * E / 4, 3 * E / 4}));
  }
}

bool all_zero(const std::vector<double>& values) {
  return std::ranges::all_of(values, [](double value) { return value == 0.0; });
}

TEST(ModalityExperts, AreReachedByTheirOwnModalityOrByBoth) {
  Pool pool;
  // All experts of a token's router, so that each that can be reached is.
  const Model model(pool, experts_config({{"top_k", 6.0}}), 3);
  const Parameter* down = parameter_named(model, "layers.1.experts.w_down");
  ASSERT_NE(down, nullptr);
  ASSERT_EQ(down->value.dim(0), 8);
  for (const int64_t m : {0, 1}) {
    testing_support::run_backward(pool, model, tokens_of_modality(pool, m));
    for (int64_t e = 0; e < 8; ++e) {
      const bool is_reached = m == 0 ? e < 6 : e >= 2;
      EXPECT_EQ(!all_zero(part_of(down->grad, e)), is_reached) << "expert " << e << ", from " << m;
    }
    for (const int64_t router : {0, 1}) {
      const Parameter* weight =
          parameter_named(model, fmt::format("layers.1.modalities.{}.router.weight", router));
      ASSERT_NE(weight, nullptr);
      bool zero = true;
      for (int64_t i = 0; i < weight->grad.numel(); ++i) zero &= element(weight->grad, i) == 0.0;
      EXPECT_EQ(!zero, router == m);
    }
  }
}

/// What the routers of one pass chose: [modality][token] local experts.
class Choices final : public RoutingObserver {
 public:
  void observe(const RoutingObservation& observation) override {
    chosen[static_cast<size_t>(observation.layer)] = observation.selection.expert;
    tokens[static_cast<size_t>(observation.layer)] = {observation.token_ids.begin(),
                                                      observation.token_ids.end()};
  }
  std::array<std::vector<int32_t>, 2> chosen;
  std::array<std::vector<int32_t>, 2> tokens;
};

TEST(ModalityExperts, StandInThePublishedOrder) {
  // Experts do nothing but one, g: a token's output is changed where its router chose it, which of its
  // outputs is g for text (0 .. 5) and g - 2 for images (of E = 8; g - 1 of E = 4).
  for (const int64_t own : {1, 2}) {
    const int64_t E = 4 * own;
    for (int64_t g = 0; g < E; ++g) {
      Pool pool;
      // As a model's first layer: what a router reads does not hang on the experts.
      const Model model(pool,
                        experts_config({{"num_experts", 3 * own},
                                        {"top_k", 1.0},
                                        {"router", {{"type", "top_k"}, {"weights", "as_is"}}}},
                                       "Z", "f64"),
                        3);
      Parameter* down = parameter_named(model, "layers.0.experts.w_down");
      const int64_t size = down->value.numel() / E;
      double* values = down->value.data<double>();
      for (int64_t i = 0; i < down->value.numel(); ++i) {
        if (i / size != g) values[i] = 0.0;
      }
      const auto batch = tokens_of_modality(pool, std::nullopt);
      Choices choices;
      RoutingSession session = plain_session(model);
      const RoutingWatch watch(session, choices);
      Tape tape(pool);
      const NoGrad no_grad(tape);
      ForwardContext context = training_context(tape, batch, session);
      const Tensor with = model.forward(context, batch.tokens).hidden.detached();
      std::fill_n(values, down->value.numel(), 0.0);
      const Tensor without = hidden_of(pool, model, batch, /*training=*/false);
      std::array<size_t, 2> next{};
      for (int64_t n = 0; n < with.dim(0); ++n) {
        const int32_t token = batch.tokens.data<int32_t>()[n];
        const size_t m = token < 32 ? 0 : 1;
        ASSERT_EQ(choices.tokens[m][next[m]], token);
        const int64_t expected = choices.chosen[m][next[m]] + (m == 0 ? 0 : own);
        ++next[m];
        bool changed = false;
        for (int64_t d = 0; d < 32; ++d) {
          changed |= element(with, n * 32 + d) != element(without, n * 32 + d);
        }
        EXPECT_EQ(changed, expected == g) << "token " << n << " of modality " << m;
      }
      EXPECT_EQ(next[0], choices.tokens[0].size());
      EXPECT_EQ(next[1], choices.tokens[1].size());
    }
  }
}

TEST(ModalityExperts, CountTheLoadOfTheirOwnTokens) {
  Pool pool;
  const Model model(pool, experts_config(), 3);
  const auto batch = tokens_of_modality(pool, std::nullopt);
  RoutingSession session = plain_session(model);
  testing_support::zero_grads(model, pool);
  Tape tape(pool);
  const auto loss = model.loss(training_context(tape, batch, session), batch.tokens, batch.targets);
  (void)loss;
  std::array<int64_t, 2> counted{};
  for (int64_t n = 0; n < batch.tokens.numel(); ++n) {
    counted[batch.tokens.data<int32_t>()[n] < 32 ? 0 : 1] +=
        batch.layout.counted[static_cast<size_t>(n)];
  }
  for (const size_t m : {size_t{0}, size_t{1}}) {
    EXPECT_GT(counted[m], 0);
    EXPECT_EQ(session.loads()[m].tokens, counted[m]);
    int64_t assignments = 0;
    for (const int64_t count : session.loads()[m].counts) assignments += count;
    EXPECT_EQ(assignments, 2 * counted[m]);
    EXPECT_EQ(session.loads()[m].counts.size(), 6U);
  }
}

TEST(ModalityExperts, OfOneModalityMoreFollowTheSameOrder) {
  // Three modalities, [1 | 2 | 1 | 1]: the third reaches shared experts and the last one.
  Pool pool;
  ModelConfig config = experts_config({{"num_experts", 3}, {"top_k", 3.0}});
  auto modalities = std::make_shared<ModalitiesConfig>();
  modalities->names = {"text", "image", "speech"};
  modalities->first_tokens = {0, 16, 32};
  config.modalities = modalities;
  const Model model(pool, config, 3);
  const Parameter* down = parameter_named(model, "layers.1.experts.w_down");
  ASSERT_EQ(down->value.dim(0), 5);
  testing_support::run_backward(pool, model, tokens_of_modality(pool, 1));
  std::vector<int64_t> reached;
  for (int64_t e = 0; e < 5; ++e) {
    if (!all_zero(part_of(down->grad, e))) reached.push_back(e);
  }
  EXPECT_EQ(reached, (std::vector<int64_t>{1, 2, 4}));
}

TEST(ModalityExperts, RefuseWhatCannotBe) {
  EXPECT_EQ(experts_config({{"own_experts", 7}}).variants[0].second.config->check(),
            "own_experts: found 7, allowed 0 to 6 (num_experts)");
  const ModelConfig config = experts_config({{"router", {{"type", "attention_aware"}}}});
  EXPECT_NE(config.check().find("reads the attention among all tokens"), std::string::npos);
}

}  // namespace
}  // namespace sluice
