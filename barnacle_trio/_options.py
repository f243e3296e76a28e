"""The options of a barnacle, checked at the call, before anything starts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeGuard

import trio

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._events import Event
from barnacle_trio._listeners import Listener, check_listener
from barnacle_trio._names import NodeName, show
from barnacle_trio._rules import Prune, Rules
from barnacle_trio._supervisor import RestartPolicy, is_count

ListenerOption = trio.MemorySendChannel[Event] | Iterable[trio.MemorySendChannel[Event]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `open_barnacle` takes beside the strategy and the transport. Durations in seconds."""

    name: str = "barnacle"
    registered_name: str | None = None
    poll_interval: float = 5.0
    listeners: tuple[Listener, ...] = ()
    prune: Prune = "discovered"
    prune_after: float = 60.0
    max_prune: float = 0.5
    discovery_timeout: float = 10.0
    dial_timeout: float = 7.0
    max_dials: int = 64
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)

    def rules(self, prune_answers: int = 2) -> Rules:
        """The options that the plan decides by."""
        return Rules(
            poll_interval=self.poll_interval,
            prune=self.prune,
            prune_after=self.prune_after,
            prune_answers=prune_answers,
            max_prune=self.max_prune,
            max_dials=self.max_dials,
        )


def check_options(
    *,
    name: str,
    poll_interval: float = 5.0,
    listener: ListenerOption = None,
    prune: Prune = "discovered",
    prune_after: float = 60.0,
    max_prune: float = 0.5,
    discovery_timeout: float = 10.0,
    dial_timeout: float = 7.0,
    max_dials: int = 64,
    registered_name: str | None = None,
    restart_policy: RestartPolicy | None = None,
) -> Options:
    """Check and collect the options.

    Raises:
      ConfigurationError: one cannot work as given; the message names it.
    """
    _text("name", name)
    if registered_name is not None:
        _text("registered_name", registered_name)
    check_seconds("poll_interval", poll_interval, finite=True)
    check_seconds("prune_after", prune_after, zero=True)
    check_seconds("discovery_timeout", discovery_timeout)
    check_seconds("dial_timeout", dial_timeout)
    if not _is_number(max_prune) or not 0 <= max_prune <= 1:
        raise ConfigurationError(
            f"max_prune is a share between 0 and 1, e.g. 0.5, not {_show(max_prune)}"
        )
    if not is_count(max_dials, least=1):
        raise ConfigurationError(f"max_dials is an int of at least 1, not {_show(max_dials)}")
    if prune not in ("discovered", "all", "never"):
        raise ConfigurationError(f"prune is 'discovered', 'all' or 'never', not {_show(prune)}")
    return Options(
        name=name,
        registered_name=registered_name,
        poll_interval=poll_interval,
        listeners=_listeners(listener),
        prune=prune,
        prune_after=prune_after,
        max_prune=max_prune,
        discovery_timeout=discovery_timeout,
        dial_timeout=dial_timeout,
        max_dials=max_dials,
        restart_policy=restart_policy or RestartPolicy(),
    )


def check_strategy(strategy: object) -> None:
    """See that something can be a strategy.

    Raises:
      ConfigurationError: it is a name, a list, a class, a coroutine; the message says what to do.
    """
    if inspect.iscoroutine(strategy):
        strategy.close()  # or Python complains that nobody awaited it
        raise ConfigurationError(
            "the strategy is a coroutine: pass the function itself, without calling it"
        )
    if isinstance(strategy, type):
        raise ConfigurationError(
            f"the strategy is the class {strategy.__name__}: call it to make one"
        )
    if inspect.isasyncgenfunction(strategy):
        raise ConfigurationError("the strategy is an async generator: return the names instead")
    if not callable(strategy):
        hint = ""
        if isinstance(strategy, Iterable):
            hint = "; for a known list of nodes use epmd([...])"
        raise ConfigurationError(
            f"a strategy is an async function of the local node's name, not {_show(strategy)}{hint}"
        )
    try:
        inspect.signature(strategy).bind("name@host")
    except TypeError as error:
        name = getattr(strategy, "__name__", type(strategy).__name__)
        raise ConfigurationError(
            f"a strategy is called with the local node's name alone, which {name} cannot be "
            f"({error}); if it makes strategies, call it first: {name}()"
        ) from error
    except ValueError:
        pass  # it has no signature that could be read


def check_transport(transport: object, registered_name: str | None = None) -> NodeName:
    """See that something can be a transport; returns the local node's name.

    Raises:
      ConfigurationError: it lacks something.
    """
    lacking = [
        each
        for each in ("name", "connect", "disconnect", "list_nodes")
        if not hasattr(transport, each)
    ]
    if lacking:
        hint = ""
        if hasattr(transport, "__aenter__"):
            hint = "; enter it first: `async with ... as node`, then pass the node"
        raise ConfigurationError(
            f"the transport {_show(transport)} lacks {', '.join(lacking)}{hint}"
        )
    if registered_name is not None and not hasattr(transport, "serve_process"):
        raise ConfigurationError(
            f"registered_name={registered_name!r} needs a transport that can serve a process, "
            "as a Node can"
        )
    try:
        return NodeName(transport.name)  # type: ignore[attr-defined]  # it has one, see above
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the transport's name: {error}") from error


def _listeners(listener: ListenerOption) -> tuple[Listener, ...]:
    if listener is None:
        return ()
    if isinstance(listener, Iterable) and not isinstance(
        listener, (str, trio.abc.Channel, trio.abc.ReceiveChannel, trio.abc.SendChannel)
    ):
        listeners = tuple(listener)
    else:
        listeners = (listener,)  # type: ignore[assignment]  # what users give is checked next
    for each in listeners:
        check_listener(each)
    return listeners


def _text(what: str, text: object) -> None:
    if not (isinstance(text, str) and text):
        raise ConfigurationError(f"{what} is a text that is not empty, not {_show(text)}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def check_seconds(what: str, value: object, *, zero: bool = False, finite: bool = False) -> None:
    """See that an option is a number of seconds.

    Raises:
      ConfigurationError: it is not; ``what`` names it.
    """
    good = (
        _is_number(value)
        and (value > 0 or (zero and value == 0))
        and not (finite and math.isinf(value))
    )
    if not good:
        bound = "at least 0" if zero else "more than 0"
        raise ConfigurationError(f"{what} is a number of seconds, {bound}, not {_show(value)}")


def _show(value: object) -> str:
    return show(value)
