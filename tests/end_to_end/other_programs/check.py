"""Checks files against other programs:

    python3 check.py GROUP --program SLUICE --folder SCRATCH [--checkpoints FOLDER]

Ends with 0 when all is well, 1 when a check failed, 77 when what the group needs is not installed;
what it has to say goes to the output."""

import argparse
import importlib
import importlib.metadata
import os
import pathlib
import sys

from common import Program, Report

GROUPS = {
    "folders": ("torch", "transformers", "h5py", "numpy"),
    "models": ("torch", "transformers", "safetensors", "h5py", "numpy"),
    "make_tokenizers": ("tokenizers", "transformers", "sentencepiece"),
    "check_tokenizers": ("tokenizers", "transformers", "sentencepiece"),
    "gguf_files": ("gguf", "torch", "transformers", "h5py", "numpy"),
    "run_files": ("h5py", "tensorboard"),
}
NOT_INSTALLED = 77


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--program", type=pathlib.Path, required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--checkpoints", type=pathlib.Path)
    arguments = parser.parse_args()
    # Nothing here may ask the network, or print bars.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1",
                      HF_HUB_DISABLE_PROGRESS_BARS="1", TOKENIZERS_PARALLELISM="false")
    try:
        versions = []
        for name in GROUPS[arguments.group]:
            importlib.import_module(name)
            versions.append(f"{name} {importlib.metadata.version(name)}")
    except ImportError as error:
        print(f"{error} ({sys.executable}; SLUICE_TEST_PYTHON names another interpreter)")
        return NOT_INSTALLED
    print(", ".join(versions))
    report = Report()
    group = importlib.import_module(arguments.group)
    group.main(Program(arguments.program.resolve(), arguments.folder.resolve()), report,
               arguments.checkpoints)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
