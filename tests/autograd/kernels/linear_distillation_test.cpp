#include "autograd/kernels/linear_distillation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/kernels/reference/linear_distillation.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;

// A product of up to 64 terms, then an exponential of it.
constexpr double kCoefficient = 200.0;

template <class T>
class Distillation : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Distillation, FloatTypes);

/// Hidden states and heads of a student and a teacher.
template <class T>
struct Heads {
  int64_t N, D, C, V;
  Array<T> hidden = Array<T>::uniform(N * D, 1, -2.0, 2.0);
  Array<T> weight = Array<T>::uniform(V * D, 2);
  Array<T> teacher_hidden = Array<T>::uniform(N * C, 3, -2.0, 2.0);
  Array<T> teacher_weight = Array<T>::uniform(V * C, 4);
};

struct Result {
  double loss;
  Array<double> grad_hidden;
  Array<double> grad_weight;
};

template <class T, class Kernel>
Result run(Kernel kernel, const Heads<T>& heads, T temperature, bool wants_gradient = true) {
  std::vector<int32_t> targets;
  for (int64_t n = 0; n < heads.N; ++n) targets.push_back(n % 5 == 3 ? -100 : 1);
  Array<T> logits(2 * linear_distillation_chunk(heads.V) * heads.V);
  Array<T> grad_hidden(heads.N * heads.D, T(9));
  Array<T> grad_weight(heads.V * heads.D, T(9));
  LinearDistillation<T> args{.N = heads.N,
                             .D = heads.D,
                             .C = heads.C,
                             .V = heads.V,
                             .hidden = heads.hidden.data(),
                             .weight = heads.weight.data(),
                             .teacher_hidden = heads.teacher_hidden.data(),
                             .teacher_weight = heads.teacher_weight.data(),
                             .targets = targets.data(),
                             .temperature = temperature,
                             .divisor = T(3),
                             .logits = logits.data()};
  if (wants_gradient) {
    args.grad_hidden = grad_hidden.data();
    args.grad_weight = grad_weight.data();
  }
  const double loss = kernel(args);
  EXPECT_TRUE(grad_hidden.guards_intact() && grad_weight.guards_intact());
  return {loss, grad_hidden.in_double(), grad_weight.in_double()};
}

constexpr auto kKernel = [](const auto& args) { return linear_distillation(args); };
constexpr auto kReference = [](const auto& args) { return reference::linear_distillation(args); };

TYPED_TEST(Distillation, EqualsTheReference) {
  using T = TypeParam;
  struct Case {
    int64_t N, D, C, V;
    double temperature;
  };
  for (const auto& c : {Case{0, 4, 2, 3, 1.0}, Case{1, 1, 1, 2, 1.0}, Case{7, 5, 9, 33, 2.0},
                        Case{300, 16, 8, 40, 4.0}, Case{5, 64, 64, 257, 0.5}}) {
    const Heads<T> heads{c.N, c.D, c.C, c.V};
    const Heads<double> in_double{c.N, c.D, c.C, c.V};
    const Result own = run<T>(kKernel, heads, static_cast<T>(c.temperature));
    const Result expected = run<double>(kReference, in_double, c.temperature);
    const double tolerance = kCoefficient * std::numeric_limits<T>::epsilon();
    EXPECT_NEAR(own.loss, expected.loss, tolerance * std::max(1.0, expected.loss));
    for (int64_t i = 0; i < c.N * c.D; ++i) {
      ASSERT_NEAR(own.grad_hidden[i], expected.grad_hidden[i], tolerance) << i;
    }
    for (int64_t i = 0; i < c.V * c.D; ++i) {
      ASSERT_NEAR(own.grad_weight[i], expected.grad_weight[i],
                  tolerance * std::max(1.0, std::abs(expected.grad_weight[i])))
          << i;
    }
    EXPECT_EQ(run<T>(kKernel, heads, static_cast<T>(c.temperature), false).loss, own.loss);
  }
}

TYPED_TEST(Distillation, OfATeacherThatIsTheStudentIsExactlyZeroAndWithoutAGradient) {
  using T = TypeParam;
  Heads<T> heads{301, 12, 12, 50};
  heads.teacher_hidden = heads.hidden;
  heads.teacher_weight = heads.weight;
  for (const double temperature : {1.0, 3.0}) {
    const Result result = run<T>(kKernel, heads, static_cast<T>(temperature));
    EXPECT_EQ(result.loss, 0.0);
    for (int64_t i = 0; i < result.grad_hidden.size(); ++i) ASSERT_EQ(result.grad_hidden[i], 0.0);
    for (int64_t i = 0; i < result.grad_weight.size(); ++i) ASSERT_EQ(result.grad_weight[i], 0.0);
  }
}

// KL((.7, .2, .1) || (.5, .3, .2)) = .085123; soft cross-entropy less the teacher's entropy.
TEST(DistillationNumbers, AreSoftCrossEntropyLessTheTeachersEntropy) {
  const std::vector<double> one = {1.0};
  const std::vector<double> q = {0.7, 0.2, 0.1};
  const std::vector<double> p = {0.5, 0.3, 0.2};
  std::vector<double> student;
  std::vector<double> teacher;
  double expected = 0.0;
  for (size_t v = 0; v < 3; ++v) {
    student.push_back(std::log(p[v]));
    teacher.push_back(std::log(q[v]) + 4.0);  // a shift changes no prediction
    expected += q[v] * std::log(q[v]) - q[v] * std::log(p[v]);
  }
  const std::vector<int32_t> target = {0};
  std::vector<double> logits(static_cast<size_t>(2 * linear_distillation_chunk(3)) * 3);
  std::vector<double> grad(3);
  const double loss = linear_distillation<double>({.N = 1,
                                                   .D = 1,
                                                   .C = 1,
                                                   .V = 3,
                                                   .hidden = one.data(),
                                                   .weight = student.data(),
                                                   .teacher_hidden = one.data(),
                                                   .teacher_weight = teacher.data(),
                                                   .targets = target.data(),
                                                   .logits = logits.data(),
                                                   .grad_weight = grad.data()});
  EXPECT_NEAR(loss, expected, 1e-12);
  EXPECT_NEAR(loss, 0.085123, 1e-6);
  for (size_t v = 0; v < 3; ++v) EXPECT_NEAR(grad[v], p[v] - q[v], 1e-12);
}

}  // namespace
}  // namespace sluice::kernels
