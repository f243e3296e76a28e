"""``gossip:sealed,interface=eth0`` as a word of a command line."""

from __future__ import annotations

import os
from typing import Any

from barnacle_trio import ConfigurationError, Strategy, gossip
from barnacle_trio._names import shorten

SECRET = "BARNACLE_GOSSIP_SECRET"  # noqa: S105 - on a command line everybody could read it
FORM = "gossip[:OPTION,...]"
MEANING = (
    f"whoever gossips on the network, as libcluster's nodes do; the secret (extra gossip) is in "
    f"{SECRET}, or an option is insecure; others are sealed, broadcast, interface=NAME, "
    "group=ADDRESS, port=NUMBER, match=GLOB"
)

_FLAGS: dict[str, dict[str, Any]] = {
    "insecure": {"insecure": True},
    "sealed": {"wire": "sealed"},
    "broadcast": {"broadcast": True},
}


def build(argument: str | None) -> Strategy:
    """Read what follows the colon.

    Raises:
      ConfigurationError: it is not understood, or gossip cannot work so.
    """
    options: dict[str, Any] = {}
    globs: list[str] = []
    for item in [] if argument is None else argument.split(","):
        key, equals, value = item.partition("=")
        if not equals and key in _FLAGS:
            options |= _FLAGS[key]
        elif key in {"interface", "group"} and value:
            options[key] = value
        elif key == "port" and value.isascii() and value.isdigit():
            options[key] = int(value)
        elif key == "match" and value:
            globs.append(value)
        else:
            raise ConfigurationError(
                f"{shorten(item)} is no option of gossip: write {FORM}, {MEANING}"
            )
    secret = os.environ.get(SECRET) or None
    if secret is None and "insecure" not in options:
        raise ConfigurationError(
            f"gossip needs a secret, the same for all nodes: set {SECRET}, or write gossip:insecure"
        )
    if "insecure" not in options:
        options["secret"] = secret
    return gossip(match=globs or None, **options)


def depends_on_own_name(argument: str) -> bool:
    """Whether only nodes of the local node's base name are named."""
    items = argument.split(",")
    return "insecure" in items and not any(item.startswith("match=") for item in items)
