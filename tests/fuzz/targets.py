"""The harnesses by name. What they fuzz is imported here, once `atheris` has its hooks in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz import epmd, frames, gossip, handshake, kubernetes, names, terms


@dataclass(frozen=True)
class Target:
    """``one_input`` raises on a fault of ours alone; ``seeds`` gives inputs that are right."""

    one_input: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


TARGETS: dict[str, Target] = {
    "etf": Target(terms.whole, terms.whole_seeds),
    "etf_bounded": Target(terms.bounded, terms.bounded_seeds),
    "etf_bare": Target(terms.bare, terms.bare_seeds),
    "etf_compressed": Target(terms.compressed, terms.compressed_seeds),
    "frames": Target(frames.stream, frames.stream_seeds),
    "control": Target(frames.message, frames.message_seeds),
    "fragments": Target(frames.pieces, frames.piece_seeds),
    "acceptor": Target(handshake.acceptor, handshake.acceptor_seeds),
    "initiator": Target(handshake.initiator, handshake.initiator_seeds),
    "epmd_server": Target(epmd.server, epmd.server_seeds),
    "epmd_client": Target(epmd.client, epmd.client_seeds),
    "gossip": Target(gossip.one_input, gossip.seeds),
    "dns": Target(names.dns_answer, names.dns_seeds),
    "addresses": Target(names.addresses, names.address_seeds),
    "hosts_file": Target(names.hosts_file, names.hosts_seeds),
    "flags": Target(names.flags, names.flag_seeds),
    "erl_flags": Target(names.erl_flags, names.erl_flag_seeds),
    "erlang_terms": Target(names.erlang_terms, names.erlang_term_seeds),
    "memory_file": Target(names.memory_file, names.memory_seeds),
    "postgres": Target(names.postgres_payload, names.payload_seeds),
    "kube_objects": Target(kubernetes.objects, kubernetes.object_seeds),
    "kube_page": Target(kubernetes.page, kubernetes.page_seeds),
    "kube_watch": Target(kubernetes.watch, kubernetes.watch_seeds),
}

PARSERS: dict[str, tuple[str, ...]] = {
    "terms": ("etf", "etf_bounded", "etf_bare", "etf_compressed"),
    "frames and control messages": ("frames", "control", "fragments"),
    "handshake, accepting": ("acceptor",),
    "handshake, dialling": ("initiator",),
    "port mapper, serving": ("epmd_server",),
    "port mapper, asking": ("epmd_client",),
    "gossip": ("gossip",),
    "DNS": ("dns", "addresses"),
    "files of hosts": ("hosts_file",),
    "flags": ("flags", "erl_flags"),
    "all else": (
        "erlang_terms",
        "memory_file",
        "postgres",
        "kube_objects",
        "kube_page",
        "kube_watch",
    ),
}
"""What others might write, and the targets that share its time in CI."""
