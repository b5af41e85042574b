#include "train/interchange/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/train/interchange/gguf_bytes.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::error_of;
using testing::GgufBytes;
using ::testing::HasSubstr;
using testing::ScratchFolder;

TensorToWrite counting(const std::string& name, StoredType type, std::vector<int64_t> dims) {
  return {name, type, std::move(dims),
          [](std::span<float> values) { std::iota(values.begin(), values.end(), 0.0f); }};
}

class Gguf : public ::testing::Test {
 protected:
  std::string error_in(const GgufBytes& bytes) { return error_in(std::string_view(bytes.all())); }
  std::string error_in(std::string_view bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    const std::string message = error_of<CheckpointError>([&] { (void)open_gguf(path_); });
    const std::string name = path_.string() + ": ";
    return message.starts_with(name) ? message.substr(name.size()) : message;
  }

  ScratchFolder folder_;
  fs::path path_ = folder_ / "a.gguf";
};

TEST_F(Gguf, GivesBackWhatWasWritten) {
  const GgufKeys keys = {{"name", "a"},       {"count", 7},           {"eps", 1e-5},
                         {"flag", true},      {"words", {"x", "yz"}}, {"scores", {0.5, -1.0}},
                         {"kinds", {1, 2, 3}}};
  const std::vector<TensorToWrite> tensors = {counting("b", StoredType::f32, {2, 3}),
                                              counting("a", StoredType::f16, {5}),
                                              counting("q", StoredType::q8_0, {2, 32})};
  write_gguf(real_file_system(), path_, keys, tensors);
  const GgufFile file = open_gguf(path_);
  EXPECT_EQ(file.keys["name"], "a");
  EXPECT_EQ(file.keys["count"], 7);
  EXPECT_EQ(file.keys["eps"], static_cast<double>(1e-5f));
  EXPECT_EQ(file.keys["flag"], true);
  EXPECT_EQ(file.keys["words"], json::array({"x", "yz"}));
  EXPECT_EQ(file.keys["scores"], json::array({0.5, -1.0}));
  EXPECT_EQ(file.keys["kinds"], json::array({1, 2, 3}));
  EXPECT_EQ(file.tensors.find("b")->dims, (std::vector<int64_t>{2, 3}));
  std::vector<float> values(6);
  file.tensors.read(*file.tensors.find("b"), 0, values);
  EXPECT_EQ(values, (std::vector<float>{0, 1, 2, 3, 4, 5}));
  values.resize(2);
  file.tensors.read(*file.tensors.find("a"), 3, values);
  EXPECT_EQ(values, (std::vector<float>{3, 4}));
  values.resize(40);  // from the middle of a block
  file.tensors.read(*file.tensors.find("q"), 10, values);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_NEAR(values[i], static_cast<float>(i) + 10.0f, 0.27f);
  }
}

TEST_F(Gguf, ThatIsNoneIsRefused) {
  EXPECT_EQ(error_in(GgufBytes().put<uint32_t>(1).data(64)), "is no GGUF file");
  EXPECT_EQ(error_in(GgufBytes().head(0, 0, 1)), "is GGUF version 1, allowed 2 or 3");
  EXPECT_EQ(error_in(GgufBytes().head(0, 0)), "no error");
  EXPECT_EQ(error_in(GgufBytes().head(0, 0, 2)), "no error");
}

TEST_F(Gguf, ThatIsCutShortIsRefusedWhereverItEnds) {
  GgufBytes whole;
  whole.head(2, 3).key("general.name", "somebody's").key("count", 7U);
  whole.text("list").put<uint32_t>(9).put<uint32_t>(4).put<uint64_t>(2).put<uint64_t>(0);
  whole.tensor("first", {32}, 0, 0).tensor("second", {32, 2}, 8, 128).data(128 + 68);
  EXPECT_EQ(error_in(whole), "no error");
  for (size_t cut = 0; cut < whole.all().size(); ++cut) {
    EXPECT_NE(error_in(std::string_view(whole.all()).substr(0, cut)), "no error") << cut;
  }
}

