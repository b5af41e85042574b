// What every router's config must do, by standing in routers.def; what the routers themselves must
// do is in tests/layers/routers/every_router_test.cpp.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "layers/router.h"
#include "train/yaml_reader.h"
#include "train/yaml_writer.h"

namespace sluice {
namespace {

class EveryRouterConfig : public ::testing::TestWithParam<std::string> {};

/// `router:` alone, as a recipe holds it.
struct RouterSection final : Configurable {
  Tagged router;
  void fields(FieldVisitor& v) override {
    v.tagged({"router", "scores and choice"}, router, router_choices());
  }
};

TEST_P(EveryRouterConfig, RoundTripsThroughARecipe) {
  RouterSection written;
  written.router = {GetParam(),
                    std::shared_ptr<Configurable>(router_registry().at(GetParam()).make_config())};
  const std::string text = write_yaml(written);
  EXPECT_THAT(text, ::testing::HasSubstr(GetParam()));
  RouterSection read;
  read.router = {"top_k",
                 std::shared_ptr<Configurable>(router_registry().at("top_k").make_config())};
  const Diagnostics problems = read_into(read, parse_yaml(text, "recipe.yaml"));
  EXPECT_TRUE(problems.empty()) << problems.to_string();
  EXPECT_EQ(write_yaml(read), text);
}

std::vector<std::string> names() {
  std::vector<std::string> result;
  for (const Choice& choice : router_choices()) result.emplace_back(choice.name);
  return result;
}

INSTANTIATE_TEST_SUITE_P(RoutersDef, EveryRouterConfig, ::testing::ValuesIn(names()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace sluice
