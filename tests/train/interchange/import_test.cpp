#include "train/interchange/import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/error_of.h"
#include "tests/support/made_up_checkpoint.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"
#include "tests/train/interchange/tensors_in.h"
#include "train/evaluate_checkpoint.h"
#include "train/generate.h"
#include "train/interchange/export.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::differing_arrays;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::logits_of;
using testing::made_up_checkpoint;
using testing::ScratchFolder;

constexpr const char* kDense = R"(
model: {pattern: "(AF)x2", hidden_size: 16, tie_embeddings: true,
        attention: {num_heads: 4, num_kv_heads: 2}, feed_forward: {intermediate_size: 24}}
)";
constexpr const char* kExperts = R"(
model: {pattern: "(AE)x2", hidden_size: 16, attention: {num_heads: 4, num_kv_heads: 2},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12, shared: none}}
balance: {type: none}
)";

constexpr const char* kMamba = R"(
model: {pattern: "Mx2", hidden_size: 16, mamba2: {head_dim: 8, state_size: 6}}
)";

std::string read_all(const fs::path& path) { return read_file(path, raise_as<DataError>); }

class Import : public ::testing::Test {
 protected:
  /// An exported model in folder_ / "model".
  void make(const char* model, const std::string& family = {}) {
    fs::remove_all(source_);
    checkpoint_ = made_up_checkpoint(model);
    export_model(checkpoint_, "made-up.h5", {.output = source_, .family = family});
  }
  void change_config(const std::function<void(json&)>& change) {
    json config = json::parse(read_all(source_ / "config.json"));
    change(config);
    std::ofstream(source_ / "config.json") << config;
  }
  /// Writes the tensors again, changed.
  void change_tensors(const std::function<void(std::vector<TensorToWrite>&)>& change) {
    std::vector<TensorToWrite> tensors = testing::tensors_in(source_);
    change(tensors);
    fs::remove(source_ / "model.safetensors");
    write_safetensors(real_file_system(), source_, tensors);
  }
  template <class ErrorType = CheckpointError>
  std::string error() {
    const std::string message =
        error_of<ErrorType>([&] { (void)import_model({.source = source_, .output = output_}); });
    EXPECT_FALSE(fs::exists(output_));
    return message;
  }
  Checkpoint imported() {
    fs::remove(output_);
    notes_ = import_model({.source = source_, .output = output_}).notes;
    return read_checkpoint(output_);
  }
  [[nodiscard]] bool is_as_made(const Checkpoint& checkpoint) const {
    for (const auto& [path, array] : checkpoint_.state) {
      if (!(checkpoint.state.at(path) == array)) return false;
    }
    return true;
  }

  ScratchFolder folder_;
  fs::path source_ = folder_ / "model";
  fs::path output_ = folder_ / "model.h5";
  Checkpoint checkpoint_;
  std::vector<std::string> notes_;
};

TEST_F(Import, MakesTheFolderOfARun) {
  make(kDense);
  const auto model = import_model({.source = source_, .output = folder_ / "run"});
  EXPECT_EQ(model.checkpoint, folder_ / "run" / "checkpoints" / "step_00000000.h5");
  EXPECT_EQ(model.parameters, 257 * 16 + 2 * (16 * 16 * 2 + 8 * 16 * 2 + 3 * 24 * 16 + 32) + 16);
  EXPECT_THAT(model.notes, IsEmpty());
  EXPECT_TRUE(is_as_made(read_checkpoint(model.checkpoint)));
  const Recipe recipe = parse_recipe(read_all(folder_ / "run" / "recipe.yaml"), "recipe.yaml");
  EXPECT_EQ(recipe.model.expanded_pattern(), "AFAF");
}

TEST_F(Import, TakesACopyOfTheEmbeddingAndBuffersThatHoldNothing) {
  make(kDense);
  std::function<void(std::span<float>)> embedding;
  change_tensors([&](auto& tensors) {
    for (const auto& tensor : tensors) {
      if (tensor.name == "model.embed_tokens.weight") embedding = tensor.fill;
    }
    tensors.push_back({"lm_head.weight", StoredType::f32, {257, 16}, embedding});
    tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq",
                       StoredType::f32,
                       {2},
                       [](std::span<float>) {}});
  });
  EXPECT_TRUE(is_as_made(imported()));
  change_tensors([&](auto& tensors) {
    tensors[0].fill = [embedding](std::span<float> out) {
      embedding(out);
      out[100] += 1.0f;
    };
    ASSERT_EQ(tensors[0].name, "lm_head.weight");
  });
  fs::remove(output_);
  EXPECT_THAT(error(), HasSubstr("lm_head.weight differs from the embedding"));
}

