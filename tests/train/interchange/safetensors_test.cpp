#include "train/interchange/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <numeric>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using ::testing::HasSubstr;
using testing::ScratchFolder;

std::string read_all(const fs::path& path) { return read_file(path, raise_as<DataError>); }

void put(const fs::path& path, const std::string& header, size_t data_bytes,
         std::optional<uint64_t> claimed = {}) {
  const uint64_t length = claimed.value_or(header.size());
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file << header << std::string(data_bytes, '\0');
}

TensorToWrite tensor(const std::string& name, StoredType type, std::vector<int64_t> dims,
                     float first) {
  return {name, type, std::move(dims),
          [first](std::span<float> values) { std::iota(values.begin(), values.end(), first); }};
}

std::vector<float> values_of(const TensorFiles& files, const std::string& name) {
  const StoredTensor* found = files.find(name);
  if (found == nullptr) return {};
  std::vector<float> values(static_cast<size_t>(found->numel()));
  files.read(*found, 0, values);
  return values;
}

class Safetensors : public ::testing::Test {
 protected:
  /// What reading says of a file with this header and so many bytes of data.
  std::string error_in(const std::string& header, size_t data_bytes = 0,
                       std::optional<uint64_t> claimed = {}) {
    put(path_, header, data_bytes, claimed);
    const std::string message = error_of<CheckpointError>([&] { (void)open_safetensors(path_); });
    const std::string name = path_.string() + ": ";
    return message.starts_with(name) ? message.substr(name.size()) : message;
  }
  static std::string one(const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
           offsets + "}}";
  }

  ScratchFolder folder_;
  fs::path path_ = folder_ / "model.safetensors";
};

TEST_F(Safetensors, GiveBackWhatWasWritten) {
  write_safetensors(
      real_file_system(), folder_.path(),
      {tensor("b", StoredType::f32, {2, 3}, 1.0f), tensor("a", StoredType::bf16, {5}, -2.0f),
       tensor("c", StoredType::f16, {}, 7.0f), tensor("empty", StoredType::f32, {0, 4}, 0.0f)});
  const TensorFiles files = open_safetensors(folder_.path());
  EXPECT_EQ(files.tensors().size(), 4u);
  EXPECT_EQ(values_of(files, "b"), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(values_of(files, "a"), (std::vector<float>{-2, -1, 0, 1, 2}));
  EXPECT_EQ(values_of(files, "c"), (std::vector<float>{7}));
  EXPECT_EQ(files.find("b")->dims, (std::vector<int64_t>{2, 3}));
  EXPECT_TRUE(files.find("c")->dims.empty());
  EXPECT_EQ(files.find("nothing"), nullptr);
  std::vector<float> part(2);
  files.read(*files.find("a"), 2, part);
  EXPECT_EQ(part, (std::vector<float>{0, 1}));
}

TEST_F(Safetensors, HaveTheReferenceWritersBytes) {
  write_safetensors(
      real_file_system(), folder_.path(),
      {tensor("z", StoredType::bf16, {1}, 1.0f), tensor("b", StoredType::f32, {1}, 0.0f),
       tensor("a", StoredType::f16, {1}, 1.0f)});
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
      R"("z":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]},)"
      R"("a":{"dtype":"F16","shape":[1],"data_offsets":[6,8]}})";
  const size_t padded = (header.size() + 7) / 8 * 8;
  std::string expected(8, '\0');
  std::memcpy(expected.data(), &padded, 8);
  expected += header + std::string(padded - header.size(), ' ') + std::string(4, '\0') +
              std::string("\x80\x3F\x00\x3C", 4);
  EXPECT_EQ(read_all(path_), expected);
}

TEST_F(Safetensors, ReadAHeaderWithoutPaddingOrMetadata) {
  EXPECT_EQ(error_in(one("F32", "[2,2]", "[0,16]"), 16), "no error");
  EXPECT_EQ(error_in("{}"), "no error");
}

TEST_F(Safetensors, SpanFilesWithAnIndex) {
  std::vector<TensorToWrite> tensors;
  for (int i = 0; i < 5; ++i) {
    tensors.push_back(tensor(fmt::format("t{}", i), StoredType::f32, {4}, static_cast<float>(i)));
  }
  write_safetensors(real_file_system(), folder_.path(), tensors, 32);
  EXPECT_FALSE(fs::exists(path_));
  EXPECT_TRUE(fs::exists(folder_ / "model-00003-of-00003.safetensors"));
  EXPECT_THAT(read_all(folder_ / "model.safetensors.index.json"),
              HasSubstr("\"t4\": \"model-00003-of-00003.safetensors\""));
  EXPECT_THAT(read_all(folder_ / "model.safetensors.index.json"), HasSubstr("\"total_size\": 80"));
  const TensorFiles files = open_safetensors(folder_.path());
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(values_of(files, fmt::format("t{}", i))[0], static_cast<float>(i));
  }
}

