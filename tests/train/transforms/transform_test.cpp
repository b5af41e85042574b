// Pruning, merging, searching and slimming whole checkpoints.

#include "train/transforms/transform.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "autograd/support/file.h"
#include "tests/support/error_of.h"
#include "tests/support/transform_source.h"
#include "train/run.h"
#include "train/transforms/changed_model.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using testing::doubles_in;
using testing::doubles_of;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::logits_of;
using testing::tiny_checkpoint;
using testing::TransformInputs;
using testing::TransformSource;

const std::vector<int32_t> kTokens = {97, 101, 98, 99, 100, 97, 103, 98, 110, 99, 104, 97};

/// Elements of row e of the first axis.
std::vector<std::byte> row_of(const StateArray& array, int64_t e) {
  const size_t size = array.bytes.size() / static_cast<size_t>(array.dims[0]);
  const auto first =
      array.bytes.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(e) * size);
  return {first, first + static_cast<std::ptrdiff_t>(size)};
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0.0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

// --- pruning ---------------------------------------------------------------------------------------

TEST(Pruning, CutsWeightsRoutersBiasesAndMoments) {
  const TransformSource source("", 3);
  const Transformed made = source.made(
      "method: {type: prune, num_experts: 3, criterion: {type: reap}}\n"
      "optimizer: keep\nstep: keep\ndata: keep\n");
  const StateDict& before = source.checkpoint().state;
  const StateDict& after = made.checkpoint.state;
  ASSERT_EQ(made.receipt.layers.size(), 2U);
  int64_t cut = 0;
  for (const auto& [path, array] : after) {
    if (path.starts_with("run/") && path != "run/step" && path != "run/tokens") continue;
    const StateArray& whole = before.at(path);
    if (array.dims == whole.dims) {
      EXPECT_EQ(array, whole) << path;
      continue;
    }
    ++cut;
    const size_t layer =
        path.find("layers.1.") != path.npos || path.starts_with("balance/0") ? 0 : 1;
    const std::vector<int32_t>& kept = made.receipt.layers[layer].kept;
    ASSERT_EQ(array.dims[0], 3) << path;
    for (int64_t e = 0; e < 3; ++e) {
      EXPECT_EQ(row_of(array, e), row_of(whole, kept[static_cast<size_t>(e)])) << path;
    }
  }
  // Of each layer: three matrices and a router with two moments each, and a bias.
  EXPECT_EQ(cut, 2 * (4 * 3 + 1));
  EXPECT_EQ(made.checkpoint.meta.step, 3);
  const auto* experts = made.recipe.model.routed_layers().front();
  EXPECT_EQ(experts->num_experts, 3);
}

TEST(Pruning, OfNothingIsTheSameModelToTheBit) {
  const TransformSource source("", 2);
  for (const Choice& criterion : criterion_choices()) {
    const Transformed made = source.made(fmt::format(
        "method: {{type: prune, num_experts: 4, criterion: {{type: {}}}}}\n", criterion.name));
    for (const auto& [path, array] : made.checkpoint.state) {
      if (!path.starts_with("model/") && !path.starts_with("balance/")) continue;
      EXPECT_EQ(array, source.checkpoint().state.at(path)) << criterion.name << " " << path;
    }
    ASSERT_TRUE(made.receipt.parity);
    EXPECT_EQ(made.receipt.parity->largest_difference, 0.0);
    EXPECT_EQ(made.receipt.parity->loss_before, made.receipt.parity->loss_after);
  }
}

TEST(Pruning, KeepsTheBestScores) {
  const TransformSource source("", 2);
  const Transformed made =
      source.made("method: {type: prune, num_experts: 2, criterion: {type: easy_ep}}\n");
  for (const TransformReceipt::Layer& layer : made.receipt.layers) {
    ASSERT_EQ(layer.scores.size(), 4U);
    EXPECT_EQ(layer.kept, best_experts(layer.scores, 2));
  }
}

