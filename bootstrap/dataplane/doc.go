// Package dataplane is the built-in data plane: a proxy that istio's pilot-agent starts under the name envoy. It takes
// the bootstrap file that pilot-agent writes, istiod's real xDS, and secrets by SDS, and does what that configuration
// says, within the limits below.
//
// What it knows: how the parts beneath fit together, the command line, the order of initialisation (clusters, their
// endpoints, listeners, their routes and secrets), and when the proxy is ready. It does not know protocols: packages
// xds, cluster, listener, hcm, tcpproxy, tlsctx, netfilter and admin do. The table in package registry names every
// extension type with its status; whatever is neither supported nor listed as ignored is refused: the resource is
// NACKed with the name of the field or type, and the last good version stays in force.
//
// Supported: original destination and hand-off to per-service listeners, filter chain matching in Envoy's order, TLS
// and HTTP inspection, HTTP/1.1, HTTP/2 and upgrades, routes with weights, redirects, rewrites, header rules, direct
// responses, timeouts and retries, TCP proxying, EDS, static, DNS and original-destination clusters with round robin,
// least request and random balancing over priorities, mutual TLS with SPIFFE identities in both directions, access
// rules for HTTP and TCP, access logs, fault injection, CORS, peer metadata, Istio's standard metrics, the admin port.
//
// Not supported, and refused: HBONE and ambient mode, HTTP/3, Wasm, Lua, external processing and authorization, JWT,
// ring hash and maglev, subset load balancing, outlier detection, active health checks, request mirroring, hedging,
// CONNECT, TPROXY, the PROXY protocol, rate limits, MongoDB, MySQL and Redis filters.
//
// Different from Envoy: there is no panic mode (unhealthy endpoints never get traffic), weighted least request looks at
// two random hosts of the weighted schedule, a request that waits for a connection under a circuit breaker does so only
// over HTTP/1.1, network RBAC decides when the connection opens and not at its first byte, TCP metrics appear when a
// connection ends, counters cannot be reset, the log level is fixed at the start, and DNS TTLs are not looked at.
//
// Accepted without effect, because no traffic changes by it: statistics tags, prefixes and matchers, tracing (no spans
// are reported; trace headers pass through), gRPC statistics, compression of the statistics port, buffer limits, socket
// balancing, the overload manager, runtime flags, workload discovery.
package dataplane
