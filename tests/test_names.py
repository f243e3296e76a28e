"""Node names and the patterns that choose among them."""

from __future__ import annotations

import pickle  # noqa: TID251 - of our own bytes: a name must survive it like any str

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio import ConfigurationError, NodeName
from barnacle_trio._names import matcher, shorten, show


def test_a_name_is_a_str_with_two_parts() -> None:
    name = NodeName("my_app@fdaa:0:1::3")
    assert name == "my_app@fdaa:0:1::3"
    assert "my_app@fdaa:0:1::3" in {name: 1}
    assert (name.basename, name.host) == ("my_app", "fdaa:0:1::3")
    assert NodeName(name) is name
    assert pickle.loads(pickle.dumps(name)) == name  # noqa: S301 - see above


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it is empty"),
        ("app", "has no '@'"),
        ("a@b@c", "more than one '@'"),
        ("@host", "before the '@'"),
        ("app@", "after the '@'"),
        ("my app@host", "without spaces"),
        ("app@ho\nst", "printable ASCII"),
        ("app@h\u202eost", "printable ASCII"),
        ("äpp@host", "printable ASCII"),
        ("app@" + "h" * 252, "256 bytes long, the limit is 255"),
        ("app@[::1]", "without brackets"),
    ],
)
def test_what_is_no_name_is_told_why(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match="is not a node name") as caught:
        NodeName(text)
    assert complaint in str(caught.value)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("other", [None, b"app@host", 7])
def test_only_a_str_can_be_a_name(other: object) -> None:
    with pytest.raises(TypeError, match="a node name is a str"):
        NodeName(other)  # type: ignore[arg-type]


def test_the_longest_name_is_taken() -> None:
    assert len(NodeName("app@" + "h" * 251)) == 255


@given(st.text())
def test_any_text_is_a_name_or_a_value_error(text: str) -> None:
    try:
        name = NodeName(text)
    except ValueError:
        return
    assert f"{name.basename}@{name.host}" == text


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        (None, True),
        ("my_app@*", True),
        ("*@10.0.0.?", True),
        ("my_*", True),
        ("other", False),
        ("MY_APP", False),
        (["other", "my_app"], True),
        ([], False),
        (lambda name: name.host.startswith("10."), True),
    ],
)
def test_matching(match: object, fits: bool) -> None:
    assert matcher(match)(NodeName("my_app@10.0.0.7")) is fits  # type: ignore[arg-type]


def test_what_peers_say_is_shortened_and_escaped() -> None:
    assert shorten("a\nb\u202e") == "'a\\nb\\u202e'"
    for text in ("x", "\0", "\ufffd", "\U0001f600", "'\"\\"):
        assert len(shorten(text * 10_000)) <= 85 + 80 * ("'" in text), "escaped"
    assert shorten("\0" * 20) == ascii("\0" * 20)


class _Odd:
    def __repr__(self) -> str:
        return "odd\n\u202e"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        ("x", "'x'"),
        (["a"], "['a']"),
        ("a\nb\u202e", "'a\\nb\\u202e'"),
        (_Odd(), "odd\\n\\u202e"),
        ("x" * 10_000, "'" + "x" * 79 + "..."),
    ],
)
def test_what_a_user_gave_is_shown_as_it_would_be_written(value: object, shown: str) -> None:
    assert show(value) == shown


@pytest.mark.parametrize("glob", ["[", "a[b", "a[!", "a[]", "[[]a[", "", "a b", "a@b@c", "\u00e4*"])
def test_a_glob_that_can_match_nobody_is_a_slip(glob: str) -> None:
    with pytest.raises(ConfigurationError, match="matches no node name"):
        matcher(glob)
    with pytest.raises(ConfigurationError, match="matches no node name"):
        matcher(["fine", glob])


@pytest.mark.parametrize("glob", ["a]", "[]]", "[!]]a", "[@]b@c", "a[]x]", "*", "?@[0-9]*"])
def test_odd_globs_are_taken(glob: str) -> None:
    assert matcher(glob)(NodeName("zz@h")) is (glob == "*")
