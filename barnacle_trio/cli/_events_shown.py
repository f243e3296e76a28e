"""Events as lines for people, and as objects for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from barnacle_trio import (
    Draining,
    Event,
    Missed,
    NodeDown,
    NodeUp,
    Paused,
    Refreshed,
    RefreshFailed,
    RefreshResult,
    Restarted,
    Resumed,
    ShutDown,
)
from barnacle_trio.cli._edge import one_line


def as_fields(event: Event, now: datetime) -> dict[str, object]:
    """One object with ``type``, ``barnacle``, ``time`` (RFC 3339), ``at`` and the event's own.

    ``at`` is the node's clock in seconds: its zero means nothing, its differences are durations.
    """
    fields: dict[str, object] = {
        "type": type(event).__name__,
        "barnacle": event.barnacle,
        "time": now.isoformat(timespec="milliseconds"),
        "at": round(event.at, 6),
    }
    match event:
        case NodeUp():
            fields["node"] = event.node
        case NodeDown():
            fields.update(node=event.node, reason=event.reason)
        case Refreshed():
            fields.update(_result_fields(event.result))
        case RefreshFailed() | Restarted():
            fields["error"] = named(event.error)
        case Missed():
            fields.update(count=event.count, nodes=sorted(event.nodes))
    return fields


class Narrator:
    """Tells events as lines for people. Rounds that bring nothing new are passed over."""

    def __init__(self) -> None:
        self._told: list[str] = []

    def lines(self, event: Event) -> list[str]:
        """What to say of an event, without the time; maybe nothing."""
        match event:
            case NodeUp():
                return [f"up         {event.node}"]
            case NodeDown():
                return [f"down       {event.node}  {event.reason.replace('_', ' ')}"]
            case Refreshed():
                return self._news(_troubles(event.result))
            case RefreshFailed():
                return self._news([f"discovery  failed: {named(event.error)}"])
            case Restarted():
                return [f"restarted  after a crash: {named(event.error)}"]
            case Missed():
                nodes = ", ".join(sorted(event.nodes)) or "none"
                return [f"missed     {event.count} events; up now: {nodes}"]
            case Paused():
                return ["paused"]
            case Resumed():
                return ["resumed"]
            case Draining():
                return ["leaving"]
            case ShutDown():
                return ["left"]
        return [type(event).__name__]

    def _news(self, troubles: list[str]) -> list[str]:
        """The troubles that the round before did not have, and that all of its are over."""
        news = [each for each in troubles if each not in self._told]
        if self._told and not troubles:
            news.append("clear      nothing is in the way any more")
        self._told = troubles
        return news


def named(error: BaseException) -> str:
    """An error on one line, with its kind where the text alone does not say what happened."""
    text = one_line(str(error))
    return text if text and " " in text else f"{type(error).__name__}: {text}".rstrip(": ")


def _troubles(result: RefreshResult) -> list[str]:
    troubles = [
        f"no way     {one_line(str(name))}  {named(error)}"
        for name, error in sorted(result.failed.items())
    ]
    if result.discovery_error is not None:
        troubles.append(f"discovery  partial: {named(result.discovery_error)}")
    return troubles


def _result_fields(result: RefreshResult) -> Mapping[str, object]:
    return {
        "nodes": sorted(result.nodes),
        "connected": sorted(result.connected),
        "disconnected": sorted(result.disconnected),
        "failed": {str(name): named(error) for name, error in sorted(result.failed.items())},
        "discovery_error": _text_or_none(result.discovery_error),
    }


def _text_or_none(error: BaseException | None) -> str | None:
    return None if error is None else named(error)


def stamped(lines: Iterable[str], now: datetime) -> Iterable[str]:
    """The lines with the time of day before each."""
    return (f"{clock(now)}  {line}" for line in lines)


def clock(now: datetime) -> str:
    """The time of day, to the millisecond."""
    return now.strftime("%H:%M:%S.") + f"{now.microsecond // 1000:03d}"
