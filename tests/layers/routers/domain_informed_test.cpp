#include <gtest/gtest.h>

#include <cmath>

#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

using testing::numbers;
using testing::Routed;

class DomainInformed : public testing::RouterFixture {};

TEST_F(DomainInformed, AddsBiasesThatOnlyHoldBack) {
  make_of_logits("domain_informed");
  set("bias", {-3.0, -1.0, 2.0, -0.5});
  const auto logits = numbers(route(rows({2.0, 1.0, 0.0, -1.0}, 4), 2).scores.logits);
  // That of the public expert 0 and what is above 0 count for nothing.
  EXPECT_EQ(logits, (std::vector<double>{2.0, 0.0, 0.0, -1.5}));
}

TEST_F(DomainInformed, StartsALittleBelowZero) {
  make("domain_informed");
  EXPECT_EQ(numbers(parameter("bias").value), (std::vector<double>{0.0, -2e-3, -2e-3, -2e-3}));
}

TEST_F(DomainInformed, TeachesBiasesBelowZeroAlone) {
  make_of_logits("domain_informed");
  set("bias", {-3.0, -1.0, 2.0, -0.5});
  Tape tape(pool_);
  const Routed routed = route_on(tape, f1(), 4);
  const Tensor outputs[] = {last_weights_};
  const Tensor grads[] = {SampleFactory(pool_, DType::f64, 3).uniform(last_weights_.shape())};
  tape.backward(outputs, grads);
  parameter("bias").materialise_grad();
  const auto grad = numbers(parameter("bias").grad);
  EXPECT_EQ(grad[0], 0.0);
  EXPECT_NE(grad[1], 0.0);
  EXPECT_EQ(grad[2], 0.0);
  EXPECT_NE(grad[3], 0.0);
}

}  // namespace
}  // namespace sluice
