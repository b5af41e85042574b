#include "train/trace/trace_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "train/trace/trace_writer.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ScratchFolder;
using ::testing::SizeIs;
using ::testing::StartsWith;

class TraceFileTest : public ::testing::Test {
 protected:
  /// Two sequences of 3 and 2 tokens; the second consists of two documents.
  [[nodiscard]] SequenceLayout layout(uint64_t first_sample) {
    SequenceLayout result;
    result.sequence_offsets = {0, 3, 5};
    result.document_offsets = {0, 3, 4, 5};
    result.global_samples = {first_sample, first_sample + 1};
    result.counted = {1, 1, 0, 1, 0};
    result.document_domains = {0, 1, 0};
    return result;
  }
  [[nodiscard]] static Selection selection(std::vector<int32_t> expert, int64_t top_k,
                                           int64_t experts = 4) {
    Selection result;
    result.tokens = std::ssize(expert) / top_k;
    result.experts = experts;
    result.top_k = top_k;
    result.expert = std::move(expert);
    return result;
  }
  void observe(TraceWriter& trace, int64_t layer, const SequenceLayout& at,
               const Selection& chosen) {
    std::vector<float> values(chosen.expert.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] = 0.5f + static_cast<float>(i);
    const Tensor weights =
        Tensor::of<float>(pool_, {chosen.tokens, chosen.top_k}, std::span<const float>(values));
    trace.observe({layer, scores_, chosen, at, weights, ids_, 2});
  }
  [[nodiscard]] TraceMeta meta() const {
    return {.kind = TraceKind::held_out,
            .step = 12,
            .vocab_size = 300,
            .experts = {4, 300},
            .domains = {"prose", "code"},
            .tokenizer_kind = "bytes",
            .tokenizer = ""};
  }
  [[nodiscard]] std::string path() const { return (scratch_ / "trace.h5").string(); }
  std::string write_two_micro_batches() {
    TraceWriter trace(path(), meta(), 16);
    const Selection narrow = selection({0, 1, 2, 3, 1, 0, 3, kNoExpert, 2, 1}, 2);
    const Selection wide =
        selection({0, 1, 2, 299, 1, 0, 3, kNoExpert, 2, 1, 5, 6, 7, 8, 254}, 3, 300);
    const SequenceLayout first = layout(10);
    const SequenceLayout second = layout(12);
    observe(trace, 0, first, narrow);
    observe(trace, 1, first, narrow);
    Selection dropping = narrow;
    dropping.dispatched = narrow.expert;
    dropping.dispatched[2] = kNoExpert;
    dropping.plan = {0.25, 0.5};
    dropping.shifted = true;
    observe(trace, 0, second, dropping);
    observe(trace, 1, second, wide);
    trace.finish();
    return path();
  }
  std::string error_of(const std::string& file) {
    return testing::error_of<DataError>([&] {
      const TraceFile trace(file);
      (void)trace.experts(0, 0, trace.tokens());
    });
  }

  Pool pool_;
  RouterScores scores_;
  std::vector<int32_t> ids_ = {7, 8, 9, 10, 299};
  ScratchFolder scratch_;
};

