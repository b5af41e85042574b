// Similarity-aware routing: scores are averaged over earlier tokens that resemble the token
// (mixed_scores.h; Nguyen et al. 2025, arXiv 2505.00792 [R]).
//
//   S = softmax over j <= t of u_t A u_j^T / (tau D)
//
// u are the tokens as they enter the expert layer, normalised, so that u_t u_j^T / D is their cosine
// where the norm's weights are 1; the page's tau_s is tau D, which makes tau independent of the
// width [R]. A is the identity, or learned: I + B, B [D, D] 0 at first. A small tau leaves every
// token to itself (S = I is the plain router), a large one averages over the document so far. Cost:
// an attention of one head of width D.

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/reshape.h"
#include "layers/routers/mixed_scores.h"

namespace sluice {
namespace {

enum class Metric : uint8_t { identity, learned };

struct SimilarityAwareConfig final : MixedScoresConfig {
  Scheduled temperature = 0.1;
  Metric metric = Metric::identity;

  void fields(FieldVisitor& v) override {
    MixedScoresConfig::fields(v);
    v.scheduled({"temperature", "tau, which divides the cosine of two tokens before the softmax"},
                temperature, {.min = 0.0, .exclusive_min = true});
    v.enumeration({"metric", "A of the similarity u A u^T: identity, or learned from it on"},
                  metric, {{"identity", Metric::identity}, {"learned", Metric::learned}});
  }
};

class SimilarityAwareRouter final : public MixedScoresRouter {
 public:
  SimilarityAwareRouter(const Builder& b, const RouterSetup& setup,
                        const SimilarityAwareConfig& config)
      : MixedScoresRouter(b, setup, config),
        width_(setup.hidden_size),
        detach_(config.detach),
        temperature_(config.temperature) {
    if (config.metric == Metric::learned) {
      metric_ = &parameter(b, "metric", {width_, width_}, ParameterKind::router, Init::zeros());
    }
  }

 protected:
  AttentionMap map_of(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const Tensor u = detach_ ? stop_gradient(tape, x) : x;
    Tensor q = u;
    if (metric_ != nullptr) q = add(tape, u, linear(tape, u, tape.use(*metric_)));
    const Tensor k = with_earlier(context, u);
    const double scale = 1.0 / (temperature_.at(context.progress) * static_cast<double>(width_));
    return {reshape(tape, q, {q.dim(0), 1, width_}), reshape(tape, k, {k.dim(0), 1, width_}),
            scale};
  }
  [[nodiscard]] int64_t kept_width() const override { return width_; }

 private:
  int64_t width_;
  bool detach_;
  Scheduled temperature_;
  Parameter* metric_ = nullptr;  // B [D, D]
};

}  // namespace

const RouterEntry similarity_aware_router = {
    .name = "similarity_aware",
    .doc =
        "scores averaged over earlier tokens that resemble the token (Graph of Tokens 2025, arXiv "
        "2505.00792)",
    .make_config = make_router_config<SimilarityAwareConfig>,
    .make = make_router<SimilarityAwareRouter, SimilarityAwareConfig>,
};

}  // namespace sluice
