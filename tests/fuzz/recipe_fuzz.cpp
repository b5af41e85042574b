#include "train/recipe.h"

#include "tests/fuzz/target.h"

SLUICE_FUZZ_TARGET(recipe) {
  Recipe recipe = parse_recipe(bytes, "recipe.yaml");
  const std::string text = resolved_text(std::move(recipe));
  SLUICE_INTERNAL_CHECK(resolved_text(parse_recipe(text, "resolved.yaml")) == text,
                        "a resolved recipe reads back as another one");
}
