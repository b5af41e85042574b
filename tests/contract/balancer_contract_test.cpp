// What every balancing method must do, by standing in methods.def.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "autograd/core/gradcheck.h"
#include "autograd/ops/reduce.h"
#include "autograd/support/parallel.h"
#include "tests/balance/method_variants.h"
#include "tests/balance/routed_batch.h"
#include "train/yaml_reader.h"
#include "train/yaml_writer.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::load_of;
using testing::load_state;
using testing::RoutedBatch;
using testing::RoutedBatchOptions;
using testing::state_of;

constexpr int64_t kExperts = 8;
constexpr int64_t kTopK = 2;
/// For the methods that need a router with noise.
constexpr double kNoiseScale = 0.5;

class EveryBalancer : public ::testing::TestWithParam<testing::MethodVariant> {
 protected:
  [[nodiscard]] static std::unique_ptr<Balancer> make() {
    const Tagged tagged = testing::method(GetParam().type, GetParam().options);
    return make_balancer({&tagged, 1}, {.layer = 0, .experts = kExperts, .top_k = kTopK});
  }
  /// Logits that favour the lower experts; `seed` draws another batch.
  Tensor logits(int64_t tokens, uint64_t seed) {
    SampleFactory factory(pool_, DType::f32, seed);
    Tensor z = factory.uniform({tokens, kExperts}, -1.0, 1.0);
    for (int64_t i = 0; i < z.numel(); ++i) {
      z.data<float>()[i] -= 0.3F * static_cast<float>(i % kExperts);
    }
    return z;
  }

  struct Outcome {
    std::vector<int32_t> expert;
    std::vector<double> losses;
    std::vector<float> grad;  // of the summed losses, with respect to the logits
    friend bool operator==(const Outcome&, const Outcome&) = default;
  };
  /// One training step of one micro-batch.
  Outcome train(Balancer& balancer, const Tensor& z, const SequenceLayout& layout, int64_t step) {
    Tape tape(pool_);
    const Tensor input = tape.input(z);
    const RoutedBatch batch(tape, input, layout,
                            {.top_k = kTopK,
                             .valid_tokens = std::max<int64_t>(1, layout.counted_tokens()),
                             .progress = {.step = step},
                             .noise_scale = kNoiseScale});
    Outcome outcome;
    Selection selection;
    {
      const NoGrad no_grad(tape);
      selection = batch.route(balancer);
    }
    outcome.expert = selection.expert;
    const LayerLoad load = load_of(selection, layout);
    std::vector<AuxiliaryLoss> losses;
    balancer.add_losses(tape, batch.input(), selection, &load, losses);
    for (const AuxiliaryLoss& loss : losses) outcome.losses.push_back(loss.value.item());
    if (!losses.empty()) {
      Tensor total = losses[0].value;
      for (size_t i = 1; i < losses.size(); ++i) total = add(tape, total, losses[i].value);
      tape.backward(total);
      const Tensor grad = tape.gradient(input);
      if (grad.defined()) {
        const auto values = grad.span<float>();
        outcome.grad.assign(values.begin(), values.end());
      }
    }
    const std::vector<const Selection*> layers = {&selection};
    balancer.end_micro_batch(layers);
    balancer.end_step(load, {.step = step});
    return outcome;
  }

  /// The experts of a token, best first.
  static std::vector<int32_t> chosen(const Selection& selection, int64_t token) {
    const auto slots = std::span(selection.expert)
                           .subspan(static_cast<size_t>(token * selection.top_k),
                                    static_cast<size_t>(selection.top_k));
    std::vector<int32_t> result;
    std::ranges::copy_if(slots, std::back_inserter(result),
                         [](int32_t expert) { return expert != kNoExpert; });
    return result;
  }

  Pool pool_;
};

TEST_P(EveryBalancer, RoutesEveryTokenToDistinctExperts) {
  const auto balancer = make();
  const Outcome outcome = train(*balancer, logits(50, 1), layout_of({50}), 0);
  const bool varies_k = balancer->traits().varies_k;
  const size_t slots = outcome.expert.size() / 50;
  ASSERT_EQ(outcome.expert.size(), 50 * slots);
  ASSERT_TRUE(varies_k ? slots >= kTopK : slots == kTopK) << slots;
  for (size_t t = 0; t < 50; ++t) {
    std::set<int32_t> seen;
    for (size_t slot = t * slots; slot < (t + 1) * slots; ++slot) {
      const int32_t expert = outcome.expert[slot];
      if (varies_k && expert == kNoExpert) continue;
      EXPECT_GE(expert, 0);
      EXPECT_LT(expert, kExperts);
      EXPECT_TRUE(seen.insert(expert).second) << "token " << t << ", expert " << expert;
    }
  }
}

