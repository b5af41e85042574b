// A mixture of LoRAs from LoRAs that were trained apart: the second regime of LoRA-Mixer (2025, arXiv
// 2507.00029) and the manner of LoraHub (arXiv 2307.13269). Each branch is a run with adapters on the model
// in `from`, of which nothing but the adapters was trained; the adapter of the same name on the same linear
// map of the recipe's model takes the LoRAs of all branches as its experts, in their order, s B_e A_e as it
// was: where the scales alpha / r differ, B is multiplied by what makes up for it.
//
//   branches: adapters: {heads: {type: lora, linears: [attention.q], rank: 8}}
//   here:     adapters: {heads: {type: lora_mixer, linears: [attention.q], rank: 8, num_experts: 3}}
//
// Routers and mixtures are new, and whatever is no adapter must be the model in `from`, bit for bit, and is
// copied. An adapter of smaller experts takes the parts of each LoRA (smora every rank), flex_rank takes
// LoRAs of mixed ranks; an expert of rank 0 takes none.

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "autograd/core/dtype.h"
#include "autograd/support/error.h"
#include "layers/adapters/low_rank.h"
#include "train/transforms/upcycle.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

struct AdaptersConfig final : Configurable {
  void fields(FieldVisitor& /*v*/) override {}
};

/// A model without values, for the names, shapes and scales of its LoRAs.
struct ShapesOfModel {
  ShapesOfModel(const Recipe& recipe, int64_t vocab_size)
      : model(build_model(recipe, pool, vocab_size)) {}
  Pool pool{Pool::Mode::shapes_only};
  std::unique_ptr<Model> model;
};

/// "heads.q" of layers.1.attention.w_q
std::string place_of(const AdaptedLinear& adapted) {
  return fmt::format("{} of {}", adapted.name, adapted.weight->name);
}

std::vector<LoraExpert> experts_of(const AdaptedLinear& adapted) {
  const auto* adapter = dynamic_cast<const LowRankAdapter*>(adapted.adapter);
  return adapter == nullptr ? std::vector<LoraExpert>{} : adapter->experts();
}

std::string path_of(const Parameter& parameter) { return "model/" + parameter.name; }

std::vector<int64_t> dims_of(const Parameter& parameter) {
  std::vector<int64_t> dims;
  for (int i = 0; i < parameter.value.rank(); ++i) dims.push_back(parameter.value.dim(i));
  return dims;
}

/// A rank of a LoRA in a branch, and which of the LoRAs of all branches it belongs to.
struct GivenRank {
  size_t branch;
  size_t lora;
  const LoraExpert* expert;
  int64_t row;  // of its matrices
};

class AdapterMerge {
 public:
  AdapterMerge(const UpcycleJob& job, StateDict& state)
      : job_(job), files_(job.config().branch_files()), state_(state) {}

  std::vector<std::string> run() {
    check();
    const int64_t vocab_size = job_.data.tokenizer->vocab_size();
    const ShapesOfModel own(job_.recipe, vocab_size);
    std::vector<std::unique_ptr<ShapesOfModel>> branches;
    for (const Recipe& recipe : branch_recipes(job_)) {
      branches.push_back(std::make_unique<ShapesOfModel>(recipe, vocab_size));
    }
    check_nothing_is_lost(own, branches);
    for (const AdaptedLinear& adapted : own.model->adapted_linears()) fill(adapted, branches);
    for (auto& [path, array] : state_) {
      constexpr std::string_view kRoom = "model/";
      if (!path.starts_with(kRoom)) continue;
      const bool is_new = !job_.from.state.contains(path);
      if (is_new && is_adapter_parameter(path.substr(kRoom.size()))) continue;
      array = array_of(job_.from, job_.config().from, path, array.dims, array.type);
      check_branches_share(job_, path, array,
                           "branches train their adapters alone (without train.unfreeze)");
    }
    report(own);
    keep_position(job_, state_, notes_);
    return std::move(notes_);
  }

