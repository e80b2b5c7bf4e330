//go:build live

package live

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// filterBefore is an EnvoyFilter that puts an HTTP filter before those of the mirror's sidecar.
// The filter is YAML that begins on a line of its own.
func filterBefore(name, filter string) string {
	return `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: ` + name + `}
spec:
  workloadSelector: {labels: {app: mirror}}
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: INSERT_BEFORE
      value:` + filter + "\n"
}

// meshFilters is EnvoyFilter: what is supported takes effect, what is not is refused by name and harms nothing.
func meshFilters(t *testing.T, m *mesh) {
	t.Run("local rate limit", func(t *testing.T) {
		m.apply(t, filterBefore("limit", `
        name: envoy.filters.http.local_ratelimit
        typed_config:
          "@type": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          value:
            stat_prefix: http_local_rate_limiter
            token_bucket: {max_tokens: 4, tokens_per_fill: 4, fill_interval: 60s}
            filter_enabled: {runtime_key: local_rate_limit_enabled, default_value: {numerator: 100, denominator: HUNDRED}}
            filter_enforced: {runtime_key: local_rate_limit_enforced, default_value: {numerator: 100, denominator: HUNDRED}}
            response_headers_to_add: [{append_action: OVERWRITE_IF_EXISTS_OR_ADD, header: {key: x-local-rate-limit, value: "true"}}]`))
		got := m.client.want(t, get("http://mirror/"), code(429))
		if got.Headers.Get("X-Local-Rate-Limit") != "true" || !strings.Contains(string(got.Body), "local_rate_limited") {
			t.Errorf("the refusal is %s", got)
		}
		m.client.always(t, 3, get("http://mirror/"), code(429))
	})
	t.Run("a header by patching a route", func(t *testing.T) {
		m.apply(t, `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: patch}
spec:
  workloadSelector: {labels: {app: mirror}}
  configPatches:
  - applyTo: VIRTUAL_HOST
    match: {context: SIDECAR_INBOUND}
    patch: {operation: MERGE, value: {response_headers_to_add: [{header: {key: x-patched, value: "yes"}}]}}
`)
		m.client.want(t, get("http://mirror/"), code(200), header("x-patched", "yes"))
	})
	for name, tc := range map[string]struct{ filter, says string }{
		"Lua": {`
        name: envoy.filters.http.lua
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code: {inline_string: "function envoy_on_request(h) h:respond({[':status'] = '403'}, 'no') end"}`, "envoy.extensions.filters.http.lua.v3.Lua"},
		"Wasm": {`
        name: wasm
        typed_config:
          "@type": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
          value: {config: {name: x, vm_config: {runtime: envoy.wasm.runtime.v8}}}`, "envoy.extensions.filters.http.wasm.v3.Wasm"},
	} {
		t.Run(name+" is refused by name", func(t *testing.T) {
			proxy := m.mustPod(t, "mesh", "app=mirror")
			m.client.want(t, get("http://mirror/"), code(200))
			began := time.Now().Add(-time.Second)
			m.apply(t, filterBefore("strange", tc.filter))
			eventually(t, settle, func() error {
				if out := m.logs(t, proxy, "istio-proxy", began); !strings.Contains(out, tc.says) {
					return fmt.Errorf("the proxy does not name what it refuses:\n%.1500s", out)
				}
				return nil
			})
			m.client.always(t, 5, get("http://mirror/"), code(200)) // the last good listener serves
			// What does not touch that listener still takes effect.
			m.apply(t, strings.ReplaceAll(virtual(`
  - match: [{uri: {prefix: /after}}]
    directResponse: {status: 298}
  - route: [{destination: {host: mirror}}]
`), "app", "mirror"))
			m.client.want(t, get("http://mirror/after"), code(298))
			out := m.istioctl(t, "proxy-status", "-v", "1")
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, proxy.Name+".mesh") && !strings.Contains(line, "NACK") && !strings.Contains(line, "ERROR") && !strings.Contains(line, "STALE") {
					t.Errorf("proxy-status does not show the refusal: %s", line)
				}
			}
		})
	}
}
