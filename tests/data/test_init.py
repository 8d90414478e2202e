import subprocess
import sys
from typing import get_args

from toolchain.data import SOURCES
from toolchain.recipe.schema import DataSection


def sources_of_the_recipe() -> set[str]:
    return {get_args(section.model_fields["source"].annotation)[0] for section in DataSection.__subclasses__()}


def test_every_source_a_recipe_can_name_has_a_module_and_the_other_way_round():
    assert set(SOURCES) == sources_of_the_recipe()


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_room_brings_neither_numpy_nor_pillow():
    code = "import sys, toolchain.data; print([m for m in ('numpy', 'PIL', 'torch', 'sklearn') if m in sys.modules])"
    assert run(code) == "[]"


def test_loading_digits_and_reading_test_batches_never_imports_torch():
    code = ("import sys\n"
            "class Block:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.split('.')[0] in ('torch', 'torchvision'):\n"
            "            raise AssertionError(f'{name} was imported')\n"
            "sys.meta_path.insert(0, Block())\n"
            "from toolchain.data import load_dataset, batches, fingerprint\n"
            "from toolchain.recipe.schema import Digits\n"
            "import toolchain.data.calibration, toolchain.data.parquet, toolchain.data.folder, toolchain.data.cifar\n"
            "d = load_dataset(Digits(source='digits'), [])\n"
            "print(sum(len(labels) for _, labels in batches(d.test, d.preprocess, 64)))")
    assert run(code) == "359"  # 0.2 of 1797 is 359.4


def test_the_fingerprint_of_digits_imports_neither_sklearn_nor_pillow():
    code = ("import sys; from toolchain.data import fingerprint; from toolchain.recipe.schema import Digits\n"
            "fingerprint(Digits(source='digits'), [])\n"
            "print([m for m in ('PIL', 'torch', 'sklearn') if m in sys.modules])")
    assert run(code) == "[]"