TEST_P(EveryBalancer, ContinuesBitForBitFromItsSavedState) {
  const auto whole = make();
  const auto half = make();
  const SequenceLayout layout = layout_of({30, 70});
  for (uint64_t step = 0; step < 4; ++step) {
    const Tensor z = logits(100, step + 1);
    EXPECT_EQ(train(*whole, z, layout, static_cast<int64_t>(step)),
              train(*half, z, layout, static_cast<int64_t>(step)));
  }
  const auto resumed = make();
  load_state(*resumed, state_of(*half));
  for (uint64_t step = 4; step < 8; ++step) {
    const Tensor z = logits(100, step + 1);
    EXPECT_EQ(train(*whole, z, layout, static_cast<int64_t>(step)),
              train(*resumed, z, layout, static_cast<int64_t>(step)));
  }
  EXPECT_EQ(state_of(*whole), state_of(*resumed));
}

TEST_P(EveryBalancer, WorksWithoutTokensWithOneTokenAndWithoutCountedTokens) {
  const auto balancer = make();
  SequenceLayout masked = layout_of({5});
  std::fill(masked.counted.begin(), masked.counted.end(), uint8_t{0});
  EXPECT_TRUE(train(*balancer, logits(0, 1), layout_of({0}), 0).expert.empty());
  EXPECT_GE(train(*balancer, logits(1, 1), layout_of({1}), 1).expert.size(), 2U);
  const Outcome outcome = train(*balancer, logits(5, 1), masked, 2);
  EXPECT_EQ(outcome.expert.size() % 5, 0U);
  EXPECT_GE(outcome.expert.size(), 10U);
  for (const double loss : outcome.losses) EXPECT_EQ(loss, 0.0);
  for (const float grad : outcome.grad) EXPECT_EQ(grad, 0.0F);
}

TEST_P(EveryBalancer, StaysFiniteWithAnExpertThatNeverWins) {
  const auto balancer = make();
  for (uint64_t step = 0; step < 5; ++step) {
    Tensor z = logits(64, step + 1);
    for (int64_t t = 0; t < 64; ++t) z.data<float>()[t * kExperts + 3] = -200.0F;
    const Outcome outcome = train(*balancer, z, layout_of({64}), static_cast<int64_t>(step));
    for (const double loss : outcome.losses) EXPECT_TRUE(std::isfinite(loss));
    for (const float grad : outcome.grad) EXPECT_TRUE(std::isfinite(grad));
  }
}

TEST_P(EveryBalancer, WorksWithOneExpertAndWithAllOfThemChosen) {
  // Its groups must divide the experts.
  nlohmann::json options = GetParam().options;
  if (GetParam().type == "device_aux_loss") options["groups"] = 1;
  const Tagged tagged = testing::method(GetParam().type, options);
  for (const int64_t experts : {1, 4}) {
    const auto balancer =
        make_balancer({&tagged, 1}, {.layer = 0, .experts = experts, .top_k = experts});
    for (const bool training : {true, true, false}) {
      Tape tape(pool_);
      const Tensor z = tape.input(SampleFactory(pool_, DType::f32).uniform({13, experts}));
      const RoutedBatch batch(tape, z, layout_of({9, 4}),
                              {.top_k = experts, .training = training, .noise_scale = kNoiseScale});
      Selection selection;
      {
        const NoGrad no_grad(tape);
        selection = batch.route(*balancer);
      }
      for (const int64_t count : selection.load) EXPECT_LE(count, 13);
      if (!training) continue;
      const LayerLoad load = load_of(selection, batch.layout());
      const Tensor loss = batch.loss(tape, *balancer, selection, &load);
      if (loss.defined()) {
        tape.backward(loss);
        EXPECT_TRUE(std::isfinite(loss.item()));
        const Tensor grad = tape.gradient(z);
        for (int64_t i = 0; grad.defined() && i < grad.numel(); ++i) {
          EXPECT_TRUE(std::isfinite(grad.data<float>()[i]));
        }
      }
      balancer->end_step(load, {});
    }
  }
}

