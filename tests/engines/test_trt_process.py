import io
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from toolchain.engines import repeatable
from toolchain.engines.trt_build import Job
from toolchain.engines.trt_process import died, follow, run_build, unwrap
from toolchain.errors import EngineError, MissingPackage


def test_the_last_word_of_a_build_is_its_answer():
    lines = io.BytesIO(b'{"progress": 0.5}\n{"progress": 1.0}\n{"result": {"layers": []}}\n')
    assert follow(lines, "title") == {"result": {"layers": []}}
    assert follow(io.BytesIO(b'{"progress": 0.5}\n'), "title") is None


def test_an_error_in_the_build_is_raised_here_as_the_same_class():
    with pytest.raises(MissingPackage, match="pip install x"):
        unwrap({"error": "pip install x", "kind": "MissingPackage"})
    with pytest.raises(OSError) as error:
        unwrap({"error": "No space left on device", "kind": "OSError", "errno": 28})
    assert error.value.errno == 28


def test_a_killed_builder_is_said_to_lack_memory():
    assert "killed (signal 9), most likely for lack of memory" in died("tensorrt", -9, "")
    assert died("tensorrt", -11, "some noise\nthe last line\n").endswith("ended with signal 11: the last line")
    assert died("tensorrt", 3, "").endswith("exit code 3: it printed nothing")


def test_a_package_that_is_not_installed_comes_back_with_its_install_line(tmp_path):
    job = Job("tensorrt", str(tmp_path / "m.onnx"), str(tmp_path / "e"), [86], {"min": 1, "opt": 1, "max": 1}, None, None)
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        with pytest.raises(MissingPackage, match="runtime 'tensorrt' cannot be imported"):
            run_build(job, "title")
    else:
        pytest.skip("tensorrt is installed here")


def test_an_unwritable_place_for_the_engine_is_reported(tmp_path, make_onnx):
    pytest.importorskip("tensorrt_rtx")
    engine = tmp_path / "absent" / "e"
    job = Job("tensorrt_rtx", str(make_onnx("fp32")), str(engine), [86], {"min": 1, "opt": 1, "max": 1}, None, None)
    with pytest.raises(OSError) as error:
        run_build(job, "title")
    assert error.value.errno == 2


def test_a_builder_ends_when_its_parent_is_gone():
    code = "from toolchain.engines.trt_build import end_with_parent as e; import time; e(); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    time.sleep(1)
    assert process.poll() is None
    process.stdin.close()  # what the kernel does when the parent is killed
    assert process.wait(timeout=10) == 1


def test_the_address_of_the_heap_repeats_in_a_process_with_fixed_addresses():
    """Two runs of a program that prints where an object lies."""
    allowed = subprocess.run([sys.executable, "-c", "from toolchain.engines.repeatable import fix_addresses as f; "
                              "raise SystemExit(not f())"]).returncode == 0
    if not allowed:
        pytest.skip("this system does not let a process switch address randomization off")
    command = [sys.executable, repeatable.__file__, sys.executable, "-S", "-E", "-c", "print(id(object()))"]
    environment = {"PATH": "/usr/bin", "PYTHONHASHSEED": "0"}
    found = [subprocess.run(command, capture_output=True, env=environment, text=True).stdout for _ in range(3)]
    assert found[0] == found[1] == found[2] != ""


def test_a_network_that_leaves_its_size_open_needs_one(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3, "h", "w"]) for n in ("images", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["logits"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    job = Job("tensorrt_rtx", str(tmp_path / "m.onnx"), str(tmp_path / "e"), [86], {"min": 1, "opt": 1, "max": 1}, None, None)
    with pytest.raises(EngineError, match="expected fixed channels, height and width"):
        run_build(job, "title")
    built = run_build(replace(job, image_size=24), "title")
    assert [layer["shape"] for layer in built["layers"]] == [[-1, 3, 24, 24]]
    assert (tmp_path / "e").stat().st_size > 0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="not Linux")
def test_a_build_for_other_gpus_keeps_its_threads_on_one_cpu():
    say = "import os; print(len(os.sched_getaffinity(0)))"
    command = [sys.executable, repeatable.__file__, "--one-cpu", sys.executable, "-c", say]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "1\n"
