// GGUF files that we do not write: blocks of four bits, a tensor per expert, keys of other writers.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <numeric>

#include "autograd/support/rng.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/train/interchange/gguf_bytes.h"
#include "train/checkpoint/checkpoint.h"
#include "train/interchange/gguf_model.h"
#include "train/interchange/import.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::error_of;
using testing::GgufBytes;
using testing::ScratchFolder;

constexpr int64_t kLayers = 2;
constexpr int64_t kWidth = 32;    // D
constexpr int64_t kHeadDim = 16;  // two heads, one of keys and values
constexpr int64_t kHidden = 64;   // F
constexpr int64_t kVocabulary = 260;
constexpr int64_t kExperts = 3;
constexpr uint64_t kAlignment = 64;  // not the usual one

struct Format {
  StoredType type;
  uint32_t number;  // in files
  int64_t elements;
  int64_t bytes;  // of so many elements
};
constexpr Format kF32 = {StoredType::f32, 0, 1, 4};
constexpr Format kFormats[] = {kF32,
                               {StoredType::f16, 1, 1, 2},
                               {StoredType::bf16, 30, 1, 2},
                               {StoredType::q8_0, 8, 32, 34},
                               {StoredType::q4_0, 2, 32, 18},
                               {StoredType::q4_1, 3, 32, 20}};

/// Where the feed-forwards are.
enum class Experts { none, in_one_tensor, in_a_tensor_each };

float half_at(const char* bytes) {
  uint16_t bits = 0;
  std::memcpy(&bits, bytes, sizeof(bits));
  return widened_half(bits);
}

/// Element i of a block, by the equations of stored_type.h.
float element(StoredType type, const char* block, int64_t i) {
  const auto byte = [&](int64_t at) { return static_cast<unsigned char>(block[at]); };
  const auto nibble = [&](int64_t begin) {
    return static_cast<float>(i < 16 ? byte(begin + i) & 15 : byte(begin + i - 16) >> 4);
  };
  float value = 0.0f;
  switch (type) {
    case StoredType::f32:
      std::memcpy(&value, block, sizeof(value));
      return value;
    case StoredType::f16:
      return half_at(block);
    case StoredType::bf16:
      std::memcpy(reinterpret_cast<char*>(&value) + 2, block, 2);
      return value;
    case StoredType::q8_0:
      return half_at(block) * static_cast<float>(static_cast<signed char>(byte(2 + i)));
    case StoredType::q4_0:
      return half_at(block) * (nibble(2) - 8.0f);
    case StoredType::q4_1:
      return half_at(block) * nibble(4) + half_at(block + 2);
  }
  return value;
}

/// A file of the architecture llama, put together by hand, and what our parameters must be.
class ForeignFile {
 public:
  ForeignFile(const Format& format, Experts experts) : format_(format) {
    add("token_embd.weight", {kVocabulary, kWidth}, "embedding.weight");
    add("output.weight", {kVocabulary, kWidth}, "head");
    add_vector("output_norm.weight", "final_norm.weight");
    for (int64_t i = 0; i < kLayers; ++i) {
      const std::string theirs = fmt::format("blk.{}.", i);
      const std::string mixer = fmt::format("layers.{}.", 2 * i);
      const std::string rest = fmt::format("layers.{}.", 2 * i + 1);
      add_vector(theirs + "attn_norm.weight", mixer + "norm.weight");
      add(theirs + "attn_q.weight", {2 * kHeadDim, kWidth}, mixer + "attention.w_q", true);
      add(theirs + "attn_k.weight", {kHeadDim, kWidth}, mixer + "attention.w_k", true);
      add(theirs + "attn_v.weight", {kHeadDim, kWidth}, mixer + "attention.w_v");
      add(theirs + "attn_output.weight", {kWidth, 2 * kHeadDim}, mixer + "attention.w_o");
      add_vector(theirs + "ffn_norm.weight", rest + "norm.weight");
      if (experts != Experts::none) add_router(theirs, rest);
      add_feed_forward(theirs, rest, "gate", {kHidden, kWidth}, experts);
      add_feed_forward(theirs, rest, "up", {kHidden, kWidth}, experts);
      add_feed_forward(theirs, rest, "down", {kWidth, kHidden}, experts);
    }
    if (experts == Experts::none) return;
    keys_["llama.expert_count"] = kExperts;
    keys_["llama.expert_used_count"] = 2;
  }

  void set(const std::string& key, const json& value) { keys_[key] = value; }

  void write(const fs::path& path) const {
    GgufBytes file;
    file.head(tensors_.size(), keys_.size());
    for (const auto& [key, value] : keys_) file.key(key, value);
    uint64_t at = 0;
    for (const Tensor& tensor : tensors_) {
      const std::vector<uint64_t> sizes(tensor.dims.rbegin(), tensor.dims.rend());
      file.tensor(tensor.name, sizes, tensor.number, at);
      at += (tensor.bytes.size() + kAlignment - 1) / kAlignment * kAlignment;
    }
    for (const Tensor& tensor : tensors_) file.pad(kAlignment).raw(tensor.bytes);
    std::ofstream(path, std::ios::binary) << file.all();
  }

