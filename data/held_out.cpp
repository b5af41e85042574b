#include "data/held_out.h"

#include <algorithm>

#include "autograd/support/error.h"
#include "autograd/support/rng.h"

namespace sluice {
namespace {

Corpus empty_like(const Corpus& corpus) {
  Corpus result(corpus.tokens.empty_like());
  result.domain = corpus.domain;
  result.weight = corpus.weight;
  return result;
}

int64_t bytes_of_tokens(const Corpus& corpus, int64_t begin, int64_t end,
                        const Tokenizer& tokenizer) {
  int64_t bytes = 0;
  for (int64_t i = begin; i < end; ++i) {
    bytes += static_cast<int64_t>(tokenizer.token_bytes(corpus.tokens[i]).size());
  }
  return bytes;
}

void split_single_document(const Corpus& corpus, double fraction, const Tokenizer& tokenizer,
                           HeldOutSplit& split) {
  const int64_t length = corpus.num_tokens();
  const auto wanted = static_cast<int64_t>(fraction * static_cast<double>(length));
  const int64_t cut = length - std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, length - 1));
  if (cut == 0) {
    split.train = corpus;
    return;
  }
  split.train.add_part(corpus, 0, 0, cut, bytes_of_tokens(corpus, 0, cut, tokenizer));
  split.held_out.add_part(corpus, 0, cut, length, bytes_of_tokens(corpus, cut, length, tokenizer));
}

/// [D] true where held out.
std::vector<bool> choose_documents(int64_t documents, const HeldOutRule& rule) {
  const RandomKey key{
      .seed = rule.seed, .purpose = RandomPurpose::hold_out, .layer = rule.source_index};
  std::vector<double> draws(static_cast<size_t>(documents));
  for (size_t i = 0; i < draws.size(); ++i) draws[i] = uniform(key, i, 0);
  std::vector<bool> is_held_out(draws.size());
  std::transform(draws.begin(), draws.end(), is_held_out.begin(),
                 [&](double draw) { return draw < rule.fraction; });
  const auto [lowest, highest] = std::minmax_element(draws.begin(), draws.end());
  is_held_out[static_cast<size_t>(lowest - draws.begin())] = true;
  is_held_out[static_cast<size_t>(highest - draws.begin())] = false;
  return is_held_out;
}

}  // namespace

HeldOutSplit split_held_out(Corpus corpus, const HeldOutRule& rule, const Tokenizer& tokenizer) {
  HeldOutSplit split{empty_like(corpus), empty_like(corpus)};
  if (rule.fraction <= 0.0 || corpus.num_documents() == 0) {
    split.train = std::move(corpus);
    return split;
  }
  if (corpus.num_documents() == 1) {
    split_single_document(corpus, rule.fraction, tokenizer, split);
    return split;
  }
  const std::vector<bool> is_held_out = choose_documents(corpus.num_documents(), rule);
  for (int64_t i = 0; i < corpus.num_documents(); ++i) {
    Corpus& side = is_held_out[static_cast<size_t>(i)] ? split.held_out : split.train;
    side.add_part(corpus, i, 0, corpus.document_length(i), corpus.document_bytes[i]);
  }
  return split;
}

}  // namespace sluice
