"""``kubernetes:selector=app=my-app,lookup=pods`` as a word of a command line."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from barnacle_trio import ASK, ConfigurationError, Strategy, kubernetes
from barnacle_trio._names import shorten

FORM = "kubernetes:OPTION=VALUE,..."
MEANING = (
    "pods by the API of Kubernetes (extra kubernetes): selector=LABELS (a comma in it is written "
    "%2C) or service=NAME; then namespace=, lookup=endpointslices|endpoints|pods, "
    "mode=ip|hostname|dns, cluster_domain=, kubeconfig=, context=, not_ready=yes|no, watch=yes|no, "
    "basename=, of which a glob is for what the port mappers there list"
)

_TEXTS = frozenset(
    {
        *("selector", "service", "namespace", "lookup", "mode"),
        *("cluster_domain", "kubeconfig", "context", "basename"),
    }
)
_CHOICES = frozenset({"not_ready", "watch"})


def build(argument: str | None) -> Strategy:
    """Read what follows the colon.

    Raises:
      ConfigurationError: it is not understood, or asks for what cannot be.
    """
    options: dict[str, Any] = {}
    for item in [] if argument is None else argument.split(","):
        key, _, stated = item.partition("=")
        key, value = key.replace("-", "_"), unquote(stated)
        if key in _TEXTS and value:
            options[key] = value
        elif key in _CHOICES and value in {"yes", "no"}:
            options[key] = value == "yes"
        else:
            raise ConfigurationError(
                f"{shorten(item)} is no option of kubernetes: write {FORM}, {MEANING}"
            )
    if not options.keys() & {"selector", "service"}:
        raise ConfigurationError(f"something is missing: write {FORM}, {MEANING}")
    if set(options.get("basename", "")) & set("*?["):
        options |= {"basename": ASK, "match": options["basename"]}
    return kubernetes(**options)


def depends_on_own_name(argument: str) -> bool:
    """Whether only nodes of the local node's base name are named."""
    return not any(item.startswith("basename=") for item in argument.split(","))
