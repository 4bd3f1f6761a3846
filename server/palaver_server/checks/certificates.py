"""The validity of certificates."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from palaver_server.checks.outcomes import Outcome, Status

WARNING_TIME = timedelta(days=14)
"""The time before the end of a certificate in which it is a warning. Those of Let's Encrypt are renewed 30 days before
it, so something is wrong by then, and there is time to mend it."""


def certificate_outcome(pem: bytes) -> Outcome:
    """Returns whether a chain is valid now and for some time. A chain is valid as long as all of it is."""
    chain, now = x509.load_pem_x509_certificates(pem), datetime.now(timezone.utc)
    begin = max(certificate.not_valid_before_utc for certificate in chain)
    end = min(certificate.not_valid_after_utc for certificate in chain)
    if end <= now:
        return Outcome(Status.FAILED, f"it expired on {end:%Y-%m-%d}")
    if begin > now:
        return Outcome(Status.FAILED, f"it is not valid before {begin:%Y-%m-%d}")
    if end - now <= WARNING_TIME:
        return Outcome(Status.WARNING, f"it expires on {end:%Y-%m-%d}")
    return Outcome(Status.OK, f"valid until {end:%Y-%m-%d}")


def authorities_outcome(pem: bytes) -> Outcome:
    """Returns whether authorities are valid. A file may keep old ones beside their successors, so none is a failure."""
    outcomes = [
        certificate_outcome(authority.public_bytes(Encoding.PEM)) for authority in x509.load_pem_x509_certificates(pem)
    ]
    worst = [outcome for outcome in outcomes if outcome.status is not Status.OK]
    if len(worst) == len(outcomes) and all(outcome.status is Status.FAILED for outcome in worst):
        return worst[0]
    return Outcome.ok(f"{len(outcomes)} valid", *(f"one of {len(outcomes)}: {outcome.detail}" for outcome in worst))
