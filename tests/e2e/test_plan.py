"""The service beside its plan: what is loaded is what was promised, speeds are compared in use, and --strict cuts nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import Tiny
from tests.e2e import service as services
from tests.waiting import PATIENCE_S

from tokenwell.service.promise import LEAST_SEEN

PROGRAM = str(Path(sys.executable).parent / "tokenwell")


def test_promise_and_truth(tiny: Tiny, tmp_path: Path) -> None:
    with services.serve(tiny("gemma4-e"), tmp_path / "log", "--max-num-seqs=4") as service:
        for _ in range(LEAST_SEEN):
            status, _ = service.post("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 8, "ignore_eos": True})
            assert status == 200
        status, text = service.get("/plan")
        assert status == 200
        told = json.loads(text)
        assert told["plan"]["layout"]["kind"] == "single"
        promises = told["promises"]
        assert 0.99 < promises["weights_bytes"]["ratio"] < 1.01
        assert promises["kv_bytes"]["ratio"] == promises["window_tokens"]["ratio"] == 1.0
        assert promises["ttft_ms"]["ratio"] > 0 < promises["tpot_ms"]["ratio"]
        assert service.metric('tokenwell_plan_measured{what="kv_bytes"}') == promises["kv_bytes"]["measured"]
        assert service.metric('tokenwell_plan_ratio{what="tpot_ms"}') > 0


def test_strict_refuses_what_would_be_cut(tiny: Tiny, tmp_path: Path) -> None:
    flags = ["--device=cpu", "--max-model-len=100", "--kv-cache-gib=0.0001", "--strict", "--port=0"]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [PROGRAM, "serve", str(tiny("qwen3")), *flags],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "max_model_len" in done.stderr
