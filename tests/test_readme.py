"""The README is true: every command and every piece of Python in it runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolchain.engines.cpu import cpu_target

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GATE = re.findall(r"<!-- ci:\w+ -->\n```bash\n(.*?)```", README, re.S)  # run by .ci/run, in a fresh environment
BASH = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) if block not in GATE for line in block.splitlines()]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
YAML = re.findall(r"```yaml\n(.*?)```", README, re.S)
QUICK = "train.epochs=1 measure.rounds=2 measure.runs_per_round=3 measure.warmup=2 measure.throughput_batches=[1]"
NARROW = "model.width=0.125"
LEFT_BEHIND = f"build/digits_independent/onnx/model.fp32.{cpu_target()}.onnx"  # by an earlier command, and a small one
SHORTER = {  # the same command with less work: a README command may train for minutes, a test may not
    "toolchain build recipes/distill/digits": QUICK,
    "toolchain study": "--dry-run",  # it takes minutes; tests/e2e/test_distill.py builds rows of the one on digits
    "toolchain sensitivity": f"train.epochs=1 {NARROW}",
    "toolchain build recipes/vgg11_pruned.yaml": f"{QUICK} prune.finetune.epochs=1",
    "toolchain build recipes/resnet18_ptq.yaml": QUICK,
    "toolchain build recipes/vgg11_cifar10_int8.yaml": f"{QUICK} {NARROW} quantize.calibration.images=16",
    "toolchain build recipes/own_onnx_digits.yaml": f"{QUICK.split(' ', 1)[1]} quantize.calibration.images=16 "
                                                    f"model.onnx={LEFT_BEHIND}",
    "toolchain build recipes/own_onnx.yaml": f"{QUICK.split(' ', 1)[1]} quantize.calibration.images=16",
    "toolchain bench": "--rounds=2 --runs=2 --attempts=1",
    "ACCELERATE_USE_CPU=true accelerate": f"{QUICK} model.width=0.25 prune.finetune.epochs=1",
}
NETS = """
from torch import nn

def my_net(num_classes, form, width):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

MODELS = {"my_net": my_net}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user's clone would look, with the files that the README's examples name."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("recipes", "calib_data"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "my_nets.py").write_text(NETS)
    return folder


def photos(place: Path) -> str:
    """Sixty small pictures in the layout of the README's photo example, and an untrained network for them."""
    import io

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from PIL import Image
    from torch import nn

    folder = place / "photos" / "imagenet_sample"
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), []
    for _ in range(60):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(buffer, "JPEG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    pq.write_table(pa.table({"image": rows, "label": [i % 10 for i in range(60)]}), folder / "all.parquet")
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    torch.onnx.export(network.eval(), (torch.zeros(1, 3, 224, 224),), place / "my_net.onnx", dynamo=True, external_data=False)
    return str(place / "photos")


def cifar() -> str:
    for folder in (ROOT.parent / "shared" / "data", ROOT / "shared" / "data"):
        if (folder / "cifar10" / "train.parquet").is_file():
            return str(folder)
    pytest.skip("no cifar10/train.parquet in a shared/data folder beside the project")


@pytest.fixture(scope="module")
def orin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """What stands for the README's device: its address with how it is entered, and the home folder that knows it."""
    from device_python import device_python
    from ssh_place import USER, started

    folder = tmp_path_factory.mktemp("orin")
    with started("asyncssh", folder) as server:
        server.known(server.port)
        program = device_python(folder / "python")
        yield f"ssh://{USER}@127.0.0.1:{server.port} --python {program} --folder {folder / 'ours'}", server.home


@pytest.mark.parametrize("line", BASH)
def test_a_command_of_the_readme_runs(line: str, place: Path, request: pytest.FixtureRequest) -> None:
    if line.startswith("toolchain build recipes/vgg11_int8.yaml"):
        pytest.skip("run in full by .ci/run")
    extra = next((sets.split() for start, sets in SHORTER.items() if line.startswith(start)), [])
    if "DATA" in line:
        line = line.replace("DATA", cifar() if "cifar10" in line else photos(place))
    line = line.replace("accelerate launch", f"{sys.executable} -m accelerate.commands.launch")
    environment = {**os.environ, "TOOLCHAIN_KEYS": str(place / "keys")}
    if re.search(r"\borin\b", line):
        address, home = request.getfixturevalue("orin")
        line = line.replace("ssh://nvidia@192.168.55.1", address)
        environment["HOME"] = str(home)
    words = shlex.split(line)
    while "=" in words[0]:
        environment.update([words.pop(0).split("=", 1)])
    if words[0] == "toolchain":
        words[:1] = [sys.executable, "-m", "toolchain"]
    assert words[0] in (sys.executable, "python"), f"the test does not know how to run: {line}"
    words[0] = sys.executable
    words += [word for less in extra for word in ((less,) if less.startswith("--") else ("--set", less))]
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_gate_marks_hold_the_two_commands_of_a_newcomer() -> None:
    assert len(GATE) == 2
    assert "pip install -e . &&" in GATE[0] and "toolchain build recipes/vgg11_int8.yaml" in GATE[0]
    assert "pip install -e '.[test]'" in GATE[1] and "pytest" in GATE[1]


@pytest.mark.parametrize("text", YAML)
def test_a_piece_of_recipe_in_the_readme_is_valid(text: str, tmp_path: Path) -> None:
    from toolchain.recipe.load import load_recipe

    (tmp_path / "r.yaml").write_text("name: piece\nmodel: {arch: vgg11_bn}\n" + text)
    load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_in_the_readme_runs(code: str, place: Path) -> None:
    assert '"train.epochs=3"' in code
    less = ", ".join(f'"{s}"' for s in f"{QUICK} {NARROW} quantize=ptq".split())
    done = subprocess.run([sys.executable, "-c", code.replace('"train.epochs=3"', less + ", 'limits={}'")],
                          cwd=place, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_file_that_the_readme_links_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links and all((ROOT / link.split("#")[0]).exists() for link in links), links


def test_the_map_names_every_room() -> None:
    rooms = {p.name.removesuffix(".py") for p in (ROOT / "toolchain").iterdir()
             if not p.name.startswith("__") and (p.suffix == ".py" or (p / "__init__.py").is_file())}
    assert not {room for room in rooms if f"`{room}" not in README}


def test_the_table_of_distillation_methods_names_each_of_them() -> None:
    from toolchain.distill import DISTILL

    table = README.split("| `distill.method` |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == list(DISTILL)
