//go:build live

package live

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/ropes-dev/ropes/bootstrap"
)

// loadBalancer exposes httpbin by a Service of type LoadBalancer and asks it from this host.
func loadBalancer(t *testing.T, r *rig) {
	k := func(args ...string) string {
		t.Helper()
		return r.ok(t, append([]string{"kubectl", "-n", "httpbin"}, args...)...).stdout
	}
	k("expose", "deployment/httpbin", "--name=outside", "--type=LoadBalancer", "--port=80", "--target-port=8080")
	gone := false
	defer func() {
		if !gone {
			k("delete", "service/outside")
		}
	}()
	k("wait", "service/outside", "--for=jsonpath={.status.loadBalancer.ingress}", "--timeout=30s")
	addr := k("get", "service/outside", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
	ask := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/get", nil)
		if err != nil {
			return bootstrap.Permanent(err)
		}
		res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", res.StatusCode)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := bootstrap.Poll(ctx, 200*time.Millisecond, ask); err != nil {
		t.Errorf("from this host, %s: %v", addr, err)
	}
	k("patch", "service/outside", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`)
	if err := bootstrap.Poll(ctx, 200*time.Millisecond, ask); err != nil {
		t.Errorf("by the node of an endpoint, %s: %v", addr, err)
	}
	k("delete", "service/outside")
	gone = true
	err := bootstrap.Poll(ctx, 200*time.Millisecond, func(ctx context.Context) error {
		if ask(ctx) == nil {
			return fmt.Errorf("%s still answers", addr)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
