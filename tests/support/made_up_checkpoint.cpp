#include "tests/support/made_up_checkpoint.h"

#include <bit>
#include <span>

#include "autograd/support/rng.h"
#include "data/tokenizers/sentencepiece.h"
#include "train/build.h"

namespace sluice::testing {
namespace {

constexpr const char* kData = R"(
data:
  tokenizer: {type: bytes}
  sequence_length: 32
  sources: [{type: synthetic, pattern: copy, documents: 8, min_length: 5, max_length: 30,
             alphabet: 24}]
train: {steps: 2, global_batch: 64 tokens}
)";

/// -127/64 .. 127/64
double made_up(uint64_t array, size_t i) {
  const double u = uniform({.seed = 11}, array, i);
  return (std::floor(u * 255.0) - 127.0) / 64.0;
}

template <class T>
void fill(StateArray& array, uint64_t number) {
  auto* values = reinterpret_cast<T*>(array.bytes.data());
  for (size_t i = 0; i < array.bytes.size() / sizeof(T); ++i) {
    values[i] = static_cast<T>(made_up(number, i));
  }
}

constexpr uint32_t kSpecialF32[] = {0x7f800000, 0xff800000, 0x7fc12345, 0xff800001, 0x80000000,
                                    0x00000001, 0x807fffff, 0x00800000, 0x7f7fffff, 0x3f800001};
constexpr uint32_t kSpecialF16[] = {0x7c00, 0xfc00, 0x7e55, 0xfc01, 0x8000,
                                    0x0001, 0x83ff, 0x0400, 0x7bff, 0x3c01};
constexpr uint32_t kSpecialBf16[] = {0x7f80, 0xff80, 0x7fd5, 0xff81, 0x8000,
                                     0x0001, 0x807f, 0x0080, 0x7f7f, 0x3f81};

float number_with_bits(StoredType type, uint64_t array, size_t i) {
  const std::span<const uint32_t> special = type == StoredType::f32   ? std::span(kSpecialF32)
                                            : type == StoredType::f16 ? std::span(kSpecialF16)
                                                                      : std::span(kSpecialBf16);
  const auto random = static_cast<uint32_t>(random_u64({.seed = 12}, array, i));
  const uint32_t bits = i < special.size() ? special[i] : random;
  switch (type) {
    case StoredType::f32:
      return std::bit_cast<float>(bits);
    case StoredType::f16:
      return widened_half(static_cast<uint16_t>(bits));
    default:
      return std::bit_cast<float>(bits << 16U);
  }
}

}  // namespace

void fill_with_bits(Checkpoint& checkpoint, StoredType type) {
  uint64_t number = 0;
  for (auto& [path, array] : checkpoint.state) {
    ++number;
    const auto count = static_cast<size_t>(array.numel());
    if (path.ends_with("loss_free_bias/bias")) {
      auto* values = reinterpret_cast<double*>(array.bytes.data());
      for (size_t i = 0; i < count; ++i) {
        values[i] = static_cast<float>(uniform({.seed = 13}, number, i) - 0.5);
      }
    } else if (path.starts_with("model/")) {
      auto* values = reinterpret_cast<float*>(array.bytes.data());
      for (size_t i = 0; i < count; ++i) values[i] = number_with_bits(type, number, i);
    }
  }
}

void give_pieces(Checkpoint& checkpoint) {
  const std::string text = "to be or not to be, that is the question\n";
  const auto corpus = [&](FunctionRef<void(std::string_view)> visit) { visit(text); };
  SentencePieceConfig config;
  config.vocab_size = 280;
  checkpoint.meta.tokenizer_kind = "sentencepiece";
  checkpoint.meta.tokenizer = train_sentencepiece(config, corpus);
}

StateDict model_state(const Checkpoint& checkpoint) {
  StateDict state;
  for (const auto& [path, array] : checkpoint.state) {
    if (path.starts_with("model/") || path.ends_with("loss_free_bias/bias")) {
      state.emplace(path, array);
    }
  }
  return state;
}

Checkpoint made_up_checkpoint(const std::string& model) {
  const Recipe recipe = parse_recipe(model + kData, "made-up.yaml");
  const auto tokenizer = deserialize_tokenizer("bytes", "bytes 257");
  Pool pool;
  const auto built = build_model(recipe, pool, tokenizer->vocab_size());
  const auto routing = build_routing(recipe);
  SaveVisitor save;
  {
    const StateScope scope(save, "model");
    visit_parameters(*built, save);
  }
  {
    const StateScope scope(save, "balance");
    routing->visit_state(save);
  }
  Checkpoint checkpoint{{.recipe = resolved_text(recipe),
                         .tokenizer_kind = "bytes",
                         .tokenizer = tokenizer->serialize(),
                         .build = build_fingerprint()},
                        save.take()};
  uint64_t number = 0;
  for (auto& [path, array] : checkpoint.state) {
    ++number;
    if (array.type == ElementType::f32) fill<float>(array, number);
    if (path.ends_with("loss_free_bias/bias")) fill<double>(array, number);
  }
  return checkpoint;
}

}  // namespace sluice::testing
