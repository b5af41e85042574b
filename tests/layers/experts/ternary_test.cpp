// Ternary experts and experts of templates: what is particular to them.

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/ops/reduce.h"
#include "layers/experts.h"
#include "tests/support/set_fields.h"

namespace sluice {
namespace {

constexpr ExpertsSetup kSetup{3, 6, 5};

std::unique_ptr<Experts> make(Pool& pool, const std::string& type,
                              const nlohmann::json& fields = nlohmann::json::object()) {
  const InitConfig init;
  auto config = experts_registry().at(type).make_config();
  testing::set_fields(*config, fields);
  return make_experts(Builder(pool, DType::f64, 1, init, 1), kSetup,
                      {type, std::shared_ptr<Configurable>(std::move(config))});
}

Parameter& parameter_of(const Experts& experts, const std::string& name) {
  for (Parameter* parameter : experts.parameters()) {
    if (parameter->name == name) return *parameter;
  }
  throw InternalError("no parameter " + name);
}

/// Outputs of five tokens in expert order, and with `train` the gradients of their sum.
Tensor run(Pool& pool, const Experts& experts, bool train = false) {
  Tape tape(pool);
  const SequenceLayout layout = SequenceLayout::single(pool, 5);
  const ForwardContext context{tape, layout};
  const Tensor x = SampleFactory(pool, DType::f64, 5).uniform({5, 6});
  const Tensor offsets = Tensor::of<int32_t>(pool, {4}, std::vector<int32_t>{0, 2, 4, 5});
  for (Parameter* parameter : experts.parameters()) parameter->zero_grad(pool);
  const Tensor y = experts.forward(context, x, offsets);
  if (train) tape.backward(sum(tape, y));
  for (Parameter* parameter : experts.parameters()) parameter->materialise_grad();
  return y.clone(pool);
}

TEST(TernaryExperts, ComputeWithThreeLevelsOfEachMatrix) {
  Pool pool;
  const auto ternary = make(pool, "ternary");
  const auto plain = make(pool, "swiglu");
  // The same function as SwiGLU experts of the rounded matrices.
  for (const char* name : {"w_gate", "w_up", "w_down"}) {
    const Tensor& latent = parameter_of(*ternary, name).value;
    Tensor& rounded = parameter_of(*plain, name).value;
    const int64_t size = latent.numel() / 3;
    for (int64_t e = 0; e < 3; ++e) {
      double scale = 0.0;
      for (int64_t i = 0; i < size; ++i) {
        scale += std::abs(latent.data<double>()[e * size + i]) / static_cast<double>(size);
      }
      for (int64_t i = e * size; i < (e + 1) * size; ++i) {
        const double level = std::nearbyint(latent.data<double>()[i] / (scale + 1e-5));
        rounded.data<double>()[i] = scale * std::clamp(level, -1.0, 1.0);
      }
    }
  }
  const Tensor a = run(pool, *ternary, true);
  const Tensor b = run(pool, *plain, true);
  for (int64_t i = 0; i < a.numel(); ++i) {
    EXPECT_NEAR(a.data<double>()[i], b.data<double>()[i], 1e-14);
  }
  // Gradients are those of the rounded matrices.
  for (const char* name : {"w_gate", "w_up", "w_down"}) {
    const Tensor& own = parameter_of(*ternary, name).grad;
    const Tensor& other = parameter_of(*plain, name).grad;
    for (int64_t i = 0; i < own.numel(); ++i) {
      EXPECT_NEAR(own.data<double>()[i], other.data<double>()[i], 1e-14) << name;
    }
  }
}

TEST(TernaryExperts, WithInt8ActivationsAreNearby) {
  Pool pool;
  const Tensor full = run(pool, *make(pool, "ternary"));
  const Tensor int8 = run(pool, *make(pool, "ternary", {{"activations", "int8"}}));
  double difference = 0.0;
  double largest = 0.0;
  for (int64_t i = 0; i < full.numel(); ++i) {
    difference =
        std::max(difference, std::abs(full.data<double>()[i] - int8.data<double>()[i]));
    largest = std::max(largest, std::abs(full.data<double>()[i]));
  }
  EXPECT_GT(difference, 0.0);
  // Two roundings to 1/127 of the largest element, each seen by at most six inputs.
  EXPECT_LT(difference, 0.1 * largest);
}

TEST(TemplateExperts, StartWithOrthonormalCoefficients) {
  Pool pool;
  const auto experts = make(pool, "templates", {{"num_templates", 5}});
  for (const char* name : {"a_gate", "a_up", "a_down"}) {
    const Parameter& a = parameter_of(*experts, name);
    ASSERT_EQ(a.value.shape(), (Shape{3, 5}));
    EXPECT_EQ(a.kind, ParameterKind::bias) << "weight decay leaves it alone";
    for (int64_t i = 0; i < 3; ++i) {
      for (int64_t j = 0; j < 3; ++j) {
        double product = 0.0;
        for (int64_t t = 0; t < 5; ++t) {
          product += a.value.data<double>()[i * 5 + t] * a.value.data<double>()[j * 5 + t];
        }
        EXPECT_NEAR(product, i == j ? 1.0 : 0.0, 1e-12);
      }
    }
  }
  EXPECT_THROW((void)make(pool, "templates", {{"num_templates", 2}}), ConfigError);
}

TEST(TemplateExperts, AreTheSumsOfTheirTemplates) {
  Pool pool;
  const auto mixed = make(pool, "templates", {{"num_templates", 4}});
  const auto plain = make(pool, "swiglu");
  for (const std::string name : {"gate", "up", "down"}) {
    const Tensor& a = parameter_of(*mixed, "a_" + name).value;
    const Tensor& t = parameter_of(*mixed, "t_" + name).value;
    Tensor& w = parameter_of(*plain, "w_" + name).value;
    const int64_t size = w.numel() / 3;
    w.fill_zero();
    for (int64_t e = 0; e < 3; ++e) {
      for (int64_t m = 0; m < 4; ++m) {
        for (int64_t i = 0; i < size; ++i) {
          w.data<double>()[e * size + i] +=
              a.data<double>()[e * 4 + m] * t.data<double>()[m * size + i];
        }
      }
    }
  }
  const Tensor y = run(pool, *mixed, true);
  const Tensor expected = run(pool, *plain, true);
  for (int64_t i = 0; i < y.numel(); ++i) {
    EXPECT_NEAR(y.data<double>()[i], expected.data<double>()[i], 1e-13);
  }
  // A template's gradient is the sum over experts of its coefficient times theirs.
  const Tensor& grad = parameter_of(*mixed, "t_gate").grad;
  const Tensor& own = parameter_of(*plain, "w_gate").grad;
  const Tensor& a = parameter_of(*mixed, "a_gate").value;
  for (int64_t m = 0; m < 4; ++m) {
    for (int64_t i = 0; i < 30; ++i) {
      double sum = 0.0;
      for (int64_t e = 0; e < 3; ++e) {
        sum += a.data<double>()[e * 4 + m] * own.data<double>()[e * 30 + i];
      }
      EXPECT_NEAR(grad.data<double>()[m * 30 + i], sum, 1e-13);
    }
  }
}

}  // namespace
}  // namespace sluice
