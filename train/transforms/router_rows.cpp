#include "train/transforms/router_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <sstream>

#include "autograd/core/dtype.h"
#include "autograd/kernels/symmetric_eigen.h"
#include "autograd/support/choices.h"
#include "autograd/support/error.h"
#include "autograd/support/rng.h"
#include "data/files.h"
#include "train/find_checkpoint.h"
#include "train/generate.h"
#include "train/model_input.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

// Initial values are drawn with layer 0 of the purpose; these never meet them.
constexpr uint32_t kRowStream = 21;
/// Above it mergekit warns: rows are so alike that the router can hardly tell experts apart.
constexpr double kLargestCondition = 5.0;
constexpr double kLeastLength = 1e-8;

struct InitialRowsConfig final : Configurable {
  void fields(FieldVisitor& /*v*/) override {}
};

/// What one expert is meant for.
struct ExpertPromptsConfig final : Configurable {
  std::vector<std::string> prompts;
  std::vector<std::string> negative;
  std::optional<std::string> file;
  void fields(FieldVisitor& v) override {
    v.texts({"prompts", "texts that the expert is meant for"}, prompts);
    v.texts({"negative", "texts that it is not meant for, whose states are subtracted"}, negative);
    v.optional_path({"file", "more texts that it is meant for: documents between empty lines"}, file,
                    "none");
  }
  [[nodiscard]] std::string check() const override {
    if (!prompts.empty() || file) return {};
    return "prompts: not given; give texts, or a file of them";
  }
};

struct PromptRowsConfig final : Configurable {
  enum class Mode : uint8_t { hidden, hidden_avg, cheap_embed, random, uniform_random };
  enum class Capture : uint8_t { router_input, block_input };
  Mode mode = Mode::hidden;
  Capture capture = Capture::router_input;
  std::vector<std::shared_ptr<Configurable>> experts;  // ExpertPromptsConfig
  int64_t most_documents = 1000;

  void fields(FieldVisitor& v) override {
    static constexpr std::array<std::string_view, 6> kModes = {
        "hidden", "hidden_last", "hidden_avg", "cheap_embed", "random", "uniform_random"};
    static constexpr std::array<Mode, 6> kMeant = {Mode::hidden,      Mode::hidden,
                                                   Mode::hidden_avg,  Mode::cheap_embed,
                                                   Mode::random,      Mode::uniform_random};
    std::string word(kModes[static_cast<size_t>(std::ranges::find(kMeant, mode) - kMeant.begin())]);
    v.word({"mode",
            "hidden or hidden_last (the last token's state), hidden_avg (the mean over tokens), "
            "cheap_embed (the sum of embeddings), random, uniform_random"},
           word, kModes);
    mode = kMeant[static_cast<size_t>(std::ranges::find(kModes, word) - kModes.begin())];
    v.enumeration({"capture",
                   "router_input: what the router will read; block_input: the residual stream before "
                   "the block (mergekit)"},
                  capture,
                  {{"router_input", Capture::router_input}, {"block_input", Capture::block_input}});
    v.object_list({"experts", "what each expert is meant for, in order"}, experts,
                  [] { return std::make_shared<ExpertPromptsConfig>(); });
    v.integer({"most_documents", "documents that are read of a file"}, most_documents, {.min = 1});
  }
  [[nodiscard]] bool is_random() const {
    return mode == Mode::random || mode == Mode::uniform_random;
  }
  [[nodiscard]] std::string check() const override {
    if (is_random() && !experts.empty()) return "experts: given, but random rows need no prompts";
    if (!is_random() && experts.empty()) {
      return "experts: not given; say what each expert is meant for, by its prompts";
    }
    return {};
  }
};

template <class Config>
std::unique_ptr<Configurable> make_config() {
  return std::make_unique<Config>();
}

