#include "tests/support/run_files.h"

#include <string_view>

#include "autograd/support/error.h"
#include "autograd/support/file.h"
#include "train/checkpoint/checkpoint.h"

namespace sluice::testing {
namespace {

bool may_differ(std::string_view name) {
  return name == "seconds" || name.starts_with("speed/") || name.starts_with("memory/");
}

/// Every whole line; none when there is no such file.
std::vector<nlohmann::json> lines_of(const std::filesystem::path& file) {
  std::vector<nlohmann::json> lines;
  if (!std::filesystem::exists(file)) return lines;
  const std::string text = read_file(file, raise_as<DataError>);
  for (size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    lines.push_back(nlohmann::json::parse(text.substr(begin, end - begin)));
  }
  return lines;
}

}  // namespace

StateDict state_in(const std::filesystem::path& checkpoint) {
  StateDict state = read_checkpoint(checkpoint).state;
  state.erase("run/seconds");
  return state;
}

std::vector<std::string> metrics_in(const std::filesystem::path& run_folder) {
  std::vector<std::string> records;
  for (nlohmann::json& record : lines_of(run_folder / "metrics.jsonl")) {
    std::erase_if(record.get_ref<nlohmann::json::object_t&>(),
                  [](const auto& item) { return may_differ(item.first); });
    records.push_back(record.dump());
  }
  return records;
}

std::vector<nlohmann::json> routing_in(const std::filesystem::path& run_folder) {
  return lines_of(run_folder / "routing.jsonl");
}

}  // namespace sluice::testing
