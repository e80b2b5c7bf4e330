package existing

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ropes-dev/ropes/bootstrap"
)

// record is what is remembered of a cluster: enough to find it again, and to notice that
// the context leads to another one by now.
type record struct {
	Context    string `json:"context"` // in the learner's kubeconfig
	Server     string `json:"server"`
	UID        string `json:"uid"`      // of the namespace kube-system
	UseIstio   bool   `json:"useIstio"` // the cluster's own Istio is used
	Kubeconfig []byte `json:"kubeconfig"`
}

func (p *Provider) path(name string) string {
	return filepath.Join(p.opts.StateRoot, "existing", name+".json")
}

// load returns an error that wraps fs.ErrNotExist for a name that is not known.
func (p *Provider) load(name string) (record, error) {
	var r record
	data, err := os.ReadFile(p.path(name))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("read %s: %w; `ropes down --name %s --forget` lets go of the cluster", p.path(name), err, name)
	}
	return r, nil
}

// save replaces the record in one step. It holds credentials, so only its owner may read it.
func (p *Provider) save(name string, r record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := p.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return bootstrap.ReplaceFile(path, data, 0o600)
}

func (p *Provider) forget(name string) error {
	err := os.Remove(p.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	os.Remove(filepath.Dir(p.path(name)))
	return err
}