constexpr std::array<Choice, 2> kChoices = {
    {{"initial", "what the model starts with", make_config<InitialRowsConfig>},
     {"prompts", "what the model in from makes of prompts for each expert (mergekit's MoE script)",
      make_config<PromptRowsConfig>}}};

/// Documents of a text: what stands between empty lines.
std::vector<std::string> documents_of(const std::string& text, int64_t most) {
  std::vector<std::string> documents;
  std::istringstream lines(text);
  std::string document;
  const auto end_document = [&] {
    if (!document.empty()) documents.push_back(std::move(document));
    document.clear();
  };
  for (std::string line; std::ssize(documents) < most && std::getline(lines, line);) {
    if (line.empty()) {
      end_document();
    } else {
      document += line + '\n';
    }
  }
  if (std::ssize(documents) < most) end_document();
  return documents;
}

/// What the model makes of texts, in several layers at once.
class PromptReader {
 public:
  /// `sublayers` [L]: those that a row is wanted of.
  PromptReader(const UpcycleJob& job, const PromptRowsConfig& config,
               std::vector<int64_t> sublayers)
      : job_(job), config_(config), sublayers_(std::move(sublayers)) {
    const std::vector<SublayerSpec> specs = job.before.recipe.model.sublayers();
    for (const int64_t sublayer : sublayers_) captured_.push_back(captured_at(specs, sublayer));
  }

  /// [L, D]: the mean over texts.
  [[nodiscard]] std::vector<double> mean(const std::vector<std::string>& texts) const {
    const auto D = static_cast<size_t>(job_.before.recipe.model.hidden_size);
    std::vector<double> sums(sublayers_.size() * D);
    for (const std::string& text : texts) add_text(text, sums);
    for (double& sum : sums) sum /= static_cast<double>(std::max<size_t>(1, texts.size()));
    return sums;
  }

 private:
  using Mode = PromptRowsConfig::Mode;

  [[nodiscard]] int64_t captured_at(std::span<const SublayerSpec> specs, int64_t sublayer) const {
    if (config_.mode == Mode::cheap_embed) return 0;
    if (config_.capture == PromptRowsConfig::Capture::router_input || sublayer == 0) return sublayer;
    return specs[static_cast<size_t>(sublayer - 1)].mixer != nullptr ? sublayer - 1 : sublayer;
  }

  void add_text(const std::string& text, std::vector<double>& sums) const {
    const TrainedModel& model = job_.before;
    std::vector<int32_t> tokens = encode_prompt(*model.tokenizer, text);
    const auto most = static_cast<size_t>(job_.training.packing.sequence_length);
    if (tokens.size() > most) tokens.resize(most);
    Batch batch;
    batch.tokens = std::move(tokens);
    batch.targets.assign(batch.tokens.size(), kIgnoredTarget);
    for (int32_t i = 0; i < std::ssize(batch.tokens); ++i) batch.positions.push_back(i);
    batch.document_offsets.push_back(batch.num_tokens());
    batch.document_domain.push_back(0);
    batch.end_sequence(0);

    const ModelInput input = make_model_input(*model.pool, batch);
    Tape tape(*model.pool);
    const NoGrad no_grad(tape);
    const ForwardContext context{.tape = tape,
                                 .layout = input.layout,
                                 .routing = model.routing.get(),
                                 .progress = progress_of(model.recipe, model.meta)};
    const bool reads_stream = config_.mode == Mode::cheap_embed ||
                              config_.capture == PromptRowsConfig::Capture::block_input;
    const auto hook = [&](int64_t at, const Tensor& stream, const Tensor& own_input) {
      for (size_t layer = 0; layer < captured_.size(); ++layer) {
        if (captured_[layer] != at) continue;
        add_state(reads_stream ? stream : own_input,
                  std::span(sums).subspan(layer * static_cast<size_t>(stream.dim(1))));
      }
      return stream;
    };
    model.routing->begin_evaluation();
    (void)model.model->forward(context, input.tokens, hook);
    model.routing->end_evaluation();
  }

