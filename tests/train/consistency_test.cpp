// Two passes over every micro-batch and the loss on their distance (train.consistency).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tests/support/step_bench.h"
#include "tests/support/thread_ranks.h"
#include "tests/support/tiny_model.h"
#include "train/model_input.h"

namespace sluice {
namespace {

using testing::Bench;
using ::testing::IsEmpty;
using testing::parameter;
using testing::tiny_dense_recipe;
using testing::tiny_recipe;
using testing::uneven_batch;

constexpr std::string_view kConsistency = "train: {consistency: {coefficient: 5.0}}\n";

/// One expert layer of four experts, of which each pass draws one.
Recipe thor_recipe(const std::string& dtype = "f64", double dropout = 0.0,
                   std::string_view train = kConsistency) {
  return tiny_recipe(
      fmt::format("model: {{pattern: AE, dtype: {}, dropout: {}, experts: {{top_k: 1, router: "
                  "{{type: thor}}}}}}\nbalance: {{type: none}}\n{}",
                  dtype, dropout, train));
}

/// log softmax of row n of logits [N, V], which are f64.
std::vector<double> log_prediction(const Tensor& logits, int64_t n) {
  const int64_t V = logits.dim(1);
  const double* z = logits.data<double>() + n * V;
  double total = 0.0;
  for (int64_t v = 0; v < V; ++v) total += std::exp(z[v]);
  std::vector<double> result(z, z + V);
  for (double& value : result) value -= std::log(total);
  return result;
}

TEST(ConsistencyLoss, IsThatOfTwoPassesWithRandomNumbersOfTheirOwn) {
  const std::string model = "model: {dtype: f64, dropout: 0.2}\n";
  Bench bench(tiny_dense_recipe(model + std::string(kConsistency)));
  const Batch batch = uneven_batch();
  const Progress progress{.step = 3};
  std::array<Tensor, 2> logits;
  for (uint64_t pass = 0; pass < 2; ++pass) {
    Batch own = batch;
    for (uint64_t& sample : own.global_sample) sample |= pass << 63;
    const ModelInput input = make_model_input(bench.pool, own);
    Tape tape(bench.pool);
    const NoGrad no_grad(tape);
    const ForwardContext context{.tape = tape,
                                 .layout = input.layout,
                                 .routing = bench.routing.get(),
                                 .training = true,
                                 .seed = 11,
                                 .progress = progress};
    logits[pass] = bench.model->logits(context, bench.model->forward(context, input.tokens).hidden);
  }
  double loss = 0.0;
  double divergence = 0.0;
  for (int64_t n = 0; n < batch.num_tokens(); ++n) {
    const int32_t target = batch.targets[static_cast<size_t>(n)];
    if (target == kIgnoredTarget) continue;
    const std::vector<double> p = log_prediction(logits[0], n);
    const std::vector<double> q = log_prediction(logits[1], n);
    loss -= p[static_cast<size_t>(target)] + q[static_cast<size_t>(target)];
    for (size_t v = 0; v < p.size(); ++v) {
      divergence += 0.5 * (std::exp(p[v]) - std::exp(q[v])) * (p[v] - q[v]);
    }
  }
  const auto valid = static_cast<double>(batch.valid_targets());
  const StepResult result = bench.step.run(batch, progress);
  ASSERT_TRUE(result.applied) << result.problem;
  EXPECT_NEAR(result.loss, loss / (2.0 * valid), 1e-12);
  ASSERT_TRUE(result.consistency);
  EXPECT_NEAR(*result.consistency, 5.0 * divergence / (2.0 * valid), 1e-12);
  EXPECT_GT(*result.consistency, 1e-4);
  EXPECT_EQ(result.tokens, batch.num_tokens());
  EXPECT_EQ(result.valid_tokens, batch.valid_targets());
}

TEST(ConsistencyLoss, IsZeroWithoutRandomNumbersAndChangesNothingThen) {
  const std::string model = "model: {dtype: f64}\n";
  Bench once(tiny_recipe(model));
  Bench twice(tiny_recipe(model + std::string(kConsistency)));
  const StepResult expected = once.step.run(uneven_batch(), {});
  const StepResult result = twice.step.run(uneven_batch(), {});
  EXPECT_FALSE(expected.consistency);
  EXPECT_EQ(result.consistency, 0.0);
  EXPECT_NEAR(result.loss, expected.loss, 1e-13);
  EXPECT_NEAR(result.grad_norm, expected.grad_norm, 1e-13);
  const auto parameters = twice.model->parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_LE(
        testing_support::relative_distance(parameters[i]->grad, once.model->parameters()[i]->grad),
        1e-12)
        << parameters[i]->name;
  }
}

TEST(ConsistencyLoss, OfThorIsZeroWhenTheDrawsCoincideAndTrainsDrawnExpertsOnly) {
  int coincide = 0;
  int differ = 0;
  for (int64_t step = 0; step < 12; ++step) {
    Bench bench(thor_recipe());
    const StepResult result = bench.step.run(uneven_batch(), {.step = step});
    const std::vector<int64_t>& load = bench.routing->loads()[0].counts;
    const auto drawn =
        std::count_if(load.begin(), load.end(), [](int64_t count) { return count > 0; });
    ASSERT_TRUE(drawn == 1 || drawn == 2) << drawn;
    (drawn == 1 ? coincide : differ) += 1;
    if (drawn == 1) {
      EXPECT_EQ(result.consistency, 0.0);
    } else {
      EXPECT_GT(result.consistency, 0.0);
      EXPECT_EQ(*std::max_element(load.begin(), load.end()), result.valid_tokens);
    }
    const Tensor& grad = parameter(bench, "layers.1.experts.w_up").grad;
    const int64_t size = grad.numel() / grad.dim(0);
    for (int64_t e = 0; e < grad.dim(0); ++e) {
      const auto of_expert =
          grad.span<double>().subspan(static_cast<size_t>(e * size), static_cast<size_t>(size));
      const bool is_trained =
          std::any_of(of_expert.begin(), of_expert.end(), [](double g) { return g != 0.0; });
      EXPECT_EQ(is_trained, load[static_cast<size_t>(e)] > 0) << e;
    }
  }
  EXPECT_GT(coincide, 0);
  EXPECT_GT(differ, 0);
}

TEST(ConsistencyLoss, IsTheSameHoweverTheBatchIsCut) {
  const Recipe recipe = thor_recipe("f64", 0.1);
  Bench whole(recipe);
  const StepResult expected = whole.step.run(uneven_batch(), {});
  ASSERT_EQ(expected.micro_batches, 1);
  for (const int64_t parts : {2, 4, 8}) {
    // The limit is for both passes together.
    Bench cut(recipe, 2 * 160 / parts);
    const StepResult result = cut.step.run(uneven_batch(), {});
    ASSERT_EQ(result.micro_batches, parts);
    EXPECT_EQ(cut.routing->loads(), whole.routing->loads());
    EXPECT_NEAR(result.loss, expected.loss, 1e-12);
    EXPECT_NEAR(*result.consistency, *expected.consistency, 1e-12);
    const auto parameters = cut.model->parameters();
    for (size_t i = 0; i < parameters.size(); ++i) {
      EXPECT_LE(testing_support::relative_distance(parameters[i]->grad,
                                                   whole.model->parameters()[i]->grad),
                1e-12)
          << parameters[i]->name << " in " << parts << " micro-batches";
    }
  }
}

TEST(ConsistencyLoss, GivesTheSameUpdateOnSeveralRanks) {
  const Recipe recipe = thor_recipe("f64", 0.1);
  const Batch batch = uneven_batch();
  Bench alone(recipe);
  const StepResult expected = alone.step.run(batch, {});
  testing::ThreadRanks::run(2, [&](Communicator& communicator) {
    const Batch share =
        communicator.rank() == 0 ? batch.slice_sequences(0, 3) : batch.slice_sequences(3, 8);
    Bench bench(recipe, 90, communicator);
    const StepResult result = bench.step.run(share, {});
    EXPECT_NEAR(result.loss, expected.loss, 1e-12);
    EXPECT_NEAR(*result.consistency, *expected.consistency, 1e-12);
    EXPECT_NEAR(result.grad_norm, expected.grad_norm, 1e-12);
  });
}

TEST(ConsistencyLoss, IsRecomputedBitForBit) {
  for (const std::string what : {"experts", "all"}) {
    Bench twice(thor_recipe("f32", 0.1,
                            fmt::format("train: {{recompute: {}, consistency: {{coefficient: "
                                        "5.0}}}}",
                                        what)),
                80);
    Bench once(thor_recipe("f32", 0.1), 80);
    for (int64_t i = 0; i < 3; ++i) {
      const StepResult a = once.step.run(uneven_batch(), {.step = i});
      const StepResult b = twice.step.run(uneven_batch(), {.step = i});
      EXPECT_EQ(a.loss, b.loss);
      EXPECT_EQ(a.consistency, b.consistency);
    }
    EXPECT_THAT(testing::differing_arrays(once.state(), twice.state()), IsEmpty()) << what;
  }
}

TEST(ConsistencyLoss, ResumesBitForBit) {
  const Recipe recipe = thor_recipe("f32", 0.1);
  SingleRank communicator;
  sluice::Run whole(recipe, communicator);
  for (int i = 0; i < 6; ++i) (void)whole.step();
  sluice::Run half(recipe, communicator);
  for (int i = 0; i < 3; ++i) (void)half.step();
  sluice::Run resumed(recipe, communicator, half.checkpoint({}), "memory");
  for (int i = 0; i < 3; ++i) (void)resumed.step();
  EXPECT_THAT(testing::differing_arrays(testing::state_of(resumed), testing::state_of(whole)),
              IsEmpty());
}

TEST(ConsistencyLoss, IsPlannedAsItRuns) {
  const Recipe recipe = thor_recipe("f32");
  Pool shapes(Pool::Mode::shapes_only);
  SingleRank communicator;
  const auto model = build_model(recipe, shapes, 64);
  const auto routing = build_routing(recipe);
  const auto optimizer = build_optimizer(recipe, *model, shapes);
  TrainingStep planned({shapes, *model, *routing, *optimizer, communicator},
                       {.consistency = recipe.train.consistency_coefficient()});
  Bench real(recipe);
  Bench once(thor_recipe("f32", 0.0, ""));
  (void)planned.run(uneven_batch(), {});
  (void)real.step.run(uneven_batch(), {});
  (void)once.step.run(uneven_batch(), {});
  EXPECT_EQ(planned.meter().total().flops, real.step.meter().total().flops);
  EXPECT_GT(real.step.meter().total().flops, 2.0 * once.step.meter().total().flops);
}

}  // namespace
}  // namespace sluice
