// Command ropes-proxy is both halves of a sidecar in one file, so that they share memory: istio's own pilot-agent, and,
// under the name envoy, the ropes data plane. "pilot-agent istio-iptables ..." sets up traffic redirection through
// netlink, without the iptables program.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	_ "github.com/KimMachineGun/automemlimit" // GOMEMLIMIT from the cgroup, as pilot-agent's own main has it
	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/cmd/pilot-agent/app"
	istioagent "istio.io/istio/pkg/istio-agent"
	"istio.io/istio/pkg/log"
	"istio.io/istio/pkg/security"
	"istio.io/istio/security/pkg/nodeagent/sds"

	"github.com/ropes-dev/ropes/bootstrap/dataplane"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/redirect"
)

func main() {
	os.Exit(run(context.Background(), os.Args, os.Stdout, os.Stderr))
}

// run picks the program by the name it was called under: envoy, or pilot-agent for every other name.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if filepath.Base(args[0]) == "envoy" {
		return dataplane.Main(ctx, args[1:], stdout, stderr)
	}
	if len(args) > 1 && args[1] == "envoy" {
		return dataplane.Main(ctx, args[2:], stdout, stderr)
	}
	if len(args) > 1 && args[1] == "istio-iptables" {
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		if err := redirect.Main(ctx, args[2:], stdout, stderr); err != nil {
			_, _ = fmt.Fprintf(stderr, "istio-iptables: %v\n", err)
			return 1
		}
		return 0
	}
	return agent(args[1:])
}

// agent runs istio's pilot-agent with its own command line.
func agent(args []string) int {
	log.EnableKlogWithCobra()
	root := app.NewRootCommand(
		func(o *security.Options, cache security.SecretManager, keys *meshconfig.PrivateKeyProvider) istioagent.SDSService {
			return sds.NewServer(o, cache, keys)
		})
	root.SetArgs(args)
	if err := root.Execute(); err != nil {
		log.Error(err)
		return 1
	}
	return 0
}
