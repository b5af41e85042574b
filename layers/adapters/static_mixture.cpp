// A mixture of LoRAs that is the same for every token: w = softmax(theta) over E experts (in the manner
// of LoraHub; Huang et al. 2023, arXiv 2307.13269, which searches w without gradients).
//
//   y = W x + s sum over e of E w_e B_e A_e x
//
// The factor E makes the first mixture, of equal weights, the sum of the experts. It merges into W.

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "layers/adapters/low_rank.h"

namespace sluice {
namespace {

struct StaticMixtureConfig final : Configurable, AdapterSettings {
  int64_t num_experts = 4;
  void fields(FieldVisitor& v) override {
    linears_field(v);
    rank_field(v);
    scale_fields(v);
    v.integer({"num_experts", "LoRAs that every token uses"}, num_experts,
              {.min = 1, .max = 65536});
  }
};

class StaticMixture final : public LowRankAdapter {
 public:
  StaticMixture(const Builder& b, const AdapterSetup& setup, const StaticMixtureConfig& config)
      : LowRankAdapter(b, setup, config, config.scale(config.rank)),
        theta_(parameter(b, "mixture", {config.num_experts}, ParameterKind::bias, Init::zeros())),
        factors_(child(std::make_unique<Factors>(
            b, FactorSpec{setup.in, setup.out, {config.rank * config.num_experts}, config.b_std}))),
        rank_(config.rank) {}
  [[nodiscard]] std::vector<LoraExpert> experts() const override {
    const LoraExpert all = factors_.experts(lora_scale()).front();
    std::vector<LoraExpert> result;
    for (int64_t first = 0; first < all.rank; first += rank_) {
      result.push_back({all.a, all.b, first, rank_, all.scale});
    }
    return result;
  }

 private:
  [[nodiscard]] FactorTensors factors(Tape& tape) const override {
    const FactorTensors own = factors_.tensors(tape);
    const int64_t experts = theta_.value.dim(0);
    const Tensor w = scale(tape, softmax(tape, reshape(tape, tape.use(theta_), {1, experts})),
                           static_cast<double>(experts));
    // Each expert's block of r rows is one long row here.
    const Tensor blocks = reshape(tape, own.b, {experts, own.b.numel() / experts});
    const Tensor weighed = mul_rows(tape, blocks, reshape(tape, w, {experts}));
    return {own.a, reshape(tape, weighed, {rank_ * experts, own.b.dim(1)})};
  }

  Parameter& theta_;  // [E]
  const Factors& factors_;
  int64_t rank_;
};

}  // namespace

const AdapterEntry static_mixture_adapter = {
    .name = "static_mixture",
    .doc =
        "LoRAs in one learned mixture for all tokens (in the manner of LoraHub; Huang et al. "
        "2023, arXiv 2307.13269)",
    .make_config = make_adapter_config<StaticMixtureConfig>,
    .make = make_adapter<StaticMixture, StaticMixtureConfig>,
};

}  // namespace sluice