TEST_F(Gguf, ThatIsCutShortSaysWhere) {
  const std::string name(30, 'n');
  const auto key = [&] { return GgufBytes().head(0, 1).text(name); };
  const auto described = [&] { return GgufBytes().head(1, 0).text(name); };
  struct Cut {
    GgufBytes bytes;
    std::string message;
  };
  const Cut cuts[] = {
      {GgufBytes().head(0, 1).put<uint64_t>(30).raw("nnnnn"),
       "a text at byte 32 claims 30 bytes, 5 remain"},
      {key().put<uint16_t>(4), "truncated: it ends at byte 64"},
      {key().put<uint32_t>(4).put<uint16_t>(1), "truncated: it ends at byte 68"},
      {key().put<uint32_t>(8).put<uint64_t>(3).raw("ab"),
       "a text at byte 74 claims 3 bytes, 2 remain"},
      {key().put<uint32_t>(9).put<uint32_t>(4).put<uint64_t>(2).put<uint32_t>(1),
       "truncated: it ends at byte 82"},
      {described().put<uint32_t>(2).put<uint64_t>(5), "truncated: it ends at byte 74"},
      {described().put<uint32_t>(1).put<uint64_t>(5), "truncated: it ends at byte 74"},
      {described().put<uint32_t>(1).put<uint64_t>(5).put<uint32_t>(0).put<uint32_t>(0),
       "truncated: it ends at byte 82"},
  };
  for (const Cut& cut : cuts) EXPECT_EQ(error_in(cut.bytes), cut.message);
}

TEST_F(Gguf, ReadsTextsThatAreNoUtf8) {
  EXPECT_EQ(error_in(GgufBytes()
                         .head(1, 1)
                         .text("\xFF")
                         .put<uint32_t>(8)
                         .text("\xC3\x28")
                         .tensor("\xFE\xFF", {8}, 0, 0)
                         .data(32)),
            "no error");
  const GgufFile file = open_gguf(path_);
  EXPECT_EQ(file.keys.at("\xFF").get<std::string>(), "\xC3\x28");
  EXPECT_NE(file.tensors.find("\xFE\xFF"), nullptr);
}

TEST_F(Gguf, SaysWhatAnAlignmentMayBe) {
  const auto error_of_alignment = [&](const nlohmann::json& value) {
    return error_in(GgufBytes().head(0, 1).key("general.alignment", value));
  };
  EXPECT_EQ(error_of_alignment(8U), "no error");
  const std::string allowed = ", allowed a multiple of 8 up to 65536";
  EXPECT_EQ(error_of_alignment(12U), "general.alignment: found 12" + allowed);
  EXPECT_EQ(error_of_alignment(0U), "general.alignment: found 0" + allowed);
  EXPECT_EQ(error_of_alignment("32"), "general.alignment: found \"32\"" + allowed);
  EXPECT_EQ(error_of_alignment("\xFF"), "general.alignment: found \"\\ufffd\"" + allowed);
}

TEST_F(Gguf, WithImpossibleNumbersIsRefused) {
  constexpr uint64_t kHuge = uint64_t{1} << 60;
  EXPECT_EQ(error_in(GgufBytes().head(0, kHuge)),
            "truncated: it claims 1152921504606846976 keys, 0 bytes remain");
  EXPECT_EQ(error_in(GgufBytes().head(kHuge, 0)),
            "truncated: it claims 1152921504606846976 tensors, 0 bytes remain");
  EXPECT_THAT(error_in(GgufBytes().head(0, 1).put(kHuge).data(64)),
              HasSubstr("a text at byte 32 claims 1152921504606846976 bytes"));
  EXPECT_THAT(
      error_in(GgufBytes().head(0, 1).text("k").put<uint32_t>(9).put<uint32_t>(4).put(kHuge)),
      HasSubstr("it claims 1152921504606846976 elements of an array"));
  EXPECT_THAT(error_in(GgufBytes().head(0, 1).text("k").put<uint32_t>(13).data(8)),
              HasSubstr("is of type 13, allowed 0 to 12"));
}

