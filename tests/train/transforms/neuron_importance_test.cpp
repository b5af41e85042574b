#include "train/transforms/neuron_importance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/train/transforms/upcycling_runs.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

using testing::Dense;
using testing::recipe_of;
using testing::Setting;

/// What an upcycling of the dense model works with.
struct Job {
  explicit Job(const Dense& dense, const Setting& plan)
      : recipe(recipe_of(dense, plan)),
        before(build_trained_model(dense.checkpoint(), dense.path())),
        data(load_dataset(recipe.data, static_cast<uint64_t>(recipe.seed))),
        job{.from = dense.checkpoint(),
            .branches = {},
            .recipe = recipe,
            .before = before,
            .data = data,
            .training = {.packing = {.sequence_length = 32, .seed = 7}, .sequences_per_batch = 4},
            .evaluation = {}} {}
  Recipe recipe;
  TrainedModel before;
  Dataset data;
  UpcycleJob job;
};

const Setting kSharing{"num_experts: 4, top_k: 2, intermediate_size: 6",
                       "scheme: {type: split, order: sharing, measured_tokens: 256}", "f64"};

TEST(NeuronImportance, IsZeroOfANeuronThatIsNotUsed) {
  const Dense dense("f64");
  Job setup(dense, kSharing);
  // Without its column in w_down h_5 does not move the loss; without its row in w_up h_7 is 0.
  const auto parameter = [&](const char* name) -> Parameter& {
    return *parameters_matching(name, *setup.before.model).at(0);
  };
  Tensor& down = parameter("layers.1.feed_forward.w_down").value;
  for (int64_t d = 0; d < 16; ++d) down.data<double>()[d * 24 + 5] = 0.0;
  Tensor& up = parameter("layers.1.feed_forward.w_up").value;
  for (int64_t d = 0; d < 16; ++d) up.data<double>()[7 * 16 + d] = 0.0;
  NeuronImportance importance(setup.job);
  const auto& values = importance.of(1, 256);
  ASSERT_EQ(values.size(), 2U) << "two domains";
  for (const std::vector<double>& domain : values) {
    ASSERT_EQ(domain.size(), 24U);
    for (size_t i = 0; i < 24; ++i) {
      EXPECT_EQ(domain[i] == 0.0, i == 5 || i == 7) << i << ": " << domain[i];
      EXPECT_TRUE(std::isfinite(domain[i]));
    }
  }
  EXPECT_NE(values[0], values[1]);
  EXPECT_THROW((void)importance.of(0, 256), ConfigError);
}

TEST(NeuronImportance, BoundsWhatANeuronDoesToTheLoss) {
  // h_i is linear in row i of w_up: dL/ds at s = 1 for that row times s is the sum over tokens of h_i
  // dL/dh_i, of which the sum of absolute values is no less.
  const Dense dense("f64");
  Job setup(dense, kSharing);
  TrainedModel& trained = setup.before;
  Parameter& up = *parameters_matching("layers.3.feed_forward.w_up", *trained.model).at(0);
  const auto loss = [&](int64_t neuron, double factor) {
    const Tensor saved = up.value.clone(*trained.pool);
    for (int64_t d = 0; d < 16; ++d) up.value.data<double>()[neuron * 16 + d] *= factor;
    Loader loader(setup.data, setup.job.training);
    const Batch batch = loader.next();
    SingleRank communicator;
    const std::vector<double> losses =
        token_losses({*trained.pool, *trained.model, *trained.routing, communicator}, batch, {});
    up.value.copy_from(saved);
    double sum = 0.0;
    for (const double value : losses) sum += value;
    return sum / static_cast<double>(batch.valid_targets());
  };
  NeuronImportance importance(setup.job);
  const auto& values = importance.of(3, 1);
  constexpr double kTokens = 128.0;
  for (const int64_t neuron : {0, 9, 23}) {
    const double step = 1e-5;
    const double slope = (loss(neuron, 1.0 + step) - loss(neuron, 1.0 - step)) / (2.0 * step);
    double sum = 0.0;
    for (const std::vector<double>& domain : values) sum += domain[static_cast<size_t>(neuron)];
    EXPECT_GE(sum * kTokens, std::abs(slope) * (1.0 - 1e-6)) << neuron;
    EXPECT_GT(std::abs(slope), 0.0);
  }
}

TEST(SharingSplit, GivesEachDomainItsNeuronsAndSharesThoseOfAll) {
  const Dense dense("f64");
  Setting plan = kSharing;
  plan.experts += ", shared: {num_experts: 1, intermediate_size: 8}";
  Job setup(dense, plan);
  NeuronImportance importance(setup.job);
  const auto& config = setup.job.config();
  const auto scheme = upcycling_registry().at("split").make(*config.scheme.config);
  const LayerNeurons neurons = scheme->choose(
      {.name = "layers.1",
       .seed = 7,
       .num_experts = 4,
       .top_k = 2,
       .expert_width = 6,
       .shared_width = 8,
       .dense_width = 24,
       .hidden_size = 16,
       .dense_gate = dense.checkpoint().state.at("model/layers.1.feed_forward.w_gate"),
       .sublayer = 1,
       .importance = &importance});
  const std::set<int32_t> shared(neurons.shared.source.begin(), neurons.shared.source.end());
  EXPECT_EQ(shared.size(), 8U);
  ASSERT_EQ(neurons.experts.size(), 4U);
  for (const NeuronChoice& expert : neurons.experts) {
    const std::set<int32_t> own(expert.source.begin(), expert.source.end());
    EXPECT_EQ(own.size(), 6U);
    for (const int32_t i : own) EXPECT_FALSE(shared.contains(i));
  }
  EXPECT_EQ(neurons.experts[0].source, neurons.experts[2].source) << "of the same domain";
  // Expert 0 has the most important of what is not shared.
  const std::vector<double>& values = importance.of(1, 256)[0];
  double least = 1e300;
  for (const int32_t i : neurons.experts[0].source) {
    least = std::min(least, values[static_cast<size_t>(i)]);
  }
  for (int32_t i = 0; i < 24; ++i) {
    const auto& own = neurons.experts[0].source;
    if (shared.contains(i) || std::ranges::find(own, i) != own.end()) continue;
    EXPECT_LE(values[static_cast<size_t>(i)], least);
  }
}

}  // namespace
}  // namespace sluice
