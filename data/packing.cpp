#include "data/packing.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "autograd/support/error.h"
#include "autograd/support/parallel.h"
#include "autograd/support/rng.h"

namespace sluice {
namespace {

constexpr uint64_t kDocuments = 0;
constexpr uint64_t kSequences = 1;

}  // namespace

void append_piece(const Corpus& corpus, int64_t document, int64_t begin, int64_t count,
                  int32_t target_after, Batch& batch) {
  corpus.tokens.copy_to(corpus.document_offsets[document] + begin, count, batch.tokens);
  const int64_t length = corpus.document_length(document);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t next = begin + i + 1;
    batch.targets.push_back(next < length ? corpus.target(document, next) : target_after);
    batch.positions.push_back(static_cast<int32_t>(i));
  }
  batch.document_offsets.push_back(batch.num_tokens());
  batch.document_domain.push_back(corpus.domain);
}

PackedCorpus::PackedCorpus(const Corpus& corpus, const PackingOptions& options,
                           uint32_t source_index)
    : corpus_(corpus), options_(options), source_index_(source_index) {
  SLUICE_INTERNAL_CHECK(corpus.num_tokens() > 0 && options.sequence_length > 0,
                        "{} tokens into sequences of {}", corpus.num_tokens(),
                        options.sequence_length);
}

void PackedCorpus::append_sequence(int64_t index, uint64_t global_sample, Batch& batch) {
  const int64_t length = options_.sequence_length;
  const int64_t number = index * length / corpus_.num_tokens();
  const int64_t nth = index - first_sequence_of(number);
  int64_t position = epoch(number).sequences[static_cast<size_t>(nth)] * length;
  for (const int64_t end = position + length; position < end;) {
    const Place place = place_at(position);
    const int64_t left = corpus_.document_length(place.document) - place.offset;
    const int64_t count = std::min(left, end - position);
    position += count;
    const bool learns_next = options_.cross_document_loss && count == left;
    append_piece(corpus_, place.document, place.offset, count,
                 learns_next ? first_target_at(position) : kIgnoredTarget, batch);
  }
  batch.end_sequence(global_sample);
}

/// The first sequence that begins at or after the epoch's first token.
int64_t PackedCorpus::first_sequence_of(int64_t epoch) const {
  return ceil_div(epoch * corpus_.num_tokens(), options_.sequence_length);
}

const PackedCorpus::Epoch& PackedCorpus::epoch(int64_t number) {
  Epoch& slot = epochs_[static_cast<size_t>(number % 2)];
  if (slot.number == number) return slot;
  slot.number = number;
  const auto key = static_cast<uint64_t>(number);
  slot.documents = permutation(corpus_.num_documents(), key, kDocuments);
  slot.starts.assign(1, 0);
  for (const int64_t document : slot.documents) {
    slot.starts.push_back(slot.starts.back() + corpus_.document_length(document));
  }
  const int64_t first = first_sequence_of(number);
  slot.sequences = permutation(first_sequence_of(number + 1) - first, key, kSequences);
  for (int64_t& sequence : slot.sequences) sequence += first;
  return slot;
}

PackedCorpus::Place PackedCorpus::place_at(int64_t position) {
  const Epoch& order = epoch(position / corpus_.num_tokens());
  const int64_t offset = position % corpus_.num_tokens();
  const auto after = std::upper_bound(order.starts.begin(), order.starts.end(), offset);
  const auto index = static_cast<size_t>(after - order.starts.begin()) - 1;
  return {order.documents[index], offset - order.starts[index]};
}

int32_t PackedCorpus::first_target_at(int64_t position) {
  const int64_t document = place_at(position).document;
  if (corpus_.loss_begin[document] > 0) return kIgnoredTarget;
  return corpus_.tokens[corpus_.document_offsets[document]];
}

/// Fisher-Yates with counter-based numbers; the identity without shuffling.
std::vector<int64_t> PackedCorpus::permutation(int64_t size, uint64_t epoch, uint64_t what) const {
  std::vector<int64_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  if (!options_.shuffle) return order;
  const RandomKey key{.seed = options_.seed,
                      .purpose = RandomPurpose::shuffle,
                      .layer = source_index_,
                      .step = epoch};
  for (size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[uniform_below(key, what, i, i)]);
  }
  return order;
}

}  // namespace sluice
