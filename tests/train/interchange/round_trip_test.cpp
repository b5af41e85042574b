// Every family, out and in again: nothing of the model may change on the way.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/support/made_up_checkpoint.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"
#include "train/interchange/export.h"
#include "train/interchange/family.h"
#include "train/interchange/import.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using testing::logits_of;
using testing::made_up_checkpoint;
using testing::ScratchFolder;

struct Case {
  std::string name;
  std::string family;
  std::string model;
};

std::vector<Case> cases() {
  return {
      {"Llama", "llama", R"(
model: {pattern: "(AF)x2", hidden_size: 16, tie_embeddings: true,
        attention: {num_heads: 4, num_kv_heads: 2}, feed_forward: {intermediate_size: 24}}
)"},
      {"LlamaWithEveryOption", "llama", R"(
model: {pattern: "AFAFAF", hidden_size: 16, tie_embeddings: false, vocab_size: 300,
        norm: {eps: 3.0e-6},
        attention: {num_heads: 2, head_dim: 6, bias: all, rope_theta: 500000,
                    max_position_embeddings: 64,
                    rope_scaling: {type: llama3, factor: 8, original_max_position_embeddings: 16}},
        feed_forward: {intermediate_size: 24, bias: true}}
)"},
      {"Mistral", "mistral", R"(
model: {pattern: "(AF)x2", hidden_size: 16, tie_embeddings: false,
        attention: {num_heads: 4, num_kv_heads: 2, head_dim: 6, window: 5},
        feed_forward: {intermediate_size: 24}}
)"},
      {"Qwen2", "qwen2", R"(
model: {pattern: "(AF)x2", hidden_size: 16, attention: {num_heads: 4, num_kv_heads: 2, bias: qkv},
        feed_forward: {intermediate_size: 24}}
)"},
      {"Qwen3", "qwen3", R"(
model: {pattern: "(AF)x2", hidden_size: 16,
        attention: {num_heads: 4, num_kv_heads: 2, head_dim: 8, qk_norm: per_head},
        feed_forward: {intermediate_size: 24}}
)"},
      {"Mixtral", "mixtral", R"(
model: {pattern: "(AE)x2", hidden_size: 16, attention: {num_heads: 4, num_kv_heads: 2, window: 5},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12, shared: none}}
balance: {type: aux_loss, coefficient: 1.0e-3, fractions: tokens}
)"},
      {"Olmoe", "olmoe", R"(
model: {pattern: "(AE)x2", hidden_size: 16,
        attention: {num_heads: 4, num_kv_heads: 2, qk_norm: full},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12, shared: none,
                  router: {type: top_k, weights: as_is}}}
balance: {type: none}
)"},
      {"Qwen2Moe", "qwen2_moe", R"(
model: {pattern: "(AE)x1(AF)x1(AE)x1", hidden_size: 16,
        attention: {num_heads: 4, num_kv_heads: 2, bias: qkv},
        feed_forward: {intermediate_size: 24},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12,
                  shared: {num_experts: 1, intermediate_size: 20, combine: gated},
                  router: {type: top_k, weights: as_is}}}
balance: {type: aux_loss, coefficient: 1.0e-3, fractions: tokens}
)"},
      {"Qwen3Moe", "qwen3_moe", R"(
model: {pattern: "(AF)x1(AE)x2", hidden_size: 16,
        attention: {num_heads: 4, num_kv_heads: 2, head_dim: 8, qk_norm: per_head},
        feed_forward: {intermediate_size: 24},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12, shared: none}}
