// The recipe, and the machine that ran it.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <string_view>

#include "train/format.h"
#include "train/report/recipe_text.h"
#include "train/report/run_sections.h"

namespace sluice::report {

Section recipe_section(const RunMaterial& run) {
  Section section{.id = "recipe", .title = "Recipe"};
  if (run.recipe.empty()) {
    section.body = missing("The folder holds no recipe.yaml.");
    return section;
  }
  section.lead = "As the run resolved it: every key, defaults included.";
  section.body = "<pre tabindex=\"0\">" + highlighted_yaml(run.recipe) + "</pre>";
  return section;
}

Section environment_section(const RunMaterial& run) {
  Section section{.id = "environment", .title = "Environment"};
  if (!run.overview) {
    section.body = missing("The folder holds no overview.json: the run is of an earlier version.");
    return section;
  }
  const SavedOverview& known = *run.overview;
  const Machine& machine = known.machine;
  std::vector<std::pair<std::string, std::string>> facts = {
      {"Processor", machine.processor},
      {"Threads", fmt::format("{} of {}, {}", machine.threads,
                              counted(machine.processors, "processor"), machine.parallel_loop)},
      {"Matrix products", fmt::format("{:.0f} GFLOP/s in f32 of 1024³", known.gemm_peak / 1e9)},
  };
  if (machine.memory_bytes > 0) {
    facts.emplace_back("Memory", in_bytes(static_cast<double>(machine.memory_bytes)));
  }
  facts.emplace_back("Build", fmt::format("sluice {}, {}", known.version, machine.build));
  facts.emplace_back(
      "Model",
      fmt::format("{}: {} parameters, {} active per token, {} in routed experts, {} in embeddings",
                  known.pattern, with_commas(known.parameters.total),
                  with_commas(known.parameters.active), with_commas(known.parameters.experts),
                  with_commas(known.parameters.embedding)));
  facts.emplace_back("Vocabulary", with_commas(known.vocab_size));
  facts.emplace_back(
      "Batch",
      fmt::format("{} tokens a step, in micro-batches of {}, in sequences of {}",
                  with_commas(known.tokens_per_step), with_commas(known.micro_batch_tokens),
                  with_commas(known.sequence_length)));
  facts.emplace_back("Work", fmt::format("{}FLOP per token, forward and backward",
                                         in_millions(known.flops_per_token)));
  for (const SavedOverview::Domain& domain : known.domains) {
    facts.emplace_back(
        "Text, " + domain.name,
        fmt::format("{}, {}, {}", counted(domain.documents, "document"),
                    counted(domain.tokens, "token"), in_bytes(static_cast<double>(domain.bytes))));
  }
  section.body = facts_table(facts);
  return section;
}

}  // namespace sluice::report
