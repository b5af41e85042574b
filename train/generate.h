#pragma once
// Text from a trained model, token by token, with key/value caches.
//
//   const std::vector<int32_t> prompt = encode_prompt(*trained.tokenizer, "Once");
//   const Generation result = generate(trained, prompt, {.max_tokens = 100},
//                                      [](std::string_view text) { fmt::print("{}", text); });
//
// The routing of a generated token is that of evaluation: dropless, without noise.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/function_ref.h"
#include "train/build.h"
#include "train/sampling.h"

namespace sluice {

struct GenerateOptions {
  int64_t max_tokens = 200;
  SamplingOptions sampling;
  /// Of the text, for a model that goes by domains; empty: the first of its training data.
  std::string domain;
  /// Token i of sample s is drawn with the number (seed, s, i): equal seeds give equal text,
  /// whatever else is generated.
  uint64_t seed = 1;
  uint64_t sample = 0;
  /// Any of these ends the text and is not part of it.
  std::vector<std::string> stop_texts;
  std::vector<int32_t> stop_tokens;
};

enum class GenerationEnd : uint8_t { stopped, max_tokens, context_full };

struct Generation {
  std::vector<int32_t> tokens;  // a token that stopped it included
  GenerationEnd end = GenerationEnd::max_tokens;
};

/// The tokens of `text`; of an empty one the token that ends or begins a document. Throws
/// ConfigError when the tokenizer has none, DataError for invalid UTF-8.
[[nodiscard]] std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text);

/// Throws ConfigError naming the flag that is out of range, or the prompt that leaves no room in
/// the model's context.
void check_generation(const TrainedModel& trained, std::span<const int32_t> prompt,
                      const GenerateOptions& options);

/// Goes on behind `prompt` (at least one token) and hands the text to `emit` as soon as it is
/// certain: whole characters that belong to no stop text. Throws what check_generation throws, and
/// NumericError when a logit is not a number.
Generation generate(TrainedModel& trained, std::span<const int32_t> prompt,
                    const GenerateOptions& options, FunctionRef<void(std::string_view)> emit);

}  // namespace sluice
