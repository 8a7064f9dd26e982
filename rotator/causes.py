"""What led to an exception of a library, and why TLS trusted nobody. Pure."""

from rotator.text import visible

_MOST = 32


def causes(error: BaseException) -> list[BaseException]:
    """Return an exception and what led to it: as cause or context or, as SDKs and urllib3 have it, inside."""
    found: list[BaseException] = [error]
    for current in found:
        inside = (getattr(current, name, None) for name in ("__cause__", "__context__", "inner_exception", "reason"))
        for near in (*inside, *current.args):
            if isinstance(near, BaseException) and len(found) < _MOST and not any(near is known for known in found):
                found.append(near)
    return found


def unreached(error: BaseException) -> str:
    """Return why no connection came about, as the system says it; empty if it does not say."""
    for cause in causes(error):
        if type(cause).__name__ == "gaierror":
            return "its name cannot be resolved"
        if isinstance(cause, OSError) and cause.strerror:
            reason = getattr(cause, "reason", None)  # of an ssl.SSLError, whose text is about OpenSSL's insides
            return f"TLS: {visible(reason.lower().replace('_', ' '))}" if reason else visible(cause.strerror)
    return ""


def distrust(error: BaseException) -> str | None:
    """Return why a server's certificate was refused, as OpenSSL says it; None if that is not what happened.

    By the name of the class, for some libraries bring an `ssl` of their own. Under botocore urllib3 compares the names
    itself, and raises a class of its own, whose text quotes the certificate.
    """
    for cause in causes(error):
        if type(cause).__name__ == "SSLCertVerificationError":
            return visible(str(getattr(cause, "verify_message", "") or "no reason given"))
        if type(cause).__name__ == "CertificateError":
            return "hostname mismatch"
    return None
