// Models with their matrices in bf16: `--weights bf16` of generate and eval.

#include <gtest/gtest.h>

#include "autograd/core/parameter.h"
#include "tests/support/tiny_trained.h"
#include "train/evaluate_checkpoint.h"
#include "train/generate.h"

namespace sluice {
namespace {

using testing::logits_of;
using testing::tiny_checkpoint;

bool is_narrow(const Parameter& parameter) { return parameter.value.dtype() == DType::bf16; }

/// The model in bf16, and the same with f32 weights that bf16 can hold.
struct Both {
  explicit Both(std::string_view changes = {})
      : narrow(build_trained_model(tiny_checkpoint(changes), "tiny.h5", WeightStorage::bf16)),
        rounded(build_trained_model(tiny_checkpoint(changes), "tiny.h5")) {
    const auto of = narrow.model->parameters();
    const auto to = rounded.model->parameters();
    for (size_t i = 0; i < of.size(); ++i) {
      if (!is_narrow(*of[i])) continue;
      for (int64_t e = 0; e < to[i]->value.numel(); ++e) {
        to[i]->value.data<float>()[e] = widened(of[i]->value.data<BFloat16>()[e]);
      }
    }
  }
  TrainedModel narrow;
  TrainedModel rounded;
};

std::vector<int32_t> generated(TrainedModel& trained) {
  const std::vector<int32_t> prompt = {5, 17, 3};
  return generate(trained, prompt, {.max_tokens = 30, .seed = 3}, [](std::string_view) {}).tokens;
}

TEST(Bf16Trained, TakesHalfTheMemory) {
  const auto bytes = [](const TrainedModel& trained) {
    return trained.pool->in_use()[MemoryKind::parameters];
  };
  // Wide enough that norms, routers and tables of rotations are a small share.
  const Both both(
      "model: {hidden_size: 128, vocab_size: 512, attention: {max_position_embeddings: 64}}");
  const double ratio =
      static_cast<double>(bytes(both.narrow)) / static_cast<double>(bytes(both.rounded));
  EXPECT_GE(ratio, 0.5);
  EXPECT_LE(ratio, 0.53);
  EXPECT_LT(both.narrow.pool->system_bytes(), both.rounded.pool->system_bytes());
}

TEST(Bf16Trained, ComputesWhatTheRoundedF32ModelDoesBitForBit) {
  for (const std::string_view changes :
       {"", "model: {tie_embeddings: false}", "model: {pattern: AFAE}",
        "model: {attention: {bias: all, qk_norm: full}}"}) {
    Both both(changes);
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < 40; ++i) tokens.push_back(i * 7 % 64);
    EXPECT_EQ(logits_of(both.narrow, tokens), logits_of(both.rounded, tokens)) << changes;
    EXPECT_EQ(generated(both.narrow), generated(both.rounded)) << changes;
    const double loss = evaluate_checkpoint(both.narrow, {}).loss.nats;
    EXPECT_EQ(loss, evaluate_checkpoint(both.rounded, {}).loss.nats) << changes;
  }
}

}  // namespace
}  // namespace sluice
