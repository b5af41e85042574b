#pragma once
// A mixer of one matrix memory per head, which every token writes to and reads: the gated delta net
// and linear attention are two settings of it.

#include <memory>

#include "layers/matrix_memory.h"
#include "layers/sublayer.h"

namespace sluice {

/// What decoding keeps between tokens: the same whatever their number.
class MemoryMixerState final : public MixerState {
 public:
  explicit MemoryMixerState(MatrixMemoryState memory_) : memory(std::move(memory_)) {}
  [[nodiscard]] int64_t length() const override { return tokens; }

  MatrixMemoryState memory;
  int64_t tokens = 0;
};

/// Parameters: those of MatrixMemory, w_k, w_v and, where the settings want them, w_a and w_b.
[[nodiscard]] std::unique_ptr<Mixer> make_memory_mixer(const Builder& b, const ModelConfig& model,
                                                       const MatrixMemorySettings& settings);

}  // namespace sluice
