"""TLS at both ends of a direct connection: from options to a context, or a reason why not.

A scheme says whether there is TLS at all, so that nobody serves or calls in the clear by
leaving an option out. Source: Python's `ssl`, whose defaults for either purpose are used.
"""

import ssl

from ...actors.errors import DeclarationError
from .options import DirectClientOptions, DirectOptions

__all__ = ["client_tls", "server_tls"]


def server_tls(
    options: DirectOptions, where: str, schemes: tuple[str, str], *, wanted: bool, ca: str = ""
) -> ssl.SSLContext | None:
    """The context of a bridge; None without TLS. With `ca` peers must show a certificate.

    `schemes` are those without and with TLS. Raises `DeclarationError` for files that
    cannot be read, for TLS without a certificate, and for a certificate without TLS.
    """
    plain, secure = schemes
    if bool(options.tls is not None or options.tls_cert) != wanted:
        raise DeclarationError(
            f"{where}: {secure}:// needs a certificate: "
            "tls_cert='server.pem', tls_key='server.key'."
            if wanted
            else f"{where}: a certificate is for {secure}://, not for {plain}://."
        )
    if ca and not (wanted and options.tls is None):
        raise DeclarationError(
            f"{where}: tls_ca is for {secure}:// with tls_cert; a tls context has its own."
        )
    if options.tls is not None or not wanted:
        return options.tls
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca or None)
        context.load_cert_chain(options.tls_cert, options.tls_key or None)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(where, "tls_cert, tls_key and tls_ca name files", error) from error
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(
    options: DirectClientOptions,
    where: str,
    schemes: tuple[str, str],
    *,
    wanted: bool,
    cert: str = "",
    key: str = "",
) -> ssl.SSLContext | None:
    """The context of a client; None without TLS. `cert` is shown to services that ask.

    Raises `DeclarationError` for files that cannot be read, and for trust without TLS.
    """
    plain, secure = schemes
    if not wanted:
        if options.tls is not None or options.tls_ca or cert:
            raise DeclarationError(
                f"{where}: tls and tls_ca are for {secure}://, not for {plain}://."
            )
        return None
    if options.tls is not None:
        if options.tls_ca or cert:
            raise DeclarationError(f"{where}: a tls context has its own tls_ca and tls_cert.")
        return options.tls
    try:
        context = ssl.create_default_context(cafile=options.tls_ca or None)
        if cert:
            context.load_cert_chain(cert, key or None)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(where, "tls_ca, tls_cert and tls_key name files", error) from error
    return context


def _unusable(where: str, what: str, error: OSError) -> DeclarationError:
    reason = error.strerror or str(error)
    return DeclarationError(f"{where}: TLS cannot be set up: {reason}. {what} in PEM.")
