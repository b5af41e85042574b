// metrics.h5: for each metric a group of its name with `step` [R] and `value` [R] (histograms: [R,
// buckets], NaN where a row has fewer than the first: experts that are gone). Held in memory and rewritten whole at each flush, so the file is always one that HDF5
// tools can open.
#include "autograd/support/hdf5.h"

#include <limits>
#include <map>

#include "autograd/support/error.h"
#include "train/metrics/sink.h"

namespace sluice {
namespace {

constexpr RaiseError kRaise = raise_as<CheckpointError>;

struct Series {
  std::vector<int64_t> steps;  // [R]
  std::vector<double> values;  // [R * width]
  int64_t width = 0;           // 0: one number per row
  [[nodiscard]] size_t row() const { return width == 0 ? 1 : static_cast<size_t>(width); }
};

class Hdf5Sink final : public Sink {
 public:
  explicit Hdf5Sink(const SinkContext& context)
      : files_(*context.files), path_(context.folder / "metrics.h5") {}
  ~Hdf5Sink() override {
    try {
      flush();
    } catch (const Error&) {
      // A destructor cannot report; the run's own flush has, or will at the next checkpoint.
    }
  }

  void truncate_after(int64_t step) override {
    if (!std::filesystem::exists(path_)) return;
    series_ = step < 0 ? std::map<std::string, Series>{} : read_up_to(step);
    is_dirty_ = true;
  }

  void record(const Record& record) override {
    for (const auto& [name, value] : record.values) add(name, record.step, {&value, 1}, 0);
    for (const Histogram& h : record.histograms) {
      add(h.name, record.step, h.counts, static_cast<int64_t>(h.counts.size()));
    }
    is_dirty_ = true;
  }

  void flush() override {
    if (!is_dirty_) return;
    auto file = hdf5::File::create_image(path_.string(), kRaise);
    for (const auto& [name, series] : series_) {
      const auto rows = static_cast<int64_t>(series.steps.size());
      std::vector<int64_t> dims{rows};
      if (series.width != 0) dims.push_back(series.width);
      file.write<int64_t>("/" + name + "/step", {rows}, series.steps);
      file.write("/" + name + "/value", ElementType::f64, dims,
                 std::as_bytes(std::span<const double>(series.values)));
    }
    write_file_atomically(files_, path_, file.image(), kRaise);
    is_dirty_ = false;
  }

 private:
  void add(const std::string& name, int64_t step, std::span<const double> row, int64_t width) {
    Series& series = series_[name];
    if (series.steps.empty()) series.width = width;
    SLUICE_INTERNAL_CHECK(row.size() <= series.row() && (series.width == 0) == (width == 0),
                          "{}: {} buckets, {} before", name, width, series.width);
    series.steps.push_back(step);
    series.values.insert(series.values.end(), row.begin(), row.end());
    series.values.resize(series.steps.size() * series.row(),
                         std::numeric_limits<double>::quiet_NaN());
  }

  [[nodiscard]] std::map<std::string, Series> read_up_to(int64_t step) const {
    constexpr std::string_view kStepSuffix = "/step";
    std::map<std::string, Series> result;
    const auto file = hdf5::File::open(path_, kRaise);
    for (const std::string& path : file.datasets()) {
      if (!path.ends_with(kStepSuffix)) continue;
      const std::string group = path.substr(0, path.size() - kStepSuffix.size());
      Series series{file.read<int64_t>(path), file.read<double>(group + "/value"), 0};
      const auto dims = file.info(group + "/value").dims;
      if (dims.size() == 2) series.width = dims[1];
      size_t rows = series.steps.size();
      while (rows > 0 && series.steps[rows - 1] > step) --rows;
      series.steps.resize(rows);
      series.values.resize(rows * series.row());
      if (rows > 0) result.emplace(group.substr(1), std::move(series));
    }
    return result;
  }

  FileSystem& files_;
  std::filesystem::path path_;
  std::map<std::string, Series> series_;
  bool is_dirty_ = false;
};

}  // namespace

std::unique_ptr<Sink> make_hdf5_sink(const SinkContext& context) {
  return std::make_unique<Hdf5Sink>(context);
}

}  // namespace sluice
