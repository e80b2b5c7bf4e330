package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// limitAll is the local rate limit of Istio's documentation: every request of a workload.
const limitAll = `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: limit, namespace: ns}
spec:
  workloadSelector: {labels: {app: server}}
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          "@type": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          value:
            stat_prefix: http_local_rate_limiter
            token_bucket: {max_tokens: 4, tokens_per_fill: 4, fill_interval: 600s}
            filter_enabled: {runtime_key: local_rate_limit_enabled, default_value: {numerator: 100, denominator: HUNDRED}}
            filter_enforced: {runtime_key: local_rate_limit_enforced, default_value: {numerator: 100, denominator: HUNDRED}}
            response_headers_to_add:
            - {append: false, header: {key: x-local-rate-limit, value: 'true'}}
`

// limitPath is its second example: one path by descriptors that the virtual host makes.
const limitPath = `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: limit, namespace: ns}
spec:
  workloadSelector: {labels: {app: server}}
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          stat_prefix: http_local_rate_limiter
  - applyTo: VIRTUAL_HOST
    match:
      context: SIDECAR_INBOUND
      routeConfiguration: {vhost: {name: "inbound|http|8000", route: {action: ANY}}}
    patch:
      operation: MERGE
      value:
        rate_limits:
        - actions:
          - header_value_match:
              descriptor_key: path
              descriptor_value: limited
              headers: [{name: ":path", string_match: {prefix: "/limited", ignore_case: true}}]
          - request_headers: {header_name: x-user, descriptor_key: user}
        typed_per_filter_config:
          envoy.filters.http.local_ratelimit:
            "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
            stat_prefix: per_host
            token_bucket: {max_tokens: 1000, tokens_per_fill: 1000, fill_interval: 60s}
            filter_enabled: {default_value: {numerator: 100}}
            filter_enforced: {default_value: {numerator: 100}}
            enable_x_ratelimit_headers: DRAFT_VERSION_03
            descriptors:
            - entries: [{key: path, value: limited}, {key: user, value: alice}]
              token_bucket: {max_tokens: 2, tokens_per_fill: 2, fill_interval: 600s}
`

// limitTCP limits new connections.
const limitTCP = `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: limit, namespace: ns}
spec:
  workloadSelector: {labels: {app: server}}
  configPatches:
  - applyTo: NETWORK_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {destinationPort: 9000, filter: {name: envoy.filters.network.tcp_proxy}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.network.local_ratelimit
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit
          stat_prefix: connections
          token_bucket: {max_tokens: 3, fill_interval: 600s}
`

func TestLocalRateLimit(t *testing.T) {
	w, client, server, _ := pair(t, "")
	undo := w.apply(limitAll)
	eventually(t, client, "over the limit", answers(client, request("/"), 429, "local_rate_limited"))
	o := client.send(request("/"))
	if o.Header.Get("X-Local-Rate-Limit") != "true" || o.Header.Get("X-Envoy-Ratelimited") != "true" {
		t.Errorf("refused: %+v", o)
	}
	stats, err := server.admin("stats?filter=http_local_rate_limit&usedonly")
	must(t, err)
	if !strings.Contains(stats, "http_local_rate_limiter.http_local_rate_limit.rate_limited: ") || !strings.Contains(stats, ".ok: 4\n") {
		t.Errorf("stats:\n%s", stats)
	}
	undo()
	eventually(t, client, "without the limit", answers(client, request("/"), 200, ""))

	undo = w.apply(limitPath)
	as := func(path, user string) order {
		o := request(path)
		o.Header["x-user"] = user
		return o
	}
	eventually(t, client, "one user on one path", answers(client, as("/limited", "alice"), 429, "local_rate_limited"))
	for _, o := range []order{as("/limited", "bob"), as("/free", "alice"), request("/limited")} {
		for range 4 {
			if got := client.send(o); got.Status != 200 || got.Header.Get("X-Ratelimit-Limit") != "1000" {
				t.Errorf("%v: %+v", o, got)
			}
		}
	}
	undo()
	eventually(t, client, "without the limit", answers(client, as("/limited", "alice"), 200, ""))

	w.apply(limitTCP)
	echo := order{Kind: "tcp", URL: "10.96.0.2:9000", Body: "x", Half: true}
	eventually(t, client, "connections over the limit", func() error {
		if o := client.send(echo); o.Body != "" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	if o := client.send(order{Kind: "tcp", URL: "10.96.0.2:9001"}); o.Body != "welcome\n" {
		t.Errorf("another port: %+v", o)
	}
	noNacks(t, client, server)
}