TEST_F(Safetensors, WithAFalseIndexAreRefused) {
  const fs::path index = folder_ / "model.safetensors.index.json";
  put(folder_ / "x.safetensors", one("F32", "[1]", "[0,4]"), 4);
  const auto error = [&](const std::string& text) {
    std::ofstream(index) << text;
    return error_of<CheckpointError>([&] { (void)open_safetensors(folder_.path()); });
  };
  EXPECT_EQ(error(R"({"weight_map": {"a": "x.safetensors"}})"), "no error");
  EXPECT_THAT(error("[]"), HasSubstr("has no weight_map"));
  EXPECT_THAT(error(R"({"weight_map": {"a": 1}})"), HasSubstr("the file of \"a\" is no text"));
  EXPECT_THAT(error(R"({"weight_map": {"a": "../x.safetensors"}})"),
              HasSubstr("allowed the name of a file beside it"));
  EXPECT_THAT(error(R"({"weight_map": {"a": "y.safetensors"}})"),
              HasSubstr("y.safetensors: cannot open: No such file"));
  EXPECT_THAT(error(R"({"weight_map": {"a": "x.safetensors", "b": "x.safetensors"}})"),
              HasSubstr("names \"b\" in x.safetensors, which does not hold it"));
  EXPECT_THAT(error(R"({"weight_map": {"b": "x.safetensors"}})"),
              HasSubstr("\"a\" is not in the index"));
  put(folder_ / "y.safetensors", one("F32", "[1]", "[0,4]"), 4);
  EXPECT_THAT(error(R"({"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}})"),
              HasSubstr("the tensor stands in"));
}

TEST_F(Safetensors, ThatAreTruncatedOrTooLongAreRefused) {
  std::ofstream(path_) << "1234567";
  EXPECT_THAT(error_of<CheckpointError>([&] { (void)open_safetensors(path_); }),
              HasSubstr("truncated: 7 bytes, a safetensors file has at least 8"));
  EXPECT_EQ(error_in("{}", 0, uint64_t{1} << 60),
            "its header claims 1152921504606846976 bytes, allowed at most 100000000; is it a "
            "safetensors file?");
  EXPECT_EQ(error_in("{}", 0, 90'000'000),
            "truncated: its header claims 90000000 bytes, the file has 10");
  EXPECT_THAT(error_in(one("F32", "[2]", "[0,8]"), 7),
              HasSubstr("the file holds 7: it is truncated"));
  EXPECT_EQ(error_in(one("F32", "[2]", "[0,8]"), 9), "holds 9 bytes of data, its tensors take 8");
}

TEST_F(Safetensors, ThatAreNoJsonAreRefused) {
  EXPECT_EQ(error_in("[]"), "its header does not begin with a brace; is it a safetensors file?");
  EXPECT_EQ(error_in(""), "its header does not begin with a brace; is it a safetensors file?");
  EXPECT_THAT(error_in("{\"a\""), HasSubstr("is no valid JSON at byte"));
  EXPECT_THAT(error_in("{\"\xFF\":{}}"), HasSubstr("is no valid JSON at byte"));
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) deep += "[";
  EXPECT_EQ(error_in(deep), "its JSON nests deeper than 64 levels");
  EXPECT_EQ(error_in(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},)"
                     R"("a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})"),
            "its JSON gives \"a\" twice in one object");
}

