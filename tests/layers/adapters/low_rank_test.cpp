// Adapters without a router: their equations, and what they reduce to.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/layers/adapters/adapted_models.h"
#include "tests/support/error_of.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing_support::adapted_config;
using testing_support::copy_weights;
using testing_support::expect_near;
using testing_support::gradients_of;
using testing_support::hidden_values;
using testing_support::Json;
using testing_support::parameter_of;
using testing_support::tiny_batch;
using testing_support::tiny_config;

Json on_query(const Json& fields) {
  Json all = {{"linears", {"attention.q"}}, {"b_std", 0.3}};
  if (!fields.empty()) all.update(fields);
  return all;
}

/// A Linear of width 3 -> 2 with one adapter, outside any model.
class Alone final : public AdapterMaker {
 public:
  Alone(const std::string& type, const Json& fields)
      : choice_(testing_support::adapter(type, fields)) {
    linear_ = std::make_unique<Linear>(b_.with_adapters(*this), LinearSpec{"q", 3, 2});
  }
  std::unique_ptr<LinearAdapter> make(const Builder& b, const LinearSpec& spec,
                                      Parameter& /*weight*/) override {
    return adapter_registry()
        .at(choice_.type)
        .make(b.child("a"), {.in = spec.in, .out = spec.out, .name = "a.q", .pools = &pools_},
              *choice_.config);
  }
  void set(const std::string& name, const std::vector<double>& values) {
    for (Parameter* parameter : linear_->parameters()) {
      if (parameter->name.ends_with(name))
        std::ranges::copy(values, parameter->value.data<double>());
    }
  }
  [[nodiscard]] std::vector<double> of(const std::vector<double>& x) {
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    const SequenceLayout layout = SequenceLayout::single(pool_, 1);
    const ForwardContext context{tape, layout};
    const Tensor y = linear_->forward(context, Tensor::of<double>(pool_, {1, 3}, x));
    return {y.data<double>(), y.data<double>() + 2};
  }

 private:
  Pool pool_;
  InitConfig init_;
  Builder b_{pool_, DType::f64, 3, init_, 1};
  AdapterPools pools_{b_.child("adapters")};
  Tagged choice_;
  std::unique_ptr<Linear> linear_;
};

TEST(Lora, AddsItsScaledProduct) {
  Alone linear("lora", {{"linears", {"attention.q"}}, {"rank", 2}, {"alpha", 3.0}});
  linear.set("w_q", {1, 0, 2, -1, 1, 0});
  linear.set("w_a", {1, 2, 0, 0, 1, -1});
  linear.set("w_b", {1, -2, 0.5, 4});
  // A x = (5, -1); B A x = (5 - 0.5, -10 - 4); s = 3 / 2.
  const std::vector<double> y = linear.of({1, 2, 3});
  EXPECT_NEAR(y[0], 7 + 1.5 * 4.5, 1e-12);
  EXPECT_NEAR(y[1], 1 + 1.5 * -14, 1e-12);
}

TEST(Lora, IsStabilisedByTheRootOfTheRank) {
  Alone linear(
      "lora",
      {{"linears", {"attention.q"}}, {"rank", 4}, {"alpha", 3.0}, {"rank_stabilised", true}});
  linear.set("w_q", std::vector<double>(6, 0.0));
  linear.set("w_a", std::vector<double>(12, 1.0));
  linear.set("w_b", std::vector<double>(8, 1.0));
  EXPECT_NEAR(linear.of({1, 1, 1})[0], 1.5 * 12, 1e-12);
}

TEST(Mora, WeighsRanksByTheirCosines) {
  Alone linear("mora", {{"linears", {"attention.q"}},
                        {"rank", 3},
                        {"alpha", 3.0},
                        {"top_k", 2},
                        {"temperature", 0.5}});
  linear.set("w_q", std::vector<double>(6, 0.0));
  linear.set("w_a", {2, 0, 0, 0, -5, 0, 0, 0, 1});
  linear.set("w_b", {1, 0, 0, 1, 7, 7});
  // x = (3, 4, 0) / any length: cosines 0.6, -0.8, 0; the third rank is not among the two.
  const double e0 = std::exp(0.6 / 0.5);
  const double e1 = std::exp(0.8 / 0.5);
  const double sum = e0 + e1 + 1.0;
  const std::vector<double> y = linear.of({3, 4, 0});
  EXPECT_NEAR(y[0], 3 * (e0 / sum) * 6, 1e-9);
  EXPECT_NEAR(y[1], 3 * (e1 / sum) * -20, 1e-9);
}