TEST_F(Import, TakesNamesWithoutTheirPrefix) {
  make(kDense);
  change_tensors([](auto& tensors) {
    for (auto& tensor : tensors) tensor.name = tensor.name.substr(std::string("model.").size());
  });
  EXPECT_TRUE(is_as_made(imported()));
}

TEST_F(Import, RefusesTensorsThatDoNotFitTheConfig) {
  make(kDense);
  change_config([](json& config) { config["intermediate_size"] = 25; });
  EXPECT_THAT(error(),
              HasSubstr("model.layers.0.mlp.gate_proj.weight is [24, 16], config.json asks "
                        "for [25, 16]"));
  change_config([](json& config) {
    config["intermediate_size"] = 24;
    config["num_hidden_layers"] = 3;
  });
  EXPECT_THAT(error(), HasSubstr("holds no tensor model.layers.2.input_layernorm.weight"));
  change_config([](json& config) { config["num_hidden_layers"] = 1; });
  EXPECT_THAT(error(), HasSubstr("model.layers.1.input_layernorm.weight: a llama model of this "
                                 "config.json has no such tensor, nor 8 others"));
}

TEST_F(Import, RefusesConfigsThatItCannotBe) {
  make(kDense);
  const json right = json::parse(read_all(source_ / "config.json"));
  const auto error_with = [&](const char* key, json value) {
    json config = right;
    config[key] = std::move(value);
    std::ofstream(source_ / "config.json") << config;
    std::string message = error();
    return message.substr(std::min(message.find("config.json: ") + 13, message.size()));
  };
  EXPECT_EQ(error_with("hidden_size", "a"),
            "hidden_size: found \"a\", allowed a whole number from 1 to 2147483647");
  EXPECT_EQ(error_with("hidden_size", nullptr),
            "hidden_size: not given, allowed a whole number from 1 to 2147483647");
  EXPECT_EQ(error_with("num_hidden_layers", 1e18),
            "num_hidden_layers: found 1e+18, allowed a whole number from 1 to 2147483647");
  EXPECT_EQ(error_with("num_hidden_layers", 2'000'000'000),
            "num_hidden_layers: found 2000000000, allowed at most 2048");
  EXPECT_EQ(error_with("hidden_act", "gelu"), "hidden_act: found \"gelu\", allowed \"silu\"");
  EXPECT_EQ(error_with("rope_scaling", json{{"type", "longrope"}, {"factor", 2.0}}),
            "rope_scaling.type: found \"longrope\", allowed default, linear, llama3 or yarn");
  EXPECT_THAT(error_with("num_key_value_heads", 3),
              HasSubstr("num_kv_heads: found 3, allowed a divisor of num_heads (4)"));
  EXPECT_EQ(
      error_with("model_type", "lama"),
      "unknown model_type \"lama\"; did you mean \"llama\"? Known: llama, mistral, qwen2, qwen3, "
      "mixtral, olmoe, qwen2_moe, qwen3_moe, deepseek_v2, deepseek_v3, gpt2, mamba2");
  EXPECT_THAT(error_with("hidden_size", 2'147'483'647), HasSubstr("2147483647"));
}

TEST_F(Import, RefusesRotationsThatItHasNot) {
  make(kDense);
  const auto error_with = [&](json parameters) {
    change_config([&](json& config) { config["rope_parameters"] = std::move(parameters); });
    const std::string message = error();
    return message.substr(std::min(message.find("rope_parameters.") + 16, message.size()));
  };
  const json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}};
  EXPECT_THAT(error_with({{"rope_type", "dynamic"}, {"factor", 2.0}}),
              HasSubstr("rope_type: found \"dynamic\""));
  EXPECT_THAT(error_with({{"partial_rotary_factor", 0.5}}),
              HasSubstr("partial_rotary_factor: found 0.5, allowed 1.0"));
  EXPECT_THAT(error_with({{"full_attention", {{"rope_theta", 1e5}}}}),
              HasSubstr("allowed one rotation for all layers"));
  json other = yarn;
  other["truncate"] = false;
  EXPECT_THAT(error_with(other), HasSubstr("truncate: found false, allowed true"));
  other = yarn;
  other["mscale"] = other["mscale_all_dim"] = 0.7;
  EXPECT_THAT(error_with(other), HasSubstr("mscale: found 0.7, allowed none"));
}

TEST_F(Import, RefusesWhatProgramsDoNotAgreeOn) {
  constexpr const char* kLatent = R"(
model: {{pattern: (CE)x2, hidden_size: 16, latent_attention: {{num_heads: 4{}}},
        experts: {{num_experts: 4, top_k: 2, intermediate_size: 12,
                  shared: {{num_experts: 1, intermediate_size: 12}},
                  router: {{type: top_k, scores: {}, weights: as_is}}}}}}
balance: {{type: none}}
)";
  make(fmt::format(kLatent, "", "softmax").c_str(), "deepseek_v2");
  change_config([](json& config) { config["norm_topk_prob"] = true; });
  EXPECT_THAT(error(), HasSubstr("norm_topk_prob: found true, allowed false"));
  make(fmt::format(kLatent, "", "sigmoid").c_str(), "deepseek_v3");
  change_config([](json& config) {
    config["norm_topk_prob"] = true;
    config["num_experts_per_tok"] = 1;
  });
  EXPECT_THAT(error(), HasSubstr("allowed false with one expert per token"));
  make(fmt::format(kLatent, ", rope_scaling: {type: yarn, factor: 4}", "softmax").c_str(),
       "deepseek_v2");
  EXPECT_TRUE(is_as_made(imported()));
  fs::remove(output_);
  change_config([](json& config) { config["rope_scaling"].erase("mscale_all_dim"); });
  EXPECT_THAT(error(), HasSubstr("mscale_all_dim: not given, allowed a number above 0"));
}

