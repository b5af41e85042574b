#include "tests/support/run_files.h"

#include <nlohmann/json.hpp>
#include <string_view>

#include "autograd/support/error.h"
#include "autograd/support/file.h"
#include "train/checkpoint/checkpoint.h"

namespace sluice::testing {
namespace {

bool may_differ(std::string_view name) {
  return name == "seconds" || name.starts_with("speed/") || name.starts_with("memory/");
}

}  // namespace

StateDict state_in(const std::filesystem::path& checkpoint) {
  StateDict state = read_checkpoint(checkpoint).state;
  state.erase("run/seconds");
  return state;
}

std::vector<std::string> metrics_in(const std::filesystem::path& run_folder) {
  const std::filesystem::path file = run_folder / "metrics.jsonl";
  std::vector<std::string> records;
  if (!std::filesystem::exists(file)) return records;
  const std::string text = read_file(file, raise_as<DataError>);
  for (size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    auto record = nlohmann::json::parse(text.substr(begin, end - begin));
    std::erase_if(record.get_ref<nlohmann::json::object_t&>(),
                  [](const auto& item) { return may_differ(item.first); });
    records.push_back(record.dump());
  }
  return records;
}

}  // namespace sluice::testing
