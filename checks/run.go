package checks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Runner runs checks against one cluster.
type Runner struct {
	Cluster *Cluster
	Prober  Prober
	Log     *slog.Logger  // nil discards
	Timeout time.Duration // of one check, reading and probing together; zero is DefaultTimeout
}

// DefaultTimeout bounds one check where the Runner does not say.
const DefaultTimeout = 20 * time.Second

func (r *Runner) log() *slog.Logger {
	if r.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return r.Log
}

// Run runs all checks of a step at once and returns their verdicts in the checks' order.
// It always returns a verdict for each check: what keeps one from running is a verdict too.
func (r *Runner) Run(ctx context.Context, step string, cs []Check, obs Observer) []Verdict {
	var (
		mu  sync.Mutex
		wg  sync.WaitGroup
		out = make([]Verdict, len(cs))
		rd  = newReading(r.Cluster, r.Prober)
	)
	for i := range cs {
		wg.Go(func() {
			v := r.one(ctx, rd, step, &cs[i])
			mu.Lock()
			defer mu.Unlock()
			out[i] = v
			obs.Verdict(v)
		})
	}
	wg.Wait()
	return out
}

// one judges one check.
func (r *Runner) one(ctx context.Context, rd *reading, step string, c *Check) Verdict {
	start := time.Now()
	timeout := r.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	outer := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no verdict within %v: %w", timeout, context.DeadlineExceeded))
	defer cancel()
	v, err := judge(ctx, rd, c)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		if outer.Err() == nil { // else it was called off
			r.log().Info("check could not run", "step", step, "check", c.ID, "err", err)
		}
		v = Verdict{State: CouldNotRun}
		v.Why, v.Next = Obstacle(err)
	}
	v.Step, v.Check, v.At, v.Took = step, c.ID, time.Now(), time.Since(start)
	return v
}

// judge reaches a verdict of met or unmet, or says why there can be none.
func judge(ctx context.Context, rd *reading, c *Check) (Verdict, error) {
	met, absent, err := truth(ctx, rd, c, c.Expr)
	if err != nil {
		return Verdict{}, err
	}
	if met {
		return Verdict{State: Met, Want: c.Want}, nil
	}
	v := Verdict{State: Unmet, Want: c.Want, Why: c.Why, Next: c.Next}
	got := c.Got
	for _, m := range c.Mistakes {
		match, _, err := truth(ctx, rd, c, m.When)
		if err != nil {
			return Verdict{}, err
		}
		if match {
			v.Mistake, v.Why, v.Next = m.ID, m.Why, m.Next
			if m.Got.Present() {
				got = m.Got
			}
			break
		}
	}
	if v.Got, err = found(ctx, rd, c, got, absent); err != nil {
		return Verdict{}, err
	}
	return v, nil
}

// truth computes a condition. Reaching for what is not there makes it not true; absent then
// says what was reached for.
func truth(ctx context.Context, rd *reading, c *Check, e Expr) (holds bool, absent, err error) {
	v, err := rd.eval(ctx, c, e)
	if errors.Is(err, ErrAbsent) {
		return false, err, nil
	}
	if err != nil {
		return false, nil, err
	}
	holds, ok := v.(bool)
	if !ok {
		return false, nil, fmt.Errorf("%s: gives a %T, not a bool", e.Pos, v)
	}
	return holds, nil, nil
}

// found says what was found in place of what the check wants.
func found(ctx context.Context, rd *reading, c *Check, got Expr, absent error) (string, error) {
	if got.Present() {
		v, err := rd.eval(ctx, c, got)
		if err == nil {
			return fmt.Sprint(v), nil
		}
		if !errors.Is(err, ErrAbsent) {
			return "", err
		}
	}
	vars, err := rd.vars(ctx, c, c.Expr)
	if err != nil {
		return "", err
	}
	var parts []string
	for _, name := range c.Expr.Program.Vars() {
		if s := describe(c, name, vars[name]); s != "" {
			parts = append(parts, s)
		}
	}
	if len(parts) == 0 && absent != nil {
		parts = append(parts, lastSentence(absent))
	}
	if len(parts) == 0 {
		return "the condition does not hold", nil
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), "; "), nil
}

// describe says what is wrong with a value in itself; empty where nothing is.
func describe(c *Check, name string, value any) string {
	if ref, ok := c.Objects[name]; ok {
		if list, isList := value.([]any); value == nil || isList && len(list) == 0 {
			if isList {
				return fmt.Sprintf("there are no %s", ref)
			}
			return fmt.Sprintf("%s does not exist", ref)
		}
		return ""
	}
	p := c.Probes[name]
	res, _ := value.(map[string]any)
	text := func(key string) string { s, _ := res[key].(string); return s }
	switch p.Kind() {
	case "access":
		if res["allowed"] == true {
			return name + ": allowed"
		}
		return strings.TrimSuffix(name+": not allowed: "+text("reason"), ": ")
	case "admit":
		if res["allowed"] == true {
			return name + ": admitted"
		}
		return name + ": refused: " + text("message")
	}
	if res["ok"] != true {
		return name + ": " + text("error")
	}
	switch p.Kind() {
	case "http":
		return fmt.Sprintf("%s: status %v", name, res["status"])
	case "dns":
		return fmt.Sprintf("%s: %v %v", name, res["rcode"], res["answers"])
	case "exec":
		return fmt.Sprintf("%s: exit code %v, %s", name, res["exitCode"], clip(text("stdout")+text("stderr")))
	}
	return name + ": connected"
}

const clipAt = 200 // bytes of a program's output in a verdict's words

func clip(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > clipAt {
		return strings.ToValidUTF8(s[:clipAt], "") + "..."
	}
	return s
}

// lastSentence is the innermost message of an error about something absent.
func lastSentence(err error) string {
	s := err.Error()
	if i := strings.LastIndex(s, ErrAbsent.Error()+": "); i >= 0 {
		s = s[i+len(ErrAbsent.Error())+2:]
	}
	return s
}
