// What state spaces exist for: carrying on what was read. Documents are four random tokens and the
// same four again. Who knows only how often tokens occur stays at log(8) = 2.08 nats a token; who
// remembers pays for the first half alone, less than half of that.

#include <gtest/gtest.h>

#include <string>

#include "tests/support/tiny_run.h"
#include "train/yaml_reader.h"

namespace sluice {
namespace {

constexpr std::string_view kRun = R"(
seed: 7
data:
  tokenizer: {type: bytes}
  sequence_length: 64
  sources:
    - {type: synthetic, pattern: copy, documents: 4000, min_length: 8, max_length: 8, alphabet: 8,
       domain: a}
  held_out: {fraction: 0.01}
optim: {type: adamw, learning_rate: 1.0e-2}
train: {steps: 200, global_batch: 1024 tokens}
)";

/// Mean loss of the last 20 of 200 steps; the first one knows nothing.
double train(const std::string& model) {
  YamlDocument document = parse_yaml(kRun, "copy.yaml");
  const YamlDocument layers = parse_yaml(model, "model");
  document.problems.add(layers.problems);
  overlay(document.root, layers.root);
  Recipe recipe;
  read_or_throw(recipe, document);
  SingleRank communicator;
  sluice::Run run(recipe, communicator);
  double last = 0.0;
  for (int step = 0; step < 200; ++step) {
    const StepResult result = run.step();
    EXPECT_TRUE(result.applied) << result.problem;
    if (step == 0) {
      EXPECT_GT(result.loss, 5.0);
    }
    if (step >= 180) last += result.loss / 20;
  }
  return last;
}

TEST(StateSpaces, LearnToCopyWithMamba2) {
  EXPECT_LT(train("model: {pattern: MFMF, hidden_size: 32, feed_forward: {intermediate_size: 48}, "
                  "mamba2: {head_dim: 16, state_size: 16}}"),
            1.1);
}

TEST(StateSpaces, LearnToCopyWithMamba1) {
  EXPECT_LT(train("model: {pattern: SFSF, hidden_size: 32, feed_forward: {intermediate_size: 48}, "
                  "mamba1: {state_size: 16}}"),
            1.1);
}

}  // namespace
}  // namespace sluice
