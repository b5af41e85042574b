// What parameters for each modality exist for: kinds of tokens that have nothing to teach each other.
// Two Markov chains over the same token ids, in documents of the one or the other: after a token comes
// in one kind what never comes in the other. A layer with a copy for each kind learns both at the cost of
// one; a tied one has to tell the kinds apart by what was before, and to hold both in half the weights.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "autograd/support/parallel.h"
#include "tests/support/tiny_run.h"
#include "train/plan.h"
#include "train/verify_resume.h"
#include "train/yaml_reader.h"

namespace sluice {
namespace {

constexpr int kSteps = 200;

/// The best loss is 1.75 log(2) = 1.21 nats a token; not to know the kind costs up to log(2) more.
constexpr std::string_view kRun = R"(
seed: 7
data:
  tokenizer: {type: bytes}
  sequence_length: 64
  sources:
    - {type: synthetic, pattern: markov, documents: 1000, min_length: 64, max_length: 64,
       alphabet: 64, pattern_seed: 1, domain: text, modality: text}
    - {type: synthetic, pattern: markov, documents: 1000, min_length: 64, max_length: 64,
       alphabet: 64, pattern_seed: 2, domain: image, modality: image}
  held_out: {fraction: 0.01}
optim: {type: adamw, learning_rate: {type: cosine, peak: 2.0e-2, warmup: 10 steps, final: 1.0e-3},
        weight_decay: 0.0, clip_norm: 1.0}
train: {steps: 200, global_batch: 1024 tokens, micro_batch: 512 tokens}
log: {every: 10, sinks: []}
model:
  hidden_size: 16
  init: {std: 0.1}
  modalities: {names: [text, image]}
)";

Recipe recipe_of(const std::string& model) {
  YamlDocument document = parse_yaml(kRun, "modalities.yaml");
  const YamlDocument layers = parse_yaml(model, "model");
  document.problems.add(layers.problems);
  overlay(document.root, layers.root);
  Recipe recipe;
  read_or_throw(recipe, document);
  return recipe;
}

/// Mean loss of the last 20 steps.
double train(const std::string& model) {
  SingleRank communicator;
  sluice::Run run(recipe_of(model), communicator);
  double last = 0.0;
  for (int step = 0; step < kSteps; ++step) {
    const StepResult result = run.step();
    EXPECT_TRUE(result.applied) << result.problem;
    if (step == 0) {
      EXPECT_GT(result.loss, 4.5);
    }
    if (step >= kSteps - 20) last += result.loss / 20;
  }
  return last;
}

struct Untied {
  std::string name;
  std::string tied_model;
  std::string untied_model;
  double gain;   // of loss, in nats
  double bound;  // of the untied loss
  friend void PrintTo(const Untied& layer, std::ostream* out) { *out << layer.name; }
};

std::vector<Untied> layers() {
  return {
      {"MixtureOfTransformers",
       "model: {pattern: AF, attention: {num_heads: 2}, feed_forward: {intermediate_size: 24}}",
       "model: {pattern: ZY, variants: {Z: {type: untied_attention, num_heads: 2}, "
       "Y: {type: untied_feed_forward, intermediate_size: 24}}}",
       0.2, 1.42},
      {"MixtureOfMamba", "model: {pattern: SS, mamba1: {state_size: 4}}",
       "model: {pattern: ZZ, variants: {Z: {type: mixture_of_mamba, state_size: 4}}}", 0.2, 1.42},
      {"ModalityExperts",
       "model: {pattern: AE, attention: {num_heads: 2}, experts: {num_experts: 6, top_k: 2, "
       "intermediate_size: 12}}\nbalance: {type: aux_loss, coefficient: 1.0e-2}",
       "model: {pattern: AZ, attention: {num_heads: 2}, variants: {Z: {type: modality_experts, "
       "num_experts: 6, own_experts: 3, top_k: 2, intermediate_size: 12}}}\n"
       "balance: {type: aux_loss, coefficient: 1.0e-2}",
       0.2, 1.42}};
}

class EveryUntiedLayer : public ::testing::TestWithParam<Untied> {
 protected:
  SingleRank communicator_;
};

TEST_P(EveryUntiedLayer, CostsWhatTheTiedOneCosts) {
  const Plan tied = make_plan(recipe_of(GetParam().tied_model), 257, 0);
  const Plan untied = make_plan(recipe_of(GetParam().untied_model), 257, 0);
  EXPECT_NEAR(untied.flops_per_token(), tied.flops_per_token(), 0.01 * tied.flops_per_token());
  EXPECT_NEAR(static_cast<double>(untied.parameters.active),
              static_cast<double>(tied.parameters.active),
              0.03 * static_cast<double>(tied.parameters.active));
  EXPECT_GT(untied.parameters.total, tied.parameters.total);
}

TEST_P(EveryUntiedLayer, LearnsTwoModalitiesBetter) {
  const double tied = train(GetParam().tied_model);
  const double untied = train(GetParam().untied_model);
  EXPECT_LT(untied, tied - GetParam().gain);
  EXPECT_LT(untied, GetParam().bound);
}

TEST_P(EveryUntiedLayer, ResumesBitForBit) {
  EXPECT_TRUE(verify_resume(recipe_of(GetParam().untied_model), {.steps = 3}).is_identical());
}

TEST_P(EveryUntiedLayer, TrainsTheSameOnAnyThreads) {
  const int before = num_threads();
  std::vector<StateDict> states;
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    sluice::Run run(recipe_of(GetParam().untied_model), communicator_);
    for (int step = 0; step < 3; ++step) ASSERT_TRUE(run.step().applied);
    states.push_back(testing::state_of(run));
  }
  set_num_threads(before);
  EXPECT_THAT(testing::differing_arrays(states[0], states[1]), ::testing::IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Modalities, EveryUntiedLayer, ::testing::ValuesIn(layers()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace sluice
