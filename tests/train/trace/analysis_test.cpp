#include "train/trace/analysis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"
#include "train/evaluate_checkpoint.h"
#include "train/trace/analysis_text.h"
#include "train/trace/trace_file.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ScratchFolder;
using testing::tiny_trained;

class TraceAnalysisTest : public ::testing::Test {
 protected:
  /// The held-out routes of a model after some steps.
  std::string trace_of(int64_t steps, std::string_view changes = {}) {
    TrainedModel trained = tiny_trained(changes, steps);
    const std::string path = (scratch_ / fmt::format("trace_{}.h5", traces_++)).string();
    evaluation_ = evaluate_checkpoint(trained, {}, {.record = path});
    return path;
  }
  std::string error_of(const std::string& path, const TraceAnalysisOptions& options) {
    return testing::error_of<DataError>([&] { (void)analyse_trace(path, options); });
  }

  int traces_ = 0;
  Evaluation evaluation_;
  ScratchFolder scratch_;
};

TEST_F(TraceAnalysisTest, CountsWhatTheEvaluationCounted) {
  const std::string path = trace_of(3);
  const TraceAnalysis analysis = analyse_trace(path, {});
  ASSERT_EQ(analysis.layers.size(), evaluation_.loads.size());
  int64_t tokens = 0;
  for (size_t d = 0; d < evaluation_.domains.size(); ++d) {
    EXPECT_EQ(analysis.domain_tokens[d], evaluation_.domains[d].loss.tokens);
    tokens += analysis.domain_tokens[d];
  }
  EXPECT_EQ(analysis.counted, tokens);
  for (size_t layer = 0; layer < analysis.layers.size(); ++layer) {
    EXPECT_EQ(analysis.layers[layer].counts, evaluation_.loads[layer].counts);
    EXPECT_EQ(analysis.layers[layer].load.max_vio,
              load_statistics(evaluation_.loads[layer]).max_vio);
  }
}

TEST_F(TraceAnalysisTest, DoesNotDependOnHowMuchIsReadAtATime) {
  const std::string path = trace_of(2);
  TraceAnalysisOptions options{.against = trace_of(1),
                               .segments = {4, 16},
                               .cache = {1.0, 2.0},
                               .vocabulary = 3,
                               .vocabulary_least = 2};
  const auto whole = analysis_json(analyse_trace(path, options), options);
  options.slab_tokens = 1;
  EXPECT_EQ(analysis_json(analyse_trace(path, options), options), whole);
}

TEST_F(TraceAnalysisTest, IsSaturatedAgainstItself) {
  const std::string path = trace_of(0);
  const TraceAnalysis same = analyse_trace(path, {.against = path});
  EXPECT_EQ(same.model.overlap->saturation(), 1.0);
  EXPECT_EQ(same.model.overlap->fluctuation(), 0.0);
  const TraceAnalysis other = analyse_trace(path, {.against = trace_of(8)});
  EXPECT_LT(other.model.overlap->saturation(), 1.0);
  EXPECT_GT(other.model.overlap->saturation(), 0.0);
  EXPECT_EQ(other.model.overlap->tokens, 2 * other.counted);
}

TEST_F(TraceAnalysisTest, SharesOneCacheOverLayers) {
  const TraceAnalysis analysis = analyse_trace(trace_of(1), {.cache = {2.0}});
  const CacheReport& shared = analysis.model.caches.at(0);
  EXPECT_EQ(shared.capacity, 8) << "2 * (2 + 2)";
  EXPECT_EQ(shared.lru.requests, 4 * analysis.tokens);
  EXPECT_EQ(shared.lru.hits, shared.lru.requests) << "two layers of 4 experts";
  EXPECT_EQ(analysis.layers[0].caches.at(0).capacity, 4);
}

TEST_F(TraceAnalysisTest, RefusesTracesThatCannotBeCompared) {
  const std::string path = trace_of(0);
  EXPECT_THAT(error_of(path, {.against = trace_of(0, "model: {experts: {num_experts: 8}}")}),
              HasSubstr("of a model with [8, 8] experts"));
  EXPECT_THAT(error_of(path, {.against = trace_of(0, "train: {evaluate: {max_tokens: 20}}")}),
              HasSubstr("compare traces of the same held-out text"));
  EXPECT_THAT(error_of(path, {.against = trace_of(0, "seed: 8")}),
              HasSubstr("compare traces of the same held-out text"));
}

TEST_F(TraceAnalysisTest, ShowsItsTables) {
  const std::string path = trace_of(2);
  const TraceAnalysisOptions options{.against = path,
                                     .segments = {4, 4096},
                                     .cache = {2.0},
                                     .vocabulary = 2,
                                     .vocabulary_least = 2};
  const std::string text = analysis_text(analyse_trace(path, options), options);
  EXPECT_THAT(text,
              AllOf(HasSubstr("held-out text after step 2"), HasSubstr("saturation"),
                    HasSubstr("domain specialisation"), HasSubstr("co-activation"),
                    HasSubstr("size ratio"), HasSubstr("SCH m=4"), HasSubstr("clairvoyant"),
                    HasSubstr("vocabulary specialisation"), HasSubstr("no sequence is that long")));
}

// --- eval ----------------------------------------------------------------------------------------

TEST_F(TraceAnalysisTest, AnEvaluationReplaysItsOwnRoutesToTheSameLoss) {
  const std::string path = trace_of(3);
  const double loss = evaluation_.loss.nats;
  TrainedModel trained = tiny_trained({}, 3);
  EXPECT_EQ(evaluate_checkpoint(trained, {}, {.replay = path}).loss.nats, loss);
  EXPECT_EQ(
      evaluate_checkpoint(trained, {}, {.replay = path, .replay_recorded_weights = true}).loss.nats,
      loss);
  EXPECT_EQ(evaluate_checkpoint(trained, {}).loss.nats, loss) << "nothing stays behind";
}

TEST_F(TraceAnalysisTest, AnEvaluationTakesTheRoutesOfAnEarlierModel) {
  const std::string early = trace_of(0);
  TrainedModel trained = tiny_trained({}, 8);
  const double own = evaluate_checkpoint(trained, {}).loss.nats;
  const std::string path = (scratch_ / "replayed.h5").string();
  EXPECT_NE(evaluate_checkpoint(trained, {}, {.record = path, .replay = early}).loss.nats, own);
  const TraceAnalysis analysis = analyse_trace(path, {.against = early});
  EXPECT_EQ(analysis.model.overlap->saturation(), 1.0);
}

TEST_F(TraceAnalysisTest, AnEvaluationWritesOverNothing) {
  const std::string path = trace_of(0);
  TrainedModel trained = tiny_trained();
  EXPECT_THAT([&] { (void)evaluate_checkpoint(trained, {}, {.record = path}); },
              ::testing::ThrowsMessage<ConfigError>(HasSubstr("exists; remove it")));
}

}  // namespace
}  // namespace sluice
