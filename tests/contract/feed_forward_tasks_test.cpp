// What feed-forwards with a twist exist for, each in a model that can do it by no other means: there is no
// mixer, so tokens see each other only through the layer itself.

#include <gtest/gtest.h>

#include <cmath>
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
  held_out: {fraction: 0.01}
optim: {type: adamw, learning_rate: 1.0e-2}
log: {every: 50, sinks: []}
)";

struct Losses {
  double first = 0.0;
  double last = 0.0;  // mean of the last 20 steps
};

/// The loss stands in the test's properties as `name`.
Losses train(const std::string& name, int64_t steps, const std::string& recipe_yaml) {
  YamlDocument document = parse_yaml(kRun, "task.yaml");
  const std::string sizes =
      "train: {steps: " + std::to_string(steps) + ", global_batch: 1024 tokens}";
  for (const std::string& above : {sizes, recipe_yaml}) {
    const YamlDocument layer = parse_yaml(above, "overlay");
    document.problems.add(layer.problems);
    overlay(document.root, layer.root);
  }
  Recipe recipe;
  read_or_throw(recipe, document);
  SingleRank communicator;
  sluice::Run run(recipe, communicator);
  Losses losses;
  for (int64_t step = 0; step < steps; ++step) {
    const StepResult result = run.step();
    EXPECT_TRUE(result.applied) << result.problem;
    if (step == 0) losses.first = result.loss;
    if (step >= steps - 20) losses.last += result.loss / 20;
  }
  EXPECT_NEAR(losses.first, std::log(257.0), 1.0);
  ::testing::Test::RecordProperty(name, std::to_string(losses.last));
  return losses;
}

/// Documents are four random tokens of eight and the same four again: log(8) = 2.08 nats a token, and
/// the doubt whether a document ends, without a memory; little more than half of it with one.
std::string copying(const std::string& experts) {
  return "data: {sources: [{type: synthetic, pattern: copy, documents: 4000, min_length: 8, "
         "max_length: 8, alphabet: 8, domain: a}]}\n"
         "model: {pattern: EE, hidden_size: 32, init: {std: 0.1}, experts: {num_experts: 2, "
         "intermediate_size: 64, " +
         experts + "}}\nbalance: {type: aux_loss, coefficient: 1.0e-2}\n";
}

TEST(HectoInARun, RemembersWithTheRecurrentExpert) {
  const std::string router =
      "top_k: 1, router: {type: temperature, temperature: 1.5, weights: straight_through}, ";
  const Losses mixed = train(
      "mixed", 200,
      copying(router +
              "form: {type: heterogeneous, kinds: [{type: mlp, activation: tanh}, {type: gru}]}"));
  const Losses plain = train("plain", 200, copying(router + "form: {type: mlp, activation: tanh}"));
  EXPECT_GT(plain.last, 2.08);
  EXPECT_LT(mixed.last, 1.6);
}

/// A token is followed by one of four, with 1.21 nats of doubt; two chains over the same 16 tokens, a
/// document of one of them. Who knows the token but not the chain has up to log(2) = 0.69 nats more.
std::string two_chains(const std::string& layer) {
  std::string sources;
  for (const int seed : {1, 2}) {
    sources += sources.empty() ? "" : ", ";
    sources +=
        "{type: synthetic, pattern: markov, documents: 1000, min_length: 40, max_length: 64, "
        "alphabet: 16, pattern_seed: " +
        std::to_string(seed) + ", domain: d" + std::to_string(seed) + "}";
  }
  return "data: {sources: [" + sources +
         "]}\nmodel: {pattern: ZZ, hidden_size: 32, init: {std: 0.1}, variants: {Z: " + layer +
         "}}\nbalance: {type: aux_loss, coefficient: 1.0e-2}\n";
}

TEST(UnionOfExpertsInARun, TellsTheKindOfADocumentByItsTokensSoFar) {
  const std::string sizes =
      "type: union_of_experts, num_experts: 8, top_k: 4, intermediate_size: 96";
  const Losses by_document = train("by_document", 200, two_chains("{" + sizes + "}"));
  const Losses by_token =
      train("by_token", 200, two_chains("{" + sizes + ", router: {type: top_k}}"));
  EXPECT_LT(by_document.last, 1.45);
  EXPECT_LT(by_document.last, by_token.last - 0.2);
}

/// One chain over 64 tokens: 256 facts, 1.21 nats where all are known, log(64) = 4.16 where none is.
std::string facts(const std::string& layer, const std::string& balance = "") {
  return "data: {sources: [{type: synthetic, pattern: markov, documents: 1000, min_length: 40, "
         "max_length: 64, alphabet: 64, domain: a}]}\n"
         "model: {pattern: ZZ, hidden_size: 32, init: {std: 0.1}, variants: {Z: " +
         layer + "}}\n" + balance;
}

TEST(MonetInARun, LearnsFacts) {
  EXPECT_LT(train("facts", 100, facts("{type: monet, num_keys: 32, router_layers: 2}")).last, 1.4);
}

TEST(MixtureOfHiddenDimensionsInARun, LearnsFacts) {
  EXPECT_LT(train("facts", 100,
                  facts("{type: mixture_of_hidden_dimensions, intermediate_size: 96}",
                        "balance: {type: none}"))
                .last,
            1.6);
}

}  // namespace
}  // namespace sluice
