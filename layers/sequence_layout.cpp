#include "layers/sequence_layout.h"

#include <numeric>

namespace sluice {

int64_t SequenceLayout::counted_tokens() const {
  return std::accumulate(counted.begin(), counted.end(), int64_t{0});
}

SequenceLayout SequenceLayout::single(Pool& pool, int64_t length, int64_t first_position) {
  SequenceLayout layout;
  layout.sequence_offsets = {0, length};
  layout.document_offsets = {0, length};
  std::vector<int32_t> positions(static_cast<size_t>(length));
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(first_position));
  layout.positions = Tensor::of<int32_t>(pool, {length}, positions);
  layout.global_samples = {0};
  layout.counted.assign(static_cast<size_t>(length), 1);
  layout.document_domains = {0};
  return layout;
}

}  // namespace sluice
