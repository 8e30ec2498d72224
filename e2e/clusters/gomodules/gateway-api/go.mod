// Names the Gateway API whose definitions tests install: read from the module, never built.
module podium.local/e2e/gateway-api

go 1.25.0

require sigs.k8s.io/gateway-api v1.5.1
