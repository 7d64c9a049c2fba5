"""The four sources, their order, the origin of each value, and what is said about a wrong one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.config.allowed import ALLOWED
from tokenwell.config.load import FLAGS, cache_folder, load
from tokenwell.config.settings import Settings
from tokenwell.wire.errors import SettingsError


@pytest.fixture(autouse=True)
def _an_empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def _file(text: str, path: str = "tokenwell.toml") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return Path(path)


def _error(text: str = "", flags: dict[str, object] | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(flags or {}, _file(text) if text else None, environ or {})
    return str(caught.value)


def test_without_sources_everything_is_default() -> None:
    loaded = load({}, None, {})
    assert loaded.settings == Settings()
    assert {loaded.origin(key) for key in ALLOWED} == {"default"}
    assert [key for key, _, _ in loaded] == list(ALLOWED)


def test_later_sources_win_one_setting_at_a_time() -> None:
    _file('[server]\nport = 1000\nhost = "::1"\n[engine]\nthreads = 3\n')
    loaded = load({"server.port": "3000"}, None, {"TOKENWELL_SERVER_PORT": "2000", "TOKENWELL_ENGINE_THREADS": "4"})
    assert (loaded.settings.server.port, loaded.origin("server.port")) == (3000, "--port")
    assert (loaded.settings.server.host, loaded.origin("server.host")) == ("::1", "tokenwell.toml:3")
    assert (loaded.settings.engine.threads, loaded.origin("engine.threads")) == (4, "TOKENWELL_ENGINE_THREADS")
    assert loaded.origin("engine.dtype") == "default"


def test_a_list_replaces_the_earlier_one() -> None:
    _file('[server]\napi_key = ["a", "b"]\n')
    assert load({}, None, {"TOKENWELL_SERVER_API_KEY": "c,d"}).settings.server.api_key == ["c", "d"]
    assert load({"server.api_key": ["e"]}, None, {"TOKENWELL_SERVER_API_KEY": "c,d"}).settings.server.api_key == ["e"]


def test_auto_takes_back_what_an_earlier_source_fixed() -> None:
    _file("[engine]\nmax_model_len = 4096\n")
    loaded = load({}, None, {"TOKENWELL_ENGINE_MAX_MODEL_LEN": "auto"})
    assert loaded.settings.engine.max_model_len is None
    assert loaded.origin("engine.max_model_len") == "TOKENWELL_ENGINE_MAX_MODEL_LEN"


def test_every_setting_can_be_a_variable_and_flags_set_only_what_exists() -> None:
    for key in ALLOWED:
        with pytest.raises(SettingsError, match="is empty"):
            load({}, None, {"TOKENWELL_" + key.replace(".", "_").upper(): ""})
    assert set(FLAGS) <= set(ALLOWED)


# ---------------------------------------------------------------- which file


def test_the_working_folder_comes_before_the_users_and_the_named_file_before_both(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path / "home")}
    assert load({}, None, environ).settings.server.port == 8000
    user = _file("[server]\nport = 1\n", str(tmp_path / "xdg/tokenwell/tokenwell.toml"))
    assert load({}, None, environ).origin("server.port") == f"{user}:2"
    _file("[server]\nport = 2\n")
    assert load({}, None, environ).settings.server.port == 2
    named = _file("[server]\nport = 3\n", "other.toml")
    assert load({}, named, environ).origin("server.port") == "other.toml:2"


@pytest.mark.parametrize("xdg", [{}, {"XDG_CONFIG_HOME": ""}, {"XDG_CONFIG_HOME": "relative"}])
def test_the_users_file_is_below_home_without_an_absolute_xdg_folder(tmp_path: Path, xdg: dict[str, str]) -> None:
    _file("[server]\nport = 5\n", str(tmp_path / ".config/tokenwell/tokenwell.toml"))
    assert load({}, None, {"HOME": str(tmp_path), **xdg}).settings.server.port == 5


def test_a_named_file_must_be_there() -> None:
    with pytest.raises(SettingsError, match=r"no settings file nowhere\.toml"):
        load({}, Path("nowhere.toml"), {})


def test_a_file_that_is_a_folder_or_no_text_is_named() -> None:
    Path("tokenwell.toml").mkdir()
    with pytest.raises(SettingsError, match=r"tokenwell\.toml cannot be read: Is a directory"):
        load({}, None, {})
    Path("binary.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(SettingsError, match=r"binary\.toml is not TOML: its byte 5 is not UTF-8"):
        load({}, Path("binary.toml"), {})


def test_a_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    Path("tokenwell.toml").write_bytes(b"\xef\xbb\xbf[server]\r\nport = 7\r\n")
    assert load({}, None, {}).origin("server.port") == "tokenwell.toml:2"


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[server]\nport = 1", 2),
        ("# port = 3\n\n[ server ] # port = 4\n  port=1", 4),
        ("server.port = 1", 1),
        ("server . 'port' = 1", 1),
        ('["server"]\n"port" = 1', 2),
        ("[engine]\npage_tokens = 8\n[server]\nhost = 'a'\nport = 1", 5),
        ("server = { host = 'a', port = 1 }", 1),
        ("[model]\nname = [\n 'port',\n 'b',\n]\n[server]\nport = 1", 7),
        ("[model]\nname = ['a[b]']\n[server]\nport = 1", 4),
    ],
)
def test_the_line_of_a_setting(text: str, line: int) -> None:
    _file(text)
    loaded = load({}, None, {})
    assert (loaded.settings.server.port, loaded.origin("server.port")) == (1, f"tokenwell.toml:{line}")


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[server]\nport = '8000'",
            "server.port is '8000' (set by tokenwell.toml:2), but must be a whole number from 0 to 65535",
        ),
        ("[server]\nport = true", "server.port is True"),
        ("[server]\nport = 65536", "server.port is 65536"),
        ("[server]\nport = 8000.0", "server.port is 8000.0"),
        ("[engine]\nkv_cache_gib = nan", "engine.kv_cache_gib is nan"),
        ("[engine]\nprefix_cache = 1", "but must be true or false"),
        ("[engine]\ndtype = 'fp16'", "one of auto, float32, bfloat16, float16"),
        ("[model]\nname = 'a'", 'in a file ["a", "b"]'),
        ("[server]\nprot = 1", "tokenwell.toml:2: there is no setting server.prot; did you mean server.port?"),
        ("port = 1", "tokenwell.toml:1: there is no setting port; did you mean server.port?"),
        ("[engine]\nport = 1", "there is no setting engine.port; did you mean server.port?"),
        ("[sever]\nport = 1", "tokenwell.toml:1: there is no section sever; did you mean server?"),
        ("[zebra]\nx = 1", 'there is no section zebra; "tokenwell config show" lists what there is'),
        ("server = 1", "tokenwell.toml:1: server is a section: write [server]"),
        ("[[server]]\nport = 1", "server is a section: write [server]"),
        ("[server.port]\nx = 1", "server.port is {'x': 1}"),
        ("[server", "tokenwell.toml is not TOML: "),
        ("[server]\nport = 1\nport = 2", "tokenwell.toml is not TOML: "),
    ],
)
def test_a_wrong_file(text: str, said: str) -> None:
    assert said in _error(text)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TOKENWELL_SERVER_PORT", "x", "server.port is 'x' (set by TOKENWELL_SERVER_PORT), but must be"),
        ("TOKENWELL_SERVER_PORT", "", "server.port is empty (set by TOKENWELL_SERVER_PORT)"),
        ("TOKENWELL_PORT", "8000", "did you mean TOKENWELL_SERVER_PORT?"),
        ("TOKENWELL_ENGINE_MAX_MODEL_LENGTH", "1", "did you mean TOKENWELL_ENGINE_MAX_MODEL_LEN?"),
        ("TOKENWELL_server_port", "1", "did you mean TOKENWELL_SERVER_PORT?"),
        ("TOKENWELL_", "1", "the variable TOKENWELL_ is no setting"),
        ("TOKENWELL_ENGINE_PREFIX_CACHE", "maybe", "must be true or false"),
        ("TOKENWELL_MODEL_NAME", "a,,b", "must be a list of texts"),
    ],
)
def test_a_wrong_variable(name: str, value: str, said: str) -> None:
    assert said in _error(environ={name: value})


def test_a_wrong_flag() -> None:
    assert _error(flags={"server.port": "-1"}).startswith("server.port is '-1' (set by --port), but must be")
    assert "no flag sets server.prot; did you mean server.port?" in _error(flags={"server.prot": "1"})


def test_no_message_holds_a_key() -> None:
    key = "sk-0123456789 abcdef"
    for said in (
        _error(f'[server]\napi_key = "{key}"'),
        _error(f'[server]\napi_key = ["{key}"]'),
        _error(flags={"server.api_key": [key]}),
        _error(environ={"TOKENWELL_SERVER_API_KEY": f"good,{key}"}),
    ):
        assert key not in said
        assert "456789" not in said


def test_an_unknown_key_is_an_error_when_its_origin_is_asked() -> None:
    with pytest.raises(SettingsError, match=r"no setting server\.prot; did you mean server\.port"):
        load({}, None, {}).origin("server.prot")


# ---------------------------------------------------------------- the rest of the environment


def test_variables_of_a_kubernetes_service_are_not_settings() -> None:
    environ = {
        "TOKENWELL_SERVICE_HOST": "10.0.0.1",
        "TOKENWELL_SERVICE_PORT": "8000",
        "TOKENWELL_SERVICE_PORT_HTTP": "8000",
        "TOKENWELL_PORT": "tcp://10.0.0.1:8000",
        "TOKENWELL_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "TOKENWELL_PORT_8000_TCP_ADDR": "10.0.0.1",
        "TOKENWELL_SERVER_PORT": "tcp://10.0.0.1:8000",
        "TOKENWELL_SERVER_SERVICE_HOST": "10.0.0.1",
    }
    assert load({}, None, environ).settings == Settings()


def test_other_variables_are_ignored() -> None:
    assert load({}, None, {"PATH": "/bin", "PORT": "1", "MYTOKENWELL_SERVER_PORT": "2"}).settings == Settings()


def test_the_cache_folder(tmp_path: Path) -> None:
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "tokenwell"
    assert cache_folder({"XDG_CACHE_HOME": "relative", "HOME": "/home/ada"}) == Path("/home/ada/.cache/tokenwell")


_WORDS = ["server", "port", "engine", "x", "[", "]", "{", "}", "=", ".", "\n", '"', "1", "true", ",", "#", "'", "nan"]


@given(text=st.text(max_size=60) | st.lists(st.sampled_from(_WORDS), max_size=12).map("".join))
def test_any_file_gives_settings_or_a_settings_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.toml"
        path.write_text(text, encoding="utf-8", newline="")
        try:
            load({}, path, {})
        except SettingsError as error:
            assert str(path) in str(error)
