// Every balancing method, router and adapter says which paper it is from: in `sluice recipes ls` and in the
// schema, which both print the registries' own words.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <regex>
#include <string>

#include "balance/make.h"
#include "layers/adapters.h"
#include "layers/router.h"
#include "train/recipe.h"
#include "train/schema.h"

namespace sluice {
namespace {

/// "(Fedus et al. 2021, Switch)", "(arXiv 2511.08972)".
bool names_a_paper(const std::string& doc) {
  static const std::regex paper(R"(\([^()]*(\b(19|20)\d\d\b|arXiv \d{4}\.\d{5})[^()]*\)$)");
  return std::regex_search(doc, paper);
}

class EveryMethodsDoc : public ::testing::TestWithParam<std::span<const Choice> (*)()> {};

TEST_P(EveryMethodsDoc, EndsInItsPaper) {
  for (const Choice& choice : GetParam()()) {
    if (choice.name == "none") continue;  // is no method
    EXPECT_TRUE(names_a_paper(std::string(choice.doc))) << choice.name << ": " << choice.doc;
  }
}

TEST_P(EveryMethodsDoc, StandsInTheSchema) {
  Recipe recipe;
  recipe.model.all_sections = true;
  const std::string schema = write_json_schema(recipe, "Sluice recipe");
  for (const Choice& choice : GetParam()()) {
    EXPECT_THAT(schema, ::testing::HasSubstr("\"" + std::string(choice.doc) + "\""));
    EXPECT_THAT(schema, ::testing::HasSubstr("\"const\": \"" + std::string(choice.name) + "\""));
  }
}

constexpr std::array kRegistries = {"balance", "router", "adapter"};

INSTANTIATE_TEST_SUITE_P(Registries, EveryMethodsDoc,
                         ::testing::Values(&balance_choices, &router_choices, &adapter_choices),
                         [](const auto& test) { return std::string(kRegistries[test.index]); });

TEST(Paper, IsAYearOrAnArxivNumberAtTheEnd) {
  EXPECT_TRUE(names_a_paper("top-k (Shazeer et al. 2017, arXiv 1701.06538)"));
  EXPECT_TRUE(names_a_paper("prices (arXiv 2511.08972)"));
  EXPECT_FALSE(names_a_paper("balances the load"));
  EXPECT_FALSE(names_a_paper("balances 2017 tokens"));
  EXPECT_FALSE(names_a_paper("(Shazeer 2017) top-k"));
}

}  // namespace
}  // namespace sluice
