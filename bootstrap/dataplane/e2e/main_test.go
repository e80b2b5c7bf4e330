package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ropes-dev/ropes/bootstrap/dataplane"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/redirect"
)

// role makes the test binary act as one of the processes of a pod.
const role = "ROPES_E2E_ROLE"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "envoy" {
		os.Exit(dataplane.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	switch os.Getenv(role) {
	case "agent":
		os.Exit(runAgent(os.Args[1:]))
	case "init":
		if err := redirect.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "envoy":
		os.Exit(dataplane.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	case "app":
		os.Exit(runApp(os.Args[1]))
	}
	flag.Parse()
	os.Exit(m.Run())
}
