// Every mixer, feed-forward, form of experts and kind of depth learns a made-up task that
// it exists for, and does it as every run must: the same bits after a resume and on any threads.
//
// A line of a .def list is tried with its default settings on the task of its kind, unless a row below
// says what suits it better. Tasks are kept so small that a method learns them in a second or two. Runs
// are deterministic; a bound is the loss measured once and a third of the way from it to `naive`.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "layers/depth.h"
#include "layers/experts.h"
#include "layers/routed_layer.h"
#include "tests/contract/run_checks.h"
#include "tests/support/tiny_run.h"
#include "train/verify_resume.h"
#include "train/yaml_reader.h"

namespace sluice {
namespace {


/// Made-up text, what a token of it says on average to who knows only how often tokens occur (`naive`),
/// and what it says at best, in nats.
struct Task {
  std::string_view name;
  std::string_view source;  // fields of the source
  int64_t sequence_length;
  double naive;
  double best;
  int64_t steps = 200;
};

/// Documents end with a sign that is predicted too.
/// Eight random tokens of eight, and the same again: of 16 predictions 7 cannot be known.
constexpr Task kCopy = {"copy", "pattern: copy, min_length: 16, max_length: 16, alphabet: 8", 64,
                        1.95, 0.91};
/// The same of three.
constexpr Task kShortCopy = {
    "short copy", "pattern: copy, min_length: 6, max_length: 6, alphabet: 8", 64, 1.73, 0.69};
/// 31 pairs of one of 4 keys and the document's value of it, one of 4, and a key.
constexpr Task kRecall = {"recall", "pattern: recall, min_length: 63, max_length: 63, alphabet: 8",
                          128, 1.36, 0.77};
/// One of 256 facts: a subject, a relation, of 16 each, and an object.
constexpr Task kFacts = {"facts", "pattern: facts, min_length: 3, max_length: 3, alphabet: 48", 96,
                         1.85, 0.92};
/// How often x -> (3 x + 1) mod 13 is applied to a number of 13: 0 to 3 times. So small a table one pass
/// learns too; what is tried is that tokens of different depths learn it together.
constexpr Task kPowers = {"powers", "pattern: powers, min_length: 3, max_length: 3, alphabet: 17",
                          96, 1.71, 0.86};
/// What is tried: a model, its task, and the bound of its loss over the last steps.
struct Learner {
  std::string name;  // "mixer_attention", "depth_mixture_of_depths"
  std::string pattern;
  std::string model;  // the rest of it
  const Task* task;
  double bound;
  bool routes = false;
  friend void PrintTo(const Learner& learner, std::ostream* out) { *out << learner.name; }
};

/// What suits a line of a .def list: fields of its section, and the rest.
struct Row {
  std::string_view name;  // "mixer_attention"
  std::string_view fields;
  const Task* task;
  double bound;
  std::string_view pattern = {};  // empty: that of its kind
};

constexpr Row kRows[] = {
    {"mixer_attention", "num_heads: 4", &kCopy, 1.41},
    {"mixer_latent_attention",
     "num_heads: 4, kv_lora_rank: 16, q_lora_rank: 16, qk_nope_head_dim: 8, qk_rope_head_dim: 8, "
     "v_head_dim: 8",
     &kCopy, 1.48},
    {"mixer_mamba2", "head_dim: 16, state_size: 16", &kShortCopy, 1.11},
    {"mixer_mamba1", "state_size: 16", &kShortCopy, 1.11},
    {"mixer_gated_delta_net", "num_heads: 2", &kRecall, 1.06},
    {"mixer_linear_attention", "num_heads: 2, conv_kernel: 4", &kRecall, 1.24},
    {"mixer_mixture_of_memories", "num_heads: 2", &kRecall, 1.00},
    {"mixer_mixture_of_heads", "num_routed_heads: 3, num_shared_heads: 1, top_k: 2", &kCopy, 1.49},
    {"mixer_sparse_attention", "num_heads: 4, window: 3, chunk_size: 4, chosen_chunks: 1", &kCopy,
     1.41},
    {"mixer_stick_breaking_experts", "num_experts: 4, top_k: 2, attention_size: 32, num_heads: 4",
     &kShortCopy, 1.29},
    {"mixer_attention_mixture", "num_experts: 2, num_heads: 2", &kCopy, 1.42},
    {"mixer_selective_attention", "num_heads: 4, top_k: 2", &kCopy, 1.63},
    {"feed_forward_dense", "intermediate_size: 64", &kFacts, 1.24},
    {"feed_forward_moe", "num_experts: 4, top_k: 2, intermediate_size: 32, shared: none", &kFacts,
     1.24},
    {"feed_forward_chain_of_experts", "num_experts: 4, top_k: 2, intermediate_size: 32", &kFacts,
     1.24},
    {"feed_forward_peer", "num_keys: 16, num_heads: 2, top_k: 4", &kFacts, 1.25},
    {"feed_forward_product_key_memory", "num_keys: 16, num_heads: 2, top_k: 4, key_size: 16",
     &kFacts, 1.25},
    {"depth_mixture_of_depths", "capacity: 0.34", &kFacts, 1.60},
    {"depth_recursions_by_token_choice", "recursions: 4", &kPowers, 1.14},
    {"depth_recursions_by_expert_choice", "recursions: 4", &kPowers, 1.14},
};

/// What is no line of a .def list.
struct Variant {
  std::string_view name;
  std::string_view pattern;
  std::string_view model;
  const Task* task;
  double bound;
  bool routes = true;
};

constexpr Variant kVariants[] = {
    {"variant_windows_for_each_head", "(AF)x2",
     "attention: {num_heads: 4, num_kv_heads: 2, head_windows: [3, 20]}", &kCopy, 1.46, false},
    {"variant_heads_by_query_norm", "(HF)x2",
     "mixture_of_heads: {num_routed_heads: 3, num_shared_heads: 1, top_k: 2, gates: query_norm}",
     &kCopy, 1.48},
    {"variant_experts_of_a_pool", "(AE)x2",
     "experts: {num_experts: 8, top_k: 2, intermediate_size: 32, shared: none, pool_layers: all}",
     &kFacts, 1.24},
    {"variant_residual_experts", "AE",
     "experts: {num_experts: 4, top_k: 2, intermediate_size: 32, shared: {intermediate_size: 32, "
     "combine: learned}}",
     &kFacts, 1.24},
    {"variant_multi_token_prediction", "(AF)x2",
     "multi_token_prediction: {num_depths: 2, pattern: AF, coefficient: 0.3}", &kCopy, 1.40, false},
    {"variant_gated_slot_attention", "(OF)x2",
     "mixture_of_memories: {num_heads: 2, backend: gated_slot_attention, num_slots: 8}", &kRecall,
     1.20},
    // Attention sees the token before; the way to earlier pairs leads through the slots.
    {"variant_workspace", "(WKF)x2",
     "variants: {W: {type: attention, num_heads: 2, window: 2}}, workspace: {num_heads: 2, num_slots: "
     "8, chunk_size: 4, output_gate: false}",
     &kRecall, 1.33, false},
    // All parts of the proposal, of which the last two open at step 50.
    {"variant_hydra", "MFMEVKY", R"(
    mamba2: {head_dim: 16, state_size: 16},
    sparse_attention: {num_heads: 2, window: 4, chunk_size: 4, chosen_chunks: 2, output_gate: true},
    experts: {num_experts: 4, top_k: 2, intermediate_size: 24,
              router: {type: chunk_top_k, chunk_size: 4}},
    workspace: {num_heads: 2, num_slots: 8, chunk_size: 4,
      output_gate_bias: {type: piecewise, mode: step,
                         points: [{at: 0, value: -1000}, {at: 50, value: -4}]}},
    variants: {Y: {type: product_key_memory, num_keys: 16, num_heads: 2, key_size: 8, top_k: 4,
      output_gate: true,
      output_gate_bias: {type: piecewise, mode: step,
                         points: [{at: 0, value: -1000}, {at: 50, value: -4}]}}})",
     &kRecall, 1.26},
};

bool routes(const Configurable& config) {
  return dynamic_cast<const RoutingConfig*>(&config) != nullptr;
}

/// `pattern` has Z for what is tried.
Learner learner_of(const std::string& name, std::string_view pattern, std::string_view type,
                   std::string_view key, const Task& task, bool is_routed) {
  const auto* row = std::ranges::find(kRows, name, &Row::name);
  const bool has_row = row != std::end(kRows);
  const std::string fields =
      has_row && !row->fields.empty() ? fmt::format(", {}", row->fields) : "";
  return {name,
          std::string(has_row && !row->pattern.empty() ? row->pattern : pattern),
          fmt::format(
              "hidden_size: {}, {}", has_row ? 32 : 64,
              fmt::format(fmt::runtime(key), fmt::arg("type", type), fmt::arg("fields", fields))),
          has_row ? row->task : &task,
          has_row ? row->bound : 0.5 * (task.naive + task.best),
          is_routed};
}

std::vector<Learner> learners() {
  constexpr std::string_view kVariantKey = "variants: {{Z: {{type: {type}{fields}}}}}";
  std::vector<Learner> result;
  // Elsewhere: layers with parameters for each modality learn a task of two modalities
  // (modality_task_test.cpp), the workspace recalls beside another mixer (variant_workspace).
  for (const MixerEntry* entry : mixer_table()) {
    if (entry->by_modality || entry->name == "workspace") continue;
    result.push_back(learner_of(fmt::format("mixer_{}", entry->name), "(ZF)x2", entry->name,
                                kVariantKey, kCopy, routes(*entry->make_config())));
  }
  for (const FeedForwardEntry* entry : feed_forward_table()) {
    // Of a model with mixlora a run trains adapters only, beside a dense model that learned before.
    if (entry->by_modality || entry->name == "mixlora") continue;
    result.push_back(learner_of(fmt::format("feed_forward_{}", entry->name), "AZ", entry->name,
                                kVariantKey, kFacts, routes(*entry->make_config())));
  }
  for (const Choice& choice : experts_choices()) {
    result.push_back(learner_of(
        fmt::format("experts_{}", choice.name), "AE", choice.name,
        "experts: {{num_experts: 4, top_k: 2, intermediate_size: 32, shared: none, form: {{type: "
        "{type}{fields}}}}}",
        kFacts, true));
  }
  for (const Choice& choice : depth_choices()) {
    const bool recurs = choice.name.starts_with("recursions_");
    result.push_back(learner_of(fmt::format("depth_{}", choice.name), recurs ? "A[F]" : "A[F]A[F]",
                                choice.name, "depth: {{type: {type}{fields}}}",
                                recurs ? kPowers : kFacts,
                                routes(*choice.make_config())));
  }
  for (const Variant& variant : kVariants) {
    result.push_back({std::string(variant.name), std::string(variant.pattern),
                      fmt::format("hidden_size: 32, {}", variant.model), variant.task,
                      variant.bound, variant.routes});
  }
  return result;
}

constexpr std::string_view kRun = R"(
seed: 7
model: {init: {std: 0.1}}
data:
  tokenizer: {type: bytes}
  held_out: {fraction: 0.05}
optim: {type: adamw, learning_rate: {type: cosine, peak: 1.0e-2, warmup: 10 steps, final: 1.0e-3},
        weight_decay: 0.0, clip_norm: 1.0}
train: {global_batch: 1024 tokens, micro_batch: 512 tokens}
log: {every: 10, sinks: []}
)";

