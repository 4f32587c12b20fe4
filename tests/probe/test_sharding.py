"""Probe (i): FSDP2 over two gloo processes, on the body's groups and the whole model, with ``begin`` before a forward."""

import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from blocks import EncoderDecoder
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from nabi.batch import Row, Target, batch_of
from nabi.model import Model
from nabi.nn.body import Run
from nabi.nn.linear import Linear, normal_
from nabi.tasks import NoSettings, Task

ROWS = [Row({"text": {"tokens": a}, "target": {"tokens": b}}, {}, {"next": [(t + 1) % 31 for t in b]}) for a, b in (([5, 9], [1, 4, 2]), ([7], [1]))]


class Continue(Task):
    """Reads through a begun cache, one token at a time; learns in one pass."""

    targets = {"next": Target("token", "target")}

    def build(self, body):
        self.out = Linear(body.hidden_size, 31)

    def counts(self, targets):
        return {"next": float(len(targets["next"]))}

    def loss(self, run, batch):
        return {"next": F.cross_entropy(self.out(run(batch)["target"].values), batch.targets["next"], reduction="sum")}

    def read(self, run, batches, options):
        for batch in batches:
            cache = run.begin(batch, 4)
            for _ in range(3):
                logits = self.out(batch.parts["target"].layout.last(run(batch.after(cache), cache, keep={"target": None})["target"].values))
            yield from zip(batch.parts["target"].ids, logits.tolist(), strict=True)


class Door(Model):
    def look(self):
        """``readings`` without its inference mode, whose tensors FSDP would keep and then fail to train with."""
        with torch.no_grad():
            return torch.tensor(list(dict(self.task.read(Run(self.body), self.pack(ROWS), None)).values()))


def model():
    made = Door(EncoderDecoder(), Continue(NoSettings()), None, None)
    made.task.build(made.body)
    normal_(made, 0.3, torch.Generator().manual_seed(0))
    return made


def shard(model, entries=True, inner=True):
    mesh = init_device_mesh("cpu", (2,))
    for group in model.body.groups():
        fully_shard(group, mesh=mesh)
        for name in getattr(group, "entries", ()) if inner else ():
            register_fsdp_forward_method(group, name)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # the loop divides by the counts of all ranks: a sum is wanted, not a mean
            module.set_force_sum_reduction_for_comms(True)  # else gloo is asked for an operation that only NCCL has
    if entries:
        register_fsdp_forward_method(model, "look")
    return model


def results(model, rank=0, world=1):
    """A look first, so that ``begin`` comes before any forward; then the gradient of a loss; then another look."""
    before = model.look()
    model(batch_of(ROWS, range(2)[rank::world], model.task.targets))["next"].backward()
    grads = [p.grad.full_tensor() if world > 1 else p.grad for p in model.parameters()]
    return before, torch.cat([g.flatten() for g in grads]), model.look()


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name, settings in (("right", {}), ("no entries", {"entries": False}), ("no inner entries", {"inner": False})):
        try:
            found = results(shard(model(), **settings), rank, 2)
        except RuntimeError as problem:
            found = str(problem)
        torch.save(found, f"{folder}/{name} {rank}")
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    processes, end = mp.spawn(worker, (str(tmp_path),), nprocs=2, join=False), time.monotonic() + 120
    try:
        while not processes.join(timeout=1):
            assert time.monotonic() < end, "the two processes wait for each other"
    finally:
        for process in processes.processes:
            process.kill()
    wanted = results(model())
    for rank in range(2):
        for found, one in zip(torch.load(tmp_path / f"right {rank}"), wanted, strict=True):
            assert (found - one).abs().max() < 1e-5 < 0.1 < one.abs().max()
        for control in ("no entries", "no inner entries"):
            assert "mixed torch.Tensor and DTensor" in torch.load(tmp_path / f"{control} {rank}")
