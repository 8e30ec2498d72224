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
ANNOTATION_DESIRED_HASH = f"{GROUP}/desired-hash"
ANNOTATION_TEMPLATE_VERSION = f"{GROUP}/template-version"

DATA_PORT = 8080
ADMIN_PORT = 8081

ASSIGNMENT_DIR = "/etc/podium/assignment"
ASSIGNMENT_FILE = "assignment.json"
ADMIN_KEY_DIR = "/etc/podium/admin-key"
"""Secret mount: files `current` and, after a rotation, `previous`."""
CREDENTIALS_DIR = "/etc/podium/credentials"
STATE_DIR = "/var/lib/podium"
"""emptyDir: accepted assignments and the artifact cache."""

HEADER_REVISION = "podium-revision"
"""Response header: the revision that answered."""
HEADER_REQUEST_ID = "x-request-id"
