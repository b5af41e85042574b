#include "data/loader.h"

#include <bit>
#include <numeric>

#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr int64_t kStateVersion = 1;

std::vector<double> mixture_weights(const Dataset& data) {
  std::vector<double> weights;
  for (const Corpus& corpus : data.train) {
    weights.push_back(corpus.weight * static_cast<double>(corpus.num_tokens()));
  }
  SLUICE_CHECK(DataError, std::accumulate(weights.begin(), weights.end(), 0.0) > 0.0,
               "data.sources: no source with a weight above 0 has a token");
  return weights;
}

int64_t sum(const std::vector<int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

}  // namespace

std::vector<int64_t> LoaderState::to_words() const {
  std::vector<int64_t> words = {kStateVersion, std::bit_cast<int64_t>(fingerprint)};
  words.insert(words.end(), drawn.begin(), drawn.end());
  return words;
}

LoaderState LoaderState::from_words(const std::vector<int64_t>& words) {
  SLUICE_CHECK(DataError, words.size() >= 2 && words[0] == kStateVersion,
               "stored position in the data: found {} numbers of version {}, expected version {}",
               words.size(), words.empty() ? 0 : words[0], kStateVersion);
  return {std::bit_cast<uint64_t>(words[1]), {words.begin() + 2, words.end()}};
}

/// Makes batches one after another; knows nothing of threads.
class Loader::Producer {
 public:
  Producer(const Dataset& data, const LoaderOptions& options)
      : options_(options),
        fingerprint_(data.fingerprint),
        mixture_(mixture_weights(data), options.sequences_per_draw) {
    for (const Corpus& corpus : data.train) {
      const auto source_index = static_cast<uint32_t>(sources_.size());
      // Only sources that are never drawn from may be empty.
      sources_.push_back(corpus.num_tokens() == 0 ? nullptr
                                                  : std::make_unique<PackedCorpus>(
                                                        corpus, options.packing, source_index));
    }
  }

  Produced next() {
    Produced result;
    for (int64_t i = 0; i < options_.sequences_per_batch; ++i) {
      const auto sample = static_cast<uint64_t>(sum(mixture_.drawn()));
      const int64_t source = mixture_.next();
      if (i % options_.num_ranks != options_.rank) continue;
      sources_[source]->append_sequence(mixture_.drawn()[source] - 1, sample, result.batch);
    }
    result.state = state();
    return result;
  }

  LoaderState state() const { return {fingerprint_, mixture_.drawn()}; }
  void restore(const LoaderState& state) { mixture_.restore(state.drawn); }

 private:
  LoaderOptions options_;
  uint64_t fingerprint_;
  Mixture mixture_;
  std::vector<std::unique_ptr<PackedCorpus>> sources_;
};

Loader::Loader(const Dataset& data, const LoaderOptions& options)
    : data_(data), options_(options), producer_(std::make_unique<Producer>(data, options)) {
  SLUICE_INTERNAL_CHECK(
      options.sequences_per_batch > 0 && 0 <= options.rank && options.rank < options.num_ranks,
      "{} sequences for rank {} of {}", options.sequences_per_batch, options.rank,
      options.num_ranks);
  state_ = producer_->state();
}

Loader::~Loader() = default;

Batch Loader::next() {
  // Not before the first call: a resumed run restores first.
  if (!prefetcher_) {
    prefetcher_.emplace([this] { return producer_->next(); }, options_.prefetch);
  }
  Produced produced = prefetcher_->next();
  state_ = std::move(produced.state);
  return std::move(produced.batch);
}

void Loader::restore(const LoaderState& state) {
  SLUICE_CHECK(DataError,
               state.fingerprint == data_.fingerprint && state.drawn.size() == data_.train.size(),
               "the training data has changed: its fingerprint is {:016x}, the checkpoint's is "
               "{:016x}; give the run the data it began with",
               data_.fingerprint, state.fingerprint);
  prefetcher_.reset();
  producer_->restore(state);
  state_ = state;
}

int64_t Loader::tokens_drawn() const {
  return sum(state_.drawn) * options_.packing.sequence_length;
}

double Loader::epochs() const {
  return static_cast<double>(tokens_drawn()) / static_cast<double>(data_.num_train_tokens());
}

}  // namespace sluice
