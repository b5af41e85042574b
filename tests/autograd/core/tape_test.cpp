#include "autograd/core/tape.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/core/gradcheck.h"
#include "autograd/core/recompute.h"

namespace sluice {
namespace {

const OpInfo kToy{"toy", "y = x^2", nullptr, nullptr};

/// y = x^2, with a backward that may be told to be wrong.
/// The square of x; a `factor` other than 2, or a NaN somewhere, makes its backward wrong.
Tensor toy_square(Tape& tape, const Tensor& x, double factor = 2.0, int64_t nan_at = -1) {
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(kToy, {}, [&] {
    for (int64_t i = 0; i < x.numel(); ++i)
      y.data<double>()[i] = x.data<double>()[i] * x.data<double>()[i];
  });
  tape.record(kToy, {x}, {&y}, {x}, [factor, nan_at](Backward& b) {
    const Tensor grad_y = b.grad(0);
    const GradTarget grad_x = b.target(0);
    Tensor target = grad_x.tensor;
    for (int64_t i = 0; i < target.numel(); ++i) {
      double& slot = target.data<double>()[i];
      const double right = factor * b.saved(0).data<double>()[i] * grad_y.data<double>()[i];
      const double add = i == nan_at ? std::numeric_limits<double>::quiet_NaN() : right;
      slot = grad_x.fresh ? add : slot + add;
    }
  });
  return y;
}

/// y = a + b by sharing gradients.
Tensor toy_add(Tape& tape, const Tensor& a, const Tensor& b) {
  Tensor y = tape.empty(a.shape(), a.dtype());
  for (int64_t i = 0; i < y.numel(); ++i)
    y.data<double>()[i] = a.data<double>()[i] + b.data<double>()[i];
  tape.record(kToy, {a, b}, {&y}, {}, [](Backward& backward) {
    for (int input = 0; input < 2; ++input) {
      if (backward.needs(input)) backward.pass(input, backward.grad(0));
    }
  });
  return y;
}

class TapeTest : public testing::Test {
 protected:
  Tensor vector(const std::vector<double>& values) {
    return Tensor::of<double>(pool_, {static_cast<int64_t>(values.size())}, values);
  }
  std::vector<double> values(const Tensor& x) {
    const auto span = x.span<double>();
    return {span.begin(), span.end()};
  }
  Pool pool_;
};

TEST_F(TapeTest, AddsTheGradientsOfEveryUse) {
  Tape tape(pool_);
  const Tensor x = tape.input(vector({3.0}));
  tape.backward(toy_add(tape, toy_square(tape, x), toy_add(tape, x, x)));
  EXPECT_EQ(values(tape.gradient(x)), std::vector<double>{8.0});
}

TEST_F(TapeTest, SharedGradientsAreNotChangedByALaterUse) {
  // add() hands the same gradient memory to both inputs; a and its square then add to one of them.
  Tape tape(pool_);
  const Tensor a = tape.input(vector({2.0}));
  const Tensor b = tape.input(vector({5.0}));
  const Tensor squared = toy_square(tape, a);
  tape.backward(toy_add(tape, squared, toy_add(tape, a, b)));
  EXPECT_EQ(values(tape.gradient(a)), std::vector<double>{5.0});
  EXPECT_EQ(values(tape.gradient(b)), std::vector<double>{1.0});
}

TEST_F(TapeTest, RecordsNothingWithoutGradients) {
  Tape tape(pool_);
  const Tensor constant = vector({3.0});
  (void)toy_square(tape, constant);
  EXPECT_EQ(tape.num_nodes(), 0);
  const Tensor x = tape.input(constant);
  {
    const NoGrad no_grad(tape);
    (void)toy_square(tape, x);
  }
  EXPECT_EQ(tape.num_nodes(), 0);
  (void)toy_square(tape, x);
  EXPECT_EQ(tape.num_nodes(), 1);
}

TEST_F(TapeTest, TensorsOfAnotherStepAreConstants) {
  Tape tape(pool_);
  const Tensor x = tape.input(vector({3.0}));
  const Tensor y = toy_square(tape, x);
  tape.reset();
  EXPECT_FALSE(tape.requires_grad(y));
  Tape other(pool_);
  EXPECT_FALSE(other.requires_grad(tape.input(vector({1.0}))));
}

TEST_F(TapeTest, ReleasesEachActivationAfterItsLastUse) {
  constexpr int64_t kWide = 4096;
  Tape tape(pool_);
  const int64_t before = pool_.in_use().total();
  Tensor y = tape.input(Tensor::zeros(pool_, {kWide}, DType::f64));
  for (int layer = 0; layer < 8; ++layer) y = toy_square(tape, y);
  Tensor grad = Tensor::zeros(pool_, {kWide}, DType::f64);
  const int64_t kept = pool_.in_use().total() - before;
  EXPECT_GE(kept, 9 * kWide * 8) << "forward keeps what backward reads";
  const std::vector<Tensor> outputs = {std::exchange(y, Tensor())};
  pool_.reset_peak();
  tape.backward(outputs, std::span(&grad, 1));
  // Backward holds the saved tensors and two gradients at a time, never all gradients.
  EXPECT_LE(pool_.peak().total() - before, kept + 2 * kWide * 8);
  // Output, input, its gradient and the given gradient are left.
  EXPECT_LE(pool_.in_use().total() - before, 4 * kWide * 8 + 1024);
}

TEST_F(TapeTest, ParameterGradientsAccumulateUntilZeroed) {
  Parameter parameter;
  parameter.name = "w";
  parameter.value = vector({3.0});
  for (int pass = 1; pass <= 2; ++pass) {
    if (pass == 1) parameter.zero_grad(pool_);
    Tape tape(pool_);
    tape.backward(toy_square(tape, tape.use(parameter)));
    EXPECT_EQ(values(parameter.grad), std::vector<double>{6.0 * pass});
  }
  parameter.zero_grad(pool_);
  parameter.materialise_grad();
  EXPECT_EQ(values(parameter.grad), std::vector<double>{0.0});
}

TEST_F(TapeTest, FrozenParametersAreConstants) {
  Parameter parameter;
  parameter.value = vector({3.0});
  parameter.trainable = false;
  parameter.zero_grad(pool_);
  EXPECT_FALSE(parameter.grad.defined());
  Tape tape(pool_);
  EXPECT_FALSE(tape.requires_grad(tape.use(parameter)));
}

TEST_F(TapeTest, WalksOnce) {
  Tape tape(pool_);
  const Tensor y = toy_square(tape, tape.input(vector({3.0})));
  tape.backward(y);
  EXPECT_THROW(tape.backward(y), InternalError);
}

TEST_F(TapeTest, RefusesALossOfSeveralElements) {
  Tape tape(pool_);
  const Tensor y = toy_square(tape, tape.input(vector({3.0, 4.0})));
  EXPECT_THROW(tape.backward(y), ShapeError);
}

TEST_F(TapeTest, RecomputationGivesTheSameGradientsAndKeepsLess) {
  const auto chain = [](Tape& t, std::span<const Tensor> x) {
    Tensor y = x[0];
    for (int i = 0; i < 4; ++i) y = toy_square(t, y);
    return TensorList{toy_add(t, y, x[0])};
  };
  std::vector<double> plain;
  std::vector<int64_t> nodes;
  for (const bool twice : {false, true}) {
    Tape tape(pool_);
    const Tensor x = tape.input(vector({1.1}));
    const Tensor squared = toy_square(tape, x);
    const auto y = twice ? recompute(tape, std::span(&squared, 1), chain)
                         : chain(tape, std::span(&squared, 1));
    nodes.push_back(tape.num_nodes());
    tape.backward(toy_add(tape, y[0], squared));
    if (twice) {
      EXPECT_EQ(values(tape.gradient(x)), plain);
    } else {
      plain = values(tape.gradient(x));
    }
  }
  EXPECT_LT(nodes[1], nodes[0]);
}

TEST_F(TapeTest, CountsCostsByPhaseAndDirectionOnShapesAlone) {
  Pool shapes(Pool::Mode::shapes_only);
  CostMeter meter;
  Tape tape(shapes, &meter);
  const PhaseScope phase(tape, Phase::attention);
  tape.run(kToy, {.flops = 10.0, .bytes = 3.0}, [] { FAIL() << "kernels are skipped"; });
  EXPECT_EQ(meter.at(Phase::attention, Direction::forward).flops, 10.0);
  {
    const ExtraForward extra(tape);
    tape.run(kToy, {.flops = 7.0}, [] { FAIL() << "kernels are skipped"; });
  }
  EXPECT_EQ(meter.at(Phase::attention, Direction::forward).flops, 10.0);
  EXPECT_EQ(meter.at(Phase::attention, Direction::extra).flops, 7.0);
  EXPECT_EQ(meter.total().bytes, 3.0);
  EXPECT_EQ(meter.useful_flops(), 10.0);
}

OpSample toy_sample(Pool& pool, double factor, int64_t nan_at = -1) {
  OpSample sample;
  sample.label = "toy";
  sample.inputs = {Tensor::of<double>(pool, {3}, std::vector<double>{0.5, -1.0, 2.0})};
  sample.differentiable = {true};
  sample.apply = [factor, nan_at](Tape& tape, std::span<const Tensor> x) {
    return std::vector<Tensor>{toy_square(tape, x[0], factor, nan_at)};
  };
  return sample;
}

TEST(Gradcheck, PassesARightBackward) {
  Pool pool;
  const GradcheckReport report = gradcheck(pool, toy_sample(pool, 2.0));
  EXPECT_TRUE(report.passed) << report.message;
}

TEST(Gradcheck, FailsABackwardWithANaN) {
  Pool pool;
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_FALSE(gradcheck(pool, toy_sample(pool, 2.0, i)).passed) << "element " << i;
  }
}

TEST(Gradcheck, FailsABackwardThatIsWrongByPartsInAMillion) {
  Pool pool;
  const GradcheckReport report = gradcheck(pool, toy_sample(pool, 2.0 * (1.0 + 2.5e-6)));
  EXPECT_FALSE(report.passed);
  EXPECT_THAT(report.message, testing::HasSubstr("input 0 element"));
}

TEST_F(TapeTest, SaysWhatItKeepsCountingEveryBlockOnce) {
  Tape tape(pool_);
  const Tensor x = tape.input(vector({1.0, 2.0, 3.0}));
  const Tensor y = toy_square(tape, x);  // saves x
  (void)toy_square(tape, x);             // saves it again
  {
    const PhaseScope phase(tape, Phase::attention);
    (void)toy_square(tape, toy_add(tape, y, x));  // saves the sum
  }
  const SavedMemory saved = tape.saved_memory();
  ASSERT_EQ(saved.entries.size(), 2U);
  EXPECT_EQ(saved.entries[0].phase, Phase::other);
  EXPECT_EQ(saved.entries[0].op, "toy");
  EXPECT_EQ(saved.entries[0].tensors, 1);
  EXPECT_EQ(saved.entries[0].bytes, 24);
  EXPECT_EQ(saved.entries[1].phase, Phase::attention);
  EXPECT_EQ(saved.bytes(), 48);
  tape.reset();
  EXPECT_EQ(tape.saved_memory().bytes(), 0);
}

TEST_F(TapeTest, KeepsNoWeightsAmongItsActivations) {
  Parameter parameter{.name = "w"};
  parameter.value = Tensor::zeros(pool_, {4}, DType::f64, MemoryKind::parameters);
  parameter.zero_grad(pool_);
  Tape tape(pool_);
  (void)toy_square(tape, tape.use(parameter));
  EXPECT_EQ(tape.num_nodes(), 1);
  EXPECT_EQ(tape.saved_memory().bytes(), 0);
}

TEST(TensorList, HoldsAFewTensorsInOrder) {
  Pool pool;
  TensorList list = {Tensor::zeros(pool, {1}, DType::f32), Tensor()};
  EXPECT_EQ(list.size(), 2U);
  EXPECT_TRUE(list[0].defined());
  EXPECT_FALSE(list[1].defined());
  for (size_t i = list.size(); i < TensorList::kMaxSize; ++i) list.push_back(Tensor());
  EXPECT_EQ(std::distance(list.begin(), list.end()), 16);
  EXPECT_THROW(list.push_back(Tensor()), InternalError);
}

}  // namespace
}  // namespace sluice