TEST_F(Import, TakesTheNumberOfExpertsByItsOtherName) {
  make(R"(
model: {pattern: "(AE)x2", hidden_size: 16, attention: {num_heads: 4, qk_norm: per_head},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12, shared: none}}
balance: {type: none}
)");
  change_config([](json& config) {
    ASSERT_EQ(config["model_type"], "qwen3_moe");
    config["num_local_experts"] = config["num_experts"];
    config.erase("num_experts");
  });
  EXPECT_TRUE(is_as_made(imported()));
}

TEST_F(Import, SaysWhatIsMissing) {
  EXPECT_THAT(error<ConfigError>(), HasSubstr("no such folder"));
  fs::create_directories(source_);
  EXPECT_THAT(error<ConfigError>(), HasSubstr("holds no config.json"));
  make(kDense);
  fs::remove(source_ / "tokenizer.json");
  EXPECT_THAT(error<ConfigError>(), HasSubstr("--tokenizer bytes"));
  make(kDense);
  fs::remove(source_ / "model.safetensors");
  EXPECT_THAT(error<ConfigError>(), HasSubstr("no such file; a model has model.safetensors"));
  make(kDense);
  std::ofstream(output_) << "precious";
  EXPECT_THAT(
      error_of<ConfigError>([&] { (void)import_model({.source = source_, .output = output_}); }),
      HasSubstr("--out: "));
  EXPECT_EQ(read_all(output_), "precious");
}

TEST_F(Import, OfInterleavedHeadsHasTheSameLogits) {
  make(R"(
model: {pattern: "(AF)x2", hidden_size: 16,
        attention: {num_heads: 2, num_kv_heads: 1, rope_layout: interleaved, qk_norm: per_head,
                    bias: all},
        feed_forward: {intermediate_size: 24}}
)");
  TrainedModel before = build_trained_model(checkpoint_, "before");
  TrainedModel after = build_trained_model(imported(), "after");
  const std::vector<int32_t> tokens = {5, 99, 250, 7, 7, 31, 128, 0, 64};
  const auto a = logits_of(before, tokens);
  const auto b = logits_of(after, tokens);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-4 * (1.0 + std::abs(a[i])));
}

/// What the checkpoint is with the rows of its rotating heads, interleaved, in half-split order.
StateDict half_split(const Checkpoint& checkpoint, size_t head_dim) {
  StateDict state = testing::model_state(checkpoint);
  for (auto& [path, array] : state) {
    const bool rotates =
        std::ranges::any_of(std::array{".w_q", ".w_k", ".b_q", ".b_k", ".q_norm", ".k_norm"},
                            [&name = path](const char* ending) { return name.ends_with(ending); });
    if (!rotates) continue;
    const std::vector<std::byte> rows = array.bytes;
    const size_t row_bytes = rows.size() / static_cast<size_t>(array.dims[0]);
    for (size_t row = 0; row * row_bytes < rows.size(); ++row) {
      const size_t in_head = row % head_dim;
      const size_t place = in_head % 2 == 0 ? in_head / 2 : head_dim / 2 + in_head / 2;
      std::copy_n(
          rows.begin() + static_cast<std::ptrdiff_t>(row * row_bytes), row_bytes,
          array.bytes.begin() + static_cast<std::ptrdiff_t>((row - in_head + place) * row_bytes));
    }
  }
  return state;
}

