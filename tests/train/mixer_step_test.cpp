// The update of MixER's gate inside a training step: the losses that it is made from, and what it
// leaves alone. The gate itself is tested with the router.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/step_bench.h"
#include "tests/support/thread_ranks.h"
#include "tests/support/tiny_model.h"
#include "train/model_input.h"
#include "train/plan.h"
#include "train/verify_resume.h"

namespace sluice {
namespace {

using testing::Bench;
using ::testing::DoubleNear;
using testing::parameter;
using ::testing::Pointwise;
using testing::tiny_recipe;
using testing::uneven_batch;
using testing_support::same_bits;

constexpr int64_t kExperts = 2;
constexpr int64_t kDomains = 2;
constexpr int64_t kSums = kDomains * (kExperts + 1);

Recipe mixer_recipe(int64_t every, const std::string& dtype = "f64",
                    std::string_view more = "seed: 7") {
  return tiny_recipe(fmt::format(
      "model: {{dtype: {}, init: {{std: 0.3}}, experts: {{num_experts: {}, top_k: 1, router: "
      "{{type: mixer, domains: {}, context_size: 3, update_gate_every: {}}}}}}}\n"
      "balance: {{type: none}}\n{}",
      dtype, kExperts, kDomains, every, more));
}

/// Documents of both domains in turn.
Batch two_domains() {
  Batch batch = uneven_batch();
  for (size_t i = 0; i < batch.document_domain.size(); ++i) {
    batch.document_domain[i] = static_cast<int32_t>(i % 2);
  }
  return batch;
}

/// Contexts and centroids for which K-means finds a domain per cluster.
void separate(const Bench& bench) {
  for (const char* name : {"layers.1.router.contexts", "layers.1.router.centroids"}) {
    Parameter& p = parameter(bench, name);
    dispatch_float(p.value.dtype(), [&]<class T>() {
      for (int64_t i = 0; i < 6; ++i) p.value.data<T>()[i] = i < 3 ? T(-1) : T(1);
    });
  }
}

/// What the last step told the router: [J, E] losses, then [J] tokens.
std::vector<double> sums_of(const Bench& bench) {
  const auto sums = bench.routing->router_sums(0, kSums);
  return {sums.begin(), sums.end()};
}

/// Chooses one expert for everything.
class Only final : public RouteSource {
 public:
  explicit Only(int32_t expert) : expert_(expert) {}
  bool choose(const RouteRequest& request, Selection& selection) override {
    selection.tokens = request.layout.tokens();
    selection.experts = request.experts;
    selection.top_k = 1;
    selection.expert.assign(static_cast<size_t>(selection.tokens), expert_);
    return true;
  }

