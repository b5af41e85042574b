#include "train/transforms/attention_experts.h"

#include <algorithm>
#include <array>

#include "autograd/support/error.h"
#include "layers/mixers/attention.h"
#include "layers/mixers/attention_mixture.h"
#include "train/field_snapshot.h"
#include "train/transforms/averaging.h"

namespace sluice {
namespace {

// Letters: E experts, H query heads and K key heads of each, P head width, D hidden size.

/// A key that both have must be the same; of what only attention has, nothing may be used.
void check_heads(const AttentionPair& pair) {
  auto attention = dynamic_cast<const AttentionConfig&>(*pair.attention.config);
  auto mixture = dynamic_cast<const AttentionMixtureConfig&>(*pair.mixture.config);
  std::string problems;
  for (const FieldDifference& difference : differences(attention, mixture)) {
    const bool of_mixture = difference.key == "num_experts" || difference.key == "share_keys";
    const bool unused = difference.key == "head_windows" && attention.head_windows.empty();
    if (of_mixture || unused) continue;
    problems += fmt::format("\n  {}: {} there, {} here", difference.key, difference.before,
                            difference.after);
  }
  SLUICE_CHECK(ConfigError, problems.empty(),
               "upcycle.from: the attention of {} is not that of the experts in model.{}; make them "
               "alike:{}",
               pair.name, pair.mixture.key, problems);
}

/// Where a head of the mixture comes from.
struct HeadSource {
  int64_t expert;
  int64_t head;  // of the expert's model
};

/// The heads of the mixture's queries, in the order of attention_mixture.h.
std::vector<HeadSource> query_heads(const AttentionMixtureConfig& config) {
  const int64_t E = config.num_experts;
  const int64_t H = config.num_heads;
  const int64_t block = config.share_keys ? H / config.kv_heads() : H;
  std::vector<HeadSource> heads;
  for (int64_t head = 0; head < E * H; ++head) {
    const int64_t group = head / (block * E);  // the key head, where keys are shared
    heads.push_back({head / block % E, group * block + head % block});
  }
  return heads;
}

/// The heads of the mixture's keys and values, where experts have their own.
std::vector<HeadSource> key_heads(const AttentionMixtureConfig& config) {
  std::vector<HeadSource> heads;
  for (int64_t head = 0; head < config.num_experts * config.kv_heads(); ++head) {
    heads.push_back({head / config.kv_heads(), head % config.kv_heads()});
  }
  return heads;
}

/// An array [outer, heads, inner bytes]: that of each head comes from a model's array.
void copy_heads(std::span<const HeadSource> heads, std::span<const StateArray* const> models,
                int64_t outer, StateArray& to) {
  const auto count = std::ssize(heads);
  const auto own_count = std::ssize(models[0]->bytes) * count / std::ssize(to.bytes);
  const int64_t inner = std::ssize(to.bytes) / (outer * count);
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t head = 0; head < count; ++head) {
      const HeadSource& source = heads[static_cast<size_t>(head)];
      const StateArray& from = *models[static_cast<size_t>(source.expert) % models.size()];
      std::copy_n(from.bytes.begin() + (o * own_count + source.head) * inner, inner,
                  to.bytes.begin() + (o * count + head) * inner);
    }
  }
}

}  // namespace

std::vector<AttentionPair> attention_pairs(std::span<const SublayerSpec> before,
                                           std::span<const SublayerSpec> after) {
  std::vector<AttentionPair> pairs;
  for (size_t i = 0; i < after.size(); ++i) {
    const bool becomes =
        dynamic_cast<const AttentionMixtureConfig*>(after[i].config) != nullptr &&
        dynamic_cast<const AttentionConfig*>(before[i].config) != nullptr;
    if (!becomes) continue;
    pairs.push_back({fmt::format("layers.{}", i), after[i], before[i]});
    check_heads(pairs.back());
  }
  return pairs;
}

void make_attention_experts(const AttentionPair& pair, std::span<const Checkpoint* const> models,
                            std::span<const std::string> files, StateDict& state) {
  const auto& config = dynamic_cast<const AttentionMixtureConfig&>(*pair.mixture.config);
  const std::string own = fmt::format("model/{}.attention_mixture.", pair.name);
  const std::vector<HeadSource> queries = query_heads(config);
  const std::vector<HeadSource> keys = key_heads(config);
  for (auto& [path, array] : state) {
    if (!path.starts_with(own)) continue;
    const std::string name = path.substr(own.size());
    if (name == "w_router") continue;
    const bool is_query = name == "w_q" || name == "b_q";
    const bool is_key = name == "w_k" || name == "b_k" || name == "w_v" || name == "b_v";
    const bool by_expert = is_query || name == "w_o" || (is_key && !config.share_keys);
    std::vector<int64_t> dims = array.dims;
    if (by_expert) dims[name == "w_o" ? 1 : 0] /= config.num_experts;
    std::vector<const StateArray*> of_models;
    for (size_t m = 0; m < models.size(); ++m) {
      of_models.push_back(&array_of(*models[m], files[m],
                                    fmt::format("model/{}.attention.{}", pair.name, name), dims,
                                    array.type));
    }
    if (by_expert) {
      copy_heads(is_key ? keys : queries, of_models, name == "w_o" ? array.dims[0] : 1, array);
    } else {
      array = average(of_models);
    }
  }
}

}  // namespace sluice