 private:
  void check() const {
    const UpcycleConfig& config = job_.config();
    SLUICE_CHECK(ConfigError, config.router.type == "initial",
                 "upcycle.router: found {} with scheme adapters, whose routers have no rows made of "
                 "prompts; allowed initial",
                 config.router.type);
    SLUICE_CHECK(ConfigError, !config.calibrate,
                 "upcycle.calibrate: given with scheme adapters, which makes no feed-forwards; allowed "
                 "none");
    SLUICE_CHECK(ConfigError, job_.before.recipe.model.adapters.empty(),
                 "upcycle.from: {} has adapters of its own; give the model that the branches' adapters "
                 "were trained on",
                 config.from);
    SLUICE_CHECK(ConfigError, !job_.recipe.model.adapters.empty(),
                 "upcycle.scheme adapters: the recipe's model has no adapters (model.adapters)");
    constexpr std::array<std::string_view, 3> kOwn = {"adapters", "init", "dropout"};
    check_same_model(job_.before.recipe, job_.recipe, "upcycle.from", config.from, kOwn);
    check_branches_alike(job_, job_.recipe, kOwn);
  }

  [[nodiscard]] static const AdaptedLinear* partner(const ShapesOfModel& branch,
                                                    const AdaptedLinear& adapted) {
    const auto& all = branch.model->adapted_linears();
    const auto found = std::ranges::find_if(all, [&](const AdaptedLinear& other) {
      return other.name == adapted.name && other.weight->name == adapted.weight->name;
    });
    return found == all.end() ? nullptr : &*found;
  }

  void check_nothing_is_lost(const ShapesOfModel& own,
                             std::span<const std::unique_ptr<ShapesOfModel>> branches) const {
    for (size_t i = 0; i < branches.size(); ++i) {
      for (const AdaptedLinear& given : branches[i]->model->adapted_linears()) {
        SLUICE_CHECK(ConfigError, partner(own, given) != nullptr,
                     "upcycle.branches.{}.from: {} has adapter {}, of which model.adapters has none",
                     i, files_[i], place_of(given));
      }
    }
  }

  /// The ranks of all branches' LoRAs for one linear map, in order.
  [[nodiscard]] std::vector<GivenRank> given_ranks(
      const AdaptedLinear& adapted, std::span<const std::unique_ptr<ShapesOfModel>> branches,
      std::vector<LoraExpert>& experts) const {
    std::vector<size_t> branch_of;
    for (size_t i = 0; i < branches.size(); ++i) {
      const AdaptedLinear* given = partner(*branches[i], adapted);
      SLUICE_CHECK(ConfigError, given != nullptr,
                   "upcycle.branches.{}.from: {} has no adapter {}; adapters are matched by the names "
                   "that model.adapters gives them",
                   i, files_[i], place_of(adapted));
      const std::vector<LoraExpert> own = experts_of(*given);
      SLUICE_CHECK(ConfigError, !own.empty(),
                   "upcycle.branches.{}.from: adapter {} of {} is made of no LoRAs", i,
                   place_of(*given), files_[i]);
      for (const LoraExpert& expert : own) {
        experts.push_back(expert);
        branch_of.push_back(i);
      }
    }
    std::vector<GivenRank> ranks;
    for (size_t e = 0; e < experts.size(); ++e) {
      for (int64_t r = 0; r < experts[e].rank; ++r) {
        ranks.push_back({branch_of[e], e, &experts[e], experts[e].first + r});
      }
    }
    return ranks;
  }