TEST_P(EveryBalancer, WorksOnSequencesOfUnevenLength) {
  const auto balancer = make();
  const Outcome outcome = train(*balancer, logits(144, 1), layout_of({1, 120, 2, 0, 21}), 0);
  for (const double loss : outcome.losses) {
    EXPECT_NE(loss, 0.0);
    EXPECT_TRUE(std::isfinite(loss));
  }
}

TEST_P(EveryBalancer, LearnsNothingFromAStepWithoutLoad) {
  const auto balancer = make();
  (void)train(*balancer, logits(50, 1), layout_of({50}), 0);
  const StateDict before = state_of(*balancer);
  balancer->end_step({}, {.step = 1});
  balancer->end_step(load_of(std::vector<int64_t>(kExperts, 0)), {.step = 1});
  EXPECT_EQ(state_of(*balancer), before);
}

TEST_P(EveryBalancer, ChangesNothingInEvaluation) {
  const auto balancer = make();
  (void)train(*balancer, logits(50, 1), layout_of({50}), 0);
  const StateDict before = state_of(*balancer);
  Tape tape(pool_);
  const NoGrad no_grad(tape);
  const RoutedBatch batch(tape, logits(50, 2), layout_of({50}),
                          {.top_k = kTopK, .training = false});
  const Selection first = batch.route(*balancer);
  EXPECT_EQ(batch.route(*balancer), first);
  EXPECT_EQ(state_of(*balancer), before);
}

TEST_P(EveryBalancer, ChangesNothingWhenItsLossesAreComputedAgain) {
  const auto balancer = make();
  Tape tape(pool_);
  const RoutedBatch batch(tape, logits(50, 2), layout_of({50}),
                          {.top_k = kTopK, .noise_scale = kNoiseScale});
  const Selection selection = batch.route(*balancer);
  const LayerLoad load = load_of(selection, batch.layout());
  const StateDict before = state_of(*balancer);
  const Tensor first = batch.loss(tape, *balancer, selection, &load);
  const Tensor again = batch.loss(tape, *balancer, selection, &load);
  ASSERT_EQ(first.defined(), again.defined());
  if (first.defined()) {
    EXPECT_EQ(first.item(), again.item());
  }
  EXPECT_EQ(state_of(*balancer), before);
}

TEST_P(EveryBalancer, DoesNotDependOnTheNumberOfThreads) {
  const int threads_before = num_threads();
  std::vector<std::vector<Outcome>> outcomes;
  std::vector<StateDict> states;
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    const auto balancer = make();
    outcomes.emplace_back();
    for (uint64_t step = 0; step < 3; ++step) {
      outcomes.back().push_back(train(*balancer, logits(1500, step + 1), layout_of({700, 800}),
                                      static_cast<int64_t>(step)));
    }
    states.push_back(state_of(*balancer));
  }
  set_num_threads(threads_before);
  for (size_t i = 1; i < outcomes.size(); ++i) {
    EXPECT_EQ(outcomes[i], outcomes[0]);
    EXPECT_EQ(states[i], states[0]);
  }
}