/// Balances nothing and gives the experts that are not kept no token.
class Mask final : public Balancer {
 public:
  Mask(const std::vector<int32_t>& kept, size_t experts)
      : shift_(experts, -std::numeric_limits<double>::infinity()) {
    for (const int32_t e : kept) shift_[static_cast<size_t>(e)] = 0.0;
  }
  [[nodiscard]] BalancerTraits traits() const override { return {.selects = true}; }
  void route(const RouterInput& input, Selection& selection) override {
    input.choose(shift_, selection);
  }

 private:
  std::vector<double> shift_;
};

TEST(Pruning, EqualsLogitsOfMinusInfinity) {
  for (const char* weights : {"renormalise", "softmax_after"}) {
    const TransformSource source(
        fmt::format("model: {{dtype: f64, experts: {{num_experts: 8, router: "
                    "{{weights: {}}}}}}}\nbalance: {{type: none}}",
                    weights));
    const Transformed made =
        source.made("method: {type: prune, num_experts: 3, criterion: {type: random}}\n");
    TrainedModel masked = build_trained_model(source.checkpoint(), "tiny.h5");
    std::vector<std::unique_ptr<Balancer>> masks;
    for (const TransformReceipt::Layer& layer : made.receipt.layers) {
      masks.push_back(std::make_unique<Mask>(layer.kept, 8));
    }
    masked.routing = std::make_unique<RoutingSession>(std::move(masks));
    TrainedModel pruned = build_trained_model(made.checkpoint, "pruned.h5");
    TrainedModel whole = build_trained_model(source.checkpoint(), "tiny.h5");
    const std::vector<double> logits = logits_of(pruned, kTokens);
    EXPECT_LE(largest_difference(logits, logits_of(masked, kTokens)), 1e-12) << weights;
    EXPECT_GT(largest_difference(logits, logits_of(whole, kTokens)), 1e-3) << weights;
  }
}

TEST(Pruning, OfExpertsThatNobodyChoseChangesNothing) {
  TransformInputs inputs{
      tiny_checkpoint("model: {dtype: f64, experts: {num_experts: 16}}\nbalance: {type: none}\n"
                      "data: {sequence_length: 4}")};
  const std::vector<Batch> all = inputs.text(4);
  // Four tokens choose at most eight of sixteen experts.
  const std::vector<Batch> text = {all.front().slice_sequences(0, 1)};
  ASSERT_EQ(text.front().num_tokens(), 4);
  const std::vector<LayerStatistics> seen = inputs.watch(text);
  const TransformInput input = inputs.on(text, seen);
  const auto changes_keeping = [&](auto&& score) {
    std::vector<ExpertChange> changes;
    for (const LayerStatistics& layer : seen) {
      ExpertChange change;
      std::vector<double> scores = layer.chosen;
      for (double& s : scores) s = score(s);
      change.kept = best_experts(scores, 8);
      changes.push_back(std::move(change));
    }
    return changes;
  };
  SingleRank communicator;
  TrainedModel& model = inputs.model;
  model.routing->begin_evaluation();
  double before = 0.0;
  for (const double nats : token_losses({*model.pool, *model.model, *model.routing, communicator},
                                        text.front(), inputs.progress)) {
    before += nats / static_cast<double>(text.front().valid_targets());
  }
  model.routing->end_evaluation();
  const auto used = changes_keeping([](double s) { return s; });
  ChangedModel pruned(input, used);
  EXPECT_NEAR(pruned.loss(used), before, 1e-13);
  const auto unused = changes_keeping([](double s) { return -s; });
  EXPECT_GT(std::abs(pruned.loss(unused) - before), 1e-4);
}

TEST(Pruning, LeavesAModelThatTrainsOn) {
  const TransformSource source("", 3);
  for (const char* kept : {"keep", "reset"}) {
    const Transformed made = source.made(fmt::format(
        "method: {{type: prune, num_experts: 2}}\noptimizer: {0}\nstep: {0}\ndata: {0}\n", kept));
    SingleRank communicator;
    sluice::Run run(made.recipe, communicator, made.checkpoint, "pruned");
    EXPECT_EQ(run.state().step, std::string(kept) == "keep" ? 3 : 0);
    EXPECT_TRUE(run.step().applied);
    EXPECT_TRUE(run.evaluate().has_value());
  }
}

