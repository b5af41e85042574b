#include "train/overview.h"

#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "autograd/support/file.h"

namespace sluice {

using nlohmann::json;

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Machine, processor, processors, threads,
                                                memory_bytes, parallel_loop, build)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(ParameterCount, total, trainable, active, experts,
                                                embedding)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(SavedOverview::Domain, name, documents, tokens,
                                                bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(SavedOverview::Memory, kind, bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(SavedOverview, version, machine, gemm_peak,
                                                parameters, pattern, vocab_size, sequence_length,
                                                tokens_per_step, micro_batch_tokens, steps,
                                                flops_per_token, predicted_memory, domains)

int64_t SavedOverview::predicted_bytes() const {
  int64_t sum = 0;
  for (const Memory& memory : predicted_memory) sum += memory.bytes;
  return sum;
}

SavedOverview saved(const RunOverview& overview) {
  SavedOverview result{.version = SLUICE_VERSION,
                       .machine = overview.machine,
                       .gemm_peak = overview.gemm_peak,
                       .parameters = overview.parameters,
                       .pattern = overview.recipe.model.pattern,
                       .vocab_size = overview.model.vocab_size(),
                       .sequence_length = overview.sizes.sequence_length,
                       .tokens_per_step = overview.sizes.tokens_per_step,
                       .micro_batch_tokens = overview.sizes.micro_batch_tokens,
                       .steps = overview.sizes.steps,
                       .flops_per_token = overview.plan.flops_per_token()};
  for (int i = 0; i < kMemoryKinds; ++i) {
    const auto kind = static_cast<MemoryKind>(i);
    result.predicted_memory.push_back({std::string(name_of(kind)), overview.plan.peak[kind]});
  }
  for (const DomainSize& size : overview.data.train_sizes()) {
    result.domains.push_back({size.domain, size.documents, size.tokens, size.bytes});
  }
  return result;
}

std::string to_json_text(const SavedOverview& overview) {
  constexpr int kIndent = 2;
  return json(overview).dump(kIndent, ' ', false, json::error_handler_t::replace) + "\n";
}

std::optional<SavedOverview> read_overview(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  const std::string text = read_file(path, raise_as<DataError>);
  try {
    return json::parse(text).get<SavedOverview>();
  } catch (const json::exception& error) {
    throw DataError(fmt::format("{}: no overview of a run ({}); remove it to do without",
                                path.string(), error.what()));
  }
}

}  // namespace sluice
