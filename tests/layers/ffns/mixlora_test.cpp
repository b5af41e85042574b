// MixLoRA against its equation expert by expert, and what it reduces to.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/layers/adapters/adapted_models.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing_support::copy_weights;
using testing_support::element;
using testing_support::expect_near;
using testing_support::hidden_values;
using testing_support::Json;
using testing_support::parameter_of;
using testing_support::tiny_config;

ModelConfig mixlora_config(const Json& fields, const std::string& dtype = "f64") {
  ModelConfig config = tiny_config("AF", dtype);
  auto settings = mixlora_feed_forward.make_config();
  Json all = {{"intermediate_size", 48}, {"num_experts", 4}, {"rank", 3}};
  if (!fields.empty()) all.update(fields);
  testing::set_fields(*settings, all);
  EXPECT_EQ(settings->check(), "");
  config.variants = {{"Z", {"mixlora", std::shared_ptr<Configurable>(std::move(settings))}}};
  config.pattern = "AZ";
  return config;
}

TEST(MixLora, StartsAsTheDenseFeedForward) {
  Pool pool;
  for (const char* dtype : {"f32", "f64"}) {
    const Model dense(pool, tiny_config("AF", dtype), 1);
    const Model mixlora(pool, mixlora_config({}, dtype), 1);
    expect_near(hidden_values(pool, mixlora), hidden_values(pool, dense),
                std::string(dtype) == "f64" ? 1e-12 : 1e-5);
  }
}

TEST(MixLora, IsASoundLayer) {
  testing_support::expect_a_sound_layer(mixlora_config({{"b_std", 0.3}}));
  testing_support::expect_a_sound_layer(mixlora_config({{"b_std", 0.3}, {"ranks", {0, 1, 2, 5}}}));
}

/// What the layer gives for tokens x [n, 32], in evaluation.
class Layer {
 public:
  explicit Layer(const Json& fields)
      : config_(mixlora_config(fields)),
        layer_(mixlora_feed_forward.make(Builder(pool_, DType::f64, 3, config_.init, 1), config_,
                                         *config_.variants[0].second.config, {})) {}

  [[nodiscard]] Tensor run(const Tensor& x) {
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    std::vector<std::unique_ptr<Balancer>> balancers;
    balancers.push_back(std::make_unique<Nothing>());
    RoutingSession session(std::move(balancers));
    session.begin_evaluation();
    const SequenceLayout layout = SequenceLayout::single(pool_, x.dim(0));
    ForwardContext context{tape, layout};
    context.routing = &session;
    BlockState state;
    return layer_->forward(context, x, state).detached();
  }
  [[nodiscard]] std::vector<double> values(const std::string& name) const {
    for (Parameter* parameter : layer_->parameters()) {
      if (!parameter->name.ends_with(name)) continue;
      const double* data = parameter->value.data<double>();
      return {data, data + parameter->value.numel()};
    }
    return {};
  }
  Pool& pool() { return pool_; }

 private:
  struct Nothing final : Balancer {
    [[nodiscard]] BalancerTraits traits() const override { return {}; }
  };
  Pool pool_;
  ModelConfig config_;
  std::unique_ptr<FeedForward> layer_;
};

using Vector = std::vector<double>;

/// w [out, in] x, and s B A x of one expert of rank r behind it.
Vector product(const Vector& w, const Vector& x) {
  Vector y(w.size() / x.size(), 0.0);
  for (size_t o = 0; o < y.size(); ++o) {
    for (size_t i = 0; i < x.size(); ++i) y[o] += w[o * x.size() + i] * x[i];
  }
  return y;
}
void add_low_rank(const Vector& a, const Vector& b, double s, const Vector& x, Vector& y) {
  const Vector u = product(a, x);
  for (size_t r = 0; r < u.size(); ++r) {
    for (size_t o = 0; o < y.size(); ++o) y[o] += s * b[r * y.size() + o] * u[r];
  }
}

