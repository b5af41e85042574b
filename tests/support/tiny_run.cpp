#include "tests/support/tiny_run.h"

#include "train/yaml_reader.h"

namespace sluice::testing {
namespace {

constexpr std::string_view kData = R"(
seed: 7
data:
  tokenizer: {type: bytes}
  sequence_length: 32
  sources:
    - {type: synthetic, pattern: markov, documents: 60, min_length: 40, max_length: 90,
       alphabet: 24, domain: a}
    - {type: synthetic, pattern: copy, documents: 20, min_length: 5, max_length: 60, alphabet: 24,
       domain: b}
  held_out: {fraction: 0.1}
optim: {type: adamw, learning_rate: 1.0e-2}
train:
  steps: 8
  global_batch: 128 tokens
  evaluate: {every: 4 steps}
checkpoint: {every: 4 steps}
log: {every: 1, sinks: [jsonl, routing]}
)";

constexpr std::string_view kMoe = R"(
model:
  pattern: "(AE)x2"
  hidden_size: 16
  attention: {num_heads: 2, num_kv_heads: 1}
  experts: {num_experts: 4, top_k: 2, intermediate_size: 12, shared: none}
balance: {type: loss_free_bias, rate: 1.0e-2}
)";

constexpr std::string_view kDense = R"(
model:
  pattern: "(AF)x2"
  hidden_size: 16
  attention: {num_heads: 2, num_kv_heads: 1}
  feed_forward: {intermediate_size: 24}
)";

Recipe make_recipe(std::string_view model, std::string_view changes) {
  YamlDocument document = parse_yaml(kData, "tiny.yaml");
  for (const std::string_view above : {model, changes}) {
    if (above.empty()) continue;
    const YamlDocument layer = parse_yaml(above, "overlay");
    document.problems.add(layer.problems);
    overlay(document.root, layer.root);
  }
  Recipe recipe;
  read_or_throw(recipe, document);
  return recipe;
}

}  // namespace

Recipe tiny_recipe(std::string_view changes) { return make_recipe(kMoe, changes); }
Recipe tiny_dense_recipe(std::string_view changes) { return make_recipe(kDense, changes); }

std::string tiny_recipe_text() { return std::string(kData) + std::string(kMoe); }

StateDict state_of(Run& run) {
  SaveVisitor save;
  run.visit_state(save);
  StateDict state = save.take();
  state.erase("run/seconds");
  return state;
}

std::vector<std::string> differing_arrays(const StateDict& a, const StateDict& b) {
  std::vector<std::string> names;
  for (const auto& [name, array] : a) {
    const auto other = b.find(name);
    if (other == b.end() || !(other->second == array)) names.push_back(name);
  }
  for (const auto& [name, array] : b) {
    if (a.find(name) == a.end()) names.push_back(name);
  }
  return names;
}

}  // namespace sluice::testing
