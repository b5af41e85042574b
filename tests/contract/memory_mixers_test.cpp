// Mixers with memories learn what memories are for: associative recall, value after key in the same
// document. And they do it as every run must: the same bits after a resume and on any threads.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/contract/run_checks.h"
#include "tests/support/tiny_run.h"
#include "train/verify_resume.h"
#include "train/yaml_reader.h"

namespace sluice {
namespace {


/// 4 keys and 4 values, in documents of 31 pairs and a key. A token says log(4) = 1.39 nats, but for the
/// values of keys that were there before: who recalls those is left with about (1 + 4 / 31) / 2 of it,
/// 0.78 nats.
constexpr std::string_view kData = R"(
seed: 3
data:
  tokenizer: {type: bytes}
  sequence_length: 128
  sources:
    - {type: synthetic, pattern: recall, documents: 2000, min_length: 63, max_length: 63,
       alphabet: 8, domain: a}
  held_out: {fraction: 0.05}
optim: {type: adamw, learning_rate: {type: cosine, peak: 1.0e-2, warmup: 10 steps, final: 1.0e-3},
        weight_decay: 0.0, clip_norm: 1.0}
train: {steps: 200, global_batch: 1024 tokens, micro_batch: 512 tokens}
log: {every: 10, sinks: []}
)";

struct MixerInARun {
  std::string name;
  std::string model;
  double bound;  // of the loss after 200 steps
  friend void PrintTo(const MixerInARun& mixer, std::ostream* out) { *out << mixer.name; }
};

std::vector<MixerInARun> mixers() {
  return {{"gated_delta_net", R"(
model:
  pattern: "(GF)x2"
  hidden_size: 32
  init: {std: 0.1}
  gated_delta_net: {num_heads: 2}
  feed_forward: {intermediate_size: 48}
)",
           0.95},
          {"linear_attention", R"(
model:
  pattern: "(LF)x2"
  hidden_size: 32
  init: {std: 0.1}
  linear_attention: {num_heads: 2, conv_kernel: 4}
  feed_forward: {intermediate_size: 48}
)",
           1.33},
          {"mixture_of_memories", R"(
model:
  pattern: "(OF)x2"
  hidden_size: 32
  init: {std: 0.1}
  mixture_of_memories: {num_heads: 2}
  feed_forward: {intermediate_size: 48}
balance: {type: aux_loss, coefficient: 1.0e-2}
)",
           0.95},
          {"gated_slot_attention", R"(
model:
  pattern: "(OF)x2"
  hidden_size: 32
  init: {std: 0.1}
  mixture_of_memories: {num_heads: 2, backend: gated_slot_attention, num_slots: 8}
  feed_forward: {intermediate_size: 48}
balance: {type: aux_loss, coefficient: 1.0e-2}
)",
           1.2},
          // Attention sees the token before; the way to earlier pairs leads through the slots.
          {"workspace", R"(
model:
  pattern: "(WKF)x2"
  hidden_size: 32
  init: {std: 0.1}
  variants:
    W: {type: attention, num_heads: 2, window: 2}
  workspace: {num_heads: 2, num_slots: 8, chunk_size: 4, output_gate: false}
  feed_forward: {intermediate_size: 48}
)",
           1.33},
          // All parts of the proposal, of which the last two open at step 50.
          {"hydra", R"(
model:
  pattern: "MFMEVKY"
  hidden_size: 32
  init: {std: 0.1}
  mamba2: {head_dim: 16, state_size: 16}
  sparse_attention: {num_heads: 2, window: 4, chunk_size: 4, chosen_chunks: 2, output_gate: true}
  experts:
    num_experts: 4
    top_k: 2
    intermediate_size: 24
    router: {type: chunk_top_k, chunk_size: 4}
  workspace:
    num_heads: 2
    num_slots: 8
    chunk_size: 4
    output_gate_bias: {type: piecewise, mode: step, points: [{at: 0, value: -1000}, {at: 50, value: -4}]}
  variants:
    Y: {type: product_key_memory, num_keys: 16, num_heads: 2, key_size: 8, top_k: 4, output_gate: true,
        output_gate_bias: {type: piecewise, mode: step, points: [{at: 0, value: -1000}, {at: 50, value: -4}]}}
  feed_forward: {intermediate_size: 48}
balance: {type: loss_free_bias}
)",
           1.2}};
}

Recipe recipe_of(const std::string& model) {
  YamlDocument document = parse_yaml(kData, "recall.yaml");
  overlay(document.root, parse_yaml(model, "overlay").root);
  Recipe recipe;
  read_or_throw(recipe, document);
  return recipe;
}

class EveryMemoryMixer : public ::testing::TestWithParam<MixerInARun> {
 protected:
  [[nodiscard]] static Recipe recipe() { return recipe_of(GetParam().model); }
  SingleRank communicator_;
};

TEST_P(EveryMemoryMixer, LearnsToRecall) {
  sluice::Run run(recipe(), communicator_);
  double first = 0.0;
  double last = 0.0;
  for (int step = 0; step < 200; ++step) {
    const StepResult result = run.step();
    ASSERT_TRUE(result.applied) << result.problem;
    if (step == 0) first = result.loss;
    if (step >= 190) last += result.loss / 10;
  }
  EXPECT_NEAR(first, std::log(257.0), 0.5);
  // 1.39 is what can be had without looking back. A sum of values keeps them apart as well as its
  // feature map keeps the keys; the others overwrite, and come near to all there is.
  EXPECT_LT(last, GetParam().bound);
  EXPECT_GT(last, 0.7);
}

TEST_P(EveryMemoryMixer, ResumesBitForBit) {
  EXPECT_TRUE(verify_resume(recipe(), {.steps = 3}).is_identical());
}

TEST_P(EveryMemoryMixer, TrainsTheSameOnAnyThreads) {
  testing::expect_same_state_on_any_threads(recipe());
}

INSTANTIATE_TEST_SUITE_P(Memories, EveryMemoryMixer, ::testing::ValuesIn(mixers()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace sluice
