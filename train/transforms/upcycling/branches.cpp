// Experts from several dense models that were trained on from one seed: Branch-Train-MiX (Sukhbaatar et al.
// 2024, arXiv 2403.07816). The experts of a layer are the models' feed-forwards, one after the other; the
// routers are new, and everything else is the mean of the models. With an attention mixture (U) in the
// pattern where the models have attention, attention becomes experts as well (BAM, arXiv 2408.08274).
//
//   split: C       every feed-forward is cut into C chunks: experts 0 .. C - 1 are the chunks of the first
//                  model, C .. 2 C - 1 those of the second, ...
//   blend          with M models and M chunks each: expert n is chunk n of every model, side by side
//   seed: expert   the model in `from` is one of those experts (the paper's generalist), the first;
//         shared   it is the shared expert, and the branches alone are routed (Innovator, arXiv
//                  2507.18671, with split: 8: "8 disciplines x 8 shards" [R]);
//         mean     it only takes part in the means
//
// More experts than chunks are further copies of them all.

#include "autograd/support/error.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

struct BranchesConfig final : Configurable {
  enum class Seed : uint8_t { expert, shared, mean };
  int64_t split = 1;
  bool blend = false;
  Seed seed = Seed::expert;
  void fields(FieldVisitor& v) override {
    v.integer({"split", "chunks C that every feed-forward is cut into"}, split, {.min = 1});
    v.boolean({"blend", "an expert is one chunk of every model instead of one model's"}, blend);
    v.enumeration({"seed",
                   "the model in from is an expert like the branches, the shared expert, or only "
                   "part of the mean"},
                  seed,
                  {{"expert", Seed::expert}, {"shared", Seed::shared}, {"mean", Seed::mean}});
  }
  [[nodiscard]] std::string check() const override {
    return blend && split != 1 ? fmt::format("split: found {} with blend, which cuts every model into "
                                             "as many chunks as there are models; allowed 1",
                                             split)
                               : "";
  }
};

class FromBranches final : public UpcyclingScheme {
 public:
  explicit FromBranches(const BranchesConfig& config) : config_(config) {}

  [[nodiscard]] LayerNeurons choose(const UpcycledLayer& layer) const override {
    const int64_t F = layer.dense_width;
    const int64_t first = config_.seed == BranchesConfig::Seed::expert ? 0 : 1;
    const int64_t models = layer.num_models - first;
    const int64_t chunks = config_.blend ? models : config_.split;
    SLUICE_CHECK(ConfigError, F % chunks == 0,
                 "upcycle.scheme branches: the dense feed-forward of {} is {} wide, which {} chunks "
                 "do not divide",
                 layer.name, F, chunks);
    const int64_t width = config_.blend ? F : F / chunks;
    SLUICE_CHECK(ConfigError, layer.expert_width == width,
                 "upcycle.scheme branches: model.experts.intermediate_size is {}, allowed {}: the "
                 "dense feed-forward of {} is {} wide",
                 layer.expert_width, width, layer.name, F);
    const int64_t distinct = config_.blend ? models : models * chunks;
    SLUICE_CHECK(ConfigError, layer.num_experts % distinct == 0,
                 "upcycle.scheme branches: model.experts.num_experts is {}, allowed a multiple of {}, "
                 "the experts that {} models give",
                 layer.num_experts, distinct, models);
    LayerNeurons plan;
    plan.routed_models = models;
    for (int64_t e = 0; e < layer.num_experts; ++e) {
      NeuronChoice expert;
      const int64_t own = e % distinct;
      if (config_.blend) {
        for (int64_t model = first; model < layer.num_models; ++model) {
          add_chunk(layer, model, own, F / chunks, expert);
        }
      } else {
        add_chunk(layer, first + own / chunks, own % chunks, width, expert);
      }
      plan.experts.push_back(std::move(expert));
    }
    if (config_.seed == BranchesConfig::Seed::shared) {
      SLUICE_CHECK(ConfigError, layer.shared_width == F,
                   "upcycle.scheme branches: seed: shared needs shared experts of joint width {}, that "
                   "of the dense feed-forward of {}; model.experts.shared has {}",
                   F, layer.name, layer.shared_width);
      plan.shared.source = neurons_in_order(F);
    }
    return plan;
  }

  [[nodiscard]] std::string departure(const UpcycledLayer& layer) const override {
    if (config_.blend) return "an expert has one chunk of every model, and not the others";
    const int64_t chunks = config_.split;
    if (chunks == 1 || layer.top_k % chunks == 0) {
      return chunks == 1 ? "" : "a token's chunks may be of different places of the feed-forward";
    }
    return fmt::format("a token uses {} chunks, of which {} make a feed-forward", layer.top_k, chunks);
  }

 private:
  static void add_chunk(const UpcycledLayer& layer, int64_t model, int64_t chunk, int64_t width,
                        NeuronChoice& expert) {
    for (int64_t i = chunk * width; i < (chunk + 1) * width; ++i) {
      expert.source.push_back(static_cast<int32_t>(model * layer.dense_width + i));
    }
  }

  BranchesConfig config_;
};

}  // namespace

const UpcyclingEntry branches_upcycling = {
    .name = "branches",
    .doc = "experts from several dense models, what is no expert averaged (Branch-Train-MiX, arXiv "
           "2403.07816; BAM, arXiv 2408.08274; Innovator, arXiv 2507.18671)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<BranchesConfig>();
    },
    .make = [](const Configurable& config) -> std::unique_ptr<UpcyclingScheme> {
      return std::make_unique<FromBranches>(dynamic_cast<const BranchesConfig&>(config));
    },
    .branches = Branches::needed,
};

}  // namespace sluice
