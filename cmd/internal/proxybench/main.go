// Command proxybench measures what the data plane costs: requests per second and latency from a client to a server,
// direct, through nginx, and through one and two sidecars, in plain text and with mTLS, all in one run.
//
//	proxybench -envoy PATH -rounds 5
//
// The client is wrk for throughput and a generator of its own for latency at a fixed rate; the server is nginx. The
// sidecars are the real program with a bootstrap file of the shape that istiod emits (sidecar.yaml.tmpl): statistics,
// peer metadata, request ids, routing, retries and, inbound, access rules; nginx does none of these. The proxies that
// are measured share CPUs that neither client nor server runs on, where the machine has more than one. Scenarios take
// turns in every round and the table shows medians. Everything listens on 127.0.0.1 and ends with the program.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane"
)

type options struct {
	envoy  string
	rounds int
	each   time.Duration
	conns  int
	rate   int
	only   string
	share  bool
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "envoy" {
		os.Exit(dataplane.Main(context.Background(), os.Args[2:], os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "proxybench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	var o options
	flags := flag.NewFlagSet("proxybench", flag.ContinueOnError)
	flags.StringVar(&o.envoy, "envoy", "", "the proxy (ropes-proxy); this program itself where empty")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds")
	flags.DurationVar(&o.each, "each", 4*time.Second, "how long each measurement takes")
	flags.IntVar(&o.conns, "conns", 64, "connections")
	flags.IntVar(&o.rate, "rate", 1000, "requests per second of the latency measurement")
	flags.StringVar(&o.only, "only", "", "run only scenarios whose name has this part")
	flags.BoolVar(&o.share, "share", false, "let the proxies share all CPUs with client and server")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, p := range []string{"nginx", "wrk", "taskset"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w: apt-get install nginx-light wrk util-linux", err)
		}
	}
	if o.envoy, err = program(o.envoy); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ropes-proxybench-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{options: o, dir: dir, out: out, progress: progress}
	b.front, b.back = split(runtime.NumCPU(), o.share)
	defer b.close()
	if err := b.open(ctx); err != nil {
		return err
	}
	memory, err := b.idleMemory()
	if err != nil {
		return err
	}
	if err := b.measure(ctx); err != nil {
		return err
	}
	b.report(memory)
	return nil
}

func program(path string) (string, error) {
	if path == "" {
		return os.Executable()
	}
	return filepath.Abs(path)
}

// split gives the CPUs of client and server, and those of the proxies.
func split(n int, share bool) (front, back cpus) {
	if n < 2 || share {
		return cpus{0, n - 1}, cpus{0, n - 1}
	}
	return cpus{0, n/2 - 1}, cpus{n / 2, n - 1}
}

type cpus struct{ first, last int }

func (c cpus) String() string { return fmt.Sprintf("%d-%d", c.first, c.last) }
func (c cpus) count() int     { return c.last - c.first + 1 }