balance: {type: aux_loss, coefficient: 1.0e-3, fractions: tokens}
)"},
      {"DeepseekV2", "deepseek_v2", R"(
model: {pattern: "(CF)x1(CE)x2", hidden_size: 16,
        latent_attention: {num_heads: 2, kv_lora_rank: 8, qk_nope_head_dim: 4, qk_rope_head_dim: 4,
                           v_head_dim: 6, mscale_all_dim: 0.7,
                           rope_scaling: {type: yarn, factor: 4,
                                          original_max_position_embeddings: 16}},
        feed_forward: {intermediate_size: 24},
        experts: {num_experts: 8, top_k: 2, intermediate_size: 12,
                  shared: {num_experts: 2, intermediate_size: 12},
                  router: {type: node_limited, weights: as_is, scale: 16, n_group: 4,
                           topk_group: 2, group_score: max}}}
balance: {type: aux_loss, coefficient: 1.0e-3, fractions: tokens}
)"},
      {"DeepseekV3", "deepseek_v3", R"(
model: {pattern: "(CF)x1(CE)x2", hidden_size: 16,
        latent_attention: {num_heads: 2, q_lora_rank: 6, kv_lora_rank: 8, qk_nope_head_dim: 4,
                           qk_rope_head_dim: 4, v_head_dim: 6},
        feed_forward: {intermediate_size: 24},
        experts: {num_experts: 8, top_k: 2, intermediate_size: 12,
                  shared: {num_experts: 1, intermediate_size: 12},
                  router: {type: node_limited, scores: sigmoid, scale: 2.5, n_group: 4,
                           topk_group: 2}}}
balance: {type: loss_free_bias}
)"},
      {"Gpt2", "gpt2", R"(
model: {pattern: "(AF)x2", hidden_size: 16, learned_positions: 40, norm: {type: layer_norm},
        init: {residual: gpt2},
        attention: {num_heads: 4, rope_theta: none, bias: all},
        feed_forward: {intermediate_size: 40, activation: gelu_tanh, bias: true}}
)"},
      {"Mamba2", "mamba2", R"(
model: {pattern: "Mx3", hidden_size: 16, tie_embeddings: false,
        mamba2: {head_dim: 8, num_groups: 2, state_size: 6, conv_kernel: 3,
                 time_step_limit: [0.001, 0.5]}}
)"},
  };
}

std::string read_all(const fs::path& path) { return read_file(path, raise_as<DataError>); }

StateDict model_state(const Checkpoint& checkpoint) {
  StateDict state;
  for (const auto& [path, array] : checkpoint.state) {
    if (path.starts_with("model/") || path.ends_with("loss_free_bias/bias")) {
      state.emplace(path, array);
    }
  }
  return state;
}

class RoundTrip : public ::testing::TestWithParam<Case> {
 protected:
  Checkpoint there_and_back(const Checkpoint& checkpoint, const ExportOptions& options) {
    ExportOptions out = options;
    out.output = folder_ / fmt::format("out{}", ++trips_);
    family_ = export_model(checkpoint, "made-up.h5", out).family;
    const fs::path file = folder_ / fmt::format("in{}.h5", trips_);
    (void)import_model({.source = out.output, .output = file});
    return read_checkpoint(file);
  }
  [[nodiscard]] fs::path exported(int trip) const { return folder_ / fmt::format("out{}", trip); }

  ScratchFolder folder_;
  std::string family_;
  int trips_ = 0;
};

TEST_P(RoundTrip, ChangesNoBitOfTheModel) {
  const Checkpoint before = made_up_checkpoint(GetParam().model);
  for (const StoredType type : {StoredType::f32, StoredType::f16, StoredType::bf16}) {
    const Checkpoint after = there_and_back(before, {.type = type});
    EXPECT_EQ(family_, GetParam().family);
    EXPECT_EQ(model_state(after), model_state(before)) << name_of(type);
    EXPECT_EQ(after.meta.tokenizer_kind, before.meta.tokenizer_kind);
    EXPECT_EQ(after.meta.tokenizer, before.meta.tokenizer);
  }
}

TEST_P(RoundTrip, ChangesNoLogit) {
  const Checkpoint before = made_up_checkpoint(GetParam().model);
  const Checkpoint after = there_and_back(before, {});
  TrainedModel a = build_trained_model(before, "before");
  TrainedModel b = build_trained_model(after, "after");
  const std::vector<int32_t> tokens = {5, 99, 250, 7, 7, 31, 128, 0, 64};
  EXPECT_EQ(logits_of(a, tokens), logits_of(b, tokens));
}

TEST_P(RoundTrip, GivesTheSameFilesAgain) {
  const Checkpoint first = there_and_back(made_up_checkpoint(GetParam().model), {});
  (void)there_and_back(first, {});
  for (const char* name :
       {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}) {
    EXPECT_EQ(read_all(exported(1) / name), read_all(exported(2) / name)) << name;
  }
}

TEST_P(RoundTrip, GoesThroughSeveralFiles) {
  const Checkpoint before = made_up_checkpoint(GetParam().model);
  const Checkpoint after = there_and_back(before, {.max_file_bytes = 4096});
  EXPECT_TRUE(fs::exists(exported(1) / "model.safetensors.index.json"));
  EXPECT_EQ(model_state(after), model_state(before));
}

INSTANTIATE_TEST_SUITE_P(OfEachFamily, RoundTrip, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

TEST(Families, AllMakeTheRoundTrip) {
  std::set<std::string> tested;
  for (const Case& one : cases()) tested.insert(one.family);
  for (const std::string_view name : family_registry().names()) {
    EXPECT_TRUE(tested.contains(std::string(name))) << name;
  }
}

}  // namespace
}  // namespace sluice
