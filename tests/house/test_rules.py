"""Runs the house rules over the tree, and each of them over a sample that breaks it."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from tests.house import rules
from tests.house.rules import SERVICE_RULES, TEST_RULES, Rule, Source, sources


@pytest.mark.parametrize("rule", SERVICE_RULES, ids=lambda rule: rule.__name__)
def test_the_service_keeps(rule: Rule) -> None:
    assert _breaches(rule, "src") == []


@pytest.mark.parametrize("rule", TEST_RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_tests_and_benchmarks_keep(rule: Rule, folder: str) -> None:
    assert _breaches(rule, folder) == []


def _breaches(rule: Rule, folder: str) -> list[str]:
    # rules.py itself names the words that it forbids
    checked = (source for source in sources(folder) if source.path.name != "rules.py")
    return [f"{source.path} {breach}" for source in checked for breach in rule(source)]


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (rules.short_files, "src/tokenwell/api/app.py", "\n" * 601),
        (rules.says_what_it_owns, "src/tokenwell/api/app.py", "x = 1\n"),
        (rules.nothing_left_undone, "src/tokenwell/api/app.py", '"""Doc."""\nx = 1  # ' + "TO" + "DO: more\n"),
        (rules.speaking_names, "src/tokenwell/api/utils.py", ""),
        (rules.speaking_names, "src/tokenwell/common/app.py", ""),
        (rules.speaking_names, "src/tokenwell/api/app.py", "größe = 1\n"),
        (rules.speaking_names, "src/tokenwell/api/app.py", "def f(größe): ...\n"),
        (rules.speaking_names, "src/tokenwell/api/app.py", "class ServeMixin: ...\n"),
        (rules.no_arguments_handed_through, "src/tokenwell/api/app.py", "async def f(a, **rest):\n    await g(a, **rest)\n"),
        (rules.accelerators_behind_the_platform, "src/tokenwell/engine/run/batch.py", "import torch\ntorch.cuda.synchronize()\n"),
        (rules.accelerators_behind_the_platform, "src/tokenwell/engine/run/batch.py", "from torch import cuda\n"),
        (rules.accelerators_behind_the_platform, "src/tokenwell/engine/run/batch.py", "from torch.xpu import stream\n"),
        (rules.environment_read_once, "src/tokenwell/cli/main.py", "import os\nos.environ['HOME']\n"),
        (rules.environment_read_once, "src/tokenwell/cli/main.py", "from os import getenv\n"),
        (rules.clean_interpreters, "src/tokenwell/service/supervisor.py", "from multiprocessing import Process\n"),
        (rules.every_test_runs, "tests/test_a.py", "import pytest\n@pytest.mark.skipif(True, reason='')\ndef f(): ...\n"),
        (rules.every_test_runs, "tests/test_a.py", "import pytest\ndef test_a(): pytest.skip()\n"),
    ],
)
def test_a_breach_is_found(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(PurePosixPath(path), text)))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (rules.says_what_it_owns, "src/tokenwell/api/__init__.py", ""),
        (rules.accelerators_behind_the_platform, "src/tokenwell/engine/platform/cuda.py", "torch.cuda.synchronize()\n"),
        (rules.environment_read_once, "src/tokenwell/config/load.py", "import os\nos.environ\n"),
        (rules.environment_read_once, "src/tokenwell/cli/main.py", '"""os.environ is not read here."""\n'),
        (rules.no_arguments_handed_through, "src/tokenwell/api/app.py", "def f(**more): return {'a': 1, **more}\n"),
    ],
)
def test_what_is_allowed_is_not_a_breach(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(Source(PurePosixPath(path), text)))
