// Made-up documents for tests and benchmarks: nothing to read, and a known best loss.
//   random   independent uniform tokens: nothing to learn, the best loss is log(alphabet)
//   copy     a random half, then the same again: the second half can be predicted from the first
//   recall   key, value, key, value: keys from the lower half of the alphabet, drawn at random, values
//            from the upper half, one for each key of a document; a key that was there before tells its
//            value (associative recall)
//   facts    subject, relation, object, and again: subjects from the first third of the alphabet,
//            relations from the second, both drawn at random; the object, from the last, is the same in
//            all documents and known to who has learnt the fact by heart
//   sums     numbers below m = alphabet - 1, the sign m, and the sum of the numbers modulo m
//   powers   of m = alphabet - 4: a count c of 0 to 3, written m + c, a number below m, what c steps of
//            x -> (3 x + 1) mod m make of it, and again: arithmetic whose depth each question names
//   markov   after each token one of four others, drawn 1/2, 1/4, 1/8, 1/8: the best loss is 1.75
//   log(2)

#include <array>
#include <bit>

#include "autograd/support/error.h"
#include "autograd/support/rng.h"
#include "data/source.h"

namespace sluice {
namespace {

/// Pattern powers counts from 0 to 3.
constexpr int64_t kCounts = 4;

struct SyntheticOptions final : Configurable {
  std::string pattern = "markov";
  int64_t documents = 1000;
  int64_t min_length = 64;
  int64_t max_length = 512;
  int64_t alphabet = 256;
  int64_t first_token = 0;
  int64_t pattern_seed = 0;

  void fields(FieldVisitor& v) override {
    static constexpr std::array<std::string_view, 7> kPatterns = {
        "random", "copy", "markov", "recall", "facts", "sums", "powers"};
    v.word({"pattern", "random, copy, markov, recall, facts, sums or powers"}, pattern, kPatterns);
    v.integer({"documents", "number of documents"}, documents, {.min = 0});
    v.integer({"min_length", "tokens of the shortest document"}, min_length, {.min = 1});
    v.integer({"max_length", "tokens of the longest document; lengths are uniform"}, max_length,
              {.min = 1, .max = int64_t{1} << 30});
    v.integer({"alphabet", "tokens are 0 to alphabet - 1"}, alphabet, {.min = 1, .max = 1'000'000});
    v.integer({"first_token", "added to all of them: sources with tokens of their own"},
              first_token, {.min = 0, .max = 1'000'000});
    v.integer({"pattern_seed", "another seed gives other documents"}, pattern_seed, {.min = 0});
  }
  [[nodiscard]] std::string check() const override {
    if (pattern == "recall" && alphabet % 2 != 0) {
      return fmt::format("alphabet: found {}, allowed an even number with pattern recall",
                         alphabet);
    }
    if (pattern == "facts" && alphabet % 3 != 0) {
      return fmt::format("alphabet: found {}, allowed a multiple of 3 with pattern facts",
                         alphabet);
    }
    if (pattern == "sums" && alphabet < 2) {
      return fmt::format("alphabet: found {}, allowed 2 or more with pattern sums", alphabet);
    }
    if (pattern == "sums" && min_length < 3) {
      return fmt::format("min_length: found {}, allowed 3 or more with pattern sums", min_length);
    }
    if (pattern == "powers" && alphabet <= kCounts) {
      return fmt::format("alphabet: found {}, allowed {} or more with pattern powers", alphabet,
                         kCounts + 1);
    }
    if (min_length <= max_length) return {};
    return fmt::format("min_length: found {}, allowed 1 to {} (max_length)", min_length,
                       max_length);
  }
};

class SyntheticSource final : public Source {
 public:
  explicit SyntheticSource(SyntheticOptions options) : options_(std::move(options)) {}

  bool holds_tokens() const override { return true; }

  void read(FunctionRef<void(const DocumentView&)> visit) const override {
    std::vector<int32_t> tokens;
    for (int64_t document = 0; document < options_.documents; ++document) {
      fill(static_cast<uint64_t>(document), tokens);
      for (int32_t& token : tokens) token += static_cast<int32_t>(options_.first_token);
      visit({.tokens = tokens});
    }
  }

  void add_to(Fingerprint& fingerprint) const override {
    fingerprint.add(options_.pattern);
    for (const int64_t value : {options_.documents, options_.min_length, options_.max_length,
                                options_.alphabet, options_.pattern_seed}) {
      fingerprint.add(value);
    }
    // Left out at 0: data made before there was the option stays the same data.
    if (options_.first_token != 0) fingerprint.add(options_.first_token);
  }

