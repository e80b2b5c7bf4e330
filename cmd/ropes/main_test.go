package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets scripts run this program under each of its names.
func TestMain(m *testing.M) {
	as := func(name string) func() {
		return func() {
			os.Exit(run(context.Background(), append([]string{name}, os.Args[1:]...), stdio{os.Stdin, os.Stdout, os.Stderr}))
		}
	}
	testscript.Main(m, map[string]func(){"ropes": as("ropes"), "kubectl": as("kubectl"), "istioctl": as("istioctl")})
}

// TestScript runs what needs no cluster, each script in a home of its own. ROPES_BIN runs
// the same against a built binary.
func TestScript(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path != "/version" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(`{"major":"1","minor":"36","gitVersion":"v1.36.3","platform":"linux/amd64"}`))
	}))
	t.Cleanup(api.Close)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir+"/home")
			e.Setenv("API", api.URL)
			// No name that a real cluster of this machine may have.
			e.Setenv("ROPES_CLUSTER", "no-such-cluster")
			bin := os.Getenv("ROPES_BIN")
			if bin == "" {
				return nil
			}
			dir := e.WorkDir + "/.bin"
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			for _, name := range []string{"ropes", "kubectl", "istioctl"} {
				if err := os.Symlink(bin, dir+"/"+name); err != nil {
					return err
				}
			}
			e.Setenv("PATH", dir+":"+e.Getenv("PATH"))
			return nil
		},
	})
}
