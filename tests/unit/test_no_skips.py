"""In CI a test that is skipped is a test that failed."""

import os
import shutil
import subprocess
import sys

import pytest
from support import ROOT

SKIPS = {
    "in the test": "import pytest\ndef test_one():\n    pytest.skip('no')\n",
    "by a mark": "import pytest\n@pytest.mark.skip\ndef test_one():\n    pass\n",
    "by a fixture": (
        "import pytest\n@pytest.fixture\ndef one():\n    pytest.skip('no')\n"
        "def test_one(one):\n    pass\n"
    ),
    "of the file": "import pytest\npytest.skip('no', allow_module_level=True)\n",
    "expected failure": "import pytest\n@pytest.mark.xfail\ndef test_one():\n    assert False\n",
}


@pytest.mark.parametrize("kind", SKIPS)
def test_skip(tmp_path, kind):
    """With CI set no kind of skip passes; without it pytest's own rule holds."""
    for name in ("conftest.py", "support.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path)
    (tmp_path / "test_it.py").write_text(SKIPS[kind] + "def test_two():\n    pass\n")

    def status(**variables):
        environ = {name: text for name, text in os.environ.items() if name != "CI"}
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
        done = subprocess.run(
            words, cwd=tmp_path, env={**environ, **variables}, capture_output=True, check=False
        )
        return done.returncode

    assert status(CI="true") in (1, 2)
    assert status() == (5 if kind == "of the file" else 0)