 private:
  int32_t expert_;
};

/// The same by evaluation.
std::vector<double> expected_sums(Bench& bench, const Batch& batch) {
  std::vector<double> sums(kSums, 0.0);
  const ModelInput input = make_model_input(bench.pool, batch);
  const std::vector<int32_t> document = batch.document_of_token();
  for (int32_t expert = 0; expert < kExperts; ++expert) {
    Only only(expert);
    const RouteSourceScope scope(*bench.routing, &only);
    bench.routing->begin_evaluation();
    Tape tape(bench.pool);
    const NoGrad no_grad(tape);
    ForwardContext context{tape, input.layout};
    context.routing = bench.routing.get();
    const Tensor losses = bench.model->token_losses(context, input.tokens, input.targets);
    bench.routing->end_evaluation();
    for (size_t t = 0; t < batch.targets.size(); ++t) {
      if (batch.targets[t] == kIgnoredTarget) continue;
      const int32_t domain = batch.document_domain[static_cast<size_t>(document[t])];
      sums[static_cast<size_t>(domain * kExperts + expert)] += losses.data<double>()[t];
      if (expert == 0) sums[static_cast<size_t>(kDomains * kExperts + domain)] += 1.0;
    }
  }
  return sums;
}

TEST(MixerStep, TellsTheRouterTheLossOfEveryExpertInEveryDomain) {
  const Batch batch = two_domains();
  for (const int64_t micro_batch : {1 << 20, 80, 20}) {
    Bench bench(mixer_recipe(1), micro_batch);
    separate(bench);
    const std::vector<double> expected = expected_sums(bench, batch);
    EXPECT_GT(std::abs(expected[0] - expected[1]), 1e-3) << "experts that cannot be told apart";
    ASSERT_TRUE(bench.step.run(batch, {}).applied);
    EXPECT_THAT(sums_of(bench), Pointwise(DoubleNear(1e-9), expected)) << micro_batch;
  }
}

TEST(MixerStep, FitsAGateThatGivesEachDomainAnExpert) {
  Bench bench(mixer_recipe(1));
  separate(bench);
  const Batch batch = two_domains();
  ASSERT_TRUE(bench.step.run(batch, {}).applied);
  const std::vector<double> sums = sums_of(bench);
  // Cluster 0 is domain 0; it takes the expert with its least loss.
  const auto first = static_cast<int32_t>(sums[1] < sums[0]);
  ASSERT_TRUE(bench.step.run(batch, {.step = 1}).applied);
  const Selection& chosen =
      bench.routing->select(0, /*replay=*/true, 0, [](Balancer&, Selection&) {});
  const std::vector<int32_t> document = batch.document_of_token();
  for (size_t t = 0; t < document.size(); ++t) {
    const int32_t domain = batch.document_domain[static_cast<size_t>(document[t])];
    EXPECT_EQ(chosen.expert[t], domain == 0 ? first : 1 - first) << t;
  }
}

TEST(MixerStep, MeasuresAndLearnsTheSameOnSeveralRanks) {
  const Batch batch = two_domains();
  Bench alone(mixer_recipe(1));
  separate(alone);
  ASSERT_TRUE(alone.step.run(batch, {}).applied);
  testing::ThreadRanks::run(2, [&](Communicator& communicator) {
    const Batch share =
        communicator.rank() == 0 ? batch.slice_sequences(0, 3) : batch.slice_sequences(3, 8);
    Bench bench(mixer_recipe(1), 45, communicator);
    separate(bench);
    EXPECT_TRUE(bench.step.run(share, {}).applied);
    EXPECT_THAT(sums_of(bench), Pointwise(DoubleNear(1e-9), sums_of(alone)));
    for (const char* name : {"layers.1.router.weight", "layers.1.router.centroids"}) {
      EXPECT_LE(testing_support::relative_distance(parameter(bench, name).value,
                                                   parameter(alone, name).value),
                1e-9)
          << name;
    }
  });
}

TEST(MixerStep, LeavesTheGateAloneWhenItIsNotDueOrTheUpdateIsSkipped) {
  const Batch batch = two_domains();
  Bench bench(mixer_recipe(2, "f32"));
  separate(bench);
  Parameter& weight = parameter(bench, "layers.1.router.weight");
  const Tensor before = weight.value.clone(bench.pool);
  ASSERT_TRUE(bench.step.run(batch, {.step = 0}).applied);
  EXPECT_TRUE(same_bits(weight.value, before));
  EXPECT_EQ(sums_of(bench), std::vector<double>(kSums, 0.0));
  Parameter& head = parameter(bench, "final_norm.weight");
  const float kept = head.value.data<float>()[0];
  head.value.data<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(bench.step.run(batch, {.step = 1}).applied);
  EXPECT_TRUE(same_bits(weight.value, before));
  head.value.data<float>()[0] = kept;
  ASSERT_TRUE(bench.step.run(batch, {.step = 1}).applied);
  EXPECT_FALSE(same_bits(weight.value, before));
}

/// Counts what it sees.
class Counter final : public RoutingObserver {
 public:
  void observe(const RoutingObservation& /*observation*/) override { ++seen; }
  int64_t seen = 0;
};

TEST(MixerStep, ShowsItsTrialsToNobodyAndCountsThemInNoLoad) {
  const Batch batch = two_domains();
  Bench quiet(mixer_recipe(100), 80);
  Bench due(mixer_recipe(1), 80);
  Counter counter;
  const RoutingWatch watch(*due.routing, counter);
  const StepResult expected = quiet.step.run(batch, {});
  const StepResult result = due.step.run(batch, {});
  EXPECT_EQ(counter.seen, 2 * result.micro_batches);
  EXPECT_EQ(due.routing->loads(), quiet.routing->loads());
  EXPECT_EQ(result.loss, expected.loss);
  EXPECT_EQ(result.grad_norm, expected.grad_norm);
}

TEST(MixerStep, ResumesBitForBit) {
  EXPECT_TRUE(verify_resume(mixer_recipe(2, "f32"), {.steps = 4}).is_identical());
}

TEST(MixerStep, CanBePlannedWhenEveryStepMeasures) {
  const Plan plan = make_plan(mixer_recipe(1, "f32"), 257, 0);
  ASSERT_TRUE(plan.activity.has_value());
  EXPECT_EQ(plan.activity->start.experts, ActiveExperts::exactly(1.0));
}

}  // namespace
}  // namespace sluice