TEST(MixLora, IsItsEquationExpertByExpert) {
  constexpr size_t kWidth = 32;
  for (const Json& ranks : {Json::array(), Json{0, 1, 2, 5}}) {
    Layer layer({{"b_std", 0.3}, {"alpha", 5.0}, {"ranks", ranks}});
    const std::vector<size_t> rank_of =
        ranks.empty() ? std::vector<size_t>(4, 3) : ranks.get<std::vector<size_t>>();
    const auto part = [&](const std::string& map, const std::string& factor, size_t e) {
      const std::string name = "adapters." + map + "." + factor;
      if (!ranks.empty()) return layer.values(name + "." + std::to_string(e));
      const Vector all = layer.values(name);
      const auto size = static_cast<std::ptrdiff_t>(all.size() / 4);
      const auto begin = all.begin() + static_cast<std::ptrdiff_t>(e) * size;
      return Vector(begin, begin + size);
    };
    const auto map = [&](const std::string& name, size_t e, const Vector& x) {
      Vector y = product(layer.values("w_" + name), x);
      if (rank_of[e] > 0) {
        add_low_rank(part(name, "w_a", e), part(name, "w_b", e),
                     5.0 / static_cast<double>(rank_of[e]), x, y);
      }
      return y;
    };
    Tensor x = Tensor::empty(layer.pool(), {6, kWidth}, DType::f64);
    for (int64_t i = 0; i < x.numel(); ++i)
      x.data<double>()[i] = std::sin(0.7 * static_cast<double>(i));
    const Tensor y = layer.run(x);
    for (int64_t n = 0; n < 6; ++n) {
      const double* row = x.data<double>() + n * static_cast<int64_t>(kWidth);
      const Vector token(row, row + kWidth);
      const Vector logits = product(layer.values("router.weight"), token);
      std::vector<size_t> order = {0, 1, 2, 3};
      std::ranges::sort(order, [&](size_t a, size_t b) { return logits[a] > logits[b]; });
      const double w0 = 1.0 / (1.0 + std::exp(logits[order[1]] - logits[order[0]]));
      Vector expected(kWidth, 0.0);
      for (const size_t slot : {size_t{0}, size_t{1}}) {
        const size_t e = order[slot];
        const Vector gate = map("gate", e, token);
        Vector h = map("up", e, token);
        for (size_t f = 0; f < h.size(); ++f) h[f] *= gate[f] / (1.0 + std::exp(-gate[f]));
        const Vector out = map("down", e, h);
        for (size_t d = 0; d < kWidth; ++d) expected[d] += (slot == 0 ? w0 : 1.0 - w0) * out[d];
      }
      for (size_t d = 0; d < kWidth; ++d) {
        ASSERT_NEAR(element(y, n * static_cast<int64_t>(kWidth) + static_cast<int64_t>(d)),
                    expected[d], 1e-10)
            << "token " << n << " with ranks " << ranks.dump();
      }
    }
  }
}

TEST(MixLora, NamesTheDenseMatricesAsADenseModelDoes) {
  Pool pool;
  const Model dense(pool, tiny_config("AF"), 1);
  const Model mixlora(pool, mixlora_config({}), 1);
  for (const Parameter* parameter : dense.parameters()) {
    EXPECT_EQ(parameter_of(mixlora, parameter->name).value.shape(), parameter->value.shape());
  }
  for (const Parameter* parameter : mixlora.parameters()) {
    const auto same = [&](const Parameter* other) { return other->name == parameter->name; };
    EXPECT_EQ(std::ranges::any_of(dense.parameters(), same), !is_adapter_parameter(parameter->name))
        << parameter->name;
  }
}

TEST(MixLora, RefusesRanksThatAreNotOneForEachExpert) {
  auto settings = mixlora_feed_forward.make_config();
  testing::set_fields(*settings, {{"num_experts", 4}, {"ranks", {1, 2}}});
  EXPECT_THAT(settings->check(), HasSubstr("ranks: found 2 ranks, allowed 4 (num_experts)"));
}

}  // namespace
}  // namespace sluice
