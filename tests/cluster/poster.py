"""A launcher's side of the status protocol. The tokens are real: the API server mints them bound to a pod, as the
kubelet would project them."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any

from cluster.kubernetes_api import KubernetesApi

AUDIENCE = "modelyard.dev/status"


@dataclass
class Poster:
    """Posts to the status server of one operator."""

    api: KubernetesApi
    namespace: str
    port: int

    def token(self, pod: str, audience: str = AUDIENCE) -> str:
        uid = self.api.get("Pod", self.namespace, pod)["metadata"]["uid"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 600, "boundObjectRef": bound},
        }
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default/token"
        return str(self.api.request("POST", path, body)["status"]["token"])

    def post(self, name: str, token: str | None, body: Any) -> tuple[int, Any]:
        """(code, answer). The certificate is the pods' to check (the demo does): this only asks what is answered."""
        insecure = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        insecure.check_hostname = False
        insecure.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=insecure)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        path = f"/apis/modelyard.dev/v1alpha1/namespaces/{self.namespace}/modeltrainings/{name}/status"
        try:
            connection.request("POST", path, body if isinstance(body, str) else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text.startswith(b"{") else text
        finally:
            connection.close()
