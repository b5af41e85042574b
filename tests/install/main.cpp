// An external program: differentiates a product with the installed library and reads a recipe,
// whose path is its one argument. Ends with 0 when both give what they must.

#include <cstdio>

#include "autograd/core/tape.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/reduce.h"
#include "autograd/support/error.h"
#include "train/recipe.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    sluice::Pool pool;
    sluice::Tape tape(pool);
    const auto x = sluice::Tensor::of<float>(pool, {1, 2}, {3.0F, 4.0F});
    const auto w = tape.input(sluice::Tensor::of<float>(pool, {2, 1}, {0.5F, 0.25F}));
    tape.backward(sluice::sum(tape, sluice::matmul(tape, x, w)));
    const sluice::Tensor grad_w = tape.gradient(w);
    std::printf("gradient: %g %g\n", static_cast<double>(grad_w.data<float>()[0]),
                static_cast<double>(grad_w.data<float>()[1]));

    const sluice::Recipe recipe = sluice::load_recipe({{argv[1]}, {}});
    std::printf("experts: %s\n", recipe.has_experts() ? "yes" : "no");
    const bool is_right = grad_w.data<float>()[0] == 3.0F && grad_w.data<float>()[1] == 4.0F;
    return is_right && recipe.has_experts() ? 0 : 1;
  } catch (const sluice::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
