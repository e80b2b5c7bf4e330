package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/checks"
)

// run runs a program in a container to its end; code is its exit status.
func (p *Prober) run(ctx context.Context, at target, command []string, stdin string) (stdout, stderr string, code int, err error) {
	var out, errs capture
	var in io.Reader
	if stdin != "" {
		in = strings.NewReader(stdin)
	}
	err = p.exec.Exec(ctx, at, command, in, &out, &errs)
	var exit exitError
	if errors.As(err, &exit) {
		code, err = int(exit), nil
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%s in %s did not end: %w", command[0], at, ctx.Err())
	}
	return out.String(), errs.String(), code, err
}

// capture keeps the first maxBody bytes and swallows the rest.
type capture struct{ strings.Builder }

func (c *capture) Write(p []byte) (int, error) {
	if room := maxBody - c.Len(); room > 0 {
		c.Builder.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// wholeSeconds rounds up: nc and dig count in seconds.
func wholeSeconds(d time.Duration) string {
	return strconv.Itoa(int(math.Ceil(d.Seconds())))
}

func (p *Prober) podTCP(ctx context.Context, at target, pr checks.Probe) (checks.Result, error) {
	host, port, err := net.SplitHostPort(pr.TCP.Address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pr.TCP.Pos, err)
	}
	_, stderr, code, err := p.run(ctx, at, []string{"nc", "-z", "-v", "-w", wholeSeconds(pr.Timeout), host, port}, "")
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return failed(pr, wordsKind(stderr), said(stderr, fmt.Sprintf("nc ended with status %d", code))), nil
	}
	return done(pr), nil
}

func (p *Prober) podDNS(ctx context.Context, at target, pr checks.Probe) (checks.Result, error) {
	kind := pr.DNS.Type
	if kind == "" {
		kind = "A"
	}
	stdout, stderr, code, err := p.run(ctx, at, []string{
		"dig", "+search", "+tries=1", "+time=" + wholeSeconds(pr.Timeout), "+noall", "+comments", "+answer", pr.DNS.Name, kind,
	}, "")
	if err != nil {
		return nil, err
	}
	if code == 9 {
		return failed(pr, kindTimeout, "no name server answered"), nil
	}
	if code != 0 {
		return nil, fmt.Errorf("dig in %s ended with status %d: %s", at, code, said(stderr, stdout))
	}
	return readDig(pr, stdout)
}

// readDig reads the header line and the answer section that dig prints.
func readDig(pr checks.Probe, out string) (checks.Result, error) {
	r := done(pr)
	answers := []any{}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if _, after, ok := strings.Cut(line, "status: "); ok && strings.HasPrefix(line, ";;") {
			r["rcode"], _, _ = strings.Cut(after, ",")
		}
		if f := strings.Fields(line); len(f) >= 5 && !strings.HasPrefix(line, ";") {
			answers = append(answers, strings.Join(f[4:], " ")) // name ttl class type data
		}
	}
	if r["rcode"] == "" {
		return nil, fmt.Errorf("dig's output for %s has no status", pr.DNS.Name)
	}
	r["answers"] = answers
	return r, nil
}

// podExec runs the author's command. One that does not end in time is no answer: whether it
// would have done its work cannot be told.
func (p *Prober) podExec(ctx context.Context, at target, pr checks.Probe) (checks.Result, error) {
	stdout, stderr, code, err := p.run(ctx, at, pr.Exec.Command, pr.Exec.Stdin)
	if err != nil {
		return nil, err
	}
	r := done(pr)
	r["exitCode"], r["stdout"], r["stderr"] = int64(code), stdout, stderr
	return r, nil
}
