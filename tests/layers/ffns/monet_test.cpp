#include <algorithm>
#include <cmath>

#include "autograd/support/normal_quantile.h"
#include "layers/depth.h"
#include "tests/layers/ffns/layer_run.h"
#include "tests/layers/model_gradients.h"

namespace sluice {
namespace {

using testing_support::LayerRun;
using testing_support::plain_session;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;

using Json = nlohmann::json;

constexpr int64_t kHidden = 6;
constexpr int64_t kKeys = 5;
constexpr int64_t kHeads = 3;
constexpr int64_t kNeurons = 4;

Json small_monet(const std::string& decomposition) {
  return {{"decomposition", decomposition},
          {"num_keys", kKeys},
          {"num_heads", kHeads},
          {"neurons", kNeurons},
          {"top_k", 2.0},
          {"router_layers", 1}};
}

/// weight[row] x
double row_dot(const double* weight, int64_t row, const double* x, int64_t width) {
  double sum = 0.0;
  for (int64_t i = 0; i < width; ++i) sum += weight[row * width + i] * x[i];
  return sum;
}

/// g [H, n] of one token by the router's first or second projection, as the page says it; running
/// statistics 0 and 1.
std::vector<double> gates(LayerRun& run, const std::string& axis, const double* x) {
  const double* weight = run.values("router.w_" + axis);
  const double quantile = normal_quantile(1.0 - 2.0 / static_cast<double>(kKeys));
  std::vector<double> g(kHeads * kKeys, 0.0);
  for (int64_t h = 0; h < kHeads; ++h) {
    std::vector<double> z;
    for (int64_t i = 0; i < kKeys; ++i) z.push_back(row_dot(weight, h * kKeys + i, x, kHidden));
    const double scale = 1.0 / std::sqrt(1.0 + 1e-5);
    const double bound = std::min(std::ranges::max(z) * scale, quantile);
    double total = 0.0;
    for (int64_t i = 0; i < kKeys; ++i) {
      const double zi = z[static_cast<size_t>(i)];
      if (zi * scale < bound) continue;
      g[static_cast<size_t>(h * kKeys + i)] = std::exp(zi);
      total += std::exp(zi);
    }
    for (int64_t i = 0; i < kKeys; ++i) g[static_cast<size_t>(h * kKeys + i)] /= total;
  }
  return g;
}

/// a[i, c] = relu(up x + bias)^2
std::vector<double> activations(LayerRun& run, const std::string& name, const double* x,
                                int64_t count) {
  std::vector<double> a;
  for (int64_t row = 0; row < count; ++row) {
    const double z =
        row_dot(run.values("w_" + name), row, x, kHidden) + run.values("b_" + name)[row];
    a.push_back(std::pow(std::max(z, 0.0), 2));
  }
  return a;
}

void randomise_biases(LayerRun& run) {
  uint64_t seed = 1;
  for (Parameter* parameter : run.layer().parameters()) {
    if (parameter->name.find("b_up") == std::string::npos &&
        parameter->name.find("bias") == std::string::npos) {
      continue;
    }
    const Tensor values =
        SampleFactory(run.pool(), DType::f64, ++seed).uniform(parameter->value.shape());
    parameter->value.copy_from(values);
  }
}

TEST(Monet, HorizontalIsTheSumOverAllPairs) {
  LayerRun run("monet", small_monet("horizontal"), kHidden);
  randomise_biases(run);
  const Tensor x = run.tokens(4);
  const std::vector<double> y = run.run(x);
  for (int64_t t = 0; t < 4; ++t) {
    const double* row = x.data<double>() + t * kHidden;
    const auto g1 = gates(run, "first", row);
    const auto g2 = gates(run, "second", row);
    const auto a = activations(run, "up", row, kKeys * kNeurons);
    std::vector<double> expected(kHidden, 0.0);
    for (int64_t i = 0; i < kKeys; ++i) {
      for (int64_t j = 0; j < kKeys; ++j) {
        double weight = 0.0;
        for (int64_t h = 0; h < kHeads; ++h) {
          weight += g1[static_cast<size_t>(h * kKeys + i)] * g2[static_cast<size_t>(h * kKeys + j)];
        }
        for (int64_t d = 0; d < kHidden; ++d) {
          double output = run.values("w_bias")[d * kKeys + j];  // b_j
          for (int64_t c = 0; c < kNeurons; ++c) {
            output += run.values("w_down")[d * kKeys * kNeurons + j * kNeurons + c] *
                      a[static_cast<size_t>(i * kNeurons + c)];
          }
          expected[static_cast<size_t>(d)] += weight * output;
        }
      }
    }
    for (int64_t d = 0; d < kHidden; ++d) {
      EXPECT_NEAR(y[static_cast<size_t>(t * kHidden + d)], expected[static_cast<size_t>(d)], 1e-12);
    }
  }
}

TEST(Monet, VerticalIsTheSumOverAllPairs) {
  LayerRun run("monet", small_monet("vertical"), kHidden);
  randomise_biases(run);
  const int64_t half = kNeurons / 2;
  const int64_t rows = kHidden / 2;
  const Tensor x = run.tokens(4);
  const std::vector<double> y = run.run(x);
  for (int64_t t = 0; t < 4; ++t) {
    const double* row = x.data<double>() + t * kHidden;
    const auto g1 = gates(run, "first", row);
    const auto g2 = gates(run, "second", row);
    const auto a1 = activations(run, "up_first", row, kKeys * half);
    const auto a2 = activations(run, "up_second", row, kKeys * half);
    // w_down_top = [V11 | V12], both by i; w_down_bottom = [V21 | V22], both by j.
    const auto product = [&](const std::string& name, int64_t d, int64_t block, int64_t entry,
                             const std::vector<double>& a, int64_t of) {
      double sum = 0.0;
      for (int64_t c = 0; c < half; ++c) {
        const int64_t column = block * kKeys * half + entry * half + c;
        sum +=
            run.values(name)[d * kKeys * kNeurons + column] * a[static_cast<size_t>(of * half + c)];
      }
      return sum;
    };
    std::vector<double> expected(kHidden, 0.0);
    for (int64_t i = 0; i < kKeys; ++i) {
      for (int64_t j = 0; j < kKeys; ++j) {
        double weight = 0.0;
        for (int64_t h = 0; h < kHeads; ++h) {
          weight += g1[static_cast<size_t>(h * kKeys + i)] * g2[static_cast<size_t>(h * kKeys + j)];
        }
        for (int64_t d = 0; d < rows; ++d) {
          expected[static_cast<size_t>(d)] += weight * (product("w_down_top", d, 0, i, a1, i) +
                                                        product("w_down_top", d, 1, i, a2, j) +
                                                        run.values("w_bias_top")[d * kKeys + i]);
          expected[static_cast<size_t>(rows + d)] +=
              weight *
              (product("w_down_bottom", d, 0, j, a1, i) + product("w_down_bottom", d, 1, j, a2, j) +
               run.values("w_bias_bottom")[d * kKeys + j]);
        }
      }
    }
    for (int64_t d = 0; d < kHidden; ++d) {
      EXPECT_NEAR(y[static_cast<size_t>(t * kHidden + d)], expected[static_cast<size_t>(d)], 1e-12);
    }
  }
}

TEST(Monet, KeepsAnEntryThatIsPastTheQuantileOfThePage) {
  EXPECT_NEAR(normal_quantile(1.0 - 32.0 / 512.0), 1.5341, 5e-5);
  EXPECT_NEAR(normal_quantile(0.5), 0.0, 1e-12);
}

TEST(Monet, HasTheParametersOfThePage) {
  for (const char* decomposition : {"horizontal", "vertical"}) {
    LayerRun run("monet", small_monet(decomposition), kHidden);
    int64_t layer = 0;
    int64_t router = 0;
    for (const Parameter* parameter : run.layer().parameters()) {
      if (!parameter->trainable) continue;
      const bool routes = parameter->name.find("router") != std::string::npos;
      (routes ? router : layer) += parameter->value.numel();
    }
    EXPECT_EQ(layer, 2 * kKeys * kNeurons * kHidden + kKeys * kNeurons + kKeys * kHidden);
    EXPECT_EQ(router, 2 * kHeads * kKeys * kHidden);
  }
}

/// `pattern` with Z a small Monet layer.
ModelConfig monet_config(const std::string& pattern, const Json& fields,
                         const std::string& dtype = "f64") {
  ModelConfig config = tiny_config("AF", dtype);
  auto monet = monet_feed_forward.make_config();
  testing::set_fields(*monet, fields);
  config.variants = {{"Z", {"monet", std::shared_ptr<Configurable>(std::move(monet))}}};
  config.pattern = pattern;
  EXPECT_EQ(config.check(), "");
  return config;
}

TEST(Monet, GradientsOfAWholeModelAgreeWithDifferences) {
  for (const char* decomposition : {"horizontal", "vertical"}) {
    Json fields = small_monet(decomposition);
    fields["router_layers"] = 2;
    fields["uniformity"] = 0.1;  // large, so that a wrong gradient of the losses is seen
    fields["ambiguity"] = 0.1;
    testing_support::expect_model_gradients(monet_config("AZFZ", fields));
  }
}

TEST(Monet, SharesARouterAmongConsecutiveLayersOfItsSection) {
  Pool pool;
  Json fields = small_monet("vertical");
  fields["router_layers"] = 2;
  const Model model(pool, monet_config("ZFZFZ", fields), 1);
  std::vector<std::string> owners;
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->name.ends_with("router.w_first")) owners.push_back(parameter->name);
  }
  EXPECT_EQ(owners, (std::vector<std::string>{"layers.0.monet.router.w_first",
                                              "layers.4.monet.router.w_first"}));
}

