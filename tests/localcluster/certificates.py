"""The cluster's certificate authority and the certificates of its parts, by the openssl command (version 3).

Elliptic curve keys: a pair takes milliseconds, where RSA takes a good part of a second on a busy machine.
"""

import base64
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from localcluster.layout import CONTEXT, LocalClusterError

DAYS = "3650"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")


@dataclass(frozen=True)
class Identity:
    """Who a certificate says its holder is: user (CN), group (O), and for servers the names they answer to."""

    name: str
    user: str
    group: str = ""
    names: tuple[str, ...] = ()


def identities(address: str, service_api_ip: str, node: str) -> tuple[Identity, ...]:
    """Every part of the cluster that has a certificate."""
    kubernetes = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    api_names = (*(f"DNS:{name}" for name in (*kubernetes, "localhost")),)
    return (
        Identity("apiserver", "kube-apiserver", names=(*api_names, *_ips("127.0.0.1", service_api_ip, address))),
        Identity("kubelet", f"system:node:{node}", "system:nodes", (f"DNS:{node}", *_ips("127.0.0.1", address))),
        Identity("admin", "modelyard-admin", "system:masters"),
        Identity("controllers", "system:kube-controller-manager"),
        Identity("scheduler", "system:kube-scheduler"),
        Identity("proxy", "system:kube-proxy"),
        Identity("dns", "modelyard-local:dns"),
        # users of their own, so that the audit log tells their requests from those of an operator under test
        Identity("cluster", "modelyard-local:setup", "system:masters"),
        Identity("volumes", "modelyard-local:volumes", "system:masters"),
        Identity("kwok", "modelyard-local:kwok", "system:masters"),
    )


def _ips(*addresses: str) -> tuple[str, ...]:
    return tuple(f"IP:{address}" for address in addresses)


def authority_config() -> str:
    """openssl configuration of the authority itself."""
    return _config(
        {"CN": "modelyard-local"}, ["basicConstraints = critical,CA:TRUE", "keyUsage = critical,keyCertSign"]
    )


def request_config(identity: Identity) -> str:
    """openssl configuration of one part's certificate."""
    subject = {"O": identity.group, "CN": identity.user} if identity.group else {"CN": identity.user}
    extensions = [
        "basicConstraints = critical,CA:FALSE",
        "keyUsage = critical,digitalSignature",
        "extendedKeyUsage = serverAuth,clientAuth",
        "authorityKeyIdentifier = keyid",
    ]
    if identity.names:
        extensions.append(f"subjectAltName = {','.join(identity.names)}")
    return _config(subject, extensions)


def _config(subject: dict[str, str], extensions: list[str]) -> str:
    lines = ["[req]", "prompt = no", "distinguished_name = subject", "x509_extensions = extensions", "[subject]"]
    lines += [f"{key} = {value}" for key, value in subject.items()]
    return "\n".join([*lines, "[extensions]", "subjectKeyIdentifier = hash", *extensions, ""])


def issue(pki: Path, wanted: tuple[Identity, ...]) -> None:
    """Make what is missing below `pki`: ca, sa (service account tokens) and one pair per identity."""
    authority = pki / "ca.crt"
    if not authority.exists():
        _openssl(pki, "ca", authority_config(), ())
    if not (pki / "sa.pub").exists():
        key = str(pki / "sa.key")
        _run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], "")
        _run(["openssl", "pkey", "-in", key, "-pubout", "-out", str(pki / "sa.pub")], "")
    for identity in wanted:
        if not (pki / f"{identity.name}.crt").exists():
            signer = ("-CA", str(authority), "-CAkey", str(pki / "ca.key"))
            _openssl(pki, identity.name, request_config(identity), signer)


def _openssl(pki: Path, name: str, config: str, signer: tuple[str, ...]) -> None:
    unfinished = pki / f".{name}.unfinished"
    output = ("-keyout", str(pki / f"{name}.key"), "-out", str(unfinished))
    _run(["openssl", "req", "-x509", *NEW_KEY, "-days", DAYS, *signer, *output, "-config", "/dev/stdin"], config)
    (pki / f"{name}.key").chmod(0o600)
    unfinished.rename(pki / f"{name}.crt")  # the certificate's name appears last: with it the pair is complete


def _run(command: list[str], given: str) -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise LocalClusterError(
            f"{' '.join(command[:3])}… failed (openssl 3 or newer is needed): {done.stderr.strip()[-400:]}"
        )


def kubeconfig(server: str, authority: bytes, certificate: bytes, key: bytes) -> str:
    """A kubeconfig (JSON is YAML) with everything embedded and one context named modelyard-local."""
    credentials = {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": CONTEXT, "cluster": {"server": server, "certificate-authority-data": _base64(authority)}}
            ],
            "users": [{"name": CONTEXT, "user": credentials}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
            "current-context": CONTEXT,
        },
        indent=1,
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
