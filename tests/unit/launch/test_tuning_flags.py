"""That torch's compiler is still told not to time reductions when it compiles a model's graph."""

import json
import os
import subprocess
import sys

import pytest

from prfaas.launch import tuning

pytest.importorskip("torch")

PROGRAM = """
import json, sys
import torch
from torch._inductor import config

@torch.compile(backend="eager")
def helper(x):
    return x + 1

helper(torch.ones(2))  # vLLM compiles functions of its own before the model's graph
patches = json.loads(sys.argv[1])["inductor_compile_config"]
everywhere = config.test_configs.force_filter_reduction_configs
with config.patch(patches):  # as vLLM hands them to the compiler
    print(json.dumps([config.deterministic, config.combo_kernels, everywhere]))
"""


def test_no_reduction_is_timed_after_another_function_was_compiled() -> None:
    """``TORCHINDUCTOR_DETERMINISTIC=1`` alone is gone by then."""
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(tuning.COMPILATION)],
        env=os.environ | tuning.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    deterministic, combo_kernels, everywhere = json.loads(told.stdout)
    assert deterministic
    assert everywhere
    assert not combo_kernels
