#include "tests/support/made_up_checkpoint.h"

#include "autograd/support/rng.h"
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

}  // namespace

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
