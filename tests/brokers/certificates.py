"""A certificate authority for one test run, and a certificate of 127.0.0.1 and localhost."""

import ssl
from pathlib import Path

import attrs
import trustme

__all__ = ["Certificates"]


@attrs.frozen
class Certificates:
    """The files that a broker is given, and what its clients trust."""

    authority: Path
    """The authority's certificate: what a client has to trust."""
    chain: Path
    """The server's certificate."""
    key: Path
    """The server's private key."""

    @classmethod
    def issue(cls, folder: Path) -> "Certificates":
        """Make an authority and a server certificate as files in this folder."""
        made = cls(folder / "ca.pem", folder / "server.pem", folder / "server.key")
        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(str(made.authority))
        server.private_key_pem.write_to_path(str(made.key))
        for part in server.cert_chain_pems:
            part.write_to_path(str(made.chain), append=True)
        return made

    def context(self) -> ssl.SSLContext:
        """What a client needs to trust the server; without it, verification fails."""
        return ssl.create_default_context(cafile=str(self.authority))
