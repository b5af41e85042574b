#include "train/schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/train/sample_config.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;
using testing::SampleConfig;

const Json& sample_schema() {
  static const Json schema = [] {
    SampleConfig config;
    return Json::parse(write_json_schema(config, "Sample"));
  }();
  return schema;
}

/// What a reference of the sample schema stands for.
Json resolved(const Json& schema) {
  const std::string at = schema["$ref"];
  return sample_schema()["$defs"][at.substr(std::string("#/$defs/").size())];
}

Json property(std::string_view key) { return sample_schema()["properties"][std::string(key)]; }

TEST(JsonSchema, DescribesTheTopLevel) {
  const Json& schema = sample_schema();
  EXPECT_EQ(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
  EXPECT_EQ(schema["title"], "Sample");
  EXPECT_EQ(schema["type"], "object");
  EXPECT_EQ(schema["additionalProperties"], false);
  EXPECT_EQ(schema["properties"].begin().key(), "seed") << "keys stand in the order of the fields";
}

TEST(JsonSchema, GivesScalarsTheirTypeRangeDefaultAndDoc) {
  EXPECT_EQ(property("seed"),
            Json::parse(R"({"description": "of all random numbers", "type": "integer",
      "default": 1})"));
  EXPECT_EQ(property("weight_decay"), Json::parse(R"({"description": "decoupled decay",
      "type": "number", "minimum": 0.0, "maximum": 1.0, "default": 0.1})"));
  EXPECT_EQ(property("shuffle")["type"], "boolean");
  EXPECT_EQ(property("betas"),
            Json::parse(R"({"description": "decay of the moments", "type": "array",
      "items": {"type": "number", "minimum": 0.0, "maximum": 1.0}, "default": [0.9, 0.95]})"));
}

TEST(JsonSchema, DescribesNestedSectionsWithTheirRequiredKeys) {
  const Json model = property("model");
  EXPECT_EQ(model["required"], Json::parse(R"(["hidden_size"])"));
  EXPECT_EQ(model["properties"]["scores"]["enum"], Json::parse(R"(["softmax", "sigmoid"])"));
  EXPECT_EQ(model["properties"]["vocab_size"]["anyOf"],
            Json::parse(R"([{"type": "integer", "minimum": 2}, {"const": "auto"}])"));
  EXPECT_EQ(model["properties"]["capacity_factor"]["anyOf"][0],
            Json::parse(R"({"type": "number", "exclusiveMinimum": 0.0})"));
  EXPECT_FALSE(model["properties"]["hidden_size"].contains("default"));
}

TEST(JsonSchema, WritesAUnionAsOneOfWithAConstantType) {
  const Json choices = resolved(property("balance")["anyOf"][1]["items"])["oneOf"];
  ASSERT_EQ(choices.size(), 3U);
  EXPECT_EQ(choices[2]["properties"]["type"], Json::parse(R"({"const": "loss_free_bias"})"));
  EXPECT_EQ(choices[2]["description"], "a bias moved by the sign of the error");
  EXPECT_EQ(choices[2]["required"], Json::parse(R"(["type"])"));
  EXPECT_EQ(choices[2]["additionalProperties"], false);
  EXPECT_EQ(resolved(property("balance")["anyOf"][0])["oneOf"], choices) << "one, or a list";
}

TEST(JsonSchema, LetsTheDefaultChoiceLeaveItsTypeOut) {
  const Json choices = resolved(property("optimizer_balance"))["oneOf"];
  EXPECT_TRUE(choices[0].contains("required"));
  EXPECT_FALSE(choices[1].contains("required")) << "global_aux_loss is the default";
}

TEST(JsonSchema, LetsAScheduledNumberBeASchedule) {
  EXPECT_EQ(property("learning_rate"), Json::parse(R"({"description": "step of the optimizer",
      "anyOf": [{"type": "number", "minimum": 0.0}, {"$ref": "#/$defs/schedule"}], "default": 0.001})"));
  EXPECT_EQ(sample_schema()["$defs"]["schedule"]["oneOf"][3]["properties"]["type"]["const"],
            "cosine");
  EXPECT_EQ(property("every")["$ref"], "#/$defs/duration");
}

// A config that can hold its own kind.
struct Nested : Configurable {
  Tagged inner{"", nullptr};
  void fields(FieldVisitor& v) override { v.tagged({"inner", "one more"}, inner, choices()); }
  static std::span<const Choice> choices() {
    static const std::array<Choice, 1> one = {
        {{"nested", "itself",
          []() -> std::unique_ptr<Configurable> { return std::make_unique<Nested>(); }}}};
    return one;
  }
};

TEST(JsonSchema, EndsForAConfigThatHoldsItsOwnKind) {
  Nested config;
  const Json schema = Json::parse(write_json_schema(config, "Nested"));
  EXPECT_EQ(schema["properties"]["inner"]["$ref"], "#/$defs/inner");
  const Json& nested = schema["$defs"]["inner"]["oneOf"][0]["properties"];
  EXPECT_EQ(nested["type"]["const"], "nested");
  EXPECT_EQ(nested["inner"]["$ref"], "#/$defs/inner") << "of any depth";
}

}  // namespace
}  // namespace sluice
