// A training step in its steady state takes nothing from the heap and makes no thread: forward and
// backward of every micro-batch, the gradient's norm, the optimizer, the balancers, the tape.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <ostream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "autograd/support/parallel.h"
#include "tests/steady_state/heap_counter.h"
#include "tests/support/method_runs.h"
#include "tests/support/step_bench.h"

namespace sluice {
namespace {

using testing::Bench;
using testing::HeapCounter;
using testing::make_batch;

/// Two global batches of 160 tokens, cut into documents in different ways: of four micro-batches at
/// 40 tokens and two at 80.
std::vector<Batch> batches() {
  return {testing::uneven_batch(),
          make_batch({{12, 8}, {20}, {5, 5, 5, 5}, {20}, {1, 19}, {7, 13}, {20}, {10, 10}})};
}

/// Lets every thread of the parallel loop take its scratch memory: in a short warm-up one of them
/// may not come to do anything. Its blocks wait for each other, so that each is on a thread of its
/// own.
void warm_up_threads(int threads) {
  constexpr size_t kScratchBytes = size_t{4} << 20;
  std::atomic<int> arrived{0};
  parallel_for(threads, [&](int64_t) {
    ArenaScope scratch(thread_arena());
    (void)scratch.allocate<std::byte>(kScratchBytes);
    ++arrived;
    while (arrived < threads) std::this_thread::yield();
  });
}

/// What steps take after warming up, with different batches, routes and rates in every one.
struct Taken {
  int64_t allocations;
  int64_t threads;
  std::string callers;
};

Taken taken_in_steady_state(const Recipe& recipe, int64_t micro_batch_tokens, int threads) {
  constexpr int64_t kWarmUp = 8;
  constexpr int64_t kSteps = 6;
  const int before = num_threads();
  set_num_threads(threads);
  warm_up_threads(threads);
  const std::vector<Batch> texts = batches();
  Bench bench(recipe, micro_batch_tokens);
  const auto run = [&](int64_t step) {
    const StepResult result =
        bench.step.run(texts[static_cast<size_t>(step) % texts.size()],
                       {.step = step, .tokens = 160 * step, .total_steps = 100});
    ASSERT_TRUE(result.applied) << result.problem;
  };
  for (int64_t step = 0; step < kWarmUp; ++step) run(step);
  Taken taken{};
  {
    const HeapCounter counter;
    for (int64_t step = kWarmUp; step < kWarmUp + kSteps; ++step) run(step);
    taken = {counter.allocations(), counter.threads(), counter.callers()};
  }
  set_num_threads(before);
  return taken;
}

void expect_nothing_is_taken(const Recipe& recipe, int64_t micro_batch_tokens = 40) {
  // More threads than some loops have blocks.
  for (const int threads : {1, 2, 4}) {
    const Taken taken = taken_in_steady_state(recipe, micro_batch_tokens, threads);
    EXPECT_EQ(taken.allocations, 0) << threads << " threads, first from\n" << taken.callers;
    EXPECT_EQ(taken.threads, 0) << threads << " threads";
  }
}

class SteadyState : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::string_view(parallel_backend()) == "tbb") {
      GTEST_SKIP() << "oneTBB makes tasks of its own in every loop";
    }
  }
};

TEST_F(SteadyState, OfADenseModelTakesNothing) {
  expect_nothing_is_taken(testing::tiny_dense_recipe());
}

TEST_F(SteadyState, OfADenseModelThatIsRecomputedTakesNothing) {
  expect_nothing_is_taken(testing::tiny_dense_recipe("train: {recompute: all}"));
}

TEST_F(SteadyState, OfEverythingAtOnceTakesNothing) {
  expect_nothing_is_taken(testing::tiny_recipe(
      "model: {dropout: 0.1, experts: {shared: {num_experts: 1, intermediate_size: 8}, "
      "router: {type: top_k, scores: sigmoid, jitter: 0.1, scale: 2.5}}}\n"
      "balance: [{type: loss_free_bias}, {type: global_aux_loss}, {type: router_z_loss}]\n"
      "optim: {type: adamw, learning_rate: {type: cosine, peak: 1.0e-2, warmup: 10 steps, final: "
      "1.0e-3}, clip_norm: 1.0}\n"
      "train: {recompute: all, head_z_loss: 1.0e-4, consistency: {coefficient: 0.5}}"));
}

struct MoeCase {
  std::string name;
  std::string changes;
  int64_t micro_batch_tokens = 40;
  friend void PrintTo(const MoeCase& test, std::ostream* out) { *out << test.name; }
};

