"""A change of ONNX Runtime, which runs the file beside the engine, makes stages anew whatever the engine's runtime."""

from types import SimpleNamespace

import pytest

from toolchain.recipe.schema import Int4, Int8, OpenVinoEngine, RtxEngine
from toolchain.steps.contract import contracted
from toolchain.steps.graphs import converted

ENGINES = [OpenVinoEngine(runtime="openvino", precision="int4", target="cpu_x86"),
           RtxEngine(runtime="tensorrt_rtx", precision="int4", target="sm86")]


class Work:
    """Takes what a stage is asked for, and makes none."""

    def __init__(self):
        self.stages, self.asked = [], {}

    def stage(self, name, make, **asked):
        self.asked[name] = asked
        return SimpleNamespace(name=name, folder=self.folder)

    def publish(self, *files):
        pass


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.runtime)
def test_stages_that_compare_logits_know_the_version_of_onnxruntime(tmp_path, engine):
    work = Work()
    work.folder = tmp_path
    job = SimpleNamespace(work=work, data=None, recipe=SimpleNamespace(quantize=SimpleNamespace(int8=Int8(), int4=Int4())))
    converted(job, engine, None, None)
    contracted(job, "e", engine, None, None, None)
    assert len(work.asked) == 2
    for asked in work.asked.values():
        assert {"onnxruntime", "onnxruntime-gpu"} <= set(asked["packages"])