TEST(Pruning, StartsABalancerAnewAsAWhole) {
  // Its prices run over the experts, the offers that it remembers over experts and slots.
  const TransformSource source("balance: {type: bip_online, window: 4096}", 2);
  const Transformed made = source.made("method: {type: prune, num_experts: 2}\n");
  EXPECT_THAT(made.receipt.notes, ::testing::Contains(HasSubstr("balance: ")));
  SingleRank communicator;
  sluice::Run fresh(made.recipe, communicator);
  const StateDict anew = testing::state_of(fresh);
  for (const auto& [path, array] : made.checkpoint.state) {
    if (!path.starts_with("balance/")) continue;
    EXPECT_EQ(array, anew.at(path)) << path;
  }
}

TEST(Pruning, FollowsTheSeed) {
  const TransformSource source("model: {experts: {num_experts: 8}}");
  const auto made = [&](int seed) {
    return source
        .made(fmt::format("method: {{type: prune, num_experts: 4, criterion: {{type: random}}}}\n"
                          "seeds: [{}]\n",
                          seed))
        .receipt.layers;
  };
  EXPECT_EQ(made(1)[0].kept, made(1)[0].kept);
  EXPECT_TRUE(made(1)[0].kept != made(2)[0].kept || made(1)[1].kept != made(2)[1].kept);
}

TEST(Pruning, WorksForOtherFormsOfExperts) {
  for (const char* form : {"mlp", "narrow", "latent, size: 8"}) {
    const TransformSource source(fmt::format("model: {{experts: {{form: {{type: {}}}}}}}", form),
                                 0);
    const Transformed made = source.made("method: {type: prune, num_experts: 2}\n");
    EXPECT_LT(made.receipt.after.total, made.receipt.before.total) << form;
    EXPECT_THAT(error_of<ConfigError>(
                    [&] { (void)source.made("method: {type: merge, num_experts: 2}\n"); }),
                HasSubstr("allowed swiglu"));
  }
}

TEST(Pruning, KeepsAScheduledNumberOfExpertsPerTokenWhereItIs) {
  const TransformSource source(
      "model: {experts: {top_k: {type: linear, from: 4, to: 2}}}\ntrain: {steps: 4}", 4);
  const Transformed made = source.made("method: {type: prune, num_experts: 2}\n");
  const auto* experts = made.recipe.model.routed_layers().front();
  EXPECT_EQ(experts->top_k_at({}), 2);
}

// --- what is refused -------------------------------------------------------------------------------

TEST(Transformations, SayWhatIsAllowed) {
  const TransformSource source;
  const auto refusal = [&](const std::string& settings) {
    return error_of<ConfigError>([&] { (void)source.made(settings); });
  };
  EXPECT_THAT(refusal("method: {type: prune, num_experts: 1}\n"),
              HasSubstr("method.num_experts: found 1, allowed 2 (model.experts.top_k of the model) "
                        "to 4 (model.experts.num_experts)"));
  EXPECT_THAT(refusal("method: {type: merge, num_experts: 5}\n"), HasSubstr("found 5, allowed 2"));
  EXPECT_THAT(refusal("method: {type: slim, intermediate_size: 13}\n"),
              HasSubstr("found 13, allowed 1 to 12"));
  EXPECT_THAT(refusal("method: {type: prune}\n"), HasSubstr("num_experts"));
  EXPECT_THAT(refusal("method: {type: pruen, num_experts: 2}\n"), HasSubstr("prune"));
  EXPECT_THAT(refusal("method: []\n"), HasSubstr("a method is needed"));
}

