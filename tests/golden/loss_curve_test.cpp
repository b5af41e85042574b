// Short training runs whose losses are known. A change of these numbers is a change of what Sluice
// computes: it needs a reason, and a commit of its own.
//
// The curves were computed in f64. Another compiler or instruction set rounds the sixteenth digit
// differently, which 20 steps of so small a model amplify by some orders of magnitude. In f32 the
// curves agree to 1e-7 here; elsewhere the choice of a few tokens between two nearly equal experts
// may fall the other way, and each of the 128 tokens of a step weighs about 1e-3 of what that
// changes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "autograd/support/parallel.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

using ::testing::DoubleNear;
using ::testing::Pointwise;
using testing::tiny_dense_recipe;
using testing::tiny_recipe;

constexpr int64_t kSteps = 20;
constexpr double kToleranceF64 = 1e-8;
constexpr double kToleranceF32 = 2e-3;

std::vector<double> losses_of(const Recipe& recipe) {
  set_num_threads(1);
  SingleRank communicator;
  sluice::Run run(recipe, communicator);
  std::vector<double> losses;
  while (!run.finished()) losses.push_back(run.step().loss);
  return losses;
}

std::vector<double> golden(const std::string& name) {
  std::ifstream file(SLUICE_SOURCE_DIR "/tests/golden/" + name);
  std::vector<double> values;
  for (double value = 0.0; file >> value;) values.push_back(value);
  return values;
}

/// The curve as the golden file has it.
std::string text_of(const std::vector<double>& losses) {
  std::string text;
  for (const double loss : losses) text += fmt::format("{:.12f}\n", loss);
  return text;
}

std::string changes(std::string_view dtype) {
  return fmt::format(
      "model: {{dtype: {}}}\ntrain: {{steps: {}}}\n"
      "optim: {{learning_rate: {{type: cosine, peak: 1.0e-2, warmup: 5 steps}}}}",
      dtype, kSteps);
}

TEST(LossCurve, OfATinyMoeIsTheGoldenOne) {
  const auto expected = golden("loss_curve_moe.txt");
  const auto f64 = losses_of(tiny_recipe(changes("f64")));
  EXPECT_THAT(f64, Pointwise(DoubleNear(kToleranceF64), expected)) << "found:\n" << text_of(f64);
  const auto f32 = losses_of(tiny_recipe(changes("f32")));
  EXPECT_THAT(f32, Pointwise(DoubleNear(kToleranceF32), expected)) << "found:\n" << text_of(f32);
}

TEST(LossCurve, OfATinyDenseModelIsTheGoldenOne) {
  const auto expected = golden("loss_curve_dense.txt");
  const auto f64 = losses_of(tiny_dense_recipe(changes("f64")));
  EXPECT_THAT(f64, Pointwise(DoubleNear(kToleranceF64), expected)) << "found:\n" << text_of(f64);
  const auto f32 = losses_of(tiny_dense_recipe(changes("f32")));
  EXPECT_THAT(f32, Pointwise(DoubleNear(kToleranceF32), expected)) << "found:\n" << text_of(f32);
}

}  // namespace
}  // namespace sluice
