#include "optim/groups.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "tests/optim/support.h"
#include "tests/support/error_of.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::make_parameter;

class ParameterGroups : public ::testing::Test {
 protected:
  Parameter* add(const std::string& name, ParameterKind kind) {
    owned_.push_back(make_parameter<float>(pool_, name, kind, {1.0f}));
    parameters_.push_back(owned_.back().get());
    return parameters_.back();
  }
  Pool pool_;
  std::vector<std::unique_ptr<Parameter>> owned_;
  std::vector<Parameter*> parameters_;
};

TEST_F(ParameterGroups, DecayOnlyTheNamedKinds) {
  Parameter* matrix = add("w", ParameterKind::matrix);
  Parameter* norm = add("norm", ParameterKind::norm);
  Parameter* router = add("router", ParameterKind::router);
  Parameter* bias = add("b", ParameterKind::bias);
  Parameter* embedding = add("embedding", ParameterKind::embedding);
  const std::vector<std::string> decay_on{"matrix", "router"};
  const auto groups = make_groups(parameters_, decay_rules(decay_on));
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_TRUE(groups[0].decays);
  EXPECT_THAT(groups[0].parameters, ElementsAre(matrix, router));
  EXPECT_FALSE(groups[1].decays);
  EXPECT_THAT(groups[1].parameters, ElementsAre(norm, bias, embedding));
}

TEST_F(ParameterGroups, LeaveFrozenParametersOut) {
  add("w", ParameterKind::matrix)->trainable = false;
  const std::vector<std::string> decay_on{"matrix"};
  for (const auto& group : make_groups(parameters_, decay_rules(decay_on))) {
    EXPECT_THAT(group.parameters, IsEmpty());
  }
}

TEST_F(ParameterGroups, ListEveryParameterThatNoRuleTakes) {
  add("layers.0.w", ParameterKind::matrix);
  add("layers.0.norm", ParameterKind::norm);
  add("layers.0.bias", ParameterKind::bias);
  const std::vector<GroupRule> rules{{"matrices", {ParameterKind::matrix}, true}};
  EXPECT_THAT(
      error_of<ConfigError>([&] { (void)make_groups(parameters_, rules); }),
      AllOf(HasSubstr("layers.0.norm (in 0 groups)"), HasSubstr("layers.0.bias (in 0 groups)")));
}

TEST_F(ParameterGroups, ListEveryParameterThatTwoRulesTake) {
  add("layers.0.w", ParameterKind::matrix);
  const std::vector<GroupRule> rules{{"a", {ParameterKind::matrix}, true},
                                     {"b", {ParameterKind::matrix}, false}};
  EXPECT_THAT(error_of<ConfigError>([&] { (void)make_groups(parameters_, rules); }),
              HasSubstr("layers.0.w (in 2 groups)"));
}

TEST_F(ParameterGroups, RefuseAParameterGivenTwice) {
  parameters_.push_back(add("tied", ParameterKind::matrix));
  const std::vector<std::string> decay_on{"matrix"};
  EXPECT_THAT(error_of<ConfigError>([&] { (void)make_groups(parameters_, decay_rules(decay_on)); }),
              HasSubstr("tied (given twice)"));
}

TEST(DecayRules, SuggestTheNearestKind) {
  const std::vector<std::string> decay_on{"matrx"};
  EXPECT_EQ(error_of<ConfigError>([&] { (void)decay_rules(decay_on); }),
            "decay_on: found \"matrx\", allowed matrix, router, embedding, norm, bias; did you "
            "mean \"matrix\"?");
}

}  // namespace
}  // namespace sluice
