"""`tokenwell doctor`: looks at this machine, or at a recorded one, and tells what is wrong and what mends it. Changes nothing."""

from __future__ import annotations

from pathlib import Path

from tokenwell.config.load import Loaded, cache_folder, process_environment
from tokenwell.doctor.examine import examine, worst
from tokenwell.doctor.report import as_json, print_table
from tokenwell.host.machine import LiveMachine, Machine
from tokenwell.host.masks import MASKS, SELECTOR
from tokenwell.host.recording import Recorder, read_recording
from tokenwell.host.survey import read_survey
from tokenwell.wire.errors import SettingsError

# What checks ask of the environment; nothing else of it is read, shown or recorded.
_VARIABLES = (
    *("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
    *(SELECTOR, *(name for names in MASKS.values() for name in names)),
    *("HSA_OVERRIDE_GFX_VERSION", "NCCL_P2P_DISABLE", "container", "KUBERNETES_SERVICE_HOST"),
)
_PREFIXES = ("CCL_",)


def doctor(loaded: Loaded, *, json: bool, machine_file: Path | None, record_file: Path | None) -> int:
    """Print the findings; 1 when one of them is a failure, else 0. Raises SettingsError for a bad recording."""
    machine: Machine = LiveMachine(environment=process_environment(_VARIABLES, _PREFIXES))
    if machine_file is not None:
        machine = LiveMachine(machine_file) if machine_file.is_dir() else read_recording(machine_file)
    recorder = Recorder(machine)
    survey = read_survey(recorder, _model_folder(loaded), loaded.settings.server.port)
    findings = examine(survey)
    if record_file is not None:
        try:
            record_file.write_text(recorder.as_json() + "\n", encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"the recording {record_file} cannot be written: {error.strerror}") from None
    if json:
        print(as_json(survey, findings))
    else:
        from rich.console import Console  # JSON does not need it

        print_table(Console(), survey, findings)
    return 1 if worst(findings) == "fail" else 0


def _model_folder(loaded: Loaded) -> str:
    """Where the model is, or where one would be kept."""
    path = Path(loaded.settings.model.path or "")
    if loaded.settings.model.path and (path.exists() or path.is_absolute()):
        return str(path.absolute().parent if path.is_file() else path.absolute())
    try:
        return str(cache_folder())
    except SettingsError:  # no home
        return str(Path.cwd())
