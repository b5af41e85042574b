#include "data/dataset.h"

#include <algorithm>

#include "autograd/support/error.h"
#include "data/held_out.h"
#include "data/token_cache.h"

namespace sluice {
namespace {

// Part of every cache key: raised when the same inputs come to give other tokens.
constexpr int64_t kCacheVersion = 1;

struct OpenSource {
  const SourceConfig& config;
  std::unique_ptr<Source> source;
};

/// `key` is where the recipe lists them.
std::vector<OpenSource> open_sources(const SourceConfigs& configs, std::string_view key) {
  std::vector<OpenSource> sources;
  for (size_t i = 0; i < configs.size(); ++i) {
    const SourceConfig& config = as_source(configs[i]);
    with_context([&] { return fmt::format("{}.{}", key, i); },
                 [&] {
                   sources.push_back({config, make_source(config)});
                 });
  }
  return sources;
}

void read_texts(const std::vector<OpenSource>& sources, FunctionRef<void(std::string_view)> visit) {
  for (const OpenSource& open : sources) {
    if (open.source->holds_tokens()) continue;
    open.source->read([&](const DocumentView& document) {
      visit(document.prompt);
      visit(document.text);
    });
  }
}

std::shared_ptr<const Tokenizer> make_or_find_tokenizer(const Tagged& choice,
                                                        const std::vector<OpenSource>& sources,
                                                        const TokenCache& cache) {
  const auto make = [&] {
    return make_tokenizer(
        choice, [&](FunctionRef<void(std::string_view)> visit) { read_texts(sources, visit); });
  };
  Fingerprint fingerprint;
  fingerprint.add(kCacheVersion);
  if (!cache.is_enabled() || !add_tokenizer_training(choice, fingerprint)) return make();
  for (const OpenSource& open : sources) open.source->add_to(fingerprint);
  if (auto found = cache.find_tokenizer(fingerprint.hex())) return found;
  auto made = make();
  cache.store_tokenizer(fingerprint.hex(), *made);
  return made;
}

Corpus encode_or_find(const OpenSource& open, const Tokenizer& tokenizer, const TokenCache& cache) {
  if (!cache.is_enabled()) return encode_source(*open.source, tokenizer, open.config.name());
  Fingerprint fingerprint;
  fingerprint.add(kCacheVersion);
  fingerprint.add(open.config.resolved_type());
  open.source->add_to(fingerprint);
  fingerprint.add(tokenizer.kind());
  fingerprint.add(tokenizer.serialize());
  if (auto found = cache.find_corpus(fingerprint.hex())) return *std::move(found);
  Corpus made = encode_source(*open.source, tokenizer, open.config.name());
  cache.store_corpus(fingerprint.hex(), made);
  return made;
}

int32_t domain_index(std::vector<std::string>& domains, const std::string& domain) {
  const auto found = std::find(domains.begin(), domains.end(), domain);
  const auto index = static_cast<int32_t>(found - domains.begin());
  if (found == domains.end()) domains.push_back(domain);
  return index;
}

uint64_t fingerprint_of(const Dataset& data) {
  Fingerprint fingerprint;
  for (const Corpus& corpus : data.train) corpus.add_to(fingerprint);
  for (const Corpus& corpus : data.held_out) corpus.add_to(fingerprint);
  return fingerprint.value();
}

std::vector<DomainSize> sizes_of(const std::vector<Corpus>& corpora,
                                 const std::vector<std::string>& domains) {
  std::vector<DomainSize> sizes;
  for (const std::string& domain : domains) sizes.push_back({domain});
  for (const Corpus& corpus : corpora) {
    DomainSize& size = sizes[static_cast<size_t>(corpus.domain)];
    size.documents += corpus.num_documents();
    size.tokens += corpus.num_tokens();
    size.bytes += corpus.num_bytes();
  }
  std::erase_if(sizes, [](const DomainSize& size) { return size.documents == 0; });
  return sizes;
}

}  // namespace

int64_t Dataset::num_train_tokens() const {
  int64_t tokens = 0;
  for (const Corpus& corpus : train) tokens += corpus.num_tokens();
  return tokens;
}

std::vector<DomainSize> Dataset::train_sizes() const { return sizes_of(train, domains); }

std::vector<DomainSize> Dataset::held_out_sizes() const { return sizes_of(held_out, domains); }

Dataset load_dataset(const DataConfig& config, uint64_t seed,
                     std::shared_ptr<const Tokenizer> tokenizer) {
  const TokenCache cache(config.cache);
  // All files are looked for before any is read: a missing one must not show up minutes later.
  const std::vector<OpenSource> sources = open_sources(config.sources, "data.sources");
  const std::vector<OpenSource> held_out_sources =
      open_sources(config.held_out.sources, "data.held_out.sources");
  Dataset data;
  data.tokenizer = tokenizer != nullptr ? std::move(tokenizer)
                                        : make_or_find_tokenizer(config.tokenizer, sources, cache);
  const auto encode = [&](const OpenSource& open) {
    Corpus corpus = encode_or_find(open, *data.tokenizer, cache);
    corpus.domain = domain_index(data.domains, open.config.resolved_domain());
    corpus.weight = open.config.weight;
    return corpus;
  };
  const double fraction = held_out_sources.empty() ? config.held_out.fraction : 0.0;
  for (const OpenSource& open : sources) {
    const auto index = static_cast<uint32_t>(data.train.size());
    HeldOutSplit split = split_held_out(
        encode(open), {.fraction = fraction, .seed = seed, .source_index = index}, *data.tokenizer);
    data.train.push_back(std::move(split.train));
    if (split.held_out.num_documents() > 0) data.held_out.push_back(std::move(split.held_out));
  }
  for (const OpenSource& open : held_out_sources) data.held_out.push_back(encode(open));
  data.token_bytes = token_byte_lengths(*data.tokenizer);
  data.fingerprint = fingerprint_of(data);
  return data;
}

std::shared_ptr<const Tokenizer> load_tokenizer(const DataConfig& config) {
  return make_or_find_tokenizer(config.tokenizer, open_sources(config.sources, "data.sources"),
                                TokenCache(config.cache));
}

}  // namespace sluice
