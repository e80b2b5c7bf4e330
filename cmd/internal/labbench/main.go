// Command labbench measures a lab as its users meet it: how long `ropes up` takes by
// phase, cold and warm, how long a reset and a verdict take, what memory each component
// holds and how many bytes came from outside. It prints medians of several runs.
//
//	labbench -bin bin/ropes -n 3
//
// It needs root, uses the cluster name "bench" and a home of its own.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
	"github.com/ropes-dev/ropes/labs/session/prove"
)

const cluster = "bench"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "labbench:", err)
		os.Exit(1)
	}
}

type bench struct {
	bin, home string
	out       io.Writer
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("labbench", flag.ContinueOnError)
	bin := flags.String("bin", "bin/ropes", "the ropes binary, with its payload")
	n := flags.Int("n", 3, "runs of each kind")
	if err := flags.Parse(args); err != nil {
		return err
	}
	home, err := os.MkdirTemp("", "ropes-bench-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()
	path, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	b := &bench{bin: path, home: home, out: out}
	defer func() {
		_, _, downErr := b.ropes(context.WithoutCancel(ctx), "down")
		err = errors.Join(err, downErr)
	}()
	for _, kind := range []string{"cold", "warm"} {
		if err := b.ups(ctx, kind, *n); err != nil {
			return err
		}
	}
	return b.running(ctx)
}

// ropes runs the program and returns what it said on stderr and how long it took.
func (b *bench) ropes(ctx context.Context, args ...string) (stderr string, took time.Duration, err error) {
	cmd := exec.CommandContext(ctx, b.bin, append([]string{"--name", cluster}, args...)...)
	cmd.Env = []string{"HOME=" + b.home, "PATH=" + os.Getenv("PATH"), "TERM=dumb"}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return "", 0, fmt.Errorf("ropes %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return errs.String(), time.Since(start), nil
}

// phaseLine is how up reports a finished phase off a terminal.
var phaseLine = regexp.MustCompile(`(?m)^(.+) \.\.\. done \(([0-9.]+)s\)$`)

// ups times n runs of up. Cold means that the payload is not unpacked yet.
func (b *bench) ups(ctx context.Context, kind string, n int) error {
	var order []string
	phases := map[string][]float64{}
	for range n {
		if _, _, err := b.ropes(ctx, "down"); err != nil {
			return err
		}
		if kind == "cold" {
			if err := os.RemoveAll(filepath.Join(b.home, ".cache")); err != nil {
				return err
			}
		}
		said, took, err := b.ropes(ctx, "up")
		if err != nil {
			return err
		}
		for _, m := range phaseLine.FindAllStringSubmatch(said, -1) {
			seconds, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				return err
			}
			if _, seen := phases[m[1]]; !seen {
				order = append(order, m[1])
			}
			phases[m[1]] = append(phases[m[1]], seconds)
		}
		phases["in all"] = append(phases["in all"], took.Seconds())
	}
	fmt.Fprintf(b.out, "up, %s, median of %d runs, seconds\n", kind, n)
	for _, p := range append(order, "in all") {
		fmt.Fprintf(b.out, "  %-26s %6.1f\n", p, median(phases[p]))
	}
	return nil
}

// running measures the cluster that is up.
func (b *bench) running(ctx context.Context) error {
	dir := state.ClusterDir(state.DefaultRoot, cluster)
	cfg, err := dir.Load()
	if err != nil {
		return err
	}
	if err := b.resets(ctx); err != nil {
		return err
	}
	kubeconfig, err := os.ReadFile(dir.Kubeconfig())
	if err != nil {
		return err
	}
	took, err := prove.Latency(ctx, kubeconfig, 25)
	if err != nil {
		return err
	}
	var ms []float64
	for _, d := range took {
		ms = append(ms, float64(d.Microseconds())/1000)
	}
	fmt.Fprintf(b.out, "verdict after the API event, median of %d: %.0f ms\n", len(ms), median(ms))
	if err := b.memory(cfg.PayloadDir); err != nil {
		return err
	}
	sent, err := os.ReadFile(filepath.Join("/sys/class/net", cfg.Uplink.HostLink, "statistics/tx_bytes"))
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "bytes that came into the cluster from outside: %s", sent)
	return nil
}

// resets spoils a lab by its own solutions and times putting it back.
func (b *bench) resets(ctx context.Context) error {
	if _, _, err := b.ropes(ctx, "start", "namespaces"); err != nil {
		return err
	}
	var seconds []float64
	for range 5 {
		if _, _, err := b.ropes(ctx, "solution", "--apply"); err != nil {
			return err
		}
		_, took, err := b.ropes(ctx, "reset", "lab")
		if err != nil {
			return err
		}
		seconds = append(seconds, took.Seconds())
	}
	fmt.Fprintf(b.out, "reset lab, median of %d: %.1f s\n", len(seconds), median(seconds))
	return nil
}

// memory adds up the proportional set size (proc(5), smaps_rollup) of the cluster's
// processes by component: shared pages are counted once in all.
func (b *bench) memory(payload string) error {
	sizes, total, err := memoryByComponent(payload)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(sizes))
	for name := range sizes {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(sizes[b], sizes[a]) })
	fmt.Fprintln(b.out, "memory by component, proportional set size, MiB")
	for _, name := range names {
		fmt.Fprintf(b.out, "  %-26s %6.0f\n", name, sizes[name])
	}
	fmt.Fprintf(b.out, "  %-26s %6.0f\n", "in all", total)
	return nil
}

func memoryByComponent(payload string) (sizes map[string]float64, total float64, err error) {
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, 0, err
	}
	sizes = map[string]float64{}
	for _, dir := range pids {
		exe, err := os.Readlink(dir + "/exe")
		if err != nil || !ofPayload(exe, payload) {
			continue
		}
		mib, err := pss(dir + "/smaps_rollup")
		if err != nil {
			continue // it has ended since
		}
		sizes[component(dir, exe)] += mib
		total += mib
	}
	return sizes, total, nil
}

func ofPayload(exe, payload string) bool {
	base := filepath.Base(exe)
	return strings.HasPrefix(exe, payload) ||
		slices.Contains([]string{"ropes-node", "ropes-proxy", "ropes-app", "pilot-discovery", "pause", "containerd-shim-runc-v2"}, base)
}

// component names a process by the name it was called by; the multi-call programs also
// by their first argument.
func component(dir, exe string) string {
	data, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return filepath.Base(exe)
	}
	argv := strings.Split(string(data), "\x00")
	name := filepath.Base(argv[0])
	if (name == "ropes-node" || name == "ropes-app") && len(argv) > 1 {
		name = argv[1]
	}
	return name
}

// pss reads the proportional set size in MiB.
func pss(path string) (float64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "Pss:" {
			kib, err := strconv.ParseFloat(f[1], 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New(path + " has no Pss")
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Clone(v)
	slices.Sort(s)
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
