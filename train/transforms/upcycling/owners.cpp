// Merging experts that owners trained apart (FlexOlmo, Shi et al. 2025, arXiv 2507.07024). Each branch is a
// run of two experts, made of the public model in `from` by scheme copy, of which only expert 1, its
// router row and its bias were trained (`train.freeze`, `train.freeze_experts: [0]`). The merged model has
// the public feed-forward as expert 0 and branch i's expert as expert i + 1, with their rows and biases;
// whatever owners share must be the public model's, bit for bit, and is copied. Nothing is trained
// together, so that an expert can be taken out again (leave_out.h): nothing of it is anywhere else.

#include <algorithm>
#include <array>

#include "autograd/support/error.h"
#include "train/transforms/gather_slices.h"
#include "train/transforms/upcycle.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

struct OwnersConfig final : Configurable {
  void fields(FieldVisitor& /*v*/) override {}
};

constexpr int64_t kPublic = 0;
constexpr int64_t kOwned = 1;

StateArray slice_of(const StateArray& array, int64_t expert) {
  const int64_t index[] = {expert};
  return gather_slices(array, 0, index);
}

class OwnersMerge {
 public:
  OwnersMerge(const UpcycleJob& job, StateDict& state)
      : job_(job), files_(job.config().branch_files()), state_(state) {}

  std::vector<std::string> run() {
    check();
    for (auto& [path, array] : state_) {
      if (!path.starts_with("model/")) continue;
      const LayerPair* pair = pair_of(path);
      if (pair != nullptr && array.dims[0] == pair->experts.num_experts) {
        stack(path, *pair, array);
      } else {
        array = array_of(job_.from, job_.config().from, path, array.dims, array.type);
        check_branches_share(job_, path, array, "owners train their expert alone (train.freeze)");
      }
    }
    notes_.push_back(fmt::format(
        "expert 0 is the public feed-forward; experts 1 to {} are those of {} owners, in order",
        files_.size(), files_.size()));
    notes_.emplace_back("not the public function: tokens go to the owners' experts too");
    notes_.emplace_back("optimizer: reset");
    keep_position(job_, state_, notes_);
    return std::move(notes_);
  }

 private:
  void check() {
    const ModelConfig& model = job_.recipe.model;
    pairs_ = layer_pairs(job_.before.recipe.model, model, job_.config().from);
    SLUICE_CHECK(ConfigError, job_.config().router.type == "initial",
                 "upcycle.router: found {} with scheme owners, which takes the owners' rows; allowed "
                 "initial",
                 job_.config().router.type);
    const int64_t experts = std::ssize(files_) + 1;
    for (const LayerPair& pair : pairs_) {
      SLUICE_CHECK(ConfigError, pair.experts.num_experts == experts,
                   "upcycle.scheme owners: model.experts.num_experts is {}, allowed {}: the public "
                   "expert and those of {} branches",
                   pair.experts.num_experts, experts, files_.size());
    }
    constexpr std::array<std::string_view, 4> kOwn = {"experts.num_experts", "experts.top_k", "init",
                                                      "dropout"};
    check_branches_alike(job_, job_.recipe, kOwn);
  }

  /// The layer of experts that an array belongs to, its norm aside.
  [[nodiscard]] const LayerPair* pair_of(std::string_view path) const {
    for (const LayerPair& pair : pairs_) {
      for (const std::string_view part : {"experts", "router"}) {
        if (path.starts_with(fmt::format("model/{}.{}.", pair.name, part))) return &pair;
      }
    }
    return nullptr;
  }

  /// Slices of all owners, that of the public expert in front.
  void stack(const std::string& path, const LayerPair& pair, StateArray& array) {
    std::vector<int64_t> dims = array.dims;
    dims[0] = 2;
    StateArray merged{array.type, array.dims, {}};
    StateArray of_all;
    for (size_t i = 0; i < files_.size(); ++i) {
      const StateArray& both = array_of(job_.branches[i], files_[i], path, dims, array.type);
      const StateArray own = slice_of(both, kPublic);
      if (i == 0) {
        of_all = own;
        check_public(path, pair, own);
        merged.bytes = own.bytes;
      }
      SLUICE_CHECK(CheckpointError, own == of_all,
                   "{}: expert 0 of /{} is not that of {}; owners share it, bit for bit, and train "
                   "with train.freeze_experts: [0]",
                   files_[i], path, files_[0]);
      const StateArray owned = slice_of(both, kOwned);
      merged.bytes.insert(merged.bytes.end(), owned.bytes.begin(), owned.bytes.end());
    }
    array = std::move(merged);
  }

  /// Expert 0 of a stack of matrices is the public model's feed-forward.
  void check_public(const std::string& path, const LayerPair& pair, const StateArray& own) const {
    const std::string stack = fmt::format("model/{}.experts.", pair.name);
    if (!path.starts_with(stack)) return;
    const std::string dense =
        fmt::format("model/{}.feed_forward.{}", pair.name, path.substr(stack.size()));
    const std::vector<int64_t> dims(own.dims.begin() + 1, own.dims.end());
    const StateArray& wanted = array_of(job_.from, job_.config().from, dense, dims, own.type);
    SLUICE_CHECK(CheckpointError, wanted.bytes == own.bytes,
                 "{}: expert 0 of /{} is not /{} of {}, the public model, bit for bit", files_[0],
                 path, dense, job_.config().from);
  }

  const UpcycleJob& job_;
  std::vector<std::string> files_;
  std::vector<LayerPair> pairs_;
  StateDict& state_;
  std::vector<std::string> notes_;
};

}  // namespace

const UpcyclingEntry owners_upcycling = {
    .name = "owners",
    .doc = "experts that owners trained apart beside one public model (FlexOlmo, arXiv 2507.07024)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<OwnersConfig>();
    },
    .make = nullptr,
    .branches = Branches::needed,
    .carry_out = [](const Configurable&, const UpcycleJob& job,
                    StateDict& state) { return OwnersMerge(job, state).run(); },
};

}  // namespace sluice
