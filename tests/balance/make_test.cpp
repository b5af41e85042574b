#include "balance/make.h"

#include <gtest/gtest.h>

#include "tests/balance/routed_batch.h"
#include "tests/support/error_of.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::load_of;
using testing::method;
using testing::state_of;

constexpr BalancerSetup kSetup = {.layer = 0, .experts = 4, .top_k = 2};

std::string message_of(const std::vector<Tagged>& methods) {
  return testing::error_of<ConfigError>([&] { (void)make_balancer(methods, kSetup); });
}

TEST(MakeBalancer, RefusesAnEmptyListAndSaysHowToSayNone) {
  EXPECT_EQ(message_of({}),
            "balance: the list is empty; name a method, or {type: none} to train without one");
}

TEST(MakeBalancer, RefusesTwoMethodsThatSelect) {
  EXPECT_EQ(message_of({method("bip"), method("router_z_loss"), method("loss_free_bias")}),
            "balance: bip and loss_free_bias both choose experts; a list may hold one that does");
}

TEST(MakeBalancer, RefusesAMethodNamedTwice) {
  EXPECT_EQ(message_of({method("aux_loss"), method("aux_loss")}),
            "balance: found aux_loss twice; name each method once");
}

TEST(MakeBalancer, RefusesNoneBesideAMethod) {
  EXPECT_EQ(message_of({method("none"), method("aux_loss")}),
            "balance: found none beside other methods; name either none or methods");
}

TEST(MakeBalancer, RefusesAnAuxiliaryLossBesideSinkhorn) {
  EXPECT_EQ(message_of({method("aux_loss"), method("sinkhorn")}),
            "balance: found aux_loss beside sinkhorn, allowed no auxiliary loss on the load there; "
            "remove one of the two");
  EXPECT_EQ(message_of({method("sinkhorn"), method("router_z_loss")}), "no error");
  EXPECT_EQ(message_of({method("loss_free_bias"), method("aux_loss")}), "no error");
}

TEST(MakeBalancer, SuggestsTheNearestNameForAnUnknownOne) {
  EXPECT_THAT(message_of({{"bpi", nullptr}}),
              HasSubstr("unknown balancing method \"bpi\"; did you mean \"bip\"? Known: none, "));
}

TEST(MakeBalancer, CombinesTheTraitsOfAList) {
  const auto traits = [](const std::vector<Tagged>& methods) {
    return make_balancer(methods, kSetup)->traits();
  };
  EXPECT_FALSE(traits({method("none")}).selects);
  EXPECT_FALSE(traits({method("aux_loss"), method("router_z_loss")}).needs_global_counts);
  const BalancerTraits all = traits({method("bip"), method("global_aux_loss")});
  EXPECT_TRUE(all.selects);
  EXPECT_TRUE(all.batch_dependent);
  EXPECT_TRUE(all.needs_global_counts);
}

TEST(MakeBalancer, KeepsTheStateOfEachMethodUnderItsName) {
  const std::vector<Tagged> methods = {method("loss_free_bias"),
                                       method("global_aux_loss", {{"counts", "previous"}})};
  const auto balancer = make_balancer(methods, kSetup);
  std::vector<std::string> paths;
  for (const auto& [path, array] : state_of(*balancer)) paths.push_back(path);
  EXPECT_THAT(paths,
              ::testing::ElementsAre("global_aux_loss/previous_counts", "loss_free_bias/bias"));
}

TEST(MakeBalancer, LetsEveryMethodOfAListLearn) {
  const std::vector<Tagged> methods = {method("global_aux_loss", {{"counts", "previous"}}),
                                       method("loss_free_bias")};
  const auto balancer = make_balancer(methods, kSetup);
  const StateDict before = state_of(*balancer);
  balancer->end_step(load_of({3, 2, 2, 1}, 2), {});
  for (const auto& [path, array] : state_of(*balancer)) EXPECT_NE(array, before.at(path)) << path;
}

TEST(BalanceChoices, AreNamedAndDescribed) {
  for (const Choice& choice : balance_choices()) {
    EXPECT_FALSE(choice.name.empty());
    EXPECT_FALSE(choice.doc.empty()) << choice.name;
    EXPECT_NE(choice.make_config(), nullptr) << choice.name;
  }
}

}  // namespace
}  // namespace sluice