TEST(Mora, LeavesOutRanksBelowTheThreshold) {
  Alone linear("mora", {{"linears", {"attention.q"}},
                        {"rank", 2},
                        {"alpha", 2.0},
                        {"top_k", 2},
                        {"temperature", 0.1},
                        {"threshold", 0.3}});
  linear.set("w_q", std::vector<double>(6, 0.0));
  linear.set("w_a", {1, 0, 0, 0, 1, 0});
  linear.set("w_b", {1, 0, 0, 1});
  const std::vector<double> y = linear.of({4, 3, 0});
  EXPECT_GT(y[0], 0.0);
  EXPECT_EQ(y[1], 0.0) << "its share is " << 1.0 / (1.0 + std::exp(2.0));
}

TEST(Mora, OfAllRanksWithoutPreferenceIsLora) {
  Pool pool;
  const Model lora(pool, adapted_config("lora", on_query({{"rank", 6}})), 1);
  const Model mora(
      pool, adapted_config("mora", on_query({{"rank", 6}, {"top_k", 6}, {"temperature", 1e9}})), 2);
  copy_weights(lora, mora);
  expect_near(hidden_values(pool, mora), hidden_values(pool, lora), 1e-8);
}

TEST(Mos, OfPrivateWholeRowsIsLora) {
  Pool pool;
  const Model lora(pool, adapted_config("lora", on_query({{"rank", 4}})), 1);
  const Model mos(
      pool, adapted_config("mos", on_query({{"rank", 4}, {"shards", 1}, {"private_shards", 1}})),
      1);
  EXPECT_EQ(mos.parameters().size(), lora.parameters().size());
  copy_weights(lora, mos);
  expect_near(hidden_values(pool, mos), hidden_values(pool, lora), 0.0);
}

TEST(Mos, PutsFactorsTogetherFromPoolsThatLayersShare) {
  Pool pool;
  const ModelConfig config = adapted_config(
      "mos", on_query({{"rank", 3}, {"shards", 2}, {"private_shards", 1}, {"pool_rank", 2}}), "f64",
      "AFAF");
  const Model mos(pool, config, 1);
  const Parameter& shards = parameter_of(mos, "adapters.a.q.pool_a");
  EXPECT_EQ(shards.value.shape(), Shape({4, 16}));
  EXPECT_EQ(std::ranges::count_if(mos.parameters(),
                                  [](const Parameter* p) { return p->name.ends_with("pool_a"); }),
            1);
  // A LoRA with the rows that the indices of each layer spell.
  ModelConfig plain = adapted_config("lora", on_query({{"rank", 3}}), "f64", "AFAF");
  const Model lora(pool, plain, 2);
  copy_weights(mos, lora);
  for (const std::string layer : {"layers.0", "layers.2"}) {
    const std::string room = layer + ".attention.adapters.a.q.";
    for (const std::string which : {"a", "b"}) {
      const Parameter& index = parameter_of(mos, room + "index_" + which);
      EXPECT_FALSE(index.trainable);
      const Parameter& own = parameter_of(mos, room + "w_" + which);
      const Parameter& of_pool = parameter_of(mos, "adapters.a.q.pool_" + which);
      Parameter& row = parameter_of(lora, room + "w_" + which);
      for (int64_t r = 0; r < 3; ++r) {
        const auto shard = static_cast<int64_t>(index.value.data<double>()[r]);
        ASSERT_TRUE(shard >= 0 && shard < 4) << shard;
        std::copy_n(own.value.data<double>() + r * 16, 16, row.value.data<double>() + r * 32);
        std::copy_n(of_pool.value.data<double>() + shard * 16, 16,
                    row.value.data<double>() + r * 32 + 16);
      }
    }
  }
  expect_near(hidden_values(pool, mos), hidden_values(pool, lora), 1e-12);

  // The gradient of a shard is the sum over the rows that use it.
  const auto batch = tiny_batch(pool, {{7, 4}});
  (void)gradients_of(pool, mos, batch);
  (void)gradients_of(pool, lora, batch);
  for (int64_t shard = 0; shard < 4; ++shard) {
    double sum = 0.0;
    for (const std::string layer : {"layers.0", "layers.2"}) {
      const std::string room = layer + ".attention.adapters.a.q.";
      const Parameter& index = parameter_of(mos, room + "index_a");
      for (int64_t r = 0; r < 3; ++r) {
        if (static_cast<int64_t>(index.value.data<double>()[r]) != shard) continue;
        sum += parameter_of(lora, room + "w_a").grad.data<double>()[r * 32 + 16];
      }
    }
    EXPECT_NEAR(shards.grad.data<double>()[shard * 16], sum, 1e-10) << shard;
  }
}

