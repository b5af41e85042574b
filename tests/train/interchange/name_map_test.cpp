#include "train/interchange/name_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <numeric>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

constexpr auto kRows = std::to_array<NameRow>({
    {"embedding.weight", "wte"},
    {"layers.{2i}.w_q", "h.{i}.qkv", Form::transposed},
    {"layers.{2i}.w_k", "h.{i}.qkv", Form::transposed},
    {"layers.{2i}.b_q", "h.{i}.bias"},
    {"layers.{2i}.b_k", "h.{i}.bias"},
    {"layers.{2i+1}.w_gate", "h.{i}.experts.{e}.gate"},
    {"layers.{2i+1}.w_up", "h.{i}.experts.{e}.up"},
    {"layers.{2i+1}.w_gate", "h.{i}.fused", Form::all_experts},
    {"layers.{2i+1}.w_up", "h.{i}.fused", Form::all_experts},
    {"layers.{2i}.conv", "h.{i}.conv", Form::convolution},
});
const NameMap kMap{kRows, "", {}};

const std::vector<ParameterShape> kParameters = {
    {"embedding.weight", {7, 3}},   {"layers.4.w_q", {4, 3}},     {"layers.4.w_k", {2, 3}},
    {"layers.4.b_q", {4}},          {"layers.4.b_k", {2}},        {"layers.4.conv", {5, 4}},
    {"layers.5.w_gate", {2, 4, 3}}, {"layers.5.w_up", {2, 4, 3}},
};

std::vector<Piece> pieces(bool fused) {
  return pieces_of(kMap, kParameters, [fused](const std::string& name) {
    return fused ? name.find("experts.") == std::string::npos
                 : name.find("fused") == std::string::npos;
  });
}

/// All tensors, made of parameters that hold different numbers everywhere.
using Values = std::map<std::string, std::vector<float>>;
int64_t product(const std::vector<int64_t>& dims) {
  return std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>());
}
std::vector<std::vector<float>> parameters() {
  std::vector<std::vector<float>> result;
  float next = 0.0f;
  for (const ParameterShape& parameter : kParameters) {
    result.emplace_back(static_cast<size_t>(product(parameter.dims)));
    for (float& value : result.back()) value = ++next;
  }
  return result;
}
Values written(const std::vector<Piece>& all, const Rotation& rotation = {}) {
  Values tensors;
  const auto ours = parameters();
  for (const Piece& piece : all) {
    auto& tensor = tensors[piece.tensor];
    tensor.resize(static_cast<size_t>(product(piece.tensor_dims)));
    write_piece(piece, rotation, ours[piece.parameter], tensor);
  }
  return tensors;
}

TEST(NameMap, PutsPartsOfATensorBehindEachOther) {
  const Values tensors = written(pieces(false));
  const auto ours = parameters();
  // [3, 4 + 2]: column c of the queries, then of the keys.
  const std::vector<float>& qkv = tensors.at("h.2.qkv");
  ASSERT_EQ(qkv.size(), 18u);
  for (size_t c = 0; c < 3; ++c) {
    for (size_t row = 0; row < 4; ++row) EXPECT_EQ(qkv[c * 6 + row], ours[1][row * 3 + c]);
    for (size_t row = 0; row < 2; ++row) EXPECT_EQ(qkv[c * 6 + 4 + row], ours[2][row * 3 + c]);
  }
  std::vector<float> both = ours[3];
  both.insert(both.end(), ours[4].begin(), ours[4].end());
  EXPECT_EQ(tensors.at("h.2.bias"), both);
}

TEST(NameMap, GivesEveryExpertItsOwnTensorOrAllOne) {
  const auto ours = parameters();
  const Values single = written(pieces(false));
  EXPECT_EQ(single.at("h.2.experts.1.up"), std::vector<float>(ours[7].begin() + 12, ours[7].end()));
  const Values fused = written(pieces(true));
  EXPECT_FALSE(fused.contains("h.2.experts.0.gate"));
  const std::vector<float>& all = fused.at("h.2.fused");  // [2, 4 + 4, 3]
  ASSERT_EQ(all.size(), 48u);
  for (size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(all[i], ours[6][i]);
    EXPECT_EQ(all[12 + i], ours[7][i]);
    EXPECT_EQ(all[24 + i], ours[6][12 + i]);
    EXPECT_EQ(all[36 + i], ours[7][12 + i]);
  }
}

