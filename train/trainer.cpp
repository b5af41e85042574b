#include "train/trainer.h"

#include <numeric>
#include <utility>

#include "train/environment.h"
#include "train/overview.h"
#include "train/profile/trace_events.h"
#include "train/report/run_report.h"
#include "train/resume.h"
#include "train/transforms/transform.h"

namespace sluice {

Trainer::Trainer(Recipe recipe, TrainerOptions options, Reporter& reporter)
    : recipe_(std::move(recipe)),
      options_(std::move(options)),
      reporter_(reporter),
      folder_(RunFolder::open_for_writing(options_.folder)),
      store_(folder_.checkpoints(), {.keep = recipe_.checkpoint.keep,
                                     .keep_best = recipe_.checkpoint.keep_best,
                                     .asynchronous = recipe_.checkpoint.asynchronous}),
      run_(make_run()),
      log_(make_log()),
      traces_(folder_.traces(), recipe_.train.trace),
      profile_(options_.profile ? std::make_unique<Profile>() : nullptr) {
  run_->meter().show_to(profile_.get());
}

std::unique_ptr<Run> Trainer::make_run() {
  use_threads(recipe_);
  std::vector<std::string> notes;
  const auto from = find_resume_point(store_, options_.resume, notes);
  for (const std::string& note : notes) reporter_.note(note);
  if (!from) return std::make_unique<Run>(recipe_, communicator_);
  check_same_recipe(recipe_, *from);
  if (from->checkpoint.meta.build != build_fingerprint()) {
    reporter_.note(fmt::format("{} was written by another build ({}); the last bits may differ",
                               from->path.string(), from->checkpoint.meta.build));
  }
  resumed_from_ = from->path;
  auto run = std::make_unique<Run>(recipe_, communicator_, from->checkpoint, from->path.string());
  // A checkpoint of another folder is no checkpoint of this run yet.
  const std::vector<int64_t> steps = store_.steps();
  if (!steps.empty() && steps.back() == run->state().step) saved_step_ = run->state().step;
  return run;
}

RunLog Trainer::make_log() const {
  const auto experts = run_->model().experts_per_layer();
  const auto now = [] {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  };
  return {recipe_.log,
          {.folder = folder_.path(),
           .console = options_.console,
           .total_steps = run_->sizes().steps,
           .num_experts = std::accumulate(experts.begin(), experts.end(), int64_t{0}),
           .wall_clock = now},
          run_->sizes().steps};
}

void Trainer::begin() {
  start_ = Clock::now();
  earlier_seconds_ = run_->state().seconds;
  store_.open_for_writing();
  folder_.write_recipe(resolved_text(recipe_));
  report_start();
  run_->check_forward();
  log_.truncate_after(run_->state().step == 0 ? -1 : run_->state().step);
  traces_.truncate_after(run_->state().step);
}

RunSummary Trainer::start() {
  begin();
  save();
  store_.finish();
  report_warnings();
  const RunSummary summary = summarise(StopReason::not_started);
  reporter_.finished(summary);
  return summary;
}

RunSummary Trainer::run() {
  const SignalWatch signals;
  begin();
  reserve_checkpoint();
  const StopReason reason = train(signals);
  if (reason == StopReason::complete && !last_evaluation_) last_evaluation_ = run_->evaluate();
  if (saved_step_ != run_->state().step) save();
  store_.finish();
  report_warnings();
  log_.flush();
  RunSummary summary = summarise(reason);
  if (reason == StopReason::complete) summary.report = write_report();
  summary.profile = write_profile();
  reporter_.finished(summary);
  return summary;
}

void Trainer::report_start() {
  gemm_peak_ = measure_gemm_peak();
  const RunOverview overview{
      .folder = folder_.path(),
      .recipe = recipe_,
      .data = run_->data(),
      .model = run_->model(),
      .sizes = run_->sizes(),
      .machine = describe_machine(),
      .gemm_peak = gemm_peak_,
      .parameters = count_parameters(run_->current_recipe(), run_->model()),
      .plan = make_plan(recipe_, run_->data().tokenizer->vocab_size(), run_->sizes().train_tokens),
      .first_step = run_->state().step,
      .resumed_from = resumed_from_,
      .upcycling = run_->upcycling()};
  if (overview.upcycling) folder_.write_upcycling(overview.upcycling->to_json());
  folder_.write_overview(to_json_text(saved(overview)));
  reporter_.started(overview);
}

/// Whatever is wrong with it, the run has succeeded.
std::optional<std::filesystem::path> Trainer::write_report() {
  if (!std::filesystem::exists(folder_.metrics())) return std::nullopt;  // no sink for it
  try {
    folder_.write_report(report::run_report(folder_));
    return folder_.report();
  } catch (const std::exception& error) {
    reporter_.note(fmt::format("no report was written: {}", error.what()));
    return std::nullopt;
  }
}

std::optional<ProfileSummary> Trainer::write_profile() {
  if (!profile_) return std::nullopt;
  folder_.write_profile(trace_events(*profile_));
  ProfileSummary summary = profile_->summary();
  summary.page = folder_.profile();
  summary.gemm_peak = gemm_peak_;
  summary.triad_peak = measure_triad_peak();
  return summary;
}

StopReason Trainer::train(const SignalWatch& signals) {
  const std::optional<double> max_seconds = recipe_.train.max_seconds();
  prune();
  while (!run_->finished()) {
    advance();
    signal_ = signals.received();
    if (run_->finished()) break;
    if (signal_ != 0) return StopReason::signal;
    update_seconds();
    if (max_seconds && run_->state().seconds - earlier_seconds_ >= *max_seconds) {
      return StopReason::out_of_time;
    }
  }
  return StopReason::complete;
}

/// One step and all that is due after it.
void Trainer::advance() {
  const Progress before = run_->progress();
  const StepResult result = [&] {
    const Profile::Step timed(profile_.get(), run_->state().step + 1);
    return traces_.step(*run_, [&] { return run_->step(log_.watch_for(*run_)); });
  }();
  const Progress after = run_->progress();
  RunState& state = run_->state();
  since_record_.seconds += result.seconds;
  since_record_.tokens += result.tokens;
  step_seconds_ += result.seconds;
  step_tokens_ += result.tokens;
  update_seconds();

  log_.add_step(*run_, result, before, [this] { return measure_speed(); });
  if (result.applied) {
    state.losses.add(result.loss);
  } else {
    report_skipped(result);
  }
  const auto& evaluate_every = recipe_.train.evaluate.every;
  if (evaluate_every && (is_due(*evaluate_every, before, after) || run_->finished())) evaluate();
  prune();
  // While updates are skipped nothing is saved: what is there already is where one would go on from.
  const bool is_sound = state.skipped_in_row == 0;
  if (is_sound && (is_due(recipe_.checkpoint.every, before, after) || run_->finished())) save();
  store_.check();
  report_warnings();
}

SpeedSample Trainer::measure_speed() {
  SpeedSample sample = std::exchange(since_record_, {});
  sample.work = run_->meter().take();
  sample.gemm_peak = gemm_peak_;
  sample.peak_memory_bytes = run_->pool().peak().total();
  return sample;
}

void Trainer::report_warnings() {
  for (const std::string& warning : store_.take_warnings()) log_.event(warning);
}

void Trainer::report_skipped(const StepResult& result) {
  const RunState& state = run_->state();
  log_.event(fmt::format("step {}: update skipped: {}", state.step, result.problem));
  if (result.empty) return;
  SLUICE_CHECK(NumericError, state.skipped_in_row < recipe_.train.max_nonfinite,
               "step {}: {} updates in a row were not finite (train.max_nonfinite), the last with "
               "{}; lower the learning rate and train in another folder with --out{}",
               state.step, state.skipped_in_row, result.problem,
               saved_step_ < 0 ? ""
                               : fmt::format(", from the weights before (train.init_from: {})",
                                             store_.path_of(saved_step_).string()));
}

void Trainer::evaluate() {
  const Profile::Span timed(profile_.get(), "evaluation");
  const int64_t earlier = run_->state().choices.step;
  last_evaluation_ = traces_.evaluate(*run_, [&] { return run_->evaluate(); });
  if (!last_evaluation_) return;
  update_seconds();
  evaluated_step_ = run_->state().step;
  log_.add_evaluation(*run_, *last_evaluation_, earlier);
}

/// The stages of train.pruning that are due.
void Trainer::prune() {
  while (run_->pruning_is_due()) {
    const Profile::Span timed(profile_.get(), "pruning");
    log_.end_loads(*run_);
    const TransformReceipt receipt = run_->prune();
    update_seconds();
    // The loss at this step was that of the model before.
    evaluated_step_ = -1;
    folder_.write_pruning(run_->state().step, receipt.to_json());
    log_.add_pruning(*run_, receipt);
  }
}

/// So that the first checkpoint holds training up no longer than the others.
void Trainer::reserve_checkpoint() {
  if (!recipe_.checkpoint.asynchronous || run_->finished()) return;
  CountVisitor count;
  run_->visit_state(count);
  store_.reserve(count.total().bytes);
}

void Trainer::save() {
  const Profile::Span timed(profile_.get(), "checkpoint");
  update_seconds();
  std::optional<double> eval_loss;
  if (evaluated_step_ == run_->state().step) eval_loss = last_evaluation_->loss.per_token();
  // The records first: after a crash, a checkpoint must not be ahead of its metrics.
  log_.flush();
  saved_step_ = run_->state().step;
  store_.save(run_->checkpoint_meta(eval_loss),
              [this](StateVisitor& visitor) { run_->visit_state(visitor); });
}

void Trainer::update_seconds() {
  run_->state().seconds =
      earlier_seconds_ + std::chrono::duration<double>(Clock::now() - start_).count();
}

RunSummary Trainer::summarise(StopReason reason) {
  const RunState& state = run_->state();
  RunSummary summary{.reason = reason,
                     .signal = reason == StopReason::signal ? signal_ : 0,
                     .folder = folder_.path(),
                     .step = state.step,
                     .total_steps = run_->sizes().steps,
                     .evaluation = reason == StopReason::complete ? last_evaluation_ : std::nullopt,
                     .best_eval_step = state.best_eval_step,
                     .seconds = state.seconds,
                     .peak_memory_bytes = run_->pool().peak().total(),
                     .peak_resident_bytes = peak_resident_bytes()};
  if (saved_step_ >= 0) summary.checkpoint = store_.path_of(saved_step_);
  if (state.best_eval_step >= 0) summary.best_eval_loss = state.best_eval_loss;
  if (step_seconds_ > 0.0) {
    summary.tokens_per_second = static_cast<double>(step_tokens_) / step_seconds_;
  }
  return summary;
}

}  // namespace sluice
