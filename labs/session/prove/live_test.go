package prove_test

import (
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/ropes-dev/ropes/labs"
	"github.com/ropes-dev/ropes/labs/content"
	"github.com/ropes-dev/ropes/labs/session/prove"
)

// TestLive proves the built-in labs on a cluster that is already there:
//
//	ROPES_LIVE_KUBECONFIG=FILE ROPES_LIVE_TOOLS=DIR [ROPES_LIVE_STEPS=LAB,LAB/STEP] [ROPES_LIVE_DEADLINE=90s]
//	go test -run TestLive -v -timeout 60m ./labs/session/prove
func TestLive(t *testing.T) {
	kubeconfig := os.Getenv("ROPES_LIVE_KUBECONFIG")
	if kubeconfig == "" {
		t.Skip("ROPES_LIVE_KUBECONFIG is not set: no cluster to prove the labs on")
	}
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // client-go's complaints about streams that were broken off
	level := slog.LevelWarn
	if os.Getenv("ROPES_LIVE_DEBUG") != "" {
		level = slog.LevelDebug
	}
	cat, err := labs.Load(labs.Source{Name: "built in", FS: content.FS})
	if err != nil {
		t.Error(err) // those that are sound are proved all the same
	}
	opts := prove.Options{
		Cluster: "live", Kubeconfig: kubeconfig, ToolDir: os.Getenv("ROPES_LIVE_TOOLS"), StateDir: t.TempDir(), Labs: cat,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level})),
		Observe: func(e prove.Event) {
			if e.Err != nil {
				t.Errorf("%6.2fs %v", e.Took.Seconds(), e.Err)
				return
			}
			t.Logf("%6.2fs %s/%s: %s", e.Took.Seconds(), e.Lab, e.Step, e.What)
		},
	}
	if s := os.Getenv("ROPES_LIVE_STEPS"); s != "" {
		opts.Steps = strings.Split(s, ",")
	}
	if s := os.Getenv("ROPES_LIVE_DEADLINE"); s != "" {
		if opts.Deadline, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	rep, err := prove.Run(t.Context(), opts)
	t.Log(rep)
	t.Logf("step resets: %v", rep.StepResets)
	t.Logf("lab resets: %v", rep.LabResets)
	if err != nil || !rep.Proved() {
		t.Error("not proved")
	}
}

// maxVerdict is the promise: a verdict half a second after the API event.
const maxVerdict = 500 * time.Millisecond

// TestLiveLatency measures what `ropes watch` takes on a live cluster.
func TestLiveLatency(t *testing.T) {
	file := os.Getenv("ROPES_LIVE_KUBECONFIG")
	if file == "" {
		t.Skip("ROPES_LIVE_KUBECONFIG is not set: no cluster to measure on")
	}
	kubeconfig, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	took, err := prove.Latency(t.Context(), kubeconfig, 15)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(took)
	median := took[len(took)/2]
	t.Logf("verdict after API event: median %v, longest %v", median, took[len(took)-1])
	if median > maxVerdict {
		t.Errorf("median %v, want at most %v", median, maxVerdict)
	}
}