TEST(NameMap, SaysTheShapesOfTensors) {
  std::map<std::string, std::vector<int64_t>> dims;
  for (const Piece& piece : pieces(true)) dims[piece.tensor] = piece.tensor_dims;
  EXPECT_THAT(dims.at("wte"), ElementsAre(7, 3));
  EXPECT_THAT(dims.at("h.2.qkv"), ElementsAre(3, 6));
  EXPECT_THAT(dims.at("h.2.bias"), ElementsAre(6));
  EXPECT_THAT(dims.at("h.2.conv"), ElementsAre(5, 1, 4));
  EXPECT_THAT(dims.at("h.2.fused"), ElementsAre(2, 8, 3));
}

TEST(NameMap, ReadsBackWhatItWrote) {
  for (const bool fused : {false, true}) {
    const auto all = pieces(fused);
    const Values tensors = written(all);
    auto ours = parameters();
    for (auto& values : ours) std::ranges::fill(values, -1.0f);
    for (const Piece& piece : all) {
      const std::vector<float>& tensor = tensors.at(piece.tensor);
      read_piece(
          piece, {},
          [&](int64_t first, std::span<float> out) {
            std::copy_n(tensor.begin() + first, out.size(), out.begin());
          },
          ours[piece.parameter]);
    }
    EXPECT_EQ(ours, parameters());
  }
}

TEST(NameMap, NamesAParameterWithoutARow) {
  const std::vector<ParameterShape> odd = {{"layers.4.w_gate", {2, 4, 3}}};  // an even sublayer
  EXPECT_EQ(testing::error_of<ConfigError>(
                [&] { (void)pieces_of(kMap, odd, [](const std::string&) { return true; }); }),
            "the parameter layers.4.w_gate has no tensor there");
}

TEST(NameMap, TurnsHalfSplitHeadsIntoInterleavedOnesAndBack) {
  // Two heads of width 4, one column: half-split rows 0 1 2 3 are interleaved rows 0 2 1 3.
  Piece piece{.form = Form::query, .rows = 8, .columns = 1, .tensor_rows = 8};
  const std::vector<float> ours = {0, 1, 2, 3, 4, 5, 6, 7};
  std::vector<float> theirs(8);
  write_piece(piece, {HeadOrder::theirs_interleaved, 4}, ours, theirs);
  EXPECT_THAT(theirs, ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
  const auto read = [&](HeadOrder order, const std::vector<float>& from) {
    std::vector<float> to(8);
    read_piece(
        piece, {order, 4},
        [&](int64_t first, std::span<float> out) {
          std::copy_n(from.begin() + first, out.size(), out.begin());
        },
        to);
    return to;
  };
  EXPECT_EQ(read(HeadOrder::theirs_interleaved, theirs), ours);
  EXPECT_EQ(read(HeadOrder::ours_interleaved, ours), theirs);
  // Heads of width 6, where the permutation is no involution.
  piece.rows = 6;
  piece.tensor_rows = 6;
  const std::vector<float> wide = {0, 1, 2, 3, 4, 5};
  std::vector<float> turned(6);
  write_piece(piece, {HeadOrder::theirs_interleaved, 6}, wide, turned);
  EXPECT_THAT(turned, ElementsAre(0, 3, 1, 4, 2, 5));
  std::vector<float> back(6);
  write_piece(piece, {HeadOrder::ours_interleaved, 6}, turned, back);
  EXPECT_EQ(back, wide);
  // Values do not rotate.
  piece.form = Form::same;
  write_piece(piece, {HeadOrder::theirs_interleaved, 6}, wide, turned);
  EXPECT_EQ(turned, wide);
}

}  // namespace
}  // namespace sluice