TEST_P(EveryBalancer, GradientOfItsLossAgreesWithDifferences) {
  const auto balancer = make();
  // State that is not the initial one.
  for (uint64_t step = 0; step < 2; ++step) {
    (void)train(*balancer, logits(64, step + 1), layout_of({64}), static_cast<int64_t>(step));
  }
  // Documents of uneven length, tokens without a loss, an expert that never wins.
  SequenceLayout layout = layout_of({1, 7, 2});
  layout.counted[3] = 0;
  layout.counted[9] = 0;
  Tensor z = SampleFactory(pool_, DType::f64, 5).uniform({10, kExperts}, -2.0, 2.0);
  for (int64_t t = 0; t < 10; ++t) z.data<double>()[t * kExperts + 3] = -8.0;
  const RoutedBatchOptions options{.top_k = kTopK,
                                   .valid_tokens = 20,
                                   .global_sequences = 5,
                                   .progress = {.step = 2},
                                   .noise_scale = kNoiseScale};
  Selection selection;
  {
    Tape tape(pool_);
    selection = RoutedBatch(tape, z, layout, options).route(*balancer);
  }
  const LayerLoad load = load_of(selection, layout);
  // Noisy logits are what was drawn: only the clean ones are differentiated.
  const auto scores_of = [&](Tape& tape, const Tensor& logits) {
    const Tensor p = softmax(tape, logits);
    if (!balancer->traits().needs_noise) return RouterScores{logits, p, p};
    const Tensor scale = add_constant(tape, tape.zeros(z.shape(), z.dtype()), kNoiseScale);
    return RouterScores{z, p, p, logits, scale};
  };
  const OpSample sample{.label = "loss",
                        .inputs = {z},
                        .differentiable = {true},
                        .apply = [&](Tape& tape, std::span<const Tensor> inputs) {
                          const RoutedBatch batch(scores_of(tape, inputs[0]), layout, options);
                          const Tensor loss = batch.loss(tape, *balancer, selection, &load);
                          // A method without losses has none to differentiate.
                          return std::vector<Tensor>{loss.defined() ? loss : sum(tape, inputs[0])};
                        }};
  const GradcheckReport report = gradcheck(pool_, sample);
  EXPECT_TRUE(report.passed) << report.message;
}

TEST_P(EveryBalancer, RoutesATokenAloneAsItsNeighboursDoUnlessDeclaredBatchDependent) {
  const auto balancer = make();
  for (uint64_t step = 0; step < 3; ++step) {
    (void)train(*balancer, logits(64, step + 1), layout_of({64}), static_cast<int64_t>(step));
  }
  if (balancer->traits().batch_dependent) return;
  const Tensor z = logits(64, 9);
  Tape tape(pool_);
  const RoutedBatch whole(tape, z, layout_of({64}), {.top_k = kTopK});
  const Selection together = whole.route(*balancer);
  for (int64_t t = 0; t < 64; t += 13) {
    const Tensor row = Tensor::of<float>(
        pool_, {1, kExperts}, z.span<float>().subspan(static_cast<size_t>(t * kExperts), kExperts));
    const RoutedBatch alone(tape, row, layout_of({1}), {.top_k = kTopK});
    EXPECT_THAT(chosen(alone.route(*balancer), 0),
                ::testing::ElementsAreArray(chosen(together, t)));
  }
}

TEST_P(EveryBalancer, SetsFiniteCombineWeightsOrNone) {
  const auto balancer = make();
  for (const bool training : {true, false}) {
    for (const int64_t tokens : {0, 1, 50}) {
      Tape tape(pool_);
      SequenceLayout layout = layout_of({tokens});
      if (tokens > 20) layout.counted[20] = 0;
      const RoutedBatch batch(tape, logits(tokens, 3), layout,
                              {.top_k = kTopK, .valid_tokens = 50, .training = training});
      const Selection selection = batch.route(*balancer);
      const StateDict before = state_of(*balancer);
      const Tensor weights = balancer->combine_weights(tape, batch.input(), selection);
      EXPECT_EQ(state_of(*balancer), before);
      if (!weights.defined()) continue;
      ASSERT_EQ(weights.shape(), (Shape{tokens, selection.top_k}));
      for (size_t slot = 0; slot < selection.expert.size(); ++slot) {
        const float weight = weights.span<float>()[slot];
        EXPECT_TRUE(std::isfinite(weight));
        if (selection.expert[slot] == kNoExpert) {
          EXPECT_EQ(weight, 0.0F);
        }
      }
    }
  }
}

TEST_P(EveryBalancer, RecordsTheSameOnShapesAlone) {
  const auto ops_of = [&](Pool& pool) {
    Tape tape(pool);
    const Tensor z = tape.input(Tensor::zeros(pool, {50, kExperts}, DType::f32));
    const auto balancer = make();
    const RoutedBatch batch(tape, z, layout_of({50}), {.top_k = kTopK, .noise_scale = kNoiseScale});
    // On shapes the expert layer deals tokens out itself.
    Selection selection{.tokens = 50, .experts = kExperts, .top_k = kTopK};
    for (int32_t slot = 0; slot < 50 * kTopK; ++slot) selection.expert.push_back(slot % kExperts);
    selection.count_load(batch.layout().counted);
    const LayerLoad load = load_of(selection, batch.layout());
    (void)batch.loss(tape, *balancer, selection, pool.shapes_only() ? nullptr : &load);
    return tape.recorded_ops();
  };
  Pool shapes(Pool::Mode::shapes_only);
  EXPECT_EQ(ops_of(shapes), ops_of(pool_));
}

