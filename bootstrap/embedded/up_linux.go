package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
)

// up is one run of Up.
type up struct {
	*Provider
	spec  bootstrap.Spec
	dir   state.Dir
	cfg   *state.Config // nil until planned
	fresh bool          // this run creates the cluster
}

// statusEvery is how often the supervisor's status file is looked at.
const statusEvery = 100 * time.Millisecond

func (u *up) steps() []bootstrap.Step {
	return []bootstrap.Step{
		{Name: "payload", Do: u.payload},
		{Name: "host", Do: u.start, Undo: u.undo},
		{Name: "control plane", Do: u.awaitSupervisor},
		{Name: "nodes", Do: u.awaitNodes},
		{Name: "pods and services", Do: u.awaitRestart},
		{Name: "add-ons", Do: u.addOns},
	}
}

func (u *up) running() bool { return u.cfg != nil && state.Locked(u.dir.SupervisorLock()) }

// payload finds the programs and, for a new cluster, makes the plan.
func (u *up) payload(ctx context.Context, say func(string)) error {
	if u.running() {
		return bootstrap.ErrSkip
	}
	if u.fresh {
		if err := u.room(); err != nil {
			return err
		}
	}
	payload, err := u.opts.Payload(ctx, say)
	if err != nil {
		return err
	}
	if u.fresh {
		if u.cfg, err = u.plan(u.spec); err != nil {
			return err
		}
	}
	u.cfg.PayloadDir = payload
	return nil
}

// start records the plan and starts the supervisor.
func (u *up) start(_ context.Context, say func(string)) error {
	if u.running() {
		return bootstrap.ErrSkip
	}
	if err := u.recordHost(); err != nil {
		return fmt.Errorf("record the host's settings: %w", err)
	}
	u.cfg.Nameservers = nameservers()
	ports := []struct {
		what            string
		asked, ordinary int
		into            *int
	}{
		{"the API server", u.spec.APIPort, defaultAPIPort, &u.cfg.APIPort},
		{"ingress HTTP", u.spec.HTTPPort, defaultHTTPPort, &u.cfg.HTTPPort},
		{"ingress HTTPS", u.spec.HTTPSPort, defaultHTTPSPort, &u.cfg.HTTPSPort},
	}
	var listeners [3]*os.File
	for i, p := range ports {
		want := firstNonZero(p.asked, *p.into, p.ordinary)
		f, port, note, err := listen(want, p.what)
		if err != nil {
			return err
		}
		defer f.Close()
		listeners[i] = f
		*p.into = port
		if note != "" {
			say(note)
		}
	}
	if err := u.dir.Save(u.cfg); err != nil {
		return err
	}
	return startSupervisor(u.cfg, u.dir, listeners)
}

func firstNonZero(values ...int) int {
	for _, v := range values {
		if v != 0 {
			return v
		}
	}
	return 0
}

// undo removes a cluster that this run could not finish.
func (u *up) undo(ctx context.Context) error {
	if !u.fresh || u.cfg == nil {
		return nil
	}
	if err := stop(ctx, u.dir); err != nil {
		return err
	}
	return u.remove(u.cfg, u.dir)
}

// awaitSupervisor follows the supervisor until the control plane answers and every
// node has registered.
func (u *up) awaitSupervisor(ctx context.Context, say func(string)) error {
	return bootstrap.Poll(ctx, statusEvery, func(context.Context) error {
		alive := state.Locked(u.dir.SupervisorLock())
		st, err := u.dir.LoadStatus()
		if err != nil {
			return err
		}
		if st.Ready {
			return nil
		}
		if !alive {
			return bootstrap.Permanent(u.supervisorGone(st))
		}
		doing := describe(st)
		say(doing)
		return errors.New(doing)
	})
}

// describe says what the supervisor is at.
func describe(st state.Status) string {
	if len(st.Phases) == 0 {
		return "starting the supervisor"
	}
	p := st.Phases[len(st.Phases)-1]
	if p.Detail != "" {
		return p.Name + ": " + p.Detail
	}
	return p.Name
}

// supervisorGone explains why the supervisor ended before its time.
func (u *up) supervisorGone(st state.Status) error {
	if st.Error != "" {
		return fmt.Errorf("the supervisor gave up: %s", st.Error)
	}
	return fmt.Errorf("the supervisor was killed or crashed; the end of %s:\n%s", u.dir.SupervisorLog(), tail(u.dir.SupervisorLog(), 5))
}

// tail returns the last n lines of a file, as far as it can be read.
func tail(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