  /// Adds what stands for the text, of its states [N, D].
  void add_state(const Tensor& states, std::span<double> sums) const {
    const int64_t N = states.dim(0);
    const int64_t D = states.dim(1);
    const int64_t first = config_.mode == Mode::hidden ? N - 1 : 0;
    const double factor =
        config_.mode == Mode::hidden_avg ? 1.0 / static_cast<double>(N) : 1.0;
    dispatch_float(states.dtype(), [&]<class T>() {
      for (int64_t n = first; n < N; ++n) {
        for (int64_t d = 0; d < D; ++d) {
          sums[static_cast<size_t>(d)] += factor * static_cast<double>(states.data<T>()[n * D + d]);
        }
      }
    });
  }

  const UpcycleJob& job_;
  const PromptRowsConfig& config_;
  std::vector<int64_t> sublayers_;
  std::vector<int64_t> captured_;  // [L]: the sublayer before which the state is read
};

std::vector<std::string> texts_of(const ExpertPromptsConfig& expert, int64_t most_documents) {
  std::vector<std::string> texts = expert.prompts;
  if (!expert.file) return texts;
  for (std::string& document : documents_of(read_input_file(*expert.file), most_documents)) {
    texts.push_back(std::move(document));
  }
  SLUICE_CHECK(DataError, !texts.empty(), "upcycle.router.experts: {}: has no text",
               *expert.file);
  return texts;
}

/// [n, L, D] rows of length 1, and sentences on those that have none.
std::vector<std::vector<double>> prompt_rows(const UpcycleJob& job, const PromptRowsConfig& config,
                                             std::span<const RouterPlace> places,
                                             std::vector<std::string>& notes) {
  std::vector<int64_t> sublayers;
  for (const RouterPlace& place : places) sublayers.push_back(place.sublayer);
  const PromptReader reader(job, config, sublayers);
  const auto D = static_cast<size_t>(job.recipe.model.hidden_size);
  std::vector<std::vector<double>> rows;
  for (size_t expert = 0; expert < config.experts.size(); ++expert) {
    const auto& prompts = dynamic_cast<const ExpertPromptsConfig&>(*config.experts[expert]);
    std::vector<double> row = reader.mean(texts_of(prompts, config.most_documents));
    if (!prompts.negative.empty()) {
      const std::vector<double> less = reader.mean(prompts.negative);
      for (size_t i = 0; i < row.size(); ++i) row[i] -= less[i];
    }
    for (size_t layer = 0; layer < sublayers.size(); ++layer) {
      const std::span<double> own = std::span(row).subspan(layer * D, D);
      double squares = 0.0;
      for (const double value : own) squares += value * value;
      const double length = std::sqrt(squares);
      if (length < kLeastLength) {
        notes.push_back(fmt::format(
            "router row of expert {} in layers.{} is 0: its prompts and negative prompts cancel",
            expert, sublayers[layer]));
      }
      for (double& value : own) value /= std::max(length, kLeastLength);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

/// [E, L, D]
std::vector<std::vector<double>> random_rows(const UpcycleJob& job, PromptRowsConfig::Mode mode,
                                             std::span<const RouterPlace> places, int64_t count) {
  const int64_t D = job.recipe.model.hidden_size;
  const RandomKey key{static_cast<uint64_t>(job.recipe.seed), RandomPurpose::init, kRowStream};
  std::vector<std::vector<double>> rows(static_cast<size_t>(count));
  for (int64_t e = 0; e < count; ++e) {
    for (const RouterPlace& place : places) {
      for (int64_t d = 0; d < D; ++d) {
        const auto sample = static_cast<uint64_t>(place.sublayer);
        const auto index = static_cast<uint64_t>(e * D + d);
        rows[static_cast<size_t>(e)].push_back(
            mode == PromptRowsConfig::Mode::random
                ? normal(key, sample, index)
                : (2.0 * uniform(key, sample, index) - 1.0) / std::sqrt(static_cast<double>(D)));
      }
    }
  }
  return rows;
}

void write_row(StateArray& weight, int64_t expert, std::span<const double> row) {
  dispatch_float(weight.type == ElementType::f64 ? DType::f64 : DType::f32, [&]<class T>() {
    T* to = reinterpret_cast<T*>(weight.bytes.data()) + expert * std::ssize(row);
    std::ranges::transform(row, to, [](double value) { return static_cast<T>(value); });
  });
}

}  // namespace

Tagged initial_router_rows() {
  return {std::string(kChoices[0].name), std::make_shared<InitialRowsConfig>()};
}

std::span<const Choice> router_row_choices() { return kChoices; }

double condition_number(std::span<const double> rows, int64_t n) {
  const auto count = static_cast<size_t>(n);
  const size_t D = rows.size() / count;
  std::vector<double> gram(count * count);
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j < count; ++j) {
      for (size_t d = 0; d < D; ++d) gram[i * count + j] += rows[i * D + d] * rows[j * D + d];
    }
  }
  std::vector<double> values(count);
  std::vector<double> vectors(count * count);
  kernels::symmetric_eigen(n, gram.data(), values.data(), vectors.data());
  const auto [least, greatest] = std::ranges::minmax(values);
  // What rounding leaves of 0.
  if (least <= 1e-14 * greatest) return std::numeric_limits<double>::infinity();
  return std::sqrt(greatest / least);
}

