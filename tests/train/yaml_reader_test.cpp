#include "train/yaml_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "tests/train/sample_config.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using testing::GlobalAuxLoss;
using testing::kFullSample;
using testing::LossFreeBias;
using testing::SampleConfig;
using testing::SampleSource;
using testing::Scores;
using testing::SharedExperts;

// What is wrong with `text`, one message a line. `model.hidden_size`, the one required key, is
// given unless the text does.
std::string problems_of(const std::string& text) {
  SampleConfig config;
  YamlDocument document = parse_yaml(text, "r.yaml", "/recipes");
  const bool lacks_model = !document.is_broken && document.root.find("model") == nullptr;
  if (lacks_model) overlay(document.root, parse_yaml("model: {hidden_size: 8}", "", "/").root);
  return read_into(config, document).to_string();
}

SampleConfig read_sample(const std::string& text) {
  SampleConfig config;
  read_or_throw(config, parse_yaml(text, "r.yaml", "/recipes"));
  return config;
}

TEST(YamlReader, FillsEveryKindOfField) {
  const SampleConfig config = read_sample(kFullSample);
  EXPECT_EQ(config.seed, 7);
  EXPECT_FALSE(config.shuffle);
  EXPECT_EQ(config.model.pattern, "AF(AE)x5");
  EXPECT_EQ(config.model.scores, Scores::sigmoid);
  EXPECT_EQ(config.model.vocab_size, 4096);
  EXPECT_EQ(config.model.capacity_factor, 1.25);
  EXPECT_EQ(static_cast<const SharedExperts&>(*config.model.shared).num_experts, 2);
  ASSERT_EQ(config.balance.size(), 2U);
  EXPECT_EQ(config.balance[0].type, "loss_free_bias");
  EXPECT_EQ(static_cast<const LossFreeBias&>(*config.balance[0].config).update, "proportional");
  EXPECT_EQ(config.optimizer_balance.type, "none");
  EXPECT_EQ(config.weight_decay, 0.2);
  EXPECT_THAT(config.betas, ElementsAre(0.8, 0.999));
  EXPECT_THAT(config.stop_tokens, ElementsAre(0, 17));
  EXPECT_THAT(config.sinks, ElementsAre("tensor board", "a: b", "quoted \" and \\ and \n"));
  EXPECT_EQ(config.every, (Duration{2000, DurationUnit::steps}));
  EXPECT_EQ(config.max_tokens, (Duration{1.5e6, DurationUnit::tokens}));
}

TEST(YamlReader, ReadsANumberOrAScheduleByTheSameKey) {
  const Progress middle{.step = 50, .total_steps = 1000};
  EXPECT_EQ(
      read_sample("model: {hidden_size: 8}\nlearning_rate: 3.0e-4\n").learning_rate.at(middle),
      3e-4);
  const SampleConfig config = read_sample(kFullSample);
  EXPECT_EQ(config.learning_rate.type(), "cosine");
  EXPECT_DOUBLE_EQ(config.learning_rate.at(middle), 0.5e-3);
  const auto& loss = static_cast<const GlobalAuxLoss&>(*config.balance[1].config);
  EXPECT_DOUBLE_EQ(loss.coefficient.at(middle), 0.009);
}

TEST(YamlReader, ResolvesPathsFromTheFolderOfTheirText) {
  const SampleConfig config = read_sample(kFullSample);
  EXPECT_EQ(static_cast<const SampleSource&>(*config.sources[0]).path, "/recipes/text/prose.txt");
  EXPECT_EQ(static_cast<const SampleSource&>(*config.sources[1]).path, "/data/code.txt");
  EXPECT_EQ(config.output, "/recipes/runs/sample");
  EXPECT_EQ(config.init_from, "/recipes/base.h5");
  EXPECT_EQ(read_sample("model: {hidden_size: 8}\noutput: ../x/./y\n").output, "/x/y");
}

TEST(YamlReader, KeepsDefaultsOfWhatIsNotGiven) {
  const SampleConfig config = read_sample("model: {hidden_size: 8}");
  EXPECT_EQ(config.seed, 1);
  EXPECT_EQ(config.model.top_k, 2);
  EXPECT_EQ(config.optimizer_balance.type, "global_aux_loss");
  EXPECT_THAT(config.betas, ElementsAre(0.9, 0.95));
  EXPECT_EQ(config.init_from, std::nullopt);
}