 private:
  void fill(uint64_t document, std::vector<int32_t>& tokens) const {
    const auto spread = static_cast<uint64_t>(options_.max_length - options_.min_length + 1);
    const uint64_t extra = uniform_below(key(0), document, 0, spread);
    tokens.resize(static_cast<size_t>(options_.min_length) + extra);
    const size_t half = (tokens.size() + 1) / 2;
    int64_t sum = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (options_.pattern == "copy" && i >= half) {
        tokens[i] = tokens[i - half];
      } else if (options_.pattern == "recall") {
        tokens[i] =
            i % 2 == 0 ? part_token(2, key(1), document, i) : value_of(document, tokens[i - 1]);
      } else if (options_.pattern == "facts") {
        tokens[i] = i % 3 == 2 ? object_of(tokens[i - 2], tokens[i - 1])
                               : third(i % 3) + part_token(3, key(1), document, i);
      } else if (options_.pattern == "sums") {
        tokens[i] = number_token(document, i, tokens.size(), sum);
        sum += tokens[i];
      } else if (options_.pattern == "powers") {
        tokens[i] =
            i % 3 == 2 ? power_of(tokens[i - 2], tokens[i - 1]) : question_token(document, i);
      } else if (options_.pattern == "markov" && i > 0) {
        tokens[i] = successor(document, i, tokens[i - 1]);
      } else {
        tokens[i] = uniform_token(key(1), document, i);
      }
    }
  }

  int32_t successor(uint64_t document, uint64_t i, int32_t previous) const {
    // The lowest set bit of a random number is 0, 1, 2, ... with probability 1/2, 1/4, 1/8, ...
    const int choice = std::countr_zero(random_u64(key(2), document, i) | 8);
    return uniform_token(key(3), static_cast<uint64_t>(previous), static_cast<uint64_t>(choice));
  }

  /// Token i of `length`: a number, the sign, or what `sum` is.
  int32_t number_token(uint64_t document, size_t i, size_t length, int64_t sum) const {
    const int64_t modulus = options_.alphabet - 1;
    if (i + 2 == length) return static_cast<int32_t>(modulus);
    // The sign leaves a sum modulo m as it was.
    if (i + 1 == length) return static_cast<int32_t>(sum % modulus);
    return static_cast<int32_t>(uniform_below(key(1), document, i, static_cast<uint64_t>(modulus)));
  }

  /// A count, then a number.
  int32_t question_token(uint64_t document, size_t i) const {
    const int64_t modulus = options_.alphabet - kCounts;
    const bool counts = i % 3 == 0;
    const auto below = static_cast<uint64_t>(counts ? kCounts : modulus);
    return static_cast<int32_t>((counts ? modulus : 0) +
                                uniform_below(key(1), document, i, below));
  }

  int32_t power_of(int32_t count, int64_t number) const {
    const int64_t modulus = options_.alphabet - kCounts;
    for (int64_t step = modulus; step < count; ++step) number = (3 * number + 1) % modulus;
    return static_cast<int32_t>(number);
  }

  /// Below alphabet / parts.
  int32_t part_token(int64_t parts, const RandomKey& random, uint64_t sample,
                     uint64_t index) const {
    return static_cast<int32_t>(
        uniform_below(random, sample, index, static_cast<uint64_t>(options_.alphabet / parts)));
  }

  int32_t value_of(uint64_t document, int32_t asked) const {
    return static_cast<int32_t>(options_.alphabet / 2) +
           part_token(2, key(4), document, static_cast<uint64_t>(asked));
  }

  /// The first token of a third of the alphabet.
  int32_t third(size_t which) const {
    return static_cast<int32_t>(static_cast<int64_t>(which) * (options_.alphabet / 3));
  }

  int32_t object_of(int32_t subject, int32_t relation) const {
    return third(2) +
           part_token(3, key(5), static_cast<uint64_t>(subject), static_cast<uint64_t>(relation));
  }

  int32_t uniform_token(const RandomKey& random, uint64_t sample, uint64_t index) const {
    return static_cast<int32_t>(
        uniform_below(random, sample, index, static_cast<uint64_t>(options_.alphabet)));
  }

  RandomKey key(uint32_t stream) const {
    return {.seed = static_cast<uint64_t>(options_.pattern_seed),
            .purpose = RandomPurpose::synthetic,
            .layer = stream};
  }

  SyntheticOptions options_;
};

}  // namespace

extern const SourceType k_source_synthetic;
const SourceType k_source_synthetic = {
    .name = "synthetic",
    .doc = "made-up tokens for tests and benchmarks",
    .reads_files = false,
    .make_options = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<SyntheticOptions>();
    },
    .make = [](const std::string&, const Configurable& options) -> std::unique_ptr<Source> {
      return std::make_unique<SyntheticSource>(dynamic_cast<const SyntheticOptions&>(options));
    },
};

}  // namespace sluice
