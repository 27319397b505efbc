"""Where commands find their server: the one that is configured, else this user's own, started if need be."""

from __future__ import annotations

import os

from dstack.cli.errors import UserError
from dstack.client.api import Api
from dstack.client.profiles import choose
from dstack.client.wire import SocketTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dstack.client.profiles import Target
    from dstack.client.wire import Transport
    from dstack.embedded import Connector

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_DEPLOYED_PATIENCE = 30.0


class Session:
    """The server of one command. `home` is the folder of this machine's own state in any case."""

    def __init__(self) -> None:
        from dstack.embedded import Connector, home_folder

        self.home = home_folder()
        self.target = choose(self.home)
        self.address = self.target.address
        self.connector: Connector | None = None if self.address else Connector(self.home)
        connect = self.connector.connect if self.connector else connect_to(self.target)
        patience = _DEPLOYED_PATIENCE if self.address else 10.0
        self.user = os.environ.get("USER") or _user_name()
        self.api = Api(connect, project=self.target.project, user=self.user, patience=patience)

    def begin(self) -> None:
        """Start looking for the server, and starting it, while the caller does something else."""
        if self.connector:
            self.connector.begin()

    def accept_newer_server(self) -> None:
        """From now on a newer server that took over is good enough."""
        if self.connector:
            self.connector.accept_newer = True


def open_api() -> Api:
    return Session().api


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())  # containers often run as a number without a name


def connect_to(target: Target) -> Callable[[], Transport]:
    """What makes a connection to a server that is not this home's own. Raises UserError for what is no address."""
    address = target.address
    headers = {"authorization": f"Bearer {target.token}"} if target.token else {}
    scheme, separator, rest = address.partition("://")
    if address.startswith("unix:"):
        path = address[5:].removeprefix("//")
        return lambda: SocketTransport(path, headers=headers)
    if not separator or scheme not in ("http", "https") or not rest.strip("/"):
        raise UserError(
            f"`{address}` of {target.origin} is not an address",
            "write https://HOST, http://HOST:PORT or unix:/path/to/socket",
        )
    host, _, port = rest.rstrip("/").rpartition(":")
    if scheme == "http" and host in _LOOPBACK and port.isdigit():
        return lambda: SocketTransport((host.strip("[]"), int(port)), headers=headers)

    def connect() -> Transport:
        # TLS, proxies and name look-ups are httpx's; it is loaded only for servers that are elsewhere.
        from dstack.client.remote import RemoteTransport

        return RemoteTransport(address, headers=headers, verify=target.verify)

    return connect
