#include "train/checkpoint/packed_ternary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "autograd/ops/ternary.h"
#include "tests/support/error_of.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::error_of;

template <class T>
StateArray array_of(std::vector<int64_t> dims, const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {element_type_of<T>, std::move(dims), {bytes.begin(), bytes.end()}};
}

/// g t of each matrix.
template <class T>
StateArray ternarised(const StateArray& array) {
  Pool pool;
  Tape tape(pool);
  const auto values = array.values<T>();
  Tensor x = Tensor::of<T>(pool, {array.dims[0], array.numel() / array.dims[0]},
                           std::vector<T>(values.begin(), values.end()));
  const Tensor y = ternarise(tape, x);
  return array_of<T>(array.dims, std::vector<T>(y.span<T>().begin(), y.span<T>().end()));
}

TEST(PackedTernary, RoundTripsAllCodes) {
  std::set<Trits> seen;
  for (int code = 0; code < 243; ++code) {
    const Trits levels = unpack_trits(static_cast<uint8_t>(code));
    for (const int8_t level : levels) EXPECT_LE(std::abs(level), 1);
    EXPECT_EQ(pack_trits(levels), code);
    seen.insert(levels);
  }
  EXPECT_EQ(seen.size(), 243U);
  EXPECT_EQ(pack_trits({-1, -1, -1, -1, -1}), 0);
  EXPECT_EQ(pack_trits({1, 0, 0, -1, 1}), 2 + 3 + 9 + 0 + 2 * 81);
}

TEST(PackedTernary, KeepsTheExampleOfThePage) {
  // gamma = 0.278333, W_t = [[1, 0, 0], [-1, 1, 0]].
  const StateArray w = array_of<double>({1, 2, 3}, {.5, -.1, .02, -.7, .3, -.05});
  const StateArray levels = ternarised<double>(w);
  StateDict state = {{"model/w", w}, {"model/other", w}};
  put_packed(state, "model/w", levels);
  EXPECT_FALSE(state.contains("model/w"));
  EXPECT_EQ(state.at("packed/model/w/trits").dims, (std::vector<int64_t>{1, 2}));
  EXPECT_NEAR(state.at("packed/model/w/scale").values<double>()[0], .278333, 1e-6);
  EXPECT_THAT(unpack_trits(state.at("packed/model/w/trits").values<uint8_t>()[0]),
              ElementsAre(1, 0, 0, -1, 1));

  unpack_all(state, "a.h5");
  EXPECT_EQ(state.size(), 2U);
  EXPECT_EQ(state.at("model/other"), w);
  EXPECT_EQ(state.at("model/w").dims, w.dims);
  const StateArray again = ternarised<double>(state.at("model/w"));
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_NEAR(again.values<double>()[i], levels.values<double>()[i], 1e-15);
  }
}

TEST(PackedTernary, KeepsMatricesOfZerosAndOfOneSign) {
  const StateArray w = array_of<float>({3, 2, 2}, {0, 0, 0, 0, 2, 2, 2, 2, -1, 3, -3, 0.1F});
  StateDict state;
  put_packed(state, "w", ternarised<float>(w));
  unpack_all(state, "a.h5");
  const StateArray levels = ternarised<float>(w);
  const StateArray again = ternarised<float>(state.at("w"));
  for (size_t i = 0; i < 12; ++i) {
    EXPECT_FLOAT_EQ(again.values<float>()[i], levels.values<float>()[i]) << i;
  }
}

TEST(PackedTernary, BelievesNoPartsThatDoNotGoTogether) {
  const auto message = [](auto&& change) {
    StateDict state;
    put_packed(state, "w", array_of<float>({2, 3}, {1, -1, 0, 2, 2, 2}));
    change(state);
    return error_of<CheckpointError>([&] { unpack_all(state, "a.h5"); });
  };
  const std::string room = "packed/w/";
  EXPECT_THAT(message([&](StateDict& s) { s.erase(room + "scale"); }),
              HasSubstr("a.h5: /packed/w/scale is missing"));
  EXPECT_THAT(message([&](StateDict& s) { s.at(room + "trits").bytes[1] = std::byte{243}; }),
              HasSubstr("found the byte 243, allowed 0 to 242"));
  EXPECT_THAT(message([&](StateDict& s) {
                s[room + "shape"] = array_of<int64_t>({2}, {2, int64_t{1} << 62U});
              }),
              HasSubstr("allowed positive ones of an array that fits a file"));
  EXPECT_THAT(message([&](StateDict& s) { s[room + "shape"] = array_of<int64_t>({2}, {2, 9}); }),
              HasSubstr("not those of an array of 2 matrices of 9 numbers"));
  EXPECT_THAT(message([&](StateDict& s) { s[room + "shape"] = array_of<int64_t>({0}, {}); }),
              HasSubstr("found no dimensions"));
  EXPECT_THAT(message([&](StateDict& s) { s[room + "scale"] = array_of<int32_t>({2}, {1, 2}); }),
              HasSubstr("its scale is i32"));
  EXPECT_THAT(message([&](StateDict& s) { s["w"] = array_of<float>({1}, {1}); }),
              HasSubstr("holds /w and /packed/w; allowed one of them"));
}

}  // namespace
}  // namespace sluice
