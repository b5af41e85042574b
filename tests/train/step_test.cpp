#include "train/step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/support/error.h"
#include "tests/support/step_bench.h"
#include "tests/support/thread_ranks.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_run.h"
#include "train/model_input.h"

namespace sluice {
namespace {

using testing::Bench;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::make_batch;
using testing::parameter;
using testing::tiny_recipe;
using testing::uneven_batch;

/// The experts of every token in the last step, [layer][token, k], in the order of the batch.
std::vector<std::vector<int32_t>> selections(const Bench& bench, int64_t micro_batches) {
  RoutingSession& routing = *bench.routing;
  std::vector<std::vector<int32_t>> experts(static_cast<size_t>(routing.layers()));
  for (int64_t i = 0; i < micro_batches; ++i) {
    routing.begin_micro_batch(i);
    for (size_t layer = 0; layer < experts.size(); ++layer) {
      const Selection& selection = routing.select(static_cast<int64_t>(layer), /*replay=*/true, 0,
                                                  [](Balancer&, Selection&) {});
      experts[layer].insert(experts[layer].end(), selection.expert.begin(), selection.expert.end());
    }
  }
  return experts;
}

// --- splitting -----------------------------------------------------------------------------------

TEST(MicroBatches, AreWholeSequencesUpToTheLimit) {
  const Batch batch = make_batch({{5}, {3, 2}, {6}, {4}});
  const auto parts = split_into_micro_batches(batch, 10);
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[0].num_tokens(), 10);
  EXPECT_EQ(parts[1].num_tokens(), 10);
  EXPECT_EQ(parts[1].global_sample, (std::vector<uint64_t>{2, 3}));
}

TEST(MicroBatches, LeaveALongSequenceWhole) {
  const Batch batch = make_batch({{5}, {30}, {5}});
  const auto parts = split_into_micro_batches(batch, 10);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[1].num_tokens(), 30);
}

TEST(MicroBatches, OfNothingAreNone) { EXPECT_THAT(split_into_micro_batches({}, 10), IsEmpty()); }

// --- accumulation --------------------------------------------------------------------------------

struct AccumulationCase {
  std::string dtype;
  std::string balance;
  double tolerance;  // of ||difference|| / ||gradient||, per parameter
  std::string router = "{type: top_k}";

  friend void PrintTo(const AccumulationCase& test, std::ostream* out) {
    *out << test.dtype << ", " << test.balance << ", " << test.router;
  }
};

constexpr const char* kJitter = "{type: top_k, jitter: 0.1}";
constexpr const char* kNoise = "{type: noisy_top_k, jitter: 0.1}";

class Accumulation : public ::testing::TestWithParam<AccumulationCase> {};