  /// The elements of our parameters, by name.
  [[nodiscard]] const std::map<std::string, std::vector<float>>& expected() const {
    return expected_;
  }

 private:
  struct Tensor {
    std::string name;
    std::vector<int64_t> dims;
    uint32_t number;
    std::string bytes;
  };

  /// Any bytes, with scales that are finite.
  std::string make_bytes(const Format& format, int64_t elements) {
    std::string bytes(static_cast<size_t>(elements / format.elements * format.bytes), '\0');
    for (char& byte : bytes) byte = static_cast<char>(random_u64({.seed = 5}, 0, made_++));
    if (format.elements == 1) return bytes;
    constexpr char kLowestBitOfExponent = 0x04;  // in the upper byte of a half
    for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(format.bytes)) {
      const size_t offset = format.type == StoredType::q4_1 ? 2 : 0;  // d alone, or d and m
      for (const size_t upper : {at + 1, at + 1 + offset}) {
        bytes[upper] = static_cast<char>(bytes[upper] & ~kLowestBitOfExponent);
      }
    }
    return bytes;
  }

  /// Adds a tensor, and its elements behind those that the parameter has.
  void add(const std::string& name, std::vector<int64_t> dims, const std::string& ours,
           bool rotates = false, const Format* other = nullptr) {
    const Format& format = other != nullptr ? *other : format_;
    const int64_t count =
        std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>());
    const std::string bytes = make_bytes(format, count);
    std::vector<float> elements(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      elements[static_cast<size_t>(i)] = element(
          format.type, bytes.data() + i / format.elements * format.bytes, i % format.elements);
    }
    if (rotates) elements = half_split(elements);
    std::vector<float>& all = expected_[ours];
    all.insert(all.end(), elements.begin(), elements.end());
    tensors_.push_back({name, std::move(dims), format.number, bytes});
  }
  void add_vector(const std::string& name, const std::string& ours) {
    add(name, {kWidth}, ours, false, &kF32);
  }
  void add_router(const std::string& theirs, const std::string& ours) {
    add(theirs + "ffn_gate_inp.weight", {kExperts, kWidth}, ours + "router.weight", false, &kF32);
  }
  void add_feed_forward(const std::string& theirs, const std::string& ours, const std::string& name,
                        std::vector<int64_t> dims, Experts experts) {
    if (experts == Experts::none) {
      add(theirs + "ffn_" + name + ".weight", dims, ours + "feed_forward.w_" + name);
    } else if (experts == Experts::in_one_tensor) {
      add(theirs + "ffn_" + name + "_exps.weight", {kExperts, dims[0], dims[1]},
          ours + "experts.w_" + name);
    } else {
      for (int64_t e = 0; e < kExperts; ++e) {
        add(fmt::format("{}ffn_{}.{}.weight", theirs, name, e), dims, ours + "experts.w_" + name);
      }
    }
  }

  /// Rows of heads in interleaved order, put in half-split order.
  static std::vector<float> half_split(const std::vector<float>& rows) {
    std::vector<float> result(rows.size());
    for (int64_t row = 0; row * kWidth < std::ssize(rows); ++row) {
      const int64_t in_head = row % kHeadDim;
      const int64_t place = row - in_head + in_head / 2 + in_head % 2 * (kHeadDim / 2);
      std::copy_n(rows.begin() + row * kWidth, kWidth, result.begin() + place * kWidth);
    }
    return result;
  }

  const Format& format_;
  std::map<std::string, json> keys_ = {
      {"general.architecture", "llama"},
      {"general.alignment", kAlignment},
      {"llama.context_length", 48U},
      {"llama.embedding_length", kWidth},
      {"llama.block_count", kLayers},
      {"llama.feed_forward_length", kHidden},
      {"llama.attention.head_count", 2U},
      {"llama.attention.head_count_kv", 1U},
      {"llama.attention.layer_norm_rms_epsilon", 1e-5},
  };
  std::vector<Tensor> tensors_;
  std::map<std::string, std::vector<float>> expected_;
  uint64_t made_ = 0;
};

TEST(ForeignGguf, IsReadToTheLastBitInEveryType) {
  const ScratchFolder folder;
  for (const Format& format : kFormats) {
    for (const Experts experts :
         {Experts::none, Experts::in_one_tensor, Experts::in_a_tensor_each}) {
      SCOPED_TRACE(fmt::format("{}, experts {}", name_of(format.type), static_cast<int>(experts)));
      const ForeignFile file(format, experts);
      file.write(folder / "a.gguf");
      fs::remove(folder / "a.h5");
      const ImportedModel model = import_model(
          {.source = folder / "a.gguf", .output = folder / "a.h5", .tokenizer = "bytes"});
      EXPECT_EQ(model.family, experts == Experts::none ? "llama" : "mixtral");
      const Checkpoint checkpoint = read_checkpoint(folder / "a.h5");
      for (const auto& [name, expected] : file.expected()) {
        const auto found = checkpoint.state.find("model/" + name);
        ASSERT_NE(found, checkpoint.state.end()) << name;
        ASSERT_EQ(found->second.bytes.size(), expected.size() * sizeof(float)) << name;
        EXPECT_EQ(
            std::memcmp(found->second.bytes.data(), expected.data(), found->second.bytes.size()), 0)
            << name;
      }
      EXPECT_EQ(std::ranges::count_if(
                    checkpoint.state,
                    [](const auto& entry) { return entry.first.starts_with("model/"); }),
                std::ssize(file.expected()));
    }
  }
}

