"""Addresses of servers: whether others can hear what is sent there. Knows text only."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from prorank.util.errors import InputError


def is_loopback(base_url: str) -> bool:
    """Whether an address is on this machine, so that nobody else hears what is sent there.

    Raises:
        InputError: not an http or https address.

    >>> is_loopback("http://localhost:8000/v1"), is_loopback("http://localhost@example.org/v1")
    (True, False)
    """
    try:
        parts = urlsplit(base_url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise InputError(f"'{base_url}' is no address", hint="write it as http://localhost:8000/v1 or https://...")
    return loopback_host(host)


def loopback_host(host: str) -> bool:
    """Whether a host's name or number is this machine's alone.

    >>> loopback_host("127.0.0.1"), loopback_host("::1"), loopback_host("localhost"), loopback_host("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