TEST_F(Gguf, WithNestedArraysIsReadToAFewLevels) {
  GgufBytes deep;
  deep.head(0, 1).text("k").put<uint32_t>(9);
  for (int i = 0; i < 100; ++i) deep.put<uint32_t>(9).put<uint64_t>(1);
  EXPECT_EQ(error_in(deep), "arrays nest deeper than 4 levels");
}

TEST_F(Gguf, ThatGivesSomethingTwiceIsRefused) {
  EXPECT_EQ(error_in(GgufBytes()
                         .head(0, 2)
                         .text("k")
                         .put<uint32_t>(7)
                         .put<uint8_t>(1)
                         .text("k")
                         .put<uint32_t>(7)
                         .put<uint8_t>(0)),
            "gives the key \"k\" twice");
  EXPECT_THAT(
      error_in(GgufBytes().head(2, 0).tensor("t", {8}, 0, 0).tensor("t", {8}, 0, 32).data(64)),
      HasSubstr("t: the tensor stands in"));
}

TEST_F(Gguf, WhoseTensorsDoNotFitIsRefused) {
  const auto one = [&](std::vector<uint64_t> sizes, uint32_t type, uint64_t offset, size_t data) {
    return error_in(GgufBytes().head(1, 0).tensor("t", std::move(sizes), type, offset).data(data));
  };
  EXPECT_EQ(one({8}, 0, 0, 32), "no error");
  EXPECT_THAT(one({8}, 0, 0, 31), HasSubstr("its data end behind the file, which has 31 bytes"));
  EXPECT_THAT(one({8}, 0, 16, 64), HasSubstr("its data begin at 16, no multiple of 32"));
  EXPECT_THAT(one({8}, 0, uint64_t{1} << 63, 64), HasSubstr("its data end behind the file"));
  EXPECT_THAT(one({8}, 12, 0, 64), HasSubstr("its type is number 12, allowed f32"));
  EXPECT_THAT(one({8}, 28, 0, 64), HasSubstr("its type is number 28, allowed f32"));  // f64
  EXPECT_THAT(one({40}, 8, 0, 64), HasSubstr("its rows of 40 are no whole blocks of q8_0"));
  EXPECT_THAT(one({1U << 31, 1U << 31}, 0, 0, 64), HasSubstr("has more than 2^48 elements"));
  EXPECT_THAT(one({~uint64_t{0}}, 0, 0, 64), HasSubstr("has a dimension of"));
  EXPECT_THAT(one({1, 1, 1, 1, 1}, 0, 0, 64), HasSubstr("has 5 dimensions, allowed at most 4"));
  EXPECT_THAT(
      error_in(GgufBytes().head(2, 0).tensor("a", {16}, 0, 0).tensor("b", {8}, 0, 32).data(64)),
      HasSubstr("tensor \"b\": its data begin at 32, inside those before it, which end at "
                "64"));
}

TEST_F(Gguf, MayHoldEmptyTensorsWhereOthersBegin) {
  EXPECT_EQ(error_in(GgufBytes()
                         .head(4, 0)
                         .tensor("full", {8}, 0, 0)
                         .tensor("empty", {0}, 0, 0)
                         .tensor("next", {8}, 0, 32)
                         .tensor("also empty", {0, 4}, 0, 32)
                         .data(64)),
            "no error");
  const GgufFile file = open_gguf(path_);
  EXPECT_EQ(file.tensors.find("empty")->numel(), 0);
  EXPECT_EQ(file.tensors.find("next")->numel(), 8);
}

}  // namespace
}  // namespace sluice
