"""What the checks of this folder share: the program as a user runs it, how findings are told."""

import contextlib
import pathlib
import subprocess


class Failure(Exception):
    """A sentence that says what is not as it should be."""


def expect(is_so, text):
    if not is_so:
        raise Failure(text)


class Program:
    """`sluice`, working in a folder of its own."""

    def __init__(self, path, folder):
        self.path = str(path)
        self.folder = pathlib.Path(folder)
        self.runs = 0

    def run(self, *arguments):
        return subprocess.run([self.path, *map(str, arguments)], cwd=self.folder,
                              capture_output=True, text=True, check=False)

    def __call__(self, *arguments):
        """Its output; a Failure with what it says when it fails."""
        done = self.run(*arguments)
        expect(done.returncode == 0,
               f"sluice {' '.join(map(str, arguments))} ends with {done.returncode}: "
               f"{done.stderr.strip()}")
        return done.stdout

    def refuses(self, sentence, *arguments):
        """It must fail with a message that holds `sentence`."""
        done = self.run(*arguments)
        expect(done.returncode in (1, 2) and sentence in done.stderr,
               f"sluice {' '.join(map(str, arguments))} ends with {done.returncode}, expected a "
               f"refusal with \"{sentence}\": {done.stderr.strip()}")

    def logits(self, checkpoint, ids):
        """[N, V] of one document."""
        import h5py
        import numpy

        self.runs += 1
        tokens = self.folder / f"tokens-{self.runs}.npy"
        output = self.folder / f"logits-{self.runs}.h5"
        numpy.save(tokens, numpy.asarray(ids, dtype=numpy.int32))
        self("eval", checkpoint, "--dump-logits", output, "--tokens", tokens)
        with h5py.File(output, "r") as file:
            return file["logits"][()]


class Report:
    """Runs checks one after the other and counts those that fail."""

    def __init__(self):
        self.failures = 0

    @contextlib.contextmanager
    def check(self, name):
        try:
            yield
            print(f"ok      {name}")
        except Failure as failure:
            self.failures += 1
            print(f"FAILED  {name}: {failure}")
        except Exception as error:  # of the other program
            self.failures += 1
            print(f"FAILED  {name}: {type(error).__name__}: {error}")


def expect_close(found, expected, relative, what):
    """The greatest difference over the greatest magnitude."""
    import numpy

    found = numpy.asarray(found, dtype=numpy.float64)
    expected = numpy.asarray(expected, dtype=numpy.float64)
    expect(found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}")
    difference = numpy.abs(found - expected).max() / max(numpy.abs(expected).max(), 1e-30)
    expect(difference <= relative, f"{what} differ by {difference:.2e}, allowed {relative:.0e}")
    return difference


def expect_equal_arrays(found, expected, what):
    """Two dictionaries of arrays, bit for bit."""
    import numpy

    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    expect(not missing and not unexpected,
           f"{what}: without {missing[:3]}, but with {unexpected[:3]}")
    for name, value in expected.items():
        other = found[name]
        expect(other.shape == value.shape and other.dtype == value.dtype and
               numpy.array_equal(other.view(numpy.uint8), value.view(numpy.uint8)),
               f"{what}: {name} differs")


def passes_over(name, reasons):
    """Whether transformers 4 computes `name` otherwise, and 5 does not; says why."""
    import transformers

    if int(transformers.__version__.split(".")[0]) >= 5 or name not in reasons:
        return False
    print(f"skipped {name}: transformers {transformers.__version__} {reasons[name]}")
    return True


def load_in_transformers(folder, **options):
    """The model, after a look at whether every weight found its place."""
    import torch
    import transformers

    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **options)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        expect(not told.get(kind), f"{kind}: {list(told.get(kind, []))[:5]}")
    expect(not model.training, "the model is loaded to train")
    return model


def logits_in_transformers(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0].numpy()
