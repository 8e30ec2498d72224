"""Names that more than one part of Podium must agree on."""

from typing import Literal

GROUP = "podium.dev"
VERSION = "v1alpha1"
API_VERSION: Literal["podium.dev/v1alpha1"] = "podium.dev/v1alpha1"
FIELD_MANAGER = "podium.dev/operator"

LABEL_MODEL = f"{GROUP}/model"
LABEL_PIPELINE = f"{GROUP}/pipeline"
LABEL_POOL = f"{GROUP}/pool"
LABEL_REVISION = f"{GROUP}/revision"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "podium-operator"
"""On every child, pods included: the operator lists and watches children by this label alone. An EndpointSlice gets it
from its Service."""
ANNOTATION_DESIRED_HASH = f"{GROUP}/desired-hash"
ANNOTATION_TEMPLATE_VERSION = f"{GROUP}/template-version"

DATA_PORT = 8080
ADMIN_PORT = 8081
GRPC_PORT = 8082
"""Of the pod and of its Service, where `exposure.grpc` asks for it."""

ADMIN_ASSIGNMENT_PATH = "/admin/v1/assignment"
"""Admin port: PUT an Assignment as JSON that names the pod's UID. 2xx: accepted and durable in the pod; 401: wrong
token; 409: another pod's UID or a lower generation; 422: cannot be taken. Errors are `{"error": "…"}`."""
ADMIN_REPORT_PATH = "/admin/v1/report"
"""Admin port: GET the Report as JSON."""
ADMIN_PAGE_PATH = "/admin/v1/live"
"""Admin port: GET the live page, as HTML, or as `{"html": "…"}` where JSON is asked for."""
ADMIN_FIGURES_PATH = "/admin/v1/live/figures"
"""Admin port: GET the figures of that page as JSON."""

ASSIGNMENT_DIR = "/etc/podium/assignment"
ASSIGNMENT_FILE = "assignment.json"
ADMIN_KEY_DIR = "/etc/podium/admin-key"
"""Secret mount: files `current` and, after a rotation, `previous`."""
API_KEYS_DIR = "/etc/podium/api-keys"
"""Secret mount: a file for each API key, its name the key's."""
CREDENTIALS_DIR = "/etc/podium/credentials"
STATE_DIR = "/var/lib/podium"
"""emptyDir: accepted assignments and the artifact cache."""

HEADER_REVISION = "podium-revision"
"""Response header: the revision that answered."""
HEADER_REQUEST_ID = "x-request-id"
HEADER_ADMIN_TOKEN = "podium-admin-token"  # noqa: S105 - a name
"""Request header of the admin port in place of Authorization, which the API server's proxy keeps to itself."""
