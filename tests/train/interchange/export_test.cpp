#include "train/interchange/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <regex>

#include "tests/support/error_of.h"
#include "tests/support/family_cases.h"
#include "tests/support/made_up_checkpoint.h"
#include "tests/support/scratch_folder.h"
#include "train/interchange/safetensors.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using ::testing::HasSubstr;
using testing::made_up_checkpoint;
using testing::ScratchFolder;

constexpr const char* kExperts = R"(
model: {pattern: "(AE)x2", hidden_size: 16, attention: {num_heads: 4, num_kv_heads: 2},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12, shared: none}}
)";

class Export : public ::testing::Test {
 protected:
  std::string error(const std::string& model, ExportOptions options = {}) {
    const Checkpoint checkpoint = made_up_checkpoint(model);
    options.output = output_;
    const std::string message =
        error_of<ConfigError>([&] { export_model(checkpoint, "a.h5", options); });
    EXPECT_FALSE(fs::exists(output_));
    return message;
  }
  ExportedModel exported(const std::string& model, ExportOptions options = {}) {
    options.output = output_;
    return export_model(made_up_checkpoint(model), "a.h5", options);
  }

  ScratchFolder folder_;
  fs::path output_ = folder_ / "out";
};

TEST_F(Export, WritesAConfigThatOthersRead) {
  EXPECT_EQ(exported(std::string(kExperts) + "balance: {type: none}").family, "mixtral");
  const auto config =
      nlohmann::json::parse(read_file(output_ / "config.json", raise_as<DataError>));
  EXPECT_EQ(config["architectures"], nlohmann::json::array({"MixtralForCausalLM"}));
  EXPECT_EQ(config["model_type"], "mixtral");
  EXPECT_EQ(config["vocab_size"], 257);
  EXPECT_EQ(config["num_hidden_layers"], 2);
  EXPECT_EQ(config["head_dim"], 4);
  EXPECT_EQ(config["num_local_experts"], 4);
  EXPECT_EQ(config["num_experts_per_tok"], 2);
  EXPECT_EQ(config["rope_theta"], 10000.0);
  EXPECT_EQ(config["eos_token_id"], 256);
  EXPECT_TRUE(config["bos_token_id"].is_null());
  EXPECT_TRUE(config["pad_token_id"].is_null());
  EXPECT_EQ(config["torch_dtype"], "float32");
  const TensorFiles files = open_safetensors(output_);
  EXPECT_EQ(files.find("model.layers.1.block_sparse_moe.experts.3.w2.weight")->dims,
            (std::vector<int64_t>{16, 12}));
  EXPECT_EQ(files.find("lm_head.weight"), nullptr);
}

TEST_F(Export, SaysWhyNoFamilyCanHoldAModel) {
  const std::string message = error(R"(
model: {pattern: "(GF)x2", hidden_size: 16, feed_forward: {intermediate_size: 24},
        gated_delta_net: {num_heads: 2}}
)");
  EXPECT_THAT(message, HasSubstr("no family of models can hold this one (llama: sublayer 0 of "
                                 "model.pattern is G, allowed attention; "));
  EXPECT_THAT(message, HasSubstr("; mamba2: "));
}

TEST_F(Export, SaysWhyAFamilyCannotHoldAModel) {
  const std::string experts = std::string(kExperts) + "balance: {type: none}";
  EXPECT_EQ(error(experts, {.family = "llama"}),
            "--family llama: the model has experts, allowed dense feed-forwards");
  EXPECT_EQ(error(experts, {.family = "qwen3_moe"}),
            "--family qwen3_moe: model.attention.qk_norm is none, allowed per_head");
  EXPECT_THAT(error(experts, {.family = "mixtrall"}), HasSubstr("did you mean \"mixtral\"?"));
}

/// What transformers computes of a config must be what was trained.
TEST_F(Export, RefusesWhatWouldLoadAsAnotherModel) {
  const auto with = [](std::string_view sections, std::string_view experts) {
    return fmt::format("model: {{hidden_size: 16, {}, experts: {{num_experts: 4, top_k: 2, "
                       "intermediate_size: 12, {}}}}}\nbalance: {{type: none}}",
                       sections, experts);
  };
  EXPECT_THAT(error(with("pattern: (AE)x2, attention: {num_heads: 4, head_dim: 6, qk_norm: full}",
                         "shared: none"),
                    {.family = "olmoe"}),
              HasSubstr("heads of 24 elements together, allowed 16 (hidden_size)"));
  const std::string latent = "pattern: (CE)x2, latent_attention: {num_heads: 4}";
  EXPECT_THAT(error(with(latent, "shared: none, router: {type: top_k, weights: as_is}"),
                    {.family = "deepseek_v2"}),
              HasSubstr("model.experts.shared is none or combined otherwise than by sum"));
  const std::string shared = "shared: {num_experts: 1, intermediate_size: 12}, ";
  EXPECT_THAT(error(with(latent, shared + "router: {type: top_k}"), {.family = "deepseek_v2"}),
              HasSubstr("model.experts.router.weights is renormalise, allowed as_is"));
  EXPECT_THAT(error(with(latent, shared + "router: {type: node_limited, scores: sigmoid, n_group: "
                                          "4, topk_group: 2}"),
                    {.family = "deepseek_v3"}),
              HasSubstr("model.experts.num_experts is 4, allowed two or more in each of the 4"));
  const std::string mamba = "model: {pattern: Mx2, hidden_size: 16, mamba2: {head_dim: 8, ";
  EXPECT_THAT(error(mamba + "D_per_channel: true}}", {.family = "mamba2"}),
              HasSubstr("model.mamba2.D_per_channel is true, allowed false"));
  EXPECT_THAT(error(mamba + "expand: 1.5}}", {.family = "mamba2"}),
              HasSubstr("model.mamba2.expand is no whole number"));
}

