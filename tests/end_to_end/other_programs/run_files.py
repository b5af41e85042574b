"""The files of a run: checkpoints in h5py, events in TensorBoard."""

import json
import math

from common import expect


def check_checkpoint(run):
    import h5py

    checkpoint = sorted((run / "checkpoints").glob("step_*.h5"))[-1]
    with h5py.File(checkpoint, "r") as file:
        weights = file["model/embedding.weight"]
        expect(weights.shape == (257, 16) and weights.dtype == "float32",
               f"the embedding is {weights.shape} {weights.dtype}")
        sums = []
        file.visititems(lambda name, item: sums.append(float(abs(item[()]).sum()))
                        if hasattr(item, "shape") and item.dtype.kind == "f" else None)
        expect(len(sums) > 10 and all(math.isfinite(x) for x in sums),
               f"{len(sums)} arrays of numbers")


def check_metrics(run, records):
    import h5py

    with h5py.File(run / "metrics.h5", "r") as file:
        steps = file["train/loss/step"][()].tolist()
        values = file["train/loss/value"][()].tolist()
    expected = [(r["step"], r["train/loss"]) for r in records if "train/loss" in r]
    expect(list(zip(steps, values)) == expected, "train/loss differs from metrics.jsonl")


def check_events(run, records):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    expect("train/loss" in events.Tags()["scalars"], f"there are {events.Tags()['scalars'][:5]}")
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    expected = [(r["step"], r["train/loss"]) for r in records if "train/loss" in r]
    expect(len(found) == len(expected) and
           all(a[0] == b[0] and math.isclose(a[1], b[1], rel_tol=1e-6)
               for a, b in zip(found, expected)), f"losses are {found}, expected {expected}")


def main(program, report, _):
    run = program.folder / "run"
    with report.check("a run ends"):
        program("train", program.folder / "tiny.yaml", "--out", run, "--set",
                "log.sinks=[jsonl, tensorboard, hdf5]")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with report.check("its checkpoint opens in h5py"):
        check_checkpoint(run)
    with report.check("its metrics.h5 opens in h5py"):
        check_metrics(run, records)
    with report.check("its events open in TensorBoard"):
        check_events(run, records)
