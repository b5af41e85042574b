#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "optim/optimizer.h"
#include "tests/optim/support.h"
#include "tests/support/set_fields.h"

namespace sluice {
namespace {

using ::testing::DoubleNear;
using ::testing::Each;
using testing::make_parameter;
using ::testing::Pointwise;
using testing::set_grad;
using testing::values_of;

Tagged adamw(const nlohmann::json& fields) {
  Tagged choice = default_optimizer("adamw");
  testing::set_fields(*choice.config, fields);
  return choice;
}

class AdamWTest : public ::testing::Test {
 protected:
  template <class T>
  Parameter& add(ParameterKind kind, const std::vector<T>& values) {
    owned_.push_back(make_parameter<T>(pool_, fmt::format("p{}", owned_.size()), kind, values));
    parameters_.push_back(owned_.back().get());
    return *owned_.back();
  }
  Pool pool_;
  std::vector<std::unique_ptr<Parameter>> owned_;
  std::vector<Parameter*> parameters_;
};

TEST_F(AdamWTest, FollowsTheWorkedExample) {
  Parameter& p = add<double>(ParameterKind::matrix, {1.0});
  const auto optimizer = make_optimizer(
      adamw({{"learning_rate", 0.1}, {"weight_decay", 0.1}, {"betas", {0.9, 0.999}}}), parameters_,
      pool_);
  const std::vector<double> grads{0.5, -0.25, 0.1};
  const std::vector<double> expected{0.890000002, 0.8544662987, 0.8143972800};
  std::vector<double> found;
  for (const double grad : grads) {
    set_grad<double>(p, {grad});
    optimizer->step({}, 1.0);
    found.push_back(values_of<double>(p.value)[0]);
  }
  EXPECT_THAT(found, Pointwise(DoubleNear(5e-10), expected));
}

TEST_F(AdamWTest, DecaysMatricesAndRoutersOnly) {
  Parameter& matrix = add<double>(ParameterKind::matrix, {1.0});
  Parameter& router = add<double>(ParameterKind::router, {1.0});
  for (const auto kind : {ParameterKind::embedding, ParameterKind::norm, ParameterKind::bias}) {
    add<double>(kind, {1.0});
  }
  const auto optimizer =
      make_optimizer(adamw({{"learning_rate", 0.1}, {"weight_decay", 0.5}}), parameters_, pool_);
  optimizer->step({}, 1.0);
  EXPECT_DOUBLE_EQ(values_of<double>(matrix.value)[0], 0.95);
  EXPECT_DOUBLE_EQ(values_of<double>(router.value)[0], 0.95);
  for (size_t i = 2; i < owned_.size(); ++i) {
    EXPECT_DOUBLE_EQ(values_of<double>(owned_[i]->value)[0], 1.0) << owned_[i]->name;
  }
}

TEST_F(AdamWTest, TreatsAnUntouchedGradientAsZeroWhateverItHolds) {
  Parameter& p = add<double>(ParameterKind::matrix, {1.0});
  set_grad<double>(p, {123.0});
  p.zero_grad(pool_);
  const auto optimizer =
      make_optimizer(adamw({{"learning_rate", 0.1}, {"weight_decay", 0.1}}), parameters_, pool_);
  optimizer->step({}, 1.0);
  EXPECT_DOUBLE_EQ(values_of<double>(p.value)[0], 0.99);
}

TEST_F(AdamWTest, MovesByTheLearningRateOnItsFirstStep) {
  Parameter& p = add<double>(ParameterKind::norm, {0.0, 0.0});
  const auto optimizer =
      make_optimizer(adamw({{"learning_rate", 0.01}, {"eps", 1e-300}}), parameters_, pool_);
  set_grad<double>(p, {1e-5, -700.0});
  optimizer->step({}, 1.0);
  EXPECT_THAT(values_of<double>(p.value),
              Pointwise(DoubleNear(1e-15), std::vector<double>{-0.01, 0.01}));
}

TEST_F(AdamWTest, ScalesTheGradientByTheClippingFactor) {
  Parameter& scaled = add<double>(ParameterKind::matrix, {1.0});
  const auto choice = adamw({{"learning_rate", 0.1}, {"eps", 1.0}});
  const auto optimizer = make_optimizer(choice, parameters_, pool_);
  set_grad<double>(scaled, {8.0});
  optimizer->step({}, 0.25);

  parameters_.clear();
  Parameter& plain = add<double>(ParameterKind::matrix, {1.0});
  const auto reference = make_optimizer(choice, parameters_, pool_);
  set_grad<double>(plain, {2.0});
  reference->step({}, 1.0);
  EXPECT_EQ(values_of<double>(scaled.value), values_of<double>(plain.value));
}

TEST_F(AdamWTest, GivesFrozenParametersNoMoments) {
  add<float>(ParameterKind::matrix, std::vector<float>(1000, 1.0f)).trainable = false;
  add<float>(ParameterKind::matrix, {1.0f});
  const int64_t before = pool_.in_use()[MemoryKind::optimizer];
  const auto optimizer = make_optimizer(adamw({{"learning_rate", 0.1}}), parameters_, pool_);
  SaveVisitor saved;
  optimizer->visit_state(saved);
  const StateDict state = saved.take();
  EXPECT_EQ(state.count("p0/m"), 0u);
  EXPECT_EQ(state.count("p1/m"), 1u);
  EXPECT_LT(pool_.in_use()[MemoryKind::optimizer] - before, 1000 * 4);
}

TEST_F(AdamWTest, ContinuesBitForBitFromItsSavedState) {
  Parameter& p = add<float>(ParameterKind::matrix, {1.0f, -0.3f});
  const auto choice = adamw({{"learning_rate", 0.01}});
  auto optimizer = make_optimizer(choice, parameters_, pool_);
  const auto train = [&](int64_t from, int64_t to) {
    for (int64_t step = from; step < to; ++step) {
      const auto s = static_cast<float>(step);
      set_grad<float>(p, {0.1f + 0.3f * s, -0.7f / (1.0f + s)});
      optimizer->step({.step = step}, 1.0);
    }
  };
  train(0, 5);
  SaveVisitor saved;
  optimizer->visit_state(saved);
  const StateDict state = saved.take();
  const Tensor value = p.value.clone(pool_);
  train(5, 10);
  const auto expected = values_of<float>(p.value);

  p.value.copy_from(value);
  optimizer = make_optimizer(choice, parameters_, pool_);
  LoadVisitor load(state, "test");
  optimizer->visit_state(load);
  load.finish();
  train(5, 10);
  EXPECT_EQ(values_of<float>(p.value), expected);
}

TEST_F(AdamWTest, OnlyCountsMemoryOnAPoolForShapes) {
  Pool shapes(Pool::Mode::shapes_only);
  Parameter p;
  p.name = "w";
  p.value = Tensor::empty(shapes, {64, 64}, DType::f32, MemoryKind::parameters);
  p.zero_grad(shapes);
  Parameter* pointer = &p;
  const auto optimizer =
      make_optimizer(adamw({{"learning_rate", 0.1}}), std::span(&pointer, 1), shapes);
  optimizer->step({}, 1.0);
  EXPECT_GE(shapes.in_use()[MemoryKind::optimizer], 2 * 64 * 64 * 4);
}

TEST(Optimizers, AnUnknownTypeIsAnErrorThatNamesTheKnownOnes) {
  try {
    (void)default_optimizer("adamv");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "unknown optimizer \"adamv\"; did you mean \"adamw\"? Known: adamw");
  }
}

TEST(Optimizers, RefuseBetasThatAreNoPair) {
  const Tagged choice = adamw({{"betas", {0.9}}});
  EXPECT_EQ(choice.config->check(), "betas: found 1 numbers, allowed 2");
}

}  // namespace
}  // namespace sluice
