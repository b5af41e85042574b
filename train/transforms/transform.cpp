#include "train/transforms/transform.h"

#include <algorithm>
#include <limits>

#include "autograd/support/file.h"
#include "data/loader.h"
#include "train/find_checkpoint.h"
#include "train/run_folder.h"
#include "train/run_state.h"
#include "train/transforms/parity_json.h"
#include "train/yaml_document.h"
#include "train/yaml_writer.h"

namespace sluice {
namespace {

constexpr RaiseError kRaise = raise_as<CheckpointError>;

CheckpointStore::Found find_source(const std::string& from, std::vector<std::string>& notes) {
  SLUICE_CHECK(ConfigError, std::filesystem::exists(from), "from: {}: no such file or folder",
               from);
  return with_context([] { return "from"; },
                      [&] { return find_checkpoint(from, CheckpointChoice::newest, notes); });
}

/// A method's settings without its type.
std::string settings_of(const Tagged& method) { return write_yaml(*method.config); }

nlohmann::ordered_json json_of(const ModelSize& size) {
  return {{"parameters", size.total}, {"active_parameters", size.active}, {"bytes", size.bytes}};
}

nlohmann::ordered_json json_of(const TransformReceipt::Layer& layer) {
  nlohmann::ordered_json json = {{"layer", layer.path}, {"kept", layer.kept}};
  if (!layer.scores.empty()) json["scores"] = layer.scores;
  if (!layer.members.empty()) json["members"] = layer.members;
  return json;
}

}  // namespace

void TransformConfig::fields(FieldVisitor& v) {
  v.path({"from", "checkpoint of the model, or the folder of its run", true}, from);
  v.tagged_list({"method", "how it becomes smaller: one method, or a list for --compare", true},
                method, transform_choices());
  v.object({"calibration", "the text on which experts are watched"}, calibration);
  v.integers({"seeds",
              "of random choices and of the order of the training text; one, or a list for "
              "--compare"},
             seeds, {.min = 0});
  v.optional_integer({"probe_tokens", "held-out tokens on which both models are compared"},
                     probe_tokens, {.min = 1}, "all");
  const auto kept = [&v](FieldInfo info, Kept& value) {
    v.enumeration(info, value, {{"keep", Kept::keep}, {"reset", Kept::reset}});
  };
  kept({"optimizer", "moments of the model's run: keep (cut like the weights) or reset"},
       optimizer);
  kept({"step", "steps and tokens done, by which schedules go: keep or reset"}, step);
  kept({"data", "position in the training data: keep or reset"}, data);
  v.optional_integer({"threads", "processors to use; changes speed, never results"}, threads,
                     {.min = 1, .max = 4096}, "auto");
}

std::string TransformConfig::check() const {
  if (method.empty()) return "method: found none, a method is needed";
  if (seeds.empty()) return "seeds: found none, allowed one or more";
  return {};
}

bool is_transform_file(const std::filesystem::path& file) {
  const YamlDocument document = load_documents({{file.string()}, {}});
  return !document.is_broken && document.root.find("from") != nullptr &&
         document.root.find("method") != nullptr;
}

Transformation::Transformation(const TransformConfig& config)
    : config_(config),
      found_(find_source(config.from, notes_)),
      model_(build_trained_model(found_.checkpoint, found_.path.string())),
      progress_(progress_of(model_.recipe, model_.meta)),
      layers_(expert_layers(model_.recipe, progress_, "from: " + found_.path.string())),
      own_data_(load_dataset(model_.recipe.data, static_cast<uint64_t>(model_.recipe.seed),
                             model_.tokenizer)),
      data_(*own_data_) {}

Transformation::Transformation(const TransformConfig& config, CheckpointStore::Found source,
                               const Dataset& data)
    : config_(config),
      found_(std::move(source)),
      model_(build_trained_model(found_.checkpoint, found_.path.string())),
      progress_(progress_of(model_.recipe, model_.meta)),
      layers_(expert_layers(model_.recipe, progress_, found_.path.string())),
      data_(data) {}

const Transformation::Calibrated& Transformation::calibrated(int64_t seed,
                                                             const CalibrationNeeds& needs) {
  const auto [found, is_new] = calibrated_.try_emplace({seed, needs.outputs});
  if (is_new) {
    found->second.text =
        calibration_text(config_.calibration, static_cast<uint64_t>(seed), model_.recipe, data_);
    found->second.statistics = calibrate(model_, layers_, found->second.text, progress_, needs);
  }
  return found->second;
}

/// Of a new run of `recipe`: what Run::visit_state shows before the first step.
StateDict Transformation::initial_state(const Recipe& recipe) const {
  Pool pool;
  const auto model = build_model(recipe, pool, model_.tokenizer->vocab_size());
  const auto routing = build_routing(recipe);
  const auto optimizer = build_optimizer(recipe, *model, pool);
  SingleRank communicator;
  LoaderOptions options =
      loader_options(recipe, derive_sizes(recipe, data_.num_train_tokens()), communicator);
  options.prefetch = 0;
  std::vector<int64_t> words = Loader(data_, options).state().to_words();
  RunState run(model->experts_per_layer(), recipe.log.dead_after);
  SaveVisitor save;
  const auto under = [&save](std::string_view name, auto&& visit) {
    const StateScope scope(save, name);
    visit();
  };
  under("model", [&] { visit_parameters(*model, save); });
  under("optim", [&] { optimizer->visit_state(save); });
  under("balance", [&] { routing->visit_state(save); });
  under("data", [&] { save.list("loader", words); });
  under("run", [&] { run.visit_state(save); });
  return save.take();
}

ModelSize Transformation::size_of(const TrainedModel& model) const {
  const ParameterCount count = count_parameters(model.recipe, *model.model, progress_);
  ModelSize size{.total = count.total, .active = count.active};
  for (const Parameter* parameter : model.model->parameters())
    size.bytes += parameter->value.bytes();
  return size;
}

std::optional<Parity> Transformation::compare(const TrainedModel& after) const {
  SingleRank communicator;
  return compare_models(
      {{*model_.pool, *model_.model, *model_.routing, communicator}, progress_},
      {{*after.pool, *after.model, *after.routing, communicator},
       progress_of(after.recipe, after.meta)},
      data_,
      evaluation_options(model_.recipe, derive_sizes(model_.recipe, data_.num_train_tokens()),
                         communicator),
      config_.probe_tokens.value_or(std::numeric_limits<int64_t>::max()));
}

Transformed Transformation::run(const Tagged& method, int64_t seed) {
  const auto transform = transform_registry().at(method.type).make(*method.config);
  transform->check(layers_);
  const Calibrated& watched = calibrated(seed, transform->needs());
  const StateDict& before = found_.checkpoint.state;
  const std::vector<ExpertChange> changes =
      transform->change({.model = model_,
                         .state = before,
                         .layers = layers_,
                         .statistics = watched.statistics,
                         .text = watched.text,
                         .progress = progress_,
                         .seed = static_cast<uint64_t>(seed)});
  Transformed made;
  TransformReceipt& receipt = made.receipt;
  receipt.from = found_.path.string();
  receipt.method = transform->label();
  receipt.settings = settings_of(method);
  receipt.seed = seed;
  for (const Batch& batch : watched.text) receipt.calibration_tokens += batch.num_tokens();
  for (size_t i = 0; i < layers_.size(); ++i) {
    receipt.layers.push_back(
        {layers_[i].path, changes[i].kept, changes[i].scores, changes[i].members});
    if (!changes[i].note.empty()) receipt.notes.push_back(changes[i].note);
  }
  made.recipe = changed_recipe(model_.meta.recipe, layers_, changes);
  StateDict& after = made.checkpoint.state;
  after = initial_state(made.recipe);
  const auto keeps = [](TransformConfig::Kept kept) { return kept == TransformConfig::Kept::keep; };
  change_state(before, layers_, changes,
               {.optimizer = keeps(config_.optimizer),
                .step = keeps(config_.step),
                .data = keeps(config_.data)},
               after, receipt.notes);
  CheckpointMeta& meta = made.checkpoint.meta;
  meta = model_.meta;
  meta.step = keeps(config_.step) ? model_.meta.step : 0;
  meta.tokens = keeps(config_.step) ? model_.meta.tokens : 0;
  if (!keeps(config_.step)) meta.schedule = {};
  meta.eval_loss = std::nullopt;
  meta.recipe = resolved_text(made.recipe);
  meta.build = build_fingerprint();
  const TrainedModel smaller = build_trained_model(made.checkpoint, "the transformed model");
  receipt.before = size_of(model_);
  receipt.after = size_of(smaller);
  receipt.parity = compare(smaller);
  return made;
}

std::string TransformReceipt::to_json() const {
  nlohmann::ordered_json json = {{"from", from},
                                 {"method", method},
                                 {"settings", settings},
                                 {"seed", seed},
                                 {"calibration_tokens", calibration_tokens},
                                 {"before", json_of(before)},
                                 {"after", json_of(after)},
                                 {"notes", notes}};
  if (parity) json["parity"] = json_of(*parity);
  for (const Layer& layer : layers) json["layers"].push_back(json_of(layer));
  return json.dump(2) + "\n";
}

void write_transformed(const Transformed& made, const std::filesystem::path& folder) {
  SLUICE_CHECK(ConfigError, !std::filesystem::exists(folder / "checkpoints"),
               "{}: holds a run already; give another folder with --out", folder.string());
  const RunFolder run = RunFolder::open_for_writing(folder);
  run.write_recipe(made.checkpoint.meta.recipe);
  write_file_atomically(real_file_system(), folder / "transform.json",
                        bytes_of(made.receipt.to_json()), kRaise);
  CheckpointStore store(run.checkpoints(), {.asynchronous = false});
  store.open_for_writing();
  store.save(made.checkpoint);
  store.finish();
}

}  // namespace sluice
