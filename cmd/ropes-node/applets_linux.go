package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	_ "time/tzdata" // CronJob time zones

	"github.com/containerd/containerd/v2/cmd/containerd/command"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // JSON log format
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // build_info
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
	metricsserver "sigs.k8s.io/metrics-server/cmd/metrics-server/app"

	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins" // containerd's plugins

	"github.com/ropes-dev/ropes/bootstrap/embedded/coredns"
	"github.com/ropes-dev/ropes/bootstrap/embedded/netpol"
	"github.com/ropes-dev/ropes/bootstrap/embedded/node"
	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
	"github.com/ropes-dev/ropes/bootstrap/embedded/storage"
	"github.com/ropes-dev/ropes/bootstrap/embedded/supervisor"
	"github.com/ropes-dev/ropes/bootstrap/kind/podnetwork"
)

var applets = map[string]applet{
	"etcd": func(_ context.Context, args []string) int {
		etcdmain.Main(args)
		return 0
	},
	"kube-apiserver":          component(apiserver.NewAPIServerCommand),
	"kube-controller-manager": component(controllermanager.NewControllerManagerCommand),
	"kube-scheduler":          component(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kube-proxy":              component(proxy.NewProxyCommand),
	"kubelet": func(ctx context.Context, _ []string) int {
		return cli.Run(kubelet.NewKubeletCommand(ctx))
	},
	"metrics-server": func(context.Context, []string) int {
		return cli.Run(metricsserver.NewMetricsServerCommand(genericapiserver.SetupSignalHandler()))
	},
	"containerd": func(_ context.Context, args []string) int {
		return exit("containerd", command.App().Run(args))
	},
	"coredns": func(_ context.Context, args []string) int {
		coredns.Main(args[1:])
		return 0
	},
	"storage-provisioner": own(storage.Main),
	"network-policy":      own(netpol.Main),
	"pod-network":         own(podnetwork.Main),
	"supervise": func(ctx context.Context, args []string) int {
		if len(args) != 2 {
			fmt.Fprintln(os.Stderr, "usage: ropes-node supervise DIR")
			return 2
		}
		return exit("supervise", supervisor.Run(ctx, state.Dir(args[1]), logger()))
	},
	"node": func(_ context.Context, args []string) int {
		if len(args) != 2 {
			fmt.Fprintln(os.Stderr, "usage: ropes-node node PATHS")
			return 2
		}
		return exit("node", node.Enter(args[1]))
	},
	"node-init": func(ctx context.Context, _ []string) int {
		return exit("node", node.Init(ctx, logger()))
	},
}

// component runs a Kubernetes component as its own main does.
func component(build func() *cobra.Command) applet {
	return func(context.Context, []string) int { return cli.Run(build()) }
}

// own runs one of ropes' agents.
func own(agent func(ctx context.Context, args []string, log *slog.Logger) error) applet {
	return func(_ context.Context, args []string) int {
		ctx := genericapiserver.SetupSignalContext()
		return exit(args[0], agent(ctx, args[1:], logger())) //nolint:contextcheck // the one that signals end
	}
}

func logger() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

func exit(name string, err error) int {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}
