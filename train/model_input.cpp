#include "train/model_input.h"

#include "autograd/support/error.h"

namespace sluice {

ModelInput make_model_input(Pool& pool, const Batch& batch) {
  const int64_t N = batch.num_tokens();
  ModelInput input;
  input.tokens = Tensor::of<int32_t>(pool, {N}, batch.tokens);
  input.targets = Tensor::of<int32_t>(pool, {N}, batch.targets);
  input.layout.sequence_offsets = batch.sequence_offsets;
  input.layout.document_offsets = batch.document_offsets;
  input.layout.positions = Tensor::of<int32_t>(pool, {N}, batch.positions);
  input.layout.global_samples = batch.global_sample;
  input.layout.document_domains = batch.document_domain;
  input.layout.counted.reserve(batch.targets.size());
  for (const int32_t target : batch.targets) {
    input.layout.counted.push_back(target == kIgnoredTarget ? 0 : 1);
  }
  return input;
}

ModelInput make_two_passes(Pool& pool, const Batch& batch) {
  // Sequences are numbered from 0 and never that far.
  constexpr uint64_t kSecondPass = uint64_t{1} << 63;
  Batch second = batch;
  for (uint64_t& sample : second.global_sample) sample |= kSecondPass;
  Batch both = batch;
  both.append(second);
  ModelInput input = make_model_input(pool, both);
  input.layout.passes = 2;
  return input;
}

std::vector<Batch> split_into_micro_batches(const Batch& batch, int64_t max_tokens) {
  SLUICE_INTERNAL_CHECK(max_tokens >= 1, "micro-batches of {} tokens", max_tokens);
  std::vector<Batch> parts;
  int64_t begin = 0;
  while (begin < batch.num_sequences()) {
    const int64_t first_token = batch.sequence_offsets[static_cast<size_t>(begin)];
    int64_t end = begin + 1;
    while (end < batch.num_sequences() &&
           batch.sequence_offsets[static_cast<size_t>(end) + 1] - first_token <= max_tokens) {
      ++end;
    }
    parts.push_back(batch.slice_sequences(begin, end));
    begin = end;
  }
  return parts;
}

}  // namespace sluice