TEST(YamlReader, ReadsTheAbsentWordOfAnOptional) {
  const SampleConfig config = read_sample(
      "model: {hidden_size: 8, vocab_size: auto, capacity_factor: none, shared: none}\n"
      "init_from: none\nmax_tokens: none\n");
  EXPECT_EQ(config.model.vocab_size, std::nullopt);
  EXPECT_EQ(config.model.shared, nullptr);
  EXPECT_EQ(config.init_from, std::nullopt);
  EXPECT_EQ(config.max_tokens, std::nullopt);
}

TEST(YamlReader, LetsAUnionWithADefaultLeaveItsTypeOut) {
  const SampleConfig config =
      read_sample("model: {hidden_size: 8}\noptimizer_balance: {coefficient: 0.5}\n");
  EXPECT_EQ(config.optimizer_balance.type, "global_aux_loss");
  EXPECT_EQ(
      static_cast<const GlobalAuxLoss&>(*config.optimizer_balance.config).coefficient.constant(),
      0.5);
}

TEST(YamlReader, TakesOneUnionWhereAListMayStand) {
  const SampleConfig config = read_sample("model: {hidden_size: 8}\nbalance: {type: none}\n");
  ASSERT_EQ(config.balance.size(), 1U);
  EXPECT_EQ(config.balance[0].type, "none");
}

TEST(YamlReader, ReadsAnchorsAndAliases) {
  const SampleConfig config = read_sample(
      "model: {hidden_size: &width 64, top_k: 1}\nseed: *width\n"
      "learning_rate: &rate {type: linear, from: 1, to: 0}\n"
      "balance: {type: global_aux_loss, coefficient: *rate}\n");
  EXPECT_EQ(config.seed, 64);
  EXPECT_EQ(static_cast<const GlobalAuxLoss&>(*config.balance[0].config).coefficient.type(),
            "linear");
}

TEST(YamlReader, ReportsAllProblemsInTheOrderOfTheText) {
  EXPECT_EQ(problems_of("seed: x\n"
                        "model:\n"
                        "  top_k: 12\n"
                        "  hiden_size: 8\n"
                        "weight_decay: 3\n"
                        "betas: 0.9\n"),
            "r.yaml:1:7: seed: found \"x\", allowed a whole number\n"
            "r.yaml:3:3: model.hidden_size: missing; it is width of the residual stream\n"
            "r.yaml:4:3: model.hiden_size: unknown key; did you mean \"hidden_size\"?\n"
            "r.yaml:5:15: weight_decay: found 3, allowed 0 to 1\n"
            "r.yaml:6:8: betas: found 0.9, allowed a list; write [0.9]");
}

TEST(YamlReader, ThrowsAllProblemsAsOneConfigError) {
  SampleConfig config;
  try {
    read_or_throw(config, parse_yaml("seed: x\nshuffle: 1\nmodel: {hidden_size: 8}", "r.yaml"));
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "r.yaml:1:7: seed: found \"x\", allowed a whole number\n"
                 "r.yaml:2:10: shuffle: found 1, allowed true or false");
  }
}

struct Case {
  const char* name;
  const char* text;
  const char* message;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.text; }
};

class YamlReaderMessage : public ::testing::TestWithParam<Case> {};

TEST_P(YamlReaderMessage, SaysWhereWhatWasFoundAndWhatIsAllowed) {
  EXPECT_EQ(problems_of(GetParam().text), GetParam().message);
}