TEST_F(Safetensors, WithWrongDescriptionsAreRefused) {
  EXPECT_EQ(error_in(R"({"a":1})"), "tensor \"a\": is described by number, allowed an object");
  EXPECT_EQ(error_in(R"({"a":{}})"), "tensor \"a\": has no dtype");
  EXPECT_EQ(error_in(one("F8_E4M3", "[4]", "[0,4]"), 4),
            "tensor \"a\": its dtype is F8_E4M3, allowed F32, F16 or BF16");
  EXPECT_EQ(error_in(one("F64", "[1]", "[0,8]"), 8),
            "tensor \"a\": its dtype is F64, allowed F32, F16 or BF16");
  EXPECT_EQ(error_in(R"({"a":{"dtype":"F32","shape":3,"data_offsets":[0,4]}})", 4),
            "tensor \"a\": has no shape");
  EXPECT_EQ(error_in(one("F32", "[-1]", "[0,4]"), 4),
            "tensor \"a\": its shape holds -1, allowed whole numbers from 0");
  EXPECT_EQ(error_in(one("F32", "[1.5]", "[0,4]"), 4),
            "tensor \"a\": its shape holds 1.5, allowed whole numbers from 0");
  EXPECT_EQ(error_in(one("F32", "[4294967296, 4294967296, 4]", "[0,16]"), 16),
            "tensor \"a\": its shape [4294967296, 4294967296, 4] has more than 2^48 elements");
  EXPECT_EQ(error_in(one("F32", "[9223372036854775807]", "[0,16]"), 16),
            "tensor \"a\": its shape holds 9223372036854775807, allowed whole numbers from 0");
  EXPECT_EQ(error_in(one("F32", "[3]", "[0,16]"), 16),
            "tensor \"a\": its data are 16 bytes, its shape makes 12");
  EXPECT_EQ(error_in(one("F32", "[4]", "[16,0]"), 16),
            "tensor \"a\": its data_offsets are [16, 0], allowed a begin and an end");
  EXPECT_EQ(error_in(one("F32", "[4]", "[0,16,32]"), 16),
            "tensor \"a\": its data_offsets are [0, 16, 32], allowed a begin and an end");
}

TEST_F(Safetensors, WhoseTensorsOverlapOrLeaveGapsAreRefused) {
  const auto two = [](const std::string& a, const std::string& b) {
    return R"({"a":{"dtype":"F32","shape":[2],"data_offsets":)" + a +
           R"(},"b":{"dtype":"F32","shape":[2],"data_offsets":)" + b + "}}";
  };
  EXPECT_EQ(error_in(two("[8,16]", "[0,8]"), 16), "no error");  // any order
  EXPECT_EQ(error_in(two("[0,8]", "[4,12]"), 12),
            "tensor \"b\": its data begin at 4, inside those before it, which end at 8");
  EXPECT_EQ(error_in(two("[0,8]", "[0,8]"), 8),
            "tensor \"b\": its data begin at 0, inside those before it, which end at 8");
  EXPECT_EQ(error_in(two("[0,8]", "[12,20]"), 20),
            "tensor \"b\": its data begin at 12, leaving a gap behind 8");
  EXPECT_EQ(error_in(two("[4,12]", "[12,20]"), 20),
            "tensor \"a\": its data begin at 4, leaving a gap behind 0");
}

TEST_F(Safetensors, ThatAreNotThereAreNamed) {
  EXPECT_THAT(error_of<ConfigError>([&] { (void)open_safetensors(folder_.path()); }),
              HasSubstr("model.safetensors: no such file; a model has model.safetensors or "
                        "model.safetensors.index.json"));
}

}  // namespace
}  // namespace sluice
