package kind

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/bootstrap"
)

// record is what is kept of a cluster of ours. It is written before the first container
// is made: from then on, containers of this cluster's name are ours to remove.
type record struct {
	Name      string    `json:"name"`
	Engine    string    `json:"engine"` // that made it
	Image     string    `json:"image"`  // of the nodes
	Images    string    `json:"images"` // registry or builtin
	Workers   int       `json:"workers"`
	APIPort   int       `json:"apiPort"`
	HTTPPort  int       `json:"httpPort"`
	HTTPSPort int       `json:"httpsPort"`
	Created   time.Time `json:"created"`
	// Containers by name, with the IDs that they had when kind was done. Nil until then.
	Containers map[string]string `json:"containers,omitempty"`
	// Loaded says of each node which images were last put into it.
	Loaded     map[string]string `json:"loaded,omitempty"`
	Kubeconfig string            `json:"kubeconfig,omitempty"`
}

// complete tells whether kind came to the end of creating the cluster.
func (r *record) complete() bool { return r != nil && len(r.Containers) > 0 }

// madeWith fails where another engine than e has the cluster's containers.
func (r *record) madeWith(e *Engine) error {
	if r == nil || r.Engine == "" || r.Engine == e.Name {
		return nil
	}
	return fmt.Errorf("cluster %q was made with %s, and kind now takes %s; set %s=%s", r.Name, r.Engine, e.Name, providerEnv, r.Engine)
}

// nodeNames are the names that kind gives the nodes.
func (r *record) nodeNames() []string {
	names := []string{r.Name + "-control-plane"}
	for i := range r.Workers {
		n := r.Name + "-worker"
		if i > 0 {
			n = fmt.Sprintf("%s%d", n, i+1)
		}
		names = append(names, n)
	}
	return names
}

// load returns the record of a cluster, nil where there is none.
func (p *Provider) load(name string) (*record, error) {
	data, err := os.ReadFile(p.statePath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("read %s: %w; `ropes --name %s down` removes what is left of the cluster", p.statePath(name), err, name)
	}
	return &r, nil
}

// save replaces the record in one step.
func (p *Provider) save(r *record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.opts.StateDir, 0o700); err != nil {
		return err
	}
	return bootstrap.ReplaceFile(p.statePath(r.Name), data, 0o600)
}

// forget removes the record, and the directory where it was the last.
func (p *Provider) forget(name string) error {
	err := os.Remove(p.statePath(name))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, os.RemoveAll(p.scratchPath(name)))
	os.Remove(p.lockPath(name))
	os.Remove(p.opts.StateDir) // works only where it is empty
	return err
}

// List names the clusters that this provider has made or begun to make.
func (p *Provider) List() ([]string, error) {
	entries, err := os.ReadDir(p.opts.StateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, err
}

// scratchPath is a directory for as long as a cluster is being made.
func (p *Provider) scratchPath(name string) string {
	return filepath.Join(p.opts.StateDir, name+".making")
}

func (p *Provider) lockPath(name string) string {
	return filepath.Join(p.opts.StateDir, name+".lock")
}

// BusyError says that another process is changing the cluster.
type BusyError struct{ Name string }

// Error names the cluster and what to do.
func (e *BusyError) Error() string {
	return fmt.Sprintf("another ropes is working on cluster %q; wait for it to end, or end it, and try again", e.Name)
}
