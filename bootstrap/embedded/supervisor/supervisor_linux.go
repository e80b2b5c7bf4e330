// Package supervisor is the one process per embedded cluster that everything else
// descends from. It is PID 1 of its own PID namespace and lives in the cluster's own
// network namespace, so that its end, however it comes, ends the cluster: no process,
// link, mount or rule survives it. It knows the cluster's plan and the payload; it
// knows no Istio, no lab and no terminal.
//
// Life of the supervisor:
//
//	network         uplink, bridge, registry, published ports
//	certificates    PKI, manifests, kubelet configurations (kubeadm's packages)
//	nodes           one process each, plugged into the bridge, restarted as they end
//	control plane   until /readyz answers
//	registration    every node has registered and has its pod addresses
//	load balancer   Services of type LoadBalancer, from here on
//	add-ons         kubeadm's: CoreDNS, kube-proxy, uploaded configuration
//	then            until SIGTERM
package supervisor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ropes-dev/ropes/bootstrap/embedded/kubeadm"
	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
)

type supervisor struct {
	dir state.Dir
	cfg *state.Config
	log *slog.Logger

	mu     sync.Mutex
	status state.Status
}

// Run supervises the cluster in dir until SIGTERM or until the cluster cannot be
// brought up; the reason then also stands in the status file.
func Run(ctx context.Context, dir state.Dir, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	for fd := state.LockFD; fd <= state.GoAheadFD; fd++ {
		unix.CloseOnExec(fd)
	}
	wait := inherited(state.GoAheadFD, "go-ahead")
	_, err := io.ReadFull(wait, make([]byte, 1))
	wait.Close()
	if err != nil {
		return fmt.Errorf("ropes up ended before this cluster could start: %w", err)
	}
	cfg, err := dir.Load()
	if err != nil {
		return err
	}
	s := &supervisor{dir: dir, cfg: cfg, log: log}
	if err := s.run(ctx); err != nil {
		s.update(func(st *state.Status) { st.Error = err.Error() })
		return err
	}
	return nil
}

func (s *supervisor) run(ctx context.Context) error {
	if err := s.phase("network", func(func(string)) error { return s.setUpNetwork(ctx) }); err != nil {
		return err
	}
	err := s.phase("certificates", func(func(string)) error { return kubeadm.Prepare(s.cfg, s.dir) })
	if err != nil {
		return err
	}
	var nodes sync.WaitGroup
	defer nodes.Wait()
	err = s.phase(state.PhaseNodes, func(func(string)) error { return s.startNodes(ctx, &nodes) })
	if err != nil {
		return err
	}
	client, err := kubeadm.Client(s.cfg, s.dir)
	if err != nil {
		return err
	}
	if err := s.phase("control plane", func(say func(string)) error { return awaitAPI(ctx, client, say) }); err != nil {
		return err
	}
	registered := s.registrar(ctx, client)
	err = s.phase("add-ons", func(func(string)) error { return retryAddons(ctx, s.cfg, client) })
	if err != nil {
		return err
	}
	err = s.phase("registration", func(say func(string)) error {
		if err := registered.wait(ctx, say); err != nil {
			return err
		}
		return kubeadm.MarkControlPlane(s.cfg, client)
	})
	if err != nil {
		return err
	}
	if err := s.phase("load balancer", func(func(string)) error { return s.startLoadBalancer(ctx, client, &nodes) }); err != nil {
		return err
	}
	s.update(func(st *state.Status) { st.Ready = true })
	s.log.Info("cluster is up")
	<-ctx.Done()
	s.log.Info("stopping")
	return nil
}

// phase runs one stretch of work and keeps the status file telling of it.
func (s *supervisor) phase(name string, do func(say func(string)) error) error {
	var i int
	s.update(func(st *state.Status) {
		i = len(st.Phases)
		st.Phases = append(st.Phases, state.Phase{Name: name, Start: time.Now()})
	})
	err := do(func(detail string) {
		s.update(func(st *state.Status) { st.Phases[i].Detail = detail })
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.update(func(st *state.Status) { st.Phases[i].End = time.Now() })
	return nil
}

func (s *supervisor) update(change func(*state.Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.status)
	if err := state.WriteJSON(s.dir.Status(), s.status); err != nil {
		s.log.Error("write status", "err", err)
	}
}

// inherited wraps a file descriptor that the provider handed over.
func inherited(fd int, name string) *os.File { return os.NewFile(uintptr(fd), name) }
