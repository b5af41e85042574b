#include "autograd/support/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "tests/support/error_of.h"

namespace sluice {
namespace {

constexpr std::array<std::string_view, 5> kKnown = {"none", "bip", "aux_loss", "global_aux_loss",
                                                    "coefficient"};

struct Method {
  std::string_view name;
};
constexpr Method kNone{"none"};
constexpr Method kBip{"bip"};
constexpr std::array<const Method*, 2> kMethods = {&kNone, &kBip};
constexpr Registry<Method> kRegistry("balancing method", kMethods);

std::string error_of(std::string_view name) {
  return testing::error_of<ConfigError>([&] { (void)kRegistry.at(name); });
}

TEST(NearestName, FindsOneSlipOfEachKind) {
  EXPECT_EQ(nearest_name("aux_los", kKnown), "aux_loss");    // deleted
  EXPECT_EQ(nearest_name("aux_losss", kKnown), "aux_loss");  // inserted
  EXPECT_EQ(nearest_name("aux-loss", kKnown), "aux_loss");   // replaced
  EXPECT_EQ(nearest_name("aux_olss", kKnown), "aux_loss");   // swapped
  EXPECT_EQ(nearest_name("bpi", kKnown), "bip");
}

TEST(NearestName, IgnoresCase) { EXPECT_EQ(nearest_name("BIP", kKnown), "bip"); }

TEST(NearestName, CompletesAnAbbreviation) {
  EXPECT_EQ(nearest_name("coef", kKnown), "coefficient");
  EXPECT_EQ(nearest_name("glob", kKnown), "global_aux_loss");
  EXPECT_EQ(nearest_name("co", kKnown), "") << "two letters abbreviate too much";
}

TEST(NearestName, PrefersTheSmallestDistance) {
  constexpr std::array<std::string_view, 3> known = {"rates", "rate", "ratio"};
  EXPECT_EQ(nearest_name("rate", known), "rate");
  EXPECT_EQ(nearest_name("rat", known), "rate");
}

TEST(NearestName, SaysNothingAboutAStranger) {
  EXPECT_EQ(nearest_name("sinkhorn", kKnown), "");
  EXPECT_EQ(nearest_name("", kKnown), "");
  EXPECT_EQ(nearest_name("x", {}), "");
  EXPECT_EQ(nearest_name(std::string(100000, 'n'), kKnown), "");
}

TEST(DidYouMean, IsAClauseOrNothing) {
  EXPECT_EQ(did_you_mean("bpi", kKnown), "; did you mean \"bip\"?");
  EXPECT_EQ(did_you_mean("sinkhorn", kKnown), "");
}

TEST(Registry, FindsEachEntryByName) {
  EXPECT_EQ(&kRegistry.at("bip"), &kBip);
  EXPECT_EQ(kRegistry.find("bop"), nullptr);
  EXPECT_THAT(kRegistry.names(), ::testing::ElementsAre("none", "bip"));
}

TEST(Registry, NamesTheKnownOnesAndTheNearest) {
  EXPECT_EQ(error_of("bpi"),
            "unknown balancing method \"bpi\"; did you mean \"bip\"? Known: none, bip");
  EXPECT_EQ(error_of("magic"), "unknown balancing method \"magic\". Known: none, bip");
}

TEST(Registry, SeesDuplicatesAtCompileTime) {
  constexpr std::array<std::string_view, 3> twice = {"a", "b", "a"};
  static_assert(!all_distinct(twice));
  static_assert(all_distinct(kKnown));
}

}  // namespace
}  // namespace sluice
