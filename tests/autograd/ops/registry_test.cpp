// Every op of ops.def, by being there: gradients against differences in double, determinism,
// accumulation, untouched inputs, refused shapes, f32 against f64, independence of the number of
// threads.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <ostream>

#include "autograd/core/gradcheck.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/table.h"
#include "autograd/support/parallel.h"

namespace sluice {

/// The parameter as test names show it.
void PrintTo(const OpEntry& op, std::ostream* out) { *out << op.name; }

namespace {

std::vector<Tensor> forward(Pool& pool, const OpSample& sample) {
  Tape tape(pool);
  const NoGrad no_grad(tape);
  return sample.apply(tape, sample.inputs);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw().data(), b.raw().data(), a.raw().size()) == 0;
}

/// max |a - b| / max(1, max |b|)
double distance(const Tensor& f32, const Tensor& f64) {
  double worst = 0.0;
  double scale = 1.0;
  for (int64_t i = 0; i < f64.numel(); ++i) {
    scale = std::max(scale, std::abs(f64.data<double>()[i]));
    worst = std::max(worst, std::abs(double{f32.data<float>()[i]} - f64.data<double>()[i]));
  }
  return worst / scale;
}

class EveryOp : public testing::TestWithParam<OpEntry> {
 protected:
  std::vector<OpSample> samples(DType dtype) {
    SampleFactory factory(pool_, dtype);
    return GetParam().info().samples(factory);
  }
  Pool pool_;
};

TEST_P(EveryOp, NamesItselfAndItsEquation) {
  EXPECT_EQ(GetParam().info().name, GetParam().name);
  EXPECT_FALSE(GetParam().info().equation.empty());
}

TEST_P(EveryOp, HasSamplesWithADifferentiableInput) {
  ASSERT_NE(GetParam().info().samples, nullptr);
  const auto all = samples(DType::f64);
  ASSERT_FALSE(all.empty());
  for (const OpSample& sample : all)
    EXPECT_EQ(sample.inputs.size(), sample.differentiable.size()) << sample.label;
}

TEST_P(EveryOp, GradientsAgreeWithCentralDifferencesInDouble) {
  for (const OpSample& sample : samples(DType::f64)) {
    const GradcheckReport report = gradcheck(pool_, sample);
    EXPECT_TRUE(report.passed) << GetParam().name << ": " << report.message << " ("
                               << report.worst_error << " times the tolerance)";
  }
}

TEST_P(EveryOp, GivesTheSameBitsTwiceAndOnAnyNumberOfThreads) {
  for (const OpSample& sample : samples(DType::f32)) {
    set_num_threads(1);
    const auto outputs = forward(pool_, sample);
    const auto gradients = weighted_gradients(pool_, sample);
    for (const int threads : {1, 2, 3}) {
      set_num_threads(threads);
      const auto again = forward(pool_, sample);
      for (size_t o = 0; o < outputs.size(); ++o)
        EXPECT_TRUE(same_bits(outputs[o], again[o])) << sample.label;
      const auto gradients_again = weighted_gradients(pool_, sample);
      for (size_t i = 0; i < gradients.size(); ++i) {
        if (sample.differentiable[i]) {
          EXPECT_TRUE(same_bits(gradients[i], gradients_again[i]))
              << sample.label << " input " << i;
        }
      }
    }
  }
  set_num_threads(num_processors());
}

TEST_P(EveryOp, LeavesItsInputsAlone) {
  for (const OpSample& sample : samples(DType::f32)) {
    std::vector<Tensor> before;
    for (const Tensor& input : sample.inputs) before.push_back(input.clone(pool_));
    (void)weighted_gradients(pool_, sample);
    for (size_t i = 0; i < before.size(); ++i) {
      EXPECT_TRUE(same_bits(before[i], sample.inputs[i])) << sample.label << " input " << i;
    }
  }
}

TEST_P(EveryOp, AddsToGradientsThatAreThereAlready) {
  for (const OpSample& sample : samples(DType::f64)) {
    // The sum of the op with itself, on the same inputs, has twice the gradients.
    OpSample twice = sample;
    twice.apply = [&](Tape& tape, std::span<const Tensor> inputs) {
      std::vector<Tensor> outputs = sample.apply(tape, inputs);
      const std::vector<Tensor> again = sample.apply(tape, inputs);
      for (size_t o = 0; o < outputs.size(); ++o) outputs[o] = add(tape, outputs[o], again[o]);
      return outputs;
    };
    const auto single = weighted_gradients(pool_, sample);
    const auto doubled = weighted_gradients(pool_, twice);
    for (size_t i = 0; i < sample.inputs.size(); ++i) {
      if (!sample.differentiable[i]) continue;
      for (int64_t e = 0; e < single[i].numel(); ++e) {
        const double expected = 2.0 * single[i].data<double>()[e];
        // Backwards that add many terms into the target round once more than a doubling does.
        const double tolerance =
            64 * std::numeric_limits<double>::epsilon() * std::max(1.0, std::abs(expected));
        ASSERT_NEAR(doubled[i].data<double>()[e], expected, tolerance)
            << sample.label << " input " << i << " element " << e;
      }
    }
  }
}

TEST_P(EveryOp, RefusesShapesThatDoNotFit) {
  if (GetParam().info().misuses == nullptr) GTEST_SKIP() << "takes any shape";
  SampleFactory factory(pool_, DType::f32);
  const auto misuses = GetParam().info().misuses(factory);
  EXPECT_FALSE(misuses.empty());
  for (const OpSample& misuse : misuses) {
    Tape tape(pool_);
    EXPECT_THROW((void)misuse.apply(tape, misuse.inputs), ShapeError) << misuse.label;
  }
}

TEST_P(EveryOp, AgreesInSingleAndDouble) {
  // Ops of a few hundred terms: rounding grows with the square root of their number at worst in
  // these samples.
  constexpr double kTolerance = 64 * std::numeric_limits<float>::epsilon();
  const auto singles = samples(DType::f32);
  const auto doubles = samples(DType::f64);
  ASSERT_EQ(singles.size(), doubles.size());
  for (size_t s = 0; s < singles.size(); ++s) {
    if (!singles[s].compare_dtypes) continue;
    const auto in_f32 = forward(pool_, singles[s]);
    const auto in_f64 = forward(pool_, doubles[s]);
    for (size_t o = 0; o < in_f32.size(); ++o) {
      EXPECT_LE(distance(in_f32[o], in_f64[o]), kTolerance) << singles[s].label;
    }
  }
}

TEST_P(EveryOp, RunsOnShapesAlone) {
  Pool shapes(Pool::Mode::shapes_only);
  for (const OpSample& sample : samples(DType::f32)) {
    const auto real = forward(pool_, sample);
    Tape tape(shapes);
    std::vector<Tensor> inputs;
    for (size_t i = 0; i < sample.inputs.size(); ++i) {
      // Integer inputs are data that an op may look at; floating ones are shapes only.
      if (sample.inputs[i].dtype() == DType::i32) {
        inputs.push_back(sample.inputs[i]);
        continue;
      }
      Tensor input = Tensor::empty(shapes, sample.inputs[i].shape(), sample.inputs[i].dtype());
      inputs.push_back(sample.differentiable[i] ? tape.input(input) : input);
    }
    const auto outputs = sample.apply(tape, inputs);
    ASSERT_EQ(outputs.size(), real.size());
    std::vector<Tensor> grads;
    for (size_t o = 0; o < outputs.size(); ++o) {
      EXPECT_EQ(outputs[o].shape(), real[o].shape()) << sample.label;
      grads.push_back(Tensor::empty(shapes, outputs[o].shape(), outputs[o].dtype()));
    }
    tape.backward(outputs, grads);
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, EveryOp, testing::ValuesIn(op_table().begin(), op_table().end()),
                         [](const auto& op) { return std::string(op.param.name); });

}  // namespace
}  // namespace sluice
