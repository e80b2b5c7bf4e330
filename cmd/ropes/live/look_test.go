//go:build live || livekind

package live

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/labs"
	"github.com/ropes-dev/ropes/labs/content"
	"github.com/ropes-dev/ropes/labs/session/prove"
)

func everythingReady(t *testing.T, r *rig) {
	t.Helper()
	s := r.status(t)
	if !s.Ready || len(s.Health.Nodes) != 3 {
		t.Errorf("status: %+v", s)
	}
	have := map[string]bool{}
	for _, c := range s.Health.Components {
		have[c.Name] = c.Ready
	}
	for _, want := range []string{"istiod", "ingress gateway", "egress gateway", "bookinfo", "httpbin", "client", "outside"} {
		if !have[want] {
			t.Errorf("%s is not ready: %+v", want, s.Health.Components)
		}
	}
}

func onlyRunning(t *testing.T, r *rig) {
	t.Helper()
	for line := range strings.Lines(r.ok(t, "kubectl", "get", "pods", "-A", "--no-headers").stdout) {
		if f := strings.Fields(line); f[3] != "Running" && f[3] != "Completed" {
			t.Errorf("pod is %s", line)
		}
	}
}

func everyProxySynced(t *testing.T, r *rig) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := bootstrap.Poll(ctx, time.Second, func(context.Context) error {
		out := strings.TrimSpace(r.ok(t, "istioctl", "proxy-status", "-v", "1").stdout)
		rows := strings.Split(out, "\n")[1:]
		if len(rows) < 10 {
			return fmt.Errorf("proxy-status knows %d proxies, want the gateways and the samples:\n%s", len(rows), out)
		}
		for _, row := range rows {
			if strings.Count(row, "SYNCED") < 3 || strings.Contains(row, "STALE") || strings.Contains(row, "ERROR") {
				return fmt.Errorf("not in sync: %s", row)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func productPage(t *testing.T, r *rig) {
	t.Helper()
	res, err := http.Get(r.status(t).URLs.ProductPage)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(body), "Served by <code>reviews</code> v") {
		t.Errorf("status %d, %v, no review in\n%.2000s", res.StatusCode, err, body)
	}
}

// proveLabs grades every step of the built-in labs fresh, solved and with each known
// mistake, on a cluster of ropes' own or a foreign one.
func proveLabs(t *testing.T, r *rig, cluster string, foreign bool) {
	t.Helper()
	tools := t.TempDir()
	for _, name := range []string{"kubectl", "istioctl"} {
		if err := os.Symlink(r.bin, filepath.Join(tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	cat, err := labs.Load(labs.Source{Name: "built in", FS: content.FS})
	if err != nil {
		t.Fatal(err)
	}
	rep, err := prove.Run(t.Context(), prove.Options{
		Cluster: cluster, Foreign: foreign, Together: 3, Kubeconfig: filepath.Join(r.home, ".local/state/ropes/clusters", cluster, "kubeconfig"),
		ToolDir: tools, StateDir: t.TempDir(), Labs: cat, Log: slog.New(slog.DiscardHandler),
		Observe: func(e prove.Event) {
			if e.Err != nil {
				t.Errorf("%6.2fs %s/%s: %v", e.Took.Seconds(), e.Lab, e.Step, e.Err)
			}
		},
	})
	t.Logf("proved: %v", rep)
	if err != nil || !rep.Proved() {
		t.Errorf("not proved: %v", err)
	}
}
