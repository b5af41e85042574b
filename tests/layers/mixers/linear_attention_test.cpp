#include "layers/mixers/linear_attention.h"

#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using namespace testing_support;

LinearAttentionConfig& section_of(ModelConfig& config) {
  return dynamic_cast<LinearAttentionConfig&>(config.section("linear_attention"));
}

/// The published layer; gated; and sums of products of two maps, with a convolution and a gate.
std::vector<ModelConfig> variants(const std::string& pattern = "LF") {
  std::vector<ModelConfig> result;
  for (int i = 0; i < 3; ++i) {
    ModelConfig config = tiny_config(pattern);
    section_of(config).heads.num_heads = 2;
    section_of(config).heads.head_dim = 8;
    result.push_back(config);
  }
  // Copies share their sections: every variant has its own.
  section_of(result[0]).output_norm = false;
  section_of(result[1]).decay = true;
  section_of(result[2]).feature_map = FeatureMap::hadamard;
  section_of(result[2]).normalise = false;
  section_of(result[2]).heads.conv_kernel = 3;
  section_of(result[2]).heads.output_gate = true;
  return result;
}

TEST(LinearAttention, IsASoundMixer) {
  for (const ModelConfig& config : variants("LFL")) expect_a_sound_layer(config);
}

TEST(LinearAttention, DecodesAtConstantMemory) {
  for (const ModelConfig& config : variants("LFLF")) expect_constant_decoding_memory(config);
}

TEST(LinearAttention, NormalisedReadsAMeanOfItsValues) {
  // With every value projection equal to that of one constant row, all tokens read that row: the
  // weights of a token add up to one.
  ModelConfig config = variants("L")[0];
  config.dtype = "f64";
  Pool pool;
  const Model model(pool, config, 1);
  Tensor output;
  for (Parameter* parameter : model.parameters()) {
    double* value = parameter->value.data<double>();
    if (parameter->name.ends_with("embedding.weight")) {
      // Tokens differ in their other elements; the first is 1 in all of them.
      for (int64_t v = 0; v < 64; ++v) {
        for (int64_t d = 0; d < 32; ++d)
          value[v * 32 + d] = d == 0 ? 1.0 : ((v >> d % 6) & 1) * 2 - 1;
      }
    }
    if (parameter->name.ends_with("w_v")) {
      for (int64_t i = 0; i < parameter->value.numel(); ++i) value[i] = i % 32 == 0 ? 1.0 : 0.0;
    }
  }
  const TinyBatch batch = tiny_batch(pool, {{100}});
  Tape tape(pool);
  const NoGrad no_grad(tape);
  const Tensor hidden = hidden_of(pool, model, batch, /*training=*/false);
  // Every row of embeddings has mean square 1, so the value read is (1 + 1e-5)^(-1/2) in all
  // channels, and what the layer adds is the same vector for every token.
  std::vector<double> added;
  const auto row_of = [&](int64_t t) { return batch.tokens.data<int32_t>()[t] * 32; };
  const Parameter* embedding = model.parameters()[0];
  // The final norm divides a row by its root mean square r: hidden r = embedding + added.
  const Parameter* w_o = nullptr;
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->name.ends_with("w_o")) w_o = parameter;
  }
  ASSERT_NE(w_o, nullptr);
  for (int64_t d = 0; d < 32; ++d) {
    double sum = 0.0;
    for (int64_t i = 0; i < 16; ++i) sum += element(w_o->value, d * 16 + i);
    added.push_back(sum / std::sqrt(1.0 + 1e-5));
  }
  for (int64_t t = 0; t < 100; ++t) {
    double square = 0.0;
    for (int64_t d = 0; d < 32; ++d) {
      square +=
          std::pow(element(embedding->value, row_of(t) + d) + added[static_cast<size_t>(d)], 2);
    }
    const double rms = std::sqrt(square / 32 + 1e-5);
    for (int64_t d = 0; d < 32; ++d) {
      // The normaliser's 1e-6 beside sums of at least one token's features.
      ASSERT_NEAR(element(hidden, t * 32 + d) * rms,
                  element(embedding->value, row_of(t) + d) + added[static_cast<size_t>(d)], 1e-4);
    }
  }
}

TEST(LinearAttention, RefusesToNormaliseByWhatMayBeNegative) {
  ModelConfig config = tiny_config("L");
  section_of(config).feature_map = FeatureMap::identity;
  EXPECT_EQ(section_of(config).check(),
            "normalise: found true, allowed with feature_map elu_plus_one only, whose sums are "
            "positive; use output_norm with the others");
}

}  // namespace
}  // namespace sluice