TEST_F(Export, DividesTheWeightOfASingleExpertByNothing) {
  (void)exported(R"(
model: {pattern: "(CE)x2", hidden_size: 16, latent_attention: {num_heads: 4},
        experts: {num_experts: 4, top_k: 1, intermediate_size: 12,
                  shared: {num_experts: 1, intermediate_size: 12},
                  router: {type: top_k, scores: sigmoid}}}
balance: {type: loss_free_bias}
)");
  const auto config =
      nlohmann::json::parse(read_file(output_ / "config.json", raise_as<DataError>));
  EXPECT_EQ(config["model_type"], "deepseek_v3");
  EXPECT_EQ(config["norm_topk_prob"], false);
}

TEST_F(Export, TakesMistralWhereLlamaWantsHeadsThatDivideTheWidth) {
  EXPECT_EQ(exported(R"(
model: {pattern: "(AF)x2", hidden_size: 16, attention: {num_heads: 3, head_dim: 6},
        feed_forward: {intermediate_size: 24}}
)")
                .family,
            "mistral");
}

TEST_F(Export, SaysThatQwen2sTokenizersAreReadInTheirOwnWay) {
  const ExportedModel model = exported(R"(
model: {pattern: "(AF)x2", hidden_size: 16, attention: {num_heads: 4, bias: qkv},
        feed_forward: {intermediate_size: 24}}
)");
  EXPECT_EQ(model.family, "qwen2");
  EXPECT_THAT(model.notes, ::testing::ElementsAre(HasSubstr("PreTrainedTokenizerFast")));
}

/// All experts chosen weigh 1, which is no function of any family.
TEST_F(Export, RefusesWeightsThatNoFamilyHas) {
  int64_t routed = 0;
  for (const testing::FamilyCase& one : testing::family_cases()) {
    Checkpoint checkpoint = made_up_checkpoint(one.model);
    const std::regex weights("weights: (renormalise|as_is)");
    if (!std::regex_search(checkpoint.meta.recipe, weights)) continue;
    ++routed;
    checkpoint.meta.recipe =
        std::regex_replace(checkpoint.meta.recipe, weights, "weights: straight_through");
    EXPECT_EQ(error_of<ConfigError>([&] {
                export_model(checkpoint, "a.h5", {.output = output_, .family = one.family});
              }),
              fmt::format("--family {}: model.experts.router.weights is straight_through, allowed "
                          "renormalise, softmax_after or as_is",
                          one.family));
  }
  EXPECT_GE(routed, 6);
}

TEST_F(Export, RefusesAModelWhoseExpertsAreNotMadeYet) {
  Checkpoint checkpoint = made_up_checkpoint(R"(
model: {pattern: "(AE)x2", hidden_size: 16, attention: {num_heads: 4},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12, shared: none,
                  diversify: {steps: 1}}}
balance: {type: none}
)");
  const auto export_it = [&] { (void)export_model(checkpoint, "a.h5", {.output = output_}); };
  EXPECT_EQ(error_of<ConfigError>(export_it),
            "a.h5: after step 0 the experts are not made yet (model.experts.diversify.steps: 1)");
  EXPECT_TRUE(fs::is_empty(folder_.path()));
  checkpoint.meta.step = 1;
  export_it();
  EXPECT_TRUE(fs::exists(output_));
}

TEST_F(Export, RefusesToLoseAShiftOfTheChoiceUnlessAskedTo) {
  const std::string shifted = std::string(kExperts) + "balance: {type: loss_free_bias}";
  EXPECT_EQ(error(shifted, {.family = "mixtral"}),
            "--family mixtral: balance: loss_free_bias shifts the choice of experts, in evaluation "
            "too, which this family has not; --drop-selection-shift exports the router alone");
  const ExportedModel model = exported(shifted, {.drop_selection_shift = true});
  EXPECT_EQ(model.family, "mixtral");
  EXPECT_THAT(model.notes,
              ::testing::ElementsAre(HasSubstr("left out: the shift of loss_free_bias")));
}

TEST_F(Export, RefusesNumbersThatHalvesCannotHold) {
  Checkpoint checkpoint = made_up_checkpoint(std::string(kExperts) + "balance: {type: none}");
  auto& bytes = checkpoint.state.at("model/final_norm.weight").bytes;
  const float large = 7e4f;
  std::memcpy(bytes.data(), &large, sizeof(large));
  EXPECT_EQ(error_of<CheckpointError>([&] {
              export_model(checkpoint, "a.h5", {.output = output_, .type = StoredType::f16});
            }),
            "model.norm.weight holds 70000, which f16 cannot (up to 65504); export as bf16 or f32");
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(Export, LeavesOutLayersOfTrainingAlone) {
  const ExportedModel model = exported(R"(
model: {pattern: "(AF)x2", hidden_size: 16, attention: {num_heads: 4},
        feed_forward: {intermediate_size: 24},
        multi_token_prediction: {num_depths: 1, pattern: AF}}
)");
  EXPECT_EQ(model.family, "llama");
  EXPECT_THAT(model.notes, ::testing::ElementsAre(HasSubstr("multi-token prediction")));
}

TEST_F(Export, WritesOverNothing) {
  fs::create_directories(output_);
  EXPECT_THAT(error_of<ConfigError>(
                  [&] { (void)exported(std::string(kExperts) + "balance: {type: none}"); }),
              HasSubstr("--out: "));
}

}  // namespace
}  // namespace sluice
