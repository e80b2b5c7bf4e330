package netpol

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
	"sigs.k8s.io/knftables"

	"github.com/ropes-dev/ropes/bootstrap/embedded/apiclient"
)

// DefaultHealth is where readiness is told: /readyz on the node's loopback answers 200
// while the rules in place are those that the objects ask for.
const DefaultHealth = "127.0.0.1:10358"

// options are the flags of Main.
type options struct {
	node       string
	kubeconfig string
	health     string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("network-policy", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.node, "node", os.Getenv("NODE_NAME"), "name of the node whose pods to guard")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig to use instead of the pod's service account")
	flags.StringVar(&o.health, "health", DefaultHealth, "address to tell readiness on")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.node == "" {
		return o, errors.New("no node: give -node or set NODE_NAME")
	}
	return o, nil
}

// Main enforces network policies on the pods of one node until ctx ends, and leaves
// its rules in place then. args are its flags: -node (default $NODE_NAME), -kubeconfig
// (default the pod's service account) and -health. It must run in the node's network
// namespace with CAP_NET_ADMIN and finds the program nft on PATH. It returns an error
// where it cannot start; whatever fails later is logged and tried again.
func Main(ctx context.Context, args []string, log *slog.Logger) error {
	o, err := parse(args)
	if err != nil {
		return fmt.Errorf("network-policy: %w", err)
	}
	if err := serve(ctx, o, log); err != nil {
		return fmt.Errorf("network-policy: %w", err)
	}
	return nil
}

func serve(ctx context.Context, o options, log *slog.Logger) error {
	klog.SetSlogLogger(log)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	nft, err := knftables.New(knftables.IPv4Family, tableName)
	if err != nil {
		return fmt.Errorf("use nftables: %w", err)
	}
	client, err := apiclient.New(o.kubeconfig)
	if err != nil {
		return err
	}
	e := newEnforcer(log)
	objects, err := watch(client, e.touch)
	if err != nil {
		return err
	}
	e.snapshot = func() Snapshot { return objects.snapshot(o.node) }
	e.apply = func(ctx context.Context, r *Ruleset) error { return nft.Run(ctx, transaction(nft, r)) }
	e.warn = func(ctx context.Context, w Warning) {
		if err := tell(ctx, client, w); err != nil && !apierrors.IsAlreadyExists(err) {
			log.Error("event was not recorded", "policy", w.Namespace+"/"+w.Policy, "error", err)
		}
	}
	stopHealth, err := serveHealth(ctx, o.health, e)
	if err != nil {
		return err
	}
	defer stopHealth()

	defer objects.stop()
	defer cancel() // before stop, which waits for the watches to end
	if !objects.start(ctx) {
		return nil
	}
	log.Info("enforcing network policies", "node", o.node)
	e.run(ctx)
	return nil
}

// serveHealth answers /readyz until the returned function is called.
func serveHealth(ctx context.Context, address string, e *enforcer) (stop func(), err error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("tell readiness: %w", err)
	}
	server := &http.Server{Handler: readyz(e), ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			e.log.Error("readiness is no longer told", "error", err)
		}
	}()
	return func() {
		if err := server.Close(); err != nil {
			e.log.Error("stop telling readiness", "error", err)
		}
		<-done
	}, nil
}

func readyz(e *enforcer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !e.ready.Load() {
			http.Error(w, "rules are not in place", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}
