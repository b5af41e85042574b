#include "train/generate.h"

#include <algorithm>
#include <limits>

#include "autograd/ops/reshape.h"
#include "data/utf8.h"
#include "train/domains.h"
#include "train/find_checkpoint.h"
#include "train/stop_text.h"

namespace sluice {
namespace {

/// Decoding of one sequence; the session evaluates while it lives.
class Decoder {
 public:
  Decoder(TrainedModel& trained, int64_t capacity, int32_t domain)
      : trained_(trained),
        domain_(domain),
        progress_(progress_of(trained.recipe, trained.meta)),
        tape_(*trained.pool),
        no_grad_(tape_),
        state_(trained.model->start_decoding(*trained.pool, capacity)) {
    trained_.routing->begin_evaluation();
  }
  ~Decoder() { trained_.routing->end_evaluation(); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// Reads `tokens` and returns the logits [V] of what comes after the last of them.
  std::vector<double> read(std::span<const int32_t> tokens) {
    const auto count = static_cast<int64_t>(tokens.size());
    SequenceLayout layout = SequenceLayout::single(*trained_.pool, count, state_.length);
    layout.document_domains = {domain_};
    const ForwardContext context{
        .tape = tape_, .layout = layout, .routing = trained_.routing.get(), .progress = progress_};
    const Tensor hidden = trained_.model->decode(
        context, Tensor::of<int32_t>(*trained_.pool, {count}, tokens), state_);
    const Tensor logits =
        trained_.model->logits(context, slice_rows(tape_, hidden, count - 1, count));
    return dispatch_float(logits.dtype(), [&]<class T>() {
      const auto values = logits.span<T>();
      return std::vector<double>(values.begin(), values.end());
    });
  }

 private:
  TrainedModel& trained_;
  int32_t domain_;
  Progress progress_;
  Tape tape_;
  NoGrad no_grad_;
  DecodeState state_;
};

}  // namespace

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text) {
  const auto invalid = find_invalid_utf8(text);
  SLUICE_CHECK(DataError, !invalid, "the prompt: invalid UTF-8 at byte {}", *invalid);
  std::vector<int32_t> tokens = tokenizer.encode(text);
  if (!tokens.empty()) return tokens;
  const auto first = tokenizer.eos_id() ? tokenizer.eos_id() : tokenizer.bos_id();
  SLUICE_CHECK(ConfigError, first.has_value(),
               "--prompt: found an empty text, but the {} tokenizer has no token that begins or "
               "ends a document; give a text",
               tokenizer.kind());
  return {*first};
}

void check_generation(const TrainedModel& trained, std::span<const int32_t> prompt,
                      const GenerateOptions& options) {
  options.sampling.check();
  SLUICE_CHECK(ConfigError, options.max_tokens >= 1, "--tokens: found {}, allowed 1 or more",
               options.max_tokens);
  (void)StopText(options.stop_texts);
  (void)domain_number(trained.recipe, options.domain, "--domain");
  const int64_t vocabulary = trained.tokenizer->vocab_size();
  for (const int32_t token : options.stop_tokens) {
    SLUICE_CHECK(ConfigError, token >= 0 && token < vocabulary,
                 "--stop-token: found {}, allowed 0 to {} (the vocabulary)", token, vocabulary - 1);
  }
  const auto context = max_context(trained.recipe.model);
  SLUICE_INTERNAL_CHECK(!prompt.empty(), "a prompt without a token");
  SLUICE_CHECK(ConfigError, !context || std::ssize(prompt) < *context,
               "--prompt: found {} tokens, allowed at most {}: the model reads {} "
               "(model.attention.max_position_embeddings, model.learned_positions)",
               prompt.size(), *context - 1, *context);
}

Generation generate(TrainedModel& trained, std::span<const int32_t> prompt,
                    const GenerateOptions& options, FunctionRef<void(std::string_view)> emit) {
  check_generation(trained, prompt, options);
  const auto length = static_cast<int64_t>(prompt.size());
  const auto context =
      max_context(trained.recipe.model).value_or(std::numeric_limits<int64_t>::max());
  const int64_t room = std::min(options.max_tokens, context - length);
  Generation result{.end = room < options.max_tokens ? GenerationEnd::context_full
                                                     : GenerationEnd::max_tokens};
  Decoder decoder(trained, length + room,
                  domain_number(trained.recipe, options.domain, "--domain"));
  StreamDecoder text(*trained.tokenizer);
  StopText stop(options.stop_texts);
  const RandomKey key{.seed = options.seed, .purpose = RandomPurpose::sampling};
  const auto show = [&](const std::string& piece) {
    if (!piece.empty()) emit(piece);
  };
  std::vector<double> logits = decoder.read(prompt);
  for (int64_t i = 0; i < room; ++i) {
    if (i > 0) logits = decoder.read(std::span(&result.tokens.back(), 1));
    // Rows past the tokenizer's vocabulary (a recipe may ask for more) stand for no text.
    const auto known = std::span(logits).first(
        static_cast<size_t>(std::min(trained.tokenizer->vocab_size(), std::ssize(logits))));
    const double u = uniform(key, options.sample, static_cast<uint64_t>(i));
    result.tokens.push_back(draw(sampling_distribution(known, options.sampling), u));
    const bool is_stop =
        std::ranges::find(options.stop_tokens, result.tokens.back()) != options.stop_tokens.end();
    if (!is_stop) show(stop.push(text.push(result.tokens.back())));
    if (is_stop || stop.reached()) {
      result.end = GenerationEnd::stopped;
      break;
    }
  }
  show(stop.push(text.flush()));
  show(stop.flush());
  return result;
}

}  // namespace sluice
