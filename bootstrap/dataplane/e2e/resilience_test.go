package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestCircuitBreakers(t *testing.T) {
	w, client := backends(t, nil)
	w.apply(rule("    loadBalancer: {simple: ROUND_ROBIN}\n    connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}"))
	at := func(o order, n int) []outcome {
		out := make([]outcome, n)
		var wg sync.WaitGroup
		for i := range out {
			wg.Go(func() { out[i], _ = client.order(o) })
		}
		wg.Wait()
		return out
	}
	eventually(t, client, "too many at once", func() error {
		ok, over := 0, 0
		for _, o := range at(toBackend("/slow"), 12) {
			switch {
			case o.Status == 200:
				ok++
			case o.Status == 503 && o.Header.Get("X-Envoy-Overloaded") == "true" && strings.Contains(o.Body, "reset reason: overflow"):
				over++
			default:
				return fmt.Errorf("got %+v", o)
			}
		}
		// One for each host, one that waits; at the very first some more may find a pool without a connection.
		if ok < 3 || over < 4 {
			return fmt.Errorf("%d answered, %d refused", ok, over)
		}
		return nil
	})
	s, err := client.admin("stats?filter=be.ns.*(pending_overflow|cx_open)")
	must(t, err)
	if !strings.Contains(s, "upstream_rq_pending_overflow") || !strings.Contains(s, "circuit_breakers.default.cx_open: ") {
		t.Errorf("statistics:\n%s", s)
	}
	log, err := client.admin("clusters")
	must(t, err)
	if !strings.Contains(log, "default_priority::max_connections::1\n") {
		t.Error("/clusters does not show the limit")
	}
	w.apply(rule("    connectionPool: {http: {http2MaxRequests: 2}}"))
	eventually(t, client, "too many requests", func() error {
		ok := 0
		for _, o := range at(toBackend("/slow"), 6) {
			if o.Status == 200 {
				ok++
			}
		}
		if ok != 2 {
			return fmt.Errorf("%d of 6 answered, want 2", ok)
		}
		return nil
	})
	if got, err := tally(client, 10, same(toBackend("/"))); err != nil || got["a"]+got["b"]+got["c"] != 10 {
		t.Errorf("one after the other: %v %v", got, err)
	}
	noNacks(t, client)
}

func TestOutlierDetection(t *testing.T) {
	w, client := backends(t, nil)
	w.apply(rule("    loadBalancer: {simple: ROUND_ROBIN}\n" +
		"    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 5s, maxEjectionPercent: 100}"))
	// Without retries a client sees the failures that lead to the ejection, and none after it.
	w.apply(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: be, namespace: ns}
spec:
  hosts: [be.ns.svc.cluster.local]
  http: [{retries: {attempts: 0}, route: [{destination: {host: be.ns.svc.cluster.local}}]}]
`)
	spread(t, client, "the failing pod is out", 30, same(toBackend("/sick/b")), func(m map[string]int) bool {
		return m["a"] == 15 && m["c"] == 15
	})
	out, err := client.admin("clusters")
	must(t, err)
	if !strings.Contains(out, "::10.9.0.12:8080::health_flags::/failed_outlier_check\n") {
		t.Error("/clusters does not show the ejection")
	}
	s, err := client.admin("stats?filter=be.ns.*outlier_detection.ejections&usedonly")
	must(t, err)
	if !strings.Contains(s, "ejections_enforced_consecutive_5xx: ") || !strings.Contains(s, "ejections_active: 1") {
		t.Errorf("statistics:\n%s", s)
	}
	spread(t, client, "it comes back", 30, same(toBackend("/")), func(m map[string]int) bool {
		return m["a"] == 10 && m["b"] == 10 && m["c"] == 10
	})
	noNacks(t, client)
}

// TestOutlierDetectionTCP: a pod where nothing listens is found out by its refused connections.
func TestOutlierDetectionTCP(t *testing.T) {
	w, client := backends(t, nil)
	w.apply(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tcp, namespace: ns}
spec:
  hosts: [tcp.example]
  addresses: [240.1.1.2]
  ports: [{number: 9000, name: tcp, protocol: TCP}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{address: 10.9.0.11}, {address: 10.9.0.12, ports: {tcp: 9999}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: tcp, namespace: ns}
spec:
  host: tcp.example
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 120s, maxEjectionPercent: 100}
`)
	eventually(t, client, "the dead endpoint is out", func() error {
		for range 10 {
			if o := client.send(order{Kind: "tcp", URL: "240.1.1.2:9000", Body: "x", Half: true}); o.Body != "x" {
				return fmt.Errorf("got %+v", o)
			}
		}
		return nil
	})
	noNacks(t, client)
}

// TestSignal: a sidecar that is told to end lets the request through that it is busy with.
func TestSignal(t *testing.T) {
	_, client, server, _ := pair(t, "")
	eventually(t, client, "the server answers", answers(client, request("/"), 200, "server"))
	done := make(chan outcome, 1)
	go func() {
		o, _ := client.order(request("/slow"))
		done <- o
	}()
	eventually(t, server, "the request is under way", func() error {
		s, err := server.admin("stats?filter=downstream_rq_active&usedonly")
		for line := range strings.Lines(s) {
			if strings.Contains(line, "inbound") && strings.Contains(line, "8080") && strings.HasSuffix(strings.TrimSpace(line), ": 1") {
				return err
			}
		}
		return errors.Join(err, errors.New(s))
	})
	must(t, server.proxy.Process.Signal(syscall.SIGTERM))
	if o := <-done; o.Status != 200 {
		t.Errorf("got %+v", o)
	}
	state, err := server.proxy.Process.Wait()
	must(t, err)
	if state.ExitCode() != 0 {
		t.Errorf("the proxy ended with %v", state)
	}
}
