"""No import changes torch; `prepare` does, once and with a line; models say what to call before it."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.helpers import warm

# What the process is before and after everything of the package was imported, and after `prepare`.
IMPORT_ALL = r"""
import importlib.util, inspect, json, logging, os, pkgutil, sys, warnings
import torch, torch._dynamo  # which wraps torch.manual_seed
if importlib.util.find_spec("transformer_engine"):
    import transformer_engine.pytorch  # which wraps methods of torch.nn.Module, and Megatron imports it

def state():
    owners = [torch, torch.cuda, torch.Tensor, torch.nn.Module, torch.compiler]
    return {(str(owner), name): inspect.getattr_static(owner, name) for owner in owners for name in dir(owner)}

def changes():
    now = state()
    return [key for key, value in before.items() if now.get(key) is not value]

before, environment = state(), dict(os.environ)
import editcaption_mega
names = [module.name for module in pkgutil.walk_packages(editcaption_mega.__path__, "editcaption_mega.")]
for name in names:
    importlib.import_module(name)
assert "editcaption_mega.training.loop" in names and "megatron.core.optimizer" in sys.modules, names
from editcaption_mega.platform import prepare, remarks
import torch._dynamo.eval_frame as dynamo
filters = [str(filter[1].pattern) for filter in warnings.filters if filter[1] is not None]
untouched = {
    "changed": changes(),
    "filters": [message for message in remarks._WARNINGS if any(message[1:12] in pattern for pattern in filters)],
    "levels": {name: logging.getLogger(name).level for name in ("megatron.core", "torch.utils.cpp_extension")},
    "stance": dynamo._stance.stance,
    "environment": [key for key, value in os.environ.items() if environment.get(key) != value],
}
prepare()
prepare()
patched = {id(before[key]): key[1] for key in changes()}
# Megatron was imported before: whatever it took from torch by name is not replaced any more.
stale = [
    (module.__name__, name)
    for module in list(sys.modules.values()) if getattr(module, "__name__", "").startswith("megatron.")
    for name, value in vars(module).items() if id(value) in patched
]
print(json.dumps({**untouched, "patched": list(patched.values()), "stale": stale, "after": dynamo._stance.stance}))
"""


def run(code: str, *, start=warm.run, **environment: str) -> subprocess.CompletedProcess:
    """In a process of its own, by default one that has imported everything and prepared nothing."""
    return start([sys.executable, "-c", code], env={**os.environ, **environment}, timeout=300)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on CUDA `prepare` changes nothing")
def test_imports_leave_torch_alone_and_prepare_says_what_it_does():
    done = run(IMPORT_ALL, start=warm.run_cold)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    # transformers and torchvision set some of their own; none of what `prepare` sets is among it
    assert seen["changed"] == [] and seen["filters"] == [] and seen["stance"] == "default"
    assert seen["levels"] == {"megatron.core": 0, "torch.utils.cpp_extension": 0}
    assert "TORCHDYNAMO_DISABLE" not in seen["environment"], seen["environment"]
    # The imports themselves said nothing, and two calls of `prepare` one line.
    assert done.stderr == "no GPU found: Megatron-Core runs on the CPU here\n"
    assert {"zeros", "current_device", "to", "type", "Stream", "manual_seed"} <= set(seen["patched"])
    assert seen["stale"] == [] and seen["after"] == "force_eager"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA needs no preparation")
def test_a_model_is_not_built_unprepared_and_only_rank_0_speaks():
    done = run(
        "from editcaption_mega.model import Qwen3VLModel, build_model\n"
        "from editcaption_mega.platform import prepare, require_prepared\n"
        "for call in (lambda: build_model(None, None, None, 'fp32'), "
        "lambda: Qwen3VLModel(None, None, None, route=None, pre_process=True, post_process=True)):\n"
        "    try:\n"
        "        call()\n"
        "    except RuntimeError as error:\n"
        "        print(error)\n"
        "prepare()\n"
        "require_prepared()\n",
        RANK="1",
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("call editcaption_mega.platform.prepare() once" in line for line in lines)


def test_with_cuda_torch_is_left_as_it_is():
    done = run(
        "import torch\n"
        "torch.cuda.is_available = lambda: True\n"
        "before = torch.zeros, torch.Tensor.to, torch.cuda.current_device, torch.cuda.Stream\n"
        "from editcaption_mega.platform import prepare, require_prepared\n"
        "require_prepared()\n"
        "prepare()\n"
        "after = torch.zeros, torch.Tensor.to, torch.cuda.current_device, torch.cuda.Stream\n"
        "assert all(a is b for a, b in zip(before, after)), (before, after)\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


# A rank of a job of eight, alone: what its tensors are, and what the ranks that are not there say.
DRY = r"""
import torch
import torch.distributed as dist
from editcaption_mega import platform
from torch.testing._internal.distributed.fake_pg import FakeStore
platform.prepare(dry=True)
dist.init_process_group("cpu:fake,meta:fake", rank=3, world_size=8, store=FakeStore())
platform.initialize(platform.Layout(tensor=2), seed=0)
assert platform.device().type == "meta" and torch.zeros(2, device="cuda").is_meta and torch.zeros(2).cuda().is_meta
assert torch.zeros(2).to("cuda:1").is_meta and torch.zeros(2, device=torch.cuda.current_device()).is_meta
assert torch.zeros(2).device.type == "cpu" and torch.tensor([1], device="cuda").type() == "torch.cuda.LongTensor"
assert platform.gather("this") == ["this"] * 8 and platform.from_rank_zero(lambda: 5) == 5
with platform.together():
    pass
print("dry")
"""


def test_a_dry_process_has_tensors_without_values_and_answers_for_the_others():
    result = run(DRY)
    assert result.returncode == 0 and result.stdout.split() == ["dry"], result.stderr


def test_a_process_that_computes_does_not_become_dry():
    result = run("from editcaption_mega import platform; platform.prepare(); platform.prepare(dry=True)")
    assert result.returncode == 1 and "cannot become a dry one" in result.stderr
