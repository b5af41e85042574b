#include "data/evaluation.h"

#include <algorithm>
#include <limits>

#include "autograd/support/error.h"
#include "data/packing.h"

namespace sluice {
namespace {

int64_t bytes_of_targets(const Batch& batch, const std::vector<int32_t>& token_bytes) {
  int64_t bytes = 0;
  for (const int32_t target : batch.targets) {
    if (target != kIgnoredTarget) bytes += token_bytes[static_cast<size_t>(target)];
  }
  return bytes;
}

}  // namespace

EvaluationPass::EvaluationPass(const Dataset& data, const EvaluationOptions& options)
    : data_(data), options_(options) {
  SLUICE_INTERNAL_CHECK(options.sequence_length > 0 && options.sequences_per_batch > 0 &&
                            0 <= options.rank && options.rank < options.num_ranks,
                        "{} sequences of {} for rank {} of {}", options.sequences_per_batch,
                        options.sequence_length, options.rank, options.num_ranks);
  begin_domain(0);
}

std::optional<EvaluationBatch> EvaluationPass::next() {
  const auto num_domains = static_cast<int32_t>(data_.domains.size());
  while (domain_ < num_domains) {
    EvaluationBatch result{.domain = domain_};
    for (int64_t i = 0; i < options_.sequences_per_batch && has_more_in_domain(); ++i) {
      append_sequence(result.batch);
    }
    if (!has_more_in_domain()) begin_domain(domain_ + 1);
    if (result.batch.num_sequences() == 0) continue;
    result.target_bytes = bytes_of_targets(result.batch, data_.token_bytes);
    return result;
  }
  return std::nullopt;
}

bool EvaluationPass::has_more_in_domain() const {
  return tokens_left_ > 0 && corpus_ < data_.held_out.size();
}

void EvaluationPass::begin_domain(int32_t domain) {
  domain_ = domain;
  corpus_ = 0;
  document_ = 0;
  offset_ = 0;
  tokens_left_ = options_.max_tokens.value_or(std::numeric_limits<int64_t>::max());
  skip_finished_corpora();
}

void EvaluationPass::append_sequence(Batch& batch) {
  Batch sequence;
  int64_t room = std::min(options_.sequence_length, tokens_left_);
  while (room > 0 && corpus_ < data_.held_out.size()) {
    const Corpus& corpus = data_.held_out[corpus_];
    const int64_t left = corpus.document_length(document_) - offset_;
    const int64_t count = std::min(left, room);
    append_piece(corpus, document_, offset_, count, kIgnoredTarget, sequence);
    room -= count;
    tokens_left_ -= count;
    offset_ += count;
    if (count == left) {
      ++document_;
      offset_ = 0;
      skip_finished_corpora();
    }
  }
  const bool is_mine = static_cast<int64_t>(sample_) % options_.num_ranks == options_.rank;
  sequence.end_sequence(sample_++);
  if (is_mine) batch.append(sequence);
}

/// Moves on to the next corpus of this domain that has a document left.
void EvaluationPass::skip_finished_corpora() {
  while (corpus_ < data_.held_out.size() &&
         (data_.held_out[corpus_].domain != domain_ ||
          document_ == data_.held_out[corpus_].num_documents())) {
    ++corpus_;
    document_ = 0;
  }
}

}  // namespace sluice
