#include "layers/token_subset.h"

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// How many chosen tokens come before each of `offsets`.
std::vector<int64_t> subset_offsets(std::span<const int64_t> offsets,
                                    std::span<const uint8_t> chosen) {
  std::vector<int64_t> result;
  result.reserve(offsets.size());
  int64_t rows = 0;
  int64_t token = 0;
  for (const int64_t offset : offsets) {
    for (; token < offset; ++token) rows += chosen[static_cast<size_t>(token)] != 0 ? 1 : 0;
    result.push_back(rows);
  }
  return result;
}

template <class T>
std::vector<T> subset_values(std::span<const T> values, std::span<const uint8_t> chosen) {
  std::vector<T> result;
  for (size_t token = 0; token < values.size(); ++token) {
    if (chosen[token] != 0) result.push_back(values[token]);
  }
  return result;
}

}  // namespace

std::shared_ptr<const TokenSubset> TokenSubset::of(const ForwardContext& whole,
                                                   std::span<const uint8_t> chosen) {
  const SequenceLayout& from = whole.layout;
  SLUICE_INTERNAL_CHECK(std::ssize(chosen) == from.tokens(), "a subset of {} tokens given for {}",
                        from.tokens(), chosen.size());
  Pool& pool = whole.tape.pool();
  auto subset = std::make_shared<TokenSubset>();
  std::vector<int32_t> slots;
  slots.reserve(chosen.size());
  for (const uint8_t is_chosen : chosen) slots.push_back(is_chosen != 0 ? 0 : -1);
  subset->plan = make_dispatch_plan(pool, slots, from.tokens(), 1, 1);
  SequenceLayout& layout = subset->layout;
  layout.sequence_offsets = subset_offsets(from.sequence_offsets, chosen);
  layout.document_offsets = subset_offsets(from.document_offsets, chosen);
  layout.global_samples = from.global_samples;
  layout.counted = subset_values<uint8_t>(from.counted, chosen);
  layout.document_domains = from.document_domains;
  layout.passes = from.passes;
  layout.positions = Tensor::empty(pool, {subset->tokens()}, DType::i32);
  if (layout.positions.has_memory()) {
    std::ranges::copy(subset_values(from.positions.span<int32_t>(), chosen),
                      layout.positions.data<int32_t>());
  }
  if (!whole.token_ids.empty()) subset->token_ids = subset_values(whole.token_ids, chosen);
  if (!whole.modalities.empty()) subset->modalities = subset_values(whole.modalities, chosen);
  whole.tape.keep(subset);
  return subset;
}

ForwardContext TokenSubset::context(const ForwardContext& whole) const {
  return whole.over(layout, token_ids, modalities);
}

}  // namespace sluice
