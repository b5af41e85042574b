#include <gtest/gtest.h>

#include "tests/layers/layer_checks.h"
#include "tests/layers/modality_models.h"

namespace sluice {
namespace {

using testing_support::element;
using testing_support::hidden_of;
using testing_support::modality_config;
using testing_support::parameter_named;
using testing_support::replaced;
using testing_support::tokens_of_modality;
using Json = nlohmann::json;

ModelConfig untied_config(const std::string& norm, const std::string& pattern = "AZ",
                          const std::string& dtype = "f32") {
  return modality_config(untied_feed_forward_feed_forward, pattern,
                         {{"norm", norm}, {"intermediate_size", 48}}, dtype);
}

TEST(UntiedFeedForward, KeepsWhatLayersKeep) {
  for (const char* norm : {"pre", "post", "both"}) {
    testing_support::expect_a_sound_layer_forward(untied_config(norm));
    testing_support::expect_model_gradients(untied_config(norm, "AZ", "f64"));
    testing_support::expect_other_modalities_untouched(untied_config(norm));
    testing_support::expect_labels_mean_nothing(untied_config(norm));
  }
}

TEST(UntiedFeedForward, WithEqualCopiesIsTheFeedForward) {
  Pool pool;
  const ModelConfig config = untied_config("pre", "AZ", "f64");
  ModelConfig plain = config;
  plain.pattern = "AF";
  const Model untied(pool, config, 3);
  const Model tied(pool, plain, 5);
  testing_support::copy_parameters(tied, untied, [](const std::string& name) {
    return replaced(replaced(name, "untied_feed_forward.pre_norm", "norm.weight"),
                    "untied_feed_forward", "feed_forward");
  });
  const auto batch = tokens_of_modality(pool, std::nullopt);
  const Tensor a = hidden_of(pool, untied, batch, /*training=*/false);
  const Tensor b = hidden_of(pool, tied, batch, /*training=*/false);
  for (int64_t i = 0; i < a.numel(); ++i) ASSERT_NEAR(element(a, i), element(b, i), 1e-12);
}

TEST(UntiedFeedForward, HasThePublishedWidth) {
  // Two thirds of 4 D, up to a multiple of 256: 170 -> 256, 1365 -> 1536, 10922 -> 11008.
  using Sizes = std::vector<std::pair<int64_t, int64_t>>;
  for (const auto& [hidden, width] : Sizes{{64, 256}, {512, 1536}, {4096, 11008}}) {
    Pool shapes(Pool::Mode::shapes_only);
    ModelConfig config = modality_config(untied_feed_forward_feed_forward, "Z", Json::object());
    config.hidden_size = hidden;
    const Model model(shapes, config, 1);
    EXPECT_EQ(parameter_named(model, "layers.0.untied_feed_forward.w_up")->value.shape(),
              (Shape{2, width, hidden}));
    int64_t untied = 0;
    for (const Parameter* parameter : model.parameters()) {
      if (parameter->stack == Stack::modalities) untied += parameter->value.numel();
    }
    EXPECT_EQ(untied, 2 * (3 * hidden * width + hidden));
  }
}

}  // namespace
}  // namespace sluice
