// Variants of attention learn what attention is for: copying what was read. And they do it as every
// run must: documents apart, the same bits after a resume and on any threads.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "autograd/support/parallel.h"
#include "tests/support/tiny_trained.h"
#include "train/verify_isolation.h"
#include "train/verify_resume.h"
#include "train/yaml_reader.h"

namespace sluice {
namespace {

using testing::differing_arrays;
using testing::state_of;
using testing::tiny_trained;

/// A mixer, by its symbol, and its section.
struct MixerInARun {
  std::string name;
  std::string symbol;
  std::string section;
  bool routes = false;
  /// Tokens of a document. Stick-breaking has no positions and reaches far only past what it has
  /// learnt to pass over: it gets a shorter way.
  int64_t document = 16;
  friend void PrintTo(const MixerInARun& mixer, std::ostream* out) { *out << mixer.name; }
};

std::vector<MixerInARun> mixers() {
  return {{"windows_for_each_head", "A",
           "attention: {num_heads: 4, num_kv_heads: 2, head_windows: [3, 20]}"},
          {"latent_attention", "C",
           "latent_attention: {num_heads: 4, kv_lora_rank: 16, q_lora_rank: 16, qk_nope_head_dim: "
           "8, qk_rope_head_dim: 8, v_head_dim: 8}"},
          {"sparse_attention", "V",
           "sparse_attention: {num_heads: 4, window: 3, chunk_size: 4, chosen_chunks: 1}"},
          {"attention_mixture", "U", "attention_mixture: {num_experts: 2, num_heads: 2}"},
          {"selective_attention", "X", "selective_attention: {num_heads: 4, top_k: 2}", true},
          {"stick_breaking_experts", "B",
           "stick_breaking_experts: {num_experts: 4, top_k: 2, attention_size: 32, num_heads: 4}",
           true, 6}};
}

/// Documents of random tokens and the same again: log(8) = 2.08 nats a token for who only knows how
/// often tokens occur, half of that for who copies the second half.
constexpr std::string_view kData = R"(
seed: 7
data:
  tokenizer: {type: bytes}
  sequence_length: 64
  held_out: {fraction: 0.05}
optim: {type: adamw, learning_rate: {type: cosine, peak: 1.0e-2, warmup: 10 steps, final: 1.0e-3},
        weight_decay: 0.0, clip_norm: 1.0}
train: {steps: 200, global_batch: 512 tokens}
log: {every: 10, sinks: []}
)";

class EveryAttentionMixer : public ::testing::TestWithParam<MixerInARun> {
 protected:
  [[nodiscard]] static Recipe copying() {
    const std::string model = fmt::format(
        "model: {{pattern: \"({}F)x2\", hidden_size: 32, init: {{std: 0.1}}, {}, feed_forward: "
        "{{intermediate_size: 48}}}}",
        GetParam().symbol, GetParam().section);
    const std::string text = fmt::format(
        "data: {{sources: [{{type: synthetic, pattern: copy, documents: 4000, min_length: {0}, "
        "max_length: {0}, alphabet: 8, domain: a}}]}}",
        GetParam().document);
    YamlDocument document = parse_yaml(kData, "copy.yaml");
    overlay(document.root, parse_yaml(model, "overlay").root);
    overlay(document.root, parse_yaml(text, "overlay").root);
    if (GetParam().routes) {
      overlay(document.root, parse_yaml("balance: {type: none}", "overlay").root);
    }
    Recipe recipe;
    read_or_throw(recipe, document);
    return recipe;
  }
  static constexpr int kSteps = 200;
  SingleRank communicator_;
};

TEST_P(EveryAttentionMixer, LearnsToCopy) {
  sluice::Run run(copying(), communicator_);
  double first = 0.0;
  double last = 0.0;
  for (int step = 0; step < kSteps; ++step) {
    const StepResult result = run.step();
    ASSERT_TRUE(result.applied) << result.problem;
    if (step == 0) first = result.loss;
    if (step >= kSteps - 20) last += result.loss / 20;
  }
  EXPECT_GT(first, 5.0);
  EXPECT_LT(last, 1.6);
}

TEST_P(EveryAttentionMixer, ResumesBitForBit) {
  EXPECT_TRUE(verify_resume(copying(), {.steps = 3}).is_identical());
}

TEST_P(EveryAttentionMixer, TrainsTheSameOnAnyThreads) {
  const int before = num_threads();
  std::vector<StateDict> states;
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    sluice::Run run(copying(), communicator_);
    for (int step = 0; step < 3; ++step) ASSERT_TRUE(run.step().applied);
    states.push_back(state_of(run));
  }
  set_num_threads(before);
  EXPECT_THAT(differing_arrays(states[0], states[1]), ::testing::IsEmpty());
}

TEST_P(EveryAttentionMixer, KeepsDocumentsApart) {
  const MixerInARun& mixer = GetParam();
  TrainedModel trained =
      tiny_trained(fmt::format("model: {{pattern: \"{}EAE\", {}}}", mixer.symbol, mixer.section));
  const IsolationVerdict verdict =
      verify_isolation({trained.recipe, *trained.pool, *trained.model, *trained.routing, {}});
  EXPECT_TRUE(verdict.evaluation.is_isolated());
  EXPECT_TRUE(verdict.training.is_isolated());
  EXPECT_TRUE(verdict.passes());
}

INSTANTIATE_TEST_SUITE_P(Attention, EveryAttentionMixer, ::testing::ValuesIn(mixers()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace sluice