class ForeignGgufKeys : public ::testing::Test {
 protected:
  using Keys = std::vector<std::pair<std::string, json>>;

  void write(const Keys& keys) {
    ForeignFile file(kF32, Experts::none);
    for (const auto& [key, value] : keys) file.set("llama." + key, value);
    file.write(path_);
  }
  json scaling(const Keys& keys) {
    write(keys);
    return read_gguf_model(path_).config["rope_scaling"];
  }
  std::string error(const std::string& key, const json& value) {
    write({{key, value}});
    const std::string message = error_of<CheckpointError>([&] { (void)read_gguf_model(path_); });
    const std::string begin = path_.string() + ": llama." + key + ": ";
    return message.starts_with(begin) ? message.substr(begin.size()) : message;
  }

  ScratchFolder folder_;
  fs::path path_ = folder_ / "a.gguf";
};

TEST_F(ForeignGgufKeys, StretchTheRotation) {
  const json linear = {{"rope_type", "linear"}, {"factor", 4.0}};
  const json yarn = {
      {"rope_type", "yarn"}, {"factor", 8.0}, {"original_max_position_embeddings", 48}};
  json bounded = yarn;
  bounded["original_max_position_embeddings"] = 12;
  bounded["beta_fast"] = 16.0;
  bounded["beta_slow"] = 0.7;
  const std::pair<Keys, json> all[] = {
      {{}, nullptr},
      {{{"rope.scaling.type", "linear"}, {"rope.scaling.factor", 4.0}}, linear},
      {{{"rope.scaling.factor", 4.0}}, linear},
      {{{"rope.scale_linear", 4.0}}, linear},
      {{{"rope.scale_linear", 2.0}, {"rope.scaling.factor", 4.0}}, linear},
      {{{"rope.scale_linear", 1.0}}, nullptr},
      {{{"rope.scaling.type", "linear"}}, nullptr},
      {{{"rope.scaling.type", "none"}, {"rope.scaling.factor", 4.0}}, nullptr},
      {{{"rope.scaling.type", "yarn"}, {"rope.scaling.factor", 8.0}}, yarn},
      {{{"rope.scaling.type", "yarn"},
        {"rope.scaling.factor", 8.0},
        {"rope.scaling.original_context_length", 12U},
        {"rope.scaling.yarn_beta_fast", 16.0},
        {"rope.scaling.yarn_beta_slow", 0.7}},
       bounded},
  };
  for (const auto& [keys, expected] : all) EXPECT_EQ(scaling(keys), expected) << json(keys);
}

TEST_F(ForeignGgufKeys, OfYarnMakeAModel) {
  write({{"rope.scaling.type", "yarn"}, {"rope.scaling.factor", 8.0}});
  const ImportedModel model =
      import_model({.source = path_, .output = folder_ / "a.h5", .tokenizer = "bytes"});
  EXPECT_THAT(read_checkpoint(model.checkpoint).meta.recipe, ::testing::HasSubstr("yarn"));
}

TEST_F(ForeignGgufKeys, ThatChangeTheFunctionAreRefused) {
  struct Key {
    const char* key;
    json neutral;
    json other;
    const char* message;
  };
  const Key all[] = {
      {"rope.dimension_count", kHeadDim, 8U, "found 8, allowed 16 (whole heads rotate)"},
      {"rope.scaling.attn_factor", 1.0, 1.5,
       "found 1.5, allowed 1.0 (scores have no factor of "
       "their own)"},
      {"attention.sliding_window", 0U, 4096U, "found 4096, allowed 0 (tokens see all before them)"},
      {"attention.value_length", kHeadDim, 8U, "found 8, allowed 16 (values are as wide as keys)"},
      {"attention.causal", true, false, "found false, allowed true (tokens see none after them)"},
      {"logit_scale", 1.0, 0.5, "found 0.5, allowed 1.0 (logits are not scaled)"},
  };
  for (const Key& one : all) {
    EXPECT_EQ(error(one.key, one.neutral), "no error") << one.key;
    EXPECT_EQ(error(one.key, one.other), one.message);
  }
  EXPECT_EQ(error("rope.scaling.type", "longrope"),
            "found \"longrope\", allowed none, linear or yarn");
  EXPECT_EQ(error("rope.scaling.type", "\xFF"), "found \"\\ufffd\", allowed none, linear or yarn");
}

}  // namespace
}  // namespace sluice
