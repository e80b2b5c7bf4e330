package addons

import (
	"context"
	"os"
	"testing"
	"time"
)

// TestLive applies the add-ons to the cluster that ROPES_TEST_KUBECONFIG leads to,
// twice, and waits for them.
func TestLive(t *testing.T) {
	path := os.Getenv("ROPES_TEST_KUBECONFIG")
	if path == "" {
		t.Skip("needs a cluster: set ROPES_TEST_KUBECONFIG")
	}
	kubeconfig, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for range 2 {
		start := time.Now()
		if err := Apply(ctx, kubeconfig, func(string) {}); err != nil {
			t.Fatal(err)
		}
		t.Logf("applied in %s", time.Since(start))
	}
	start := time.Now()
	if err := Wait(ctx, kubeconfig, func(missing string) { t.Logf("%s %s", time.Since(start), missing) }); err != nil {
		t.Fatal(err)
	}
}
