// What experts are watched for, against numbers computed by hand.

#include "train/transforms/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "tests/support/error_of.h"
#include "tests/support/transform_source.h"
#include "train/transforms/pruning.h"

namespace sluice {
namespace {

using testing::doubles_in;
using testing::doubles_of;
using testing::error_of;
using ::testing::HasSubstr;
using testing::tiny_checkpoint;
using testing::TransformInputs;

constexpr int64_t kHidden = 16;
constexpr int64_t kWidth = 12;
constexpr int64_t kExperts = 4;

/// Rows of a matrix [rows, n] times x [n].
std::vector<double> times(std::span<const double> matrix, std::span<const double> x) {
  std::vector<double> y;
  for (size_t row = 0; row < matrix.size(); row += x.size()) {
    y.push_back(dot(matrix.subspan(row, x.size()), x));
  }
  return y;
}

/// A model of one expert layer right behind the embedding, computed token by token.
LayerStatistics by_hand(const Checkpoint& checkpoint, const Recipe& recipe,
                        std::span<const Batch> text) {
  const StateDict& state = checkpoint.state;
  const std::vector<double> embedding = doubles_in(state, "model/embedding.weight");
  const std::vector<double> norm = doubles_in(state, "model/layers.0.norm.weight");
  const std::vector<double> router = doubles_in(state, "model/layers.0.router.weight");
  const std::vector<double> gate = doubles_in(state, "model/layers.0.experts.w_gate");
  const std::vector<double> up = doubles_in(state, "model/layers.0.experts.w_up");
  const std::vector<double> down = doubles_in(state, "model/layers.0.experts.w_down");
  const auto of_expert = [](const std::vector<double>& matrices, size_t e) {
    return std::span(matrices).subspan(e * kWidth * kHidden, kWidth * kHidden);
  };
  LayerStatistics sums(kExperts);
  sums.top_k = 2;
  for (const Batch& batch : text) {
    for (size_t t = 0; t < batch.tokens.size(); ++t) {
      if (batch.targets[t] == kIgnoredTarget) continue;
      const auto h =
          std::span(embedding).subspan(static_cast<size_t>(batch.tokens[t]) * kHidden, kHidden);
      const double scale = 1.0 / std::sqrt(dot(h, h) / kHidden + recipe.model.norm.eps);
      std::vector<double> x;
      for (size_t d = 0; d < kHidden; ++d) x.push_back(h[d] * scale * norm[d]);
      const std::vector<double> z = times(router, x);
      const std::vector<int32_t> best = ranked_experts(z);
      const double sum =
          std::exp(z[static_cast<size_t>(best[0])]) + std::exp(z[static_cast<size_t>(best[1])]);
      std::vector<double> routed(kHidden);
      std::vector<double> sizes;
      for (size_t slot = 0; slot < 2; ++slot) {
        const auto e = static_cast<size_t>(best[slot]);
        const double weight = std::exp(z[e]) / sum;
        std::vector<double> a = times(of_expert(gate, e), x);
        const std::vector<double> b = times(of_expert(up, e), x);
        for (size_t i = 0; i < a.size(); ++i) a[i] *= b[i] / (1.0 + std::exp(-a[i]));
        const std::vector<double> y = times(of_expert(down, e), a);
        for (size_t d = 0; d < kHidden; ++d) routed[d] += weight * y[d];
        sizes.push_back(weight * std::sqrt(dot(y, y)));
        sums.chosen[e] += 1.0;
        sums.weights[e] += weight;
      }
      const double turn = turn_of(h, routed);
      for (size_t slot = 0; slot < 2; ++slot) {
        sums.outputs[static_cast<size_t>(best[slot])] += sizes[slot];
        sums.moved[static_cast<size_t>(best[slot])] += turn * sizes[slot];
      }
      sums.tokens += 1;
      sums.logits.insert(sums.logits.end(), z.begin(), z.end());
    }
  }
  return sums;
}

void expect_near(const std::vector<double>& a, const std::vector<double>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-11 * (1.0 + std::abs(b[i])));
}

TEST(Calibration, SeesWhatTheLayerComputes) {
  TransformInputs inputs{
      tiny_checkpoint("model: {pattern: EA, dtype: f64}\nbalance: {type: none}")};
  const std::vector<Batch> text = inputs.text(300);
  const std::vector<LayerStatistics> seen = inputs.watch(text);
  ASSERT_EQ(seen.size(), 1U);
  const LayerStatistics wanted = by_hand(inputs.checkpoint, inputs.model.recipe, text);
  EXPECT_GT(seen[0].tokens, 250);
  EXPECT_EQ(seen[0].tokens, wanted.tokens);
  EXPECT_EQ(seen[0].top_k, 2);
  EXPECT_EQ(seen[0].chosen, wanted.chosen);
  expect_near(seen[0].weights, wanted.weights);
  expect_near(seen[0].outputs, wanted.outputs);
  expect_near(seen[0].moved, wanted.moved);
  expect_near(seen[0].logits, wanted.logits);
  EXPECT_NEAR(std::accumulate(seen[0].weights.begin(), seen[0].weights.end(), 0.0),
              static_cast<double>(seen[0].tokens), 1e-9);
}

TEST(Calibration, AddsUpOverDisjointText) {
  TransformInputs inputs{tiny_checkpoint("model: {dtype: f64}", 2)};
  const std::vector<Batch> text = inputs.text(250);
  ASSERT_GE(text.size(), 2U);
  std::vector<LayerStatistics> first = inputs.watch(std::span(text).first(1));
  const std::vector<LayerStatistics> rest = inputs.watch(std::span(text).subspan(1));
  const std::vector<LayerStatistics> all = inputs.watch(text);
  for (size_t layer = 0; layer < all.size(); ++layer) {
    first[layer].add(rest[layer]);
    EXPECT_EQ(first[layer].tokens, all[layer].tokens);
    EXPECT_EQ(first[layer].chosen, all[layer].chosen);
    EXPECT_EQ(first[layer].logits, all[layer].logits);
    expect_near(first[layer].outputs, all[layer].outputs);
    expect_near(first[layer].moved, all[layer].moved);
  }
}

TEST(Calibration, ScalesOutputsAsTheExpertIsScaled) {
  const Checkpoint before = tiny_checkpoint("model: {dtype: f64}\nbalance: {type: none}");
  Checkpoint scaled = before;
  constexpr double kFactor = -2.5;
  for (double& weight : doubles_of(scaled.state, "model/layers.1.experts.w_down")
                            .subspan(2 * kWidth * kHidden, kWidth * kHidden)) {
    weight *= kFactor;
  }
  TransformInputs a{before};
  TransformInputs b{scaled};
  const std::vector<Batch> text = a.text(300);
  const Tagged reap = criterion_of(reap_criterion);
  const LayerStatistics seen_a = a.watch(text)[0];
  const LayerStatistics seen_b = b.watch(text)[0];
  const std::vector<double> score_a = score_experts(reap, {"layers.1", 1, seen_a});
  const std::vector<double> score_b = score_experts(reap, {"layers.1", 1, seen_b});
  ASSERT_GT(score_a[2], 0.0);
  for (size_t e = 0; e < kExperts; ++e) {
    EXPECT_NEAR(score_b[e], score_a[e] * (e == 2 ? 2.5 : 1.0), 1e-12);
  }
}

TEST(Calibration, WatchesOtherFormsOfExperts) {
  for (const char* form : {"mlp", "narrow", "latent, size: 8"}) {
    TransformInputs inputs{
        tiny_checkpoint(fmt::format("model: {{experts: {{form: {{type: {}}}}}}}", form))};
    const std::vector<Batch> text = inputs.text(100);
    for (const LayerStatistics& seen : inputs.watch(text)) {
      EXPECT_GT(std::accumulate(seen.outputs.begin(), seen.outputs.end(), 0.0), 0.0) << form;
    }
  }
  TransformInputs gru{tiny_checkpoint("model: {experts: {form: {type: gru}}}")};
  const std::vector<Batch> text = gru.text(100);
  EXPECT_THAT(error_of<ConfigError>([&] { (void)gru.watch(text); }),
              HasSubstr("outputs depend on earlier tokens"));
}

TEST(Calibration, ChangesNothingOfTheModel) {
  TransformInputs inputs{tiny_checkpoint("", 2)};
  const auto hash = [&] {
    HashVisitor visitor;
    visit_parameters(*inputs.model.model, visitor);
    inputs.model.routing->visit_state(visitor);
    return visitor.combined();
  };
  const uint64_t before = hash();
  const std::vector<Batch> text = inputs.text(200);
  const std::vector<LayerStatistics> once = inputs.watch(text);
  EXPECT_EQ(hash(), before);
  EXPECT_EQ(inputs.watch(text), once);
}

TEST(CalibrationText, FollowsTheSeedOrTheHeldOutText) {
  const TransformInputs inputs{tiny_checkpoint()};
  CalibrationConfig config;
  config.tokens = 100;
  const auto text = [&](uint64_t seed) {
    return calibration_text(config, seed, inputs.model.recipe, inputs.data);
  };
  EXPECT_EQ(text(1), text(1));
  EXPECT_NE(text(1), text(2));
  config.text = CalibrationConfig::Text::held_out;
  EXPECT_EQ(text(1), text(2));
  const TransformInputs none{tiny_checkpoint("data: {held_out: {fraction: 0}}")};
  EXPECT_THAT(error_of<ConfigError>(
                  [&] { (void)calibration_text(config, 1, none.model.recipe, none.data); }),
              HasSubstr("calibration.text: held_out, but the recipe"));
}

// The worked example of the method page: h = (1, 0), r = (0, 1), g = .5, ||E|| = 2.
TEST(EasyEp, WeighsTokensByHowFarTheyAreTurned) {
  const std::vector<double> h = {1.0, 0.0};
  EXPECT_NEAR(turn_of(h, std::vector<double>{0.0, 1.0}) * 0.5 * 2.0, 0.292893, 1e-6);
  EXPECT_EQ(turn_of(h, std::vector<double>{3.0, 0.0}), 0.0) << "in the stream's own direction";
  EXPECT_NEAR(turn_of(h, std::vector<double>{-2.0, 0.0}), 2.0, 1e-15);
}

LayerStatistics made_up() {
  LayerStatistics seen(3);
  seen.top_k = 2;
  seen.tokens = 4;
  seen.chosen = {4.0, 3.0, 1.0};
  seen.weights = {2.0, 1.6, 0.4};
  seen.outputs = {2.0, 6.0, 3.0};
  seen.moved = {0.1, 0.3, 0.2};
  seen.logits = {2.0, 1.0, 0.0, 3.0, 0.0, -1.0, 0.0, 2.0, 1.0, -3.0, -1.0, -2.0};
  return seen;
}

std::vector<double> scores_of(const CriterionEntry& entry, const LayerStatistics& seen) {
  return score_experts(criterion_of(entry), {"layers.1", 1, seen});
}

TEST(Criteria, AreTheirFormulas) {
  using ::testing::ElementsAre;
  const LayerStatistics seen = made_up();
  EXPECT_THAT(scores_of(frequency_criterion, seen), ElementsAre(0.5, 0.375, 0.125));
  EXPECT_THAT(scores_of(soft_criterion, seen), ElementsAre(0.5, 0.4, 0.1));
  EXPECT_THAT(scores_of(reap_criterion, seen), ElementsAre(0.5, 2.0, 3.0));
  EXPECT_THAT(scores_of(easy_ep_criterion, seen), ElementsAre(0.1, 0.3, 0.2));
  // One candidate per token: raw logits 2 + 3 of expert 0, 2 - 1 of expert 1.
  EXPECT_THAT(scores_of(tcess_criterion, seen), ElementsAre(1.25, 0.25, 0.0));
}

TEST(Criteria, OfTcessLeaveOutWhatIsNotSure) {
  Tagged tcess = criterion_of(tcess_criterion);
  read_or_throw(*tcess.config, parse_yaml("candidates: 2\nthreshold: 0.7\n", "tcess"));
  // Softmax over two: .731 and .269; .953; .731; .731, so never the second one.
  EXPECT_THAT(score_experts(tcess, {"layers.1", 1, made_up()}),
              ::testing::ElementsAre(1.25, 0.25, 0.0));
  Tagged both = criterion_of(tcess_criterion);
  read_or_throw(*both.config, parse_yaml("candidates: 2\nthreshold: 0.0\n", "tcess"));
  // Expert 1 is second of tokens 0 and 1 (1 + 0), expert 2 of tokens 2 and 3 (1 - 2).
  EXPECT_THAT(score_experts(both, {"layers.1", 1, made_up()}),
              ::testing::ElementsAre(1.25, 0.5, -0.25));
}

TEST(Criteria, OfChanceFollowSeedAndLayer) {
  const LayerStatistics seen(16);
  const Tagged random = criterion_of(random_criterion);
  const auto scores = [&](const char* layer, uint64_t seed) {
    return score_experts(random, {layer, seed, seen});
  };
  EXPECT_EQ(scores("layers.1", 1), scores("layers.1", 1));
  EXPECT_NE(scores("layers.1", 1), scores("layers.1", 2));
  EXPECT_NE(scores("layers.1", 1), scores("layers.3", 1));
}

TEST(BestExperts, StandInTheOrderOfTheirNumbers) {
  using ::testing::ElementsAre;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(ranked_experts(std::vector<double>{1.0, nan, 3.0, 1.0}), ElementsAre(2, 0, 3, 1));
  EXPECT_THAT(best_experts(std::vector<double>{1.0, nan, 3.0, 1.0}, 2), ElementsAre(0, 2));
}

}  // namespace
}  // namespace sluice