TEST(Transformations, NeedAModelOfExperts) {
  Recipe recipe = testing::tiny_dense_recipe();
  SingleRank communicator;
  sluice::Run run(recipe, communicator);
  const TransformSource dense(run.checkpoint(std::nullopt));
  EXPECT_THAT(
      error_of<ConfigError>([&] { (void)dense.made("method: {type: prune, num_experts: 2}\n"); }),
      HasSubstr("has no layer of experts (E) to transform"));
  const TransformSource pool("model: {experts: {pool_layers: all}}", 0);
  EXPECT_THAT(
      error_of<ConfigError>([&] { (void)pool.made("method: {type: prune, num_experts: 2}\n"); }),
      HasSubstr("several layers share"));
}

TEST(Transformations, NeedACheckpointThatIsThere) {
  TransformConfig config;
  read_or_throw(config, parse_yaml("from: nowhere\nmethod: {type: prune, num_experts: 2}\n", "t"));
  EXPECT_THAT(error_of<ConfigError>([&] { (void)Transformation(config); }),
              AllOf(HasSubstr("from: "), HasSubstr("nowhere: no such file or folder")));
}

// --- merging ---------------------------------------------------------------------------------------

const char* const kMethodsOfFour[] = {
    "type: merge, num_experts: 4",
    "type: merge, num_experts: 4, router: mean",
    "type: cluster, num_experts: 4",
    "type: recombine, num_experts: 4",
    "type: partial_merge, num_experts: 4",
    "type: search, num_experts: 4, population: 2, discrete: 3, continuous: 0",
    "type: slim, intermediate_size: 12"};

TEST(Merging, IntoAsManyExpertsIsTheSameModelToTheBit) {
  const TransformSource source("", 2);
  for (const char* method : kMethodsOfFour) {
    const Transformed made = source.made(fmt::format("method: {{{}}}\n", method));
    for (const auto& [path, array] : made.checkpoint.state) {
      if (path.starts_with("model/")) {
        EXPECT_EQ(array, source.checkpoint().state.at(path)) << method << " " << path;
      }
    }
    EXPECT_EQ(made.receipt.parity->largest_difference, 0.0) << method;
  }
}

const char* const kMethodsOfTwo[] = {
    "type: merge, num_experts: 2",
    "type: merge, num_experts: 2, router: mean, align: false",
    "type: cluster, num_experts: 2",
    "type: recombine, num_experts: 2, threshold: -1",
    "type: partial_merge, num_experts: 2, criterion: {type: reap}",
    "type: search, num_experts: 2, population: 2, discrete: 4, continuous: 4"};

TEST(Merging, LeavesAModelThatTrainsOn) {
  const TransformSource source("", 2);
  for (const char* method : kMethodsOfTwo) {
    const Transformed made = source.made(fmt::format("method: {{{}}}\noptimizer: keep\n", method));
    EXPECT_EQ(made.recipe.model.routed_layers().front()->num_experts, 2) << method;
    EXPECT_LT(made.receipt.after.bytes, made.receipt.before.bytes) << method;
    EXPECT_TRUE(std::isfinite(made.receipt.parity->loss_after)) << method;
    SingleRank communicator;
    sluice::Run run(made.recipe, communicator, made.checkpoint, "merged");
    EXPECT_TRUE(run.step().applied) << method;
  }
}

/// All experts of every layer become the first one, with their neurons in other orders.
Checkpoint identical_experts() {
  Checkpoint checkpoint = tiny_checkpoint("model: {dtype: f64}\nbalance: {type: none}");
  for (const char* layer : {"layers.1", "layers.3"}) {
    ExpertNeurons experts = read_neurons(checkpoint.state, layer);
    for (int64_t e = 1; e < 4; ++e) {
      for (int64_t i = 0; i < 12; ++i) {
        const auto from = experts.expert(0).subspan(static_cast<size_t>((i * 5 + e) % 12 * 48), 48);
        std::ranges::copy(from, experts.expert(e).subspan(static_cast<size_t>(i * 48)).begin());
      }
    }
    write_neurons(experts, layer, checkpoint.state);
  }
  return checkpoint;
}