Recipe recipe_of(const Learner& learner) {
  YamlDocument document = parse_yaml(kRun, "task.yaml");
  const auto put = [&](const std::string& text) {
    const YamlDocument above = parse_yaml(text, "overlay");
    document.problems.add(above.problems);
    overlay(document.root, above.root);
  };
  // A recipe has sections only for what its pattern uses.
  const auto uses = [&](char symbol) { return learner.pattern.find(symbol) != std::string::npos; };
  if (uses('A')) put("model: {attention: {num_heads: 4}}");
  if (uses('F')) put("model: {feed_forward: {intermediate_size: 48}}");
  put(fmt::format("model: {{pattern: \"{}\", {}}}", learner.pattern, learner.model));
  put(
      fmt::format("data: {{sequence_length: {}, sources: [{{type: synthetic, domain: a, documents: "
                  "4000, {}}}]}}",
                  learner.task->sequence_length, learner.task->source));
  put(fmt::format("train: {{steps: {}}}", learner.task->steps));
  if (learner.routes) put("balance: {type: none}");
  Recipe result;
  read_or_throw(result, document);
  return result;
}

/// Losses of the first step and, on average, of the last 20, in nats a token.
struct Losses {
  double first = 0.0;
  double last = 0.0;
  double first_further = 0.0;  // of multi-token prediction, weighted
  double last_further = 0.0;
};