const Case kScalarCases[] = {
    {"BooleanWord", "shuffle: yes", "r.yaml:1:10: shuffle: found \"yes\", allowed true or false"},
    {"IntegerFraction", "seed: 1.5", "r.yaml:1:7: seed: found 1.5, allowed a whole number"},
    {"IntegerExponent", "seed: 1e4",
     "r.yaml:1:7: seed: found 1e4, allowed a whole number; write 10000"},
    {"IntegerQuoted", "seed: \"4\"",
     "r.yaml:1:7: seed: found the text \"4\", allowed a whole number; remove the quotes"},
    {"IntegerTooLarge", "seed: 99999999999999999999",
     "r.yaml:1:7: seed: found 99999999999999999999, allowed a whole number of 64 bits"},
    {"IntegerRange", "model: {hidden_size: 8, num_experts: 0}",
     "r.yaml:1:38: model.num_experts: found 0, allowed 1 to 1024"},
    {"IntegerMinimum", "model: {hidden_size: 0}",
     "r.yaml:1:22: model.hidden_size: found 0, allowed at least 1"},
    {"IntegerKindWithRange", "model: {hidden_size: wide}",
     "r.yaml:1:22: model.hidden_size: found \"wide\", allowed a whole number of at least 1"},
    {"NumberNan", "weight_decay: .nan",
     "r.yaml:1:15: weight_decay: found \".nan\", allowed a number from 0 to 1"},
    {"NumberNanWord", "weight_decay: nan",
     "r.yaml:1:15: weight_decay: found \"nan\", allowed a number from 0 to 1"},
    {"NumberInfinity", "weight_decay: .inf",
     "r.yaml:1:15: weight_decay: found \".inf\", allowed a number from 0 to 1"},
    {"NumberOverflow", "weight_decay: 1e999",
     "r.yaml:1:15: weight_decay: found 1e999, allowed a number of double precision from 0 to 1"},
    {"NumberList", "weight_decay: [1]",
     "r.yaml:1:15: weight_decay: found a list, allowed a number from 0 to 1"},
    {"NumberNothing",
     "weight_decay:", "r.yaml:1:1: weight_decay: found nothing, allowed a number from 0 to 1"},
    {"OptionalNumber", "model: {hidden_size: 8, capacity_factor: 0}",
     "r.yaml:1:42: model.capacity_factor: found 0, allowed more than 0 or none"},
    {"OptionalWord", "model: {hidden_size: 8, vocab_size: none}",
     "r.yaml:1:37: model.vocab_size: found \"none\", allowed a whole number of at least 2 or auto"},
    {"Word", "model: {hidden_size: 8, scores: softmx}",
     "r.yaml:1:33: model.scores: found \"softmx\", allowed softmax, sigmoid; did you mean "
     "\"softmax\"?"},
    {"WordMap", "model: {hidden_size: 8, scores: {a: 1}}",
     "r.yaml:1:33: model.scores: found a mapping, allowed softmax, sigmoid"},
    {"Text", "model: {hidden_size: 8, pattern: [A]}",
     "r.yaml:1:34: model.pattern: found a list, allowed a text"},
    {"Duration", "every: 3 days",
     "r.yaml:1:8: every: found \"3 days\", allowed a duration: 300 steps, 2M tokens, 3 epochs, 10% "
     "(of "
     "the run), or a bare whole number of steps"},
    {"OptionalDuration", "max_tokens: [1]",
     "r.yaml:1:13: max_tokens: found a list, allowed a duration: 300 steps, 2M tokens, 3 epochs, "
     "10% "
     "(of the run), or a bare whole number of steps, or none"},
    {"ListItem", "betas: [0.9, 2]", "r.yaml:1:14: betas.1: found 2, allowed 0 to 1"},
    {"Path", "output: {a: b}", "r.yaml:1:9: output: found a mapping, allowed a path"},
    {"LongText",
     "seed: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
     "r.yaml:1:7: seed: found \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"..., "
     "allowed a "
     "whole number"},
};
INSTANTIATE_TEST_SUITE_P(Scalars, YamlReaderMessage, ::testing::ValuesIn(kScalarCases),
                         [](const auto& instance) { return instance.param.name; });

