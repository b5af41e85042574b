#pragma once
// A small config with every kind of field, for the tests of reading, writing and describing
// configs.

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"

namespace sluice::testing {

struct NoBalance : Configurable {
  void fields(FieldVisitor&) override {}
};

struct GlobalAuxLoss : Configurable {
  Scheduled coefficient = 1e-2;
  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight of the loss"}, coefficient, {.min = 0});
  }
};

struct LossFreeBias : Configurable {
  Scheduled rate = 1e-3;
  std::string update = "sign";
  void fields(FieldVisitor& v) override {
    v.scheduled({"rate", "step of the bias"}, rate, {.min = 0, .exclusive_min = true});
    constexpr std::array<std::string_view, 2> kWords = {"sign", "proportional"};
    v.word({"update", "how the error moves the bias"}, update, kWords);
  }
};

inline std::span<const Choice> balance_choices() {
  static const std::array<Choice, 3> choices = {{
      {"none", "no balancing",
       []() -> std::unique_ptr<Configurable> { return std::make_unique<NoBalance>(); }},
      {"global_aux_loss", "loss over the global batch",
       []() -> std::unique_ptr<Configurable> { return std::make_unique<GlobalAuxLoss>(); }},
      {"loss_free_bias", "a bias moved by the sign of the error",
       []() -> std::unique_ptr<Configurable> { return std::make_unique<LossFreeBias>(); }},
  }};
  return choices;
}

struct SharedExperts : Configurable {
  int64_t num_experts = 1;
  void fields(FieldVisitor& v) override {
    v.integer({"num_experts", "shared experts"}, num_experts, {.min = 1});
  }
};

enum class Scores { softmax, sigmoid };

struct SampleModel : Configurable {
  std::string pattern = "(AE)x6";
  int64_t hidden_size = 256;
  int64_t num_experts = 8;
  int64_t top_k = 2;
  Scores scores = Scores::softmax;
  std::optional<int64_t> vocab_size;
  std::optional<double> capacity_factor;
  std::shared_ptr<Configurable> shared;

  void fields(FieldVisitor& v) override {
    v.text({"pattern", "the blocks"}, pattern);
    v.integer({"hidden_size", "width of the residual stream", /*required=*/true}, hidden_size,
              {.min = 1});
    v.integer({"num_experts", "experts per layer"}, num_experts, {.min = 1, .max = 1024});
    v.integer({"top_k", "experts per token"}, top_k, {.min = 1});
    v.enumeration({"scores", "score function"}, scores,
                  {{"softmax", Scores::softmax}, {"sigmoid", Scores::sigmoid}});
    v.optional_integer({"vocab_size", "tokens; auto asks the tokenizer"}, vocab_size, {.min = 2},
                       "auto");
    v.optional_number({"capacity_factor", "tokens per expert over the even share"}, capacity_factor,
                      {.min = 0, .exclusive_min = true}, "none");
    v.optional_object(
        {"shared", "experts of every token"}, shared,
        [] { return std::make_shared<SharedExperts>(); }, "none");
  }
  [[nodiscard]] std::string check() const override {
    if (top_k <= num_experts) return {};
    return "top_k: found " + std::to_string(top_k) + ", allowed 1 to " +
           std::to_string(num_experts) + " (num_experts)";
  }
};

struct SampleSource : Configurable {
  std::string path;
  double weight = 1.0;
  void fields(FieldVisitor& v) override {
    v.path({"path", "a text file or folder", /*required=*/true}, path);
    v.number({"weight", "share of the mixture"}, weight, {.min = 0});
  }
};

struct SampleConfig : Configurable {
  int64_t seed = 1;
  bool shuffle = true;
  SampleModel model;
  std::vector<Tagged> balance;
  Tagged optimizer_balance{"global_aux_loss", std::make_shared<GlobalAuxLoss>()};
  Scheduled learning_rate = 1e-3;
  double weight_decay = 0.1;
  std::vector<double> betas = {0.9, 0.95};
  std::vector<int64_t> stop_tokens;
  std::vector<std::string> sinks = {"console", "jsonl"};
  std::vector<std::shared_ptr<Configurable>> sources;
  std::string output;
  std::optional<std::string> init_from;
  Duration every{200, DurationUnit::steps};
  std::optional<Duration> max_tokens;

  void fields(FieldVisitor& v) override {
    v.integer({"seed", "of all random numbers"}, seed, {});
    v.boolean({"shuffle", "visit documents in random order"}, shuffle);
    v.object({"model", "the network"}, model);
    v.tagged_list({"balance", "what corrects the load"}, balance, balance_choices());
    v.tagged({"optimizer_balance", "one union with a default"}, optimizer_balance,
             balance_choices());
    v.scheduled({"learning_rate", "step of the optimizer"}, learning_rate, {.min = 0});
    v.number({"weight_decay", "decoupled decay"}, weight_decay, {.min = 0, .max = 1});
    v.numbers({"betas", "decay of the moments"}, betas, {.min = 0, .max = 1});
    v.integers({"stop_tokens", "tokens that end a text"}, stop_tokens, {.min = 0});
    v.texts({"sinks", "where metrics go"}, sinks);
    v.object_list({"sources", "the corpus"}, sources,
                  [] { return std::make_shared<SampleSource>(); });
    v.path({"output", "folder of the run"}, output);
    v.optional_path({"init_from", "a checkpoint to start from"}, init_from, "none");
    v.duration({"every", "between two checkpoints"}, every);
    v.optional_duration({"max_tokens", "where the run ends"}, max_tokens, "none");
  }
};

/// A recipe that gives every key of SampleConfig a value other than its default.
inline constexpr const char* kFullSample = R"(seed: 7
shuffle: false
model:
  pattern: "AF(AE)x5"
  hidden_size: 128
  num_experts: 16
  top_k: 4
  scores: sigmoid
  vocab_size: 4096
  capacity_factor: 1.25
  shared: {num_experts: 2}
balance:
  - {type: loss_free_bias, rate: 1.0e-3, update: proportional}
  - type: global_aux_loss
    coefficient: {type: linear, from: 0.01, to: 0, over: 50%}
optimizer_balance: {type: none}
learning_rate:
  type: cosine
  peak: 1.0e-3
  warmup: 100 steps
  final: 1.0e-4
weight_decay: 0.2
betas: [0.8, 0.999]
stop_tokens: [0, 17]
sinks: ["tensor board", 'a: b', "quoted \" and \\ and \n"]
sources:
  - {path: text/prose.txt, weight: 2}
  - path: /data/code.txt
output: runs/sample
init_from: base.h5
every: 2k steps
max_tokens: 1.5M tokens
)";

}  // namespace sluice::testing