TEST_F(TraceFileTest, GivesBackWhatWasRouted) {
  const TraceFile trace(write_two_micro_batches());
  EXPECT_EQ(trace.meta().kind, TraceKind::held_out);
  EXPECT_EQ(trace.meta().step, 12);
  EXPECT_THAT(trace.meta().experts, ElementsAre(4, 300));
  EXPECT_THAT(trace.meta().layers, ElementsAre(0, 1));
  EXPECT_THAT(trace.meta().domains, ElementsAre("prose", "code"));
  EXPECT_EQ(trace.meta().tokenizer_kind, "bytes");
  EXPECT_EQ(trace.tokens(), 10);
  EXPECT_EQ(trace.documents(), 6);
  EXPECT_THAT(trace.token_ids(3, 7), ElementsAre(10, 299, 7, 8));
  EXPECT_THAT(trace.counted(0, 5), ElementsAre(1, 1, 0, 1, 0));
  EXPECT_THAT(trace.domains(2, 10), ElementsAre(0, 1, 0, 0, 0, 0, 1, 0));
  ASSERT_EQ(trace.sequences().size(), 4u);
  EXPECT_EQ(trace.sequences()[2].begin, 5);
  EXPECT_EQ(trace.sequences()[2].end, 8);
  EXPECT_EQ(trace.sequences()[2].sample, 12u);
  EXPECT_EQ(trace.sequences()[2].micro_batch, 1);
  EXPECT_EQ(trace.find(13), 3);
  EXPECT_EQ(trace.find(14), -1);

  EXPECT_EQ(trace.layer(0).top_k, 2);
  EXPECT_TRUE(trace.layer(0).shifted);
  EXPECT_FALSE(trace.layer(1).shifted);
  EXPECT_THAT(trace.experts(0, 3, 5), ElementsAre(3, kNoExpert, 2, 1));
  EXPECT_THAT(trace.weights(0, 3, 5), ElementsAre(6.5f, 7.5f, 8.5f, 9.5f));
  EXPECT_THAT(trace.dropped(0, 0, 5), Each(0));
  EXPECT_THAT(trace.dropped(0, 5, 7), ElementsAre(0, 0, 1, 0));
  EXPECT_THAT(trace.plan(0, 0), IsEmpty());
  EXPECT_THAT(trace.plan(0, 1), ElementsAre(0.25, 0.5));
  EXPECT_THAT(trace.dropped(1, 0, 5), IsEmpty());
}

TEST_F(TraceFileTest, WidensWhereALaterMicroBatchHasMoreSlots) {
  const TraceFile trace(write_two_micro_batches());
  EXPECT_EQ(trace.layer(1).width, 3);
  EXPECT_THAT(trace.layer(1).slots, ElementsAre(2, 2, 3, 3));
  EXPECT_THAT(trace.experts(1, 0, 1), ElementsAre(0, 1, kNoExpert));
  EXPECT_THAT(trace.weights(1, 0, 1), ElementsAre(0.5f, 1.5f, 0.0f));
  EXPECT_THAT(trace.experts(1, 5, 7), ElementsAre(0, 1, 2, 299, 1, 0));
  EXPECT_THAT(trace.experts(1, 9, 10), ElementsAre(7, 8, 254));
}

TEST_F(TraceFileTest, KeepsDropsAsWideAsRoutesThatWereWiderBefore) {
  TraceMeta of_one = meta();
  of_one.experts = {4};
  TraceWriter trace(path(), of_one, 16);
  const Selection narrow = selection({0, 1, 2, 3, 1, 0, 3, kNoExpert, 2, 1}, 2);
  Selection dropping = narrow;
  dropping.dispatched = narrow.expert;
  dropping.dispatched[2] = kNoExpert;
  observe(trace, 0, layout(10), narrow);
  observe(trace, 0, layout(12), selection({0, 1, 2, 1, 0, 3, 3, 2, 1, 0, 1, 3, 2, 3, 0}, 3));
  observe(trace, 0, layout(14), dropping);
  trace.finish();
  const TraceFile file(path());
  EXPECT_EQ(file.layer(0).width, 3);
  EXPECT_THAT(file.dropped(0, 0, 10), AllOf(SizeIs(30), Each(0)));
  EXPECT_THAT(file.dropped(0, 10, 12), ElementsAre(0, 0, 0, 1, 0, 0));
}

TEST_F(TraceFileTest, IsAsCompactAsTheNumbersAllow) {
  write_two_micro_batches();
  const hdf5::File file = hdf5::File::open(path(), raise_as<DataError>);
  EXPECT_EQ(file.info("/layers/0/expert").type, ElementType::u8);
  EXPECT_EQ(file.info("/layers/1/expert").type, ElementType::u16);
  EXPECT_EQ(file.info("/layers/0/weight").type, ElementType::f32);
  EXPECT_EQ(file.info("/tokens/id").type, ElementType::u16);
  EXPECT_EQ(file.text_attribute("/", "kind"), "held_out");
}

