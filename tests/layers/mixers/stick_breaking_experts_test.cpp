#include "layers/mixers/stick_breaking_experts.h"

#include <cmath>

#include "autograd/ops/matmul.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/stick_breaking_attention.h"
#include "layers/model.h"
#include "layers/routers/top_k.h"
#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using testing_support::element;
using testing_support::expect_a_sound_layer;
using testing_support::hidden_of;
using testing_support::relative_distance;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;

StickBreakingExpertsConfig& experts_of(ModelConfig& config) {
  return dynamic_cast<StickBreakingExpertsConfig&>(config.section("stick_breaking_experts"));
}

ModelConfig small(const std::string& pattern, const std::string& dtype, int64_t experts,
                  double top_k) {
  ModelConfig config = tiny_config(pattern, dtype);
  StickBreakingExpertsConfig& section = experts_of(config);
  section.num_experts = experts;
  section.top_k = top_k;
  section.attention_size = 12;
  section.num_heads = 3;
  return config;
}

TEST(StickBreakingExperts, IsASoundMixer) { expect_a_sound_layer(small("BFB", "f32", 4, 2.0)); }

TEST(StickBreakingExperts, IsASoundMixerWhereSlotsAreEmpty) {
  expect_a_sound_layer([] {
    ModelConfig config = small("BFB", "f32", 4, 2.0);
    const RouterEntry& entry = router_registry().at("null_experts");
    experts_of(config).router = {std::string(entry.name),
                                 std::shared_ptr<Configurable>(entry.make_config())};
    return config;
  }());
}

TEST(StickBreakingExperts, HaveModuleFormersParametersByTheirCount) {
  Pool pool;
  const Model model(pool, small("B", "f32", 4, 2.0), 1);
  int64_t count = 0;
  std::vector<std::string> names;
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->name.starts_with("layers.0.") && parameter->kind != ParameterKind::norm) {
      count += parameter->value.numel();
      names.push_back(parameter->name);
    }
  }
  // E 2 d a + 2 d a + 256 d + 256 E and the hidden layer's bias.
  EXPECT_EQ(count, 4 * 2 * 32 * 12 + 2 * 32 * 12 + 256 * 32 + 256 * 4 + 256);
  const std::vector<std::string> expected = {
      "layers.0.router.weight",         "layers.0.router.w_hidden",
      "layers.0.router.b_hidden",       "layers.0.attention_experts.w_q",
      "layers.0.attention_experts.w_k", "layers.0.attention_experts.w_v",
      "layers.0.attention_experts.w_o"};
  EXPECT_EQ(names, expected);
}

TEST(StickBreakingExperts, WithASingleExpertAreStickBreakingAttention) {
  Pool pool;
  ModelConfig config = small("B", "f64", 1, 1.0);
  const Model model(pool, config, 1);
  const auto value = [&](const std::string& name) {
    for (const Parameter* parameter : model.parameters()) {
      if (parameter->name == name) return parameter->value;
    }
    throw InternalError("no parameter " + name);
  };
  const TinyBatch batch = tiny_batch(pool, {{25, 9}});
  const Tensor hidden = hidden_of(pool, model, batch);

  // The model by hand, up to the final norm: x + Wo attention(norm(x)).
  Tape tape(pool);
  const NoGrad no_grad(tape);
  std::vector<double> x;
  for (int64_t n = 0; n < 34; ++n) {
    const int32_t token = batch.tokens.data<int32_t>()[n];
    for (int64_t d = 0; d < 32; ++d) {
      x.push_back(element(value("embedding.weight"), token * 32 + d));
    }
  }
  const auto normalised = [](const std::vector<double>& rows) {
    std::vector<double> result(rows.size());
    for (size_t n = 0; n < rows.size() / 32; ++n) {
      double sum = 0.0;
      for (size_t d = 0; d < 32; ++d) sum += rows[n * 32 + d] * rows[n * 32 + d];
      for (size_t d = 0; d < 32; ++d) {
        result[n * 32 + d] = rows[n * 32 + d] / std::sqrt(sum / 32 + 1e-5);
      }
    }
    return result;
  };
  const Tensor u = Tensor::of<double>(pool, {34, 32}, normalised(x));
  const auto heads = [&](const std::string& name, const Shape& shape) {
    const Tensor w = value("layers.0.attention_experts." + name).reshaped(shape);
    return reshape(tape, linear(tape, u, w), {34, 3, 4});
  };
  const Tensor o =
      stick_breaking_attention(tape, heads("w_q", {12, 32}), heads("w_k", {12, 32}),
                               heads("w_v", {12, 32}), {batch.layout.document_offsets, 0.5});
  const Tensor y = linear(tape, reshape(tape, o, {34, 12}),
                          value("layers.0.attention_experts.w_o").reshaped({32, 12}));
  for (size_t i = 0; i < x.size(); ++i) x[i] += element(y, static_cast<int64_t>(i));
  const Tensor expected = Tensor::of<double>(pool, {34, 32}, normalised(x));
  EXPECT_LE(relative_distance(hidden, expected), 1e-13);
}

TEST(StickBreakingExperts, RefuseHeadsThatDoNotDivide) {
  StickBreakingExpertsConfig config;
  config.attention_size = 10;
  config.num_heads = 4;
  EXPECT_EQ(config.check(), "num_heads: found 4, allowed a divisor of attention_size (10)");
}

}  // namespace
}  // namespace sluice