TEST(Mos, RefusesShardsThatDoNotDivideTheWidth) {
  Pool pool;
  EXPECT_THAT(testing::error_of<ConfigError>([&] {
                const Model model(pool, adapted_config("mos", on_query({{"shards", 5}})), 1);
              }),
              HasSubstr("model.adapters.a.q.shards: found 5, allowed a divisor of 32"));
}

TEST(StaticMixture, IsTheSumOfItsLorasAtFirst) {
  Pool pool;
  const Model lora(pool, adapted_config("lora", on_query({{"rank", 6}, {"alpha", 48.0}})), 1);
  const Model mixture(pool,
                      adapted_config("static_mixture",
                                     on_query({{"rank", 2}, {"num_experts", 3}, {"alpha", 16.0}})),
                      2);
  copy_weights(lora, mixture);
  expect_near(hidden_values(pool, mixture), hidden_values(pool, lora), 1e-12);
  parameter_of(mixture, "mixture").value.data<double>()[1] = 2.0;
  EXPECT_NE(hidden_values(pool, mixture), hidden_values(pool, lora));
}

TEST(Adapters, OfOneMapAddUp) {
  Pool pool;
  ModelConfig two = adapted_config("lora", on_query({{"rank", 2}, {"alpha", 2.0}}));
  two.adapters.push_back(
      {"b", testing_support::adapter("lora", on_query({{"rank", 3}, {"alpha", 3.0}}))});
  ASSERT_EQ(two.check(), "");
  const Model both(pool, two, 1);
  const Model joint(pool, adapted_config("lora", on_query({{"rank", 5}, {"alpha", 5.0}})), 2);
  copy_weights(both, joint);
  for (const std::string factor : {"w_a", "w_b"}) {
    double* to = parameter_of(joint, "adapters.a.q." + factor).value.data<double>();
    for (const std::string name : {"a", "b"}) {
      const Tensor& from = parameter_of(both, "adapters." + name + ".q." + factor).value;
      to = std::copy_n(from.data<double>(), from.numel(), to);
    }
  }
  expect_near(hidden_values(pool, both), hidden_values(pool, joint), 1e-12);
}

TEST(Adapters, DropWhatTheyReadInTrainingOnly) {
  Pool pool;
  const Model model(pool, adapted_config("lora", on_query({{"dropout", 0.5}})), 1);
  const Model plain(pool, adapted_config("lora", on_query({})), 1);
  const auto batch = tiny_batch(pool, {{7, 4}});
  const auto hidden = [&](const Model& of, bool training) {
    return testing_support::hidden_of(pool, of, batch, training);
  };
  EXPECT_TRUE(testing_support::same_bits(hidden(model, false), hidden(plain, false)));
  EXPECT_FALSE(testing_support::same_bits(hidden(model, true), hidden(plain, true)));
  EXPECT_TRUE(testing_support::same_bits(hidden(model, true), hidden(model, true)));
}

TEST(Adapters, AreRefusedWhereNothingCarriesThem) {
  Pool pool;
  const auto check = [](const Json& linears) {
    ModelConfig config = tiny_config("AF");
    config.adapters = {{"a", testing_support::adapter("lora", {{"linears", linears}})}};
    return config.check();
  };
  EXPECT_THAT(check(Json::array()), HasSubstr("adapters.a.linears: not given"));
  EXPECT_THAT(check({"q"}), HasSubstr("found \"q\", allowed a layer of the pattern"));
  EXPECT_THAT(check({"mamba2.out"}), HasSubstr("layers: attention, feed_forward"));
  EXPECT_THAT(check({"attention.q", "attention.q"}), HasSubstr("\"attention.q\" twice"));
  ModelConfig config = tiny_config("AF");
  config.adapters = {{"a", testing_support::adapter("lora", {{"linears", {"attention.x"}}})}};
  EXPECT_EQ(config.check(), "");
  EXPECT_THAT(testing::error_of<ConfigError>([&] { const Model model(pool, config, 1); }),
              HasSubstr("layers.0 has no linear map x; allowed q, k, v, o"));
  config.adapters = {{"a b", config.adapters[0].second}};
  EXPECT_THAT(config.check(), HasSubstr("allowed letters, digits and _"));
  ModelConfig latent = tiny_config("CF");
  latent.adapters = {
      {"a", testing_support::adapter("lora", {{"linears", {"latent_attention.kv_b"}}})}};
  EXPECT_THAT(testing::error_of<ConfigError>([&] { const Model model(pool, latent, 1); }),
              HasSubstr("does more with it than multiply"));
}

}  // namespace
}  // namespace sluice
