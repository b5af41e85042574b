#include "train/cli/console_reporter.h"

#include <csignal>
#include <cstring>

#include "train/format.h"
#include "train/profile/profile_text.h"

namespace sluice {
namespace {

/// "model      (AE)x6: 12 sublayers ..." — one aligned line. A console that takes no more does not
/// stop the run; the stream remembers it.
template <class... Args>
void line(std::FILE* out, std::string_view label, fmt::format_string<Args...> text,
          Args&&... args) {
  const std::string written =
      fmt::format("{:<11}{}\n", label, fmt::format(text, std::forward<Args>(args)...));
  (void)std::fwrite(written.data(), 1, written.size(), out);
}

void print_data(std::FILE* out, const Dataset& data) {
  for (const DomainSize& size : data.train_sizes()) {
    line(out, "data", "{}: {}, {} ({})", size.domain, counted(size.documents, "document"),
         counted(size.tokens, "token"), in_bytes(static_cast<double>(size.bytes)));
  }
  int64_t held_out = 0;
  for (const DomainSize& size : data.held_out_sizes()) held_out += size.tokens;
  line(out, "held out", "{} tokens; vocabulary {} ({}); fingerprint {:016x}", with_commas(held_out),
       with_commas(data.tokenizer->vocab_size()), data.tokenizer->kind(), data.fingerprint);
}

void print_model(std::FILE* out, const RunOverview& run) {
  const Plan& plan = run.plan;
  const ParameterCount& count = run.parameters;
  line(out, "model", "{}: {} parameters, {} active per token, {} in experts, {} in embeddings",
       run.model.pattern(), in_millions(static_cast<double>(count.total)),
       in_millions(static_cast<double>(count.active)),
       in_millions(static_cast<double>(count.experts)),
       in_millions(static_cast<double>(count.embedding)));
  line(out, "batch", "{} tokens a step in micro-batches of {}; {}, {} tokens in all",
       with_commas(run.sizes.tokens_per_step), with_commas(run.sizes.micro_batch_tokens),
       counted(run.sizes.steps, "step"),
       in_millions(static_cast<double>(run.sizes.steps * run.sizes.tokens_per_step)));
  for (const std::string& choice : run.sizes.choices) line(out, "chosen", "{}", choice);
  if (plan.activity) {
    const PlannedActivities& activity = *plan.activity;
    line(out, "experts", "{:.4g} of a token at the start, {:.4g} at the end, {:.4g} on average{}",
         activity.start.experts.expected, activity.end.experts.expected,
         activity.mean.experts.expected,
         activity.mean.experts.known == ActiveExperts::Known::exactly ? "" : ", as planned");
  }
  // Whole steps run at 55 to 85 % of the rate of large products; a run prints what it reaches beside
  // this.
  constexpr double kUsualShareOfPeak = 0.5;
  const double seconds =
      plan.mean_flops_per_token() *
      static_cast<double>((run.sizes.steps - run.first_step) * run.sizes.tokens_per_step) /
      (kUsualShareOfPeak * run.gemm_peak);
  if (plan.teacher) {
    line(out, "teacher", "{}: {} parameters, asked in {:.4g} % of the steps",
         plan.teacher->checkpoint, in_millions(static_cast<double>(plan.teacher->parameters)),
         100.0 * plan.teacher->share_of_steps);
  }
  line(out, "predicted",
       "{}FLOP per token (forward and backward{}), {} of tensors, about {} at half of the peak",
       in_millions(plan.mean_flops_per_token()), plan.teacher ? ", and the teacher" : "",
       in_bytes(static_cast<double>(plan.peak.total())), in_time(seconds));
}

void print_upcycling(std::FILE* out, const UpcyclingReceipt& receipt) {
  line(out, "upcycled", "from {} by {}", receipt.from, receipt.scheme);
  for (const std::string& note : receipt.notes) line(out, "", "{}", note);
  if (!receipt.parity) return line(out, "parity", "not measured: no text is held out");
  const Parity& parity = *receipt.parity;
  line(out, "parity", "{} held-out tokens: loss {:.4f} before, {:.4f} after, mean KL {:.3g} nats",
       with_commas(parity.tokens), parity.loss_before, parity.loss_after, parity.mean_divergence);
  line(out, "", "largest logit difference {:.3g}, {:.2g} of the largest logit",
       parity.largest_difference, parity.relative_difference());
}

}  // namespace

void ConsoleReporter::note(std::string_view sentence) {
  std::fflush(out_);
  fmt::print(stderr, "note: {}\n", sentence);
}

void ConsoleReporter::started(const RunOverview& run) {
  const Machine& machine = run.machine;
  line(out_, "machine", "{}, {} of {} processors, {} ({})", machine.processor, machine.threads,
       machine.processors, machine.parallel_loop, machine.build);
  line(out_, "peak", "{:.0f} GFLOP/s in matrix products of 1024^3, f32", run.gemm_peak / 1e9);
  print_data(out_, run.data);
  print_model(out_, run);
  if (run.resumed_from) {
    line(out_, "resumed", "after step {} from {}", run.first_step, run.resumed_from->string());
  }
  if (run.upcycling) print_upcycling(out_, *run.upcycling);
  line(out_, "folder", "{}", run.folder.string());
  std::fflush(out_);
}

void ConsoleReporter::finished(const RunSummary& run) {
  (void)std::fputc('\n', out_);
  switch (run.reason) {
    case StopReason::complete:
      line(out_, "done", "{} in {}, {} tokens per second", counted(run.step, "step"),
           in_time(run.seconds), with_commas(static_cast<int64_t>(run.tokens_per_second)));
      break;
    case StopReason::signal:
      line(out_, "stopped", "by {} after step {} of {}; the state is saved", strsignal(run.signal),
           run.step, run.total_steps);
      break;
    case StopReason::not_started:
      line(out_, "ready", "before step {} of {}; the state is saved", run.step + 1,
           run.total_steps);
      break;
    case StopReason::out_of_time:
      line(out_, "stopped", "by train.max_time after step {} of {}; the state is saved", run.step,
           run.total_steps);
      break;
  }
  if (run.evaluation) {
    const TextLoss& loss = run.evaluation->loss;
    line(out_, "held out", "loss {:.4f} nats per token, perplexity {:.2f}, {:.4f} bits per byte",
         loss.per_token(), loss.perplexity(), loss.bits_per_byte());
    for (const DomainLoss& domain : run.evaluation->domains) {
      line(out_, "", "{}: {:.4f} bits per byte", domain.domain, domain.loss.bits_per_byte());
    }
  }
  if (run.best_eval_loss)
    line(out_, "best", "loss {:.4f} after step {}", *run.best_eval_loss, run.best_eval_step);
  line(out_, "memory", "{} of tensors at most, {} resident",
       in_bytes(static_cast<double>(run.peak_memory_bytes)),
       in_bytes(static_cast<double>(run.peak_resident_bytes)));
  if (run.report) line(out_, "report", "{}", run.report->string());
  if (run.profile) line(out_, "profile", "{}", run.profile->page.string());
  if (run.checkpoint) {
    line(out_, "checkpoint", "{}", run.checkpoint->string());
    if (run.reason == StopReason::complete) {
      line(out_, "sample", "sluice generate {} --prompt \"The \"", shell_word(run.folder.string()));
    }
  }
  if (run.reason != StopReason::complete) {
    const std::string folder = run.folder.string();
    line(out_, "go on", "sluice train {} --out {}", shell_word(folder + "/recipe.yaml"),
         shell_word(folder));
  }
  if (run.profile) {
    const std::string text = "\n" + profile_text(*run.profile);
    (void)std::fwrite(text.data(), 1, text.size(), out_);
  }
  std::fflush(out_);
}

}  // namespace sluice
