#include "train/transforms/extract_adapters.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "autograd/kernels/low_rank_factors.h"
#include "layers/ffns/mixlora.h"
#include "layers/ffns/moe.h"
#include "train/build.h"

namespace sluice {
namespace {

constexpr std::array<std::string_view, 3> kMatrices = {"gate", "up", "down"};

using Named = std::map<std::string, Parameter*, std::less<>>;

Named by_name(const Model& model) {
  Named result;
  for (Parameter* parameter : model.parameters()) result.emplace(parameter->name, parameter);
  return result;
}

int64_t size_of(const Model& model) {
  int64_t total = 0;
  for (const Parameter* parameter : model.parameters()) total += parameter->value.numel();
  return total;
}

/// Elements begin .. begin + count - 1 as doubles.
std::vector<double> part(const Tensor& tensor, int64_t begin, int64_t count) {
  return dispatch_float(tensor.dtype(), [&]<class T>() {
    const T* values = tensor.data<T>() + begin;
    return std::vector<double>(values, values + count);
  });
}

void put(Tensor& tensor, int64_t begin, std::span<const double> values) {
  dispatch_float(tensor.dtype(), [&]<class T>() {
    std::ranges::transform(values, tensor.data<T>() + begin,
                           [](double value) { return static_cast<T>(value); });
  });
}

/// The experts' section, of a form that low-rank experts can stand for.
const ExpertsConfig& experts_of(const ModelConfig& model, const std::string& source) {
  const ExpertsConfig* experts = nullptr;
  for (const SublayerSpec& sublayer : model.sublayers()) {
    const auto* own = dynamic_cast<const ExpertsConfig*>(sublayer.config);
    if (own == nullptr) continue;
    SLUICE_CHECK(ConfigError, sublayer.key == "experts",
                 "{}: model.{} has experts of its own settings; allowed the letter E only", source,
                 sublayer.key);
    experts = own;
  }
  SLUICE_CHECK(ConfigError, experts != nullptr, "{}: pattern {} has no layer of experts (E)",
               source, model.pattern);
  SLUICE_CHECK(ConfigError,
               experts->form.type == swiglu_form.name && experts->shared == nullptr &&
                   experts->momentum == nullptr && experts->diversify == nullptr &&
                   experts->pool_layers == 1 && model.multi_token_prediction == nullptr,
               "{}: found experts of form {} with shared experts, momentum, diversify, a pool or "
               "multi-token prediction; allowed form swiglu without any of these",
               source, experts->form.type);
  return *experts;
}

/// A letter that stands for no layer.
char free_letter(const ModelConfig& model) {
  const auto is_taken = [&](char letter) {
    return std::ranges::count(mixer_table(), letter, &MixerEntry::symbol) > 0 ||
           std::ranges::count(feed_forward_table(), letter, &FeedForwardEntry::symbol) > 0 ||
           std::ranges::count(model.variants, std::string(1, letter),
                              &TaggedMap::value_type::first) > 0;
  };
  char letter = 'Z';
  while (letter > 'A' && is_taken(letter)) --letter;
  SLUICE_CHECK(ConfigError, !is_taken(letter), "model.variants: no letter is left");
  return letter;
}

class Extraction {
 public:
  Extraction(const Checkpoint& checkpoint, const std::string& source, const ExtractOptions& options)
      : checkpoint_(checkpoint),
        source_(source),
        base_(options.public_expert),
        trained_(build_trained_model(checkpoint, source)),
        experts_(experts_of(trained_.recipe.model, source)),
        ranks_(ranks_of(options)),
        recipe_(extracted_recipe()),
        model_(build_model(recipe_, pool_, trained_.tokenizer->vocab_size())) {}

  ExtractedModel run() {
    const Named before = by_name(*trained_.model);
    const Named after = by_name(*model_);
    for (const auto& [name, parameter] : before) {
      const size_t room = name.find(".experts.w_gate");
      if (room != std::string::npos) extract_layer(name.substr(0, room), before, after);
      if (const auto same = after.find(renamed(name)); same != after.end()) {
        same->second->value.copy_from(parameter->value);
      }
    }
    ExtractedModel result;
    result.relative_error = whole_ > 0.0 ? std::sqrt(rest_ / whole_) : 0.0;
    result.parameters_before = size_of(*trained_.model);
    result.parameters_after = size_of(*model_);
    SaveVisitor save;
    {
      const StateScope scope(save, "model");
      visit_parameters(*model_, save);
    }
    result.checkpoint.state = save.take();
    for (const auto& [path, array] : checkpoint_.state) {
      if (path.starts_with("balance/")) result.checkpoint.state[path] = array;
    }
    result.checkpoint.meta = checkpoint_.meta;
    result.checkpoint.meta.recipe = resolved_text(recipe_);
    return result;
  }

