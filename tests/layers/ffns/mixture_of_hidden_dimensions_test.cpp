#include <cmath>

#include "layers/routed_layer.h"
#include "tests/layers/model_gradients.h"
#include "tests/support/set_fields.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::element;
using testing_support::plain_session;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;

using Json = nlohmann::json;

constexpr int64_t kHidden = 32;  // of tiny_config
constexpr int64_t kWidth = 48;

/// "AZ" with Z on blocks of 4 coordinates.
ModelConfig blocks_config(const Json& fields) {
  ModelConfig config = tiny_config("AF", "f64");
  auto settings = mixture_of_hidden_dimensions_feed_forward.make_config();
  Json all = {{"intermediate_size", kWidth}};
  all.update(fields);
  testing::set_fields(*settings, all);
  config.variants = {
      {"Z", {"mixture_of_hidden_dimensions", std::shared_ptr<Configurable>(std::move(settings))}}};
  config.pattern = "AZ";
  EXPECT_EQ(config.check(), "");
  return config;
}

TEST(MixtureOfHiddenDimensions, GradientsOfAWholeModelAgreeWithDifferences) {
  for (const char* scaling : {"mean", "root", "none"}) {
    testing_support::expect_model_gradients(blocks_config({{"scaling", scaling}}));
  }
  testing_support::expect_model_gradients(blocks_config({{"shared_blocks", 0}, {"num_blocks", 8}}));
}

Parameter& parameter_of(const Model& model, const std::string& name) {
  for (Parameter* parameter : model.parameters()) {
    if (parameter->name.ends_with(name)) return *parameter;
  }
  throw InternalError("no parameter " + name);
}

/// Final hidden states in evaluation.
std::vector<double> hidden_of(Pool& pool, const Model& model) {
  const TinyBatch batch = tiny_batch(pool, {{7, 4}});
  RoutingSession session = plain_session(model);
  session.begin_evaluation();
  Tape tape(pool);
  const NoGrad no_grad(tape);
  ForwardContext context{tape, batch.layout};
  context.routing = &session;
  const Tensor hidden = model.forward(context, batch.tokens).hidden;
  std::vector<double> values;
  for (int64_t i = 0; i < hidden.numel(); ++i) values.push_back(element(hidden, i));
  return values;
}

TEST(MixtureOfHiddenDimensions, OfAllBlocksIsTheDenseLayer) {
  Pool pool;
  const int64_t shared = 8;  // coordinates: 2 blocks of 4
  const Model blocks(pool, blocks_config({{"top_k", 6.0}, {"scaling", "mean"}}), 5);
  const Model dense(pool, tiny_config("AF", "f64"), 5);
  parameter_of(blocks, "router.weight").value.fill_zero();  // all blocks alike: g = 1
  for (Parameter* parameter : dense.parameters()) {
    const std::string& name = parameter->name;
    if (name.find("layers.1.") == std::string::npos || name.find("norm") != std::string::npos) {
      parameter->value.copy_from(parameter_of(blocks, name).value);
    }
  }
  const double* shared_in = parameter_of(blocks, "w_shared_in").value.data<double>();
  const double* shared_out = parameter_of(blocks, "w_shared_out").value.data<double>();
  const double* in = parameter_of(blocks, "w_in").value.data<double>();
  const double* out = parameter_of(blocks, "w_out").value.data<double>();
  for (int64_t f = 0; f < kWidth; ++f) {
    for (int64_t d = 0; d < kHidden; ++d) {
      const int64_t e = (d - shared) / 4;
      const int64_t c = (d - shared) % 4;
      const auto of = [&](int64_t row) {
        return d < shared ? shared_in[row * shared + d] : in[(e * 2 * kWidth + row) * 4 + c];
      };
      parameter_of(dense, "w_gate").value.data<double>()[f * kHidden + d] = of(f);
      parameter_of(dense, "w_up").value.data<double>()[f * kHidden + d] = of(kWidth + f);
      parameter_of(dense, "w_down").value.data<double>()[d * kWidth + f] =
          d < shared ? shared_out[d * kWidth + f] : out[(e * 4 + c) * kWidth + f];
    }
  }
  const auto a = hidden_of(pool, blocks);
  const auto b = hidden_of(pool, dense);
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-12) << i;
}

TEST(MixtureOfHiddenDimensions, LeavesTheCoordinatesThatItDoesNotUse) {
  Pool pool;
  InitConfig init;
  init.std = 0.5;
  ModelConfig model;
  model.hidden_size = kHidden;
  auto settings = mixture_of_hidden_dimensions_feed_forward.make_config();
  testing::set_fields(*settings, {{"top_k", 1.0}, {"intermediate_size", kWidth}});
  const auto layer = mixture_of_hidden_dimensions_feed_forward.make(
      Builder(pool, DType::f64, 1, init, 1), model, *settings, {});
  std::vector<std::unique_ptr<Balancer>> balancers;
  struct Plain final : Balancer {
    [[nodiscard]] BalancerTraits traits() const override { return {}; }
  };
  balancers.push_back(std::make_unique<Plain>());
  RoutingSession session(std::move(balancers));
  session.begin_evaluation();
  Tape tape(pool);
  const NoGrad no_grad(tape);
  const SequenceLayout layout = SequenceLayout::single(pool, 10);
  ForwardContext context{tape, layout};
  context.routing = &session;
  const Tensor x = SampleFactory(pool, DType::f64, 3).uniform({10, kHidden}, -1.0, 1.0);
  BlockState state;
  const Tensor y = layer->forward(context, x, state);
  for (int64_t t = 0; t < 10; ++t) {
    int64_t used = 0;
    for (int64_t block = 0; block < 8; ++block) {
      int64_t moved = 0;
      for (int64_t c = 0; c < 4; ++c) {
        moved += y.data<double>()[t * kHidden + block * 4 + c] != 0.0 ? 1 : 0;
      }
      EXPECT_TRUE(moved == 0 || moved == 4);
      used += moved / 4;
      if (block < 2) {
        EXPECT_EQ(moved, 4) << "a shared block";
      }
    }
    EXPECT_EQ(used, 3);  // two shared, one routed
  }
}

TEST(MixtureOfHiddenDimensions, RefusesBlocksThatDoNotDivideTheStream) {
  ModelConfig config = blocks_config(Json::object());
  auto settings = mixture_of_hidden_dimensions_feed_forward.make_config();
  testing::set_fields(*settings, {{"num_blocks", 5}});
  config.variants = {
      {"Z", {"mixture_of_hidden_dimensions", std::shared_ptr<Configurable>(std::move(settings))}}};
  EXPECT_EQ(
      config.check(),
      "variants.Z.num_blocks: found 5 with 2 shared_blocks, allowed numbers whose sum divides "
      "hidden_size (32)");
}

}  // namespace
}  // namespace sluice