TEST(Merging, OfIdenticalExpertsKeepsTheFunction) {
  const TransformSource source(identical_experts());
  for (const char* method :
       {"type: merge, num_experts: 2", "type: cluster, num_experts: 2",
        "type: partial_merge, num_experts: 2", "type: recombine, num_experts: 2"}) {
    const Transformed made = source.made(fmt::format("method: {{{}}}\n", method));
    EXPECT_LE(made.receipt.parity->relative_difference(), 1e-12) << method;
  }
  const Transformed unaligned =
      source.made("method: {type: merge, num_experts: 2, align: false}\n");
  EXPECT_GT(unaligned.receipt.parity->relative_difference(), 1e-4);
}

// Scores weigh the mean; those of logits may be below 0, and a mean is still between its parts.
TEST(Merging, GivesMeansWhateverTheCriterion) {
  const TransformSource source("", 2);
  for (const Choice& criterion : criterion_choices()) {
    const Transformed made = source.made(
        fmt::format("method: {{type: partial_merge, num_experts: 2, align: false, criterion: {{type: "
                    "{}}}}}\n",
                    criterion.name));
    for (const TransformReceipt::Layer& layer : made.receipt.layers) {
      const ExpertNeurons before = read_neurons(source.checkpoint().state, layer.path);
      const ExpertNeurons after = read_neurons(made.checkpoint.state, layer.path);
      for (size_t g = 0; g < layer.members.size(); ++g) {
        const auto merged = after.expert(static_cast<int64_t>(g));
        for (size_t i = 0; i < merged.size(); ++i) {
          double least = std::numeric_limits<double>::infinity();
          double most = -least;
          for (const int32_t e : layer.members[g]) {
            least = std::min(least, before.expert(e)[i]);
            most = std::max(most, before.expert(e)[i]);
          }
          ASSERT_GE(merged[i], least - 1e-12) << criterion.name;
          ASSERT_LE(merged[i], most + 1e-12) << criterion.name;
        }
      }
    }
  }
}

TEST(Transforming, RefusesToKeepMomentsThatAreNotThere) {
  Checkpoint bare = tiny_checkpoint("", 2);
  std::erase_if(bare.state, [](const auto& entry) { return entry.first.starts_with("optim/"); });
  const TransformSource source(std::move(bare));
  EXPECT_THAT(error_of<ConfigError>([&] {
                (void)source.made("method: {type: prune, num_experts: 3}\noptimizer: keep\n");
              }),
              HasSubstr("optimizer: found keep, but the checkpoint holds no moments"));
}

TEST(Merging, PutsEveryExpertIntoOneGroup) {
  const TransformSource source("model: {experts: {num_experts: 8}}", 2);
  for (const char* method : {"type: merge, num_experts: 3", "type: cluster, num_experts: 3",
                             "type: partial_merge, num_experts: 3"}) {
    const Transformed made = source.made(fmt::format("method: {{{}}}\n", method));
    for (const TransformReceipt::Layer& layer : made.receipt.layers) {
      ASSERT_EQ(layer.members.size(), 3U) << method;
      std::vector<int32_t> all;
      for (size_t g = 0; g < 3; ++g) {
        EXPECT_EQ(layer.members[g].front(), layer.kept[g]) << method;
        all.insert(all.end(), layer.members[g].begin(), layer.members[g].end());
      }
      std::ranges::sort(all);
      EXPECT_THAT(all, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7)) << method;
    }
  }
}

TEST(PartialMerging, KeepsTheBetterHalfToTheBit) {
  const TransformSource source("model: {experts: {num_experts: 8}}", 2);
  const Transformed made =
      source.made("method: {type: partial_merge, num_experts: 4, criterion: {type: frequency}}\n");
  for (const TransformReceipt::Layer& layer : made.receipt.layers) {
    const std::vector<int32_t> preserved = best_experts(layer.scores, 2);
    for (const int32_t e : preserved) {
      const auto place = std::ranges::find(layer.kept, e);
      ASSERT_NE(place, layer.kept.end());
      const auto g = place - layer.kept.begin();
      EXPECT_THAT(layer.members[static_cast<size_t>(g)], ElementsAre(e));
      const std::string path = fmt::format("model/{}.experts.w_down", layer.path);
      EXPECT_EQ(row_of(made.checkpoint.state.at(path), g),
                row_of(source.checkpoint().state.at(path), e));
    }
    // Frequencies are shares of all choices, wherever they went.
    double mass = 0.0;
    for (const auto& group : layer.members) {
      for (const int32_t e : group) mass += layer.scores[static_cast<size_t>(e)];
    }
    EXPECT_NEAR(mass, 1.0, 1e-12);
  }
}

