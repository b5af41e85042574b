#include "layers/modalities.h"

#include <gtest/gtest.h>

#include "layers/token_subset.h"
#include "tests/layers/modality_models.h"

namespace sluice {
namespace {

using testing_support::element;

ModalitiesConfig config_of(std::vector<std::string> names, std::vector<int64_t> first) {
  ModalitiesConfig config;
  config.names = std::move(names);
  config.first_tokens = std::move(first);
  return config;
}

TEST(Modalities, OfTokensFollowFromTheirIds) {
  const ModalitiesConfig config = config_of({"text", "image", "speech"}, {0, 10, 30});
  EXPECT_EQ(config.check(), "");
  const std::vector<int32_t> ids = {0, 9, 10, 29, 30, 5000};
  const std::vector<int32_t> expected = {0, 0, 1, 1, 2, 2};
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(config.of_token(ids[i]), expected[i]);
  EXPECT_EQ(config_of({"a", "b"}, {}).of_token(77), 0);
}

TEST(Modalities, AreSeveralWithNamesAndRanges) {
  EXPECT_EQ(config_of({"text"}, {}).check(), "names: found 1, allowed two or more modalities");
  EXPECT_EQ(config_of({"a", "b", "a"}, {}).check(),
            "names: found a twice, allowed names that differ");
  EXPECT_EQ(config_of({"a", "b"}, {}).check(), "");
  for (const std::vector<int64_t>& wrong : {std::vector<int64_t>{0}, {1, 5}, {0, 0}, {0, 5, 3}}) {
    EXPECT_EQ(config_of({"a", "b"}, wrong).check().substr(0, 20), "first_tokens: found ");
  }
}

/// A pass over tokens of these modalities.
struct Tokens {
  Pool pool;
  Tape tape{pool};
  std::vector<int32_t> modalities;
  SequenceLayout layout;
  ForwardContext context;
  explicit Tokens(std::vector<int32_t> of_token)
      : modalities(std::move(of_token)),
        layout(SequenceLayout::single(pool, std::ssize(modalities))),
        context{tape, layout} {
    context.modalities = modalities;
  }
};

TEST(ModalityRows, StandInOrderOfModalitiesAndComeBack) {
  Tokens tokens({1, 0, 2, 1, 1, 0});
  const ModalityRows rows(tokens.context, 4);
  EXPECT_EQ(std::vector<int32_t>(rows.offsets.span<int32_t>().begin(),
                                 rows.offsets.span<int32_t>().end()),
            (std::vector<int32_t>{0, 2, 5, 6, 6}));
  const Tensor x =
      Tensor::of<double>(tokens.pool, {6, 1}, std::vector<double>{10, 11, 12, 13, 14, 15});
  const Tensor in = tokens.tape.input(x);
  const Tensor sorted = rows.gather(tokens.tape, in);
  const std::vector<double> expected = {11, 15, 10, 13, 14, 12};
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(element(sorted, i), expected[static_cast<size_t>(i)]);
  const Tensor again = rows.scatter(tokens.tape, sorted);
  EXPECT_TRUE(testing_support::same_bits(again, x));
  const std::vector<Tensor> grads = {
      Tensor::of<double>(tokens.pool, {6, 1}, std::vector<double>{1, 2, 3, 4, 5, 6})};
  const std::vector<Tensor> outputs = {again};
  tokens.tape.backward(outputs, grads);
  for (int64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(element(tokens.tape.gradient(in), i), static_cast<double>(i + 1));
  }
}

TEST(ModalityRows, OfASubsetAreThoseOfItsTokens) {
  Tokens tokens({1, 0, 1, 1, 0});
  const std::vector<uint8_t> chosen = {1, 0, 0, 1, 1};
  const auto subset = TokenSubset::of(tokens.context, chosen);
  const ForwardContext inner = subset->context(tokens.context);
  EXPECT_EQ(std::vector<int32_t>(inner.modalities.begin(), inner.modalities.end()),
            (std::vector<int32_t>{1, 1, 0}));
  const ModalityRows rows(inner, 2);
  EXPECT_EQ(rows.offsets.span<int32_t>()[1], 1);
}

TEST(ModalityRows, NeedModalities) {
  Tokens tokens({0, 1});
  tokens.context.modalities = {};
  EXPECT_THROW(ModalityRows(tokens.context, 2), InternalError);
}

TEST(Modalities, OfADocumentMayBeThoseOfItsDomain) {
  // The first domain says its modality, tokens of the second go by their ids.
  Pool pool;
  ModelConfig config = testing_support::modality_config(untied_feed_forward_feed_forward, "AZ",
                                                        nlohmann::json::object(), "f64");
  config.domain_modalities = {1, kByTokenId};
  const Model model(pool, config, 3);
  config.domain_modalities = {};
  const Model by_ids(pool, config, 3);
  for (const int64_t only : {0, 1}) {
    auto batch = testing_support::tokens_of_modality(pool, only);
    auto other = testing_support::tokens_of_modality(pool, only);
    std::ranges::fill(batch.layout.document_domains, 0);
    std::ranges::fill(other.layout.document_domains, 1);
    const Tensor expected = testing_support::hidden_of(pool, by_ids, batch);
    EXPECT_TRUE(
        testing_support::same_bits(testing_support::hidden_of(pool, model, other), expected));
    EXPECT_EQ(testing_support::same_bits(testing_support::hidden_of(pool, model, batch), expected),
              only == 1);
  }
}

}  // namespace
}  // namespace sluice
