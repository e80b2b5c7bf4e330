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
// and HTTP inspection, HTTP/1.1, HTTP/2, upgrades and CONNECT, routes by path, headers, query, claims and filter state,
// with weights, redirects, rewrites, header rules, direct responses, mirroring, timeouts and retries, gRPC-Web, TCP
// proxying and tunnelling, EDS, static, DNS, original-destination and dynamic-forward-proxy clusters with round robin,
// least request, random, ring hash and maglev balancing, slow start, priorities with failover and panic, locality
// weights, persistent sessions, circuit breakers, retry budgets, outlier detection, mutual TLS with SPIFFE identities
// in both directions, access rules for HTTP and TCP, fault injection, CORS, peer metadata, Istio's standard metrics
// with tags by CEL, access logs to files and collectors, trace contexts and spans by OTLP and to Zipkin, the admin
// port, JWT authentication with keys inline or fetched, external authorization by gRPC and HTTP, local and global rate
// limits, the PROXY protocol in both directions.
//
// Not supported, and refused: HBONE and ambient mode, HTTP/3, Wasm, Lua, external processing, subset load balancing,
// zone awareness (where the proxy discovers its own cluster), override_host balancing, active health checks, internal
// redirects, hedging, upgrades and CONNECT by the extended CONNECT of HTTP/2, TPROXY, extensions (TLVs) of the PROXY
// protocol, MongoDB, MySQL and Redis filters.
//
// Different from Envoy: all connections share one schedule where Envoy has one for each worker, a maglev table is built
// from hosts in the order of their addresses, "Expect: 100-continue" is answered here when the upstream takes the body,
// and a mirrored request is given up after five minutes where its route has no timeout, sizes in metrics are those of
// bodies, an access log service gets a stream for each batch, and scrapes leave out statistics that were never used,
// a request waits up to two seconds for the first endpoints of a cluster that has just arrived, and a handshake as long
// for its secret.
//
// Accepted without effect, because no traffic changes by it: statistics tags, prefixes, matchers and buckets,
// compression of the statistics port, buffer limits, socket balancing, the overload manager, runtime flags, workload
// discovery.
package dataplane
