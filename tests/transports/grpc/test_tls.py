"""TLS at both ends, and certificates of callers."""

from pathlib import Path
from typing import Any

import pytest
import trustme

from understudy.actors.errors import ConnectionLost, DeclarationError
from understudy.supervisors.child import child
from understudy.transports.bridge import serve
from understudy.transports.client import connect

from ..serving import serving
from .orders import Notes, Orders, Query
from .peers import SHOP

URL = "grpc://127.0.0.1:0"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("127.0.0.1", "caller"):
        issued = authority.issue_cert(name)
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
    return {
        "ca": str(tmp_path / "ca.pem"),
        "cert": str(tmp_path / "127.0.0.1.pem"),
        "key": str(tmp_path / "127.0.0.1.key"),
        "caller": str(tmp_path / "caller.pem"),
        "caller_key": str(tmp_path / "caller.key"),
    }


async def test_a_service_is_called_over_tls(files: dict[str, str]) -> None:
    options: Any = {"tls_cert": files["cert"], "tls_key": files["key"], "proto": SHOP}
    async with serving(URL, child(Orders, Notes()), **options) as service:
        async with connect(service.url, proto=SHOP, tls_ca=files["ca"]) as client:
            assert (await client.send(Orders.find, Query(7))).order_id == 7
        with pytest.raises(ConnectionLost):
            async with connect(service.url, proto=SHOP):
                pass
        with pytest.raises(ConnectionLost):
            async with connect(service.url.replace("grpcs", "grpc"), proto=SHOP):
                pass

    assert service.url.startswith("grpcs://127.0.0.1:")


async def test_a_service_may_ask_its_callers_for_a_certificate(files: dict[str, str]) -> None:
    options: Any = {"tls_cert": files["cert"], "tls_key": files["key"], "proto": SHOP}
    caller: Any = {"tls_cert": files["caller"], "tls_key": files["caller_key"]}
    async with serving(URL, child(Orders, Notes()), tls_ca=files["ca"], **options) as service:
        async with connect(service.url, proto=SHOP, tls_ca=files["ca"], **caller) as client:
            assert (await client.send(Orders.find, Query(7))).order_id == 7
        with pytest.raises(ConnectionLost):
            async with connect(service.url, proto=SHOP, tls_ca=files["ca"]) as client:
                await client.send(Orders.find, Query(7), timeout=5)


def test_tls_that_cannot_work_is_refused(files: dict[str, str]) -> None:
    with pytest.raises(DeclarationError, match="a server needs tls_cert and tls_key for TLS"):
        serve("grpcs://127.0.0.1:0", proto=SHOP)
    with pytest.raises(DeclarationError, match=r"no\.pem: No such file or directory"):
        serve(URL, proto=SHOP, tls_cert="no.pem", tls_key=files["key"])
    with pytest.raises(DeclarationError, match=r"no\.pem: No such file or directory"):
        connect(URL, proto=SHOP, tls_ca="no.pem")