/// `balance:` alone, as a recipe holds it.
struct BalanceSection final : Configurable {
  std::vector<Tagged> balance;
  void fields(FieldVisitor& v) override {
    v.tagged_list({"balance", "methods"}, balance, balance_choices());
  }
};

TEST_P(EveryBalancer, ConfigRoundTripsThroughARecipe) {
  BalanceSection written;
  written.balance = {testing::method(GetParam().type, GetParam().options)};
  const std::string text = write_yaml(written);
  EXPECT_THAT(text, ::testing::HasSubstr(GetParam().type));
  BalanceSection read;
  const Diagnostics problems = read_into(read, parse_yaml(text, "recipe.yaml"));
  EXPECT_TRUE(problems.empty()) << problems.to_string();
  EXPECT_EQ(write_yaml(read), text);
  EXPECT_NE(make_balancer(read.balance, {.layer = 0, .experts = 4, .top_k = 1}), nullptr);
}

INSTANTIATE_TEST_SUITE_P(MethodsDef, EveryBalancer, ::testing::ValuesIn(testing::method_variants()),
                         [](const auto& test) { return test.param.name; });

TEST(ActiveExpertsOfABalancer, AreTheRoutersUnlessItChoosesByItself) {
  const ActiveExpertsQuery query{
      .num_experts = kExperts, .top_k = kTopK, .progress = {}, .initial_logit_std = 1.0};
  const ActiveExperts of_router = ActiveExperts::within_bounds(1.0, 5.0);
  const auto of = [&](const char* type, const nlohmann::json& options) {
    const Tagged tagged = testing::method(type, options);
    return make_balancer({&tagged, 1}, {.layer = 0, .experts = kExperts, .top_k = kTopK})
        ->active_experts(query, of_router);
  };
  const auto none = nlohmann::json::object();
  EXPECT_EQ(of("bip", none), of_router);
  EXPECT_EQ(of("aux_loss", none), of_router);
  EXPECT_EQ(of("base", none), ActiveExperts::exactly(2.0));
  EXPECT_EQ(of("sinkhorn", none), ActiveExperts::exactly(2.0));
  EXPECT_EQ(of("selective_sinkhorn", none), ActiveExperts::exactly(2.0));
  EXPECT_EQ(of("expert_choice", none), ActiveExperts::exactly(2.0));
  EXPECT_EQ(of("expert_choice", {{"capacity_factor", 1.5}}), ActiveExperts::exactly(1.5));
  EXPECT_EQ(of("sparse_transport", {{"capacity_factor", 1.5}}),
            ActiveExperts::within_bounds(0.0, 3.0));
  EXPECT_EQ(of("quantile_dynamic", none), ActiveExperts::at_initial_values(2.0, 0.0, 8.0));
  EXPECT_EQ(of("quantile_dynamic", {{"max_experts", 3}}),
            ActiveExperts::at_initial_values(2.0, 0.0, 3.0));
}

TEST(BalancerRecipe, TakesAScheduleForACoefficient) {
  BalanceSection section;
  const Diagnostics problems = read_into(
      section, parse_yaml("balance: {type: aux_loss, coefficient: {type: linear, from: 0.0, "
                          "to: 1.0, over: 10 steps}}",
                          "recipe.yaml"));
  ASSERT_TRUE(problems.empty()) << problems.to_string();
  const auto balancer =
      make_balancer(section.balance, {.layer = 0, .experts = kExperts, .top_k = kTopK});
  Pool pool;
  SampleFactory factory(pool, DType::f64);
  const Tensor z = factory.uniform({20, kExperts});
  const auto loss_at = [&](int64_t step) {
    Tape tape(pool);
    const RoutedBatch batch(tape, z, layout_of({20}), {.top_k = kTopK, .progress = {.step = step}});
    return batch.loss(tape, *balancer, batch.route(*balancer)).item();
  };
  EXPECT_EQ(loss_at(0), 0.0);
  EXPECT_GT(loss_at(5), 0.0);
  EXPECT_DOUBLE_EQ(loss_at(10), 2.0 * loss_at(5));
}

}  // namespace
}  // namespace sluice
