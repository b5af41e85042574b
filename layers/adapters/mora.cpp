// MoRA, mixture of rank (2025): ranks score themselves, without a router [R: all of it; the method page
// gives the idea].
//
//   s_i = |a_i x| / (|a_i| |x|),   p = softmax(s / tau),   kept: the top k of p that exceed a threshold
//   y = W x + s sum over kept i of r p_i b_i (a_i x)
//
// The factor r makes equal scores a plain LoRA: with k = r it is one as tau grows. a_i x differentiates
// through its sign only where it is not 0. For continual learning each task adds an adapter of its own to
// the same linear maps, and train.freeze keeps the earlier ones ("*.adapters.task1.*").

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "layers/adapters/low_rank.h"
#include "layers/routers/unit_rows.h"

namespace sluice {
namespace {

struct MoraConfig final : Configurable, AdapterSettings {
  int64_t top_k = 8;
  double threshold = 0.0;
  double temperature = 0.1;

  MoraConfig() { rank = 16; }
  void fields(FieldVisitor& v) override {
    linears_field(v);
    v.integer({"rank", "ranks r, which score themselves"}, rank, {.min = 1});
    v.integer({"top_k", "ranks that a token uses at most"}, top_k, {.min = 1});
    v.number({"threshold", "ranks with a smaller share p of a token are left out"}, threshold,
             {.min = 0.0, .max = 1.0});
    v.number({"temperature", "tau: what the cosines are divided by"}, temperature,
             {.min = 0.0, .exclusive_min = true});
    scale_fields(v);
  }
  [[nodiscard]] std::string check() const override {
    if (top_k <= rank) return {};
    return fmt::format("top_k: found {}, allowed 1 to {} (rank)", top_k, rank);
  }
};

class Mora final : public LowRankAdapter {
 public:
  Mora(const Builder& b, const AdapterSetup& setup, const MoraConfig& config)
      : LowRankAdapter(b, setup, config, config.scale(config.rank)),
        factors_(child(std::make_unique<Factors>(
            b, FactorSpec{setup.in, setup.out, {config.rank}, config.b_std}))),
        top_k_(config.top_k),
        threshold_(config.threshold),
        temperature_(config.temperature) {}

 private:
  [[nodiscard]] FactorTensors factors(Tape& tape) const override { return factors_.tensors(tape); }

  [[nodiscard]] Tensor gates(const ForwardContext& context, const Tensor& x,
                             const FactorTensors& own) const override {
    Tape& tape = context.tape;
    const int64_t ranks = factors_.total();
    const Tensor cosine = linear(tape, unit_rows(tape, x), unit_rows(tape, own.a));  // [N, r]
    const Tensor size = add(tape, relu(tape, cosine), relu(tape, scale(tape, cosine, -1.0)));
    const Tensor p = softmax(tape, scale(tape, size, 1.0 / temperature_));
    const TopKResult top = top_k(tape, p, top_k_);
    const Tensor kept = mul(tape, top.values, above_threshold(tape, top.values));
    return scale(tape, scatter_last(tape, kept, top.indices, ranks), static_cast<double>(ranks));
  }

  /// 1 where a share exceeds the threshold.
  [[nodiscard]] Tensor above_threshold(Tape& tape, const Tensor& shares) const {
    Tensor marks = tape.empty(shares.shape(), shares.dtype());
    if (!marks.has_memory()) return marks;
    dispatch_float(marks.dtype(), [&]<class T>() {
      const auto values = shares.span<T>();
      const auto out = marks.span<T>();
      for (size_t i = 0; i < values.size(); ++i) {
        out[i] = static_cast<double>(values[i]) > threshold_ ? T(1) : T(0);
      }
    });
    return marks;
  }

  [[nodiscard]] Merging merging() const override {
    return {.factor = 0.0, .why_not = "its ranks score themselves on each token"};
  }

  const Factors& factors_;
  int64_t top_k_;
  double threshold_;
  double temperature_;
};

}  // namespace

const AdapterEntry mora_adapter = {
    .name = "mora",
    .doc = "a LoRA whose ranks score themselves (mixture of rank 2025)",
    .make_config = make_adapter_config<MoraConfig>,
    .make = make_adapter<Mora, MoraConfig>,
};

}  // namespace sluice