TEST_F(Import, OfInterleavedHeadsHasEveryRowInItsPlace) {
  struct Way {
    const char* attention;
    ExportFormat format;
  };
  const Way ways[] = {{"bias: all, qk_norm: per_head", ExportFormat::safetensors},
                      {"bias: all", ExportFormat::gguf}};
  for (const Way& way : ways) {
    checkpoint_ = made_up_checkpoint(fmt::format(R"(
model: {{pattern: "(AF)x2", hidden_size: 16, vocab_size: 300,
        feed_forward: {{intermediate_size: 24}},
        attention: {{num_heads: 2, num_kv_heads: 1, rope_layout: interleaved, {}}}}}
)",
                                                 way.attention));
    testing::fill_with_bits(checkpoint_, StoredType::f32);
    testing::give_pieces(checkpoint_);
    fs::remove_all(source_);
    export_model(checkpoint_, "made-up.h5", {.output = source_, .format = way.format});
    const Checkpoint after = imported();
    EXPECT_THAT(differing_arrays(testing::model_state(after), half_split(checkpoint_, 8)),
                IsEmpty())
        << way.attention;
  }
}

/// Also what matters in training, or to speed, alone.
TEST_F(Import, HandsOnWhatTheConfigSays) {
  struct Said {
    const char* model;
    const char* key;
    json value;
  };
  const Said all[] = {{kExperts, "router_jitter_noise", 0.02},
                      {kExperts, "router_aux_loss_coef", 0.03},
                      {kExperts, "initializer_range", 0.05},
                      {kDense, "max_position_embeddings", 77},
                      {kMamba, "chunk_size", 64},
                      {kMamba, "chunk_size", 256}};
  const fs::path again = folder_ / "again";
  for (const Said& said : all) {
    make(said.model);
    change_config([&](json& config) { config[said.key] = said.value; });
    export_model(imported(), "imported.h5", {.output = again});
    EXPECT_EQ(json::parse(read_all(again / "config.json"))[said.key], said.value) << said.key;
    fs::remove_all(again);
  }
  make(kMamba);
  change_config([&](json& config) { config["chunk_size"] = 4096; });
  export_model(imported(), "imported.h5", {.output = again});
  EXPECT_EQ(json::parse(read_all(again / "config.json"))["chunk_size"], 1024);
}

/// A recipe is UTF-8 text, and names the file of the tokenizer.
TEST_F(Import, TakesFilesWhoseNamesAreNoText) {
  checkpoint_ = made_up_checkpoint(R"(
model: {pattern: "(AF)x1", hidden_size: 16, vocab_size: 300, attention: {num_heads: 4},
        feed_forward: {intermediate_size: 24}}
)");
  testing::give_pieces(checkpoint_);
  for (const ExportFormat format : {ExportFormat::safetensors, ExportFormat::gguf}) {
    source_ = folder_ / "m\xFF";
    fs::remove_all(source_);
    export_model(checkpoint_, "made-up.h5", {.output = source_, .format = format});
    EXPECT_THAT(imported().meta.recipe, HasSubstr("m\xEF\xBF\xBD"));
  }
}

// --- a published checkpoint ----------------------------------------------------------------------

/// stories260k: a Llama of 260,032 parameters, trained on children's stories.
class Stories : public Import {
 protected:
  void SetUp() override {
    const char* data = std::getenv("SLUICE_TEST_DATA");
    if (data == nullptr || !fs::exists(fs::path(data) / "stories260k")) {
      GTEST_SKIP() << "SLUICE_TEST_DATA names no folder with stories260k in it";
    }
    source_ = fs::path(data) / "stories260k";
  }
};

TEST_F(Stories, GoOnAsTheirAuthorsProgramGoesOn) {
  TrainedModel trained = build_trained_model(imported(), "stories");
  EXPECT_EQ(trained.tokenizer->vocab_size(), 512);
  std::string text;
  GenerateOptions options{.max_tokens = 64};
  options.sampling.temperature = 0.0;
  (void)generate(trained, encode_prompt(*trained.tokenizer, ""), options,
                 [&](std::string_view piece) { text += piece; });
  EXPECT_THAT(text, HasSubstr("Once upon a time, there was a little girl named Lily. She loved to "
                              "play outside in the park."));
}

TEST_F(Stories, ExpectAStory) {
  TrainedModel trained = build_trained_model(imported(), "stories");
  const auto loss_on = [&](const std::string& text) {
    std::ofstream(folder_ / "story.txt") << text;
    return evaluate_checkpoint(trained, {{(folder_ / "story.txt").string(), ""}}).loss.per_token();
  };
  const double story = loss_on(
      "Once upon a time, there was a little boy named Tim. Tim had a big red ball. He liked to "
      "play "
      "with his ball in the park. One day, Tim saw a dog. The dog was sad. Tim asked the dog, "
      "\"Why "
      "are you sad?\" The dog said, \"I lost my bone.\" Tim wanted to help. They looked under the "
      "tree and found the bone. The dog was very happy. Tim and the dog became good friends.");
  const double report = loss_on(
      "The quarterly consolidated statement discloses depreciation of intangible assets under "
      "international accounting standards, pursuant to section fourteen of the regulation.");
  EXPECT_LT(story, 1.6);
  EXPECT_GT(report, story + 1.0);
}

}  // namespace
}  // namespace sluice