TEST(Monet, DoesNotShareARouterAcrossTheEdgeOfAGroup) {
  Pool pool;
  Json fields = small_monet("vertical");
  fields["router_layers"] = 4;
  ModelConfig config = monet_config("AF", fields);
  config.pattern = "AZ[AZ]AZ";
  const DepthEntry& depth = depth_registry().at("mixture_of_depths");
  config.depth = {std::string(depth.name), std::shared_ptr<Configurable>(depth.make_config())};
  ASSERT_EQ(config.check(), "");
  const Model model(pool, config, 1);
  int64_t routers = 0;
  for (const Parameter* parameter : model.parameters()) {
    routers += parameter->name.ends_with("router.w_second") ? 1 : 0;
  }
  EXPECT_EQ(routers, 3);
}

Parameter& parameter_of(const Model& model, const std::string& name) {
  for (Parameter* parameter : model.parameters()) {
    if (parameter->name.ends_with(name)) return *parameter;
  }
  throw InternalError("no parameter " + name);
}

TEST(Monet, MovesItsRunningStatisticsByTheWholeStep) {
  Pool pool;
  Json fields = small_monet("horizontal");
  fields["decay"] = 0.75;
  Model model(pool, monet_config("ZF", fields), 1);
  const TinyBatch batch = tiny_batch(pool, {{6, 5}});
  // In two runs of the same tokens the sums are twice as large and the statistics the same.
  for (const int64_t micro_batches : {1, 2}) {
    for (const char* name : {"router.mean", "router.variance"}) {
      Parameter& kept = parameter_of(model, name);
      std::fill_n(kept.value.data<double>(), kept.value.numel(),
                  std::string(name) == "router.mean" ? 0.0 : 1.0);
    }
    RoutingSession session = plain_session(model);
    session.begin_step(micro_batches);
    std::vector<double> z;
    for (int64_t i = 0; i < micro_batches; ++i) {
      session.begin_micro_batch(i);
      Tape tape(pool);
      const NoGrad no_grad(tape);
      ForwardContext context{tape, batch.layout};
      context.routing = &session;
      context.training = true;
      context.valid_tokens = micro_batches * batch.layout.counted_tokens();
      (void)model.loss(context, batch.tokens, batch.targets);
    }
    SingleRank communicator;
    session.finish_loads(communicator);
    // Head 0 of the first axis, from the layer's input: the first layer reads the normalised embedding.
    const double* embedding = parameter_of(model, "embedding.weight").value.data<double>();
    const double* weight = parameter_of(model, "router.w_first").value.data<double>();
    const int64_t d = 32;
    for (int64_t t = 0; t < batch.layout.tokens(); ++t) {
      if (batch.layout.counted[static_cast<size_t>(t)] == 0) continue;
      const double* row = embedding + batch.tokens.data<int32_t>()[t] * d;
      double square = 1e-5;
      for (int64_t c = 0; c < d; ++c) square += row[c] * row[c] / static_cast<double>(d);
      for (int64_t i = 0; i < kKeys; ++i) {
        z.push_back(row_dot(weight, i, row, d) / std::sqrt(square));
      }
    }
    double mean = 0.0;
    for (const double value : z) mean += value / static_cast<double>(z.size());
    double variance = 0.0;
    for (const double value : z) {
      variance += std::pow(value - mean, 2) / static_cast<double>(z.size());
    }
    model.end_step(session, {});
    EXPECT_NEAR(parameter_of(model, "router.mean").value.data<double>()[0], 0.25 * mean, 1e-5);
    EXPECT_NEAR(parameter_of(model, "router.variance").value.data<double>()[0],
                0.75 + 0.25 * variance, 1e-4);
  }
}

TEST(Monet, RefusesWhatCannotBe) {
  const auto problem = [](const Json& fields) {
    auto config = monet_feed_forward.make_config();
    testing::set_fields(*config, fields);
    return config->check();
  };
  EXPECT_EQ(problem({{"num_keys", 4}, {"top_k", 4.0}}),
            "top_k: found 4, allowed less than 4 (num_keys)");
  EXPECT_EQ(problem({{"neurons", 3}}),
            "neurons: found 3, allowed an even number with decomposition: vertical");
  EXPECT_EQ(problem({{"neurons", 3}, {"decomposition", "horizontal"}}), "");
}

}  // namespace
}  // namespace sluice
