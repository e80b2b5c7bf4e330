//go:build conformance

package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// clusterName is the cluster's own; no other suite uses it.
const clusterName = "gateway-conformance"

// Environment of the suite.
const (
	binEnv = "ROPES_BIN"
	// keepEnv names a home directory to use and to leave, the cluster with it, for the
	// next run: a suite under development need not wait for a new cluster each time.
	keepEnv = "ROPES_CONFORMANCE_KEEP"
)

const upTimeout = 15 * time.Minute

// cluster is a lab cluster under the suite.
type cluster struct {
	bin, home string
	dir       string // state directory
	config    *rest.Config
}

// bringUp makes the cluster, and sees to it that the end of the test is its end.
func bringUp(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{bin: os.Getenv(binEnv), home: os.Getenv(keepEnv)}
	switch {
	case runtime.GOOS != "linux":
		t.Fatal("the conformance suite needs Linux: it brings up a cluster with the embedded provider")
	case os.Geteuid() != 0:
		t.Fatalf("the conformance suite brings up a cluster with the embedded provider, which needs root; this is uid %d", os.Geteuid())
	case c.bin == "":
		t.Fatalf("%s is not set: it names the ropes binary, built with its payload, that this suite drives", binEnv)
	}
	if c.home == "" {
		c.home = t.TempDir()
		t.Cleanup(func() { c.ropes(t, "down", "--name", clusterName) })
	}
	c.ropes(t, "up", "--name", clusterName, "--provider", "embedded", "--timeout", upTimeout.String())
	var s struct{ Cluster struct{ Dir string } }
	if err := json.Unmarshal(c.ropes(t, "status", "--name", clusterName, "-o", "json"), &s); err != nil {
		t.Fatal(err)
	}
	c.dir = s.Cluster.Dir
	kubeconfig, err := os.ReadFile(c.dir + "/kubeconfig")
	if err != nil {
		t.Fatal(err)
	}
	if c.config, err = clientcmd.RESTConfigFromKubeConfig(kubeconfig); err != nil {
		t.Fatal(err)
	}
	c.config.QPS = -1 // the API server's own fairness is limit enough
	return c
}

// ropes runs the program and returns what it printed.
func (c *cluster) ropes(t *testing.T, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), upTimeout+time.Minute) // cleanups run ropes too
	defer cancel()
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env = []string{"HOME=" + c.home, "PATH=" + os.Getenv("PATH"), "TERM=dumb", "SHELL=/bin/sh"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("ropes %s: %v\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.Bytes()
}

// goTool runs the Go tool in this module and returns what it printed.
func goTool(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}
