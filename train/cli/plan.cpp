#include "train/plan.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>

#include "train/cli/command.h"
#include "train/environment.h"
#include "train/format.h"

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

void print_stages(const Plan& plan) {
  fmt::print("parameters over the run (train.pruning)\n");
  fmt::print("  {:<22}{:>16}{:>20}\n", "", "total", "active per token");
  const auto row = [](const std::string& when, const ParameterCount& count) {
    fmt::print("  {:<22}{:>16}{:>20}\n", when, with_commas(count.total), with_commas(count.active));
  };
  row("at the start", plan.parameters);
  for (const PlannedStage& stage : plan.stages) {
    row(fmt::format("after step {}", with_commas(stage.step)), stage.parameters);
  }
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

/// Digits enough to tell 1.5 from 1.53.
std::string in_experts(double count) { return fmt::format("{:.4g}", count); }

/// What the number is, where it is not simply given.
std::string_view basis(const ActiveExperts& experts) {
  switch (experts.known) {
    case ActiveExperts::Known::exactly:
      return "";
    case ActiveExperts::Known::at_initial_values:
      return "of a router at its initial values";
    case ActiveExperts::Known::within_bounds:
      return "at most: the data decides";
  }
  return "";
}

void print_activity(const PlannedActivities& activity, bool is_pruned) {
  fmt::print("experts per token in training, and what follows for a token\n");
  fmt::print("  {:<22}{:>16}{:>20}{:>16}\n", "", "routed experts", "active parameters", "FLOPs");
  const auto row = [](const std::string& when, const PlannedActivity& at) {
    const ActiveExperts& experts = at.experts;
    std::string note;
    if (experts.known != ActiveExperts::Known::exactly) {
      note = fmt::format("  {} ({} to {})", basis(experts), in_experts(experts.least),
                         in_experts(experts.greatest));
    }
    fmt::print("  {:<22}{:>16}{:>20}{:>16}{}\n", when, in_experts(experts.expected),
               with_commas(std::llround(at.active_parameters)),
               with_commas(std::llround(at.flops_per_token)), note);
  };
  const auto at_step = [](std::string_view name, const PlannedActivity& at) {
    return fmt::format("{}, step {}", name, with_commas(at.step + 1));
  };
  if (activity.start.experts == activity.mean.experts && !is_pruned) {
    row("every step", activity.mean);
    return;
  }
  row(at_step("start", activity.start), activity.start);
  row(at_step("middle", activity.middle), activity.middle);
  row(at_step("end", activity.end), activity.end);
  row("mean of the run", activity.mean);
}

void print_teacher(const PlannedTeacher& teacher) {
  fmt::print("teacher {}, asked in {:.4g} % of the steps\n", teacher.checkpoint,
             100.0 * teacher.share_of_steps);
  fmt::print("  {:<22}{:>16}  not trained; among the weights below\n", "parameters",
             with_commas(teacher.parameters));
  fmt::print("  {:<22}{:>16}  a forward pass and the divergence; on top of the model's\n",
             "FLOPs per token", with_commas(std::llround(teacher.flops_per_token)));
}

void print_saved(const SavedMemory& saved) {
  fmt::print("activations that the tape keeps for the backward pass of a micro-batch\n");
  for (const SavedMemory::Entry& entry : saved.entries) {
    fmt::print("  {:<22}{:>16}  {}, {}\n", name_of(entry.phase),
               in_bytes(static_cast<double>(entry.bytes)), entry.op,
               counted(entry.tensors, "tensor"));
  }
  fmt::print("  {:<22}{:>16}\n", "total", in_bytes(static_cast<double>(saved.bytes())));
}

void print_memory(const Plan& plan) {
  const MemoryUse& peak = plan.peak;
  fmt::print("memory of tensors at the peak of a step\n");
  for (int i = 0; i < kMemoryKinds; ++i) {
    const auto kind = static_cast<MemoryKind>(i);
    fmt::print("  {:<22}{:>16}\n", name_of(kind), in_bytes(static_cast<double>(peak[kind])));
  }
  const auto total = static_cast<double>(peak.total());
  const double held = total - static_cast<double>(peak[MemoryKind::activations]) +
                      static_cast<double>(plan.saved.bytes());
  fmt::print(
      "  {:<22}{:>16}  {:.3f} times what must be held: weights, gradients, optimizer and "
      "kept activations\n",
      "total", in_bytes(total), total / held);
  fmt::print("  {:<22}{:>16}  beside it, while training goes on\n", "copy for a checkpoint",
             in_bytes(static_cast<double>(plan.checkpoint_bytes)));
}

int print_plan(const Recipe& recipe) {
  // The data is not read: a length in epochs needs a number of steps instead.
  const Plan plan = make_plan(recipe, planned_vocab_size(recipe), 0);
  print_parameters(plan.parameters);
  if (!plan.stages.empty()) print_stages(plan);
  print_flops(plan);
  if (plan.activity) print_activity(*plan.activity, !plan.stages.empty());
  if (plan.teacher) print_teacher(*plan.teacher);
  print_saved(plan.saved);
  print_memory(plan);
  const double tokens =
      static_cast<double>(plan.sizes.steps) * static_cast<double>(plan.sizes.tokens_per_step);
  use_threads(recipe);
  const double peak = measure_gemm_peak();
  const double flops = plan.mean_flops_per_token() * tokens;
  const double seconds = flops / peak;
  fmt::print("run\n");
  fmt::print("  {:<22}{:>16}\n", "steps", with_commas(plan.sizes.steps));
  fmt::print("  {:<22}{:>16}\n", "tokens per step", with_commas(plan.sizes.tokens_per_step));
  fmt::print("  {:<22}{:>16}\n", "tokens", with_commas(static_cast<int64_t>(tokens)));
  fmt::print("  {:<22}{:>16}\n", "FLOPs", in_millions(flops));
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
