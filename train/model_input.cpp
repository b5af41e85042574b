#include "train/model_input.h"

#include <algorithm>

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// Sequences are numbered from 0 and never that far: pass p has samples of its own.
constexpr int kPassBit = 63;

/// `values` once for each pass.
Tensor repeated(Pool& pool, const std::vector<int32_t>& values, int64_t passes) {
  const auto count = static_cast<int64_t>(values.size());
  Tensor result = Tensor::empty(pool, {passes * count}, DType::i32);
  if (!result.has_memory()) return result;
  for (int64_t pass = 0; pass < passes; ++pass) {
    std::ranges::copy(values, result.data<int32_t>() + pass * count);
  }
  return result;
}

/// Offsets that begin with 0, once for each pass, one run after the other.
void repeat_offsets(const std::vector<int64_t>& offsets, int64_t passes,
                    std::vector<int64_t>& result) {
  result.assign(1, 0);
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t base = result.back();
    for (size_t i = 1; i < offsets.size(); ++i) result.push_back(base + offsets[i]);
  }
}

}  // namespace

void ModelInput::release_tensors() { tokens = targets = layout.positions = Tensor(); }

ModelInput make_model_input(Pool& pool, const Batch& batch, int64_t passes) {
  ModelInput input;
  make_model_input(pool, batch, passes, input);
  return input;
}

void make_model_input(Pool& pool, const Batch& batch, int64_t passes, ModelInput& input) {
  SLUICE_INTERNAL_CHECK(passes == 1 || passes == 2, "{} passes over a batch", passes);
  input.release_tensors();
  input.tokens = repeated(pool, batch.tokens, passes);
  input.targets = repeated(pool, batch.targets, passes);
  SequenceLayout& layout = input.layout;
  layout.positions = repeated(pool, batch.positions, passes);
  layout.passes = passes;
  repeat_offsets(batch.sequence_offsets, passes, layout.sequence_offsets);
  repeat_offsets(batch.document_offsets, passes, layout.document_offsets);
  layout.global_samples.clear();
  layout.document_domains.clear();
  layout.counted.clear();
  for (int64_t pass = 0; pass < passes; ++pass) {
    const uint64_t mark = static_cast<uint64_t>(pass) << kPassBit;
    for (const uint64_t sample : batch.global_sample)
      layout.global_samples.push_back(sample | mark);
    for (const int32_t domain : batch.document_domain) layout.document_domains.push_back(domain);
    for (const int32_t target : batch.targets) {
      layout.counted.push_back(target == kIgnoredTarget ? 0 : 1);
    }
  }
}

std::vector<Batch> split_into_micro_batches(const Batch& batch, int64_t max_tokens) {
  std::vector<Batch> parts;
  split_into_micro_batches(batch, max_tokens, parts);
  return parts;
}

void split_into_micro_batches(const Batch& batch, int64_t max_tokens, std::vector<Batch>& parts) {
  SLUICE_INTERNAL_CHECK(max_tokens >= 1, "micro-batches of {} tokens", max_tokens);
  size_t count = 0;
  int64_t begin = 0;
  while (begin < batch.num_sequences()) {
    const int64_t first_token = batch.sequence_offsets[static_cast<size_t>(begin)];
    int64_t end = begin + 1;
    while (end < batch.num_sequences() &&
           batch.sequence_offsets[static_cast<size_t>(end) + 1] - first_token <= max_tokens) {
      ++end;
    }
    if (count == parts.size()) parts.emplace_back();
    batch.slice_sequences(begin, end, parts[count++]);
    begin = end;
  }
  parts.resize(count);
}

}  // namespace sluice