TEST(Merging, NeedsARowPerExpertForMeans) {
  const TransformSource source("model: {experts: {router: {type: k_means}}}\nbalance: {type: none}",
                               0);
  EXPECT_THAT(error_of<ConfigError>(
                  [&] { (void)source.made("method: {type: cluster, num_experts: 2}\n"); }),
              HasSubstr("has no row per expert that could be averaged"));
}

// --- search ----------------------------------------------------------------------------------------

TEST(Search, IsTheSameForTheSameSeed) {
  const TransformSource source("model: {experts: {num_experts: 6}}", 2);
  const std::string method =
      "method: {type: search, num_experts: 3, population: 3, discrete: 6, continuous: 6}\n";
  const Transformed once = source.made(method);
  EXPECT_EQ(source.made(method).checkpoint.state, once.checkpoint.state);
  EXPECT_NE(source.made(method + "seeds: [2]\n").checkpoint.state, once.checkpoint.state);
}

/// The last number of the search's note: the best loss on the calibration text.
double best_loss(const TransformSource& source, int64_t discrete, int64_t continuous) {
  const Transformed made = source.made(fmt::format(
      "method: {{type: search, num_experts: 3, population: 2, discrete: {}, continuous: {}}}\n",
      discrete, continuous));
  const std::string& note = made.receipt.notes.front();
  return std::stod(note.substr(note.find("at first, ") + 10));
}

TEST(Search, NeverLosesWhatItFound) {
  const TransformSource source("model: {experts: {num_experts: 6}}", 2);
  double before = std::numeric_limits<double>::infinity();
  for (const auto& [discrete, continuous] : {std::pair{2, 0}, {6, 0}, {12, 0}, {12, 12}}) {
    const double loss = best_loss(source, discrete, continuous);
    EXPECT_LE(loss, before);
    before = loss;
  }
}

TEST(Search, OfKeptExpertsIsAPrunedModel) {
  const TransformSource source("model: {experts: {num_experts: 6}}", 2);
  const Transformed made = source.made(
      "method: {type: search, num_experts: 3, population: 2, discrete: 4, continuous: 0}\n");
  for (const TransformReceipt::Layer& layer : made.receipt.layers) {
    for (const char* name : {"experts.w_gate", "experts.w_down", "router.weight"}) {
      const std::string path = fmt::format("model/{}.{}", layer.path, name);
      for (size_t j = 0; j < 3; ++j) {
        EXPECT_EQ(row_of(made.checkpoint.state.at(path), static_cast<int64_t>(j)),
                  row_of(source.checkpoint().state.at(path), layer.kept[j]))
            << path;
      }
    }
  }
}

// --- slimming --------------------------------------------------------------------------------------

TEST(Slimming, OfNeuronsWithoutOutputChangesNothing) {
  Checkpoint checkpoint = tiny_checkpoint("model: {dtype: f64}\nbalance: {type: none}");
  for (const char* layer : {"layers.1", "layers.3"}) {
    const std::span<double> down =
        doubles_of(checkpoint.state, fmt::format("model/{}.experts.w_down", layer));
    // Of expert e the neurons e, e + 4 and e + 8.
    for (size_t at = 0; at < down.size(); ++at) {
      const size_t expert = at / (16 * 12);
      if (at % 12 % 4 == expert) down[at] = 0.0;
    }
  }
  const TransformSource source(checkpoint);
  const Transformed made = source.made("method: {type: slim, intermediate_size: 9}\n");
  EXPECT_LE(made.receipt.parity->relative_difference(), 1e-12);
  const Transformed fewer = source.made("method: {type: slim, intermediate_size: 8}\n");
  EXPECT_GT(fewer.receipt.parity->relative_difference(), 1e-6);
}

