#include "train/plan.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "train/cli/command.h"
#include "train/cli/format.h"
#include "train/environment.h"

namespace sluice {
namespace {

void print_parameters(const ParameterCount& count) {
  fmt::print("parameters\n");
  fmt::print("  {:<22}{:>16}\n", "total", with_commas(count.total));
  fmt::print("  {:<22}{:>16}\n", "active per token", with_commas(count.active));
  fmt::print("  {:<22}{:>16}\n", "in routed experts", with_commas(count.experts));
  fmt::print("  {:<22}{:>16}\n", "in embeddings", with_commas(count.embedding));
  fmt::print("  {:<22}{:>16}\n", "trainable", with_commas(count.trainable));
}

void print_flops(const Plan& plan) {
  fmt::print(
      "FLOPs per token, forward and backward (matrix products and attention, full-length "
      "documents)\n");
  for (int i = 0; i < kPhases; ++i) {
    const auto phase = static_cast<Phase>(i);
    const double flops = plan.flops_per_token(phase);
    if (flops == 0.0) continue;
    fmt::print("  {:<22}{:>16}{:>7.1f} %\n", name_of(phase),
               with_commas(static_cast<int64_t>(flops)), 100.0 * flops / plan.flops_per_token());
  }
  fmt::print("  {:<22}{:>16}\n", "total",
             with_commas(static_cast<int64_t>(plan.flops_per_token())));
  const double extra =
      plan.cost.direction_total(Direction::extra).flops / static_cast<double>(plan.tokens);
  if (extra > 0.0) {
    fmt::print("  {:<22}{:>16}  recomputation, or a pass that counts loads beforehand\n",
               "extra forwards", with_commas(static_cast<int64_t>(extra)));
  }
}

void print_memory(const MemoryUse& peak) {
  fmt::print("memory of tensors at the peak of a step\n");
  for (int i = 0; i < kMemoryKinds; ++i) {
    const auto kind = static_cast<MemoryKind>(i);
    fmt::print("  {:<22}{:>16}\n", name_of(kind), in_bytes(static_cast<double>(peak[kind])));
  }
  fmt::print("  {:<22}{:>16}\n", "total", in_bytes(static_cast<double>(peak.total())));
}

int print_plan(const Recipe& recipe) {
  // The data is not read: a length in epochs needs a number of steps instead.
  const Plan plan = make_plan(recipe, planned_vocab_size(recipe), 0);
  print_parameters(plan.parameters);
  print_flops(plan);
  print_memory(plan.peak);
  const double tokens =
      static_cast<double>(plan.sizes.steps) * static_cast<double>(plan.sizes.tokens_per_step);
  use_threads(recipe);
  const double peak = measure_gemm_peak();
  const double seconds = plan.flops_per_token() * tokens / peak;
  fmt::print("run\n");
  fmt::print("  {:<22}{:>16}\n", "steps", with_commas(plan.sizes.steps));
  fmt::print("  {:<22}{:>16}\n", "tokens per step", with_commas(plan.sizes.tokens_per_step));
  fmt::print("  {:<22}{:>16}\n", "tokens", with_commas(static_cast<int64_t>(tokens)));
  fmt::print("  {:<22}{:>16}\n", "FLOPs", in_millions(plan.flops_per_token() * tokens));
  fmt::print(
      "  {:<22}{:>16}  at {:.0f} GFLOP/s, this machine's matrix products; runs reach 55 to 85 % "
      "of it\n",
      "time at the peak", in_time(seconds), peak / 1e9);
  for (const std::string& choice : plan.sizes.choices) fmt::print("  {}\n", choice);
  return 0;
}

}  // namespace

const Command plan_command = {
    .name = "plan",
    .summary = "What a recipe will cost: parameters, FLOPs, memory, time",
    .example = "sluice plan recipes/moe_small.yaml",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<RecipeFlags>();
      flags->declare(app);
      return [flags] { return print_plan(load_recipe(flags->source())); };
    },
};

}  // namespace sluice
