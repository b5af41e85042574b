#include <gtest/gtest.h>

#include "layers/mixers/mamba1.h"
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

ModelConfig mixture_config(Json fields = Json::object(), const std::string& pattern = "ZF",
                           const std::string& dtype = "f32") {
  Json all = {{"state_size", 5}};
  all.update(fields);
  return modality_config(mixture_of_mamba_mixer, pattern, all, dtype);
}

std::vector<Json> kinds() {
  return {Json::object(),
          {{"bcdt_norm", true}, {"untie_x", false}},
          {{"untie_in", false}, {"untie_dt", false}},
          {{"untie_out", false}, {"untie_in", false}, {"untie_x", false}}};
}

TEST(MixtureOfMamba, KeepsWhatMixersKeep) {
  for (const Json& kind : kinds()) {
    testing_support::expect_a_sound_layer_forward(mixture_config(kind, "ZFZ"));
    testing_support::expect_model_gradients(mixture_config(kind, "ZF", "f64"));
  }
}

TEST(MixtureOfMamba, CarriesItsStateFromOneModalityToTheNext) {
  testing_support::expect_all_earlier_tokens_seen(mixture_config());
}

TEST(MixtureOfMamba, WithEqualCopiesIsMamba) {
  for (const Json& kind : kinds()) {
    Pool pool;
    const ModelConfig config = mixture_config(kind, "ZF", "f64");
    ModelConfig plain = config;
    plain.pattern = "SF";
    auto& mamba = dynamic_cast<Mamba1Config&>(plain.section("mamba1"));
    mamba.state_size = 5;
    mamba.bcdt_norm = kind.value("bcdt_norm", false);
    const Model untied(pool, config, 3);
    const Model tied(pool, plain, 5);
    testing_support::copy_parameters(tied, untied, [](const std::string& name) {
      return replaced(name, "mixture_of_mamba", "mamba1");
    });
    const auto batch = tokens_of_modality(pool, std::nullopt);
    const Tensor a = hidden_of(pool, untied, batch, /*training=*/false);
    const Tensor b = hidden_of(pool, tied, batch, /*training=*/false);
    for (int64_t i = 0; i < a.numel(); ++i) ASSERT_NEAR(element(a, i), element(b, i), 1e-12);
  }
}

TEST(MixtureOfMamba, LeavesOtherModalitiesAlone) {
  for (const Json& kind : kinds()) {
    testing_support::expect_other_modalities_untouched(mixture_config(kind));
  }
}

TEST(MixtureOfMamba, TakesModalitiesInAnyOrder) {
  for (const Json& kind : kinds()) {
    testing_support::expect_labels_mean_nothing(mixture_config(kind, "ZFZ"));
  }
}

TEST(MixtureOfMamba, HasTheParametersOfThePublishedLayer) {
  // D = 32: E = 64, R_dt = 2, N = 5, K = 4, two modalities.
  Pool pool;
  const Model model(pool, mixture_config(Json::object(), "Z"), 1);
  int64_t layer = 0;
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->name.find("mixture_of_mamba") != std::string::npos) {
      layer += parameter->value.numel();
    }
  }
  EXPECT_EQ(layer, 2 * (3 * 32 * 64 + 64 * (2 * 2 + 2 * 5) + 64) + 64 * (4 + 1 + 5 + 1));
}

TEST(MixtureOfMamba, TiesAgainWhatAFlagTies) {
  Pool pool;
  const Model all(pool, mixture_config(Json::object(), "Z"), 1);
  const std::string path = "layers.0.mixture_of_mamba.";
  EXPECT_EQ(parameter_named(all, path + "w_u")->value.shape(), (Shape{2, 64, 32}));
  EXPECT_EQ(parameter_named(all, path + "w_z")->value.shape(), (Shape{2, 64, 32}));
  EXPECT_EQ(parameter_named(all, path + "w_x")->value.shape(), (Shape{2, 12, 64}));
  EXPECT_EQ(parameter_named(all, path + "w_dt")->value.shape(), (Shape{2, 64, 2}));
  EXPECT_EQ(parameter_named(all, path + "dt_bias")->value.shape(), (Shape{2, 64}));
  EXPECT_EQ(parameter_named(all, path + "w_out")->value.shape(), (Shape{2, 32, 64}));
  EXPECT_EQ(parameter_named(all, path + "A_log")->value.shape(), (Shape{64, 5}));
  struct Flag {
    const char* flag;
    const char* name;
    Shape shape;
  };
  for (const Flag& tied : std::vector<Flag>{{"untie_in", "w_z", {64, 32}},
                                            {"untie_x", "w_x", {12, 64}},
                                            {"untie_dt", "dt_bias", {64}},
                                            {"untie_out", "w_out", {32, 64}}}) {
    const Model model(pool, mixture_config({{tied.flag, false}}, "Z"), 1);
    EXPECT_EQ(parameter_named(model, path + tied.name)->value.shape(), tied.shape) << tied.flag;
  }
}

TEST(MixtureOfMamba, DrawsStepSizesForEachModality) {
  Pool pool;
  const Model model(pool, mixture_config(Json::object(), "Z", "f64"), 1);
  const Tensor& bias = parameter_named(model, "layers.0.mixture_of_mamba.dt_bias")->value;
  for (int64_t i = 0; i < 64; ++i) {
    EXPECT_NE(element(bias, i), element(bias, 64 + i));
    for (const int64_t at : {i, 64 + i}) {
      const double step = std::log1p(std::exp(element(bias, at)));
      EXPECT_GE(step, 1e-3 * 0.999);
      EXPECT_LE(step, 0.1 * 1.001);
    }
  }
}

}  // namespace
}  // namespace sluice
