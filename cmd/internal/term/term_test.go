package term

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/checks"
)

var update = flag.Bool("update", false, "write what was seen into the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; go test -update writes it anew)\n%s", path, diff)
	}
}

func consoles(buf *bytes.Buffer) map[string]*Console {
	return map[string]*Console{
		"plain":  {Writer: buf},
		"colour": {Writer: buf, TTY: true, Colour: true, Width: func() int { return 60 }},
	}
}

func TestMarkdown(t *testing.T) {
	src, err := os.ReadFile("testdata/step.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"plain", "colour"} {
		t.Run(kind, func(t *testing.T) {
			var buf bytes.Buffer
			consoles(&buf)[kind].Markdown(string(src))
			golden(t, "step."+kind+".golden", buf.Bytes())
		})
	}
}

func TestMarkdownNeverLosesAWord(t *testing.T) {
	for _, src := range []string{"", "word", "```\nunclosed", "- ", "|", "> ", "# ", "**", "`", "1. a\n\n2. b", "\\", "[a](", "***", "- a\n\n  b\n\nc", strings.Repeat("x", 200)} {
		var buf bytes.Buffer
		(&Console{Writer: &buf}).Markdown(src)
		for _, word := range strings.Fields(strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' {
				return r
			}
			return ' '
		}, src)) {
			if !strings.Contains(buf.String(), word) {
				t.Errorf("%q: lost %q: %q", src, word, buf.String())
			}
		}
	}
}

func TestVerdict(t *testing.T) {
	for _, kind := range []string{"plain", "colour"} {
		t.Run(kind, func(t *testing.T) {
			var buf bytes.Buffer
			c := consoles(&buf)[kind]
			c.Verdict(checks.Verdict{Check: "quota", State: checks.Met}, "team-a may request one CPU in all")
			c.Verdict(checks.Verdict{
				Check: "cpu-budget", State: checks.Unmet,
				Want: `a ResourceQuota "budget" in team-a whose requests.cpu is 1`,
				Got:  "limits.cpu is 1",
				Why:  "limits.cpu bounds what containers may use at most; the scheduler counts requests, so pods of this team can still take every node for themselves.",
				Next: "Add `requests.cpu` to spec.hard:\n  kubectl -n team-a create quota budget --hard=requests.cpu=1 --dry-run=client -o yaml | kubectl apply -f -",
			}, "")
			c.Verdict(checks.Verdict{
				Check: "probe", State: checks.CouldNotRun, Want: "not said", Why: "the API server does not answer", Next: "ropes up",
			}, "A pod that asks for more is refused")
			golden(t, "verdict."+kind+".golden", buf.Bytes())
		})
	}
}

func events(p *Progress, pause time.Duration) {
	first, second := p.Joined(1)
	for _, run := range []struct {
		obs   bootstrap.Observer
		steps []bootstrap.Step
	}{
		{first, []bootstrap.Step{
			{Name: "unpack the payload", Do: func(context.Context, func(string)) error { return bootstrap.ErrSkip }},
			{Name: "start the nodes", Do: func(_ context.Context, say func(string)) error {
				time.Sleep(pause)
				say("waiting for ropes-worker\nand more")
				time.Sleep(pause)
				return nil
			}},
		}},
		{second, []bootstrap.Step{{Name: "install Istio", Do: func(context.Context, func(string)) error {
			time.Sleep(pause)
			return errors.New("no")
		}}}},
	} {
		_ = bootstrap.Run(context.Background(), run.steps, false, run.obs)
	}
	p.Close()
}

func TestProgressPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		events(NewProgress(&Console{Writer: &buf}), 1600*time.Millisecond)
		want := "unpack the payload ... already done\nstart the nodes ... done (3.2s)\ninstall Istio ... failed (1.6s)\n"
		if diff := cmp.Diff(want, buf.String()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestProgressTTY(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		events(NewProgress(&Console{Writer: &buf, TTY: true, Width: func() int { return 64 }}), 1600*time.Millisecond)
		want := []string{"- 1/3 unpack the payload already done", "✓ 2/3 start the nodes 3.2s", "✗ 3/3 install Istio 1.6s"}
		if diff := cmp.Diff(want, screen(buf.String())); diff != "" {
			t.Errorf("what stays on the screen: %s", diff)
		}
		if raw := buf.String(); !strings.Contains(raw, "start the nodes 2s  waiting for ropes-w") || strings.Contains(raw, "and more") {
			t.Errorf("no elapsed time and detail in the bar, or more than a line of it: %q", raw)
		}
		for frame := range strings.SplitSeq(buf.String(), "\r") {
			if frame = strings.ReplaceAll(frame, "\x1b[2K", ""); !strings.Contains(frame, "\n") && visible(frame) > 64 {
				t.Errorf("wider than the terminal: %d %q", visible(frame), frame)
			}
		}
	})
}

// screen plays carriage returns and line clearing and returns the lines that stay.
func screen(raw string) []string {
	var lines []string
	line := ""
	for rest := raw; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "\x1b[2K"):
			line, rest = "", rest[4:]
		case strings.HasPrefix(rest, "\x1b[0K"):
			rest = rest[4:]
		case rest[0] == '\r':
			line, rest = "", rest[1:]
		case rest[0] == '\n':
			lines = append(lines, strings.TrimRight(line, " "))
			line, rest = "", rest[1:]
		default:
			line, rest = line+rest[:1], rest[1:]
		}
	}
	if strings.TrimSpace(line) != "" {
		lines = append(lines, line)
	}
	return lines
}

func TestTable(t *testing.T) {
	var buf bytes.Buffer
	(&Console{Writer: &buf}).Table([]string{"LAB", "TITLE", ""}, []string{"mtls", "Who are you?", ""}, []string{"namespaces", "Rooms", "x"})
	want := "LAB          TITLE\nmtls         Who are you?\nnamespaces   Rooms          x\n"
	if diff := cmp.Diff(want, buf.String()); diff != "" {
		t.Error(diff)
	}
}

func TestConfirm(t *testing.T) {
	for answer, want := range map[string]bool{"y\n": true, " Yes \n": true, "\n": false, "": false, "no\n": false, "yo\n": false} {
		var buf bytes.Buffer
		got, err := Confirm(t.Context(), &Console{Writer: &buf}, strings.NewReader(answer), "Remove it?")
		if err != nil || got != want || buf.String() != "Remove it? [y/N] " {
			t.Errorf("%q: got %v, %v, %q; want %v", answer, got, err, buf.String(), want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := Confirm(ctx, &Console{Writer: &bytes.Buffer{}}, r, "Remove it?"); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestDetectOffTerminal(t *testing.T) {
	if c := Detect(&bytes.Buffer{}, func(string) string { return "" }); c.TTY || c.Colour {
		t.Errorf("%+v", c)
	}
	if got := (&Console{Writer: &bytes.Buffer{}}).Paint(Red, "x"); got != "x" {
		t.Errorf("painted: %q", got)
	}
}
