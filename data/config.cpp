#include "data/config.h"

#include <algorithm>

#include "data/tokenizer.h"

namespace sluice {
namespace {

std::shared_ptr<Configurable> make_source_config() { return std::make_shared<SourceConfig>(); }

}  // namespace

const SourceConfig& as_source(const std::shared_ptr<Configurable>& item) {
  return dynamic_cast<const SourceConfig&>(*item);
}

void HeldOutConfig::fields(FieldVisitor& v) {
  v.number({"fraction",
            "share of each source's documents that is evaluated and never trained on; "
            "not used when there are held-out sources"},
           fraction, {.min = 0.0, .max = 0.9});
  v.object_list({"sources", "text to evaluate on instead, in the form of data.sources"}, sources,
                make_source_config);
}

std::string HeldOutConfig::check() const {
  if (sources.empty() || fraction == HeldOutConfig().fraction) return {};
  return "fraction: given beside sources; give the one or the other";
}

DataConfig::DataConfig() {
  const Choice& first = tokenizer_choices().front();
  tokenizer = {std::string(first.name), first.make_config()};
}

void DataConfig::fields(FieldVisitor& v) {
  v.tagged({"tokenizer", "how text becomes tokens"}, tokenizer, tokenizer_choices());
  v.integer({"sequence_length", "tokens per sequence"}, sequence_length,
            {.min = 1, .max = int64_t{1} << 24});
  v.object_list({.key = "sources", .doc = "the text or tokens to train on", .required = true},
                sources, make_source_config);
  v.object({"held_out", "what is evaluated and never trained on"}, held_out);
  v.integer({"sequences_per_draw",
             "consecutive sequences that come from one source; as many as a micro-batch holds make "
             "micro-batches of one domain each"},
            sequences_per_draw, {.min = 1, .max = 1 << 16});
  v.boolean(
      {"shuffle", "a new order of documents and sequences in every epoch; false: as they stand"},
      shuffle);
  v.boolean({"cross_document_loss",
             "also learn to predict a document's first token from the end of the one before"},
            cross_document_loss);
  v.integer({"prefetch", "batches prepared ahead on a thread of their own; 0: none"}, prefetch,
            {.min = 0, .max = 1024});
  v.optional_path({"cache", "folder that keeps trained tokenizers and encoded text between runs"},
                  cache, "none");
}

std::string DataConfig::check() const {
  if (sources.empty()) return "sources: found none, at least one is needed";
  const bool has_weight = std::any_of(sources.begin(), sources.end(),
                                      [](const auto& item) { return as_source(item).weight > 0; });
  return has_weight ? "" : "sources: every weight is 0, at least one must be above";
}

}  // namespace sluice