 private:
  [[nodiscard]] std::vector<int64_t> ranks_of(const ExtractOptions& options) const {
    const int64_t experts = experts_.num_experts;
    const int64_t most = std::min(trained_.recipe.model.hidden_size, experts_.intermediate_size);
    SLUICE_CHECK(ConfigError, base_ >= 0 && base_ < experts,
                 "public expert: found {}, allowed 0 to {}", base_, experts - 1);
    std::vector<int64_t> ranks = options.ranks;
    if (ranks.size() == 1 && experts > 1) {
      ranks.assign(static_cast<size_t>(experts), options.ranks.front());
      ranks[static_cast<size_t>(base_)] = 0;
    }
    SLUICE_CHECK(ConfigError, std::ssize(ranks) == experts,
                 "ranks: found {} of them, allowed one for all or {} (model.experts.num_experts)",
                 ranks.size(), experts);
    for (const int64_t rank : ranks) {
      SLUICE_CHECK(ConfigError, rank >= 0 && rank <= most, "ranks: found {}, allowed 0 to {}", rank,
                   most);
    }
    return ranks;
  }

  [[nodiscard]] Recipe extracted_recipe() const {
    auto layer = std::make_shared<MixLoraConfig>();
    static_cast<RoutingConfig&>(*layer) = experts_;
    layer->intermediate_size = experts_.intermediate_size;
    layer->ranks = ranks_;
    if (const std::string problem = layer->check(); !problem.empty()) throw ConfigError(problem);
    Recipe recipe = trained_.recipe;
    const char letter = free_letter(recipe.model);
    std::ranges::replace(recipe.model.pattern, 'E', letter);
    recipe.model.variants.push_back(
        {std::string(1, letter), {std::string(mixlora_feed_forward.name), std::move(layer)}});
    recipe.upcycle = nullptr;
    recipe.train.init_from.reset();
    recipe.train.freeze.clear();
    return recipe;
  }

  /// A parameter's name in the new model, where it is the same.
  static std::string renamed(const std::string& name) {
    const size_t room = name.find(".router.");
    const bool routes = room != std::string::npos && name.starts_with("layers.") &&
                        name.find('.', std::string_view("layers.").size()) == room;
    return routes ? name.substr(0, room) + ".feed_forward.adapters" + name.substr(room) : name;
  }

  void extract_layer(const std::string& layer, const Named& before, const Named& after) {
    for (const std::string_view matrix : kMatrices) {
      const Tensor& stack = before.at(fmt::format("{}.experts.w_{}", layer, matrix))->value;
      Tensor& shared = after.at(fmt::format("{}.feed_forward.w_{}", layer, matrix))->value;
      const int64_t out = stack.dim(1);
      const int64_t in = stack.dim(2);
      const std::vector<double> base = part(stack, base_ * out * in, out * in);
      put(shared, 0, base);
      const std::string room = fmt::format("{}.feed_forward.adapters.{}.", layer, matrix);
      for (int64_t e = 0; e < experts_.num_experts; ++e) {
        std::vector<double> delta = part(stack, e * out * in, out * in);
        for (size_t i = 0; i < delta.size(); ++i) delta[i] -= base[i];
        extract_expert(room, e, {out, in, delta}, after);
      }
    }
  }

  struct Delta {
    int64_t out;
    int64_t in;
    const std::vector<double>& values;  // [out, in]
  };

  void extract_expert(const std::string& room, int64_t e, const Delta& delta, const Named& after) {
    const int64_t rank = ranks_[static_cast<size_t>(e)];
    std::vector<double> left(static_cast<size_t>(delta.out * rank));
    std::vector<double> right(static_cast<size_t>(rank * delta.in));
    const double rest = kernels::low_rank_factors(delta.out, delta.in, delta.values.data(), rank,
                                                  left.data(), right.data());
    rest_ += rest * rest;
    for (const double value : delta.values) whole_ += value * value;
    if (rank == 0) return;
    const auto& layer =
        dynamic_cast<const MixLoraConfig&>(*recipe_.model.variants.back().second.config);
    const double scale = layer.scale(rank);
    std::vector<double> b(left.size());  // B^T / s [r, out]
    for (int64_t o = 0; o < delta.out; ++o) {
      for (int64_t r = 0; r < rank; ++r) {
        b[static_cast<size_t>(r * delta.out + o)] = left[static_cast<size_t>(o * rank + r)] / scale;
      }
    }
    // Experts of equal ranks are one stack, others stand alone.
    const bool is_stack = after.contains(room + "w_a");
    const std::string suffix = is_stack ? "" : fmt::format(".{}", e);
    const int64_t place = is_stack ? e : 0;
    put(after.at(room + "w_a" + suffix)->value, place * rank * delta.in, right);
    put(after.at(room + "w_b" + suffix)->value, place * rank * delta.out, b);
  }

  const Checkpoint& checkpoint_;
  const std::string& source_;
  int64_t base_;
  TrainedModel trained_;
  const ExpertsConfig& experts_;  // of trained_
  std::vector<int64_t> ranks_;
  Recipe recipe_;
  Pool pool_;
  std::unique_ptr<Model> model_;
  double rest_ = 0.0;  // sums of squares
  double whole_ = 0.0;
};

}  // namespace

ExtractedModel extract_adapters(const Checkpoint& checkpoint, const std::string& source,
                                const ExtractOptions& options) {
  return Extraction(checkpoint, source, options).run();
}

}  // namespace sluice