class SteadyStateOfExperts : public SteadyState, public ::testing::WithParamInterface<MoeCase> {};

TEST_P(SteadyStateOfExperts, TakesNothing) {
  expect_nothing_is_taken(testing::tiny_recipe(GetParam().changes), GetParam().micro_batch_tokens);
}

INSTANTIATE_TEST_SUITE_P(
    Variants, SteadyStateOfExperts,
    ::testing::Values(
        MoeCase{"Memories", "model: {pattern: AGLOHE}\nbalance: {type: aux_loss}"},
        MoeCase{"RecomputedMemories",
                "model: {pattern: AGLOHE}\nbalance: {type: aux_loss}\ntrain: {recompute: all}"},
        MoeCase{"OneMicroBatch", "balance: {type: aux_loss}", 1000},
        MoeCase{"ManyMicroBatches", "balance: {type: aux_loss}", 20},
        MoeCase{"Shared",
                "model: {experts: {shared: {num_experts: 1, intermediate_size: 8}}}\n"
                "balance: [{type: aux_loss}, {type: router_z_loss}]"},
        MoeCase{"RecomputedExperts", "balance: {type: aux_loss}\ntrain: {recompute: experts}"},
        MoeCase{"RecomputedBip", "balance: {type: bip}\ntrain: {recompute: all}"},
        MoeCase{"RecomputedGlobal", "balance: {type: global_aux_loss}\ntrain: {recompute: all}"},
        MoeCase{"BiasAndUnbiasedLoss",
                "balance: [{type: loss_free_bias}, {type: aux_loss, selection: unbiased}]"},
        MoeCase{"Capacity", "model: {experts: {capacity_factor: 1.0}}\nbalance: {type: aux_loss}"},
        MoeCase{"Momentum",
                "model: {experts: {momentum: {}}}\nbalance: {type: aux_loss}\n"
                "train: {recompute: all}"}),
    [](const auto& test) { return test.param.name; });

// --- every method --------------------------------------------------------------------------------

/// Methods that still take memory in every step: they solve a problem of a whole micro-batch on the
/// host in lists of their own, or look at other tokens in tensors that are joined. What they compute
/// there costs far more than the heap.
const std::set<std::string>& allocating() {
  static const std::set<std::string> names = {
      "balance_base",
      "balance_expert_choice",
      "balance_quantile",
      "balance_quantile_dynamic",
      "balance_sinkhorn",
      "balance_sparse_transport",
      // The router null_experts joins the logits of true and null experts.
      "balance_loss_free_bias_multiplicative",
      "balance_null_expert_loss",
      "router_null_experts",
      "router_attention_aware",
      "router_document_pool",
      "router_k_means",
      "router_mixer",
      "router_similarity_aware",
      // Factors of experts of different ranks are joined.
      "adapter_flex_rank",
      // Subsets of the tokens, and lists of what was found.
      "depth_mixture_of_depths",
      "depth_recursions_by_expert_choice",
      "depth_recursions_by_token_choice",
      "depth_recursions_by_expert_choice_of_shared_key_values",
      "depth_recursions_by_token_choice_of_shared_key_values",
      "layer_modality_experts",
      "layer_peer",
      "layer_product_key_memory",
      "layer_workspace",
      "layer_workspace_short_chunks",
      "multi_token_prediction",
  };
  return names;
}

/// Methods under which the number of assignments differs from step to step: the pool takes memory
/// for a size of tensors that it has not seen, so a step takes some now and then.
const std::set<std::string>& of_varying_size() {
  static const std::set<std::string> names = {"router_top_p", "router_document_share",
                                              "experts_heterogeneous"};
  return names;
}

class SteadyStateOfMethods : public SteadyState,
                             public ::testing::WithParamInterface<testing::MethodInARun> {};

TEST_P(SteadyStateOfMethods, TakesNothingUnlessItIsListed) {
  const Taken taken = taken_in_steady_state(testing::tiny_recipe(GetParam().changes), 40, 1);
  EXPECT_EQ(taken.threads, 0);
  if (of_varying_size().contains(GetParam().name)) return;
  if (allocating().contains(GetParam().name)) {
    EXPECT_GT(taken.allocations, 0) << "strike it off the list";
  } else {
    EXPECT_EQ(taken.allocations, 0) << "first from\n" << taken.callers;
  }
}

INSTANTIATE_TEST_SUITE_P(DefLists, SteadyStateOfMethods,
                         ::testing::ValuesIn(testing::methods_in_runs()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace sluice
