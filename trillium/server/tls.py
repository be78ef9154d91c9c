"""The certificate that a server shows, read again when its files are others."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from trillium.server.config import ServerConfig
from trillium.server.process import StartFailed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate with its chain, and its key, in PEM."""

    certificate: bytes
    key: bytes


class Certificate:
    """A certificate in files, which may be replaced while the server runs."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises StartFailed if they cannot be used."""
        self.certificate, self.key = certificate, key
        self._read_as = self._facts()
        try:
            self.shown = self._read()
        except (OSError, ssl.SSLError) as error:
            text = f"the certificate {certificate} with the key {key} cannot be used"
            raise StartFailed(f"{text}: {_reason(error)}") from error

    def renewed(self) -> bool:
        """Whether `shown` is another one than at the last call. Files that cannot be used, such as
        one of two that is still to be written, leave it as it is."""
        facts = self._facts()
        if facts == self._read_as:
            return False
        self._read_as = facts
        try:
            self.shown = self._read()
        except (OSError, ssl.SSLError) as error:
            facts_of_log = {"at": str(self.certificate), "detail": _reason(error)}
            log.warning("the new certificate cannot be used yet", extra=facts_of_log)
            return False
        log.info("certificate renewed", extra={"at": str(self.certificate)})
        return True

    def _facts(self) -> tuple[tuple[int, int, int], ...]:
        try:
            found = [path.stat() for path in (self.certificate, self.key)]
        except OSError:
            return ()
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)

    def _read(self) -> Shown:
        """Raises OSError, and SSLError for files that are no certificate and its key."""
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
        return Shown(self.certificate.read_bytes(), self.key.read_bytes())


def certificate_of(config: ServerConfig) -> Certificate | None:
    """The certificate that the settings name; None for plaintext. Raises StartFailed."""
    if config.tls_cert is None and config.tls_key is None:
        return None
    if config.tls_cert is None or config.tls_key is None:
        raise StartFailed("--tls-cert and --tls-key go together; give both, or none")
    return Certificate(config.tls_cert, config.tls_key)


def _reason(error: OSError | ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{error.reason or error}"
    return error.strerror or str(error)
