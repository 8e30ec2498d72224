"""The closed sets of condition types and reasons. Each reason has a page in docs/reasons."""

from enum import StrEnum


class ConditionType(StrEnum):
    """Condition types of both kinds. ROUTED is present only where gateways are asked for, DEGRADED only while
    abnormal."""

    READY = "Ready"
    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    UP_TO_DATE = "UpToDate"
    VALIDATED = "Validated"
    ARTIFACTS_READY = "ArtifactsReady"
    ROUTED = "Routed"
    DEGRADED = "Degraded"


class Reason(StrEnum):
    """Why a condition holds its status, or what went wrong in a pod."""

    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    ROLLOUT_COMPLETE = "RolloutComplete"
    PAUSED = "Paused"
    SUPERSEDED = "Superseded"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    INSUFFICIENT_GPU = "InsufficientGPU"
    INSUFFICIENT_MEMORY_FOR_OVERLAP = "InsufficientMemoryForOverlap"
    QUOTA_EXCEEDED = "QuotaExceeded"
    ARTIFACT_UNAVAILABLE = "ArtifactUnavailable"
    ARTIFACT_DIGEST_MISMATCH = "ArtifactDigestMismatch"
    CONTRACT_MISMATCH = "ContractMismatch"
    LOAD_FAILED = "LoadFailed"
    WARMUP_FAILED = "WarmupFailed"
    SMOKE_TEST_FAILED = "SmokeTestFailed"
    ANALYSIS_FAILED = "AnalysisFailed"
    ANALYSIS_INCONCLUSIVE = "AnalysisInconclusive"
    ROLLED_BACK = "RolledBack"
    DRAIN_TIMEOUT = "DrainTimeout"
    RUNTIME_CRASH_LOOP = "RuntimeCrashLoop"
    RUNTIME_UNREACHABLE = "RuntimeUnreachable"
    INVALID_SPEC = "InvalidSpec"
    REFERENCE_NOT_FOUND = "ReferenceNotFound"
    SUSPENDED = "Suspended"
    SCALED_TO_ZERO = "ScaledToZero"
    ROUTE_ACCEPTED = "RouteAccepted"
    ROUTE_PENDING = "RoutePending"
    ROUTE_REJECTED = "RouteRejected"
    GATEWAY_API_UNAVAILABLE = "GatewayAPIUnavailable"
    RECONCILE_ERROR = "ReconcileError"
