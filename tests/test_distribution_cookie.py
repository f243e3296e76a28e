"""Cookies: which file, which peer, which are refused, and that nobody sees one."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _cookie
from barnacle_trio.distribution._cookie import Cookies, check_cookie, read_cookie_file
from tests.erlang import Erlang

SECRET = "ABCDEFGHIJKLMNOPQRST"
PEER = NodeName("db1@10.0.0.7")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def place(path: Path, content: bytes | str = SECRET, mode: int = 0o400) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def read(home: Path, **environ: str) -> bytes:
    return read_cookie_file({"HOME": str(home), **environ})


def refusal(home: Path) -> str:
    """Why the cookie file is refused; always with its path, never with its content."""
    with pytest.raises(ConfigurationError) as info:
        read(home)
    reason = str(info.value)
    assert str(home / ".erlang.cookie") in reason
    assert SECRET not in "".join(traceback.format_exception(info.value))
    return reason


# --- Where it is looked for ---------------------------------------------------------------------


def test_the_file_of_the_home_directory_goes_first(home: Path) -> None:
    place(home / ".erlang.cookie", "of-home")
    place(home / ".config/erlang/.erlang.cookie", "of-config")
    assert read(home) == b"of-home"


def test_the_file_below_config_is_next(home: Path) -> None:
    place(home / ".config/erlang/.erlang.cookie", "of-config")
    assert read(home) == b"of-config"
    assert read(home, XDG_CONFIG_HOME="") == b"of-config"
    place(home / "elsewhere/erlang/.erlang.cookie", "of-xdg")
    assert read(home, XDG_CONFIG_HOME=str(home / "elsewhere")) == b"of-xdg"
    assert not (home / ".erlang.cookie").exists()


def test_the_environment_of_the_process_is_the_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    place(home / ".erlang.cookie")
    assert read_cookie_file() == SECRET.encode()


def test_without_a_home_directory_there_is_no_file() -> None:
    with pytest.raises(ConfigurationError, match="HOME"):
        read_cookie_file({})


# --- A new one ----------------------------------------------------------------------------------


def test_where_there_is_none_one_is_made(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    cookie = read(home)
    path = home / ".erlang.cookie"
    assert len(cookie) == 20
    assert cookie.isalpha()
    assert cookie.isupper()
    assert path.read_bytes() == cookie
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(path) in record.getMessage()
    assert cookie.decode() not in caplog.text
    assert [each.name for each in home.iterdir()] == [".erlang.cookie"]
    assert read(home) == cookie


def test_each_new_one_is_another(tmp_path: Path) -> None:
    homes = [tmp_path / str(number) for number in range(20)]
    for each in homes:
        each.mkdir()
    assert len({read(each) for each in homes}) == 20


def test_of_two_programs_that_start_at_once_both_have_the_first_ones(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    link = os.link

    def lose_the_race(draft: Path, path: Path) -> None:
        place(path, "of-the-other-one")
        link(draft, path)

    monkeypatch.setattr(os, "link", lose_the_race)
    assert read(home) == b"of-the-other-one"
    assert [each.name for each in home.iterdir()] == [".erlang.cookie"]
    assert not caplog.records


def test_a_home_that_cannot_be_written_is_told(home: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\.erlang\.cookie: No such file or directory"):
        read(home / "missing")


def test_erlang_reads_the_cookie_that_was_made(home: Path, erlang: Erlang) -> None:
    cookie = read(home)
    assert erlang_cookie(home, erlang) == cookie


def test_the_cookie_that_erlang_made_is_read(home: Path, erlang: Erlang) -> None:
    cookie = erlang_cookie(home, erlang)
    assert len(cookie) == 20
    assert read(home) == cookie


@pytest.mark.parametrize("content", [" spaces stay ", "a b\n\r\n ", "~!@#$%^&*()"])
def test_the_content_is_read_as_erlang_reads_it(home: Path, erlang: Erlang, content: str) -> None:
    place(home / ".erlang.cookie", content)
    assert read(home) == erlang_cookie(home, erlang)


def erlang_cookie(home: Path, erlang: Erlang) -> bytes:
    ask = "io:put_chars(atom_to_list(erlang:get_cookie())), halt()."
    flags = ["-name", "q@127.0.0.1", "-start_epmd", "false", "-erl_epmd_port", "9", "-dist_listen"]
    answer = subprocess.run(
        erlang.command(*flags, "false", "-boot", "start_clean", "-eval", ask),
        env=erlang.environ(HOME=str(home)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=True,
    )
    return answer.stdout


# --- Hostile input 87: files that are refused, with path and reason ------------------------------


def test_87_a_file_open_to_others(home: Path) -> None:
    for mode in (0o644, 0o440, 0o404, 0o401, 0o620):
        place(home / ".erlang.cookie", mode=0o600).chmod(mode)
        assert f"mode {mode:04o}" in refusal(home)
    for mode in (0o400, 0o600, 0o700):
        (home / ".erlang.cookie").chmod(mode)
        assert read(home) == SECRET.encode()


def test_87_a_file_of_another_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place(home / ".erlang.cookie")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert "belongs to another user" in refusal(home)


def test_87_a_symbolic_link(home: Path) -> None:
    place(home / "real")
    (home / ".erlang.cookie").symlink_to(home / "real")
    assert "is a symbolic link" in refusal(home)


def test_87_a_symbolic_link_to_nowhere_is_not_written_through(home: Path) -> None:
    (home / ".erlang.cookie").symlink_to(home / "elsewhere")
    assert "is a symbolic link" in refusal(home)
    assert not (home / "elsewhere").exists()


def test_87_a_link_that_is_put_in_place_after_the_look(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(home / "real")
    (home / ".erlang.cookie").symlink_to(home / "real")
    monkeypatch.setattr(Path, "is_symlink", lambda _self: False)
    assert "symbolic links" in refusal(home)  # the kernel's own words


def test_87_a_pipe_is_not_waited_for(home: Path) -> None:
    os.mkfifo(home / ".erlang.cookie", 0o400)
    assert "is not a regular file" in refusal(home)


def test_87_a_directory(home: Path) -> None:
    (home / ".erlang.cookie").mkdir(0o700)
    assert "is not a regular file" in refusal(home)


def test_87_a_device(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="/dev/null is not a regular file"):
        _cookie._read(Path("/dev/null"))


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n\n"])
def test_87_an_empty_file(home: Path, content: bytes) -> None:
    place(home / ".erlang.cookie", content)
    assert "is empty" in refusal(home)


def test_87_a_gigabyte(home: Path) -> None:
    path = place(home / ".erlang.cookie", SECRET, 0o600)
    os.truncate(path, 1 << 30)  # sparse: takes no room
    assert "is longer than 1024 bytes" in refusal(home)


def test_87_a_cookie_that_is_too_long_for_an_atom(home: Path) -> None:
    place(home / ".erlang.cookie", b"x" * 255 + b"\n", 0o600)
    assert read(home) == b"x" * 255
    place(home / ".erlang.cookie", b"x" * 256, 0o600)
    assert "has 256 characters" in refusal(home)


@pytest.mark.parametrize(
    "content",
    [
        SECRET.encode() + b"\0",
        b"\0" * 20,
        SECRET.encode() + b"\nmore",
        b"\n" + SECRET.encode(),
        SECRET.encode() + b"\xe4",
        "geheim\u00e4".encode(),
        b"a\tb",
    ],
)
def test_87_a_file_that_holds_no_cookie(home: Path, content: bytes) -> None:
    place(home / ".erlang.cookie", content)
    assert "holds more than one line of printable ASCII" in refusal(home)


def test_87_a_file_that_cannot_be_opened(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_args: object) -> int:
        raise PermissionError(13, "Permission denied")

    place(home / ".erlang.cookie")
    monkeypatch.setattr(os, "open", denied)
    assert "Permission denied" in refusal(home)


def test_87_a_file_that_vanishes_between_look_and_opening_is_made_anew(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place(home / ".erlang.cookie")
    look = Path.is_symlink

    def vanish(self: Path) -> bool:
        found = look(self)
        if path.exists() and path.read_bytes() == SECRET.encode():
            path.unlink()
        return found

    monkeypatch.setattr(Path, "is_symlink", vanish)
    assert len(read(home)) == 20
    assert path.exists()


def test_87_a_file_that_vanishes_as_soon_as_it_was_made(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cookie, "_create", lambda _path: None)
    assert "was removed while it was read" in refusal(home)


# --- Cookies that are given ---------------------------------------------------------------------


@pytest.mark.parametrize("cookie", ["x", b"y", "a b", "~" * 255])
def test_cookies_that_are_taken(cookie: str | bytes) -> None:
    assert check_cookie(cookie) == (cookie.encode() if isinstance(cookie, str) else cookie)


@pytest.mark.parametrize(
    ("cookie", "reason"),
    [
        ("", "is empty"),
        (b"", "is empty"),
        ("x" * 256, "has 256 characters"),
        (f"{SECRET}\n", "cannot be printed"),
        (f"{SECRET}\0".encode(), "cannot be printed"),
        (f"{SECRET}\u00e4", "beyond ASCII"),
        (f"{SECRET}\ud800", "beyond ASCII"),
        (SECRET.encode() + b"\xe4", "cannot be printed"),
        (None, "not NoneType"),
        (5, "not int"),
    ],
    ids=ascii,
)
def test_cookies_that_are_refused(cookie: str | bytes, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^the cookie .*{reason}") as info:
        Cookies(cookie)
    with pytest.raises(ConfigurationError, match=f"^the cookie for {PEER} .*{reason}") as for_peer:
        Cookies("x", {PEER: cookie})
    for error in (info.value, for_peer.value):
        assert SECRET not in str(error)
        assert error.__cause__ is error.__context__ is None


@given(st.text(max_size=300))
def test_of_any_text_a_cookie_comes_out_or_an_error(text: str) -> None:
    try:
        assert check_cookie(text).decode() == text
    except ConfigurationError:
        assert not (0 < len(text) <= 255 and text.isascii() and text.isprintable())


def test_each_peer_has_its_cookie() -> None:
    cookies = Cookies(
        "default",
        {"db1@10.0.0.7": "exact", "db*": "glob", "*@10.0.0.9": b"host", "app@h": "app"},
    )
    assert cookies.for_peer(PEER) == b"exact"
    assert cookies.for_peer(NodeName("db2@10.0.0.7")) == b"glob"
    assert cookies.for_peer(NodeName("db2@10.0.0.9")) == b"glob"
    assert cookies.for_peer(NodeName("web@10.0.0.9")) == b"host"
    assert cookies.for_peer(NodeName("app@h")) == b"app"
    assert cookies.for_peer(NodeName("app@other")) == b"default"


def test_no_cookie_is_shown() -> None:
    cookies = Cookies(SECRET, {PEER: SECRET})
    assert repr(cookies) == str(cookies) == "<Cookies: a default and 1 for some peers>"
    assert SECRET not in f"{cookies}{[cookies]}"
    assert not hasattr(cookies, "__dict__")


def test_a_short_cookie_stays_on_loopback() -> None:
    short = Cookies("x" * 15)
    short.check_strength(beyond_loopback=False)
    short.check_strength(beyond_loopback=True, insecure_cookie=True)
    with pytest.raises(ConfigurationError, match="fewer than 16 characters"):
        short.check_strength(beyond_loopback=True)
    Cookies("x" * 16).check_strength(beyond_loopback=True)
    with pytest.raises(ConfigurationError):
        Cookies("x" * 16, {PEER: "short"}).check_strength(beyond_loopback=True)
