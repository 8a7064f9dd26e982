"""What an answer of the Kubernetes API that is no success means, as an error: a table by status. Pure.

Messages are our own words: the server's quote the request, and a body holds the secret.
"""

import re
from datetime import timedelta

from rotator.errors import (
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
    Throttled,
)
from rotator.sinks._kube_api import Answer, Request, Trouble

_LONGEST_WAIT = timedelta(minutes=10)
_RBAC = re.compile(r"cannot (get|patch|create) resource")

# Status to what it means: the request had no effect. Every other status below 500 is `_OTHER`.
REFUSALS: dict[int, tuple[type[RotatorError], str]] = {
    400: (Permanent, "the API takes it for malformed; does an admission webhook that does not support dry run apply?"),
    401: (CredentialRejected, "the credential is not accepted; renew the kubeconfig or the service account's token"),
    405: (Permanent, "the API does not allow it; does the address lead to a kube-apiserver?"),
    409: (Temporary, "somebody else keeps changing it; it is tried again"),
    413: (Permanent, "it would be too large; a Secret holds one mebibyte at most"),
    415: (Permanent, "the API does not know merge patches; does the address lead to a kube-apiserver?"),
    422: (Permanent, "the API finds it invalid; see that its type, labels and keys fit together, and that it is small"),
}
_OTHER: tuple[type[RotatorError], str] = (Permanent, "the API refuses it; does the address lead to a kube-apiserver?")


def failure(where: str, request: Request, answer: Answer) -> RotatorError:
    """Return the error for an answer that is no success.

    Args:
        where: The place, or the workload at it: what the message is about.
    """
    if answer.trouble:
        return _unanswered(where, request, answer)
    if 200 <= answer.status < 300:
        said = f"{where}: what answered ({answer.status}) is not the Kubernetes API"
        return OutcomeUnknown(f"{said}, so perhaps it was written") if request.changes else Permanent(said)
    if 300 <= answer.status < 400:
        return Permanent(f"{where}: the API sends elsewhere ({answer.status}), which is not followed; fix its address")
    if answer.status == 429:
        return Throttled(f"{where}: too many requests to the Kubernetes API (429)", _wait(answer))
    if answer.status >= 500 or answer.status == 408:
        return _broken(where, request, answer)
    if answer.status == 403:
        return Forbidden(f"{where}: {_denied(request, answer)} (403)")
    if answer.status == 404:
        return _missing(where, request, answer)
    kind, words = REFUSALS.get(answer.status, _OTHER)
    return kind(f"{where}: {words} ({answer.status})")


def _unanswered(where: str, request: Request, answer: Answer) -> RotatorError:
    if answer.trouble is Trouble.UNTRUSTED:
        said = f"{where}: the certificate of the Kubernetes API is not trusted; fix the CA, or set ca_bundle"
        return Permanent(f"{said} ({answer.distrust})")
    if answer.trouble is Trouble.UNREACHABLE:
        return Temporary(f"{where}: the Kubernetes API cannot be reached")
    if request.changes:
        return OutcomeUnknown(f"{where}: the Kubernetes API did not answer, so perhaps it was written")
    return Temporary(f"{where}: the Kubernetes API did not answer")


def _broken(where: str, request: Request, answer: Answer) -> RotatorError:
    said = f"{where}: the Kubernetes API failed ({answer.status})"
    if request.changes:
        return OutcomeUnknown(f"{said}, so perhaps it was written")
    return Temporary(said, _wait(answer))


def _wait(answer: Answer) -> timedelta | None:
    """Return what Retry-After asks for, bounded; the API always says it in seconds."""
    text = answer.retry_after.strip()
    if not (text.isascii() and text.isdigit()):
        return None
    return min(timedelta(seconds=min(int(text), 86400)), _LONGEST_WAIT)


def _denied(request: Request, answer: Answer) -> str:
    """Return what forbids it, and the fix; the server's sentence only tells which of them it is."""
    if not answer.is_status:
        return "something before the Kubernetes API refuses it; see the address and the proxy"
    sentence = str(answer.content.get("message") or "")
    if "exceeded quota" in sentence:
        return "a ResourceQuota of the namespace leaves no room for it; raise the quota"
    if "is being terminated" in sentence:
        return "the namespace is being deleted; send the secret elsewhere"
    if not _RBAC.search(sentence):
        return "an admission policy of the cluster refuses it; ask those who run the cluster, or change the delivery"
    return f"not allowed; grant it: {rule(request)}"


def rule(request: Request) -> str:
    """Return the rule of a Role that allows a request."""
    group = request.parts[1] if request.parts[0] == "apis" else ""
    namespace, resource, *names = request.parts[request.parts.index("namespaces") + 1 :]
    verb = {"GET": "get", "PATCH": "patch", "POST": "create"}[request.method]
    named = f', resourceNames: ["{names[0]}"]' if names else ""
    return f'Role in {namespace}, rule {{apiGroups: ["{group}"], resources: ["{resource}"]{named}, verbs: ["{verb}"]}}'


def _missing(where: str, request: Request, answer: Answer) -> RotatorError:
    if answer.about[0] == "namespaces":
        namespace = request.parts[request.parts.index("namespaces") + 1]
        return NotFound(f"{where}: there is no namespace {namespace}; create it, or fix the delivery (404)")
    return Permanent(f"{where}: what answered (404) is not the Kubernetes API; see that the address is right")