  void fill(const AdaptedLinear& adapted,
            std::span<const std::unique_ptr<ShapesOfModel>> branches) {
    const std::vector<LoraExpert> own = experts_of(adapted);
    SLUICE_CHECK(ConfigError, !own.empty(),
                 "upcycle.scheme adapters: adapter {} is not made of LoRAs; allowed static_mixture, "
                 "mola, lora_mixer, flex_rank, smora and lora",
                 place_of(adapted));
    std::vector<LoraExpert> given;
    const std::vector<GivenRank> ranks = given_ranks(adapted, branches, given);
    check_fit(adapted, own, given, ranks);
    size_t at = 0;
    for (const LoraExpert& expert : own) {
      for (int64_t r = 0; r < expert.rank; ++r) {
        const GivenRank& from = ranks[at++];
        copy_row(from, *from.expert->a, *expert.a, expert.first + r, 1.0);
        copy_row(from, *from.expert->b, *expert.b, expert.first + r,
                 from.expert->scale / expert.scale);
      }
    }
    loras_ = given.size();
  }

  void check_fit(const AdaptedLinear& adapted, std::span<const LoraExpert> own,
                 std::span<const LoraExpert> given, std::span<const GivenRank> ranks) const {
    int64_t wanted = 0;
    bool fits = true;
    for (const LoraExpert& expert : own) {
      const auto first = static_cast<size_t>(wanted);
      wanted += expert.rank;
      const auto last = static_cast<size_t>(wanted) - 1;
      fits = fits && last < ranks.size() && ranks[first].lora == ranks[last].lora;
    }
    std::vector<int64_t> own_ranks;
    std::vector<int64_t> given_ranks;
    for (const LoraExpert& expert : own) own_ranks.push_back(expert.rank);
    for (const LoraExpert& expert : given) given_ranks.push_back(expert.rank);
    SLUICE_CHECK(ConfigError, fits && wanted == std::ssize(ranks),
                 "model.adapters: adapter {} has experts of ranks [{}], the branches LoRAs of ranks "
                 "[{}]; allowed as many experts as LoRAs, of their ranks, or of equal parts of them",
                 place_of(adapted), fmt::join(own_ranks, ", "), fmt::join(given_ranks, ", "));
  }

  /// Overwrites row `row` of the new model's `to` by factor times that of the branch's `from`.
  void copy_row(const GivenRank& source, const Parameter& from, const Parameter& to, int64_t row,
                double factor) {
    StateArray& array = state_.at(path_of(to));
    const StateArray& given = array_of(job_.branches[source.branch], files_[source.branch],
                                       path_of(from), dims_of(from), array.type);
    const auto width = static_cast<size_t>(array.dims.back());
    dispatch_float(array.type == ElementType::f64 ? DType::f64 : DType::f32, [&]<class T>() {
      const auto values = given.values<T>().subspan(static_cast<size_t>(source.row) * width, width);
      T* out = reinterpret_cast<T*>(array.bytes.data()) + static_cast<size_t>(row) * width;
      std::ranges::transform(values, out, [factor](T value) {
        return factor == 1.0 ? value : static_cast<T>(factor * static_cast<double>(value));
      });
    });
  }

  void report(const ShapesOfModel& own) {
    notes_.push_back(fmt::format("{} adapters, each made of the {} LoRAs of {} branches, in order",
                                 own.model->adapted_linears().size(), loras_, files_.size()));
    notes_.emplace_back(
        "not the function of any one model: tokens use the adapters of several branches");
    notes_.emplace_back("optimizer: reset");
  }

  const UpcycleJob& job_;
  std::vector<std::string> files_;
  StateDict& state_;
  size_t loras_ = 0;
  std::vector<std::string> notes_;
};

}  // namespace

const UpcyclingEntry adapters_upcycling = {
    .name = "adapters",
    .doc = "experts of adapters from LoRAs that were trained apart on one model (LoRA-Mixer, arXiv "
           "2507.00029; LoraHub, arXiv 2307.13269)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<AdaptersConfig>();
    },
    .make = nullptr,
    .branches = Branches::needed,
    .carry_out = [](const Configurable&, const UpcycleJob& job,
                    StateDict& state) { return AdapterMerge(job, state).run(); },
};

}  // namespace sluice
