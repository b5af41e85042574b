#include "layers/memory_mixer.h"

#include "layers/model.h"

namespace sluice {
namespace {

class MemoryMixer final : public Mixer {
 public:
  MemoryMixer(const Builder& b, const ModelConfig& model, const MatrixMemorySettings& settings)
      : memory_(
            &child(std::make_unique<MatrixMemory>(b, model.hidden_size, model.norm.eps, settings))),
        writes_(&child(std::make_unique<WriteProjections>(b, model.hidden_size, *memory_))) {}

  Tensor forward(const ForwardContext& context, const Tensor& x,
                 BlockState& /*state*/) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    return memory_->output(
        context, x,
        memory_->recall(context, memory_->queries(context, x), writes_->writes(context, x),
                        context.layout.document_offsets));
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype,
                                         int64_t /*capacity*/) const override {
    return std::make_unique<MemoryMixerState>(memory_->make_state(pool, dtype));
  }

  Tensor decode(const ForwardContext& context, const Tensor& x, BlockState& /*block*/,
                MixerState& state) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    auto& own = dynamic_cast<MemoryMixerState&>(state);
    own.tokens += x.dim(0);
    return memory_->output(context, x,
                           memory_->recall_next(context, memory_->queries(context, x),
                                                writes_->writes(context, x), own.memory));
  }

 private:
  MatrixMemory* memory_;
  WriteProjections* writes_;
};

}  // namespace

std::unique_ptr<Mixer> make_memory_mixer(const Builder& b, const ModelConfig& model,
                                         const MatrixMemorySettings& settings) {
  return std::make_unique<MemoryMixer>(b, model, settings);
}

}  // namespace sluice
