#include "train/yaml_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/train/sample_config.h"
#include "train/field_snapshot.h"
#include "train/yaml_reader.h"

namespace sluice {
namespace {

using testing::kFullSample;
using testing::SampleConfig;

SampleConfig read_sample(const std::string& text) {
  SampleConfig config;
  read_or_throw(config, parse_yaml(text, "r.yaml", "/recipes"));
  return config;
}

TEST(YamlWriter, WritesEveryDefault) {
  SampleConfig config;
  EXPECT_EQ(write_yaml(config), R"(seed: 1
shuffle: true
model:
  pattern: (AE)x6
  hidden_size: 256
  num_experts: 8
  top_k: 2
  scores: softmax
  vocab_size: auto
  capacity_factor: none
  shared: none
balance: []
optimizer_balance:
  type: global_aux_loss
  coefficient: 0.01
learning_rate: 0.001
weight_decay: 0.1
betas: [0.9, 0.95]
stop_tokens: []
sinks: [console, jsonl]
sources: []
init_from: none
every: 200 steps
max_tokens: none
)");
}

TEST(YamlWriter, WritesWhatWasGiven) {
  SampleConfig config = read_sample(kFullSample);
  EXPECT_EQ(write_yaml(config), R"(seed: 7
shuffle: false
model:
  pattern: AF(AE)x5
  hidden_size: 128
  num_experts: 16
  top_k: 4
  scores: sigmoid
  vocab_size: 4096
  capacity_factor: 1.25
  shared:
    num_experts: 2
balance:
  - type: loss_free_bias
    rate: 0.001
    update: proportional
  - type: global_aux_loss
    coefficient:
      type: linear
      from: 0.01
      to: 0.0
      over: 50%
optimizer_balance:
  type: none
learning_rate:
  type: cosine
  peak: 0.001
  warmup: 100 steps
  warmup_from: 0.0
  final: 0.0001
  total: auto
weight_decay: 0.2
betas: [0.8, 0.999]
stop_tokens: [0, 17]
sinks: ["tensor board", "a: b", "quoted \" and \\ and \n"]
sources:
  - path: /recipes/text/prose.txt
    weight: 2.0
  - path: /data/code.txt
    weight: 1.0
output: /recipes/runs/sample
init_from: /recipes/base.h5
every: 2000 steps
max_tokens: 1500000 tokens
)");
}

TEST(YamlWriter, ReadsBackToTheSameValues) {
  for (const char* text :
       {kFullSample, "model: {hidden_size: 8}", "model: {hidden_size: 8}\nbalance: {type: none}",
        "model: {hidden_size: 8}\nlearning_rate: {type: piecewise, points: [{at: 0, value: "
        "0.1}, {at: 3, value: 0.3333333333333333}]}"}) {
    SampleConfig config = read_sample(text);
    const std::string written = write_yaml(config);
    SampleConfig again = read_sample(written);
    EXPECT_EQ(flatten(again), flatten(config)) << written;
    EXPECT_EQ(write_yaml(again), written);
  }
}

TEST(YamlWriter, WritesDocsAsCommentsThatReadBack) {
  SampleConfig config = read_sample(kFullSample);
  const std::string written = write_yaml(config, {.with_docs = true});
  EXPECT_THAT(written, ::testing::StartsWith("# of all random numbers\nseed: 7\n"));
  EXPECT_THAT(written, ::testing::HasSubstr("sources:\n"
                                            "  - # a text file or folder\n"
                                            "    path: /recipes/text/prose.txt\n"));
  SampleConfig again = read_sample(written);
  EXPECT_EQ(flatten(again), flatten(config));
}

TEST(YamlWriter, MakesPathsAbsoluteUnlessTold) {
  SampleConfig config;
  config.output = "runs/x";
  EXPECT_THAT(write_yaml(config),
              ::testing::HasSubstr(
                  "output: " + (std::filesystem::current_path() / "runs/x").string() + "\n"));
  EXPECT_THAT(write_yaml(config, {.with_absolute_paths = false}),
              ::testing::HasSubstr("output: runs/x\n"));
}

TEST(YamlWriter, WritesAnEmptyConfigAsAnEmptyMap) {
  testing::NoBalance config;
  EXPECT_EQ(write_yaml(config), "{}\n");
  EXPECT_TRUE(read_into(config, parse_yaml("{}\n", "r.yaml")).empty());
}

}  // namespace
}  // namespace sluice