TEST_P(Accumulation, GivesTheSameStepHoweverTheBatchIsCut) {
  const auto& [dtype, balance, tolerance, router] = GetParam();
  const Recipe recipe =
      tiny_recipe(fmt::format("model: {{dtype: {}, dropout: 0.1, experts: {{router: {}}}}}\n"
                              "balance: {}\ntrain: {{head_z_loss: 1.0e-3}}",
                              dtype, router, balance));
  const Batch batch = uneven_batch();
  Bench whole(recipe);
  const StepResult expected = whole.step.run(batch, {});
  ASSERT_TRUE(expected.applied) << expected.problem;
  ASSERT_EQ(expected.micro_batches, 1);
  for (const int64_t parts : {2, 4, 8}) {
    Bench cut(recipe, 160 / parts);
    const StepResult result = cut.step.run(batch, {});
    ASSERT_EQ(result.micro_batches, parts);
    EXPECT_EQ(selections(cut, parts), selections(whole, 1)) << parts << " micro-batches";
    EXPECT_EQ(cut.routing->loads(), whole.routing->loads()) << parts << " micro-batches";
    EXPECT_NEAR(result.loss, expected.loss, tolerance * std::abs(expected.loss));
    for (size_t kind = 0; kind < kLossKinds; ++kind) {
      EXPECT_NEAR(result.auxiliary[kind], expected.auxiliary[kind],
                  tolerance * std::abs(expected.auxiliary[kind]));
    }
    const auto cut_parameters = cut.model->parameters();
    const auto whole_parameters = whole.model->parameters();
    for (size_t i = 0; i < cut_parameters.size(); ++i) {
      EXPECT_LE(
          testing_support::relative_distance(cut_parameters[i]->grad, whole_parameters[i]->grad),
          tolerance)
          << cut_parameters[i]->name << " in " << parts << " micro-batches";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    EveryMethod, Accumulation,
    ::testing::Values(AccumulationCase{"f32", "{type: none}", 1e-5},
                      AccumulationCase{"f64", "{type: none}", 1e-12},
                      AccumulationCase{"f32", "{type: global_aux_loss}", 1e-5},
                      AccumulationCase{"f64", "{type: global_aux_loss}", 1e-12},
                      AccumulationCase{"f64", "{type: sequence_aux_loss}", 1e-12},
                      AccumulationCase{"f64", "{type: loss_free_bias}", 1e-12},
                      AccumulationCase{"f64", "[{type: global_aux_loss}, {type: router_z_loss}]",
                                       1e-12},
                      AccumulationCase{"f32", "{type: global_aux_loss}", 1e-5, kJitter},
                      AccumulationCase{"f64", "{type: none}", 1e-12, kJitter},
                      AccumulationCase{"f32", "{type: none}", 1e-5, kNoise},
                      AccumulationCase{"f64", "{type: global_aux_loss}", 1e-12, kNoise}),
    [](const auto& test) {
      std::string name = test.param.dtype;
      for (const char c : test.param.balance + test.param.router) {
        if (std::isalpha(static_cast<unsigned char>(c)) != 0) name += c;
      }
      return name;
    });

TEST(TrainingStep, GivesTheSameUpdateOnSeveralRanks) {
  const Recipe recipe = tiny_recipe(
      "model: {dtype: f64, dropout: 0.1}\n"
      "balance: [{type: global_aux_loss}, {type: router_z_loss}]");
  const Batch batch = uneven_batch();
  Bench alone(recipe);
  const StepResult expected = alone.step.run(batch, {});
  testing::ThreadRanks::run(2, [&](Communicator& communicator) {
    const int64_t rank = communicator.rank();
    // Unequal shares, in micro-batches of different sizes.
    const Batch share = rank == 0 ? batch.slice_sequences(0, 3) : batch.slice_sequences(3, 8);
    Bench bench(recipe, 45, communicator);
    const StepResult result = bench.step.run(share, {});
    EXPECT_TRUE(result.applied) << result.problem;
    EXPECT_EQ(result.tokens, expected.tokens);
    EXPECT_EQ(result.valid_tokens, expected.valid_tokens);
    EXPECT_NEAR(result.loss, expected.loss, 1e-12);
    EXPECT_NEAR(result.grad_norm, expected.grad_norm, 1e-12);
    EXPECT_EQ(bench.routing->loads(), alone.routing->loads());
    const auto parameters = bench.model->parameters();
    for (size_t i = 0; i < parameters.size(); ++i) {
      // Every rank holds all experts and has seen its own tokens only: their gradients are summed
      // like all others.
      EXPECT_LE(testing_support::relative_distance(parameters[i]->value,
                                                   alone.model->parameters()[i]->value),
                1e-12)
          << parameters[i]->name << " on rank " << rank;
    }
  });
}

/// What a step saw of routers, [layer, figure].
std::vector<double> figures(const std::vector<RouterStatistics>& layers) {
  std::vector<double> values;
  for (const RouterStatistics& of : layers) {
    values.insert(values.end(), {of.entropy, of.logit_norm, of.top_margin, of.chosen_probability});
  }
  return values;
}

constexpr StepWatch kEverything{.routers = true, .experts = true};

TEST(TrainingStep, SeesTheSameOfRoutersHoweverTheBatchIsCut) {
  const Recipe recipe = tiny_recipe(
      "model: {dtype: f64}\nbalance: [{type: global_aux_loss}, {type: router_z_loss}]\n"
      "train: {recompute: all}");
  const Batch batch = uneven_batch();
  Bench whole(recipe);
  const auto expected = figures(whole.step.run(batch, {}, kEverything).routers);
  ASSERT_THAT(expected, ::testing::SizeIs(8));
  EXPECT_GT(expected.front(), 0.0);
  const auto near = ::testing::Pointwise(::testing::DoubleNear(1e-12), expected);
  for (const int64_t parts : {2, 8}) {
    // With a counting pass, which must not be seen.
    Bench cut(recipe, 160 / parts);
    EXPECT_THAT(figures(cut.step.run(batch, {}, kEverything).routers), near) << parts;
  }
  testing::ThreadRanks::run(2, [&](Communicator& communicator) {
    const Batch share =
        communicator.rank() == 0 ? batch.slice_sequences(0, 3) : batch.slice_sequences(3, 8);
    Bench bench(recipe, 45, communicator);
    EXPECT_THAT(figures(bench.step.run(share, {}, kEverything).routers), near);
  });
}

TEST(TrainingStep, IsNotChangedByWatching) {
  const Batch batch = uneven_batch();
  Bench plain(tiny_recipe(), 40);
  Bench watched(tiny_recipe(), 40);
  for (int64_t i = 0; i < 3; ++i) {
    const StepResult a = plain.step.run(batch, {.step = i});
    const StepResult b = watched.step.run(batch, {.step = i}, kEverything);
    EXPECT_THAT(a.routers, IsEmpty());
    EXPECT_THAT(a.experts, IsEmpty());
    EXPECT_EQ(b.experts.size(), 2u);
    EXPECT_EQ(a.loss, b.loss);
  }
  EXPECT_THAT(testing::differing_arrays(plain.state(), watched.state()), IsEmpty());
  EXPECT_EQ(plain.pool.peak().total(), watched.pool.peak().total());
}

// --- the exact global-batch loss ------------------------------------------------------------------

/// The gradient that the auxiliary loss alone gives every parameter: of a step with a coefficient,
/// less that of the same step without.
class AuxiliaryGradient {
 public:
  explicit AuxiliaryGradient(std::string form) : form_(std::move(form)) {}

  [[nodiscard]] std::vector<std::vector<double>> of(const Batch& batch, int64_t micro_batch_tokens,
                                                    Communicator& communicator) const {
    auto with = gradients(1.0, batch, micro_batch_tokens, communicator);
    const auto without = gradients(0.0, batch, micro_batch_tokens, communicator);
    for (size_t p = 0; p < with.size(); ++p) {
      for (size_t i = 0; i < with[p].size(); ++i) with[p][i] -= without[p][i];
    }
    return with;
  }
  [[nodiscard]] Recipe recipe(double coefficient) const {
    // Weights so large that routing is far from even and differs from token to token.
    Recipe recipe = tiny_recipe(
        fmt::format("model: {{dtype: f64}}\nbalance: {{{}, coefficient: {}}}", form_, coefficient));
    recipe.model.init.std = 0.2;
    return recipe;
  }

 private:
  [[nodiscard]] std::vector<std::vector<double>> gradients(double coefficient, const Batch& batch,
                                                           int64_t micro_batch_tokens,
                                                           Communicator& communicator) const {
    Bench bench(recipe(coefficient), micro_batch_tokens, communicator);
    EXPECT_TRUE(bench.step.run(batch, {}).applied);
    std::vector<std::vector<double>> result;
    for (Parameter* p : bench.model->parameters()) {
      const auto values = p->grad.span<double>();
      result.emplace_back(values.begin(), values.end());
    }
    return result;
  }
  std::string form_;
};

/// ||a - b|| / ||b|| over all parameters together.
double distance(const std::vector<std::vector<double>>& a,
                const std::vector<std::vector<double>>& b) {
  double difference = 0.0;
  double size = 0.0;
  for (size_t p = 0; p < b.size(); ++p) {
    for (size_t i = 0; i < b[p].size(); ++i) {
      difference += std::pow(a[p][i] - b[p][i], 2);
      size += std::pow(b[p][i], 2);
    }
  }
  EXPECT_GT(size, 0.0);
  return std::sqrt(difference / size);
}

/// Share of every expert in each micro-batch of the last step, [micro-batch][expert], of one layer.
std::vector<std::vector<double>> loads_of_micro_batches(const Bench& bench, int64_t parts,
                                                        int64_t layer) {
  std::vector<std::vector<double>> shares;
  for (int64_t i = 0; i < parts; ++i) {
    bench.routing->begin_micro_batch(i);
    const Selection& selection =
        bench.routing->select(layer, /*replay=*/true, 0, [](Balancer&, Selection&) {});
    double total = 0.0;
    for (const int64_t count : selection.load) total += static_cast<double>(count);
    shares.emplace_back();
    for (const int64_t count : selection.load) {
      shares.back().push_back(static_cast<double>(count) / total);
    }
  }
  return shares;
}

constexpr const char* kExact = "type: global_aux_loss, counts: exact";

TEST(ExactGlobalLoss, IsTestedWithRoutingThatDiffersBetweenMicroBatches) {
  const Recipe recipe = AuxiliaryGradient(kExact).recipe(1.0);
  for (const int64_t parts : {2, 4, 8}) {
    Bench bench(recipe, 160 / parts);
    ASSERT_EQ(bench.step.run(uneven_batch(), {}).micro_batches, parts);
    for (int64_t layer = 0; layer < bench.routing->layers(); ++layer) {
      const auto shares = loads_of_micro_batches(bench, parts, layer);
      for (size_t i = 1; i < shares.size(); ++i) {
        double greatest = 0.0;
        for (size_t e = 0; e < shares[i].size(); ++e) {
          greatest = std::max(greatest, std::abs(shares[i][e] - shares[0][e]));
        }
        EXPECT_GT(greatest, 0.01) << "layer " << layer << ", micro-batch " << i << " of " << parts;
      }
    }
  }
}

TEST(ExactGlobalLoss, HasTheSameGradientForOneTwoFourAndEightMicroBatches) {
  SingleRank alone;
  const AuxiliaryGradient exact(kExact);
  const AuxiliaryGradient local("type: aux_loss");
  const Batch batch = uneven_batch();
  const auto whole = exact.of(batch, 1 << 20, alone);
  for (const int64_t parts : {1, 2, 4, 8}) {
    EXPECT_LE(distance(exact.of(batch, 160 / parts, alone), whole), 1e-12) << parts;
    // The loss per micro-batch would not do: the cut matters.
    if (parts > 1) {
      EXPECT_GT(distance(local.of(batch, 160 / parts, alone), whole), 1e-2) << parts;
    }
  }
}

TEST(ExactGlobalLoss, HasTheSameGradientOnTwoAndFourRanks) {
  SingleRank alone;
  const AuxiliaryGradient exact(kExact);
  const Batch batch = uneven_batch();
  const auto whole = exact.of(batch, 1 << 20, alone);
  // Unequal shares, each in one or several micro-batches.
  const std::vector<std::vector<int64_t>> cuts = {{0, 3, 8}, {0, 1, 2, 5, 8}};
  for (const std::vector<int64_t>& cut : cuts) {
    const auto ranks = static_cast<int>(cut.size()) - 1;
    for (const int64_t micro_batch_tokens : {20, 45, 1 << 20}) {
      testing::ThreadRanks::run(ranks, [&](Communicator& communicator) {
        const auto rank = static_cast<size_t>(communicator.rank());
        const Batch share = batch.slice_sequences(cut[rank], cut[rank + 1]);
        EXPECT_LE(distance(exact.of(share, micro_batch_tokens, communicator), whole), 1e-12)
            << ranks << " ranks, " << micro_batch_tokens << " tokens a micro-batch, rank " << rank;
      });
    }
  }
}

TEST(RunningGlobalLoss, OfOneMicroBatchPerRankIsTheExactLoss) {
  SingleRank alone;
  const AuxiliaryGradient exact(kExact);
  const AuxiliaryGradient running("type: global_aux_loss, counts: running");
  const AuxiliaryGradient local("type: aux_loss");
  const Batch batch = uneven_batch();
  const auto whole = exact.of(batch, 1 << 20, alone);
  testing::ThreadRanks::run(2, [&](Communicator& communicator) {
    const Batch share =
        communicator.rank() == 0 ? batch.slice_sequences(0, 3) : batch.slice_sequences(3, 8);
    EXPECT_LE(distance(running.of(share, 1 << 20, communicator), whole), 1e-12);
    // Ranks with unequal numbers of micro-batches wait for nothing that does not come.
    EXPECT_LT(distance(running.of(share, 20, communicator), whole),
              distance(local.of(share, 20, communicator), whole));
  });
}

TEST(TrainingStep, ReplaysSelectionsWhenItRecomputes) {
  const Batch batch = uneven_batch();
  const auto methods = {std::pair{"{type: top_k}", "{type: loss_free_bias}"},
                        std::pair{kNoise, "{type: loss_free_bias}"},
                        std::pair{"{type: norm_router}", "{type: pool_aux_loss}"}};
  for (const auto& [router, balance] : methods) {
    const std::string model = fmt::format(
        "model: {{dropout: 0.1, experts: {{router: {}}}}}\nbalance: {}", router, balance);
    for (const std::string what : {"experts", "all"}) {
      Bench plain(tiny_recipe(model), 40);
      Bench twice(tiny_recipe(model + "\ntrain: {recompute: " + what + "}"), 40);
      for (int64_t i = 0; i < 3; ++i) {
        const StepResult a = plain.step.run(batch, {.step = i});
        const StepResult b = twice.step.run(batch, {.step = i});
        EXPECT_EQ(a.loss, b.loss);
        EXPECT_EQ(a.grad_norm, b.grad_norm);
      }
      EXPECT_THAT(testing::differing_arrays(plain.state(), twice.state()), IsEmpty())
          << router << ", recompute: " << what;
    }
  }
}

// --- what a step does ----------------------------------------------------------------------------

TEST(TrainingStep, LearnsABatchByHeart) {
  Bench bench(tiny_recipe());
  const Batch batch = uneven_batch();
  const double first = bench.step.run(batch, {}).loss;
  double last = first;
  for (int64_t i = 1; i < 60; ++i) last = bench.step.run(batch, {.step = i}).loss;
  EXPECT_NEAR(first, std::log(64.0), 0.1);
  EXPECT_LT(last, 0.6 * first);
}

TEST(TrainingStep, LeavesFrozenParametersAsTheyAre) {
  Bench bench(tiny_recipe("train: {freeze: [\"embedding.*\", \"*.router.*\"]}"));
  const StateDict before = bench.state();
  (void)bench.step.run(uneven_batch(), {});
  const StateDict after = bench.state();
  for (const auto& [name, array] : before) {
    const bool is_frozen =
        name.starts_with("embedding.") ||
        (name.starts_with("layers") && name.find(".router.") != std::string::npos);
    if (is_frozen) {
      EXPECT_EQ(after.at(name), array) << name;
    }
    if (name == "layers.1.experts.w_up") {
      EXPECT_NE(after.at(name), array);
    }
  }
  EXPECT_FALSE(parameter(bench, "embedding.weight").grad.defined());
}

TEST(TrainingStep, LeavesEverythingAsItIsWhenNoTokenHasALoss) {
  Bench bench(tiny_recipe());
  Batch batch = make_batch({{4}});
  std::fill(batch.targets.begin(), batch.targets.end(), kIgnoredTarget);
  const StateDict before = bench.state();
  const StepResult result = bench.step.run(batch, {});
  EXPECT_TRUE(result.empty);
  EXPECT_FALSE(result.applied);
  EXPECT_EQ(result.problem, "none of the 4 tokens of the global batch has a loss");
  EXPECT_EQ(bench.state(), before);
}

TEST(TrainingStep, CountsItsWorkByPhase) {
  Bench bench(tiny_recipe());
  (void)bench.step.run(uneven_batch(), {});
  const CostMeter& meter = bench.step.meter();
  EXPECT_GT(meter.phase_total(Phase::attention).flops, 0.0);
  EXPECT_GT(meter.phase_total(Phase::experts).flops, 0.0);
  EXPECT_GT(meter.phase_total(Phase::embedding_and_loss).flops, 0.0);
  EXPECT_GT(meter.phase_total(Phase::optimizer).seconds, 0.0);
}

TEST(TrainingStep, CountsTheTimeOfBalancingApart) {
  const auto meter_of = [](const std::string& balance, int64_t micro_batch_tokens) {
    Bench bench(tiny_recipe("balance: " + balance), micro_batch_tokens);
    (void)bench.step.run(uneven_batch(), {});
    return bench.step.meter();
  };
  const CostMeter exact = meter_of("{type: global_aux_loss}", 40);
  EXPECT_GT(exact.at(Phase::balancing, Direction::forward).seconds, 0.0);
  EXPECT_GT(exact.at(Phase::balancing, Direction::backward).seconds, 0.0);
  // The counting pass: what every part of the model does forward, again.
  EXPECT_EQ(exact.at(Phase::experts, Direction::extra).flops,
            exact.at(Phase::experts, Direction::forward).flops);
  EXPECT_GT(exact.at(Phase::experts, Direction::extra).flops, 0.0);
  // None when the step is one micro-batch.
  const CostMeter whole = meter_of("{type: global_aux_loss}", 1 << 20);
  EXPECT_EQ(whole.direction_total(Direction::extra).seconds, 0.0);
  EXPECT_EQ(whole.direction_total(Direction::extra).calls, 0);
  // A method that only routes has no backward.
  const CostMeter bip = meter_of("{type: bip}", 40);
  EXPECT_GT(bip.at(Phase::balancing, Direction::forward).seconds, 0.0);
  EXPECT_EQ(bip.at(Phase::balancing, Direction::backward).calls, 0);
}

TEST(TrainingStep, RunsOnAPoolForShapesOnly) {
  const Recipe recipe = tiny_recipe("balance: {type: global_aux_loss}");
  Pool shapes(Pool::Mode::shapes_only);
  SingleRank communicator;
  const auto model = build_model(recipe, shapes, 64);
  const auto routing = build_routing(recipe);
  const auto optimizer = build_optimizer(recipe, *model, shapes);
  TrainingStep planned({shapes, *model, *routing, *optimizer, communicator}, {});
  Bench real(recipe);
  (void)planned.run(uneven_batch(), {});
  (void)real.step.run(uneven_batch(), {});
  EXPECT_EQ(planned.meter().total().flops, real.step.meter().total().flops);
  EXPECT_EQ(shapes.in_use()[MemoryKind::gradients], real.pool.in_use()[MemoryKind::gradients]);
}

// --- numbers that are not finite -----------------------------------------------------------------

/// Token 63 does not occur in uneven_batch().
constexpr int32_t kPoisonedToken = 63;

/// By `balance`: a method may learn between the micro-batches of a step, or at its end.
class NonFinite : public ::testing::TestWithParam<const char*> {
 protected:
  // An untied head, so that a poisoned embedding reaches only batches with its token. Four
  // micro-batches, the first of them poisoned.
  Recipe recipe_ =
      tiny_recipe(fmt::format("model: {{tie_embeddings: false}}\nbalance: {}", GetParam()));
  Bench bench_{recipe_, 40};

  static void poison(Bench& bench, float value) {
    Tensor& weight = parameter(bench, "embedding.weight").value;
    weight.data<float>()[kPoisonedToken * weight.dim(1)] = value;
  }
  static Batch poisoned_batch() {
    Batch batch = uneven_batch();
    batch.tokens[5] = kPoisonedToken;
    return batch;
  }
};

TEST_P(NonFinite, LossSkipsTheUpdateAndNamesAParameter) {
  (void)bench_.step.run(uneven_batch(), {});
  for (const float value : {std::nanf(""), INFINITY}) {
    poison(bench_, value);
    const StateDict before = bench_.state();
    const StepResult result = bench_.step.run(poisoned_batch(), {.step = 1});
    EXPECT_FALSE(result.applied);
    EXPECT_THAT(result.problem, HasSubstr("gradient norm nan, first in "));
    EXPECT_THAT(testing::differing_arrays(bench_.state(), before), IsEmpty());
  }
}

TEST_P(NonFinite, StepIsForgottenByTheNextOne) {
  Bench spared(recipe_, 40);
  for (Bench* bench : {&bench_, &spared}) {
    (void)bench->step.run(uneven_batch(), {});
    poison(*bench, std::nanf(""));
  }
  (void)bench_.step.run(poisoned_batch(), {.step = 1});
  for (Bench* bench : {&bench_, &spared}) {
    const StepResult result = bench->step.run(uneven_batch(), {.step = 2});
    EXPECT_TRUE(result.applied) << result.problem;
    EXPECT_TRUE(std::isfinite(result.grad_norm));
  }
  EXPECT_THAT(testing::differing_arrays(bench_.state(), spared.state()), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(EveryTimeOfLearning, NonFinite,
                         ::testing::Values("{type: loss_free_bias}", "{type: bip}",
                                           "[{type: bip}, {type: router_z_loss}]",
                                           "{type: pool_aux_loss}"));

TEST(NonFiniteGradient, SkipsTheUpdateThoughTheLossIsFinite) {
  // The z-loss is not part of the reported loss, and the gradient of so heavy a one overflows.
  Bench bench(tiny_recipe("train: {head_z_loss: 1.0e+38}"));
  const StateDict before = bench.state();
  const StepResult result = bench.step.run(uneven_batch(), {});
  EXPECT_TRUE(std::isfinite(result.loss));
  EXPECT_FALSE(result.applied);
  EXPECT_THAT(result.problem, HasSubstr("first in "));
  EXPECT_THAT(testing::differing_arrays(bench.state(), before), IsEmpty());
}

}  // namespace
}  // namespace sluice