const Case kStructureCases[] = {
    {"ListForMap", "model: [1]", "r.yaml:1:8: model: found a list, allowed a mapping"},
    {"NothingForMap", "model:\nseed: 2", "r.yaml:1:1: model: found nothing, allowed a mapping"},
    {"MapForList", "sources: {path: a}",
     "r.yaml:1:10: sources: found a mapping, allowed a list of mappings"},
    {"ScalarForItem", "sources: [a.txt]",
     "r.yaml:1:11: sources.0: found \"a.txt\", allowed a mapping"},
    {"MissingInItem", "sources: [{weight: 1}]",
     "r.yaml:1:11: sources.0.path: missing; it is a text file or folder"},
    {"EmptyRequiredPath", "sources: [{path: ''}]",
     "r.yaml:1:18: sources.0.path: found an empty path"},
    {"OptionalObject", "model: {hidden_size: 8, shared: 2}",
     "r.yaml:1:33: model.shared: found 2, allowed a mapping or none"},
    {"AbbreviatedKey", "balance:\n  type: global_aux_loss\n  coef: 1",
     "r.yaml:3:3: balance.coef: unknown key of type \"global_aux_loss\"; did you mean "
     "\"coefficient\"?"},
    {"KeyOfAnotherChoice", "balance:\n  type: global_aux_loss\n  rate: 1",
     "r.yaml:3:3: balance.rate: not read by type \"global_aux_loss\"; it belongs to type "
     "\"loss_free_bias\""},
    {"KeyOfAnotherSection", "num_experts: 4",
     "r.yaml:1:1: num_experts: unknown key; it belongs to model"},
    {"KeyOfTheTop", "model: {hidden_size: 8, learning_rate: 1}",
     "r.yaml:1:25: model.learning_rate: unknown key; it belongs to the top level"},
    {"KeyOfAChoiceElsewhere", "model: {hidden_size: 8, coefficient: 1}",
     "r.yaml:1:25: model.coefficient: unknown key; it belongs to balance of type global_aux_loss"},
    {"UnknownKey", "sources: [{path: a, xyz: 1}]",
     "r.yaml:1:21: sources.0.xyz: unknown key; allowed: path, weight"},
    {"UnknownKeyWhereNoneIsAllowed", "balance: {type: none, xyz: 1}",
     "r.yaml:1:23: balance.xyz: unknown key of type \"none\"; none is allowed"},
    {"MissingType", "balance: {rate: 1}",
     "r.yaml:1:10: balance.type: missing; allowed: none, global_aux_loss, loss_free_bias"},
    {"UnknownType", "balance: [{type: loss_fre_bias}]",
     "r.yaml:1:18: balance.0.type: found \"loss_fre_bias\", allowed none, global_aux_loss, "
     "loss_free_bias; "
     "did you mean \"loss_free_bias\"?"},
    {"WordForUnion", "balance: loss_free_bias",
     "r.yaml:1:10: balance: found \"loss_free_bias\", allowed a mapping with a type; write {type: "
     "loss_free_bias}"},
    {"NumberOrSchedule", "learning_rate: fast",
     "r.yaml:1:16: learning_rate: found \"fast\", allowed a number of at least 0 or a schedule "
     "such as "
     "{type: cosine, ...}"},
    {"ScheduleType", "learning_rate: {type: cosin}",
     "r.yaml:1:23: learning_rate.type: found \"cosin\", allowed constant, linear, exponential, "
     "cosine, wsd, inverse_sqrt, piecewise; did you mean \"cosine\"?"},
    {"ScheduleKey", "learning_rate: {type: cosine, peak: 1, warm_up: 3}",
     "r.yaml:1:40: learning_rate.warm_up: unknown key of type \"cosine\"; did you mean "
     "\"warmup\"?"},
    {"ScheduleRange", "learning_rate: {type: linear, from: 1, to: -1}",
     "r.yaml:1:16: learning_rate: the schedule reaches -1, allowed at least 0"},
    {"ScheduleMissing", "learning_rate: {type: cosine}",
     "r.yaml:1:16: learning_rate.peak: missing; it is value at the end of the warm-up"},
    {"ScheduleCheck",
     "learning_rate: {type: piecewise, points: [{at: 9, value: 1}, {at: 3, value: 1}]}",
     "r.yaml:1:67: learning_rate.points.1.at: found 3 steps, allowed more than 9 steps"},
    {"CheckAtItsKey", "model:\n  hidden_size: 8\n  top_k: 12\n",
     "r.yaml:3:10: model.top_k: found 12, allowed 1 to 8 (num_experts)"},
    {"CheckOfADefault", "model:\n  num_experts: 1\n  hidden_size: 8\n",
     "r.yaml:2:3: model.top_k: found 2, allowed 1 to 1 (num_experts)"},
};
INSTANTIATE_TEST_SUITE_P(Structure, YamlReaderMessage, ::testing::ValuesIn(kStructureCases),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace sluice
