// LoRA (Hu et al. 2021, arXiv 2106.09685): one expert that every token uses, y = W x + s B A x.

#include "layers/adapters/low_rank.h"

namespace sluice {
namespace {

struct LoraConfig final : Configurable, AdapterSettings {
  void fields(FieldVisitor& v) override {
    linears_field(v);
    rank_field(v);
    scale_fields(v);
  }
};

class Lora final : public LowRankAdapter {
 public:
  Lora(const Builder& b, const AdapterSetup& setup, const LoraConfig& config)
      : LowRankAdapter(b, setup, config, config.scale(config.rank)),
        factors_(child(std::make_unique<Factors>(
            b, FactorSpec{setup.in, setup.out, {config.rank}, config.b_std}))) {}
  [[nodiscard]] std::vector<LoraExpert> experts() const override {
    return factors_.experts(lora_scale());
  }

 private:
  [[nodiscard]] FactorTensors factors(Tape& tape) const override { return factors_.tensors(tape); }

  const Factors& factors_;
};

}  // namespace

const AdapterEntry lora_adapter = {
    .name = "lora",
    .doc = "one low-rank map that every token uses (Hu et al. 2021, arXiv 2106.09685)",
    .make_config = make_adapter_config<LoraConfig>,
    .make = make_adapter<Lora, LoraConfig>,
};

}  // namespace sluice
