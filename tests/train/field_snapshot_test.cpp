#include "train/field_snapshot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/train/sample_config.h"
#include "train/yaml_reader.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using testing::SampleConfig;

SampleConfig read_sample(const std::string& text) {
  SampleConfig config;
  read_or_throw(config, parse_yaml("model: {hidden_size: 8}\n" + text, "r.yaml", "/recipes"));
  return config;
}

std::vector<std::string> differing(const std::string& before, const std::string& after) {
  SampleConfig a = read_sample(before);
  SampleConfig b = read_sample(after);
  std::vector<std::string> lines;
  for (const FieldDifference& item : differences(a, b)) {
    lines.push_back(item.key + ": " + item.before + " -> " + item.after);
  }
  return lines;
}

TEST(Differences, AreNoneForEqualConfigs) {
  EXPECT_THAT(differing("", ""), ElementsAre());
  EXPECT_THAT(differing("every: 2k steps", "every: 2000"), ElementsAre())
      << "the same value, written twice";
  EXPECT_THAT(differing("seed: 1", ""), ElementsAre()) << "a default, given";
}

TEST(Differences, NameFullKeysWithBothValues) {
  EXPECT_THAT(differing("seed: 2\nbetas: [0.9, 0.95]", "betas: [0.9, 0.99]\nsinks: []"),
              ElementsAre("seed: 2 -> 1", "betas: [0.9, 0.95] -> [0.9, 0.99]",
                          "sinks: [console, jsonl] -> []"));
}

TEST(Differences, ReachIntoListsUnionsAndSchedules) {
  EXPECT_THAT(differing("balance: {type: loss_free_bias}", "balance: {type: global_aux_loss}"),
              ElementsAre("balance.0.type: loss_free_bias -> global_aux_loss",
                          "balance.0.rate: 0.001 -> not set", "balance.0.update: sign -> not set",
                          "balance.0.coefficient: not set -> 0.01"));
  EXPECT_THAT(differing("learning_rate: 0.5", "learning_rate: {type: linear, from: 1, to: 0}"),
              ElementsAre("learning_rate: 0.5 -> not set", "learning_rate.type: not set -> linear",
                          "learning_rate.from: not set -> 1.0", "learning_rate.to: not set -> 0.0",
                          "learning_rate.over: not set -> auto"));
  EXPECT_THAT(differing("sources: [{path: a}]", "sources: [{path: b}]"),
              ElementsAre("sources.0.path: /recipes/a -> /recipes/b"));
}

TEST(Differences, SeeTheLastBitOfANumber) {
  EXPECT_THAT(differing("weight_decay: 0.1", "weight_decay: 0.10000000000000002"),
              ElementsAre("weight_decay: 0.1 -> 0.10000000000000002"));
}

}  // namespace
}  // namespace sluice