TEST(Slimming, LeavesTheParametersOfTheFormula) {
  const TransformSource source("", 2);
  const Transformed made =
      source.made("method: {type: slim, intermediate_size: 5}\noptimizer: keep\n");
  // Two layers of four experts, three matrices of 16 columns.
  EXPECT_EQ(made.receipt.before.total - made.receipt.after.total, 2 * 4 * 3 * 16 * (12 - 5));
  EXPECT_EQ(made.receipt.before.active - made.receipt.after.active, 2 * 2 * 3 * 16 * (12 - 5));
  EXPECT_EQ(made.receipt.after.bytes, 4 * made.receipt.after.total);
  SingleRank communicator;
  sluice::Run run(made.recipe, communicator, made.checkpoint, "slim");
  EXPECT_TRUE(run.step().applied);
}

TEST(Slimming, CutsMomentsLikeWeights) {
  const TransformSource source("", 3);
  const Transformed made =
      source.made("method: {type: slim, intermediate_size: 5}\noptimizer: keep\n");
  const StateDict& before = source.checkpoint().state;
  const StateDict& after = made.checkpoint.state;
  // Which neuron of expert 2 each kept one is: found by its weights.
  const auto column = [](const StateArray& down, size_t e, size_t width, size_t i) {
    const auto values = down.values<float>();
    std::vector<float> result;
    for (size_t d = 0; d < 16; ++d) result.push_back(values[(e * 16 + d) * width + i]);
    return result;
  };
  const std::string name = "layers.1.experts.w_down";
  for (size_t i = 0; i < 5; ++i) {
    const auto own = column(after.at("model/" + name), 2, 5, i);
    size_t source_neuron = 12;
    for (size_t j = 0; j < 12; ++j) {
      if (column(before.at("model/" + name), 2, 12, j) == own) source_neuron = j;
    }
    ASSERT_LT(source_neuron, 12U);
    EXPECT_EQ(column(after.at("optim/" + name + "/m"), 2, 5, i),
              column(before.at("optim/" + name + "/m"), 2, 12, source_neuron));
  }
}

TEST(Slimming, InTwoStagesEndsWithTheShapesOfOne) {
  const TransformSource source("", 1);
  const Transformed once = source.made("method: {type: slim, intermediate_size: 4}\n");
  const TransformSource halfway(
      source.made("method: {type: slim, intermediate_size: 8}\n").checkpoint);
  const Transformed twice = halfway.made("method: {type: slim, intermediate_size: 4}\n");
  ASSERT_EQ(once.checkpoint.state.size(), twice.checkpoint.state.size());
  for (const auto& [path, array] : once.checkpoint.state) {
    EXPECT_EQ(array.dims, twice.checkpoint.state.at(path).dims) << path;
  }
}

// --- files -----------------------------------------------------------------------------------------

TEST(Transformations, WriteARunWithAReceipt) {
  const TransformSource source("", 2);
  const Transformed made = source.made("method: {type: merge, num_experts: 3}\n");
  const auto folder = source.folder() / "run";
  write_transformed(made, folder);
  const auto json =
      nlohmann::json::parse(read_file(folder / "transform.json", raise_as<DataError>));
  EXPECT_EQ(json.at("method"), "merge");
  EXPECT_EQ(json.at("before").at("parameters"), made.receipt.before.total);
  EXPECT_EQ(json.at("layers").size(), 2U);
  EXPECT_EQ(json.at("layers")[0].at("scores").size(), 4U);
  EXPECT_GT(json.at("parity").at("tokens").get<int64_t>(), 0);
  const Checkpoint back = read_checkpoint(folder / "checkpoints" / checkpoint_name(0));
  EXPECT_EQ(back.state, made.checkpoint.state);
  EXPECT_EQ(back.meta.recipe, read_file(folder / "recipe.yaml", raise_as<DataError>));
  EXPECT_THAT(error_of<ConfigError>([&] { write_transformed(made, folder); }),
              HasSubstr("holds a run already"));
}

}  // namespace
}  // namespace sluice