std::vector<std::string> set_router_rows(const UpcycleJob& job, std::span<const RouterPlace> places,
                                         StateDict& state) {
  const auto* config = dynamic_cast<const PromptRowsConfig*>(job.config().router.config.get());
  if (config == nullptr) return {};
  std::vector<std::string> notes;
  const auto D = static_cast<size_t>(job.recipe.model.hidden_size);
  const int64_t entries = config->is_random() ? places[0].rows : std::ssize(config->experts);
  for (const RouterPlace& place : places) {
    SLUICE_CHECK(ConfigError, place.rows % entries == 0,
                 "upcycle.router.experts: found {} entries, allowed a divisor of the {} rows that the "
                 "experts of layers.{} may have",
                 entries, place.rows, place.sublayer);
  }
  const auto rows = config->is_random() ? random_rows(job, config->mode, places, entries)
                                        : prompt_rows(job, *config, places, notes);
  for (size_t layer = 0; layer < places.size(); ++layer) {
    const RouterPlace& place = places[layer];
    const auto found = state.find(fmt::format("model/layers.{}.router.weight", place.sublayer));
    SLUICE_CHECK(ConfigError,
                 found != state.end() &&
                     found->second.dims ==
                         std::vector<int64_t>({found->second.dims[0], static_cast<int64_t>(D)}),
                 "upcycle.router: the router of layers.{} has no row per expert that prompts could "
                 "set; allowed top_k and what derives from it",
                 place.sublayer);
    std::vector<double> all;
    for (const std::vector<double>& row : rows) {
      const auto own = std::span(row).subspan(layer * D, D);
      all.insert(all.end(), own.begin(), own.end());
    }
    for (int64_t e = 0; e < place.count; ++e) {
      const auto entry = static_cast<size_t>(e * entries / place.count);
      write_row(found->second, place.first + e, std::span<const double>(all).subspan(entry * D, D));
    }
    const double condition = entries > 1 ? condition_number(all, entries) : 1.0;
    if (condition > kLargestCondition) {
      notes.push_back(fmt::format(
          "router rows of layers.{} are hard to tell apart: condition number {:.3g} (above {:g})",
          place.sublayer, condition, kLargestCondition));
    }
  }
  notes.push_back(fmt::format("router rows by {}", job.config().router.type));
  return notes;
}

}  // namespace sluice
