#include "optim/expert_updates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/optim/support.h"

namespace sluice {
namespace {

using ::testing::DoubleEq;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::set_grad;
using ::testing::SizeIs;

/// [2, 2]: two experts of two weights.
std::unique_ptr<Parameter> stacked(Pool& pool, const std::string& name,
                                   const std::vector<double>& values) {
  auto parameter = testing::make_parameter<double>(pool, name, ParameterKind::matrix, {});
  parameter->value = Tensor::of<double>(pool, {2, 2}, values);
  parameter->grad = Tensor();
  parameter->zero_grad(pool);
  parameter->stack = Stack::routed_experts;
  return parameter;
}

class ExpertUpdatesTest : public ::testing::Test {
 protected:
  Pool pool_;
  std::unique_ptr<Parameter> up_ = stacked(pool_, "layers.1.experts.w_up", {3, 0, 0, 1});
  std::unique_ptr<Parameter> down_ = stacked(pool_, "layers.1.experts.w_down", {0, 4, 0, 0});
  std::unique_ptr<Parameter> other_ = stacked(pool_, "layers.3.experts.w_up", {1, 1, 1, 1});
  std::unique_ptr<Parameter> dense_ =
      testing::make_parameter<double>(pool_, "layers.0.w", ParameterKind::matrix, {1, 2});
  std::vector<Parameter*> all_ = {dense_.get(), up_.get(), down_.get(), other_.get()};
};

TEST_F(ExpertUpdatesTest, AreNormsOverAllWeightsOfAnExpert) {
  set_grad<double>(*up_, {3, 0, 0, 2});
  set_grad<double>(*down_, {0, 4, 0, 0});
  ExpertUpdateWatch watch(all_, pool_);
  // The first expert moves by (0, 0.3) and (0.4, 0), the second by (0, -0.25).
  up_->value.data<double>()[1] += 0.3;
  down_->value.data<double>()[0] += 0.4;
  up_->value.data<double>()[3] -= 0.25;
  const auto stacks = watch.finish();
  ASSERT_THAT(stacks, SizeIs(2));
  EXPECT_EQ(stacks[0].stack, "layers.1.experts");
  EXPECT_THAT(stacks[0].gradient_share, ElementsAre(DoubleEq(5.0 / 7.0), DoubleEq(2.0 / 7.0)));
  EXPECT_THAT(stacks[0].update_ratio, ElementsAre(DoubleEq(0.5 / 5.0), DoubleEq(0.25)));
}

TEST_F(ExpertUpdatesTest, AreZeroWhereNoGradientCameAndNothingMoved) {
  ExpertUpdateWatch watch(all_, pool_);
  for (const ExpertUpdates& stack : watch.finish()) {
    EXPECT_THAT(stack.gradient_share, Each(0.0));
    EXPECT_THAT(stack.update_ratio, Each(0.0));
  }
}

TEST_F(ExpertUpdatesTest, LeaveOutWhatIsFrozenOrNoStackOfExperts) {
  for (Parameter* parameter : {up_.get(), down_.get(), other_.get()}) parameter->trainable = false;
  EXPECT_THAT(ExpertUpdateWatch(all_, pool_).finish(), IsEmpty());
}

TEST_F(ExpertUpdatesTest, GiveTheirMemoryBack) {
  const int64_t before = pool_.in_use().total();
  ExpertUpdateWatch watch(all_, pool_);
  EXPECT_GT(pool_.in_use().total(), before);
  (void)watch.finish();
  EXPECT_EQ(pool_.in_use().total(), before);
}

}  // namespace
}  // namespace sluice