TEST_F(TraceFileTest, RecordsTheLayersAskedForOnly) {
  TraceMeta some = meta();
  some.layers = {1};
  TraceWriter trace(path(), some, 8);
  const SequenceLayout at = layout(0);
  const Selection chosen = selection({0, 1, 2, 3, 1}, 1);
  observe(trace, 0, at, chosen);
  observe(trace, 1, at, chosen);
  trace.finish();
  const TraceFile back(path());
  EXPECT_FALSE(back.has(0));
  EXPECT_THAT(back.experts(1, 0, 5), ElementsAre(0, 1, 2, 3, 1));
}

TEST_F(TraceFileTest, AppearsWholeOrNotAtAll) {
  {
    TraceWriter trace(path(), meta(), 8);
    observe(trace, 0, layout(0), selection({0, 1, 2, 3, 1}, 1));
    EXPECT_FALSE(std::filesystem::exists(path()));
  }
  EXPECT_TRUE(std::filesystem::is_empty(scratch_.path()));
}

TEST_F(TraceFileTest, RefusesALayerThatTheModelDoesNotHave) {
  TraceMeta wrong = meta();
  wrong.layers = {2};
  EXPECT_THROW(TraceWriter(path(), wrong, 8), ConfigError);
  EXPECT_TRUE(std::filesystem::is_empty(scratch_.path()));
}

TEST_F(TraceFileTest, NamesWhatIsWrongWithAFile) {
  EXPECT_EQ(error_of((scratch_ / "none.h5").string()),
            (scratch_ / "none.h5").string() + ": no such file");
  std::ofstream(scratch_ / "text.h5") << "not HDF5 at all";
  EXPECT_THAT(error_of((scratch_ / "text.h5").string()), HasSubstr("text.h5: not an HDF5 file"));
  hdf5::File other = hdf5::File::create(scratch_ / "other.h5", raise_as<DataError>);
  other.write_text("/note", "hello");
  other.close();
  EXPECT_THAT(error_of((scratch_ / "other.h5").string()),
              HasSubstr("other.h5: not a routing trace of sluice"));
  EXPECT_TRUE(looks_like_trace(scratch_ / "other.h5"));
  EXPECT_FALSE(looks_like_trace(scratch_ / "text.h5"));
}

TEST_F(TraceFileTest, NoticesTruncationAndFlippedBits) {
  write_two_micro_batches();
  const std::string whole = read_file(path(), raise_as<DataError>);
  for (const size_t bytes : {whole.size() / 4, whole.size() / 2, whole.size() - 1}) {
    const std::string cut = (scratch_ / "cut.h5").string();
    std::ofstream(cut, std::ios::binary) << whole.substr(0, bytes);
    const std::string error = error_of(cut);
    EXPECT_THAT(error, StartsWith(cut + ": ")) << bytes;
    EXPECT_NE(error, "no error") << bytes;
  }
  // The routes of layer 0 begin 0, 1, 2, 3, 1, 0, 3, 255.
  const size_t routes = whole.find(std::string("\x00\x01\x02\x03\x01\x00\x03\xff", 8));
  ASSERT_NE(routes, std::string::npos);
  std::string flipped = whole;
  flipped[routes] = '\x02';
  const std::string damaged = (scratch_ / "flipped.h5").string();
  std::ofstream(damaged, std::ios::binary) << flipped;
  EXPECT_THAT(error_of(damaged), AllOf(HasSubstr("flipped.h5"), HasSubstr("/layers/0/expert")));
}

TEST(TraceFolder, DropsWhatALaterStepLeft) {
  const ScratchFolder scratch;
  const TraceFolder traces(scratch.path());
  for (const int64_t step : {2, 4, 6}) {
    std::ofstream(traces.path_of(TraceKind::training, step)) << "x";
    std::ofstream(traces.path_of(TraceKind::held_out, step)) << "x";
  }
  std::ofstream(scratch / "step_7.h5") << "somebody else's";
  std::ofstream(scratch / "step_00000008.h5.tmp-1") << "half";
  traces.truncate_after(4);
  EXPECT_THAT(traces.steps(TraceKind::training), ElementsAre(2, 4));
  EXPECT_THAT(traces.steps(TraceKind::held_out), ElementsAre(2, 4));
  EXPECT_TRUE(std::filesystem::exists(scratch / "step_7.h5"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "step_00000008.h5.tmp-1"));
}

}  // namespace
}  // namespace sluice