Losses train(const Learner& learner) {
  SingleRank communicator;
  sluice::Run run(recipe_of(learner), communicator);
  Losses losses;
  for (int64_t step = 0; step < learner.task->steps; ++step) {
    const StepResult result = run.step();
    EXPECT_TRUE(result.applied) << result.problem;
    const double further = result.auxiliary[static_cast<size_t>(LossKind::multi_token)];
    if (step == 0) losses.first = result.loss;
    if (step == 0) losses.first_further = further;
    if (step < learner.task->steps - 20) continue;
    losses.last += result.loss / 20;
    losses.last_further += further / 20;
  }
  return losses;
}

class EveryMethod : public ::testing::TestWithParam<Learner> {
 protected:
  [[nodiscard]] static Recipe recipe() { return recipe_of(GetParam()); }
  SingleRank communicator_;
};

TEST_P(EveryMethod, LearnsItsTask) {
  const Learner& learner = GetParam();
  const Losses losses = train(learner);
  // Of 257 tokens all are alike at first.
  EXPECT_NEAR(losses.first, 5.55, 0.6);
  EXPECT_LT(losses.last, learner.bound) << learner.task->name;
  EXPECT_GT(losses.last, learner.task->best - 0.1) << "better than can be";
  if (losses.first_further > 0.0) {
    EXPECT_LT(losses.last_further, 0.35 * losses.first_further);
  }
}

TEST_P(EveryMethod, ResumesBitForBit) {
  EXPECT_TRUE(verify_resume(recipe(), {.steps = 3}).is_identical());
}

TEST_P(EveryMethod, TrainsTheSameOnAnyThreads) {
  testing::expect_same_state_on_any_threads(recipe());
}

INSTANTIATE_TEST_SUITE_P(Tasks, EveryMethod, ::testing::ValuesIn(learners()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace sluice
