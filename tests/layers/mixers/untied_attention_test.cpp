#include <gtest/gtest.h>

#include "tests/layers/layer_checks.h"
#include "tests/layers/modality_models.h"

namespace sluice {
namespace {

using testing_support::attention_of;
using testing_support::element;
using testing_support::hidden_of;
using testing_support::modality_config;
using testing_support::parameter_named;
using testing_support::replaced;
using testing_support::tokens_of_modality;
using Json = nlohmann::json;

/// With the heads of tiny_config.
ModelConfig untied_config(Json fields, const std::string& pattern = "ZF",
                          const std::string& dtype = "f32") {
  Json all = {{"num_heads", 4}, {"num_kv_heads", 2}, {"max_position_embeddings", 256}};
  all.update(fields);
  return modality_config(untied_attention_mixer, pattern, all, dtype);
}

std::vector<Json> kinds() {
  return {{{"norm", "pre"}},
          {{"norm", "post"}, {"qk_norm", "per_head"}},
          {{"norm", "both"}, {"qk_norm", "full"}, {"window", 9}}};
}

TEST(UntiedAttention, KeepsWhatMixersKeep) {
  for (const Json& kind : kinds()) {
    testing_support::expect_a_sound_layer_forward(untied_config(kind, "ZFZ"));
    testing_support::expect_model_gradients(untied_config(kind, "ZF", "f64"));
  }
}

TEST(UntiedAttention, SeesTokensOfAllModalities) {
  testing_support::expect_all_earlier_tokens_seen(untied_config({{"norm", "both"}}));
}

TEST(UntiedAttention, WithEqualCopiesIsAttention) {
  for (const char* qk_norm : {"none", "per_head", "full"}) {
    Pool pool;
    const ModelConfig config = untied_config({{"norm", "pre"}, {"qk_norm", qk_norm}}, "ZF", "f64");
    ModelConfig plain = config;
    plain.pattern = "AF";
    attention_of(plain).qk_norm = qk_norm;
    const Model untied(pool, config, 3);
    const Model tied(pool, plain, 5);
    testing_support::copy_parameters(tied, untied, [](const std::string& name) {
      return replaced(replaced(name, "untied_attention.pre_norm", "norm.weight"),
                      "untied_attention", "attention");
    });
    const auto batch = tokens_of_modality(pool, std::nullopt);
    const Tensor a = hidden_of(pool, untied, batch, /*training=*/false);
    const Tensor b = hidden_of(pool, tied, batch, /*training=*/false);
    for (int64_t i = 0; i < a.numel(); ++i) ASSERT_NEAR(element(a, i), element(b, i), 1e-12);
  }
}

TEST(UntiedAttention, LeavesOtherModalitiesAlone) {
  for (const Json& kind : kinds()) {
    testing_support::expect_other_modalities_untouched(untied_config(kind));
  }
}

TEST(UntiedAttention, TakesModalitiesInAnyOrder) {
  for (const Json& kind : kinds()) {
    testing_support::expect_labels_mean_nothing(untied_config(kind, "ZFZ"));
  }
}

TEST(UntiedAttention, HasACopyOfEverythingForEachModality) {
  Pool pool;
  const Model model(pool, untied_config({{"norm", "both"}, {"qk_norm", "per_head"}}, "Z"), 1);
  int64_t untied = 0;
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->stack == Stack::modalities) untied += parameter->value.numel();
  }
  // D = 32, 4 heads and 2 key/value heads of 8.
  constexpr int64_t kAttention = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 2 * 8;
  constexpr int64_t kNorms = 2 * 32;
  EXPECT_EQ(untied, 2 * (kAttention + kNorms));
}

TEST(UntiedAttention, NormalisesWhereItIsTold) {
  Pool pool;
  const ModelConfig config = untied_config({{"norm", "post"}}, "Z", "f64");
  const Model model(pool, config, 3);
  EXPECT_EQ(parameter_named(model, "layers.0.norm.weight"), nullptr);
  EXPECT_EQ(parameter_named(model, "layers.0.untied_attention.pre_norm"), nullptr);
  Parameter* post = parameter_named(model, "layers.0.untied_attention.post_norm");
  ASSERT_NE(post, nullptr);
  // Where the norm behind the projection has the weight 0, the layer adds nothing: images keep their
  // embedding, which the final norm scales to a root mean square of 1.
  for (int64_t i = 32; i < 64; ++i) post->value.data<double>()[i] = 0.0;
  const Tensor& table = parameter_named(model, "embedding.weight")->value;
  const auto batch = tokens_of_modality(pool, std::nullopt);
  const Tensor hidden = hidden_of(pool, model, batch, /*training=*/false);
  for (int64_t n = 0; n < hidden.dim(0); ++n) {
    const int64_t token = batch.tokens.data<int32_t>()[n];
    double square = config.norm.eps;
    for (int64_t d = 0; d < 32; ++d) square += std::pow(element(table, token * 32 + d), 2) / 32;
    double distance = 0.0;
    for (int64_t d = 0; d < 32; ++d) {
      const double kept = element(table, token * 32 + d) / std::sqrt(square);
      distance = std::max(distance, std::abs(element(hidden, n * 32 + d) - kept));
    }
    EXPECT_EQ(distance < 1e-12, token >= 32) << distance;
  }
}

TEST(UntiedAttention, AsksForModalitiesAndHasNoBias) {
  ModelConfig config = untied_config(Json::object());
  config.modalities = nullptr;
  EXPECT_EQ(config.check().substr(0, 35), "modalities: not given, but Z (varia");
  config = untied_config({{"bias", "qkv"}});
  EXPECT_EQ(config.variants[0].second.config->check(),
            "bias: found qkv, allowed none: untied projections have no bias");
  config = untied_config(Json::object());
  config.norm.type = "layer_norm";
  EXPECT_NE(config.check().find("model.norm.type rms_norm only"), std::string::npos);
}

}  // namespace
}  // namespace sluice
